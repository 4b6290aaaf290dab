"""Replicas tell each other how far they are: who is waited for, for how long, and who is not any more."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from nomos_runtime import replicas as module
from nomos_runtime.replicas import REPLICAS_MAX, Applied, Replicas


class Wire:
    """A bus on which everybody hears everybody, themselves too."""

    service = "policy"

    def __init__(self) -> None:
        self.client = self
        self.heard: list[Callable[[Any], Awaitable[None]]] = []

    async def listen(self, subject: str, callback: Callable[[Any], Awaitable[None]]) -> None:
        assert subject == "applied.policy"
        self.heard.append(callback)

    async def publish(self, subject: str, payload: bytes) -> None:
        assert subject == "applied.policy"
        for one in self.heard:
            await one(type("Message", (), {"data": payload}))


@pytest.fixture
def wire() -> Wire:
    return Wire()


async def _replica(wire: Wire, rev: int, label: str) -> Replicas:
    made = Replicas(wire, present_seconds=5)  # type: ignore[arg-type]
    made._label = label
    await made.start()
    made.applied(rev)
    await made._publish(leaves=False)
    return made


async def test_all_that_are_there_are_waited_for(wire: Wire) -> None:
    one, other = await _replica(wire, 7, "a"), await _replica(wire, 5, "b")
    waiting = asyncio.create_task(one.wait_for(7, 10))
    await asyncio.sleep(0)
    assert not waiting.done()
    other.applied(7)
    await other._publish(leaves=False)
    assert await waiting == (2, [])
    assert await one.wait_for(6, 0) == (2, [])


async def test_who_lags_is_named(wire: Wire) -> None:
    one, _ = await _replica(wire, 7, "a"), await _replica(wire, 5, "b")
    assert await one.wait_for(7, 0.01) == (1, ["b"])
    # This replica itself may be the one.
    assert await one.wait_for(8, 0.01) == (0, ["a", "b"])


async def test_who_leaves_or_says_nothing_is_not_waited_for(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other, third = [await _replica(wire, rev, label) for rev, label in ((7, "a"), (5, "b"), (6, "c"))]
    await other.leave()
    assert await one.wait_for(7, 0.01) == (1, ["c"])
    now = module.time.monotonic()
    monkeypatch.setattr(module.time, "monotonic", lambda: now + 5.1)
    assert await one.wait_for(7, 0.01) == (1, [])
    await third._publish(leaves=False)
    assert await one.wait_for(7, 0) == (1, ["c"])


async def test_a_replica_says_a_change_at_once_and_nothing_older(wire: Wire) -> None:
    one, other = await _replica(wire, 7, "a"), await _replica(wire, 7, "b")
    running = asyncio.create_task(other.run())
    await asyncio.sleep(0)
    other.applied(6)
    other.applied(9)
    assert await one.wait_for(7, 5) == (2, [])
    one.applied(9)
    assert await one.wait_for(9, 5) == (2, [])
    running.cancel()


async def test_what_is_no_such_message_is_passed_over_and_replicas_are_bounded(wire: Wire) -> None:
    one = await _replica(wire, 1, "a")
    await wire.publish("applied.policy", b"x")
    for number in range(REPLICAS_MAX + 5):
        await wire.publish("applied.policy", module.encode(Applied(v=1, replica=f"rp_{number}", label="x", rev=1)))
    assert (await one.wait_for(1, 0))[0] == REPLICAS_MAX + 1


async def test_each_knows_which_of_how_many_it_is_and_all_agree(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [await _replica(wire, 1, label) for label in "abc"]
    await made[0]._publish(leaves=False)
    await made[1]._publish(leaves=False)
    assert sorted(one.place() for one in made) == [(0, 3), (1, 3), (2, 3)]
    await made[1].leave()
    assert sorted(one.place() for one in (made[0], made[2])) == [(0, 2), (1, 2)]
    now = module.time.monotonic()
    monkeypatch.setattr(module.time, "monotonic", lambda: now + 5.1)
    assert [one.place() for one in made] == [(0, 1)] * 3


async def test_who_comes_is_answered_before_it_goes_on(wire: Wire) -> None:
    wire.flush = _nothing  # type: ignore[attr-defined]
    tasks: list[asyncio.Task[Any]] = []

    def spawn(work: Any) -> None:
        tasks.append(asyncio.create_task(work))

    made = [await Replicas.join(wire, spawn, present_seconds=5) for _ in range(4)]  # type: ignore[arg-type]
    # without a beat between them
    assert sorted(one.place() for one in made) == [(rank, 4) for rank in range(4)]
    for task in tasks:
        task.cancel()


async def _nothing() -> None:
    """Instead of a flush."""
