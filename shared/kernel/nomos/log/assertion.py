"""One passkey's assertion, judged from what the log holds: was exactly this signed, by exactly this key, by a person.

Decides what an auditor can decide offline (WebAuthn Level 3, section 7.2): the challenge, the kind of ceremony, that
the page was not inside a foreign frame, that its origin belongs to the relying party, that a person was present and
verified, and the signature. Written for the auditor and on its own: the service that accepted the assertion uses a
library, and this is the second opinion. What only the service can know (its allow-list of origins, the counter before)
is not judged.

Trusted: nothing but the key that is given. Leaves to :mod:`nomos.log.approvals` whose key it is and what was asked.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from hashlib import sha256
from typing import Final, NamedTuple, NoReturn
from urllib.parse import urlsplit

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from nomos.errors import BadSignature, MalformedRecord

#: First bytes of what the challenge of an approval is the hash of.
CHALLENGE_TAG: Final = b"nomos-stepup-v1\0"
SALT_BYTES: Final = 32
#: Bounds of the parts, as the service has them.
PART_BYTES_MAX: Final = 4_096
RSA_BITS: Final = range(2_048, 4_097)

_HEADER_BYTES: Final = 37
_USER_PRESENT: Final = 0x01
_USER_VERIFIED: Final = 0x04
#: COSE (RFC 9053): labels of a key, and the two algorithms that are accepted.
_KTY, _ALG, _CRV_OR_N, _X_OR_E, _Y = 1, 3, -1, -2, -3
_EC2, _RSA = 2, 3
_ES256, _RS256 = -7, -257
_P256: Final = 1
_COORDINATE_BYTES: Final = 32
_UNSIGNED, _NEGATIVE, _BYTES, _MAP = 0, 1, 2, 5
_ARGUMENT_BYTES: Final = {24: 1, 25: 2, 26: 4}


class Assertion(NamedTuple):
    """The parts of an assertion as they were recorded, decoded. ``public_key`` is a COSE key."""

    public_key: bytes
    client_data: bytes
    authenticator_data: bytes
    signature: bytes
    rp_id: str


def approval_challenge(salt: bytes, request: bytes) -> bytes:
    """What a passkey signs to release a request: the 32 bytes of its challenge.

    Args:
        salt: :data:`SALT_BYTES` random bytes, recorded with the request.
        request: the request's canonical JSON, as UTF-8.

    Raises:
        MalformedRecord: the salt has another length.
    """
    if len(salt) != SALT_BYTES:
        raise MalformedRecord(f"expected a salt of {SALT_BYTES} bytes, got {len(salt)}")
    return sha256(CHALLENGE_TAG + salt + sha256(request).digest()).digest()


def decode_base64url(text: str) -> bytes:
    """Decodes base64url without padding, in its one spelling.

    Raises:
        MalformedRecord: another spelling.
    """
    try:
        decoded = urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
    except ValueError:
        raise MalformedRecord("a text is not base64url") from None
    if urlsafe_b64encode(decoded).rstrip(b"=") != text.encode("ascii"):
        raise MalformedRecord("a text is not base64url")
    return decoded


def verify_assertion(assertion: Assertion) -> bytes:
    """Verifies an assertion by its own key.

    Returns:
        The challenge that was signed, 32 bytes as a rule; the caller compares it.

    Raises:
        MalformedRecord: a part breaks its format.
        BadSignature: a person was not present and verified, the page was foreign, or the signature is wrong.
    """
    if max(map(len, assertion[:4])) > PART_BYTES_MAX:
        raise MalformedRecord(f"a part of an assertion has at most {PART_BYTES_MAX} bytes")
    data = assertion.authenticator_data
    if len(data) < _HEADER_BYTES:
        raise MalformedRecord(f"authenticator data has at least {_HEADER_BYTES} bytes")
    challenge = _challenge_of(assertion.client_data, assertion.rp_id)
    if data[:32] != sha256(assertion.rp_id.encode()).digest():
        raise BadSignature("the passkey signed for another relying party")
    if not data[32] & _USER_PRESENT or not data[32] & _USER_VERIFIED:
        raise BadSignature("the passkey signed without a verified person")
    _verify(assertion.public_key, data + sha256(assertion.client_data).digest(), assertion.signature)
    return challenge


def _challenge_of(client_data: bytes, rp_id: str) -> bytes:
    try:
        members = json.loads(client_data.decode(), object_pairs_hook=_unique, parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise MalformedRecord("client data is no JSON with each member once") from None
    if not isinstance(members, dict):
        raise MalformedRecord("client data is no object")
    kind, challenge, origin = (members.get(name) for name in ("type", "challenge", "origin"))
    if not isinstance(challenge, str) or not isinstance(origin, str):
        raise MalformedRecord("client data lacks a challenge or an origin")
    if kind != "webauthn.get":
        raise BadSignature("the passkey was not asked for an assertion")
    if members.get("crossOrigin", False) is not False or "topOrigin" in members:
        raise BadSignature("the passkey was used on a page inside a frame of another origin")
    try:
        host = urlsplit(origin).hostname or ""
    except ValueError:
        host = ""
    if host != rp_id and not host.endswith(f".{rp_id}"):
        raise BadSignature("the passkey was used on a page of another site")
    return decode_base64url(challenge)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member occurs twice")
    return members


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _verify(cose: bytes, message: bytes, signature: bytes) -> None:
    key = _public_key(cose)
    try:
        if isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, message, padding.PKCS1v15(), hashes.SHA256())
        else:
            key.verify(signature, message, ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, ValueError):
        raise BadSignature("the passkey's signature does not verify") from None


def _public_key(cose: bytes) -> ec.EllipticCurvePublicKey | rsa.RSAPublicKey:
    members = _cose_map(cose)
    first, second = members.get(_CRV_OR_N), members.get(_X_OR_E)
    try:
        if (members.get(_KTY), members.get(_ALG)) == (_EC2, _ES256):
            third = members.get(_Y)
            points = isinstance(second, bytes) and isinstance(third, bytes)
            if first == _P256 and points and len(second) == len(third) == _COORDINATE_BYTES:  # type: ignore[arg-type]
                x, y = (int.from_bytes(one, "big") for one in (second, third))  # type: ignore[arg-type]
                return ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()
        elif (members.get(_KTY), members.get(_ALG)) == (_RSA, _RS256) and isinstance(first, bytes):
            modulus, exponent = int.from_bytes(first, "big"), second
            if modulus.bit_length() in RSA_BITS and isinstance(exponent, bytes):
                return rsa.RSAPublicNumbers(int.from_bytes(exponent, "big"), modulus).public_key()
    except ValueError:
        raise MalformedRecord("a passkey's key is no point or modulus") from None
    raise MalformedRecord("a passkey's key is neither ES256 on P-256 nor RS256 of 2048 to 4096 bits")


def _cose_map(octets: bytes) -> dict[int, int | bytes]:
    """A CBOR map of integers to integers and byte strings (RFC 8949): all that these keys are made of.

    Raises:
        MalformedRecord: anything else, a label twice, or bytes left over.
    """
    kind, number, at = _item(octets, 0)
    if kind != _MAP:
        raise MalformedRecord("a passkey's key is no CBOR map")
    members: dict[int, int | bytes] = {}
    for _ in range(number):
        kind, value, at = _item(octets, at)
        label = _integer(kind, value)
        if label in members:
            raise MalformedRecord("a label occurs twice in a passkey's key")
        kind, value, at = _item(octets, at)
        if kind == _BYTES:
            members[label] = octets[at : at + value]
            at += value
        else:
            members[label] = _integer(kind, value)
    if at != len(octets):
        raise MalformedRecord("a passkey's key does not end where it says")
    return members


def _integer(kind: int, value: int) -> int:
    if kind == _UNSIGNED:
        return value
    if kind == _NEGATIVE:
        return -1 - value
    raise MalformedRecord("a passkey's key holds something else than integers and bytes")


def _item(octets: bytes, at: int) -> tuple[int, int, int]:
    """Major type, argument and the position behind the head of the item at ``at``."""
    if at >= len(octets):
        raise MalformedRecord("a passkey's key ends too early")
    kind, low = octets[at] >> 5, octets[at] & 0x1F
    more = _ARGUMENT_BYTES.get(low, 0)
    if low > max(_ARGUMENT_BYTES) or at + 1 + more > len(octets):
        raise MalformedRecord("a passkey's key ends too early, or holds an item of another form")
    return kind, int.from_bytes(octets[at + 1 : at + 1 + more], "big") if more else low, at + 1 + more
