"""DAG-CBOR and CIDs: one spelling, limits before work."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomos.errors import LimitExceeded, Malformed
from nomos.ucan.cid import CID_BYTES, CID_PREFIX, Link, cid_of, format_cid, parse_cid
from nomos.ucan.dagcbor import DEPTH_MAX, WALK_FREE_BYTES, decode, encode

BYTES_MAX = 72 * 1024

links = st.binary(min_size=32, max_size=32).map(lambda digest: Link(CID_PREFIX + digest))
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**64), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | text
    | st.binary(max_size=40)
    | links
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=5) | st.dictionaries(text, inner, max_size=5), max_leaves=25
)


@given(values)
def test_a_value_is_read_back_from_its_bytes(value: object) -> None:
    encoded = encode(value)  # type: ignore[arg-type]
    again = decode(encoded, bytes_max=BYTES_MAX)
    assert again == value
    assert encode(again) == encoded


@given(st.binary(max_size=300))
def test_arbitrary_bytes_raise_only_malformed_or_are_the_one_spelling(encoded: bytes) -> None:
    try:
        value = decode(encoded, bytes_max=BYTES_MAX)
    except Malformed:
        return
    assert encode(value) == encoded


@given(values, st.data())
def test_damaged_bytes_raise_only_malformed_or_are_the_one_spelling(value: object, data: st.DataObject) -> None:
    damaged = bytearray(encode(value))  # type: ignore[arg-type]
    position = data.draw(st.integers(0, len(damaged) - 1))
    damaged[position] = data.draw(st.integers(0, 255))
    try:
        again = decode(bytes(damaged), bytes_max=BYTES_MAX)
    except Malformed:
        return
    assert encode(again) == bytes(damaged)


@pytest.mark.parametrize(
    "encoded",
    [
        "",  # nothing
        "0101",  # two values
        "1801",  # an integer with a longer head than it needs
        "580100",  # bytes with a longer head than they need
        "a2616201616102",  # keys out of order
        "a262616101616202",  # longer key before shorter
        "a2616101616102",  # the same key twice
        "a10102",  # a key that is not text
        "fa3f800000",  # a 32-bit float
        "f93c00",  # a 16-bit float
        "fb7ff8000000000000",  # NaN
        "fb7ff0000000000000",  # infinity
        "9fff",  # a list without length
        "f7",  # undefined
        "f820",  # another simple value
        "62fffe",  # text that is not UTF-8
        "63eda080",  # a lone surrogate
        "c101",  # a tag other than 42
        "d82a4100",  # a link without a CID
        "d82a582500" + "00" * 36,  # a link to a CID of version 0
        "d82a582500" + "01551220" + "00" * 32,  # a link to raw bytes
        "d82a582600" + "01711220" + "00" * 33,  # a link one byte too long
        "9b7fffffffffffffff",  # a list longer than the input
        "bb7fffffffffffffff",  # a map longer than the input
        "7bffffffffffffffff",  # a text longer than the input
    ],
)
def test_other_spellings_and_other_types_are_refused(encoded: str) -> None:
    with pytest.raises(Malformed):
        decode(bytes.fromhex(encoded), bytes_max=BYTES_MAX)


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, 2**64, -(2**64) - 1, "\ud800", {1: 2}, (1,), bytearray(1), object()]
)
def test_values_outside_the_data_model_have_no_bytes(value: object) -> None:
    with pytest.raises(Malformed):
        encode(value)  # type: ignore[arg-type]


@pytest.mark.parametrize("head", [b"\x81", b"\xa1\x61a"])
def test_nesting_up_to_the_limit_is_read_and_one_more_is_not(head: bytes) -> None:
    decode(head * DEPTH_MAX + b"\x00", bytes_max=BYTES_MAX)
    with pytest.raises(LimitExceeded) as refused:
        decode(head * (DEPTH_MAX + 1) + b"\x00", bytes_max=BYTES_MAX)
    assert refused.value.limit == "dag_cbor_depth_max"


@pytest.mark.parametrize("head", [b"\x99\x80\x00", b"\xb9\x40\x00", b"\xd8\x2a"])
def test_nested_heads_that_announce_much_are_refused_before_decoding(head: bytes) -> None:
    with pytest.raises(LimitExceeded):
        decode((head * BYTES_MAX)[: BYTES_MAX // 3 * 3], bytes_max=BYTES_MAX)


def test_many_bytes_that_look_like_heads_are_no_nesting() -> None:
    value = [b"\x81" * 3000, "\N{CJK UNIFIED IDEOGRAPH-4E2D}" * 3000, [1, {"a": 2.5}], 300, 70_000, 2**40, True]
    encoded = encode(value)  # type: ignore[arg-type]
    assert len(encoded) > WALK_FREE_BYTES
    assert decode(encoded, bytes_max=BYTES_MAX) == value
    small = encode(b"\x81" * 100)
    assert decode(small, bytes_max=BYTES_MAX) == b"\x81" * 100


@pytest.mark.parametrize("tail", [b"", b"\x5b\x00", b"\x1c", b"\x9f", b"\x78"])
def test_long_input_that_is_cut_short_is_malformed(tail: bytes) -> None:
    whole = encode([b"x" * WALK_FREE_BYTES, 1])
    with pytest.raises(Malformed):
        decode(whole[:-1] + tail, bytes_max=BYTES_MAX)


def test_input_over_the_callers_limit_is_refused() -> None:
    assert decode(b"\x41\x00", bytes_max=2) == b"\x00"
    with pytest.raises(LimitExceeded) as refused:
        decode(b"\x42\x00\x00", bytes_max=2)
    assert refused.value.limit == "dag_cbor_bytes_max"


@given(st.binary(max_size=100))
def test_a_cid_is_read_back_from_its_text(token: bytes) -> None:
    cid = cid_of(token)
    assert len(cid) == CID_BYTES
    assert parse_cid(format_cid(cid)) == cid


@given(st.text(max_size=70) | st.text("abcdefghijklmnopqrstuvwxyz234567", min_size=59, max_size=59))
def test_any_text_as_a_cid_raises_only_malformed(text: str) -> None:
    try:
        cid = parse_cid(text)
    except Malformed:
        return
    assert format_cid(cid) == text


def test_a_cid_has_one_text() -> None:
    text = format_cid(cid_of(b"token"))
    for other in (text.upper(), text + "=", "z" + text[1:], text[:-1] + "7"):
        with pytest.raises(Malformed):
            parse_cid(other)


def test_a_link_is_not_bytes() -> None:
    link = Link(cid_of(b"token"))
    assert link == Link(cid_of(b"token"))
    assert hash(link) == hash(Link(cid_of(b"token")))
    assert link != link.cid
    assert link != Link(cid_of(b"other"))
    assert format_cid(link.cid) in repr(link)
