"""Reads the resource back from the request that is about to be sent.

This is the check behind "the resource is derived, never declared": it knows the action's template and the target
that will stand on the wire, and neither the declared resource nor the arguments. The proxy compares its answer
with what the delegation pins, and a difference is a refusal.

Pure. Source: RFC 9112 section 3.2.1.
"""

from __future__ import annotations

from urllib.parse import unquote

import orjson

from nomos.catalogue.model import Action, Connector, Parameter, Resource, matches
from nomos.catalogue.request import OutgoingRequest
from nomos.catalogue.segments import decode_segment
from nomos.errors import DestinationRefused, NotCovered, UnknownResource


def derive_resource(connector: Connector, action: Action, request: OutgoingRequest) -> Resource:
    """The resource that ``request`` acts on, if it is a request of ``action`` at all.

    Args:
        connector: the connector that will receive the request.
        action: what the caller was allowed to do.
        request: what will be sent.

    Returns:
        The resource as the path spells it.

    Raises:
        NotCovered: the request is not one that this action can mean: other connector, method, path, query or body.
    """
    if connector.actions.get(action.id) != action:
        raise NotCovered("the action is not of this connector")
    if request.method != action.method:
        raise NotCovered(f"{action.id} is a {action.method}, got {request.method}")
    path, question_mark, query = request.target.partition("?")
    fields = _match(action, path)
    _check_query(action, query if question_mark else None)
    _check_body(action, request.body)
    try:
        return action.resource_type.resource(tuple(fields[name] for name in action.resource_type.fields))
    except UnknownResource as error:
        raise NotCovered(error.detail) from error


def _match(action: Action, path: str) -> dict[str, str]:
    """The values of the template's fields in ``path``."""
    mismatch = NotCovered(f"the path is not one of {action.id}")
    template, segments = action.path.split("/"), path.split("/")
    if template[-1].startswith("{+"):
        if len(segments) < len(template):
            raise mismatch
        tail = "/".join(segments[len(template) - 1 :])
        segments = [*segments[: len(template) - 1], tail]
    if len(template) != len(segments):
        raise mismatch
    parameters = {parameter.name: parameter for parameter in action.parameters}
    found: dict[str, str] = {}
    for part, segment in zip(template, segments, strict=True):
        if not part.startswith("{"):
            if part != segment:
                raise mismatch
            continue
        name = part.strip("{+}")
        try:
            found[name] = "/".join(decode_segment(piece, name) for piece in segment.split("/"))
        except DestinationRefused as error:
            raise NotCovered(error.detail) from error
        if name in parameters and not _is_value_of(parameters[name], found[name]):
            raise mismatch
    return found


def _is_value_of(parameter: Parameter, text: str) -> bool:
    """Whether a decoded path value is one that the parameter's type can produce."""
    if parameter.type == "integer":
        return text.isascii() and text.isdigit() and str(int(text[:20])) == text
    if parameter.enum and text not in parameter.enum:
        return False
    return not parameter.pattern or matches(parameter.pattern, text)


def _check_query(action: Action, query: str | None) -> None:
    """Each name of the query is declared and stands once: a second spelling could override the first upstream."""
    if query is None:
        return
    declared = {parameter.name for parameter in action.parameters if parameter.where == "query"}
    names = [unquote(pair.partition("=")[0], errors="surrogateescape") for pair in query.split("&")]
    if len(set(names)) != len(names) or not declared.issuperset(names):
        raise NotCovered(f"the query is not one of {action.id}")


def _check_body(action: Action, body: bytes | None) -> None:
    declared = {parameter.name for parameter in action.parameters if parameter.where == "body"}
    if body is None:
        return
    mismatch = NotCovered(f"the body is not one of {action.id}")
    if not declared:
        raise mismatch
    try:
        members = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise mismatch from error
    if not isinstance(members, dict) or not declared.issuperset(members):
        raise mismatch
    # a repeated key would be read one way here and maybe another upstream; only the built form is sent
    if orjson.dumps(members, option=orjson.OPT_SORT_KEYS) != body:
        raise mismatch
