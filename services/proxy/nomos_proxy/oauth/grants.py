"""The tokens of connected accounts at rest, and the lease of who renews them. All replicas share one table.

A set of tokens is stored by compare-and-set on its generation: of two processes that renew at once one stores, and the
other reads what it stored. A lease keeps them from asking the provider twice, since a provider may end the whole grant
when a refresh token comes back a second time (RFC 9700 section 4.14.2). It runs out by the database's clock, so a
process that died holds nobody up for longer than :data:`LEASE_SECONDS`.

Trusted / not trusted: as :mod:`nomos_proxy.store`. Who controls the table can put an older set back; then a provider
that rotates refuses it, and a person must connect the account again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, Literal

import msgspec
from msgspec import Struct

from nomos.errors import Conflict, NotFound
from nomos_proxy.keys import DataKeys
from nomos_proxy.oauth.protocol import TokenSet
from nomos_runtime.database import Database
from nomos_runtime.secret import Secret
from nomos_runtime.vault import PURPOSE_REFRESH, Place, Vault, key_id_of

#: How long one process alone may ask the provider. Longer than the request, so that no second one is on its way.
LEASE_SECONDS: Final = 30
#: Connections that one look for due ones finds.
DUE_MAX: Final = 100

State = Literal["active", "lost", "ending"]
_tokens = msgspec.json.Decoder(TokenSet)


class Grant(Struct, frozen=True, kw_only=True):
    """One row, opened.

    Attributes:
        tenant: whose it is.
        connection: its name.
        generation: of the tokens.
        tokens: what was granted last.
        state: ``active``; ``lost`` where the provider refuses to renew; ``ending`` until it is revoked there.
        failures: tries in a row that failed.
        retry_at: Unix seconds before which nobody tries again.
    """

    tenant: str
    connection: str
    generation: int
    tokens: TokenSet
    state: State
    failures: int
    retry_at: int


class Due(Struct, frozen=True, kw_only=True):
    """A connection that something is to be done for: renewal, or revocation where it is ``ending``.

    Attributes:
        tenant: whose it is.
        connection: its name.
        state: as of its grant.
        renew_at: since when, Unix seconds.
    """

    tenant: str
    connection: str
    state: State
    renew_at: int


class Grants:
    """Reads and writes the table ``grants``."""

    def __init__(self, database: Database, vault: Vault, keys: DataKeys) -> None:
        self._database = database
        self._vault = vault
        self._keys = keys

    async def writing(
        self, tenant: str, connection: str, provider: str, tokens: TokenSet
    ) -> tuple[str, Callable[[Any], Awaitable[None]]]:
        """What stores ``tokens`` in the transaction of the event that connects the account, and the key's id.

        Raises:
            NotFound: the tenant's data key has been destroyed.
        """
        record = await self._sealed(tenant, connection, provider, tokens)

        async def write(c: Any) -> None:
            await c.execute(
                "INSERT INTO grants (tenant, connection, generation, record, renew_at, state) "
                "VALUES ($1, $2, 1, $3, $4, 'active') ON CONFLICT (tenant, connection) DO UPDATE SET "
                "generation = grants.generation + 1, record = excluded.record, renew_at = excluded.renew_at, "
                "state = 'active', failures = 0, retry_at = 0, holder = '', held_until = '-infinity'",
                tenant,
                connection,
                record,
                renew_at(tokens),
            )

        return key_id_of(record).hex(), write

    async def find(self, tenant: str, connection: str, provider: str) -> Grant:
        """The grant of a connection as it stands.

        Raises:
            NotFound: there is none, or its key has been destroyed.
            CredentialUnreadable: it does not open here.
        """
        async with self._database.transaction(tenant) as c:
            row = await c.fetchrow(
                "SELECT generation, record, state, failures, retry_at FROM grants "
                "WHERE tenant = $1 AND connection = $2",
                tenant,
                connection,
            )
        key = await self._keys.of(tenant)
        if row is None or key is None:
            raise NotFound("the credential of this connection has been destroyed")
        opened = self._vault.open(key, _place(tenant, connection, provider), bytes(row["record"]))
        return Grant(
            tenant=tenant,
            connection=connection,
            generation=row["generation"],
            tokens=_tokens.decode(opened.reveal()),
            state=row["state"],
            failures=row["failures"],
            retry_at=row["retry_at"],
        )

    async def renewed_at(self, tenant: str) -> dict[str, tuple[int, int]]:
        """By connection of the tenant: how often it has got tokens, and when it is renewed next (Unix seconds)."""
        async with self._database.transaction(tenant) as c:
            rows = await c.fetch("SELECT connection, generation, renew_at FROM grants WHERE tenant = $1", tenant)
        return {r["connection"]: (r["generation"], r["renew_at"]) for r in rows}

    async def lease(self, tenant: str, connection: str, generation: int, holder: str) -> bool:
        """Whether ``holder`` may ask the provider now. False where another does, or the tokens are not those."""
        async with self._database.transaction(tenant) as c:
            done = await c.execute(
                "UPDATE grants SET holder = $4, held_until = now() + make_interval(secs => $5) "
                "WHERE tenant = $1 AND connection = $2 AND generation = $3 AND state <> 'lost' "
                "AND (holder = '' OR held_until < now())",
                tenant,
                connection,
                generation,
                holder,
                float(LEASE_SECONDS),
            )
        return bool(done == "UPDATE 1")

    async def store(self, grant: Grant, provider: str, tokens: TokenSet) -> bool:
        """Stores what took the place of ``grant``; False where another set has. Ends the lease.

        Not bound to the lease: a set that a provider has handed out must not be thrown away because time ran out. Of a
        connection that was removed meanwhile it is due to be given back at once, as the one before was.
        """
        record = await self._sealed(grant.tenant, grant.connection, provider, tokens)
        async with self._database.transaction(grant.tenant) as c:
            done = await c.execute(
                "UPDATE grants SET generation = generation + 1, record = $4, failures = 0, retry_at = 0, holder = '', "
                "held_until = '-infinity', renew_at = CASE WHEN state = 'ending' THEN 1 ELSE $5 END "
                "WHERE tenant = $1 AND connection = $2 AND generation = $3",
                grant.tenant,
                grant.connection,
                grant.generation,
                record,
                renew_at(tokens),
            )
        return bool(done == "UPDATE 1")

    async def give_back(self, grant: Grant, holder: str, *, retry_at: int) -> None:
        """Ends the lease of one who got nothing; nobody tries again before ``retry_at``, Unix seconds."""
        async with self._database.transaction(grant.tenant) as c:
            await c.execute(
                "UPDATE grants SET holder = '', held_until = '-infinity', failures = failures + 1, retry_at = $5 "
                "WHERE tenant = $1 AND connection = $2 AND generation = $3 AND holder = $4",
                grant.tenant,
                grant.connection,
                grant.generation,
                holder,
                retry_at,
            )

    @staticmethod
    def losing(grant: Grant) -> Callable[[Any], Awaitable[None]]:
        """What marks a grant lost in the transaction of the event that says so; Conflict where it was renewed since."""

        async def lose(c: Any) -> None:
            done = await c.execute(
                "UPDATE grants SET state = 'lost', holder = '', held_until = '-infinity' "
                "WHERE tenant = $1 AND connection = $2 AND generation = $3 AND state = 'active'",
                grant.tenant,
                grant.connection,
                grant.generation,
            )
            if done != "UPDATE 1":
                raise Conflict("the tokens of this connection have been renewed meanwhile")

        return lose

    @staticmethod
    def ending(tenant: str, connection: str) -> Callable[[Any], Awaitable[None]]:
        """What marks a grant for revocation, in the transaction of the event that removes the connection."""

        async def end(c: Any) -> None:
            await c.execute(
                "UPDATE grants SET state = 'ending', failures = 0, retry_at = 0, renew_at = 1 "
                "WHERE tenant = $1 AND connection = $2",
                tenant,
                connection,
            )

        return end

    async def delete(self, grant: Grant) -> None:
        """Deletes tokens that were given back."""
        async with self._database.transaction(grant.tenant) as c:
            await c.execute(
                "DELETE FROM grants WHERE tenant = $1 AND connection = $2 AND generation = $3",
                grant.tenant,
                grant.connection,
                grant.generation,
            )

    async def due(self, now: int, after: Due | None = None) -> Sequence[Due]:
        """The connections that are due, over all tenants, the longest due first: names only.

        Args:
            now: Unix seconds.
            after: the last one of the look before; None for the first ones. At most :data:`DUE_MAX` are found at once.
        """
        last = (0, "", "") if after is None else (after.renew_at, after.tenant, after.connection)
        async with self._database.transaction(scope="sweep") as c:
            rows = await c.fetch(
                "SELECT tenant, connection, state, renew_at FROM grants WHERE renew_at > 0 AND renew_at <= $1 "
                "AND retry_at <= $1 AND state <> 'lost' AND (renew_at, tenant, connection) > ($2, $3, $4) "
                "ORDER BY renew_at, tenant, connection LIMIT $5",
                now,
                *last,
                DUE_MAX,
            )
        return [msgspec.convert(dict(row), Due) for row in rows]

    async def held(self, tenant: str) -> Sequence[str]:
        """The connections of a tenant whose tokens are stored, removed ones that are not given back among them."""
        async with self._database.transaction(tenant) as c:
            rows = await c.fetch("SELECT connection FROM grants WHERE tenant = $1 ORDER BY connection", tenant)
        return [row["connection"] for row in rows]

    async def _sealed(self, tenant: str, connection: str, provider: str, tokens: TokenSet) -> bytes:
        key = await self._keys.of(tenant)
        if key is None:
            raise NotFound("the data key of this tenant has been destroyed")
        return self._vault.seal(key, _place(tenant, connection, provider), Secret(msgspec.json.encode(tokens)))


def renew_at(tokens: TokenSet) -> int:
    """When tokens are renewed ahead, Unix seconds: a fifth of their life, at most five minutes, before they end.

    0 where they never end or cannot be renewed.
    """
    if not tokens.expires_at or not tokens.refresh:
        return 0
    return tokens.expires_at - min(AHEAD_SECONDS_MAX, (tokens.expires_at - tokens.obtained_at) // 5)


def use_until(tokens: TokenSet) -> int:
    """Until when an access token is sent, Unix seconds: a little before its end, as a call takes time. 0: for ever."""
    if not tokens.expires_at:
        return 0
    return tokens.expires_at - min(EXPIRY_SECONDS_MAX, (tokens.expires_at - tokens.obtained_at) // 10)


#: Seconds before its end at which a token is renewed ahead, and from which it is not used any more.
AHEAD_SECONDS_MAX: Final = 300
EXPIRY_SECONDS_MAX: Final = 15


def _place(tenant: str, connection: str, provider: str) -> Place:
    return Place(purpose=PURPOSE_REFRESH, tenant=tenant, connection=connection, provider=provider)
