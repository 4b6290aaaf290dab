"""Serialisation: which records a journal message becomes, and what the head is afterwards. Pure.

Rules, in order:

1. A journal message at or before the head's position is consumed already: nothing.
2. A hole in the journal's sequence becomes ``audit.gap``.
3. A message that is no batch, or whose emitter is not known, becomes one ``audit.poison``.
4. An event whose producer counter is below the producer's next one is chained already (a producer that repeated its
   message beyond the stream's deduplication window): nothing.
5. A producer counter above the next one becomes ``audit.gap``; the event follows.
6. An event that cannot be a record becomes ``audit.poison`` in its place, with its producer's counter.
7. Anything else becomes its record. Nothing is dropped silently and nothing blocks what comes after it.

A message that does not fit into the block as a whole is left for the next block: the position stays before it, and
rule 4 skips the part that is chained. So the head needs no "half of a message".

Records of the log's own (gap, poison of a whole message) have no producer and no source: what they speak of stands in
their event. Durability and races are the business of :mod:`nomos_audit.writer`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

from msgspec import Raw

from nomos.errors import Malformed, NotPermitted
from nomos.events import Batch
from nomos.ids import SYSTEM_TENANT
from nomos.log.chain import link
from nomos.log.record import RECORD_VERSION, canonical_record, format_ts
from nomos.log.tree import CompactRange
from nomos_audit.batch import Delivery, StrictEnvelope, parse_batch, parse_envelope
from nomos_audit.block import BLOCK_RECORDS_BYTES_MAX, BLOCK_VERSION, SNAPSHOT_ENTRIES_MAX, Block
from nomos_audit.head import NEW_TENANT, Head, ProducerHead, TenantHead, forget_oldest, producer_name

JOURNAL: Final = "INTAKE"
GAP: Final = "audit.gap"
POISON: Final = "audit.poison"
#: Emitter of a message whose account is not in the directory of services.
UNKNOWN_SERVICE: Final = "unknown"
SYSTEM_ACTOR: Final = {"kind": "system", "id": "audit"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What the world contributes: the time, this writer's name, and which account is which service.

    Attributes:
        now: microseconds since 1970, UTC; becomes ``ts`` and never gives an order.
        writer: id of this process.
        services: account as the server stamps it -> service name.
    """

    now: int
    writer: str
    services: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """What is still to be written of a snapshot of heads that began (or begins) at block ``start``."""

    start: int
    tenants: tuple[str, ...]
    producers: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A block that wants to be appended after ``head.block - 1``, and the head if it is.

    Attributes:
        block: the block.
        head: the head after it.
        taken: how many of the deliveries are consumed as a whole.
        repeated: events that were chained before.
        poisoned: poison records in the block.
        snapshot: what is left of the snapshot, or None.
    """

    block: Block
    head: Head
    taken: int
    repeated: int
    poisoned: int
    snapshot: Snapshot | None


def begin_snapshot(head: Head) -> Snapshot:
    """A snapshot that begins with the block after ``head``."""
    return Snapshot(start=head.block + 1, tenants=tuple(head.tenants), producers=tuple(head.producers))


def serialise(
    head: Head,
    deliveries: Sequence[Delivery],
    facts: Facts,
    *,
    snapshot: Snapshot | None = None,
    bytes_max: int = BLOCK_RECORDS_BYTES_MAX,
) -> Proposal:
    """The block that follows ``head`` when ``deliveries`` are consumed in order, as many as fit.

    Args:
        head: where the chain stands.
        deliveries: journal messages in order of sequence; at least one.
        facts: time, writer, services.
        snapshot: a snapshot of heads to go on with in this block.
        bytes_max: bound of the records' bytes; a single record may be larger.
    """
    draft = Draft(head, facts, bytes_max)
    taken = 0
    for delivery in deliveries:
        if not draft.consume(delivery):
            break
        taken += 1
    return draft.close(taken, snapshot)


class Draft:
    """A block under construction, for whoever wants to do something else between two messages."""

    def __init__(self, head: Head, facts: Facts, bytes_max: int = BLOCK_RECORDS_BYTES_MAX) -> None:
        """As for :func:`serialise`."""
        self._head = head
        self._facts = facts
        self._ts = format_ts(facts.now)
        self._bytes_max = bytes_max
        self._bytes = 0
        self._records: list[bytes] = []
        self._hashes: list[bytes] = []
        self._hash = head.hash
        self._intake = head.intake
        self._tenants: dict[str, TenantHead] = {}
        # In order of their last record: a producer that speaks again is taken out and put in at the end.
        self._producers: dict[str, ProducerHead] = {}
        self._repeated = 0
        self._poisoned = 0

    def __len__(self) -> int:
        """Records so far."""
        return len(self._records)

    def consume(self, delivery: Delivery) -> bool:
        """Adds one journal message; False if (the rest of) it must wait for the next block."""
        if delivery.seq <= self._intake:
            return True
        if self._is_full():
            return False
        if delivery.seq > self._intake + 1:
            self._own(GAP, {"kind": "journal", "stream": JOURNAL, "first": self._intake + 1, "last": delivery.seq - 1})
            self._intake = delivery.seq - 1
        service = self._facts.services.get(delivery.account)
        if service is None:
            self._own_poison(delivery, UNKNOWN_SERVICE, "unknown_emitter", "no service has this account")
            return True
        try:
            batch = parse_batch(delivery.payload)
        except Malformed as error:
            self._own_poison(delivery, service, error.code, error.detail)
            return True
        if not self._consume_events(delivery.seq, batch, service):
            return False
        self._intake = delivery.seq
        return True

    def _consume_events(self, seq: int, batch: Batch, service: str) -> bool:
        name = producer_name(service, batch.p)
        known = self._producers.get(name) or self._head.producers.get(name)
        expected = known.next if known is not None else 0
        for index, encoded in enumerate(batch.e):
            counter = batch.n + index
            if counter < expected:
                self._repeated += 1
                continue
            if self._is_full():
                return False
            if counter > expected:
                gap = {"kind": "producer", "producer": batch.p, "svc": service, "known": known is not None}
                self._own(GAP, {**gap, "first": expected, "last": counter - 1})
            source = {"i": index, "q": seq, "s": JOURNAL}
            counted = {"id": batch.p, "n": counter, "svc": service}
            self._add_event(encoded, service, counted, source)
            expected = counter + 1
            self._producers.pop(name, None)
            self._producers[name] = ProducerHead(expected, self._head.size + len(self._records) - 1)
        return True

    def _add_event(self, encoded: Raw, service: str, counted: dict[str, Any], source: dict[str, Any]) -> None:
        try:
            self._add(_members(parse_envelope(encoded, service)), counted, source)
        except (Malformed, NotPermitted) as error:
            self._poisoned += 1
            told = _poison(bytes(encoded), service, error.code, error.detail)
            self._add(self._own_members(POISON, told), counted, source)

    def _own_poison(self, delivery: Delivery, service: str, code: str, detail: str) -> None:
        self._poisoned += 1
        told = _poison(delivery.payload, service, code, detail)
        self._own(POISON, {**told, "account": delivery.account[:64], "stream": JOURNAL, "position": delivery.seq})
        self._intake = delivery.seq

    def _own(self, kind: str, event: dict[str, Any]) -> None:
        self._add(self._own_members(kind, event), None, None)

    def _own_members(self, kind: str, event: dict[str, Any]) -> dict[str, Any]:
        seq = self._head.size + len(self._records)
        # Derived, not random: a replay of the same journal by another writer gives the same id.
        made = sha256(f"{self._head.origin}\n{seq}".encode()).hexdigest()[:32]
        return {
            "actor": SYSTEM_ACTOR,
            "cause": "",
            "corr": "",
            "event": event,
            "id": f"ev_{made}",
            "tenant": SYSTEM_TENANT,
            "type": kind,
        }

    def _add(self, members: dict[str, Any], counted: dict[str, Any] | None, source: dict[str, Any] | None) -> None:
        """Chains one record.

        Raises:
            MalformedRecord: the members have no canonical form; nothing has changed.
            LimitExceeded: likewise.
        """
        tenant: str = members["tenant"]
        before = self._tenants.get(tenant) or self._head.tenants.get(tenant, NEW_TENANT)
        seq = self._head.size + len(self._records)
        members |= {
            "pc": counted,
            "seq": seq,
            "src": source,
            "tprev": before.hash,
            "ts": self._ts,
            "tseq": before.next,
            "v": RECORD_VERSION,
        }
        record = canonical_record(members)
        self._hash = link(self._hash, record)
        self._records.append(record)
        self._hashes.append(self._hash)
        self._bytes += len(record)
        self._tenants[tenant] = TenantHead(before.next + 1, self._hash.hex())

    def _is_full(self) -> bool:
        return self._bytes >= self._bytes_max

    def close(self, taken: int, snapshot: Snapshot | None, following: str = "") -> Proposal:
        """The block, and the head after it, when ``taken`` messages were consumed as a whole.

        Args:
            taken: number of messages.
            snapshot: a snapshot of heads to go on with in this block.
            following: the stream of the next block, where this one ends a segment.
        """
        before = self._head
        tree = CompactRange.from_hashes(before.size, before.range)
        tree.extend(self._hashes)
        tenants = {**before.tenants, **self._tenants}
        producers = {name: one for name, one in before.producers.items() if name not in self._producers}
        producers |= self._producers
        forget_oldest(producers)
        heads, counters, left = _snapshot_part(snapshot, tenants, producers)
        heads_at = snapshot.start if snapshot is not None and left is None else before.heads_at
        block = Block(
            v=BLOCK_VERSION,
            first=before.size,
            prev=before.hash,
            records=self._records,
            head=self._hash,
            intake=self._intake,
            range=tree.hashes(),
            heads_at=heads_at,
            heads=heads,
            producers=counters,
            writer=self._facts.writer,
            next=following,
        )
        after = Head(
            origin=before.origin,
            block=before.block + 1,
            size=before.size + len(self._records),
            hash=self._hash,
            intake=self._intake,
            range=tuple(block.range),
            tenants=tenants,
            producers=producers,
            heads_at=heads_at,
        )
        return Proposal(
            block=block,
            head=after,
            taken=taken,
            repeated=self._repeated,
            poisoned=self._poisoned,
            snapshot=left,
        )


def _members(event: StrictEnvelope) -> dict[str, Any]:
    return {
        "actor": {"id": event.actor.id, "kind": event.actor.kind},
        "cause": event.cause,
        "corr": event.corr,
        "event": event.event,
        "id": event.id,
        "tenant": event.tenant,
        "type": event.type,
    }


def _poison(encoded: bytes, service: str, code: str, detail: str) -> dict[str, Any]:
    return {
        "detail": detail,
        "reason": code,
        "sha256": sha256(encoded).hexdigest(),
        "size": len(encoded),
        "svc": service,
    }


def _snapshot_part(
    snapshot: Snapshot | None, tenants: Mapping[str, TenantHead], producers: Mapping[str, ProducerHead]
) -> tuple[dict[str, tuple[int, str]] | None, dict[str, tuple[int, int]] | None, Snapshot | None]:
    """This block's part of the snapshot, with the values after this block, and what is left."""
    if snapshot is None:
        return None, None, None
    cut = SNAPSHOT_ENTRIES_MAX
    heads: dict[str, tuple[int, str]] = {one: tenants[one] for one in snapshot.tenants[:cut]}
    # A producer may have been forgotten since the snapshot began.
    counters: dict[str, tuple[int, int]] = {one: producers[one] for one in snapshot.producers[:cut] if one in producers}
    left = Snapshot(start=snapshot.start, tenants=snapshot.tenants[cut:], producers=snapshot.producers[cut:])
    return heads, counters, left if left.tenants or left.producers else None
