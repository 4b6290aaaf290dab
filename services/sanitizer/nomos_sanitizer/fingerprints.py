"""Short keyed hashes of what was removed: a reader sees that two answers hold one secret, and learns nothing of it.

A fingerprint is BLAKE2b (RFC 7693) under a key of the tenant, which is derived from the key of the installation. It is
an oracle of equality: who can have texts of his own sanitized can test guesses. So only what nobody guesses has one:
values of ``FINGERPRINT_SOURCE_BYTES_MIN`` and more, and never personal data (:mod:`nomos_sanitizer.scrub`).

Trusted / not trusted: who holds the key can test guesses offline. It stays in this process.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable
from typing import Final

from nomos.errors import Misconfigured
from nomos_sanitizer.limits import FINGERPRINT_BYTES, FINGERPRINT_SOURCE_BYTES_MIN

KEY_BYTES: Final = 32
_PERSON_TENANT: Final = b"nomos-tenant-fp"
_PERSON_FINDING: Final = b"nomos-finding"
#: A rule matches as much as it may, so the end of a sentence can be part of a match and is not part of a secret.
_SENTENCE_END: Final = b".,;:!?"

Fingerprint = Callable[[bytes], str]


def none(_: bytes) -> str:
    """The fingerprint where the installation has no key: always empty."""
    return ""


class Fingerprints:
    """The installation's key.

    Args:
        key: 32 bytes.
    """

    __slots__ = ("_key",)

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise Misconfigured(f"a fingerprint key has {KEY_BYTES} bytes, got {len(key)}")
        self._key = key

    @classmethod
    def parse(cls, text: str) -> Fingerprints:
        """From base64url, as the environment holds it.

        Raises:
            Misconfigured: it is not such a key.
        """
        try:
            return cls(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True))
        except (binascii.Error, ValueError) as error:
            raise Misconfigured("a fingerprint key is 32 bytes in base64url") from error

    def __repr__(self) -> str:
        return "Fingerprints(redacted)"

    def of_tenant(self, tenant: str) -> Fingerprint:
        """What gives fingerprints to the findings of one tenant: 12 hex digits, or nothing for a short value."""
        key = hashlib.blake2b(tenant.encode(), key=self._key, person=_PERSON_TENANT).digest()

        def fingerprint(secret: bytes) -> str:
            core = secret.rstrip(_SENTENCE_END)
            if len(core) < FINGERPRINT_SOURCE_BYTES_MIN:
                return ""
            return hashlib.blake2b(core, key=key, person=_PERSON_FINDING, digest_size=FINGERPRINT_BYTES).hexdigest()

        return fingerprint
