"""Whether a body is clean as it came, so that it need not be walked and written anew.

Decides it for a JSON body by one look at its bytes, and by the search itself for the few strings in which something
stands that the bytes do not show as it is read: an escape, a run that may be base64, an invisible character. Every
other string is a piece of what was looked at. So a body that is said to be clean is one in which the walk
(:mod:`nomos_sanitizer.tree`) would find nothing, and a test holds it to that. What cannot be told is left to the walk.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from nomos.errors import ResponseRefused
from nomos_sanitizer import invisible, structure
from nomos_sanitizer.engine import Spans
from nomos_sanitizer.lexed import Lexed
from nomos_sanitizer.limits import BASE64_RUN_MIN, JSON_DEPTH_MAX
from nomos_sanitizer.masks import Places, as_bytes, places_of
from nomos_sanitizer.matching import GATE_BASE64, GATE_BEGINNING, GATE_ESCAPE, GATE_INVISIBLE, Matcher
from nomos_sanitizer.media import MediaType
from nomos_sanitizer.scrub import Scrubber

_BLANK: Final = b" \t\r\n"
_BACKSLASH: Final = b"\\"
_STARTS: Final = (b"{", b"[")
#: Text that may be JSON, or a JSON string, in part.
_MAY_NEST: Final = (*_STARTS, b'"')
_INVISIBLE: Final = Spans(invisible.gate_pattern())
_ALNUM: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
#: For each byte, by one bit each, whether it is of the two alphabets of base64.
_ALPHABETS: Final = bytes((byte in _ALNUM + b"+/") + 2 * (byte in _ALNUM + b"-_") for byte in range(256))
_PIECE_BYTES: Final = 65_536
_ONLY_BASE64: Final = frozenset({GATE_BASE64, GATE_BEGINNING})
_NOTHING: Final[frozenset[int]] = frozenset()
_WORD: Final = 8
_FEW_WORDS: Final = 64
_FULL_WORDS: Final = tuple(np.uint64(int.from_bytes(bytes((bit,)) * _WORD, "little")) for bit in (1, 2))


def is_clean(body: Lexed, media: MediaType, matcher: Matcher, scrubber: Scrubber) -> bool:
    """Whether nothing would be removed from a body.

    Args:
        body: as it came.
        media: what it is; its characters are UTF-8.
        matcher: the compiled rules.
        scrubber: what searches single strings; it remembers those that are clean.
    """
    data = body.data
    gates = scrubber.fires(data)
    if gates is None or not _is_text(data):
        return False
    if is_document(body, media):
        return _is_clean_json(body, gates, matcher, scrubber)
    # Text, or lines of which each may be JSON.
    nests = media.is_lines or media.is_json or data.lstrip(_BLANK).startswith(_MAY_NEST)
    if nests and (_BACKSLASH in data or matcher.may_name_secret(data) or not _has_few_containers(data)):
        return False
    return not gates


def is_clean_line(line: bytes, scrubber: Scrubber) -> bool:
    """Whether nothing would be removed from a line that holds one JSON text, so that it need not be written anew.

    Args:
        line: with its end, and what stands before the text (``data:``).
        scrubber: as for :func:`is_clean`.
    """
    if are_clean_lines(line, scrubber):
        return True
    gates = scrubber.fires(line)
    if gates is None or not _is_text(line):
        return False
    begin = min((at for at in map(line.find, _STARTS) if at >= 0), default=len(line))
    body = Lexed(line[begin:])
    return body.is_json and _is_clean_json(body, gates, scrubber.matcher, scrubber)


def are_clean_lines(lines: bytes, scrubber: Scrubber) -> bool:
    """The same for any lines, by one look at all of them: True only where nothing at all fires."""
    return (
        scrubber.fires(lines) == _NOTHING
        and _BACKSLASH not in lines
        and not scrubber.matcher.may_name_secret(lines)
        and _is_text(lines)
        and all(map(_has_few_containers, lines.split(b"\n")))
    )


def is_document(body: Lexed, media: MediaType) -> bool:
    """Whether a body is read as one JSON text, and is one by the letter."""
    return not media.is_lines and body.data.lstrip(_BLANK).startswith(_STARTS) and body.is_json


def _is_text(data: bytes) -> bool:
    if data.isascii():
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _has_few_containers(data: bytes) -> bool:
    return data.count(b"[") + data.count(b"{") <= JSON_DEPTH_MAX


def _is_clean_json(body: Lexed, gates: frozenset[int], matcher: Matcher, scrubber: Scrubber) -> bool:
    data = body.data
    if matcher.may_name_secret(data) and not structure.holds_no_named_secret(data):
        return False
    if not body.is_shallow:
        return False
    if not gates and _BACKSLASH not in data:
        return True
    # The look at the bytes does not see a name in which there are escapes.
    if matcher.may_name_secret(('"' + '"\n"'.join(body.escaped) + '"').encode("utf-8", "surrogatepass")):
        return False
    strings = body.strings_at(_suspicious(data, gates))
    begun: set[bytes] = set()
    if GATE_BEGINNING in gates:
        ends = matcher.beginnings(data)
        if ends is None:
            return False
        begun = body.strings_at(np.array(ends, np.int64) - 1)
    try:
        if gates <= _ONLY_BASE64 and scrubber.have_quiet_runs(strings - begun):
            strings = begun
        texts = body.escaped.union(map(bytes.decode, strings | begun))
        scrubber.prime(texts)
        return not any(scrubber.text(text)[1] for text in scrubber.not_known(texts))
    except ResponseRefused:
        return False


def _suspicious(data: bytes, gates: frozenset[int]) -> Places:
    """Places in all strings, but for those with escapes of JSON, on which a gate can fire."""
    places: list[Places] = [np.zeros(0, np.int64)]
    if GATE_ESCAPE in gates:
        places += [places_of(data, ord("%")), places_of(data, ord("&"))]
    if GATE_BASE64 in gates:
        places += _long_runs(data)
    if GATE_INVISIBLE in gates:
        places.append(np.array(_invisible(data), np.int64))
    return np.sort(np.concatenate(places))


def _invisible(data: bytes) -> list[int]:
    """A place in each string in which an invisible character stands, and in some more than one."""
    places = []
    at = _INVISIBLE.first(data, 0)
    while at >= 0:
        places.append(at)
        end = data.find(b'"', at)
        at = _INVISIBLE.first(data, end) if end >= 0 else -1
    return places


def _long_runs(data: bytes) -> list[Places]:
    """A place in each run that is read as base64 for its length, and in some that are a little shorter.

    Looks at words: so long a run fills one word less than fit into it.
    """
    places = []
    for at in range(0, len(data), _PIECE_BYTES):
        # Each piece sees the beginning of the next, so that no run is cut.
        piece = data[at : at + _PIECE_BYTES + BASE64_RUN_MIN]
        kinds = as_bytes(piece.translate(_ALPHABETS))[: len(piece) // _WORD * _WORD].view(np.uint64)
        for full_word in _FULL_WORDS:
            filled = kinds & full_word == full_word
            for _ in range(BASE64_RUN_MIN // _WORD - 2):
                filled = filled[1:] & filled[:-1]
            words = np.flatnonzero(filled)
            if len(words) > _FEW_WORDS:  # One of each run will do.
                words = words[np.diff(words, prepend=-2) > 1]
            places.append(words * _WORD + at)
    return places
