"""A draft of a connector from an OpenAPI document. It is a draft: a person reads it before it is used.

What is decided here: names, types and limits from the document's own; a risk class from method and words, never below
what they say; the first field of each path as the resource, or the account where a path has none. What is not guessed:
whether an answer's data is harmless, which names mean the same object, what costs money under another word. Each such
guess, and each operation that was left out, is a line of the review list.

Pure. Source: OpenAPI Specification 3.0 and 3.1.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final, cast
from urllib.parse import urlsplit

from msgspec import Struct

from nomos.catalogue import Action
from nomos.catalogue.apart import may_meet
from nomos.catalogue.load import ACTIONS_MAX, build_connector
from nomos.contents import CONTENT_BYTES_MAX
from nomos.errors import LimitExceeded, Malformed, MalformedCatalogue

#: References that are followed from one place.
REFERENCES_MAX: Final = 16
_METHODS: Final = ("get", "post", "put", "patch", "delete")
#: Words, in an operation's name or path, of the risk classes; the first class that has one is taken.
_WORDS: Final[Mapping[str, str]] = {
    "payment": "charge charges invoice pay payment payments payout payouts purchase refund refunds subscription"
    " subscriptions transfer transfers",
    "permission": "access acl admin grant grants invitation invitations invite key keys member members permission"
    " permissions role roles secret secrets share token tokens webhook webhooks",
    "destructive": "archive cancel clear delete destroy drop empty erase purge remove revoke terminate trash wipe",
}
_KNOWN: Final = {risk: frozenset(words.split()) for risk, words in _WORDS.items()}
_SEGMENT: Final = "[A-Za-z0-9._~@:-]{1,128}"
#: A form with files (RFC 7578), and names that its fields may have here.
FORM: Final = "multipart/form-data"
_FIELD: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")
_MEDIA_TYPE: Final = re.compile(r"[a-z]{1,20}/[a-z0-9][a-z0-9.+-]{0,90}")


class Draft(Struct, frozen=True, kw_only=True):
    """A connector's members as its file holds them, and what a person must look at."""

    members: dict[str, object]
    review: tuple[str, ...]


def draft_connector(document: object, name: str) -> Draft:
    """The draft.

    Args:
        document: the OpenAPI document, read from JSON.
        name: name of the connector.

    Raises:
        Malformed: not an OpenAPI 3 document, or without an https server.
        LimitExceeded: more operations than a connector may have.
    """
    root = _object(document)
    if not str(root.get("openapi", "")).startswith("3."):
        raise Malformed("not an OpenAPI 3 document", hint="an older one is converted first")
    host, base = _server(root)
    reader = _Reader(root, name, base)
    actions = {}
    for path, item in _object(root.get("paths")).items():
        for method in _METHODS:
            if method in _object(item):
                action, one = reader.operation(str(path), method, _object(item))
                actions[action] = one
    if len(actions) > ACTIONS_MAX:
        raise LimitExceeded("actions_max", ACTIONS_MAX, len(actions))
    members: dict[str, object] = {
        "connector": name,
        "title": str(_object(root.get("info")).get("title", name))[:80],
        "scheme": "https",
        "host": host,
        "port": 443,
        "auth": "bearer",
        "headers": {"accept": "application/json", "user-agent": "nomos-proxy"},
        "resource_types": {},
        "actions": {},
    }
    kept: dict[str, Action] = {}
    for action, one in actions.items():
        kind = str(one["resource"])
        try:
            alone = {**members, "resource_types": {kind: reader.kinds[kind]}, "actions": {action: one}}
            built = build_connector(alone).actions[f"{name}:{action}"]
        except (MalformedCatalogue, LimitExceeded) as error:
            reader.review.append(f"{action}: left out: {error.detail}")
            continue
        meeting = next((known for known, other in kept.items() if may_meet(built, other)), None)
        if meeting:
            reader.review.append(f"{action}: left out: a request of it could be one of {meeting}")
            continue
        kept[action] = built
    used = dict.fromkeys(built.resource_type.kind for built in kept.values())
    members["resource_types"] = {kind: reader.kinds[kind] for kind in used}
    members["actions"] = {action: actions[action] for action in kept}
    assumed = "auth: bearer is assumed; basic and keys in a header are written as docs/connectors.md says"
    reader.review.insert(0, assumed)
    return Draft(members=members, review=tuple(reader.review))


def _is_bytes(schema: Mapping[str, object]) -> bool:
    """Whether a body, or a field of a form, is bytes (OpenAPI 3.0: ``format``; 3.1: no type at all)."""
    is_binary = schema.get("type") == "string" and schema.get("format") == "binary"
    return is_binary or (not schema.keys() - {"contentMediaType", "description", "title", "maxLength"})


class _Reader:
    def __init__(self, root: Mapping[str, object], connector: str, base: str) -> None:
        self._root = root
        self._base = base
        self._namespace = "".join(part.capitalize() for part in re.split(r"[^a-z0-9]+", connector))
        self.kinds: dict[str, object] = {}
        self.review: list[str] = []
        self._names: set[str] = set()

    def operation(self, path: str, method: str, item: Mapping[str, object]) -> tuple[str, dict[str, object]]:
        """The name and the members of one operation."""
        operation = _object(item[method])
        name = self._name(path, method, operation)
        fields = re.findall(r"\{([^{}]+)\}", path)
        snakes = {field: _snake(field) for field in fields}
        template = self._base + re.sub(r"\{([^{}]+)\}", lambda found: f"{{{snakes[found[1]]}}}", path)
        kind = self._kind(snakes[fields[0]] if fields else "account")
        action: dict[str, object] = {
            "title": str(operation.get("summary") or operation.get("operationId") or name)[:100],
            "method": method.upper(),
            "path": template,
            "risk": self._risk(name, path, method),
            "resource": kind,
        }
        if not fields:
            action["derive"] = {"account": {"constant": "self"}}
        parameters: dict[str, object] = {
            snakes[field]: {"where": "path", "required": True, "max_length": 128, "pattern": _SEGMENT}
            for field in fields[1:]
        }
        for one in self._parameters(item, operation):
            if one.get("in") == "query":
                self._add(name, parameters, "query", str(one.get("name")), one.get("schema"))
                if one.get("required") is True:
                    _require(parameters, str(one.get("name")))
            elif one.get("in") in ("header", "cookie") and one.get("required"):
                self.review.append(f"{name}: needs the {one['in']} {one.get('name')}, which an action cannot set")
        if method in ("post", "put", "patch"):
            self._body(name, action, parameters, operation)
        if parameters:
            action["parameters"] = parameters
        return name, action

    def _body(
        self,
        name: str,
        action: dict[str, object],
        parameters: dict[str, object],
        operation: Mapping[str, object],
    ) -> None:
        body = self._resolved(operation.get("requestBody"))
        content = _object(body.get("content"))
        if not content:
            return
        schema = self._resolved(_object(content.get("application/json")).get("schema"))
        if not schema.get("properties"):
            if "upload" not in parameters and self._upload(name, action, parameters, content):
                return
            self.review.append(f"{name}: its body is not an object with known members, so it takes none")
            return
        required = schema.get("required")
        for member, one in _object(schema["properties"]).items():
            self._add(name, parameters, "body", str(member), one)
            if isinstance(required, list) and member in required:
                _require(parameters, str(member))

    def _upload(
        self, name: str, action: dict[str, object], parameters: dict[str, object], content: Mapping[str, object]
    ) -> bool:
        """Takes a body of bytes, or a form with one file in it; False where it is neither."""
        upload: dict[str, object] = {"where": "body", "type": "content", "required": True}
        upload["max_length"] = CONTENT_BYTES_MAX
        if FORM in content:
            form = self._resolved(_object(content[FORM]).get("schema"))
            members = {str(member): self._resolved(one) for member, one in _object(form.get("properties")).items()}
            files = [member for member, one in members.items() if _is_bytes(one)]
            if len(files) != 1 or "filename" in parameters or _FIELD.fullmatch(files[0]) is None:
                return False
            required = form.get("required")
            for member in members.keys() - set(files):
                if self._typed(members[member], "query") is None or members[member].get("type") != "string":
                    self.review.append(f"{name}: left out the field {member!r} of the form, which is no text")
                else:
                    self._add(name, parameters, "body", member, members[member])
                    if isinstance(required, list) and member in required:
                        _require(parameters, member)
            action["body"] = "multipart"
            parameters["upload"] = upload | {"wire": files[0], "encoding": "part"}
            parameters["filename"] = {"where": "body", "required": True, "max_length": 200}
            return True
        schemas = [self._resolved(_object(one).get("schema")) for one in content.values()]
        if "application/json" in content or not all(map(_is_bytes, schemas)):
            return False
        types = [kind for kind in content if _MEDIA_TYPE.fullmatch(kind)]
        action["body"] = "content"
        parameters["upload"] = upload | {"wire": "."} | ({"enum": types} if len(types) == len(content) else {})
        return True

    def _add(self, name: str, into: dict[str, object], where: str, wire: str, schema: object) -> None:
        known = _snake(wire)
        if known in into or not known:
            self.review.append(f"{name}: left out the {where} member {wire!r}, whose name is taken")
            return
        made = self._typed(schema, where)
        if made is None:
            self.review.append(f"{name}: left out the {where} member {wire!r}, which is {_kind_of(schema)}")
            return
        into[known] = {"where": where, **({"wire": wire} if wire != known else {}), **made}

    def _typed(self, schema: object, where: str) -> dict[str, object] | None:
        one = self._resolved(schema)
        kind = one.get("type")
        if isinstance(kind, list):
            kind = next((each for each in kind if each != "null"), None)
        match kind:
            case "string":
                options = one.get("enum")
                if isinstance(options, list) and options and all(isinstance(option, str) for option in options):
                    return {"enum": options}
                length = one.get("maxLength")
                return {"max_length": length if isinstance(length, int) and 0 < length <= 50_000 else 4_000}
            case "integer":
                low, high = one.get("minimum"), one.get("maximum")
                return {
                    "type": "integer",
                    **({"minimum": low} if isinstance(low, int) and abs(low) < 2**53 else {}),
                    **({"maximum": high} if isinstance(high, int) and abs(high) < 2**53 else {}),
                }
            case "boolean":
                return {"type": "boolean"}
            case "array" if self._resolved(one.get("items")).get("type") == "string":
                return {"type": "string_list", "max_length": 256}
            case "array" | "object" if where == "body":
                return {"type": "json", "max_length": 20_000}
        return None

    def _parameters(
        self, item: Mapping[str, object], operation: Mapping[str, object]
    ) -> Iterator[Mapping[str, object]]:
        for owner in (item, operation):
            listed = owner.get("parameters")
            for one in listed if isinstance(listed, list) else []:
                yield self._resolved(one)

    def _kind(self, kind: str) -> str:
        pattern = "self" if kind == "account" else _SEGMENT
        cedar = f"{self._namespace}::{''.join(part.capitalize() for part in kind.split('_'))}"
        self.kinds.setdefault(kind, {"cedar": cedar, "fields": {kind: pattern}})
        return kind

    def _name(self, path: str, method: str, operation: Mapping[str, object]) -> str:
        literals = [_snake(part) for part in path.split("/") if part and "{" not in part and _snake(part)]
        words = [word for word in _snake(str(operation.get("operationId", ""))).split("_") if word]
        noun = literals[0] if literals else "root"
        verb = "_".join(words)[:40].strip("_") if words else "_".join([*literals[1:], method])[:40]
        verb = verb if verb[:1].isalpha() else f"do_{verb}"[:40]
        name, number = f"{noun[:40]}.{verb}", 2
        while name in self._names:
            name, number = f"{noun[:40]}.{verb[:37]}_{number}", number + 1
        self._names.add(name)
        return name

    def _risk(self, name: str, path: str, method: str) -> str:
        if method == "get":
            return "read"
        words = {*re.split(r"[^a-z]+", name), *re.split(r"[^a-z]+", _snake(path))}
        for risk, known in _KNOWN.items():
            if words & known:
                self.review.append(f"{name}: {risk}, because of {', '.join(sorted(words & known))}")
                return risk
        if method == "delete":
            return "destructive"
        self.review.append(f"{name}: write is a guess")
        return "write"

    def _resolved(self, value: object) -> Mapping[str, object]:
        for _ in range(REFERENCES_MAX):
            one = _object(value)
            reference = one.get("$ref")
            if not isinstance(reference, str):
                return one
            if not reference.startswith("#/"):
                raise Malformed("a reference leads out of the document", hint="bundle the document first")
            value = self._root
            for part in reference[2:].split("/"):
                value = _object(value).get(part.replace("~1", "/").replace("~0", "~"))
        raise LimitExceeded("references_max", REFERENCES_MAX)


def _require(parameters: dict[str, object], wire: str) -> None:
    declared = parameters.get(_snake(wire))
    if isinstance(declared, dict) and declared.get("wire", _snake(wire)) == wire:
        declared["required"] = True


def _server(root: Mapping[str, object]) -> tuple[str, str]:
    servers = root.get("servers")
    for server in servers if isinstance(servers, list) else []:
        url = urlsplit(str(_object(server).get("url", "")))
        if url.scheme == "https" and url.hostname and "{" not in url.netloc + url.path and url.port in (None, 443):
            return url.hostname, url.path.rstrip("/")
    raise Malformed("the document names no https server without variables on port 443")


def _object(value: object) -> Mapping[str, object]:
    return cast(Mapping[str, object], value) if isinstance(value, dict) else {}


def _snake(text: str) -> str:
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", text)
    found = re.sub(r"[^a-z0-9]+", "_", spaced.lower()).strip("_")[:40].rstrip("_")
    return found if not found[:1].isdigit() else f"n_{found}"[:40]


def _kind_of(schema: object) -> str:
    kind = _object(schema).get("type")
    return f"of the type {kind}" if isinstance(kind, str) else "of no single type"
