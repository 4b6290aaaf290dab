"""The edge of minting: the allows of one tick of policy in, delegations out, one append to the journal between."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from nomos.errors import (
    LimitExceeded,
    Malformed,
    NomosError,
    Revoked,
    Unavailable,
    UnknownAgent,
    UnknownTenant,
)
from nomos.events import encode_envelope
from nomos.ids import Did, new_id
from nomos.keys import SigningKey
from nomos.messages import Decoder, Failure, failure, now_ms
from nomos.request import command_of
from nomos.servicemessages import MintBatch, Minted, MintItem, MintReply
from nomos.ucan.cid import cid_of, format_cid
from nomos.ucan.cutoff import Cutoffs
from nomos.ucan.grant import mint_grant
from nomos_minting.domain import check_item, minted_event
from nomos_minting.issuers import Issuers
from nomos_minting.settings import MintingSettings
from nomos_runtime import observe
from nomos_runtime.directory import Directory
from nomos_runtime.journal import APPEND_BYTES_MAX, EVENT_BYTES_MAX, Journal

#: Allows in one message.
ITEMS_MAX: Final = 256
NONCE_BYTES: Final = 12
#: How long a message waits for keys that are not open yet, seconds; well inside the callers' patience.
KEY_SECONDS: Final = 1.0

decoder = Decoder.of(MintBatch, "mint")


class Mint:
    """Signs delegations. No answer before the journal has confirmed every event of the message."""

    def __init__(
        self,
        settings: MintingSettings,
        journal: Journal,
        issuers: Issuers,
        directory: Directory,
        cutoffs: Cutoffs,
        *,
        refresh: Callable[[], Awaitable[None]],
        check_fresh: Callable[[], None],
    ) -> None:
        self._settings = settings
        self._journal = journal
        self._issuers = issuers
        self._directory = directory
        self._cutoffs = cutoffs
        self._refresh = refresh
        self._check_fresh = check_fresh
        self._opening: dict[str, asyncio.Task[SigningKey]] = {}

    async def mint(self, batch: object) -> MintReply:
        """One answer for each item, in order; a bad item costs the others nothing.

        Raises:
            StalePolicy: this replica cannot prove that its revocations are fresh.
            JournalUnavailable: nothing of this batch may be answered.
        """
        if not isinstance(batch, MintBatch):
            raise Malformed("not a mint message")
        if len(batch.items) > ITEMS_MAX:
            raise LimitExceeded("ITEMS_MAX", ITEMS_MAX, len(batch.items))
        self._check_fresh()
        await self._catch_up(batch.items)
        keys = await self._keys({item.tenant for item in batch.items})
        now = now_ms()
        answers: list[Minted | Failure] = []
        # One append, but for a message of very large decisions.
        appends: list[list[bytes]] = [[]]
        size = 0
        for item in batch.items:
            try:
                minted, two = self._one(item, keys, now)
            except NomosError as e:
                # The decision stays unused: policy answers and records the denial.
                answers.append(failure(e))
            else:
                answers.append(minted)
                added = sum(len(e) for e in two)
                if size + added > APPEND_BYTES_MAX:
                    appends.append([])
                    size = 0
                appends[-1] += two
                size += added
        if appends[0]:
            # Durable from here on: a crash before the reply leaves delegations that nobody holds.
            await asyncio.gather(*(self._journal.append_encoded(events) for events in appends))
        return MintReply(items=answers)

    async def _catch_up(self, items: Sequence[MintItem]) -> None:
        """Policy may have heard of a new agent a moment before this replica: then identity is asked, once."""
        for item in items:
            try:
                self._directory.agent(item.tenant, item.agent)
            except UnknownAgent:
                await self._refresh()
                return
            except Revoked:
                continue

    async def _keys(self, tenants: set[str]) -> dict[str, SigningKey | NomosError]:
        keys: dict[str, SigningKey | NomosError] = {}
        missing: dict[str, asyncio.Task[SigningKey]] = {}
        for tenant in tenants:
            key = self._issuers.opened(tenant)
            if key is not None:
                keys[tenant] = key
            elif self._directory.has_tenant(tenant):
                missing[tenant] = self._open(tenant)
            else:
                keys[tenant] = UnknownTenant("no such tenant")
        if missing:
            # The neighbours in this message wait so long and no longer; the opening goes on.
            await asyncio.wait(missing.values(), timeout=KEY_SECONDS)
        for tenant, task in missing.items():
            error = task.exception() if task.done() else Unavailable("the issuing key of this tenant is being opened")
            if error is None:
                keys[tenant] = task.result()
            else:
                keys[tenant] = error if isinstance(error, NomosError) else Unavailable("the issuing key does not open")
        return keys

    def _open(self, tenant: str) -> asyncio.Task[SigningKey]:
        """Opens a tenant's key, once for everybody who wants it meanwhile."""
        task = self._opening.get(tenant)
        if task is None:
            task = self._opening[tenant] = asyncio.create_task(self._issuers.key(tenant))
            task.add_done_callback(lambda done: self._opened(tenant, done))
        return task

    def _opened(self, tenant: str, task: asyncio.Task[SigningKey]) -> None:
        del self._opening[tenant]
        error = None if task.cancelled() else task.exception()
        if error is not None:
            observe.say("minting", observe.REQUEST_FAULT, error=type(error).__name__, tenant=tenant, verb="open-key")

    def _one(self, item: MintItem, keys: dict[str, SigningKey | NomosError], now: int) -> tuple[Minted, list[bytes]]:
        key = keys[item.tenant]
        if isinstance(key, NomosError):
            raise key
        if len(item.decision) > EVENT_BYTES_MAX:
            raise LimitExceeded("EVENT_BYTES_MAX", EVENT_BYTES_MAX, len(item.decision))
        known = self._directory.agent(item.tenant, item.agent)
        if known.did != item.agent_did:
            raise Malformed("the agent's key is not the one that identity knows")
        decision, facts = check_item(item, now, self._settings.decision_fresh_ms)
        expires_at = now // 1000 + self._settings.delegation_ttl_seconds
        if self._cutoffs.is_cut(item.tenant, (known.app,), expires_at):
            # The proxy would refuse it: clocks that differ could not tell it from what was issued before.
            raise Revoked("everything that was issued for this app was taken back a moment ago", hint="ask again later")
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
