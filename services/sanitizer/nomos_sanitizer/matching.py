"""Which rules fire on a text, and where: Hyperscan decides the first, google-re2 the second.

Both run in time linear in the text whatever an upstream writes into it; the standard library's ``re`` does not, so it
is not used here. One Hyperscan database holds the rules and the **gates**: cheap patterns that say whether a text can
hold an encoding, an invisible character or a structural key at all. A text on which nothing fires is clean, and most
are.

Leaves to :mod:`nomos_sanitizer.scrub` what to do about a match. Hyperscan writes into its scratch space while it
scans, so each thread has its own.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import Final

import hyperscan
import re2

from nomos_sanitizer import invisible
from nomos_sanitizer.edits import marker_for
from nomos_sanitizer.encodings import ESCAPE_PATTERN, base64_forms
from nomos_sanitizer.engine import bytes_options
from nomos_sanitizer.limits import BASE64_RUN_MIN
from nomos_sanitizer.pii import PiiFinder
from nomos_sanitizer.rules import Rule
from nomos_sanitizer.structure import KEY_GATE

#: Gates. Rules have the ids from 0 up, so gates count down from -1 on the way out of :meth:`Matcher.fired`.
GATE_ESCAPE: Final = -1
GATE_BASE64: Final = -2
GATE_INVISIBLE: Final = -3
#: These two only matter for a body that has not been parsed.
GATE_JSON_ESCAPE: Final = -4
GATE_KEY: Final = -5
_GATES: Final = 5

#: What may be an escape of a JSON text.
_JSON_ESCAPE: Final = rb"\\"
_LITERAL_MIN: Final = 4


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
        self._spans = tuple(re2.compile(rule.span, bytes_options()) for rule in self.rules)
        beginnings = sorted(_base64_literals(self.rules))
        patterns: list[tuple[int, bytes]] = [(_GATES + number, rule.detection) for number, rule in enumerate(rules)]
        patterns += [
            (_GATES + GATE_ESCAPE, ESCAPE_PATTERN),
            (_GATES + GATE_INVISIBLE, invisible.gate_pattern()),
            (_GATES + GATE_JSON_ESCAPE, _JSON_ESCAPE),
            (_GATES + GATE_KEY, KEY_GATE),
            (_GATES + GATE_BASE64, b"[A-Za-z0-9+/]{%d}" % BASE64_RUN_MIN),
            (_GATES + GATE_BASE64, b"[A-Za-z0-9_-]{%d}" % BASE64_RUN_MIN),
        ]
        self._database = _compile(patterns)
        # Literals alone run at many times the speed of the rest, and would slow it down in one database with it.
        self._beginnings = _compile([(0, _quote(literal)) for literal in beginnings])
        self._local = threading.local()

    def fired(self, data: bytes) -> frozenset[int]:
        """The numbers of the rules (0 and up) and gates (below 0) that match somewhere in ``data``."""
        if not data:
            return frozenset()
        hits: list[int] = []
        rules, _ = self._scratches()
        self._database.scan(data, match_event_handler=_note, context=hits, scratch=rules)
        found = {hit - _GATES for hit in hits}
        if GATE_BASE64 not in found and self.has_base64_beginning(data):
            found.add(GATE_BASE64)
        return frozenset(found)

    def has_base64_beginning(self, run: bytes) -> bool:
        """Whether a text or a base64 run holds the encoded beginning of some rule's secret."""
        hits: list[int] = []
        self._beginnings.scan(run, match_event_handler=_note, context=hits, scratch=self._scratches()[1])
        return bool(hits)

    def spans(self, number: int, data: bytes) -> Iterable[tuple[int, int]]:
        """The places of the secrets that rule ``number`` finds, in order, without overlap."""
        for match in self._spans[number].finditer(data):
            yield match.span(1)

    def _scratches(self) -> tuple[hyperscan.Scratch, hyperscan.Scratch]:
        scratches: tuple[hyperscan.Scratch, hyperscan.Scratch] | None = getattr(self._local, "scratches", None)
        if scratches is None:
            scratches = hyperscan.Scratch(self._database), hyperscan.Scratch(self._beginnings)
            self._local.scratches = scratches
        return scratches


def _note(number: int, _start: int, _end: int, _flags: int, hits: object) -> bool | None:
    assert isinstance(hits, list)
    hits.append(number)
    return None


def _compile(patterns: Sequence[tuple[int, bytes]]) -> hyperscan.Database:
    database = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
    # SINGLEMATCH bounds the callbacks of one scan by the number of patterns, whatever the text repeats.
    flags = hyperscan.HS_FLAG_SINGLEMATCH | hyperscan.HS_FLAG_DOTALL
    database.compile(
        expressions=[pattern for _, pattern in patterns],
        ids=[number for number, _ in patterns],
        flags=[flags] * len(patterns),
    )
    return database


def _base64_literals(rules: Iterable[Rule]) -> set[bytes]:
    literals: set[bytes] = set()
    for rule in rules:
        for prefix in rule.prefixes:
            literals |= base64_forms(prefix.encode())
    return {literal for literal in literals if len(literal) >= _LITERAL_MIN}


def _quote(literal: bytes) -> bytes:
    return b"".join(b"\\x%02x" % byte for byte in literal)
