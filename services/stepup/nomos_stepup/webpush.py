"""One web push message: its encryption, and who the sender is. Pure but for fresh keys and salts.

A browser gives a public key, a secret and an address at its vendor's push service. What is sent there only the browser
can read (RFC 8291 over RFC 8188), and the push service knows by a signed token that the sender is the one whose key the
browser was given (VAPID, RFC 8292). Both are put together from the primitives of ``cryptography`` exactly as the
documents say; RFC 8291's own example is a test.

Leaves to others: where it is sent (``sending``), and whom (``notifying``).
"""

from __future__ import annotations

import hashlib
import os
from typing import Final
from urllib.parse import urlsplit

import msgspec
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from nomos.errors import LimitExceeded, Malformed, Misconfigured
from nomos_stepup.base64url import b64url, parse_b64url

#: Bytes of a browser's public key (an uncompressed point of P-256) and of its secret.
KEY_BYTES: Final = 65
AUTH_BYTES: Final = 16
#: Bytes of one message; push services must take 4,096 with all around it (RFC 8030, 7.2).
MESSAGE_BYTES_MAX: Final = 3_000
#: How long a sender's token holds, seconds; at most a day (RFC 8292, 2).
TOKEN_SECONDS: Final = 43_200
_RECORD_BYTES: Final = 4_096
_SALT_BYTES: Final = 16
_SCALAR_BYTES: Final = 32
_LAST_RECORD: Final = b"\x02"
_TOPIC_CHARS: Final = 32
_CURVE: Final = ec.SECP256R1()


class Browser(msgspec.Struct, frozen=True, kw_only=True):
    """Where a browser can be told, as it said itself: ``p256dh`` and ``auth`` are base64url."""

    endpoint: str
    p256dh: str
    auth: str


class Sender:
    """This installation as a sender of messages."""

    def __init__(self, key: str, subject: str) -> None:
        """Takes the private key (32 bytes, base64url) and how to reach who runs it: a ``mailto:`` or ``https:`` URL.

        Raises:
            Misconfigured: no such key, or no such URL.
        """
        if urlsplit(subject).scheme not in ("mailto", "https"):
            raise Misconfigured("web push needs a mailto: or https: URL", hint="set NOMOS_STEPUP_PUSH_SUBJECT")
        try:
            octets = parse_b64url(key.rstrip("="), "web push key", _SCALAR_BYTES)
            self._key = ec.derive_private_key(int.from_bytes(octets, "big"), _CURVE)
        except (Malformed, ValueError) as error:
            raise Misconfigured("the web push key must be 32 bytes, base64url", cause=str(error)) from error
        self._subject = subject
        #: What a browser is given when it subscribes, base64url.
        self.public_key = b64url(_point(self._key.public_key()))

    def headers(self, endpoint: str, approval: str, *, now: int, expires_at: int) -> dict[str, str]:
        """The headers of one message.

        Args:
            endpoint: where it goes.
            approval: a newer message about the same approval takes the place of one that was not delivered.
            now: Unix seconds.
            expires_at: Unix seconds from which it is of no use.
        """
        parts = urlsplit(endpoint)
        token = self._token(f"{parts.scheme}://{parts.netloc}", now)
        return {
            "authorization": f"vapid t={token}, k={self.public_key}",
            "content-encoding": "aes128gcm",
            "content-type": "application/octet-stream",
            "ttl": str(max(expires_at - now, 0)),
            "urgency": "high",
            "topic": b64url(hashlib.sha256(approval.encode()).digest())[:_TOPIC_CHARS],
        }

    def _token(self, audience: str, now: int) -> str:
        claims = {"aud": audience, "exp": now + TOKEN_SECONDS, "sub": self._subject}
        parts = [b64url(msgspec.json.encode(one)) for one in ({"typ": "JWT", "alg": "ES256"}, claims)]
        signed = ".".join(parts)
        r, s = decode_dss_signature(self._key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{signed}.{b64url(r.to_bytes(_SCALAR_BYTES, 'big') + s.to_bytes(_SCALAR_BYTES, 'big'))}"


def parse_browser(browser: Browser) -> tuple[ec.EllipticCurvePublicKey, bytes]:
    """The public key and the secret of a browser.

    Raises:
        Malformed: not a point of the curve, or a secret of another length.
    """
    point = parse_b64url(browser.p256dh, "public key", KEY_BYTES)
    secret = parse_b64url(browser.auth, "secret", AUTH_BYTES)
    try:
        key = ec.EllipticCurvePublicKey.from_encoded_point(_CURVE, point)
    except ValueError as error:
        raise Malformed("the browser's key is no point of P-256", cause=str(error)) from error
    if len(point) != KEY_BYTES or len(secret) != AUTH_BYTES:
        raise Malformed("the browser's key or secret has another length")
    return key, secret


def encrypt(browser: Browser, message: bytes) -> bytes:
    """The body of one message, which only the browser can read.

    Raises:
        Malformed: as :func:`parse_browser`.
        LimitExceeded: over :data:`MESSAGE_BYTES_MAX`.
    """
    if len(message) > MESSAGE_BYTES_MAX:
        raise LimitExceeded("MESSAGE_BYTES_MAX", MESSAGE_BYTES_MAX, len(message))
    return encrypt_with(browser, message, ec.generate_private_key(_CURVE), os.urandom(_SALT_BYTES))


def encrypt_with(browser: Browser, message: bytes, key: ec.EllipticCurvePrivateKey, salt: bytes) -> bytes:
    """:func:`encrypt` with a given key and salt, each of which is used once (RFC 8291, section 3.4)."""
    public, secret = parse_browser(browser)
    own, theirs = _point(key.public_key()), _point(public)
    shared = key.exchange(ec.ECDH(), public)
    material = _derive(shared, secret, b"WebPush: info\0" + theirs + own, 32)
    content_key = _derive(material, salt, b"Content-Encoding: aes128gcm\0", 16)
    nonce = _derive(material, salt, b"Content-Encoding: nonce\0", 12)
    sealed = AESGCM(content_key).encrypt(nonce, message + _LAST_RECORD, None)
    return salt + _RECORD_BYTES.to_bytes(4, "big") + len(own).to_bytes(1, "big") + own + sealed


def _derive(material: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    return HKDF(algorithm=hashes.SHA256(), length=length, salt=salt, info=info).derive(material)


def _point(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
