"""What a policy's model means: Cedar's own JSON form of it, written without a detour through text.

The text of an edited policy is written by ``writing`` and parsed again by the engine; that must give what stands here.
So a value that could break out of its place in a text (a quote, a line end, a star) shows as a difference, not as a
policy.

Pure. Source: Cedar JSON policy format (EST).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any as Json

from nomos.errors import LimitExceeded, MalformedPolicy
from nomos_policy.visual.model import (
    EXPRESSION_DEPTH_MAX,
    Actions,
    All,
    Any,
    Attribute,
    Compare,
    Entity,
    Expression,
    Has,
    Is,
    Like,
    Model,
    Not,
    Opaque,
    Scope,
    SetOf,
    Value,
)
from nomos_policy.visual.reading import est_of_text


def write_est(model: Model) -> dict[str, Json]:
    """Cedar's JSON form of the policy, as :func:`~nomos_policy.visual.reading.est_of_text` gives it.

    Raises:
        LimitExceeded: a condition nests too deep.
        MalformedPolicy: an opaque part is no expression.
    """
    est: dict[str, Json] = {
        "effect": model.effect,
        "principal": _scope_est(model.principal),
        "action": _actions_est(model.action),
        "resource": _scope_est(model.resource),
        "conditions": [{"kind": one.kind, "body": _est(one.body, 0)} for one in model.conditions],
    }
    if model.annotations:
        est["annotations"] = dict(model.annotations)
    return est


def _scope_est(scope: Scope) -> dict[str, Json]:
    entity = None if scope.entity is None else {"type": scope.entity.type, "id": scope.entity.id}
    match scope.kind:
        case "any":
            return {"op": "All"}
        case "type":
            return {"op": "is", "entity_type": scope.type, **({} if entity is None else {"in": {"entity": entity}})}
        case kind:
            return {"op": "==" if kind == "equal" else "in", "entity": entity}


def _actions_est(actions: Actions) -> dict[str, Json]:
    entities = [{"type": one.type, "id": one.id} for one in actions.entities]
    match actions.kind:
        case "any":
            return {"op": "All"}
        # Of one action Cedar's form says the same as without the list.
        case "among" if len(entities) != 1:
            return {"op": "in", "entities": entities}
        case kind:
            return {"op": "==" if kind == "equal" else "in", "entity": entities[0]}


def _est(expression: Expression, depth: int) -> dict[str, Json]:
    if depth > EXPRESSION_DEPTH_MAX:
        raise LimitExceeded("depth of a condition in a form", EXPRESSION_DEPTH_MAX)
    deeper = depth + 1
    match expression:
        case Compare(operator, left, right):
            return {operator: {"left": _est(left, deeper), "right": _est(right, deeper)}}
        case All(parts):
            return _linked_est("&&", parts, deeper)
        case Any(parts):
            return _linked_est("||", parts, deeper)
        case Not(part):
            return {"!": {"arg": _est(part, deeper)}}
        case Has(of, name):
            return {"has": {"left": _est(of, deeper), "attr": name}}
        case Like(of, pattern):
            pieces = ["Wildcard" if is_wildcard else {"Literal": one} for one, is_wildcard in pattern_pieces(pattern)]
            return {"like": {"left": _est(of, deeper), "pattern": pieces}}
        case Is(of, type_, within):
            inner: dict[str, Json] = {} if within is None else {"in": _est(within, deeper)}
            return {"is": {"left": _est(of, deeper), "entity_type": type_, **inner}}
        case Opaque(text):
            return _opaque_est(text)
        case _:
            return _operand_est(expression, deeper)


def _operand_est(expression: Entity | Value | SetOf | Attribute, depth: int) -> dict[str, Json]:
    match expression:
        case Entity(type_, id_):
            return {"Value": {"__entity": {"type": type_, "id": id_}}}
        case Value(value):
            return {"Value": value}
        case SetOf(items):
            return {"Set": [_est(one, depth) for one in items]}
        case Attribute(variable, path):
            return reduce(lambda left, name: {".": {"left": left, "attr": name}}, path, {"Var": variable})


def _linked_est(link: str, parts: Sequence[Expression], depth: int) -> dict[str, Json]:
    if len(parts) < 2:
        raise MalformedPolicy(f"{link} needs two parts")
    return reduce(lambda left, right: {link: {"left": left, "right": right}}, [_est(one, depth) for one in parts])


def _opaque_est(text: str) -> dict[str, Json]:
    # A body that closes its own brace is more than one policy, or none: then it is refused.
    conditions = est_of_text(f"permit (principal, action, resource) when {{\n{text}\n}};")["conditions"]
    if len(conditions) != 1:
        raise MalformedPolicy("an opaque part must be one expression")
    body: dict[str, Json] = conditions[0]["body"]
    return body


def pattern_pieces(pattern: str) -> list[tuple[str, bool]]:
    """The characters of a pattern of a :class:`~nomos_policy.visual.model.Like`, and whether each is a wildcard.

    Raises:
        MalformedPolicy: a backslash that escapes nothing.
    """
    pieces: list[tuple[str, bool]] = []
    characters = iter(pattern)
    for one in characters:
        if one != "\\":
            pieces.append((one, one == "*"))
            continue
        escaped = next(characters, None)
        if escaped not in ("*", "\\"):
            raise MalformedPolicy("in a pattern, a backslash stands before * or another backslash")
        pieces.append((escaped, False))
    return pieces
