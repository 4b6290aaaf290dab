"""Base64 that hides text. Decoding keeps the way back, so that only what must go goes.

Decides where base64 may stand and how a run of it (RFC 4648 sections 4 and 5) is read at each of its four possible
beginnings. Leaves escape sequences to :mod:`nomos_sanitizer.escapes`, and to :mod:`nomos_sanitizer.scrub` what is
searched for in the decoded text.
"""

from __future__ import annotations

import base64
from binascii import a2b_base64
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import numpy as np

from nomos_sanitizer.edits import Edit, View, apply
from nomos_sanitizer.engine import Spans
from nomos_sanitizer.limits import BASE64_RUN_MIN
from nomos_sanitizer.masks import Bytes, as_bytes

_RUN: Final = Spans(rb"(?:[A-Za-z0-9+/_-]{16,}[ \t]*\r?\n[ \t]*)*[A-Za-z0-9+/_-]{8,}={0,2}")
_TO_URL: Final = bytes.maketrans(b"+/", b"-_")
_TO_STANDARD: Final = bytes.maketrans(b"-_", b"+/")
_NOT_RUN_TO_BLANK: Final = bytes(
    byte if chr(byte).isascii() and (chr(byte).isalnum() or byte in b"+/_-") else 0x20 for byte in range(256)
)
_IS_RUN: Final = bytes(byte != 0x20 for byte in _NOT_RUN_TO_BLANK)
_BLANK: Final = b" \t\r\n"
_QUAD: Final = 4
_PADDING_MAX: Final = 2
#: The shortest run, without padding.
_RUN_MIN: Final = 8
#: From here on a run is read with arrays.
_LONG_RUN: Final = 2_048
_SEXTETS: Final = bytes.maketrans(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", bytes(range(64)))
#: What is missing behind so many symbols of a group.
_PADDING: Final = (b"", b"", b"==", b"=")


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


def base64_runs(data: bytes, *, short_too: bool) -> Iterator[tuple[int, int]]:
    """Places that may be base64, lines of one text joined, with the padding at their end.

    Args:
        data: the text.
        short_too: whether runs are asked for that are shorter than ``BASE64_RUN_MIN``.
    """
    least = 0 if short_too else BASE64_RUN_MIN
    if len(data) > _LONG_RUN and b"\n" not in data:
        yield from _runs_of_one_line(data, least)
        return
    for start, end in _RUN.all(data):
        if end - start >= least:
            yield start, end


def _runs_of_one_line(data: bytes, least: int) -> list[tuple[int, int]]:
    is_run = as_bytes(data.translate(_IS_RUN)).view(np.bool_)
    edges = np.flatnonzero(is_run[1:] != is_run[:-1]) + 1
    if len(is_run) and is_run[0]:
        edges = np.concatenate([[0], edges])
    if len(edges) % 2:
        edges = np.concatenate([edges, [len(data)]])
    starts, ends = edges[::2], edges[1::2]
    long = ends - starts >= max(_RUN_MIN, least - _PADDING_MAX)
    padded = [
        (start, end + len(data[end : end + _PADDING_MAX]) - len(data[end : end + _PADDING_MAX].lstrip(b"=")))
        for start, end in zip(starts[long].tolist(), ends[long].tolist(), strict=True)
    ]
    return [(start, end) for start, end in padded if end - start >= least]


def base64_readings(run: bytes) -> list[bytes]:
    """What a run says when it is read from each of the four places at which a group of four characters can begin."""
    return _all_readings(join_lines(run).rstrip(b"=").translate(_TO_STANDARD))


def join_lines(run: bytes) -> bytes:
    """A run without its line breaks and the blanks around them."""
    if b"\n" not in run:
        return run
    return b"".join(run[start:end] for start, end in _lines(run, 0, len(run)))


def _all_readings(symbols: bytes) -> list[bytes]:
    size = len(symbols)
    if size < _LONG_RUN:
        # As :func:`_usable` says, in one place for speed: most runs are short.
        ends = [size - ((size - offset) % _QUAD == 1) for offset in range(min(_QUAD, size))]
        return [a2b_base64(symbols[o:end] + _PADDING[(end - o) % _QUAD]) for o, end in enumerate(ends)]
    # The three bytes of the group that begins at each place, whether one does or not, and then those of each reading.
    sextets = as_bytes(symbols.translate(_SEXTETS))
    triples = (
        sextets[:-3] << 2 | sextets[1:-2] >> 4,
        sextets[1:-2] << 4 | sextets[2:-1] >> 2,
        sextets[2:-1] << 6 | sextets[3:],
    )
    readings = []
    for offset in range(_QUAD):
        groups = (size - offset) // _QUAD
        plain: Bytes = np.empty((groups, 3), np.uint8)
        for index, column in enumerate(triples):
            plain[:, index] = column[offset::_QUAD]
        readings.append(plain.tobytes() + _reading(symbols[offset + groups * _QUAD :], 0))
    return readings


def _reading(symbols: bytes, offset: int) -> bytes:
    usable = _usable(len(symbols), offset)
    return a2b_base64(symbols[offset:usable] + _PADDING[(usable - offset) % _QUAD])


def _usable(size: int, offset: int) -> int:
    """How many of ``size`` symbols can be read from ``offset`` on: a single one at the end says nothing."""
    return size - ((size - offset) % _QUAD == 1)


def long_words(data: bytes) -> list[bytes]:
    """What :func:`base64_runs` gives, without padding, of a text in which no run goes on over the end of a line.

    Some are a little too short, as padding counts.
    """
    least = BASE64_RUN_MIN - _PADDING_MAX
    return [word for word in data.translate(_NOT_RUN_TO_BLANK).split() if len(word) >= least]


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
    url_safe = b"-" in compact or b"_" in compact
    symbols = compact.translate(_TO_STANDARD)
    for offset, plain in enumerate(_all_readings(symbols)):
        usable = _usable(len(symbols), offset)
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
