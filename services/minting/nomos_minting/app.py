"""Minting, wired. Reads top to bottom; no logic."""

from __future__ import annotations

import time
from collections.abc import Mapping

from nomos.events import (
    DELEGATION_REVOKED,
    ISSUED_REVOKED,
    ISSUER_CREATED,
    ISSUER_ROTATED,
    TENANT_CLOSED,
    TENANT_CREATED,
)
from nomos.servicemessages import Fact
from nomos.ucan.cutoff import Cutoffs
from nomos_minting.handlers import Mint, decoder
from nomos_minting.issuers import PURPOSE, SEALED_NAME, Issuers
from nomos_minting.revoking import Revoker
from nomos_minting.revoking import decoder as revoke_decoder
from nomos_minting.settings import MintingSettings
from nomos_runtime.feed import serve_feed
from nomos_runtime.peers import callers, reader_tokens
from nomos_runtime.resealing import by_purpose
from nomos_runtime.sealing import Sealer
from nomos_runtime.service import Parts
from nomos_runtime.settings import load

NAME = "minting"
FACTS = (ISSUER_CREATED, ISSUER_ROTATED, DELEGATION_REVOKED, ISSUED_REVOKED)


class Minting:
    """The running service."""

    def __init__(self, settings: MintingSettings, sealer: Sealer, env: Mapping[str, str]) -> None:
        self._settings = settings
        self._sealer = sealer
        self._readers = reader_tokens(NAME, env)
        self._callers = callers(env, "policy")
        self._parts: Parts | None = None

    async def start(self) -> None:
        """Connects, opens the keys, serves."""
        parts = self._parts = await Parts.open(NAME, self._settings)
        store = await parts.open_store()
        issuers, cutoffs = Issuers(store, self._sealer), Cutoffs()

        async def make_issuer(tenant: str) -> None:
            if not parts.directory.is_closed(tenant):
                await issuers.key(tenant)

        def apply(fact: Fact) -> None:
            parts.directory.apply(fact)
            if fact.type == TENANT_CREATED:
                # Ahead of the first request, which would create it otherwise.
                parts.spawn(make_issuer(fact.tenant))
            if fact.type == TENANT_CLOSED:
                issuers.forget(fact.tenant)

        def apply_own(fact: Fact) -> None:
            issuers.apply(fact)
            if fact.type == ISSUED_REVOKED:
                cutoffs.apply(fact.tenant, str(fact.event["app"]), int(str(fact.event["until"])))

        await serve_feed(parts.bus, store, dict.fromkeys(self._readers, FACTS))
        await parts.follow({"identity": apply, NAME: apply_own})
        if self._sealer.is_rotating:
            await parts.reseal(by_purpose(self._sealer, {SEALED_NAME: PURPOSE}))
        mint = Mint(
            self._settings,
            parts.journal,
            issuers,
            parts.directory,
            cutoffs,
            refresh=parts.refresh,
            check_fresh=parts.check_fresh,
        )
        await parts.responder.serve_service("svc.mint.*", self._callers, decoder, mint.mint)
        revoker = Revoker(
            store,
            issuers,
            parts.directory,
            lambda: int(time.time()),
            refresh=parts.refresh,
            fresh_ms=self._settings.feed_fresh_ms,
        )
        await parts.responder.serve_tenants("revoke", "agent", revoke_decoder, revoker.revoke)
        await parts.serve_admin(revoker.verbs())
        await parts.serving()

    def faults(self) -> list[str]:
        """Why minting cannot keep its promise now."""
        return self._parts.faults() if self._parts else ["not started"]

    async def stop(self) -> None:
        """Ends what runs and disconnects."""
        if self._parts:
            await self._parts.close()


def build(env: Mapping[str, str]) -> Minting:
    """Minting from its environment."""
    settings = load(MintingSettings, NAME, env)
    return Minting(settings, Sealer.from_env("MINT_KEY_ENCRYPTION_KEY", env), env)
