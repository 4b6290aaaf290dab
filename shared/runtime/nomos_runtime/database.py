"""Postgres: a pool under the service's own role, tenant-scoped transactions, forward-only migrations.

Row-level security is forced on every tenant-scoped table; a transaction sees the rows of the tenant that it named
and no others. There is no default tenant: a transaction that names none sees no rows.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import asyncpg

from nomos.errors import Misconfigured, Unavailable
from nomos_runtime import observe

POOL_SIZE_MAX: Final = 8
COMMAND_SECONDS: Final = 10
ACQUIRE_SECONDS: Final = 3

_FAULTS = (
    OSError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.exceptions.AdminShutdownError,
    asyncpg.exceptions.CrashShutdownError,
    asyncpg.exceptions.CannotConnectNowError,
    asyncpg.exceptions.InsufficientResourcesError,
    # What the client raises of a connection that was lost in the middle of an answer.
    asyncpg.InternalClientError,
    TimeoutError,
)


class Database:
    """A pool of connections of one service. Trusted for durability; the tenant wall is its row-level security."""

    def __init__(self, service: str, pool: asyncpg.Pool) -> None:
        self.service = service
        self._pool = pool

    @classmethod
    async def open(cls, service: str, url: str) -> Database:
        """Opens the pool.

        Raises:
            Unavailable: Postgres does not answer.
        """
        try:
            pool = await asyncpg.create_pool(
                url, min_size=1, max_size=POOL_SIZE_MAX, command_timeout=COMMAND_SECONDS, timeout=ACQUIRE_SECONDS
            )
        except _FAULTS as e:
            raise Unavailable("postgres does not answer", cause=repr(e)) from e
        return cls(service, pool)

    @asynccontextmanager
    async def transaction(self, tenant: str | None = None, scope: str | None = None) -> AsyncIterator[Any]:
        """A transaction as ``tenant`` (or, for replication only, with ``scope='replicate'``).

        Raises:
            Unavailable: the connection cannot be had or was lost; nothing was committed, or (lost at commit) it is not
                known, and the caller must look again.
        """
        try:
            async with self._pool.acquire(timeout=ACQUIRE_SECONDS) as connection, connection.transaction():
                await connection.execute(
                    "SELECT set_config('nomos.tenant', $1, true), set_config('nomos.scope', $2, true)",
                    tenant or "",
                    scope or "",
                )
                yield connection
        except _FAULTS as e:
            raise Unavailable("postgres does not answer", cause=repr(e)) from e

    async def migrate(self, *folders: Path) -> int:
        """Applies the ``NNNN_*.sql`` files of each folder that this schema does not have yet, in order.

        Returns:
            How many were applied.

        Raises:
            Misconfigured: a file that was applied has changed since.
        """
        applied = 0
        async with self.transaction() as connection:
            await connection.execute("SELECT pg_advisory_xact_lock(hashtext('nomos.migrate.' || current_schema()))")
            await connection.execute(
                "CREATE TABLE IF NOT EXISTS migrations (name text PRIMARY KEY, sha256 text NOT NULL, "
                "at timestamptz NOT NULL DEFAULT now())"
            )
            known = {r["name"]: r["sha256"] for r in await connection.fetch("SELECT name, sha256 FROM migrations")}
            for folder in folders:
                for path in sorted(folder.glob("[0-9][0-9][0-9][0-9]_*.sql")):
                    name, text = f"{folder.parent.name}/{path.name}", path.read_text(encoding="utf-8")
                    digest = hashlib.sha256(text.encode()).hexdigest()
                    if name in known:
                        if known[name] != digest:
                            raise Misconfigured(f"migration {name} has changed since it was applied")
                        continue
                    await connection.execute(text)
                    await connection.execute("INSERT INTO migrations (name, sha256) VALUES ($1, $2)", name, digest)
                    applied += 1
        observe.say(self.service, observe.MIGRATED, applied=applied)
        return applied

    async def close(self) -> None:
        """Closes the pool; connections that do not end in time are terminated."""
        try:
            await asyncio.wait_for(self._pool.close(), ACQUIRE_SECONDS)
        except TimeoutError:
            self._pool.terminate()
