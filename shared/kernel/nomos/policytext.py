"""A policy text in pieces, so that a text of any size fits into records of the log and messages of the bus.

A piece is named by the SHA-256 of its bytes; a text is the pieces in order. Where a text is cut depends on what stands
there and not on what stands before, so an edit of one policy makes one or two new pieces, and all others are known
already. Cuts fall behind a line that ends a policy where they can.

Pure. A piece is text, not a policy: nothing may be concluded from one alone.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterable, Mapping
from typing import Final

from nomos.errors import MalformedRecord

#: Bytes of a text, or of a piece, as JSON writes it, that one event holds.
PIECE_BYTES_MAX: Final = 40_000
#: A piece is at least so long before it is cut behind a policy, and on average one longer.
_PIECE_BYTES_MIN: Final = 8_000
_ONE_IN: Final = 32
#: Characters before a cut that decide it.
_WINDOW: Final = 160


def piece_name(text: str) -> str:
    """SHA-256 of a piece, hex."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def is_one_event(text: str) -> bool:
    """Whether a text needs no pieces."""
    return _size(text) <= PIECE_BYTES_MAX


def cut_text(text: str) -> tuple[str, ...]:
    """The pieces of a text, in order, each within :data:`PIECE_BYTES_MAX`; none for an empty text."""
    pieces: list[str] = []
    lines: list[str] = []
    size = 0
    for line in _lines(text):
        added = _size(line)
        if lines and size + added > PIECE_BYTES_MAX:
            pieces.append("".join(lines))
            lines, size = [], 0
        lines.append(line)
        size += added
        if size >= _PIECE_BYTES_MIN and line.rstrip().endswith(";") and _is_cut("".join(lines[-8:])):
            pieces.append("".join(lines))
            lines, size = [], 0
    if lines:
        pieces.append("".join(lines))
    return tuple(pieces)


def join_pieces(names: Iterable[str], known: Mapping[str, str]) -> str:
    """The text that pieces make.

    Args:
        names: in order.
        known: pieces by name.

    Raises:
        MalformedRecord: one is not known.
    """
    try:
        return "".join(known[name] for name in names)
    except KeyError as error:
        raise MalformedRecord(f"a piece of the text is not there: {str(error)[:20]}") from error


def _lines(text: str) -> Iterable[str]:
    """Lines with their ends; one that is too long for a piece in parts."""
    for line in text.splitlines(keepends=True):
        if _size(line) <= PIECE_BYTES_MAX:
            yield line
            continue
        # A character is at most twelve bytes in JSON: a surrogate pair of escapes.
        step = PIECE_BYTES_MAX // 12
        yield from (line[start : start + step] for start in range(0, len(line), step))


def _size(text: str) -> int:
    return len(json.dumps(text, ensure_ascii=False).encode("utf-8", "surrogatepass"))


def _is_cut(before: str) -> bool:
    return zlib.crc32(before[-_WINDOW:].encode("utf-8", "surrogatepass")) % _ONE_IN == 0
