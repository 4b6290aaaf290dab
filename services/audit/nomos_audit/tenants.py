"""The tenants' projection of the chain: the stream ``AUDIT``, one subject ``audit.<tenant>`` for each tenant.

One message holds the records of one tenant in one block, in order, with the chain hash before each; so a block of many
records costs one append for each tenant in it, not one for each record. A message names its block and its place among
the messages of that block: the newest message *is* the projection's position. Appends are compare-and-swap on the
stream's sequence: a repeated one is refused, a hole cannot come about, and of two processes one starts over.

It can be dropped and built again. Not trusted by anyone who verifies: an attacker who controls it can hide or change a
copy, not the log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
from nats.aio.client import Client

from nomos.errors import Fenced, MalformedRecord, RolledBack, Unavailable
from nomos.waiting import raise_if_cancelled
from nomos_audit.follow import Follower, position_before
from nomos_audit.replay import Position, VerifiedBlock, start_of
from nomos_audit.segments import newest_segment
from nomos_audit.streams import append, last_message
from nomos_runtime import observe

STREAM: Final = "AUDIT"
RETRY_SECONDS: Final = 0.5
WAIT_SECONDS: Final = 1.0
#: Appends that wait for their answers at once.
IN_FLIGHT_MAX: Final = 64
#: Between two looks at the chain; by so much the stream may be behind it.
LINGER_SECONDS: Final = 0.1

PROJECTION_AWAY: Final = "audit_projection_away"
PROJECTION_RESET: Final = "audit_projection_reset"


class TenantMessage(msgspec.Struct, frozen=True, kw_only=True):
    """One message of the stream.

    Attributes:
        v: 1.
        block: number of the block in the chain.
        part: place of this message among those of the block, from 0.
        parts: how many messages the block makes.
        seqs: log sequence of each record.
        prev: chain hash before each record, 32 bytes each.
        records: canonical bytes of each record.
    """

    v: int
    block: int
    part: int
    parts: int
    seqs: list[int]
    prev: list[bytes]
    records: list[bytes]


class _Tenant(msgspec.Struct):
    tenant: str


_tenant = msgspec.json.Decoder(_Tenant)
_message = msgspec.msgpack.Decoder(TenantMessage)


def parse_message(payload: bytes) -> TenantMessage:
    """Reads a message of the stream.

    Raises:
        MalformedRecord: it is none.
    """
    try:
        return _message.decode(payload)
    except msgspec.MsgspecError as error:
        raise MalformedRecord(f"a message of {STREAM} is no projection of the chain", cause=str(error)) from error


def messages_of(block: VerifiedBlock) -> list[tuple[str, TenantMessage]]:
    """The messages that a block makes, by tenant: the same for everybody who makes them."""
    of_tenant: dict[str, list[int]] = {}
    for index, record in enumerate(block.block.records):
        of_tenant.setdefault(_tenant.decode(record).tenant, []).append(index)
    return [
        (
            tenant,
            TenantMessage(
                v=1,
                block=block.after.block,
                part=part,
                parts=len(of_tenant),
                seqs=[block.block.first + i for i in indices],
                prev=[block.prev_of(i) for i in indices],
                records=[block.block.records[i] for i in indices],
            ),
        )
        for part, (tenant, indices) in enumerate(sorted(of_tenant.items()))
    ]


class TenantStreams:
    """Keeps the stream ``AUDIT`` up with the chain. :meth:`run` until cancelled."""

    def __init__(self, client: Client, *, origin: str, may_publish: Callable[[], bool]) -> None:
        """Takes the connection, the log, and whether this process is the active writer (others would only collide)."""
        self._client = client
        self._origin = origin
        self._may_publish = may_publish
        self._last = 0
        #: Records of the log that are published, by this process's knowledge.
        self.size = 0

    async def run(self) -> None:
        """Projects the chain until cancelled.

        Raises:
            RolledBack: the chain does not verify, or the stream is ahead of it.
            MalformedRecord: a message of the chain is no block, or one of the stream no projection of one.
        """
        while True:
            raise_if_cancelled()
            try:
                if self._may_publish():
                    await self._project()
                else:
                    await asyncio.sleep(WAIT_SECONDS)
            except (Unavailable, Fenced) as error:
                event = PROJECTION_RESET if isinstance(error, Fenced) else PROJECTION_AWAY
                observe.say("audit", event, projection="tenants", detail=error.detail, cause=error.cause)
                await asyncio.sleep(RETRY_SECONDS)

    async def _project(self) -> None:
        position, published = await self._position()
        follower = Follower(self._client, position)
        try:
            while self._may_publish():
                raise_if_cancelled()
                for block in await follower.take(WAIT_SECONDS):
                    await self._publish(block, published)
                    published = 0
                # The next messages of the same tenants wait together.
                await asyncio.sleep(LINGER_SECONDS)
        finally:
            await follower.close()

    async def _position(self) -> tuple[Position, int]:
        """Where to go on: the position before the first block that is not whole, and how many parts of it are there."""
        newest = await last_message(self._client, STREAM)
        if newest is None:
            self._last = 0
            return start_of(self._origin), 0
        self._last = newest.seq
        message = parse_message(newest.payload)
        end = (await newest_segment(self._client)).last
        if message.block > end:
            raise RolledBack(
                f"stream {STREAM} has block {message.block}, but the chain ends at {end}",
                hint=f"if the log is whole (nomos verify), delete {STREAM} and let it be built again",
            )
        is_whole = message.part + 1 == message.parts
        position, _ = await position_before(self._client, self._origin, message.block + is_whole)
        self.size = position.size
        return position, 0 if is_whole else message.part + 1

    async def _publish(self, block: VerifiedBlock, published: int) -> None:
        """Publishes what is missing of ``block``.

        Raises:
            Fenced: the stream has moved on without this process.
            Unavailable: not known to be published; the newest message says so when it is read again.
        """
        todo = messages_of(block)[published:]
        for begin in range(0, len(todo), IN_FLIGHT_MAX):
            batch = todo[begin : begin + IN_FLIGHT_MAX]
            # Each expects the one before it: after one that fails, none is stored.
            await _all_done([self._append(tenant, one, self._last + i) for i, (tenant, one) in enumerate(batch)])
            self._last += len(batch)
        self.size = block.after.size

    async def _append(self, tenant: str, message: TenantMessage, expected_last: int) -> None:
        headers = {"Nats-Msg-Id": f"{self._origin}:{message.block}:{message.part}"}
        payload = msgspec.msgpack.encode(message)
        await append(self._client, f"audit.{tenant}", payload, expected_last=expected_last, headers=headers)


async def _all_done(appends: Sequence[object]) -> None:
    """Waits for all, then raises the first error in order."""
    for outcome in await asyncio.gather(*appends, return_exceptions=True):  # type: ignore[call-overload]  # coroutines
        if isinstance(outcome, BaseException):
            raise outcome
