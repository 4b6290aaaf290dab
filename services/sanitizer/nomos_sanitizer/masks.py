"""A decoded form of a long text, as a mask over its bytes: which of them, after decoding, stay.

Nothing that is decoded here is longer than what stands for it, so the decoded bytes are written over the beginning of
their escape and the mask leaves the rest of it out. The way back is worked out when it is asked for, as most texts hold
nothing. Says the same as :class:`nomos_sanitizer.edits.View`, whose cost is by piece and not by byte.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

import numpy as np
import numpy.typing as npt

from nomos_sanitizer.edits import Edit

Bytes = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Places = npt.NDArray[np.int64]

_PIECE_BYTES: Final = 65_536
_NONE: Places = np.zeros(0, np.int64)


def as_bytes(data: bytes) -> Bytes:
    """The bytes of a text as an array that shares its memory."""
    return np.frombuffer(data, np.uint8)


def places_where(text: Bytes, test: Callable[[Bytes], Mask]) -> Places:
    """The places of the bytes for which ``test`` says so.

    The text is looked at in pieces that stay in the processor's cache: fresh memory for each step over a long text
    costs more than the steps.
    """
    if len(text) <= _PIECE_BYTES:
        return np.flatnonzero(test(text))
    pieces = range(0, len(text), _PIECE_BYTES)
    return np.concatenate([np.flatnonzero(test(text[at : at + _PIECE_BYTES])) + at for at in pieces])


def places_of(data: bytes, byte: int) -> Places:
    """The places of one byte."""
    return places_where(as_bytes(data), lambda piece: piece == byte)


class MaskView:
    """A decoded form and the way back.

    Args:
        data: the decoded form.
        mask: of the original text, true for each byte at whose place a byte of ``data`` stands.
        starts: where the escapes of the text begin, in order. An escape goes or stays as a whole.
        ends: where they end.
    """

    __slots__ = ("_ends", "_mask", "_places", "_starts", "data")

    def __init__(self, data: bytes, mask: Mask, starts: Places = _NONE, ends: Places = _NONE) -> None:
        self.data = data
        self._mask = mask
        self._starts = starts
        self._ends = ends
        self._places: Places | None = None

    def origin(self, start: int, end: int) -> tuple[int, int]:
        """The place in the original text of ``data[start:end]``, which is not empty."""
        begins, stops = self._origins(np.array([start]), np.array([end]))
        return begins[0], stops[0]

    def back(self, edits: Iterable[Edit]) -> list[Edit]:
        """Edits of ``data`` as edits of the original text."""
        edits = list(edits)
        if not edits:
            return []
        begins, stops = self._origins(np.array([edit.start for edit in edits]), np.array([edit.end for edit in edits]))
        return [
            Edit(start, end, edit.text, edit.marker, edit.rank, edit.found)
            for edit, start, end in zip(edits, begins, stops, strict=True)
        ]

    def _origins(self, starts: Places, ends: Places) -> tuple[list[int], list[int]]:
        if self._places is None:
            self._places = np.flatnonzero(self._mask)
        first, last = self._places[starts], self._places[ends - 1]
        stop = last + 1
        if len(self._starts):
            first = np.where(self._inside(first), self._starts[self._escape(first)], first)
            stop = np.where(self._inside(last), self._ends[self._escape(last)], stop)
        return first.tolist(), stop.tolist()

    def _escape(self, places: Places) -> Places:
        """The last escape that begins at or before each place; the first where there is none."""
        return np.maximum(np.searchsorted(self._starts, places, side="right") - 1, 0)

    def _inside(self, places: Places) -> Mask:
        escape = self._escape(places)
        inside: Mask = (self._starts[escape] <= places) & (places < self._ends[escape])
        return inside
