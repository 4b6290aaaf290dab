"""The Cedar schema of an installation, generated from its connectors, and the entities of one request.

The schema says who can act (an ``Agent`` in an ``App`` in a ``Tenant``), on what (the connectors' resource types with
their typed fields), how (the connectors' actions, in groups by risk and connector) and with which context. Entities
and contexts are built here from typed fields only: no mapping that an agent sent is ever copied into either, so an
argument that is spelled like Cedar's JSON escapes has no way in.

Rules: the schema is given to every ``Entities`` handle when it is built, because the engine does not apply it again
when a handle is reused. ``context.claims`` is an empty record until a claim has a type: what an agent says about
itself is recorded, and no policy can depend on it.

A resource with a path lies in an entity for each shorter path, so ``resource in`` compares paths by whole segments.

Source: Cedar schema language; rules "Cedar" and "One object, verified once".
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

import cedarpy
import orjson
from msgspec import Struct

from nomos.catalogue import Action, Catalogue, Parameter, Resource, ResourceType, Risk
from nomos.contents import named_by
from nomos.errors import Malformed, MalformedCatalogue
from nomos.ids import AgentId, AppId, TenantId
from nomos_policy.guard import RESERVED_CONTEXT_KEYS

#: Entity sets kept for reuse, one for each (agent, resource) seen lately; about 20 kB each.
ENTITY_SETS_MAX: Final = 2048
#: Shapes that a policy can read. What is not here is in the digest, the approval and the log, and in no context.
_CEDAR_TYPES: Final = {
    "string": "String",
    "integer": "Long",
    "boolean": "Bool",
    "string_list": "Set<String>",
    "content": "{bytes: Long, sha256: String, type: String}",
}


class Principal(Struct, frozen=True, kw_only=True):
    """Who asks, as the bus and identity verified it.

    Attributes:
        tenant: from the bus account.
        app: the agent's app, from identity.
        agent: from the bus user.
        env: ``live`` or ``test``, from identity.
    """

    tenant: TenantId
    app: AppId
    agent: AgentId
    env: str


class Vocabulary:
    """The schema of one catalogue, ready for the engine. Build once for each catalogue and share.

    Attributes:
        catalogue: the connectors that it was generated from.
        text: the schema in Cedar's schema language; the same catalogue gives the same text.
        sha256: of ``text``, hex; decisions name it, so that a replay knows which schema applied.
        schema: the engine's handle.
    """

    __slots__ = ("_entities", "catalogue", "schema", "sha256", "text")

    def __init__(self, catalogue: Catalogue) -> None:
        """Generates the schema.

        Raises:
            MalformedCatalogue: a parameter has a name of the server's, or the engine refuses the schema.
        """
        self.catalogue = catalogue
        self.text = schema_text(catalogue)
        self.sha256 = hashlib.sha256(self.text.encode()).hexdigest()
        try:
            self.schema = cedarpy.Schema.from_str(self.text)
        except ValueError as error:
            raise MalformedCatalogue("the connectors do not make a valid Cedar schema", cause=str(error)) from error
        self._entities = lru_cache(maxsize=ENTITY_SETS_MAX)(self._build_entities)

    def entities(self, principal: Principal, resource: Resource) -> cedarpy.Entities:
        """The entity set of one request, from a bounded cache.

        Raises:
            Malformed: the engine refuses the entities against the schema.
        """
        return self._entities(principal, resource)

    def _build_entities(self, principal: Principal, resource: Resource) -> cedarpy.Entities:
        try:
            return cedarpy.Entities.from_json_str(json.dumps(entity_slice(principal, resource)), self.schema)
        except ValueError as error:
            raise Malformed("the request's entities break the schema", cause=str(error)) from error


def schema_text(catalogue: Catalogue) -> str:
    """The schema in Cedar's schema language, sorted, so that equal catalogues give equal text.

    Raises:
        MalformedCatalogue: two resource types share a Cedar name, or a parameter has a reserved name.
    """
    types: dict[str, ResourceType] = {}
    for connector in catalogue.connectors.values():
        for declared in connector.resource_types.values():
            if types.setdefault(declared.cedar, declared) != declared:
                raise MalformedCatalogue(f"two resource types are called {declared.cedar}")
    groups = [f"risk:{risk.value}" for risk in Risk] + [f"connector:{name}" for name in sorted(catalogue.connectors)]
    lines = [
        "entity Tenant;",
        "entity App in [Tenant];",
        "entity Agent in [App] = {app: App, env: String};",
        *_namespace_texts(types),
        f"action {', '.join(_quoted(group) for group in groups)};",
        *(_action_text(catalogue.actions[name]) for name in sorted(catalogue.actions)),
    ]
    return "\n".join(lines) + "\n"


def entity_slice(principal: Principal, resource: Resource) -> list[dict[str, object]]:
    """The entities of one request in Cedar's JSON form, each id as ``{type, id}``; a decision records them too."""
    tenant = {"type": "Tenant", "id": principal.tenant}
    app = {"type": "App", "id": principal.app}
    agent_attributes = {
        "app": {"__entity": app},
        "env": principal.env,
    }
    fields: dict[str, object] = dict(zip(resource.type.fields, resource.values, strict=True))
    holders = [{"type": one.cedar, "id": one.id} for one in resource.holders]
    above: list[dict[str, object]] = [
        {"uid": uid, "attrs": dict(one.fields), "parents": holders[place : place + 1]}
        for place, (uid, one) in enumerate(zip(holders, resource.holders, strict=True), 1)
    ]
    return [
        {"uid": tenant, "attrs": {}, "parents": []},
        {"uid": app, "attrs": {}, "parents": [tenant]},
        {"uid": {"type": "Agent", "id": principal.agent}, "attrs": agent_attributes, "parents": [app]},
        {"uid": {"type": resource.type.cedar, "id": resource.id}, "attrs": fields, "parents": holders[:1]},
        *above,
    ]


def typed_args(action: Action, args: Mapping[str, object]) -> dict[str, object]:
    """The arguments that the action declares and a policy can read, each of its declared type.

    Raises:
        Malformed: an argument is not declared or not of its type. Nothing else of ``args`` is read.
    """
    declared = {parameter.name: parameter for parameter in action.parameters}
    return {
        name: _typed(declared.get(name), name, value)
        for name, value in args.items()
        if name not in declared or declared[name].type in _CEDAR_TYPES
    }


def context_text(
    principal: Principal, args: Mapping[str, object], *, connection: str, now_seconds: int, cosigned: bool
) -> str:
    """The request's context as JSON.

    Args:
        principal: who asks; gives ``env``.
        args: from :func:`typed_args`.
        connection: name of the connection whose credential would be used.
        now_seconds: Unix time.
        cosigned: whether a human's approval is assumed or verified.

    Raises:
        Malformed: a lone surrogate in an argument.
    """
    context = {
        "cosigned": cosigned,
        "now": now_seconds,
        "env": principal.env,
        "connection": connection,
        "args": args,
        "claims": {},
    }
    try:
        return orjson.dumps(context).decode()
    except orjson.JSONEncodeError as error:
        raise Malformed("an argument is no text that JSON can carry", cause=str(error)) from error


def _typed(parameter: Parameter | None, name: str, value: object) -> object:
    if parameter is None:
        raise Malformed(f"the action has no argument {name[:40]!r}")
    match parameter.type:
        case "string":
            valid = isinstance(value, str)
        case "integer":
            valid = isinstance(value, int) and not isinstance(value, bool) and -(2**53) < value < 2**53
        case "boolean":
            valid = isinstance(value, bool)
        case "string_list":
            valid = isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)
        case "content":
            return named_by(value).arg
        case "string_map" | "json":
            raise AssertionError("what a policy cannot read is not typed for it")
    if not valid:
        raise Malformed(f"the argument {name} must be of the type {parameter.type}")
    return value


def _namespace_texts(types: Mapping[str, ResourceType]) -> list[str]:
    """One block for each namespace: the schema language admits no second."""
    blocks: dict[str, list[str]] = {}
    for cedar in sorted(types):
        namespace, _, name = cedar.rpartition("::")
        fields = ", ".join(f"{_quoted(field)}: String" for field in types[cedar].fields)
        within = types[cedar].within
        holders = f" in [{', '.join(dict.fromkeys(within))}]" if within else ""
        blocks.setdefault(namespace, []).append(f"  entity {name}{holders} = {{{fields}}};")
    return [f"namespace {namespace} {{\n" + "\n".join(lines) + "\n}" for namespace, lines in blocks.items()]


def _action_text(action: Action) -> str:
    for parameter in action.parameters:
        if parameter.name in RESERVED_CONTEXT_KEYS:
            raise MalformedCatalogue(f"{action.id}: the parameter name {parameter.name} belongs to the server")
    # every argument is optional to Cedar: whether a required one is there is the proxy's check, and a policy that
    # reads an argument must ask `context.args has name` first, so that no request can make it fail
    readable = [parameter for parameter in action.parameters if parameter.type in _CEDAR_TYPES]
    args = ", ".join(f"{_quoted(parameter.name)}?: {_CEDAR_TYPES[parameter.type]}" for parameter in readable)
    groups = f"{_quoted('risk:' + action.risk.value)}, {_quoted('connector:' + action.connector)}"
    context = f"{{cosigned: Bool, now: Long, env: String, connection: String, args: {{{args}}}, claims: {{}}}}"
    applies = f"{{principal: Agent, resource: {action.resource_type.cedar}, context: {context}}}"
    return f"action {_quoted(action.id)} in [{groups}] appliesTo {applies};"


def _quoted(text: str) -> str:
    """A Cedar string. Names come from the catalogue, whose patterns admit no character that needs an escape."""
    if '"' in text or "\\" in text or not text.isprintable():
        raise MalformedCatalogue("a name of the catalogue needs an escape")
    return f'"{text}"'
