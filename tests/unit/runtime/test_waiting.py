"""A cancellation that arrives together with a result is not lost."""

from __future__ import annotations

import asyncio

import pytest

from nomos.waiting import raise_if_cancelled


async def test_a_cancellation_that_a_result_swallowed_is_raised_again() -> None:
    loop = asyncio.get_running_loop()
    result: asyncio.Future[int] = loop.create_future()

    async def ask() -> int:
        try:
            found = await asyncio.wait_for(result, 10)
        except asyncio.CancelledError:
            # From Python 3.12 on nothing is swallowed.
            raise
        raise_if_cancelled()
        return found

    asking = asyncio.create_task(ask())
    await asyncio.sleep(0)
    result.set_result(1)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking


async def test_a_task_that_nobody_cancelled_goes_on() -> None:
    async with asyncio.timeout(1):
        raise_if_cancelled()
