"""Facts between services: notified at once, polled otherwise, fresh only while the owner says so."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from nomos.events import Actor, Envelope
from nomos.ids import new_id
from nomos.messages import Authorize
from nomos.servicemessages import Fact, FeedRequest
from nomos_runtime.bus import Bus
from nomos_runtime.database import Database
from nomos_runtime.eventstore import MIGRATIONS, EventStore
from nomos_runtime.feed import FACTS_MAX, Follower, serve_feed, start_all
from nomos_runtime.peers import reader_tokens

OWNER, READER = "identity", "policy"
NEVER_MS = 600_000


def event(number: int, kind: str = "test.fact") -> Envelope:
    return Envelope(
        id=new_id("ev"), type=kind, tenant="acme", actor=Actor(kind="service", id=OWNER), corr="", cause="",
        event={"number": number},
    )  # fmt: skip


class Owner:
    """The owner of facts: store and feed, as a service has them."""

    def __init__(self, servers: Any) -> None:
        self.servers = servers
        self.env = servers.local.environment(OWNER)
        self.bus: Bus
        self.store: EventStore
        self.database: Database

    async def start(self) -> None:
        self.bus = await Bus.connect(service=OWNER, url=self.env["NOMOS_BUS_URL"], creds=self.env["NOMOS_BUS_CREDS"])
        self.database = await Database.open(OWNER, self.env["NOMOS_DATABASE_URL"])
        await self.database.migrate(MIGRATIONS)
        self.store = EventStore(self.database, self.bus, journal_timeout_ms=2_000)
        await serve_feed(self.bus, self.store, dict.fromkeys(reader_tokens(OWNER, self.env), ("test.fact",)))
        await self.bus.flush()

    async def stop(self) -> None:
        await self.bus.close()
        await self.database.close()

    async def put(self, *numbers: int, kind: str = "test.fact") -> None:
        await self.store.append("acme", new_id("s"), 0, [event(n, kind) for n in numbers])

    async def put_silently(self, *numbers: int) -> None:
        """As if the notification was lost: published, and nobody was told."""
        async with self.database.transaction("acme") as c:
            first = await c.fetchval("UPDATE head SET next = next + $1 RETURNING next - $1", len(numbers))
            stream = new_id("s")
            for i, number in enumerate(numbers):
                await c.execute(
                    "INSERT INTO events (n, tenant, stream, version, id, type, envelope, published) "
                    "VALUES ($1, 'acme', $2, $3, $4, 'test.fact', $5, true)",
                    first + i, stream, i + 1, new_id("ev"), msgspec.msgpack.encode(event(number)),
                )  # fmt: skip


class Reader:
    """A replica."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.numbers: list[int] = []
        self.follower: Follower

    def apply(self, fact: Fact) -> None:
        self.numbers.append(int(str(fact.event["number"])))

    async def follow(self, *, poll_ms: int = NEVER_MS, fresh_ms: int = NEVER_MS) -> Reader:
        self.follower = Follower(self.bus, OWNER, self.apply, poll_ms=poll_ms, fresh_ms=fresh_ms, timeout_ms=1_000)
        await start_all([self.follower], 10)
        await self.bus.flush()
        self.numbers.clear()
        return self


@pytest.fixture
async def owner(servers: Any) -> AsyncIterator[Owner]:
    if not servers.local.nats.running:
        servers.start_nats()
    await servers.purge()
    made = Owner(servers)
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
async def reader(servers: Any, owner: Owner) -> AsyncIterator[Reader]:
    made = Reader(await Bus.connect(service=READER, url=servers.local.nats.url, creds=servers.creds(READER)))
    yield made
    await made.follower.stop()
    await made.bus.close()


async def test_a_notified_replica_does_not_wait_for_its_next_poll(servers: Any, owner: Owner, reader: Reader) -> None:
    await reader.follow(poll_ms=NEVER_MS)
    await owner.put(1, 2)
    await servers.until(lambda: reader.numbers == [1, 2], "the notified facts")


async def test_a_lost_notification_costs_one_poll(servers: Any, owner: Owner, reader: Reader) -> None:
    await reader.follow(poll_ms=100)
    await owner.put_silently(1, 2)
    await servers.until(lambda: reader.numbers == [1, 2], "the polled facts")


async def test_a_replica_hears_only_the_types_that_it_may_have(servers: Any, owner: Owner, reader: Reader) -> None:
    await reader.follow(poll_ms=100)
    await owner.put(1, kind="test.secret")
    await owner.put(2)
    await servers.until(lambda: reader.numbers == [2], "its own facts")


async def test_a_long_history_comes_whole_once_and_in_order(servers: Any, owner: Owner, reader: Reader) -> None:
    await reader.follow(poll_ms=NEVER_MS)
    numbers = list(range(2 * FACTS_MAX + 3))
    await owner.put_silently(*numbers)
    await reader.follower.refresh()
    await servers.until(lambda: len(reader.numbers) >= len(numbers), "the whole history")
    assert reader.numbers == numbers


async def test_a_replica_is_stale_after_its_bound_and_fresh_when_the_owner_is_back(
    servers: Any, owner: Owner, reader: Reader
) -> None:
    await reader.follow(poll_ms=50, fresh_ms=600)
    assert reader.follower.is_fresh
    at = time.monotonic()
    await owner.stop()
    await servers.until(lambda: not reader.follower.is_fresh, "the replica to be stale")
    assert time.monotonic() - at >= 0.4
    await owner.start()
    await owner.put(7)
    await servers.until(lambda: reader.follower.is_fresh and 7 in reader.numbers, "the replica to be fresh")


async def test_a_reconnected_replica_reads_again_at_once(servers: Any, owner: Owner, reader: Reader) -> None:
    await reader.follow(poll_ms=NEVER_MS)
    servers.kill_nats()
    await servers.until(lambda: not reader.bus.connected, "the replica to lose its connection")
    await owner.put_silently(1)
    servers.start_nats()
    await servers.until(lambda: owner.bus.connected, "the owner to be back")
    await servers.until(lambda: reader.numbers == [1], "the facts from meanwhile")


async def test_only_declared_readers_are_answered_with_facts(servers: Any, owner: Owner) -> None:
    await owner.put(1)
    request = msgspec.msgpack.encode(FeedRequest(v=1, since=0))
    for user, declared in (("sanitizer", False), ("proxy", True)):
        bus = await Bus.connect(service=user, url=servers.local.nats.url, creds=servers.creds(user))
        try:
            if declared:
                reply = await bus.client.request(f"svc.feed.{OWNER}", request, timeout=5)
                assert len(msgspec.msgpack.decode(reply.data)["facts"]) > 0
            else:
                await bus.client.publish(f"svc.feed.{OWNER}", request)
                await bus.flush()
            assert bus.violations == (0 if declared else 1)
        finally:
            await bus.close()


async def test_policy_allows_nothing_while_identity_is_away_and_goes_on_when_it_is_back(scene: Any) -> None:
    bot = await scene.agent(await scene.tenant())
    command = {"action": "github:issues.list", "resource": "github:repo/acme/stale"}

    async def code() -> str:
        reply = await scene.ask(bot, "authorize", scene.command(Authorize, **command))
        return str(getattr(reply, "code", "allow"))

    assert await code() == "allow"
    await scene.installation.stop_service("identity")
    try:
        at = time.monotonic()

        async def stale() -> bool:
            return await code() == "stale_policy"

        await scene.until(stale, "policy to stop")
        # The bound: what a replica could not confirm within it is not allowed.
        assert time.monotonic() - at < 3.0 + 2.0
    finally:
        await scene.installation.start_service("identity")

    async def allowed() -> bool:
        return await code() == "allow"

    await scene.until(allowed, "policy to go on")
    assert ("authorize", "stale_policy") in await scene.refusals(bot.tenant)
