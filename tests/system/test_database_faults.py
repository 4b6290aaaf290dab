"""Postgres: killed and started again under load, and a change that was stored while the journal was away."""

from __future__ import annotations

from typing import Any

import pytest

from nomos.errors import NomosError

pytestmark = [pytest.mark.system, pytest.mark.asyncio(loop_scope="session")]


async def test_a_killed_database_loses_nothing_and_stale_facts_allow_nothing(world: Any) -> None:
    async with world.load() as load:
        await load.more(20)
        world.local.postgres.kill()
        # Owners cannot say any more that nothing newer exists.
        await load.trouble("stale_policy")
        world.local.postgres.start()
        await load.more(20, "calls to succeed again")
    records = await world.check(load)

    # The table that auditors read comes up with the log again.
    async def projected() -> bool:
        head = (await world.ask("audit", "read", "acme", limit=1))["head_tseq"]
        return bool(head >= sum(r["tenant"] == "acme" for r in records))

    await world.until(projected, "the table to show the whole log")


async def test_a_database_restart_keeps_every_change(world: Any) -> None:
    names = []
    for number in range(6):
        name = f"app-{number}"
        if number == 2:
            world.local.postgres.kill()
            world.local.postgres.start()
        try:
            await world.ask("identity", "app-create", "acme", name=name)
        except NomosError as e:
            # A commit whose answer was lost: asked again, the service says that it is there.
            assert e.code == "conflict", e
        names.append(name)
    records = await world.records()
    created = [r["event"]["app"] for r in records if r["type"] == "app.created"]
    assert [created.count(name) for name in names] == [1] * len(names)
