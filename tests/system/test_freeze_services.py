"""SIGSTOP of each service under load: what depends on it is refused in time, and nothing runs late when it wakes."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from nomos_runtime.topology.doors import SERVICES

pytestmark = [pytest.mark.system, pytest.mark.asyncio(loop_scope="session")]

#: What agents are told while it is frozen. Only the log itself is missed by nobody: the journal stands before it.
TOLD = {
    "policy": "unavailable",
    "minting": "unavailable",
    "proxy": "unknown_outcome",
    "sanitizer": "response_refused",
    "identity": "stale_policy",
    "stepup": "stale_policy",
}


@pytest.mark.parametrize("service", SERVICES)
async def test_a_frozen_service_is_missed_in_time_and_does_nothing_late(world: Any, service: str) -> None:
    async with world.load() as load:
        await load.more(20)
        world.processes[service].signal(signal.SIGSTOP)
        if service in TOLD:
            await load.trouble(TOLD[service])
        else:
            await load.more(20, "calls to succeed without it")
        world.processes[service].signal(signal.SIGCONT)
        await load.more(20, "calls to succeed again")
    await world.check(load)
