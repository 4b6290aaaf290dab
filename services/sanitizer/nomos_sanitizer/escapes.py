"""Escape sequences: what percent signs, HTML entities and backslashes stand for.

Decides what an escape is and stands for: RFC 3986 section 2.1; HTML, section Named character references; RFC 8259
section 7 and the escapes that programming languages share. There are two ways to one answer: a loop, for texts with
few escapes, and arrays, for texts with many (:mod:`nomos_sanitizer.escape_arrays`); a test holds them to be the same.
Leaves to :mod:`nomos_sanitizer.scrub` what is searched for in the decoded text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html.entities import html5
from typing import Final

from nomos_sanitizer import escape_arrays
from nomos_sanitizer.budget import Budget
from nomos_sanitizer.edits import View
from nomos_sanitizer.engine import Spans
from nomos_sanitizer.masks import MaskView

#: A place in a text, from where to where, and what stands there instead.
Change = tuple[int, int, bytes]
#: One escape sequence. As the gate of a scan, and as the step of the loop below.
ESCAPE_PATTERN: Final = (
    rb"%[0-9A-Fa-f]{2}"
    rb"|\\u[0-9A-Fa-f]{4}|\\u\{[0-9A-Fa-f]{1,6}\}|\\U[0-9A-Fa-f]{8}|\\x[0-9A-Fa-f]{2}|\\[0-7]{1,3}|\\[nrtbfv\"'/\\]"
    rb"|&#[0-9]{1,7};?|&#[xX][0-9A-Fa-f]{1,6};?|&[A-Za-z][A-Za-z0-9]{1,31};"
)
#: Up to so many escapes, and one more for so many bytes, the loop costs less than the arrays.
_FEW: Final = 64
_BYTES_FOR_EACH: Final = 512
#: Where so many bytes of a text begin with many escapes, the loop is not tried.
_HEAD_BYTES: Final = 4_096
_MARKS: Final = (b"%", b"\\", b"&")
_NO_BOUND: Final = 1 << 62
_ESCAPE: Final = Spans(ESCAPE_PATTERN)
_SIMPLE: Final = {110: b"\n", 114: b"\r", 116: b"\t", 98: b"\b", 102: b"\f", 118: b"\v"}
_SCALAR_MAX: Final = 0x10FFFF


def may_hold_escape(data: bytes) -> bool:
    """Whether there is anything in a text with which an escape begins."""
    return b"%" in data or b"\\" in data or b"&" in data


def unescape(data: bytes, budget: Budget) -> View | MaskView:
    """A view of ``data`` with every escape sequence decoded once.

    Raises:
        ResponseRefused: more runs of escape sequences than the budget allows.
    """
    few = None
    if sum(map(data[:_HEAD_BYTES].count, _MARKS)) <= 2 * _FEW:
        few = unescape_each(data, budget, most=_FEW, bytes_for_each=_BYTES_FOR_EACH)
    # An escape that stands for more bytes than it has is for the loop, however many there are.
    return few or escape_arrays.unescape(data, budget) or _certain(unescape_each(data, budget))


def unescape_each(
    data: bytes, budget: Budget, *, most: int = _NO_BOUND, bytes_for_each: int = _NO_BOUND
) -> View | None:
    """The same as :func:`unescape`, one escape after the other.

    Args:
        data: the text.
        budget: what the pass may spend.
        most: so many escapes may stand in any beginning of the text,
        bytes_for_each: and one more for each so many bytes of it.

    Returns:
        The view; None as soon as there are more.
    """
    view = View()
    at = runs = number = 0
    for number, (start, end, meaning) in enumerate(_meanings(data, _ESCAPE.all(data)), 1):
        if number > most + start // bytes_for_each:
            return None
        runs += number == 1 or start > at
        view.copy(data, at, start)
        view.replace(meaning, start, end)
        at = end
    budget.escape(runs)
    view.copy(data, at, len(data))
    return view.close()


def standing_at(data: bytes, places: Iterable[int]) -> list[Change]:
    """The escapes that begin at some places: where they begin and end, and what they stand for.

    Args:
        data: the text.
        places: in order, among them all at which an escape begins.
    """
    return list(_meanings(data, _spans_at(data, places)))


def decoded(data: bytes) -> bytes:
    """A short text with every escape sequence decoded once."""
    return changed(data, _meanings(data, _ESCAPE.all(data))) if may_hold_escape(data) else data


def stand_in(data: bytes) -> bool:
    """Whether there is an escape sequence in a text."""
    return may_hold_escape(data) and _ESCAPE.matches(data)


def changed(data: bytes, changes: Iterable[Change]) -> bytes:
    """A text with something else at some places, which are in order."""
    parts: list[bytes] = []
    at = 0
    for start, end, said in changes:
        parts += (data[at:start], said)
        at = end
    parts.append(data[at:])
    return b"".join(parts)


def _spans_at(data: bytes, places: Iterable[int]) -> Iterator[tuple[int, int]]:
    at = 0
    for place in places:
        end = _ESCAPE.end(data, place) if place >= at else -1
        if end >= 0:
            yield place, end
            at = end


def _meanings(data: bytes, spans: Iterable[tuple[int, int]]) -> Iterator[Change]:
    """Escapes with what they stand for; the first half of a pair of surrogates stands for nothing."""
    at = 0
    high = -1  # a high surrogate that waits for the low one right after it
    for start, end in spans:
        escape = data[start:end]
        point = _code_unit(escape)
        if high >= 0 and start == at and 0xDC00 <= point <= 0xDFFF:
            # The pair is one character; its first half is written as nothing, so an edit of it takes the second half.
            yield start, end, chr(0x10000 + ((high - 0xD800) << 10) + point - 0xDC00).encode()
        elif point < 0:
            yield start, end, _decode(escape)
        elif 0xD800 <= point <= 0xDBFF:
            yield start, end, b""
        else:
            yield start, end, chr(point).encode("utf-8", "surrogatepass")
        high = point if 0xD800 <= point <= 0xDBFF else -1
        at = end


def _certain(view: View | None) -> View:
    assert view is not None, "without a bound there is always a view"
    return view


def _code_unit(escape: bytes) -> int:
    """The code point of an escape that gives one by number, else -1."""
    if escape[:2] in (b"\\u", b"\\U"):
        return _scalar(int(escape[2:].strip(b"{}"), 16))
    if escape[:2] == b"&#":
        number = escape[2:].rstrip(b";")
        return _scalar(int(number[1:], 16) if number[:1] in b"xX" else int(number))
    return -1


def _scalar(number: int) -> int:
    return number if number <= _SCALAR_MAX else 0xFFFD


def _decode(escape: bytes) -> bytes:
    """What an escape that gives no code point stands for."""
    mark, kind = escape[0], escape[1]
    if mark == 0x25:  # %
        return bytes.fromhex(escape[1:].decode("ascii"))
    if mark == 0x26:  # &
        return html5.get(escape[1:].decode("ascii"), escape.decode("ascii")).encode()
    if kind == 0x78:  # \x
        return bytes.fromhex(escape[2:].decode("ascii"))
    if 0x30 <= kind <= 0x37:  # octal
        return bytes((int(escape[1:], 8) & 0xFF,))
    return _SIMPLE.get(kind, escape[1:])
