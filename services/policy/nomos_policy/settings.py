"""Settings of policy. It holds no secret."""

from __future__ import annotations

from nomos_runtime.settings import ServiceSettings


class PolicySettings(ServiceSettings, frozen=True, kw_only=True):
    """Settings of policy.

    Attributes:
        connectors: folder of the connector catalogue.
        batch_max: requests evaluated and minted together.
        batches_in_flight_max: batches under way at once.
        pages_listen: ``address:port`` on which operators' pages are served; empty serves none.
        pages_origin: their origin, as a browser writes it.
        pages_tls_cert: path of the pages' certificate chain, PEM. Needed unless the origin is ``http://localhost``.
        pages_tls_key: path of its key, PEM.
        sign_in_site: origin of stepup's pages, where operators sign in.
    """

    connectors: str
    batch_max: int = 128
    batches_in_flight_max: int = 2
    pages_listen: str = ""
    pages_origin: str = "http://localhost:8641"
    pages_tls_cert: str = ""
    pages_tls_key: str = ""
    sign_in_site: str = "http://localhost:8640"
