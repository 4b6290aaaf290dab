"""The credential that the broker injected, and every form in which an upstream may send it back.

Decides which byte strings are searched for: verbatim, URL-encoded, hexadecimal in either case, and base64 in three
alignments and two alphabets. Leaves decoding of longer chains to :mod:`nomos_sanitizer.scrub`. Nothing here outlives
one call.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final
from urllib.parse import quote, quote_plus

from nomos.errors import LimitExceeded
from nomos_sanitizer.encodings import base64_forms
from nomos_sanitizer.limits import CREDENTIAL_BYTES_MAX, CREDENTIAL_BYTES_MIN, CREDENTIALS_MAX

RULE: Final = "credential"
_NUMERIC: Final = frozenset(b"0123456789eE+-.")


class Needles:
    """What is searched for on behalf of some credentials.

    Args:
        credentials: the secrets themselves, without scheme words such as ``Bearer``.

    Raises:
        LimitExceeded: too many, or one too short or too long to be searched for.
    """

    __slots__ = ("_encoded", "_hexadecimal", "_plain", "has_numeric")

    def __init__(self, credentials: Sequence[bytes]) -> None:
        if len(credentials) > CREDENTIALS_MAX:
            raise LimitExceeded("CREDENTIALS_MAX", CREDENTIALS_MAX, len(credentials))
        plain: set[bytes] = set()
        encoded: set[bytes] = set()
        hexadecimal: set[bytes] = set()
        for credential in credentials:
            if len(credential) < CREDENTIAL_BYTES_MIN:
                raise LimitExceeded("CREDENTIAL_BYTES_MIN", CREDENTIAL_BYTES_MIN, len(credential))
            if len(credential) > CREDENTIAL_BYTES_MAX:
                raise LimitExceeded("CREDENTIAL_BYTES_MAX", CREDENTIAL_BYTES_MAX, len(credential))
            plain |= {credential, quote(credential, safe="").encode(), quote_plus(credential).encode()}
            encoded |= base64_forms(credential)
            hexadecimal.add(credential.hex().encode())
        self._plain = tuple(sorted(plain, key=len, reverse=True))
        self._encoded = tuple(sorted(encoded))
        self._hexadecimal = tuple(sorted(hexadecimal))

        #: Whether some form could stand in a JSON number.
        self.has_numeric = any(_NUMERIC.issuperset(form) for form in plain | hexadecimal)

    def __bool__(self) -> bool:
        return bool(self._plain)

    def spans(self, data: bytes) -> Iterator[tuple[int, int]]:
        """Places where a credential stands verbatim, URL-encoded or in hexadecimal."""
        for needle in self._plain:
            yield from _places(data, needle)
        if self._hexadecimal:
            lowered = data.lower()
            for needle in self._hexadecimal:
                yield from _places(lowered, needle)

    def in_base64(self, data: bytes) -> bool:
        """Whether base64 of a credential stands somewhere in ``data``."""
        return any(form in data for form in self._encoded)

    def remain(self, data: bytes) -> bool:
        """Whether any form of a credential stands in ``data``."""
        return self.in_base64(data) or next(self.spans(data), None) is not None


def _places(data: bytes, needle: bytes) -> Iterator[tuple[int, int]]:
    at = data.find(needle)
    while at >= 0:
        yield at, at + len(needle)
        at = data.find(needle, at + len(needle))
