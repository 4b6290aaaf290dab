"""The UCAN envelope: ``[signature, {"h": varsig header, "<tag>": payload}]``.

Decides whether bytes are an envelope of a known kind, and whether the issuer signed them. Leaves the payload's
fields to ``delegation`` and ``invocation``. Rules, in order:

1. Canonical DAG-CBOR within the kind's size; a list of two; exactly one header and one payload.
2. The header is ``34 01 ed01 ed01 13 71``: varsig v1, EdDSA over Ed25519 with SHA-512, payload in DAG-CBOR.
3. The tag is ``ucan/dlg@`` or ``ucan/inv@`` with version ``1.0.0`` or ``1.0.0-rc.1``. Minting writes ``1.0.0``.
4. The signature is checked over the received byte slice, never over bytes made again.

Sources: UCAN 1.0.0 sections "Envelope" and "Payload"; varsig v1.
"""

from __future__ import annotations

from enum import Enum
from typing import Final

import msgspec

from nomos.errors import BadSignature, LimitExceeded, Malformed, MalformedToken
from nomos.keys import SIGNATURE_BYTES, SigningKey, VerifyKey
from nomos.ucan import dagcbor
from nomos.ucan.dagcbor import Ipld

VARSIG_HEADER: Final = bytes.fromhex("3401ed01ed011371")
#: A delegation holds a command and a policy, not arguments.
DELEGATION_BYTES_MAX: Final = 16 * 1024
#: An invocation holds up to 64 KiB of arguments beside its own fields.
INVOCATION_BYTES_MAX: Final = 72 * 1024

_ENVELOPE_HEAD: Final = b"\x82\x58\x40"  # a list of two, whose first is 64 bytes


class Kind(Enum):
    """The kinds of token; the value is the tag without its version."""

    DELEGATION = "ucan/dlg"
    INVOCATION = "ucan/inv"


_MINTED_VERSION: Final = "1.0.0"
_KIND_BY_TAG: Final = {f"{kind.value}@{version}": kind for kind in Kind for version in (_MINTED_VERSION, "1.0.0-rc.1")}
_BYTES_MAX: Final = {Kind.DELEGATION: DELEGATION_BYTES_MAX, Kind.INVOCATION: INVOCATION_BYTES_MAX}


def _signed_head(kind: Kind) -> bytes:
    """Everything of the signed map that stands before the payload; the payload is its last value."""
    whole = dagcbor.encode({"h": VARSIG_HEADER, f"{kind.value}@{_MINTED_VERSION}": None})
    return whole[:-1]


_SIGNED_HEAD: Final = {kind: _signed_head(kind) for kind in Kind}


class Envelope(msgspec.Struct, frozen=True, kw_only=True):
    """An opened envelope whose signature has **not** been checked yet."""

    token: bytes
    kind: Kind
    version: str
    signature: bytes
    signed_at: int
    """Offset in ``token`` of the signed bytes, which reach to its end."""
    payload: dict[str, Ipld]

    def check_signature(self, verify_key: VerifyKey) -> None:
        """Checks the signature over the received bytes.

        Raises:
            BadSignature: it is not 64 bytes or does not verify.
        """
        if len(self.signature) != SIGNATURE_BYTES:
            raise BadSignature(f"expected a signature of {SIGNATURE_BYTES} bytes, got {len(self.signature)}")
        # Signature and signed bytes are adjacent in the token, which is the attached form that Ed25519 wants.
        verify_key.verify_attached(self.token[self.signed_at - SIGNATURE_BYTES :])


def seal(signing_key: SigningKey, kind: Kind, payload: dict[str, Ipld]) -> bytes:
    """Signs a payload and wraps it.

    Args:
        signing_key: the key of the payload's ``iss``; the caller has put that name there.
        kind: what the payload is.
        payload: fields that are already checked.

    Returns:
        The token.

    Raises:
        Malformed: the payload has no DAG-CBOR form.
        LimitExceeded: the token would be larger than its readers accept.
    """
    token = _ENVELOPE_HEAD + signing_key.sign_attached(_SIGNED_HEAD[kind] + dagcbor.encode(payload))
    if len(token) > _BYTES_MAX[kind]:
        raise LimitExceeded(_limit_name(kind), _BYTES_MAX[kind], len(token))
    return token


def open_envelope(token: bytes, expected: Kind | None) -> Envelope:
    """Opens an envelope without checking its signature.

    Args:
        token: the bytes as received.
        expected: the kind that the caller wants, or None for any.

    Raises:
        MalformedToken: not an envelope of that kind in its one spelling.
        LimitExceeded: over the size of its kind, or nested too deep.
    """
    bytes_max = INVOCATION_BYTES_MAX if expected is None else _BYTES_MAX[expected]
    if len(token) > bytes_max:
        raise LimitExceeded(_limit_name(expected or Kind.INVOCATION), bytes_max, len(token))
    try:
        value = dagcbor.decode(token, bytes_max=bytes_max)
    except LimitExceeded:
        raise
    except Malformed as error:
        raise MalformedToken(f"token is {error.detail}", cause=error.cause) from None
    signature, signed = _signature_and_signed(value)
    header = signed.pop("h", None)
    if len(signed) != 1:
        raise MalformedToken("token does not sign exactly one header and one payload")
    [(tag, payload)] = signed.items()
    if header != VARSIG_HEADER:
        raise MalformedToken("varsig header is not Ed25519 over DAG-CBOR")
    kind = _KIND_BY_TAG.get(tag)
    if kind is None or (expected is not None and kind is not expected):
        raise MalformedToken(f"expected the tag of {_kinds_wanted(expected)} 1.0.0")
    if len(token) > _BYTES_MAX[kind]:
        raise LimitExceeded(_limit_name(kind), _BYTES_MAX[kind], len(token))
    if not isinstance(payload, dict):
        raise MalformedToken("payload is not a map")
    return Envelope(
        token=token,
        kind=kind,
        version=tag.partition("@")[2],
        signature=signature,
        signed_at=1 + _head_bytes(len(signature)) + len(signature),
        payload=payload,
    )


def _signature_and_signed(value: Ipld) -> tuple[bytes, dict[str, Ipld]]:
    match value:
        case [bytes() as signature, dict() as signed]:
            return signature, signed
    raise MalformedToken("token is not a UCAN envelope")


def _head_bytes(length: int) -> int:
    """Size of the shortest CBOR head for a byte string; the decoder has made sure that it is the shortest."""
    return 1 if length < 24 else 2 if length < 0x100 else 3 if length < 0x10000 else 5


def _limit_name(kind: Kind) -> str:
    return f"{kind.name.lower()}_bytes_max"


def _kinds_wanted(expected: Kind | None) -> str:
    return "a delegation or an invocation" if expected is None else f"a UCAN {expected.name.lower()}"
