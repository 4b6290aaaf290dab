"""Event-sourced state of a service in Postgres, with an outbox into the journal.

Order of a change, and what a crash between two steps leaves:

1. The events (and sealed records) are committed to Postgres. A crash here: they are stored, unpublished, in effect
   nowhere; the relay of any process of this service publishes them later.
2. They are appended to the journal under the producer ``<service>-outbox`` with their number as counter. A crash here:
   they are appended again with the same counter; the log's writer drops what it has.
3. They are marked published. From here on they are facts: only published events are folded, fed to replicas and
   answered to anyone, so nothing takes effect before it is in the log.

Erasure: an event with a sealed field is stored only while the field's key is; the transaction that stores an erasure
destroys the key (``also``). Both take the row ``head`` first, so no field sealed under a key can follow its erasure. A
tenant that has been erased here gets no event any more.

Trusted: Postgres, for atomicity and durability. An attacker who controls it can take a service's state back or forge
it, but not the log: ``nomos doctor`` compares the two.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import asyncpg
import msgspec
import nats.errors

from nomos.errors import Conflict, JournalUnavailable, Revoked, Unavailable
from nomos.events import Envelope, encode_batch
from nomos.ids import SYSTEM_TENANT, parse_slug
from nomos.log.sealedfield import sealed_fields, subject_of
from nomos_runtime import observe
from nomos_runtime.bus import Bus
from nomos_runtime.database import Database
from nomos_runtime.journal import SUBJECT, encode_event

MIGRATIONS: Final = Path(__file__).parent / "migrations"
RELAY_EVENTS_MAX: Final = 200
#: Name of the sealed record that holds a subject's key, before the subject's id.
SUBJECT_KEY: Final = "subject-key/"
#: The stream whose one event says that the tenant has been erased in this service.
ERASURE_STREAM: Final = "erasure"
RELAY_BYTES_MAX: Final = 700_000

_envelopes = msgspec.msgpack.Decoder(Envelope)


class StoredEvent(msgspec.Struct, frozen=True, kw_only=True):
    """A published event. ``n`` is its number in the service, ``version`` in its stream."""

    n: int
    stream: str
    version: int
    envelope: Envelope


class _Ack(msgspec.Struct):
    stream: str = ""
    seq: int = 0
    error: dict[str, object] | None = None


class EventStore:
    """Append, load and feed the events of one service. All replicas of a service share one store."""

    def __init__(self, database: Database, bus: Bus, *, journal_timeout_ms: int) -> None:
        self._database = database
        self._bus = bus
        self._timeout_ms = journal_timeout_ms
        self.producer = f"{bus.service}-outbox"

    async def append(
        self,
        tenant: str,
        stream: str,
        expected_version: int,
        envelopes: Sequence[Envelope],
        sealed: Mapping[str, bytes] | None = None,
        *,
        also: Callable[[Any], Awaitable[None]] | None = None,
    ) -> None:
        """Appends to ``stream`` if it stands at ``expected_version``; returns when the events are in the journal.

        Args:
            tenant: the tenant, from the subject.
            stream: the aggregate's name inside the tenant.
            expected_version: version that the caller decided on; 0 for a new stream.
            envelopes: at least one event, each of this tenant.
            sealed: sealed records to write in the same transaction, by name.
            also: what else is done in that transaction, with its connection, as this tenant.

        Raises:
            Conflict: the stream has moved, or the key of a sealed field has been destroyed; decide again.
            Revoked: the tenant has been erased here.
            LimitExceeded: an event that the log could not hold; nothing is stored.
            Malformed: ``tenant`` is neither a tenant's name nor the log's own (``_`` of a subject is none).
            JournalUnavailable: stored, but not yet in the journal; it takes effect when the journal is back.
            Unavailable: Postgres does not answer.
        """
        if tenant != SYSTEM_TENANT:
            parse_slug(tenant, "tenant")
        encoded = [encode_event(e) for e in envelopes]
        keys = {SUBJECT_KEY + subject_of(f.dek) for e in envelopes for _, f in sealed_fields(e.type, e.event)}
        try:
            async with self._database.transaction(tenant) as c:
                first = await c.fetchval("UPDATE head SET next = next + $1 RETURNING next - $1", len(envelopes))
                at = await c.fetchval(
                    "SELECT coalesce(max(version), 0) FROM events WHERE tenant = $1 AND stream = $2", tenant, stream
                )
                if at != expected_version:
                    raise Conflict(f"{stream} is at version {at}, expected {expected_version}")
                if await c.fetchval(
                    "SELECT EXISTS (SELECT 1 FROM events WHERE tenant = $1 AND stream = $2)", tenant, ERASURE_STREAM
                ):
                    raise Revoked("this tenant has been erased")
                if also is not None:
                    await also(c)
                if keys:
                    held = "SELECT count(*) FROM sealed WHERE tenant = $1 AND name = ANY($2)"
                    if await c.fetchval(held, tenant, list(keys)) != len(keys):
                        raise Conflict("the key of a sealed field has been destroyed")
                await c.executemany(
                    "INSERT INTO events (n, tenant, stream, version, id, type, envelope) VALUES ($1,$2,$3,$4,$5,$6,$7)",
                    [
                        (first + i, tenant, stream, expected_version + 1 + i, e.id, e.type, encoded[i])
                        for i, e in enumerate(envelopes)
                    ],
                )
                for name, record in (sealed or {}).items():
                    await c.execute(
                        "INSERT INTO sealed (tenant, name, record) VALUES ($1, $2, $3) "
                        "ON CONFLICT (tenant, name) DO UPDATE SET record = excluded.record",
                        tenant,
                        name,
                        record,
                    )
        except asyncpg.UniqueViolationError as e:
            raise Conflict(f"{stream} has moved", cause=str(e)) from e
        await self.relay()

    async def is_waiting(self) -> bool:
        """Whether events are stored that are not published: an append could not, or its process died."""
        async with self._database.transaction(scope="replicate") as c:
            return bool(await c.fetchval("SELECT EXISTS (SELECT 1 FROM events WHERE NOT published)"))

    async def relay(self) -> int:
        """Publishes what waits, in order. Safe in any number of processes at once: the ``head`` row is the lock.

        Returns:
            How many events were published.

        Raises:
            JournalUnavailable: the journal did not confirm; they go on waiting.
        """
        total = 0
        while True:
            async with self._database.transaction(scope="replicate") as c:
                await c.execute("SELECT next FROM head FOR UPDATE")
                rows = await c.fetch(
                    "SELECT n, envelope FROM events WHERE NOT published ORDER BY n LIMIT $1", RELAY_EVENTS_MAX
                )
                if not rows:
                    return total
                batch: list[bytes] = []
                size = 0
                for row in rows:
                    size += len(row["envelope"])
                    if batch and size > RELAY_BYTES_MAX:
                        break
                    batch.append(bytes(row["envelope"]))
                await self._publish(rows[0]["n"], batch)
                await c.execute(
                    "UPDATE events SET published = true WHERE NOT published AND n >= $1 AND n < $2",
                    rows[0]["n"],
                    rows[0]["n"] + len(batch),
                )
                total += len(batch)
            try:
                await self._bus.client.publish(f"feed.{self._bus.service}")
            except nats.errors.Error as e:
                # The change is in the journal. A lost notification costs one poll, not the answer.
                observe.say(self._bus.service, observe.BUS_ERROR, error=repr(e)[:200])

    async def _publish(self, first: int, batch: list[bytes]) -> None:
        payload = encode_batch(self.producer, first, batch)
        # The id names the range: another range from the same first event must not be taken for a duplicate.
        headers = {"Nats-Msg-Id": f"{self.producer}:{first}:{len(batch)}"}
        try:
            ack = msgspec.json.decode(await self._bus.request(SUBJECT, payload, self._timeout_ms, headers), type=_Ack)
        except (Unavailable, msgspec.DecodeError) as e:
            observe.say(self._bus.service, observe.OUTBOX_WAITING, first=first)
            raise JournalUnavailable(
                "the journal did not confirm the change", hint="it is stored and takes effect when the journal is back"
            ) from e
        if ack.error is not None or not ack.seq:
            observe.say(self._bus.service, observe.OUTBOX_WAITING, first=first)
            raise JournalUnavailable("the journal refused the change", cause=str(ack.error))

    async def load(self, tenant: str, stream: str) -> list[StoredEvent]:
        """The published events of one stream of ``tenant``, in order."""
        async with self._database.transaction(tenant) as c:
            rows = await c.fetch(
                "SELECT n, stream, version, envelope FROM events WHERE tenant = $1 AND stream = $2 AND published "
                "ORDER BY version",
                tenant,
                stream,
            )
        return [_stored(r) for r in rows]

    async def load_matching(self, tenant: str, prefix: str) -> list[StoredEvent]:
        """The published events of ``tenant`` whose stream starts with ``prefix``, in order."""
        async with self._database.transaction(tenant) as c:
            rows = await c.fetch(
                "SELECT n, stream, version, envelope FROM events WHERE tenant = $1 AND starts_with(stream, $2) "
                "AND published ORDER BY n",
                tenant,
                prefix,
            )
        return [_stored(r) for r in rows]

    async def sealed(self, tenant: str, name: str) -> bytes | None:
        """The sealed record ``name`` of ``tenant``, or None."""
        async with self._database.transaction(tenant) as c:
            record = await c.fetchval("SELECT record FROM sealed WHERE tenant = $1 AND name = $2", tenant, name)
        return None if record is None else bytes(record)

    async def sealed_names(self, tenant: str, prefix: str) -> list[str]:
        """The names of the sealed records of ``tenant`` that start with ``prefix``, in order."""
        async with self._database.transaction(tenant) as c:
            rows = await c.fetch(
                "SELECT name FROM sealed WHERE tenant = $1 AND starts_with(name, $2) ORDER BY name", tenant, prefix
            )
        return [str(r["name"]) for r in rows]

    async def seal_once(self, tenant: str, name: str, record: bytes) -> bytes:
        """Stores a sealed record unless there is one of this name; gives the one that stands.

        Raises:
            Revoked: the tenant has been erased here.
            Unavailable: Postgres does not answer.
        """
        async with self._database.transaction(tenant) as c:
            # The lock of every append: nothing is sealed behind an erasure that is under way.
            await c.execute("SELECT next FROM head FOR UPDATE")
            if await c.fetchval(
                "SELECT EXISTS (SELECT 1 FROM events WHERE tenant = $1 AND stream = $2)", tenant, ERASURE_STREAM
            ):
                raise Revoked("this tenant has been erased")
            await c.execute(
                "INSERT INTO sealed (tenant, name, record) VALUES ($1, $2, $3) ON CONFLICT (tenant, name) DO NOTHING",
                tenant,
                name,
                record,
            )
            stands = await c.fetchval("SELECT record FROM sealed WHERE tenant = $1 AND name = $2", tenant, name)
        return bytes(stands)

    async def replace_sealed(self, tenant: str, name: str, record: bytes, by: bytes) -> bool:
        """Replaces a sealed record that stands as it was read; False where it was changed or deleted meanwhile."""
        async with self._database.transaction(tenant) as c:
            done = await c.execute(
                "UPDATE sealed SET record = $4 WHERE tenant = $1 AND name = $2 AND record = $3",
                tenant,
                name,
                record,
                by,
            )
        return bool(done == "UPDATE 1")

    async def since(self, n: int, types: Sequence[str], limit: int) -> tuple[list[StoredEvent], int]:
        """Published events of ``types`` from number ``n`` on, over all tenants, and the next number to be published.

        Only for replication to declared readers. Events are published in order, so nothing below the returned
        number can still appear.
        """
        async with self._database.transaction(scope="replicate") as c:
            head = await c.fetchval(
                "SELECT coalesce((SELECT n FROM events WHERE NOT published ORDER BY n LIMIT 1), "
                "(SELECT next FROM head))"
            )
            rows = await c.fetch(
                "SELECT n, stream, version, envelope FROM events WHERE n >= $1 AND n < $2 AND type = ANY($3) "
                "ORDER BY n LIMIT $4",
                n,
                head,
                list(types),
                limit,
            )
        return [_stored(r) for r in rows], head


def _stored(row: Mapping[str, object]) -> StoredEvent:
    envelope = row["envelope"]
    if not isinstance(envelope, bytes | memoryview):
        raise TypeError("events.envelope is bytea")
    return StoredEvent(
        n=int(str(row["n"])),
        stream=str(row["stream"]),
        version=int(str(row["version"])),
        envelope=_envelopes.decode(bytes(envelope)),
    )
