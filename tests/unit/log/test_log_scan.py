"""The quick judge of a row group says nothing that the exact one does not say, whatever the records are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from nomos.log.group import (
    Bad,
    check_columns,
    check_members,
    check_producers,
    check_seqs,
    check_sizes,
    check_sources,
    check_tenants,
    heads_at,
    own_records,
    read_facts,
    read_gaps,
)
from nomos.log.parts import GroupRows
from nomos.log.record import parse_ts
from nomos.log.scan import Scan, scan

from .conftest import Book

CUTS = (1, 7, 40, 41, 60)


def rows_of(book: Book, records: list[bytes] | None = None) -> GroupRows:
    records = [row.record for row in book.rows] if records is None else records
    offsets = [0]
    for one in records:
        offsets.append(offsets[-1] + len(one))
    return GroupRows(
        seqs=[one["seq"] for one in book.objects],
        times=[parse_ts(one["ts"]) for one in book.objects],
        tenants=[one["tenant"] for one in book.objects],
        types=[one["type"] for one in book.objects],
        hashes=b"".join(row.hash for row in book.rows),
        prevs=None,
        offsets=offsets,
        records=b"".join(records),
    )


def exact(rows: GroupRows) -> tuple[Scan, list[Bad]]:
    """What the exact judge says, and what it finds wrong (but links and tree)."""
    facts, unread = read_facts(rows)
    tenants, bad_tenant = check_tenants(rows, facts)
    gaps = read_gaps(rows, facts)
    producers, bad_producer = check_producers(facts, gaps, dense=True)
    sources, bad_source = check_sources(facts)
    found = [unread, bad_tenant, bad_producer, bad_source, check_sizes(rows), check_columns(rows, facts)]
    found += [check_members(facts), check_seqs(facts, dense=True)]
    said = Scan(tenants, producers, sources, own_records(rows, facts), heads_at(rows, facts, CUTS))
    return said, [one for one in found if one is not None]


BOOK = Book(60)


class Steady(Book):
    """As a writer makes it: batches of one producer, so that most records are the next of the one before."""

    def object_at(self, seq: int) -> dict[str, Any]:
        made = super().object_at(seq)
        if made["src"] is not None:
            made["src"] = {"i": seq % 10, "q": 100 + seq // 10, "s": "INTAKE"}
            made["pc"]["id"] = f"p{seq // 10}"
        return made


STEADY = Steady(60)
SEALED = Steady(60)
for _one in SEALED.objects[30:33]:
    _one |= {"tenant": "_sys", "type": "audit.seal"}
SEALED.chain()


def test_an_honest_group_is_accepted_and_summed_up_as_by_the_exact_judge() -> None:
    for book in (BOOK, STEADY, SEALED):
        rows = rows_of(book)
        said, bad = exact(rows)
        assert bad == []
        assert scan(rows, CUTS) == said


def agree(rows: GroupRows) -> None:
    quick = scan(rows, CUTS)
    if quick is not None:
        said, bad = exact(rows)
        assert bad == []
        assert quick == said


CHANGES: list[Callable[[bytes, st.DataObject], bytes]] = [
    lambda one, data: _flip(one, data.draw(st.integers(0, len(one) * 8 - 1))) if one else one,
    lambda one, data: one.replace(b',"pc":', b', "pc":'),
    lambda one, data: one.replace(b'"v":1', b'"v":1.0'),
    lambda one, data: one.replace(b'"v":1', b'"v":2'),
    lambda one, data: one.replace(b'"v":1}', b'"v":1} '),
    lambda one, data: one.replace(b',"seq":', b',"seq":0'),
    lambda one, data: one.replace(b',"tseq":', b',"tseq":1'),
    lambda one, data: one.replace(b'"i":', b'"i":0'),
    lambda one, data: one.replace(b'"n":', b'"n":9'),
    lambda one, data: one.replace(b'"svc":"policy"', b'"svc":"stepup"'),
    lambda one, data: one.replace(b'"INTAKE"', b'"OTHER"'),
    lambda one, data: one + one[one.rfind(b',"pc":') :],
    lambda one, data: one[one.rfind(b',"pc":') :],
    lambda one, data: b"x" * data.draw(st.integers(0, 9)) + one[one.rfind(b',"pc":') :],
    lambda one, data: one.replace(b'"event":{', b'"event":{"x":"\\",\\"pc\\":{}",'),
    lambda one, data: one[:-1] + b',"z":1}',
    lambda one, data: one[: data.draw(st.integers(0, len(one)))],
    lambda one, data: b"",
    lambda one, data: one + b"y" * 61_440,
]


def _flip(one: bytes, bit: int) -> bytes:
    changed = bytearray(one)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


@settings(max_examples=400)
@given(st.data())
def test_a_changed_record_is_accepted_by_both_or_left_to_the_exact_judge(data: st.DataObject) -> None:
    book = data.draw(st.sampled_from([BOOK, STEADY, SEALED]))
    records = [row.record for row in book.rows]
    for _ in range(data.draw(st.integers(1, 2))):
        at = data.draw(st.integers(0, len(records) - 1))
        records[at] = data.draw(st.sampled_from(CHANGES))(records[at], data)
    agree(rows_of(book, records))


@given(st.data())
def test_records_in_another_order_or_twice(data: st.DataObject) -> None:
    book = data.draw(st.sampled_from([BOOK, STEADY, SEALED]))
    records = [row.record for row in book.rows]
    one, other = (data.draw(st.integers(0, len(records) - 1)) for _ in range(2))
    if data.draw(st.booleans()):
        records[one] = records[other]
    else:
        records[one], records[other] = records[other], records[one]
    agree(rows_of(book, records))


@given(st.data())
def test_a_changed_column(data: st.DataObject) -> None:
    rows = rows_of(data.draw(st.sampled_from([BOOK, STEADY, SEALED])))
    name = data.draw(st.sampled_from(["seqs", "times", "tenants", "types"]))
    column = getattr(rows, name)
    at = data.draw(st.integers(0, len(column) - 1))
    if name in ("seqs", "times"):
        column[at] += data.draw(st.sampled_from([-(2**62), -1, 1, 60_000_000, 2**61]))
    else:
        column[at] = data.draw(st.sampled_from(["acme", "globex", "_sys", "", 'a"b', "\u00e9", "audit.gap", "x" * 200]))
    agree(rows)


@given(st.data())
def test_a_changed_hash(data: st.DataObject) -> None:
    rows = rows_of(data.draw(st.sampled_from([BOOK, STEADY, SEALED])))
    flipped = _flip(rows.hashes, data.draw(st.integers(0, len(rows.hashes) * 8 - 1)))
    agree(msgspec.structs.replace(rows, hashes=flipped))


def test_most_records_of_a_batch_are_not_parsed(monkeypatch: Any) -> None:
    from nomos.log import scan as module

    parsed = []
    real = module.read_fact
    monkeypatch.setattr(module, "read_fact", lambda *args: parsed.append(1) or real(*args))

    class Plain(Steady):
        def object_at(self, seq: int) -> dict[str, Any]:
            made = super().object_at(seq)
            made |= {"tenant": "acme", "src": {"i": seq % 10, "q": 100 + seq // 10, "s": "INTAKE"}}
            return {**made, "pc": {"id": f"p{seq // 10}", "n": 0, "svc": "policy"}}

    assert scan(rows_of(Plain(60))) is not None
    assert len(parsed) == 6
