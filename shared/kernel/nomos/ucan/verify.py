"""What Nomos verifies before it serves: an agent's invocation, its binding to a request, a cosigner's grant.

Decides who asks for what by which chain, in one frozen object that alone flows on; nothing is read from tokens
after this. Leaves to the caller replay (``invocation_cid`` once), and that ``agent`` is the key registered for the
bus user that speaks. The rules of the chain are in ``chain``; those added here, in order:

1. The arguments of an invocation are exactly ``{"resource", "connection", "args", "digest"}``.
2. An invocation is bound to a request if its command is the action's, and the digest of the action, resource and
   arguments that are about to run equals the signed digest, and so does the digest of the signed arguments.
3. A cosigner's grant stands alone: issued by a known cosigner about itself, to this agent, for exactly this
   command, fixing exactly this resource and digest.

Trusted / not trusted: an attacker who holds every token on the bus but no key can at most repeat an invocation
that was already made, which the replay set refuses.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping, Sequence

import msgspec

from nomos.errors import (
    AudienceMismatch,
    BindingMismatch,
    CommandNotCovered,
    MalformedToken,
    PolicyNotMet,
    Revoked,
    Unrooted,
)
from nomos.ids import Did
from nomos.request import DIGEST_BYTES, check_args, command_of, request_digest
from nomos.ucan import dagcbor
from nomos.ucan.chain import (
    DIGEST_SELECTOR,
    RESOURCE_SELECTOR,
    VerifiedChain,
    check_grant_profile,
    check_times,
    verify_chain,
)
from nomos.ucan.dagcbor import Ipld
from nomos.ucan.delegation import parse_delegation
from nomos.ucan.policy import Equality, Policy
from nomos.ucan.profile import NOMOS, Profile


class VerifiedInvocation(msgspec.Struct, frozen=True, kw_only=True):
    """An agent's invocation, verified. The one source for who asks for what."""

    agent: Did
    """The invoker's key, which signed."""
    subject: Did
    """The tenant's key, from which the authority comes."""
    command: str
    resource: str
    connection: str
    """Name of the connection whose credential is to be used; empty where there is none."""
    args: dict[str, Ipld]
    """The literal arguments, within the limits of :func:`nomos.request.check_args`."""
    digest: bytes
    """The signed request digest, 32 bytes; compare it with :func:`check_binding`."""
    invocation_cid: bytes
    """Serve each once."""
    leaf_cid: bytes
    """The delegation that the invoker holds."""
    delegation_cids: tuple[bytes, ...]
    """Root first."""
    holders: tuple[Did, ...]
    """To whom each delegation was given, root first; the last is the invoker."""
    expires_at: int
    """The earliest expiry in the chain, Unix seconds, inclusive."""
    root_expires_at: int
    """The expiry of the first delegation, Unix seconds, inclusive: tells when it can have been issued."""
    issued_at: int | None
    """The invoker's claim, Unix seconds."""


class VerifiedDelegation(msgspec.Struct, frozen=True, kw_only=True):
    """A cosigner's grant, verified for one request of one agent."""

    cid: bytes
    issuer: Did
    audience: Did
    command: str
    resource: str
    digest: bytes
    expires_at: int
    """Unix seconds, inclusive."""
    meta: dict[str, Ipld]
    """Signed remarks, such as the approval to look up. They grant nothing by themselves."""


def verify_invocation(
    invocation: bytes,
    proofs: Sequence[bytes],
    *,
    now: int,
    trusted_roots: Container[Did],
    revoked: Callable[[bytes], bool],
    profile: Profile = NOMOS,
) -> VerifiedInvocation:
    """Verifies an agent's invocation under the Nomos profile.

    Args:
        invocation: the token as received.
        proofs: the delegations as received, root first.
        now: Unix seconds.
        trusted_roots: the issuing keys of the tenant whose bus account spoke.
        revoked: whether a delegation, given by its CID bytes, has been revoked.
        profile: NOMOS, or narrower. It must demand a delegation and an expiry.

    Raises:
        Malformed, BadSignature, Expired, NotYetValid, Revoked, OutsideProfile, NotCovered: as
            :func:`nomos.ucan.chain.verify_chain`; the detail may be shown.
        ReservedKey: the arguments hold a key that belongs to Cedar.
    """
    chain = verify_chain(invocation, proofs, now=now, revoked=revoked, profile=profile, trusted_roots=trusted_roots)
    return _read_request(chain)


def _read_request(chain: VerifiedChain) -> VerifiedInvocation:
    invoked = chain.invocation
    match invoked.arguments:
        case {
            "resource": str() as resource,
            "connection": str() as connection,
            "digest": bytes() as digest,
            "args": dict() as args,
            **rest,
        } if not rest and len(digest) == DIGEST_BYTES:
            pass
        case _:
            raise MalformedToken("arguments must be exactly resource, connection, args and a digest of 32 bytes")
    if not chain.delegations or chain.expires_at is None:
        raise MalformedToken("an invocation needs a delegation and an expiry")
    root_expires_at = chain.delegations[0].expires_at
    if root_expires_at is None:
        raise MalformedToken("the first delegation needs an expiry")
    cids = tuple([delegation.cid for delegation in chain.delegations])
    return VerifiedInvocation(
        agent=invoked.issuer,
        subject=invoked.subject,
        command=invoked.command,
        resource=resource,
        connection=connection,
        args=check_args(args),
        digest=digest,
        invocation_cid=invoked.cid,
        leaf_cid=cids[-1],
        delegation_cids=cids,
        holders=tuple([delegation.audience for delegation in chain.delegations]),
        expires_at=chain.expires_at,
        root_expires_at=root_expires_at,
        issued_at=invoked.issued_at,
    )


def check_binding(verified: VerifiedInvocation, *, action: str, resource: str, args: Mapping[str, object]) -> None:
    """Demands that the request about to run is the one that was signed, down to the last argument.

    Args:
        verified: what :func:`verify_invocation` returned.
        action: id of the action about to run.
        resource: the resource derived from the request about to be made.
        args: the arguments about to be used.

    Raises:
        BindingMismatch: command, resource, arguments or digest differ.
        ReservedKey, Malformed: the arguments are none.
    """
    if verified.command != command_of(action):
        raise BindingMismatch("command is not the one of the action")
    if verified.resource != resource:
        raise BindingMismatch("resource is not the one that was signed")
    if request_digest(action, resource, args, verified.connection) != verified.digest:
        raise BindingMismatch("request is not the one whose digest was signed")
    # The signed arguments must be those that the digest stands for, or the log would show some that never ran.
    # Bytes are compared because Python's == calls true and 1 equal.
    if verified.args is not args and dagcbor.encode(verified.args) != dagcbor.encode(check_args(args)):
        raise BindingMismatch("signed arguments are not those of the request")


def verify_delegation_for(
    token: bytes,
    *,
    issuers: Container[Did],
    audience: Did,
    command: str,
    resource: str,
    digest: bytes,
    now: int,
    revoked: Callable[[bytes], bool],
    profile: Profile = NOMOS,
) -> VerifiedDelegation:
    """Verifies a cosigner's grant for one request of one agent.

    Args:
        token: the delegation as received.
        issuers: cosigner keys of this tenant.
        audience: the key registered for the agent that shows it.
        command: the command of the request.
        resource: the resource of the request.
        digest: the request digest, 32 bytes.
        now: Unix seconds.
        revoked: whether a delegation, given by its CID bytes, has been revoked.
        profile: what to take.

    Raises:
        Malformed: not a well-formed delegation.
        BadSignature, Expired, NotYetValid, OutsideProfile, Revoked: as for a chain.
        Unrooted: the issuer is not a known cosigner, or the grant is not about the issuer itself.
        AudienceMismatch: it was given to somebody else.
        CommandNotCovered: it is for another command; a wider one is another one.
        PolicyNotMet: it does not fix exactly this resource and digest.
    """
    delegation = parse_delegation(token)
    delegation.check_signature()
    check_times(delegation, now)
    if delegation.issuer not in issuers or delegation.subject != delegation.issuer:
        raise Unrooted("grant is not by a known cosigner about itself")
    if delegation.audience != audience:
        raise AudienceMismatch("grant was given to somebody else")
    if delegation.command != command:
        raise CommandNotCovered("grant is for another command")
    check_grant_profile(delegation, now, profile, is_root=True)
    if revoked(delegation.cid):
        raise Revoked("grant is revoked")
    if not _pins_exactly(delegation.policy, resource, digest):
        raise PolicyNotMet("grant does not fix exactly this resource and digest")
    if delegation.expires_at is None:
        raise MalformedToken("grant needs an expiry")
    return VerifiedDelegation(
        cid=delegation.cid,
        issuer=delegation.issuer,
        audience=delegation.audience,
        command=delegation.command,
        resource=resource,
        digest=digest,
        expires_at=delegation.expires_at,
        meta=delegation.meta,
    )


def _pins_exactly(policy: Policy, resource: str, digest: bytes) -> bool:
    match policy:
        case (
            Equality(operator="==", selector=first, value=str() as fixed_resource),
            Equality(operator="==", selector=second, value=bytes() as fixed_digest),
        ):
            return (first.text, second.text, fixed_resource, fixed_digest) == (
                RESOURCE_SELECTOR,
                DIGEST_SELECTOR,
                resource,
                digest,
            )
    return False
