"""``kill -9`` of each service under load: agents see a clear error, and the log has every answer once."""

from __future__ import annotations

from typing import Any

import pytest

from nomos_runtime.topology.doors import SERVICES

pytestmark = [pytest.mark.system, pytest.mark.asyncio(loop_scope="session")]

#: Without these no call succeeds; the others are missed later or not at all.
NEEDED = ("policy", "minting", "proxy", "sanitizer")


@pytest.mark.parametrize("service", SERVICES)
async def test_a_killed_service_loses_and_doubles_nothing(world: Any, service: str) -> None:
    async with world.load() as load:
        await load.more(20)
        world.processes[service].kill()
        if service in NEEDED:
            await load.trouble()
        else:
            await load.more(10, "calls to succeed without it")
        await world.run(service)
        await load.more(20, "calls to succeed again")
    await world.check(load)
