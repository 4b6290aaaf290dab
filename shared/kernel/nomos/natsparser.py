"""What a NATS server sends, cut into operations: bytes in, calls of a handler out.

Decides where one operation ends and the next begins, and nothing about subscriptions or answers
(:mod:`nomos.natsclient`). One pass over what arrived, with one copy for each payload; what is incomplete is kept.

Source: the client protocol of NATS (docs.nats.io/reference/reference-protocols/nats-protocol), headers by ADR-4.

Trusted: the server, to be a NATS server. Not trusted: subjects, headers and payloads, which other clients chose.
"""

from __future__ import annotations

from typing import Final, Protocol

from nomos.errors import Malformed

#: Bytes of one control line; the server's own bound of what it takes is 4 KiB, and its INFO may be longer.
CONTROL_LINE_BYTES_MAX: Final = 32_768
#: Bytes of one message with its headers; far above the bus's ``max_payload``.
MESSAGE_BYTES_MAX: Final = 64 * 1024 * 1024
_END: Final = b"\r\n"
_HEADER_LINE: Final = b"NATS/1.0"


class Operations(Protocol):
    """Who hears of the operations, in the order in which they arrived. No method may raise."""

    def message(self, sid: bytes, subject: bytes, reply: bytes, headers: bytes, payload: bytes) -> None:
        """A message for subscription ``sid``; ``headers`` is its raw block, empty where there is none."""

    def ping(self) -> None:
        """The server asks whether this client lives."""

    def pong(self) -> None:
        """The server answers a ping."""

    def info(self, document: bytes) -> None:
        """The server says something of itself, as JSON."""

    def error(self, text: str) -> None:
        """The server refuses something, or the whole connection."""


class Parser:
    """Cuts one connection's bytes. A new connection takes a new one."""

    __slots__ = ("_held", "_needed", "_to")

    def __init__(self, to: Operations) -> None:
        self._to = to
        #: The beginning of an operation whose end has not arrived.
        self._held = bytearray()
        #: Bytes of it below which looking again finds nothing new.
        self._needed = 0

    def feed(self, data: bytes) -> None:
        """Takes the next bytes.

        Raises:
            Malformed: they are no NATS protocol; the connection cannot be read on.
        """
        if self._held:
            self._held += data
            if len(self._held) < self._needed:
                return
            data = bytes(self._held)
            self._held.clear()
        at = self._cut(data)
        if at < len(data):
            self._held += data[at:] if at else data

    def _cut(self, data: bytes) -> int:
        """Handles every complete operation; gives where the incomplete one begins."""
        at, size = 0, len(data)
        self._needed = 0
        while at < size:
            end = data.find(_END, at)
            if end < 0:
                if size - at > CONTROL_LINE_BYTES_MAX:
                    raise Malformed(f"a line of the bus is over CONTROL_LINE_BYTES_MAX, {CONTROL_LINE_BYTES_MAX}")
                return at
            line = data[at:end]
            if line.startswith((b"MSG ", b"HMSG ")):
                after = self._message(data, at, line, end + 2)
                if after < 0:
                    return at
                at = after
            else:
                self._control(line)
                at = end + 2
        return at

    def _message(self, data: bytes, at: int, line: bytes, begin: int) -> int:
        """Handles the message whose control line was read; gives where it ends, or -1 where it has not arrived."""
        match line.split():
            case [b"MSG", subject, sid, total]:
                reply, headed = b"", b"0"
            case [b"MSG", subject, sid, reply, total]:
                headed = b"0"
            case [b"HMSG", subject, sid, headed, total]:
                reply = b""
            case [b"HMSG", subject, sid, reply, headed, total]:
                pass
            case _:
                raise Malformed("a message of the bus has a control line that is none")
        if not (total.isdigit() and headed.isdigit() and len(total) <= 10 and len(headed) <= 10):
            raise Malformed("a message of the bus has a length that is none")
        middle, end = begin + int(headed), begin + int(total)
        if middle > end or end - begin > MESSAGE_BYTES_MAX:
            raise Malformed("a message of the bus has a length that cannot be")
        if len(data) < end + 2:
            self._needed = end + 2 - at
            return -1
        if data[end : end + 2] != _END:
            raise Malformed("a message of the bus does not end where it says")
        self._to.message(sid, subject, reply, data[begin:middle], data[middle:end])
        return end + 2

    def _control(self, line: bytes) -> None:
        word, _, rest = line.partition(b" ")
        match word.upper():
            case b"PING":
                self._to.ping()
            case b"PONG":
                self._to.pong()
            case b"+OK":
                pass
            case b"INFO":
                self._to.info(rest)
            case b"-ERR":
                self._to.error(rest.decode("utf-8", "replace").strip())
            case _:
                raise Malformed("the bus sent an operation that is none")


def parse_headers(block: bytes) -> dict[str, str] | None:
    """The headers of a message; the status of a line such as ``NATS/1.0 503`` stands as ``Status`` and ``Description``.

    What cannot be read as a header is left out, as nats-py does it: a name that is not ASCII or has a space in it.

    Raises:
        Malformed: it is no header block.
    """
    if not block:
        return None
    first, end, rest = block.partition(_END)
    if not first.startswith(_HEADER_LINE) or not end:
        raise Malformed("a message of the bus has headers that are none")
    found: dict[str, str] = {}
    code, _, description = first[len(_HEADER_LINE) :].strip().partition(b" ")
    if code.isdigit():
        found["Status"] = code.decode("ascii")
        if description:
            found["Description"] = description.strip().decode("utf-8", "replace")
    for line in rest.split(_END):
        name, colon, value = line.partition(b":")
        name = name.strip()
        if colon and name.isascii() and not any(space in name for space in b" \t"):
            found[name.decode("ascii")] = value.strip().decode("utf-8", "replace")
    return found or None
