"""Calls about files of this machine, each in a thread: bounded in number for all and for a tenant, and in time.

A thread that the filesystem holds (a network mount that hangs) cannot be ended. It keeps its place until it ends by
itself, so a tenant whose volume hangs uses up its own places and nobody else's. The process ends no sooner either.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from nomos.catalogue import OutgoingRequest
from nomos.errors import UnknownOutcome
from nomos_proxy.answer import UpstreamResponse
from nomos_proxy.exchange import Limits
from nomos_proxy.files.asked import Asked, read_asked
from nomos_proxy.files.beneath import opened_top
from nomos_proxy.files.local import perform
from nomos_proxy.files.volumes import Place, Volumes
from nomos_proxy.places import Places

#: Calls about files at once.
THREADS_MAX: Final = 32
#: Of these, how many may be one tenant's.
THREADS_OF_TENANT_MAX: Final = 8


class LocalFiles:
    """The files of one process. Used from one event loop."""

    __slots__ = ("_places", "_threads", "volumes")

    def __init__(self, volumes: Volumes) -> None:
        self.volumes = volumes
        self._threads = ThreadPoolExecutor(THREADS_MAX, thread_name_prefix="files")
        self._places = Places("calls about files", places=THREADS_MAX, per_tenant=THREADS_OF_TENANT_MAX)

    async def call(self, tenant: str, volume: str, request: OutgoingRequest, limits: Limits) -> UpstreamResponse:
        """Does what a request asks of a tenant's volume.

        Raises:
            NotFound: the tenant has no such volume (any more).
            PoolFull: no thread was free in time; nothing was done.
            UnknownOutcome: it takes longer than it may, and goes on.
            NomosError: as :func:`nomos_proxy.files.local.perform`.
        """
        asked, place = read_asked("file", request), self.volumes.find(tenant, volume)
        loop = asyncio.get_running_loop()
        deadline = loop.time() + limits.total_seconds
        await self._places.take(tenant, deadline)
        work = loop.run_in_executor(self._threads, _in_volume, place, asked, limits)
        work.add_done_callback(lambda done: self._ended(tenant, done))
        try:
            async with asyncio.timeout_at(deadline):
                return await asyncio.shield(work)
        except TimeoutError as error:
            raise UnknownOutcome(f"no answer of the filesystem within {limits.total_seconds:g} seconds") from error

    def close(self) -> None:
        """Takes no more calls; what runs ends by itself."""
        self._threads.shutdown(wait=False)

    def _ended(self, tenant: str, done: asyncio.Future[UpstreamResponse]) -> None:
        """A thread is free again. Whoever waited for it may have gone: its error is nobody's then."""
        if not done.cancelled():
            done.exception()
        self._places.leave(tenant)


def _in_volume(place: Place, asked: Asked, limits: Limits) -> UpstreamResponse:
    limits.check_begin()
    with opened_top(place.base, place.folder) as top:
        return perform(top, asked, limits.body_bytes)
