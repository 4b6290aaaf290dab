"""Selectors of the UCAN policy language: ``.a.b[0]["any key"][1:3][]?``.

Decides which texts are selectors and which value one finds in the arguments of an invocation. Leaves truth to
``policy``. Rules, in order:

1. A selector begins with one dot. ``.`` alone is the whole value. Two dots never meet.
2. A field missing from a map is null. Anything else that is not there fails, unless the step ends in ``?``: then
   it is null. Steps after a failure are not looked at.
3. Bytes count as a list of integers for indexes and slices; ``[]`` is the list itself, or the values of a map.

Source: UCAN delegation 1.0.0-rc.1, sections "Selectors", "Selecting on Bytes" and "Validation".
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Final

import msgspec

from nomos.errors import LimitExceeded, MalformedToken
from nomos.ucan.dagcbor import Ipld

SELECTOR_LENGTH_MAX: Final = 256
SELECTOR_STEPS_MAX: Final = 32
#: Parsed selectors kept per process.
SELECTOR_CACHE_MAX: Final = 1024
#: Slices and ``[]`` copy: this many elements cost one step of evaluation.
ELEMENTS_PER_STEP: Final = 64

# One step. Every alternative begins with another character and none repeats a repetition, so matching is linear.
_STEP = re.compile(
    r"""(?:
        \.(?P<field>[A-Za-z_][A-Za-z0-9_]*)
      | \["(?P<key>(?:[^"\\]|\\["\\])*)"\]
      | (?P<values>\[\])
      | \[(?P<index>0|-?[1-9][0-9]{0,8})\]
      | \[(?P<start>0|-?[1-9][0-9]{0,8})?:(?P<stop>0|-?[1-9][0-9]{0,8})?\]
    )(?P<optional>\?*)""",
    re.VERBOSE | re.ASCII | re.DOTALL,
)
_ESCAPE = re.compile(r'\\(["\\])')


class Unresolved(Exception):
    """There is no value at that path. Not a refusal yet: ``policy`` turns it into "false"."""


class Field(msgspec.Struct, frozen=True):
    """A value of a map by its key."""

    key: str
    optional: bool


class Index(msgspec.Struct, frozen=True):
    """An element of a list by position, from the end if negative."""

    position: int
    optional: bool


class Slice(msgspec.Struct, frozen=True):
    """A range of a list; ``stop`` is exclusive."""

    start: int | None
    stop: int | None
    optional: bool


class Values(msgspec.Struct, frozen=True):
    """The elements of a list, or the values of a map."""

    optional: bool


Step = Field | Index | Slice | Values


class Selector(msgspec.Struct, frozen=True):
    """A parsed selector and the text it came from."""

    text: str
    steps: tuple[Step, ...]


@lru_cache(maxsize=SELECTOR_CACHE_MAX)
def parse_selector(text: str) -> Selector:
    """Reads a selector.

    Raises:
        MalformedToken: not a selector of the specification.
        LimitExceeded: more than SELECTOR_LENGTH_MAX characters or SELECTOR_STEPS_MAX steps.
    """
    if len(text) > SELECTOR_LENGTH_MAX:
        raise LimitExceeded("selector_length_max", SELECTOR_LENGTH_MAX, len(text))
    if not text.startswith("."):
        raise MalformedToken("selector must begin with a dot")
    # The leading dot belongs to a field (".a") or stands alone, before a bracket (".[0]") or before nothing (".").
    # The identity never fails, so making it optional (".?") changes nothing.
    is_identity = text.rstrip("?") == "."
    position = len(text) if is_identity else 1 if text[1] == "[" else 0
    steps: list[Step] = []
    while position < len(text):
        found = _STEP.match(text, position)
        if found is None:
            raise MalformedToken(f"selector has no step at character {position}")
        steps.append(_step(found))
        position = found.end()
    if len(steps) > SELECTOR_STEPS_MAX:
        raise LimitExceeded("selector_steps_max", SELECTOR_STEPS_MAX, len(steps))
    return Selector(text, tuple(steps))


def _step(found: re.Match[str]) -> Step:
    optional = bool(found["optional"])
    if found["field"] is not None:
        return Field(found["field"], optional)
    if found["key"] is not None:
        return Field(_ESCAPE.sub(r"\1", found["key"]), optional)
    if found["values"] is not None:
        return Values(optional)
    if found["index"] is not None:
        return Index(int(found["index"]), optional)
    start, stop = found["start"], found["stop"]
    return Slice(None if start is None else int(start), None if stop is None else int(stop), optional)


def resolve(selector: Selector, value: Ipld, spend: Callable[[int], None]) -> Ipld:
    """Finds the value that ``selector`` names in ``value``.

    Args:
        selector: the path.
        value: where it starts.
        spend: is told the cost in steps and raises when there are none left.

    Raises:
        Unresolved: there is none and the failing step is not optional.
    """
    for step in selector.steps:
        copied = len(value) if isinstance(step, Slice | Values) and isinstance(value, list | bytes | dict) else 0
        spend(1 + copied // ELEMENTS_PER_STEP)
        try:
            value = _take(step, value)
        except Unresolved:
            if not step.optional:
                raise
            value = None
    return value


def _take(step: Step, value: Ipld) -> Ipld:
    match step, value:
        case Field(key=key), dict():
            return value.get(key)
        case Index(position=position), list() | bytes():
            if -len(value) <= position < len(value):
                return value[position]
        case Slice(start=start, stop=stop), list() | bytes():
            return value[start:stop]
        case Values(), list() | bytes():
            return value
        case Values(), dict():
            return list(value.values())
    raise Unresolved
