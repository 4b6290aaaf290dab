"""What the readers of one process share is what each would have found by itself."""

from __future__ import annotations

import hashlib

import pytest

from nomos.errors import RolledBack
from nomos.events import Actor, Envelope, encode_batch, encode_envelope
from nomos_audit.batch import Delivery
from nomos_audit.block import encode_block
from nomos_audit.domain import Facts, serialise
from nomos_audit.follow import VERIFIED_MAX, _Verified
from nomos_audit.head import empty_head
from nomos_audit.replay import Position, start_of, verify_block

ORIGIN = "audit.example.com/test"


def _blocks(count: int) -> list[bytes]:
    head, found = empty_head(ORIGIN), []
    for n in range(count):
        event = Envelope(
            id=f"ev_{n:032x}", type="test.decision", tenant="acme", actor=Actor(kind="agent", id="bot"), corr="",
            cause="", event={"n": n},
        )  # fmt: skip
        batch = encode_batch("policy-1", n, [encode_envelope(event)])
        proposal = serialise(
            head,
            [Delivery(n + 1, "policy", batch)],
            Facts(now=1_800_000_000_000_000 + n, writer="w", services={"policy": "policy"}),
        )
        found.append(encode_block(proposal.block))
        head = proposal.head
    return found


def test_a_block_that_was_verified_is_the_same_block() -> None:
    shared, position = _Verified(), start_of(ORIGIN)
    for seq, payload in enumerate(_blocks(VERIFIED_MAX + 3), 1):
        first, second = (shared.verify(position, seq, payload) for _ in range(2))
        assert first == second == verify_block(position, seq, payload)
        position = first.after


def test_other_bytes_at_a_known_place_are_verified_and_refused() -> None:
    shared, [payload, *_] = _Verified(), _blocks(1)
    shared.verify(start_of(ORIGIN), 1, payload)
    with pytest.raises(RolledBack):
        shared.verify(start_of(ORIGIN), 1, payload.replace(b"acme", b"evil"))


def test_a_known_block_after_another_position_is_verified_and_refused() -> None:
    shared, [payload, *_] = _Verified(), _blocks(1)
    shared.verify(start_of(ORIGIN), 1, payload)
    elsewhere = Position(block=0, size=0, hash=hashlib.sha256(b"another history").digest())
    with pytest.raises(RolledBack):
        shared.verify(elsewhere, 1, payload)
