"""The edge of minting: the allows of one tick of policy in, delegations out, one append to the journal between."""

from __future__ import annotations

import asyncio
import os
from typing import Final

from nomos.errors import LimitExceeded, Malformed, NomosError, UnknownTenant
from nomos.events import encode_envelope
from nomos.ids import Did, new_id
from nomos.keys import SigningKey
from nomos.messages import Decoder, Failure, MintBatch, Minted, MintItem, MintReply, failure, now_ms
from nomos.request import command_of
from nomos.ucan.cid import cid_of, format_cid
from nomos.ucan.grant import mint_grant
from nomos_minting.domain import check_item, minted_event
from nomos_minting.issuers import Issuers
from nomos_minting.settings import MintingSettings
from nomos_runtime.directory import Directory
from nomos_runtime.journal import Journal

#: Allows in one message.
ITEMS_MAX: Final = 256
NONCE_BYTES: Final = 12

decoder = Decoder.of(MintBatch, "mint")


class Mint:
    """Signs delegations. One append to the journal for each message; no answer before it is confirmed."""

    def __init__(self, settings: MintingSettings, journal: Journal, issuers: Issuers, directory: Directory) -> None:
        self._settings = settings
        self._journal = journal
        self._issuers = issuers
        self._directory = directory

    async def mint(self, batch: object) -> MintReply:
        """One answer for each item, in order; a bad item costs the others nothing.

        Raises:
            JournalUnavailable: nothing of this batch may be answered.
        """
        if not isinstance(batch, MintBatch):
            raise Malformed("not a mint message")
        if len(batch.items) > ITEMS_MAX:
            raise LimitExceeded("ITEMS_MAX", ITEMS_MAX, len(batch.items))
        keys = await self._keys({item.tenant for item in batch.items})
        now = now_ms()
        answers: list[Minted | Failure] = []
        events: list[bytes] = []
        for item in batch.items:
            try:
                minted, two = self._one(item, keys, now)
            except NomosError as e:
                # The decision stays unused: policy answers and records the denial.
                answers.append(failure(e))
            else:
                answers.append(minted)
                events += two
        if events:
            # Durable from here on: a crash before the reply leaves delegations that nobody holds.
            await self._journal.append_encoded(events)
        return MintReply(items=answers)

    async def _keys(self, tenants: set[str]) -> dict[str, SigningKey | NomosError]:
        keys: dict[str, SigningKey | NomosError] = {}
        missing = []
        for tenant in tenants:
            key = self._issuers.opened(tenant)
            if key is not None:
                keys[tenant] = key
            elif self._directory.has_tenant(tenant):
                missing.append(tenant)
            else:
                keys[tenant] = UnknownTenant("no such tenant")
        for tenant, result in zip(
            missing, await asyncio.gather(*(self._issuers.key(t) for t in missing), return_exceptions=True), strict=True
        ):
            if isinstance(result, BaseException) and not isinstance(result, NomosError):
                raise result
            keys[tenant] = result
        return keys

    def _one(self, item: MintItem, keys: dict[str, SigningKey | NomosError], now: int) -> tuple[Minted, list[bytes]]:
        key = keys[item.tenant]
        if isinstance(key, NomosError):
            raise key
        known = self._directory.agent(item.tenant, item.agent)
        if known.did != item.agent_did:
            raise Malformed("the agent's key is not the one that identity knows")
        decision, facts = check_item(item, now, self._settings.decision_fresh_ms)
        expires_at = now // 1000 + self._settings.delegation_ttl_seconds
        delegation = mint_grant(
            key,
            agent=Did(item.agent_did),
            command=command_of(item.action),
            resource=item.resource,
            digest=item.digest,
            now=now // 1000,
            ttl_seconds=self._settings.delegation_ttl_seconds,
            nonce=os.urandom(NONCE_BYTES),
        )
        cid = format_cid(cid_of(delegation))
        event = minted_event(
            new_id("ev"),
            decision,
            facts,
            cid=cid,
            issuer=key.did,
            agent_did=item.agent_did,
            expires_at=expires_at,
        )
        return (
            Minted(delegation=delegation, cid=cid, expires_at=expires_at),
            [bytes(item.decision), encode_envelope(event)],
        )
