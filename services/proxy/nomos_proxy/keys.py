"""The tenants' data keys: one for each, made with what is first sealed for it. Opened keys stay in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Final

from nomos.errors import Unavailable
from nomos_runtime.eventstore import EventStore, StoredEvent
from nomos_runtime.vault import DataKey, Vault

DATA_KEY: Final = "data-key"


class DataKeys:
    """Opens data keys, and keeps none of a closed tenant."""

    def __init__(self, store: EventStore, vault: Vault) -> None:
        self._store = store
        self._vault = vault
        self._opened: dict[str, DataKey] = {}
        self._closed: set[str] = set()

    async def of(self, tenant: str) -> DataKey | None:
        """The tenant's key; None where it has none (any more).

        Raises:
            CredentialUnreadable: it does not open here.
        """
        known = self._opened.get(tenant)
        if known is None:
            wrapped = await self._store.sealed(tenant, DATA_KEY)
            if wrapped is None:
                return None
            known = self._vault.open_data_key(tenant, wrapped)
            self._keep(known)
        return known

    async def of_or_new(self, tenant: str, history: Sequence[StoredEvent]) -> DataKey:
        """The tenant's key, made and stored where it has none yet. Of two that are made at once one stands.

        Args:
            tenant: whose.
            history: of its connections, as it stood before.

        Raises:
            Unavailable: it had one, and that has been destroyed; another one would open nothing.
            Revoked: the tenant has been erased.
            CredentialUnreadable: it does not open here.
        """
        known = await self.of(tenant)
        if known is not None:
            return known
        if any(e.envelope.event.get("key_id") for e in history):
            raise Unavailable("the data key of this tenant has been destroyed")
        stands = await self._store.seal_once(tenant, DATA_KEY, self._vault.new_data_key(tenant))
        made = self._vault.open_data_key(tenant, stands)
        self._keep(made)
        return made

    def _keep(self, key: DataKey) -> None:
        if key.tenant not in self._closed:
            self._opened[key.tenant] = key

    def forget(self, tenant: str) -> None:
        """Keeps nothing of a closed tenant from now on."""
        self._closed.add(tenant)
        self._opened.pop(tenant, None)

    def seal_again(self, tenant: str, name: str, record: bytes) -> bytes | None:
        """A data key under the current environment key; None for what is under it, and for everything else.

        Everything else is sealed under its tenant's data key, which does not change.

        Raises:
            CredentialUnreadable: a data key that does not open.
        """
        return self._vault.rewrap(tenant, record) if name == DATA_KEY else None

    async def under(self, tenants: list[str]) -> tuple[int, int]:
        """How many of the tenants' keys are under the current environment key, and how many under another."""
        wrapped = await asyncio.gather(*(self._store.sealed(tenant, DATA_KEY) for tenant in tenants))
        held = [one for one in wrapped if one is not None]
        current = sum(self._vault.is_current(one) for one in held)
        return current, len(held) - current
