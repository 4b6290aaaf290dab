"""Judging what the log says of itself: seals and statements of heads, against the records that they speak of.

Each statement was found beforehand, by its type and without trust, because the heads must be kept at the position that
it names. Here it is judged when its turn comes: that it is the record that was found; that the heads at its position
are those of the records; that seals follow one another without a missing day, each naming the one before.

What the tenants' root hides (names are blinded) is compared through the file of leaves where an archive has one: the
leaves must give the root and be, as a collection, the heads that were computed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import date, timedelta
from typing import ClassVar, Final

import msgspec

from nomos.errors import Malformed, Refused
from nomos.log.facts import OwnRecord
from nomos.log.heads import (
    SEAL,
    STATEMENTS,
    Seal,
    SealRef,
    TenantLeaf,
    parse_seal,
    parse_statement,
    producers_root,
    root_of,
    tenant_leaf,
)
from nomos.log.memory import RememberedSeal
from nomos.log.record import parse_record
from nomos.log.report import Verdict

#: Producers that the writer keeps counters of; beyond, a statement speaks of the newest and cannot be computed again.
PRODUCERS_MAX: Final = 16_384
#: Duplicates of one day's seal that are told one by one.
_TOLD_MAX: Final = 20


class Divergence(Refused):
    """The records are not what the signatures vouch for. ``seq`` is the first record this can be pinned to."""

    code: ClassVar[str] = "divergence"

    def __init__(self, verdict: Verdict, seq: int, reason: str) -> None:
        super().__init__(reason)
        self.verdict = verdict
        self.seq = seq


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A statement that stands in the log, or with it: its place, bytes, and the leaves of its tenants if known."""

    seq: int
    type: str
    record: bytes
    leaves: tuple[TenantLeaf, ...] | None = None


def check_leaves(leaves: Iterable[TenantLeaf], number: int, root: str) -> str | None:
    """Why a file of leaves is not the one that a statement signs, or None."""
    listed = list(leaves)
    if len(listed) != number or root_of(tenant_leaf(one) for one in listed).hex() != root:
        return "the heads are not those that the seal signs"
    return None


class Statements:
    """The statements of one log. Give it heads and own records in the order of the log."""

    def __init__(self, found: Iterable[Found]) -> None:
        """Takes what was found; raises nothing for what is malformed, which is judged in its turn."""
        self._found = {one.seq: one for one in found}
        self._at: dict[int, list[Found]] = {}
        self._seal: tuple[Seal, SealRef] | None = None
        self._seal_record = b""
        self._days: dict[str, Seal] = {}
        self.judged = 0
        self.unblinded = 0
        self.warnings: list[str] = []
        for one in self._found.values():
            try:
                last = parse_statement(one.type, parse_record(one.record).event).last
            except Malformed:
                continue
            self._at.setdefault(last + 1, []).append(one)

    @property
    def cuts(self) -> tuple[int, ...]:
        """The positions at which heads must be kept."""
        return tuple(sorted(one for one in self._at if one > 0))

    @property
    def newest_day(self) -> str | None:
        """The newest day that a seal in the log closes."""
        return None if self._seal is None else self._seal[0].day

    def remembered(self) -> RememberedSeal | None:
        """The newest seal so far, to be remembered."""
        if self._seal is None:
            return None
        return RememberedSeal(seq=self._seal[1].seq, h=self._seal[1].h, record=self._seal_record)

    def resume(self, seq: int, seal: RememberedSeal | None) -> int:
        """Goes on from record ``seq``, before which ``seal`` is the newest seal.

        Returns:
            How many statements from ``seq`` on speak of positions before it.

        Raises:
            Malformed: the remembered seal is none.
        """
        if seal is not None:
            parsed = parse_seal(parse_record(seal.record).event)
            self._seal, self._seal_record = (parsed, SealRef(seq=seal.seq, h=seal.h)), seal.record
            self._days[parsed.day] = parsed
        passed = sum(one.seq >= seq for cut, some in self._at.items() if cut < seq for one in some)
        self._at = {cut: some for cut, some in self._at.items() if cut >= seq}
        self._found = {at: one for at, one in self._found.items() if at >= seq}
        return passed

    @property
    def seals(self) -> tuple[Seal, ...]:
        """The seals judged so far, in order."""
        return tuple(self._days.values())

    def judge_heads(self, cut: int, tenants: Mapping[str, tuple[int, str]], producers: Mapping[str, int]) -> None:
        """Compares the heads at a position with what the statements say of it.

        Raises:
            Divergence: they are not the same.
        """
        for one in self._at.pop(cut, ()):
            statement = parse_statement(one.type, parse_record(one.record).event)
            if statement.tenants.n != len(tenants):
                raise Divergence(
                    Verdict.TAMPERED, one.seq, f"it counts {statement.tenants.n} tenants, the records {len(tenants)}"
                )
            if len(producers) > PRODUCERS_MAX:
                self.warnings.append(f"record {one.seq}: more producers than a statement counts; not compared")
            elif producers_root(producers).hex() != statement.pc_root:
                raise Divergence(Verdict.TAMPERED, one.seq, "its root over producers is not that of the records")
            if one.leaves is not None:
                wrong = check_leaves(one.leaves, statement.tenants.n, statement.tenants.root)
                if wrong is None and Counter((leaf.n, leaf.h) for leaf in one.leaves) != Counter(tenants.values()):
                    wrong = "its tenants' heads are not those of the records"
                if wrong is not None:
                    raise Divergence(Verdict.TAMPERED, one.seq, wrong)
                self.unblinded += 1
            self.judged += 1

    def judge_record(self, own: OwnRecord) -> None:
        """Judges one of the log's own records in its place.

        Raises:
            Divergence: it is not the one that was found, or it does not follow from the seals before it.
        """
        if own.type not in STATEMENTS:
            return
        found = self._found.pop(own.seq, None)
        if found is None or found.record != own.record:
            raise Divergence(Verdict.TAMPERED, own.seq, "the statement is not the one that was read before")
        try:
            event = parse_record(own.record).event
            statement = parse_statement(own.type, event)
            seal = parse_seal(event) if own.type == SEAL else None
        except Malformed as error:
            raise Divergence(Verdict.TAMPERED, own.seq, error.detail) from None
        if statement.last >= own.seq:
            raise Divergence(Verdict.TAMPERED, own.seq, "the statement speaks of records after itself")
        if seal is not None:
            self._judge_seal(own, seal)

    def _judge_seal(self, own: OwnRecord, seal: Seal) -> None:
        known = self._days.get(seal.day)
        if known is not None:
            # Two processes sealed at once: the first counts, and the second must say the same.
            if msgspec.structs.replace(seal, tool=known.tool, keys=known.keys) != known:
                raise Divergence(Verdict.TAMPERED, own.seq, f"two seals of {seal.day} say different things")
            if len(self.warnings) < _TOLD_MAX:
                self.warnings.append(f"record {own.seq}: a second seal of {seal.day}, which says the same")
            return
        wrong = follows(seal, self._seal)
        if wrong is not None:
            raise Divergence(Verdict.TAMPERED, own.seq, wrong)
        self._days[seal.day] = seal
        self._seal = (seal, SealRef(seq=own.seq, h=own.hash.hex()))
        self._seal_record = own.record

    def finish(self, size: int) -> None:
        """Checks that no statement about these records was left out.

        Raises:
            Divergence: one speaks of a position that the records do not have.
        """
        left = [one for cut, some in self._at.items() if 0 < cut <= size for one in some]
        if left:
            raise Divergence(Verdict.TAMPERED, left[0].seq, "the statement names a position inside no record")


def follows(seal: Seal, before: tuple[Seal, SealRef] | None) -> str | None:
    """Why ``seal`` does not follow the seal before it (None: the log's first), or None."""
    if before is None:
        return None if seal.prev_seal is None and seal.first == 0 else "the first seal must begin at record 0"
    earlier, ref = before
    if seal.prev_seal != ref:
        return "the seal does not name the one before it"
    expected = (date.fromisoformat(earlier.day) + timedelta(days=1)).isoformat()
    if seal.day != expected:
        return f"the seal is of {seal.day} where {expected} belongs"
    if seal.first != earlier.last + 1:
        return f"the seal begins at record {seal.first} where {earlier.last + 1} belongs"
    return None
