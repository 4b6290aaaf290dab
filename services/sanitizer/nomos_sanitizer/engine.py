"""How the two engines are set up here: RE2 byte-wise, as Hyperscan matches, so that both see the same text."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Final

import hyperscan
import re2

_UNANCHORED: Final = re2._re2.RE2.Anchor.UNANCHORED


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


class Search:
    """Patterns that Hyperscan looks for together. Build it once; it may be used by many threads.

    Args:
        patterns: each with the number that is said where it matches. Several may have one number.

    Raises:
        hyperscan.error: a pattern that Hyperscan does not know.
    """

    __slots__ = ("_database", "_local")

    def __init__(self, patterns: Sequence[tuple[int, bytes]]) -> None:
        self._database = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
        # SINGLEMATCH bounds the callbacks of one scan by the number of patterns, whatever the text repeats.
        flags = hyperscan.HS_FLAG_SINGLEMATCH | hyperscan.HS_FLAG_DOTALL
        self._database.compile(
            expressions=[pattern for _, pattern in patterns],
            ids=[number for number, _ in patterns],
            flags=[flags] * len(patterns),
        )
        # Hyperscan writes into its scratch space while it scans.
        self._local = threading.local()

    def hits(self, data: bytes) -> list[int]:
        """The numbers of the patterns that match somewhere in ``data``."""
        found: list[int] = []
        if data:
            self._database.scan(data, match_event_handler=_note, context=found, scratch=self._scratch())
        return found

    def hits_below(self, data: bytes, bound: int) -> list[int] | None:
        """The same, if none of them is ``bound`` or more; None, and the search ends at once, if one is."""
        found: list[int] = []

        def note(number: int, _start: int, _end: int, _flags: int, _context: object) -> bool | None:
            found.append(number)
            return True if number >= bound else None

        if data:
            try:
                self._database.scan(data, match_event_handler=note, scratch=self._scratch())
            except hyperscan.ScanTerminated:
                return None
        return found

    def _scratch(self) -> hyperscan.Scratch:
        scratch = getattr(self._local, "scratch", None)
        if scratch is None:
            scratch = self._local.scratch = hyperscan.Scratch(self._database)
        return scratch


def _note(number: int, _start: int, _end: int, _flags: int, found: object) -> bool | None:
    assert isinstance(found, list)
    found.append(number)
    return None
