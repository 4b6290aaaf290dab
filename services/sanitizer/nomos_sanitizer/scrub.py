"""The search of one text: rules, credentials, invisible characters, and the same again under every encoding.

The order is: what matches as it stands; what matches once invisible characters are out (a shadow of the text); what
escape sequences of the shadow stand for; what its base64 runs hold; and, for a whole text that is JSON, its strings.
Each finding comes back as an edit of the text that was given. Leaves to :mod:`nomos_sanitizer.matching` how patterns
run and to :mod:`nomos_sanitizer.tree` how JSON is walked.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence, Set
from itertools import islice
from typing import Final

import msgspec

from nomos.pii import PiiClass
from nomos_sanitizer import credentials, fingerprints, invisible, pii, structure, tree
from nomos_sanitizer.budget import Budget
from nomos_sanitizer.credentials import Needles
from nomos_sanitizer.edits import (
    RANK_CREDENTIAL,
    RANK_INVISIBLE,
    RANK_PII,
    RANK_RULES,
    Edit,
    Found,
    apply,
    marker_for,
    merge,
    opaque,
    told,
)
from nomos_sanitizer.encodings import base64_edits, base64_runs
from nomos_sanitizer.escapes import unescape
from nomos_sanitizer.fingerprints import Fingerprint
from nomos_sanitizer.limits import BASE64_RUN_MIN, ENCODING_DEPTH_MAX
from nomos_sanitizer.matching import GATE_BASE64, GATE_BEGINNING, GATE_ESCAPE, GATE_INVISIBLE, Matcher
from nomos_sanitizer.quiet import BETWEEN, Quiet, may_be_json

NESTING_RULE: Final = "encoding-depth"
#: Below this many ASCII bytes a text can hold neither a secret nor an encoding of one.
_TEXT_BYTES_MIN: Final = 6
_FAN_OUT: Final = 6
#: A longer text that is alone in its group is searched at once: to look whether it is quiet would cost as much.
_ALONE: Final = 4_096
_MARKERS: Final = frozenset(
    marker_for(rule) for rule in (credentials.RULE, NESTING_RULE, tree.NAMED_RULE, tree.DEPTH_RULE)
)


class Options(msgspec.Struct, frozen=True):
    """What a tenant's operator and installation decide about a search.

    Attributes:
        fingerprint: what gives a finding its fingerprint.
        pii: classes of personal data that are removed.
    """

    fingerprint: Fingerprint = fingerprints.none
    pii: frozenset[PiiClass] = frozenset()


PLAIN: Final = Options()


class Scrubber:
    """The search, for one pass over one body or header.

    Args:
        matcher: the compiled rules.
        needles: the credentials of this call.
        budget: what the pass may spend.
        options: what else the call asks for.
    """

    def __init__(
        self,
        matcher: Matcher,
        needles: Needles,
        budget: Budget,
        options: Options = PLAIN,
        clean: set[str] | None = None,
    ) -> None:
        self._matcher = matcher
        self._needles = needles
        self._budget = budget
        self._fingerprint = options.fingerprint
        self._pii = options.pii
        self._quiet = Quiet(matcher, needles, budget, options.pii)
        # Clean at one depth is clean at every depth: to reach the limit of depth is itself a finding.
        self._clean: set[str] = set() if clean is None else clean

    @property
    def matcher(self) -> Matcher:
        """The compiled rules."""
        return self._matcher

    def prime(self, texts: Set[str]) -> None:
        """Scans many strings in few scans: where nothing at all fires on a group, each string of it is clean.

        No detection is anchored, so what fires on one string fires on any text that contains it.

        Raises:
            ResponseRefused: a limit of the pass is exceeded.
        """
        groups = [
            [
                text
                for text in texts
                if text not in self._clean and not may_be_json(text.encode("utf-8", "surrogatepass"))
            ]
        ]
        while groups:
            group = groups.pop()
            if not group or (len(group) == 1 and len(group[0]) > _ALONE):
                continue
            joined = BETWEEN.join(group).encode("utf-8", "surrogatepass")
            self._budget.look(len(joined))
            if self._quiet.is_quiet(joined):
                self._clean.update(group)
            elif len(group) > 1:
                step = -(-len(group) // _FAN_OUT)
                groups += [group[at : at + step] for at in range(0, len(group), step)]

    def have_quiet_runs(self, texts: Set[bytes]) -> bool:
        """Whether nothing is found in strings that are known to hold nothing but runs that may be base64."""
        joined = BETWEEN.encode().join(texts)
        if b'"' in joined and any(map(may_be_json, texts)):
            return False
        return self._quiet.has_quiet_runs(joined)

    def not_known(self, texts: Set[str]) -> Set[str]:
        """Those of some strings of which it is not known that nothing would be removed from them."""
        return texts - self._clean

    def fires(self, data: bytes) -> frozenset[int] | None:
        """As :meth:`nomos_sanitizer.quiet.Quiet.fires`."""
        return self._quiet.fires(data)

    def _is_read(self, run: bytes) -> bool:
        """Whether a short run is read as base64."""
        return self._matcher.has_base64_beginning(run) or self._needles.in_base64(run)

    def text(self, text: str, *, depth: int = 0) -> tuple[str, tuple[Found, ...]]:
        """Removes what must go from a text.

        Args:
            text: any string; lone surrogates may stand in it.
            depth: how many encodings it was unpacked from.

        Returns:
            The text that may be shown and what was removed.

        Raises:
            ResponseRefused: a limit of the pass is exceeded.
        """
        if text in self._clean:
            return text, ()
        data = text.encode("utf-8", "surrogatepass")
        edits = self.whole(data, depth)
        if not edits:
            self._clean.add(text)
            return text, ()
        # A credential that is not UTF-8 may cut a character in two; the halves say nothing.
        decoded = apply(data, edits)
        try:
            clean = decoded.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            clean = decoded.decode("utf-8", "replace")
        return clean, told(edits)

    def names_credential(self, number: str) -> bool:
        """Whether the text of a JSON number holds a credential."""
        return self._needles.has_numeric and next(self._needles.spans(number.encode()), None) is not None

    def names_card(self, number: str) -> bool:
        """Whether a JSON number is a card number, and such numbers are removed."""
        return "card" in self._pii and number.isdigit() and pii.is_card(number.encode())

    def node(self) -> None:
        """Charges one JSON value."""
        self._budget.node()

    def is_marker(self, text: str) -> bool:
        """Whether the whole text is one of our own markers."""
        return text in self._matcher.markers or text in _MARKERS

    def fingerprint(self, secret: str) -> str:
        """The fingerprint of a secret that structure gave away, or nothing."""
        return self._fingerprint(secret.encode("utf-8", "surrogatepass"))

    def whole(self, data: bytes, depth: int) -> Sequence[Edit]:
        """Edits of a text that stands alone, so that it may be JSON as a whole."""
        if depth >= ENCODING_DEPTH_MAX and _is_json(data):
            # What its names say of its values is not read any more.
            return (self._too_deep(len(data)),)
        return self._json(data, depth) or self._search(data, depth, own_invisible=True)

    def search(self, data: bytes) -> Sequence[Edit]:
        """Edits of a text that is a part of another."""
        return self._search(data, 0, own_invisible=True)

    def _json(self, data: bytes, depth: int) -> Sequence[Edit]:
        if depth >= ENCODING_DEPTH_MAX or not may_be_json(data):
            return ()
        try:
            value = structure.parse(data.decode("utf-8", "surrogatepass"))
        except (structure.NotJson, UnicodeDecodeError):
            return ()
        self._budget.look(len(data))
        rendered, places = tree.render(value, _Nested(self, depth + 1))
        if not places:
            return ()
        found = tuple(one for _, one in places)
        marker = marker_for(found[0].rule).encode() if found[0].kind != "invisible" else b""
        return (Edit(0, len(data), rendered.encode("utf-8", "surrogatepass"), marker, RANK_RULES, found),)

    def _search(self, data: bytes, depth: int, *, own_invisible: bool) -> Sequence[Edit]:
        if len(data) < _TEXT_BYTES_MIN and data.isascii():
            return ()
        self._budget.look(len(data))
        fired = self._matcher.fired(data)
        if not fired and not self._needles and not self._pii:
            return ()
        edits = self._direct(data, fired)
        visible = self._examine(data, own_invisible) if GATE_INVISIBLE in fired else None
        if visible is not None:
            edits += _invisible(visible)
            shadow = visible.shadow.data
            self._budget.look(len(shadow))
            fired = self._matcher.fired(shadow)
            direct = self._direct(shadow, fired)
            edits += visible.shadow.back((*direct, *self._encoded(shadow, fired, depth, direct)))
        else:
            encoded = self._encoded(data, fired, depth, edits)
            if GATE_INVISIBLE in fired:
                edits += self._in_binary(data)
            edits += encoded
        return merge(edits)

    def _examine(self, data: bytes, own_invisible: bool) -> invisible.Visible | None:
        try:
            return invisible.examine(data, self._budget, to_remove=own_invisible)
        except UnicodeDecodeError:
            return None  # a binary that came out of an encoding: nothing in it is invisible text

    def _in_binary(self, data: bytes) -> list[Edit]:
        """Secrets in a binary whose letters are apart; only formats that chance does not write are looked for."""
        projection, places = invisible.ascii_projection(data)
        self._budget.look(len(projection))
        edits = self._direct(projection, self._matcher.fired_distinct(projection))
        if not edits:
            return []
        return places().back(edits)

    def _direct(self, data: bytes, fired: frozenset[int]) -> list[Edit]:
        edits = []
        if self._pii:
            edits += self._personal(data)
        for start, end in self._needles.spans(data):
            self._budget.span()
            mark = self._fingerprint(data[start:end])
            edits.append(opaque((start, end), Found("credential", credentials.RULE, 1, mark), RANK_CREDENTIAL))
        for number in fired:
            if number < 0:
                continue
            edits += self._of_rule(number, data)
        return edits

    def _of_rule(self, number: int, data: bytes) -> list[Edit]:
        # One more than may be found is enough to refuse.
        spans = list(islice(self._matcher.spans(number, data), self._budget.spans_left + 1))
        self._budget.span(len(spans))
        rule, rank = self._matcher.rules[number].id, RANK_RULES + number
        marker = marker_for(rule).encode()
        if self._fingerprint is fingerprints.none:
            all_alike = (Found("secret", rule),)
            return [Edit(start, end, marker, marker, rank, all_alike) for start, end in spans]
        return [
            Edit(start, end, marker, marker, rank, (Found("secret", rule, 1, self._fingerprint(data[start:end])),))
            for start, end in spans
        ]

    def _personal(self, data: bytes) -> list[Edit]:
        # Without fingerprints: most of it can be guessed.
        edits = []
        for start, end, name in self._matcher.pii.spans(data, self._pii):
            self._budget.span()
            edits.append(opaque((start, end), Found("pii", pii.rule_of(name)), RANK_PII))
        return edits

    def _encoded(self, data: bytes, fired: frozenset[int], depth: int, direct: Sequence[Edit]) -> list[Edit]:
        edits: list[Edit] = []
        if GATE_ESCAPE in fired:
            edits += self._escaped(data, depth)
        if GATE_BASE64 in fired or self._needles.in_base64(data):
            short_too = GATE_BEGINNING in fired or self._needles.in_base64(data)
            edits += self._base64(data, depth, direct, short_too=short_too)
        return edits

    def _escaped(self, data: bytes, depth: int) -> Sequence[Edit]:
        view = unescape(data, self._budget)
        if view.data == data or not view.data:
            return ()
        if depth >= ENCODING_DEPTH_MAX:
            return (self._too_deep(len(data)),)
        # Invisible characters written as escapes are visible as they stand; they stay.
        return view.back(self._search(view.data, depth + 1, own_invisible=False))

    def _base64(self, data: bytes, depth: int, direct: Sequence[Edit], *, short_too: bool) -> list[Edit]:
        edits: list[Edit] = []
        # What goes as it stands need not be read, unless it may get a name from what it says.
        gone = () if self._needles else merge(direct)
        ends = [edit.end for edit in gone]
        is_noise = not gone and self._quiet.is_noise(data)
        for start, end in () if is_noise and not short_too else base64_runs(data, short_too=short_too):
            place = bisect_left(ends, end)
            if place < len(gone) and gone[place].start <= start:
                continue
            if not is_noise if end - start >= BASE64_RUN_MIN else self._is_read(data[start:end]):
                self._budget.run()
                for edit in base64_edits(data, start, end, lambda plain: self._decoded(plain, depth)):
                    self._budget.span()
                    edits.append(edit)
        return edits

    def _decoded(self, plain: bytes, depth: int) -> Sequence[Edit]:
        if depth < ENCODING_DEPTH_MAX:
            return self.whole(plain, depth + 1)
        self._budget.look(len(plain))
        # Not even a gate may fire: what is said to be clean here is clean at every depth.
        is_quiet = self.fires(plain) == frozenset() and not _is_json(plain)
        return () if is_quiet else (self._too_deep(len(plain)),)

    def _too_deep(self, size: int) -> Edit:
        return opaque((0, size), Found("secret", NESTING_RULE), RANK_RULES)


def _invisible(visible: invisible.Visible) -> list[Edit]:
    return [
        Edit(run.start, run.end, b"", b"", RANK_INVISIBLE, (Found("invisible", run.name, run.count),))
        for run in visible.removed
    ]


def _is_json(data: bytes) -> bool:
    """Whether a text is read as JSON with strings in it."""
    if not may_be_json(data):
        return False
    try:
        structure.parse(data.decode("utf-8", "surrogatepass"))
    except (structure.NotJson, UnicodeDecodeError):
        return False
    return True


class _Nested:
    """The scrubber as the walk of a JSON text inside a string sees it: one encoding deeper."""

    def __init__(self, scrubber: Scrubber, depth: int) -> None:
        self._scrubber = scrubber
        self._depth = depth

    def prime(self, texts: Set[str]) -> None:
        self._scrubber.prime(texts)

    def text(self, text: str) -> tuple[str, tuple[Found, ...]]:
        return self._scrubber.text(text, depth=self._depth)

    def names_credential(self, number: str) -> bool:
        return self._scrubber.names_credential(number)

    def names_card(self, number: str) -> bool:
        return self._scrubber.names_card(number)

    def node(self) -> None:
        self._scrubber.node()

    def is_marker(self, text: str) -> bool:
        return self._scrubber.is_marker(text)

    def fingerprint(self, secret: str) -> str:
        return self._scrubber.fingerprint(secret)
