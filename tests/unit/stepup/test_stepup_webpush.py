from __future__ import annotations

import base64
import os

import msgspec
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from nomos.errors import LimitExceeded, Malformed, Misconfigured
from nomos_stepup.base64url import b64url
from nomos_stepup.webpush import MESSAGE_BYTES_MAX, TOKEN_SECONDS, Browser, Sender, encrypt, encrypt_with

#: The example of RFC 8291, Appendix A.
EXAMPLE = {
    "message": b"When I grow up, I want to be a watermelon",
    "key": "yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRw",
    "salt": "DGv6ra1nlYgDCS1FRnbzlw",
    "p256dh": "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4",
    "auth": "BTBZMqHH6r4Tts7J_aSIgg",
    "body": "DGv6ra1nlYgDCS1FRnbzlwAAEABBBP4z9KsN6nGRTbVYI_c7VJSPQTBtkgcy27mlmlMoZIIgDll6e3vCYLocInmYWAmS6TlzAC8wEqKK"
    "6PBru3jl7A_yl95bQpu6cVPTpK4Mqgkf1CXztLVBSt2Ks3oZwbuwXPXLWyouBWLVWGNWQexSgSxsj_Qulcy4a-fN",
}
BROWSER = Browser(endpoint="https://push.example/x", p256dh=EXAMPLE["p256dh"], auth=EXAMPLE["auth"])


def octets(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def test_the_example_of_the_rfc() -> None:
    key = ec.derive_private_key(int.from_bytes(octets(EXAMPLE["key"]), "big"), ec.SECP256R1())
    assert b64url(encrypt_with(BROWSER, EXAMPLE["message"], key, octets(EXAMPLE["salt"]))) == EXAMPLE["body"]


def test_two_messages_are_never_alike_and_a_long_one_is_refused() -> None:
    assert encrypt(BROWSER, b"x") != encrypt(BROWSER, b"x")
    assert len(encrypt(BROWSER, b"x" * MESSAGE_BYTES_MAX)) < 4_096
    with pytest.raises(LimitExceeded):
        encrypt(BROWSER, b"x" * (MESSAGE_BYTES_MAX + 1))


@pytest.mark.parametrize(
    "changes",
    [
        {"p256dh": ""},
        {"p256dh": b64url(b"\x04" + bytes(64))},
        {"p256dh": b64url(b"\x02" + bytes(32))},
        {"p256dh": "!"},
        {"auth": ""},
        {"auth": b64url(bytes(15))},
        {"auth": b64url(bytes(17))},
    ],
)
def test_a_key_that_is_none_is_refused(changes: dict[str, str]) -> None:
    with pytest.raises(Malformed):
        encrypt(msgspec.structs.replace(BROWSER, **changes), b"x")


def test_the_sender_proves_who_it_is_to_the_push_service_alone() -> None:
    sender = Sender(b64url(os.urandom(32)), "mailto:ops@example.com")
    headers = sender.headers("https://push.example:8443/x?y", "ap_1", now=1_000, expires_at=1_900)
    token, _, key = headers["authorization"].removeprefix("vapid t=").partition(", k=")
    assert key == sender.public_key
    head, claims, signature = token.split(".")
    assert msgspec.json.decode(octets(head)) == {"typ": "JWT", "alg": "ES256"}
    assert msgspec.json.decode(octets(claims)) == {
        "aud": "https://push.example:8443", "exp": 1_000 + TOKEN_SECONDS, "sub": "mailto:ops@example.com",
    }  # fmt: skip
    public = ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), octets(key))
    r, s = octets(signature)[:32], octets(signature)[32:]
    der = encode_dss_signature(int.from_bytes(r, "big"), int.from_bytes(s, "big"))
    public.verify(der, f"{head}.{claims}".encode(), ec.ECDSA(hashes.SHA256()))
    assert (headers["ttl"], headers["urgency"], len(headers["topic"])) == ("900", "high", 32)
    assert "ap_1" not in str(headers)


@pytest.mark.parametrize(("key", "subject"), [("", "mailto:a@b.c"), ("A" * 43, "mailto:a@b.c"), ("!", "mailto:a@b.c"),
                                              (b64url(b"x" * 32), "ops@example.com")])  # fmt: skip
def test_a_sender_without_key_or_address_does_not_start(key: str, subject: str) -> None:
    with pytest.raises(Misconfigured):
        Sender(key, subject)
