"""The tenants' bus accounts: their JWTs from the events, told to the servers.

What the servers know is a projection of the events: every account is told again at start and every
``reconcile_seconds``, so a server that lost its directory, or a push that failed, comes right by itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Final

import nats
import nats.errors
from nats.aio.client import Client

from nomos.creds import Nkey
from nomos.errors import Unavailable
from nomos_identity.domain import closed_at, keys_of
from nomos_runtime.bus import CONNECT_SECONDS, RECONNECT_WAIT_SECONDS
from nomos_runtime.eventstore import EventStore
from nomos_runtime.provision import push_account
from nomos_runtime.topology.issue import account_jwt_for_tenant
from nomos_runtime.topology.roles import TenantLimits

#: In the revocations of an account: all of its users.
EVERY_USER: Final = "*"


class Accounts:
    """Tells the servers about tenants. Holds the operator's signing key."""

    def __init__(self, store: EventStore, operator: Nkey, accounts: Mapping[str, str], claims: Client) -> None:
        self._store = store
        self._operator = operator
        self._accounts = {name.upper(): key for name, key in accounts.items()}
        self._claims = claims
        self._lock = asyncio.Lock()

    @staticmethod
    async def connect(url: str, creds: str) -> Client:
        """Connects to the system account as the user ``claims``.

        Raises:
            Unavailable: the server does not answer.
        """
        client = Client()
        try:
            # Bounded here: with endless reconnecting the client's own first try has no end either.
            await asyncio.wait_for(
                client.connect(
                    servers=url.split(","),
                    user_credentials=creds,
                    inbox_prefix=b"_INBOX.claims",
                    name="identity-claims",
                    connect_timeout=CONNECT_SECONDS,
                    max_reconnect_attempts=-1,
                    reconnect_time_wait=RECONNECT_WAIT_SECONDS,  # type: ignore[arg-type]  # slept as it is
                ),
                CONNECT_SECONDS,
            )
        except (nats.errors.Error, OSError, TimeoutError) as e:
            await client.close()
            raise Unavailable("the bus does not answer", cause=repr(e)) from e
        return client

    async def push(self, tenant: str) -> None:
        """Tells the servers the tenant's account as its events say; revoked keys are disconnected at once.

        Raises:
            Unavailable: the servers do not answer; the next reconciliation tries again.
        """
        # One at a time: an older picture of the same tenant must not overtake a newer one.
        async with self._lock:
            tenant_history = [s.envelope for s in await self._store.load(tenant, "tenant")]
            created, closed = tenant_history[0].event, closed_at(tenant_history)
            roles = created["roles"]
            if not isinstance(roles, dict):
                raise TypeError("tenant.created names its role keys")
            history = [
                s.envelope for prefix in ("agent/", "auditor/") for s in await self._store.load_matching(tenant, prefix)
            ]
            revocations = {k.key: k.revoked_at for k in keys_of(history).values() if k.revoked}
            if closed is not None:
                # Every user that was issued until then; together with the limit, no connection stays or comes.
                revocations[EVERY_USER] = closed
            token = account_jwt_for_tenant(
                tenant=tenant,
                account=str(created["account"]),
                role_keys={str(r): str(k) for r, k in roles.items()},
                accounts=self._accounts,
                operator=self._operator,
                issued_at=int(time.time()),
                limits=None if closed is None else TenantLimits(connections=0),
                revocations=revocations,
            )
            await push_account(self._claims, token)

    async def close(self) -> None:
        """Disconnects from the system account."""
        await self._claims.close()
