"""Private keys of tenants at rest, sealed under a service's environment key (XChaCha20-Poly1305, see ``vault``)."""

from __future__ import annotations

import os
from typing import Self

from nomos_runtime.secret import Secret
from nomos_runtime.vault import Keyring, Place, Vault


class Sealer:
    """Seals and opens small secrets of tenants. The environment key stays in this process."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault

    @classmethod
    def from_text(cls, text: str) -> Self:
        """From the environment's key: 32 bytes, base64url.

        Raises:
            Misconfigured: it is not such a key.
        """
        return cls(Vault(Keyring.parse(text), os.urandom))

    def seal(self, content: bytes, *, purpose: str, tenant: str, name: str) -> bytes:
        """Seals ``content``; it opens only with the same purpose, tenant and name."""
        return self._vault.seal_key(
            Place(purpose=purpose, tenant=tenant, connection=name, provider=""), Secret(content)
        )

    def open(self, record: bytes, *, purpose: str, tenant: str, name: str) -> bytes:
        """Opens a record.

        Raises:
            CredentialUnreadable: altered, moved, or sealed under a key that this process does not hold.
        """
        return self._vault.open_key(
            Place(purpose=purpose, tenant=tenant, connection=name, provider=""), record
        ).reveal()
