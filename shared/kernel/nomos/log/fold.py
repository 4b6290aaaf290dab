"""Joining judged row groups, in order, into a verdict over the whole log or a tenant's whole bundle.

Decides what needs more than one group: the first link of each group, tenants, producers and sources across groups,
and the root at each checkpoint size. Raises :class:`Divergence` at the first thing that is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from nomos.log.chain import NO_HASH, genesis, link
from nomos.log.facts import CounterSpan, HeadsCut, TenantSpan
from nomos.log.group import Bad, Gap, GroupSummary, judge_counter
from nomos.log.keyturns import KeyTurns
from nomos.log.memory import Place, RememberedGap
from nomos.log.report import Verdict
from nomos.log.statements import Divergence, Statements
from nomos.log.tree import CompactRange

_NO_HASH_HEX: Final = NO_HASH.hex()


class _Counters:
    """Where tenants, producers and sources stand after the groups so far."""

    def __init__(self, *, dense: bool) -> None:
        self._dense = dense
        self._tenants: dict[str, tuple[int, str]] = {}
        self._producers: dict[tuple[str, str], int] = {}
        self._sources: dict[str, tuple[int, int]] = {}
        # The newest declared gap of each producer; the event after the gap is the producer's next one in the log.
        self._gaps: dict[tuple[str, str], Gap] = {}

    def judge(self, summary: GroupSummary) -> list[Bad]:
        found = [self._tenant(name, span) for name, span in summary.tenants.items()]
        declared = self._declared(summary)
        found += [self._producer(name, span, declared.get(name)) for name, span in summary.producers.items()]
        found += [self._source(name, span) for name, span in summary.sources.items()]
        return [one for one in found if one is not None]

    def take(self, summary: GroupSummary) -> None:
        self._tenants.update({name: (one.last_tseq, one.last_hash) for name, one in summary.tenants.items()})
        self._producers.update({name: one.last[0] for name, one in summary.producers.items()})
        self._sources.update({name: one.last for name, one in summary.sources.items()})
        self._gaps.update({gap.producer: gap for gap in summary.gaps if gap.producer is not None})

    def place(self) -> tuple[dict[str, tuple[int, str]], tuple[tuple[str, str, int], ...], dict[str, tuple[int, int]]]:
        """Tenants, producers and sources, to be remembered."""
        producers = tuple((svc, one, last) for (svc, one), last in self._producers.items())
        return dict(self._tenants), producers, dict(self._sources)

    def remembered_gaps(self) -> tuple[RememberedGap, ...]:
        """The newest declared gap of each producer."""
        return tuple(
            RememberedGap(svc=name[0], id=name[1], seq=gap.seq, first=gap.first, last=gap.last)
            for name, gap in self._gaps.items()
        )

    def resume(self, place: Place) -> None:
        """Goes on from a remembered place."""
        self._tenants.update(place.tenants)
        self._producers.update({(svc, one): last for svc, one, last in place.producers})
        self._sources.update(place.sources)
        # A gap before the group: its row there is over.
        self._gaps.update(
            {(one.svc, one.id): Gap(-1, one.seq, (one.svc, one.id), one.first, one.last) for one in place.gaps}
        )

    def heads(self, cut: HeadsCut) -> tuple[dict[str, tuple[int, str]], dict[str, int]]:
        """The heads at a position inside the group that is to be taken next.

        Returns:
            Tenant -> (number of records, hash of the last in hex), and ``service/producer`` -> next counter.
        """
        tenants = {**self._tenants, **cut.tenants}
        producers = {**self._producers, **cut.producers}
        return (
            {name: (last + 1, head) for name, (last, head) in tenants.items()},
            {"/".join(name): last + 1 for name, last in producers.items()},
        )

    def _tenant(self, name: str, span: TenantSpan) -> Bad | None:
        before, head = self._tenants.get(name, (-1, _NO_HASH_HEX))
        if span.first_tseq == before + 1 and span.first_tprev == head:
            return None
        return Bad(span.row, Verdict.TAMPERED, "tseq or tprev does not follow the tenant's record before")

    def _declared(self, summary: GroupSummary) -> dict[tuple[str, str], Gap]:
        """The last gap declared for each producer before its first record in this group."""
        declared = dict(self._gaps)
        for gap in summary.gaps:
            if gap.producer in summary.producers and gap.row < summary.producers[gap.producer].row:
                declared[gap.producer] = gap
        return declared

    def _producer(self, name: tuple[str, str], span: CounterSpan, declared: Gap | None) -> Bad | None:
        # Counters begin at 0, so a first record with a higher one is an omission as well.
        before = self._producers.get(name, -1)
        return judge_counter(span.row, before, span.first[0], declared=declared, dense=self._dense)

    def _source(self, name: str, span: CounterSpan) -> Bad | None:
        if span.first > self._sources.get(name, (-1, -1)):
            return None
        return Bad(span.row, Verdict.TAMPERED, "the position in the source stream does not rise")


def _first(found: list[Bad]) -> Bad | None:
    return min(found, default=None, key=lambda one: one.row)


class LogFold:
    """The whole log from record 0. Give it the summaries in order, then :meth:`finish`."""

    def __init__(
        self,
        origin: str,
        signed: Mapping[int, bytes],
        statements: Statements | None = None,
        turns: KeyTurns | None = None,
    ) -> None:
        """Takes the log's origin, the verified roots by tree size, and what judges statements and changes of key."""
        self._statements = statements or Statements(())
        self._turns = turns
        self._head = genesis(origin)
        self._tree = CompactRange()
        self._signed = signed
        self._counters = _Counters(dense=True)
        #: The largest checkpoint size whose root has been recomputed and found equal.
        self.vouched = 0

    def place(self, *, strict: bool) -> Place:
        """Where the fold stands, to be remembered; ``strict`` says how the records were judged."""
        tenants, producers, sources = self._counters.place()
        return Place(
            seq=self.size,
            strict=strict,
            head=self._head.hex(),
            range=tuple(one.hex() for one in self._tree.hashes()),
            tenants=tenants,
            producers=producers,
            sources=sources,
            gaps=self._counters.remembered_gaps(),
            seal=self._statements.remembered(),
        )

    def resume(self, place: Place) -> int:
        """Goes on from a remembered place; call before the first summary.

        Returns:
            How many statements of heads speak of positions before it, and are not judged again.

        Raises:
            Malformed: the place is none.
            Divergence: a statement contradicts the heads at the place.
        """
        self._head = bytes.fromhex(place.head)
        self._tree = CompactRange.from_hashes(place.seq, [bytes.fromhex(one) for one in place.range])
        self._counters.resume(place)
        self.vouched = place.seq
        passed = self._statements.resume(place.seq, place.seal)
        self._statements.judge_heads(place.seq, *self._counters.heads(HeadsCut(place.seq, {}, {})))
        return passed

    @property
    def size(self) -> int:
        """Records judged so far."""
        return self._tree.size

    def add(self, summary: GroupSummary) -> None:
        """Joins the next row group.

        Raises:
            Divergence: at the first record of the group that is wrong, or at the first after the last good root.
        """
        expected = self._tree.size
        if summary.first_seq > expected and (summary.bad is None or summary.bad.row > 0):
            reason = f"records {expected} to {summary.first_seq - 1} are missing"
            raise Divergence(Verdict.INCOMPLETE, expected, reason)
        found = self._counters.judge(summary)
        if summary.bad is not None:
            found.append(summary.bad)
        if summary.first_seq != expected:
            found.append(Bad(0, Verdict.TAMPERED, f"record {summary.first_seq} stands where {expected} belongs"))
        elif link(self._head, summary.first_record) != summary.first_hash:
            found.append(Bad(0, Verdict.TAMPERED, "the chain hash is not that of the record and the hash before it"))
        bad = _first(found)
        self._judge_roots(summary, summary.rows if bad is None else bad.row, expected)
        if bad is not None:
            raise Divergence(bad.verdict, expected + bad.row, bad.reason)
        for cut in summary.heads:
            self._statements.judge_heads(cut.cut, *self._counters.heads(cut))
        for own in summary.own:
            self._statements.judge_record(own)
            if self._turns is not None:
                self._turns.judge_record(own)
        assert summary.tree is not None
        self._tree.merge(summary.tree)
        self._head = summary.last_hash
        self._counters.take(summary)

    def _judge_roots(self, summary: GroupSummary, good_rows: int, expected: int) -> None:
        for size, cut in summary.cuts:
            if size > expected + good_rows:
                return
            tree = self._tree.copy()
            tree.merge(cut)
            self._judge_root(size, tree.root())

    def _judge_root(self, size: int, root: bytes) -> None:
        if root != self._signed[size]:
            reason = (
                f"the root at size {size} is not the signed one: a record from {self.vouched} to {size - 1} differs"
            )
            raise Divergence(Verdict.TAMPERED, self.vouched, reason)
        self.vouched = size

    def finish(self) -> None:
        """Checks that records and newest checkpoint end at the same size.

        Raises:
            Divergence: records are missing, or stand after the newest checkpoint.
        """
        newest = max(self._signed, default=0)
        if self.size < newest:
            reason = f"records {self.size} to {newest - 1} are missing"
            raise Divergence(Verdict.INCOMPLETE, self.size, reason)
        if self.size > newest:
            raise Divergence(Verdict.TAMPERED, newest, "no checkpoint vouches for this record and those after it")


class TenantFold:
    """One tenant's records, each with the chain hash before it."""

    def __init__(self, tenant: str) -> None:
        """Takes the tenant that the auditor asked for."""
        self._tenant = tenant
        self._counters = _Counters(dense=False)
        self._last_seq = -1
        self.size = 0

    @property
    def last_seq(self) -> int:
        """Seq of the last record judged, -1 before the first."""
        return self._last_seq

    def add(self, summary: GroupSummary) -> None:
        """Joins the next row group.

        Raises:
            Divergence: at the first record of the group that is wrong.
        """
        found = self._counters.judge(summary)
        if summary.bad is not None:
            found.append(summary.bad)
        if summary.first_seq <= self._last_seq:
            found.append(Bad(0, Verdict.TAMPERED, "seq does not rise"))
        found += [
            Bad(span.row, Verdict.TAMPERED, "the record belongs to another tenant")
            for name, span in summary.tenants.items()
            if name != self._tenant
        ]
        bad = _first(found)
        if bad is not None:
            seq = summary.leaves[bad.row][0] if bad.row < len(summary.leaves) else summary.last_seq
            raise Divergence(bad.verdict, seq, bad.reason)
        self._counters.take(summary)
        self._last_seq = summary.last_seq
        self.size += summary.rows
