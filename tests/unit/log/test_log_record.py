"""The profile jcs-strict against RFC 8785's own implementation, and every spelling that must be refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from nomos.errors import LimitExceeded, Malformed, MalformedRecord
from nomos.log.chain import link
from nomos.log.record import (
    INTEGER_MAX,
    RECORD_BYTES_MAX,
    canonical_bytes,
    canonical_record,
    check_profile,
    format_ts,
    parse_object,
    parse_record,
    parse_ts,
)

KEYS = st.from_regex(r"[A-Za-z0-9_.\-]{1,64}", fullmatch=True)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-INTEGER_MAX, INTEGER_MAX) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=20,
)
OBJECTS = st.dictionaries(KEYS, VALUES, max_size=8)


def plain_record(**changes: Any) -> dict[str, Any]:
    return {
        "actor": {"id": "a", "kind": "agent"},
        "cause": None,
        "corr": "rq",
        "event": {"effect": "allow"},
        "id": "ev",
        "pc": {"id": "p", "n": 0, "svc": "policy"},
        "seq": 0,
        "src": {"i": 0, "q": 1, "s": "INTAKE"},
        "tenant": "acme",
        "tprev": "0" * 64,
        "ts": "2026-11-22T10:00:00.000000Z",
        "tseq": 0,
        "type": "test.decision",
        "v": 1,
        **changes,
    }


@given(VALUES | st.floats() | st.binary() | st.dictionaries(st.text(), st.floats() | VALUES))
def test_the_writers_quicker_way_gives_the_same_bytes_and_refuses_the_same(event: Any) -> None:
    members = plain_record(event=event)
    try:
        expected: Any = canonical_bytes(members)
        if type(event) is not dict:
            # A record that has no object for its event is refused when it is read.
            expected = MalformedRecord
    except Malformed as error:
        expected = type(error)
    try:
        found: Any = canonical_record(members)
    except Malformed as error:
        found = type(error)
    assert found == expected


@pytest.mark.parametrize("depth", [13, 14, 15, 16])
def test_the_writers_quicker_way_has_the_same_depth(depth: int) -> None:
    event: Any = 1
    for _ in range(depth):
        event = {"a": event}
    members = plain_record(event=event)
    if depth < 16:
        assert canonical_record(members) == canonical_bytes(members)
    else:
        for spell in (canonical_record, canonical_bytes):
            with pytest.raises(LimitExceeded):
                spell(members)


@given(OBJECTS)
def test_our_bytes_are_the_bytes_of_rfc_8785(obj: dict[str, Any]) -> None:
    encoded = canonical_bytes(obj)
    assert encoded == rfc8785.dumps(obj)
    assert parse_object(encoded) == obj


@given(st.binary())
def test_any_bytes_are_a_record_or_malformed(encoded: bytes) -> None:
    for parse in (parse_object, parse_record):
        try:
            parse(encoded)
        except Malformed:
            continue


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(ANYTHING)
def test_any_json_is_canonical_or_malformed(value: Any) -> None:
    encoded = json.dumps(value).encode()
    try:
        parsed = parse_object(encoded)
    except Malformed:
        return
    assert canonical_bytes(parsed) == encoded


@pytest.mark.parametrize(
    "encoded",
    [
        b'{"b":1,"a":2}',
        b'{"a":1,"a":1}',
        b'{"a":1.0}',
        b'{"a":1e2}',
        b'{"a":-0}',
        b'{"a":9007199254740992}',
        b'{"a":-9007199254740992}',
        b'{"a":99999999999999999999999}',
        b'{"a": 1}',
        b'{"a":1}\n',
        b'{"\\u0061":1}',
        b'{"a":"\\ud800"}',
        b'{"a":"\xed\xa0\x80"}',
        b'{"a":"\\u00e9"}',
        b'{"a":"\\/"}',
        b'{"":1}',
        b'{"a b":1}',
        '{"é":1}'.encode(),
        b'{"' + b"k" * 65 + b'":1}',
        b'{"a":NaN}',
        b"[]",
        b'"a"',
        b"",
        b'{"a":1',
        b'{"a":' * 17 + b"1" + b"}" * 17,
        b'{"a":' * 5000 + b"1" + b"}" * 5000,
    ],
)
def test_another_spelling_or_value_is_refused(encoded: bytes) -> None:
    with pytest.raises(Malformed):
        parse_object(encoded)


def test_unicode_is_not_normalised() -> None:
    composed, decomposed = canonical_bytes({"a": "\u00e9"}), canonical_bytes({"a": "e\u0301"})
    assert composed != decomposed
    assert link(bytes(32), composed) != link(bytes(32), decomposed)


@pytest.mark.parametrize(
    "value", [1.0, float("nan"), b"x", (1,), {1}, object(), "\ud800", 2**53, {"\ud800": 1}, {1: 1}]
)
def test_python_values_outside_the_profile_are_refused(value: object) -> None:
    with pytest.raises(MalformedRecord):
        check_profile({"a": value})


def test_a_subclass_of_str_or_int_is_refused() -> None:
    class Name(str):
        __slots__ = ()

    for value in (Name("x"), type("Number", (int,), {})(1)):
        with pytest.raises(MalformedRecord):
            canonical_bytes({"a": value})


def test_depth_and_size_have_limits() -> None:
    deep: dict[str, Any] = {}
    for _ in range(15):
        deep = {"a": deep}
    canonical_bytes(deep)
    with pytest.raises(LimitExceeded):
        canonical_bytes({"a": deep})
    fits = {"a": "x" * (RECORD_BYTES_MAX - 8)}
    assert len(canonical_bytes(fits)) == RECORD_BYTES_MAX
    with pytest.raises(LimitExceeded):
        canonical_bytes({"a": fits["a"] + "x"})
    with pytest.raises(LimitExceeded):
        parse_object(b" " * (RECORD_BYTES_MAX + 1))


def test_a_record_keeps_every_member() -> None:
    record = parse_record(canonical_bytes(plain_record()))
    assert record.pc is not None
    assert (record.tenant, record.pc.svc, record.event) == ("acme", "policy", {"effect": "allow"})


@pytest.mark.parametrize("missing", sorted(plain_record()))
def test_a_record_without_a_member_is_refused(missing: str) -> None:
    obj = plain_record()
    del obj[missing]
    with pytest.raises(MalformedRecord):
        parse_record(canonical_bytes(obj))


@pytest.mark.parametrize(
    "changes",
    [
        {"more": 1},
        {"v": 2},
        {"seq": -1},
        {"tseq": "0"},
        {"tprev": "0" * 63 + "A"},
        {"tprev": "0" * 63},
        {"tenant": ""},
        {"type": "a b"},
        {"event": []},
        {"ts": "2026-11-22T10:00:00Z"},
        {"ts": "2026-11-22T10:00:00.000000+00:00"},
        {"ts": "2026-02-30T10:00:00.000000Z"},
        {"ts": "2026-11-22T24:00:00.000000Z"},
        {"ts": "0000-11-22T23:00:00.000000Z"},
        {"pc": None},
        {"src": None},
        {"pc": {"id": "p", "n": -1, "svc": "s"}},
        {"src": {"i": -1, "q": 1, "s": "INTAKE"}},
        {"actor": {"id": "a", "kind": "agent", "more": 1}},
    ],
)
def test_a_record_with_a_wrong_member_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(MalformedRecord):
        parse_record(canonical_bytes(plain_record(**changes)))


def test_only_the_logs_own_records_have_no_source() -> None:
    own = {"pc": None, "src": None, "tenant": "_sys", "type": "audit.gap"}
    assert parse_record(canonical_bytes(plain_record(**own))).pc is None
    for changed in ({"tenant": "acme"}, {"type": "test.decision"}):
        with pytest.raises(MalformedRecord):
            parse_record(canonical_bytes(plain_record(**{**own, **changed})))


@given(st.integers(0, 253_402_300_799_999_999))
def test_times_are_read_as_they_are_written(microseconds: int) -> None:
    assert parse_ts(format_ts(microseconds)) == microseconds


def test_a_chain_hash_needs_32_bytes_before_it() -> None:
    with pytest.raises(MalformedRecord):
        link(b"short", b"{}")
