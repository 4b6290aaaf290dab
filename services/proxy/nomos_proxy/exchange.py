"""One request and its answer on one connection, with every limit that an answer has.

What a failure means depends on when it happens, and the error says which:

* before the first byte is handed to the socket: :class:`~nomos.errors.UpstreamFailed`, nothing was sent;
* after it and before a complete answer: :class:`~nomos.errors.UnknownOutcome`, it may have taken effect;
* a complete head whose body will not be passed on: :class:`~nomos_proxy.answer.AnswerRefused`, with the status, so
  that the record can say what the upstream did.

Order of the checks on an answer: head size, number of headers, framing, encoding, declared size, received size.

A plain answer, whose head comes at once and says its length, is cut here (:mod:`nomos_proxy.plainhttp`); h11 reads
every other one.

Sources: RFC 9112 sections 6 and 7 (framing), RFC 9110 section 15.2 (interim answers).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

import h11
from msgspec import Struct

from nomos.errors import Expired, UnknownOutcome, UpstreamFailed
from nomos.messages import now_ms
from nomos_proxy.answer import AnswerHead, AnswerRefused, UpstreamResponse
from nomos_proxy.headers import passing_headers
from nomos_proxy.plainhttp import parse_plain, write_plain
from nomos_proxy.wire import Wire

#: Interim (1xx) answers before the real one.
INTERIM_ANSWERS_MAX: Final = 8
_HEAD_END: Final = b"\r\n\r\n"


class Limits(Struct, frozen=True, kw_only=True):
    """Bounds of one upstream call.

    Attributes:
        total_seconds: from the wait for a connection to the last byte of the answer; 0.05 to 120.
        connect_seconds: name, TCP and TLS of a fresh connection, inside the total.
        head_bytes: status line and headers of an answer together.
        headers: number of headers of an answer.
        body_bytes: body of an answer. One message of the bus carries at most 900,000 bytes with everything around it.
        begin_by_ms: Unix milliseconds after which nothing is begun; 0 for no such moment. Looked at right before the
            first byte: a process that stood still in between must not act late.
    """

    total_seconds: float = 20.0
    connect_seconds: float = 5.0
    head_bytes: int = 32_768
    headers: int = 100
    body_bytes: int = 786_432
    begin_by_ms: int = 0

    def check_begin(self) -> None:
        """Refuses to begin too late.

        Raises:
            Expired: the moment is over.
        """
        if self.begin_by_ms and now_ms() > self.begin_by_ms:
            raise Expired("the deadline of this request is over; nothing was sent")


class WireRequest(Struct, frozen=True, kw_only=True):
    """A request as it will stand on the wire. Holds the credential, which its ``repr`` leaves out."""

    method: str
    target: str
    headers: Sequence[tuple[bytes, bytes]]
    body: bytes | None

    def __repr__(self) -> str:
        return f"WireRequest({self.method} {self.target!r})"


class StaleConnection(UnknownOutcome):
    """A kept connection ended before one byte of an answer. Only a request without effect may be sent again."""


async def exchange(wire: Wire, request: WireRequest, limits: Limits) -> UpstreamResponse:
    """Sends one request and reads its whole answer. The caller bounds the time and closes the connection on any error.

    Raises:
        UpstreamFailed: the request could not be written; nothing was sent.
        StaleConnection: the connection ended before the first byte of an answer.
        UnknownOutcome: no complete answer came back.
        AnswerRefused: the answer breaks a limit or a framing rule.
    """
    under_way = Exchange(wire, request, limits)
    head = await under_way.head()
    body = bytearray()
    while chunk := await under_way.read():
        body += chunk
    return UpstreamResponse(status=head.status, headers=head.headers, body=bytes(body))


class Exchange:
    """One request that has been sent, and its answer while it comes. A read may be cancelled; nothing is lost by it."""

    __slots__ = ("_connection", "_held", "_is_over", "_left", "_limits", "_method", "_received", "_status", "_wire")

    def __init__(self, wire: Wire, request: WireRequest, limits: Limits) -> None:
        """Sends the request.

        Raises:
            UpstreamFailed, Expired: it could not be written, or not in time; nothing was sent.
        """
        self._wire = wire
        self._method = request.method
        self._limits = limits
        #: Reads an answer that is not plain; None while it may be.
        self._connection: h11.Connection | None = None
        #: Of a plain answer: bytes of its body that have not come, and bytes that were received and not given.
        self._left = 0
        self._held = b""
        self._is_over = False
        #: Of the answer; 0 until its head was read.
        self._status = 0
        self._received = 0
        wire.begin()
        # written in a frame of its own: a traceback that shows local variables must not find the credential in this one
        self._connection = _write(wire, request, limits)
        # from here on the upstream may have seen the request

    async def head(self) -> AnswerHead:
        """Status and headers of the answer. Called once, before :meth:`read`.

        Raises:
            StaleConnection, UnknownOutcome, AnswerRefused: as :func:`exchange`.
        """
        if self._connection is None:
            received = await self._wire.read()
            end = received.find(_HEAD_END)
            plain = parse_plain(received[:end]) if 0 <= end <= self._limits.head_bytes else None
            if plain is not None:
                self._status, self._left, self._held = plain.status, plain.length, received[end + len(_HEAD_END) :]
                check_fields(plain.status, plain.fields, self._limits)
                return AnswerHead(status=plain.status, headers=passing_headers(plain.fields))
            self._connection = _reader(self._method, self._limits)
            _take(self._connection, received)
        return await self._other_head(self._connection)

    async def _other_head(self, connection: h11.Connection) -> AnswerHead:
        interim_answers = 0
        while True:
            match await self._next_event(connection):
                case h11.InformationalResponse():
                    interim_answers += 1
                    if interim_answers > INTERIM_ANSWERS_MAX:
                        raise UnknownOutcome(f"more than {INTERIM_ANSWERS_MAX} interim answers")
                case h11.Response() as head:
                    self._status = head.status_code
                    _check_head(head, self._method, self._limits)
                    received = head.headers.raw_items()
                    return AnswerHead(status=head.status_code, headers=passing_headers(received))
                case _:
                    raise UnknownOutcome("the upstream ended without a complete answer")

    async def read(self) -> bytes:
        """The next bytes of the body, as they come; ``b""`` at its end, and the connection rests or is closed then.

        Raises:
            UnknownOutcome, AnswerRefused: as :func:`exchange`.
        """
        if not self._status:
            raise RuntimeError("the head is read first")
        if self._connection is None:
            return await self._read_plain()
        while True:
            match await self._next_event(self._connection):
                case h11.Data() as data if data.data:
                    self._received += len(data.data)
                    if self._received > self._limits.body_bytes:
                        limit = self._limits.body_bytes
                        raise AnswerRefused(f"the answer is over the limit of {limit} bytes", self._status)
                    return bytes(data.data)
                case h11.Data():
                    continue
                case h11.EndOfMessage():
                    _rest_or_close(self._wire, self._connection)
                    return b""
                case _:
                    raise UnknownOutcome("the upstream ended without a complete answer")

    async def _read_plain(self) -> bytes:
        """As :meth:`read`, of a body whose length was said and is within the limit."""
        if not self._left:
            if not self._is_over:
                self._is_over = True
                if self._held:
                    # more than the answer: it could be taken for the next one
                    self._wire.close()
                else:
                    self._wire.rest(asyncio.get_running_loop().time())
            return b""
        data = self._held or await self._wire.read()
        if not data:
            raise UnknownOutcome("the upstream's answer is broken in its body", cause=f"{self._left} bytes are missing")
        data, self._held = data[: self._left], data[self._left :]
        self._left -= len(data)
        return data

    async def _next_event(self, connection: h11.Connection) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        while True:
            try:
                event = connection.next_event()
            except h11.RemoteProtocolError as error:
                what = "body" if self._status else "head"
                raise UnknownOutcome(f"the upstream's answer is broken in its {what}", cause=str(error)[:200]) from None
            if event is not h11.NEED_DATA:
                return event
            _take(connection, await self._wire.read())


def _write(wire: Wire, request: WireRequest, limits: Limits) -> h11.Connection | None:
    """Sends the request; gives who reads the answer, where the request was not plain."""
    connection = None
    serialized = write_plain(request.method, request.target, request.headers, request.body)
    if serialized is None:
        connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=limits.head_bytes)
        serialized = _serialized(connection, request)
    limits.check_begin()
    wire.write(serialized)
    return connection


def _serialized(connection: h11.Connection, request: WireRequest) -> bytes:
    try:
        head = connection.send(h11.Request(method=request.method, target=request.target, headers=list(request.headers)))
        body = b"" if request.body is None else connection.send(h11.Data(data=request.body))
        return b"".join(part or b"" for part in (head, body, connection.send(h11.EndOfMessage())))
    except h11.LocalProtocolError:
        # its message can hold a header's value, so it is not chained
        raise UpstreamFailed("the request cannot be written as HTTP/1.1") from None


def _reader(method: str, limits: Limits) -> h11.Connection:
    """Who reads the answer to a plain request: of the request only its method matters to it."""
    connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=limits.head_bytes)
    connection.send(h11.Request(method=method, target="/", headers=[("host", "upstream")]))
    connection.send(h11.EndOfMessage())
    return connection


def _take(connection: h11.Connection, received: bytes) -> None:
    if not received and connection.their_state is h11.SEND_RESPONSE and not connection.trailing_data[0]:
        raise StaleConnection("the upstream ended without an answer")
    connection.receive_data(received)


def _check_head(head: h11.Response, method: str, limits: Limits) -> None:
    status = head.status_code
    fields = [(bytes(name), bytes(value)) for name, value in head.headers]
    # first, because a great many headers say nothing about framing
    if len(fields) > limits.headers:
        raise AnswerRefused(f"the answer has more than {limits.headers} headers", status)
    named = {name for name, _ in fields}
    if {b"content-length", b"transfer-encoding"} <= named:
        raise AnswerRefused("the answer is framed by length and by chunks", status)
    has_no_body = method == "HEAD" or status in (204, 304)
    if not has_no_body and not named & {b"content-length", b"transfer-encoding"}:
        # an answer that ends with the connection cannot be told from one that was cut short
        raise AnswerRefused("the answer is framed neither by length nor by chunks", status)
    check_fields(status, fields, limits)


def check_fields(status: int, fields: Sequence[tuple[bytes, bytes]], limits: Limits) -> None:
    """Checks the headers of an answer of any version of HTTP; names in lower case.

    Raises:
        AnswerRefused: too many, or they say that the body is encoded, ambiguous or too large.
    """
    if len(fields) > limits.headers:
        raise AnswerRefused(f"the answer has more than {limits.headers} headers", status)
    if sum(len(name) + len(value) for name, value in fields) > limits.head_bytes:
        raise AnswerRefused(f"the answer's headers are over the limit of {limits.head_bytes} bytes", status)
    named: dict[bytes, list[bytes]] = {}
    for name, value in fields:
        named.setdefault(name, []).append(value)
    if any(value.strip().lower() != b"identity" for value in named.get(b"content-encoding", [])):
        raise AnswerRefused("the answer is encoded, although identity was asked for", status)
    if len(named.get(b"content-type", [])) > 1:
        raise AnswerRefused("the answer has more than one content type", status)
    lengths = named.get(b"content-length", [])
    if lengths and (not lengths[0].isdigit() or int(lengths[0]) > limits.body_bytes):
        raise AnswerRefused(f"the answer is over the limit of {limits.body_bytes} bytes", status)


def _rest_or_close(wire: Wire, connection: h11.Connection) -> None:
    """Keeps the connection only if both sides are done and nothing follows the answer."""
    is_reusable = connection.our_state is h11.DONE and connection.their_state is h11.DONE
    if is_reusable and not connection.trailing_data[0]:
        wire.rest(asyncio.get_running_loop().time())
    else:
        wire.close()
