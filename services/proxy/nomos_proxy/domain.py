"""From a verified invocation to the one call that it means, and from the call's end to what is recorded.

Rules of :func:`plan_call`, in order:

1. The action is the one of the signed command; the connection is one of the action's connector and is open.
2. The request is built from the signed resource and the signed arguments.
3. The resource is derived again from the built request and must equal the signed one, which the verified chain
   has found equal to the delegation's. The digest of action, derived resource and arguments must be the signed one.
4. What may run once is named by the **root** delegation for everything but a read: an agent may pass a delegation
   on, and all that grows from one grant is one permission. A read is named by its invocation.

The life of a call: nothing, ``attempted`` (recorded before the first byte is sent), then one of ``done``, ``failed``,
``unknown``, ``refused``. An attempt without an end is the record of an unknown outcome, never of a failure: the process
that made it is gone, and nobody else can know.

Pure: no IO, no clock, no randomness.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Final

import msgspec
from msgspec import Struct

from nomos.catalogue import (
    Action,
    Auth,
    Catalogue,
    Connector,
    OutgoingRequest,
    Resource,
    Risk,
    build_request,
    derive_resource,
)
from nomos.catalogue.auth import BEARER
from nomos.errors import Conflict, NomosError, NotCovered, NotFound, NotPermitted, UnknownOutcome
from nomos.events import CALL_ATTEMPTED, CALL_FINISHED, Actor
from nomos.ucan.cid import format_cid
from nomos.ucan.verify import VerifiedInvocation, check_binding
from nomos_proxy.answer import AnswerRefused, Headers, UpstreamResponse
from nomos_proxy.destination import Origin, origin_of
from nomos_proxy.federation.cloud import Federation
from nomos_proxy.ssh.target import SshTarget

#: Bytes (as JSON) of the lines of one list of a report that keep their places; one line for each rule fits beside them.
REMOVED_BYTES_MAX: Final = 16_000

#: Who acts where nobody asked: the service itself.
PROXY: Final = Actor(kind="service", id="proxy")
_DIGEST_PREFIX: Final = b"nomos-upstream-request-v1\0"
#: Of a request with headers of its action's own: they say what it is, so they are a part of it.
_DIGEST_PREFIX_WITH_HEADERS: Final = b"nomos-upstream-request-v2\0"


class ConnectionFacts(Struct, frozen=True, kw_only=True):
    """What the store says about the connection that a call uses.

    Attributes:
        tenant: the tenant of the bus account that spoke.
        name: the connection's name in that tenant.
        connector: the connector that it belongs to.
        is_open: whether it may be used.
        origin: a development origin in place of the connector's, or None.
        host: where it goes, where its connector has no host for all; else empty.
        auth: how its credential is presented, where its connector leaves that open; else None.
        is_bare: whether it needs no credential.
        ssh: the host of SSH that it goes to, where it is one; else None.
        federation: how a cloud gives it a credential for a while, where nobody brought one; else None.
        exchange: a development origin in place of the cloud's token endpoint, or None.
        is_account: whether somebody connected an account, so that the provider's tokens are renewed; else the
            credential is a bearer that somebody brought.
        is_shared: whether its account was connected through the installation's client, and not the tenant's own.
        scopes: what was granted to it, where it is an account.
        revision: rises with each replacement of the credential by a person.
        is_lost: whether the provider refuses to renew it, until somebody connects it again.
        is_removed: whether it was removed; then it is closed too.
    """

    tenant: str
    name: str
    connector: str
    is_open: bool = True
    origin: Origin | None = None
    host: str = ""
    auth: Auth | None = None
    is_bare: bool = False
    ssh: SshTarget | None = None
    federation: Federation | None = None
    exchange: Origin | None = None
    is_account: bool = False
    is_shared: bool = False
    scopes: tuple[str, ...] = ()
    revision: int = 1
    is_lost: bool = False
    is_removed: bool = False


class CallPlan(Struct, frozen=True, kw_only=True):
    """Everything about one call but the credential.

    Attributes:
        invocation: text CID of the invocation.
        delegation: text CID of the delegation that the invoker held.
        root: text CID of the delegation that was minted.
        via: the agents that handed it on, the first holder first; empty where the invoker was given it.
        action: what runs.
        connector: at which provider.
        resource: what it acts on, as derived from ``request``.
        connection: whose credential.
        request: what is sent.
        origin: where to.
        auth: how the credential is presented.
        headers: the connector's constant headers, and the idempotency key where the action has one.
        args: the signed arguments.
        replay_key: what must be unused, as text; marked used before the call, and never unmarked.
    """

    invocation: str
    delegation: str
    root: str
    via: tuple[str, ...]
    action: Action
    connector: Connector
    resource: Resource
    connection: ConnectionFacts
    request: OutgoingRequest
    origin: Origin
    auth: Auth
    headers: Headers
    args: Mapping[str, object]
    replay_key: str


def plan_call(
    invocation: VerifiedInvocation,
    catalogue: Catalogue,
    connection: ConnectionFacts,
    *,
    via: tuple[str, ...] = (),
    data: bytes | None = None,
    parse_resource: Callable[[str], Resource] | None = None,
) -> CallPlan:
    """The call that a verified invocation means.

    Args:
        invocation: from :func:`nomos.ucan.verify.verify_invocation`.
        catalogue: what may be called.
        connection: the connection to use, from the proxy's own store.
        via: the agents that handed the permission on.
        data: the content that the arguments name; while it is not here, the plan's request is not complete.
        parse_resource: the catalogue's own, perhaps with a memory.

    Raises:
        UnknownAction, UnknownResource: the command or resource is none of the catalogue.
        NotFound: the connection is closed.
        NotCovered: the connection is another provider's or goes to another host, or the request that would be made is
            not the signed one.
        NotPermitted: an account's token is good for other actions only.
        Malformed, LimitExceeded, DestinationRefused: as :func:`nomos.catalogue.build_request`.
    """
    action = catalogue.action_of_command(invocation.command)
    connector = catalogue.connectors[action.connector]
    if connection.connector != connector.name:
        raise NotCovered("the connection belongs to another connector than the action")
    if not connection.is_open:
        raise NotFound("the connection is closed")
    _check_scopes(connection, connector, action)
    named_resource = (parse_resource or catalogue.parse_resource)(invocation.resource)
    request = build_request(action, named_resource, invocation.args, data)
    derived = derive_resource(connector, action, request)
    if request.host not in ("", connection.host):
        raise NotCovered("the connection goes to another host than the signed one")
    if derived.text != invocation.resource:
        raise NotCovered("the request acts on another resource than the signed one")
    check_binding(invocation, action=action.id, resource=derived.text, args=invocation.args)
    # As text once for each: in most chains the root is the leaf, and the key is one of them.
    named = {cid: format_cid(cid) for cid in (invocation.invocation_cid, *invocation.delegation_cids)}
    key = named[used_once(invocation, action.risk)]
    headers = connector.headers
    if action.idempotency_header is not None:
        # one permission, one key: whatever is sent again for it, the provider runs once
        headers = (*headers, (action.idempotency_header, key))
    return CallPlan(
        invocation=named[invocation.invocation_cid],
        delegation=named[invocation.leaf_cid],
        root=named[invocation.delegation_cids[0]],
        via=via,
        action=action,
        connector=connector,
        resource=derived,
        connection=connection,
        request=request,
        origin=_origin(connection, connector),
        auth=_auth(connection, connector),
        headers=headers,
        args=invocation.args,
        replay_key=key,
    )


def _check_scopes(connection: ConnectionFacts, connector: Connector, action: Action) -> None:
    """Where the connector says so, an account does what its scopes are for, and nothing that a key or bot is for."""
    if not connection.is_account or connector.oauth is None or not connector.oauth.is_scoped:
        return
    if not action.scopes:
        raise NotPermitted(
            f"an account of {connector.name} cannot do {action.id}",
            hint="use a connection with a credential of its own: nomos connection add",
        )
    if missing := sorted(set(action.scopes) - set(connection.scopes)):
        raise NotPermitted(
            f"this account was connected without the scope {missing[0]} of {action.id}",
            hint="connect it again with that scope: nomos connection connect --scope",
        )


def _origin(connection: ConnectionFacts, connector: Connector) -> Origin:
    found = connection.origin or origin_of(connector, connection.host)
    if connection.ssh is not None and connection.ssh.port and connection.origin is None:
        return msgspec.structs.replace(found, port=connection.ssh.port)
    return found


def _auth(connection: ConnectionFacts, connector: Connector) -> Auth:
    """How the credential is presented. What a token endpoint gives is a bearer, whatever the connector's keys are."""
    is_given = connection.is_account or (connection.federation is not None and connection.federation.kind != "aws")
    return BEARER if is_given else connection.auth or connector.auth


def used_once(invocation: VerifiedInvocation, risk: Risk) -> bytes:
    """The CID that may be used once: the invocation's for a read, the root delegation's for anything else."""
    return invocation.invocation_cid if risk is Risk.READ else invocation.delegation_cids[0]


class CallState(StrEnum):
    """Where a call stands."""

    ATTEMPTED = "attempted"
    DONE = "done"
    """The upstream answered, whatever its status."""
    FAILED = "failed"
    """Nothing was sent."""
    UNKNOWN = "unknown"
    """It was sent, or may have been, and no complete answer came back."""
    REFUSED = "refused"
    """The upstream answered, and the answer is not passed on."""


def attempted(plan: CallPlan, deadline_ms: int) -> dict[str, object]:
    """The payload of ``proxy.attempted``. It is durable before the first byte is sent.

    Args:
        plan: the call.
        deadline_ms: Unix milliseconds after which the call is given up.
    """
    return {
        "invocation": plan.invocation,
        "delegation": plan.delegation,
        "root": plan.root,
        "via": list(plan.via),
        "action": plan.action.id,
        "resource": plan.resource.text,
        "connection": plan.connection.name,
        "method": plan.request.method,
        "path": plan.request.path,
        "request_sha256": request_sha256(plan.origin, plan.request).hex(),
        "deadline_ms": deadline_ms,
    }


def finished(plan: CallPlan, end: UpstreamResponse | NomosError) -> dict[str, object]:
    """The payload of ``proxy.finished`` for an answer or for the error that took its place.

    ``removed`` is empty here; the handler fills it from the sanitizer's report.
    """
    outcome, status, body = CallState.FAILED, 0, b""
    match end:
        case UpstreamResponse():
            outcome, status, body = CallState.DONE, end.status, end.body
        case AnswerRefused():
            outcome, status = CallState.REFUSED, end.status
        case UnknownOutcome():
            outcome = CallState.UNKNOWN
    return {
        "invocation": plan.invocation,
        "outcome": outcome.value,
        "status": status,
        "response_sha256": hashlib.sha256(body).hexdigest(),
        "removed": [],
        "bytes": len(body),
    }


def live_finished(
    plan: CallPlan, *, status: int, sha256: bytes, received: int, passed: int, error: NomosError | None
) -> dict[str, object]:
    """The payload of ``proxy.finished`` for an answer that left while it came.

    Args:
        plan: the call.
        status: of the upstream; it came, so the call took effect.
        sha256: of the bytes that came.
        received: how many they were.
        passed: bytes that the agent was given, cleaned.
        error: what ended it before its last byte, or None.
    """
    outcome = CallState.DONE
    if error is not None:
        outcome = CallState.UNKNOWN if isinstance(error, UnknownOutcome) else CallState.REFUSED
    event: dict[str, object] = {
        "invocation": plan.invocation,
        "outcome": outcome.value,
        "status": status,
        "response_sha256": sha256.hex(),
        "removed": [],
        "bytes": received,
        "passed": passed,
    }
    if error is not None:
        event["code"] = error.code
    return event


def folded(removed: Sequence[Mapping[str, object]]) -> list[dict[str, object]]:
    """One list of the sanitizer's report at a length that a record and an answer can hold.

    What lies beyond :data:`REMOVED_BYTES_MAX` is counted by kind and rule under ``...``, as the report itself does.
    """
    kept: list[dict[str, object]] = []
    rest: dict[tuple[str, str], int] = {}
    size = 0
    for line in removed:
        size += len(msgspec.json.encode(line))
        if size <= REMOVED_BYTES_MAX:
            kept.append({**line})
        else:
            key = (str(line["kind"]), str(line["rule"]))
            rest[key] = rest.get(key, 0) + int(str(line["count"]))
    return kept + [{"kind": kind, "rule": rule, "where": "...", "count": n} for (kind, rule), n in rest.items()]


def evolve(state: CallState | None, event_type: str, payload: dict[str, object]) -> CallState:
    """The state of one call after one event of it; None is a call that has none yet.

    Raises:
        Conflict: the event cannot follow.
    """
    if event_type == CALL_ATTEMPTED and state is None:
        return CallState.ATTEMPTED
    if event_type == CALL_FINISHED and state is CallState.ATTEMPTED:
        return CallState(str(payload["outcome"]))
    raise Conflict(f"{event_type} cannot follow {state.value if state else 'nothing'}")


def request_sha256(origin: Origin, request: OutgoingRequest) -> bytes:
    """SHA-256 over what is sent: origin, method, target and body, each after its length.

    Of the headers those that are the action's own are in it, each as ``name: value`` before the body; the connector's
    and the credential's are not.
    """
    own = [f"{name}: {value}" for name, value in request.headers]
    parts = (str(origin), request.method, request.target, *own)
    digest = hashlib.sha256(_DIGEST_PREFIX_WITH_HEADERS if own else _DIGEST_PREFIX)
    for part in (*[text.encode("ascii") for text in parts], request.body or b""):
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.digest()
