"""Seals a bearer to the proxy's public key, so that it crosses the bus as ciphertext (libsodium's sealed box)."""

from __future__ import annotations

import base64
import binascii

from nacl.public import PublicKey, SealedBox

from nomos.errors import Malformed


def seal_bearer(public_key: str, bearer: str) -> str:
    """Seals ``bearer``.

    Args:
        public_key: what the proxy's verb ``sealing-key`` gives, base64url.
        bearer: the credential, without a scheme word.

    Returns:
        The sealed box, base64url; the parameter ``sealed_bearer`` of ``connection-add``.

    Raises:
        Malformed: the public key is none.
    """
    try:
        box = SealedBox(PublicKey(base64.urlsafe_b64decode(public_key)))
    except (binascii.Error, ValueError, TypeError) as e:
        raise Malformed("not a public key of the proxy") from e
    return base64.urlsafe_b64encode(box.encrypt(bearer.encode())).decode()
