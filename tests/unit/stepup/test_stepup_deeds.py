from __future__ import annotations

import base64
import os
from typing import Any

import msgspec
import pytest

from nomos.errors import Conflict, Expired, Malformed
from nomos_runtime.sealing import Sealer
from nomos_stepup.deeds import DEED_SECONDS, Deeds, name_of
from nomos_stepup.pages.access import challenge_of_ask

GONE = name_of(b"the one that goes")


@pytest.fixture
def deeds() -> Deeds:
    return Deeds(Sealer.from_text(base64.urlsafe_b64encode(os.urandom(32)).decode().rstrip("=")))


def test_a_deed_is_checked_with_the_challenge_that_was_asked(stage: Any, deeds: Deeds) -> None:
    person = stage.approver(stage.Authenticator())
    text, challenge = deeds.ask(person, "remove", GONE, stage.NOW)
    assert deeds.check(person, "remove", GONE, text, stage.NOW + DEED_SECONDS - 1) == challenge
    assert deeds.ask(person, "remove", GONE, stage.NOW)[1] != challenge


def test_a_deed_stands_for_no_other_and_for_nobody_else(stage: Any, deeds: Deeds) -> None:
    person = stage.approver(stage.Authenticator())
    text, challenge = deeds.ask(person, "remove", GONE, stage.NOW)
    others = [
        (person, "add", ""),
        (person, "add", GONE),
        (person, "remove", name_of(b"another")),
        (stage.approver(stage.Authenticator(), id="bob"), "remove", GONE),
        (stage.approver(stage.Authenticator(), tenant="other"), "remove", GONE),
    ]
    for who, what, passkey in others:
        with pytest.raises(Malformed):
            deeds.check(who, what, passkey, text, stage.NOW)
    for wrong in ("", "x", text[:-4], "A" * len(text), "A" * 9_000):
        with pytest.raises(Malformed):
            deeds.check(person, "remove", GONE, wrong, stage.NOW)
    assert challenge != challenge_of_ask(b"")


def test_a_deed_ends_with_its_time_and_with_the_state_it_was_for(stage: Any, deeds: Deeds) -> None:
    person = stage.approver(stage.Authenticator())
    text, _ = deeds.ask(person, "add", "", stage.NOW)
    with pytest.raises(Expired):
        deeds.check(person, "add", "", text, stage.NOW + DEED_SECONDS)
    with pytest.raises(Conflict):
        deeds.check(msgspec.structs.replace(person, version=person.version + 1), "add", "", text, stage.NOW)
