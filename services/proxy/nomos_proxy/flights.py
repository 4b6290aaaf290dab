"""One piece of work at a time for each key: whoever comes while it runs waits for its outcome.

The work is not tied to who waits: a request may end, and what a provider has been asked for comes to its end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Generic, TypeVar

from nomos.errors import Unavailable

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)


class Flights(Generic[K, T]):
    """The work of one process, by key."""

    def __init__(self) -> None:
        self._running: dict[K, asyncio.Task[T]] = {}
        self._is_landing = False

    async def outcome(self, key: K, work: Callable[[], Coroutine[object, object, T]], within_seconds: float) -> T:
        """The outcome of the work for ``key``, begun unless it runs.

        Args:
            key: what it is about.
            work: begins it.
            within_seconds: how long the caller waits; the work goes on.

        Raises:
            Unavailable: it has not come to its end in that time, or this process is stopping and begins nothing.
        """
        task = self._running.get(key)
        if task is None:
            if self._is_landing:
                raise Unavailable("this process is stopping")
            task = self._running[key] = asyncio.create_task(work())
            task.add_done_callback(lambda done: self._ended(key, done))
        try:
            async with asyncio.timeout(within_seconds):
                return await asyncio.shield(task)
        except TimeoutError as e:
            raise Unavailable("the credential has not come in time", retry_after_ms=1_000) from e

    async def land(self, seconds: float) -> None:
        """Begins nothing more, and waits until what runs has come to its end, at most so long."""
        self._is_landing = True
        if self._running:
            await asyncio.wait(list(self._running.values()), timeout=seconds)

    def _ended(self, key: K, task: asyncio.Task[T]) -> None:
        self._running.pop(key, None)
        if not task.cancelled():
            task.exception()  # was raised to whoever waited; nobody may have
