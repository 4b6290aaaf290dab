"""Tokens of ours that say which connection asks, for clouds that trust this installation (OpenID Connect).

A token is for one audience and lives :data:`LIFE_SECONDS`. Its subject is ``tenant:<tenant>:connection:<name>``, so a
cloud's own policy binds a role to one connection of one tenant. It goes to the cloud's token endpoint and nowhere else.

Signed with RS256, the one algorithm that all three clouds take. Keys: the current one signs; all stand in the key set,
so that a cloud which has kept the set for a while still checks what a new one signed after it was announced.

Sources: OpenID Connect Discovery 1.0; RFC 7517 (key set), RFC 7519 (token), RFC 7638 (key ids).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import RSAKey

from nomos.errors import Misconfigured
from nomos.ids import new_id

DISCOVERY: Final = "/.well-known/openid-configuration"
KEYS: Final = "/.well-known/jwks.json"
LIFE_SECONDS: Final = 300
#: Clocks of clouds may be behind ours.
SKEW_SECONDS: Final = 30
RSA_BITS_MIN: Final = 2_048
_ALGORITHM: Final = "RS256"
_PEM: Final = re.compile(r"-----BEGIN [A-Z ]+-----[^-]+-----END [A-Z ]+-----")


class Issuer:
    """Signs tokens. Holds the installation's private key."""

    def __init__(self, origin: str, keys: Sequence[str]) -> None:
        """Takes the keys.

        Args:
            origin: of the pages, which is the issuer's name.
            keys: RSA private keys, PEM; the first signs.

        Raises:
            Misconfigured: none of them, or one is none or too short.
        """
        if not keys or not origin:
            raise Misconfigured("a federation needs a key and the origin of the pages")
        self.origin = origin
        self._keys = [_key(pem) for pem in keys]

    @property
    def current_id(self) -> str:
        """The id of the key that signs."""
        return str(self._keys[0].kid)

    def token(self, *, tenant: str, connection: str, audience: str, now: int) -> str:
        """A token about a connection.

        Args:
            tenant: whose it is.
            connection: its name.
            audience: the cloud, as it wants to be named.
            now: Unix seconds.
        """
        claims: dict[str, Any] = {
            "iss": self.origin,
            "sub": subject_of(tenant, connection),
            "aud": audience,
            "iat": now - SKEW_SECONDS,
            "nbf": now - SKEW_SECONDS,
            "exp": now + LIFE_SECONDS,
            "jti": new_id("jt"),
            "tenant": tenant,
            "connection": connection,
        }
        return jwt.encode({"alg": _ALGORITHM, "kid": self.current_id, "typ": "JWT"}, claims, self._keys[0])

    def discovery(self) -> dict[str, object]:
        """The document at :data:`DISCOVERY`: what clouds read; nobody signs in here."""
        return {
            "issuer": self.origin,
            "jwks_uri": self.origin + KEYS,
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": [_ALGORITHM],
            "claims_supported": ["iss", "sub", "aud", "iat", "nbf", "exp", "jti", "tenant", "connection"],
        }

    def key_set(self) -> dict[str, object]:
        """The document at :data:`KEYS`: public halves."""
        return {"keys": [{**key.as_dict(private=False), "alg": _ALGORITHM, "use": "sig"} for key in self._keys]}


def subject_of(tenant: str, connection: str) -> str:
    """Who a connection is to a cloud; what a role's trust policy names."""
    return f"tenant:{tenant}:connection:{connection}"


def parse_keys(current: str, others: str) -> list[str]:
    """The keys in the environment's values: one, and any number one after the other.

    Raises:
        Misconfigured: the first is not one key.
    """
    if not current:
        return []
    first = _PEM.findall(current)
    if len(first) != 1:
        raise Misconfigured("PROXY_FEDERATION_KEY must be one RSA private key, PEM")
    return [*first, *_PEM.findall(others)]


def _key(pem: str) -> RSAKey:
    try:
        key = RSAKey.import_key(pem, {"use": "sig"})
        size = key.private_key.key_size if key.private_key is not None else 0
    except (JoseError, ValueError, TypeError, AttributeError):
        # the foreign message can hold a part of the key
        raise Misconfigured("a federation key must be an RSA private key, PEM") from None
    if size < RSA_BITS_MIN:
        raise Misconfigured(f"a federation key must be a private one of at least {RSA_BITS_MIN} bits")
    return RSAKey.import_key(pem, {"use": "sig", "kid": key.thumbprint()})
