"""From policy's message to the request that is stored: what is asked of a human, fixed once.

Policy has verified tenant, agent, app and resource. What binds the arguments is computed here again from the arguments
themselves, so that the text that a human reads and the digest that a delegation pins cannot come from two sources.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from typing import Final

import msgspec

from nomos.errors import Malformed
from nomos.request import request_digest
from nomos.servicemessages import OpenApproval, Quorum
from nomos_stepup.challenge import ApprovalRequest, ReasonPolicy, RiskName, args_text_of, check_request, text_sha256
from nomos_stepup.domain import Open

#: How long humans have by default, in seconds.
LIFETIME_SECONDS: Final = 900


def quorums_of(asked: Iterable[Quorum]) -> tuple[Quorum, ...]:
    """What several policies ask, together: of each group as many as the strictest wants."""
    most: dict[str, int] = {}
    for one in asked:
        most[one.group] = max(most.get(one.group, 0), one.approvals)
    return tuple(Quorum(approvals=number, group=group) for group, number in sorted(most.items()))


def prepare(
    message: OpenApproval,
    *,
    approval: str,
    salt: bytes,
    now: int,
    pending_of_agent: int,
    lifetime_seconds: int = LIFETIME_SECONDS,
    behalf: str | None = None,
) -> Open:
    """The command that opens an approval for a request which policy stopped.

    Args:
        message: from policy.
        approval: a new id (``ap_``).
        salt: 32 random bytes.
        now: Unix seconds.
        pending_of_agent: how many approvals of this agent are pending.
        lifetime_seconds: how long humans have.
        behalf: the person for whom the agent acts, where known.

    Raises:
        Malformed: a field of another form, or a digest that is not that of the arguments.
        LimitExceeded: the arguments or the request are too large to be shown.
        ReservedKey: the arguments hold a reserved key.
    """
    digest = request_digest(message.action, message.resource, message.args, message.connection)
    if not hmac.compare_digest(digest, message.digest):
        raise Malformed("the digest is not that of this action, resource and arguments")
    try:
        risk: RiskName = msgspec.convert(message.risk, type=RiskName)
    except msgspec.ValidationError as e:
        raise Malformed("unknown class of risk", cause=str(e)) from e
    args_text = args_text_of(message.args)
    quorums = quorums_of(message.quorums)
    # Without a group it is said as it always was.
    names_groups = any(one.group for one in quorums)
    request = ApprovalRequest(
        v=2 if names_groups else 1,
        approval=approval,
        tenant=message.tenant,
        app=message.app,
        agent=message.agent,
        agent_did=message.agent_did,
        behalf=behalf,
        connection=message.connection,
        action=message.action,
        risk=risk,
        resource=message.resource,
        args_digest=digest.hex(),
        args_text_sha256=text_sha256(args_text),
        body_sha256=None,
        request=message.request,
        decision=message.decision,
        revision=message.revision,
        policy_set=message.policy_set,
        policies=tuple(ReasonPolicy(id=p.id, description=p.description) for p in message.policies),
        needed=max((one.approvals for one in quorums), default=1),
        asked_at=now,
        expires_at=now + lifetime_seconds,
        quorums=quorums if names_groups else (),
    )
    check_request(request)
    return Open(request=request, salt=salt, args_text=args_text, pending_of_agent=pending_of_agent, now=now)
