"""Taking back before its minute is over: one delegation, or all that were issued for an app or a tenant.

Decides who may: an agent that held a delegation of the chain may revoke the chain's last link (a parent its child's, a
holder its own); an operator may revoke any of the tenant's by its CID. A delegation that nobody minted can be revoked
too: it refuses nothing that would have been taken. The proxy hears of it by minting's feed, within the same bound as of
every other fact, and refuses every chain that contains it.

Everything of an app or a tenant is taken back by one event (:mod:`nomos.ucan.cutoff`), by an operator only. Its command
answers when it is in force: a replica, of minting or proxy, that has asked for facts since the event has it, and one
that has not is stale after ``feed_fresh_ms`` and refuses; so the answer waits so long. A crash in between loses the
answer only. It reaches no call that is under way, and no approval: a cosigned request is decided, and issued, anew.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec

from nomos.errors import (
    Conflict,
    Expired,
    JournalUnavailable,
    LimitExceeded,
    Malformed,
    NotCovered,
    NotFound,
    Unrooted,
)
from nomos.events import DELEGATION_REVOKED, ISSUED_REVOKED, ISSUER_CREATED, ISSUER_ROTATED, Actor, Envelope
from nomos.ids import Did, new_id, parse_slug
from nomos.messages import Command, Decoder, Revoke, Revoked
from nomos.ucan.chain import check_alignment, earliest_expiry
from nomos.ucan.cid import format_cid, parse_cid
from nomos.ucan.cutoff import WHOLE_TENANT, cutoff_of
from nomos.ucan.delegation import parse_delegation
from nomos.ucan.profile import CHAIN_LENGTH_MAX, LIFETIME_SECONDS_MAX
from nomos_minting.issuers import Issuers
from nomos_runtime.directory import Directory
from nomos_runtime.eventstore import EventStore
from nomos_runtime.responder import Caller, NoParams, Operator, Verb

WHY_CHARS_MAX: Final = 500
#: How often a revocation is appended again after a lost compare-and-set.
TRIES_MAX: Final = 5

decoder: Final = Decoder.of(Revoke, "revoke")


class RevokeParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Parameters of the verb ``revoke``."""

    cid: str
    why: str = ""


class RevokeAppParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Parameters of the verb ``revoke-app``."""

    app: str
    why: str = ""


class RevokeTenantParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Parameters of the verb ``revoke-tenant``."""

    why: str = ""


class RotateParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Parameters of the verb ``issuer-rotate``."""

    why: str = ""


def check_revocable(chain: Sequence[bytes], agent: Did, issuers: frozenset[Did], now: int) -> tuple[bytes, int]:
    """The CID and the end, Unix seconds, of the last delegation of ``chain``, if ``agent`` may revoke it.

    Args:
        chain: the delegations as received, root first.
        agent: the asking agent's key.
        issuers: all issuing keys that the tenant has had.
        now: Unix seconds.

    Raises:
        LimitExceeded: longer than any chain.
        Malformed, BadSignature: a link is none.
        NotCovered: by its subclasses: links that do not fit; or the agent held none of them.
        Unrooted: the root is not of this tenant.
        Expired: it has run out by itself.
    """
    if not 1 <= len(chain) <= CHAIN_LENGTH_MAX:
        raise LimitExceeded("chain_length_max", CHAIN_LENGTH_MAX, len(chain))
    links = [parse_delegation(token) for token in chain]
    for link in links:
        link.check_signature()
    check_alignment(links, holder=links[-1].audience, subject=links[0].issuer)
    if links[0].issuer not in issuers:
        raise Unrooted("the first delegation is not this tenant's")
    if agent not in {link.audience for link in links}:
        raise NotCovered("only who held a delegation of the chain may revoke its last one")
    until = earliest_expiry(links)
    if until is None:
        raise Malformed("a delegation without an end is not of this installation")
    if until < now:
        raise Expired("the delegation has expired; there is nothing to revoke")
    return links[-1].cid, until


class Revoker:
    """Answers ``revoke`` of agents, and the operators' verbs of minting."""

    def __init__(
        self,
        store: EventStore,
        issuers: Issuers,
        directory: Directory,
        now: Callable[[], int],
        *,
        refresh: Callable[[], Awaitable[None]],
        fresh_ms: int,
    ) -> None:
        """Takes what the verbs work on.

        Args:
            store: of the events.
            issuers: the keys.
            directory: who the agents are, and which apps there are.
            now: the clock, Unix seconds.
            refresh: brings the directory up to date.
            fresh_ms: after so long without news every replica of the installation is stale, milliseconds.
        """
        self._store = store
        self._issuers = issuers
        self._directory = directory
        self._now = now
        self._refresh = refresh
        self._fresh_ms = fresh_ms

    def verbs(self) -> dict[str, Verb]:
        """Verb name to parameters and handler."""
        return {
            "revoke": (RevokeParams, self.revoke_by_cid),
            "revoke-app": (RevokeAppParams, self.revoke_app),
            "revoke-tenant": (RevokeTenantParams, self.revoke_tenant),
            "issuer-rotate": (RotateParams, self.rotate),
            "issuer-list": (NoParams, self.list),
        }

    async def revoke(self, caller: Caller, command: Command) -> Revoked:
        """An agent takes back a delegation that it holds or handed on."""
        if not isinstance(command, Revoke):
            raise Malformed("not a revoke message")
        agent = self._directory.agent(caller.tenant, caller.name)
        issuers = frozenset(Did(str(e.envelope.event["did"])) for e in await self._issuers.history(caller.tenant))
        cid, until = check_revocable(command.chain, Did(agent.did), issuers, self._now())
        actor = Actor(kind="agent", id=agent.agent)
        event: dict[str, object] = {"until": until, "why": _checked_why(command.why)}
        return await self._record(caller.tenant, cid, event, actor, command.id)

    async def revoke_by_cid(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """An operator takes back any delegation of the tenant."""
        p = msgspec.convert(params, RevokeParams)
        # Its end is not known here; no delegation lives longer than this.
        event: dict[str, object] = {"until": self._now() + LIFETIME_SECONDS_MAX, "why": _checked_why(p.why)}
        done = await self._record(by.tenant, parse_cid(p.cid), event, by.actor, by.request)
        return {"tenant": by.tenant, "cid": done.cid, "until": done.until}

    async def revoke_app(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """Takes back everything that was issued for an app up to now.

        Raises:
            NotFound: the tenant has no such app; nothing is taken back.
        """
        p = msgspec.convert(params, RevokeAppParams)
        if not self._directory.has_app(by.tenant, parse_slug(p.app, "app")):
            await self._refresh()
        if not self._directory.has_app(by.tenant, p.app):
            raise NotFound("this tenant has no such app")
        return await self._revoke_issued(by, p.app, p.why)

    async def revoke_tenant(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """Takes back everything that was issued for the tenant up to now."""
        return await self._revoke_issued(by, WHOLE_TENANT, msgspec.convert(params, RevokeTenantParams).why)

    async def _revoke_issued(self, by: Operator, app: str, why: str) -> dict[str, object]:
        now, stream = self._now(), f"revoked-all/{app}"
        event: dict[str, object] = {"app": app, "at": now, "until": cutoff_of(now), "why": _checked_why(why)}
        envelope = Envelope(
            id=new_id("ev"),
            type=ISSUED_REVOKED,
            tenant=by.tenant,
            actor=by.actor,
            corr=by.request,
            cause="",
            event=event,
        )
        for _ in range(TRIES_MAX):
            try:
                await self._store.append(by.tenant, stream, len(await self._store.load(by.tenant, stream)), [envelope])
            except Conflict:
                # Another command for the same app; this one's moment is its own.
                continue
            break
        else:
            raise Conflict("this app is being revoked by others")
        await asyncio.sleep(self._fresh_ms / 1000)
        return {"tenant": by.tenant, "app": app, "at": now, "until": event["until"]}

    async def _record(self, tenant: str, cid: bytes, event: dict[str, object], actor: Actor, corr: str) -> Revoked:
        text = format_cid(cid)
        envelope = Envelope(
            id=new_id("ev"),
            type=DELEGATION_REVOKED,
            tenant=tenant,
            actor=actor,
            corr=corr,
            cause="",
            event={"cid": text, **event},
        )
        stream = f"revoked/{text}"
        try:
            await self._store.append(tenant, stream, 0, [envelope])
        except Conflict:
            # It is revoked already: the first record stands, and asking again is no fault.
            stored = await self._store.load(tenant, stream)
            if not stored:
                raise JournalUnavailable("an earlier revocation waits for the journal") from None
            envelope = stored[0].envelope
        return Revoked(cid=text, until=int(str(envelope.event["until"])))

    async def rotate(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """Replaces the tenant's issuing key."""
        why = _checked_why(msgspec.convert(params, RotateParams).why)
        did, previous = await self._issuers.rotate(by.tenant, actor=by.actor, corr=by.request, why=why, now=self._now())
        return {"tenant": by.tenant, "did": did, "previous": previous}

    async def list(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """The tenant's issuing keys, newest first."""
        events = await self._issuers.history(by.tenant)
        keys = [
            {
                "did": str(one.envelope.event["did"]),
                "since": one.envelope.event.get("at", 0),
                "why": str(one.envelope.event.get("why", "")),
                "by": f"{one.envelope.actor.kind}:{one.envelope.actor.id}",
                "in_force": at == len(events) - 1,
            }
            for at, one in enumerate(events)
            if one.envelope.type in (ISSUER_CREATED, ISSUER_ROTATED)
        ]
        return {"tenant": by.tenant, "keys": keys[::-1]}


def _checked_why(why: str) -> str:
    if len(why) > WHY_CHARS_MAX:
        raise LimitExceeded("WHY_CHARS_MAX", WHY_CHARS_MAX, len(why))
    return why
