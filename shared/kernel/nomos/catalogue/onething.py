"""What an action must say so that it says one thing, and a connector so that each request belongs to one action.

Every field of the action's resource type stands in one place of the request (the path, unless ``derive`` says
otherwise); every other field of the path is a required parameter; every name of a query or body stands for one thing;
no two actions with one method can match the same path, unless a member that one fixes is fixed otherwise by the other.

Pure.
"""

from __future__ import annotations

import re
from typing import Final

from nomos.catalogue.apart import may_meet
from nomos.catalogue.mail import PARTS
from nomos.catalogue.model import ANY_NAME, WHOLE, Action
from nomos.catalogue.request import field_of
from nomos.errors import MalformedCatalogue

_QUERY_NAME: Final = re.compile(r"[A-Za-z_$][A-Za-z0-9_.$-]{0,63}(?:\[[A-Za-z0-9_]{0,40}\])*")
_BODY_PATH: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}(?:\.[A-Za-z_][A-Za-z0-9_-]{0,63}){0,5}")
#: In a form a list of objects has numbered members, ``items[0][price]``.
_FORM_PATH: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}(?:\.(?:0|[A-Za-z_][A-Za-z0-9_-]{0,63})){0,5}")


def check_path(what: str, action: Action) -> None:
    """Every field of the resource, and every parameter of the path, stands in the path once.

    Raises:
        MalformedCatalogue: one does not.
    """
    parts = action.path.split("/")
    names = [field_of(part)[0] for part in parts if part.startswith("{")]
    fields = [source.name for source in action.sources if source.where == "path"]
    from_args = [parameter.name for parameter in action.parameters if parameter.where == "path"]
    if sorted(names) != sorted([*fields, *from_args]):
        raise MalformedCatalogue(f"{what}: the path must hold each resource field and path parameter exactly once")
    kind = action.resource_type
    long_field = kind.fields[-1] if kind.within else None
    if any((name == long_field) != part.startswith("{+") for part, name in _fields_in(parts) if name in fields):
        raise MalformedCatalogue(f"{what}: a resource field is one segment, and one that is a path stands as {{+name}}")
    if long_field is not None and long_field not in fields:
        raise MalformedCatalogue(f"{what}: a path stands in the path")
    if any(parameter.name in action.resource_type.fields for parameter in action.parameters):
        raise MalformedCatalogue(f"{what}: a parameter must not be named like a resource field")
    if action.method in ("GET", "DELETE") and action.has_body:
        raise MalformedCatalogue(f"{what}: a {action.method} has no body")


def _fields_in(parts: list[str]) -> list[tuple[str, str]]:
    return [(part, field_of(part)[0]) for part in parts if part.startswith("{")]


def check_names(what: str, action: Action) -> None:
    """Every name of the query, and every path of the body, stands for one thing.

    Raises:
        MalformedCatalogue: one does not.
    """
    query = [p.wire for p in action.parameters if p.where == "query"] + [name for name, _ in action.fixed_query]
    query += [source.name for source in action.sources if source.where == "query"]
    body = [p.wire for p in action.parameters if p.where == "body"] + [name for name, _ in action.fixed_body]
    body += [source.name for source in action.sources if source.where == "body"]
    if any(_QUERY_NAME.fullmatch(name) is None for name in query if name != ANY_NAME):
        raise MalformedCatalogue(f"{what}: a name that a query cannot carry")
    is_whole = WHOLE in body or action.body_format == "text"
    if is_whole:
        _check_whole(what, action, body)
    one_path = _FORM_PATH if action.body_format == "form" else _BODY_PATH
    if not is_whole and any(one_path.fullmatch(path) is None for path in body):
        raise MalformedCatalogue(f"{what}: a path that a body cannot carry")
    if len(set(query)) != len(query) or len(set(body)) != len(body) or (ANY_NAME in query and len(query) > 1):
        raise MalformedCatalogue(f"{what}: a name of the query or body stands for two things")
    if any(other.startswith(f"{path}.") for path in body for other in body):
        raise MalformedCatalogue(f"{what}: a member of the body lies inside another one")
    if action.body_format.startswith("mail"):
        _check_mail(what, action)
    if action.body_format == "form" and any(p.where == "body" and p.type == "json" for p in action.parameters):
        raise MalformedCatalogue(f"{what}: a form cannot carry a json argument")


def _check_whole(what: str, action: Action, body: list[str]) -> None:
    """A body that is one argument has nothing beside it; a text is a required string, JSON any value."""
    whole = next((p for p in action.parameters if p.where == "body"), None)
    if body != [WHOLE] or whole is None:
        raise MalformedCatalogue(f"{what}: an argument that is the whole body stands alone")
    kind = "string" if action.body_format == "text" else "json"
    if action.body_format not in ("json", "text") or whole.type != kind or not whole.required:
        raise MalformedCatalogue(f"{what}: the whole body is a required json argument, or a required string as text")


def _check_mail(what: str, action: Action) -> None:
    """A mail is made of its own parts, each of its own type."""
    types = {p.wire: p.type for p in action.parameters if p.where == "body"}
    may = {**dict.fromkeys((*PARTS, "thread"), "string"), **dict.fromkeys(("to", "cc", "bcc"), "string_list")}
    if action.fixed_body or not {"to", "subject", "text"} <= set(types) <= set(may):
        raise MalformedCatalogue(f"{what}: a mail has to, subject and text, and may have cc, bcc, in_reply_to, thread")
    if any(may[name] != kind for name, kind in types.items()):
        raise MalformedCatalogue(f"{what}: to, cc and bcc are lists of strings, the rest of a mail are strings")


def check_unambiguous(actions: list[Action]) -> None:
    """No request belongs to two actions.

    Raises:
        MalformedCatalogue: one could.
    """
    by_method: dict[str, list[Action]] = {}
    for one in actions:
        for other in by_method.setdefault(one.method, []):
            if may_meet(one, other):
                raise MalformedCatalogue(f"{other.id} and {one.id} can both match one path")
        by_method[one.method].append(one)
