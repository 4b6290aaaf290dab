"""Tells channels that somebody must approve. Beside everything else: no decision and no approval waits for it.

    every second, in each replica: what waits, for each channel that is due and not told yet
        -> take it on (compare-and-set: one replica does) -> send, a few tries -> say what became of it

So a notice is sent by one replica, also when the one that opened the approval has died; who dies while it sends leaves
a notice that was begun and has no end, and it is not sent again.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Final

import msgspec

from nomos.errors import Conflict, DestinationRefused, MalformedRecord, NomosError, Unavailable
from nomos.events import NOTICE_BEGUN
from nomos.messages import Fact
from nomos_runtime import observe
from nomos_stepup.challenge import ApprovalRequest
from nomos_stepup.domain import Approval
from nomos_stepup.index import Index
from nomos_stepup.notices import (
    SIGNATURE_HEADER,
    Channel,
    Channels,
    NoticeBegun,
    NoticeEnded,
    Outcome,
    Secrets,
    body_of,
    evolve,
    signature_of,
    text_of,
    title_of,
)
from nomos_stepup.noticestore import NoticeStore
from nomos_stepup.sending import MailServer, mail, post

LOOK_SECONDS: Final = 1.0
TRIES_MAX: Final = 3
#: Before the second try; before the third, four times as long.
PAUSE_SECONDS: Final = 1.0
#: Notices that one replica sends at once; further ones are taken on later, or by others.
SENDING_MAX: Final = 16
#: Notices of one channel within a minute, in one replica; more make people look away.
PER_MINUTE_MAX: Final = 20
_MINUTE: Final = 60.0


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
    ) -> None:
        """Takes what waits, where channels are, the mail server, and the page of an approval."""
        self._index = index
        self._store = store
        self._server = server
        self._url_of = url_of
        self._development = development
        self._channels: dict[str, Channels] = {}
        #: Approval -> channels that somebody has taken on.
        self._begun: dict[str, set[str]] = defaultdict(set)
        self._sent: dict[tuple[str, str], deque[float]] = defaultdict(deque)
        self._sending: set[asyncio.Task[None]] = set()

    def apply(self, fact: Fact) -> None:
        """Folds one fact of stepup's own."""
        if fact.type == NOTICE_BEGUN:
            try:
                begun = msgspec.convert(fact.event, NoticeBegun)
            except msgspec.ValidationError as error:
                raise MalformedRecord("the event is no notify.begun", cause=str(error)) from error
            self._begun[begun.approval].add(begun.channel)
            return
        self._channels[fact.tenant] = evolve(self._channels.get(fact.tenant, {}), fact.type, fact.event)

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
            for channel in self._channels.get(tenant, {}).values():
                if len(self._sending) >= SENDING_MAX:
                    return
                if self._is_due(approval, channel, now):
                    self._begun[approval.id].add(channel.channel)
                    task = asyncio.create_task(self._tell(tenant, approval.request, channel, now))
                    self._sending.add(task)
                    task.add_done_callback(self._sending.discard)

    async def close(self) -> None:
        """Lets what is being sent end."""
        if self._sending:
            await asyncio.wait(set(self._sending))

    async def try_channel(self, tenant: str, channel: Channel, request: ApprovalRequest) -> None:
        """Sends a made-up request, once; for an operator who wants to know whether a channel works.

        Raises:
            NomosError: it does not.
        """
        await self._send(tenant, channel, request, await self._store.secrets(tenant, channel.channel))

    def _is_due(self, approval: Approval, channel: Channel, now: int) -> bool:
        told = self._begun.get(approval.id, ())
        waited = now - approval.request.asked_at
        # A channel that was made afterwards is not told of what waited before.
        is_news = approval.request.asked_at >= channel.at
        return is_news and channel.channel not in told and waited >= channel.after and channel.is_for(approval.request)

    async def _tell(self, tenant: str, request: ApprovalRequest, channel: Channel, now: int) -> None:
        name = channel.channel
        try:
            await self._store.begin(tenant, NoticeBegun(approval=request.approval, channel=name, at=now))
        except Conflict:
            # Another replica tells it.
            return
        except NomosError as error:
            self._begun[request.approval].discard(name)
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
        if not self._has_room(tenant, channel.channel):
            return "suppressed", 0, f"more than {PER_MINUTE_MAX} notices in a minute"
        detail = ""
        for number in range(1, TRIES_MAX + 1):
            try:
                await self._send(tenant, channel, request, await self._store.secrets(tenant, channel.channel))
            except Unavailable as error:
                detail = error.detail
                if number < TRIES_MAX:
                    await asyncio.sleep(PAUSE_SECONDS * 4 ** (number - 1))
            except (DestinationRefused, NomosError) as error:
                # Trying again changes nothing.
                return "failed", number, error.detail
            else:
                return "sent", number, ""
        return "failed", TRIES_MAX, detail

    async def _send(self, tenant: str, channel: Channel, request: ApprovalRequest, secrets: Secrets) -> None:
        url = self._url_of(request.approval)
        if channel.kind == "email":
            await asyncio.to_thread(mail, self._server, secrets.to, title_of(request), text_of(request, url))
            return
        at = int(time.time())
        body = body_of(channel.kind, request, url, at=at)
        headers = {SIGNATURE_HEADER: signature_of(secrets.secret, body, at=at)} if channel.kind == "webhook" else {}
        await post(secrets.to, body, headers, development=self._development)

    def _has_room(self, tenant: str, channel: str) -> bool:
        sent, now = self._sent[tenant, channel], time.monotonic()
        while sent and now - sent[0] > _MINUTE:
            sent.popleft()
        if len(sent) >= PER_MINUTE_MAX:
            return False
        sent.append(now)
        return True


def new_secret() -> str:
    """A secret that signs a hook's bodies."""
    return f"whsec_{os.urandom(32).hex()}"
