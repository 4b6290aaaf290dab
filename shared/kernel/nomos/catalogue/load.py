"""Reads connector files and checks that they say one thing each.

Beyond the shape of the file (unknown keys are refused), the rules are: every field of the action's resource type
stands in one place of the request (the path, unless ``derive`` says otherwise); every other field of the path is a
required parameter; every name of a query or body stands for one thing; no two actions with one method can match the
same path, unless a member that one fixes is fixed otherwise by the other, so that a request belongs to one action; a
GET is a read. Rules of their own have names in bodies and queries (:mod:`nomos.catalogue.namechecks`), headers that an
action fixes (:mod:`nomos.catalogue.actionheaders`), and what is not HTTP (:mod:`nomos.catalogue.operations`).

Source: the format is ours; ``connectors/github.yaml`` is the example.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Final, Literal

import msgspec
from msgspec import Struct

from nomos.catalogue import contentrules
from nomos.catalogue.actionheaders import MEDIA_TYPE, NAME, VALUE, check_action_headers, check_media_type
from nomos.catalogue.apart import may_meet
from nomos.catalogue.auth import FORBIDDEN_HEADERS, HEADER_NAME, KEY, NONE, aws_auth, header_auth, parse_auth
from nomos.catalogue.kinds import ResourceFile, build_kind, check_pattern
from nomos.catalogue.model import (
    ANY_NAME,
    WHOLE,
    Action,
    Auth,
    BodyFormat,
    Catalogue,
    Connector,
    Encoding,
    FieldSource,
    Pagination,
    Parameter,
    ParameterType,
    Rate,
    ResourceType,
    Risk,
    Scheme,
    matches,
)
from nomos.catalogue.namechecks import check_names
from nomos.catalogue.oauth import OAuthFile, build_oauth
from nomos.catalogue.operations import check_operation
from nomos.catalogue.request import field_of
from nomos.errors import LimitExceeded, Malformed, MalformedCatalogue
from nomos.ids import parse_slug

#: Actions of one connector.
ACTIONS_MAX: Final = 500
#: Files in the connector directory.
CONNECTORS_MAX: Final = 200

_ACTION_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,39}\.[a-z][a-z0-9_]{0,39}")
_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,39}")
_HOST: Final = re.compile(r"(?=.{1,253}\Z)(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?")
_TEMPLATE: Final = re.compile(
    r"(?:/(?:[A-Za-z0-9_@-][A-Za-z0-9._:-]*|\{[a-z][a-z0-9_]*\}(?::[A-Za-z][A-Za-z0-9]*)?))*(?:/\{\+[a-z][a-z0-9_]*\})?"
)
#: How a file writes :data:`WHOLE`.
_WHOLE_IN_FILE: Final = "."
_POINTER: Final = re.compile(r"(?:/[A-Za-z0-9_-]{1,64}){1,6}")
_HEADER_VALUE: Final = re.compile(r"[!-~](?:[ -~]{0,254}[!-~])?")


class _ParameterFile(Struct, frozen=True, forbid_unknown_fields=True):
    where: Literal["path", "query", "body"]
    wire: str = ""
    type: ParameterType = "string"
    repeats: bool = False
    required: bool = False
    max_length: int = 256
    max_items: int = 100
    minimum: int = 0
    maximum: int = 2**53 - 1
    enum: tuple[str, ...] = ()
    pattern: str = ""
    encoding: Encoding = "raw"
    instead_of: str = ""


class _SourceFile(Struct, frozen=True, forbid_unknown_fields=True):
    query: str = ""
    body: str = ""
    constant: str = ""
    host: bool = False


def _shaped(pattern: str) -> msgspec.Meta:
    """For the JSON Schema alone; the loader says in words what is wrong."""
    return msgspec.Meta(extra_json_schema={"pattern": f"^(?:{pattern})$"})


class _FixedFile(Struct, frozen=True, forbid_unknown_fields=True):
    query: dict[str, str] = {}
    body: dict[str, str | int | bool] = {}
    headers: dict[Annotated[str, _shaped(NAME)], Annotated[str, _shaped(VALUE)]] = {}


class _PaginationFile(Struct, frozen=True, forbid_unknown_fields=True):
    parameter: str
    kind: Literal["page", "cursor"]
    next: str = ""
    more: str = ""


class _AuthFile(Struct, frozen=True, forbid_unknown_fields=True):
    header: str = ""
    prefix: str = ""
    aws: str = ""


class _HostFile(Struct, frozen=True, forbid_unknown_fields=True):
    pattern: str


class _ActionFile(Struct, frozen=True, forbid_unknown_fields=True):
    title: str
    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"]
    path: str
    risk: Risk
    resource: str
    derive: dict[str, _SourceFile] = {}
    uses: tuple[str, ...] = ()
    parameters: dict[str, _ParameterFile] = {}
    body: BodyFormat = "json"
    json_part: str = ""
    content_type: Annotated[str, _shaped(f"|{MEDIA_TYPE}")] = ""
    fixed: _FixedFile = _FixedFile()
    graphql: str = ""
    idempotency_header: str | None = None
    rate: Rate | None = None
    pagination: _PaginationFile | None = None
    streaming: bool = False
    scopes: tuple[str, ...] = ()
    notes: str = ""


class _ConnectorFile(Struct, frozen=True, forbid_unknown_fields=True):
    connector: str
    title: str
    scheme: Scheme
    host: str | _HostFile
    auth: Literal["bearer", "basic", "signature", "chosen", "key", "none"] | _AuthFile
    resource_types: dict[str, ResourceFile]
    actions: dict[str, _ActionFile]
    port: int = 0
    headers: dict[str, str] = {}
    http: Literal["1.1", "2"] = "1.1"
    rate: Rate | None = None
    oauth: OAuthFile | None = None
    parameters: dict[str, _ParameterFile] = {}


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


def connector_schema() -> dict[str, object]:
    """The shape of a connector file as a JSON Schema (2020-12), for editors; the rules beyond the shape are here."""
    made = msgspec.json.schema(_ConnectorFile)
    text = msgspec.json.encode(made).decode()
    # The names of the loader's own types are nobody else's business.
    text = re.sub(r'"((?:#/\$defs/)?)_?(\w+?)File"', lambda found: f'"{found[1]}{found[2]}"', text)
    head: dict[str, object] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "A connector of Nomos",
    }
    return head | msgspec.json.decode(text, type=dict[str, object])


def parse_connector(content: bytes) -> Connector:
    """Reads one connector file.

    Raises:
        MalformedCatalogue: it breaks the schema or a rule.
        LimitExceeded: it is over a limit.
    """
    from nomos.catalogue.yaml12 import parse_yaml  # noqa: PLC0415 - only who loads a catalogue needs a YAML parser

    return build_connector(parse_yaml(content))


def build_connector(members: object) -> Connector:
    """The connector that a file's members declare.

    Args:
        members: what stands in the file, as maps, lists, texts, integers and truth values.

    Raises:
        MalformedCatalogue, LimitExceeded: as :func:`parse_connector`.
    """
    try:
        file = msgspec.convert(members, _ConnectorFile, strict=True)
    except msgspec.ValidationError as error:
        raise MalformedCatalogue(str(error)[:200]) from error
    _check_origin(file)
    if len(file.actions) > ACTIONS_MAX:
        raise LimitExceeded("actions_max", ACTIONS_MAX, len(file.actions))
    types = {kind: build_kind(file.connector, file.resource_types, kind) for kind in file.resource_types}
    actions = [_action(file, name, declared, types) for name, declared in file.actions.items()]
    _check_unambiguous(actions)
    of_hosts = [action.id for action in actions if any(source.where == "host" for source in action.sources)]
    if of_hosts and isinstance(file.host, str):
        raise MalformedCatalogue(f"{of_hosts[0]} acts on a host, and the connector has one for all")
    return Connector(
        name=file.connector,
        title=file.title,
        scheme=file.scheme,
        host=file.host if isinstance(file.host, str) else "",
        host_pattern=file.host.pattern if isinstance(file.host, _HostFile) else "",
        port=file.port,
        auth=_auth(file),
        is_auth_chosen=file.auth == "chosen",
        headers=tuple(sorted(file.headers.items())),
        http=file.http,
        rate=_checked_rate("the connector", file.rate),
        oauth=None if file.oauth is None else build_oauth(file.oauth, file.headers),
        resource_types=MappingProxyType(types),
        actions=MappingProxyType({action.id: action for action in actions}),
    )


def is_host(text: str) -> bool:
    """Whether ``text`` is a lower-case DNS name of at least two labels, and can be read as nothing else.

    A name of digits and dots would be read as an address; so the last label starts with a letter.
    """
    return _HOST.fullmatch(text) is not None


def _auth(file: _ConnectorFile) -> Auth:
    if file.scheme != "https":
        return KEY if file.scheme == "ssh" else NONE
    if isinstance(file.auth, _AuthFile):
        if bool(file.auth.header) == bool(file.auth.aws):
            raise MalformedCatalogue("auth names a header, or a service of AWS")
        auth = aws_auth(file.auth.aws) if file.auth.aws else header_auth(file.auth.header, file.auth.prefix)
    else:
        auth = parse_auth("bearer" if file.auth == "chosen" else file.auth)
    if auth.header in file.headers:
        raise MalformedCatalogue(f"the credential may not stand in the header {auth.header!r}")
    return auth


def _check_origin(file: _ConnectorFile) -> None:
    try:
        parse_slug(file.connector, "connector")
    except Malformed as error:
        raise MalformedCatalogue(error.detail) from error
    if isinstance(file.host, _HostFile):
        check_pattern(file.host.pattern, "the host")
        if file.oauth is not None:
            raise MalformedCatalogue("accounts are connected where the connector has one host for all")
    elif not is_host(file.host):
        raise MalformedCatalogue("host must be a lower-case DNS name with at least two labels")
    _check_scheme(file)
    for name, value in file.headers.items():
        if HEADER_NAME.fullmatch(name) is None or name in FORBIDDEN_HEADERS:
            raise MalformedCatalogue(f"header {name!r} may not be set by a connector")
        if _HEADER_VALUE.fullmatch(value) is None:
            raise MalformedCatalogue(f"header {name!r} must be 1 to 256 printable ASCII characters")


def _check_scheme(file: _ConnectorFile) -> None:
    if file.scheme == "file":
        if file.port:
            raise MalformedCatalogue("files have no port")
    elif not 1 <= file.port <= 65535:
        raise MalformedCatalogue("port must be 1 to 65535")
    wanted = {"ssh": "key", "file": "none"}.get(file.scheme)
    if wanted is None:
        if file.auth in ("key", "none"):
            raise MalformedCatalogue("auth is key for ssh, none for file, and neither for https")
    elif file.auth != wanted or isinstance(file.host, str) or file.headers:
        raise MalformedCatalogue(f"with the scheme {file.scheme} auth is {wanted}, host a pattern, and no header set")


def _action(connector: _ConnectorFile, name: str, file: _ActionFile, types: Mapping[str, ResourceType]) -> Action:
    what = f"action {name}"
    if _ACTION_NAME.fullmatch(name) is None:
        raise MalformedCatalogue(f"{what!r} must be written <noun>.<verb>")
    if file.resource not in types:
        raise MalformedCatalogue(f"{what}: unknown resource type")
    if file.path != "/" and (not file.path or _TEMPLATE.fullmatch(file.path) is None):
        raise MalformedCatalogue(f"{what}: the path is not a template")
    # a lost GET is sent again without asking, so it must be harmless (RFC 9110 section 9.2.1)
    if file.method == "GET" and file.risk is not Risk.READ:
        raise MalformedCatalogue(f"{what}: a GET must have the risk read")
    header = file.idempotency_header
    if header is not None and (HEADER_NAME.fullmatch(header) is None or header in FORBIDDEN_HEADERS):
        raise MalformedCatalogue(f"{what}: the idempotency header may not be set")
    inside, fixed_body = "", dict(file.fixed.body)
    if file.graphql:
        # one fixed document; what varies are its variables
        inside, fixed_body = "variables.", {"query": " ".join(file.graphql.split()), **fixed_body}
    declared = _declared_parameters(what, connector, file)
    action = Action(
        id=f"{connector.connector}:{name}",
        connector=connector.connector,
        title=file.title,
        method=file.method,
        path=file.path,
        parameters=contentrules.placed(
            what, [_parameter(what, key, one, inside) for key, one in declared.items()], file.body
        ),
        risk=file.risk,
        resource_type=types[file.resource],
        sources=_sources(what, file, types[file.resource], inside),
        body_format=file.body,
        json_part=file.json_part,
        fixed_query=tuple(sorted(file.fixed.query.items())),
        fixed_body=tuple(sorted(fixed_body.items())),
        fixed_headers=_fixed_headers(what, connector, file),
        content_type=check_media_type(what, file.content_type, is_json=file.body == "json"),
        idempotency_header=header,
        rate=_checked_rate(what, file.rate),
        pagination=_pagination(what, file.pagination, declared),
        is_streaming=file.streaming,
        scopes=file.scopes,
        notes=file.notes,
    )
    _check_path(what, action)
    check_names(what, action)
    contentrules.check_multipart(what, action)
    if connector.scheme != "https":
        check_operation(connector.scheme, action)
    return action


def _fixed_headers(what: str, connector: _ConnectorFile, file: _ActionFile) -> tuple[tuple[str, str], ...]:
    taken = {*connector.headers, file.idempotency_header, _auth(connector).header}
    return check_action_headers(what, file.fixed.headers, taken=[name for name in taken if name])


def _checked_rate(what: str, rate: Rate | None) -> Rate | None:
    if rate is not None and not (1 <= rate.calls <= 1_000_000 and 1 <= rate.seconds <= 86_400):
        raise MalformedCatalogue(f"{what}: a rate is 1 to 1,000,000 calls in 1 to 86,400 seconds")
    return rate


def _declared_parameters(what: str, connector: _ConnectorFile, file: _ActionFile) -> dict[str, _ParameterFile]:
    declared = dict(file.parameters)
    for name in file.uses:
        if name not in connector.parameters or name in declared:
            raise MalformedCatalogue(f"{what}: {name!r} in uses must be one of the connector's parameters, named once")
        declared[name] = connector.parameters[name]
    return declared


def _sources(what: str, file: _ActionFile, kind: ResourceType, inside: str) -> tuple[FieldSource, ...]:
    if not set(file.derive) <= set(kind.fields):
        raise MalformedCatalogue(f"{what}: derive names a field that the resource type does not have")
    sources = []
    for field, pattern in zip(kind.fields, kind.field_patterns, strict=True):
        source = file.derive.get(field)
        if source is None:
            sources.append(FieldSource(where="path", name=field))
        elif [bool(source.query), bool(source.body), bool(source.constant), source.host].count(True) != 1:
            raise MalformedCatalogue(f"{what}: {field} is derived from one of query, body, host and constant")
        elif source.host:
            sources.append(FieldSource(where="host", name=""))
        elif source.constant:
            if not matches(pattern, source.constant):
                raise MalformedCatalogue(f"{what}: the constant {field} is not one of the resource type")
            sources.append(FieldSource(where="constant", name=source.constant))
        elif source.query:
            sources.append(FieldSource(where="query", name=source.query))
        else:
            sources.append(FieldSource(where="body", name=inside + source.body))
    return tuple(sources)


def _pagination(what: str, file: _PaginationFile | None, declared: Mapping[str, _ParameterFile]) -> Pagination | None:
    if file is None:
        return None
    parameter = declared.get(file.parameter)
    kinds = ("integer",) if file.kind == "page" else ("string", "json")
    if parameter is None or parameter.type not in kinds:
        raise MalformedCatalogue(
            f"{what}: pagination needs an integer parameter for a page, a string or json for a cursor"
        )
    if bool(file.next) != (file.kind == "cursor"):
        raise MalformedCatalogue(f"{what}: a cursor, and only a cursor, says where the answer holds the next one")
    if any(pointer and _POINTER.fullmatch(pointer) is None for pointer in (file.next, file.more)):
        raise MalformedCatalogue(f"{what}: pagination must point into the answer with a JSON pointer")
    return Pagination(parameter=file.parameter, kind=file.kind, next=file.next, more=file.more)


def _parameter(what: str, name: str, file: _ParameterFile, inside: str) -> Parameter:
    if _NAME.fullmatch(name) is None:
        raise MalformedCatalogue(f"{what}: parameter {name!r} must be lower-case letters, digits and underscores")
    if min(file.max_length, file.max_items) < 1 or not -(2**53) < file.minimum <= file.maximum < 2**53:
        raise MalformedCatalogue(f"{what}: the limits of {name} are not a range")
    if file.where == "path" and (file.type not in ("string", "integer") or not file.required or file.minimum < 0):
        raise MalformedCatalogue(f"{what}: {name} in the path must be a required string or unsigned integer")
    if file.where == "path" and file.wire:
        raise MalformedCatalogue(f"{what}: {name} in the path has the name of its field")
    is_pairs = file.wire == ANY_NAME and file.type == "string_map"
    if file.where == "query" and (file.type in ("string_map", "json") or file.wire == ANY_NAME) and not is_pairs:
        raise MalformedCatalogue(f"{what}: {name} in the query must be text, a number, a truth value or a list")
    if file.repeats and (file.where, file.type) != ("query", "string_list"):
        raise MalformedCatalogue(f"{what}: only a list in the query repeats its name")
    if file.pattern:
        check_pattern(file.pattern, f"{what}: {name}")
    is_whole = file.where == "body" and file.wire == _WHOLE_IN_FILE
    return Parameter(
        name=name,
        where=file.where,
        wire=WHOLE if is_whole else (inside if file.where == "body" else "") + (file.wire or name),
        type=file.type,
        repeats=file.repeats,
        required=file.required,
        max_length=file.max_length,
        max_items=file.max_items,
        minimum=file.minimum,
        maximum=file.maximum,
        enum=file.enum,
        pattern=file.pattern,
        encoding=file.encoding,
        instead_of=file.instead_of,
    )


def _check_path(what: str, action: Action) -> None:
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


def _check_unambiguous(actions: list[Action]) -> None:
    by_method: dict[str, list[Action]] = {}
    for one in actions:
        for other in by_method.setdefault(one.method, []):
            if may_meet(one, other):
                raise MalformedCatalogue(f"{other.id} and {one.id} can both match one path")
        by_method[one.method].append(one)
