"""Operators' verbs of notices: notify-add, notify-list, notify-remove, notify-test."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import msgspec

from nomos.errors import Misconfigured, NotFound
from nomos.ids import new_id
from nomos.keys import SigningKey
from nomos_runtime.responder import NoParams, Operator, Verb
from nomos_stepup.challenge import ApprovalRequest
from nomos_stepup.notices import Secrets, make_channel
from nomos_stepup.noticestore import NoticeStore
from nomos_stepup.notifying import Notifier, new_secret


class AddParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A channel's name, kind (webhook, slack, email), where it leads, and when it is told."""

    channel: str
    kind: str
    to: str
    group: str = ""
    after: int = 0


class ChannelParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A channel's name."""

    channel: str


class NoticeAdmin:
    """The verbs, by name, in :meth:`verbs`."""

    def __init__(
        self,
        store: NoticeStore,
        notifier: Notifier,
        refresh: Callable[[], Awaitable[None]],
        *,
        development: bool,
        has_mail: bool,
    ) -> None:
        self._store = store
        self._notifier = notifier
        self._refresh = refresh
        self._development = development
        self._has_mail = has_mail

    def verbs(self) -> dict[str, Verb]:
        """Verb name to parameters and handler."""
        return {
            "notify-add": (AddParams, self.add),
            "notify-list": (NoParams, self.list),
            "notify-remove": (ChannelParams, self.remove),
            "notify-test": (ChannelParams, self.test),
        }

    async def add(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """Adds a channel, or replaces one of its name. A web hook's secret is told here, and never again."""
        p = msgspec.convert(params, AddParams)
        state, version = await self._store.channels(by.tenant)
        made = make_channel(
            state,
            channel=p.channel,
            kind=p.kind,
            to=p.to,
            group=p.group,
            after=p.after,
            development=self._development,
            now=int(time.time()),
        )
        if made.kind == "email" and not self._has_mail:
            raise Misconfigured("this installation has no mail server", hint="set NOMOS_STEPUP_SMTP_HOST of stepup")
        secrets = Secrets(to=p.to, secret=new_secret() if made.kind == "webhook" else "")
        await self._store.add(by.tenant, version, made, secrets, actor=by.actor, corr=by.request)
        await self._refresh()
        return {"tenant": by.tenant, "channel": made.channel, "kind": made.kind, "secret": secrets.secret}

    async def list(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """The channels, without where they lead."""
        state, _ = await self._store.channels(by.tenant)
        return {"tenant": by.tenant, "channels": [msgspec.to_builtins(one) for _, one in sorted(state.items())]}

    async def remove(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """Removes a channel; answers when that is in the journal."""
        p = msgspec.convert(params, ChannelParams)
        await self._store.remove(by.tenant, p.channel, now=int(time.time()), actor=by.actor, corr=by.request)
        await self._refresh()
        return {"tenant": by.tenant, "channel": p.channel}

    async def test(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """Tells a channel of a request that nobody made; answers when it was taken."""
        p = msgspec.convert(params, ChannelParams)
        state, _ = await self._store.channels(by.tenant)
        channel = state.get(p.channel)
        if channel is None:
            raise NotFound("there is no such channel")
        await self._notifier.try_channel(by.tenant, channel, _made_up(by.tenant))
        return {"tenant": by.tenant, "channel": p.channel}


def _made_up(tenant: str) -> ApprovalRequest:
    """A request that nobody made, for a test of a channel; its approval is none."""
    now = int(time.time())
    return ApprovalRequest(
        v=1,
        approval=new_id("ap"),
        tenant=tenant,
        app="nomos",
        agent="test-of-this-channel",
        agent_did=SigningKey(bytes(32)).did,
        behalf=None,
        connection="none",
        action="nomos:test",
        risk="read",
        resource="nomos:nothing",
        args_digest="0" * 64,
        args_text_sha256="0" * 64,
        body_sha256=None,
        request=new_id("rq"),
        decision=new_id("dc"),
        revision=0,
        policy_set="",
        policies=(),
        needed=1,
        asked_at=now,
        expires_at=now + 60,
    )
