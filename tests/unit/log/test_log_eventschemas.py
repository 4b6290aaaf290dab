"""Level 2 reads each known event as what its type says; an unknown type is told, an unknown member kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from nomos import events
from nomos.eventschemas import SCHEMAS, is_known, what_is_wrong
from nomos.log.report import Verdict

MINTED = {
    "action": "github:issues.list", "agent": "bot", "agent_did": "did:key:z", "cid": "bafy", "connection": "github",
    "decision": "dc_1", "digest": "00", "expires_at": 1, "issuer": "did:key:y", "resource": "github:repo/acme/site",
}  # fmt: skip


def test_every_event_of_the_kernel_has_a_schema() -> None:
    named = {value for name, value in vars(events).items() if name.isupper() and isinstance(value, str)}
    assert named <= set(SCHEMAS)


def test_an_event_may_hold_more_than_its_type_demands_and_never_less() -> None:
    assert what_is_wrong(events.DELEGATION_MINTED, MINTED) is None
    assert what_is_wrong(events.DELEGATION_MINTED, {**MINTED, "new": [1]}) is None
    for name, value in MINTED.items():
        assert what_is_wrong(events.DELEGATION_MINTED, {k: v for k, v in MINTED.items() if k != name})
        for other in (None, [], {}, True, 1 if isinstance(value, str) else "1"):
            assert what_is_wrong(events.DELEGATION_MINTED, {**MINTED, name: other}), (name, other)


def test_an_optional_member_is_judged_where_it_is_there() -> None:
    base = {"connector": "github", "name": "main", "key_id": "k"}
    assert what_is_wrong(events.CONNECTION_ADDED, base) is None
    assert what_is_wrong(events.CONNECTION_ADDED, {**base, "base_url": None}) is None
    assert what_is_wrong(events.CONNECTION_ADDED, {**base, "base_url": 1}) is not None


def test_a_personal_text_may_be_sealed_and_no_other_may() -> None:
    sealed = {"alg": "xc20p", "ct": "AA", "dek": "dek_1", "kc": "0" * 64, "n": "AA"}
    denied = {"approval": "ap_1", "approver": "sub-1", "reason": "no", "at": 1}
    assert what_is_wrong(events.APPROVAL_DENIED, {**denied, "reason": sealed}) is None
    for name in ("approval", "approver", "at"):
        assert what_is_wrong(events.APPROVAL_DENIED, {**denied, name: sealed}) is not None


@pytest.mark.parametrize("kind", ["ucan.minted", "test.new"])
def test_level_2_finds_a_known_event_that_cannot_be_read_and_tells_unknown_types(
    book: Any, tmp_path: Path, kind: str
) -> None:
    made = book(9)
    for one in made.objects[3:5]:
        one["type"] = kind
    made.chain()
    made.notes = {9: made.note(9)}
    folder = made.export(tmp_path / "x")
    assert made.verify(folder, 1).verdict is Verdict.VERIFIED
    report = made.verify(folder, 2)
    if is_known(kind):
        assert report.verdict is Verdict.TAMPERED
        assert report.first is not None
        assert (report.first.seq, report.first.reason) == (3, "the event has no action")
    else:
        assert report.verdict is Verdict.VERIFIED
        assert any("test.new (2)" in one for one in report.not_checked)
