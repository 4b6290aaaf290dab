"""base64url without padding (RFC 4648 section 5), one spelling for each byte string.

The decoder of the standard library skips foreign characters and ignores stray bits in the last character, so many texts
decode to the same bytes. Here a text that does not encode back to itself is refused: identifiers compared as text
and as bytes then always agree.
"""

from __future__ import annotations

import base64
import binascii

from nomos.errors import LimitExceeded, Malformed


def b64url(octets: bytes) -> str:
    """``octets`` as base64url text without padding."""
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode("ascii")


def parse_b64url(text: str, what: str, bytes_max: int) -> bytes:
    """Decodes base64url text.

    Args:
        text: the candidate, without padding.
        what: what it holds, for the error.
        bytes_max: the most bytes that it may hold.

    Raises:
        LimitExceeded: it holds more than ``bytes_max`` bytes.
        Malformed: it is not canonical base64url.
    """
    if len(text) > (bytes_max * 4 + 2) // 3:
        raise LimitExceeded(f"size of {what} in bytes", bytes_max)
    try:
        octets = base64.urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
    except (UnicodeEncodeError, binascii.Error) as e:
        raise Malformed(f"{what} is not base64url", cause=str(e)) from e
    if b64url(octets) != text:
        raise Malformed(f"{what} is not canonical base64url without padding")
    return octets
