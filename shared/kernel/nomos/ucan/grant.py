"""The two tokens that Nomos writes: the grant of one request to one agent, and the agent's use of it.

Decides their exact shape: minting and step-up sign grants with :func:`mint_grant`, agents sign invocations with
:func:`sign_request`. Leaves to minting whether a grant may be signed at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nomos.errors import LimitExceeded, Malformed
from nomos.ids import Did
from nomos.keys import SigningKey
from nomos.request import DIGEST_BYTES, check_args, command_of, request_digest
from nomos.ucan.chain import DIGEST_SELECTOR, RESOURCE_SELECTOR
from nomos.ucan.cid import cid_of
from nomos.ucan.dagcbor import Ipld
from nomos.ucan.delegation import mint_delegation
from nomos.ucan.invocation import sign_invocation
from nomos.ucan.profile import LIFETIME_SECONDS_MAX


def pin_policy(resource: str, digest: bytes) -> list[Ipld]:
    """The policy that fixes one request: its resource and its digest.

    Raises:
        Malformed: the digest is not 32 bytes.
    """
    if len(digest) != DIGEST_BYTES:
        raise Malformed(f"expected a digest of {DIGEST_BYTES} bytes, got {len(digest)}")
    return [["==", RESOURCE_SELECTOR, resource], ["==", DIGEST_SELECTOR, digest]]


def mint_grant(
    signing_key: SigningKey,
    *,
    agent: Did,
    command: str,
    resource: str,
    digest: bytes,
    now: int,
    ttl_seconds: int,
    nonce: bytes,
    meta: Mapping[str, Ipld] | None = None,
) -> bytes:
    """Signs the grant of one request to one agent, by the issuer about itself.

    Args:
        signing_key: the tenant's issuing key, or its cosigner key.
        agent: the agent's key.
        command: the command of the action, such as ``/github/issues/list``.
        resource: the resource of the request.
        digest: :func:`nomos.request.request_digest` of the request, 32 bytes.
        now: Unix seconds.
        ttl_seconds: life from now, 1 to LIFETIME_SECONDS_MAX.
        nonce: 12 fresh random bytes.
        meta: remarks without authority, such as ``{"approval": id}``; None writes an empty map.

    Returns:
        The delegation.

    Raises:
        LimitExceeded: too long a life.
        Malformed: an argument that no verifier would take.
    """
    _check_ttl(ttl_seconds)
    return mint_delegation(
        signing_key,
        audience=agent,
        subject=signing_key.did,
        command=command,
        policy=pin_policy(resource, digest),
        expires_at=now + ttl_seconds,
        nonce=nonce,
        meta={} if meta is None else meta,
    )


def sign_request(
    signing_key: SigningKey,
    *,
    subject: Did,
    action: str,
    resource: str,
    args: Mapping[str, object],
    proofs: Sequence[bytes],
    now: int,
    ttl_seconds: int,
    nonce: bytes,
    connection: str = "",
) -> bytes:
    """Signs an agent's invocation of one action, with its literal arguments.

    Args:
        signing_key: the agent's key.
        subject: the tenant's key, the subject of the grant.
        action: id such as ``github:issues.list``.
        resource: text such as ``github:repo/acme/site``.
        args: the literal arguments.
        proofs: the delegations themselves, root first.
        now: Unix seconds.
        ttl_seconds: life from now, 1 to LIFETIME_SECONDS_MAX.
        nonce: 12 fresh random bytes.
        connection: name of the connection whose credential is to be used; part of the digest.

    Returns:
        The invocation.

    Raises:
        ReservedKey, LimitExceeded, Malformed: as :func:`nomos.request.check_args`, or too long a life.
    """
    _check_ttl(ttl_seconds)
    digest = request_digest(action, resource, args, connection)
    return sign_invocation(
        signing_key,
        subject=subject,
        command=command_of(action),
        arguments={"resource": resource, "connection": connection, "args": check_args(args), "digest": digest},
        proofs=[cid_of(token) for token in proofs],
        expires_at=now + ttl_seconds,
        nonce=nonce,
        issued_at=now,
    )


def _check_ttl(ttl_seconds: int) -> None:
    if not 1 <= ttl_seconds <= LIFETIME_SECONDS_MAX:
        raise LimitExceeded("lifetime_seconds_max", LIFETIME_SECONDS_MAX, ttl_seconds)
