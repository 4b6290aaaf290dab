"""Settings from the environment: missing or wrong stops the process; secrets come from one place."""

from __future__ import annotations

from pathlib import Path

import pytest

from nomos.errors import Misconfigured
from nomos_runtime.settings import ServiceSettings, load, secret

BASE = {"NOMOS_BUS_URL": "nats://localhost:4222", "NOMOS_BUS_CREDS": "creds"}


class Settings(ServiceSettings, frozen=True, kw_only=True):
    """Settings of a test's service."""

    connectors: str
    ratio: float = 0.5
    quick: bool = False


def test_a_services_own_name_wins_over_the_shared_one() -> None:
    env = BASE | {"NOMOS_CONNECTORS": "shared", "NOMOS_X_CONNECTORS": "own", "NOMOS_FEED_POLL_MS": "40"}
    settings = load(Settings, "x", env)
    assert (settings.connectors, settings.feed_poll_ms, settings.journal_timeout_ms) == ("own", 40, 2_000)
    assert load(Settings, "y", env).connectors == "shared"


def test_numbers_and_flags_are_read_as_what_they_are() -> None:
    settings = load(Settings, "x", BASE | {"NOMOS_CONNECTORS": "c", "NOMOS_RATIO": "0.25", "NOMOS_QUICK": "true"})
    assert (settings.ratio, settings.quick) == (0.25, True)


def test_what_is_given_wins_over_the_environment() -> None:
    assert load(Settings, "x", BASE | {"NOMOS_CONNECTORS": "c"}, connectors="given").connectors == "given"


@pytest.mark.parametrize(
    "env",
    [
        {},
        BASE,
        {"NOMOS_BUS_URL": "x", "NOMOS_CONNECTORS": "c"},
        BASE | {"NOMOS_CONNECTORS": "c", "NOMOS_FEED_POLL_MS": "soon"},
        BASE | {"NOMOS_CONNECTORS": "c", "NOMOS_FEED_POLL_MS": "1.5"},
        BASE | {"NOMOS_CONNECTORS": "c", "NOMOS_QUICK": "perhaps"},
    ],
)
def test_a_missing_or_wrong_setting_is_said_at_start(env: dict[str, str]) -> None:
    with pytest.raises(Misconfigured):
        load(Settings, "x", env)


def test_a_secret_comes_from_its_variable_or_its_file(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text(" from-file\n")
    assert secret("KEY", {"KEY": "from-env"}) == "from-env"
    assert secret("KEY", {"KEY_FILE": str(path)}) == "from-file"


def test_a_secret_that_is_nowhere_or_twice_there_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("x")
    for env in ({}, {"KEY": ""}, {"KEY": "x", "KEY_FILE": str(path)}, {"KEY_FILE": str(tmp_path / "none")}):
        with pytest.raises(Misconfigured) as refused:
            secret("KEY", env)
        assert str(tmp_path) not in refused.value.detail


def test_settings_show_no_value_of_theirs() -> None:
    password = "pass" + "word-1"
    env = BASE | {"NOMOS_CONNECTORS": "c", "NOMOS_DATABASE_URL": f"postgresql://x:{password}@h/d"}
    assert password not in repr(load(Settings, "x", env))
