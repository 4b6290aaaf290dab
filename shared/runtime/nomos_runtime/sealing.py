"""Private keys of tenants at rest, sealed under a service's environment key (XChaCha20-Poly1305, see ``vault``)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Self

from nomos_runtime.secret import Secret
from nomos_runtime.settings import optional_secret, secret
from nomos_runtime.vault import Keyring, Place, Vault


def load_keyring(name: str, env: Mapping[str, str]) -> Keyring:
    """The environment's keys: ``name`` seals, those of ``<name>_OTHERS`` (white space between them) still open.

    Raises:
        Misconfigured: there is no current key, or one is none.
    """
    return Keyring.parse(secret(name, env), optional_secret(f"{name}_OTHERS", env).split())


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

    @classmethod
    def from_env(cls, name: str, env: Mapping[str, str]) -> Self:
        """From the environment, as :func:`load_keyring`."""
        return cls(Vault(load_keyring(name, env), os.urandom))

    @property
    def is_rotating(self) -> bool:
        """Whether there are other keys beside the current one."""
        return self._vault.is_rotating

    def is_current(self, record: bytes) -> bool:
        """Whether a record is sealed under the current key; errors as :meth:`open`."""
        return self._vault.is_current(record)

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
