"""``nomos connector list|show|check|try|schema|import``: what may be called, and how a file says it. No network.

``try`` prints the exact request that the proxy would send, without its credential.

Exit 0: done, and for ``check`` the file is a connector; 1: ``check`` found a fault, or there is no such action;
2: usage, or input that is malformed.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Final

import orjson
import yaml

from nomos.catalogue import (
    Action,
    Auth,
    Catalogue,
    Connector,
    OutgoingRequest,
    build_request,
    derive_resource,
    load_catalogue,
)
from nomos.catalogue.auth import auth_text
from nomos.catalogue.connectorfile import connector_schema
from nomos.catalogue.load import parse_connector
from nomos.cli.admin import parse_args_json, read_text
from nomos.cli.output import Exit, error, result, say
from nomos.cli.words import behind_the_verb
from nomos.errors import Malformed, Misconfigured, NotFound
from nomos.ids import parse_slug
from nomos_proxy.destination import check_request, origin_of
from nomos_proxy.openapi import draft_connector

#: Stands for a host that each connection has for itself.
OPEN: Final = "host.of.the.connection"
#: Bytes of an OpenAPI document.
DOCUMENT_BYTES_MAX: Final = 16 * 1024 * 1024


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``connector``."""
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    common = behind_the_verb()
    common.add_argument("--connectors", metavar="DIR", default="connectors", help="the catalogue (default connectors)")
    listed = verbs.add_parser("list", parents=[common], help="the connectors, or the actions of one")
    listed.add_argument("connector", nargs="?")
    shown = verbs.add_parser("show", parents=[common], help="one action: what it takes, acts on and risks")
    shown.add_argument("action")
    checked = verbs.add_parser("check", parents=[common], help="check a connector's file")
    checked.add_argument("file")
    tried = verbs.add_parser("try", parents=[common], help="print the request that would be sent, without credential")
    tried.add_argument("action")
    tried.add_argument("resource")
    tried.add_argument("--args", default="{}", metavar="JSON")
    verbs.add_parser("schema", parents=[common], help="print the shape of a connector's file as a JSON Schema")
    made = verbs.add_parser("import", parents=[common], help="draft a connector from an OpenAPI 3 document (JSON)")
    made.add_argument("document")
    made.add_argument("--name", required=True, help="name of the connector, and of its file")
    made.add_argument("--out", metavar="FILE", help="write it there instead of printing it")


def run(args: argparse.Namespace) -> int:
    """Lists, shows, checks, tries or imports."""
    match args.verb:
        case "schema":
            print(json.dumps(connector_schema(), indent=2))
            return Exit.YES
        case "list":
            return _list(args)
        case "show":
            return _show(args)
        case "check":
            return _check(args)
        case "try":
            return _try(args)
        case _:
            return _import(args)


def _catalogue(args: argparse.Namespace) -> Catalogue:
    folder = Path(args.connectors)
    if not folder.is_dir():
        raise Misconfigured(f"there is no folder {folder}", hint="--connectors DIR")
    return load_catalogue(folder)


def _connector(catalogue: Catalogue, name: str) -> Connector:
    if name not in catalogue.connectors:
        raise NotFound(f"there is no connector {name!a}", hint=f"connectors: {', '.join(catalogue.connectors)}")
    return catalogue.connectors[name]


def _list(args: argparse.Namespace) -> int:
    catalogue = _catalogue(args)
    if args.connector is None:
        members = [
            {"connector": one.name, "title": one.title, "host": one.host or OPEN, "actions": len(one.actions)}
            for one in catalogue.connectors.values()
        ]
        lines = [
            f"{one['connector']:<18} {one['actions']:>3} actions  {one['title']} ({one['host']})" for one in members
        ]
        result(args, "connector list", {"connectors": members}, [*lines, f"{len(catalogue.actions)} actions in all"])
        return Exit.YES
    actions = [*_connector(catalogue, args.connector).actions.values()]
    result(
        args,
        "connector list",
        {"actions": [_members(one) for one in actions]},
        [f"{one.risk.value:<11} {one.id:<36} {_resource_text(one):<34} {one.title}" for one in actions],
    )
    return Exit.YES


def _show(args: argparse.Namespace) -> int:
    catalogue = _catalogue(args)
    action = catalogue.action(args.action)
    connector = catalogue.connectors[action.connector]
    lines = [
        f"{action.id}  {action.title}",
        f"  risk      {action.risk.value}"
        + ("; a person approves it by default" if action.risk.is_high_stakes else ""),
        f"  request   {action.method} {origin_of(connector, OPEN)}{action.path}",
        f"  resource  {_resource_text(action)}, from the " + ", ".join(_place(s.where, s.name) for s in action.sources),
        *[f"  argument  {_parameter_text(one)}" for one in _parameters(action)],
        *[f"  fixed     {name} = {value!r}" for name, value in (*action.fixed_query, *action.fixed_body)],
        *[f"  header    {name}: {value}" for name, value in action.fixed_headers],
        *([f"  body      {action.content_type}"] if action.content_type else []),
        *([f"  scopes    {', '.join(action.scopes)}"] if action.scopes else []),
        *([f"  pages     {action.pagination.parameter}"] if action.pagination else []),
        *([f"  note      {action.notes}"] if action.notes else []),
    ]
    result(args, "connector show", _members(action), lines)
    return Exit.YES


def _check(args: argparse.Namespace) -> int:
    path = Path(args.file)
    try:
        connector = parse_connector(read_text(args.file, "connector file").encode())
        if path.stem != connector.name:
            raise Malformed(f"{path.name} declares the connector {connector.name}; the names must be equal")
    except Malformed as fault:
        error(f"{path.name}: {fault.detail}", fault.hint)
        return Exit.NO
    risks = [action.risk.value for action in connector.actions.values()]
    counted = ", ".join(f"{risks.count(risk)} {risk}" for risk in dict.fromkeys(risks))
    line = f"{connector.name} is a connector: {len(risks)} actions ({counted}), {_auth_text(connector)}"
    result(args, "connector check", {"connector": connector.name, "actions": len(risks)}, [line])
    return Exit.YES


def _try(args: argparse.Namespace) -> int:
    catalogue = _catalogue(args)
    action = catalogue.action(args.action)
    connector = catalogue.connectors[action.connector]
    request = build_request(action, catalogue.parse_resource(args.resource), parse_args_json(args.args))
    derived = derive_resource(connector, action, request)
    origin = origin_of(connector, request.host or OPEN)
    target = check_request(origin, request)
    headers = _headers(connector, action, request, origin.authority)
    body = (request.body or b"").decode("utf-8")
    content = request.content
    members = {
        "method": request.method,
        "url": f"{origin}{target}",
        "headers": dict(headers),
        "body": body,
        "resource": derived.text,
        "risk": action.risk.value,
        **({} if content is None else {"content": content.arg}),
    }
    lines = [f"{request.method} {origin}{target}", *[f"{name}: {value}" for name, value in headers]]
    result(args, "connector try", members, [*lines, *(["", body] if body else [])])
    if content is not None and not args.json:
        place = "is the body" if action.content and action.content.encoding == "raw" else "stands there in base64"
        say(f"a content of {content.size} bytes ({content.media_type}, SHA-256 {content.sha256}) {place}")
    if not args.json:
        say(f"acts on {derived.text}; risk {action.risk.value}; nothing was sent")
    return Exit.YES


def _headers(connector: Connector, action: Action, request: OutgoingRequest, authority: str) -> list[tuple[str, str]]:
    """The headers of a request; of what is not HTTP there are none."""
    if connector.scheme != "https":
        return []
    headers = [("host", authority), *connector.headers, *request.headers]
    if action.idempotency_header:
        headers.append((action.idempotency_header, "<made from the permission>"))
    if request.body is not None:
        headers.append(("content-type", request.content_type))
    headers.append(_credential(connector.auth))
    return headers


def _import(args: argparse.Namespace) -> int:
    parse_slug(args.name, "connector")
    text = read_text(args.document, "document")
    if len(text) > DOCUMENT_BYTES_MAX:
        raise Misconfigured(f"DOCUMENT_BYTES_MAX is {DOCUMENT_BYTES_MAX}, got {len(text)}")
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError as fault:
        raise Malformed(
            f"{Path(args.document).name} is not JSON: {fault}", hint="convert YAML to JSON first"
        ) from fault
    draft = draft_connector(document, args.name)
    review = "".join(f"# review: {line}\n" for line in draft.review)
    made = review + "\n" + yaml.safe_dump(draft.members, sort_keys=False, allow_unicode=True, width=120)
    parse_connector(made.encode())
    count = len(draft.members["actions"]) if isinstance(draft.members["actions"], dict) else 0
    if args.out:
        if Path(args.out).exists():
            raise Misconfigured(f"{args.out} exists", hint="name another file; nothing is overwritten")
        Path(args.out).write_text(made, encoding="utf-8")
        line = f"{args.out}: {count} actions, {len(draft.review)} lines to review, at the top of the file"
        result(args, "connector import", {"actions": count, "review": list(draft.review)}, [line])
    else:
        result(
            args, "connector import", {"text": made, "actions": count, "review": list(draft.review)}, [made.rstrip()]
        )
    return Exit.YES


def _parameters(action: Action) -> list[dict[str, object]]:
    return [
        {
            "name": one.name,
            "type": one.type,
            "required": one.required,
            "where": one.where,
            **({"enum": list(one.enum)} if one.enum else {}),
            **({"pattern": one.pattern} if one.pattern else {}),
            **({"bytes_max": one.max_length, "instead_of": one.instead_of} if one.type == "content" else {}),
        }
        for one in action.parameters
    ]


def _members(action: Action) -> dict[str, object]:
    return {
        "action": action.id,
        "title": action.title,
        "risk": action.risk.value,
        "method": action.method,
        "path": action.path,
        "resource": _resource_text(action),
        "headers": dict(action.fixed_headers),
        "parameters": _parameters(action),
        "scopes": list(action.scopes),
        "notes": action.notes,
    }


def _resource_text(action: Action) -> str:
    kind = action.resource_type
    constants = {f: s.name for f, s in zip(kind.fields, action.sources, strict=True) if s.where == "constant"}
    return f"{kind.connector}:{kind.kind}/" + "/".join(constants.get(field, f"<{field}>") for field in kind.fields)


def _place(where: str, name: str) -> str:
    return "connector" if where == "constant" else f"{where} ({name})"


def _parameter_text(one: dict[str, object]) -> str:
    allowed = one.get("enum")
    rest = f", one of {', '.join(map(str, allowed))}" if isinstance(allowed, list) else ""
    if one["type"] == "content":
        rest += f", {one['bytes_max']} bytes at most" + (
            f", instead of {one['instead_of']}" if one["instead_of"] else ""
        )
    return f"{one['name']}: {one['type']}" + (", required" if one["required"] else "") + rest


def _auth_text(connector: Connector) -> str:
    auth = connector.auth
    if connector.is_auth_chosen:
        return "each connection says how its credential is presented"
    if auth.kind in ("key", "none"):
        return "a private key of SSH" if auth.kind == "key" else "no credential"
    return f"{auth.header}: {auth.prefix}<credential>" if auth.kind == "header" else auth_text(auth)


def _credential(auth: Auth) -> tuple[str, str]:
    """Where the credential will stand, or what is made with it."""
    made = "the credential" if auth.kind in ("header", "basic") else "a signature of the request"
    return auth.header, f"{auth.prefix}<{made}>"
