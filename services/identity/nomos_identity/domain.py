"""Tenants, apps, agents, auditors and their keys: what may be created, and what a history of events amounts to. Pure.

Streams of a tenant: ``tenant``, ``app/<name>``, ``agent/<name>``, ``auditor/<name>``. A name is given once: streams are
appended to by compare-and-set, and a removed holder's stream stays. A key belongs to the stream of its holder.

Operators are the installation's: ``operator/<subject>`` of tenant ``_sys``. Their bus credentials are signed outside,
and bear the subject's id.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from nomos.creds import USER, parse_public_key
from nomos.errors import Conflict, Malformed, NotFound, Revoked
from nomos.events import (
    AGENT_CREATED,
    APP_CREATED,
    AUDITOR_CREATED,
    KEY_REVOKED,
    OPERATOR_ADDED,
    OPERATOR_REMOVED,
    TENANT_CLOSED,
    TENANT_CREATED,
    Actor,
    Envelope,
)
from nomos.ids import SYSTEM_TENANT, parse_slug
from nomos.keys import VerifyKey, parse_did

ENVIRONMENTS = ("live", "test")
WHY_CHARS_MAX = 500


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """A bus key. ``role`` is agent or auditor, ``name`` its holder, ``issued_at`` Unix seconds."""

    key: str
    role: str
    name: str
    issued_at: int
    revoked: bool = False
    revoked_at: int = 0


def tenant_created(
    event_id: str, *, tenant: str, account: str, roles: dict[str, str], by: Actor, corr: str
) -> Envelope:
    """The first event of a tenant. ``roles`` are the public signing keys of its roles."""
    parse_slug(tenant, "tenant")
    return _envelope(
        event_id,
        TENANT_CREATED,
        tenant=tenant,
        by=by,
        corr=corr,
        event={"account": account, "roles": roles, "tenant": tenant},
    )


def app_created(event_id: str, *, tenant: str, app: str, env: str, by: Actor, corr: str) -> Envelope:
    """The first event of an app.

    Raises:
        Malformed: the name is no slug or the environment unknown.
    """
    parse_slug(app, "app")
    if env not in ENVIRONMENTS:
        raise Malformed(f"env must be one of {', '.join(ENVIRONMENTS)}")
    return _envelope(event_id, APP_CREATED, tenant=tenant, by=by, corr=corr, event={"app": app, "env": env})


def agent_created(
    event_id: str,
    *,
    tenant: str,
    app: Iterable[Envelope],
    name: str,
    key: str,
    did: str,
    now: int,
    by: Actor,
    corr: str,
) -> Envelope:
    """The first event of an agent of an existing app.

    Args:
        event_id: of the event.
        tenant: from the subject.
        app: the history of the app.
        name: the agent's slug.
        key: its bus key (``U...``).
        did: its UCAN key; canonical, not of small order.
        now: Unix seconds.
        by: the operator.
        corr: request id.

    Raises:
        NotFound: the app does not exist.
        Malformed: a name or key of another form.
        BadSignature: a key that must not be used.
    """
    created = next((e for e in app if e.type == APP_CREATED), None)
    if created is None:
        raise NotFound("this tenant has no such app", hint="nomos app create --tenant T NAME")
    parse_slug(name, "agent")
    # Both refuse keys of small order. A login key that is also the token key would let the server's nonce be a token.
    if parse_did(did) == parse_user_key(key):
        raise Malformed("the bus key and the agent key must be two keys")
    event = {
        "agent": name,
        "app": str(created.event["app"]),
        "did": did,
        "env": str(created.event["env"]),
        "issued_at": now,
        "key": key,
    }
    return _envelope(event_id, AGENT_CREATED, tenant=tenant, by=by, corr=corr, event=event)


def parse_user_key(text: str) -> VerifyKey:
    """A bus key (``U...``).

    Raises:
        Malformed: it is none, or one that anybody could log in with (small order).
    """
    return VerifyKey(parse_public_key(text, USER))


def auditor_created(event_id: str, *, tenant: str, name: str, key: str, now: int, by: Actor, corr: str) -> Envelope:
    """The first event of an auditor, who may read the tenant's log and nothing else. ``name`` is their subject id."""
    parse_slug(name, "auditor")
    parse_user_key(key)
    return _envelope(
        event_id,
        AUDITOR_CREATED,
        tenant=tenant,
        by=by,
        corr=corr,
        event={"auditor": name, "issued_at": now, "key": key},
    )


def operator_added(
    event_id: str, *, history: list[Envelope], operator: str, tenant: str, now: int, by: Actor, corr: str
) -> Envelope | None:
    """The event that makes every service accept an operator; None where it was made before.

    Args:
        event_id: of the new event.
        history: of the operator, so far.
        operator: the subject's id, which their credential bears.
        tenant: the one that they may name, or empty.
        now: Unix seconds.
        by: who acts: the operator.
        corr: request id.

    Raises:
        Revoked: they have been erased; an id is never named again.
    """
    if any(e.type == OPERATOR_REMOVED for e in history):
        raise Revoked("this operator has been erased", hint="nomos operator create makes another credential")
    if history:
        return None
    event: dict[str, object] = {"at": now, "operator": operator, "tenant": tenant}
    return _envelope(event_id, OPERATOR_ADDED, tenant=SYSTEM_TENANT, by=by, corr=corr, event=event)


def operator_removed(
    event_id: str, *, history: list[Envelope], operator: str, now: int, by: Actor, corr: str
) -> Envelope | None:
    """The event that makes every service refuse an operator; None where there is nothing to take away."""
    if not history or history[-1].type == OPERATOR_REMOVED:
        return None
    event: dict[str, object] = {"at": now, "operator": operator}
    return _envelope(event_id, OPERATOR_REMOVED, tenant=SYSTEM_TENANT, by=by, corr=corr, event=event)


def tenant_closed(event_id: str, *, tenant: str, basis: str, now: int, by: Actor, corr: str) -> Envelope:
    """The event after which the tenant takes no connection and gets nothing new. Only its erasure comes after."""
    return _envelope(
        event_id,
        TENANT_CLOSED,
        tenant=tenant,
        by=by,
        corr=corr,
        event={"at": now, "basis": basis, "tenant": tenant},
    )


def closed_at(history: Iterable[Envelope]) -> int | None:
    """When the tenant of this history was closed, Unix seconds, or None."""
    return next((int(str(e.event["at"])) for e in history if e.type == TENANT_CLOSED), None)


def keys_of(history: Iterable[Envelope]) -> dict[str, Key]:
    """The keys that a history of agents and auditors amounts to, by public key; a revoked key never comes back."""
    keys: dict[str, Key] = {}
    for e in history:
        match e.type:
            case "agent.created" | "auditor.created":
                role = e.type.partition(".")[0]
                created = Key(
                    key=str(e.event["key"]),
                    role=role,
                    name=str(e.event[role]),
                    issued_at=int(str(e.event["issued_at"])),
                )
                # The handlers give a key to one holder; of two at once, the first one's stays.
                keys.setdefault(created.key, created)
            case "key.revoked":
                known = keys[str(e.event["key"])]
                keys[known.key] = msgspec.structs.replace(known, revoked=True, revoked_at=int(str(e.event["at"])))
    return keys


def key_revoked(event_id: str, *, tenant: str, key: Key | None, why: str, now: int, by: Actor, corr: str) -> Envelope:
    """The event that ends a key for good.

    Raises:
        NotFound: the tenant has no such key.
        Conflict: it is revoked already.
    """
    if key is None:
        raise NotFound("this tenant has no such key", hint="nomos key list --tenant T")
    if key.revoked:
        raise Conflict("this key is revoked already")
    if len(why) > WHY_CHARS_MAX:
        raise Malformed(f"WHY_CHARS_MAX is {WHY_CHARS_MAX}, got {len(why)}")
    event = {"at": now, "key": key.key, "name": key.name, "role": key.role, "why": why}
    return _envelope(event_id, KEY_REVOKED, tenant=tenant, by=by, corr=corr, event=event)


def _envelope(event_id: str, kind: str, *, tenant: str, by: Actor, corr: str, event: dict[str, object]) -> Envelope:
    return Envelope(id=event_id, type=kind, tenant=tenant, actor=by, corr=corr, cause="", event=event)
