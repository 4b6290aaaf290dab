"""Commands: slash-separated paths, where a shorter one covers the longer ones below it.

Source: UCAN 1.0.0 "Segment Structure": lower case, begins with a slash, no trailing slash; ``/crypto`` proves
``/crypto/sign`` and never ``/cryptocurrency``.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from nomos.errors import LimitExceeded, MalformedToken

TOP: Final = "/"
COMMAND_LENGTH_MAX: Final = 256
#: Spellings kept per process: an installation knows a few hundred commands.
COMMAND_CACHE_MAX: Final = 1024


@lru_cache(maxsize=COMMAND_CACHE_MAX)
def parse_command(text: str) -> str:
    """Checks the spelling of a command and returns it.

    Raises:
        MalformedToken: no leading slash, a trailing slash, an empty segment, an upper-case or control character.
        LimitExceeded: longer than COMMAND_LENGTH_MAX characters.
    """
    if len(text) > COMMAND_LENGTH_MAX:
        raise LimitExceeded("command_length_max", COMMAND_LENGTH_MAX, len(text))
    if text == TOP:
        return text
    if not text.startswith("/") or text.endswith("/") or "//" in text:
        raise MalformedToken("command must be segments that each follow a slash")
    if text != text.lower() or not text.isprintable():
        raise MalformedToken("command must be lower case and printable")
    return text


def covers(parent: str, child: str) -> bool:
    """Whether ``parent`` proves ``child``: equal, or ``child`` lies below it at a segment boundary."""
    return parent in (child, TOP) or child.startswith(parent + "/")
