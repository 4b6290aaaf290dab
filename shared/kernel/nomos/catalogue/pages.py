"""The arguments of the next page, from the arguments of this one and its answer.

The answer is an upstream's, so what it names is taken only where the action's own declaration admits it as that
argument; asking for the page is a call of its own, decided like any other.

Pure. Source: RFC 8288 (``Link``), RFC 6901 (JSON pointer).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

import orjson

from nomos.catalogue.model import Action, Pagination
from nomos.catalogue.request import check_value
from nomos.errors import Malformed

#: A target in angle brackets, and its parameters up to the next one.
_LINK: Final = re.compile(r"<[^<>]*>([^<]*)")
_IS_NEXT: Final = re.compile(r";\s*rel\s*=\s*(?:\"(?:[^\"]*\s)?next(?:\s[^\"]*)?\"|next(?=[\s,;]|$))", re.IGNORECASE)
#: How the sanitizer marks what it took out; a cursor with a hole in it is none.
_TAKEN_OUT: Final = "[redacted:"


def next_args(
    action: Action, args: Mapping[str, object], headers: Sequence[tuple[str, str]], body: bytes
) -> dict[str, object] | None:
    """What to call ``action`` with for the next page; None where there is none, or none that can be told.

    Args:
        action: what was called.
        args: with which arguments.
        headers: of the sanitized answer, names in lower case.
        body: of the sanitized answer.
    """
    pagination = action.pagination
    if pagination is None:
        return None
    if pagination.kind == "page":
        link = ", ".join(value for name, value in headers if name == "link")
        page = args.get(pagination.parameter, 1)
        has_next = any(_IS_NEXT.search(parameters) for parameters in _LINK.findall(link))
        following: object = page + 1 if has_next and isinstance(page, int) else None
    else:
        following = _cursor(pagination, body)
    parameter = next(one for one in action.parameters if one.name == pagination.parameter)
    try:
        return None if following is None else {**args, parameter.name: check_value(parameter, following)}
    except Malformed:
        return None


def _cursor(pagination: Pagination, body: bytes) -> object:
    """What the answer says of the next page: a text, or an object where a provider gives one; None for neither."""
    try:
        answer = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if pagination.more and _at(answer, pagination.more) is False:
        return None
    found = _at(answer, pagination.next)
    if not isinstance(found, str | dict) or not found:
        return None
    text = found if isinstance(found, str) else orjson.dumps(found).decode()
    return None if _TAKEN_OUT in text else found


def _at(answer: object, pointer: str) -> object:
    for name in pointer.split("/")[1:]:
        if not isinstance(answer, dict):
            return None
        answer = answer.get(name)
    return answer
