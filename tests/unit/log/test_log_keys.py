"""A key speaks for its sizes only: histories, turns, and exports of a log whose key was followed by another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from nomos.errors import BadSignature, Malformed
from nomos.log.checkpoint import Checkpoint, add_signature, sign_checkpoint
from nomos.log.heads import KEY
from nomos.log.keyhistory import (
    KEYS_MAX,
    KeyChange,
    KeyHistory,
    NotInForce,
    ProvenTurn,
    Turn,
    change_in,
    event_of_change,
    parse_change,
    verify_turn,
)
from nomos.log.note import NoteSigner, parse_note
from nomos.log.proof import Receipt, verify_receipt
from nomos.log.record import canonical_bytes, parse_record
from nomos.log.report import Report, Verdict, render_text
from nomos.log.tree import CompactRange, inclusion_proof, leaf_hash
from nomos.log.trust import parse_trust

ORIGIN = "audit.example.com/prod"
SIGNERS = [NoteSigner(ORIGIN, bytes([n]) * 32) for n in range(1, 5)]
OLD, NEW, THIRD, OTHER = (one.verifier_key for one in SIGNERS)
#: The second record of the log's own in a book of 20; it completes size 6, inside a row group of 8.
AT = 5


class Rotated:
    """A book whose key changes, at the records of the log's own that were named."""

    def __init__(self, book: Any, changes: Sequence[int] = (AT,), *, size: int = 20, sizes: Sequence[int] = ()) -> None:
        self.book = book(size, checkpoints=[])
        self.history = KeyHistory.begin(OLD)
        for which, seq in enumerate(changes):
            change = KeyChange(prev=SIGNERS[which].verifier_key, key=SIGNERS[which + 1].verifier_key)
            self.announce(seq, change)
            self.history = self.history.turn(change, seq + 1)
        self.book.chain()
        self.sign({1, 4, *(seq + 1 for seq in changes), size, *sizes})

    def announce(self, seq: int, change: KeyChange) -> None:
        one = self.book.objects[seq]
        assert one["tenant"] == "_sys"
        one["type"], one["event"] = KEY, event_of_change(change)

    def sign(self, sizes: set[int]) -> None:
        self.book.notes = {size: self.note(size) for size in sorted(sizes)}

    def note(self, size: int, *signers: NoteSigner) -> bytes:
        chosen = list(signers) or [one for one in SIGNERS if one.verifier_key in self.history.at(size)]
        checkpoint = Checkpoint(origin=ORIGIN, size=size, root=self.book.root(size))
        signed = sign_checkpoint(checkpoint, chosen)
        for witness in self.book.witnesses[:2]:
            signed = add_signature(signed, witness.cosign(parse_note(signed).text, 1_795_305_000))
        return signed

    def trust(self, lines: Sequence[str] = ()) -> bytes:
        kept = [line for line in self.book.trust.decode().splitlines() if not line.startswith("log ")]
        return "\n".join([*(lines or self.history.trust_lines()), *kept, ""]).encode()

    def verify(self, folder: Path, level: int = 2, lines: Sequence[str] = (), **more: Any) -> Report:
        report: Report = self.book.verify(folder, level, trust=self.trust(lines), **more)
        return report

    def turn(self, seq: int = AT) -> Turn:
        row, tree = self.book.rows[seq], CompactRange()
        tree.extend(one.hash for one in self.book.rows[:seq])
        path = tuple(reversed(tree.hashes()))
        return Turn(
            record=row.record, receipt=Receipt(prev=row.prev, index=seq, path=path, checkpoint=self.note(seq + 1))
        )


@pytest.fixture
def rotated(book: Any) -> Rotated:
    return Rotated(book)


# -- the values ------------------------------------------------------------------------------------------------------


def test_a_history_says_who_must_sign_each_size() -> None:
    one = KeyHistory.begin(OLD)
    assert (one.at(0), one.at(10**9), one.in_force, one.trust_lines()) == ((OLD,), (OLD,), OLD, [f"log {OLD}"])
    two = one.turn(KeyChange(prev=OLD, key=NEW), 6).turn(KeyChange(prev=NEW, key=THIRD), 9)
    assert [two.at(size) for size in (0, 5, 6, 7, 8, 9, 10)] == [
        (OLD,), (OLD,), (OLD, NEW), (NEW,), (NEW,), (NEW, THIRD), (THIRD,)
    ]  # fmt: skip
    assert two.during(1, 5) == (OLD,)
    assert two.during(6, 6) == (OLD, NEW)
    assert two.during(7, 100) == (NEW, THIRD)
    assert two.trust_lines() == [f"log {OLD} sizes:0-6", f"log {NEW} sizes:6-9", f"log {THIRD} sizes:9-"]
    # The lines are a trust file, and the trust file says the same.
    policy = parse_trust("\n".join([*two.trust_lines(), "quorum none", ""]).encode())
    for size in range(12):
        assert {key for key in policy.log_keys() if policy.may_sign(key, size)} == set(two.at(size))
    # Found from the other end it is the same history.
    back = KeyHistory.begin(THIRD).before(KeyChange(prev=NEW, key=THIRD), 9).before(KeyChange(prev=OLD, key=NEW), 6)
    assert back == two


@pytest.mark.parametrize(
    ("prev", "key", "size"),
    [(NEW, THIRD, 9), (OLD, OLD, 9), (THIRD, OLD, 9), (THIRD, NEW, 9), (THIRD, OTHER, 8), (THIRD, OTHER, 5)],
)
def test_a_change_that_is_not_from_the_key_in_force_changes_nothing(prev: Any, key: Any, size: int) -> None:
    made = KeyHistory.begin(OLD).turn(KeyChange(prev=OLD, key=NEW), 6).turn(KeyChange(prev=NEW, key=THIRD), 8)
    with pytest.raises(Malformed):
        made.turn(KeyChange(prev=prev, key=key), size)


@pytest.mark.parametrize(("prev", "key", "size"), [(OLD, THIRD, 3), (THIRD, NEW, 3), (OLD, NEW, 6), (OLD, NEW, 0)])
def test_a_change_that_does_not_lead_to_the_first_key_proves_no_key_before_it(prev: Any, key: Any, size: int) -> None:
    made = KeyHistory.begin(NEW).turn(KeyChange(prev=NEW, key=THIRD), 6)
    assert made.before(KeyChange(prev=OLD, key=NEW), 5).at(4) == (OLD,)
    with pytest.raises(Malformed):
        made.before(KeyChange(prev=prev, key=key), size)


def test_a_log_has_no_more_keys_than_a_trust_file_has_lines() -> None:
    made, last = KeyHistory.begin(OLD), OLD
    for number in range(1, KEYS_MAX):
        key = NoteSigner(ORIGIN, number.to_bytes(32, "big")).verifier_key
        made, last = made.turn(KeyChange(prev=last, key=key), number), key
    parse_trust("\n".join([*made.trust_lines(), "quorum none", ""]).encode())
    assert not made.follows(KeyChange(prev=last, key=OTHER))


@pytest.mark.parametrize(
    "event",
    [
        {},
        {"key": str(NEW)},
        {"key": str(NEW), "prev": str(OLD), "more": 1},
        {"key": str(OLD), "prev": str(OLD)},
        {"key": "x", "prev": str(OLD)},
        {"key": str(NoteSigner("another.log", bytes(32)).verifier_key), "prev": str(OLD)},
        {"key": 7, "prev": str(OLD)},
    ],
)
def test_an_event_that_is_no_change_of_key_is_refused(event: dict[str, Any]) -> None:
    with pytest.raises(Malformed):
        parse_change(event)


# -- a turn ----------------------------------------------------------------------------------------------------------


def test_a_turn_leads_from_either_key_to_the_other(rotated: Rotated) -> None:
    proven = ProvenTurn(change=KeyChange(prev=OLD, key=NEW), size=AT + 1)
    assert verify_turn(rotated.turn(), OLD) == verify_turn(rotated.turn(), NEW) == proven
    with pytest.raises(BadSignature):
        verify_turn(rotated.turn(), THIRD)


@pytest.mark.parametrize("signers", [(0,), (1,), (0, 2), (1, 2)])
def test_a_turn_that_not_both_keys_signed_is_refused(rotated: Rotated, signers: tuple[int, ...]) -> None:
    turn = rotated.turn()
    note = rotated.note(AT + 1, *(SIGNERS[n] for n in signers))
    for trusted in (OLD, NEW):
        with pytest.raises(BadSignature):
            verify_turn(msgspec.structs.replace(turn, receipt=replaced(turn.receipt, checkpoint=note)), trusted)


def replaced(receipt: Receipt, **changes: Any) -> Receipt:
    return msgspec.structs.replace(receipt, **changes)


def _other_record(turn: Turn) -> bytes:
    members = msgspec.json.decode(turn.record)
    members["event"] = event_of_change(KeyChange(prev=OLD, key=THIRD))
    return canonical_bytes(members)


@pytest.mark.parametrize(
    "mutate",
    [
        lambda made, turn: Turn(record=_other_record(turn), receipt=turn.receipt),
        lambda made, turn: Turn(record=made.book.rows[AT - 1].record, receipt=turn.receipt),
        lambda made, turn: Turn(record=turn.record, receipt=replaced(turn.receipt, prev=bytes(32))),
        lambda made, turn: Turn(record=turn.record, receipt=replaced(turn.receipt, path=turn.receipt.path[:-1])),
        lambda made, turn: Turn(record=turn.record, receipt=replaced(turn.receipt, path=(bytes(32),) * 9)),
        lambda made, turn: Turn(record=turn.record, receipt=replaced(turn.receipt, index=AT - 1)),
        lambda made, turn: Turn(record=turn.record, receipt=_in_a_larger_tree(made, turn)),
        lambda made, turn: Turn(record=turn.record, receipt=replaced(turn.receipt, checkpoint=b"x\n\n")),
    ],
)  # fmt: skip
def test_a_changed_turn_is_refused(rotated: Rotated, mutate: Callable[[Rotated, Turn], Turn]) -> None:
    changed = mutate(rotated, rotated.turn())
    for trusted in (OLD, NEW):
        with pytest.raises((BadSignature, Malformed)):
            verify_turn(changed, trusted)


def _in_a_larger_tree(made: Rotated, turn: Turn) -> Receipt:
    """The record is in this tree, and both signed it; but it is not its last."""
    leaves = [leaf_hash(row.hash) for row in made.book.rows[:9]]
    note = made.note(9, *SIGNERS[:2])
    return replaced(turn.receipt, path=tuple(inclusion_proof(leaves, AT, 9)), checkpoint=note)


# -- exports ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "group_rows"),
    [((AT,), 8), ((8,), 9), ((8,), 8), ((2, AT), 4), ((2, 17), 65_536), ((11, 14, 17), 6), ((17,), 3)],
)
def test_a_log_whose_key_changed_verifies_with_the_ranges_of_all_keys(
    book: Any, tmp_path: Path, changes: tuple[int, ...], group_rows: int
) -> None:
    made = Rotated(book, changes, size=18)
    folder = made.book.export(tmp_path / "x", group_rows=group_rows)
    for level in (0, 1, 2):
        report = made.verify(folder, level)
        assert report.verdict is Verdict.VERIFIED, render_text(report)
    assert f"{len(changes)} changes of key: record, and checkpoint signed by both keys" in report.checked
    assert not any("key changes" in line or "change of key" in line for line in (*report.warnings, *report.not_checked))


@pytest.mark.parametrize(
    ("size", "signer"),
    [(20, 0), (13, 0), (4, 1)],
    ids=["the old key signs the newest", "the old key signs a later size", "the new key signs an earlier size"],
)
def test_a_key_signs_no_size_outside_its_range(rotated: Rotated, tmp_path: Path, size: int, signer: int) -> None:
    rotated.sign({1, 4, 6, 13, 20})
    rotated.book.notes[size] = rotated.note(size, SIGNERS[signer])
    folder = rotated.book.export(tmp_path / "x", group_rows=8)
    for level in (0, 1):
        report = rotated.verify(folder, level)
        assert report.verdict is Verdict.TAMPERED
        assert report.first is not None
        assert "may not speak for this tree size" in report.first.reason


@pytest.mark.parametrize("size", [13, 20])
def test_a_trust_file_without_ranges_still_refuses_an_old_key_by_the_logs_own_record(
    rotated: Rotated, tmp_path: Path, size: int
) -> None:
    rotated.sign({1, 4, 6, 13, 20})
    wide = [f"log {OLD}", f"log {NEW}"]
    honest = rotated.verify(rotated.book.export(tmp_path / "honest"), 1, wide)
    assert honest.verdict is Verdict.VERIFIED
    assert any("sizes:<first>-6 would not" in line for line in honest.warnings)
    rotated.book.notes[size] = rotated.note(size, SIGNERS[0])
    report = rotated.verify(rotated.book.export(tmp_path / "x"), 1, wide)
    assert report.verdict is Verdict.TAMPERED
    assert report.first is not None
    assert (report.first.seq, "had no such size" in report.first.reason) == (size - 1, True)


@pytest.mark.parametrize("signer", [0, 1])
def test_a_new_key_that_only_one_key_signed_for_is_found(rotated: Rotated, tmp_path: Path, signer: int) -> None:
    rotated.book.notes[AT + 1] = rotated.note(AT + 1, SIGNERS[signer])
    report = rotated.verify(rotated.book.export(tmp_path / "x"), 1)
    assert report.verdict is Verdict.TAMPERED
    assert report.first is not None
    assert (report.first.seq, "not signed by both keys" in report.first.reason) == (AT, True)


def test_a_key_that_the_trust_file_lacks_is_told_and_a_missing_turn_is_not_called_checked(
    rotated: Rotated, tmp_path: Path
) -> None:
    rotated.sign({1, 4, 6})
    rotated.book.rows, rotated.book.objects = rotated.book.rows[:6], rotated.book.objects[:6]
    folder = rotated.book.export(tmp_path / "x")
    report = rotated.verify(folder, 1, [f"log {OLD}"])
    assert report.verdict is Verdict.VERIFIED, render_text(report)
    assert any("a key that the policy does not have" in line for line in report.warnings)
    assert any("the policy lacks one" in line for line in report.not_checked)
    later = Rotated(type(rotated.book))
    later.sign({4, 20})
    without = later.verify(later.book.export(tmp_path / "y"), 1)
    assert without.verdict is Verdict.VERIFIED
    assert any("it is not among these" in line for line in without.not_checked)
    # With the old key alone, what the new one signed says nothing.
    assert later.verify(tmp_path / "y", 1, [f"log {OLD}"]).verdict is Verdict.UNVERIFIABLE


def test_records_that_change_no_key_are_told_and_change_nothing(rotated: Rotated, tmp_path: Path) -> None:
    again = KeyChange(prev=OLD, key=NEW)
    rotated.announce(8, again)
    rotated.announce(11, KeyChange(prev=OLD, key=THIRD))
    rotated.book.objects[14]["type"], rotated.book.objects[14]["event"] = KEY, {"key": "none"}
    rotated.book.chain()
    rotated.sign({4, 6, 9, 12, 15, 20})
    report = rotated.verify(rotated.book.export(tmp_path / "x"))
    assert report.verdict is Verdict.VERIFIED, render_text(report)
    assert sum("a change of key that changes nothing" in line for line in report.warnings) == 3


def test_old_proofs_verify_for_ever_and_only_under_the_key_of_their_time(rotated: Rotated) -> None:
    """A receipt from before the change, read after it."""
    leaves = [leaf_hash(row.hash) for row in rotated.book.rows[:4]]
    prev = rotated.book.rows[2].prev
    path = tuple(inclusion_proof(leaves, 2, 4))
    receipt = Receipt(prev=prev, index=2, path=path, checkpoint=rotated.note(4))
    record = rotated.book.rows[2].record
    assert verify_receipt(receipt, record, parse_trust(rotated.trust())).checkpoint.size == 4
    forged = replaced(receipt, checkpoint=rotated.note(4, SIGNERS[1]))
    with pytest.raises(BadSignature):
        verify_receipt(forged, record, parse_trust(rotated.trust()))


def test_the_service_accepts_for_each_size_the_keys_of_it_and_no_line_of_an_unknown_one(rotated: Rotated) -> None:
    for size in (1, 5, 6, 7, 20):
        assert rotated.history.open(rotated.note(size)).keys == rotated.history.at(size)
    for size, signers in ((5, (1,)), (7, (0,)), (6, (0,)), (6, (1,)), (7, (0, 1)), (6, (0, 1, 2)), (7, (1, 2))):
        with pytest.raises(NotInForce):
            rotated.history.open(rotated.note(size, *(SIGNERS[n] for n in signers)))


def test_only_the_logs_own_record_changes_a_key(rotated: Rotated) -> None:
    assert change_in(rotated.book.rows[AT].record) == KeyChange(prev=OLD, key=NEW)
    members = msgspec.json.decode(rotated.book.rows[AT].record)
    members |= {"tenant": "acme", "pc": {"id": "p", "n": 0, "svc": "policy"}, "src": {"i": 0, "q": 1, "s": "INTAKE"}}
    foreign = canonical_bytes(members)
    parse_record(foreign)
    assert change_in(foreign) is None
