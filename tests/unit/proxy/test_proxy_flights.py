"""One piece of work at a time for each key."""

from __future__ import annotations

import asyncio

import pytest

from nomos.errors import Unavailable, UpstreamFailed
from nomos_proxy.flights import Flights


class Work:
    def __init__(self) -> None:
        self.begun = 0
        self.ended = 0
        self.may_end = asyncio.Event()
        self.error: Exception | None = None

    async def run(self) -> int:
        self.begun += 1
        await self.may_end.wait()
        if self.error is not None:
            raise self.error
        self.ended += 1
        return self.begun


async def test_who_comes_while_it_runs_waits_for_its_outcome() -> None:
    flights: Flights[str, int] = Flights()
    work, other = Work(), Work()
    waiting = [asyncio.create_task(flights.outcome("a", work.run, 5)) for _ in range(20)]
    beside = asyncio.create_task(flights.outcome("b", other.run, 5))
    await asyncio.sleep(0)
    for one in (work, other):
        one.may_end.set()
    assert await asyncio.gather(*waiting, beside) == [1] * 21
    assert (work.begun, other.begun) == (1, 1)
    assert await flights.outcome("a", work.run, 5) == 2, "what has ended is begun anew"


async def test_an_error_is_everybodys_who_waited_and_nobodys_else() -> None:
    flights: Flights[str, int] = Flights()
    work = Work()
    work.error = UpstreamFailed("down")
    work.may_end.set()
    ended = await asyncio.gather(*(flights.outcome("a", work.run, 5) for _ in range(3)), return_exceptions=True)
    assert [type(e) for e in ended] == [UpstreamFailed] * 3
    work.error = None
    assert await flights.outcome("a", work.run, 5) == 2


async def test_it_goes_on_when_who_waited_is_gone_and_is_waited_for_at_the_end() -> None:
    flights: Flights[str, int] = Flights()
    work = Work()
    with pytest.raises(Unavailable, match="not come in time"):
        await flights.outcome("a", work.run, 0.01)
    waiting = asyncio.create_task(flights.outcome("a", work.run, 5))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    landing = asyncio.create_task(flights.land(5))
    await asyncio.sleep(0.01)
    assert not landing.done()
    with pytest.raises(Unavailable, match="stopping"):
        await flights.outcome("b", work.run, 5)
    work.may_end.set()
    await landing
    assert (work.begun, work.ended) == (1, 1)


async def test_landing_has_an_end() -> None:
    flights: Flights[str, int] = Flights()
    work = Work()
    waiting = asyncio.create_task(flights.outcome("a", work.run, 5))
    await asyncio.sleep(0)
    await flights.land(0.01)
    assert not waiting.done()
    work.may_end.set()
    assert await waiting == 1
