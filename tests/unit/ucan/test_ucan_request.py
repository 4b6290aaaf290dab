"""The request digest and the arguments that may enter it."""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomos.errors import LimitExceeded, Malformed, NomosError, Refused, ReservedKey
from nomos.request import (
    ARGS_BYTES_MAX,
    ARGS_DEPTH_MAX,
    INTEGER_MAX,
    RESERVED_KEYS,
    check_args,
    command_of,
    request_digest,
)
from nomos.ucan import dagcbor

ACTION, RESOURCE = "github:issues.list", "github:repo/acme/site"

clean = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=10)
keys = clean.filter(lambda key: key not in RESERVED_KEYS)
scalars = st.none() | st.booleans() | st.integers(-INTEGER_MAX, INTEGER_MAX) | clean
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4), max_leaves=15
)
args = st.dictionaries(keys, values, max_size=5)
#: Also what a hostile caller may send through a decoder that allows more.
anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters())
    | st.binary(max_size=5)
    | st.just("__extn"),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(max_size=5) | st.sampled_from(sorted(RESERVED_KEYS)) | st.integers(), inner, max_size=4
        )
        | st.tuples(inner)
    ),
    max_leaves=15,
)


def _nested(depth: int) -> dict[str, object]:
    value: object = 1
    for _ in range(depth - 1):
        value = [value]
    return {"a": value}


@given(args)
def test_checked_arguments_survive_dag_cbor_and_their_digest_is_stable(value: dict[str, object]) -> None:
    checked = check_args(value)
    assert checked is value
    assert dagcbor.decode(dagcbor.encode(checked), bytes_max=ARGS_BYTES_MAX) == value
    reordered = dict(reversed(value.items()))
    assert request_digest(ACTION, RESOURCE, reordered) == request_digest(ACTION, RESOURCE, value)


@given(args, args)
def test_different_arguments_have_different_digests(one: dict[str, object], other: dict[str, object]) -> None:
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (request_digest(ACTION, RESOURCE, one) == request_digest(ACTION, RESOURCE, other)) is same


@given(anything)
def test_any_value_raises_only_malformed_or_reserved_key(value: object) -> None:
    try:
        check_args(value)
    except NomosError as error:
        assert isinstance(error, Malformed | ReservedKey)
    try:
        request_digest(ACTION, RESOURCE, {"inner": value})
    except NomosError as error:
        assert isinstance(error, Malformed | ReservedKey)


def test_the_digest_is_the_documented_hash() -> None:
    encoded = bytes.fromhex("a4") + b"\x64args\xa1\x64page\x02" + b"\x66action\x72" + ACTION.encode()
    encoded += b"\x68resource\x75" + RESOURCE.encode() + b"\x6aconnection\x60"
    assert request_digest(ACTION, RESOURCE, {"page": 2}) == hashlib.sha256(b"nomos-request-v1\0" + encoded).digest()


def test_true_and_one_are_different_requests() -> None:
    assert request_digest(ACTION, RESOURCE, {"a": True}) != request_digest(ACTION, RESOURCE, {"a": 1})


@pytest.mark.parametrize("key", sorted(RESERVED_KEYS))
def test_reserved_keys_are_refused_at_any_depth(key: str) -> None:
    for value in ({key: 1}, {"a": {key: 1}}, {"a": [[{"b": {key: None}}]]}):
        with pytest.raises(ReservedKey):
            check_args(value)
        with pytest.raises(Refused):
            request_digest(ACTION, RESOURCE, value)
    assert check_args({"a": key}) == {"a": key}


@pytest.mark.parametrize(
    "value",
    [
        {"a": 1.0},
        {"a": float("nan")},
        {"a": b"bytes"},
        {"a": (1,)},
        {"a": {1: 2}},
        {"a": "x\0y"},
        {"x\0y": 1},
        {"a": "\ud800"},
        {"\udfff": 1},
        {"a": INTEGER_MAX + 1},
        {"a": -INTEGER_MAX - 1},
        {"a": object()},
        [],
        None,
        "text",
    ],
)
def test_values_that_are_no_arguments_are_malformed(value: object) -> None:
    with pytest.raises(Malformed):
        check_args(value)


def test_arguments_over_a_limit_are_refused_by_the_limits_name() -> None:
    check_args(_nested(ARGS_DEPTH_MAX))
    with pytest.raises(LimitExceeded) as deep:
        check_args(_nested(ARGS_DEPTH_MAX + 1))
    assert deep.value.limit == "args_depth_max"
    check_args({"a": "x" * (ARGS_BYTES_MAX - 6)})
    with pytest.raises(LimitExceeded) as large:
        check_args({"a": "x" * (ARGS_BYTES_MAX - 5)})
    assert large.value.limit == "args_bytes_max"
    with pytest.raises(LimitExceeded) as many:
        check_args({"a": [None] * ARGS_BYTES_MAX})
    assert many.value.limit == "args_values_max"


@pytest.mark.parametrize(
    ("action", "resource"),
    [
        ("", RESOURCE),
        (ACTION, ""),
        ("a\0", RESOURCE),
        ("\ud800", RESOURCE),
        ("a" * 129, RESOURCE),
        (ACTION, "r" * 1025),
    ],
)
def test_actions_and_resources_must_be_clean_text_of_bounded_length(action: str, resource: str) -> None:
    with pytest.raises(Malformed):
        request_digest(action, resource, {})


def test_the_command_of_an_action_has_a_segment_for_each_name() -> None:
    assert command_of("github:issues.list") == "/github/issues/list"
