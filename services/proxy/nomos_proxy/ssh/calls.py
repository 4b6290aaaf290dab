"""Calls to hosts that speak SSH: a connection for each, bounded in number and time.

What a failure means depends on when it happens: until both sides have proved who they are nothing was asked
(:class:`~nomos.errors.UpstreamFailed`); from then on it may have taken effect (:class:`~nomos.errors.UnknownOutcome`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Set
from typing import Final

import asyncssh

from nomos.catalogue import OutgoingRequest
from nomos.errors import UnknownOutcome
from nomos_proxy.answer import UpstreamResponse
from nomos_proxy.destination import Origin
from nomos_proxy.dial import Resolver, system_resolver
from nomos_proxy.exchange import Limits
from nomos_proxy.files.asked import Asked, read_asked
from nomos_proxy.places import Places
from nomos_proxy.ssh.commands import run
from nomos_proxy.ssh.dial import Way, dialled
from nomos_proxy.ssh.files import perform
from nomos_proxy.ssh.target import SshTarget
from nomos_runtime.secret import Secret

#: Connections of this process at once.
CONNECTIONS_MAX: Final = 64
#: Of these, how many may be one tenant's.
CONNECTIONS_OF_TENANT_MAX: Final = 16


class SshHosts:
    """The SSH connections of one process. Used from one event loop."""

    __slots__ = ("_development_origins", "_places", "_resolver")

    def __init__(self, *, development_origins: Set[Origin], resolver: Resolver = system_resolver) -> None:
        """Opens nothing.

        Args:
            development_origins: origins that may be loopback or private; empty in production. It may grow.
            resolver: names to addresses.
        """
        self._development_origins = development_origins
        self._resolver = resolver
        self._places = Places("connections to hosts", places=CONNECTIONS_MAX, per_tenant=CONNECTIONS_OF_TENANT_MAX)

    async def call(  # noqa: PLR0917 - where, as whom, what, and its bounds
        self,
        tenant: str,
        origin: Origin,
        target: SshTarget,
        request: OutgoingRequest,
        credential: Secret,
        limits: Limits,
    ) -> UpstreamResponse:
        """Does what a request asks of a host.

        Args:
            tenant: whose connection it is.
            origin: the host and its port.
            target: as whom we come, and who the host must be.
            request: what is asked.
            credential: the private key.
            limits: bounds of the call.

        Raises:
            PoolFull: no place was free in time; nothing was sent.
            DestinationRefused, HostKeyChanged, UpstreamFailed: as :func:`nomos_proxy.ssh.dial.dialled`.
            PathRefused, AnswerRefused: as :func:`nomos_proxy.ssh.files.perform`.
            Expired: it came too late to be asked.
            UnknownOutcome: it was asked, and no complete answer came back.
        """
        asked = read_asked("ssh", request)
        deadline = asyncio.get_running_loop().time() + limits.total_seconds
        await self._places.take(tenant, deadline)
        try:
            return await self._made(origin, target, asked, credential, limits, deadline)
        finally:
            self._places.leave(tenant)

    async def _made(  # noqa: PLR0917 - one call and its bounds
        self, origin: Origin, target: SshTarget, asked: Asked, credential: Secret, limits: Limits, deadline: float
    ) -> UpstreamResponse:
        way = Way(resolver=self._resolver, development_origins=self._development_origins, deadline=deadline)
        async with dialled(origin, target, credential, way) as connection:
            try:
                async with asyncio.timeout_at(deadline):
                    limits.check_begin()
                    if asked.operation == "run":
                        return await run(connection, asked, limits.body_bytes)
                    return await perform(connection, asked, target.roots, limits.body_bytes)
            except TimeoutError as error:
                raise UnknownOutcome(f"no complete answer within {limits.total_seconds:g} seconds") from error
            except (asyncssh.Error, OSError) as error:
                raise UnknownOutcome("the connection to the host ended too soon", cause=str(error)[:200]) from error
