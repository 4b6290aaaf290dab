"""Settings of identity.

Secrets: ``IDENTITY_OPERATOR_SIGNING_KEY`` (nkey seed ``SO...``) signs accounts; ``IDENTITY_KEY_ENCRYPTION_KEY`` (32
bytes, base64url) seals the tenants' role keys at rest.
"""

from __future__ import annotations

from nomos_runtime.settings import ServiceSettings


class IdentitySettings(ServiceSettings, frozen=True, kw_only=True):
    """Settings of identity.

    Attributes:
        claims_creds: path of the credentials of the system account's user ``claims``, who tells the servers about
            accounts.
        user_ttl_seconds: life of an agent's or auditor's bus credential; 0 for as long as it is not revoked.
        reconcile_seconds: how often every tenant's account is told to the servers again, seconds.
    """

    claims_creds: str
    user_ttl_seconds: int = 0
    reconcile_seconds: int = 30
