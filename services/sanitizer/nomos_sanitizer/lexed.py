"""A JSON text that is not read: where its strings are, and how deep its containers go.

Decides nothing; says where things stand, by arrays over all bytes at once. Right for any JSON text (RFC 8259), as a
backslash stands only in strings there; for other text the answers are some answers.
"""

from __future__ import annotations

from functools import cached_property
from json.decoder import scanstring  # type: ignore[attr-defined]  # the reader's own, for one string
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from nomos_sanitizer.limits import JSON_DEPTH_MAX
from nomos_sanitizer.masks import Bytes, Mask, Places, as_bytes, places_of, places_where

_QUOTE: Final = 0x22
_BACKSLASH: Final = 0x5C
#: [ and { differ by this bit, ] and } too.
_FOLD: Final = 0x20
_OPENS: Final = 0x7B
_CLOSES: Final = 0x7D
#: Up to here it costs less to count than to look for the outline.
_SHORT_BYTES: Final = 65_536
_FEW_PLACES: Final = 64
#: Takes any JSON text and builds nothing. Stricter than Python's reader: what it takes, that reads too.
_RAW: Final = msgspec.json.Decoder(msgspec.Raw)


class Outline(msgspec.Struct, frozen=True):
    """What gives a JSON text its structure.

    Attributes:
        marks: the places of the quotation marks that open and close strings, by turns.
        brackets: the places of the brackets that stand in no string.
        steps: 1 for each of them that opens, -1 for each that closes.
    """

    marks: Places
    brackets: Places
    steps: npt.NDArray[np.int8]


class Lexed:
    """A JSON text and where its strings are, worked out once.

    Args:
        data: UTF-8.
    """

    def __init__(self, data: bytes) -> None:
        self.data = data

    @cached_property
    def is_json(self) -> bool:
        """Whether it is a JSON text by the letter; the reader in :mod:`nomos_sanitizer.structure` takes some more."""
        try:
            _RAW.decode(self.data)
        except (msgspec.DecodeError, RecursionError):
            return False
        return True

    @cached_property
    def is_shallow(self) -> bool:
        """Whether the containers are within ``JSON_DEPTH_MAX``."""
        if len(self.data) < _SHORT_BYTES and self.data.count(b"[") + self.data.count(b"{") <= JSON_DEPTH_MAX:
            return True
        return int(np.cumsum(self._outline.steps, dtype=np.int64).max(initial=0)) <= JSON_DEPTH_MAX

    @cached_property
    def escaped(self) -> frozenset[str]:
        """What the strings say in which a backslash stands."""
        texts = set()
        if b"\\" not in self.data:
            return frozenset()
        marks, opening = self._outline.marks, self._strings_at(places_of(self.data, _BACKSLASH))
        for start, end in zip(marks[opening].tolist(), marks[opening + 1].tolist(), strict=True):
            texts.add(scanstring(self.data[start : end + 1].decode(), 1, True)[0])
        return frozenset(texts)

    def strings_at(self, places: Places) -> set[bytes]:
        """The strings in which some places, in order, are, but for those of :attr:`escaped`."""
        if len(places) < _FEW_PLACES and b"\\" not in self.data:
            return {self._around(place) for place in places.tolist()}
        marks, opening = self._outline.marks, self._strings_at(places)
        spans = zip((marks[opening] + 1).tolist(), marks[opening + 1].tolist(), strict=True)
        texts = {self.data[start:end] for start, end in spans}
        return {text for text in texts if b"\\" not in text} if b"\\" in self.data else texts

    def _around(self, place: int) -> bytes:
        """What stands between the quotation marks next to a place: in a JSON text without escapes, its string."""
        return self.data[self.data.rfind(b'"', 0, place) + 1 : self.data.find(b'"', place)]

    def _strings_at(self, places: Places) -> Places:
        """The numbers of the marks that open the strings in which some places are."""
        behind = np.searchsorted(self._outline.marks, places)
        # In order, so that alike stand together: to sort is much faster than to look for what is alike.
        behind = behind[np.diff(behind, prepend=-1) != 0]
        # Behind an odd number of marks is inside a string.
        opening: Places = behind[behind % 2 == 1] - 1
        return opening

    @cached_property
    def _outline(self) -> Outline:
        return outline(self.data)


def outline(data: bytes) -> Outline:
    """Finds the quotation marks and brackets of a JSON text."""
    text = as_bytes(data)
    places = places_where(text, _is_outline)
    if b"\\" in data:
        escaped = _escaped(places_of(data, _BACKSLASH))
        at = np.minimum(np.searchsorted(places, escaped), max(0, len(places) - 1))
        stays = np.ones(len(places), np.bool_)
        if len(places):
            stays[at[places[at] == escaped]] = False
        places = places[stays]
    found = text[places]
    is_mark = found == _QUOTE
    is_bracket = ~is_mark & (np.cumsum(is_mark, dtype=np.int32) & 1 == 0)
    steps = np.where(found[is_bracket] | _FOLD == _OPENS, 1, -1).astype(np.int8)
    return Outline(places[is_mark], places[is_bracket], steps)


def _is_outline(text: Bytes) -> Mask:
    folded = text | _FOLD
    is_outline: Mask = (text == _QUOTE) | (folded == _OPENS) | (folded == _CLOSES)
    return is_outline


def _escaped(slashes: Places) -> Places:
    """The places behind backslashes that are escaped by them: in a row every other one does, from the first."""
    number = np.arange(len(slashes))
    first = np.ones(len(slashes), np.bool_)
    first[1:] = slashes[1:] != slashes[:-1] + 1
    places: Places = slashes[(number - np.maximum.accumulate(np.where(first, number, 0))) % 2 == 0] + 1
    return places
