"""Taking a delegation back before its minute is over, with all that was handed on from it.

Decides who may: an agent that held a delegation of the chain may revoke the chain's last link (a parent its child's, a
holder its own); an operator may revoke any of the tenant's by its CID. A delegation that nobody minted can be revoked
too: it refuses nothing that would have been taken. The proxy hears of it by minting's feed, within the same bound as of
every other fact, and refuses every chain that contains it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from nomos.errors import Conflict, Expired, JournalUnavailable, LimitExceeded, Malformed, NotCovered, Unrooted
from nomos.events import DELEGATION_REVOKED, ISSUER_CREATED, ISSUER_ROTATED, Actor, Envelope
from nomos.ids import Did, new_id
from nomos.messages import Command, Decoder, Revoke, Revoked
from nomos.ucan.chain import check_alignment, earliest_expiry
from nomos.ucan.cid import format_cid, parse_cid
from nomos.ucan.delegation import parse_delegation
from nomos.ucan.profile import CHAIN_LENGTH_MAX, LIFETIME_SECONDS_MAX
from nomos_minting.issuers import Issuers
from nomos_runtime.directory import Directory
from nomos_runtime.eventstore import EventStore
from nomos_runtime.responder import Caller, NoParams, Operator, Verb

WHY_CHARS_MAX: Final = 500

decoder: Final = Decoder.of(Revoke, "revoke")


class RevokeParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Parameters of the verb ``revoke``."""

    cid: str
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

    def __init__(self, store: EventStore, issuers: Issuers, directory: Directory, now: Callable[[], int]) -> None:
        """Takes the store, the keys, who the agents are, and the clock in Unix seconds."""
        self._store = store
        self._issuers = issuers
        self._directory = directory
        self._now = now

    def verbs(self) -> dict[str, Verb]:
        """Verb name to parameters and handler."""
        return {
            "revoke": (RevokeParams, self.revoke_by_cid),
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
