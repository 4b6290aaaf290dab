"""Identity, wired. Reads top to bottom; no logic."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

from nomos.creds import OPERATOR, Nkey
from nomos.errors import NomosError
from nomos.events import (
    AGENT_CREATED,
    APP_CREATED,
    AUDITOR_CREATED,
    KEY_REVOKED,
    OPERATOR_ADDED,
    OPERATOR_REMOVED,
    TENANT_CLOSED,
    TENANT_CREATED,
)
from nomos.servicemessages import Fact
from nomos_identity.accounts import Accounts
from nomos_identity.handlers import INSTALLATION_VERBS, KIND, ROLE_KEY_NAME, ROLE_KEY_PURPOSE, IdentityAdmin
from nomos_identity.operators import KIND as OPERATOR_KIND
from nomos_identity.operators import VERB as NAME_VERB
from nomos_identity.operators import Operators
from nomos_identity.settings import IdentitySettings
from nomos_runtime import observe
from nomos_runtime.erasing import People
from nomos_runtime.feed import serve_feed
from nomos_runtime.peers import load_accounts, reader_tokens
from nomos_runtime.resealing import by_purpose
from nomos_runtime.sealing import Sealer
from nomos_runtime.service import Parts
from nomos_runtime.settings import load, secret
from nomos_runtime.subjects import PURPOSES, Subjects

NAME: Final = "identity"
FACTS: Final = (
    TENANT_CREATED,
    APP_CREATED,
    AGENT_CREATED,
    AUDITOR_CREATED,
    KEY_REVOKED,
    TENANT_CLOSED,
    OPERATOR_ADDED,
    OPERATOR_REMOVED,
)


class Identity:
    """The running service."""

    def __init__(self, settings: IdentitySettings, sealer: Sealer, operator: Nkey, env: Mapping[str, str]) -> None:
        self._settings = settings
        self._sealer = sealer
        self._operator = operator
        self._readers = reader_tokens(NAME, env)
        self._peers = load_accounts(env)
        self._parts: Parts | None = None
        self._accounts: Accounts | None = None

    async def start(self) -> None:
        """Connects, tells the servers about every tenant, serves."""
        parts = self._parts = await Parts.open(NAME, self._settings)
        store = await parts.open_store()
        claims = await Accounts.connect(self._settings.bus_url, self._settings.claims_creds)
        accounts = self._accounts = Accounts(store, self._operator, self._peers, claims)
        serving = False

        def apply(fact: Fact) -> None:
            parts.directory.apply(fact)
            if serving and fact.type in (TENANT_CREATED, KEY_REVOKED, TENANT_CLOSED):
                # Also where the command that changed it got no answer: what is in the log is told to the servers.
                parts.spawn(accounts.push(fact.tenant))

        await serve_feed(parts.bus, store, dict.fromkeys(self._readers, FACTS))
        await parts.follow({NAME: apply})
        serving = True
        if self._sealer.is_rotating:
            await parts.reseal(by_purpose(self._sealer, {ROLE_KEY_NAME: ROLE_KEY_PURPOSE, **PURPOSES}))
        for tenant in parts.directory.tenants:
            await accounts.push(tenant)
        subjects = Subjects(store, self._sealer)
        admin = IdentityAdmin(
            settings=self._settings,
            store=store,
            sealer=self._sealer,
            subjects=subjects,
            accounts=accounts,
            directory=parts.directory,
            refresh=parts.refresh,
        )
        people = People(kind=KIND, subjects=subjects, release=admin.release, held=admin.held)
        staff = Operators(store, subjects)
        await parts.serve_admin(
            {**admin.verbs(), **staff.verbs()},
            installation=INSTALLATION_VERBS,
            either=(NAME_VERB,),
            unnamed=(NAME_VERB,),
            people=people,
            operators=People(kind=OPERATOR_KIND, subjects=subjects, release=staff.release, held=staff.held),
        )
        parts.spawn(self._reconcile(parts, accounts))
        await parts.serving()

    async def _reconcile(self, parts: Parts, accounts: Accounts) -> None:
        while True:
            await asyncio.sleep(self._settings.reconcile_seconds)
            for tenant in parts.directory.tenants:
                try:
                    await accounts.push(tenant)
                except NomosError as e:
                    # Told again next time; one tenant's trouble keeps nobody else's revocations from the servers.
                    observe.say(NAME, observe.BACKGROUND_FAULT, error=e.code, tenant=tenant)

    def faults(self) -> list[str]:
        """Why identity cannot keep its promise now."""
        return self._parts.faults() if self._parts else ["not started"]

    async def stop(self) -> None:
        """Ends what runs and disconnects."""
        if self._accounts:
            await self._accounts.close()
        if self._parts:
            await self._parts.close()


def build(env: Mapping[str, str]) -> Identity:
    """Identity from its environment."""
    settings = load(IdentitySettings, NAME, env)
    operator = Nkey.parse(secret("IDENTITY_OPERATOR_SIGNING_KEY", env), OPERATOR)
    return Identity(settings, Sealer.from_env("IDENTITY_KEY_ENCRYPTION_KEY", env), operator, env)
