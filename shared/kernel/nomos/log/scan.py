"""The quick judge of a row group: says that all is right, or nothing.

Decides in one pass what :mod:`nomos.log.group` decides check by check, for the group that is as a writer makes it. The
last members of a record are known before it is read: number, tenant, type and time stand in the columns, the tenant's
own counter and hash follow from its record before, and producer and source mostly from the record before. So the end of
each record is written down and compared, and only a record that ends otherwise is parsed.

Where anything is not as expected the answer is None, and the exact judge is asked. Nothing is accepted here that it
would not accept: a record that ends in the expected bytes reads as exactly the members that they spell, since no word
is put into them that JSON would write in another way. A property test compares the two.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import islice
from operator import sub
from typing import Final, NamedTuple

import msgspec

from nomos.errors import Malformed
from nomos.ids import SYSTEM_TENANT
from nomos.log.facts import GAP_TYPE, CounterSpan, Facts, HeadsCut, OwnRecord, TenantSpan, read_fact
from nomos.log.parts import HASH_BYTES, GroupRows
from nomos.log.record import RECORD_BYTES_MAX, RECORD_VERSION, format_ts, is_own_record, parse_ts

_HEX: Final = 2 * HASH_BYTES
#: Words that JSON writes as they are.
_PLAIN = re.compile(r"[A-Za-z0-9_.-]{1,128}")


class Scan(NamedTuple):
    """What a group says, all of it right: the fields of a summary of the same names."""

    tenants: dict[str, TenantSpan]
    producers: dict[tuple[str, str], CounterSpan]
    sources: dict[str, CounterSpan]
    own: tuple[OwnRecord, ...]
    heads: tuple[HeadsCut, ...]


def scan(rows: GroupRows, cuts: Sequence[int] = ()) -> Scan | None:
    """Judges everything about a group of a whole log but its links and its tree; None where it is not plainly right.

    Args:
        rows: what was read, without the column ``prev``.
        cuts: the positions of statements, rising; the heads are kept at each.
    """
    number, first = len(rows), rows.seqs[0]
    if first < 0 or rows.seqs != list(range(first, first + number)):
        return None
    if max(map(sub, rows.offsets[1:], rows.offsets)) > RECORD_BYTES_MAX:
        return None
    if not all(map(_PLAIN.fullmatch, {*rows.tenants, *rows.types})):
        return None
    try:
        texts = {one: format_ts(one) for one in set(rows.times)}
        if any(parse_ts(text) != one for one, text in texts.items()):
            return None
        return _Scanner(rows, texts).run(cuts)
    except (_Unexpected, Malformed, msgspec.MsgspecError, ValueError, OverflowError, RecursionError):
        return None


class _Unexpected(Exception):
    """Something for the exact judge."""


class _Scanner:
    def __init__(self, rows: GroupRows, texts: dict[int, str]) -> None:
        self._rows = rows
        self._texts = texts
        self._hexed = rows.hashes.hex()
        #: Tenant -> its first row here with counter and link; and counter of its last, and where its hash stands.
        self._firsts: dict[str, tuple[int, int, str]] = {}
        self._lasts: dict[str, tuple[int, int]] = {}
        self._producer_firsts: dict[tuple[str, str], tuple[int, int]] = {}
        self._producers: dict[tuple[str, str], int] = {}
        self._source_firsts: dict[str, tuple[int, tuple[int, int]]] = {}
        self._sources: dict[str, tuple[int, int]] = {}
        # Of the record before: its producer and source with their counters, and the bytes around these.
        self._producer: tuple[str, str] | None = None
        self._source = ""
        self._counter = self._place = self._index = 0
        self._before = self._between = self._behind = ""

    def run(self, cuts: Sequence[int]) -> Scan:
        rows = self._rows
        number, first = len(rows), rows.seqs[0]
        heads, begin = [], 0
        for cut in cuts:
            if first < cut <= first + number:
                self._pass(begin, cut - first)
                begin = cut - first
                heads.append(HeadsCut(cut, self._tenant_heads(), dict(self._producers)))
        self._pass(begin, number)
        tenants = {name: TenantSpan(*one, *self._tenant_heads((name,))[name]) for name, one in self._firsts.items()}
        producers = {
            name: CounterSpan(row, (counter, 0), (self._producers[name], 0))
            for name, (row, counter) in self._producer_firsts.items()
        }
        sources = {name: CounterSpan(row, at, self._sources[name]) for name, (row, at) in self._source_firsts.items()}
        own: tuple[OwnRecord, ...] = ()
        if SYSTEM_TENANT in self._firsts:
            own = tuple(
                OwnRecord(rows.seqs[row], rows.hash(row), rows.types[row], rows.record(row))
                for row, tenant in enumerate(rows.tenants)
                if tenant == SYSTEM_TENANT and is_own_record(tenant, rows.types[row])
            )
        return Scan(tenants, producers, sources, own, tuple(heads))

    def _tenant_heads(self, names: Sequence[str] = ()) -> dict[str, tuple[int, str]]:
        lasts = self._lasts
        return {name: (lasts[name][0], self._hexed[lasts[name][1] : lasts[name][1] + _HEX]) for name in names or lasts}

    def _pass(self, begin: int, end: int) -> None:
        """Judges the rows from ``begin`` to before ``end``."""
        rows, hexed, lasts, texts = self._rows, self._hexed, self._lasts, self._texts
        columns = (rows.seqs, rows.tenants, rows.types, rows.times, rows.offsets, rows.offsets[1:])
        ends_so, known = rows.records.endswith, lasts.get
        before, between, behind = self._before, self._between, self._behind
        counter, index = self._counter, self._index
        row, now, text = begin - 1, None, ""
        for seq, tenant, kind, time, start, stop in islice(zip(*columns, strict=False), begin, end):
            row += 1
            last = known(tenant)
            if last is not None and before:
                counter += 1
                index += 1
                if time != now:
                    now, text = time, texts[time]
                tseq, at = last[0] + 1, last[1]
                expected = (
                    f'{before}{counter}{between}{seq},"src":{{"i":{index}{behind}{tenant}","tprev":"'
                    f'{hexed[at : at + _HEX]}","ts":"{text}","tseq":{tseq},"type":"{kind}","v":1}}'
                )
                if ends_so(expected.encode(), start, stop):
                    lasts[tenant] = (tseq, row * _HEX)
                    continue
                counter -= 1
                index -= 1
            self._keep(counter, index)
            self._parse(row)
            before, between, behind = self._before, self._between, self._behind
            counter, index = self._counter, self._index
        self._keep(counter, index)

    def _keep(self, counter: int, index: int) -> None:
        """Writes down how far the producer and the source of the records so far have come."""
        self._counter, self._index = counter, index
        if self._producer is not None:
            self._producers[self._producer] = counter
            self._sources[self._source] = (self._place, index)

    def _parse(self, row: int) -> None:
        rows = self._rows
        one = read_fact(rows.records, rows.offsets[row], rows.offsets[row + 1])
        tenant = rows.tenants[row]
        said = (one.seq, one.tenant, one.type, one.ts, one.v)
        if said != (rows.seqs[row], tenant, rows.types[row], self._texts[rows.times[row]], RECORD_VERSION):
            raise _Unexpected
        if one.tseq < 0 or one.type == GAP_TYPE:
            raise _Unexpected
        last = self._lasts.get(tenant)
        if last is None:
            self._firsts[tenant] = (row, one.tseq, one.tprev)
        elif (one.tseq, one.tprev) != (last[0] + 1, self._hexed[last[1] : last[1] + _HEX]):
            raise _Unexpected
        self._lasts[tenant] = (one.tseq, row * _HEX)
        self._take_origin(row, one)

    def _take_origin(self, row: int, one: Facts) -> None:
        """Takes producer and source of a parsed record, from which those of the next ones are expected."""
        self._producer, self._before = None, ""
        if one.pc is None or one.src is None:
            if one.pc is not None or one.src is not None or not is_own_record(one.tenant, one.type):
                raise _Unexpected
            return
        name, here = (one.pc.svc, one.pc.id), (one.src.q, one.src.i)
        if name not in self._producers:
            self._producer_firsts[name] = (row, one.pc.n)
        elif one.pc.n != self._producers[name] + 1:
            raise _Unexpected
        if one.src.s not in self._sources:
            self._source_firsts[one.src.s] = (row, here)
        elif here <= self._sources[one.src.s]:
            raise _Unexpected
        self._producers[name], self._sources[one.src.s] = one.pc.n, here
        if not all(map(_PLAIN.fullmatch, (*name, one.src.s))):
            return
        self._producer, self._source = name, one.src.s
        self._counter, (self._place, self._index) = one.pc.n, here
        self._before = f',"pc":{{"id":"{one.pc.id}","n":'
        self._between = f',"svc":"{one.pc.svc}"}},"seq":'
        self._behind = f',"q":{one.src.q},"s":"{one.src.s}"}},"tenant":"'
