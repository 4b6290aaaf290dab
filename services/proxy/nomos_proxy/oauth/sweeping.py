"""What is done for connected accounts without a call: tokens are renewed ahead, removed connections' are given back.

Every replica sweeps; the lease lets one of them ask. A removed connection is closed at once, whatever the provider
says; its tokens stay, sealed, until the provider has taken them back or :data:`REVOKE_TRIES_MAX` tries have failed, and
the log says which.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from nomos.errors import NomosError, Refused, UnknownOutcome
from nomos.ids import new_id
from nomos_proxy.credentialevents import revoked
from nomos_proxy.domain import ConnectionFacts
from nomos_proxy.oauth.clients import Clients
from nomos_proxy.oauth.grants import Due, Grants
from nomos_proxy.oauth.renewing import Accounts
from nomos_proxy.store import Connections
from nomos_runtime import observe
from nomos_runtime.journal import Journal
from nomos_runtime.vault import CredentialUnreadable

SWEEP_SECONDS: Final = 5.0
#: Providers that are asked at once.
ASKED_MAX: Final = 8
#: Revocations of one connection that are tried, over about a day.
REVOKE_TRIES_MAX: Final = 12
REVOKE_PAUSE_SECONDS: Final = 30
#: How long the erasure of a tenant waits for one provider.
LEAVE_SECONDS: Final = 5.0
REVOKE_PAUSE_SECONDS_MAX: Final = 4 * 3_600


class Sweeper:
    """Looks for what is due, every :data:`SWEEP_SECONDS`."""

    def __init__(
        self,
        *,
        grants: Grants,
        accounts: Accounts,
        clients: Clients,
        connections: Connections,
        journal: Journal,
        is_closed: Callable[[str], bool],
    ) -> None:
        """Wires it; ``is_closed`` says whether a tenant is."""
        self._grants = grants
        self._accounts = accounts
        self._clients = clients
        self._connections = connections
        self._journal = journal
        self._is_closed = is_closed
        self._asking = asyncio.Semaphore(ASKED_MAX)
        self._holder = new_id("rq")

    async def run(self) -> None:
        """Sweeps until it is cancelled."""
        while True:
            try:
                await self.sweep()
            except NomosError as e:
                observe.say("proxy", observe.CREDENTIAL_FAULT, code=e.code)
            await asyncio.sleep(SWEEP_SECONDS)

    async def sweep(self) -> None:
        """One look; returns when what was due has been tried.

        All of it, some after some: those that stay due, because nobody can be asked for them, hide nobody else's.

        Raises:
            Unavailable: Postgres does not answer.
        """
        now, last = int(time.time()), None
        while due := await self._grants.due(now, last):
            await asyncio.gather(*(self._do(one) for one in due if not self._is_closed(one.tenant)))
            last = due[-1]

    async def _do(self, due: Due) -> None:
        async with self._asking:
            try:
                connection = self._connections.find(due.tenant, due.connection)
                if due.state == "ending":
                    await self.revoke(connection)
                else:
                    await self._accounts.ahead(connection)
            except NomosError as e:
                # One connection's trouble is its own; it is due again.
                observe.say("proxy", observe.CREDENTIAL_FAULT, code=e.code, tenant=due.tenant)

    async def leave(self, tenant: str) -> None:
        """Gives all tokens of a closed tenant back, once each, before its keys are destroyed. What fails is said.

        Raises:
            Unavailable: the database or the journal does not answer; it is not erased then.
        """
        for name in await self._grants.held(tenant):
            try:
                async with asyncio.timeout(LEAVE_SECONDS):
                    await self.revoke(self._connections.find(tenant, name), tries_max=1)
            except TimeoutError:
                connection = self._connections.find(tenant, name)
                told = revoked(connection, outcome="failed", tries=1, code=UnknownOutcome.code, now=int(time.time()))
                await self._journal.append([told])
            except NomosError as e:
                observe.say("proxy", observe.CREDENTIAL_FAULT, code=e.code, tenant=tenant)

    async def revoke(self, connection: ConnectionFacts, *, tries_max: int = 0) -> str:
        """Gives the tokens of a removed connection back; gives the outcome, empty where another process is at it.

        Args:
            connection: whose.
            tries_max: after how many failures it is given up; 0 for :data:`REVOKE_TRIES_MAX`.

        Raises:
            Unavailable: the database or the journal does not answer; it is due again.
        """
        grant = await self._grants.find(connection.tenant, connection.name, connection.connector)
        if not await self._grants.lease(connection.tenant, connection.name, grant.generation, self._holder):
            return ""
        try:
            party = await self._clients.party(connection.tenant, connection.connector, is_shared=connection.is_shared)
            code = await party.give_back(grant.tokens)
        except (Refused, CredentialUnreadable) as e:
            # no client any more, one that does not open, or a connector without accounts by now: nobody could ask
            code = e.code
        tries = grant.failures + 1
        outcome = code if code in ("revoked", "unsupported") else "failed"
        if outcome == "failed" and tries < (tries_max or REVOKE_TRIES_MAX):
            pause = min(REVOKE_PAUSE_SECONDS << grant.failures, REVOKE_PAUSE_SECONDS_MAX)
            await self._grants.give_back(grant, self._holder, retry_at=int(time.time()) + pause)
            return outcome
        told = revoked(
            connection,
            outcome=outcome,
            tries=tries,
            code="" if outcome != "failed" else code,
            now=int(time.time()),
        )
        # The log first: what is deleted before it was recorded would be revoked in silence.
        await self._journal.append([told])
        await self._grants.delete(grant)
        return outcome
