"""What the log keeps of a decision, and how to evaluate it again from that.

The event holds the request, the entity slice, the hashes of policies and schema, the passes and the outcome, in
values that the log's canonical form knows (text, integers within 2^53, booleans, null, lists, maps).

Pure. Source: architecture "Events"; ``nomos.events.DECISION_MADE``.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

from nomos.catalogue import Catalogue
from nomos.errors import MalformedRecord, NomosError
from nomos.ids import AgentId, AppId, TenantId
from nomos_policy.decision import AuthorizeFacts, Decision, Pass
from nomos_policy.policy import PLATFORM_VERSION
from nomos_policy.policyset import CompiledSet
from nomos_policy.vocabulary import Principal, entity_slice


class _Request(Struct, frozen=True, kw_only=True):
    id: str
    tenant: str
    app: str
    agent: str
    env: str
    action: str
    resource: str
    connection: str
    args: dict[str, object]
    claims: dict[str, object]
    now: int
    cosigned: bool
    digest: str


class _Recorded(Struct, frozen=True, kw_only=True):
    request: _Request


def decision_event(
    facts: AuthorizeFacts, decision: Decision, *, decision_id: str, request_id: str, digest: bytes
) -> dict[str, object]:
    """The payload of ``authz.decision``.

    Args:
        facts: what was decided; ``args`` and ``claims`` passed ``check_agent_data``.
        decision: the answer.
        decision_id: ``dc_`` and 32 hex digits.
        request_id: the caller's id of the request.
        digest: the request digest, 32 bytes.
    """
    principal = facts.principal
    return {
        "decision": decision_id,
        "request": {
            "id": request_id,
            "tenant": principal.tenant,
            "app": principal.app,
            "agent": principal.agent,
            "env": principal.env,
            "action": facts.action.id,
            "risk": facts.action.risk.value,
            "resource": facts.resource.text,
            "connection": facts.connection,
            "args": dict(facts.args),
            "claims": dict(facts.claims),
            "now": facts.now_seconds,
            "cosigned": facts.cosigned,
            "digest": digest.hex(),
        },
        "entities": entity_slice(principal, facts.resource),
        "policy_set": decision.policy_set_hash,
        "revision": decision.revision,
        "schema": facts.policies.vocabulary.sha256,
        "platform": PLATFORM_VERSION,
        "outcome": decision.outcome.value,
        "reason": decision.reason,
        "policies": [{"id": policy.id, "description": policy.description} for policy in decision.policies],
        "passes": [_pass_record(one) for one in decision.passes],
        "errors": list(decision.errors),
        "alarm": decision.alarm,
        **({"quorums": msgspec.to_builtins(decision.quorums)} if decision.quorums else {}),
    }


def facts_from_event(event: dict[str, object], catalogue: Catalogue, policies: CompiledSet) -> AuthorizeFacts:
    """The facts of a recorded decision, to be decided again against any policies.

    Args:
        event: a payload that :func:`decision_event` made.
        catalogue: must still know the action and the resource type.
        policies: the set to decide with; the recorded one for an exact replay.

    Raises:
        MalformedRecord: not such a payload, or an action or resource that the catalogue does not know.
    """
    try:
        request = msgspec.convert(event, _Recorded).request
        action, resource = catalogue.action(request.action), catalogue.parse_resource(request.resource)
    except msgspec.ValidationError as error:
        raise MalformedRecord("the event is no decision", cause=str(error)) from error
    except NomosError as error:
        raise MalformedRecord(f"the decision cannot be evaluated again: {error.detail}") from error
    return AuthorizeFacts(
        principal=Principal(
            tenant=TenantId(request.tenant), app=AppId(request.app), agent=AgentId(request.agent), env=request.env
        ),
        action=action,
        resource=resource,
        connection=request.connection,
        args=request.args,
        claims=request.claims,
        now_seconds=request.now,
        cosigned=request.cosigned,
        policies=policies,
    )


def _pass_record(one: Pass) -> dict[str, object]:
    return {
        "cosigned": one.cosigned,
        "allowed": one.allowed,
        "policies": list(one.policies),
        "errors": list(one.errors),
    }
