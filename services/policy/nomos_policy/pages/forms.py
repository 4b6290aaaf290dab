"""A policy's model as the fields of a form, and back.

A condition is shown as rows that must all hold: a left side, an operator, a right side. Sides are Cedar expressions,
each read by the engine on its own, so no side can run over into another. What fits no row stands as text in one.

Rules: what is too much for the form (:data:`CONDITIONS_MAX`, :data:`ROWS_MAX`) leaves the policy to its text. The model
that comes out is what ``document`` holds the new text against; this module decides nothing about it.

Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, get_args

from nomos.errors import LimitExceeded, MalformedPolicy
from nomos_policy.policy import Effect
from nomos_policy.visual.model import (
    Actions,
    All,
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
    Scope,
)
from nomos_policy.visual.reading import read_expression
from nomos_policy.visual.writing import write_expression

#: Conditions of a policy that a form shows, and rows of each.
CONDITIONS_MAX: Final = 6
ROWS_MAX: Final = 8
#: Empty ones that a form offers beside those that are filled.
SPARE: Final = 1
ACTION_TYPE: Final = "Action"
HOLDS: Final = "holds"
FAILS: Final = "does not hold"
_COMPARISONS: Final = tuple(one for one in get_args(Comparison) if one not in ("+", "-", "*"))
#: What stands between two sides, in the order of the list.
OPERATORS: Final = (*_COMPARISONS, "like", "has", "is", HOLDS, FAILS)
SCOPES: Final = ("any", "equal", "within", "type")
ACTIONS: Final = ("any", "equal", "within", "among")
CLAUSES: Final = ("when", "unless")
EFFECTS: Final = get_args(Effect)
_HEAD: Final = (
    "effect", "annotations",
    "principal_kind", "principal_type", "principal_id",
    "action_kind", "actions",
    "resource_kind", "resource_type", "resource_id",
)  # fmt: skip
FIELDS: Final = (
    *_HEAD,
    *(f"c{at}_kind" for at in range(CONDITIONS_MAX)),
    *(
        f"c{at}_{row}_{side}"
        for at in range(CONDITIONS_MAX)
        for row in range(ROWS_MAX)
        for side in ("left", "operator", "right")
    ),
)


def fields_of(model: Model) -> dict[str, str]:
    """The fields of a policy; those that are empty are left out.

    Raises:
        LimitExceeded: it has more than a form shows.
        MalformedPolicy: its fields would not come back as they are.
    """
    fields = {
        "effect": model.effect,
        "annotations": "\n".join(_annotation(name, value) for name, value in model.annotations),
        **_scope_fields("principal", model.principal),
        "action_kind": model.action.kind,
        "actions": "\n".join(_action(one) for one in model.action.entities),
        **_scope_fields("resource", model.resource),
    }
    if len(model.conditions) > CONDITIONS_MAX:
        raise LimitExceeded("conditions of a policy in a form", CONDITIONS_MAX, len(model.conditions))
    for at, condition in enumerate(model.conditions):
        rows = condition.body.parts if isinstance(condition.body, All) else (condition.body,)
        if len(rows) > ROWS_MAX:
            raise LimitExceeded("rows of a condition in a form", ROWS_MAX, len(rows))
        fields[f"c{at}_kind"] = condition.kind
        for number, part in enumerate(rows):
            left, operator, right = _row(part)
            fields |= {
                f"c{at}_{number}_left": left,
                f"c{at}_{number}_operator": operator,
                f"c{at}_{number}_right": right,
            }
    found = {name: value for name, value in fields.items() if value}
    # A browser cuts line ends, and this module cuts blanks: what would come back as another policy is no form's.
    if model_of(found) != model:
        raise MalformedPolicy("a text of it does not survive in a field")
    return found


def model_of(fields: Mapping[str, str]) -> Model:
    """The policy that a form's fields say.

    Raises:
        MalformedPolicy: a field says nothing that a policy has; which one, and why.
        LimitExceeded: a side nests too deep.
    """
    conditions = []
    for at in range(CONDITIONS_MAX):
        parts = [part for row in range(ROWS_MAX) if (part := _part(fields, at, row)) is not None]
        kind = fields.get(f"c{at}_kind", "")
        if not parts:
            continue
        if kind not in CLAUSES:
            raise MalformedPolicy(f"condition {at + 1} has rows, and is neither a when nor an unless")
        body: Expression = parts[0] if len(parts) == 1 else All(tuple(parts))
        conditions.append(Condition(kind="when" if kind == "when" else "unless", body=body))
    effect = fields.get("effect", "")
    if effect not in EFFECTS:
        raise MalformedPolicy("a policy permits or forbids")
    return Model(
        effect="permit" if effect == "permit" else "forbid",
        annotations=_annotations(fields.get("annotations", "")),
        principal=_scope("principal", fields),
        action=_actions(fields),
        resource=_scope("resource", fields),
        conditions=tuple(conditions),
    )


# --- the head ---------------------------------------------------------------------------------------------------------


def _annotation(name: str, value: str | None) -> str:
    if value is not None and ("\n" in value or "\r" in value or value != value.strip()):
        raise LimitExceeded("lines of an annotation in a form", 1)
    return name if value is None else f"{name}: {value}"


def _annotations(text: str) -> tuple[tuple[str, str | None], ...]:
    found: list[tuple[str, str | None]] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        name, colon, value = line.partition(":")
        found.append((name.strip(), value.strip() if colon else None))
    if len({name for name, _ in found}) != len(found):
        raise MalformedPolicy("an annotation stands twice")
    return tuple(found)


def _scope_fields(variable: str, scope: Scope) -> dict[str, str]:
    entity = scope.entity
    named = scope.type if scope.kind == "type" else entity.type if entity else ""
    # Of a type and within an entity: the entity is written whole, behind the type.
    inner = "" if entity is None else write_expression(entity) if scope.kind == "type" else entity.id
    return {f"{variable}_kind": scope.kind, f"{variable}_type": named, f"{variable}_id": inner}


def _scope(variable: str, fields: Mapping[str, str]) -> Scope:
    kind, type_, inner = (fields.get(f"{variable}_{one}", "").strip() for one in ("kind", "type", "id"))
    match kind:
        case "any" | "":
            if type_ or inner:
                raise MalformedPolicy(f"the {variable} is any, and yet one is named")
            return Scope()
        case "equal" | "within" if type_ and inner:
            return Scope(kind="equal" if kind == "equal" else "within", entity=Entity(type_, inner))
        case "type" if type_:
            return Scope(kind="type", type=type_, entity=_entity(inner, variable) if inner else None)
    raise MalformedPolicy(f"the {variable} needs a type" + (" and an id" if kind in ("equal", "within") else ""))


def _entity(text: str, what: str) -> Entity:
    found = _side(text, what)
    if not isinstance(found, Entity):
        raise MalformedPolicy(f'{what}: expected an entity, such as Team::"ops"')
    return found


def _action(entity: Entity) -> str:
    return entity.id if entity.type == ACTION_TYPE and _is_plain(entity.id) else write_expression(entity)


def _is_plain(text: str) -> bool:
    return text == text.strip() and text.isprintable() and '"' not in text and bool(text)


def _actions(fields: Mapping[str, str]) -> Actions:
    kind = fields.get("action_kind", "").strip() or "any"
    lines = [one.strip() for one in fields.get("actions", "").splitlines() if one.strip()]
    entities = tuple(_entity(one, "action") if '"' in one else Entity(ACTION_TYPE, one) for one in lines)
    match kind:
        case "any" if not entities:
            return Actions()
        case "equal" | "within" if len(entities) == 1:
            return Actions(kind="equal" if kind == "equal" else "within", entities=entities)
        case "among" if entities:
            # Among one is within it: the engine knows no difference.
            return Actions(kind="among" if len(entities) > 1 else "within", entities=entities)
    raise MalformedPolicy(
        "any action means that none is named; exactly and within take one action, and among takes one or more"
    )


# --- rows -------------------------------------------------------------------------------------------------------------


def _row(part: Expression) -> tuple[str, str, str]:
    """Left side, operator and right side of one part."""
    match part:
        case Compare(operator, left, right) if operator in _COMPARISONS:
            return write_expression(left), operator, write_expression(right)
        case Like(of, pattern) if pattern == pattern.strip() and pattern.isprintable():
            return write_expression(of), "like", pattern
        case Has(of, name) if _is_plain(name):
            return write_expression(of), "has", name
        case Is(of, type_, None):
            return write_expression(of), "is", type_
        case Not(inner):
            return _line(write_expression(inner)), FAILS, ""
        case _:
            return _line(write_expression(part)), HOLDS, ""


def _line(text: str) -> str:
    """In one line: outside its texts, which hold no line end, Cedar takes a line end for a space."""
    return text.replace("\n", " ")


def _part(fields: Mapping[str, str], at: int, row: int) -> Expression | None:
    left, operator, right = (fields.get(f"c{at}_{row}_{side}", "").strip() for side in ("left", "operator", "right"))
    if not left and not right:
        return None
    where = f"condition {at + 1}, row {row + 1}"
    if operator not in OPERATORS:
        raise MalformedPolicy(f"{where}: nothing stands between the two sides")
    if operator in (HOLDS, FAILS):
        if right:
            raise MalformedPolicy(f"{where}: {operator!r} takes a left side alone")
        found = _side(left, where)
        return Not(found) if operator == FAILS else found
    if not left or not right:
        raise MalformedPolicy(f"{where}: one side is missing")
    of = _side(left, where)
    made: Mapping[str, Callable[[], Expression]] = {
        "like": lambda: Like(of, right),
        "has": lambda: Has(of, right),
        "is": lambda: Is(of, right),
    }
    if operator in made:
        return made[operator]()
    return Compare(_comparison(operator), of, _side(right, where))


def _comparison(text: str) -> Comparison:
    return next(one for one in _COMPARISONS if one == text)


def _side(text: str, where: str) -> Expression:
    try:
        return read_expression(text)
    except MalformedPolicy as error:
        raise MalformedPolicy(
            f"{where}: {error.detail}",
            cause=error.cause,
            hint='a text stands in quotes: "open"; an entity is App::"triage"',
        ) from error
