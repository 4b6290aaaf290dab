"""Reads connector files and checks that they say one thing each.

Beyond the shape of the file (unknown keys are refused), the rules are: every field of the action's resource type
stands once in its path; every other field of the path is a required parameter; no two actions with one method can
match the same path, so that a request belongs to one action; a GET is a read.

Source: the format is ours; ``connectors/github.yaml`` is the example.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal

import msgspec
from msgspec import Struct

from nomos.catalogue.model import Action, Catalogue, Connector, Parameter, ResourceType, Risk
from nomos.errors import LimitExceeded, Malformed, MalformedCatalogue
from nomos.ids import parse_slug

#: Actions of one connector.
ACTIONS_MAX: Final = 500
#: Files in the connector directory.
CONNECTORS_MAX: Final = 200
#: Characters of one pattern.
PATTERN_LENGTH_MAX: Final = 200

_ACTION_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,39}\.[a-z][a-z0-9_]{0,39}")
_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,39}")
_CEDAR_TYPE: Final = re.compile(r"[A-Z][A-Za-z0-9]{0,39}(?:::[A-Z][A-Za-z0-9]{0,39}){1,3}")
_HOST: Final = re.compile(r"(?=.{1,253}\Z)(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?")
_TEMPLATE: Final = re.compile(r"(?:/(?:[A-Za-z0-9_-][A-Za-z0-9._-]*|\{[a-z][a-z0-9_]*\}))*(?:/\{\+[a-z][a-z0-9_]*\})?")
_HEADER_NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,63}")
_HEADER_VALUE: Final = re.compile(r"[!-~](?:[ -~]{0,254}[!-~])?")
#: Headers that the proxy writes itself, or that would change how the request is framed or routed.
FORBIDDEN_HEADERS: Final = frozenset({
    "accept-encoding", "authorization", "connection", "content-length", "content-type", "cookie", "expect", "forwarded",
    "host", "keep-alive", "proxy-authorization", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade",
    "via", "x-forwarded-for", "x-forwarded-host", "x-http-method-override", "x-method-override",
})  # fmt: skip


class _ParameterFile(Struct, frozen=True, forbid_unknown_fields=True):
    where: Literal["path", "query", "body"]
    type: Literal["string", "integer", "boolean", "string_list"] = "string"
    required: bool = False
    max_length: int = 256
    max_items: int = 100
    minimum: int = 0
    maximum: int = 2**53 - 1
    enum: tuple[str, ...] = ()
    pattern: str = ""


class _ResourceFile(Struct, frozen=True, forbid_unknown_fields=True):
    cedar: str
    fields: dict[str, str]


class _ActionFile(Struct, frozen=True, forbid_unknown_fields=True):
    title: str
    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
    path: str
    risk: Risk
    resource: str
    parameters: dict[str, _ParameterFile] = {}
    idempotency_header: str | None = None


class _ConnectorFile(Struct, frozen=True, forbid_unknown_fields=True):
    connector: str
    title: str
    scheme: Literal["https"]
    host: str
    port: int
    auth: Literal["bearer"]
    resource_types: dict[str, _ResourceFile]
    actions: dict[str, _ActionFile]
    headers: dict[str, str] = {}


def load_catalogue(directory: Path) -> Catalogue:
    """Reads every ``*.yaml`` in ``directory``.

    Args:
        directory: folder of connector files; each is named for its connector.

    Raises:
        MalformedCatalogue: a file breaks the schema or a rule, or there is none.
        LimitExceeded: a file or the folder is over a limit.
    """
    paths = sorted(directory.glob("*.yaml"))
    if not paths:
        raise MalformedCatalogue("the connector directory holds no *.yaml file")
    if len(paths) > CONNECTORS_MAX:
        raise LimitExceeded("connectors_max", CONNECTORS_MAX, len(paths))
    connectors: dict[str, Connector] = {}
    for path in paths:
        connector = parse_connector(path.read_bytes())
        if path.stem != connector.name:
            raise MalformedCatalogue(f"{path.name} declares the connector {connector.name}; the names must be equal")
        connectors[connector.name] = connector
    actions = {action.id: action for connector in connectors.values() for action in connector.actions.values()}
    return Catalogue(connectors=MappingProxyType(connectors), actions=MappingProxyType(actions))


def parse_connector(content: bytes) -> Connector:
    """Reads one connector file.

    Raises:
        MalformedCatalogue: it breaks the schema or a rule.
        LimitExceeded: it is over a limit.
    """
    from nomos.catalogue.yaml12 import parse_yaml  # noqa: PLC0415 - only who loads a catalogue needs a YAML parser

    try:
        file = msgspec.convert(parse_yaml(content), _ConnectorFile, strict=True)
    except msgspec.ValidationError as error:
        raise MalformedCatalogue(str(error)[:200]) from error
    _check_origin(file)
    if len(file.actions) > ACTIONS_MAX:
        raise LimitExceeded("actions_max", ACTIONS_MAX, len(file.actions))
    types = {kind: _resource_type(file.connector, kind, declared) for kind, declared in file.resource_types.items()}
    actions = [_action(file.connector, name, declared, types) for name, declared in file.actions.items()]
    _check_unambiguous(actions)
    return Connector(
        name=file.connector,
        title=file.title,
        scheme=file.scheme,
        host=file.host,
        port=file.port,
        auth=file.auth,
        headers=tuple(sorted(file.headers.items())),
        resource_types=MappingProxyType(types),
        actions=MappingProxyType({action.id: action for action in actions}),
    )


def _check_origin(file: _ConnectorFile) -> None:
    try:
        parse_slug(file.connector, "connector")
    except Malformed as error:
        raise MalformedCatalogue(error.detail) from error
    # a name of digits and dots would be read as an address; the last label must start with a letter
    if _HOST.fullmatch(file.host) is None:
        raise MalformedCatalogue("host must be a lower-case DNS name with at least two labels")
    if not 1 <= file.port <= 65535:
        raise MalformedCatalogue("port must be 1 to 65535")
    for name, value in file.headers.items():
        if _HEADER_NAME.fullmatch(name) is None or name in FORBIDDEN_HEADERS:
            raise MalformedCatalogue(f"header {name!r} may not be set by a connector")
        if _HEADER_VALUE.fullmatch(value) is None:
            raise MalformedCatalogue(f"header {name!r} must be 1 to 256 printable ASCII characters")


def _resource_type(connector: str, kind: str, file: _ResourceFile) -> ResourceType:
    if _NAME.fullmatch(kind) is None:
        raise MalformedCatalogue(f"resource type {kind!r} must be lower-case letters, digits and underscores")
    if _CEDAR_TYPE.fullmatch(file.cedar) is None:
        raise MalformedCatalogue(f"resource type {kind}: cedar must be a namespaced entity type such as GitHub::Repo")
    if not file.fields:
        raise MalformedCatalogue(f"resource type {kind} needs at least one field")
    for name, pattern in file.fields.items():
        if _NAME.fullmatch(name) is None:
            raise MalformedCatalogue(f"field {name!r} of {kind} must be lower-case letters, digits and underscores")
        _check_pattern(pattern, f"field {name} of {kind}")
    return ResourceType(
        connector=connector,
        kind=kind,
        cedar=file.cedar,
        fields=tuple(file.fields),
        field_patterns=tuple(file.fields.values()),
    )


def _check_pattern(pattern: str, what: str) -> None:
    if not 0 < len(pattern) <= PATTERN_LENGTH_MAX:
        raise LimitExceeded(f"pattern_length_max of {what}", PATTERN_LENGTH_MAX, len(pattern))
    try:
        re.compile(pattern, re.ASCII)
    except (re.error, RecursionError, OverflowError) as error:
        raise MalformedCatalogue(f"{what}: the pattern is not a regular expression") from error


def _action(connector: str, name: str, file: _ActionFile, types: Mapping[str, ResourceType]) -> Action:
    what = f"action {name}"
    if _ACTION_NAME.fullmatch(name) is None:
        raise MalformedCatalogue(f"{what!r} must be written <noun>.<verb>")
    if file.resource not in types:
        raise MalformedCatalogue(f"{what}: unknown resource type")
    if not file.path or _TEMPLATE.fullmatch(file.path) is None:
        raise MalformedCatalogue(f"{what}: the path is not a template")
    # a lost GET is sent again without asking, so it must be harmless (RFC 9110 section 9.2.1)
    if file.method == "GET" and file.risk is not Risk.READ:
        raise MalformedCatalogue(f"{what}: a GET must have the risk read")
    header = file.idempotency_header
    if header is not None and (_HEADER_NAME.fullmatch(header) is None or header in FORBIDDEN_HEADERS):
        raise MalformedCatalogue(f"{what}: the idempotency header may not be set")
    parameters = tuple(_parameter(what, key, declared) for key, declared in file.parameters.items())
    action = Action(
        id=f"{connector}:{name}",
        connector=connector,
        title=file.title,
        method=file.method,
        path=file.path,
        parameters=parameters,
        risk=file.risk,
        resource_type=types[file.resource],
        idempotency_header=header,
    )
    _check_path(what, action)
    return action


def _parameter(what: str, name: str, file: _ParameterFile) -> Parameter:
    if _NAME.fullmatch(name) is None:
        raise MalformedCatalogue(f"{what}: parameter {name!r} must be lower-case letters, digits and underscores")
    if min(file.max_length, file.max_items) < 1 or not -(2**53) < file.minimum <= file.maximum < 2**53:
        raise MalformedCatalogue(f"{what}: the limits of {name} are not a range")
    if file.where == "path" and (file.type not in ("string", "integer") or not file.required or file.minimum < 0):
        raise MalformedCatalogue(f"{what}: {name} in the path must be a required string or unsigned integer")
    if file.pattern:
        _check_pattern(file.pattern, f"{what}: {name}")
    return Parameter(
        name=name,
        where=file.where,
        type=file.type,
        required=file.required,
        max_length=file.max_length,
        max_items=file.max_items,
        minimum=file.minimum,
        maximum=file.maximum,
        enum=file.enum,
        pattern=file.pattern,
    )


def _check_path(what: str, action: Action) -> None:
    names = [part.strip("{+}") for part in action.path.split("/") if part.startswith("{")]
    fields = action.resource_type.fields
    from_args = [parameter.name for parameter in action.parameters if parameter.where == "path"]
    if sorted(names) != sorted([*fields, *from_args]):
        raise MalformedCatalogue(f"{what}: the path must hold each resource field and path parameter exactly once")
    if action.path.split("/")[-1].startswith("{+") and names[-1] in fields:
        raise MalformedCatalogue(f"{what}: a resource field is one segment")
    if any(parameter.name in fields for parameter in action.parameters):
        raise MalformedCatalogue(f"{what}: a parameter must not be named like a resource field")
    if action.method in ("GET", "DELETE") and any(parameter.where == "body" for parameter in action.parameters):
        raise MalformedCatalogue(f"{what}: a {action.method} has no body")


def _check_unambiguous(actions: list[Action]) -> None:
    for index, one in enumerate(actions):
        for other in actions[index + 1 :]:
            if one.method == other.method and _can_match_same_path(one, other):
                raise MalformedCatalogue(f"{one.id} and {other.id} can both match one path")


def _can_match_same_path(one: Action, other: Action) -> bool:
    mine, theirs = one.path.split("/"), other.path.split("/")
    for first, second in zip(mine, theirs, strict=False):
        if first.startswith("{+") or second.startswith("{+"):
            return True
        if not _can_be_equal(one, first, other, second):
            return False
    # {+name} stands for at least one segment, so a template that ends before it matches other paths
    return len(mine) == len(theirs)


def _can_be_equal(one: Action, first: str, other: Action, second: str) -> bool:
    if not first.startswith("{") and not second.startswith("{"):
        return first == second
    if first.startswith("{") and second.startswith("{"):
        return True
    action, field, literal = (one, first, second) if first.startswith("{") else (other, second, first)
    types = {parameter.name: parameter.type for parameter in action.parameters}
    return types.get(field.strip("{+}")) != "integer" or literal.isdigit()
