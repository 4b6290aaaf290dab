"""Reads a policy's model from Cedar's own JSON form of it. Pure; total over what the engine gives.

What has no node in the model becomes an :class:`~nomos_policy.visual.model.Opaque` whose text the engine writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any as Json
from typing import Final, cast

import cedarpy
import orjson

from nomos.errors import LimitExceeded, MalformedPolicy
from nomos_policy.guard import tokens
from nomos_policy.visual.model import (
    EXPRESSION_DEPTH_MAX,
    Actions,
    All,
    Any,
    Attribute,
    Compare,
    Comparison,
    Condition,
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

_OPERATORS: Final = frozenset({
    "==", "!=", "<", "<=", ">", ">=", "in", "contains", "containsAll", "containsAny", "+", "-", "*",
})  # fmt: skip
_VARIABLES: Final = frozenset({"principal", "action", "resource", "context"})
_LINKS: Final = frozenset({"&&", "||"})

Est = Mapping[str, Json]


def read_policy(text: str) -> tuple[Est, Model]:
    """One policy's JSON form and model.

    Args:
        text: of exactly one policy, within the limits of ``guard``.

    Raises:
        MalformedPolicy: not one policy of Cedar, or a template.
        LimitExceeded: a condition nests too deep for a form.
    """
    est = est_of_text(text)
    order = [name for name, _ in annotation_places(text)]
    return est, read_est(est, order)


def read_expression(text: str) -> Expression:
    """One expression, from its text.

    Raises:
        MalformedPolicy: it is none, or more than one.
        LimitExceeded: it nests too deep for a form.
    """
    # A text that closes the brace is more than one condition, or none: then it is refused.
    _, model = read_policy(f"permit (principal, action, resource) when {{\n{text}\n}};")
    if not text.strip() or len(model.conditions) != 1:
        raise MalformedPolicy("expected one expression")
    return model.conditions[0].body


def est_of_text(text: str) -> Est:
    """Cedar's JSON form of exactly one policy.

    Raises:
        MalformedPolicy: the text is not one policy, or a template.
    """
    try:
        parsed = orjson.loads(cedarpy.policies_to_json_str(text))
    except orjson.JSONDecodeError as error:
        raise MalformedPolicy("the policy nests too deep") from error
    except ValueError as error:
        raise MalformedPolicy(str(error)[:300]) from error
    found: list[Est] = list(parsed["staticPolicies"].values())
    if parsed["templates"] or len(found) != 1:
        raise MalformedPolicy("the text is not one policy" if not parsed["templates"] else "it is a template")
    return found[0]


def annotation_places(text: str) -> list[tuple[str, int]]:
    """Names of a policy's annotations, and where the ``@`` of each stands, in the order of the text."""
    found: list[tuple[str, int]] = []
    at: int | None = None
    depth = 0
    for token, offset in tokens(text):
        if at is not None:
            found.append((token, at))
            at = None
        elif token == "@" and not depth:  # noqa: S105 - a token of Cedar
            at = offset
        elif token in ("(", "{", "["):
            depth += 1
        elif token in (")", "}", "]"):
            depth -= 1
        elif token in ("permit", "forbid") and not depth:
            break
    return found


def read_est(est: Est, order: Sequence[str] = ()) -> Model:
    """The model of one policy.

    Args:
        est: Cedar's JSON form of it.
        order: of the annotations; those that it does not name come behind, by name.

    Raises:
        LimitExceeded: a condition nests too deep.
    """
    notes: dict[str, str | None] = dict(est.get("annotations") or {})
    names = [*(name for name in order if name in notes), *sorted(notes.keys() - set(order))]
    return Model(
        effect="forbid" if est["effect"] == "forbid" else "permit",
        # An annotation without a value is written as one with an empty one, in the engine's JSON form too.
        annotations=tuple((name, notes[name]) for name in names),
        principal=_scope(est["principal"]),
        action=_actions(est["action"]),
        resource=_scope(est["resource"]),
        conditions=tuple(
            Condition(kind="unless" if one["kind"] == "unless" else "when", body=_expression(one["body"], 0))
            for one in est["conditions"]
        ),
    )


def _scope(head: Est) -> Scope:
    match head["op"]:
        case "==":
            return Scope(kind="equal", entity=_entity(head["entity"]))
        case "in":
            return Scope(kind="within", entity=_entity(head["entity"]))
        case "is":
            inner = head.get("in")
            return Scope(
                kind="type", type=head["entity_type"], entity=None if inner is None else _entity(inner["entity"])
            )
        case _:
            return Scope()


def _actions(head: Est) -> Actions:
    match head["op"]:
        case "==":
            return Actions(kind="equal", entities=(_entity(head["entity"]),))
        case "in" if "entity" in head:
            return Actions(kind="within", entities=(_entity(head["entity"]),))
        case "in":
            return Actions(kind="among", entities=tuple(_entity(one) for one in head["entities"]))
        case _:
            return Actions()


def _entity(entity: Mapping[str, str]) -> Entity:
    return Entity(entity["type"], entity["id"])


def _expression(est: Est, depth: int) -> Expression:
    if depth > EXPRESSION_DEPTH_MAX:
        raise LimitExceeded("depth of a condition in a form", EXPRESSION_DEPTH_MAX)
    deeper = depth + 1
    ((kind, inner),) = est.items()
    if kind in _LINKS:
        return _linked(kind, est, depth)
    if kind in _OPERATORS:
        return Compare(cast(Comparison, kind), _expression(inner["left"], deeper), _expression(inner["right"], deeper))
    match kind:
        case "Value":
            return _value(inner, est)
        case "Var" | ".":
            return _attribute(est) or _opaque(est)
        case "Set":
            return SetOf(tuple(_expression(one, deeper) for one in inner))
        case "!":
            return Not(_expression(inner["arg"], deeper))
        case "has":
            return Has(_expression(inner["left"], deeper), inner["attr"])
        case "like":
            return Like(_expression(inner["left"], deeper), _pattern(inner["pattern"]))
        case "is":
            within = inner.get("in")
            return Is(
                _expression(inner["left"], deeper),
                inner["entity_type"],
                None if within is None else _expression(within, deeper),
            )
        case _:
            return _opaque(est)


def _linked(kind: str, est: Est, depth: int) -> Expression:
    """``a && b && c`` as one node: Cedar's form nests to the left. What nests to the right keeps a node of its own."""
    parts: list[Expression] = []
    while kind in est:
        parts.append(_expression(est[kind]["right"], depth + 1))
        est = est[kind]["left"]
    parts.append(_expression(est, depth + 1))
    ordered = tuple(reversed(parts))
    return All(ordered) if kind == "&&" else Any(ordered)


def _value(value: object, est: Est) -> Expression:
    if isinstance(value, Mapping):
        entity = value.get("__entity")
        return _opaque(est) if entity is None else _entity(entity)
    return Value(value) if isinstance(value, str | int) else _opaque(est)


def _attribute(est: Est) -> Attribute | None:
    path: list[str] = []
    while "." in est:
        path.append(est["."]["attr"])
        est = est["."]["left"]
    variable = est.get("Var")
    return Attribute(variable, tuple(reversed(path))) if variable in _VARIABLES else None


def _pattern(pieces: Sequence[Json]) -> str:
    written = []
    for piece in pieces:
        if piece == "Wildcard":
            written.append("*")
        else:
            written.append(piece["Literal"].replace("\\", "\\\\").replace("*", "\\*"))
    return "".join(written)


def _opaque(est: Est) -> Opaque:
    """The engine's own text of an expression."""
    bare = {"op": "All"}
    condition = {"kind": "when", "body": est}
    policy = {"effect": "permit", "principal": bare, "action": bare, "resource": bare, "conditions": [condition]}
    document = {"templates": {}, "staticPolicies": {"policy0": policy}, "templateLinks": []}
    text = cedarpy.policies_from_json_str(orjson.dumps(document).decode())
    return Opaque(text[text.index("{") + 1 : text.rindex("}")].strip())
