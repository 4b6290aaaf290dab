"""How a policy's conditions depend on ``context.cosigned``: not at all, rising, falling, or unclear.

A conservative reading of the syntax tree: "not at all" and "rising" are certain, "unclear" may be a false alarm.
``&&`` and ``||`` keep a direction, ``!`` and ``unless`` turn it, a comparison with ``true`` or ``false`` keeps or
turns it; anywhere else the direction is unclear.

Pure. Source: Cedar JSON policy format, "JsonExpr".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

#: Direction of a place: RISING keeps the meaning of what stands there, FALLING turns it, UNCLEAR may do either.
RISING: Final = 1
FALLING: Final = -1
_UNCLEAR: Final = 0

_Node = tuple[object, int]
_Body = Mapping[str, object]


def cosigned_polarity(conditions: object) -> frozenset[int]:
    """The directions in which ``context.cosigned`` stands in the conditions.

    Args:
        conditions: the list of ``{kind, body}`` of one policy.

    Returns:
        Empty: it does not stand there. ``{RISING}``: the policy can only start to apply when it becomes true.
        ``{FALLING}``: only stop. Both: unclear.
    """
    found: set[int] = set()
    pending: list[_Node] = []
    for condition in conditions if isinstance(conditions, list) else []:
        pending.append((condition["body"], RISING if condition["kind"] == "when" else FALLING))
    while pending:
        node, sign = pending.pop()
        if isinstance(node, list):
            pending.extend((item, _UNCLEAR) for item in node)
        elif _reads_cosigned(node):
            found |= {sign} if sign else {RISING, FALLING}
        elif _is_context(node):
            # the whole context as a value: compared with a record, for one
            found |= {RISING, FALLING}
        elif isinstance(node, dict):
            for operator, body in node.items():
                pending.extend(_parts(operator, body, sign))
    return frozenset(found)


def context_reads(conditions: object) -> frozenset[str] | None:
    """The attributes of ``context`` that the conditions read.

    Args:
        conditions: the list of ``{kind, body}`` of one policy.

    Returns:
        Their names; None where the whole context is used as a value, so that any attribute may matter.
    """
    names: set[str] = set()
    pending: list[object] = [condition["body"] for condition in (conditions if isinstance(conditions, list) else [])]
    while pending:
        node = pending.pop()
        if isinstance(node, list):
            pending.extend(node)
        elif _is_context(node):
            return None
        elif isinstance(node, dict):
            for operator, body in node.items():
                if operator == "Value":
                    continue
                if operator in (".", "has") and isinstance(body, dict) and _is_context(body.get("left")):
                    names.add(str(body.get("attr")))
                else:
                    pending.append(body if not isinstance(body, dict) else list(body.values()))
    return frozenset(names)


def _parts(operator: str, body: object, sign: int) -> list[_Node]:
    """The parts of one operator with the direction of each."""
    if operator == "Value":
        return []
    if not isinstance(body, dict):
        return [(body, _UNCLEAR)]
    if operator in _DIRECTED:
        return _DIRECTED[operator](body, sign)
    return [(part, _UNCLEAR) for part in body.values()]


def _attribute(body: _Body, _sign: int) -> list[_Node]:
    # another key of the context, or `context has x`, which the schema makes a constant, does not read cosigned
    return [] if _is_context(body["left"]) else [(body["left"], _UNCLEAR)]


def _both(body: _Body, sign: int) -> list[_Node]:
    return [(body["left"], sign), (body["right"], sign)]


def _not(body: _Body, sign: int) -> list[_Node]:
    return [(body["arg"], -sign)]


def _choice(body: _Body, sign: int) -> list[_Node]:
    return [(body["if"], _UNCLEAR), (body["then"], sign), (body["else"], sign)]


def _equal(body: _Body, sign: int) -> list[_Node]:
    """``x == true`` is x, ``x == false`` is !x; any other comparison can turn either way."""
    for side, other in ((body["left"], body["right"]), (body["right"], body["left"])):
        if isinstance(other, dict) and isinstance(other.get("Value"), bool):
            return [(side, sign if other["Value"] else -sign)]
    return [(body["left"], _UNCLEAR), (body["right"], _UNCLEAR)]


def _unequal(body: _Body, sign: int) -> list[_Node]:
    return _equal(body, -sign)


_DIRECTED: Final[Mapping[str, Callable[[_Body, int], list[_Node]]]] = {
    ".": _attribute,
    "has": _attribute,
    "&&": _both,
    "||": _both,
    "!": _not,
    "if-then-else": _choice,
    "==": _equal,
    "!=": _unequal,
}


def _reads_cosigned(node: object) -> bool:
    read = node.get(".") if isinstance(node, dict) else None
    return isinstance(read, dict) and read.get("attr") == "cosigned" and _is_context(read.get("left"))


def _is_context(node: object) -> bool:
    return isinstance(node, dict) and node.get("Var") == "context"
