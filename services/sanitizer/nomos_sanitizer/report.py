"""What was removed from an answer, in a form that is safe to log: kinds, rules, places and counts, never content."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from nomos_sanitizer.edits import Found, Kind
from nomos_sanitizer.limits import REPORT_LINES_MAX


class Removal(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a report.

    Attributes:
        kind: ``secret``, ``credential``, ``structural-key`` or ``invisible``.
        rule: the rule's id; for ``invisible`` the class of the characters.
        where: a JSON pointer (the empty one is the whole document), ``text``, ``line:<number>`` or ``header:<name>``.
        count: how many; for ``invisible`` code points.
    """

    kind: Kind
    rule: str
    where: str
    count: int


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What was removed from one answer. ``removed`` is sorted; lines that did not fit are counted under ``...``."""

    removed: tuple[Removal, ...] = ()

    @property
    def is_clean(self) -> bool:
        """Whether nothing was removed."""
        return not self.removed


def tally(places: Iterable[tuple[str, Found]]) -> Report:
    """Adds up findings to a report of bounded length."""
    counts: dict[tuple[str, Kind, str], int] = {}
    for where, found in places:
        line = (where, found.kind, found.rule)
        if line not in counts and len(counts) >= REPORT_LINES_MAX:
            line = ("...", found.kind, found.rule)
        counts[line] = counts.get(line, 0) + found.count
    return Report(
        removed=tuple(
            Removal(kind=kind, rule=rule, where=where, count=count)
            for (where, kind, rule), count in sorted(counts.items())
        )
    )
