"""Versions of a tenant's policies."""

from __future__ import annotations

import msgspec
import pytest

from nomos.errors import Conflict, LimitExceeded, Malformed, MalformedPolicy, MalformedRecord, NotFound
from nomos.ids import OperatorId, TenantId
from nomos_policy.aggregate import (
    WHY_LENGTH_MAX,
    PolicyHistory,
    PolicyPut,
    PutPolicySet,
    RollBack,
    decide,
    evolve,
    parse_policy_put,
)

OPERATOR = OperatorId("ann")
TEXTS = [f'@id("p{index}") permit(principal, action, resource);' for index in range(3)]
EMPTY = PolicyHistory(tenant=TenantId("acme"))


def _put(text: str, **changed: object) -> PutPolicySet:
    return PutPolicySet(**{"text": text, "actor": OPERATOR, "why": "because", **changed})


@pytest.fixture
def history(vocabulary) -> PolicyHistory:
    state = EMPTY
    for index, text in enumerate(TEXTS):
        for event in decide(state, _put(text), vocabulary=vocabulary, now_seconds=100 + index):
            state = evolve(state, event)
    return state


def test_revisions_rise_by_one_and_the_newest_is_in_force(history) -> None:
    assert [version.revision for version in history.versions] == [1, 2, 3]
    assert history.in_force is history.version(3)
    assert EMPTY.in_force is None


def test_a_roll_back_is_a_new_version_with_the_old_text(history, vocabulary) -> None:
    command = RollBack(to_revision=1, actor=OPERATOR, why="it broke", expected_revision=3)
    (event,) = decide(history, command, vocabulary=vocabulary, now_seconds=200)
    after = evolve(history, event)
    assert (event.revision, event.restores, event.text) == (4, 1, TEXTS[0])
    assert event.sha256 == history.version(1).sha256
    assert after.versions[:3] == history.versions


def test_a_text_in_force_already_makes_no_version(history, vocabulary) -> None:
    assert decide(history, _put(TEXTS[-1]), vocabulary=vocabulary, now_seconds=200) == ()


def test_a_writer_that_edited_an_older_revision_loses(history, vocabulary) -> None:
    with pytest.raises(Conflict):
        decide(history, _put(TEXTS[0], expected_revision=2), vocabulary=vocabulary, now_seconds=200)


def test_a_faulty_text_is_refused(history, vocabulary) -> None:
    with pytest.raises(MalformedPolicy):
        decide(history, _put("permit(principal, action, resource);"), vocabulary=vocabulary, now_seconds=200)


@pytest.mark.parametrize("why", ["", "  ", "two\nlines", "nul\0"])
def test_a_change_needs_a_readable_reason(vocabulary, why) -> None:
    with pytest.raises(Malformed):
        decide(EMPTY, _put(TEXTS[0], why=why), vocabulary=vocabulary, now_seconds=1)


def test_a_reason_has_a_limit(vocabulary) -> None:
    with pytest.raises(LimitExceeded):
        decide(EMPTY, _put(TEXTS[0], why="x" * (WHY_LENGTH_MAX + 1)), vocabulary=vocabulary, now_seconds=1)


@pytest.mark.parametrize("revision", [0, -1, 4])
def test_nobody_rolls_back_to_a_revision_that_is_not_there(history, vocabulary, revision) -> None:
    command = RollBack(to_revision=revision, actor=OPERATOR, why="because")
    with pytest.raises(NotFound):
        decide(history, command, vocabulary=vocabulary, now_seconds=200)


@pytest.mark.parametrize("changed", [{"revision": 3}, {"revision": 5}, {"tenant": "other"}, {"sha256": "0" * 64}])
def test_a_history_takes_no_gap_no_step_back_no_other_tenant_and_no_other_text(history, changed) -> None:
    event = msgspec.structs.replace(history.version(3), **{"revision": 4, **changed})
    with pytest.raises(MalformedRecord):
        evolve(history, event)


def test_replaying_the_recorded_payloads_gives_the_same_history(history) -> None:
    state = EMPTY
    for version in history.versions:
        state = evolve(state, parse_policy_put({**version.payload(), "a_later_field": 1}))
    assert state == history


@pytest.mark.parametrize("payload", [None, {}, {"tenant": "acme"}, "text"])
def test_a_payload_that_is_no_policy_put_is_malformed(payload) -> None:
    with pytest.raises(MalformedRecord):
        parse_policy_put(payload)


def test_the_listing_is_newest_first_and_holds_no_text(history) -> None:
    listing = history.listing(newest=2)
    assert [entry["revision"] for entry in listing] == [3, 2]
    assert all("text" not in entry and entry["why"] == "because" for entry in listing)
    assert set(PolicyPut.__struct_fields__) - {"text"} == set(listing[0])
