"""An auditor follows the records of one tenant as they come, checks the chain on the way, and reaches nothing else."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from nomos.cli.audit import TenantChain
from nomos.messages import AuditRecords, Failure, ReadAudit
from nomos_audit.arrivals import WAIT_MS_MAX

DENIED = ("github:labels.list", "github:repo/acme/follow")
WAIT_MS = 8_000


async def _quiet(scene: Any, auditor: Any) -> int:
    """The tenant's next counter, once nothing more is on its way."""

    async def settled() -> list[int]:
        before = await scene.ask(auditor, "audit", scene.command(ReadAudit, limit=1_000))
        await asyncio.sleep(0.5)
        after = await scene.ask(auditor, "audit", scene.command(ReadAudit, limit=1_000))
        return [after.head_tseq] if before.head_tseq == after.head_tseq > 0 else []

    (head,) = await scene.until(settled, "the tenant's records so far")
    return int(head)


def _follow(scene: Any, auditor: Any, first: int, **more: Any) -> asyncio.Task[Any]:
    command = scene.command(ReadAudit, from_tseq=first, **{"wait_ms": WAIT_MS, **more})
    return asyncio.create_task(scene.ask(auditor, "audit", command))


async def test_a_waiting_auditor_gets_the_next_record_when_it_is_chained(scene: Any) -> None:
    tenant = await scene.tenant()
    bot, auditor = await scene.agent(tenant), await scene.auditor(tenant)
    head = await _quiet(scene, auditor)
    following = _follow(scene, auditor, head)
    await asyncio.sleep(0.3)
    assert not following.done()
    denied = await bot.agent.authorize(*DENIED)
    reply = await following
    assert isinstance(reply, AuditRecords)
    chain = TenantChain(tenant, head)
    seen = [chain.add(record, prev)[0] for record, prev in zip(reply.records, reply.prev, strict=True)]
    assert denied.decision in [one.event.get("decision") for one in seen]
    assert reply.head_tseq == head + len(seen)


async def test_following_from_the_first_record_on_gives_every_record_once_and_in_order(scene: Any) -> None:
    tenant = await scene.tenant()
    bot, auditor = await scene.agent(tenant), await scene.auditor(tenant)
    asked = asyncio.create_task(_ask_often(bot))
    chain, decisions = TenantChain(tenant, 0), list[str]()
    while len(decisions) < 20:
        reply = await _follow(scene, auditor, chain.next)
        assert reply.records, "waited in vain"
        for record, prev in zip(reply.records, reply.prev, strict=True):
            one, _ = chain.add(record, prev)
            if one.type == "authz.decision":
                decisions.append(str(one.event["decision"]))
    assert decisions == await asked


async def _ask_often(bot: Any) -> list[str]:
    return [(await bot.agent.authorize(*DENIED)).decision for _ in range(20)]


async def test_another_tenants_records_neither_arrive_nor_wake_the_auditor(scene: Any) -> None:
    tenant, neighbour = await scene.tenant(), await scene.tenant()
    loud, auditor = await scene.agent(neighbour), await scene.auditor(tenant)
    head = await _quiet(scene, auditor)
    following = _follow(scene, auditor, head, wait_ms=1_500)
    await asyncio.gather(*(loud.agent.authorize(*DENIED) for _ in range(10)))
    reply = await following
    assert (reply.records, reply.head_tseq) == ([], head)


async def test_waiting_ends_with_an_empty_answer(scene: Any) -> None:
    tenant = await scene.tenant()
    auditor = await scene.auditor(tenant)
    head = await _quiet(scene, auditor)
    reply = await _follow(scene, auditor, head, wait_ms=300)
    assert (reply.records, reply.head_tseq) == ([], head)


@pytest.mark.parametrize("wait_ms", [-1, WAIT_MS_MAX + 1, 2**62])
async def test_a_wait_beyond_the_limit_is_refused_and_recorded(scene: Any, wait_ms: int) -> None:
    tenant = await scene.tenant()
    auditor = await scene.auditor(tenant)
    reply = await _follow(scene, auditor, 0, wait_ms=wait_ms)
    assert isinstance(reply, Failure)
    assert reply.code == "malformed"
    assert ("audit", "malformed") in await scene.refusals(tenant)


async def test_an_auditor_has_no_other_way_to_the_stream(scene: Any) -> None:
    tenant, neighbour = await scene.tenant(), await scene.tenant()
    auditor = await scene.auditor(tenant)
    client = await scene.raw_person(auditor)
    for subject in (f"audit.{neighbour}", f"audit.{tenant}", "audit.*", "audit.>", ">"):
        client.complaints.clear()
        await client.subscribe(subject)
        await client.flush()
        await client.flush()
        assert any("violation for subscription" in one for one in client.complaints), subject
    for subject in ("$JS.API.STREAM.INFO.AUDIT", "$JS.API.CONSUMER.CREATE.AUDIT.x", "$JS.API.DIRECT.GET.AUDIT"):
        assert not await scene.may_publish(client, subject), subject
    assert not await scene.may_publish(client, f"req.authorize.{auditor.name}")


async def test_an_agent_cannot_follow_its_tenants_records(scene: Any) -> None:
    tenant = await scene.tenant()
    bot = await scene.agent(tenant)
    client = await scene.raw_person(bot)
    assert not await scene.may_publish(client, f"req.audit.{bot.name}")


async def test_a_message_that_nobody_can_read_wakes_nobody_and_costs_nothing(scene: Any) -> None:
    """Who holds the service's own credentials can publish there; a follower then reads the copy of the chain."""
    tenant = await scene.tenant()
    bot, auditor = await scene.agent(tenant), await scene.auditor(tenant)
    head = await _quiet(scene, auditor)
    following = _follow(scene, auditor, head)
    await asyncio.sleep(0.3)
    thief = await scene.service("audit")
    # Not stored: it expects a sequence that the stream has not. Followers hear it all the same.
    await thief.publish(f"audit.{tenant}", b"\xff", headers={"Nats-Expected-Last-Sequence": "999999999"})
    await bot.agent.authorize(*DENIED)
    reply = await following
    assert reply.records
    assert msgspec.json.decode(reply.records[0])["tseq"] == head
