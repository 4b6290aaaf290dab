"""Issuing keys: one Ed25519 key for each tenant, sealed at rest, created when the tenant appears.

Trusted: this process alone holds the opened keys. An attacker with the database holds sealed records; one with the
environment key and the database can issue for every tenant, and every delegation it issued outside the log is
missing there.
"""

from __future__ import annotations

import asyncio
import os

from nomos.errors import Conflict, Unavailable
from nomos.events import ISSUER_CREATED, Actor, Envelope
from nomos.ids import new_id
from nomos.keys import SigningKey
from nomos_runtime.eventstore import EventStore
from nomos_runtime.sealing import Sealer

PURPOSE = "issuing-key-v1"
STREAM = "issuer"
SEALED_NAME = "issuing-key"


class Issuers:
    """The issuing keys of all tenants, opened once and kept in memory."""

    def __init__(self, store: EventStore, sealer: Sealer) -> None:
        self._store = store
        self._sealer = sealer
        self._keys: dict[str, SigningKey] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._closed: set[str] = set()

    def opened(self, tenant: str) -> SigningKey | None:
        """The tenant's key if it is in memory: the hot path, without a wait."""
        return self._keys.get(tenant)

    async def key(self, tenant: str) -> SigningKey:
        """The tenant's issuing key; created by whichever replica comes first.

        Raises:
            Unavailable: the store or the journal does not answer.
        """
        async with self._locks.setdefault(tenant, asyncio.Lock()):
            known = self._keys.get(tenant)
            if known is not None:
                return known
            key = await self._open(tenant) or await self._create(tenant)
            if tenant not in self._closed:
                self._keys[tenant] = key
            return key

    def forget(self, tenant: str) -> None:
        """Keeps no key of a closed tenant in memory from now on."""
        self._closed.add(tenant)
        self._keys.pop(tenant, None)

    async def _open(self, tenant: str) -> SigningKey | None:
        if not await self._store.load(tenant, STREAM):
            return None
        record = await self._store.sealed(tenant, SEALED_NAME)
        if record is None:
            raise Unavailable("the issuing key of this tenant has been destroyed")
        return SigningKey(self._sealer.open(record, purpose=PURPOSE, tenant=tenant, name=SEALED_NAME))

    async def _create(self, tenant: str) -> SigningKey:
        seed = os.urandom(32)
        key = SigningKey(seed)
        envelope = Envelope(
            id=new_id("ev"),
            type=ISSUER_CREATED,
            tenant=tenant,
            actor=Actor(kind="service", id="minting"),
            corr="",
            cause="",
            event={"did": key.did},
        )
        sealed = {SEALED_NAME: self._sealer.seal(seed, purpose=PURPOSE, tenant=tenant, name=SEALED_NAME)}
        try:
            await self._store.append(tenant, STREAM, 0, [envelope], sealed)
        except Conflict:
            # Another replica was first: its key is the tenant's.
            opened = await self._open(tenant)
            if opened is None:
                raise Unavailable("the issuing key of this tenant is being created") from None
            return opened
        return key
