"""How a bearer comes in: sealed to this service's public key, so that it crosses the bus as ciphertext.

The key pair (X25519) is derived from the environment key, so every replica has the same and nothing is stored. The
sender seals with libsodium's sealed box; only a proxy opens it.
"""

from __future__ import annotations

import base64
import binascii
from typing import Final

from nacl.encoding import RawEncoder
from nacl.exceptions import CryptoError
from nacl.hash import blake2b
from nacl.public import PrivateKey, SealedBox

from nomos.errors import Malformed
from nomos_runtime.secret import Secret

_PERSON: Final = b"nomos-bearer-in"
SEALED_BYTES_MAX: Final = 16_384


class BearerIntake:
    """Opens bearers that were sealed to :attr:`public_key`."""

    def __init__(self, environment_key: Secret) -> None:
        seed = blake2b(b"", digest_size=32, key=environment_key.reveal(), person=_PERSON, encoder=RawEncoder)
        self._private = PrivateKey(seed)

    @property
    def public_key(self) -> str:
        """The public key, base64url."""
        return base64.urlsafe_b64encode(bytes(self._private.public_key)).decode()

    def open(self, sealed: str) -> Secret:
        """The bearer.

        Args:
            sealed: a sealed box, base64url.

        Raises:
            Malformed: it is none, or was sealed to another key.
        """
        if len(sealed) > SEALED_BYTES_MAX:
            raise Malformed(f"SEALED_BYTES_MAX is {SEALED_BYTES_MAX}")
        try:
            return Secret(SealedBox(self._private).decrypt(base64.urlsafe_b64decode(sealed)))
        except (CryptoError, binascii.Error, ValueError) as e:
            raise Malformed("the bearer is not sealed to this service's key", cause=type(e).__name__) from None
