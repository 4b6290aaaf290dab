"""What may reach the Cedar engine at all: limits on policy text, and a check of agent-supplied values.

The engine parses and evaluates by recursion in native code: text that nests too deep ends the process with a signal
that no ``except`` can catch. So the shape of a text is bounded here, by a lexer that knows Cedar's strings and
comments, before any call into cedarpy. Brackets alone do not bound it: ``a || a || ...``, ``x.y.y...`` and
``if if ...`` nest without a bracket, so operators of one condition are counted too.

The lexer also cuts the text into policies and knows where each begins, because the engine's errors carry no position.

Leaves to others: grammar and types (``policyset``), the bytes and depth of arguments (``nomos.request.check_args``).

Source: Cedar policy language, "Policy grammar" (tokens STR, IDENT, comments).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

from msgspec import Struct

from nomos.errors import LimitExceeded, MalformedPolicy, ReservedKey
from nomos.request import check_args

#: Bytes of one policy set as UTF-8.
POLICY_TEXT_BYTES_MAX: Final = 4 * 1024 * 1024
#: Bytes of one policy as UTF-8.
POLICY_BYTES_MAX: Final = 16 * 1024
#: Policies of one tenant.
POLICIES_MAX: Final = 12_000
#: Open brackets of any kind at one place.
BRACKET_DEPTH_MAX: Final = 64
#: Operators of one ``when`` or ``unless`` clause: what can nest without a bracket.
OPERATORS_MAX: Final = 400
#: Attribute steps in one path; ``has a.b.c`` grows with the square of its length inside the engine.
PATH_STEPS_MAX: Final = 32

#: Keys that only the server writes. An agent that sends one, at any depth, is refused and the attempt is recorded.
RESERVED_CONTEXT_KEYS: Final = frozenset({
    "cosigned", "stepup", "now", "env", "tenant", "app", "agent", "connection", "args", "claims",
    "principal", "action", "resource", "context", "unattended",
})  # fmt: skip

_TOKEN: Final = re.compile(
    r"""(?P<blank>\s+|//[^\n\r]*)|(?P<string>"(?:\\.|[^"\\])*")|(?P<word>[A-Za-z_][A-Za-z0-9_]*)"""
    r"""|(?P<number>[0-9]+)|(?P<operator>&&|\|\||[=!<>]=|::|.)""",
    re.ASCII,
)
_END: Final = ";"
_OPENING: Final = {"(": ")", "[": "]", "{": "}"}
_CLOSING: Final = frozenset(_OPENING.values())
_OPERATORS: Final = frozenset({
    "&&", "||", "==", "!=", "<", ">", "<=", ">=", "+", "-", "*", "!", ".", "[",
    "if", "then", "else", "has", "like", "is", "in",
})  # fmt: skip
#: A step of an attribute path: x.a and x["a"].
_PATH_TOKENS: Final = frozenset({".", "["})


class Fragment(Struct, frozen=True, kw_only=True):
    """One policy's text as it stands in the set, up to and with its ``;``.

    Attributes:
        text: from the first token (annotations included) to the semicolon.
        line: of the first token, from 1.
        column: of the first token in characters, from 1.
    """

    text: str
    line: int
    column: int


def split_policies(text: str) -> tuple[Fragment, ...]:
    """Checks every limit of a policy text and cuts it into policies.

    Args:
        text: Cedar policies. Comments between policies belong to no fragment.

    Returns:
        The policies in order; empty for a text of blanks and comments.

    Raises:
        LimitExceeded: the text is over a limit of this module.
        MalformedPolicy: NUL, a lone surrogate, an unclosed string, or brackets that do not match.
    """
    _check_characters(text)
    fragments: list[Fragment] = []
    shape = _Shape(text)
    start: int | None = None
    # Counted on from policy to policy: from the beginning each time, a long text costs the square of its length.
    line, counted = 1, 0
    for token, offset in tokens(text):
        start = offset if start is None else start
        shape.take(token, offset)
        if token == _END and not shape.open:
            line += text.count("\n", counted, start)
            counted = start
            fragments.append(_fragment(text, start, offset + 1, line))
            if len(fragments) > POLICIES_MAX:
                raise LimitExceeded("policies of a set", POLICIES_MAX)
            start = None
    if shape.open:
        raise MalformedPolicy(f"bracket is never closed at {position(text, shape.open[-1][1])}")
    if start is not None:
        raise MalformedPolicy(f"policy is not ended by a semicolon at {position(text, start)}")
    return tuple(fragments)


def check_agent_data(args: object, claims: object) -> tuple[dict[str, object], dict[str, object]]:
    """Checks what an agent says before any of it is used.

    Args:
        args: the action's arguments.
        claims: what the agent says about itself.

    Returns:
        Both, as mappings.

    Raises:
        ReservedKey: a key that belongs to the server or to Cedar's JSON form (``__extn``, ...), at any depth.
        Malformed: a value that is no JSON without floats, NUL, a lone surrogate.
        LimitExceeded: too deep, too large.
    """
    checked: tuple[dict[str, object], dict[str, object]] = ({**check_args(args)}, {**check_args(claims)})
    for values in checked:
        found = next((key for key in _keys(values) if key in RESERVED_CONTEXT_KEYS), None)
        if found is not None:
            raise ReservedKey(f"the key {found} belongs to the server")
    return checked


def tokens(text: str, *, raw: bool = False) -> Iterator[tuple[str, int]]:
    """The tokens of a policy text with their offsets; blanks and comments are passed over.

    Args:
        text: Cedar.
        raw: give strings as they stand; else each string is an empty one, so that no token is text of its author's.

    Raises:
        MalformedPolicy: a string is never closed.
    """
    for found in _TOKEN.finditer(text):
        kind = found.lastgroup
        if kind == "blank":
            continue
        if kind == "string":
            yield (found.group() if raw else '""'), found.start()
            continue
        token = found.group()
        if token == '"':  # noqa: S105 - a quote that opened no whole string
            raise MalformedPolicy(f"string is never closed at {position(text, found.start())}")
        yield token, found.start()


def comments(text: str) -> Iterator[tuple[str, int]]:
    """The comments of a policy text with their offsets, without line ends. A string that looks like one is none."""
    for found in _TOKEN.finditer(text):
        if found.lastgroup == "blank" and found.group().startswith("//"):
            yield found.group(), found.start()


def position(text: str, offset: int) -> str:
    """``line L, column C`` of a character, both from 1."""
    line, column = _line_column(text, offset)
    return f"line {line}, column {column}"


class _Shape:
    """Depth and operator counts while the tokens of a text go by."""

    __slots__ = ("_text", "open", "operators", "steps")

    def __init__(self, text: str) -> None:
        self._text = text
        self.open: list[tuple[str, int]] = []
        self.operators = 0
        self.steps = 0

    def take(self, token: str, offset: int) -> None:
        if not self.open:
            # each clause is an expression of its own; the engine joins clauses by a list, not by nesting
            self.operators = self.steps = 0
        if token in _OPENING:
            self.open.append((token, offset))
            if len(self.open) > BRACKET_DEPTH_MAX:
                raise LimitExceeded(f"bracket depth ({position(self._text, offset)})", BRACKET_DEPTH_MAX)
        elif token in _CLOSING and (not self.open or _OPENING[self.open.pop()[0]] != token):
            raise MalformedPolicy(f"bracket closes nothing at {position(self._text, offset)}")
        self._count(token, offset)

    def _count(self, token: str, offset: int) -> None:
        if token in _OPERATORS:
            self.operators += 1
            self.steps = self.steps + 1 if token in _PATH_TOKENS else 0
        if self.operators > OPERATORS_MAX:
            raise LimitExceeded(f"operators of one clause ({position(self._text, offset)})", OPERATORS_MAX)
        if self.steps > PATH_STEPS_MAX:
            raise LimitExceeded(f"steps of one path ({position(self._text, offset)})", PATH_STEPS_MAX)


def _check_characters(text: str) -> None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        raise MalformedPolicy(f"policy text holds a lone surrogate at {position(text, error.start)}") from error
    if size > POLICY_TEXT_BYTES_MAX:
        raise LimitExceeded("bytes of a policy set", POLICY_TEXT_BYTES_MAX, size)
    nul = text.find("\0")
    if nul >= 0:
        raise MalformedPolicy(f"policy text holds NUL at {position(text, nul)}")


def _fragment(text: str, start: int, end: int, line: int) -> Fragment:
    column = start - text.rfind("\n", 0, start)
    fragment = text[start:end]
    size = len(fragment.encode())
    if size > POLICY_BYTES_MAX:
        raise LimitExceeded(f"bytes of a policy (line {line}, column {column})", POLICY_BYTES_MAX, size)
    return Fragment(text=fragment, line=line, column=column)


def _line_column(text: str, offset: int) -> tuple[int, int]:
    return text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset)


def _keys(values: Mapping[str, object]) -> Iterator[str]:
    pending: list[object] = [values]
    while pending:
        value = pending.pop()
        if isinstance(value, Mapping):
            yield from value
            pending.extend(value.values())
        elif isinstance(value, list):
            pending.extend(value)
