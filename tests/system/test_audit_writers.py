"""Three audit processes race for the head of the log; exactly one wins each block, and the losers say so."""

from __future__ import annotations

import signal
from typing import Any

import pytest

pytestmark = [pytest.mark.system, pytest.mark.asyncio(loop_scope="session")]

WRITERS = ("audit", "audit-2", "audit-3")


def active(world: Any) -> list[str]:
    """The writers whose newest word is that they write."""
    return [
        label
        for label in WRITERS
        if world.said(label, "audit_writer_state", now="writing")
        > world.said(label, "audit_writer_state", before="writing")
    ]


async def test_three_writers_race_and_the_losers_are_fenced_and_say_so(world: Any) -> None:
    await world.run("audit", "-2")
    await world.run("audit", "-3")
    async with world.load() as load:
        await load.more(20)
        for _ in range(3):
            frozen = (await world.until(lambda: active(world), "a writer"))[0]
            fenced = world.said(frozen, "audit_writer_fenced")
            world.processes[frozen].signal(signal.SIGSTOP)
            others = [label for label in WRITERS if label != frozen]
            await world.until(lambda others=others: set(active(world)) & set(others), "another writer to take over")
            world.processes[frozen].signal(signal.SIGCONT)
            await world.until(
                lambda frozen=frozen, fenced=fenced: world.said(frozen, "audit_writer_fenced") > fenced,
                f"{frozen} to say that it is fenced",
            )
        # And one that does not come back.
        killed = (await world.until(lambda: active(world), "a writer"))[0]
        world.processes[killed].kill()
        await load.more(20)
        left = [label for label in WRITERS if label != killed]
    # An export is prepared and read at one process.
    await world.processes[left[1]].stop()
    records = await world.check(load)
    assert not [r for r in records if r["type"].startswith("audit.")], "no gap, nothing poisoned"
    assert not any(world.said(label, "audit_writer_state", now="refused") for label in WRITERS)
