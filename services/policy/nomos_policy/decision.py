"""Decides requests: allow, deny, or ask a human first.

Each request is evaluated twice in one call of the engine, first as if no human had approved it (``cosigned`` false),
then as if one had. ALLOW iff the first pass allows without an error; STEP_UP iff the first denies without an error
and the second allows without an error; else DENY. A request that comes with a verified approval is evaluated once,
with ``cosigned`` true, against the policies that are in force now: ALLOW iff that pass allows without an error.
Where no policy that the request can meet reads ``cosigned``, the second pass would repeat the first and is left out.

An error of any policy on any pass means deny: the engine skips a forbid that fails and would allow. NoDecision means
deny and an alarm. A quarantined policy that might forbid the request means deny.

Leaves to others: who asks (bus and identity), that a cosigner is genuine, unused and bound to this request
(``stepup``), and that the answer leaves only after its event is durable (``handlers``). Pure; never raises.

Source: rules "Cedar"; docs/adr/0003-high-stakes-by-default.md.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Final

import cedarpy
import msgspec
import orjson
from msgspec import Struct

from nomos.catalogue import Action, Resource
from nomos.errors import Malformed, UnknownAction
from nomos.messages import PolicyRef
from nomos.servicemessages import Quorum
from nomos_policy.policy import HIGH_STAKES_DESCRIPTION, HIGH_STAKES_ID, Policy
from nomos_policy.policyset import CompiledSet, Slice, engine_message, generated_index
from nomos_policy.vocabulary import Principal, context_text, typed_args

#: Engine messages kept in one decision.
ERRORS_MAX: Final = 10
#: Bytes of arguments by which a remembered evaluation counts one more.
REMEMBERED_UNIT_BYTES: Final = 1024


class Outcome(StrEnum):
    """What may happen next."""

    ALLOW = "allow"
    DENY = "deny"
    STEP_UP = "step_up"


class AuthorizeFacts(Struct, frozen=True, kw_only=True):
    """One request with everything that decides it. All of it is verified or typed, but ``args`` and ``claims``.

    Attributes:
        principal: who asks.
        action: what, from the catalogue.
        resource: on what, in its one spelling.
        connection: name of the connection whose credential would be used.
        args: the arguments; only declared ones of their declared type reach the engine.
        claims: recorded, never evaluated.
        now_seconds: Unix time.
        cosigned: True only for a cosigner delegation that was verified for exactly this request.
        policies: the tenant's policies.
    """

    principal: Principal
    action: Action
    resource: Resource
    connection: str
    args: Mapping[str, object]
    claims: Mapping[str, object]
    now_seconds: int
    cosigned: bool = False
    policies: CompiledSet


class Pass(Struct, frozen=True, kw_only=True):
    """One evaluation.

    Attributes:
        cosigned: what it assumed.
        allowed: what the engine said; with errors it counts as a denial and as no ground for a step-up.
        policies: ids of the determining policies, in the order of the text.
        errors: the engine's messages.
    """

    cosigned: bool
    allowed: bool
    policies: tuple[str, ...]
    errors: tuple[str, ...]


class Decision(Struct, frozen=True, kw_only=True):
    """The answer and its grounds.

    Attributes:
        outcome: allow, deny or step-up.
        reason: one sentence, safe for the caller.
        policies: allow: the permits; deny: the forbids, empty when nothing permits; step-up: the policies that ask.
        errors: why a denial is no answer of the policies; empty otherwise.
        policy_set_hash: SHA-256 of the policy text, hex.
        revision: version of the policy set.
        passes: the evaluations made.
        alarm: True for NoDecision: the engine could not build or evaluate a request that we had typed.
        quorums: step-up: whose approval the policies want that ask, and those that would permit; empty for anybody's.
    """

    outcome: Outcome
    reason: str
    policies: tuple[PolicyRef, ...] = ()
    errors: tuple[str, ...] = ()
    policy_set_hash: str
    revision: int
    passes: tuple[Pass, ...] = ()
    alarm: bool = False
    quorums: tuple[Quorum, ...] = ()


class _Prepared(Struct, frozen=True, kw_only=True):
    index: int
    facts: AuthorizeFacts
    slice: Slice
    args: dict[str, object]
    assumed: tuple[bool, ...]
    question: Hashable
    size: int


class _Answer(Struct, frozen=True, kw_only=True):
    passes: tuple[Pass, ...]
    alarm: bool


def decide_batch(requests: Sequence[AuthorizeFacts]) -> list[Decision]:
    """Decides each request on its own; what is wrong with one never reaches another.

    Requests with the same slice and the same entities share one call of the engine: its entities belong to a call.

    Args:
        requests: of any tenants; each carries its tenant's policies.

    Returns:
        One decision for each request, in order.
    """
    decisions: dict[int, Decision] = {}
    groups: dict[tuple[int, int], list[_Prepared]] = defaultdict(list)
    handles: dict[int, cedarpy.Entities] = {}
    for index, facts in enumerate(requests):
        try:
            prepared = _prepare(index, facts)
            known = facts.policies.remembered.get(prepared.question)
            if isinstance(known, _Answer):
                decisions[index] = _judge(prepared, known)
                continue
            entities = facts.policies.vocabulary.entities(facts.principal, facts.resource)
        except (Malformed, UnknownAction) as error:
            decisions[index] = _denied(facts, error.detail, (error.detail,))
            continue
        if prepared.slice.blocked_by:
            decisions[index] = _blocked(facts, prepared.slice)
            continue
        # handles live to the end of this call, so their identities are distinct
        handles[id(entities)] = entities
        groups[id(prepared.slice), id(entities)].append(prepared)
    for (_, entities_id), group in groups.items():
        for prepared, answer in zip(group, _evaluate(group, handles[entities_id]), strict=True):
            prepared.facts.policies.remembered.put(prepared.question, answer, prepared.size)
            decisions[prepared.index] = _judge(prepared, answer)
    return [decisions[index] for index in range(len(requests))]


def decide(request: AuthorizeFacts) -> Decision:
    """Decides one request; see :func:`decide_batch`."""
    return decide_batch((request,))[0]


def _prepare(index: int, facts: AuthorizeFacts) -> _Prepared:
    found = facts.policies.slice(facts.principal, facts.action, facts.resource)
    args = typed_args(facts.action, facts.args)
    if facts.cosigned:
        assumed: tuple[bool, ...] = (True,)
    else:
        assumed = (False, True) if found.reads_cosigned else (False,)
    try:
        # Also where no policy reads them: arguments that the engine could not be given are refused here.
        encoded = orjson.dumps(args, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError as error:
        raise Malformed("an argument is no text that JSON can carry", cause=str(error)) from error
    read = encoded if found.reads is None or "args" in found.reads else None
    return _Prepared(
        index=index,
        facts=facts,
        slice=found,
        args=args,
        assumed=assumed,
        question=_question(facts, found.reads, read, assumed),
        size=1 + len(read or b"") // REMEMBERED_UNIT_BYTES,
    )


def _question(
    facts: AuthorizeFacts, reads: frozenset[str] | None, args: bytes | None, assumed: tuple[bool, ...]
) -> Hashable:
    """Everything that the evaluation depends on (see ``remembered``)."""
    principal = facts.principal
    return (
        assumed,
        principal.tenant,
        principal.app,
        principal.agent,
        principal.env,
        facts.action.id,
        facts.resource.text,
        facts.connection if reads is None or "connection" in reads else None,
        facts.now_seconds if reads is None or "now" in reads else None,
        args,
    )


def engine_request(facts: AuthorizeFacts, args: dict[str, object], *, cosigned: bool) -> dict[str, object]:
    """The request as the engine takes it.

    Args:
        facts: what is asked.
        args: from :func:`nomos_policy.vocabulary.typed_args`.
        cosigned: whether a human's approval is assumed or verified.

    Raises:
        Malformed: a lone surrogate in an argument.
    """
    return {
        "principal": {"type": "Agent", "id": facts.principal.agent},
        "action": {"type": "Action", "id": facts.action.id},
        "resource": {"type": facts.resource.type.cedar, "id": facts.resource.id},
        "context": context_text(
            facts.principal, args, connection=facts.connection, now_seconds=facts.now_seconds, cosigned=cosigned
        ),
    }


def _evaluate(group: Sequence[_Prepared], entities: cedarpy.Entities) -> list[_Answer]:
    """One call of the engine for all passes of requests with one slice and one entity set."""
    requests = [
        engine_request(prepared.facts, prepared.args, cosigned=cosigned)
        for prepared in group
        for cosigned in prepared.assumed
    ]
    found, schema = group[0].slice, group[0].facts.policies.vocabulary.schema
    results = iter(cedarpy.is_authorized_batch(requests, found.handle, entities, schema))
    answers: list[_Answer] = []
    for prepared in group:
        mine = [(cosigned, next(results)) for cosigned in prepared.assumed]
        answers.append(
            _Answer(
                passes=tuple(_pass(cosigned, result, found.policies) for cosigned, result in mine),
                alarm=any(result.decision is cedarpy.Decision.NoDecision for _, result in mine),
            )
        )
    return answers


def _pass(cosigned: bool, result: cedarpy.AuthzResult, policies: tuple[Policy, ...]) -> Pass:
    indices = sorted(generated_index(generated) for generated in result.diagnostics.reasons)
    errors = tuple(engine_message(message, policies) for message in sorted(result.diagnostics.errors)[:ERRORS_MAX])
    if result.decision is cedarpy.Decision.NoDecision and not errors:
        errors = ("the engine gave no decision",)
    return Pass(
        cosigned=cosigned,
        allowed=result.decision is cedarpy.Decision.Allow,
        policies=tuple(policies[index].id for index in indices),
        errors=errors,
    )


def _judge(prepared: _Prepared, answer: _Answer) -> Decision:
    """The truth table of the two passes."""
    facts, passes = prepared.facts, answer.passes
    errors = tuple(dict.fromkeys(message for one in passes for message in one.errors))
    if errors or answer.alarm:
        return _denied(facts, "a policy could not be evaluated", errors, passes=passes, alarm=answer.alarm)
    by_id = {policy.id: policy for policy in prepared.slice.policies}
    first = passes[0]
    if first.allowed:
        return _decided(facts, Outcome.ALLOW, "permitted", _refs(first.policies, by_id), passes)
    if len(passes) > 1 and passes[1].allowed:
        asking = _asking(facts.action, first, passes[1], by_id)
        asked = _decided(facts, Outcome.STEP_UP, "a human must approve first", asking, passes)
        quorums = _quorums(by_id[name] for name in (*first.policies, *passes[1].policies))
        return msgspec.structs.replace(asked, quorums=quorums)
    # with an approval assumed, the forbids that are left are those that no human can lift
    forbids = passes[-1].policies or first.policies
    reason = "forbidden by policy" if forbids else "no policy permits"
    return _decided(facts, Outcome.DENY, reason, _refs(forbids, by_id), passes)


def _asking(action: Action, first: Pass, second: Pass, by_id: Mapping[str, Policy]) -> tuple[PolicyRef, ...]:
    """Who asks for the human: the forbids that an approval lifts, else the permits that wait for it."""
    if first.policies:
        return _refs(first.policies, by_id)
    permits = _refs(second.policies, by_id)
    by_default = action.risk.is_high_stakes and any(by_id[name].unattended is None for name in second.policies)
    return (PolicyRef(id=HIGH_STAKES_ID, description=HIGH_STAKES_DESCRIPTION), *permits) if by_default else permits


def _quorums(policies: Iterable[Policy]) -> tuple[Quorum, ...]:
    """What they want together: of each group as many as the strictest wants. Empty where one person of any will do."""
    most: dict[str, int] = {}
    for policy in policies:
        most[policy.quorum.group] = max(most.get(policy.quorum.group, 0), policy.quorum.approvals)
    if len(most) > 1 and most.get("") == 1:
        # Whoever signs for a group is somebody.
        del most[""]
    return () if most in ({}, {"": 1}) else tuple(Quorum(approvals=n, group=one) for one, n in sorted(most.items()))


def _refs(names: Iterable[str], by_id: Mapping[str, Policy]) -> tuple[PolicyRef, ...]:
    return tuple(PolicyRef(id=name, description=by_id[name].description) for name in names)


def _blocked(facts: AuthorizeFacts, found: Slice) -> Decision:
    errors = tuple(
        f"policy {item.id or 'without id'} (line {item.line}) is quarantined: {item.error}"
        for item in found.blocked_by[:ERRORS_MAX]
    )
    return _denied(facts, "a quarantined policy may forbid this", errors)


def _denied(
    facts: AuthorizeFacts, reason: str, errors: tuple[str, ...], *, passes: tuple[Pass, ...] = (), alarm: bool = False
) -> Decision:
    return Decision(
        outcome=Outcome.DENY,
        reason=reason,
        errors=errors,
        policy_set_hash=facts.policies.sha256,
        revision=facts.policies.revision,
        passes=passes,
        alarm=alarm,
    )


def _decided(
    facts: AuthorizeFacts, outcome: Outcome, reason: str, policies: tuple[PolicyRef, ...], passes: tuple[Pass, ...]
) -> Decision:
    return Decision(
        outcome=outcome,
        reason=reason,
        policies=policies,
        policy_set_hash=facts.policies.sha256,
        revision=facts.policies.revision,
        passes=passes,
    )
