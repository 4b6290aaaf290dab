"""The decision about one invocation and its chain of delegations, for any UCAN.

Decides whether the invoker may, by this chain, do this command with these arguments now. Leaves to ``verify`` what
the arguments mean in Nomos, and to the caller replay (each invocation CID once) and whether the invoker's key is
the one registered for the agent that is speaking. Rules, in order; the first that is broken is the error:

1. The chain is no longer than the profile allows: length is the one limit that decides how much work follows.
   Each token is well formed; the delegations are exactly those that ``prf`` names, root first.
2. Each signature verifies over the received bytes.
3. Now lies inside every token's life.
4. The root is issued by its own subject; each audience is the next issuer, the last one the invoker; each subject
   is the same (a powerline takes the one above it). The subject is one that the caller trusts.
5. Each command covers the one below it, at a segment boundary.
6. The profile's other limits.
7. No delegation of the chain is revoked.
8. The arguments satisfy **every** policy of the chain: a child that is silent about something keeps its parent's.

Sources: UCAN delegation 1.0.0-rc.1 "Token Validation", UCAN invocation 1.0.0-rc.1 "Proof Chains".
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from typing import Final

import msgspec

from nomos.errors import (
    AudienceMismatch,
    CommandNotCovered,
    Expired,
    NotYetValid,
    OutsideProfile,
    ProofMissing,
    Revoked,
    SubjectMismatch,
    Unrooted,
)
from nomos.ids import Did
from nomos.ucan.command import TOP, covers
from nomos.ucan.delegation import Delegation, parse_delegation
from nomos.ucan.invocation import Invocation, parse_invocation
from nomos.ucan.policy import Equality, Policy, check_policy
from nomos.ucan.profile import Profile

#: Selectors that the root of a Nomos chain fixes by equality.
RESOURCE_SELECTOR: Final = ".resource"
DIGEST_SELECTOR: Final = ".digest"


class VerifiedChain(msgspec.Struct, frozen=True, kw_only=True):
    """An invocation and the delegations that prove it, all checked."""

    invocation: Invocation
    delegations: tuple[Delegation, ...]
    """Root first; empty where the subject invoked itself."""
    expires_at: int | None
    """The earliest expiry of all tokens, Unix seconds; None is "never"."""


def verify_chain(
    invocation: bytes,
    proofs: Sequence[bytes],
    *,
    now: int,
    revoked: Callable[[bytes], bool],
    profile: Profile,
    trusted_roots: Container[Did] | None = None,
) -> VerifiedChain:
    """Verifies an invocation with its delegations.

    Args:
        invocation: the token as received.
        proofs: the delegations as received, root first, as many as ``prf`` names.
        now: Unix seconds.
        revoked: whether a delegation, given by its CID bytes, has been revoked.
        profile: what to take.
        trusted_roots: subjects whose authority counts here; None is any subject.

    Raises:
        Malformed: a token is not well formed, or over a limit.
        BadSignature, Expired, NotYetValid, Revoked, OutsideProfile: see the rules.
        NotCovered: by its subclasses ProofMissing, Unrooted, AudienceMismatch, SubjectMismatch, CommandNotCovered
            and PolicyNotMet.
    """
    invoked = parse_invocation(invocation)
    if len(invoked.proofs) > profile.chain_length_max:
        raise OutsideProfile(f"chain_length_max is {profile.chain_length_max}, got {len(invoked.proofs)}")
    delegations = _read_proofs(invoked, proofs)
    invoked.check_signature()
    for delegation in delegations:
        delegation.check_signature()
    check_times(invoked, now)
    for delegation in delegations:
        check_times(delegation, now)
    check_alignment(delegations, holder=invoked.issuer, subject=invoked.subject)
    if trusted_roots is not None and invoked.subject not in trusted_roots:
        raise Unrooted("subject is not trusted here")
    if delegations and not covers(delegations[-1].command, invoked.command):
        raise CommandNotCovered("command of the invocation lies outside its delegation")
    _check_profile(invoked, delegations, now, profile)
    for delegation in delegations:
        if revoked(delegation.cid):
            raise Revoked("a delegation of the chain is revoked")
    for delegation in delegations:
        check_policy(delegation.policy, invoked.arguments)
    return VerifiedChain(
        invocation=invoked, delegations=delegations, expires_at=earliest_expiry((invoked, *delegations))
    )


def check_times(token: Invocation | Delegation, now: int) -> None:
    """Demands that ``now`` lies inside the token's life, both ends included.

    Raises:
        Expired: now is after ``exp``.
        NotYetValid: now is before ``nbf``.
    """
    if token.expires_at is not None and now > token.expires_at:
        raise Expired(f"{_kind_of(token)} is expired")
    if isinstance(token, Delegation) and token.not_before is not None and now < token.not_before:
        raise NotYetValid("delegation is not valid yet")


def check_alignment(delegations: Sequence[Delegation], *, holder: Did, subject: Did) -> None:
    """Demands one line of authority from ``subject`` to ``holder``, with commands that only narrow.

    Args:
        delegations: root first; without any, the holder must be the subject.
        holder: who uses the chain.
        subject: whose authority is used.

    Raises:
        Unrooted: the first issuer is not its own subject.
        AudienceMismatch: a delegation was given to somebody else than the next issuer or the holder.
        SubjectMismatch: a delegation is about another subject.
        CommandNotCovered: a delegation passes on more than it was given.
    """
    if not delegations:
        if holder != subject:
            raise Unrooted("invoker is not the subject and shows no delegation")
        return
    root = delegations[0]
    if root.subject is None or root.subject != root.issuer:
        raise Unrooted("first delegation is not issued by its subject")
    for position, delegation in enumerate(delegations):
        following = delegations[position + 1].issuer if position + 1 < len(delegations) else holder
        if delegation.audience != following:
            raise AudienceMismatch(f"delegation {position} was given to somebody else")
        if delegation.subject is not None and delegation.subject != subject:
            raise SubjectMismatch(f"delegation {position} is about another subject")
        if position and not covers(delegations[position - 1].command, delegation.command):
            raise CommandNotCovered(f"delegation {position} passes on more than it was given")


def check_grant_profile(delegation: Delegation, now: int, profile: Profile, *, is_root: bool) -> None:
    """Demands what ``profile`` asks of one delegation.

    Raises:
        OutsideProfile: the detail says which limit.
    """
    if delegation.subject is None and not profile.powerline_allowed:
        raise OutsideProfile("delegation names no subject")
    _check_common(delegation, now, profile)
    if is_root and profile.pinned_root_required and not _is_pinned(delegation.policy):
        raise OutsideProfile("first delegation does not fix resource and digest")


def earliest_expiry(tokens: Sequence[Invocation | Delegation]) -> int | None:
    """The earliest expiry of ``tokens``, or None if none has any."""
    return min((token.expires_at for token in tokens if token.expires_at is not None), default=None)


def _read_proofs(invoked: Invocation, proofs: Sequence[bytes]) -> tuple[Delegation, ...]:
    if len(proofs) != len(invoked.proofs):
        raise ProofMissing(f"expected {len(invoked.proofs)} delegations, got {len(proofs)}")
    delegations = tuple([parse_delegation(token) for token in proofs])
    for position, (delegation, named) in enumerate(zip(delegations, invoked.proofs, strict=True)):
        if delegation.cid != named:
            raise ProofMissing(f"delegation {position} is not the one that the invocation names")
    return delegations


def _check_profile(invoked: Invocation, delegations: Sequence[Delegation], now: int, profile: Profile) -> None:
    if not delegations and not profile.self_issued_allowed:
        raise OutsideProfile("an invocation needs a delegation")
    if not profile.foreign_executor_allowed and invoked.audience not in (None, invoked.subject):
        raise OutsideProfile("invocation is addressed to another executor")
    _check_common(invoked, now, profile)
    if profile.lifetime_seconds_max is not None and invoked.issued_at is not None:
        if invoked.issued_at > now + profile.skew_seconds:
            raise NotYetValid("invocation was issued in the future")
        if invoked.expires_at is not None and invoked.expires_at - invoked.issued_at > profile.lifetime_seconds_max:
            raise OutsideProfile(f"lifetime_seconds_max is {profile.lifetime_seconds_max}")
    for position, delegation in enumerate(delegations):
        check_grant_profile(delegation, now, profile, is_root=position == 0)


def _check_common(token: Invocation | Delegation, now: int, profile: Profile) -> None:
    if token.expires_at is None and not profile.endless_allowed:
        raise OutsideProfile(f"{_kind_of(token)} never expires")
    if token.command == TOP and not profile.top_command_allowed:
        raise OutsideProfile(f"{_kind_of(token)} is for every command")
    if len(token.nonce) < profile.nonce_bytes_min:
        raise OutsideProfile(f"nonce_bytes_min is {profile.nonce_bytes_min}, got {len(token.nonce)}")
    longest = profile.lifetime_seconds_max
    # The issuer's clock may run ahead of ours by the skew, so that much more is not a longer life.
    if longest is not None and token.expires_at is not None and token.expires_at - now > longest + profile.skew_seconds:
        raise OutsideProfile(f"lifetime_seconds_max is {longest}, {_kind_of(token)} lives longer")


def _is_pinned(policy: Policy) -> bool:
    fixed = {one.selector.text for one in policy if isinstance(one, Equality) and one.operator == "=="}
    return {RESOURCE_SELECTOR, DIGEST_SELECTOR} <= fixed


def _kind_of(token: Invocation | Delegation) -> str:
    return type(token).__name__.lower()
