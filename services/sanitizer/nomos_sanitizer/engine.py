"""How the two engines are set up here: RE2 byte-wise, as Hyperscan matches, so that both see the same text."""

from __future__ import annotations

import threading
from collections.abc import Container, Iterator, Sequence
from typing import Final

import hyperscan
import re2

_UNANCHORED: Final = re2._re2.RE2.Anchor.UNANCHORED
_ANCHORED: Final = re2._re2.RE2.Anchor.ANCHOR_START
#: Longer texts are searched in pieces of this size where a pattern has matched already; see :class:`Search`.
_PIECE_BYTES: Final = 4_096


def bytes_options() -> re2.Options:
    """RE2 options under which one byte is one character and a bad pattern is an exception, not a line on stderr."""
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    options.log_errors = False
    return options


class Spans:
    """The places of a pattern, as ``finditer`` of RE2 would give them.

    It asks the extension under the package: the package builds an object with all groups of each match, which in a
    body with many secrets is most of the time.

    Args:
        pattern: the pattern.
        group: the group whose place is given; 0 is the whole match, for which RE2 need not look for groups.

    Raises:
        re2.error: a pattern that RE2 does not know.
    """

    __slots__ = ("_compiled", "_group", "_match")

    def __init__(self, pattern: bytes, group: int = 0) -> None:
        self._compiled = re2.compile(pattern, bytes_options())
        self._match = self._compiled._regexp.Match
        self._group = group

    def all(self, data: bytes) -> Iterator[tuple[int, int]]:
        """The places in order, without overlap. A pattern that matches nothing at all is not expected."""
        match, group, size = self._match, self._group, len(data)
        at = 0
        while True:
            found = match(_UNANCHORED, data, at, size)
            if found[0][0] < 0:
                return
            yield found[group]
            at = found[0][1]

    def first(self, data: bytes, at: int) -> int:
        """Where the first place at or behind ``at`` begins; -1 if there is none."""
        start: int = self._match(_UNANCHORED, data, at, len(data))[self._group][0]
        return start

    def end(self, data: bytes, at: int) -> int:
        """Where the place that begins at ``at`` ends; -1 if none begins there."""
        end: int = self._match(_ANCHORED, data, at, len(data))[self._group][1]
        return end

    def matches(self, data: bytes) -> bool:
        """Whether there is a place at all."""
        return self.first(data, 0) >= 0


class Search:
    """Patterns that Hyperscan looks for together. Build it once; it may be used by many threads.

    Args:
        patterns: each with the number that is said where it matches. Several may have one number.
        in_pieces: whether long texts are searched in pieces, as one text. Hyperscan looks back over the run of
            characters that it is in, as far as the piece goes, each time that a pattern begins which it has found
            already: 8 MB of ``SCW`` took two minutes. For databases of many patterns with long repeats.

    Raises:
        hyperscan.error: a pattern that Hyperscan does not know.
    """

    __slots__ = ("_database", "_local", "_pieces")

    def __init__(self, patterns: Sequence[tuple[int, bytes]], *, in_pieces: bool = False) -> None:
        self._database = _compiled(patterns, hyperscan.HS_MODE_BLOCK)
        self._pieces = _compiled(patterns, hyperscan.HS_MODE_VECTORED) if in_pieces else None
        # Hyperscan writes into its scratch space while it scans.
        self._local = threading.local()

    def hits(self, data: bytes) -> list[int]:
        """The numbers of the patterns that match somewhere in ``data``."""
        found: list[int] = []
        if not data:
            return found
        if self._pieces is None or len(data) <= _PIECE_BYTES:
            scratch = self._scratch(self._database)
            self._database.scan(data, match_event_handler=_note, context=found, scratch=scratch)
            return found
        parts = [bytearray(data[at : at + _PIECE_BYTES]) for at in range(0, len(data), _PIECE_BYTES)]
        scratch = self._scratch(self._pieces)
        # As documented for this mode; its types say otherwise.
        self._pieces.scan(parts, match_event_handler=_note, context=found, scratch=scratch)  # type: ignore[type-var]
        return found

    def hits_at_once(self, data: bytes, until: Container[int]) -> list[int]:
        """The same, faster, and never in pieces: it ends with the first hit of ``until``, which then is the last."""
        found: list[int] = []

        def note(number: int, _start: int, _end: int, _flags: int, _context: object) -> bool | None:
            found.append(number)
            return True if number in until else None

        try:
            self._database.scan(data, match_event_handler=note, scratch=self._scratch(self._database))
        except hyperscan.ScanTerminated:
            assert found, "only a hit ends a search"
        return found

    def _scratch(self, database: hyperscan.Database) -> hyperscan.Scratch:
        name = "block" if database is self._database else "pieces"
        scratch = getattr(self._local, name, None)
        if scratch is None:
            scratch = hyperscan.Scratch(database)
            setattr(self._local, name, scratch)
        return scratch


class Occurrences:
    """Patterns whose places are asked for, all together. May be used by many threads.

    Args:
        patterns: short texts, quoted as patterns.
    """

    __slots__ = ("_database", "_local")

    def __init__(self, patterns: Sequence[bytes]) -> None:
        self._database = _compiled([(0, pattern) for pattern in patterns], hyperscan.HS_MODE_BLOCK, each=True)
        self._local = threading.local()

    def ends(self, data: bytes, most: int) -> list[int] | None:
        """Where they end, in order; None if there are more than ``most``."""
        found: list[int] = []

        def note(_number: int, _start: int, end: int, _flags: int, _context: object) -> bool | None:
            found.append(end)
            return True if len(found) > most else None

        scratch = getattr(self._local, "scratch", None)
        if scratch is None:
            scratch = self._local.scratch = hyperscan.Scratch(self._database)
        try:
            self._database.scan(data, match_event_handler=note, scratch=scratch)
        except hyperscan.ScanTerminated:
            return None
        return found


def _compiled(patterns: Sequence[tuple[int, bytes]], mode: int, *, each: bool = False) -> hyperscan.Database:
    database = hyperscan.Database(mode=mode)
    # SINGLEMATCH bounds the callbacks of one scan by the number of patterns, whatever the text repeats.
    flags = hyperscan.HS_FLAG_DOTALL | (0 if each else hyperscan.HS_FLAG_SINGLEMATCH)
    database.compile(
        expressions=[pattern for _, pattern in patterns],
        ids=[number for number, _ in patterns],
        flags=[flags] * len(patterns),
    )
    return database


def _note(number: int, _start: int, _end: int, _flags: int, found: object) -> bool | None:
    assert isinstance(found, list)
    found.append(number)
    return None
