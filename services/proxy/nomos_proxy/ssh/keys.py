"""Keys of SSH: the private one that a connection comes with, the public ones that a host must have.

A private key is Ed25519 in OpenSSH's own format, without a passphrase: it is sealed at rest as every credential is.

Source: RFC 8709; openssh PROTOCOL.key.
"""

from __future__ import annotations

from typing import Final

import asyncssh
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from nomos.errors import Malformed
from nomos_runtime.secret import Secret

#: Bits of an RSA host key.
RSA_BITS_MIN: Final = 2_048
_ED25519: Final = "ssh-ed25519"
_BEGINNING: Final = b"-----BEGIN OPENSSH PRIVATE KEY-----"


def private_key(credential: Secret) -> asyncssh.SSHKey:
    """Opens a private key.

    Raises:
        Malformed: it is none of this kind.
    """
    content = credential.reveal()
    # what the library says of a key that it cannot read may hold a part of it, so nothing is chained
    malformed = Malformed("the credential is a private key: Ed25519, in OpenSSH's format, without a passphrase")
    if not content.startswith(_BEGINNING):
        raise malformed
    try:
        key = asyncssh.import_private_key(content)
    except (asyncssh.KeyImportError, ValueError):
        raise malformed from None
    if key.get_algorithm() != _ED25519:
        raise malformed
    return key


def host_key(line: str) -> asyncssh.SSHKey:
    """Reads a host's public key.

    Raises:
        Malformed: it is none, or an RSA key that is too short.
    """
    try:
        key = asyncssh.import_public_key(line)
    except (asyncssh.KeyImportError, ValueError) as error:
        raise Malformed("a host key that cannot be read") from error
    if isinstance(key.pyca_key, RSAPublicKey) and key.pyca_key.key_size < RSA_BITS_MIN:
        raise Malformed(f"an RSA host key has at least {RSA_BITS_MIN} bits, got {key.pyca_key.key_size}")
    return key
