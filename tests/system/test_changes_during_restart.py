"""A policy change and a revocation that were stored when the bus went down: in effect within a second of its return.

The moment is made exact by holding the row that numbers a service's events: the change waits behind it until the
server is gone, is then stored, and nobody can have told anybody of it.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import asyncpg
import pytest

from nomos.agent import Allowed, Denied
from nomos.errors import NomosError, NotPermitted, Unavailable

pytestmark = [pytest.mark.system, pytest.mark.asyncio(loop_scope="session")]

READ, WRITE, REPO = "github:issues.get", "github:issues.create", "github:repo/acme/site"
IN_EFFECT_SECONDS = 1.0
READ_ONLY = """
@id("issues")
@description("triage may read issues, and no longer open them")
permit (principal in App::"triage", action == Action::"github:issues.get", resource);
"""


@asynccontextmanager
async def stored_while_the_bus_is_down(world: Any, service: str, command: Any) -> AsyncIterator[None]:
    """Runs ``command`` so that its event is stored and cannot be published; inside the block the server is down."""
    admin = await asyncpg.connect(world.local.postgres.admin_url())
    try:
        held = admin.transaction()
        await held.start()
        await admin.execute(f"SELECT next FROM {service}.head FOR UPDATE")
        asked = asyncio.create_task(command)

        async def is_behind_us() -> bool:
            waiting = "SELECT count(*) FROM pg_stat_activity WHERE usename = $1 AND wait_event_type = 'Lock'"
            return bool(await admin.fetchval(waiting, service))

        await world.until(is_behind_us, "the change to wait for its number")
        world.local.nats.kill()
        await held.rollback()
        unpublished = f"SELECT count(*) FROM {service}.events WHERE NOT published"

        async def is_stored() -> bool:
            return await admin.fetchval(unpublished) == 1

        await world.until(is_stored, "the change to be stored")
        yield
        asked.cancel()
        await asyncio.wait([asked])
    finally:
        await admin.close()


def reconnected_at(world: Any, label: str) -> float:
    """When a process last found the bus again, Unix seconds."""
    lines = [json.loads(s) for s in world.processes[label].log.read_text().splitlines() if s.startswith("{")]
    return max(
        datetime.fromisoformat(s["at"]).timestamp() for s in lines if s["event"] == "bus_connected" and s.get("again")
    )


async def test_a_policy_change_is_in_effect_a_second_after_the_bus_is_back(world: Any) -> None:
    await world.run("policy", "-2")
    answers: list[Any] = []
    async with world.connected(answers) as (agent, _):
        assert isinstance(await agent.authorize(WRITE, REPO, {"title": "t"}), Allowed)
        operator = await world.operator()
        put = operator.ask("policy", "put", "acme", text=READ_ONLY, why="no longer", timeout_ms=1_000)
        async with stored_while_the_bus_is_down(world, "policy", put):
            world.start_nats()
            last_allowed, denied = 0.0, 0
            ends = time.monotonic() + 20
            while denied < 30:
                assert time.monotonic() < ends, answers[-5:]
                decision = await agent.authorize(WRITE, REPO, {"title": "t"})
                if isinstance(decision, Allowed):
                    last_allowed, denied = time.time(), 0
                else:
                    assert isinstance(decision, Denied)
                    denied += 1
        back = max(reconnected_at(world, label) for label in ("policy", "policy-2"))
        assert last_allowed - back <= IN_EFFECT_SECONDS
    records = await world.records()
    assert [r["event"]["why"] for r in records if r["type"] == "policy.put"][-1] == "no longer"
    # Each decision names the revision that made it; none goes back.
    revisions = [a.reply.revision for a in answers if hasattr(a.reply, "revision")]
    assert revisions[-30:] == [revisions[-1]] * 30
    await world.restore_policy()


async def test_a_revocation_is_in_effect_a_second_after_the_bus_is_back(world: Any) -> None:
    credentials = await world.new_agent("leaver")
    answers: list[Any] = []
    async with world.connected(answers, credentials) as (agent, _):
        title = "opened by an agent that is gone"
        before = await agent.authorize(WRITE, REPO, {"title": title})
        assert isinstance(before, Allowed)
        operator = await world.operator()
        revoke = operator.ask(
            "identity", "key-revoke", "acme", key=credentials.user.public, why="left", timeout_ms=1_000
        )
        async with stored_while_the_bus_is_down(world, "identity", revoke):
            world.start_nats()
            last_allowed, refused = 0.0, 0
            ends = time.monotonic() + 20
            while refused < 5:
                assert time.monotonic() < ends, answers[-5:]
                try:
                    decision = await agent.authorize(READ, REPO, {"issue_number": 1}, timeout_ms=500)
                except NomosError as e:
                    refused += e.code == "revoked" or time.time() - last_allowed > 2
                else:
                    assert isinstance(decision, Allowed)
                    last_allowed, refused = time.time(), 0
        back = max(reconnected_at(world, label) for label in ("policy", "identity"))
        assert last_allowed - back <= IN_EFFECT_SECONDS
        with pytest.raises(NomosError):
            await agent.invoke(before, WRITE, REPO, {"title": title}, timeout_ms=1_000)
        assert title not in world.seen.titles

    async def is_shut_out() -> bool:
        try:
            async with world.connected([], credentials):
                return False
        except NotPermitted:
            return True
        except Unavailable:
            return False  # closed by the server before it said why

    await world.until(is_shut_out, "the server to refuse the revoked key")
    records = await world.records()
    assert [r["event"]["name"] for r in records if r["type"] == "key.revoked"] == ["leaver"]
