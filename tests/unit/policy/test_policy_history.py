"""Versions of a tenant's policies."""

from __future__ import annotations

import msgspec
import pytest

from nomos.errors import Conflict, LimitExceeded, Malformed, MalformedPolicy, MalformedRecord, NotFound
from nomos.ids import OperatorId, TenantId
from nomos_policy import aggregate as module
from nomos_policy.aggregate import (
    DRAFTS_MAX,
    WHY_LENGTH_MAX,
    Activate,
    DiscardDraft,
    PutPolicySet,
    RollBack,
    SaveDraft,
    decide,
    decide_pieces,
)
from nomos_policy.history import DraftSaved, PolicyHistory, PolicyPiece, PolicyPut, evolve, parse_event, type_of

OPERATOR = OperatorId("ann")
TEXTS = [f'@id("p{index}") permit(principal, action, resource);' for index in range(3)]
EMPTY = PolicyHistory(tenant=TenantId("acme"))


def _large(number: int, edited: int | None = None) -> str:
    """A text of so many policies, one of them with another condition."""
    return "".join(
        f'@id("grant-{one}")\n@description("Agent {one} may read the issues of its own site.")\n'
        f'permit (\n  principal == Agent::"agent{one}",\n  action == Action::"github:issues.list",\n'
        f'  resource == GitHub::Repo::"acme/site{one}"\n)'
        + (' when { context.env == "live" };\n' if one == edited else ";\n")
        for one in range(number)
    )


def _after(state: PolicyHistory, command: object, vocabulary: object, now: int = 300) -> PolicyHistory:
    for event in decide(state, command, vocabulary=vocabulary, now_seconds=now):
        # As the log gives it back.
        state = evolve(state, parse_event(type_of(event), msgspec.json.decode(msgspec.json.encode(event.payload()))))
    return state


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
        state = evolve(state, parse_event("policy.put", {**version.payload(), "a_later_field": 1}))
    assert state == history


@pytest.mark.parametrize("payload", [None, {}, {"tenant": "acme"}, "text"])
def test_a_payload_that_is_no_policy_put_is_malformed(payload) -> None:
    with pytest.raises(MalformedRecord):
        parse_event("policy.put", payload)


def test_the_listing_is_newest_first_and_holds_no_text(history) -> None:
    listing = history.listing(newest=2)
    assert [entry["revision"] for entry in listing] == [3, 2]
    assert all("text" not in entry and entry["why"] == "because" for entry in listing)
    assert set(PolicyPut.__struct_fields__) - {"text", "pieces", "draft"} == set(listing[0])


# --- a text that one event cannot hold --------------------------------------------------------------------------------


def test_a_large_text_stands_in_pieces_and_an_edit_writes_few(vocabulary) -> None:
    text = _large(1_000)
    events = decide(EMPTY, _put(text), vocabulary=vocabulary, now_seconds=1)
    put = events[-1]
    assert isinstance(put, PolicyPut)
    assert (put.text, len(put.pieces or ())) == ("", len(events) - 1)
    assert len(events) > 5
    assert "text" not in put.payload()
    state = _after(EMPTY, _put(text), vocabulary)
    assert state.text_of(state.version(1)) == text
    edited = _large(1_000, edited=500)
    again = decide(state, _put(edited), vocabulary=vocabulary, now_seconds=2)
    assert 1 <= len(again) - 1 <= 2
    state = _after(state, _put(edited), vocabulary)
    assert state.text_of(state.version(2)) == edited
    # What a replica no longer has is written again.
    back = decide(state, RollBack(to_revision=1, actor=OPERATOR, why="back"), vocabulary=vocabulary, now_seconds=3)
    assert 1 <= len(back) - 1 <= 2
    state = _after(state, RollBack(to_revision=1, actor=OPERATOR, why="back"), vocabulary)
    assert state.text_of(state.version(3)) == text
    assert state.version(3).sha256 == state.version(1).sha256


def test_ten_thousand_policies_are_one_set(vocabulary) -> None:
    state = _after(EMPTY, _put(_large(10_000)), vocabulary)
    assert state.revision == 1
    assert len(state.text_of(state.version(1))) > 1_500_000


def test_a_piece_that_is_not_there_or_not_itself_is_malformed(vocabulary) -> None:
    events = decide(EMPTY, _put(_large(500)), vocabulary=vocabulary, now_seconds=1)
    with pytest.raises(MalformedRecord, match="was not written before"):
        evolve(EMPTY, events[-1])
    piece = events[0]
    assert isinstance(piece, PolicyPiece)
    with pytest.raises(MalformedRecord, match="not its hash"):
        evolve(EMPTY, msgspec.structs.replace(piece, text=piece.text + " "))
    state = _after(EMPTY, _put(_large(500)), vocabulary)
    last = msgspec.structs.replace(events[-1], revision=2, pieces=events[-1].pieces[::-1])
    with pytest.raises(MalformedRecord, match="not that of the text"):
        evolve(state, last)


def test_pieces_have_limits(monkeypatch) -> None:
    with pytest.raises(LimitExceeded, match="bytes of a piece"):
        decide_pieces(EMPTY, ("x" * 50_000,))
    monkeypatch.setattr(module, "PIECES_MAX", 2)
    with pytest.raises(LimitExceeded, match="pieces since"):
        decide_pieces(EMPTY, ("a", "b", "c"))
    state = EMPTY
    for piece in decide_pieces(EMPTY, ("a", "b", "a")):
        state = evolve(state, piece)
    assert decide_pieces(state, ("b", "a")) == ()
    with pytest.raises(LimitExceeded, match="pieces since"):
        decide_pieces(state, ("c",))


# --- drafts -----------------------------------------------------------------------------------------------------------


def _draft(text: str, **changed: object) -> SaveDraft:
    return SaveDraft(**{"draft": "next", "text": text, "actor": OPERATOR, "why": "try", **changed})


@pytest.mark.parametrize("text", [TEXTS[0], _large(400)])
def test_a_draft_is_kept_and_put_in_force(history, vocabulary, text) -> None:
    state = _after(history, _draft(text), vocabulary)
    assert (state.revision, state.draft("next").based_on) == (3, 3)
    assert state.text_of(state.draft("next")) == text
    assert decide(state, _draft(text), vocabulary=vocabulary, now_seconds=400) == ()
    state = _after(state, Activate(draft="next", actor=OPERATOR, why=""), vocabulary)
    put = state.version(4)
    assert (put.draft, put.why, state.text_of(put)) == ("next", "try", text)
    assert not state.drafts
    with pytest.raises(NotFound, match="no such draft"):
        decide(state, Activate(draft="next", actor=OPERATOR, why=""), vocabulary=vocabulary, now_seconds=500)


def test_a_draft_of_an_older_revision_loses_unless_somebody_says_so(history, vocabulary) -> None:
    state = _after(history, _draft(TEXTS[0]), vocabulary)
    state = _after(state, _put(TEXTS[1]), vocabulary)
    activate = Activate(draft="next", actor=OPERATOR, why="")
    with pytest.raises(Conflict, match="made from revision 3, and 4 is in force"):
        decide(state, activate, vocabulary=vocabulary, now_seconds=400)
    sure = msgspec.structs.replace(activate, expected_revision=4)
    assert _after(state, sure, vocabulary).revision == 5
    with pytest.raises(Conflict, match="revision 4 is in force, expected 3"):
        decide(state, msgspec.structs.replace(activate, expected_revision=3), vocabulary=vocabulary, now_seconds=400)


def test_who_edits_a_draft_that_somebody_changed_loses(history, vocabulary) -> None:
    state = _after(history, _draft(TEXTS[0], expected_sha256=""), vocabulary)
    first = state.draft("next").sha256
    with pytest.raises(Conflict, match="is another than"):
        decide(state, _draft(TEXTS[1], expected_sha256=""), vocabulary=vocabulary, now_seconds=400)
    state = _after(state, _draft(TEXTS[1], expected_sha256=first), vocabulary)
    with pytest.raises(Conflict, match="is another than"):
        decide(state, _draft(TEXTS[2], expected_sha256=first), vocabulary=vocabulary, now_seconds=400)
    assert set(state.kept) == {first, state.draft("next").sha256}


def test_a_draft_is_discarded_and_its_text_stays_known(history, vocabulary) -> None:
    state = _after(history, _draft(TEXTS[0]), vocabulary)
    sha256 = state.draft("next").sha256
    state = _after(state, DiscardDraft(draft="next", actor=OPERATOR, why="no"), vocabulary)
    assert not state.drafts
    assert state.text_of(state.kept[sha256]) == TEXTS[0]
    with pytest.raises(NotFound):
        decide(state, DiscardDraft(draft="next", actor=OPERATOR, why="no"), vocabulary=vocabulary, now_seconds=400)


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"text": "permit (principal"}, MalformedPolicy),
        ({"why": " "}, Malformed),
        ({"draft": "Not a name"}, Malformed),
        ({"draft": ""}, Malformed),
    ],
)
def test_what_is_no_draft_is_refused(history, vocabulary, changed, error) -> None:
    with pytest.raises(error):
        decide(history, _draft(changed.pop("text", TEXTS[0]), **changed), vocabulary=vocabulary, now_seconds=400)


def test_drafts_have_a_limit(history, vocabulary) -> None:
    saved = DraftSaved(draft="x", sha256="0" * 64, text="", actor="ann", why="try", at=1, based_on=0)
    full = msgspec.structs.replace(history, drafts={f"d{number}": saved for number in range(DRAFTS_MAX)})
    with pytest.raises(LimitExceeded, match="drafts of a tenant"):
        decide(full, _draft(TEXTS[0]), vocabulary=vocabulary, now_seconds=400)
