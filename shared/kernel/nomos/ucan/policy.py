"""The UCAN policy language: what a delegation demands of the arguments of an invocation.

Decides which statements are well formed, and whether arguments satisfy them. Leaves finding values to ``selector``.
Rules, in order:

1. An operator that is not in the specification is refused when the token is read, wherever it stands.
2. A statement about a value that is not there is false, and so is a comparison of the wrong type. ``!=`` about a
   value that is not there is false too: of the specification's two sentences this takes the one that refuses.
3. ``and`` and ``or`` over nothing are true, as the specification says. ``any`` over an empty collection is false:
   nothing in it satisfies the statement.
4. Booleans are not numbers; ``1`` and ``1.0`` are equal.
5. Reading and evaluating have limits. Running out of evaluation steps refuses, it never counts as true.

Source: UCAN delegation 1.0.0-rc.1, section "Policy".
"""

from __future__ import annotations

from typing import Final, Literal, assert_never

import msgspec

from nomos.errors import LimitExceeded, MalformedToken, PolicyNotMet
from nomos.ucan.cid import Link
from nomos.ucan.dagcbor import Ipld
from nomos.ucan.glob import Glob, parse_glob
from nomos.ucan.selector import Selector, Unresolved, parse_selector, resolve

POLICY_DEPTH_MAX: Final = 16
POLICY_STATEMENTS_MAX: Final = 256
#: Statements, compared values and scanned pieces of text that one policy may cost (some 25 ms at worst).
EVALUATION_STEPS_MAX: Final = 10_000
#: A `like` over a long text costs one step per this many characters, beside one per part of its pattern.
CHARACTERS_PER_STEP: Final = 256

EqualityOperator = Literal["==", "!="]
OrderOperator = Literal["<", "<=", ">", ">="]
ConnectiveOperator = Literal["and", "or"]
QuantifierOperator = Literal["all", "any"]


class Equality(msgspec.Struct, frozen=True):
    """``["==", selector, value]`` or ``["!=", selector, value]``: deep comparison."""

    operator: EqualityOperator
    selector: Selector
    value: Ipld


class Order(msgspec.Struct, frozen=True):
    """``["<", selector, number]`` and its three siblings."""

    operator: OrderOperator
    selector: Selector
    number: int | float


class Like(msgspec.Struct, frozen=True):
    """``["like", selector, pattern]``."""

    selector: Selector
    pattern: Glob


class Connective(msgspec.Struct, frozen=True):
    """``["and", [statement, ...]]`` or ``["or", [statement, ...]]``."""

    operator: ConnectiveOperator
    statements: tuple[Statement, ...]


class Not(msgspec.Struct, frozen=True):
    """``["not", statement]``."""

    statement: Statement


class Quantifier(msgspec.Struct, frozen=True):
    """``["all", selector, statement]`` or ``["any", selector, statement]``."""

    operator: QuantifierOperator
    selector: Selector
    statement: Statement


Statement = Equality | Order | Like | Connective | Not | Quantifier
Policy = tuple[Statement, ...]


def parse_policy(value: Ipld) -> Policy:
    """Reads the ``pol`` field of a delegation.

    Args:
        value: the decoded field.

    Raises:
        MalformedToken: not a list of statements of the specification.
        LimitExceeded: nested deeper than POLICY_DEPTH_MAX or more than POLICY_STATEMENTS_MAX statements in all.
    """
    return _Reader().statements(value, 1)


def check_policy(policy: Policy, arguments: Ipld) -> None:
    """Demands that ``arguments`` satisfy every statement of ``policy``.

    Args:
        policy: the statements of one delegation.
        arguments: the ``args`` of the invocation.

    Raises:
        PolicyNotMet: a statement is false; the detail names the first by its position.
        LimitExceeded: deciding would cost more than EVALUATION_STEPS_MAX steps.
    """
    evaluation = _Evaluation()
    for position, statement in enumerate(policy):
        if not evaluation.holds(statement, arguments):
            raise PolicyNotMet(f"statement {position} of the policy is not met")


class _Reader:
    """Reads statements and counts them."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0

    def statements(self, value: Ipld, depth: int) -> tuple[Statement, ...]:
        if not isinstance(value, list):
            raise MalformedToken("expected a list of policy statements")
        return tuple([self.statement(one, depth) for one in value])

    def statement(self, value: Ipld, depth: int) -> Statement:
        self.count += 1
        if self.count > POLICY_STATEMENTS_MAX:
            raise LimitExceeded("policy_statements_max", POLICY_STATEMENTS_MAX)
        if depth > POLICY_DEPTH_MAX:
            raise LimitExceeded("policy_depth_max", POLICY_DEPTH_MAX)
        if not isinstance(value, list) or not value or not isinstance(value[0], str):
            raise MalformedToken("policy statement is not a list that begins with its operator")
        operator, operands = value[0], value[1:]
        match operator, operands:
            case ("==" | "!=") as equality, [str() as selector, argument]:
                return Equality(equality, parse_selector(selector), argument)
            case ("<" | "<=" | ">" | ">=") as order, [str() as selector, int() | float() as number] if not isinstance(
                number, bool
            ):
                return Order(order, parse_selector(selector), number)
            case "like", [str() as selector, str() as pattern]:
                return Like(parse_selector(selector), parse_glob(pattern))
            case ("and" | "or") as connective, [inner]:
                return Connective(connective, self.statements(inner, depth + 1))
            case "not", [inner]:
                return Not(self.statement(inner, depth + 1))
            case ("all" | "any") as quantifier, [str() as selector, inner]:
                return Quantifier(quantifier, parse_selector(selector), self.statement(inner, depth + 1))
        raise MalformedToken("policy holds a statement that the UCAN policy language does not have")


class _Evaluation:
    """One evaluation with its remaining steps. Recursion is bounded by the limits on reading."""

    __slots__ = ("steps_left",)

    def __init__(self) -> None:
        self.steps_left = EVALUATION_STEPS_MAX

    def spend(self, steps: int) -> None:
        self.steps_left -= steps
        if self.steps_left < 0:
            raise LimitExceeded("policy_evaluation_steps_max", EVALUATION_STEPS_MAX)

    def holds(self, statement: Statement, value: Ipld) -> bool:
        self.spend(1)
        match statement:
            case Connective(operator="and", statements=statements):
                return all(self.holds(one, value) for one in statements)
            case Connective(statements=statements):
                return not statements or any(self.holds(one, value) for one in statements)
            case Not(statement=inner):
                return not self.holds(inner, value)
        try:
            selected = resolve(statement.selector, value, self.spend)
        except Unresolved:
            return False
        return self.holds_for(statement, selected)

    def holds_for(self, statement: Equality | Order | Like | Quantifier, selected: Ipld) -> bool:
        match statement:
            case Equality(operator=operator, value=value):
                return self.equal(selected, value) is (operator == "==")
            case Order(operator=operator, number=number):
                return _is_number(selected) and _in_order(operator, selected, number)
            case Like(pattern=pattern):
                if not isinstance(selected, str):
                    return False
                self.spend(len(pattern.parts) + len(selected) // CHARACTERS_PER_STEP)
                return pattern.matches(selected)
            case Quantifier(operator=operator, statement=inner):
                return self.quantified(operator, inner, selected)
            case _:
                assert_never(statement)

    def quantified(self, operator: QuantifierOperator, inner: Statement, selected: Ipld) -> bool:
        if isinstance(selected, dict):
            selected = list(selected.values())
        if not isinstance(selected, list):
            return False
        holds = (self.holds(inner, one) for one in selected)
        return all(holds) if operator == "all" else any(holds)

    def equal(self, left: Ipld, right: Ipld) -> bool:
        """Deep comparison by type. Python's own ``==`` would call true and 1 equal."""
        self.spend(1)
        if isinstance(left, list) and isinstance(right, list):
            return len(left) == len(right) and all(self.equal(a, b) for a, b in zip(left, right, strict=True))
        if isinstance(left, dict) and isinstance(right, dict):
            return left.keys() == right.keys() and all(self.equal(one, right[key]) for key, one in left.items())
        if isinstance(left, str | bytes | bool | Link | None):
            return type(left) is type(right) and left == right
        return _is_number(left) and _is_number(right) and left == right


def _is_number(value: Ipld) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _in_order(operator: OrderOperator, left: Ipld, right: int | float) -> bool:
    assert isinstance(left, int | float)
    match operator:
        case "<":
            return left < right
        case "<=":
            return left <= right
        case ">":
            return left > right
        case ">=":
            return left >= right
        case _:
            assert_never(operator)
