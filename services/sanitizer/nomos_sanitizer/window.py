"""Text that is searched while it arrives: a window slides over it, and what leaves can no longer be part of a finding.

Decides how far the text may leave. A cut stands behind white space, at least ``STREAM_WINDOW_BYTES`` before the end of
what has come, and inside no finding. Every search sees as much again of what has left already, so that a word before
the cut still gives its context to a secret behind it. A finding that began in what has left, and text that offers no
cut within ``STREAM_HELD_BYTES_MAX``, are refused: memory is bounded and nothing slips through.

Searches happen where the count of bytes reaches a multiple of ``STREAM_STEP_BYTES``, never where a chunk happens to
end. So how a body was cut into chunks changes nothing of the outcome.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from nomos.errors import ResponseRefused
from nomos_sanitizer.budget import Budget
from nomos_sanitizer.credentials import Needles
from nomos_sanitizer.edits import Edit, Found, apply
from nomos_sanitizer.limits import (
    PASSES_MAX,
    STREAM_HELD_BYTES_MAX,
    STREAM_STEP_BYTES,
    STREAM_WINDOW_BYTES,
)
from nomos_sanitizer.matching import Matcher
from nomos_sanitizer.scrub import Options, Scrubber

_BREAKS: Final = b" \t\r\n"
#: Of a character in UTF-8, the most bytes that may be still to come.
_TAIL_BYTES_MAX: Final = 3


class TextWindow:
    """One text on its way through. Build with the compiled rules; :meth:`feed` until :meth:`finish`."""

    def __init__(self, matcher: Matcher, needles: Needles, options: Options) -> None:
        self._matcher = matcher
        self._needles = needles
        self._options = options
        #: What has come and not left, behind ``_left`` bytes that have left and are context only.
        self._data = b""
        self._left = 0
        self._until_step = STREAM_STEP_BYTES
        self._is_first = True
        self.found: list[Found] = []

    @property
    def is_empty(self) -> bool:
        """Whether nothing is held back."""
        return len(self._data) == self._left

    @property
    def held_bytes(self) -> int:
        """What is kept: what is held back, and the context before it."""
        return len(self._data)

    def feed(self, chunk: bytes) -> bytes:
        """Takes the next bytes and gives back what may leave.

        Raises:
            ResponseRefused: not UTF-8, or it cannot be searched in pieces.
        """
        out = []
        at = 0
        while at < len(chunk):
            piece = chunk[at : at + self._until_step]
            at += len(piece)
            self._data += piece
            self._until_step -= len(piece)
            if not self._until_step:
                self._until_step = STREAM_STEP_BYTES
                out.append(self._slide())
        return b"".join(out)

    def flush_quiet(self) -> bytes:
        """What is held back, if it holds no finding and nothing in it could begin one; else nothing."""
        if self.is_empty or not self._data.endswith((b"\n", b"\r")) or self._search(self._data):
            return b""
        return self._leave(len(self._data), ())

    def finish(self) -> bytes:
        """The rest. The window is empty then, and may be fed again as a new text.

        Raises:
            ResponseRefused: as :meth:`feed`.
        """
        out = b"" if self.is_empty else self._leave(len(self._data), self._search(self._data))
        try:
            out.decode()
        except UnicodeDecodeError as error:
            raise ResponseRefused("answer ends in the middle of a character") from error
        self._data, self._left, self._until_step, self._is_first = b"", 0, STREAM_STEP_BYTES, True
        return out

    def _slide(self) -> bytes:
        edits = self._search(self._data)
        cut = self._cut(len(self._data) - STREAM_WINDOW_BYTES, edits)
        if cut <= self._left:
            if len(self._data) - self._left > STREAM_HELD_BYTES_MAX:
                raise ResponseRefused(f"text offers no place to cut it within {STREAM_HELD_BYTES_MAX} bytes")
            return b""
        return self._leave(cut, edits)

    def _cut(self, wanted: int, edits: Sequence[Edit]) -> int:
        """The last place up to ``wanted`` behind white space and inside no edit; at most ``_left`` if there is none."""
        place = wanted
        for edit in reversed(edits):
            place = self._behind_break(place)
            if edit.end <= place:
                return place
            place = min(place, edit.start)
        return self._behind_break(place)

    def _behind_break(self, place: int) -> int:
        while place > self._left and self._data[place - 1] not in _BREAKS:
            place -= 1
        return place

    def _leave(self, cut: int, edits: Sequence[Edit]) -> bytes:
        """Lets everything before ``cut`` leave."""
        mine = []
        for edit in edits:
            if edit.start < self._left < edit.end:
                raise ResponseRefused("a finding begins in a part of the text that has left")
            if self._left <= edit.start and edit.end <= cut:
                mine.append(edit)
        cleaned = apply(self._data[:cut], [edit for edit in mine if edit.start >= self._left])[self._left :]
        self.found += [found for edit in mine for found in edit.found]
        kept = max(0, cut - STREAM_WINDOW_BYTES)
        # Context begins behind white space too: half a word would look like a whole one.
        while 0 < kept < cut and self._data[kept - 1] not in _BREAKS:
            kept += 1
        self._data, self._left = self._data[kept:], cut - kept
        return self._settled(cleaned)

    def _settled(self, cleaned: bytes) -> bytes:
        # What leaves begins behind white space, but for the first; a character may look at what stands before it.
        lead = b"" if self._is_first else b"\n"
        self._is_first = False
        for _ in range(PASSES_MAX):
            edits = self._search(lead + cleaned)
            if not edits:
                break
            self.found += [found for edit in edits for found in edit.found]
            cleaned = apply(lead + cleaned, edits)[len(lead) :]
        else:
            raise ResponseRefused("text still holds secrets after the last pass")
        if self._needles.remain(cleaned):
            raise ResponseRefused("text holds the credential in a place that cannot be redacted")
        return cleaned

    def _search(self, data: bytes) -> Sequence[Edit]:
        whole = data
        for _ in range(_TAIL_BYTES_MAX):
            try:
                whole.decode()
            except UnicodeDecodeError as error:
                # A character whose end has not come is looked at with the next bytes.
                if error.end < len(whole) or error.reason != "unexpected end of data":
                    raise ResponseRefused("answer is not text in the encoding that it claims") from error
                whole = whole[: error.start]
            else:
                break
        return Scrubber(self._matcher, self._needles, Budget(len(whole)), self._options).search(whole)
