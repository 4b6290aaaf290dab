"""The event store on a real Postgres and a real journal: compare-and-set, outbox over crashes, tenants' wall."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import msgspec
import pytest

from nomos.errors import Conflict, JournalUnavailable, LimitExceeded, Misconfigured
from nomos.events import Actor, Envelope
from nomos.ids import new_id
from nomos_runtime.bus import Bus
from nomos_runtime.database import Database
from nomos_runtime.eventstore import MIGRATIONS, EventStore

_envelope = msgspec.msgpack.Decoder(Envelope)
OWNER = "stepup"


def event(number: int = 0, tenant: str = "acme") -> Envelope:
    return Envelope(
        id=new_id("ev"), type="test.made", tenant=tenant, actor=Actor(kind="service", id=OWNER), corr="", cause="",
        event={"number": number},
    )  # fmt: skip


class Store:
    """One process's view of the store: its own bus connection and pool."""

    def __init__(self, bus: Bus, database: Database) -> None:
        self.bus, self.database = bus, database
        self.store = EventStore(database, bus, journal_timeout_ms=500)

    @classmethod
    async def open(cls, servers: Any) -> Store:
        url = servers.local.environment(OWNER)["NOMOS_DATABASE_URL"]
        bus = await Bus.connect(service=OWNER, url=servers.local.nats.url, creds=servers.creds(OWNER))
        database = await Database.open(OWNER, url)
        await database.migrate(MIGRATIONS)
        return cls(bus, database)

    async def close(self) -> None:
        await self.bus.close()
        await self.database.close()


@pytest.fixture
async def opened(servers: Any) -> AsyncIterator[Store]:
    if not servers.local.nats.running:
        servers.start_nats()
    await servers.purge()
    made = await Store.open(servers)
    await made.store.relay()
    yield made
    await made.close()


async def numbers(servers: Any, store: EventStore) -> list[int]:
    """Counters of the outbox in the journal, in order, as often as they stand there."""
    return [b.n + i for b in await servers.batches(store.producer) for i in range(len(b.e))]


async def test_a_stream_is_appended_to_at_its_version_only(servers: Any, opened: Store) -> None:
    store, name = opened.store, new_id("s")
    await store.append("acme", name, 0, [event(1), event(2)])
    for version in (0, 1, 3, -1):
        with pytest.raises(Conflict):
            await store.append("acme", name, version, [event(9)])
    await store.append("acme", name, 2, [event(3)])
    stored = await store.load("acme", name)
    assert [s.version for s in stored] == [1, 2, 3]
    assert [s.envelope.event["number"] for s in stored] == [1, 2, 3]
    found = await numbers(servers, store)
    assert found == list(range(found[0], found[0] + 3)), "a conflict left a gap in the counters"


async def test_of_many_writers_at_one_version_one_wins(opened: Store) -> None:
    name = new_id("s")
    done = await asyncio.gather(
        *(opened.store.append("acme", name, 0, [event(i)]) for i in range(12)), return_exceptions=True
    )
    assert sorted(type(d).__name__ for d in done) == [*["Conflict"] * 11, "NoneType"]
    assert len(await opened.store.load("acme", name)) == 1


async def test_a_sealed_record_is_written_with_its_event_or_not_at_all(opened: Store) -> None:
    store, name = opened.store, new_id("s")
    await store.append("acme", name, 0, [event()], {name: b"sealed"})
    with pytest.raises(Conflict):
        await store.append("acme", name, 0, [event()], {name: b"other"})
    assert await store.sealed("acme", name) == b"sealed"
    assert await store.sealed("beta", name) is None


async def test_of_many_who_seal_one_name_at_once_one_record_stands_and_all_are_given_it(opened: Store) -> None:
    store, name = opened.store, new_id("s")
    given = await asyncio.gather(*(store.seal_once("acme", name, bytes([n]) * 9) for n in range(8)))
    assert len(set(given)) == 1
    assert await store.sealed("acme", name) == given[0]
    assert await store.seal_once("acme", name, b"later") == given[0]
    assert await store.sealed("globex", name) is None


async def test_an_event_that_the_log_cannot_hold_is_not_stored(opened: Store) -> None:
    name = new_id("s")
    large = msgspec.structs.replace(event(), event={"text": "x" * 60_000})
    with pytest.raises(LimitExceeded):
        await opened.store.append("acme", name, 0, [large])
    await opened.store.append("acme", name, 0, [event()])


async def test_what_is_not_in_the_journal_has_no_effect_anywhere_until_it_is(servers: Any, opened: Store) -> None:
    """The crash between commit and relay: the journal is away when the transaction commits."""
    store, name = opened.store, new_id("s")
    await store.append("acme", name, 0, [event(1)])
    _, head = await store.since(0, ["test.made"], 10_000)
    servers.kill_nats()
    with pytest.raises(JournalUnavailable):
        await store.append("acme", name, 1, [event(2)])
    assert [s.version for s in await store.load("acme", name)] == [1]
    assert [s.version for s in await store.load_matching("acme", name)] == [1]
    visible, head_now = await store.since(head - 1, ["test.made"], 10_000)
    assert head_now == head
    assert [s.envelope.event["number"] for s in visible] == [1]
    # It is stored all the same: its place is taken.
    with pytest.raises(Conflict):
        await store.append("acme", name, 1, [event(3)])
    servers.start_nats()
    successor = await Store.open(servers)
    try:
        # The dead process's successor publishes it; a message that the server did take is a duplicate there.
        async def relayed() -> bool:
            try:
                await successor.store.relay()
            except JournalUnavailable:
                return False
            return True

        await servers.until(relayed, "the outbox to be published")
        assert [s.version for s in await successor.store.load("acme", name)] == [1, 2]
        visible, _ = await successor.store.since(head, ["test.made"], 10_000)
        assert [s.envelope.event["number"] for s in visible] == [2]
    finally:
        await successor.close()
    found = await numbers(servers, store)
    assert found == list(range(found[0], found[0] + len(found)))


async def test_two_relays_at_once_publish_each_event_once_and_in_order(servers: Any, opened: Store) -> None:
    store = opened.store
    async with opened.database.transaction("acme") as c:
        first = await c.fetchval("UPDATE head SET next = next + 450 RETURNING next - 450")
        await c.executemany(
            "INSERT INTO events (n, tenant, stream, version, id, type, envelope) VALUES ($1,$2,$3,$4,$5,$6,$7)",
            [
                (first + i, "acme", f"bulk-{first}", i + 1, new_id("ev"), "test.made", msgspec.msgpack.encode(event(i)))
                for i in range(450)
            ],
        )
    others = [await Store.open(servers) for _ in range(2)]
    try:
        counts = await asyncio.gather(store.relay(), *(o.store.relay() for o in others))
    finally:
        for other in others:
            await other.close()
    assert sum(counts) == 450
    assert await numbers(servers, store) == list(range(first, first + 450))
    assert len(await store.load("acme", f"bulk-{first}")) == 450


async def test_a_change_is_fed_in_order_and_never_behind_a_reader(opened: Store) -> None:
    """Readers ask while writers write: whoever has read up to the head never misses an event below it."""
    store, name, seen = opened.store, new_id("s"), []
    _, at = await store.since(0, [], 1)
    start = at

    async def read() -> None:
        nonlocal at
        while len(seen) < 60:
            events, head = await store.since(at, ["test.made"], 7)
            complete = len(events) < 7
            seen.extend(e.n for e in events)
            at = head if complete else events[-1].n + 1
            await asyncio.sleep(0)

    async def write(i: int) -> None:
        await store.append("acme", f"{name}-{i}", 0, [event(i)])

    await asyncio.wait_for(asyncio.gather(read(), *(write(i) for i in range(60))), 30)
    assert seen == list(range(start, start + 60))


async def test_the_tenants_wall_holds_in_every_table(opened: Store) -> None:
    name = new_id("s")
    await opened.store.append("acme", name, 0, [event()], {name: b"sealed"})
    for tenant in ("beta", None):
        async with opened.database.transaction(tenant) as c:
            for table in ("events", "sealed"):
                assert await c.fetchval(f"SELECT count(*) FROM {table} WHERE tenant = 'acme'") == 0
                assert await c.execute(f"DELETE FROM {table} WHERE tenant = 'acme'") == "DELETE 0"
            assert await c.execute("UPDATE events SET published = false WHERE tenant = 'acme'") == "UPDATE 0"
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with opened.database.transaction(tenant) as c:
                await c.execute("INSERT INTO sealed VALUES ('acme', 'planted', 'x')")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with opened.database.transaction(tenant) as c:
                await c.execute(
                    "INSERT INTO events (n, tenant, stream, version, id, type, envelope) "
                    "VALUES (-1, 'acme', 's', 1, 'e', 't', 'x')"
                )


async def test_replication_reads_events_and_nothing_else(opened: Store) -> None:
    name = new_id("s")
    await opened.store.append("acme", name, 0, [event()], {name: b"sealed"})
    async with opened.database.transaction(scope="replicate") as c:
        assert await c.fetchval("SELECT count(*) FROM events WHERE stream = $1", name) == 1
        assert await c.fetchval("SELECT count(*) FROM sealed") == 0
        assert await c.execute("DELETE FROM events") == "DELETE 0"
    for statement in (
        "UPDATE events SET published = false",
        "INSERT INTO events (n, tenant, stream, version, id, type, envelope) VALUES (-1, 'acme', 's', 1, 'e', 't', '')",
        "INSERT INTO sealed VALUES ('acme', 'planted', 'x')",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with opened.database.transaction(scope="replicate") as c:
                await c.execute(statement)


async def test_a_tenant_stays_set_for_its_transaction_only(opened: Store) -> None:
    async with opened.database.transaction("acme") as c:
        assert await c.fetchval("SELECT current_setting('nomos.tenant')") == "acme"
    for _ in range(10):
        async with opened.database.transaction() as c:
            assert await c.fetchval("SELECT current_setting('nomos.tenant', true)") in ("", None)


async def test_a_migration_runs_once_and_must_not_change(opened: Store, tmp_path: Any) -> None:
    folder = tmp_path / "owner" / "migrations"
    folder.mkdir(parents=True)
    path = folder / f"0001_{new_id('m')}.sql"
    path.write_text("SELECT 1;")
    assert await opened.database.migrate(MIGRATIONS, folder) == 1
    assert sum(await asyncio.gather(*(opened.database.migrate(MIGRATIONS, folder) for _ in range(3)))) == 0
    path.write_text("SELECT 2;")
    with pytest.raises(Misconfigured):
        await opened.database.migrate(folder)
