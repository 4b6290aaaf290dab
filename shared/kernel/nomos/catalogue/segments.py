"""Which texts may stand as one segment of an upstream path, and how a segment is written.

A segment is refused if **any** reading of it that some server is known to apply (percent-decoding, repeated;
Unicode compatibility folding; cutting at ``;``) is empty, a dot segment, or holds a separator or a control.
Refusing by reading, rather than by spelling, covers ``..``, ``%2e%2e``, ``%252E.``, ``..;x`` and fullwidth dots alike.

Source: RFC 3986 sections 2.1, 3.3 and 5.2.4; Unicode Standard Annex 15 (NFKC).
"""

from __future__ import annotations

import re
import unicodedata
from typing import Final
from urllib.parse import quote, unquote

from nomos.errors import DestinationRefused

#: RFC 3986 section 3.3: pchar without percent-encoding, less "'" which some servers quote. Everything else is encoded.
_SEGMENT_SAFE: Final = "-._~!$&()*+,;=:@"
#: Rounds of percent-decoding that are looked through; a text that still changes after them is refused.
DECODE_ROUNDS_MAX: Final = 4
_SEPARATORS: Final = frozenset("/\\?#")
#: Texts that every reading leaves as they are, and that are their own spelling: names of people, repositories, numbers.
_PLAIN: Final = re.compile(r"[A-Za-z0-9_~-][A-Za-z0-9_.~-]*")


def check_text(text: str, what: str) -> None:
    """Refuses text that must not reach any part of a request line.

    Raises:
        DestinationRefused: controls (CR, LF, NUL, C1, ...), backslashes, lone surrogates or line separators.
    """
    if text.isascii() and text.isprintable() and "\\" not in text:
        return
    for character in text:
        if character == "\\" or unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp"):
            raise DestinationRefused(f"{what} holds a character that a request line must not carry")


def check_segment(text: str, what: str) -> None:
    """Refuses text that some server could read as more, or other, than one plain path segment.

    Raises:
        DestinationRefused: empty, a dot segment in any spelling, or with a separator or control in any spelling.
    """
    if _PLAIN.fullmatch(text):
        return
    for reading in _readings(text, what):
        check_text(reading, what)
        if _SEPARATORS & set(reading):
            raise DestinationRefused(f"{what} holds a path separator, query or fragment character")
        # ";" starts a parameter that some servers cut away before they resolve dot segments
        if reading.partition(";")[0].strip() in ("", ".", ".."):
            raise DestinationRefused(f"{what} is empty or a dot segment")


def _readings(text: str, what: str) -> list[str]:
    """The text, and what it becomes by folding and decoding until nothing changes."""
    seen = [text]
    for _ in range(DECODE_ROUNDS_MAX):
        # undecodable bytes become lone surrogates, which check_text refuses
        following = unquote(unicodedata.normalize("NFKC", seen[-1]), errors="surrogateescape")
        if following == seen[-1]:
            return seen
        seen.append(following)
    raise DestinationRefused(f"{what} is percent-encoded more than {DECODE_ROUNDS_MAX - 1} times")


def encode_segment(text: str) -> str:
    """The one percent-encoded spelling of a checked segment."""
    return text if _PLAIN.fullmatch(text) else quote(text, safe=_SEGMENT_SAFE)


def decode_segment(encoded: str, what: str) -> str:
    """Reads a segment back from a path.

    Raises:
        DestinationRefused: not the spelling that :func:`encode_segment` gives, or not a safe segment.
    """
    if _PLAIN.fullmatch(encoded):
        return encoded
    text = unquote(encoded, errors="surrogateescape")
    check_segment(text, what)
    if encode_segment(text) != encoded:
        raise DestinationRefused(f"{what} is not in the canonical percent-encoding")
    return text
