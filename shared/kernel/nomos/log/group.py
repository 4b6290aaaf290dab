"""Judging one row group by itself, so that groups can be judged in parallel.

Decides everything about a group's records that needs no other group: each link but the first, each leaf, the typed
columns, the order inside the group. Leaves the first link and the order across groups to :mod:`nomos.log.fold`, for
which it sums up where each counter begins and ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from itertools import count, pairwise
from typing import Final, NamedTuple

import msgspec

from nomos.errors import Malformed
from nomos.events import DECISION_MADE
from nomos.eventschemas import is_known, what_is_wrong
from nomos.ids import SYSTEM_TENANT
from nomos.log.approvals import COSIGNED, TYPES, ApprovalFacts, read_approvals
from nomos.log.erasure import KeyFacts, key_rows, read_keys
from nomos.log.facts import GAP_TYPE, CounterSpan, Facts, HeadsCut, OwnRecord, TenantSpan, read_fact
from nomos.log.parts import HASH_BYTES, GroupRows
from nomos.log.record import RECORD_BYTES_MAX, RECORD_VERSION, is_own_record, parse_record, parse_ts
from nomos.log.report import Verdict
from nomos.log.scan import scan
from nomos.log.tree import CompactRange

_HEX: Final = 2 * HASH_BYTES
LEVEL_MEANING: Final = 2
#: YYYY-MM-DDTHH:MM:SS.ffffffZ
_TS_LENGTH: Final = 27


class Bad(NamedTuple):
    """The first row of a group at which a check failed."""

    row: int
    verdict: Verdict
    reason: str


class Gap(NamedTuple):
    """A record in which the log itself says that events never reached it.

    ``producer`` is (service, id) where a producer's counter jumped, None where the journal had a hole.
    """

    row: int
    seq: int
    producer: tuple[str, str] | None
    first: int
    last: int


class _GapEvent(msgspec.Struct, frozen=True):
    first: int
    last: int
    producer: str | None = None
    svc: str | None = None


class _GapRecord(msgspec.Struct, frozen=True):
    event: _GapEvent


class GroupSummary(msgspec.Struct, frozen=True, kw_only=True):
    """All that is kept of a judged row group."""

    rows: int
    first_seq: int
    last_seq: int
    first_record: bytes
    first_hash: bytes
    last_hash: bytes
    tree: CompactRange | None
    cuts: tuple[tuple[int, CompactRange], ...]
    leaves: tuple[tuple[int, bytes], ...]
    tenants: dict[str, TenantSpan]
    producers: dict[tuple[str, str], CounterSpan]
    sources: dict[str, CounterSpan]
    gaps: tuple[Gap, ...]
    own: tuple[OwnRecord, ...]
    heads: tuple[HeadsCut, ...]
    unknown: dict[str, int]
    bad: Bad | None
    keys: KeyFacts = KeyFacts((), 0, None)
    approvals: ApprovalFacts = ApprovalFacts((), None)


_GAP = msgspec.json.Decoder(_GapRecord)


def _tampered(row: int, reason: str) -> Bad:
    return Bad(row, Verdict.TAMPERED, reason)


def read_facts(rows: GroupRows) -> tuple[list[Facts], Bad | None]:
    """The facts of each record up to the first that cannot be read."""
    facts: list[Facts] = []
    try:
        for begin, end in pairwise(rows.offsets):
            facts.append(read_fact(rows.records, begin, end))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return facts, _tampered(len(facts), "the record cannot be read")
    return facts, None


def read_gaps(rows: GroupRows, facts: Sequence[Facts]) -> list[Gap]:
    """The gaps that the log's own records declare. One that cannot be read declares nothing."""
    gaps: list[Gap] = []
    for row, one in enumerate(facts):
        if one.type != GAP_TYPE or one.tenant != SYSTEM_TENANT or one.pc is not None:
            continue
        try:
            event = _GAP.decode(rows.record(row)).event
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            continue
        named = None if event.producer is None or event.svc is None else (event.svc, event.producer)
        gaps.append(Gap(row, one.seq, named, event.first, event.last))
    return gaps


def _first_difference(left: Sequence[object], right: Sequence[object]) -> int | None:
    if left == right:
        return None
    return next((at for at, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))


def check_links(rows: GroupRows) -> Bad | None:
    """Recomputes each chain hash from the hash before it; in a log, the first row's is left to the caller."""
    hexed = memoryview((rows.hashes if rows.prevs is None else rows.prevs).hex().encode())
    skipped = 1 if rows.prevs is None else 0
    digests: list[bytes] = []
    # By views: a copy of each record would cost more than the second call.
    with memoryview(rows.records) as records:
        for at, (begin, end) in zip(count(0, _HEX), pairwise(rows.offsets[skipped:]), strict=False):
            link = sha256(hexed[at : at + _HEX])
            link.update(records[begin:end])
            digests.append(link.digest())
    if b"".join(digests) == rows.hashes[skipped * HASH_BYTES :]:
        return None
    row = next(at for at, one in enumerate(digests, skipped) if one != rows.hash(at))
    return _tampered(row, "the chain hash is not that of the record and the hash before it")


def _microseconds(ts: str) -> int | None:
    """The time, or None for a text that is none: no column says so."""
    try:
        return parse_ts(ts)
    except Malformed:
        return None


def check_columns(rows: GroupRows, facts: Sequence[Facts]) -> Bad | None:
    """Compares the typed columns with the records."""
    number = len(facts)
    # Many records of a block have one time, so few are parsed.
    times = {one: _microseconds(one) for one in {one.ts for one in facts}}
    said: list[tuple[str, Sequence[object], Sequence[object]]] = [
        ("seq", rows.seqs, [one.seq for one in facts]),
        ("ts", rows.times, [times[one.ts] for one in facts]),
        ("tenant", rows.tenants, [one.tenant for one in facts]),
        ("type", rows.types, [one.type for one in facts]),
    ]
    found = [
        _tampered(row, f"the column {name} is not what the record says")
        for name, column, recorded in said
        if (row := _first_difference(column[:number], recorded)) is not None
    ]
    return min(found, default=None, key=lambda bad: bad.row)


def check_members(facts: Sequence[Facts]) -> Bad | None:
    """Checks what each record must have: the known version, and a source unless it is the log's own."""
    for row, one in enumerate(facts):
        if one.v != RECORD_VERSION or one.tseq < 0 or len(one.ts) != _TS_LENGTH:
            return _tampered(row, f"the record is not of version {RECORD_VERSION}")
        if (one.pc is None or one.src is None) and not is_own_record(one.tenant, one.type):
            return _tampered(row, "the record names no source")
    return None


def check_sizes(rows: GroupRows) -> Bad | None:
    """Checks each record's length."""
    for row, (begin, end) in enumerate(pairwise(rows.offsets)):
        if end - begin > RECORD_BYTES_MAX:
            return _tampered(row, f"the record is longer than {RECORD_BYTES_MAX} bytes")
    return None


def check_seqs(facts: Sequence[Facts], *, dense: bool) -> Bad | None:
    """Checks that seq rises, in a log by one."""
    seqs = [one.seq for one in facts]
    if not seqs or seqs == list(range(seqs[0], seqs[0] + len(seqs))):
        return None
    for row in range(1, len(seqs)):
        if seqs[row] != seqs[row - 1] + 1 if dense else seqs[row] <= seqs[row - 1]:
            return _tampered(row, f"record {seqs[row]} follows record {seqs[row - 1]}")
    return None


def check_tenants(rows: GroupRows, facts: Sequence[Facts]) -> tuple[dict[str, TenantSpan], Bad | None]:
    """Checks each tenant's own counter and chain inside the group, and sums them up."""
    firsts: dict[str, tuple[int, int, str]] = {}
    lasts: dict[str, tuple[int, str]] = {}
    bad = None
    hexed = rows.hashes.hex()
    for row, one in enumerate(facts):
        tenant, tseq = one.tenant, one.tseq
        last = lasts.get(tenant)
        if last is None:
            firsts[tenant] = (row, tseq, one.tprev)
        elif tseq != last[0] + 1 or one.tprev != last[1]:
            bad = _tampered(row, "tseq or tprev does not follow the tenant's record before")
            break
        lasts[tenant] = (tseq, hexed[row * _HEX : (row + 1) * _HEX])
    return {name: TenantSpan(*first, *lasts[name]) for name, first in firsts.items()}, bad


def check_producers(
    facts: Sequence[Facts], gaps: Sequence[Gap], *, dense: bool
) -> tuple[dict[tuple[str, str], CounterSpan], Bad | None]:
    """Checks each producer's counter inside the group: in a log without a gap, but for gaps declared before."""
    firsts: dict[tuple[str, str], tuple[int, int]] = {}
    lasts: dict[tuple[str, str], int] = {}
    bad = None
    gap_at = {gap.row: gap for gap in gaps}
    declared: dict[tuple[str, str] | None, Gap] = {}
    for row, one in enumerate(facts):
        counter = one.pc
        if counter is None:
            if row in gap_at:
                declared[gap_at[row].producer] = gap_at[row]
            continue
        name, now = (counter.svc, counter.id), counter.n
        last = lasts.get(name)
        if last is None:
            firsts[name] = (row, now)
        elif now != last + 1:
            bad = judge_counter(row, last, now, declared=declared.get(name), dense=dense)
            if bad is not None:
                break
        lasts[name] = now
    spans = {name: CounterSpan(row, (first, 0), (lasts[name], 0)) for name, (row, first) in firsts.items()}
    return spans, bad


def judge_counter(row: int, before: int, now: int, *, declared: Gap | None, dense: bool) -> Bad | None:
    """What a producer's counter ``now`` after ``before`` means, given the last gap declared for this producer."""
    if now <= before:
        return _tampered(row, f"the producer's counter went from {before} to {now}")
    if not dense or now == before + 1:
        return None
    if declared is not None and declared.first <= before + 1 and now - 1 <= declared.last:
        return None
    return Bad(row, Verdict.INCOMPLETE, f"the producer's events {before + 1} to {now - 1} are not in the log")


def own_records(rows: GroupRows, facts: Sequence[Facts]) -> tuple[OwnRecord, ...]:
    """The log's own records of the group."""
    return tuple(
        OwnRecord(one.seq, rows.hash(row), one.type, rows.record(row))
        for row, one in enumerate(facts)
        if one.tenant == SYSTEM_TENANT and is_own_record(one.tenant, one.type)
    )


def heads_at(rows: GroupRows, facts: Sequence[Facts], cuts: Sequence[int]) -> tuple[HeadsCut, ...]:
    """The heads that the group leaves at each of the positions ``cuts`` that fall into it."""
    found: list[HeadsCut] = []
    if not facts:
        return ()
    first = facts[0].seq
    for cut in cuts:
        if first < cut <= first + len(facts):
            lasts = {one.tenant: row for row, one in enumerate(facts[: cut - first])}
            tenants = {name: (facts[row].tseq, rows.hash(row).hex()) for name, row in lasts.items()}
            counters = (one.pc for one in facts[: cut - first])
            producers = {(pc.svc, pc.id): pc.n for pc in counters if pc is not None}
            found.append(HeadsCut(cut, tenants, producers))
    return tuple(found)


def check_sources(facts: Sequence[Facts]) -> tuple[dict[str, CounterSpan], Bad | None]:
    """Checks that the position in each source stream rises strictly inside the group."""
    firsts: dict[str, tuple[int, tuple[int, int]]] = {}
    lasts: dict[str, tuple[int, int]] = {}
    bad = None
    for row, one in enumerate(facts):
        source = one.src
        if source is None:
            continue
        name, here = source.s, (source.q, source.i)
        last = lasts.get(name)
        if last is None:
            firsts[name] = (row, here)
        elif here <= last:
            bad = _tampered(row, "the position in the source stream does not rise")
            break
        lasts[name] = here
    return {name: CounterSpan(row, first, lasts[name]) for name, (row, first) in firsts.items()}, bad


def check_meaning(rows: GroupRows) -> tuple[dict[str, int], Bad | None]:
    """Level 2: each record is canonical and has every member, and so has its event. Counts events of unknown types."""
    unknown: dict[str, int] = {}
    for row in range(len(rows)):
        try:
            record = parse_record(rows.record(row))
        except Malformed as error:
            return unknown, _tampered(row, error.detail)
        if not is_known(record.type):
            unknown[record.type] = unknown.get(record.type, 0) + 1
        elif (wrong := what_is_wrong(record.type, record.event)) is not None:
            return unknown, _tampered(row, wrong)
    return unknown, None


def approval_rows(rows: GroupRows, types: Sequence[str]) -> list[int]:
    """The rows whose records are read for approvals: those of its types, and decisions that may count on one."""

    def counts_on_one(row: int) -> bool:
        return rows.records.find(COSIGNED, rows.offsets[row], rows.offsets[row + 1]) >= 0

    return [row for row, kind in enumerate(types) if kind in TYPES or (kind == DECISION_MADE and counts_on_one(row))]


class Meaning(NamedTuple):
    """What level 2 finds in a group."""

    unknown: dict[str, int]
    keys: KeyFacts
    approvals: ApprovalFacts
    bad: tuple[Bad | None, ...]


_NOTHING: Final = Meaning({}, KeyFacts((), 0, None), ApprovalFacts((), None), ())


def read_meaning(rows: GroupRows, types: Sequence[str]) -> Meaning:
    """Level 2 of a group whose records have these types."""
    unknown, wrong = check_meaning(rows)
    keys = read_keys((row, rows.record(row)) for row in key_rows(types))
    bad_field = None if keys.bad is None else _tampered(*keys.bad)
    if wrong is not None:
        return Meaning(unknown, keys, ApprovalFacts((), None), (wrong, bad_field))
    approvals = read_approvals((row, rows.record(row)) for row in approval_rows(rows, types))
    bad_approval = None if approvals.bad is None else _tampered(*approvals.bad)
    return Meaning(unknown, keys, approvals, (bad_field, bad_approval))


def _grow(rows: GroupRows, first_seq: int, sizes: Sequence[int]) -> tuple[CompactRange, list[tuple[int, CompactRange]]]:
    """The group's part of the tree, and its state at each of the checkpoint sizes that fall into it."""
    grown = CompactRange(first_seq)
    end = first_seq + len(rows)
    cuts: list[tuple[int, CompactRange]] = []

    def grow(size: int) -> None:
        begin, stop = (HASH_BYTES * (one - first_seq) for one in (grown.size, size))
        grown.extend(rows.hashes[at : at + HASH_BYTES] for at in range(begin, stop, HASH_BYTES))

    for size in sizes:
        if first_seq < size <= end:
            grow(size)
            cuts.append((size, grown.copy()))
    grow(end)
    return grown, cuts


def judge_group(rows: GroupRows, *, sizes: Sequence[int], cuts: Sequence[int] = (), level: int) -> GroupSummary:
    """Judges one row group.

    Args:
        rows: what was read.
        sizes: the checkpoint sizes, rising; the tree's state is kept at each.
        cuts: the positions of statements, rising; the heads are kept at each.
        level: 1, or 2 for the canonical form of each record too.
    """
    types: Sequence[str]
    leaves: tuple[tuple[int, bytes], ...] = ()
    quick = scan(rows, cuts) if rows.prevs is None else None
    if quick is not None:
        types, gaps = rows.types, []
        tenants, producers, sources, own, heads = quick
        first_seq, last_seq, found = rows.seqs[0], rows.seqs[-1], [check_links(rows)]
    else:
        dense = rows.prevs is None
        facts, unread = read_facts(rows)
        tenants, bad_tenant = check_tenants(rows, facts)
        gaps = read_gaps(rows, facts)
        producers, bad_producer = check_producers(facts, gaps, dense=dense)
        sources, bad_source = check_sources(facts)
        found = [
            *(unread, bad_tenant, bad_producer, bad_source, check_sizes(rows), check_links(rows)),
            *(check_columns(rows, facts), check_members(facts), check_seqs(facts, dense=dense)),
        ]
        types, own, heads = [one.type for one in facts], own_records(rows, facts), heads_at(rows, facts, cuts)
        first_seq = facts[0].seq if facts else max(rows.seqs[0], 0)
        last_seq = facts[-1].seq if facts else first_seq
        if not dense:
            leaves = tuple((one.seq, rows.hash(row)) for row, one in enumerate(facts))
    meaning = read_meaning(rows, types) if level >= LEVEL_MEANING else _NOTHING
    bad = min((one for one in (*found, *meaning.bad) if one is not None), default=None, key=lambda one: one.row)
    tree, grown = _grow(rows, first_seq, sizes) if rows.prevs is None and first_seq >= 0 else (None, [])
    return GroupSummary(
        rows=len(rows),
        first_seq=first_seq,
        last_seq=last_seq,
        first_record=rows.record(0),
        first_hash=rows.hash(0),
        last_hash=rows.hash(len(rows) - 1),
        tree=tree,
        cuts=tuple(grown),
        leaves=leaves,
        tenants=tenants,
        producers=producers,
        sources=sources,
        gaps=tuple(gaps),
        own=own,
        heads=heads,
        unknown=meaning.unknown,
        bad=bad,
        keys=meaning.keys,
        approvals=meaning.approvals,
    )
