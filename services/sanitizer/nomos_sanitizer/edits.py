"""Edits of a text: what is replaced, by what, and what is said about it in the report.

Decides how edits that touch each other become one, and how edits found in a decoded view are carried back to the
text that was decoded. Leaves to others how they are found. All offsets are bytes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from typing import Final, Literal

import msgspec

Kind = Literal["secret", "credential", "structural-key", "invisible", "pii", "injection"]

#: Ranks say which edit gives the name where several touch: a credential first, then rules in order, then the rest.
RANK_CREDENTIAL: Final = 0
RANK_RULES: Final = 1
RANK_PII: Final = 500_000
RANK_INVISIBLE: Final = 1_000_000


class Found(msgspec.Struct, frozen=True, gc=False):
    """What one edit removed, or what was noted: its kind, the rule's id, how many, and the fingerprint or nothing."""

    kind: Kind
    rule: str
    count: int = 1
    fingerprint: str = ""


class Edit(msgspec.Struct, frozen=True, gc=False):
    """Replace ``[start, end)`` by ``text``. ``marker`` stands instead where the edit is merged into a wider one."""

    start: int
    end: int
    text: bytes
    marker: bytes
    rank: int
    found: tuple[Found, ...]


def marker_for(rule: str) -> str:
    """The text that stands in place of a secret. It carries no character that JSON, HTML or a header must escape."""
    return f"[redacted:{rule}]"


def opaque(span: tuple[int, int], found: Found, rank: int) -> Edit:
    """An edit that replaces a span by the marker of what was found there."""
    marker = marker_for(found.rule).encode()
    return Edit(*span, marker, marker, rank, (found,))


def merge(edits: Iterable[Edit]) -> list[Edit]:
    """Sorts edits and joins those that overlap; a joined edit removes everything that any of them removes."""
    edits = list(edits)
    reach = -1
    for edit in edits:
        if edit.start < reach or edit.end <= edit.start:
            break
        reach = edit.end
    else:
        return edits  # As the edits of one rule are.
    merged: list[Edit] = []
    group: list[Edit] = []
    reach = -1
    for edit in sorted(edits, key=lambda edit: (edit.start, edit.end)):
        if group and edit.start >= reach:
            merged.append(_join(group))
            group = []
        reach = max(reach, edit.end) if group else edit.end
        group.append(edit)
    if group:
        merged.append(_join(group))
    return merged


def _join(group: Sequence[Edit]) -> Edit:
    if len(group) == 1:
        return group[0]
    start, end = group[0].start, max(edit.end for edit in group)
    best = min(group, key=lambda edit: (edit.rank, edit.start - edit.end))
    # A re-encoded text is only right if it covers the whole place; a piece of it beside a marker could split a token.
    text = best.text if (best.start, best.end) == (start, end) else best.marker
    invisible = [found for edit in group if edit is not best for found in edit.found if found.kind == "invisible"]
    return Edit(start, end, text, best.marker, best.rank, (*best.found, *invisible))


def told(edits: Iterable[Edit]) -> tuple[Found, ...]:
    """What edits say in a report; what several say alike is said once, with the sum."""
    founds: dict[int, Found] = {}
    counts: dict[int, int] = {}
    for edit in edits:
        for found in edit.found:
            key = id(found)
            counts[key] = counts.get(key, 0) + 1
            founds[key] = found
    return tuple(
        found if counts[key] == 1 else msgspec.structs.replace(found, count=found.count * counts[key])
        for key, found in founds.items()
    )


def apply(data: bytes, edits: Sequence[Edit]) -> bytes:
    """The text after ``edits``, which are sorted and do not overlap (see :func:`merge`)."""
    parts: list[bytes] = []
    at = 0
    for edit in edits:
        parts.append(data[at : edit.start])
        parts.append(edit.text)
        at = edit.end
    parts.append(data[at:])
    return b"".join(parts)


class View:
    """A decoded form of a text and the way back: each byte of ``data`` knows the bytes that it came from.

    A view is built from pieces in order; what lies between them was left out. The stride of a piece is how many bytes
    of the original each decoded byte took (1 for text as it stands, 3 for a run of ``%41``), or 0 where the piece is
    one escape sequence that goes or stays as a whole.
    """

    __slots__ = ("_decoded_starts", "_origin_ends", "_origin_starts", "_parts", "_size", "_strides", "data")

    def __init__(self) -> None:
        self.data = b""
        self._parts: list[bytes] = []
        self._size = 0
        self._decoded_starts: list[int] = []
        self._origin_starts: list[int] = []
        self._origin_ends: list[int] = []
        self._strides: list[int] = []

    def copy(self, source: bytes, start: int, end: int) -> None:
        """Appends ``source[start:end]`` as it stands."""
        if end > start:
            self.replace(source[start:end], start, end, stride=1)

    def replace(self, decoded: bytes, start: int, end: int, *, stride: int = 0) -> None:
        """Appends what the escape, or the run of escapes of one length, at ``[start, end)`` stands for."""
        if decoded:
            self._decoded_starts.append(self._size)
            self._origin_starts.append(start)
            self._origin_ends.append(end)
            self._strides.append(stride)
            self._parts.append(decoded)
            self._size += len(decoded)

    def close(self) -> View:
        """Joins the pieces into ``data``."""
        self.data = b"".join(self._parts)
        self._parts.clear()
        return self

    def origin(self, start: int, end: int) -> tuple[int, int]:
        """The place in the original text of ``data[start:end]``, which is not empty."""
        first = bisect_right(self._decoded_starts, start) - 1
        last = bisect_right(self._decoded_starts, end - 1) - 1
        begin = self._origin_starts[first] + (start - self._decoded_starts[first]) * self._strides[first]
        stride = self._strides[last]
        if not stride:
            return begin, self._origin_ends[last]
        return begin, self._origin_starts[last] + (end - self._decoded_starts[last]) * stride

    def back(self, edits: Iterable[Edit]) -> list[Edit]:
        """Edits of ``data`` as edits of the original text."""
        carried = []
        for edit in edits:
            start, end = self.origin(edit.start, edit.end)
            carried.append(Edit(start, end, edit.text, edit.marker, edit.rank, edit.found))
        return carried
