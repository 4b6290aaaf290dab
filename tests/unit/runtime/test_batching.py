"""Work in batches: one result for each item, in its own order, whatever the others do."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nomos_runtime.batching import Batcher


async def doubled(items: Sequence[int]) -> list[int]:
    await asyncio.sleep(0)
    return [2 * i for i in items]


@given(
    bursts=st.lists(st.integers(0, 30), max_size=8),
    items_max=st.integers(1, 7),
    in_flight_max=st.integers(1, 3),
)
@settings(max_examples=50)
def test_every_item_gets_its_own_result_within_both_limits(
    bursts: list[int], items_max: int, in_flight_max: int
) -> None:
    sizes: list[int] = []
    running = most = 0

    async def process(items: Sequence[int]) -> list[int]:
        nonlocal running, most
        running += 1
        most = max(most, running)
        sizes.append(len(items))
        done = await doubled(items)
        running -= 1
        return done

    async def run() -> list[int]:
        batcher = Batcher(process, items_max=items_max, in_flight_max=in_flight_max)
        tasks = []
        number = 0
        for burst in bursts:
            for _ in range(burst):
                tasks.append(asyncio.ensure_future(batcher.submit(number)))
                number += 1
            await asyncio.sleep(0)
        return list(await asyncio.gather(*tasks))

    assert asyncio.run(run()) == [2 * i for i in range(sum(bursts))]
    assert sum(sizes) == sum(bursts)
    assert max(sizes, default=0) <= items_max
    assert most <= in_flight_max


async def test_the_items_of_one_tick_ride_together() -> None:
    sizes: list[int] = []

    async def process(items: Sequence[int]) -> list[int]:
        sizes.append(len(items))
        return await doubled(items)

    batcher = Batcher(process, items_max=100, in_flight_max=2)
    await asyncio.gather(*(batcher.submit(i) for i in range(40)))
    assert sizes == [40]


async def test_a_failed_batch_fails_its_own_items_and_no_others() -> None:
    async def process(items: Sequence[int]) -> list[int]:
        if 0 in items:
            raise ValueError("zero")
        return await doubled(items)

    batcher = Batcher(process, items_max=2, in_flight_max=1)
    done = await asyncio.gather(*(batcher.submit(i) for i in range(6)), return_exceptions=True)
    assert [type(d).__name__ for d in done[:2]] == ["ValueError"] * 2
    assert done[2:] == [4, 6, 8, 10]
    assert await batcher.submit(9) == 18


async def test_a_process_that_gives_too_few_results_leaves_nobody_waiting() -> None:
    async def process(items: Sequence[int]) -> list[int]:
        return [0] * (len(items) - 1)

    batcher = Batcher(process, items_max=10, in_flight_max=1)
    done = await asyncio.wait_for(asyncio.gather(*(batcher.submit(i) for i in range(3)), return_exceptions=True), 5)
    assert isinstance(done[-1], ValueError)


async def test_a_caller_that_gives_up_costs_the_others_nothing() -> None:
    batcher = Batcher(doubled, items_max=10, in_flight_max=1)
    tasks = [asyncio.create_task(batcher.submit(i)) for i in range(4)]
    await asyncio.sleep(0)
    tasks[1].cancel()
    done = await asyncio.gather(*tasks, return_exceptions=True)
    assert [done[0], *done[2:]] == [0, 4, 6]
    with pytest.raises(asyncio.CancelledError):
        tasks[1].result()
