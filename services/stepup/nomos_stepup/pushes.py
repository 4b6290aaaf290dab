"""Browsers that approvers are told on: who has which, and what becomes of one. A fold, and the store beside it.

Rules: an approver has at most :data:`SUBSCRIPTIONS_MAX` browsers; one is told only of what its approver may approve and
has not asked for; one that was made before the approver signed out everywhere is told nothing any more, as its session
shows nothing. Where a browser is, it said itself: an address at its vendor's push service, sealed at rest and written
over when it goes.

Trusted / not trusted: a push service learns when somebody is told, and not of what.
"""

from __future__ import annotations

import time
from typing import Final

import msgspec

from nomos.errors import LimitExceeded, Malformed, MalformedRecord, NotFound
from nomos.events import PUSH_ADDED, PUSH_REMOVED, Actor, Envelope
from nomos.ids import new_id
from nomos.servicemessages import Fact
from nomos_runtime.eventstore import EventStore
from nomos_runtime.sealing import Sealer
from nomos_stepup.domain import Approval, may_sign
from nomos_stepup.index import Index
from nomos_stepup.notices import Channel
from nomos_stepup.webpush import Browser

#: Browsers of one approver.
SUBSCRIPTIONS_MAX: Final = 8
#: Beginning of the names of sealed records, and what they are sealed for.
PUSH_SEALED: Final = "push/"
PUSH_PURPOSE: Final = "push-subscription-v1"
#: Types of events that a replica follows.
PUSH_TYPES: Final = (PUSH_ADDED, PUSH_REMOVED)
_NOWHERE: Final = Browser(endpoint="", p256dh="", auth="")


class Subscription(msgspec.Struct, frozen=True, kw_only=True):
    """Payload of ``push.added``: a browser of an approver, since ``at``, Unix seconds."""

    approver: str
    subscription: str
    at: int


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """Payload of ``push.removed``."""

    approver: str
    subscription: str
    why: str
    at: int


State = dict[str, Subscription]


def evolve(state: State, kind: str, payload: object) -> State:
    """The browsers after an event; of other types nothing changes.

    Raises:
        MalformedRecord: the payload is not of its type.
    """
    try:
        if kind == PUSH_ADDED:
            added = msgspec.convert(payload, Subscription)
            return {**state, added.subscription: added}
        if kind == PUSH_REMOVED:
            gone = msgspec.convert(payload, Ended).subscription
            return {name: one for name, one in state.items() if name != gone}
    except msgspec.ValidationError as error:
        raise MalformedRecord(f"the event is no {kind}", cause=str(error)) from error
    return state


class Pushes:
    """The browsers of all tenants, as this replica knows them, and the only writer of their streams."""

    def __init__(self, store: EventStore, sealer: Sealer, index: Index) -> None:
        self._store = store
        self._sealer = sealer
        self._index = index
        self._known: dict[str, State] = {}

    def apply(self, fact: Fact) -> None:
        """Folds one fact of stepup's own."""
        self._known[fact.tenant] = evolve(self._known.get(fact.tenant, {}), fact.type, fact.event)

    def channels(self, approval: Approval) -> list[Channel]:
        """A channel for each browser that is told of an approval."""
        return [
            Channel(channel=one.subscription, kind="push", group="", after=0, at=one.at)
            for one in self._known.get(approval.request.tenant, {}).values()
            if self._is_told(one, approval)
        ]

    def _is_told(self, one: Subscription, approval: Approval) -> bool:
        approver = self._index.approver(approval.request.tenant, one.approver)
        return (
            approver is not None
            and approver.active
            and one.at > approver.signed_out_at
            and approver.id not in approval.request.requesters
            and may_sign(approval, approver)
        )

    async def of_approver(self, tenant: str, approver: str) -> tuple[State, int]:
        """An approver's browsers, and the version of their stream."""
        state: State = {}
        version = 0
        for stored in await self._store.load(tenant, _stream(approver)):
            state, version = evolve(state, stored.envelope.type, stored.envelope.event), stored.version
        return state, version

    async def add(self, tenant: str, approver: str, browser: Browser, *, actor: Actor, corr: str) -> str:
        """Adds a browser; returns its name when it is in the journal.

        Raises:
            LimitExceeded: the approver has as many as may be.
            Conflict: the approver's browsers changed meanwhile.
        """
        state, version = await self.of_approver(tenant, approver)
        if len(state) >= SUBSCRIPTIONS_MAX:
            raise LimitExceeded("browsers of an approver", SUBSCRIPTIONS_MAX)
        made = Subscription(approver=approver, subscription=new_id("ps"), at=int(time.time()))
        event = _envelope(tenant, PUSH_ADDED, made, actor, corr)
        sealed = {PUSH_SEALED + made.subscription: self._seal(tenant, made.subscription, browser)}
        await self._store.append(tenant, _stream(approver), version, [event], sealed)
        return made.subscription

    async def remove(self, tenant: str, approver: str, subscription: str, *, why: str, actor: Actor, corr: str) -> None:
        """Removes a browser, and where it was.

        Raises:
            NotFound: the approver has no such browser.
            Conflict: the approver's browsers changed meanwhile.
        """
        state, version = await self.of_approver(tenant, approver)
        if subscription not in state:
            raise NotFound("you have no such browser here", hint="it may have been removed; look again")
        ended = Ended(approver=approver, subscription=subscription, why=why, at=int(time.time()))
        event = _envelope(tenant, PUSH_REMOVED, ended, actor, corr)
        sealed = {PUSH_SEALED + subscription: self._seal(tenant, subscription, _NOWHERE)}
        await self._store.append(tenant, _stream(approver), version, [event], sealed)

    async def remove_all(self, tenant: str, approver: str, *, why: str, actor: Actor, corr: str) -> None:
        """Removes every browser of an approver."""
        state, _ = await self.of_approver(tenant, approver)
        for subscription in state:
            await self.remove(tenant, approver, subscription, why=why, actor=actor, corr=corr)

    def owner(self, tenant: str, subscription: str) -> str:
        """Whose browser it is.

        Raises:
            NotFound: nobody's.
        """
        found = self._known.get(tenant, {}).get(subscription)
        if found is None:
            raise NotFound("there is no such browser")
        return found.approver

    async def browser(self, tenant: str, subscription: str) -> Browser:
        """Where a browser is.

        Raises:
            NotFound: it was removed.
            CredentialUnreadable, Malformed: its record does not open, or is none.
        """
        name = PUSH_SEALED + subscription
        record = await self._store.sealed(tenant, name)
        if record is None:
            raise NotFound("there is no such browser")
        content = self._sealer.open(record, purpose=PUSH_PURPOSE, tenant=tenant, name=name)
        try:
            found = msgspec.json.decode(content, type=Browser)
        except msgspec.DecodeError as error:
            raise Malformed("the sealed record is none of a browser") from error
        if not found.endpoint:
            raise NotFound("there is no such browser")
        return found

    def _seal(self, tenant: str, subscription: str, browser: Browser) -> bytes:
        content = msgspec.json.encode(browser)
        return self._sealer.seal(content, purpose=PUSH_PURPOSE, tenant=tenant, name=PUSH_SEALED + subscription)


def _stream(approver: str) -> str:
    return f"push/{approver}"


def _envelope(tenant: str, kind: str, payload: msgspec.Struct, actor: Actor, corr: str) -> Envelope:
    event: dict[str, object] = msgspec.to_builtins(payload)
    return Envelope(id=new_id("ev"), type=kind, tenant=tenant, actor=actor, corr=corr, cause="", event=event)
