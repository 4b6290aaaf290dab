"""A client that proves itself by a private key: what is signed, and which keys are taken."""

from __future__ import annotations

import base64
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st

from nomos.errors import LimitExceeded, Malformed, NomosError
from nomos_proxy.oauth.assertion import (
    ASSERTION_TYPE,
    KEY_BYTES_MAX,
    LIFE_SECONDS,
    SKEW_SECONDS,
    client_assertion,
    public_key,
)
from nomos_runtime.secret import Secret

NOW = 1_800_000_000
ALL = ("RS256", "PS256", "ES256")
AUDIENCE = "https://id.example.com/token"
RSA, SHORT = (rsa.generate_private_key(public_exponent=65_537, key_size=size) for size in (2_048, 1_024))
CURVE, WIDER = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP384R1())


def pem(key: Any, encryption: Any = None) -> Secret:
    return Secret(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption()))


def unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def signed(key: Any, algorithms: tuple[str, ...], token_id: str = "jt_1") -> tuple[Any, Any, bytes, bytes]:
    made = client_assertion(
        pem(key), algorithms, client_id="ours", audience=AUDIENCE, now=NOW, token_id=token_id
    ).reveal()
    head, body, signature = made.decode("ascii").split(".")
    header, claims = (msgspec.json.decode(unb64(part)) for part in (head, body))
    return header, claims, f"{head}.{body}".encode(), unb64(signature)


def test_an_assertion_is_the_one_of_rfc_7523_for_one_provider_and_a_minute() -> None:
    header, claims, _, _ = signed(RSA, ALL)
    # section 3: issuer and subject are the client, the audience is the provider, and it ends
    assert claims == {
        "iss": "ours", "sub": "ours", "aud": AUDIENCE, "jti": "jt_1", "iat": NOW - SKEW_SECONDS,
        "nbf": NOW - SKEW_SECONDS, "exp": NOW + LIFE_SECONDS,
    }  # fmt: skip
    assert header == {"alg": "RS256", "kid": public_key(pem(RSA), ALL)["kid"], "typ": "JWT"}
    assert ASSERTION_TYPE == "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


def test_a_signature_verifies_with_what_is_registered_at_the_provider() -> None:
    """With the published members alone, by another library."""
    published = public_key(pem(RSA), ALL)
    n, e = (int.from_bytes(unb64(str(published[name])), "big") for name in ("n", "e"))
    public = rsa.RSAPublicNumbers(e, n).public_key()
    _, _, message, signature = signed(RSA, ("RS256",))
    public.verify(signature, message, padding.PKCS1v15(), SHA256())
    _, _, message, signature = signed(RSA, ("PS256",))
    public.verify(signature, message, padding.PSS(padding.MGF1(SHA256()), 32), SHA256())
    published = public_key(pem(CURVE), ALL)
    x, y = (int.from_bytes(unb64(str(published[name])), "big") for name in ("x", "y"))
    _, _, message, signature = signed(CURVE, ALL)
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    on_curve = ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
    on_curve.verify(utils.encode_dss_signature(r, s), message, ec.ECDSA(SHA256()))


def test_the_public_half_holds_nothing_private() -> None:
    assert set(public_key(pem(RSA), ALL)) == {"kty", "n", "e", "kid", "alg", "use"}
    assert set(public_key(pem(CURVE), ALL)) == {"kty", "crv", "x", "y", "kid", "alg", "use"}
    assert public_key(pem(RSA), ("PS256", "RS256"))["alg"] == "PS256", "the provider's first choice"


@pytest.mark.parametrize(
    ("key", "algorithms", "said"),
    [
        (pem(RSA), ("ES256",), "takes signatures of ES256"),
        (pem(CURVE), ("RS256", "PS256"), "takes signatures of RS256, PS256"),
        (pem(CURVE), (), "takes signatures of no client"),
        (pem(WIDER), ALL, "this key makes none"),
        (pem(SHORT), ALL, "at least 2048 bits"),
        (pem(RSA, BestAvailableEncryption(b"p")), ALL, "not encrypted"),
        (pem(ed25519.Ed25519PrivateKey.generate()), ALL, "private one of RSA"),
        (Secret(RSA.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)), ALL, "private one"),
        (Secret(b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----"), ALL, "private one"),
        (Secret(b"a-client-secret"), ALL, "private one"),
        (Secret(b""), ALL, "private one"),
    ],
)
def test_a_key_that_the_provider_could_not_take_is_refused(key: Secret, algorithms: Any, said: str) -> None:
    for work in (
        lambda: public_key(key, algorithms),
        lambda: client_assertion(key, algorithms, client_id="c", audience="a", now=NOW, token_id="j"),
    ):
        with pytest.raises(Malformed, match=said):
            work()


def test_a_key_has_a_limit() -> None:
    with pytest.raises(LimitExceeded, match="KEY_BYTES_MAX"):
        public_key(Secret(b"x" * (KEY_BYTES_MAX + 1)), ALL)


@given(st.binary(max_size=400))
def test_no_bytes_break_anything_or_are_repeated(content: bytes) -> None:
    with pytest.raises(NomosError) as e:
        public_key(Secret(content), ALL)
    assert len(content) < 4 or content.decode("latin-1") not in e.value.detail
