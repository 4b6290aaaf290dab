"""Whether every name of an action's query, and every path of its body, stands for one thing and has the shape for it.

A body that is one argument, and a mail, have nothing beside them. A member that is named by a field of the resource is
the only one of its object, so nothing else there can name what is acted on.

Pure.
"""

from __future__ import annotations

import re
from typing import Final

from nomos.catalogue.bodies import names_a_member
from nomos.catalogue.contentrules import members
from nomos.catalogue.mail import PARTS
from nomos.catalogue.model import ANY_NAME, WHOLE, Action
from nomos.errors import MalformedCatalogue

_QUERY_NAME: Final = re.compile(r"[A-Za-z_$][A-Za-z0-9_.$-]{0,63}(?:\[[A-Za-z0-9_]{0,40}\])*")
_BODY_PATH: Final = re.compile(
    r"[A-Za-z_][A-Za-z0-9_-]{0,63}(?:\.(?:[A-Za-z_][A-Za-z0-9_-]{0,63}|\{[a-z][a-z0-9_]{0,39}\})){0,5}"
)
#: In a form a list of objects has numbered members, ``items[0][price]``.
_FORM_PATH: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}(?:\.(?:0|[A-Za-z_][A-Za-z0-9_-]{0,63})){0,5}")


def check_names(what: str, action: Action) -> None:
    """Checks that every name of the query, and every path of the body, stands for one thing.

    Args:
        what: which action, for the error.
        action: as its file declares it.

    Raises:
        MalformedCatalogue: it does not.
    """
    query = [p.wire for p in action.parameters if p.where == "query"] + [name for name, _ in action.fixed_query]
    query += [source.name for source in action.sources if source.where == "query"]
    body = [p.wire for p in members(action) if p.where == "body"] + [name for name, _ in action.fixed_body]
    body += [source.name for source in action.sources if source.where == "body"]
    if any(_QUERY_NAME.fullmatch(name) is None for name in query if name != ANY_NAME):
        raise MalformedCatalogue(f"{what}: a name that a query cannot carry")
    is_whole = WHOLE in body or action.body_format in ("text", "content")
    if is_whole:
        _check_whole(what, action, body)
    one_path = _FORM_PATH if action.body_format == "form" else _BODY_PATH
    if not is_whole and any(one_path.fullmatch(path) is None for path in body):
        raise MalformedCatalogue(f"{what}: a path that a body cannot carry")
    if len(set(query)) != len(query) or len(set(body)) != len(body) or (ANY_NAME in query and len(query) > 1):
        raise MalformedCatalogue(f"{what}: a name of the query or body stands for two things")
    # a field that names a member has what lies below that member beside it
    closed = [path for path in body if not names_a_member(path)]
    if any(other.startswith(f"{path}.") for path in closed for other in body):
        raise MalformedCatalogue(f"{what}: a member of the body lies inside another one")
    _check_named(what, action, body)
    if action.body_format.startswith("mail"):
        _check_mail(what, action)
    if action.body_format == "form" and any(p.where == "body" and p.type == "json" for p in action.parameters):
        raise MalformedCatalogue(f"{what}: a form cannot carry a json argument")


def _check_named(what: str, action: Action, body: list[str]) -> None:
    """A member is named by a field of the resource, and is the only one of its object; so nothing else stands there."""
    named = [path for path in body if "{" in path]
    if not named:
        return
    at = next((s.name for s in action.sources if s.where == "body" and names_a_member(s.name)), "")
    holder, _, part = at.rpartition(".")
    fields = [source.name for source in action.sources]
    field = dict(zip(fields, action.resource_type.fields, strict=True)).get(at)
    if action.body_format != "json" or not holder or part != f"{{{field}}}" or "{" in holder:
        raise MalformedCatalogue(f"{what}: a field names a member of a JSON body as <path>.{{<field>}}, once")
    if any(path != at and (not path.startswith(f"{at}.") or "{" in path.removeprefix(at)) for path in named):
        raise MalformedCatalogue(f"{what}: only what lies below {at} has a path with the name of a field")
    if any(path.startswith(f"{holder}.") for path in body if path not in named) or holder in body:
        raise MalformedCatalogue(f"{what}: {holder} holds {part} and nothing beside it")


def _check_whole(what: str, action: Action, body: list[str]) -> None:
    """A body that is one argument has nothing beside it; a text is a required string, JSON any value."""
    whole = next((p for p in members(action) if p.where == "body"), None)
    if body != [WHOLE] or whole is None:
        raise MalformedCatalogue(f"{what}: an argument that is the whole body stands alone")
    kind = {"text": "string", "content": "content", "json": "json"}.get(action.body_format)
    if whole.type != kind or not whole.required:
        raise MalformedCatalogue(f"{what}: the whole body is a required json argument, a string as text, or a content")


def _check_mail(what: str, action: Action) -> None:
    """A mail is made of its own parts, each of its own type."""
    types = {p.wire: p.type for p in action.parameters if p.where == "body"}
    may = {**dict.fromkeys((*PARTS, "thread"), "string"), **dict.fromkeys(("to", "cc", "bcc"), "string_list")}
    if action.fixed_body or not {"to", "subject", "text"} <= set(types) <= set(may):
        raise MalformedCatalogue(f"{what}: a mail has to, subject and text, and may have cc, bcc, in_reply_to, thread")
    if any(may[name] != kind for name, kind in types.items()):
        raise MalformedCatalogue(f"{what}: to, cc and bcc are lists of strings, the rest of a mail are strings")
