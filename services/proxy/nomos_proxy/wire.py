"""One connection, seen as bytes in and bytes out.

Decides one thing: bytes that arrive while nobody has asked for them make the connection unusable, because they
could be read as the answer to the next request (response splitting). Leaves HTTP to :mod:`nomos_proxy.exchange`.
"""

from __future__ import annotations

import asyncio
from typing import Final, cast

#: Received bytes that wait for a reader before the socket is told to wait.
READ_AHEAD_BYTES: Final = 262_144


class Wire(asyncio.Protocol):
    """A connected socket, TLS or not. One reader at a time."""

    __slots__ = ("_is_busy", "_is_closed", "_is_tainted", "_received", "_transport", "_waiter", "idle_since")

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._waiter: asyncio.Future[None] | None = None
        self._is_busy = False
        self._is_closed = False
        self._is_tainted = False
        #: Loop time at which the connection went idle, seconds.
        self.idle_since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keeps the transport."""
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        """Keeps bytes for the reader, or taints the connection if there is no request they could answer."""
        if not self._is_busy:
            self._is_tainted = True
            self.close()
            return
        self._received += data
        if len(self._received) > READ_AHEAD_BYTES and self._transport is not None:
            self._transport.pause_reading()
        self._wake()

    def eof_received(self) -> bool:
        """The peer is done: whatever follows, this connection carries no further request."""
        self._is_closed = True
        self._wake()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Marks the end. A reset and an orderly end look alike: what arrived complete is complete."""
        self._is_closed = True
        self._wake()

    @property
    def is_usable(self) -> bool:
        """Whether a further request may be sent."""
        # what is not sent yet of a request that was answered early would go before the next one
        is_closing = self._transport is None or self._transport.is_closing() or self._transport.get_write_buffer_size()
        return not (self._is_closed or self._is_tainted or is_closing or self._received)

    def begin(self) -> None:
        """A request is about to be sent: bytes are expected from now on."""
        self._is_busy = True

    def rest(self, now: float) -> None:
        """The answer is complete: bytes are not expected any more."""
        self._is_busy = False
        self.idle_since = now
        if self._received:
            self._is_tainted = True

    def write(self, data: bytes) -> None:
        """Hands bytes to the socket. They may leave at any time from now on."""
        if self._transport is None:
            raise ConnectionResetError("the connection is not open")
        self._transport.write(data)

    async def read(self) -> bytes:
        """The next bytes, or ``b""`` at the end. The caller bounds the wait."""
        if not self._received and not self._is_closed:
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        taken = bytes(self._received)
        self._received.clear()
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()
        return taken

    def close(self) -> None:
        """Ends the connection now; nothing that is still buffered is sent."""
        self._is_closed = True
        if self._transport is not None:
            self._transport.abort()
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
