"""What every match of a pattern must hold, worked out from the pattern: how long a run of ordinary characters.

Ordinary are the characters of one line of ASCII: what can be printed, and the tab. All escape sequences and all base64
consist of them, so nothing that is decoded makes such a run longer. A test builds matches and looks.

Patterns are read by the parser of the standard library's ``re``, whose name is private; no text is matched with it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import reduce
from re import _constants as codes  # type: ignore[attr-defined]  # private, as said above
from re import _parser  # type: ignore[attr-defined]
from typing import Any, Final

import msgspec

ORDINARY: Final = frozenset(b"\t") | frozenset(range(0x20, 0x7F))
#: Runs of ordinary characters that are long, and those that are long enough for a match of nothing else.
RUN_MIN: Final = 16
SHORT_RUN_MIN: Final = 8
_BYTES: Final = frozenset(range(256))
_CATEGORIES: Final = {
    codes.CATEGORY_SPACE: frozenset(b" \t\n\r\f\v"),
    codes.CATEGORY_DIGIT: frozenset(b"0123456789"),
}


class Shape(msgspec.Struct, frozen=True):
    """What is certain of every match.

    Attributes:
        is_ordinary: all of it is ordinary characters.
        head: so many of them stand at its beginning,
        tail: at its end,
        run: and somewhere in it without a break.
    """

    is_ordinary: bool
    head: int
    tail: int
    run: int

    @property
    def is_certain(self) -> bool:
        """Whether every match stands within a run of at least ``SHORT_RUN_MIN`` ordinary characters."""
        return self.is_ordinary and self.run >= SHORT_RUN_MIN

    @property
    def is_loose(self) -> bool:
        """Whether a match need neither stand within such a run nor have one of ``RUN_MIN`` in it."""
        return not self.is_certain and self.run < RUN_MIN


_EMPTY: Final = Shape(is_ordinary=True, head=0, tail=0, run=0)
_ORDINARY: Final = Shape(is_ordinary=True, head=1, tail=1, run=1)
_OTHER: Final = Shape(is_ordinary=False, head=0, tail=0, run=0)


def shape(pattern: bytes) -> Shape:
    """The shape of a pattern.

    Raises:
        ValueError: something stands in it that the rules do not use.
    """
    return _sequence(_parser.parse(pattern, re.DOTALL))


def _sequence(items: Iterable[tuple[Any, Any]]) -> Shape:
    return reduce(_then, (_item(code, value) for code, value in items), _EMPTY)


def _item(code: Any, value: Any) -> Shape:
    if code is codes.LITERAL:
        return _one_of(frozenset((value,)))
    if code is codes.NOT_LITERAL:
        return _one_of(_BYTES - {value})
    if code is codes.IN:
        return _one_of(_class(value))
    if code is codes.ANY:
        return _OTHER
    if code is codes.AT:
        return _EMPTY
    if code is codes.SUBPATTERN:
        return _sequence(value[-1])
    if code is codes.BRANCH:
        return reduce(_or, map(_sequence, value[1]))
    if code is codes.MAX_REPEAT:
        least, most, inner = value
        once = _sequence(inner)
        more = _or(_EMPTY, once) if most > least else _EMPTY
        return reduce(_then, [once] * least + [more], _EMPTY)
    raise ValueError(f"no rule was expected to hold {code}")


def _one_of(characters: frozenset[int]) -> Shape:
    return _ORDINARY if characters <= ORDINARY else _OTHER


def _class(items: Iterable[tuple[Any, Any]]) -> frozenset[int]:
    is_negated = False
    characters: set[int] = set()
    for code, value in items:
        if code is codes.NEGATE:
            is_negated = True
        elif code is codes.LITERAL:
            characters.add(value)
        elif code is codes.RANGE:
            characters.update(range(value[0], value[1] + 1))
        elif code is codes.CATEGORY and value in _CATEGORIES:
            characters |= _CATEGORIES[value]
        else:
            raise ValueError(f"no rule was expected to hold {value} in a class")
    return _BYTES - characters if is_negated else frozenset(characters)


def _then(one: Shape, other: Shape) -> Shape:
    return Shape(
        is_ordinary=one.is_ordinary and other.is_ordinary,
        head=one.head + (other.head if one.is_ordinary else 0),
        tail=other.tail + (one.tail if other.is_ordinary else 0),
        run=max(one.run, other.run, one.tail + other.head),
    )


def _or(one: Shape, other: Shape) -> Shape:
    return Shape(
        is_ordinary=one.is_ordinary and other.is_ordinary,
        head=min(one.head, other.head),
        tail=min(one.tail, other.tail),
        run=min(one.run, other.run),
    )
