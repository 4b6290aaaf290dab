"""Many texts at once: whether it is certain that the search would find nothing in any of them.

Decides it by looking at the texts joined, at what their escapes stand for, and at what their base64 runs hold, each in
one look for all. What it says is never more than :mod:`nomos_sanitizer.scrub` would say of each text alone; where it
cannot tell, it says no, and the texts are looked at in fewer and alone in the end.
"""

from __future__ import annotations

from typing import Final

from nomos.errors import ResponseRefused
from nomos.pii import PiiClass
from nomos_sanitizer import invisible, readings
from nomos_sanitizer.budget import Budget
from nomos_sanitizer.credentials import Needles
from nomos_sanitizer.encodings import base64_readings, base64_runs, join_lines, long_words
from nomos_sanitizer.escapes import unescape
from nomos_sanitizer.matching import GATE_BASE64, GATE_BEGINNING, GATE_ESCAPE, GATE_INVISIBLE, Matcher

#: Between texts that are looked at as one: nothing that is decoded spans it.
BETWEEN: Final = "\n\n"
_BETWEEN: Final = BETWEEN.encode()
_JSON_STARTS: Final = (b"{", b"[", b'"')
_BLANK: Final = b" \t\r\n"
#: Escapes inside escapes that are decoded for many texts at once.
_QUIET_DEPTH_MAX: Final = 2
#: From here on runs of base64 are read with arrays.
_MANY_BYTES: Final = 4_096
_ASCII: Final = bytes(range(0x80))
#: What chance writes into binaries.
_IN_BINARIES: Final = frozenset({GATE_INVISIBLE, GATE_ESCAPE})


class Quiet:
    """The look at many texts, for one pass over one body.

    Args:
        matcher: the compiled rules.
        needles: the credentials of this call.
        budget: what the pass may spend; nothing is charged here.
        pii: classes of personal data that are looked for.
    """

    def __init__(self, matcher: Matcher, needles: Needles, budget: Budget, pii: frozenset[PiiClass]) -> None:
        self._matcher = matcher
        self._needles = needles
        # Its own allowance: where it is used up, the search itself decides what the body costs.
        self._left = budget.bytes_left // 2
        self._pii = pii
        #: The last long text of which it is known that it must be searched.
        self._not_noise = b""

    def fires(self, data: bytes) -> frozenset[int] | None:
        """The gates that fire on a text as it stands; None where a rule does, a credential or personal data shows."""
        fired = self._matcher.gates(data)
        if fired is None:
            return None
        if self._needles and self._needles.remain(data):
            return None
        if self._pii and self._matcher.pii.fired(data, self._pii):
            return None
        return fired

    def is_quiet(self, data: bytes, depth: int = 0) -> bool:
        """Whether nothing can be found in any of the texts that stand in ``data``, none of which is JSON.

        What cannot be told for all of them at once is not quiet: it is looked at again in fewer, and alone in the end.
        """
        fired = self.fires(data)
        if fired is None or GATE_INVISIBLE in fired:
            return False
        if GATE_ESCAPE in fired:
            plain = self._unescaped(data)
            if depth >= _QUIET_DEPTH_MAX or not plain or (plain != data and not self.is_quiet(plain, depth + 1)):
                return False
        if GATE_BEGINNING in fired:
            return False
        return GATE_BASE64 not in fired or self.has_quiet_runs(data)

    def has_quiet_runs(self, data: bytes) -> bool:
        """The same for what the base64 runs in ``data`` hold, in which no known beginning shows."""
        runs = _runs(data)
        plains = None
        if sum(map(len, runs)) >= _MANY_BYTES:
            plains = self._doubtful(runs)
            if plains is None and len(runs) == 1:
                self._not_noise = data
                return False  # To look whether it is quiet would cost as much as to search it.
        if plains is None:
            plains = [plain for run in runs for plain in base64_readings(run)]
        return not any(map(may_be_json, plains)) and self._are_quiet(plains, 0)

    def is_noise(self, data: bytes) -> bool:
        """Whether the long base64 runs in a text are noise in which nothing can be found."""
        if len(data) < _MANY_BYTES or data == self._not_noise:
            return False
        return self._doubtful(_runs(data)) == []

    def _doubtful(self, runs: list[bytes]) -> list[bytes] | None:
        """As :func:`nomos_sanitizer.readings.doubtful`; nothing is told where more is looked for than rules."""
        if self._needles or self._pii or not runs or (len(runs) == 1 and not readings.begins_as_noise(runs[0])):
            return None
        read = readings.read_all(runs)
        self._left -= 2 * len(read.data)
        return readings.doubtful(read, self._matcher) if self._left >= 0 else None

    def _are_quiet(self, plains: list[bytes], depth: int) -> bool:
        """The same for what base64 runs say; most of it are binaries: paths, digests, pictures."""
        texts, binaries = _BETWEEN.join(p for p in plains if p.isascii()), [p for p in plains if not p.isascii()]
        # What is printable is looked at too, as the search does: of a text everything, of a binary the rules alone.
        shown, _ = invisible.ascii_projection(texts)
        apart, _ = invisible.ascii_projection(_BETWEEN.join(binaries))
        joined = _BETWEEN.join((texts, *binaries))
        self._left -= len(joined) + len(shown) + len(apart)
        if self._left < 0 or self.fires(apart) is None:
            return False
        fired = self.fires(_BETWEEN.join((joined, shown)))
        if fired is None or not fired <= _IN_BINARIES:
            return False
        # In text beyond ASCII such a character would have to go, or could stand between the letters of a token.
        if GATE_INVISIBLE in fired and any(map(_is_text_beyond_ascii, binaries)):
            return False
        if GATE_ESCAPE not in fired:
            return True
        unescaped = [self._unescaped(text) for text in (joined, shown) if text]
        if depth >= _QUIET_DEPTH_MAX or not all(unescaped):
            return False
        return self._are_quiet([piece for text in unescaped for piece in text.split(_BETWEEN)], depth + 1)

    def _unescaped(self, data: bytes) -> bytes:
        """A text with its escapes decoded once; empty where that is not worth the while."""
        try:
            return unescape(data, Budget(len(data))).data
        except ResponseRefused:
            return b""


def _runs(data: bytes) -> list[bytes]:
    """The long runs of base64 in a text, without line breaks and padding."""
    if data.count(b"\n") == 2 * data.count(_BETWEEN):
        return long_words(data)
    return [join_lines(data[start:end]).rstrip(b"=") for start, end in base64_runs(data, short_too=False)]


def may_be_json(data: bytes) -> bool:
    """Whether a text looks like JSON with strings in it, so that the search reads it as that first."""
    return b'"' in data and data.lstrip(_BLANK).startswith(_JSON_STARTS)


def _is_text_beyond_ascii(data: bytes) -> bool:
    beyond = data.lstrip(_ASCII)[:2]
    # In most binaries already the first byte beyond ASCII begins no character (RFC 3629 section 4).
    if len(beyond) < 2 or not (0xC2 <= beyond[0] <= 0xF4 and 0x80 <= beyond[1] <= 0xBF):
        return False
    try:
        data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return False
    return True
