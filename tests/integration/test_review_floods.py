"""One tenant's flood, or one tenant's trouble, costs another nothing; what ends unseen is seen."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import asyncpg
import pytest

from nomos import messages
from nomos.errors import JournalUnavailable, Malformed
from nomos.events import Actor, Batch, Envelope, encode_batch
from nomos.ids import new_id
from nomos.messages import Authorize, AwaitApproval
from nomos.servicemessages import Fact
from nomos_runtime import observe
from nomos_runtime.bus import Bus
from nomos_runtime.database import Database
from nomos_runtime.eventstore import MIGRATIONS, EventStore
from nomos_runtime.feed import Follower
from nomos_runtime.journal import Journal, encode_event
from nomos_stepup.domain import PENDING_PER_AGENT_MAX
from nomos_stepup.handlers import WAITING_PER_AGENT_MAX

LIST, DELETE, REPO = "github:issues.list", "github:repos.delete", "github:repo/octokit-fixture-org/paginate-issues"


def event(number: int) -> Envelope:
    return Envelope(
        id=new_id("ev"), type="test.made", tenant="acme", actor=Actor(kind="service", id="policy"), corr="", cause="",
        event={"number": number},
    )  # fmt: skip


async def test_an_agent_that_waits_for_humans_many_times_over_holds_up_nobody(scene: Any) -> None:
    waiter, neighbour = await scene.agent(await scene.tenant()), await scene.agent(await scene.tenant())
    asked = await waiter.agent.authorize(DELETE, REPO)

    async def wait() -> float:
        began = time.monotonic()
        command = scene.command(
            AwaitApproval, approval=asked.approval, wait_ms=20_000, deadline_ms=messages.now_ms() + 60_000
        )
        await waiter.connection.ask(
            f"req.stepup.{waiter.name}", command, messages.Decoder.of(messages.ApprovalReply, "approval reply"), 60_000
        )
        return time.monotonic() - began

    waits = [asyncio.create_task(wait()) for _ in range(10 * WAITING_PER_AGENT_MAX)]
    await scene.until(lambda: sum(w.done() for w in waits) == 9 * WAITING_PER_AGENT_MAX, "those beyond the limit")
    # Stepup still opens approvals, for this agent and for others; and policy, which follows it, still allows.
    assert isinstance(await neighbour.agent.authorize(DELETE, REPO), type(asked))
    assert type(await neighbour.agent.authorize(LIST, REPO)).__name__ == "Allowed"
    await scene.operator.ask("stepup", "cancel", waiter.tenant, approval=asked.approval)
    assert max(await asyncio.gather(*waits)) < 15


async def test_of_many_approvals_asked_at_once_no_more_are_opened_than_the_limit(scene: Any) -> None:
    bot = await scene.agent(await scene.tenant())
    replies = await asyncio.gather(
        *(
            scene.ask(bot, "authorize", scene.command(Authorize, action=DELETE, resource=REPO))
            for _ in range(3 * PENDING_PER_AGENT_MAX)
        )
    )
    opened = [r for r in replies if isinstance(r, messages.StepUpRequired)]
    assert len(opened) == PENDING_PER_AGENT_MAX
    assert {r.code for r in replies if isinstance(r, messages.Failure)} == {"limit_exceeded"}


async def test_a_tenants_flood_of_requests_is_refused_beyond_its_share_and_costs_the_neighbour_nothing(
    scene: Any,
) -> None:
    flooder, neighbour = await scene.agent(await scene.tenant()), await scene.agent(await scene.tenant())

    async def ask() -> Any:
        return await scene.ask(flooder, "authorize", scene.command(Authorize, action=LIST, resource=REPO))

    flood = [asyncio.create_task(ask()) for _ in range(3_000)]
    await asyncio.sleep(0)
    assert type(await neighbour.agent.authorize(LIST, REPO)).__name__ == "Allowed"
    replies = await asyncio.gather(*flood)
    over = [r for r in replies if not isinstance(r, messages.Allowed)]
    assert {(r.code, "tenant_in_flight_max" in r.detail) for r in over} <= {("unavailable", True)}
    # A tenant's flood does not fill the log of all.
    assert await scene.refusals(flooder.tenant) == []


async def test_a_flood_on_one_subject_leaves_another_subject_its_places(servers: Any) -> None:
    bus = await Bus.connect(
        service="policy", url=servers.local.nats.url, creds=servers.creds("policy"), in_flight_max=4
    )
    released, seen = asyncio.Event(), []

    async def slow(_: Any) -> None:
        await released.wait()

    async def quick(message: Any) -> None:
        seen.append(message.subject)

    try:
        await bus.serve("svc.feed.policy.*", "policy", slow)
        await bus.serve("feed.policy", "", quick)
        await bus.flush()
        for _ in range(20):
            await bus.client.publish("svc.feed.policy.self")
        await bus.client.publish("feed.policy")
        await bus.flush()
        await asyncio.sleep(0.2)
        assert (bus.violations, seen) == (0, ["feed.policy"])
    finally:
        released.set()
        await bus.close()


async def test_a_handlers_own_fault_is_said(servers: Any) -> None:
    bus = await Bus.connect(service="policy", url=servers.local.nats.url, creds=servers.creds("policy"))

    async def broken(_: Any) -> None:
        raise KeyError("unforeseen")

    before = observe.counts["policy", observe.REQUEST_FAULT]
    try:
        await bus.serve("svc.feed.policy.*", "policy", broken)
        await bus.flush()
        await bus.client.publish("svc.feed.policy.self")
        await bus.flush()
        await asyncio.sleep(0.2)
        assert observe.counts["policy", observe.REQUEST_FAULT] == before + 1
    finally:
        await bus.close()


async def test_events_whose_id_another_message_has_are_never_confirmed(servers: Any) -> None:
    bus = await Bus.connect(service="policy", url=servers.local.nats.url, creds=servers.creds("policy"))
    producer = new_id("pr")
    journal = Journal(bus, timeout_ms=2_000, producer=producer)
    try:
        payload = encode_batch(producer, 0, [encode_event(event(0))])
        await bus.request("intake.batch", payload, 2_000, {"Nats-Msg-Id": f"{producer}:0"})
        with pytest.raises(JournalUnavailable):
            await journal.append([event(1)])
        assert journal.producer != producer
        await journal.append([event(2)])
        found: list[Batch] = await servers.batches(journal.producer)
        assert [b.n for b in found] == [0]
    finally:
        await journal.close()
        await bus.close()


async def test_a_fact_that_cannot_be_folded_is_said_and_makes_the_replica_stale_until_it_can(scene: Any) -> None:
    await scene.tenant(policy="", connection=False)
    url, local = scene.installation.bus.url, scene.installation.local
    bus = await Bus.connect(service="policy", url=url, creds=str(local.installation.creds_path("policy")))
    is_broken = True

    def apply(_: Fact) -> None:
        if is_broken:
            raise KeyError("unforeseen")

    follower = Follower(bus, "identity", apply, poll_ms=20, fresh_ms=300, timeout_ms=1_000)
    before = observe.counts["policy", observe.FEED_FAULT]
    try:
        await follower.start()
        await scene.until(lambda: observe.counts["policy", observe.FEED_FAULT] > before + 2, "the fault said")
        assert not follower.is_fresh
        is_broken = False
        await scene.until(lambda: follower.is_fresh, "the replica to catch up")
    finally:
        await follower.stop()
        await bus.close()


async def test_a_stored_event_is_never_changed_nor_removed_by_the_services_own_role(servers: Any) -> None:
    database = await Database.open("stepup", servers.local.environment("stepup")["NOMOS_DATABASE_URL"])
    bus = await Bus.connect(service="stepup", url=servers.local.nats.url, creds=servers.creds("stepup"))
    try:
        await database.migrate(MIGRATIONS)
        store = EventStore(database, bus, journal_timeout_ms=2_000)
        await store.append("acme", new_id("s"), 0, [event(0)])
        for tenant, scope in (("acme", None), (None, "replicate")):
            for statement in ("UPDATE events SET tenant = 'beta', published = true", "DELETE FROM events"):
                if (scope, statement) == ("replicate", "DELETE FROM events"):
                    continue  # sees no row that it may remove
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    async with database.transaction(tenant, scope) as c:
                        await c.execute(statement)
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            async with database.transaction("acme") as c:
                await c.execute("TRUNCATE events")
        with pytest.raises(Malformed):
            await store.append("_", new_id("s"), 0, [event(0)])
    finally:
        await bus.close()
        await database.close()
