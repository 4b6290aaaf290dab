"""Where a call goes that is not HTTP: by its connector's scheme to what carries its requests.

One entry for the broker; what is carried out is read from the call's request alone.
"""

from __future__ import annotations

from nomos.errors import NotCovered
from nomos_proxy.answer import UpstreamResponse
from nomos_proxy.domain import CallPlan
from nomos_proxy.exchange import Limits
from nomos_proxy.files.calls import LocalFiles
from nomos_proxy.files.volumes import parse_volumes
from nomos_proxy.settings import ProxySettings


class Transports:
    """The transports of one process beside HTTP."""

    __slots__ = ("files",)

    def __init__(self, settings: ProxySettings) -> None:
        """Opens nothing yet.

        Raises:
            Misconfigured: the volumes are not what they must be.
        """
        self.files = LocalFiles(parse_volumes(settings.files_volumes, settings.connectors))

    async def call(self, plan: CallPlan, limits: Limits) -> UpstreamResponse:
        """Makes one call; what it raises means what the errors of :meth:`nomos_proxy.upstream.Upstreams.call` mean."""
        if plan.connector.scheme == "file":
            return await self.files.call(plan.connection.tenant, plan.connection.host, plan.request, limits)
        raise NotCovered("the connector's scheme has no transport here")

    def close(self) -> None:
        """Takes no more calls."""
        self.files.close()
