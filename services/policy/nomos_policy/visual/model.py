"""A policy as a form shows it: who may, or may not, do what, on which resource, when and unless.

The values say exactly what Cedar's own JSON form of a policy says, node for node, so nothing is lost between the two;
what has no node of its own here is an :class:`Opaque` with its text. Every value can be written as JSON: a form, a
page and a program can hold it.

Source: Cedar JSON policy format (EST); Cedar policy language, "Policy grammar".
"""

from __future__ import annotations

from typing import Final, Literal

from msgspec import Struct

from nomos_policy.policy import Effect

#: How deep an expression of a model may nest; the text's own limits are in ``guard``.
EXPRESSION_DEPTH_MAX: Final = 40

Comparison = Literal["==", "!=", "<", "<=", ">", ">=", "in", "contains", "containsAll", "containsAny", "+", "-", "*"]
Variable = Literal["principal", "action", "resource", "context"]


class Entity(Struct, frozen=True, tag_field="node", tag="entity"):
    """An entity, for instance ``App::"triage"``."""

    type: str
    id: str


class Value(Struct, frozen=True, tag_field="node", tag="value"):
    """A text, a whole number or a truth value."""

    value: str | int | bool


class SetOf(Struct, frozen=True, tag_field="node", tag="set"):
    """``[a, b]``."""

    items: tuple[Expression, ...]


class Attribute(Struct, frozen=True, tag_field="node", tag="attribute"):
    """``principal.env``, ``context.args.path``: a variable, and the names after it; no name for the variable itself."""

    variable: Variable
    path: tuple[str, ...] = ()


class Compare(Struct, frozen=True, tag_field="node", tag="compare"):
    """Two operands with an operator or a method between them."""

    operator: Comparison
    left: Expression
    right: Expression


class All(Struct, frozen=True, tag_field="node", tag="all"):
    """``a && b && c``: two parts or more."""

    parts: tuple[Expression, ...]


class Any(Struct, frozen=True, tag_field="node", tag="any"):
    """``a || b || c``: two parts or more."""

    parts: tuple[Expression, ...]


class Not(Struct, frozen=True, tag_field="node", tag="not"):
    """``!a``."""

    part: Expression


class Has(Struct, frozen=True, tag_field="node", tag="has"):
    """``a has name``."""

    of: Expression
    name: str


class Like(Struct, frozen=True, tag_field="node", tag="like"):
    r"""``a like "pattern"``: ``*`` stands for any text, ``\*`` for a star, ``\\`` for a backslash."""

    of: Expression
    pattern: str


class Is(Struct, frozen=True, tag_field="node", tag="is"):
    """``a is Type``, and with ``within`` also ``in`` that."""

    of: Expression
    type: str
    within: Expression | None = None


class Opaque(Struct, frozen=True, tag_field="node", tag="opaque"):
    """An expression that has no node here, as Cedar text."""

    text: str


Expression = Entity | Value | SetOf | Attribute | Compare | All | Any | Not | Has | Like | Is | Opaque


class Scope(Struct, frozen=True, kw_only=True):
    """Whom, or what, the head names.

    ``any``; ``equal`` or ``within`` one entity; of a ``type``, and with ``entity`` also within that.
    """

    kind: Literal["any", "equal", "within", "type"] = "any"
    type: str = ""
    entity: Entity | None = None


class Actions(Struct, frozen=True, kw_only=True):
    """Which actions the head names.

    ``any``; ``equal``: exactly one; ``within``: one action or group; ``among``: any of several. Among one is read as
    within it.
    """

    kind: Literal["any", "equal", "within", "among"] = "any"
    entities: tuple[Entity, ...] = ()


class Condition(Struct, frozen=True, kw_only=True):
    """One ``when`` or ``unless``."""

    kind: Literal["when", "unless"]
    body: Expression


class Model(Struct, frozen=True, kw_only=True):
    """One policy.

    Attributes:
        effect: permit or forbid.
        annotations: name and value in the order of the text; ``id`` among them. None: an annotation without a value.
        principal: who.
        action: what.
        resource: on which.
        conditions: in the order of the text.
    """

    effect: Effect
    annotations: tuple[tuple[str, str | None], ...]
    principal: Scope = Scope()
    action: Actions = Actions()
    resource: Scope = Scope()
    conditions: tuple[Condition, ...] = ()

    @property
    def id(self) -> str:
        """Its ``@id``; empty where it has none."""
        return dict(self.annotations).get("id") or ""


def opaque_parts(expression: Expression) -> tuple[str, ...]:
    """The texts of the parts of an expression that have no node here."""
    match expression:
        case Opaque(text):
            return (text,)
        case SetOf(parts) | All(parts) | Any(parts):
            return tuple(text for part in parts for text in opaque_parts(part))
        case Compare(_, left, right):
            return (*opaque_parts(left), *opaque_parts(right))
        case Not(part) | Has(part) | Like(part):
            return opaque_parts(part)
        case Is(of, _, within):
            return (*opaque_parts(of), *(() if within is None else opaque_parts(within)))
        case _:
            return ()
