"""A client that proves who it is by a private key: what it signs for one request. Pure: no IO, no clock, no randomness.

The key stays here; what goes to the provider serves one request, for :data:`LIFE_SECONDS`. Its audience is the
provider's issuer where the connector names one, else its token endpoint, so no other provider can pass it on.

Sources: RFC 7523 sections 2.2 and 3; RFC 7517 and 7638 (the public half, and its id); RFC 7518 section 3.1.
"""

from __future__ import annotations

from typing import Any, Final

from authlib.oauth2.rfc7523 import private_key_jwt_sign
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, RSAKey

from nomos.errors import LimitExceeded, Malformed
from nomos_runtime.secret import Secret

ASSERTION_TYPE: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
LIFE_SECONDS: Final = 60
#: Clocks of providers may be behind ours.
SKEW_SECONDS: Final = 10
#: Bytes of a private key, PEM: one of RSA with 4096 bits has about 3,300.
KEY_BYTES_MAX: Final = 8_192
RSA_BITS_MIN: Final = 2_048
_CURVE: Final = "P-256"


def public_key(key: Secret, algorithms: tuple[str, ...]) -> dict[str, object]:
    """The public half of a key as a JSON Web Key, with the algorithm that it signs with: what a provider registers.

    Args:
        key: RSA or P-256, PEM, not encrypted.
        algorithms: what the provider takes.

    Raises:
        Malformed: it is no such key, or none that the provider takes a signature of.
        LimitExceeded: it is over ``KEY_BYTES_MAX``.
    """
    opened = _opened(key)
    return {
        **opened.as_dict(private=False),
        "kid": opened.thumbprint(),
        "alg": _algorithm(opened, algorithms),
        "use": "sig",
    }


def client_assertion(
    key: Secret, algorithms: tuple[str, ...], *, client_id: str, audience: str, now: int, token_id: str
) -> Secret:
    """What proves for one request that it is the client's.

    Args:
        key: as :func:`public_key`.
        algorithms: as there.
        client_id: the client.
        audience: the provider, as it wants to be named.
        now: Unix seconds.
        token_id: given to no other assertion.

    Raises:
        Malformed: as :func:`public_key`.
    """
    opened = _opened(key)
    signed: str = private_key_jwt_sign(
        opened,
        client_id,
        audience,
        alg=_algorithm(opened, algorithms),
        claims={"jti": token_id, "nbf": now - SKEW_SECONDS},
        header={"kid": opened.thumbprint(), "typ": "JWT"},
        issued_at=now - SKEW_SECONDS,
        expires_at=now + LIFE_SECONDS,
    )
    return Secret(signed.encode("ascii"))


def _opened(key: Secret) -> RSAKey | ECKey:
    content = key.reveal()
    if len(content) > KEY_BYTES_MAX:
        raise LimitExceeded("KEY_BYTES_MAX of a client", KEY_BYTES_MAX, len(content))
    for kind in (RSAKey, ECKey):
        opened: Any = None
        try:
            opened = kind.import_key(content)
            is_private = opened.private_key is not None
        except (JoseError, ValueError, TypeError, AttributeError):
            # the foreign message can hold a part of the key
            continue
        if is_private and (kind is ECKey or opened.private_key.key_size >= RSA_BITS_MIN):
            found: RSAKey | ECKey = opened
            return found
    raise Malformed(
        f"a client's key is a private one of RSA with at least {RSA_BITS_MIN} bits or of {_CURVE}, PEM, not encrypted"
    )


def _algorithm(key: RSAKey | ECKey, algorithms: tuple[str, ...]) -> str:
    able = {"RS256", "PS256"}
    if isinstance(key, ECKey):
        able = {"ES256"} if key.curve_name == _CURVE else set()
    for one in algorithms:
        if one in able:
            return one
    raise Malformed(
        f"this provider takes signatures of {', '.join(algorithms) or 'no client'}, and this key makes none"
    )
