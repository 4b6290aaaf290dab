"""Builds the request of an action from its resource and arguments, and nothing else.

The caller gives values; method, path, names of query and body members come from the catalogue. Scheme, host and
port are no part of it: they belong to the connector. Order of the checks: every argument is declared, every
required one is there, each has its type and limits, each is safe for the part of the request that carries it.

A field of the resource that does not stand in the path stands in the query or the body, where the action says so;
an argument cannot reach it.

Pure. Source: RFC 3986, RFC 9110 section 7.1, RFC 8259.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from functools import cached_property
from typing import Final, Literal, cast
from urllib.parse import quote

import orjson
from msgspec import Struct, structs

from nomos.catalogue.bodies import CONTENT_TYPES, Value, content_type_of, write_body
from nomos.catalogue.model import (
    ANY_NAME,
    FILENAME,
    Action,
    FieldSource,
    Parameter,
    Resource,
    matches,
)
from nomos.catalogue.multipart import FilePart, write_multipart
from nomos.catalogue.segments import check_segment, check_text, encode_segment
from nomos.contents import CONTENT_BYTES_MAX, Content, named_by
from nomos.errors import LimitExceeded, Malformed, NotCovered

#: Characters of path and query together, encoded. Common servers refuse more than 8 KiB of request line.
TARGET_LENGTH_MAX: Final = 8_000
#: Bytes of a request body without its content, and of one in which a content stands, perhaps in base64.
BODY_BYTES_MAX: Final = 1_048_576
CONTENT_BODY_BYTES_MAX: Final = BODY_BYTES_MAX + CONTENT_BYTES_MAX // 3 * 4 + 4
#: Nested lists and maps of a ``json`` argument; all arguments together nest 12 deep.
JSON_DEPTH_MAX: Final = 11

_TYPE_NAMES: Final[Mapping[str, str]] = {
    "string": "a string",
    "integer": "an integer",
    "boolean": "true or false",
    "string_list": "a list of strings",
    "string_map": "a map of names to strings",
    "json": "any JSON value without fractions",
    "content": "a content: sha256, bytes and type",
}
#: Names in a ``string_map``: plain, so that they have one spelling in a form too.
_MAP_NAME: Final = r"[A-Za-z0-9_-]{1,40}"
#: Names of a query, where a map holds them: what a name in a record of the log may be.
_QUERY_MAP_NAME: Final = r"[A-Za-z_][A-Za-z0-9_.-]{0,63}"


class OutgoingRequest(Struct, frozen=True, kw_only=True, dict=True):
    """The request as it will be sent, without origin, and of its headers those that are the action's own.

    Attributes:
        method: HTTP method.
        path: absolute path, percent-encoded.
        query: names and values, not encoded, in the order in which they are sent.
        body: as ``content_type`` says, or None for no body.
        content_type: of the body.
        headers: names and values that the action fixes, sorted.
        host: where each connection has its own and the resource names it; else empty.
        content: the content that stands in the body, or is to stand there; None where there is none.
        is_complete: whether its bytes stand there. A request without them is for looking at: it is never sent.
    """

    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
    path: str
    query: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None
    content_type: str = CONTENT_TYPES["json"]
    headers: tuple[tuple[str, str], ...] = ()
    host: str = ""
    content: Content | None = None
    is_complete: bool = True

    @cached_property
    def target(self) -> str:
        """The origin-form request target (RFC 9112 section 3.2.1), ASCII. Worked out once: a call looks four times."""
        if not self.query:
            return self.path
        return (
            self.path + "?" + "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in self.query)
        )


def build_request(
    action: Action, resource: Resource, args: Mapping[str, object], data: bytes | None = None
) -> OutgoingRequest:
    """The one request that this action, resource and arguments mean.

    Args:
        action: from the catalogue.
        resource: fills the path fields of the action's resource type.
        args: values by parameter name; names that the action does not declare are refused.
        data: the bytes of the content that the arguments name; None while they are not here.

    Returns:
        The request, its query sorted by name and its body with sorted keys, so equal input gives equal bytes.

    Raises:
        NotCovered: the resource is not of the action's type, or ``data`` is not what the arguments name.
        Malformed: an argument is unknown, missing, of the wrong type, or given beside the one whose place it takes.
        LimitExceeded: an argument, the target or the body is over its limit.
        DestinationRefused: an argument that must not stand where it would stand.
    """
    if resource.type != action.resource_type:
        raise NotCovered(f"{action.id} acts on {action.resource_type.kind}, got {resource.type.kind}")
    declared = {parameter.name: parameter for parameter in action.parameters}
    if any(name not in declared for name in args):
        raise Malformed(f"{action.id} takes no such argument", hint=f"it takes: {', '.join(declared) or 'none'}")
    parts = _Parts(action)
    for source, field in zip(action.sources, resource.values, strict=True):
        parts.place_field(action, source, field)
    named = _named_content(action, args)
    for name, parameter in declared.items():
        if parameter.type == "content":
            continue
        if name in args:
            parts.place_argument(parameter, check_value(parameter, args[name]))
        elif parameter.required and (named is None or named[0].instead_of != name):
            raise Malformed(f"{action.id} needs the argument {name}")
    request = OutgoingRequest(
        method=action.method,
        path=fill_template(action.path, parts.path),
        query=tuple(sorted(parts.query)),
        content_type=content_type_of(action),
        headers=action.fixed_headers,
        host=parts.host,
    )
    request = _with_body(action, request, parts.body, named, data)
    if len(request.target) > TARGET_LENGTH_MAX:
        raise LimitExceeded("target_length_max", TARGET_LENGTH_MAX, len(request.target))
    return request


class _Parts:
    """The parts of one request while they are collected. What the action fixes is there from the beginning."""

    __slots__ = ("body", "host", "path", "query")

    def __init__(self, action: Action) -> None:
        self.host = ""
        self.path: dict[str, str] = {}
        self.query: list[tuple[str, str]] = list(action.fixed_query)
        self.body: dict[str, Value] = dict(action.fixed_body)

    def place_field(self, action: Action, source: FieldSource, field: str) -> None:
        match source.where:
            case "path":
                self.path[source.name] = field
            case "query":
                check_text(field, source.name)
                self.query.append((source.name, field))
            case "body":
                self.body[source.name] = field
            case "host":
                self.host = field
            case "constant":
                if field != source.name:
                    raise NotCovered(f"{action.id} acts on {source.name} only")

    def place_argument(self, parameter: Parameter, value: Value) -> None:
        match parameter.where:
            case "path":
                self.path[parameter.wire] = _scalar_text(value)
            case "query" if parameter.wire == ANY_NAME:
                self.query += sorted(cast(dict[str, str], value).items())
            case "query":
                self.query += [(parameter.wire, text) for text in _query_texts(parameter, value)]
            case "body":
                self.body[parameter.wire] = value


def check_value(parameter: Parameter, value: object) -> Value:
    """The value, if it is what the parameter declares.

    Raises:
        Malformed: wrong type, out of range, not in the enumeration, or not as the pattern demands.
        LimitExceeded: too long or too many.
    """
    match parameter.type:
        case "string" if isinstance(value, str):
            _check_string(parameter, value)
            return value
        # bool is a subclass of int in Python, and a different type everywhere else
        case "integer" if isinstance(value, int) and not isinstance(value, bool):
            if not parameter.minimum <= value <= parameter.maximum:
                raise Malformed(f"argument {parameter.name} must be {parameter.minimum} to {parameter.maximum}")
            return value
        case "boolean" if isinstance(value, bool):
            return value
        case "string_list" if isinstance(value, list | tuple):
            if len(value) > parameter.max_items:
                raise LimitExceeded(f"max_items of {parameter.name}", parameter.max_items, len(value))
            strings = [item for item in value if isinstance(item, str)]
            if len(strings) == len(value):
                for item in strings:
                    _check_string(parameter, item)
                return strings
        case "string_map" if isinstance(value, dict):
            return _checked_map(parameter, value)
        case "json":
            return _checked_json(parameter, value)
    raise Malformed(f"argument {parameter.name} must be {_TYPE_NAMES[parameter.type]}")


def _checked_map(parameter: Parameter, value: dict[object, object]) -> dict[str, str]:
    if len(value) > parameter.max_items:
        raise LimitExceeded(f"max_items of {parameter.name}", parameter.max_items, len(value))
    checked: dict[str, str] = {}
    for name, text in value.items():
        if not isinstance(name, str) or not isinstance(text, str) or not matches(map_name(parameter), name):
            raise Malformed(
                f"argument {parameter.name} must be {_TYPE_NAMES['string_map']}, names of letters, digits, _ and -"
            )
        _check_string(parameter, text)
        if parameter.where == "query":
            check_text(text, parameter.name)
        checked[name] = text
    return checked


def map_name(parameter: Parameter) -> str:
    """The pattern of a name in a map."""
    return _QUERY_MAP_NAME if parameter.where == "query" else _MAP_NAME


def _checked_json(parameter: Parameter, value: object) -> object:
    _check_json(parameter, value, 0)
    try:
        size = len(orjson.dumps(value))
    except orjson.JSONEncodeError as error:
        raise Malformed(f"argument {parameter.name} holds an integer or a text that JSON cannot carry") from error
    if size > parameter.max_length:
        raise LimitExceeded(f"max_length of {parameter.name}", parameter.max_length, size)
    return value


def _check_json(parameter: Parameter, value: object, depth: int) -> None:
    """Lists and maps of texts, integers, booleans and null; what the request digest admits, and nothing else."""
    if depth > JSON_DEPTH_MAX:
        raise LimitExceeded(f"json_depth_max of {parameter.name}", JSON_DEPTH_MAX)
    if isinstance(value, dict):
        for name, inner in value.items():
            if not isinstance(name, str) or "\0" in name:
                raise Malformed(f"argument {parameter.name} holds a name that is not text")
            _check_json(parameter, inner, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            _check_json(parameter, inner, depth + 1)
    elif isinstance(value, str):
        _check_text(parameter, value)
    elif value is not None and not isinstance(value, bool | int):
        raise Malformed(f"argument {parameter.name} must be {_TYPE_NAMES['json']}")


def _check_string(parameter: Parameter, text: str) -> None:
    if len(text) > parameter.max_length:
        raise LimitExceeded(f"max_length of {parameter.name}", parameter.max_length, len(text))
    if parameter.enum and text not in parameter.enum:
        raise Malformed(f"argument {parameter.name} must be one of {', '.join(parameter.enum)}")
    if parameter.pattern and not matches(parameter.pattern, text):
        raise Malformed(f"argument {parameter.name} is not spelled as its pattern demands")
    _check_text(parameter, text)


def _check_text(parameter: Parameter, text: str) -> None:
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise Malformed(f"argument {parameter.name} holds a NUL or a lone surrogate")


def _scalar_text(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _query_texts(parameter: Parameter, value: Value) -> list[str]:
    if not isinstance(value, list):
        texts = [_scalar_text(value)]
    elif parameter.repeats:
        texts = [str(item) for item in value]
    elif any("," in str(item) for item in value):
        raise Malformed(f"an item of {parameter.name} must not hold a comma, which would make it two items")
    else:
        texts = [",".join(str(item) for item in value)]
    for text in texts:
        check_text(text, parameter.name)
    return texts


def fill_template(template: str, values: Mapping[str, str]) -> str:
    """A path template with checked and encoded values in place of its fields.

    Raises:
        DestinationRefused: a value is not a safe segment.
    """
    segments: list[str] = []
    for part in template.split("/")[1:]:
        if not part.startswith("{"):
            segments.append(part)
            continue
        name, suffix = field_of(part)
        # only {+name} may spread over several segments; in {name} a slash is refused by check_segment
        for text in values[name].split("/") if part.startswith("{+") else [values[name]]:
            check_segment(text, name)
            segments.append(encode_segment(text) + suffix)
    return "/" + "/".join(segments)


def field_of(part: str) -> tuple[str, str]:
    """Reads one part of a template: the field's name, and what the segment ends with (``{id}:move``: id and :move)."""
    name, _, suffix = part.partition("}")
    return name.strip("{+"), suffix


def _named_content(action: Action, args: Mapping[str, object]) -> tuple[Parameter, Content] | None:
    """The content that the arguments name, and the parameter that takes it."""
    parameter = action.content
    if parameter is None:
        return None
    if parameter.name not in args:
        if parameter.required:
            raise Malformed(f"{action.id} needs the argument {parameter.name}")
        return None
    if parameter.instead_of in args:
        raise Malformed(f"{action.id} takes one of {parameter.instead_of} and {parameter.name}")
    return parameter, _checked_content(parameter, args[parameter.name])


def _checked_content(parameter: Parameter, value: object) -> Content:
    content = named_by(value)
    if content.size > parameter.max_length:
        raise LimitExceeded(f"max_length of {parameter.name}", parameter.max_length, content.size)
    if parameter.enum and content.media_type not in parameter.enum:
        raise Malformed(f"argument {parameter.name} must be of the type {', '.join(parameter.enum)}")
    return content


def _with_body(
    action: Action,
    request: OutgoingRequest,
    members: dict[str, Value],
    named: tuple[Parameter, Content] | None,
    data: bytes | None,
) -> OutgoingRequest:
    if named is None:
        if data is not None:
            raise NotCovered("the arguments name no content")
        return structs.replace(request, body=_encode_body(action, members, BODY_BYTES_MAX))
    parameter, content = named
    if data is not None:
        content.check(data)
    request = structs.replace(request, content=content, is_complete=data is not None)
    if parameter.encoding == "raw":
        return structs.replace(request, body=data or b"", content_type=content.media_type)
    if parameter.encoding == "part":
        file = FilePart(name=parameter.wire, filename=str(members.pop(FILENAME)), content=content)
        content_type, body = write_multipart(_fields(action, members), file, data or b"")
        return structs.replace(request, body=_bounded(body, CONTENT_BODY_BYTES_MAX), content_type=content_type)
    members[parameter.wire] = base64.b64encode(data or b"").decode("ascii")
    return structs.replace(request, body=_encode_body(action, members, CONTENT_BODY_BYTES_MAX))


def _encode_body(action: Action, members: Mapping[str, Value], bytes_max: int) -> bytes | None:
    if not action.has_body:
        return None
    return _bounded(write_body(action.body_format, members), bytes_max)


def _bounded(body: bytes, bytes_max: int) -> bytes:
    if len(body) > bytes_max:
        raise LimitExceeded("body_bytes_max", bytes_max, len(body))
    return body


def _fields(action: Action, members: Mapping[str, Value]) -> list[tuple[str, str]]:
    """What stands before the file of a multipart body."""
    if action.json_part:
        return [(action.json_part, write_body("json", members).decode())] if members else []
    return [(name, str(value)) for name, value in sorted(members.items())]
