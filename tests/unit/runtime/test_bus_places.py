"""The places in which messages of one subject are worked on: so many at once, so many that wait, the rest is said."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from nats.aio.msg import Msg

from nomos_runtime import bus as bus_module
from nomos_runtime import observe
from nomos_runtime.bus import _Places


def message(data: bytes) -> Msg:
    client: Any = None
    return Msg(client, "work", "", data)


class Work:
    """A handler whose messages end when they are told to."""

    def __init__(self, most: int) -> None:
        self.begun: list[bytes] = []
        self.may_end = asyncio.Event()
        self.tasks: set[asyncio.Task[None]] = set()
        self.places = _Places("testing", "work", self._handle, most, self.tasks)

    async def _handle(self, message: Msg) -> None:
        self.begun.append(message.data)
        await self.may_end.wait()

    async def end(self) -> None:
        self.may_end.set()
        while self.tasks:
            await asyncio.wait(self.tasks)


async def test_so_many_are_worked_on_at_once_and_the_rest_follows_in_order() -> None:
    work = Work(most=2)
    for number in range(6):
        work.places.take(message(b"%d" % number))
    await asyncio.sleep(0)
    assert work.begun == [b"0", b"1"]
    await work.end()
    assert work.begun == [b"%d" % number for number in range(6)]


@pytest.mark.parametrize(("limit", "value"), [("WAITING_MAX", 2), ("WAITING_BYTES_MAX", 2)])
async def test_what_is_over_a_limit_is_dropped_and_said(
    monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    monkeypatch.setattr(bus_module, limit, value)
    before = observe.counts["testing", observe.SLOW_CONSUMER]
    work = Work(most=1)
    for number in range(5):
        work.places.take(message(b"%d" % number))
    await work.end()
    assert work.begun == [b"0", b"1", b"2"]
    assert observe.counts["testing", observe.SLOW_CONSUMER] - before == 2
    # What is over is over: there is room again.
    work.places.take(message(b"later"))
    await work.end()
    assert work.begun[-1] == b"later"


async def test_a_handler_that_fails_is_said_and_frees_its_place() -> None:
    async def fail(message: Msg) -> None:
        raise RuntimeError("a fault of ours")

    before = observe.counts["testing", observe.REQUEST_FAULT]
    tasks: set[asyncio.Task[None]] = set()
    places = _Places("testing", "work", fail, 1, tasks)
    for _ in range(3):
        places.take(message(b""))
    while tasks:
        await asyncio.wait(tasks)
    assert observe.counts["testing", observe.REQUEST_FAULT] - before == 3
