"""Builds the request of an action from its resource and arguments, and nothing else.

The caller gives values; method, path, names of query and body members come from the catalogue. Scheme, host and
port are no part of it: they belong to the connector. Order of the checks: every argument is declared, every
required one is there, each has its type and limits, each is safe for the part of the request that carries it.

Pure. Source: RFC 3986, RFC 9110 section 7.1, RFC 8259.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal
from urllib.parse import quote

import orjson
from msgspec import Struct

from nomos.catalogue.model import Action, Parameter, Resource, matches
from nomos.catalogue.segments import check_segment, check_text, encode_segment
from nomos.errors import LimitExceeded, Malformed, NotCovered

#: Characters of path and query together, encoded. Common servers refuse more than 8 KiB of request line.
TARGET_LENGTH_MAX: Final = 8_000
#: Bytes of a request body.
BODY_BYTES_MAX: Final = 1_048_576

_TYPE_NAMES: Final[Mapping[str, str]] = {
    "string": "a string",
    "integer": "an integer",
    "boolean": "true or false",
    "string_list": "a list of strings",
}


class OutgoingRequest(Struct, frozen=True, kw_only=True):
    """The request as it will be sent, without origin and headers.

    Attributes:
        method: HTTP method.
        path: absolute path, percent-encoded.
        query: names and values, not encoded, in the order in which they are sent.
        body: JSON text, or None for no body.
    """

    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
    path: str
    query: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None

    @property
    def target(self) -> str:
        """The origin-form request target (RFC 9112 section 3.2.1), ASCII."""
        if not self.query:
            return self.path
        return (
            self.path + "?" + "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in self.query)
        )


def build_request(action: Action, resource: Resource, args: Mapping[str, object]) -> OutgoingRequest:
    """The one request that this action, resource and arguments mean.

    Args:
        action: from the catalogue.
        resource: fills the path fields of the action's resource type.
        args: values by parameter name; names that the action does not declare are refused.

    Returns:
        The request, its query sorted by name and its body with sorted keys, so equal input gives equal bytes.

    Raises:
        NotCovered: the resource is not of the action's type.
        Malformed: an argument is unknown, missing or of the wrong type.
        LimitExceeded: an argument, the target or the body is over its limit.
        DestinationRefused: an argument that must not stand where it would stand.
    """
    if resource.type != action.resource_type:
        raise NotCovered(f"{action.id} acts on {action.resource_type.kind}, got {resource.type.kind}")
    declared = {parameter.name: parameter for parameter in action.parameters}
    if any(name not in declared for name in args):
        raise Malformed(f"{action.id} takes no such argument", hint=f"it takes: {', '.join(declared) or 'none'}")
    path_values = dict(zip(resource.type.fields, resource.values, strict=True))
    query: list[tuple[str, str]] = []
    body: dict[str, object] = {}
    for name, parameter in declared.items():
        if name not in args:
            if parameter.required:
                raise Malformed(f"{action.id} needs the argument {name}")
            continue
        value = check_value(parameter, args[name])
        if parameter.where == "path":
            path_values[name] = _scalar_text(value)
        elif parameter.where == "query":
            query.append((name, _query_text(parameter, value)))
        else:
            body[name] = value
    request = OutgoingRequest(
        method=action.method,
        path=fill_template(action.path, path_values),
        query=tuple(sorted(query)),
        body=_encode_body(action, body),
    )
    if len(request.target) > TARGET_LENGTH_MAX:
        raise LimitExceeded("target_length_max", TARGET_LENGTH_MAX, len(request.target))
    return request


def check_value(parameter: Parameter, value: object) -> str | int | bool | list[str]:
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
    raise Malformed(f"argument {parameter.name} must be {_TYPE_NAMES[parameter.type]}")


def _check_string(parameter: Parameter, text: str) -> None:
    if len(text) > parameter.max_length:
        raise LimitExceeded(f"max_length of {parameter.name}", parameter.max_length, len(text))
    if parameter.enum and text not in parameter.enum:
        raise Malformed(f"argument {parameter.name} must be one of {', '.join(parameter.enum)}")
    if parameter.pattern and not matches(parameter.pattern, text):
        raise Malformed(f"argument {parameter.name} is not spelled as its pattern demands")
    if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise Malformed(f"argument {parameter.name} holds a NUL or a lone surrogate")


def _scalar_text(value: str | int | bool | list[str]) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _query_text(parameter: Parameter, value: str | int | bool | list[str]) -> str:
    if not isinstance(value, list):
        text = _scalar_text(value)
    elif any("," in item for item in value):
        raise Malformed(f"an item of {parameter.name} must not hold a comma, which would make it two items")
    else:
        text = ",".join(value)
    check_text(text, parameter.name)
    return text


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
        name = part.strip("{+}")
        # only {+name} may spread over several segments; in {name} a slash is refused by check_segment
        for text in values[name].split("/") if part.startswith("{+") else [values[name]]:
            check_segment(text, name)
            segments.append(encode_segment(text))
    return "/" + "/".join(segments)


def _encode_body(action: Action, members: Mapping[str, object]) -> bytes | None:
    if not any(parameter.where == "body" for parameter in action.parameters):
        return None
    body = orjson.dumps(members, option=orjson.OPT_SORT_KEYS)
    if len(body) > BODY_BYTES_MAX:
        raise LimitExceeded("body_bytes_max", BODY_BYTES_MAX, len(body))
    return body
