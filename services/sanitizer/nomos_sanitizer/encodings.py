"""Encodings that hide text: escape sequences and base64. Decoding keeps the way back, so that only what must go goes.

Decides what an escape stands for (RFC 3986 section 2.1; HTML, section Named character references; RFC 8259 section 7
and the escapes that programming languages share) and how a base64 run (RFC 4648 sections 4 and 5) is read at each of
its four possible beginnings. Leaves to :mod:`nomos_sanitizer.scrub` what is searched for in the decoded text.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterator, Sequence
from html.entities import html5
from typing import Final

import re2

from nomos_sanitizer.budget import Budget
from nomos_sanitizer.edits import Edit, View, apply
from nomos_sanitizer.engine import bytes_options
from nomos_sanitizer.limits import BASE64_RUN_MIN

#: One escape sequence. As the gate of a scan, and as the parts of a run below.
ESCAPE_PATTERN: Final = (
    rb"%[0-9A-Fa-f]{2}"
    rb"|\\u[0-9A-Fa-f]{4}|\\u\{[0-9A-Fa-f]{1,6}\}|\\U[0-9A-Fa-f]{8}|\\x[0-9A-Fa-f]{2}|\\[0-7]{1,3}|\\[nrtbfv\"'/\\]"
    rb"|&#[0-9]{1,7};?|&#[xX][0-9A-Fa-f]{1,6};?|&[A-Za-z][A-Za-z0-9]{1,31};"
)
#: Runs of one kind come as one match: text that is encoded as a whole costs little more than its length.
_ESCAPE: Final = re2.compile(
    rb"(?:%[0-9A-Fa-f]{2})+|(?:\\u00[0-7][0-9A-Fa-f])+|(?:\\x[0-9A-Fa-f]{2})+|(?:\\\\)+"
    rb"|(?:&#[1-9][0-9];)+|(?:&#1[01][0-9];)+|(?:&#[xX][2-7][0-9A-Fa-f];)+|" + ESCAPE_PATTERN,
    bytes_options(),
)
_SIMPLE: Final = {110: b"\n", 114: b"\r", 116: b"\t", 98: b"\b", 102: b"\f", 118: b"\v"}
_SCALAR_MAX: Final = 0x10FFFF
_UNICODE_ESCAPE: Final = 6

_RUN: Final = re2.compile(rb"(?:[A-Za-z0-9+/_-]{16,}[ \t]*\r?\n[ \t]*)*[A-Za-z0-9+/_-]{8,}={0,2}", bytes_options())
_LONG_RUN: Final = re2.compile(
    b"[A-Za-z0-9+/]{%d,}|[A-Za-z0-9_-]{%d,}" % (BASE64_RUN_MIN, BASE64_RUN_MIN), bytes_options()
)
_TO_URL: Final = bytes.maketrans(b"+/", b"-_")
_TO_STANDARD: Final = bytes.maketrans(b"-_", b"+/")
_BLANK: Final = b" \t\r\n"
_QUAD: Final = 4


def unescape(data: bytes, budget: Budget) -> View:
    """A view of ``data`` with every escape sequence decoded once.

    Raises:
        ResponseRefused: more escape sequences than the budget allows.
    """
    view = View()
    at = 0
    high = -1  # a high surrogate that waits for the low one right after it
    for match in _ESCAPE.finditer(data):
        start, end = match.span()
        budget.escape()
        view.copy(data, at, start)
        escape = data[start:end]
        point = _code_unit(escape)
        if high >= 0 and start == at and 0xDC00 <= point <= 0xDFFF:
            # The pair is one character; its first half is written as nothing, so an edit of it takes the second half.
            view.replace(chr(0x10000 + ((high - 0xD800) << 10) + point - 0xDC00).encode(), start, end)
        elif point < 0:
            decoded, stride = _decode(escape)
            view.replace(decoded, start, end, stride=stride)
        elif not 0xD800 <= point <= 0xDBFF:
            view.replace(chr(point).encode("utf-8", "surrogatepass"), start, end)
        high = point if 0xD800 <= point <= 0xDBFF else -1
        at = end
    view.copy(data, at, len(data))
    return view.close()


def _code_unit(escape: bytes) -> int:
    """The code point of a single escape that gives one by number, else -1."""
    if escape[:2] == b"\\U" or (escape[:2] == b"\\u" and not escape.startswith(b"\\u00")):
        return _scalar(int(escape[2:].strip(b"{}"), 16))
    if escape[:4] == b"\\u00" and len(escape) == _UNICODE_ESCAPE and escape[4] >= 0x38:  # U+0080 to U+00FF
        return int(escape[2:], 16)
    if escape[:2] == b"&#":
        number = escape[2:].rstrip(b";")
        if b";" in number:  # a run
            return -1
        return _scalar(int(number[1:], 16) if number[:1] in b"xX" else int(number))
    return -1


def _scalar(number: int) -> int:
    return number if number <= _SCALAR_MAX else 0xFFFD


def _decode(escape: bytes) -> tuple[bytes, int]:
    """What an escape or a run of one kind stands for, and the length of each escape of a run (0: take it whole)."""
    mark, kind = escape[0], escape[1]
    if mark == 0x25:  # %
        return bytes.fromhex(escape.replace(b"%", b"").decode("ascii")), 3
    if mark == 0x26 and kind == 0x23:  # a run of &#
        numbers = escape.replace(b"&#", b"").rstrip(b";")
        if numbers[0] in b"xX":
            return bytes.fromhex(numbers.translate(None, b"xX;").decode("ascii")), 6
        return bytes(map(int, numbers.split(b";"))), 5 if numbers[2:3] in (b";", b"") else 6
    if mark == 0x26:
        return html5.get(escape[1:].decode("ascii"), escape.decode("ascii")).encode(), 0
    if kind == 0x75:  # \u00
        return bytes.fromhex(escape.replace(b"\\u00", b"").decode("ascii")), _UNICODE_ESCAPE
    if kind == 0x78:  # \x
        return bytes.fromhex(escape.replace(b"\\x", b"").decode("ascii")), 4
    if kind == 0x5C:
        return b"\\" * (len(escape) // 2), 2
    if 0x30 <= kind <= 0x37:  # octal
        return bytes((int(escape[1:], 8) & 0xFF,)), 0
    return _SIMPLE.get(kind, escape[1:]), 0


def base64_forms(plain: bytes) -> set[bytes]:
    """What of ``plain`` is certain to stand in a base64 text, for each of its three alignments and both alphabets.

    Characters that also depend on the neighbours of ``plain`` are left out.
    """
    forms: set[bytes] = set()
    for shift in range(3):
        encoded = base64.b64encode(bytes(shift) + plain + bytes(2))
        sure = encoded[(shift * 8 + 5) // 6 : (shift + len(plain)) * 8 // 6]
        forms.add(sure)
        forms.add(sure.translate(_TO_URL))
    return forms


def base64_runs(data: bytes) -> Iterator[tuple[int, int]]:
    """Places that may be base64, lines of one text joined, with the padding at their end."""
    for match in _RUN.finditer(data):
        yield match.span()


def has_long_run(data: bytes) -> bool:
    """Whether a run stands in ``data`` that is decoded even if no known beginning shows in it.

    Digests, slugs and paths are long runs too, but of lower-case letters; base64 of that length is not.
    """
    return any(not run.islower() for run in _LONG_RUN.findall(data))


def base64_edits(data: bytes, start: int, end: int, find: Callable[[bytes], Sequence[Edit]]) -> Iterator[Edit]:
    """Edits of a base64 run, from what ``find`` finds in the decoded text.

    A run may begin inside what looks like it (``/path/BASE64``), so it is read from each of the four places at which a
    group of four characters can begin. From the first group that changes, the run is written anew.
    """
    view = View()
    at = start
    for piece_start, piece_end in _lines(data, start, end):
        view.copy(data, piece_start, piece_end)
        at = piece_end
    compact = view.close().data
    padded = at < end
    symbols = compact.translate(_TO_STANDARD)
    url_safe = b"-" in compact or b"_" in compact
    for offset in range(min(_QUAD, len(symbols))):
        usable = len(symbols) - (1 if (len(symbols) - offset) % _QUAD == 1 else 0)
        plain = _plain(symbols[offset:usable])
        edits = find(plain) if plain else ()
        if not edits:
            continue
        keep = edits[0].start // 3
        encoded = base64.b64encode(apply(plain, edits)[keep * 3 :])
        if url_safe:
            encoded = encoded.translate(_TO_URL)
        first = view.origin(offset + keep * _QUAD, offset + keep * _QUAD + 1)[0]
        whole = usable == len(symbols)
        last = end if whole else view.origin(usable - 1, usable)[1]
        yield Edit(
            first,
            last,
            encoded if padded and whole else encoded.rstrip(b"="),
            edits[0].marker,
            min(edit.rank for edit in edits),
            tuple(found for edit in edits for found in edit.found),
        )


def _lines(data: bytes, start: int, end: int) -> Iterator[tuple[int, int]]:
    at = start
    for line in data[start:end].splitlines(keepends=True):
        body = line.strip(_BLANK).rstrip(b"=")
        begin = at + line.index(body)
        yield begin, begin + len(body)
        at += len(line)


def _plain(symbols: bytes) -> bytes:
    try:
        return binascii.a2b_base64(symbols + b"=" * (-len(symbols) % _QUAD))
    except binascii.Error:
        return b""
