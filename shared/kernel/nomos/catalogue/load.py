"""Reads connector files: their shape (:mod:`nomos.catalogue.connectorfile`), then part by part what they declare.

What an action must say to say one thing is :mod:`nomos.catalogue.onething` and, for names in queries and bodies,
:mod:`nomos.catalogue.namechecks`. Rules of their own have contents (:mod:`nomos.catalogue.contentrules`), headers that
an action fixes (:mod:`nomos.catalogue.actionheaders`), and what is not HTTP (:mod:`nomos.catalogue.operations`). Here:
names, hosts, limits, and that a GET is a read.

Source: the format is ours; ``connectors/github.yaml`` is the example.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

import msgspec

from nomos.catalogue import contentrules
from nomos.catalogue.actionheaders import check_action_headers, check_media_type
from nomos.catalogue.auth import FORBIDDEN_HEADERS, HEADER_NAME, KEY, NONE, aws_auth, header_auth, parse_auth
from nomos.catalogue.connectorfile import ActionFile, AuthFile, ConnectorFile, HostFile, PaginationFile, ParameterFile
from nomos.catalogue.kinds import build_kind, check_pattern
from nomos.catalogue.model import (
    ANY_NAME,
    WHOLE,
    Action,
    Auth,
    Catalogue,
    Connector,
    FieldSource,
    Pagination,
    Parameter,
    Rate,
    ResourceType,
    Risk,
    matches,
)
from nomos.catalogue.namechecks import check_names
from nomos.catalogue.oauth import build_oauth
from nomos.catalogue.onething import check_path, check_unambiguous
from nomos.catalogue.operations import check_operation
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

    return build_connector(parse_yaml(content))


def build_connector(members: object) -> Connector:
    """The connector that a file's members declare.

    Args:
        members: what stands in the file, as maps, lists, texts, integers and truth values.

    Raises:
        MalformedCatalogue, LimitExceeded: as :func:`parse_connector`.
    """
    try:
        file = msgspec.convert(members, ConnectorFile, strict=True)
    except msgspec.ValidationError as error:
        raise MalformedCatalogue(str(error)[:200]) from error
    _check_origin(file)
    if len(file.actions) > ACTIONS_MAX:
        raise LimitExceeded("actions_max", ACTIONS_MAX, len(file.actions))
    types = {kind: build_kind(file.connector, file.resource_types, kind) for kind in file.resource_types}
    actions = [_action(file, name, declared, types) for name, declared in file.actions.items()]
    check_unambiguous(actions)
    of_hosts = [action.id for action in actions if any(source.where == "host" for source in action.sources)]
    if of_hosts and isinstance(file.host, str):
        raise MalformedCatalogue(f"{of_hosts[0]} acts on a host, and the connector has one for all")
    return Connector(
        name=file.connector,
        title=file.title,
        scheme=file.scheme,
        host=file.host if isinstance(file.host, str) else "",
        host_pattern=file.host.pattern if isinstance(file.host, HostFile) else "",
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


def _auth(file: ConnectorFile) -> Auth:
    if file.scheme != "https":
        return KEY if file.scheme == "ssh" else NONE
    if isinstance(file.auth, AuthFile):
        if bool(file.auth.header) == bool(file.auth.aws):
            raise MalformedCatalogue("auth names a header, or a service of AWS")
        auth = aws_auth(file.auth.aws) if file.auth.aws else header_auth(file.auth.header, file.auth.prefix)
    else:
        auth = parse_auth("bearer" if file.auth == "chosen" else file.auth)
    if auth.header in file.headers:
        raise MalformedCatalogue(f"the credential may not stand in the header {auth.header!r}")
    return auth


def _check_origin(file: ConnectorFile) -> None:
    try:
        parse_slug(file.connector, "connector")
    except Malformed as error:
        raise MalformedCatalogue(error.detail) from error
    if isinstance(file.host, HostFile):
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


def _check_scheme(file: ConnectorFile) -> None:
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


def _action(connector: ConnectorFile, name: str, file: ActionFile, types: Mapping[str, ResourceType]) -> Action:
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
    check_path(what, action)
    check_names(what, action)
    contentrules.check_multipart(what, action)
    if connector.scheme != "https":
        check_operation(connector.scheme, action)
    return action


def _fixed_headers(what: str, connector: ConnectorFile, file: ActionFile) -> tuple[tuple[str, str], ...]:
    taken = {*connector.headers, file.idempotency_header, _auth(connector).header}
    return check_action_headers(what, file.fixed.headers, taken=[name for name in taken if name])


def _checked_rate(what: str, rate: Rate | None) -> Rate | None:
    if rate is not None and not (1 <= rate.calls <= 1_000_000 and 1 <= rate.seconds <= 86_400):
        raise MalformedCatalogue(f"{what}: a rate is 1 to 1,000,000 calls in 1 to 86,400 seconds")
    return rate


def _declared_parameters(what: str, connector: ConnectorFile, file: ActionFile) -> dict[str, ParameterFile]:
    declared = dict(file.parameters)
    for name in file.uses:
        if name not in connector.parameters or name in declared:
            raise MalformedCatalogue(f"{what}: {name!r} in uses must be one of the connector's parameters, named once")
        declared[name] = connector.parameters[name]
    return declared


def _sources(what: str, file: ActionFile, kind: ResourceType, inside: str) -> tuple[FieldSource, ...]:
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


def _pagination(what: str, file: PaginationFile | None, declared: Mapping[str, ParameterFile]) -> Pagination | None:
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


def _parameter(what: str, name: str, file: ParameterFile, inside: str) -> Parameter:
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
