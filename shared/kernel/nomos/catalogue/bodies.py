"""Bodies of requests: how members at dotted paths are written, and how they are read back.

Formats: ``json``, one object with sorted keys; ``form``, pairs in the order of their paths, where a member ``b`` of
``a`` is written ``a[b]``, the first entry of a list ``a[0]``, and an entry ``k`` of a map ``a[k]``; ``text``, one
text; ``mail`` and ``mail_draft``, JSON around a message of :mod:`nomos.catalogue.mail`. Each value has one spelling in
each. What was not written so is not read: a second spelling could mean something else upstream. Not here: ``content``,
bytes that nobody looks into, and ``multipart`` (:mod:`nomos.catalogue.multipart`).

A path may hold the name of a field of the resource, ``RequestItems.{table}.Keys``: the member there is named by the
field, it is the only one of its object, and what stands at ``RequestItems.{table}`` is that name.

Pure. Source: RFC 8259; WHATWG URL standard section 5 (application/x-www-form-urlencoded).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final, cast
from urllib.parse import quote, unquote

import orjson

from nomos.catalogue.mail import PARTS, read_mail, write_mail
from nomos.catalogue.model import WHOLE, Action, BodyFormat
from nomos.errors import Malformed

#: A value at a dotted path.
Value = str | int | bool | list[str] | dict[str, str] | object

CONTENT_TYPES: Final[Mapping[BodyFormat, str]] = {
    "json": "application/json",
    "form": "application/x-www-form-urlencoded",
    "text": "text/plain; charset=utf-8",
    "content": "application/octet-stream",
    "multipart": "multipart/form-data",
    "mail": "application/json",
    "mail_draft": "application/json",
}
#: A part of a path that stands for the name of a member.
_NAMED: Final = re.compile(r"\{[a-z][a-z0-9_]*\}")
_PAIR_NAME: Final = re.compile(r"([A-Za-z_][A-Za-z0-9_-]*)((?:\[[A-Za-z0-9_-]+\])*)")


def content_type_of(action: Action) -> str:
    """The media type of an action's bodies."""
    return action.content_type or CONTENT_TYPES[action.body_format]


def names_a_member(path: str) -> bool:
    """Whether what stands at ``path`` is a member's name and not its value."""
    return path.endswith("}") and _NAMED.fullmatch(path.rpartition(".")[2]) is not None


def write_body(body_format: BodyFormat, members: Mapping[str, Value]) -> bytes:
    """The body that holds each value at its dotted path.

    Args:
        body_format: a form holds texts, integers, booleans, and lists and maps of texts; a mail its own parts.
        members: dotted path to value. No path is the beginning of another.

    Raises:
        Malformed: a part of a mail cannot stand in its place.
    """
    if body_format == "text":
        return str(members[WHOLE]).encode()
    if body_format == "form":
        pairs = [pair for path, value in sorted(members.items()) for pair in _pairs(_bracketed(path), value)]
        return "&".join(f"{quote(name, safe='[]')}={quote(text, safe='')}" for name, text in pairs).encode()
    if body_format in ("mail", "mail_draft"):
        return _write_mail(body_format, members)
    if WHOLE in members:
        return orjson.dumps(members[WHOLE], option=orjson.OPT_SORT_KEYS)
    tree: dict[str, object] = {}
    for path, value in members.items():
        steps = _steps(path, members)
        is_name = names_a_member(path)
        node = tree
        for parent in steps if is_name else steps[:-1]:
            inner = node.setdefault(parent, {})
            if not isinstance(inner, dict):  # the loader refuses such paths
                raise Malformed(f"{path} lies inside another member")
            node = inner
        if not is_name:
            node[steps[-1]] = value
    return orjson.dumps(tree, option=orjson.OPT_SORT_KEYS)


def read_body(body_format: BodyFormat, body: bytes, paths: Mapping[str, str]) -> dict[str, Value]:
    """The values at their dotted paths.

    Args:
        body_format: as it was written.
        body: the bytes on the wire.
        paths: every path that may stand there, to the type of its value.

    Raises:
        Malformed: something else stands there, or not in the one spelling of :func:`write_body`.
    """
    if body_format == "form":
        found = _read_form(body, paths)
    elif body_format == "text":
        found = {WHOLE: _text(body)}
    elif body_format == "json":
        found = dict(_leaves(_parsed(body), "", paths))
    else:
        found = _read_mail(body_format, _parsed(body), paths)
    if write_body(body_format, found) != body:
        raise Malformed("the body is not in its one spelling")
    return found


def _steps(path: str, members: Mapping[str, Value]) -> list[str]:
    """The names of the members on the way to a path; some are values themselves."""
    parts = path.split(".")
    return [
        str(members[".".join(parts[: depth + 1])]) if _NAMED.fullmatch(part) else part
        for depth, part in enumerate(parts)
    ]


def _write_mail(body_format: BodyFormat, members: Mapping[str, Value]) -> bytes:
    message: dict[str, object] = {"raw": write_mail({name: members[name] for name in PARTS if name in members})}
    if "thread" in members:
        message["threadId"] = members["thread"]
    tree = message if body_format == "mail" else {"message": message}
    return orjson.dumps(tree, option=orjson.OPT_SORT_KEYS)


def _read_mail(body_format: BodyFormat, tree: object, paths: Mapping[str, str]) -> dict[str, Value]:
    message = tree.get("message") if body_format == "mail_draft" and isinstance(tree, dict) else tree
    if not isinstance(message, dict) or not isinstance(message.get("raw"), str):
        raise Malformed("the body holds no message")
    found: dict[str, Value] = read_mail(message["raw"])
    if "threadId" in message:
        found["thread"] = message["threadId"]
    if not set(found) <= set(paths):
        raise Malformed("the message holds what is not declared")
    return found


def _text(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise Malformed("the body is not UTF-8") from error


def _parsed(body: bytes) -> object:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise Malformed("the body is not JSON") from error


def _leaves(node: object, path: str, paths: Mapping[str, str]) -> Iterator[tuple[str, Value]]:
    if path in paths:
        yield path, node
        return
    if not isinstance(node, dict):
        raise Malformed("the body holds what is not declared")
    named = next((other for other in paths if names_a_member(other) and other.rpartition(".")[0] == path), None)
    if named is not None:
        if len(node) != 1:
            raise Malformed("the body names more than one, or none, where it names what it acts on")
        ((name, inner),) = node.items()
        yield named, name
        yield from _inside(inner, named, paths)
        return
    yield from _inside(node, path, paths)


def _inside(node: object, path: str, paths: Mapping[str, str]) -> Iterator[tuple[str, Value]]:
    if not isinstance(node, dict):
        raise Malformed("the body holds what is not declared")
    for name, inner in node.items():
        if "." in name or "{" in name:
            raise Malformed("the body holds a name that no path has")
        yield from _leaves(inner, f"{path}.{name}" if path else name, paths)


def _read_form(body: bytes, paths: Mapping[str, str]) -> dict[str, Value]:
    found: dict[str, Value] = {}
    for pair in body.decode("ascii", "surrogateescape").split("&") if body else []:
        raw_name, _, raw_value = pair.partition("=")
        name = _PAIR_NAME.fullmatch(unquote(raw_name, errors="surrogateescape"))
        value = unquote(raw_value, errors="surrogateescape")
        if name is None:
            raise Malformed("the form holds a name that is not declared")
        parts = [name[1], *re.findall(r"\[([^\]]+)\]", name[2])]
        whole, parent = ".".join(parts), ".".join(parts[:-1])
        if paths.get(parent) == "string_list":
            # whether the indexes count up shows when the body is written again
            cast(list[str], found.setdefault(parent, [])).append(value)
        elif paths.get(parent) == "string_map":
            cast(dict[str, str], found.setdefault(parent, {}))[parts[-1]] = value
        elif whole not in paths or whole in found:
            raise Malformed("the form holds what is not declared, or holds it twice")
        else:
            found[whole] = _scalar(paths[whole], value)
    return found


def _scalar(kind: str, text: str) -> Value:
    if kind == "boolean":
        return {"true": True, "false": False}.get(text, text)
    if kind == "integer" and re.fullmatch(r"-?(?:0|[1-9][0-9]{0,15})", text):
        return int(text)
    return text


def _bracketed(path: str) -> str:
    first, *rest = path.split(".")
    return first + "".join(f"[{name}]" for name in rest)


def _pairs(name: str, value: Value) -> Iterator[tuple[str, str]]:
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield f"{name}[{index}]", str(item)
    elif isinstance(value, dict):
        for key, item in sorted(value.items()):
            yield f"{name}[{key}]", str(item)
    elif isinstance(value, bool):
        yield name, "true" if value else "false"
    else:
        yield name, str(value)
