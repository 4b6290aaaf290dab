"""Limits and walls that a review found missing: each refuses, and says which it is."""

from __future__ import annotations

import asyncio
import os
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomos import events
from nomos.errors import Misconfigured, Revoked, Unavailable, UnknownAgent
from nomos.events import Actor, Envelope
from nomos.ids import new_id
from nomos.servicemessages import Fact, Sanitize
from nomos_proxy.domain import REMOVED_BYTES_MAX, folded
from nomos_proxy.echo import MARK, EchoGuard
from nomos_proxy.replay import TTL_SECONDS_MIN, ReplaySet
from nomos_proxy.store import Connections
from nomos_runtime.directory import Directory
from nomos_runtime.journal import encode_event
from nomos_runtime.secret import Secret
from nomos_runtime.settings import ServiceSettings
from nomos_sanitizer.handlers import WAITING_PER_TENANT_MAX, Cleaner

_line = st.fixed_dictionaries(
    {
        "kind": st.sampled_from(["secret", "invisible"]),
        "rule": st.sampled_from([f"rule-{i}" for i in range(20)]),
        "where": st.text(max_size=256),
        "count": st.integers(1, 1_000),
    }
)


@given(st.lists(_line, max_size=400))
def test_a_report_of_any_length_fits_a_record_and_loses_no_count(lines: list[dict[str, Any]]) -> None:
    kept = folded(lines)
    assert sum(line["count"] for line in kept) == sum(line["count"] for line in lines)
    assert kept[: len(lines)] == lines[: len(kept)] or any(line["where"] == "..." for line in kept)


def test_the_longest_report_of_an_answer_can_be_recorded() -> None:
    lines = [{"kind": "secret", "rule": f"rule-{i % 300}", "where": "\x01" * 256, "count": 1} for i in range(1_000)]
    event: dict[str, object] = {"removed": folded(lines)}
    actor = Actor(kind="agent", id="bot")
    made = Envelope(
        id=new_id("ev"), type=events.CALL_FINISHED, tenant="acme", actor=actor, corr="", cause="", event=event
    )
    assert encode_event(made)
    assert REMOVED_BYTES_MAX < 56_000


def test_an_upstream_that_repeats_the_credential_costs_no_square() -> None:
    bearer = os.urandom(20).hex().encode()
    guard = EchoGuard(Secret(bearer))
    many = 8_000
    cleaned, count = guard.clean((bearer.hex().upper().encode() + b" ") * many)
    assert (count, cleaned) == (many, (MARK + b" ") * many)


def test_a_replay_set_that_forgets_before_a_token_ends_is_refused() -> None:
    bus: Any = None
    with pytest.raises(Misconfigured):
        ReplaySet(bus, ttl_seconds=TTL_SECONDS_MIN - 1, timeout_ms=1)
    ReplaySet(bus, ttl_seconds=TTL_SECONDS_MIN, timeout_ms=1)


@pytest.mark.parametrize("is_development", [True, False])
def test_a_connection_to_another_origin_is_open_in_development_only(is_development: bool) -> None:
    connections = Connections(is_development=is_development)
    for name, base in (("mine", "https://elsewhere.example:443"), ("plain", "")):
        event: dict[str, object] = {"name": name, "connector": "github"} | ({"base_url": base} if base else {})
        connections.apply(Fact(rev=0, type=events.CONNECTION_ADDED, tenant="acme", event=event))
    assert connections.find("acme", "mine").is_open is is_development
    assert connections.find("acme", "plain").is_open


def test_an_auditor_reads_only_while_identity_knows_them_and_their_key_stands() -> None:
    directory = Directory()
    with pytest.raises(UnknownAgent):
        directory.check_auditor("acme", "ada")
    created: dict[str, object] = {"auditor": "ada", "key": "UKEY"}
    directory.apply(Fact(rev=0, type=events.AUDITOR_CREATED, tenant="acme", event=created))
    directory.check_auditor("acme", "ada")
    with pytest.raises(UnknownAgent):
        directory.check_auditor("beta", "ada")
    directory.apply(Fact(rev=1, type=events.KEY_REVOKED, tenant="acme", event={"key": "UKEY"}))
    with pytest.raises(Revoked):
        directory.check_auditor("acme", "ada")


def test_settings_never_show_the_databases_password() -> None:
    password = os.urandom(8).hex()
    settings = ServiceSettings(bus_url="", bus_creds="", database_url=f"postgresql://u:{password}@h/d")
    assert password not in repr(settings) + str([settings])


async def test_one_tenants_bodies_never_take_every_place_at_the_sanitizer() -> None:
    class Slow:
        def sanitize(self, body: bytes, **_: Any) -> Any:
            time.sleep(0.01)
            raise Unavailable("slow")

    slow: Any = Slow()
    with ThreadPoolExecutor(1) as threads:
        cleaner = Cleaner(slow, threads)

        async def clean(tenant: str) -> str:
            message = Sanitize(v=1, tenant=tenant, content_type="text/plain", headers=[], body=b"x" * 40_000)
            try:
                await cleaner.clean(message)
            except Unavailable as e:
                return e.detail
            return ""

        answers = await asyncio.gather(*(clean("acme") for _ in range(2 * WAITING_PER_TENANT_MAX)), clean("beta"))
    assert sum("WAITING_PER_TENANT_MAX" in a for a in answers[:-1]) == WAITING_PER_TENANT_MAX
    assert answers[-1] == "slow"
