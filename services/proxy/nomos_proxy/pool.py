"""The HTTP/1.1 connections to one upstream: at most so many, kept for so long, newest first.

A connection is given to one call at a time. It comes back only when its answer was complete; on any error, and on
cancellation, it is closed.

A lost request is sent again only if it is a GET, its connection had been kept from before, and not one byte of an
answer had come: the upstream had closed the connection, and a GET has no effect that could happen twice.
"""

from __future__ import annotations

import asyncio
from collections import deque

from msgspec import Struct

from nomos.errors import UnknownOutcome, UpstreamFailed
from nomos_proxy.answer import UpstreamResponse
from nomos_proxy.destination import Origin
from nomos_proxy.dial import Dialer, HttpVersion
from nomos_proxy.exchange import Limits, StaleConnection, WireRequest, exchange
from nomos_proxy.wire import Wire


class PoolLimits(Struct, frozen=True, kw_only=True):
    """Bounds of the pools of one process.

    Attributes:
        connections: open connections to one upstream, over HTTP/1.1.
        streams: calls under way on the one connection over HTTP/2.
        waiting: calls that wait for either; further calls are refused at once.
        idle_seconds: a connection that rests longer is not used again. Providers close after 60 and more.
        upstreams: different origins at once. One more takes the place of the one that was used least lately, of those
            that rest.
    """

    connections: int = 32
    streams: int = 100
    waiting: int = 256
    idle_seconds: float = 15.0
    upstreams: int = 256


class PoolFull(UpstreamFailed):
    """No connection of this process was free in time. Says nothing about the upstream."""


class Pool:
    """Connections to one origin."""

    __slots__ = ("_dialer", "_free", "_held", "_idle", "_limits", "_origin", "_waiting")

    def __init__(self, origin: Origin, dialer: Dialer, limits: PoolLimits) -> None:
        self._origin = origin
        self._dialer = dialer
        self._limits = limits
        self._free = asyncio.Semaphore(limits.connections)
        self._idle: deque[Wire] = deque()
        self._waiting = 0
        self._held = 0

    @property
    def is_resting(self) -> bool:
        """Whether no call holds or waits for a connection."""
        return self._held == 0 and self._waiting == 0

    async def acquire(self, connect_seconds: float, *, fresh: bool = False) -> tuple[Wire, bool]:
        """A connection for one call, and whether it was used before. The caller bounds the wait and releases it.

        Args:
            connect_seconds: bound for opening a fresh one.
            fresh: never one that was used before.

        Raises:
            UpstreamFailed: too many calls wait, or no connection could be opened.
            DestinationRefused: the origin's addresses are not allowed.
        """
        if self._waiting >= self._limits.waiting and self._free.locked():
            raise PoolFull(f"more than {self._limits.waiting} calls wait for a connection to this upstream")
        self._waiting += 1
        try:
            await self._free.acquire()
        finally:
            self._waiting -= 1
        self._held += 1
        try:
            kept = None if fresh else self._take_idle()
            if kept is not None:
                return kept, True
            return await self._dialer.dial(self._origin, connect_seconds, Wire, HttpVersion.HTTP1), False
        except BaseException:
            # cancellation included: the place in the pool must not be lost
            self._held -= 1
            self._free.release()
            raise

    def release(self, wire: Wire) -> None:
        """Gives a connection back; one that is not usable any more is closed."""
        if wire.is_usable:
            self._drop_old()
            self._idle.append(wire)
        else:
            wire.close()
        self._held -= 1
        self._free.release()

    async def call(self, written: WireRequest, limits: Limits) -> UpstreamResponse:
        """Makes one call; errors as :func:`nomos_proxy.exchange.exchange`, and :class:`PoolFull`."""
        deadline = asyncio.get_running_loop().time() + limits.total_seconds
        wire, was_kept = await self._acquired(limits, deadline)
        try:
            return await self._exchange(wire, written, limits, deadline)
        except StaleConnection:
            if not was_kept or written.method != "GET":
                raise
        wire, _ = await self._acquired(limits, deadline, fresh=True)
        return await self._exchange(wire, written, limits, deadline)

    async def _acquired(self, limits: Limits, deadline: float, *, fresh: bool = False) -> tuple[Wire, bool]:
        if not fresh and not self._free.locked() and (kept := self._take_idle()) is not None:
            # nothing to wait for, so there is no wait to bound
            await self._free.acquire()
            self._held += 1
            return kept, True
        try:
            async with asyncio.timeout_at(deadline):
                return await self.acquire(limits.connect_seconds, fresh=fresh)
        except TimeoutError as error:
            raise PoolFull("no connection to the upstream was free in time") from error

    async def _exchange(self, wire: Wire, written: WireRequest, limits: Limits, deadline: float) -> UpstreamResponse:
        is_complete = False
        try:
            async with asyncio.timeout_at(deadline):
                answer = await exchange(wire, written, limits)
            is_complete = True
        except TimeoutError as error:
            raise UnknownOutcome(f"no complete answer within {limits.total_seconds:g} seconds") from error
        finally:
            # also on cancellation: an answer that is still on its way must not meet the next request
            if not is_complete:
                wire.close()
            self.release(wire)
        return answer

    def close(self) -> None:
        """Closes the resting connections. Those in use close when their calls end."""
        while self._idle:
            self._idle.pop().close()

    def _take_idle(self) -> Wire | None:
        self._drop_old()
        while self._idle:
            wire = self._idle.pop()
            if wire.is_usable:
                return wire
            wire.close()
        return None

    def _drop_old(self) -> None:
        oldest_allowed = asyncio.get_running_loop().time() - self._limits.idle_seconds
        while self._idle and (self._idle[0].idle_since <= oldest_allowed or not self._idle[0].is_usable):
            self._idle.popleft().close()
