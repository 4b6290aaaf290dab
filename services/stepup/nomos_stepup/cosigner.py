"""The cosigner delegation: what an approval gives to the agent (UCAN 1.0, profile of this installation).

Issuer and subject are the tenant's cosigner key, the audience is the agent, the policy pins resource and request
digest: exactly what the passkeys signed. The agent shows it when it authorizes again. It opens nothing by itself:
policy spends the approval (``domain.Consume``) and evaluates once more, and the proxy knows no cosigner.

The key is a random seed for each tenant, stored sealed; it is never derived from another secret, so that replacing one
tenant's key touches no other tenant.
"""

from __future__ import annotations

from typing import Final

from nomos.errors import Expired, Refused, Replayed
from nomos.ids import Did
from nomos.keys import SigningKey
from nomos.ucan.delegation import mint_delegation
from nomos_stepup.domain import Approval, ApprovalState

#: A cosigner delegation lives this long at most, in seconds; an agent that comes later asks for a new one.
COSIGNATURE_SECONDS_MAX: Final = 60


def mint_cosignature(approval: Approval, signing_key: SigningKey, *, nonce: bytes, now: int) -> bytes:
    """Mints the cosigner delegation of an approved, unused approval. May be called again while that holds.

    Args:
        approval: folded from durable events.
        signing_key: the cosigner key of the approval's tenant.
        nonce: 12 fresh random bytes.
        now: Unix seconds.

    Returns:
        The token. Its ``exp`` is inclusive and lies before the approval's end.

    Raises:
        Refused: the approval is not approved.
        Replayed: it is consumed.
        Expired: its time is over.
    """
    request = approval.request
    if approval.state is not ApprovalState.APPROVED:
        raise Refused(f"this approval is {approval.state.value}, not approved")
    if approval.consumed_by is not None:
        raise Replayed("this approval has been used")
    if now >= request.expires_at:
        raise Expired("the time of this approval is over")
    return mint_delegation(
        signing_key,
        audience=Did(request.agent_did),
        subject=signing_key.did,
        command=command_of(request.action),
        policy=[["==", ".resource", request.resource], ["==", ".digest", bytes.fromhex(request.args_digest)]],
        expires_at=min(now + COSIGNATURE_SECONDS_MAX, request.expires_at - 1),
        nonce=nonce,
        meta={"approval": approval.id},
    )


def command_of(action: str) -> str:
    """The UCAN command of an action: ``github:issues.list`` is ``/github/issues/list``."""
    return "/" + action.replace(":", "/").replace(".", "/")
