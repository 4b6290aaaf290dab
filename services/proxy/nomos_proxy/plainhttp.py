"""The plain case of HTTP/1.1, which is nearly every call: a request of a few headers, an answer framed by its length.

Says ``None`` to everything else, and h11 takes the same bytes from their beginning: whatever is unusual (chunks, an
answer that closes, an interim one, a folded or odd line) is read by the parser that knows all of it. What is taken here
means the same to h11, byte for byte; a test holds both to it.

Sources: RFC 9112 sections 3 to 6; RFC 9110 section 5.

Not trusted: an answer's bytes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from msgspec import Struct

_TOKEN: Final = rb"[-!#$%&'*+.^_`|~0-9A-Za-z]+"
_TEXT: Final = rb"[!-~]+(?:[ \t]+[!-~]+)*"
_METHOD: Final = re.compile(rb"GET|POST|PUT|PATCH|DELETE")
_TARGET: Final = re.compile(rb"/[!-~]*")
_NAME: Final = re.compile(_TOKEN)
_VALUE: Final = re.compile(_TEXT)
_STATUS_LINE: Final = re.compile(rb"HTTP/1\.1 ([2-5][0-9]{2})(?: [ -~]*)?")
_FIELD_LINE: Final = re.compile(rb"(" + _TOKEN + rb"):[ \t]*(" + _TEXT + rb")[ \t]*")
#: A length of more digits is not plain.
_LENGTH: Final = re.compile(rb"[0-9]{1,15}")
#: Headers that change how a request is sent, or what follows it.
_NOT_PLAIN: Final = frozenset({b"connection", b"transfer-encoding", b"expect", b"upgrade"})
#: Answers without a body, whatever their headers say.
_BODILESS: Final = frozenset({204, 304})


class PlainHead(Struct, frozen=True, kw_only=True):
    """Status, headers (lower-case names, in order) and bytes of the body of a plain answer."""

    status: int
    fields: list[tuple[bytes, bytes]]
    length: int


def write_plain(method: str, target: str, headers: Sequence[tuple[bytes, bytes]], body: bytes | None) -> bytes | None:
    """A request as it stands on the wire; None where it is not plain."""
    begin = (method.encode("latin-1", "replace"), target.encode("latin-1", "replace"))
    if not (_METHOD.fullmatch(begin[0]) and _TARGET.fullmatch(begin[1])):
        return None
    if not headers or headers[0][0] != b"host":
        return None
    lines = [b"%s %s HTTP/1.1\r\n" % begin]
    seen = set()
    length = b""
    for name, value in headers:
        if name in seen or name in _NOT_PLAIN or name != name.lower():
            return None
        if not (_NAME.fullmatch(name) and _VALUE.fullmatch(value)):
            return None
        seen.add(name)
        if name == b"content-length":
            length = value
        lines.append(b"%s: %s\r\n" % (name, value))
    if length != (b"%d" % len(body) if body is not None else length and b"0"):
        return None
    lines.append(b"\r\n")
    if body is not None:
        lines.append(body)
    return b"".join(lines)


def parse_plain(head: bytes) -> PlainHead | None:
    """Reads the head of an answer to a request that was plain, without the empty line; None where it is not plain."""
    first, *lines = head.split(b"\r\n")
    begin = _STATUS_LINE.fullmatch(first)
    if begin is None or (status := int(begin[1])) in _BODILESS:
        return None
    fields = []
    length = None
    for line in lines:
        field = _FIELD_LINE.fullmatch(line)
        if field is None:
            return None
        name, value = field[1].lower(), field[2]
        if name == b"content-length":
            if length is not None or not _LENGTH.fullmatch(value):
                return None
            length = int(value)
        elif name in _NOT_PLAIN and not (name == b"connection" and value.lower() == b"keep-alive"):
            return None
        fields.append((name, value))
    return None if length is None else PlainHead(status=status, fields=fields, length=length)
