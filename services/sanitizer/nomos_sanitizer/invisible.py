"""Characters that a reader does not see and a model does: which are removed, and which a script needs.

Decides the class of each code point and whether it stands where its script or emoji sequence wants it. Removed:
zero-width characters, bidirectional controls, tag characters, variation selectors, fillers, soft hyphens and format
controls. Kept: joiners inside emoji sequences (UTS #51), joiners in Arabic script and around a virama (RFC 5892
appendix A.1 and A.2), the three subdivision flags that are recommended for interchange, VS15 and VS16 on emoji,
ideographic variation sequences on Han. For detection **all** of them are left out, and control characters too: a
token is found whatever was put between its letters.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from functools import cache
from typing import Final

import msgspec
import numpy as np

from nomos_sanitizer.budget import Budget
from nomos_sanitizer.edits import View
from nomos_sanitizer.masks import Bytes, Mask, MaskView, Places, as_bytes

ZERO_WIDTH: Final = "zero-width"
BIDI: Final = "bidi-control"
TAG: Final = "unicode-tag"
VARIATION: Final = "variation-selector"
FILLER: Final = "filler"
SOFT_HYPHEN: Final = "soft-hyphen"
FORMAT: Final = "format-control"
#: Control characters are left out for detection only; they are not invisible text, so they stay in the body.
_CONTROL: Final = "control"

_RANGES: Final[tuple[tuple[int, int, str], ...]] = (
    (0x00, 0x08, _CONTROL), (0x0B, 0x0C, _CONTROL), (0x0E, 0x1F, _CONTROL), (0x7F, 0x9F, _CONTROL),
    (0xAD, 0xAD, SOFT_HYPHEN),
    (0x034F, 0x034F, FILLER), (0x061C, 0x061C, BIDI), (0x115F, 0x1160, FILLER), (0x17B4, 0x17B5, FILLER),
    (0x180B, 0x180D, VARIATION), (0x180E, 0x180E, ZERO_WIDTH), (0x180F, 0x180F, VARIATION),
    (0x200B, 0x200D, ZERO_WIDTH), (0x200E, 0x200F, BIDI), (0x202A, 0x202E, BIDI),
    (0x2060, 0x2060, ZERO_WIDTH), (0x2061, 0x2065, FORMAT), (0x2066, 0x2069, BIDI), (0x206A, 0x206F, FORMAT),
    (0x2800, 0x2800, FILLER), (0x3164, 0x3164, FILLER),
    (0xFE00, 0xFE0F, VARIATION), (0xFEFF, 0xFEFF, ZERO_WIDTH), (0xFFA0, 0xFFA0, FILLER),
    (0xFFF0, 0xFFFB, FORMAT), (0x1BCA0, 0x1BCA3, FORMAT), (0x1D173, 0x1D17A, FORMAT),
    (0xE0000, 0xE007F, TAG), (0xE0080, 0xE00FF, FORMAT), (0xE0100, 0xE01EF, VARIATION), (0xE01F0, 0xE0FFF, FORMAT),
)  # fmt: skip
_POINTS: Final = 0x110000
_NAMES: Final = ("", _CONTROL, ZERO_WIDTH, BIDI, TAG, VARIATION, FILLER, SOFT_HYPHEN, FORMAT)
_NUMBERS: Final = {name: number for number, name in enumerate(_NAMES)}
_ASCII_CONTROLS: Final = bytes(point for first, last, _ in _RANGES for point in range(first, last + 1) if point < 0x80)
_IS_KEPT_ASCII: Final = np.array([byte not in _ASCII_CONTROLS for byte in range(256)])
#: From here on the arrays cost less than the loop.
_MANY_CHARACTERS: Final = 1_000
#: No character from here on has a combining class; a test looks.
_COMBINING_END: Final = 0x20000
_CLASS: Final = {chr(point): name for first, last, name in _RANGES for point in range(first, last + 1)}

_EMOJI: Final[tuple[tuple[int, int], ...]] = (
    (0xA9, 0xA9), (0xAE, 0xAE), (0x203C, 0x203C), (0x2049, 0x2049), (0x2122, 0x2122), (0x2139, 0x2139),
    (0x2194, 0x21AA), (0x231A, 0x23FA), (0x24C2, 0x24C2), (0x25AA, 0x25FE), (0x2600, 0x27BF), (0x2934, 0x2935),
    (0x2B05, 0x2B55), (0x3030, 0x3030), (0x303D, 0x303D), (0x3297, 0x3299), (0x1F000, 0x1FAFF),
)  # fmt: skip
_ARABIC: Final = ((0x0620, 0x077F), (0x0780, 0x07FA), (0x0840, 0x08FF), (0xFB50, 0xFDFF), (0xFE70, 0xFEFC))
_INDIC: Final = ((0x0900, 0x0DFF), (0x0F00, 0x109F), (0x1780, 0x17FF), (0x1B00, 0x1BFF), (0xA880, 0xA8DF))
_MONGOLIAN: Final = ((0x1820, 0x18AA),)
_HAN: Final = ((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x323AF))
_BRAILLE: Final = ((0x2801, 0x28FF),)

_ZWNJ, _ZWJ, _VS15, _VS16, _KEYCAP = "\u200c", "\u200d", "\ufe0e", "\ufe0f", "\u20e3"
_KEYCAP_BASES: Final = "0123456789#*"
_VIRAMA: Final = 9  # canonical combining class, Unicode Standard section 4.3
_BLACK_FLAG: Final = "\U0001f3f4"
#: The RGI emoji tag sequences: England, Scotland, Wales (UTS #51 section 1.4.6 and annex C).
_FLAG_TAGS: Final = tuple(
    "".join(chr(0xE0000 + ord(letter)) for letter in region) + "\U000e007f" for region in ("gbeng", "gbsct", "gbwls")
)
_FLAG_LENGTH: Final = 6
_FLAG_END: Final = "\U000e007f"


class Removed(msgspec.Struct, frozen=True, gc=False):
    """A run of characters of one class that must go: byte offsets and how many code points."""

    start: int
    end: int
    name: str
    count: int


class Visible(msgspec.Struct, frozen=True):
    """What :func:`examine` found: the runs to remove and the shadow that is searched instead of the text."""

    removed: tuple[Removed, ...]
    shadow: View | MaskView


def gate_pattern() -> bytes:
    """A Hyperscan and RE2 byte pattern that matches if, and only if, a text holds a character of the table above."""
    alternatives: dict[bytes, set[int]] = {}
    for character in _CLASS:
        encoded = character.encode()
        alternatives.setdefault(encoded[:-1], set()).add(encoded[-1])
    grouped: dict[tuple[int, ...], list[bytes]] = {}
    for lead, tails in alternatives.items():
        grouped.setdefault(tuple(sorted(tails)), []).append(lead)
    parts = []
    for tails_sorted, leads in grouped.items():
        lead_pattern = b"|".join(b"".join(b"\\x%02x" % byte for byte in lead) for lead in leads)
        tail_pattern = b"".join(b"\\x%02x" % byte for byte in tails_sorted)
        parts.append(b"(?:" + lead_pattern + b")[" + tail_pattern + b"]")
    return b"(?:" + b"|".join(parts) + b")"


def examine(data: bytes, budget: Budget, *, to_remove: bool = True) -> Visible:
    """Finds the invisible characters of a text.

    Args:
        data: UTF-8, in which lone surrogates may stand in their three byte form.
        budget: what the pass may spend.
        to_remove: whether the runs that must go are asked for, beside the shadow.

    Raises:
        UnicodeDecodeError: this is no text; see :func:`ascii_projection`.
        ResponseRefused: more invisible characters than the budget allows, or more places to remove.
    """
    if data.isascii():
        return _without_controls(data, budget)
    text = data.decode("utf-8", "surrogatepass")
    if len(text) < _MANY_CHARACTERS:
        return examine_each(data, text, budget, to_remove=to_remove)
    return examine_arrays(data, text, budget, to_remove=to_remove)


def _without_controls(data: bytes, budget: Budget) -> Visible:
    shadow = data.translate(None, _ASCII_CONTROLS)
    budget.invisible(len(data) - len(shadow))
    return Visible((), MaskView(shadow, _IS_KEPT_ASCII.take(as_bytes(data))))


def examine_each(data: bytes, text: str, budget: Budget, *, to_remove: bool) -> Visible:
    """The same as :func:`examine`, one character after the other."""
    shadow = View()
    removed: list[Removed] = []
    done_chars = done_bytes = 0
    kept_until = 0
    for index, character in enumerate(text):
        name = _CLASS.get(character)
        if name is None:
            continue
        budget.invisible()
        start = done_bytes
        if index > done_chars:  # else right behind the one before, as in a run of them
            start += len(text[done_chars:index].encode("utf-8", "surrogatepass"))
            shadow.copy(data, done_bytes, start)
        end = start + (1 if character < "\x80" else len(character.encode()))
        done_chars, done_bytes = index + 1, end
        if not to_remove or index < kept_until or name is _CONTROL:
            continue
        if name is TAG and _starts_flag(text, index):
            kept_until = index + _FLAG_LENGTH
        elif not _belongs(text, index, character):
            _extend(removed, start, end, name)
    budget.span(len(removed))
    shadow.copy(data, done_bytes, len(data))
    return Visible(tuple(removed), shadow.close())


def examine_arrays(data: bytes, text: str, budget: Budget, *, to_remove: bool) -> Visible:
    """The same again, for many characters at once; only those that may belong are looked at one by one."""
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    classes, neighbours = _tables()
    names = classes.take(points)
    hidden = np.flatnonzero(names)
    budget.invisible(len(hidden))
    sizes = 1 + (points >= 0x80).astype(np.int8) + (points >= 0x800) + (points >= 0x10000)
    mask = np.repeat(names == 0, sizes)
    shadow = MaskView(as_bytes(data).compress(mask).tobytes(), mask)
    if not to_remove:
        return Visible((), shadow)
    goes = names[hidden] != _NUMBERS[_CONTROL]
    # Beside a character that wants nothing invisible, an invisible one has no reason; it wants none itself.
    wants = np.concatenate([[False], neighbours.take(points), [False]])
    kept_until = 0
    for place in np.flatnonzero(goes & (wants[hidden] | wants[hidden + 2])).tolist():
        index = int(hidden[place])
        if index < kept_until:
            goes[place] = False
        elif names[index] == _NUMBERS[TAG] and _starts_flag(text, index):
            goes[place] = False
            kept_until = index + _FLAG_LENGTH
            goes[place : np.searchsorted(hidden, kept_until)] = False
        elif _belongs(text, index, text[index]):
            goes[place] = False
    hidden = hidden[goes]
    ends = np.cumsum(sizes, dtype=np.int64)[hidden]
    return Visible(_runs(ends - sizes[hidden], ends, names[hidden], budget), shadow)


def _runs(starts: Places, ends: Places, names: Bytes, budget: Budget) -> tuple[Removed, ...]:
    """Neighbours of one class as one."""
    if not len(starts):
        return ()
    begins = np.ones(len(starts), np.bool_)
    begins[1:] = (starts[1:] != ends[:-1]) | (names[1:] != names[:-1])
    firsts = np.flatnonzero(begins)
    budget.span(len(firsts))
    lasts = np.append(firsts[1:], len(starts)) - 1
    return tuple(
        Removed(start, end, _NAMES[name], count)
        for start, end, name, count in zip(
            starts[firsts].tolist(),
            ends[lasts].tolist(),
            names[firsts].tolist(),
            (lasts - firsts + 1).tolist(),
            strict=True,
        )
    )


@cache
def _tables() -> tuple[Bytes, Mask]:
    """For every code point the number of its class (0: visible), and whether it may want an invisible neighbour."""
    classes = np.zeros(_POINTS, np.uint8)
    for first, last, name in _RANGES:
        classes[first : last + 1] = _NUMBERS[name]
    wants = np.zeros(_POINTS, np.bool_)
    for first, last in (*_EMOJI, *_ARABIC, *_INDIC, *_MONGOLIAN, *_HAN, *_BRAILLE):
        wants[first : last + 1] = True
    for character in (*_KEYCAP_BASES, _KEYCAP, _BLACK_FLAG, _VS16, _FLAG_END):
        wants[ord(character)] = True
    for point in range(_COMBINING_END):
        if unicodedata.combining(chr(point)):
            wants[point] = True
    # Inside a flag every character has a tag beside it.
    wants[0xE0000:0xE0080] = True
    return classes, wants


def ascii_projection(data: bytes) -> tuple[bytes, Callable[[], MaskView]]:
    """The printable ASCII of a binary, and white space. A token that was split stands in it in one piece.

    Returns:
        The projection and what makes a view of it, which leads back to ``data`` and is seldom asked for.
    """
    if len(data) < _LONG_BINARY:
        short = data.translate(None, NOT_PRINTABLE)
        return short, lambda: MaskView(short, as_bytes(data.translate(IS_PRINTABLE)).view(np.bool_))
    # Not by deleting: which byte of a binary goes cannot be foreseen, and that is slow one by one.
    mask = as_bytes(data.translate(IS_PRINTABLE)).view(np.bool_)
    projection = as_bytes(data)[np.flatnonzero(mask)].tobytes()
    return projection, lambda: MaskView(projection, mask)


_LONG_BINARY: Final = 4_096
NOT_PRINTABLE: Final = bytes(byte for byte in range(256) if not 0x20 <= byte < 0x7F and byte not in b"\t\n\r")
IS_PRINTABLE: Final = bytes(byte not in NOT_PRINTABLE for byte in range(256))


def _extend(removed: list[Removed], start: int, end: int, name: str) -> None:
    if removed and removed[-1].end == start and removed[-1].name == name:
        before = removed.pop()
        start, count = before.start, before.count + 1
    else:
        count = 1
    removed.append(Removed(start, end, name, count))


def _in(character: str, ranges: tuple[tuple[int, int], ...]) -> bool:
    point = ord(character) if character else -1
    return any(first <= point <= last for first, last in ranges)


def _starts_flag(text: str, index: int) -> bool:
    return index > 0 and text[index - 1] == _BLACK_FLAG and text[index : index + _FLAG_LENGTH] in _FLAG_TAGS


def _belongs(text: str, index: int, character: str) -> bool:
    """Whether the script or emoji around an invisible character calls for it there."""
    before = text[index - 1] if index else ""
    after = text[index + 1 : index + 2]
    if character == _ZWJ and _joins_emoji(text, index, before, after):
        return True
    if character in (_ZWNJ, _ZWJ):
        return _joins_script(text, index, before, after)
    if character in (_VS15, _VS16):
        return _in(before, _EMOJI) or (before != "" and before in _KEYCAP_BASES and after == _KEYCAP)
    if "\u180b" <= character <= "\u180f":
        return _in(before, _MONGOLIAN) and (character == "\u180e" or _CLASS.get(after) is None)
    if "\U000e0100" <= character <= "\U000e01ef":
        return _in(before, _HAN)
    if character == "\u2800":
        return _in(before, _BRAILLE) and _in(after, _BRAILLE)
    return False


def _joins_emoji(text: str, index: int, before: str, after: str) -> bool:
    if before == _VS16 and index > 1:
        before = text[index - 2]
    elif before == _FLAG_END:
        return text[index - _FLAG_LENGTH - 1 : index - _FLAG_LENGTH] == _BLACK_FLAG and _in(after, _EMOJI)
    return _in(before, _EMOJI) and _in(after, _EMOJI)


def _joins_script(text: str, index: int, before: str, after: str) -> bool:
    if not before:
        return False
    if unicodedata.combining(before) == _VIRAMA:
        return True
    if _in(before, _INDIC) and _in(after, _INDIC):
        return True
    at = index - 1
    # Vowel marks stand between the letter and the joiner (RFC 5892 appendix A.1: Joining_Type T is skipped).
    while at > 0 and index - at <= 4 and unicodedata.combining(text[at]):
        at -= 1
    left = _in(text[at], _ARABIC)
    if text[index] == _ZWNJ:
        return left and _in(after, _ARABIC)
    return left or _in(after, _ARABIC)
