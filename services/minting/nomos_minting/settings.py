"""Settings of minting. Secrets: ``MINT_KEY_ENCRYPTION_KEY`` (32 bytes, base64url) seals the issuing keys at rest."""

from __future__ import annotations

from nomos_runtime.settings import ServiceSettings


class MintingSettings(ServiceSettings, frozen=True, kw_only=True):
    """Settings of minting.

    Attributes:
        delegation_ttl_seconds: life of a delegation, 1 to 60 seconds.
        decision_fresh_ms: how old policy's allow may be when it is minted on, milliseconds.
    """

    delegation_ttl_seconds: int = 60
    decision_fresh_ms: int = 2_000
