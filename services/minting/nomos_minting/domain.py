"""Whether minting may sign: only with policy's fresh allow for exactly this request.

That the message came from policy is the bus's word (the subject ``svc.mint.<account>`` is exported to policy's account
alone). Everything else is checked here, on the decision event that will stand in the log beside the delegation, so a
delegation never exists without the decision that it rests on.
"""

from __future__ import annotations

import msgspec

from nomos.errors import Malformed, NotFresh
from nomos.events import DECISION_MADE, DELEGATION_MINTED, Actor, Envelope
from nomos.request import request_digest
from nomos.servicemessages import MintItem

_envelope = msgspec.msgpack.Decoder(Envelope)


class RequestFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The members of a decision's request that minting checks."""

    tenant: str
    agent: str
    action: str
    resource: str
    connection: str
    digest: str
    args: dict[str, object]


class DecisionFacts(msgspec.Struct, frozen=True, kw_only=True):
    """The members of a decision event that minting checks. ``at_ms`` is policy's clock, Unix milliseconds."""

    decision: str
    outcome: str
    at_ms: int
    request: RequestFacts


def check_item(item: MintItem, now_ms: int, fresh_ms: int) -> tuple[Envelope, DecisionFacts]:
    """Checks that ``item`` carries policy's fresh allow for exactly its request.

    Args:
        item: from policy.
        now_ms: Unix milliseconds.
        fresh_ms: how old, or how far ahead of this clock, the decision may be.

    Raises:
        Malformed: the decision is not a decision event.
        NotFresh: it is not an allow, not for this request, or not fresh.
    """
    try:
        envelope = _envelope.decode(item.decision)
        facts = msgspec.convert(envelope.event, DecisionFacts)
    except (msgspec.DecodeError, msgspec.ValidationError) as e:
        raise Malformed("not a decision event", cause=str(e)) from e
    if envelope.type != DECISION_MADE or facts.outcome != "allow":
        raise NotFresh("policy did not allow this")
    request = facts.request
    same = (
        envelope.tenant == item.tenant == request.tenant
        and envelope.actor == Actor(kind="agent", id=item.agent)
        and request.agent == item.agent
        and request.action == item.action
        and request.resource == item.resource
        and request.connection == item.connection
        and request.digest == item.digest.hex()
        and item.digest == request_digest(request.action, request.resource, request.args, request.connection)
    )
    if not same:
        raise NotFresh("the decision is for another request")
    if abs(now_ms - facts.at_ms) > fresh_ms:
        raise NotFresh(f"the decision is not fresh: the bound is {fresh_ms} ms")
    return envelope, facts


def minted_event(
    event_id: str, decision: Envelope, facts: DecisionFacts, *, cid: str, issuer: str, agent_did: str, expires_at: int
) -> Envelope:
    """The event of one delegation, caused by its decision."""
    return Envelope(
        id=event_id,
        type=DELEGATION_MINTED,
        tenant=decision.tenant,
        actor=Actor(kind="service", id="minting"),
        corr=decision.corr,
        cause=decision.id,
        event={
            "action": facts.request.action,
            "agent": facts.request.agent,
            "agent_did": agent_did,
            "cid": cid,
            "connection": facts.request.connection,
            "decision": facts.decision,
            "digest": facts.request.digest,
            "expires_at": expires_at,
            "issuer": issuer,
            "resource": facts.request.resource,
        },
    )
