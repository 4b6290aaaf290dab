"""What another policy set changes: answers counted by what was asked, with a few examples.

Pure. Counts name at most :data:`NAMES_MAX` agents, actions and resources; the rest is summed up, so that a report is
bounded whatever was asked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from msgspec import Struct

from nomos_policy.decision import AuthorizeFacts, Decision

#: Changed answers that are shown.
EXAMPLES_MAX: Final = 10
#: Agents, actions and resources that a report of changes names.
NAMES_MAX: Final = 20
#: Deciding policies that an example names.
POLICIES_MAX: Final = 10
OTHERS: Final = "(others)"


class Change(Struct, frozen=True, kw_only=True):
    """A request that the other set answers differently. ``seq`` is the record's number where it is known."""

    seq: int | None = None
    decision: str
    tenant: str
    agent: str
    action: str
    resource: str
    before: str
    after: str
    reason: str
    policies: tuple[str, ...]


class Changes(Struct, frozen=True, kw_only=True):
    """What another set changes. Counts by ``before -> after``, agent, action and resource."""

    evaluated: int
    changed: int
    by_answer: Mapping[str, int]
    by_agent: Mapping[str, int]
    by_action: Mapping[str, int]
    by_resource: Mapping[str, int]
    examples: tuple[Change, ...]


class Tally:
    """Counts what another set changes."""

    def __init__(self) -> None:
        self.evaluated = 0
        self._answers: Counter[str] = Counter()
        self._agents: Counter[str] = Counter()
        self._actions: Counter[str] = Counter()
        self._resources: Counter[str] = Counter()
        self._examples: list[Change] = []

    def add(self, facts: AuthorizeFacts, before: str, after: Decision, decided: str, seq: int | None = None) -> None:
        """Counts one request.

        Args:
            facts: what was asked.
            before: the outcome that it had.
            after: what the other set says.
            decided: id of the decision.
            seq: number of its record, where it is known.
        """
        self.evaluated += 1
        if before == after.outcome.value:
            return
        self._answers[f"{before} -> {after.outcome.value}"] += 1
        self._agents[f"{facts.principal.tenant}/{facts.principal.agent}"] += 1
        self._actions[facts.action.id] += 1
        self._resources[facts.resource.text] += 1
        if len(self._examples) < EXAMPLES_MAX:
            self._examples.append(
                Change(
                    seq=seq,
                    decision=decided,
                    tenant=facts.principal.tenant,
                    agent=facts.principal.agent,
                    action=facts.action.id,
                    resource=facts.resource.text,
                    before=before,
                    after=after.outcome.value,
                    reason=after.reason,
                    policies=tuple(policy.id for policy in after.policies[:POLICIES_MAX]),
                )
            )

    def summed(self) -> Changes:
        """What was counted so far."""
        return Changes(
            evaluated=self.evaluated,
            changed=self._answers.total(),
            by_answer=dict(self._answers.most_common()),
            by_agent=dict(_most(self._agents)),
            by_action=dict(_most(self._actions)),
            by_resource=dict(_most(self._resources)),
            examples=tuple(self._examples),
        )


def joined(some: Iterable[Changes]) -> Changes:
    """Several reports as one; what one of them summed up as others stays so."""
    evaluated = changed = 0
    answers: Counter[str] = Counter()
    agents: Counter[str] = Counter()
    actions: Counter[str] = Counter()
    resources: Counter[str] = Counter()
    examples: list[Change] = []
    for one in some:
        evaluated += one.evaluated
        changed += one.changed
        answers.update(one.by_answer)
        agents.update(one.by_agent)
        actions.update(one.by_action)
        resources.update(one.by_resource)
        examples += one.examples[: EXAMPLES_MAX - len(examples)]
    return Changes(
        evaluated=evaluated,
        changed=changed,
        by_answer=dict(answers.most_common()),
        by_agent=dict(_most(agents)),
        by_action=dict(_most(actions)),
        by_resource=dict(_most(resources)),
        examples=tuple(examples),
    )


def _most(counted: Counter[str]) -> Iterator[tuple[str, int]]:
    named = [(name, number) for name, number in counted.most_common() if name != OTHERS][:NAMES_MAX]
    yield from named
    left = counted.total() - sum(number for _, number in named)
    if left:
        yield OTHERS, left
