"""How many calls may run at once where each holds something: for all tenants together, and for each of them."""

from __future__ import annotations

import asyncio

from nomos_proxy.pool import PoolFull


class Places:
    """A number of places, of which one tenant may hold only a part. Used from one event loop."""

    __slots__ = ("_free", "_of_tenant", "_per_tenant", "_what")

    def __init__(self, what: str, *, places: int, per_tenant: int) -> None:
        """All are free.

        Args:
            what: what holds a place, for the error: ``calls about files``.
            places: of all tenants.
            per_tenant: of one.
        """
        self._what = what
        self._per_tenant = per_tenant
        self._free = asyncio.Semaphore(places)
        self._of_tenant: dict[str, _Own] = {}

    async def take(self, tenant: str, deadline: float) -> None:
        """Waits for a place; :meth:`leave` gives it back.

        Args:
            tenant: whose call it is.
            deadline: loop time, seconds.

        Raises:
            PoolFull: none was free in time.
        """
        own = self._of_tenant.setdefault(tenant, _Own(self._per_tenant))
        own.users += 1
        try:
            async with asyncio.timeout_at(deadline):
                # the tenant's own first: who waits for that holds nobody else up
                await own.free.acquire()
                try:
                    await self._free.acquire()
                except BaseException:
                    own.free.release()
                    raise
        except TimeoutError as error:
            self._forget(tenant)
            raise PoolFull(f"too many {self._what} run at once") from error
        except BaseException:
            self._forget(tenant)
            raise

    def leave(self, tenant: str) -> None:
        """Gives a place back."""
        self._free.release()
        self._of_tenant[tenant].free.release()
        self._forget(tenant)

    @property
    def is_empty(self) -> bool:
        """Whether nobody holds or waits for a place."""
        return not self._of_tenant

    def _forget(self, tenant: str) -> None:
        own = self._of_tenant[tenant]
        own.users -= 1
        if own.users == 0:
            del self._of_tenant[tenant]


class _Own:
    """A tenant's places, and how many calls hold or wait for one."""

    __slots__ = ("free", "users")

    def __init__(self, places: int) -> None:
        self.free = asyncio.Semaphore(places)
        self.users = 0
