"""Handing a grant on to a sub-agent, never wider than it was received.

Decides whether a hand-over only narrows, and signs it. A verifier would refuse a wider one in any case; refusing
here tells the agent at once. The child repeats nothing of its parents' policies: the verifier evaluates all of
them along the chain.
"""

from __future__ import annotations

from collections.abc import Sequence

from nomos.errors import AudienceMismatch, CommandNotCovered, LimitExceeded, NotCovered, Unrooted
from nomos.ids import Did
from nomos.keys import SigningKey
from nomos.ucan.chain import check_alignment, earliest_expiry
from nomos.ucan.command import covers, parse_command
from nomos.ucan.dagcbor import Ipld
from nomos.ucan.delegation import Delegation, mint_delegation, parse_delegation
from nomos.ucan.profile import NOMOS, Profile


def attenuate(
    signing_key: SigningKey,
    parents: Sequence[bytes],
    *,
    audience: Did,
    expires_at: int,
    nonce: bytes,
    command: str | None = None,
    policy: Sequence[Ipld] = (),
    not_before: int | None = None,
    profile: Profile = NOMOS,
) -> bytes:
    """Signs a delegation below ``parents``, narrower or equal.

    Args:
        signing_key: the key of the last parent's audience.
        parents: the delegations that the issuer holds, root first.
        audience: the sub-agent's key.
        expires_at: Unix seconds, not after any parent's expiry.
        nonce: 12 fresh random bytes.
        command: the same as the last parent's, or below it; None is the same.
        policy: further statements, on top of those of all parents.
        not_before: Unix seconds, not before any parent's; None takes the latest of the parents.
        profile: for the longest chain.

    Returns:
        The new last delegation; the whole chain is ``[*parents, it]``.

    Raises:
        NotCovered: by its subclasses: no parent, not this key's to hand on, or a wider command; or a life that
            begins before or ends after a parent's.
        LimitExceeded: the chain would be longer than the profile allows.
        BadSignature: a parent is forged.
        Malformed: a parent or an argument is not well formed.
    """
    held = [parse_delegation(token) for token in parents]
    if not held:
        raise Unrooted("nothing to hand on")
    if len(held) + 1 > profile.chain_length_max:
        raise LimitExceeded("chain_length_max", profile.chain_length_max, len(held) + 1)
    for delegation in held:
        delegation.check_signature()
    subject = held[0].issuer
    if held[-1].audience != signing_key.did:
        raise AudienceMismatch("the last delegation was given to another key")
    check_alignment(held, holder=signing_key.did, subject=subject)
    narrowed = parse_command(held[-1].command if command is None else command)
    if not covers(held[-1].command, narrowed):
        raise CommandNotCovered("command is wider than the delegation that is handed on")
    return mint_delegation(
        signing_key,
        audience=audience,
        subject=subject,
        command=narrowed,
        policy=policy,
        expires_at=_within_expiry(held, expires_at),
        not_before=_within_start(held, not_before),
        nonce=nonce,
    )


def _within_expiry(held: Sequence[Delegation], expires_at: int) -> int:
    latest = earliest_expiry(held)
    if latest is not None and expires_at > latest:
        raise NotCovered("a child delegation cannot outlive its parent")
    return expires_at


def _within_start(held: Sequence[Delegation], not_before: int | None) -> int | None:
    earliest = max((one.not_before for one in held if one.not_before is not None), default=None)
    if not_before is None:
        return earliest
    if earliest is not None and not_before < earliest:
        raise NotCovered("a child delegation cannot begin before its parent")
    return not_before
