"""Base64 of many bytes, all of its readings at once, and which of them are binaries that can hold nothing.

A run of base64 is read from four places (:mod:`nomos_sanitizer.encodings`), and at most one says what was meant: the
rest is noise, and so is all that a picture or a digest says. Noise is told by arrays, not byte by byte:

* It is no text: two bytes beyond U+00C0 stand together, which UTF-8 never has (RFC 3629 section 3). Escapes do not
  change that, as they consist of ASCII. So it is no JSON, and no invisible character in it is removed.
* It has no long run of ordinary characters, as every secret has (:mod:`nomos_sanitizer.shapes`), and what stands in
  its short ones is searched. Decoding makes no run longer.
* Its printable characters, put together, hold no token that shows by its beginning; nor do they when its escapes are
  decoded.

What is not told so is left to the search, reading by reading.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np

from nomos_sanitizer import escapes
from nomos_sanitizer.escapes import Change
from nomos_sanitizer.invisible import IS_PRINTABLE, NOT_PRINTABLE
from nomos_sanitizer.masks import Bytes, Mask, Places, as_bytes
from nomos_sanitizer.matching import GATE_BASE64, GATE_ESCAPE, Matcher
from nomos_sanitizer.shapes import ORDINARY, RUN_MIN, SHORT_RUN_MIN

_READINGS: Final = 4
_NO_SYMBOL: Final = 0xFF
_FEED, _RETURN = 0x0A, 0x0D
_BREAKS: Final = (_FEED, _RETURN)
_BEYOND: Final = 0xC0
_SYMBOLS: Final = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
_ALPHABET: Final = {**dict(zip(_SYMBOLS + b"+/", range(64), strict=True)), ord("-"): 62, ord("_"): 63}
_SEXTETS: Final = bytes(_ALPHABET.get(byte, _NO_SYMBOL) for byte in range(256))
#: Behind the last run: one group that cannot be read, wherever groups begin.
_END: Final = b"\n" * 8
_ORDINARY: Final = bytes(ORDINARY)
_PERCENT, _BACKSLASH, _AMPERSAND = 0x25, 0x5C, 0x26
#: How often escapes are decoded, one more than escapes inside escapes are followed.
_DEPTH_MAX: Final = 3
#: So many bytes around an escape can become part of an escape when it is decoded: the longest has 34.
_REACH: Final = 34 * _DEPTH_MAX
#: So many characters of a long run are looked at first.
_BEGINNING: Final = 1_024
#: Up to so many readings, runs or escapes are looked at one by one; of runs and escapes one more for so many bytes.
_FEW: Final = 64
_BYTES_FOR_EACH: Final = 256
#: Where more than one in so many bytes is of readings that may be text, all are searched.
_SHARE: Final = 8


class Readings(msgspec.Struct, frozen=True):
    """What runs of base64 say.

    Attributes:
        data: all readings, with a line feed or more between them.
        starts: where they begin, in order.
        ends: where they end.
    """

    data: bytes
    starts: Places
    ends: Places

    def at(self, number: int) -> bytes:
        """One of them."""
        return self.data[self.starts[number] : self.ends[number]]


def read_all(runs: Sequence[bytes]) -> Readings:
    """Reads each run from its first four places.

    Args:
        runs: of at least eight characters of base64 and nothing else.
    """
    joined = b"\n".join(runs) + _END
    symbols = as_bytes(joined.translate(_SEXTETS))
    # The three bytes of the group that begins at each place, whether one does or not; then those of each reading.
    columns = (
        symbols[:-3] << 2 | symbols[1:-2] >> 4,
        symbols[1:-2] << 4 | symbols[2:-1] >> 2,
        symbols[2:-1] << 6 | symbols[3:],
    )
    broken = np.flatnonzero(symbols == _NO_SYMBOL)
    for index, column in enumerate(columns):
        for before in range(index + 2):
            at = broken - before
            column[at[(at >= 0) & (at < len(column))]] = _FEED
    groups = [len(range(offset, len(columns[0]), _READINGS)) for offset in range(_READINGS)]
    plain = np.empty((sum(groups), 3), np.uint8)
    firsts = np.cumsum([0, *groups])
    for offset in range(_READINGS):
        part = plain[firsts[offset] : firsts[offset + 1]]
        for index, column in enumerate(columns):
            part[:, index] = column[offset::_READINGS]
    sizes = np.fromiter(map(len, runs), np.int64, len(runs))
    begins = np.cumsum(sizes + 1) - sizes - 1
    places = (begins[:, None] + np.arange(_READINGS)).ravel()
    starts = 3 * (firsts[places % _READINGS] + places // _READINGS)
    ends = starts + ((sizes[:, None] - np.arange(_READINGS)) * 6 // 8).ravel()
    # Those of one stream of groups are in order, as the runs are.
    order = np.argsort((places % _READINGS).astype(np.uint8), kind="stable")
    return Readings(plain.tobytes(), starts[order], ends[order])


def begins_as_noise(run: bytes) -> bool:
    """Whether no reading of the beginning of a long run is text; else it is not worth the while to read all of it."""
    return bool(_are_binary(read_all([run[:_BEGINNING]])).all())


def doubtful(readings: Readings, matcher: Matcher) -> list[bytes] | None:
    """The readings that must be searched one by one; None if all of them must be."""
    is_doubtful = ~_are_binary(readings)
    sizes = readings.ends - readings.starts
    if int(sizes[is_doubtful].sum()) * _SHARE > len(readings.data):
        return None
    shown = _Shown(readings.data)
    runs, places = _ordinary_runs(shown), _may_begin_escape(shown)
    if runs is None or len(places) > shown.most:
        return None
    for start, end in runs:
        # Base64 may go on in the next line, and escapes may stand for line feeds.
        if end - start >= RUN_MIN:
            number = int(np.searchsorted(readings.starts, start, side="right")) - 1
            goes_on = readings.data[end] in _BREAKS and end < readings.ends[number]
            is_doubtful[number] |= goes_on or escapes.may_hold_escape(readings.data[start:end])
    said = b"\n\n".join(readings.data[start:end] for start, end in runs)
    has_long = any(end - start >= RUN_MIN for start, end in runs)
    if not _says_nothing(said, matcher) or not _shows_nothing(shown, places, matcher, has_long=has_long):
        return None
    return [readings.at(number) for number in np.flatnonzero(is_doubtful).tolist()]


def _are_binary(readings: Readings) -> Mask:
    """Whether each is certainly no text, whatever its escapes stand for."""
    beyond = as_bytes(readings.data) >= _BEYOND
    pairs = beyond[:-1] & beyond[1:]
    if len(readings.starts) > _FEW:
        are: Mask = np.logical_or.reduceat(pairs, readings.starts)
        return are
    spans = zip(readings.starts.tolist(), readings.ends.tolist(), strict=True)
    return np.array([bool(pairs[start : end - 1].any()) for start, end in spans])


class _Shown:
    """The printable characters of a binary: where they stand, and the characters. Line feeds end readings."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.places = np.flatnonzero(as_bytes(data.translate(IS_PRINTABLE)).view(np.bool_))
        self.text: Bytes = as_bytes(data)[self.places]
        #: So much is looked at one by one: five times what chance writes. For more, the search has arrays.
        self.most = _FEW + len(data) // _BYTES_FOR_EACH

    def text_with(self, changes: Sequence[Change]) -> bytes:
        """The characters, if something else stood at some places."""
        starts, ends = (np.searchsorted(self.places, [change[side] for change in changes]).tolist() for side in (0, 1))
        shown = (said.translate(None, NOT_PRINTABLE) for _, _, said in changes)
        return escapes.changed(self.text.tobytes(), zip(starts, ends, shown, strict=True))


def _ordinary_runs(shown: _Shown) -> list[tuple[int, int]] | None:
    """Where runs of ordinary characters begin and end that are long enough for a secret; None if they are many."""
    places, text = shown.places, shown.text
    ahead = SHORT_RUN_MIN - 1
    at = np.flatnonzero(places[ahead:] - places[: len(places) - ahead] == ahead)
    if len(at) > shown.most:
        return None
    # All printable characters are ordinary but for the ends of lines.
    window = text[at[:, None] + np.arange(SHORT_RUN_MIN)]
    at = at[~((window == _FEED) | (window == _RETURN)).any(axis=1)]
    if not len(at):
        return []
    begins = np.concatenate([[True], at[1:] != at[:-1] + 1])
    ends = np.concatenate([begins[1:], [True]])
    return list(zip(places[at[begins]].tolist(), (places[at[ends]] + SHORT_RUN_MIN).tolist(), strict=True))


def _says_nothing(text: bytes, matcher: Matcher) -> bool:
    """Whether no secret stands in a text nor in what its escapes stand for."""
    for _ in range(_DEPTH_MAX):
        gates = matcher.gates(text)
        if gates is None or GATE_BASE64 in gates:
            return False
        if GATE_ESCAPE not in gates:
            return True
        plain = escapes.decoded(text)
        if plain == text:  # an entity that nobody knows stands for itself
            return True
        text = plain
    return False


def _shows_nothing(shown: _Shown, places: list[int], matcher: Matcher, *, has_long: bool) -> bool:
    """Whether a binary holds nothing beside what its ordinary runs say, before and after its escapes are decoded.

    Args:
        shown: the binary.
        places: where its escapes may begin.
        matcher: the compiled rules.
        has_long: whether there is a run of ``RUN_MIN`` ordinary characters.
    """
    changes: list[Change] = []
    for depth in range(_DEPTH_MAX):
        if matcher.fires_loosely(escapes.changed(shown.data, changes), has_long=has_long):
            return False
        if matcher.fired_distinct(shown.text_with(changes)):
            return False
        if not depth:
            again = _around(shown.data, escapes.standing_at(shown.data, places))
        elif escapes.stand_in(b"\n".join([said for _, _, said in changes])):
            again = [(start, end, escapes.decoded(said)) for start, end, said in changes]
        else:
            return True
        if again == changes:
            return True
        changes = again
    return False


def _around(data: bytes, found: Sequence[Change]) -> list[Change]:
    """Escapes with the ordinary characters around them: with these, what they stand for may be an escape again."""
    changes: list[Change] = []
    at = 0
    for start, end, meaning in found:
        before, after = data[max(0, start - _REACH) : start], data[end : end + _REACH]
        first = start - len(before) + len(before.rstrip(_ORDINARY))
        last = end + len(after) - len(after.lstrip(_ORDINARY))
        if changes and first < changes[-1][1]:
            first, reach, said = changes.pop()
            said = said[: len(said) - (reach - at)] + data[at:start]
        else:
            said = data[first:start]
        changes.append((first, last, said + meaning + data[end:last]))
        at = end
    return changes


def _may_begin_escape(shown: _Shown) -> list[int]:
    """Places at which escapes may begin, and all at which they do: told by their first three characters."""
    places, text = shown.places, shown.text
    # Behind the last reading there are line feeds, so no escape is as near to the end.
    marks = text[:-2]
    at = np.flatnonzero((marks == _PERCENT) | (marks == _BACKSLASH) | (marks == _AMPERSAND))
    at = at[_SECONDS[text[at], text[at + 1]] & (places[at + 1] == places[at] + 1)]
    at = at[(text[at] == _BACKSLASH) | _THIRDS[text[at], text[at + 2]] & (places[at + 2] == places[at] + 2)]
    found: list[int] = places[at].tolist()
    return found


def _table(of_percent: bytes, of_backslash: bytes, of_ampersand: bytes) -> Mask:
    table = np.zeros((256, 256), np.bool_)
    for mark, characters in ((_PERCENT, of_percent), (_BACKSLASH, of_backslash), (_AMPERSAND, of_ampersand)):
        table[mark, list(characters)] = True
    return table


_HEX: Final = b"0123456789abcdefABCDEF"
_SECONDS: Final = _table(_HEX, b"uUx01234567nrtbfv\"'/\\", b"#" + _SYMBOLS[:52])
_THIRDS: Final = _table(_HEX, b"", _SYMBOLS)
