"""Work in batches: what arrives during one loop tick, or while the last batches are under way, goes together.

Latency alone is that of one item; under load the cost of a hop, a signature batch or an append is shared.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batcher(Generic[Item, Result]):
    """Collects items and processes them together, at most ``in_flight_max`` batches at once."""

    def __init__(
        self,
        process: Callable[[Sequence[Item]], Awaitable[Sequence[Result]]],
        *,
        items_max: int,
        in_flight_max: int,
    ) -> None:
        """Prepares a batcher.

        Args:
            process: gives one result for each item, in order; what it raises, every item of the batch gets.
            items_max: items in one batch.
            in_flight_max: batches under way at once; items that come meanwhile wait for the next.
        """
        self._process = process
        self._items_max = items_max
        self._in_flight_max = in_flight_max
        self._in_flight = 0
        self._waiting: list[tuple[Item, asyncio.Future[Result]]] = []
        self._scheduled = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def submit(self, item: Item) -> Result:
        """The result of one item."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Result] = loop.create_future()
        self._waiting.append((item, future))
        if not self._scheduled and self._in_flight < self._in_flight_max:
            self._scheduled = True
            # After everything that arrived in this tick.
            loop.call_soon(self._start)
        return await future

    def _start(self) -> None:
        self._scheduled = False
        while self._waiting and self._in_flight < self._in_flight_max:
            batch = self._waiting[: self._items_max]
            del self._waiting[: self._items_max]
            self._in_flight += 1
            task = asyncio.ensure_future(self._run(batch))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run(self, batch: list[tuple[Item, asyncio.Future[Result]]]) -> None:
        try:
            results = await self._process([item for item, _ in batch])
            for (_, future), result in zip(batch, results, strict=True):
                if not future.done():
                    future.set_result(result)
        except Exception as e:  # noqa: BLE001 - handed to everyone who waits; the responder denies and records
            for _, future in batch:
                if not future.done():
                    future.set_exception(e)
        finally:
            self._in_flight -= 1
            self._start()
