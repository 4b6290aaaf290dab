"""What was found in an answer, in a form that is safe to log: kinds, rules, places and counts, never content.

Two lists: what was removed, and what was noted and left as it is. Its shape is decided in docs/adr/0030.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from nomos_sanitizer.edits import Found, Kind
from nomos_sanitizer.limits import REPORT_LINES_MAX

Places = Iterable[tuple[str, Found]]


class Finding(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of a report.

    Attributes:
        kind: what was removed is ``secret``, ``credential``, ``structural-key``, ``invisible`` or ``pii``; what was
            noted is ``injection``.
        rule: the rule's id; for ``invisible`` the class of the characters.
        where: a JSON pointer (the empty one is the whole document), ``text``, ``line:<number>`` or ``header:<name>``.
        count: how many; for ``invisible`` code points.
        fingerprint: the same for the same secret of one tenant, or empty; see :mod:`nomos_sanitizer.fingerprints`.
    """

    kind: Kind
    rule: str
    where: str
    count: int
    fingerprint: str = ""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What was found in one answer. Both lists are sorted; lines that did not fit are counted under ``...``."""

    removed: tuple[Finding, ...] = ()
    noted: tuple[Finding, ...] = ()

    @property
    def is_clean(self) -> bool:
        """Whether nothing was removed."""
        return not self.removed


def tally(removed: Places, noted: Places = ()) -> Report:
    """Adds up findings to a report of bounded length."""
    return Report(removed=_lines(removed), noted=_lines(noted))


def _lines(places: Places) -> tuple[Finding, ...]:
    counts: dict[tuple[str, Kind, str, str], int] = {}
    for where, found in places:
        line = (where, found.kind, found.rule, found.fingerprint)
        if line not in counts and len(counts) >= REPORT_LINES_MAX:
            line = ("...", found.kind, found.rule, "")
        counts[line] = counts.get(line, 0) + found.count
    return tuple(
        Finding(kind=kind, rule=rule, where=where, count=count, fingerprint=fingerprint)
        for (where, kind, rule, fingerprint), count in sorted(counts.items())
    )
