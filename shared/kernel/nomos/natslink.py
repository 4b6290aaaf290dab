"""One connection to a NATS server while it stands, below :mod:`nomos.natsclient`: bytes in, commands out.

Takes the transport over from the protocol that did the handshake, which keeps hearing of its end. Commands that are
written in one turn of the event loop leave with one system call; what a publisher that never rests writes is bounded
by :data:`WRITE_AHEAD_BYTES`, as what waits for the socket is.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any, Final, Protocol

import nats.errors

from nomos.errors import Malformed
from nomos.natsparser import Parser

#: Bytes that wait for the socket before a publisher waits too.
WRITE_AHEAD_BYTES: Final = 2 * 1024 * 1024
_PONG: Final = b"PONG\r\n"


class Owner(Protocol):
    """Who is told what arrives, on the loop and in order."""

    def take(self, sid: int, subject: bytes, reply: bytes, headers: bytes, payload: bytes) -> None:
        """A message for subscription ``sid``.

        Raises:
            ValueError, Malformed: it cannot be read; it is dropped and said.
        """

    def take_pong(self) -> None:
        """The server has done everything that was sent before the oldest ping."""

    def take_info(self, said: dict[str, Any]) -> None:
        """The server says something of itself."""

    def take_refusal(self, text: str) -> None:
        """The server refuses something, or the whole connection."""

    def complain(self, error: Exception) -> None:
        """Something that arrived cannot be read."""

    def cut(self, link: Link) -> None:
        """The link is over: nothing more may be written to it."""


class Link(asyncio.Protocol):
    """One connection while it stands: takes bytes to the parser and operations to the client."""

    def __init__(self, owner: Owner, transport: asyncio.WriteTransport) -> None:
        """Takes the transport over from the protocol that did the handshake."""
        self._owner = owner
        self._transport = transport
        self._parser = Parser(self)
        self._loop = asyncio.get_running_loop()
        self._out: list[bytes] = []
        self._out_bytes = 0
        self._rooms: list[asyncio.Future[None]] = []
        #: Whether so much waits for the socket that a publisher should wait.
        self.is_full = False
        #: Done when the connection is over, with why.
        self.ended: asyncio.Future[Exception] = self._loop.create_future()
        #: nats-py waits for its end through its own stream.
        self._stream = transport.get_protocol()
        transport.set_protocol(self)
        transport.set_write_buffer_limits(high=WRITE_AHEAD_BYTES)

    def write(self, command: bytes) -> None:
        """Sends one command, together with all others of this turn of the loop: one write is one system call."""
        if not self._out:
            self._loop.call_soon(self._send)
        self._out.append(command)
        self._out_bytes += len(command)
        if self._out_bytes > WRITE_AHEAD_BYTES:
            # A publisher that never rests would keep the loop from its turn; the transport says when it is full.
            self._send()

    def _send(self) -> None:
        out, self._out, self._out_bytes = self._out, [], 0
        if out and not self._transport.is_closing():
            self._transport.write(out[0] if len(out) == 1 else b"".join(out))

    def flush(self) -> None:
        """Hands what was written to the transport now: nats-py is about to write to it itself, or to close it."""
        self._send()

    async def room(self) -> None:
        """Waits until less waits for the socket."""
        if self.is_full:
            room: asyncio.Future[None] = self._loop.create_future()
            self._rooms.append(room)
            await room

    def leave(self, why: Exception) -> None:
        """Ends the link: nothing more is given to the client."""
        self._end(why)

    # -- asyncio.Protocol --------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Bytes arrived."""
        if self.ended.done():
            return
        try:
            self._parser.feed(data)
        except Malformed as e:
            self._owner.complain(e)
            self._end(nats.errors.ProtocolError())

    def pause_writing(self) -> None:
        """The socket is behind."""
        self.is_full = True
        self._stream.pause_writing()

    def resume_writing(self) -> None:
        """The socket has caught up."""
        self._stream.resume_writing()
        self._make_room()

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is over."""
        self._end(exc if exc is not None else nats.errors.UnexpectedEOF())
        self._stream.connection_lost(exc)

    def _make_room(self) -> None:
        self.is_full = False
        for room in self._rooms:
            if not room.done():
                room.set_result(None)
        self._rooms.clear()

    def _end(self, error: Exception) -> None:
        if not self.ended.done():
            self.ended.set_result(error)
            self._owner.cut(self)
        self._make_room()

    # -- nomos.natsparser.Operations ---------------------------------------------------------------------------------

    def message(self, sid: bytes, subject: bytes, reply: bytes, headers: bytes, payload: bytes) -> None:
        """A message for a subscription."""
        try:
            self._owner.take(int(sid), subject, reply, headers, payload)
        except (ValueError, Malformed) as e:
            # A subject that is no text (UnicodeDecodeError is a ValueError), headers that are none.
            self._owner.complain(e)

    def ping(self) -> None:
        """The server asks whether this client lives."""
        self.write(_PONG)

    def pong(self) -> None:
        """The server answers a ping."""
        self._owner.take_pong()

    def info(self, document: bytes) -> None:
        """The server says something of itself."""
        try:
            said = json.loads(document)
        except ValueError as e:
            self._owner.complain(e)
            return
        self._owner.take_info(said)

    def error(self, text: str) -> None:
        """The server refuses something, or the whole connection."""
        self._owner.take_refusal(text)
