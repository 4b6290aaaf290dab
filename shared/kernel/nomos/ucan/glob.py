"""Patterns of the policy operator ``like``: ``*`` is any run of characters, ``\\*`` is a star.

Decides whether a text matches. There is no other special character; a backslash before anything but a star is
itself. Matching looks for the fixed parts from left to right, each as early as possible, which is right because
``*`` is the only wildcard; it neither recurses nor backtracks.

Source: UCAN delegation 1.0.0-rc.1, section "Glob Matching".
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import msgspec

from nomos.errors import LimitExceeded

PATTERN_LENGTH_MAX: Final = 1024
#: Parsed patterns kept per process.
PATTERN_CACHE_MAX: Final = 512


class Glob(msgspec.Struct, frozen=True):
    """A parsed pattern: the fixed parts between wildcards. One part means there is no wildcard."""

    text: str
    parts: tuple[str, ...]

    def matches(self, text: str) -> bool:
        """Whether the whole of ``text`` matches."""
        if len(self.parts) == 1:
            return text == self.parts[0]
        first, *middle, last = self.parts
        if len(text) < len(first) + len(last) or not text.startswith(first) or not text.endswith(last):
            return False
        position, end = len(first), len(text) - len(last)
        for part in middle:
            found = text.find(part, position, end)
            if found < 0:
                return False
            position = found + len(part)
        return True


@lru_cache(maxsize=PATTERN_CACHE_MAX)
def parse_glob(text: str) -> Glob:
    """Reads a pattern; every text up to the limit is one.

    Raises:
        LimitExceeded: longer than PATTERN_LENGTH_MAX characters.
    """
    if len(text) > PATTERN_LENGTH_MAX:
        raise LimitExceeded("pattern_length_max", PATTERN_LENGTH_MAX, len(text))
    parts: list[str] = []
    fixed: list[str] = []
    position = 0
    while position < len(text):
        if text.startswith("\\*", position):
            fixed.append("*")
            position += 2
            continue
        if text[position] == "*":
            parts.append("".join(fixed))
            fixed = []
        else:
            fixed.append(text[position])
        position += 1
    parts.append("".join(fixed))
    return Glob(text, tuple(parts))
