"""Which rules fire on a text, and where: Hyperscan decides the first, google-re2 the second.

Both run in time linear in the text whatever an upstream writes into it; the standard library's ``re`` does not, so it
is not used here. Beside the rules run the **gates**: cheap patterns that say whether a text can hold an encoding or an
invisible character at all. A text on which nothing fires is clean, and most are.

What makes a database of Hyperscan slow is a few patterns in it, so there are several: the rules with the beginnings
of their secrets in base64, the gates, and one for each rule that says what it needs (``needs`` in the rule files),
which is searched only where that stands.

Leaves to :mod:`nomos_sanitizer.scrub` what to do about a match.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from nomos_sanitizer import invisible
from nomos_sanitizer.edits import marker_for
from nomos_sanitizer.encodings import base64_forms
from nomos_sanitizer.engine import Occurrences, Search, Spans
from nomos_sanitizer.escapes import ESCAPE_PATTERN, may_hold_escape
from nomos_sanitizer.limits import BASE64_RUN_MIN
from nomos_sanitizer.pii import PiiFinder
from nomos_sanitizer.rules import Rule
from nomos_sanitizer.shapes import shape
from nomos_sanitizer.structure import KEY_GATE

#: Gates. Rules have the ids from 0 up, so gates count down from -1 on the way out of :meth:`Matcher.fired`.
GATE_ESCAPE: Final = -1
GATE_BASE64: Final = -2
GATE_INVISIBLE: Final = -3
#: Beside ``GATE_BASE64``: it fired because the beginning of some rule's secret shows in base64.
GATE_BEGINNING: Final = -4
_GATES: Final = 4

_LITERAL_MIN: Final = 4
#: So many beginnings of secrets in base64 are looked at where they stand.
_PLACES_MAX: Final = 256


class _Apart:
    """A rule that is searched apart from the others, and where."""

    def __init__(self, number: int, rule: Rule) -> None:
        self.number = number - _GATES
        self._search = Search([(number, rule.detection)])
        # Of longer needs Hyperscan tells faster than Python does whether they are there.
        self._bytes = tuple(need.encode() for need in rule.needs if len(need) == 1)
        self._texts = tuple(need.encode() for need in rule.needs if len(need) > 1)
        self._needs = Search([(index, _quote(text)) for index, text in enumerate(self._texts)]) if self._texts else None
        self._ends = rule.ends.encode()
        self._longest = rule.longest

    def hits(self, data: bytes) -> list[int]:
        """The rule's number, if it matches somewhere."""
        for byte in self._bytes:
            if byte not in data:
                return []
        if self._needs is not None and len(self._needs.hits(data)) < len(self._texts):
            return []
        return self._search.hits(self._around(data))

    def _around(self, data: bytes) -> bytes:
        """The parts of a text in which a match can end, or all of it where that is no more."""
        if not self._ends:
            return data
        parts = []
        at = data.find(self._ends)
        while at >= 0:
            parts.append(data[max(0, at + 1 - self._longest) : at + 1])
            if len(parts) * self._longest > len(data):
                return data
            at = data.find(self._ends, at + 1)
        return b"\n".join(parts)


class Matcher:
    """The compiled rule set. Build it once; it may be used by many threads.

    Args:
        rules: the rules, most specific first.

    Raises:
        hyperscan.error, re2.error: a pattern outside the common subset. The tests compile every rule that ships.
    """

    def __init__(self, rules: Sequence[Rule]) -> None:
        self.rules = tuple(rules)
        #: Rules whose secret shows by its own beginning, not by a word before it or by its shape.
        self.distinct = frozenset(
            number for number, rule in enumerate(self.rules) if rule.prefixes and not rule.context and not rule.after
        )
        #: Personal data, which is only looked for where a tenant has classes set.
        self.pii = PiiFinder()
        #: What stands in place of the secrets of these rules.
        self.markers = frozenset(marker_for(rule.id) for rule in self.rules)
        self._spans = tuple(
            Spans(rule.pattern.encode()) if rule.is_bare else Spans(rule.span, 1) for rule in self.rules
        )
        beginnings = [(_GATES + GATE_BEGINNING, _quote(literal)) for literal in sorted(_base64_literals(self.rules))]
        numbered = [(_GATES + number, rule) for number, rule in enumerate(self.rules)]
        together = [*((n, rule.detection) for n, rule in numbered if not rule.needs), *beginnings]
        self._together = Search(together, in_pieces=True)
        self._rule_ids = range(_GATES, _GATES + len(self.rules))
        self._apart = tuple(_Apart(number, rule) for number, rule in numbered if rule.needs)
        self._apart_distinct = tuple(rule for rule in self._apart if rule.number in self.distinct)
        shapes = {n: shape(rule.match) for n, rule in numbered}
        self._wide = Search([(n, rule.detection) for n, rule in numbered if not shapes[n].is_certain])
        self._loose = Search([(n, rule.detection) for n, rule in numbered if shapes[n].is_loose])
        runs = [
            (_GATES + GATE_BASE64, b"[A-Za-z0-9+/]{%d}" % BASE64_RUN_MIN),
            (_GATES + GATE_BASE64, b"[A-Za-z0-9_-]{%d}" % BASE64_RUN_MIN),
        ]
        self._gates = Search([(_GATES + GATE_INVISIBLE, invisible.gate_pattern()), *runs])
        self._escapes = Search([(_GATES + GATE_ESCAPE, ESCAPE_PATTERN)])
        self._beginnings = Search(beginnings)
        self._places = Occurrences([literal for _, literal in beginnings])
        self._keys = Search([(0, KEY_GATE)])

    def fired(self, data: bytes) -> frozenset[int]:
        """The numbers of the rules (0 and up) and gates (below 0) that match somewhere in ``data``."""
        return self._numbers(self._hits(data), data) if data else frozenset()

    def gates(self, data: bytes) -> frozenset[int] | None:
        """The gates that match somewhere in ``data``; None if a rule does, as soon as that is known."""
        if not data:
            return frozenset()
        hits = self._together.hits_at_once(data, self._rule_ids)
        fired = None if hits and hits[-1] in self._rule_ids else self._numbers(hits, data)
        return None if fired and max(fired) >= 0 else fired

    def _hits(self, data: bytes) -> list[int]:
        # Most texts hold nothing, and that is found at once. To go on behind what is found costs more.
        hits = self._together.hits_at_once(data, self._rule_ids)
        return self._together.hits(data) if hits and hits[-1] in self._rule_ids else hits

    def _numbers(self, hits: list[int], data: bytes) -> frozenset[int]:
        hits += self._gates.hits(data)
        for rule in self._apart:
            hits += rule.hits(data)
        if may_hold_escape(data):
            hits += self._escapes.hits(data)
        fired = {hit - _GATES for hit in hits}
        if GATE_BEGINNING in fired:
            fired.add(GATE_BASE64)
        return frozenset(fired)

    def fired_distinct(self, data: bytes) -> frozenset[int]:
        """Of :meth:`fired` the rules whose secret shows by its own beginning."""
        hits = self._hits(data)
        for rule in self._apart_distinct:
            hits += rule.hits(data)
        return frozenset(hit - _GATES for hit in hits) & self.distinct

    def fires_loosely(self, data: bytes, *, has_long: bool) -> bool:
        """Whether a rule matches that other than ordinary characters may match too (:mod:`nomos_sanitizer.shapes`).

        Args:
            data: a binary.
            has_long: whether a run of ``RUN_MIN`` ordinary characters stands in it.
        """
        return bool((self._wide if has_long else self._loose).hits(data))

    def has_base64_beginning(self, run: bytes) -> bool:
        """Whether a text or a base64 run holds the encoded beginning of some rule's secret."""
        return bool(self._beginnings.hits(run))

    def beginnings(self, data: bytes) -> list[int] | None:
        """Where the encoded beginnings of rules' secrets end in a text; None where they are many."""
        return self._places.ends(data, _PLACES_MAX)

    def may_name_secret(self, data: bytes) -> bool:
        """Whether a JSON text may hold a member, or a name and value pair, whose name is that of a secret."""
        return bool(self._keys.hits(data))

    def spans(self, number: int, data: bytes) -> Iterable[tuple[int, int]]:
        """The places of the secrets that rule ``number`` finds, in order, without overlap."""
        return self._spans[number].all(data)


def _base64_literals(rules: Iterable[Rule]) -> set[bytes]:
    literals: set[bytes] = set()
    for rule in rules:
        for prefix in rule.prefixes:
            literals |= base64_forms(prefix.encode())
    return {literal for literal in literals if len(literal) >= _LITERAL_MIN}


def _quote(literal: bytes) -> bytes:
    return b"".join(b"\\x%02x" % byte for byte in literal)
