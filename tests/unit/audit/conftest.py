"""Journal messages as services make them, and as nobody should."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest

from nomos.events import Actor, Envelope, encode_batch, encode_envelope
from nomos_audit.batch import Delivery
from nomos_audit.domain import Facts, Proposal, serialise
from nomos_audit.head import Head, empty_head

ORIGIN = "audit.example.com/unit"
SERVICES = {"AP": "policy", "AM": "minting", "AA": "audit"}


def envelope(number: int = 0, tenant: str = "acme", **changes: Any) -> Envelope:
    made = Envelope(
        id=f"ev_{number:032x}",
        type="test.decision",
        tenant=tenant,
        actor=Actor(kind="agent", id="bot"),
        corr="rq_1",
        cause="",
        event={"number": number, "effect": "allow"},
    )
    return msgspec.structs.replace(made, **changes)


def payload(producer: str, first: int, events: Sequence[Envelope | bytes]) -> bytes:
    return encode_batch(producer, first, [e if isinstance(e, bytes) else encode_envelope(e) for e in events])


class Journal:
    """What the stream INTAKE would hold."""

    origin = ORIGIN
    facts = Facts(now=1_795_305_600_000_000, writer="w1", services=SERVICES)
    envelope = staticmethod(envelope)
    payload = staticmethod(payload)

    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []

    def put(self, producer: str, first: int, count: int = 1, *, account: str = "AP", tenant: str = "acme") -> Delivery:
        return self.put_events(
            producer, first, [envelope(first + i, tenant=tenant) for i in range(count)], account=account
        )

    def put_events(
        self, producer: str, first: int, events: Sequence[Envelope | bytes], *, account: str = "AP"
    ) -> Delivery:
        return self.put_bytes(payload(producer, first, events), account=account)

    def put_bytes(self, encoded: bytes, *, account: str = "AP") -> Delivery:
        self.deliveries.append(Delivery(len(self.deliveries) + 1, account, encoded))
        return self.deliveries[-1]

    def serialise(self, head: Head | None = None, **more: Any) -> Proposal:
        return serialise(head or empty_head(ORIGIN), self.deliveries, self.facts, **more)


@pytest.fixture
def journal() -> Journal:
    return Journal()


@pytest.fixture(scope="session")
def new_journal() -> Callable[[], Journal]:
    return Journal
