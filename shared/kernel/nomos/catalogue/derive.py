"""Reads the resource back from the request that is about to be sent.

This is the check behind "the resource is derived, never declared": it knows the action's template and the target
that will stand on the wire, and neither the declared resource nor the arguments. The proxy compares its answer
with what the delegation pins, and a difference is a refusal.

Pure. Source: RFC 9112 section 3.2.1.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote

from msgspec import Struct, ValidationError, convert

from nomos.catalogue.bodies import Value, content_type_of, read_body
from nomos.catalogue.model import ANY_NAME, FILENAME, Action, Connector, FieldSource, Parameter, Resource, matches
from nomos.catalogue.multipart import MEDIA_TYPE, read_multipart
from nomos.catalogue.request import OutgoingRequest, check_value, field_of, map_name
from nomos.catalogue.segments import decode_segment
from nomos.contents import Content
from nomos.errors import DestinationRefused, Malformed, NotCovered, UnknownResource

_TYPE_NAMES: Final = {bool: "boolean", int: "integer", str: "string"}


def derive_resource(connector: Connector, action: Action, request: OutgoingRequest) -> Resource:
    """The resource that ``request`` acts on, if it is a request of ``action`` at all.

    Args:
        connector: the connector that will receive the request.
        action: what the caller was allowed to do.
        request: what will be sent.

    Returns:
        The resource as the path spells it.

    Raises:
        NotCovered: the request is not one that this action can mean: other connector, method, path, query, body or
            headers.
    """
    if connector.actions.get(action.id) != action:
        raise NotCovered("the action is not of this connector")
    if request.method != action.method:
        raise NotCovered(f"{action.id} is a {action.method}, got {request.method}")
    path, question_mark, query = request.target.partition("?")
    is_raw = _check_content(action, request)
    if request.headers != action.fixed_headers:
        raise NotCovered(f"the headers are not those of {action.id}")
    if question_mark and not query:
        raise NotCovered(f"the query is not one of {action.id}")
    found = _Found(
        path=_match(action, path),
        query=_read_query(action, query),
        body={} if is_raw else _read_body(action, request),
        host=request.host,
    )
    values = tuple(found.value(action, source) for source in action.sources)
    try:
        return action.resource_type.resource(values)
    except UnknownResource as error:
        raise NotCovered(error.detail) from error


class _Found(Struct, frozen=True, kw_only=True):
    """What stands in a request: path fields, query names, dotted paths of the body, the host if it is a field."""

    path: Mapping[str, str]
    query: Mapping[str, list[str]]
    body: Mapping[str, Value]
    host: str

    def value(self, action: Action, source: FieldSource) -> str:
        match source.where:
            case "path":
                return self.path[source.name]
            case "constant":
                return source.name
            case "host":
                return self.host
            case "query":
                value: object = next(iter(self.query.get(source.name, [])), None)
            case "body":
                value = self.body.get(source.name)
        if not isinstance(value, str):
            raise NotCovered(f"the {source.where} does not name the resource of {action.id}")
        return value


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
    parameters = {parameter.wire: parameter for parameter in action.parameters if parameter.where == "path"}
    found: dict[str, str] = {}
    for part, segment in zip(template, segments, strict=True):
        if not part.startswith("{"):
            if part != segment:
                raise mismatch
            continue
        name, suffix = field_of(part)
        if not segment.endswith(suffix):
            raise mismatch
        try:
            value = segment.removesuffix(suffix)
            found[name] = "/".join(decode_segment(piece, name) for piece in value.split("/"))
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


def _read_query(action: Action, query: str) -> dict[str, list[str]]:
    """Each name of the query is declared and stands once: a second spelling could override the first upstream.

    A list that is declared to repeat its name may; what the action fixes must stand there as it is fixed.
    """
    mismatch = NotCovered(f"the query is not one of {action.id}")
    parameters = {parameter.wire: parameter for parameter in action.parameters if parameter.where == "query"}
    fixed = dict(action.fixed_query)
    known = {*parameters, *fixed, *(source.name for source in action.sources if source.where == "query")}
    anything = next((parameter for parameter in parameters.values() if parameter.wire == ANY_NAME), None)
    found: dict[str, list[str]] = {}
    for pair in query.split("&") if query else []:
        raw_name, _, raw_value = pair.partition("=")
        name = unquote(raw_name, errors="surrogateescape")
        is_repeated = name in found and not (name in parameters and parameters[name].repeats)
        is_known = name in known - {ANY_NAME} or (anything is not None and matches(map_name(anything), name))
        if not is_known or is_repeated:
            raise mismatch
        found.setdefault(name, []).append(unquote(raw_value, errors="surrogateescape"))
    if any(found.get(name) != [value] for name, value in fixed.items()):
        raise mismatch
    return found


def _check_content(action: Action, request: OutgoingRequest) -> bool:
    """Whether the body is a content as it is. What the action takes as one, and says of it, is checked."""
    mismatch = NotCovered(f"the body is not one of {action.id}")
    parameter = action.content
    if request.content is not None and parameter is None:
        raise mismatch
    if request.content is None or parameter is None or parameter.encoding != "raw":
        given = request.content_type
        if action.body_format == "multipart" and request.content is not None and given.startswith(MEDIA_TYPE):
            return False
        if given != content_type_of(action) or action.body_format in ("content", "multipart"):
            raise mismatch
        return False
    if request.content_type != request.content.media_type or request.body is None:
        raise mismatch
    _check_bytes(request, request.content, request.body)
    return True


def _check_bytes(request: OutgoingRequest, content: Content, data: bytes) -> None:
    """The bytes that stand there are the named ones, or none while they are not here."""
    if request.is_complete:
        content.check(data)
    elif data:
        raise NotCovered("bytes stand where none have come")


def _read_body(action: Action, request: OutgoingRequest) -> dict[str, Value]:
    """Every member is declared and of its type, and what the action fixes stands there as it is fixed."""
    body = request.body
    if body is None and not action.has_body:
        return {}
    mismatch = NotCovered(f"the body is not one of {action.id}")
    if body is None or not action.has_body:
        raise mismatch
    # a content and the argument whose place it takes have one path: which of them it is, the request says
    left_out = "" if request.content is None or action.content is None else action.content.instead_of
    parameters = {
        parameter.wire: parameter
        for parameter in action.parameters
        if parameter.where == "body"
        and parameter.name != left_out
        and (parameter.type != "content" or (request.content is not None and parameter.encoding == "base64"))
    }
    fixed = dict(action.fixed_body)
    types: dict[str, str] = {path: parameter.type for path, parameter in parameters.items()}
    types |= {path: _TYPE_NAMES[type(value)] for path, value in fixed.items()}
    types |= {source.name: "string" for source in action.sources if source.where == "body"}
    try:
        if request.content is not None and action.body_format == "multipart":
            found = _read_multipart(action, request, request.content, types)
        else:
            found = read_body(action.body_format, body, types)
        for path, value in found.items():
            if path in parameters and parameters[path].type == "content" and request.content is not None:
                _check_bytes(request, request.content, _decoded(value))
            elif path in parameters:
                check_value(parameters[path], value)
    except Malformed as error:
        raise mismatch from error
    if any(type(found.get(path)) is not type(value) or found[path] != value for path, value in fixed.items()):
        raise mismatch
    return found


def _read_multipart(
    action: Action, request: OutgoingRequest, content: Content, types: Mapping[str, str]
) -> dict[str, Value]:
    """The members beside the file, and the file's name; its field and its bytes are checked."""
    fields, file, data = read_multipart(request.content_type, request.body or b"", content)
    if action.content is None or file.name != action.content.wire:
        raise Malformed("the file stands in another field")
    _check_bytes(request, content, data)
    # the file's name stands with the file, and is no field
    types = {path: kind for path, kind in types.items() if path != FILENAME}
    if not action.json_part:
        found: dict[str, Value] = dict(fields)
        if fields != sorted(found.items()) or not set(found) <= set(types):
            raise Malformed("the body holds a field that is not declared, or in another order")
    elif [name for name, _ in fields] not in ([], [action.json_part]):
        raise Malformed("the body holds a field that is not declared")
    else:
        found = read_body("json", fields[0][1].encode(), types) if fields else {}
    return {**found, FILENAME: file.filename}


def _decoded(value: Value) -> bytes:
    """A content that stands as a text in base64, in its one spelling."""
    if not isinstance(value, str):
        raise Malformed("a content is not a text")
    try:
        # a third of the time that the standard library takes; it takes the alphabet and the padding by the letter
        data = convert(value, bytes)
    except ValidationError as error:
        raise Malformed("a content is not in base64") from error
    # bits that are left over are the only freedom, and stand in the last four characters
    if base64.b64encode(data[-(len(data) % 3 or 3) :]).decode("ascii") != value[-4:]:
        raise Malformed("a content is not in the one spelling of base64")
    return data
