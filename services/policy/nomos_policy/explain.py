"""Why a request is answered as it is, in the policies' own sentences, and what would change the answer.

The answer is the decision itself (``decision.decide``). Beside it stand the policies that the request meets, those
whose head matches: for each, whether it applies, and if not, which of its conditions fail. A condition is asked of the
engine on its own, as a permit with that condition and no other, with the same request, entities and schema; so nothing
here interprets Cedar. The high-stakes clause is a condition like any other, and is named as the platform's.

A condition that fails to evaluate behind one that does not hold is no error: Cedar stops at the first. What follows the
first condition that does not hold is shown as failing only where it can be evaluated on its own.

What would change the answer is the nearest: a human's approval where it suffices; else the forbids that hit, each of
which must not, and where nothing permits, the permits with the fewest failing conditions.

Pure. An explanation decides nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import cedarpy
from msgspec import Struct

from nomos.errors import Malformed
from nomos.messages import PolicyRef
from nomos_policy.clauses import Clause, clauses_of
from nomos_policy.decision import AuthorizeFacts, Outcome, decide, engine_request
from nomos_policy.policy import HIGH_STAKES_CLAUSE, Effect, Policy
from nomos_policy.policyset import ENGINE_MESSAGE_MAX, generated_index
from nomos_policy.vocabulary import typed_args

#: Policies that an explanation shows; the nearest first.
SHOWN_MAX: Final = 50
#: Characters of one condition that are shown.
CONDITION_SHOWN_MAX: Final = 300
#: Failing conditions of one policy that are shown.
CONDITIONS_SHOWN_MAX: Final = 20
#: Permits that are named as the nearest.
NEAREST_MAX: Final = 5
_PLATFORM_CONDITION: Final = clauses_of(f"permit(principal, action, resource){HIGH_STAKES_CLAUSE};")[0].text


class Condition(Struct, frozen=True, kw_only=True):
    """One condition of a policy that the request meets.

    Attributes:
        kind: ``when`` or ``unless``.
        text: its body in the policy's words, cut.
        platform: whether the platform added it.
        holds: for the request as it is.
        holds_approved: for the request with a human's approval.
        error: why it could not be evaluated, or empty.
    """

    kind: str
    text: str
    platform: bool
    holds: bool
    holds_approved: bool
    error: str


class Met(Struct, frozen=True, kw_only=True):
    """A policy whose head matches the request.

    Attributes:
        id: its ``@id``.
        description: its sentence, or empty.
        effect: permit or forbid.
        line: of its first token in the set.
        column: the same.
        applies: for the request as it is.
        applies_approved: for the request with a human's approval.
        failing: the conditions that do not hold as it is, at most :data:`CONDITIONS_SHOWN_MAX`; empty where it applies.
        failing_more: conditions beyond these.
    """

    id: str
    description: str
    effect: Effect
    line: int
    column: int
    applies: bool
    applies_approved: bool
    failing: tuple[Condition, ...]
    failing_more: int


class Explanation(Struct, frozen=True, kw_only=True):
    """The answer to one request, and its grounds.

    Attributes:
        outcome: ``allow``, ``deny`` or ``step_up``.
        reason: the decision's.
        errors: the decision's.
        decided_by: the decision's policies.
        revision: of the policy set.
        policy_set: its hash, hex.
        met: policies whose head matches, nearest to the answer first; at most :data:`SHOWN_MAX`.
        met_more: policies beyond these.
        not_met: policies of the set whose head does not match.
        changes: sentences: what would change the answer.
    """

    outcome: str
    reason: str
    errors: tuple[str, ...]
    decided_by: tuple[PolicyRef, ...]
    revision: int
    policy_set: str
    met: tuple[Met, ...]
    met_more: int
    not_met: int
    changes: tuple[str, ...]


def explain(facts: AuthorizeFacts) -> Explanation:
    """Explains the answer to one request. Evaluates each condition once: run it in a thread."""
    decision = decide(facts)
    found = facts.policies.slice(facts.principal, facts.action, facts.resource)
    # Without a pass, nothing was evaluated: arguments that the action does not have, or a policy in quarantine.
    met = _met(facts, found.policies) if decision.passes and not decision.alarm else []
    decided = {one.id for one in decision.policies}
    met.sort(key=lambda one: (one.id not in decided, not one.applies, not one.applies_approved, _distance(one)))
    return Explanation(
        outcome=decision.outcome.value,
        reason=decision.reason,
        errors=decision.errors,
        decided_by=decision.policies,
        revision=decision.revision,
        policy_set=decision.policy_set_hash,
        met=tuple(met[:SHOWN_MAX]),
        met_more=max(0, len(met) - SHOWN_MAX),
        not_met=len(facts.policies.policies) - len(found.policies),
        changes=tuple(_changes(facts, decision.outcome, bool(decision.errors), met)),
    )


def _met(facts: AuthorizeFacts, policies: Sequence[Policy]) -> list[Met]:
    high_stakes = facts.action.risk.is_high_stakes
    conditions = [clauses_of(one.effective_text if high_stakes else one.text) for one in policies]
    flat = [clause for some in conditions for clause in some]
    now, approved = _holding(facts, flat, cosigned=facts.cosigned), _holding(facts, flat, cosigned=True)
    met: list[Met] = []
    place = 0
    for policy, some in zip(policies, conditions, strict=True):
        told = [
            Condition(
                kind=clause.kind,
                text=_cut(clause.text),
                platform=clause.text == _PLATFORM_CONDITION,
                holds=now.get(place + i) is True,
                holds_approved=approved.get(place + i) is True,
                error=error if isinstance(error := now.get(place + i), str) else "",
            )
            for i, clause in enumerate(some)
        ]
        place += len(some)
        failing = _failing(told)
        met.append(
            Met(
                id=policy.id,
                description=policy.description,
                effect=policy.effect,
                line=policy.line,
                column=policy.column,
                applies=all(one.holds for one in told),
                applies_approved=all(one.holds_approved for one in told),
                failing=tuple(failing[:CONDITIONS_SHOWN_MAX]),
                failing_more=max(0, len(failing) - CONDITIONS_SHOWN_MAX),
            )
        )
    return met


def _failing(conditions: Sequence[Condition]) -> list[Condition]:
    failing = [one for one in conditions if not one.holds]
    # An error behind a condition that does not hold is never reached.
    return [one for i, one in enumerate(failing) if i == 0 or not one.error]


def _holding(facts: AuthorizeFacts, clauses: Sequence[Clause], *, cosigned: bool) -> dict[int, bool | str]:
    """By place: True where a condition holds, an error where it cannot be evaluated, nothing where it does not hold."""
    if not clauses:
        return {}
    vocabulary = facts.policies.vocabulary
    entities = vocabulary.entities(facts.principal, facts.resource)
    result = cedarpy.is_authorized(
        engine_request(facts, typed_args(facts.action, facts.args), cosigned=cosigned),
        cedarpy.PolicySet.from_str("\n".join(one.permit for one in clauses)),
        entities,
        vocabulary.schema,
    )
    if result.decision is cedarpy.Decision.NoDecision:
        raise Malformed("the engine gives no decision for this request", cause="; ".join(result.diagnostics.errors))
    holding: dict[int, bool | str] = {generated_index(one): True for one in result.diagnostics.reasons}
    for message in result.diagnostics.errors:
        _, _, rest = message.partition("`")
        name, _, told = rest.partition("`: ")
        holding[generated_index(name)] = told[:ENGINE_MESSAGE_MAX]
    return holding


def _changes(facts: AuthorizeFacts, outcome: Outcome, failed: bool, met: Sequence[Met]) -> list[str]:
    match outcome:
        case Outcome.STEP_UP:
            return ["a human's approval of exactly this request would allow it"]
        case Outcome.ALLOW:
            return [
                f"it would be denied if {_told(one)} ({_name(one)} forbids it then)"
                for one in met
                if one.effect == "forbid" and one.failing
            ][:NEAREST_MAX] or [
                "no forbid that this request meets could apply: only another set of policies changes it"
            ]
        case Outcome.DENY:
            return _toward_allow(facts, failed, met)


def _toward_allow(facts: AuthorizeFacts, failed: bool, met: Sequence[Met]) -> list[str]:
    if failed:
        return ["what failed must be put right: while anything cannot be evaluated, the answer is deny"]
    forbids = [one for one in met if one.effect == "forbid" and one.applies_approved]
    permits = [one for one in met if one.effect == "permit" and one.applies_approved]
    changes = [f"{_name(one)} must not apply: it forbids this, approved or not" for one in forbids]
    lifted = [one for one in met if one.effect == "forbid" and one.applies and not one.applies_approved]
    changes += [f"{_name(one)} forbids this until a human approves" for one in lifted]
    if permits:
        return changes
    nearest = sorted((one for one in met if one.effect == "permit"), key=_distance)[:NEAREST_MAX]
    changes += [f"{_name(one)} would permit it if {_told(one)}" for one in nearest]
    if not nearest:
        changes.append(
            f"no permit's head names this: one is needed for {facts.action.id} on {facts.resource.text} by "
            f"{facts.principal.agent} (app {facts.principal.app})"
        )
    return changes


def _distance(one: Met) -> int:
    return len(one.failing) + one.failing_more


def _cut(text: str) -> str:
    return text if len(text) <= CONDITION_SHOWN_MAX else text[: CONDITION_SHOWN_MAX - 1] + "…"


def _told(met: Met) -> str:
    told = " and ".join(
        "a human approved it"
        if one.platform
        else f"{one.text} could be evaluated ({one.error})"
        if one.error
        else f"{one.text}"
        if one.kind == "when"
        else f"not ({one.text})"
        for one in met.failing
    )
    return f"{told} and {met.failing_more} more conditions hold" if met.failing_more else told


def _name(one: Met) -> str:
    return f"{one.id} ({one.description})" if one.description else one.id
