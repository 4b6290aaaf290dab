"""The one HTTP/2 connection to an upstream, and the calls that share it.

A call has a stream of its own. When it is given up, its stream is reset and the connection stays. A connection that the
upstream leaves, or that rested too long, is replaced by the next call.

A request is sent again, once, where the upstream says that it did nothing with it, whatever its method; and, as over
HTTP/1.1, a GET whose connection had been used before and ended without one byte of an answer.
"""

from __future__ import annotations

import asyncio

from nomos.errors import UnknownOutcome
from nomos_proxy.answer import UpstreamResponse
from nomos_proxy.destination import Origin
from nomos_proxy.dial import Dialer, HttpVersion
from nomos_proxy.exchange import Limits, StaleConnection, WireRequest
from nomos_proxy.http2 import Connection, NotProcessed
from nomos_proxy.pool import PoolFull, PoolLimits


class Http2Pool:
    """Calls to one origin."""

    __slots__ = ("_connection", "_dialer", "_dialing", "_held", "_limits", "_origin", "_streams")

    def __init__(self, origin: Origin, dialer: Dialer, limits: PoolLimits) -> None:
        self._origin = origin
        self._dialer = dialer
        self._limits = limits
        self._connection: Connection | None = None
        self._dialing = asyncio.Lock()
        self._streams = asyncio.Semaphore(limits.streams)
        #: Calls that have a stream or wait for one.
        self._held = 0

    @property
    def is_resting(self) -> bool:
        """Whether no call is under way."""
        return self._held == 0

    async def call(self, written: WireRequest, limits: Limits) -> UpstreamResponse:
        """Makes one call.

        Raises:
            PoolFull: too many wait, or none of them came through in time; nothing was sent.
            OtherVersion: the upstream does not speak HTTP/2; nothing was sent.
            UpstreamFailed, UnknownOutcome, AnswerRefused: as :func:`nomos_proxy.exchange.exchange`.
        """
        if self._held >= self._limits.streams + self._limits.waiting:
            raise PoolFull(f"more than {self._limits.waiting} calls wait for a stream to this upstream")
        deadline = asyncio.get_running_loop().time() + limits.total_seconds
        self._held += 1
        try:
            try:
                async with asyncio.timeout_at(deadline):
                    await self._streams.acquire()
            except TimeoutError as error:
                raise PoolFull("no stream to the upstream was free in time") from error
            try:
                return await self._tried(written, limits, deadline)
            finally:
                self._streams.release()
        finally:
            self._held -= 1

    async def _tried(self, written: WireRequest, limits: Limits, deadline: float) -> UpstreamResponse:
        try:
            return await self._once(written, limits, deadline)
        except NotProcessed:
            pass
        except StaleConnection:
            if written.method != "GET":
                raise
        return await self._once(written, limits, deadline)

    async def _once(self, written: WireRequest, limits: Limits, deadline: float) -> UpstreamResponse:
        connection = await self._ready(limits, deadline)
        exchange = None
        try:
            async with asyncio.timeout_at(deadline):
                exchange = await connection.begin(written, limits)
                head = await exchange.head()
                body = bytearray()
                while chunk := await exchange.read():
                    body += chunk
        except TimeoutError as error:
            raise UnknownOutcome(f"no complete answer within {limits.total_seconds:g} seconds") from error
        finally:
            if exchange is not None:
                exchange.close()
        return UpstreamResponse(status=head.status, headers=head.headers, body=bytes(body))

    async def _ready(self, limits: Limits, deadline: float) -> Connection:
        """A connection with room for a stream."""
        try:
            async with asyncio.timeout_at(deadline):
                while True:
                    connection = await self._connected(limits)
                    if connection.has_room:
                        return connection
                    await connection.changed()
        except TimeoutError as error:
            raise PoolFull("no stream to the upstream was free in time") from error

    async def _connected(self, limits: Limits) -> Connection:
        async with self._dialing:
            now = asyncio.get_running_loop().time()
            kept = self._connection
            if kept is not None and kept.is_usable:
                if not kept.is_resting or now - kept.idle_since < self._limits.idle_seconds:
                    return kept
                kept.close()
            dial = self._dialer.dial
            self._connection = await dial(self._origin, limits.connect_seconds, Connection, HttpVersion.HTTP2)
            return self._connection

    def close(self) -> None:
        """Closes the connection where nothing is under way. One in use ends with its calls, by their deadlines."""
        if self._connection is not None and self._connection.is_resting:
            self._connection.close()
