"""Tells channels that somebody must approve. Beside everything else: no decision and no approval waits for it.

    every second, in each replica: what waits, for each channel that is due, has room, and is not told yet
        -> take it on (compare-and-set: one replica does) -> send, a few tries -> say what became of it

A channel is told of so many approvals in a minute, by all replicas together. What is more waits for the next minute: it
is late, and no request is hidden by others. A notice is sent by one replica, also when the one that opened the approval
has died; who dies while it sends leaves a notice that was begun and has no end, and it is not sent again.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Coroutine
from typing import Final

import msgspec

from nomos.errors import Conflict, MalformedRecord, NomosError, Unavailable
from nomos.events import NOTICE_BEGUN
from nomos.servicemessages import Fact
from nomos_runtime import observe
from nomos_stepup.challenge import ApprovalRequest
from nomos_stepup.domain import Approval
from nomos_stepup.index import Index
from nomos_stepup.links import approval_path
from nomos_stepup.notices import (
    SIGNATURE_HEADER,
    Channel,
    Channels,
    NoticeBegun,
    NoticeEnded,
    Outcome,
    body_of,
    evolve,
    message_of,
    signature_of,
    text_of,
    title_of,
)
from nomos_stepup.noticestore import NoticeStore
from nomos_stepup.pushes import Pushes
from nomos_stepup.sending import Gone, MailServer, mail, post
from nomos_stepup.store import SERVICE
from nomos_stepup.webpush import Sender, encrypt

LOOK_SECONDS: Final = 1.0
TRIES_MAX: Final = 3
#: Before the second try; before the third, four times as long.
PAUSE_SECONDS: Final = 1.0
#: Notices that one replica sends at once; further ones are taken on later, or by others.
SENDING_MAX: Final = 64
#: Of these, one tenant's: hooks that hang hold up their own tenant's notices and no other's.
SENDING_PER_TENANT_MAX: Final = 8
#: Of these, one channel's: a hook that hangs holds up itself, and not the tenant's others.
SENDING_PER_CHANNEL_MAX: Final = 2
#: Approvals that a channel is told of within a minute; more make people look away.
PER_MINUTE_MAX: Final = 20
_MINUTE: Final = 60


class Notifier:
    """The notices of all tenants, in one replica."""

    def __init__(
        self,
        index: Index,
        store: NoticeStore,
        *,
        server: MailServer,
        url_of: Callable[[str], str],
        development: bool,
        pushes: Pushes | None = None,
        sender: Sender | None = None,
    ) -> None:
        """Takes what waits, where channels and browsers are, the mail server, the sender of web push, and pages."""
        self._index = index
        self._store = store
        self._server = server
        self._url_of = url_of
        self._development = development
        self._pushes = pushes
        self._sender = sender
        self._channels: dict[str, Channels] = {}
        #: Approval -> channels that somebody has taken on.
        self._begun: dict[str, set[str]] = defaultdict(set)
        #: Tenant and channel -> the approvals that it was told of last, by any replica, and when: oldest first.
        self._recent: dict[tuple[str, str], dict[str, int]] = defaultdict(dict)
        self._sending: set[asyncio.Task[None]] = set()
        #: Notices that are being sent, by tenant and by tenant and channel.
        self._of_tenant: Counter[str] = Counter()
        self._of_channel: Counter[tuple[str, str]] = Counter()

    def apply(self, fact: Fact) -> None:
        """Folds one fact of stepup's own."""
        if fact.type == NOTICE_BEGUN:
            try:
                begun = msgspec.convert(fact.event, NoticeBegun)
            except msgspec.ValidationError as error:
                raise MalformedRecord("the event is no notify.begun", cause=str(error)) from error
            self._note(fact.tenant, begun)
            return
        before = self._channels.get(fact.tenant, {})
        after = self._channels[fact.tenant] = evolve(before, fact.type, fact.event)
        for gone in before.keys() - after.keys():
            self._recent.pop((fact.tenant, gone), None)

    async def run(self) -> None:
        """Looks and tells, for as long as the service lives."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self.look(int(time.time()))

    def look(self, now: int) -> None:
        """Takes on what is due at ``now``, Unix seconds, as far as there is room."""
        pending = {one.id: one for one in self._index.pending()}
        for name in self._begun.keys() - pending.keys():
            # Nothing is told of it any more.
            del self._begun[name]
        for approval in pending.values():
            tenant = approval.request.tenant
            if now >= approval.request.expires_at:
                continue
            browsers = self._pushes.channels(approval) if self._pushes and self._sender else ()
            for channel in (*self._channels.get(tenant, {}).values(), *browsers):
                if len(self._sending) >= SENDING_MAX:
                    return
                if self._of_tenant[tenant] >= SENDING_PER_TENANT_MAX:
                    break
                if self._of_channel[tenant, channel.channel] >= SENDING_PER_CHANNEL_MAX:
                    continue
                if self._is_due(approval, channel, now) and self._has_room(tenant, channel.channel, now):
                    begun = NoticeBegun(approval=approval.id, channel=channel.channel, at=now)
                    self._note(tenant, begun)
                    self._start(tenant, channel.channel, self._tell(tenant, approval.request, channel, begun))

    async def close(self) -> None:
        """Lets what is being sent end."""
        if self._sending:
            await asyncio.wait(set(self._sending))

    async def try_channel(self, tenant: str, channel: Channel, request: ApprovalRequest) -> None:
        """Sends a made-up request, once; for an operator who wants to know whether a channel works.

        Raises:
            NomosError: it does not.
        """
        await self._send(tenant, channel, request)

    def _is_due(self, approval: Approval, channel: Channel, now: int) -> bool:
        told = self._begun.get(approval.id, ())
        waited = now - approval.request.asked_at
        # A channel that was made afterwards is not told of what waited before.
        is_news = approval.request.asked_at >= channel.at
        return is_news and channel.channel not in told and waited >= channel.after and channel.is_for(approval.request)

    def _note(self, tenant: str, begun: NoticeBegun) -> None:
        self._begun[begun.approval].add(begun.channel)
        recent = self._recent[tenant, begun.channel]
        recent.setdefault(begun.approval, begun.at)
        if len(recent) > PER_MINUTE_MAX:
            del recent[next(iter(recent))]

    def _has_room(self, tenant: str, channel: str, now: int) -> bool:
        recent = self._recent[tenant, channel]
        return sum(now - at < _MINUTE for at in recent.values()) < PER_MINUTE_MAX

    def _start(self, tenant: str, channel: str, telling: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(telling)
        self._sending.add(task)
        self._of_tenant[tenant] += 1
        self._of_channel[tenant, channel] += 1

        def done(ended: asyncio.Task[None]) -> None:
            self._sending.discard(ended)
            # What is nobody's any more leaves no key behind.
            self._of_tenant -= Counter({tenant: 1})
            self._of_channel -= Counter({(tenant, channel): 1})
            fault = None if ended.cancelled() else ended.exception()
            if fault is not None:
                # A fault of ours: the notice was begun and has no end.
                observe.say("stepup", observe.BACKGROUND_FAULT, error=type(fault).__name__, verb="notify")

        task.add_done_callback(done)

    async def _tell(self, tenant: str, request: ApprovalRequest, channel: Channel, begun: NoticeBegun) -> None:
        name = channel.channel
        try:
            await self._store.begin(tenant, begun)
        except Conflict:
            # Another replica tells it.
            return
        except NomosError as error:
            self._begun[request.approval].discard(name)
            self._recent[tenant, name].pop(request.approval, None)
            observe.say("stepup", observe.BACKGROUND_FAULT, error=error.code, verb="notify")
            return
        outcome, tries, detail = await self._outcome(tenant, request, channel)
        ended = NoticeEnded(
            approval=request.approval,
            channel=name,
            outcome=outcome,
            tries=tries,
            detail=detail,
            at=int(time.time()),
        )
        try:
            await self._store.end(tenant, ended)
        except NomosError as error:
            observe.say("stepup", observe.BACKGROUND_FAULT, error=error.code, verb="notify")

    async def _outcome(self, tenant: str, request: ApprovalRequest, channel: Channel) -> tuple[Outcome, int, str]:
        detail = ""
        for number in range(1, TRIES_MAX + 1):
            try:
                await self._send(tenant, channel, request)
            except Unavailable as error:
                if channel.kind == "push" and isinstance(error, Gone):
                    await self._forget(tenant, channel, request)
                    return "failed", number, error.detail
                detail = error.detail
                if number < TRIES_MAX:
                    await asyncio.sleep(PAUSE_SECONDS * 4 ** (number - 1))
            except NomosError as error:
                # Trying again changes nothing.
                return "failed", number, error.detail
            else:
                return "sent", number, ""
        return "failed", TRIES_MAX, detail

    async def _send(self, tenant: str, channel: Channel, request: ApprovalRequest) -> None:
        if channel.kind == "push":
            await self._push(tenant, channel.channel, request)
            return
        secrets = await self._store.secrets(tenant, channel.channel)
        url = self._url_of(request.approval)
        if channel.kind == "email":
            await asyncio.to_thread(mail, self._server, secrets.to, title_of(request), text_of(request, url))
            return
        at = int(time.time())
        body = body_of(channel.kind, request, url, at=at)
        headers = {SIGNATURE_HEADER: signature_of(secrets.secret, body, at=at)} if channel.kind == "webhook" else {}
        await post(secrets.to, body, headers, development=self._development)

    async def _push(self, tenant: str, subscription: str, request: ApprovalRequest) -> None:
        if self._pushes is None or self._sender is None:
            raise Unavailable("this replica sends no web push")
        browser = await self._pushes.browser(tenant, subscription)
        body = encrypt(browser, message_of(request, approval_path(request.approval)))
        headers = self._sender.headers(
            browser.endpoint, request.approval, now=int(time.time()), expires_at=request.expires_at
        )
        await post(browser.endpoint, body, headers, development=self._development)

    async def _forget(self, tenant: str, channel: Channel, request: ApprovalRequest) -> None:
        """Removes a browser that its push service does not know any more."""
        if self._pushes is None:
            return
        try:
            owner = self._pushes.owner(tenant, channel.channel)
            why = "the push service does not know it any more"
            await self._pushes.remove(tenant, owner, channel.channel, why=why, actor=SERVICE, corr=request.approval)
        except NomosError as error:
            observe.say("stepup", observe.BACKGROUND_FAULT, error=error.code, verb="notify")


def new_secret() -> str:
    """A secret that signs a hook's bodies."""
    return f"whsec_{os.urandom(32).hex()}"
