"""Writes a policy's model as Cedar text. Whoever saves it compares what it means with the model (``meaning``).

Brackets stand where the grammar needs them, and around ``&&`` inside ``||``, where people read them wrong.
"""

from __future__ import annotations

import re
from typing import Final

from nomos.errors import LimitExceeded, MalformedPolicy
from nomos_policy.visual.meaning import pattern_pieces
from nomos_policy.visual.model import (
    EXPRESSION_DEPTH_MAX,
    Actions,
    All,
    Any,
    Attribute,
    Compare,
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

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TYPE: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(?:::[A-Za-z_][A-Za-z0-9_]*)*")
_RESERVED: Final = frozenset({"true", "false", "if", "then", "else", "in", "like", "has", "is", "__cedar"})
_METHODS: Final = frozenset({"contains", "containsAll", "containsAny"})
_SHORT: Final = {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\0": "\\0", "\\": "\\\\", '"': '\\"'}
#: How strongly an expression binds; a weaker one stands in brackets.
_BRACKETS, _OR, _AND, _RELATION, _SUM, _PRODUCT, _UNARY, _MEMBER = range(8)
_STRENGTH: Final = {"+": _SUM, "-": _SUM, "*": _PRODUCT}


def write_annotations(model: Model) -> str:
    """The annotations, a line each, without the last line's end."""
    return "\n".join(_annotation(name, value) for name, value in model.annotations)


def write_head(model: Model) -> str:
    """Effect and scope, up to the closing bracket."""
    lines = [
        _scope("principal", model.principal),
        _actions(model.action),
        _scope("resource", model.resource),
    ]
    body = ",\n  ".join(lines)
    return f"{model.effect} (\n  {body}\n)"


def write_condition(condition: Condition) -> str:
    """One condition. Parts of ``&&`` stand on lines of their own."""
    if isinstance(condition.body, All):
        body = " &&\n  ".join(_expression(one, _RELATION, 1) for one in condition.body.parts)
        return f"{condition.kind} {{\n  {body}\n}}"
    return f"{condition.kind} {{ {_expression(condition.body, _OR, 0)} }}"


def write_policy(model: Model) -> str:
    """The whole policy, with its semicolon.

    Raises:
        MalformedPolicy: a name or type that Cedar does not have.
        LimitExceeded: a condition nests too deep.
    """
    parts = [write_annotations(model), write_head(model), *map(write_condition, model.conditions)]
    return "\n".join(part for part in parts if part) + ";"


def write_expression(expression: Expression) -> str:
    """The text of one expression."""
    return _expression(expression, _OR, 0)


def string(value: str) -> str:
    """A Cedar string literal that says ``value``."""
    return '"' + "".join(_character(one) for one in value) + '"'


def _annotation(name: str, value: str | None) -> str:
    if _NAME.fullmatch(name) is None:
        raise MalformedPolicy(f"the annotation {name[:40]!r} must be letters, digits and underscores")
    return f"@{name}" if value is None else f"@{name}({string(value)})"


def _scope(variable: str, scope: Scope) -> str:
    match scope.kind:
        case "any":
            return variable
        case "type":
            inner = "" if scope.entity is None else f" in {_entity(scope.entity)}"
            return f"{variable} is {_type(scope.type)}{inner}"
        case kind:
            if scope.entity is None:
                raise MalformedPolicy(f"the {variable} needs an entity")
            return f"{variable} {'==' if kind == 'equal' else 'in'} {_entity(scope.entity)}"


def _actions(actions: Actions) -> str:
    if actions.kind == "any":
        return "action"
    if actions.kind != "among" and len(actions.entities) != 1:
        raise MalformedPolicy("the head needs one action")
    written = [_entity(one) for one in actions.entities]
    match actions.kind:
        case "equal":
            return f"action == {written[0]}"
        case "within":
            return f"action in {written[0]}"
        case _ if len(written) == 1:
            return f"action in [{written[0]}]"
        case _:
            return "action in [\n    " + ",\n    ".join(written) + "\n  ]"


def _entity(entity: Entity) -> str:
    return f"{_type(entity.type)}::{string(entity.id)}"


def _type(name: str) -> str:
    if _TYPE.fullmatch(name) is None or not _RESERVED.isdisjoint(name.split("::")):
        raise MalformedPolicy(f"{name[:60]!r} is no type of entities")
    return name


def _expression(expression: Expression, strength: int, depth: int) -> str:
    """The text of an expression; in brackets where it binds less than ``strength``."""
    if depth > EXPRESSION_DEPTH_MAX:
        raise LimitExceeded("depth of a condition in a form", EXPRESSION_DEPTH_MAX)
    own, text = _written(expression, depth + 1)
    return text if own >= strength else f"({text})"


def _written(expression: Expression, depth: int) -> tuple[int, str]:
    """How strongly an expression binds, and its text."""
    match expression:
        case Compare():
            return _compared(expression, depth)
        case All(parts):
            return _AND, " && ".join(_expression(one, _RELATION, depth) for one in parts)
        case Any(parts):
            return _OR, " || ".join(_expression(one, _RELATION, depth) for one in parts)
        case Not(part):
            return _UNARY, f"!{_expression(part, _MEMBER, depth)}"
        case Has(of, name):
            written = name if _is_name(name) else string(name)
            return _RELATION, f"{_expression(of, _SUM, depth)} has {written}"
        case Like(of, pattern):
            return _RELATION, f"{_expression(of, _SUM, depth)} like {_pattern(pattern)}"
        case Is(of, type_, within):
            inner = "" if within is None else f" in {_expression(within, _SUM, depth)}"
            return _RELATION, f"{_expression(of, _SUM, depth)} is {_type(type_)}{inner}"
        case Opaque(text):
            return _BRACKETS, text
        case _:
            return _operand(expression, depth)


def _operand(expression: Entity | Value | SetOf | Attribute, depth: int) -> tuple[int, str]:
    match expression:
        case Entity():
            return _MEMBER, _entity(expression)
        case Value(bool(value)):
            return _MEMBER, "true" if value else "false"
        case Value(int(number)):
            # A negative number is written like an operation, so it stands in brackets where a member must.
            return (_UNARY if number < 0 else _MEMBER), str(number)
        case Value(value):
            return _MEMBER, string(str(value))
        case SetOf(items):
            return _MEMBER, "[" + ", ".join(_expression(one, _OR, depth) for one in items) + "]"
        case Attribute(variable, path):
            return _MEMBER, variable + "".join(f".{one}" if _is_name(one) else f"[{string(one)}]" for one in path)


def _compared(expression: Compare, depth: int) -> tuple[int, str]:
    operator, left, right = expression.operator, expression.left, expression.right
    if operator in _METHODS:
        return _MEMBER, f"{_expression(left, _MEMBER, depth)}.{operator}({_expression(right, _OR, depth)})"
    own = _STRENGTH.get(operator, _RELATION)
    # Sums and products go to the left; a relation does not chain at all.
    on_left = own if own > _RELATION else _SUM
    return own, f"{_expression(left, on_left, depth)} {operator} {_expression(right, own + 1, depth)}"


def _is_name(name: str) -> bool:
    return _NAME.fullmatch(name) is not None and name not in _RESERVED


def _character(character: str) -> str:
    if character in _SHORT:
        return _SHORT[character]
    return character if character.isprintable() else f"\\u{{{ord(character):x}}}"


def _pattern(pattern: str) -> str:
    def written(one: str, is_wildcard: bool) -> str:
        return "*" if is_wildcard else "\\*" if one == "*" else _character(one)

    return '"' + "".join(written(*piece) for piece in pattern_pieces(pattern)) + '"'
