"""Waiting for a tenant's next records: what an auditor who follows the stream ``AUDIT`` is woken by.

Decides only when to answer. History comes from the table (row-level security is the second wall); what arrives while
somebody waits comes from the tenant's own subject of ``AUDIT``, so it is not held up by the table. The tenant is the
one that the server stamped on the caller; a subscription is made for that subject alone, and only while it is waited
for, so that nobody pays for records that nobody follows.

Not trusted by the auditor: the records carry the chain, and ``nomos audit tail`` checks it as it reads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
import nats.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from nomos.errors import MalformedRecord, Unavailable
from nomos.messages import AuditRecords
from nomos_audit.tenants import parse_message
from nomos_runtime import observe
from nomos_runtime.bus import Bus

#: How long one request may wait for the next record.
WAIT_MS_MAX: Final = 20_000
#: Left of the caller's deadline when the answer goes out.
ANSWER_MS: Final = 1_000
#: Tenants that are followed at once by this process, and messages that wait for one follower.
FOLLOWED_MAX: Final = 1_024
PENDING_MAX: Final = 64

MESSAGE_UNREADABLE: Final = "audit_arrival_unreadable"


class _Tseq(msgspec.Struct):
    tseq: int


_tseq = msgspec.json.Decoder(_Tseq)


class Arrivals:
    """The subscriptions of those who wait."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._followed = 0

    async def after(
        self,
        tenant: str,
        from_tseq: int,
        wait_seconds: float,
        read: Callable[[], Awaitable[AuditRecords]],
    ) -> AuditRecords:
        """The tenant's records from ``from_tseq`` on, waited for if there is none.

        Args:
            tenant: as the bus stamped it.
            from_tseq: counter of the first record wanted.
            wait_seconds: at most.
            read: reads them from the table.

        Raises:
            Unavailable: the bus or the table does not answer, or :data:`FOLLOWED_MAX` wait already.
        """
        if self._followed >= FOLLOWED_MAX:
            raise Unavailable(f"FOLLOWED_MAX is {FOLLOWED_MAX}", hint="ask again later, or without waiting")
        self._followed += 1
        loop = asyncio.get_running_loop()
        until = loop.time() + wait_seconds
        arrived: asyncio.Queue[bytes] = asyncio.Queue(PENDING_MAX)
        try:
            subscription = await self._subscribe(tenant, arrived)
            try:
                # Whatever was published before the subscription stood is in the table, or will be when it is read last.
                found = await read()
                while not found.records and (left := until - loop.time()) > 0:
                    try:
                        async with asyncio.timeout(left):
                            payload = await arrived.get()
                    except TimeoutError:
                        return await read()
                    found = self._from(payload, tenant, from_tseq) or await read()
                return found
            finally:
                await subscription.unsubscribe()
        except (nats.errors.Error, OSError) as error:
            raise Unavailable("the bus does not answer", cause=repr(error)) from error
        finally:
            self._followed -= 1

    async def _subscribe(self, tenant: str, arrived: asyncio.Queue[bytes]) -> Subscription:
        async def keep(message: Msg) -> None:
            if not arrived.full():
                # A follower that is behind reads the rest from the table.
                arrived.put_nowait(message.data)

        subscription = await self._bus.client.subscribe(f"audit.{tenant}", cb=keep)
        await self._bus.flush()
        return subscription

    def _from(self, payload: bytes, tenant: str, from_tseq: int) -> AuditRecords | None:
        """The records of a message from ``from_tseq`` on; None where it does not hold that record."""
        try:
            message = parse_message(payload)
            counters = [_tseq.decode(record).tseq for record in message.records]
        except (MalformedRecord, msgspec.MsgspecError) as error:
            # The table has what the chain has; a message that nobody can read is told and passed over.
            observe.say("audit", MESSAGE_UNREADABLE, tenant=tenant, cause=repr(error)[:200])
            return None
        if from_tseq not in counters:
            return None
        at = counters.index(from_tseq)
        return AuditRecords(records=message.records[at:], prev=message.prev[at:], head_tseq=counters[-1] + 1)
