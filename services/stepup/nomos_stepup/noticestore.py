"""The channels of tenants and what was sent: events, and the sealed ends of channels."""

from __future__ import annotations

from typing import Final

import msgspec

from nomos.errors import Malformed, NotFound
from nomos.events import NOTICE_BEGUN, NOTICE_ENDED, NOTIFY_ADDED, NOTIFY_REMOVED, Actor, Envelope
from nomos.ids import new_id
from nomos_runtime.eventstore import EventStore
from nomos_runtime.sealing import Sealer
from nomos_stepup.notices import Channel, ChannelRemoved, Channels, NoticeBegun, NoticeEnded, Secrets, evolve
from nomos_stepup.store import SERVICE

STREAM: Final = "channels"
#: Beginning of the names of sealed records, and what they are sealed for.
SEALED: Final = "notify/"
PURPOSE: Final = "notify-channel-v1"


class NoticeStore:
    """The only writer of these streams."""

    def __init__(self, store: EventStore, sealer: Sealer) -> None:
        self._store = store
        self._sealer = sealer

    async def channels(self, tenant: str) -> tuple[Channels, int]:
        """The tenant's channels, and the version of their stream."""
        state: Channels = {}
        version = 0
        for stored in await self._store.load(tenant, STREAM):
            state, version = evolve(state, stored.envelope.type, stored.envelope.event), stored.version
        return state, version

    async def add(
        self, tenant: str, version: int, channel: Channel, secrets: Secrets, *, actor: Actor, corr: str
    ) -> None:
        """Adds a channel, or replaces one of its name; returns when that is in the journal.

        Raises:
            Conflict: another was added meanwhile.
        """
        name = SEALED + channel.channel
        sealed = self._sealer.seal(msgspec.json.encode(secrets), purpose=PURPOSE, tenant=tenant, name=name)
        event = _envelope(tenant, NOTIFY_ADDED, msgspec.to_builtins(channel), actor, corr)
        await self._store.append(tenant, STREAM, version, [event], {name: sealed})

    async def remove(self, tenant: str, channel: str, *, now: int, actor: Actor, corr: str) -> None:
        """Removes a channel. What it led to stays sealed until the tenant is erased, and is read by nobody.

        Raises:
            NotFound: there is none of that name.
            Conflict: the channels changed meanwhile.
        """
        state, version = await self.channels(tenant)
        if channel not in state:
            raise NotFound("there is no such channel")
        payload = msgspec.to_builtins(ChannelRemoved(channel=channel, at=now))
        await self._store.append(tenant, STREAM, version, [_envelope(tenant, NOTIFY_REMOVED, payload, actor, corr)])

    async def secrets(self, tenant: str, channel: str) -> Secrets:
        """Where a channel leads.

        Raises:
            NotFound: its sealed record is gone.
            CredentialUnreadable: it does not open here.
            Malformed: it is none.
        """
        record = await self._store.sealed(tenant, SEALED + channel)
        if record is None:
            raise NotFound("there is no such channel")
        content = self._sealer.open(record, purpose=PURPOSE, tenant=tenant, name=SEALED + channel)
        try:
            return msgspec.json.decode(content, type=Secrets)
        except msgspec.DecodeError as error:
            raise Malformed("the sealed record is none of a channel") from error

    async def begin(self, tenant: str, notice: NoticeBegun) -> None:
        """Takes a notice on; returns when that is in the journal.

        Raises:
            Conflict: another replica has.
        """
        event = _envelope(tenant, NOTICE_BEGUN, msgspec.to_builtins(notice), SERVICE, notice.approval)
        await self._store.append(tenant, _stream(notice.approval, notice.channel), 0, [event])

    async def end(self, tenant: str, notice: NoticeEnded) -> None:
        """Says what became of a notice that this replica took on."""
        event = _envelope(tenant, NOTICE_ENDED, msgspec.to_builtins(notice), SERVICE, notice.approval)
        await self._store.append(tenant, _stream(notice.approval, notice.channel), 1, [event])


def _stream(approval: str, channel: str) -> str:
    return f"notice/{approval}/{channel}"


def _envelope(tenant: str, kind: str, event: dict[str, object], actor: Actor, corr: str) -> Envelope:
    return Envelope(id=new_id("ev"), type=kind, tenant=tenant, actor=actor, corr=corr, cause="", event=event)
