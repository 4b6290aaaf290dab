"""``canonical_bytes`` and ``parse_object`` against the profile jcs-strict, written down once more as a plain recursion.

The reference shares nothing with the code that it judges: its own rules, the bytes of ``rfc8785``, and Python's
``json`` as the parser, which shows duplicate keys.
"""

from __future__ import annotations

import json
import string
from enum import StrEnum
from typing import Any

import pytest
import rfc8785
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nomos.errors import LimitExceeded, Malformed, MalformedRecord
from nomos.log.record import canonical_bytes, parse_object

ALPHABET = set(string.ascii_letters + string.digits + "_.-")
EDGE = 2**53
#: Deeper than any record may be, so that the limit is met from both sides.
NESTED_MAX = 20


class Refused(Exception):
    pass


class TooDeep(Refused):
    pass


class Word(StrEnum):
    ONE = "one"


def judge(value: Any, depth: int = 1) -> None:
    """Raises Refused where ``value``, a container of this depth or a leaf in one above, is outside the profile."""
    if value is None or type(value) is bool:
        return
    if type(value) is int:
        if abs(value) > EDGE - 1:
            raise Refused
    elif type(value) is str:
        if any(0xD800 <= ord(one) <= 0xDFFF for one in value):
            raise Refused
    elif type(value) in (dict, list):
        if depth > 16:
            raise TooDeep
        for name in value if type(value) is dict else ():
            if type(name) is not str or not 1 <= len(name) <= 64 or not set(name) <= ALPHABET:
                raise Refused
        for inner in value.values() if type(value) is dict else value:
            judge(inner, depth + 1)
    else:
        raise Refused


def reference_bytes(value: Any) -> bytes:
    if type(value) is not dict:
        raise Refused
    judge(value)
    return rfc8785.dumps(value)


def reference_parse(encoded: bytes) -> Any:
    def without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({name for name, _ in pairs}) < len(pairs):
            raise Refused
        return dict(pairs)

    try:
        value = json.loads(encoded.decode(), object_pairs_hook=without_duplicates)
    except (ValueError, RecursionError):
        raise Refused from None
    if reference_bytes(value) != encoded:
        raise Refused
    return value


def outcome(made: Any, *words: Any) -> Any:
    """What came back, or False where it was refused."""
    try:
        return made(*words)
    except (Refused, Malformed):
        return False


KEYS = st.text(st.sampled_from(sorted(ALPHABET)), min_size=1, max_size=6)
BAD_KEYS = st.sampled_from(["", "a b", "é", "a\n", "x" * 65, "\ud800", 1, None, b"a", Word.ONE])
GOOD_LEAVES = (
    st.none() | st.booleans() | st.integers(1 - EDGE, EDGE - 1) | st.text(st.characters(exclude_categories=["Cs"]))
)
BAD_LEAVES = (
    st.floats()
    | st.sampled_from([EDGE, -EDGE, 2**64, "\ud800", "a\udfff", b"", (), (1,), set(), Word.ONE])
    | st.text(st.characters(categories=["Cs"]), min_size=1)
)


def values(leaves: st.SearchStrategy[Any], keys: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.recursive(
        leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4), max_leaves=15
    )


GOOD = st.dictionaries(KEYS, values(GOOD_LEAVES, KEYS), max_size=6)
MIXED = st.dictionaries(KEYS | BAD_KEYS, values(GOOD_LEAVES | BAD_LEAVES, KEYS | BAD_KEYS), max_size=4)


@st.composite
def nested(draw: st.DrawFn) -> Any:
    value = draw(GOOD_LEAVES | GOOD)
    for is_list in draw(st.lists(st.booleans(), min_size=8, max_size=NESTED_MAX)):
        value = [value] if is_list else {"a": value}
    return {"a": value}


@settings(max_examples=500)
@given(GOOD | MIXED | nested() | BAD_LEAVES | GOOD_LEAVES)
@example({"a": EDGE - 1, "b": 1 - EDGE})
@example({"a": EDGE})
@example({"a": -EDGE})
@example({"a": "\ud800"})
@example({"a": True, 1: 2})
@example({"a": -0.0})
@example({Word.ONE: 1})
def test_the_bytes_and_the_refusals_are_those_of_the_plain_reference(value: Any) -> None:
    assert outcome(canonical_bytes, value) == outcome(reference_bytes, value)


@pytest.mark.parametrize("depth", [15, 16, 17, 18])
@pytest.mark.parametrize("is_list", [False, True])
def test_the_limit_of_nesting_is_that_of_the_reference(depth: int, is_list: bool) -> None:
    value: Any = [] if is_list else {}
    for _ in range(depth - 2):
        value = [value] if is_list else {"a": value}
    value = {"a": value}
    encoded = json.dumps(value, separators=(",", ":")).encode()
    if depth <= 16:
        assert canonical_bytes(value) == reference_bytes(value) == encoded
        assert parse_object(encoded) == value
        return
    with pytest.raises(TooDeep):
        judge(value)
    for refuse in (lambda: canonical_bytes(value), lambda: parse_object(encoded)):
        with pytest.raises(LimitExceeded):
            refuse()


ODD_VALUES = st.sampled_from([b"1.0", b"1e2", b"-0", b"9007199254740992", b'"\\ud800"', b"NaN"])


@st.composite
def spellings(draw: st.DrawFn) -> bytes:
    """JSON near the canonical form: other order, spaces, escapes, duplicate keys, floats; or the form itself."""
    value = draw(GOOD | nested())
    encoded = rfc8785.dumps(value)
    match draw(st.integers(0, 5)):
        case 0:
            return json.dumps(value).encode()
        case 1:
            return json.dumps(dict(reversed(value.items())), separators=(",", ":"), ensure_ascii=False).encode()
        case 2:
            return b'{"a":0,' + encoded[1:] if len(encoded) > 2 else b'{"a":0,"a":0}'
        case 3:
            at = draw(st.integers(0, len(encoded) - 1))
            return encoded[:at] + draw(st.binary(max_size=2)) + encoded[at + 1 :]
        case 4:
            return (
                b'{"a":'
                + draw(st.sampled_from([b"1.0", b"1e2", b"-0", b"9007199254740992", b'"\\ud800"', b"NaN"]))
                + b"}"
            )
        case _:
            return encoded


@settings(max_examples=500)
@given(spellings() | st.binary(max_size=20))
@example(b'{"a":1,"a":1}')
@example(b'{"a":{"b":1,"b":2}}')
@example(b'{"a":-9007199254740991}')
@example(b'{"a":"\\u00e9"}')
@example(b'{"a":"\xed\xa0\x80"}')
@example(b'\xef\xbb\xbf{"a":1}')
def test_what_is_read_and_refused_is_what_the_plain_reference_reads(encoded: bytes) -> None:
    assert outcome(parse_object, encoded) == outcome(reference_parse, encoded)


def test_a_key_that_was_found_good_does_not_open_the_door_for_a_subclass_of_str() -> None:
    assert canonical_bytes({"one": 1}) == b'{"one":1}'
    with pytest.raises(MalformedRecord):
        canonical_bytes({Word.ONE: 1})
