"""Invocations: the signed use of a chain of delegations, with the literal arguments.

Decides which bytes are an invocation, and signs them. Leaves signatures of received tokens, time, chain and the
Nomos profile to ``verify``.

Source: UCAN invocation 1.0.0-rc.1, section "Invocation Payload".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from nomos.errors import LimitExceeded, MalformedToken
from nomos.ids import Did
from nomos.keys import SigningKey, parse_did
from nomos.ucan.cid import Link, cid_of
from nomos.ucan.command import parse_command
from nomos.ucan.dagcbor import Ipld
from nomos.ucan.envelope import Envelope, Kind, open_envelope, seal
from nomos.ucan.fields import Fields, read_did, read_nonce, read_time

#: Longest chain that is read at all; a profile may allow less.
PROOFS_MAX: Final = 16


class Invocation(msgspec.Struct, frozen=True, kw_only=True):
    """A well-formed invocation. Nothing in it may be believed before :meth:`check_signature` has returned."""

    cid: bytes
    issuer: Did
    subject: Did
    audience: Did | None
    """The executor where it is not the subject."""
    command: str
    arguments: dict[str, Ipld]
    proofs: tuple[bytes, ...]
    """CIDs of the delegations, root first."""
    nonce: bytes
    expires_at: int | None
    """Unix seconds, inclusive; None is "never"."""
    issued_at: int | None
    """Unix seconds, a mere claim of the issuer."""
    cause: bytes | None
    """CID of the receipt that asked for this, if any."""
    meta: dict[str, Ipld]
    """Signed remarks. They carry no authority: nothing in the kernel decides by them."""
    envelope: Envelope

    def check_signature(self) -> None:
        """Checks that the issuer signed exactly the received bytes.

        Raises:
            BadSignature: it did not.
        """
        self.envelope.check_signature(parse_did(self.issuer))


def parse_invocation(token: bytes) -> Invocation:
    """Reads an invocation without judging it.

    Args:
        token: the bytes as received.

    Raises:
        MalformedToken: not an invocation in its one spelling, or a field or DID that is not well formed.
        LimitExceeded: over a named limit.
    """
    return invocation_of(open_envelope(token, Kind.INVOCATION))


def invocation_of(envelope: Envelope) -> Invocation:
    """Reads the payload of an opened envelope. Raises as :func:`parse_invocation` does."""
    fields = Fields(envelope.payload)
    invocation = Invocation(
        cid=cid_of(envelope.token),
        issuer=fields.did("iss"),
        subject=fields.did("sub"),
        audience=fields.did("aud") if fields.has("aud") else None,
        command=fields.command(),
        arguments=fields.map("args"),
        proofs=_read_proofs(fields.take("prf")),
        nonce=fields.nonce(),
        expires_at=fields.expiry(),
        issued_at=fields.optional_time("iat"),
        cause=_read_link("cause", fields.take("cause")) if fields.has("cause") else None,
        meta=fields.optional_map("meta"),
        envelope=envelope,
    )
    fields.finish()
    return invocation


def sign_invocation(
    signing_key: SigningKey,
    *,
    subject: Did,
    command: str,
    arguments: Mapping[str, Ipld],
    proofs: Sequence[bytes],
    expires_at: int,
    nonce: bytes,
    issued_at: int | None = None,
    meta: Mapping[str, Ipld] | None = None,
) -> bytes:
    """Signs an invocation whose executor is the subject. An invocation without end cannot be signed here.

    Args:
        signing_key: the invoker's key.
        subject: whose authority is used.
        command: what is to be done.
        arguments: the literal arguments.
        proofs: CIDs of the delegations, root first.
        expires_at: Unix seconds, inclusive.
        nonce: fresh random bytes.
        issued_at: Unix seconds.
        meta: remarks; left out of the token when None.

    Returns:
        The token.

    Raises:
        Malformed: an argument that :func:`parse_invocation` would not take.
        LimitExceeded: over a named limit.
    """
    payload: dict[str, Ipld] = {
        "iss": signing_key.did,
        "sub": read_did("sub", subject),
        "cmd": parse_command(command),
        "args": dict(arguments),
        "prf": _links(proofs),
        "exp": read_time("exp", expires_at),
        "nonce": read_nonce(nonce),
    }
    if issued_at is not None:
        payload["iat"] = read_time("iat", issued_at)
    if meta is not None:
        payload["meta"] = dict(meta)
    return seal(signing_key, Kind.INVOCATION, payload)


def _links(proofs: Sequence[bytes]) -> list[Ipld]:
    if len(proofs) > PROOFS_MAX:
        raise LimitExceeded("proofs_max", PROOFS_MAX, len(proofs))
    try:
        return [Link(cid) for cid in proofs]
    except ValueError as error:
        raise MalformedToken(f"proof: {error}") from None


def _read_proofs(value: Ipld) -> tuple[bytes, ...]:
    if not isinstance(value, list):
        raise MalformedToken("field prf is not a list")
    if len(value) > PROOFS_MAX:
        raise LimitExceeded("proofs_max", PROOFS_MAX, len(value))
    return tuple([_read_link("prf", one) for one in value])


def _read_link(name: str, value: Ipld) -> bytes:
    if not isinstance(value, Link):
        raise MalformedToken(f"field {name} is not a link")
    return value.cid
