"""Delegations: signed grants of a command, under a policy, to one audience.

Decides which bytes are a delegation, and mints them. Leaves signatures of received tokens, time, chain and the
Nomos profile to ``verify``.

Source: UCAN delegation 1.0.0-rc.1, section "Delegation Payload".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from nomos.ids import Did
from nomos.keys import SigningKey, parse_did
from nomos.ucan.cid import cid_of
from nomos.ucan.command import parse_command
from nomos.ucan.dagcbor import Ipld
from nomos.ucan.envelope import Envelope, Kind, open_envelope, seal
from nomos.ucan.fields import Fields, read_did, read_nonce, read_time
from nomos.ucan.policy import Policy, parse_policy


class Delegation(msgspec.Struct, frozen=True, kw_only=True):
    """A well-formed delegation. Nothing in it may be believed before :meth:`check_signature` has returned."""

    cid: bytes
    issuer: Did
    audience: Did
    subject: Did | None
    """None is a powerline: the subject of the delegation before this one."""
    command: str
    policy: Policy
    nonce: bytes
    not_before: int | None
    """Unix seconds; None is "since ever"."""
    expires_at: int | None
    """Unix seconds, inclusive; None is "never"."""
    meta: dict[str, Ipld]
    """Signed remarks. They carry no authority: nothing in the kernel decides by them."""
    envelope: Envelope

    def check_signature(self) -> None:
        """Checks that the issuer signed exactly the received bytes.

        Raises:
            BadSignature: it did not.
        """
        self.envelope.check_signature(parse_did(self.issuer))


def parse_delegation(token: bytes) -> Delegation:
    """Reads a delegation without judging it.

    Args:
        token: the bytes as received.

    Raises:
        MalformedToken: not a delegation in its one spelling, or a field, DID or policy that is not well formed.
        LimitExceeded: over a named limit.
    """
    return delegation_of(open_envelope(token, Kind.DELEGATION))


def delegation_of(envelope: Envelope) -> Delegation:
    """Reads the payload of an opened envelope. Raises as :func:`parse_delegation` does."""
    fields = Fields(envelope.payload)
    subject = fields.take("sub")
    delegation = Delegation(
        cid=cid_of(envelope.token),
        issuer=fields.did("iss"),
        audience=fields.did("aud"),
        subject=None if subject is None else read_did("sub", subject),
        command=fields.command(),
        policy=parse_policy(fields.take("pol")),
        nonce=fields.nonce(),
        not_before=fields.optional_time("nbf"),
        expires_at=fields.expiry(),
        meta=fields.optional_map("meta"),
        envelope=envelope,
    )
    fields.finish()
    return delegation


def mint_delegation(
    signing_key: SigningKey,
    *,
    audience: Did,
    subject: Did,
    command: str,
    policy: Sequence[Ipld],
    expires_at: int,
    nonce: bytes,
    not_before: int | None = None,
    meta: Mapping[str, Ipld] | None = None,
) -> bytes:
    """Signs a delegation. A grant without subject or without end cannot be minted here.

    Args:
        signing_key: the issuer's key.
        audience: who may use it.
        subject: whose authority it is.
        command: what may be done, and everything below it.
        policy: statements as lists, see :mod:`nomos.ucan.policy`.
        expires_at: Unix seconds, inclusive.
        nonce: fresh random bytes.
        not_before: Unix seconds.
        meta: remarks; left out of the token when None.

    Returns:
        The token.

    Raises:
        Malformed: an argument that :func:`parse_delegation` would not take.
        LimitExceeded: over a named limit.
    """
    statements: list[Ipld] = list(policy)
    parse_policy(statements)
    payload: dict[str, Ipld] = {
        "iss": signing_key.did,
        "aud": read_did("aud", audience),
        "sub": read_did("sub", subject),
        "cmd": parse_command(command),
        "pol": statements,
        "exp": read_time("exp", expires_at),
        "nonce": read_nonce(nonce),
    }
    if not_before is not None:
        payload["nbf"] = read_time("nbf", not_before)
    if meta is not None:
        payload["meta"] = dict(meta)
    return seal(signing_key, Kind.DELEGATION, payload)
