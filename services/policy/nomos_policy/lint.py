"""What is wrong, or can hardly be meant, in a policy text; each finding with policy, line, column and a sentence.

An **error** is why the text would be refused (``policyset.compile_policies``), but all of them and not the first alone.
A **warning** is about a policy that may be put in force:

* ``unreachable``: a forbid without conditions covers everything that the permit names, so it never permits;
* ``adds-nothing``: another policy of the same effect, without conditions, covers everything that this one names;
* ``duplicate``: another policy has the same effect, head and conditions;
* ``never-applies``: a condition is false by itself, or asks for an attribute that nothing its head names has;
* ``permits-everything``: a permit without conditions whose head names nothing.

A head covers another if it matches every request that the other matches. What is certain is found, not everything that
is true: conditions are not compared, and of two entities only the same one is known to lie in itself.

Pure. Source: rules "Cedar"; Cedar policy language, "Policy grammar".
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator
from typing import Final, Literal

import msgspec

from nomos.catalogue import Catalogue
from nomos_policy.clauses import clauses_of
from nomos_policy.guard import tokens
from nomos_policy.policy import Policy
from nomos_policy.policyset import CompiledSet, load_policies
from nomos_policy.slicing import EntityUid, Head, Scope
from nomos_policy.vocabulary import Vocabulary

#: Findings of one text; the first in the order of the text.
FINDINGS_MAX: Final = 100
#: Attributes of the context, beside those of the action's arguments.
_CONTEXT: Final = frozenset({"cosigned", "now", "env", "connection", "args", "claims"})
_NEVER: Final = frozenset({("when", "false"), ("unless", "true")})
#: The last name that a message of the engine quotes is the attribute's.
_QUOTED: Final = re.compile(r"attribute `([^`]+)`")


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One finding.

    Attributes:
        severity: ``error``: the text is refused; ``warning``: it is not.
        rule: its name; see the module, and for errors ``refused``, ``less-with-approval`` and ``unknown-attribute``.
        policy: the policy's ``@id`` as far as known, or empty.
        line: from 1; 0 when it is about the whole text.
        column: from 1; 0 likewise.
        sentence: what is wrong.
    """

    severity: Literal["error", "warning"]
    rule: str
    policy: str
    line: int
    column: int
    sentence: str


def lint(text: str, vocabulary: Vocabulary) -> list[Finding]:
    """The findings on a text, in its order; at most :data:`FINDINGS_MAX`. Takes as long as compiling: use a thread."""
    loaded = load_policies(text, vocabulary, revision=0)
    found = [*_errors(loaded), *warnings(loaded)]
    found.sort(key=lambda one: (one.line, one.column, one.rule))
    return found[:FINDINGS_MAX]


def warnings(policies: CompiledSet) -> list[Finding]:
    """The warnings on a compiled set, in the order of the text; at most :data:`FINDINGS_MAX`."""
    catalogue = policies.vocabulary.catalogue
    judged = [_Judged(policy, catalogue) for policy in policies.policies]
    found = [*_covered(judged), *_duplicates(judged)]
    for one in judged:
        found += _alone(one)
    found.sort(key=lambda one: (one.line, one.column, one.rule))
    return found[:FINDINGS_MAX]


class _Judged:
    """A policy with what the rules ask of it."""

    __slots__ = ("actions", "arguments", "clauses", "policy")

    def __init__(self, policy: Policy, catalogue: Catalogue) -> None:
        self.policy = policy
        self.clauses = clauses_of(policy.text)
        named = policy.head.actions
        matched = [
            action
            for action in catalogue.actions.values()
            if named is None
            or not named.isdisjoint(
                {
                    ("Action", action.id),
                    ("Action", f"risk:{action.risk.value}"),
                    ("Action", f"connector:{action.connector}"),
                }
            )
        ]
        self.actions = None if named is None else frozenset(action.id for action in matched)
        self.arguments = frozenset(parameter.name for action in matched for parameter in action.parameters)


def _errors(loaded: CompiledSet) -> Iterator[Finding]:
    for one in loaded.quarantined:
        attribute = _QUOTED.search(one.error)
        line, column = one.line, one.column
        if attribute and one.policy is not None:
            line, column = _place_of(one.policy, attribute[1].rpartition(".")[2])
        rule = "unknown-attribute" if attribute else "refused"
        yield Finding(severity="error", rule=rule, policy=one.id, line=line, column=column, sentence=one.error)
    readable = (*loaded.policies, *(one.policy for one in loaded.quarantined if one.policy is not None))
    for policy in readable:
        if policy.anti_monotone:
            line, column = _place_of(policy, "cosigned")
            sentence = "it may grant less with a human's approval than without: let context.cosigned only widen"
            yield Finding(
                severity="error",
                rule="less-with-approval",
                policy=policy.id,
                line=line,
                column=column,
                sentence=sentence,
            )


def _alone(one: _Judged) -> Iterator[Finding]:
    policy = one.policy
    if policy.effect == "permit" and not one.clauses and policy.head == Head(
        principal=Scope(), actions=None, resource=Scope()
    ):  # fmt: skip
        yield _warning(policy, "permits-everything", "it permits every agent everything that no forbid names")
    for clause in one.clauses:
        if (clause.kind, clause.text) in _NEVER:
            yield _warning(policy, "never-applies", f"{clause.kind} {{ {clause.text} }} never holds", clause.offset)
        if clause.kind == "when":
            # Elsewhere than on its own, a test that is never true may be meant as one of several.
            missing = _missing_attribute(clause.text, one.arguments)
            if missing is not None:
                told = f"nothing that its head names has {missing}, so this never holds"
                yield _warning(policy, "never-applies", told, clause.offset)


def _missing_attribute(condition: str, arguments: frozenset[str]) -> str | None:
    """What ``context has x`` or ``context.args has x`` asks for, standing alone, if there is no such thing."""
    words = [token for token, _ in tokens(condition, raw=True)]
    name = words[-1].strip('"') if words else ""
    match words[:-1]:
        case ["context", "has"] if name not in _CONTEXT:
            return f"context.{name}"
        case ["context", ".", "args", "has"] if name not in arguments:
            return f"the argument {name}"
    return None


def _covered(judged: list[_Judged]) -> Iterator[Finding]:
    """Policies that another one makes pointless. Wide ones are found by their keys, so this is not quadratic."""
    wide: dict[tuple[Hashable, Hashable], list[tuple[int, _Judged]]] = defaultdict(list)
    for place, one in enumerate(judged):
        if not one.clauses:
            wide[one.policy.head.principal.key, one.policy.head.resource.key].append((place, one))
    for place, one in enumerate(judged):
        finding = None
        for principal in _wider_keys(one.policy.head.principal):
            for resource in _wider_keys(one.policy.head.resource):
                for other_place, other in wide.get((principal, resource), ()):
                    if other is not one and _covers(other, one):
                        finding = finding or _pointless(one, place, other, other_place)
        if finding is not None:
            yield finding


def _pointless(one: _Judged, place: int, other: _Judged, other_place: int) -> Finding | None:
    policy, wider = one.policy, other.policy
    told = f"{wider.id} (line {wider.line})"
    if policy.effect == "permit" and wider.effect == "forbid":
        return _warning(
            policy, "unreachable", f"it never permits: {told} forbids all that it names, without conditions"
        )
    if policy.effect != wider.effect or (policy.unattended is not None and wider.unattended is None):
        return None
    alike = not one.clauses and _covers(one, other) and (policy.unattended is None) == (wider.unattended is None)
    # Of two that cover each other the later is told; by the rule on duplicates where the heads are also spelled alike.
    if alike and (place < other_place or policy.head == wider.head):
        return None
    return _warning(policy, "adds-nothing", f"{told} says as much without conditions")


def _duplicates(judged: Iterable[_Judged]) -> Iterator[Finding]:
    first: dict[Hashable, Policy] = {}
    for one in judged:
        policy = one.policy
        conditions = frozenset((clause.kind, clause.text) for clause in one.clauses)
        earlier = first.setdefault((policy.effect, policy.unattended is None, policy.head, conditions), policy)
        if earlier is not policy:
            yield _warning(policy, "duplicate", f"{earlier.id} (line {earlier.line}) says the same")


def _covers(wide: _Judged, narrow: _Judged) -> bool:
    """Whether ``wide``'s head matches whatever ``narrow``'s matches: True is certain."""
    if wide.actions is not None and (narrow.actions is None or not narrow.actions <= wide.actions):
        return False
    one, other = wide.policy.head, narrow.policy.head
    return _scope_covers(one.principal, other.principal) and _scope_covers(one.resource, other.resource)


def _scope_covers(wide: Scope, narrow: Scope) -> bool:
    if wide.equal is not None:
        return narrow.equal == wide.equal
    if wide.within is not None and wide.within not in (narrow.within, narrow.equal):
        return False
    return wide.type is None or wide.type == (narrow.equal[0] if narrow.equal is not None else narrow.type)


def _wider_keys(scope: Scope) -> set[Hashable]:
    """Every :attr:`Scope.key` of a scope that can cover this one."""
    equal: EntityUid | None = scope.equal
    return {None, scope.type, equal, scope.within, None if equal is None else equal[0]}


def _warning(policy: Policy, rule: str, sentence: str, offset: int = 0) -> Finding:
    line, column = _position(policy, offset)
    return Finding(severity="warning", rule=rule, policy=policy.id, line=line, column=column, sentence=sentence)


def _place_of(policy: Policy, name: str) -> tuple[int, int]:
    """Where a name stands in a policy's conditions; else where the policy begins."""
    clauses = clauses_of(policy.text)
    start = min((clause.offset for clause in clauses), default=len(policy.text))
    try:
        words = tokens(policy.text, raw=True)
        return next(_position(policy, offset) for word, offset in words if offset >= start and word.strip('"') == name)
    except StopIteration:
        return policy.line, policy.column


def _position(policy: Policy, offset: int) -> tuple[int, int]:
    before = policy.text[:offset]
    lines = before.count("\n")
    column = len(before) - before.rfind("\n") if lines else policy.column + len(before)
    return policy.line + lines, column
