"""Where a call goes that is not HTTP: by its connector's scheme to what carries its requests.

One entry for the broker; what is carried out is read from the call's request alone.
"""

from __future__ import annotations

from collections.abc import Set

from nomos.errors import NotCovered, NotFound
from nomos_proxy.answer import UpstreamResponse
from nomos_proxy.destination import Origin
from nomos_proxy.domain import CallPlan
from nomos_proxy.exchange import Limits
from nomos_proxy.files.calls import LocalFiles
from nomos_proxy.files.volumes import parse_volumes
from nomos_proxy.settings import ProxySettings
from nomos_proxy.ssh.calls import SshHosts
from nomos_runtime.secret import Secret


class Transports:
    """The transports of one process beside HTTP."""

    __slots__ = ("_hosts", "files")

    def __init__(self, settings: ProxySettings, development_origins: Set[Origin]) -> None:
        """Opens nothing yet.

        Args:
            settings: with the volumes.
            development_origins: origins that may be loopback or private; empty in production. It may grow.

        Raises:
            Misconfigured: the volumes are not what they must be.
        """
        self._hosts = SshHosts(development_origins=development_origins)
        s = settings
        guarded = (s.connectors, s.bus_creds, s.pages_tls_cert, s.pages_tls_key)
        self.files = LocalFiles(parse_volumes(s.files_volumes, guarded))

    async def call(self, plan: CallPlan, credential: Secret, limits: Limits) -> UpstreamResponse:
        """Makes one call; what it raises means what the errors of :meth:`nomos_proxy.upstream.Upstreams.call` mean."""
        at = plan.connection
        match plan.connector.scheme:
            case "file":
                return await self.files.call(at.tenant, at.host, plan.request, limits)
            case "ssh":
                if at.ssh is None:
                    raise NotFound("the connection does not say which host it goes to")
                return await self._hosts.call(at.tenant, plan.origin, at.ssh, plan.request, credential, limits)
            case "https":
                raise NotCovered("HTTP has a door of its own")

    def close(self) -> None:
        """Takes no more calls."""
        self.files.close()
