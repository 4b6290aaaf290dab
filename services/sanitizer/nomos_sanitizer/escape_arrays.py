"""Escape sequences of a text that holds many of them, decoded all at once: each step is one over all escapes.

Says what :func:`nomos_sanitizer.escapes.unescape_each` says of the same text. That an escape can be told from its own
beginning makes it possible: no escape holds the mark of another, but for the backslash, which is told by counting.
"""

from __future__ import annotations

from functools import cache
from html.entities import html5
from typing import Final, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from nomos_sanitizer.budget import Budget
from nomos_sanitizer.masks import Bytes, Mask, MaskView, Places, as_bytes

Points = npt.NDArray[np.int64]
_Number = TypeVar("_Number", np.int64, np.uint8)
Kinds = npt.NDArray[np.int8]

_PERCENT, _AMPERSAND, _BACKSLASH, _HASH, _SEMICOLON = 0x25, 0x26, 0x5C, 0x23, 0x3B
#: The longest escape; so many bytes behind the text are readable, and begin and end nothing.
_PAD: Final = bytes(40)
_NO_DIGIT: Final = 255
_SCALAR_MAX: Final = 0x10FFFF
#: Names up to this length are looked up together, longer ones one by one.
_NAME_MAX: Final = 8
_LONG_NAME_MAX: Final = 32
#: The most bytes that an escape stands for: two characters, of some names.
_MEANING_MAX: Final = 6
_DECIMALS_MAX, _HEX_MAX = 7, 6


class _Digits(msgspec.Struct, frozen=True):
    """The digits of a base: for each byte its value, or ``_NO_DIGIT``."""

    values: Bytes
    base: int


def _digits(digits: str, base: int) -> _Digits:
    values = np.full(256, _NO_DIGIT, np.uint8)
    for digit in digits:
        values[ord(digit)] = int(digit, base)
    return _Digits(values, base)


_DECIMAL: Final = _digits("0123456789", 10)
_HEX: Final = _digits("0123456789abcdefABCDEF", 16)
_OCTAL: Final = _digits("01234567", 8)
_SIMPLE: Final = np.zeros(256, np.uint8)
for _letter, _value in zip(b"nrtbfv\"'/\\", b"\n\r\t\b\f\v\"'/\\", strict=True):
    _SIMPLE[_letter] = _value
_ALNUM: Final = np.array([byte < 0x80 and chr(byte).isalnum() for byte in range(256)])
_ALPHA: Final = np.array([byte < 0x80 and chr(byte).isalpha() for byte in range(256)])


class _Escapes(msgspec.Struct, frozen=True):
    """Escapes of one kind, in order.

    Attributes:
        starts: where they begin.
        sizes: their lengths.
        points: what they stand for: a code point, a byte, or the number of a name.
    """

    starts: Places
    sizes: Places
    points: Points


class _Kind:
    """What ``points`` are."""

    BYTE: Final = 0
    POINT: Final = 1
    NAME: Final = 2


def unescape(data: bytes, budget: Budget) -> MaskView | None:
    """A view of ``data`` with every escape sequence decoded once; None where a name stands for more bytes than it has.

    Raises:
        ResponseRefused: more runs of escape sequences than the budget allows.
    """
    text = as_bytes(data + _PAD)
    body = text[: len(data)]
    parts = [(_Kind.BYTE, _percent(text, body))] if _PERCENT in data else []
    if _BACKSLASH in data:
        parts += _backslashes(text, body)
    if _AMPERSAND in data:
        parts += _entities(text, body)
    parts = [(kind, escapes) for kind, escapes in parts if len(escapes.starts)]
    if not parts:
        return MaskView(data, np.ones(len(data), np.bool_))
    kinds = np.concatenate([np.full(len(escapes.starts), kind, np.int8) for kind, escapes in parts])
    starts = np.concatenate([escapes.starts for _, escapes in parts])
    sizes = np.concatenate([escapes.sizes for _, escapes in parts])
    points = np.concatenate([escapes.points for _, escapes in parts])
    if len(parts) > 1:
        order = np.argsort(starts, kind="stable")
        kinds, starts, sizes, points = kinds[order], starts[order], sizes[order], points[order]
    ends = starts + sizes
    budget.escape(len(starts) - int(np.count_nonzero(starts[1:] == ends[:-1])))
    return _write(data, kinds, starts, ends, points)


def _percent(text: Bytes, body: Bytes) -> _Escapes:
    return _two_digits(text, np.flatnonzero(body == _PERCENT), 1)


def _two_digits(text: Bytes, starts: Places, lead: int) -> _Escapes:
    high, low = _HEX.values.take(text.take(starts + lead)), _HEX.values.take(text.take(starts + lead + 1))
    good = (high != _NO_DIGIT) & (low != _NO_DIGIT)
    starts, points = _those(starts, good), (_those(high, good) << 4 | _those(low, good)).astype(np.int64)
    return _Escapes(starts, np.full(len(starts), lead + 2), points)


def _backslashes(text: Bytes, body: Bytes) -> list[tuple[int, _Escapes]]:
    marks = np.flatnonzero(body == _BACKSLASH)
    # In a row of backslashes every other one begins an escape, from the first.
    first = np.ones(len(marks), np.bool_)
    first[1:] = marks[1:] != marks[:-1] + 1
    number = np.arange(len(marks))
    starts = marks[(number - np.maximum.accumulate(np.where(first, number, 0))) % 2 == 0]
    letters = text[starts + 1]
    simple = starts[_SIMPLE[letters] != 0]
    parts = [(_Kind.BYTE, _Escapes(simple, np.full(len(simple), 2), _SIMPLE[text[simple + 1]].astype(np.int64)))]
    parts.append((_Kind.BYTE, _two_digits(text, starts[letters == ord("x")], 2)))
    octal, sizes, points = _number(text, starts[_OCTAL.values[letters] != _NO_DIGIT], 1, _OCTAL, 3)
    parts.append((_Kind.BYTE, _Escapes(octal, sizes + 1, points & 0xFF)))
    small = starts[letters == ord("u")]
    braced = text[small + 2] == ord("{")
    for places, lead, most in (
        (small[~braced], 2, 4),
        (starts[letters == ord("U")], 2, 8),
    ):
        begins, sizes, points = _number(text, places, lead, _HEX, most)
        whole = sizes == most
        parts.append((_Kind.POINT, _Escapes(begins[whole], sizes[whole] + lead, points[whole])))
    begins, sizes, points = _number(text, small[braced], 3, _HEX, _HEX_MAX)
    closed = text[begins + 3 + sizes] == ord("}")
    parts.append((_Kind.POINT, _Escapes(begins[closed], sizes[closed] + 4, points[closed])))
    return parts


def _number(text: Bytes, starts: Places, lead: int, digits: _Digits, most: int) -> tuple[Places, Places, Points]:
    """Of ``starts`` those with a digit ``lead`` bytes on, how many digits stand there and what number they are."""
    starts = _those(starts, digits.values.take(text.take(starts + lead)) != _NO_DIGIT)
    sizes = np.zeros(len(starts), np.int64)
    points = np.zeros(len(starts), np.int64)
    going = np.ones(len(starts), np.bool_)
    for index in range(most):
        digit = digits.values.take(text.take(starts + lead + index))
        going &= digit != _NO_DIGIT
        if not going.any():
            break
        points = np.where(going, points * digits.base + digit, points)
        sizes += going
    return starts, sizes, points


def _entities(text: Bytes, body: Bytes) -> list[tuple[int, _Escapes]]:
    marks = np.flatnonzero(body == _AMPERSAND)
    numeric = marks[text[marks + 1] == _HASH]
    is_hex = (text[numeric + 2] | 0x20) == ord("x")
    parts = []
    for places, lead, digits, most in (
        (numeric[~is_hex], 2, _DECIMAL, _DECIMALS_MAX),
        (numeric[is_hex], 3, _HEX, _HEX_MAX),
    ):
        starts, sizes, points = _number(text, places, lead, digits, most)
        sizes = sizes + lead
        parts.append((_Kind.POINT, _Escapes(starts, sizes + (text[starts + sizes] == _SEMICOLON), points)))
    parts.append((_Kind.NAME, _names(text, marks[_ALPHA[text[marks + 1]]])))
    return parts


def _names(text: Bytes, starts: Places) -> _Escapes:
    sizes = np.zeros(len(starts), np.int64)
    keys = np.zeros(len(starts), np.uint64)
    going = np.ones(len(starts), np.bool_)
    for index in range(_LONG_NAME_MAX):
        letter = text[starts + 1 + index]
        going &= _ALNUM[letter]
        if not going.any():
            break
        if index < _NAME_MAX:
            keys |= np.where(going, letter.astype(np.uint64) << np.uint64(8 * index), np.uint64(0))
        sizes += going
    closed = (text[starts + 1 + sizes] == _SEMICOLON) & (sizes >= 2)
    starts, sizes, keys = starts[closed], sizes[closed], keys[closed]
    known, _ = _known_names()
    numbers = np.minimum(np.searchsorted(known, keys), len(known) - 1)
    points = np.where((known[numbers] == keys) & (sizes <= _NAME_MAX), numbers, -1)
    for index in np.flatnonzero(sizes > _NAME_MAX).tolist():
        start = int(starts[index]) + 1
        name = text[start : start + int(sizes[index])].tobytes().decode("ascii")
        points[index] = _long_names().get(name, -1)
    return _Escapes(starts, sizes + 2, points)


def _write(data: bytes, kinds: Kinds, starts: Places, ends: Places, points: Points) -> MaskView | None:
    """Writes what each escape stands for over its beginning."""
    written, sizes = _encoded(kinds, points, np.concatenate([[False], starts[1:] == ends[:-1]]))
    lengths = ends - starts
    unknown = (kinds == _Kind.NAME) & (points < 0)
    if unknown.any():
        sizes = np.where(unknown, lengths, sizes)
    gaps = lengths - sizes
    if gaps.min() < 0:
        return None
    buffer = as_bytes(data).copy()
    for index in range(written.shape[1]):
        longer = (sizes > index) & ~unknown
        buffer[_those(starts, longer) + index] = _those(written[:, index], longer)
    # What an escape has more than it stands for is left out.
    mask = np.ones(len(data), np.bool_)
    behind = starts + sizes
    for index in range(int(gaps.max())):
        mask[_those(behind, gaps > index) + index] = False
    return MaskView(buffer.compress(mask).tobytes(), mask, starts, ends)


def _those(values: npt.NDArray[_Number], which: Mask) -> npt.NDArray[_Number]:
    """The values for which ``which`` says so; mostly it says so of all, and then nothing is copied."""
    return values if which.all() else values.compress(which)


def _encoded(kinds: Kinds, points: Points, joined: Mask) -> tuple[npt.NDArray[np.uint8], Places]:
    """The bytes that each escape stands for, in a row of its own, and how many they are.

    A high surrogate stands for nothing, and the low one right behind it for the character of the pair.
    """
    numeric = np.flatnonzero((kinds == _Kind.POINT) & (points >= 0x80))
    named = np.flatnonzero((kinds == _Kind.NAME) & (points >= 0))
    written = np.zeros((len(points), _MEANING_MAX if len(numeric) or len(named) else 1), np.uint8)
    sizes = np.ones(len(points), np.int64)
    written[:, 0] = points & 0xFF
    if len(numeric):
        wide = points[numeric]
        wide[wide > _SCALAR_MAX] = 0xFFFD
        high, low = wide >> 10 == 0xD800 >> 10, wide >> 10 == 0xDC00 >> 10
        paired = np.zeros(len(wide), np.bool_)
        paired[1:] = low[1:] & high[:-1] & (numeric[1:] == numeric[:-1] + 1) & joined[numeric[1:]]
        before = np.concatenate([[0], wide[:-1]])
        wide = np.where(paired, 0x10000 + ((before - 0xD800) << 10) + wide - 0xDC00, wide)
        written[numeric], sizes[numeric] = _utf8(wide, written.shape[1])
        sizes[numeric[high]] = 0
    if len(named):
        _, names = _known_names()
        written[named] = names[points[named], 1:]
        sizes[named] = names[points[named], 0]
    return written, sizes


def _utf8(points: Points, width: int) -> tuple[npt.NDArray[np.uint8], Places]:
    """Code points from U+0080 on as rows of bytes, surrogates too, and how many bytes each has (RFC 3629 section 3)."""
    rows = np.zeros((len(points), width), np.uint8)
    sizes = np.zeros(len(points), np.int64)
    for size, least, lead in ((2, 0x80, 0xC0), (3, 0x800, 0xE0), (4, 0x10000, 0xF0)):
        those = points >= least
        sizes[those] = size
        rows[those, 0] = lead | (points[those] >> 6 * (size - 1))
        for index in range(1, size):
            rows[those, index] = 0x80 | (points[those] >> 6 * (size - 1 - index) & 0x3F)
    return rows, sizes


@cache
def _known_names() -> tuple[npt.NDArray[np.uint64], Bytes]:
    """Keys of the short names in order, and for every name a row: how many bytes it stands for, and these.

    A key is the name itself, read as a number; a name has no byte 0.
    """
    short = sorted(
        (int.from_bytes(name.encode(), "little"), name) for name in _names_with_end() if len(name) <= _NAME_MAX
    )
    ordered = [name for _, name in short] + list(_long_names())
    meanings = [html5[name + ";"].encode() for name in ordered]
    rows = np.zeros((len(meanings), _MEANING_MAX + 1), np.uint8)
    for row, meaning in zip(rows, meanings, strict=True):
        row[0] = len(meaning)
        row[1 : 1 + len(meaning)] = as_bytes(meaning)
    return np.array([key for key, _ in short], np.uint64), rows


@cache
def _long_names() -> dict[str, int]:
    """The number of each name that is too long for a key."""
    short = sum(len(name) <= _NAME_MAX for name in _names_with_end())
    return {
        name: short + index for index, name in enumerate(sorted(n for n in _names_with_end() if len(n) > _NAME_MAX))
    }


def _names_with_end() -> list[str]:
    return [name[:-1] for name in html5 if name.endswith(";")]
