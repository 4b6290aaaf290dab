"""Issuing keys: one Ed25519 key for each tenant at a time, sealed at rest, created when the tenant appears.

A rotation adds a key; the events of the stream ``issuer`` are the history, oldest first, each with its sealed record.
A replica hears of a rotation by minting's own feed and signs with the new key from then on; the proxy takes what the
old key signed until it must have expired.

Trusted: this process alone holds the opened keys. An attacker with the database holds sealed records; one with the
environment key and the database can issue for every tenant, and every delegation it issued outside the log is
missing there.
"""

from __future__ import annotations

import asyncio
import os
from typing import Final

from nomos.errors import Conflict, NotFound, Unavailable
from nomos.events import ISSUER_CREATED, ISSUER_ROTATED, Actor, Envelope
from nomos.ids import new_id
from nomos.keys import SigningKey
from nomos.servicemessages import Fact
from nomos_runtime.eventstore import EventStore, StoredEvent
from nomos_runtime.sealing import Sealer

PURPOSE = "issuing-key-v1"
STREAM = "issuer"
SEALED_NAME = "issuing-key"
#: Rotations of one tenant's key; each leaves a key that the proxy keeps in mind.
ROTATIONS_MAX: Final = 1_000


class Issuers:
    """The issuing keys of all tenants, opened once and kept in memory."""

    def __init__(self, store: EventStore, sealer: Sealer) -> None:
        self._store = store
        self._sealer = sealer
        self._keys: dict[str, SigningKey] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._retired: set[tuple[str, str]] = set()
        self._closed: set[str] = set()

    def opened(self, tenant: str) -> SigningKey | None:
        """The tenant's key if it is in memory: the hot path, without a wait."""
        return self._keys.get(tenant)

    def apply(self, fact: Fact) -> None:
        """Folds a fact of minting's own feed: a key that was replaced is signed with no more."""
        if fact.type == ISSUER_ROTATED:
            previous = str(fact.event["previous"])
            # Also for a key that is being opened right now, from a history that was read before.
            self._retired.add((fact.tenant, previous))
            known = self._keys.get(fact.tenant)
            if known is not None and known.did == previous:
                del self._keys[fact.tenant]

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
            while (tenant, key.did) in self._retired:
                # The fact came while the history was read; it is in the store before it is a fact.
                key = await self._open(tenant) or key
            if tenant not in self._closed:
                self._keys[tenant] = key
            return key

    def forget(self, tenant: str) -> None:
        """Keeps no key of a closed tenant in memory from now on."""
        self._closed.add(tenant)
        self._keys.pop(tenant, None)

    async def history(self, tenant: str) -> list[StoredEvent]:
        """The events of the tenant's keys, oldest first."""
        return await self._store.load(tenant, STREAM)

    async def rotate(self, tenant: str, *, actor: Actor, corr: str, why: str, now: int) -> tuple[str, str]:
        """Replaces the tenant's key; returns the new and the previous DID when the change is in the journal.

        Args:
            tenant: whose.
            actor: who asked.
            corr: request id.
            why: in the operator's words.
            now: Unix seconds.

        Raises:
            NotFound: the tenant has no key yet.
            Conflict: somebody else rotated meanwhile, or the key was rotated :data:`ROTATIONS_MAX` times.
            Unavailable: the store or the journal does not answer.
        """
        async with self._locks.setdefault(tenant, asyncio.Lock()):
            events = await self.history(tenant)
            if not events:
                raise NotFound("this tenant has no issuing key yet")
            if len(events) > ROTATIONS_MAX:
                raise Conflict(f"ROTATIONS_MAX is {ROTATIONS_MAX}")
            previous = str(events[-1].envelope.event["did"])
            seed = os.urandom(32)
            did = SigningKey(seed).did
            envelope = Envelope(
                id=new_id("ev"),
                type=ISSUER_ROTATED,
                tenant=tenant,
                actor=actor,
                corr=corr,
                cause="",
                event={"did": did, "previous": previous, "at": now, "why": why},
            )
            await self._append(envelope, len(events), seed)
            self._keys.pop(tenant, None)
        return did, previous

    async def _open(self, tenant: str) -> SigningKey | None:
        events = await self.history(tenant)
        if not events:
            return None
        name = sealed_name(len(events))
        record = await self._store.sealed(tenant, name)
        if record is None:
            raise Unavailable("the issuing key of this tenant has been destroyed")
        key = SigningKey(self._sealer.open(record, purpose=PURPOSE, tenant=tenant, name=name))
        if key.did != events[-1].envelope.event["did"]:
            raise Unavailable("the stored issuing key of this tenant is not the recorded one")
        return key

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
        try:
            await self._append(envelope, 0, seed)
        except Conflict:
            # Another replica was first: its key is the tenant's.
            opened = await self._open(tenant)
            if opened is None:
                raise Unavailable("the issuing key of this tenant is being created") from None
            return opened
        return key

    async def _append(self, envelope: Envelope, version: int, seed: bytes) -> None:
        """Stores the event and its sealed key together; returns when the event is in the journal."""
        name, tenant = sealed_name(version + 1), envelope.tenant
        sealed = {name: self._sealer.seal(seed, purpose=PURPOSE, tenant=tenant, name=name)}
        await self._store.append(tenant, STREAM, version, [envelope], sealed)


def sealed_name(generation: int) -> str:
    """Name of the sealed record of a tenant's key number ``generation``, from 1."""
    return SEALED_NAME if generation == 1 else f"{SEALED_NAME}-{generation}"
