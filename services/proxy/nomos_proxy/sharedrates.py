"""Rates that are too slow to be divided among the replicas: one moment for each key in Postgres, for all of them.

The rule is that of :mod:`nomos_proxy.rates`, in one statement for a key, by the database's clock. All keys of a call
are counted in one transaction or none is. While the database is away no call that needs this is let through.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Final

from nomos_proxy.rates import Allowance, limited
from nomos_runtime.database import Database

#: How often a process deletes what is full again, for each tenant.
CLEAN_SECONDS: Final = 60.0
#: A part of a step that is no call: the database keeps microseconds.
_ROUNDING: Final = 1e-3
_USE: Final = """
INSERT INTO rates AS r (tenant, key, full_at)
VALUES ($1, $2, clock_timestamp() + make_interval(secs => $3))
ON CONFLICT (tenant, key) DO UPDATE
    SET full_at = greatest(r.full_at, clock_timestamp()) + make_interval(secs => $3)
    WHERE greatest(r.full_at, clock_timestamp()) + make_interval(secs => $3)
        <= clock_timestamp() + make_interval(secs => $4)
RETURNING 1
"""
_WAIT: Final = (
    "SELECT extract(epoch FROM full_at - clock_timestamp())::float8 FROM rates WHERE tenant = $1 AND key = $2"
)
#: Rows that another process has in hand are left to the next time: two that wait for each other would both fail.
_CLEAN: Final = """
DELETE FROM rates WHERE tenant = $1 AND key = ANY(ARRAY(
    SELECT key FROM rates WHERE tenant = $1 AND full_at < clock_timestamp() FOR UPDATE SKIP LOCKED))
"""


class SharedRates:
    """Reads and writes the table ``rates``."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._cleaned: dict[str, float] = {}

    async def use(self, tenant: str, allowances: Sequence[Allowance]) -> None:
        """Counts one call against each of ``allowances``, or against none.

        Raises:
            RateLimited: one of them is used up; it says when a call fits again.
            Unavailable: Postgres does not answer.
        """
        await self._clean(tenant)
        async with self._database.transaction(tenant) as c:
            # In one order for everybody: of two calls that share two keys one waits for the other.
            for one in sorted(allowances, key=lambda allowance: allowance.key):
                step, key = one.rate.seconds / one.rate.calls, "/".join(one.key)
                room = one.rate.seconds + step * _ROUNDING
                if await c.fetchval(_USE, tenant, key, step, room) is None:
                    left = await c.fetchval(_WAIT, tenant, key)
                    wait = (left or 0.0) + step - one.rate.seconds
                    raise limited(one, max(1, math.ceil(wait * 1000)))

    def forget(self, tenant: str) -> None:
        """Keeps nothing of a closed tenant in memory; its rows go with its erasure."""
        self._cleaned.pop(tenant, None)

    async def _clean(self, tenant: str) -> None:
        now = time.monotonic()
        if now - self._cleaned.get(tenant, -CLEAN_SECONDS) < CLEAN_SECONDS:
            return
        self._cleaned[tenant] = now
        async with self._database.transaction(tenant) as c:
            await c.execute(_CLEAN, tenant)
