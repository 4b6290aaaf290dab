"""Settings of policy. It holds no secret."""

from __future__ import annotations

from nomos_runtime.settings import ServiceSettings


class PolicySettings(ServiceSettings, frozen=True, kw_only=True):
    """Settings of policy.

    Attributes:
        connectors: folder of the connector catalogue.
        batch_max: requests evaluated and minted together.
        batches_in_flight_max: batches under way at once.
    """

    connectors: str
    batch_max: int = 128
    batches_in_flight_max: int = 2
