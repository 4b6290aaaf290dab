"""One HTTP/2 connection to an upstream: many exchanges at once, each with the limits of one over HTTP/1.1.

The frames are the library h2's. Decided here: how much may be read ahead (for each stream until its reader has taken
it; the connection's own window never waits for a slow reader), what a broken connection means for each exchange on it,
and when a peer that sends only control frames is left.

What a failure means is as in :mod:`nomos_proxy.exchange`, and HTTP/2 says one thing more: a stream that was refused, or
lies beyond the last one of a GOAWAY, was not processed (:class:`NotProcessed`), so it may be sent again.

A header that may hold a secret never enters the compression table, here or at any hop (RFC 7541 section 7.1.3).
Sources: RFC 9113; RFC 7541.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final, cast

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
from hpack import HeaderTuple, NeverIndexedHeaderTuple

from nomos.errors import UnknownOutcome, UpstreamFailed
from nomos_proxy.answer import AnswerHead, AnswerRefused
from nomos_proxy.exchange import INTERIM_ANSWERS_MAX, Limits, StaleConnection, WireRequest, check_fields
from nomos_proxy.headers import passing_headers

#: Bytes of one stream that wait for a reader before its sender must wait.
STREAM_WINDOW_BYTES: Final = 262_144
#: The same of a connection. It is given back at once, so that one slow reader holds up no other.
CONNECTION_WINDOW_BYTES: Final = 16_777_216
#: Frames in a row that bring no exchange further (PING, SETTINGS, empty DATA, ...). A peer that sends more is left.
IDLE_FRAMES_MAX: Final = 1_000
#: Headers that hold no secret, so that compression may remember them.
_INDEXED: Final = frozenset({b"accept", b"accept-encoding", b"content-length", b"content-type", b"user-agent"})
_SETTINGS: Final = {
    h2.settings.SettingCodes.ENABLE_PUSH: 0,
    h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: STREAM_WINDOW_BYTES,
    h2.settings.SettingCodes.MAX_HEADER_LIST_SIZE: Limits().head_bytes,
}


class NotProcessed(UpstreamFailed):
    """The upstream says that it did nothing with the request (RFC 9113 section 8.7): it may be sent again."""


class Connection(asyncio.Protocol):
    """A connection, TLS or not."""

    def __init__(self) -> None:
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True, header_encoding=None))
        self._h2.local_settings = h2.settings.Settings(client=True, initial_values=_SETTINGS)
        self._transport: asyncio.Transport | None = None
        self._exchanges: dict[int, Exchange] = {}
        self._changed: asyncio.Future[None] | None = None
        self._is_closed = False
        self._is_leaving = False
        self._idle_frames = 0
        #: Exchanges that this connection has begun.
        self.begun = 0
        #: Loop time at which the last exchange ended, seconds.
        self.idle_since = 0.0

    # --- the socket -------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Says hello: settings, and a window for the whole connection."""
        self._transport = cast(asyncio.Transport, transport)
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(CONNECTION_WINDOW_BYTES - self._h2.inbound_flow_control_window)
        self._flush()

    def data_received(self, data: bytes) -> None:
        """Hands frames to their exchanges."""
        try:
            events = self._h2.receive_data(data)
        except h2.exceptions.ProtocolError as error:
            self._flush()  # tells the peer why
            self._fail(UnknownOutcome("the upstream's answer is broken", cause=str(error)[:200]))
            self.close()
            return
        for event in events:
            self._take(event)
        if self._idle_frames > IDLE_FRAMES_MAX:
            self._fail(UnknownOutcome(f"more than {IDLE_FRAMES_MAX} frames that bring nothing further"))
            self.close()
        self._flush()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends what is under way."""
        self._is_closed = True
        for exchange in list(self._exchanges.values()):
            kind = UnknownOutcome if exchange.has_head or self.begun == 1 else StaleConnection
            exchange.fail(kind("the upstream ended without a complete answer"))
        self._exchanges.clear()
        self._wake()

    # --- for the pool -----------------------------------------------------------------------------------------

    @property
    def is_usable(self) -> bool:
        """Whether a further exchange may begin."""
        is_closing = self._transport is None or self._transport.is_closing()
        return not (self._is_closed or self._is_leaving or is_closing)

    @property
    def is_resting(self) -> bool:
        """Whether nothing is under way."""
        return not self._exchanges

    @property
    def has_room(self) -> bool:
        """Whether the peer takes a further stream now."""
        return len(self._exchanges) < self._h2.remote_settings.max_concurrent_streams

    async def changed(self) -> None:
        """Waits until frames have come, or a stream has ended. The caller bounds the wait."""
        if self._is_closed:
            return
        if self._changed is None or self._changed.done():
            self._changed = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._changed)

    async def begin(self, request: WireRequest, limits: Limits) -> Exchange:
        """Sends a request; its body as fast as the peer takes it.

        Raises:
            UpstreamFailed, Expired: it could not be written, or not in time; nothing was sent.
            UnknownOutcome: the connection ended while its body was sent.
        """
        limits.check_begin()
        stream = self._send_head(request)
        exchange = Exchange(self, stream, limits)
        self._exchanges[stream] = exchange
        self.begun += 1
        try:
            if request.body:
                await self._send_body(exchange, stream, request.body)
        except BaseException:
            exchange.close()
            raise
        return exchange

    def close(self) -> None:
        """Ends the connection now."""
        self._is_closed = True
        if self._transport is not None:
            self._transport.abort()
        self._wake()

    # --- for an exchange --------------------------------------------------------------------------------------

    def took(self, stream: int, size: int) -> None:
        """A reader has taken bytes: the peer may send as many again."""
        if stream in self._exchanges and not self._is_closed:
            self._h2.increment_flow_control_window(size, stream)
            self._flush()

    def ended(self, stream: int, *, is_complete: bool) -> None:
        """An exchange is over: complete, or nobody wants its rest."""
        if self._exchanges.pop(stream, None) is not None and not is_complete and not self._is_closed:
            # unless the peer was faster
            with suppress(h2.exceptions.StreamClosedError):
                self._h2.reset_stream(stream, h2.errors.ErrorCodes.CANCEL)
            self._flush()
        self.idle_since = asyncio.get_running_loop().time()
        self._wake()

    # --- frames -----------------------------------------------------------------------------------------------

    def _send_head(self, request: WireRequest) -> int:
        named = dict(request.headers)
        fields: list[HeaderTuple] = [
            HeaderTuple(b":method", request.method.encode("ascii")),
            HeaderTuple(b":scheme", b"https"),
            HeaderTuple(b":authority", named[b"host"]),
            HeaderTuple(b":path", request.target.encode("ascii")),
        ]
        for name, value in request.headers:
            if name != b"host":
                fields.append((HeaderTuple if name in _INDEXED else NeverIndexedHeaderTuple)(name, value))
        try:
            stream = self._h2.get_next_available_stream_id()
            self._h2.send_headers(stream, fields, end_stream=not request.body)
        except h2.exceptions.NoAvailableStreamIDError:
            self._is_leaving = True
            raise UpstreamFailed("the connection has no numbers left for further streams") from None
        except h2.exceptions.ProtocolError:
            # its message can hold a header's value, so it is not chained
            raise UpstreamFailed("the request cannot be written as HTTP/2") from None
        self._flush()
        return stream

    async def _send_body(self, exchange: Exchange, stream: int, body: bytes) -> None:
        at = 0
        while at < len(body):
            exchange.check()
            if self._is_closed:
                raise UnknownOutcome("the upstream ended without a complete answer")
            size = min(self._h2.local_flow_control_window(stream), self._h2.max_outbound_frame_size, len(body) - at)
            if size <= 0:
                await self.changed()
                continue
            self._h2.send_data(stream, body[at : at + size], end_stream=at + size == len(body))
            at += size
            self._flush()
            if exchange.is_complete:
                # answered before it was all sent, which a peer may (RFC 9113 section 8.1)
                return

    def _take(self, event: h2.events.Event) -> None:
        self._idle_frames += 1
        match event:
            case h2.events.DataReceived():
                if event.flow_controlled_length:
                    self._h2.increment_flow_control_window(event.flow_controlled_length)
                exchange = self._of(event.stream_id)
                if exchange is not None and event.data:
                    self._idle_frames = 0
                    exchange.add(event.data)
            case h2.events.ResponseReceived():
                if (exchange := self._of(event.stream_id)) is not None:
                    self._idle_frames = 0
                    exchange.answer([(bytes(name), bytes(value)) for name, value in event.headers or ()])
            case h2.events.InformationalResponseReceived():
                if (exchange := self._of(event.stream_id)) is not None:
                    exchange.interim()
            case h2.events.StreamEnded():
                if (exchange := self._of(event.stream_id)) is not None:
                    self._idle_frames = 0
                    exchange.end()
            case h2.events.StreamReset():
                if (exchange := self._exchanges.pop(event.stream_id or 0, None)) is not None:
                    is_refused = event.error_code == h2.errors.ErrorCodes.REFUSED_STREAM
                    exchange.fail(
                        _not_processed() if is_refused else UnknownOutcome("the upstream broke off its answer")
                    )
            case h2.events.ConnectionTerminated():
                self._leave(event.last_stream_id or 0)

    def _of(self, stream: int | None) -> Exchange | None:
        return self._exchanges.get(stream or 0)

    def _leave(self, last: int) -> None:
        """The peer takes no further stream, and has not processed those beyond its last one."""
        self._is_leaving = True
        for stream in [stream for stream in self._exchanges if stream > last]:
            self._exchanges.pop(stream).fail(_not_processed())
        if not self._exchanges:
            self.close()

    def _fail(self, error: UnknownOutcome) -> None:
        for exchange in list(self._exchanges.values()):
            exchange.fail(error)
        self._exchanges.clear()

    def _flush(self) -> None:
        data = self._h2.data_to_send()
        if data and self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def _wake(self) -> None:
        if self._changed is not None and not self._changed.done():
            self._changed.set_result(None)


def _not_processed() -> NotProcessed:
    return NotProcessed("the upstream has not taken the request on")


class Exchange:
    """One request on the connection, and its answer while it comes. A read may be cancelled; nothing is lost by it."""

    __slots__ = (
        "_connection", "_error", "_fields", "_interim", "_limits", "_received", "_status", "_stream",
        "_waiter", "_waiting", "is_complete",
    )  # fmt: skip

    def __init__(self, connection: Connection, stream: int, limits: Limits) -> None:
        self._connection = connection
        self._stream = stream
        self._limits = limits
        self._fields: list[tuple[bytes, bytes]] | None = None
        self._status = 0
        self._interim = 0
        #: What came and was not read, and how much came in all.
        self._waiting = bytearray()
        self._received = 0
        self._error: UnknownOutcome | UpstreamFailed | AnswerRefused | None = None
        self._waiter: asyncio.Future[None] | None = None
        #: Whether the whole answer has come.
        self.is_complete = False

    @property
    def has_head(self) -> bool:
        """Whether an answer has begun."""
        return self._fields is not None

    async def head(self) -> AnswerHead:
        """Status and headers of the answer. Called once, before :meth:`read`.

        Raises:
            NotProcessed, StaleConnection, UnknownOutcome, AnswerRefused: as :func:`nomos_proxy.exchange.exchange`.
        """
        while self._fields is None:
            self.check()
            await self._wait()
        fields = [field for field in self._fields if not field[0].startswith(b":")]
        try:
            check_fields(self._status, fields, self._limits)
        except AnswerRefused:
            self.close()
            raise
        return AnswerHead(status=self._status, headers=passing_headers(fields))

    async def read(self) -> bytes:
        """The next bytes of the body, as they come; ``b""`` at its end.

        Raises:
            UnknownOutcome, AnswerRefused: as :func:`nomos_proxy.exchange.exchange`.
        """
        while True:
            if self._waiting:
                taken = bytes(self._waiting)
                self._waiting.clear()
                self._received += len(taken)
                if self._received > self._limits.body_bytes:
                    self.close()
                    limit = self._limits.body_bytes
                    raise AnswerRefused(f"the answer is over the limit of {limit} bytes", self._status)
                self._connection.took(self._stream, len(taken))
                return taken
            if self.is_complete:
                return b""
            self.check()
            await self._wait()

    def check(self) -> None:
        """Raises what ended the exchange, if something has."""
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Lets go of the exchange; the connection stays."""
        self._connection.ended(self._stream, is_complete=self.is_complete)

    # --- what the connection says -----------------------------------------------------------------------------

    def interim(self) -> None:
        """An answer before the answer."""
        self._interim += 1
        if self._interim > INTERIM_ANSWERS_MAX:
            self.fail(UnknownOutcome(f"more than {INTERIM_ANSWERS_MAX} interim answers"))
            self.close()

    def answer(self, fields: list[tuple[bytes, bytes]]) -> None:
        """Status and headers have come."""
        status = dict(fields).get(b":status", b"")
        if not (len(status) == 3 and status.isdigit()):
            self.fail(UnknownOutcome("the upstream's answer is broken in its head"))
            self.close()
            return
        self._status = int(status)
        self._fields = fields
        self._wake()

    def add(self, data: bytes) -> None:
        """Bytes of the body have come; the window bounds how many may wait."""
        self._waiting += data
        self._wake()

    def end(self) -> None:
        """The last byte has come."""
        self.is_complete = True
        self._connection.ended(self._stream, is_complete=True)
        self._wake()

    def fail(self, error: UnknownOutcome | UpstreamFailed) -> None:
        """There will be no complete answer."""
        self._error = error
        self._wake()

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
