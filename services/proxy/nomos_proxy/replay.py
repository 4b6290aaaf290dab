"""The replay set: what may run once is marked used in the stream ``NONCE``, before anything is sent (ADR 0049).

The keys of all calls that wait go into one message, while the message before is on its way to the disk. A message
stands in the stream under a sequence, and **the first message in that order that holds a key has it**. So when the
server has acknowledged a batch, what stands before it decides, and every proxy decides alike:

1. the acknowledged sequence follows the one that was read last: nobody else marked anything, and nothing is read;
2. else the messages between are read, up to and including the own one: an answer without it is not complete.

After a reconnection everything that the stream holds is read again: whoever exchanged the store had to stop its server.
Marks outlive every token (``nonce_ttl_seconds``), in the stream and in memory.

What a batch can end in: **acknowledged** (durable; each key is this call's or was used before), or **unknown** (no
acknowledgement, or what stands before it cannot be read): nothing is sent, the marks may stand, and the permissions
are lost, never used twice.

Trusted: the stream, for its order and for durability (synced before the acknowledgement). An attacker who controls it
can forget marks.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final

import msgspec

from nomos.errors import Misconfigured, NomosError, Replayed, Unavailable
from nomos.ids import new_id
from nomos.ucan.profile import LIFETIME_SECONDS_MAX
from nomos_proxy.marks import KEYS_MAX, PREFIX, Marks, encode_keys, parse_keys
from nomos_runtime import observe
from nomos_runtime.bus import Bus

#: A token's longest life, and as much again for clocks that differ.
TTL_SECONDS_MIN: Final = 2 * LIFETIME_SECONDS_MAX
#: Keys that wait for the next message; beyond it a call is refused at once.
WAITING_MAX: Final = 20_000
#: Messages that one question reads.
READ_MESSAGES: Final = 256
READ_SUBJECT: Final = "$JS.API.DIRECT.GET.NONCE"
#: How a server ends an answer of several messages: no more, none, a question that it does not take.
_END_STATUS: Final = frozenset({"204", "404", "408"})


class _Ack(msgspec.Struct):
    seq: int = 0
    error: dict[str, object] | None = None


_decode_ack = msgspec.json.Decoder(_Ack).decode


class ReplaySet:
    """Marks keys used, once."""

    def __init__(self, bus: Bus, *, ttl_seconds: int, timeout_ms: int) -> None:
        """Prepares the set.

        Raises:
            Misconfigured: entries would not outlive every token.
        """
        if ttl_seconds < TTL_SECONDS_MIN:
            raise Misconfigured(f"nonce_ttl_seconds is at least {TTL_SECONDS_MIN}: a used permission would come back")
        self._bus = bus
        self._timeout_ms = timeout_ms
        self._headers = {"Nats-TTL": f"{ttl_seconds}s"}
        self._marks = Marks(ttl_seconds)
        # No two messages have one subject, over all processes: the stream refuses a second one.
        self._writer = new_id("nw")
        self._number = 0
        #: Keys of calls that wait or whose message is on its way.
        self._under_way: set[str] = set()
        self._waiting: list[tuple[str, asyncio.Future[None]]] = []
        self._writing: asyncio.Task[None] | None = None

    @classmethod
    async def open(cls, bus: Bus, *, ttl_seconds: int, timeout_ms: int) -> ReplaySet:
        """The set, with what the stream holds read already, so that the first call does not wait for it."""
        replay = cls(bus, ttl_seconds=ttl_seconds, timeout_ms=timeout_ms)
        bus.on_reconnect(replay._marks.read_again)
        try:
            # The mark of nothing: what stands before it is read.
            await replay._write([])
        except NomosError as e:
            # Calls are refused until it can be read; the first one tries again.
            observe.say(bus.service, observe.REPLAY_SET_UNREAD, code=e.code, detail=e.detail)
        return replay

    async def use(self, key: str) -> None:
        """Marks ``key`` used; returns when that is durable.

        Raises:
            Replayed: it was used before, or another call with it is under way in this process.
            Unavailable: it is not known whether it could be marked; nothing may be sent.
        """
        if key in self._marks or key in self._under_way:
            raise Replayed("this permission was used before")
        if len(self._waiting) >= WAITING_MAX:
            raise Unavailable(f"WAITING_MAX of the replay set is {WAITING_MAX}")
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._under_way.add(key)
        self._waiting.append((key, future))
        if self._writing is None:
            self._writing = asyncio.create_task(self._write_all(), name="replay-set")
        await future

    async def _write_all(self) -> None:
        # The keys of one turn of the loop ride together even when nothing is under way.
        await asyncio.sleep(0)
        try:
            while self._waiting:
                batch = self._waiting[:KEYS_MAX]
                del self._waiting[:KEYS_MAX]
                await self._settle(batch)
        finally:
            self._writing = None
            # Only where the loop above was left by an error or by the end of the process.
            for key, future in self._waiting:
                self._end(key, future, Unavailable("the replay set failed"))
            self._waiting.clear()

    async def _settle(self, batch: Sequence[tuple[str, asyncio.Future[None]]]) -> None:
        first: Sequence[bool] | None = None
        why, cause = "the replay set failed", None
        try:
            first = await self._write([key for key, _ in batch])
        except NomosError as e:
            why, cause = e.detail, e.cause
        finally:
            for place, (key, future) in enumerate(batch):
                # Each caller gets an error of its own: its traceback grows where it is raised.
                if first is None:
                    self._end(key, future, Unavailable(why, cause=cause))
                else:
                    self._end(key, future, None if first[place] else Replayed("this permission was used before"))

    def _end(self, key: str, future: asyncio.Future[None], error: NomosError | None) -> None:
        self._under_way.discard(key)
        if future.done():
            return
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)

    async def _write(self, keys: Sequence[str]) -> Sequence[bool]:
        """Writes one batch; says of each key whether it is ours."""
        self._number += 1
        subject = f"{PREFIX}{self._writer}-{self._number}"
        reply = await self._bus.request(subject, encode_keys(keys), self._timeout_ms, self._headers)
        try:
            ack = _decode_ack(reply)
        except msgspec.DecodeError as e:
            raise Unavailable("the replay set does not answer", cause=str(e)) from e
        if ack.error is not None:
            raise Unavailable("the replay set refuses", cause=str(ack.error))
        if not ack.seq:
            raise Unavailable("the replay set does not answer")
        # Durable from here on. A crash costs these permissions: whoever reads the stream finds them used.
        if ack.seq <= self._marks.read:
            self._marks.read_again()
        while self._marks.read + 1 < ack.seq:
            await self._read_towards(ack.seq)
        return self._marks.apply(ack.seq, keys, time.monotonic())

    async def _read_towards(self, sequence: int) -> None:
        """Applies messages before ``sequence``, which is known to stand in the stream."""
        at = self._marks.read + 1
        asked = msgspec.json.encode({"seq": at, "batch": READ_MESSAGES})
        found = await self._bus.request_many(READ_SUBJECT, asked, self._timeout_ms, _END_STATUS)
        if self._marks.read + 1 != at:
            # The connection was replaced meanwhile, and everything is to be read again.
            return
        read = False
        for message in found:
            headers = message.headers or {}
            place = headers.get("Nats-Sequence", "")
            if not place.isdigit() or int(place) <= self._marks.read:
                raise Unavailable("the replay set cannot be read", cause="an answer without its place, or out of order")
            if int(place) >= sequence:
                # Everything before the own message has been applied: what is missing between was over its time.
                self._marks.read = max(self._marks.read, sequence - 1)
                return
            keys = parse_keys(headers.get("Nats-Subject", ""), message.data)
            self._marks.apply(int(place), keys, time.monotonic())
            read = True
        if not read:
            # A replica that is behind, perhaps: an answer without the own message is not complete.
            raise Unavailable("the replay set cannot be read", cause=f"nothing from {at} to {sequence}")
