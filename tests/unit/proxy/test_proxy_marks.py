"""The marks of used permissions: one order, one winner, in every process alike."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomos.errors import MalformedRecord, Unavailable
from nomos_proxy import marks
from nomos_proxy.marks import KEYS_MAX, Marks, encode_keys, parse_keys
from nomos_runtime.topology.streams import NONCE_BYTES_MAX

TTL = 120.0
keys = st.sampled_from([f"k{number}" for number in range(8)])
messages = st.lists(st.lists(keys, max_size=5), max_size=12)


@given(messages)
def test_of_all_messages_that_hold_a_key_the_first_has_it(batches: list[list[str]]) -> None:
    one, other = Marks(TTL), Marks(TTL)
    won: list[str] = []
    for number, batch in enumerate(batches, 1):
        first = one.apply(number, batch, 0.0)
        assert first == other.apply(number, batch, 5.0), "every process decides alike"
        won += [key for key, is_first in zip(batch, first, strict=True) if is_first]
    assert len(won) == len(set(won))
    assert set(won) == {key for batch in batches for key in batch}
    assert all(key in one for key in won)


@given(messages, st.integers(0, 12))
def test_what_is_read_again_changes_nothing(batches: list[list[str]], at: int) -> None:
    straight, again = Marks(TTL), Marks(TTL)
    for number, batch in enumerate(batches, 1):
        first = straight.apply(number, batch, 0.0)
        if number - 1 == at:
            again.read_again()
            for earlier, old in enumerate(batches[:at], 1):
                assert not any(again.apply(earlier, old, 0.0)), "what is known stays known"
        assert again.apply(number, batch, 0.0) == first


def test_a_mark_is_forgotten_when_its_time_is_over_and_not_before() -> None:
    held = Marks(TTL)
    held.apply(1, ["a"], 0.0)
    # A later message with the key does not lengthen its time, and does not end with it.
    assert held.apply(2, ["a", "b"], 60.0) == [False, True]
    held.apply(3, [], TTL - 0.1)
    assert "a" in held
    held.apply(4, [], TTL)
    assert ("a" in held, "b" in held) == (False, True)
    held.apply(5, [], 60.0 + TTL)
    assert len(held) == 0


def test_a_message_out_of_order_is_a_fault() -> None:
    held = Marks(TTL)
    held.apply(7, ["a"], 0.0)
    with pytest.raises(ValueError, match="comes after"):
        held.apply(7, ["b"], 0.0)


def test_more_marks_than_the_limit_are_refused_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(marks, "MARKS_MAX", 3)
    held = Marks(TTL)
    held.apply(1, ["a", "b"], 0.0)
    with pytest.raises(Unavailable, match="MARKS_MAX is 3"):
        held.apply(2, ["c", "d"], 0.0)
    assert (held.read, "c" in held) == (1, False)
    assert held.apply(2, ["c", "d"], TTL) == [True, True]


def test_a_message_is_a_batch_or_the_mark_of_its_subject() -> None:
    assert parse_keys("nonce.w-1", encode_keys(["a", "b"])) == ["a", "b"]
    assert parse_keys("nonce.w-1", encode_keys([])) == []
    assert parse_keys("nonce.bafyabc", b"") == ["bafyabc"]


def test_the_largest_batch_fits_the_streams_message() -> None:
    cid = "b" + "a" * 58
    headers = 64
    assert len(encode_keys([cid] * KEYS_MAX)) + headers <= NONCE_BYTES_MAX


@given(st.binary(min_size=1, max_size=60))
def test_any_message_is_a_mark_or_malformed(payload: bytes) -> None:
    try:
        found = parse_keys("nonce.x", payload)
    except MalformedRecord:
        return
    assert all(isinstance(key, str) for key in found)
