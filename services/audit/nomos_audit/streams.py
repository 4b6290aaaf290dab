"""The four operations on JetStream that the log needs: read in order, read one, append by compare-and-swap, look.

Decides nothing about content. :class:`Tail` reads a stream in order from a position through an ephemeral consumer
without acknowledgements: the position lives with the reader (in the chain, or beside a projection's rows), never in the
server. A consumer that is lost (server restart, missed heartbeat, a gap in its own numbering) is made again from the
reader's position, so a message is never skipped and never given twice.

Nothing is sent that nobody has asked for: a reader that takes what came in the last moments gets it in one go, and not
each message when it is stored, which woke server and reader for every one. So a reader decides by its own pauses how
often it is woken (ADR 0049).

Trusted: the stream's server for durability and for the compare-and-swap. Not trusted: that the stream still is what it
was. One that ends before the reader's position is :class:`~nomos.errors.RolledBack`.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from enum import Enum, auto
from typing import Any, Final, NamedTuple

import msgspec
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy, StreamState
from nats.js.errors import NotFoundError

from nomos.errors import Fenced, Misconfigured, RolledBack, Unavailable
from nomos.waiting import raise_if_cancelled

#: Messages and bytes that one sweep asks for. The bytes must exceed the bus's largest message.
PULL_MESSAGES: Final = 256
PULL_BYTES: Final = 4 * 1024 * 1024
PULL_SECONDS: Final = 10.0
HEARTBEAT_SECONDS: Final = 0.5
#: Silence after which a consumer counts as lost.
SILENCE_SECONDS: Final = 1.5
#: The server forgets a consumer that nobody pulls from after so long.
ABANDONED_SECONDS: Final = 30.0
REQUEST_SECONDS: Final = 2.0
EXPECTED_LAST: Final = "Nats-Expected-Last-Sequence"
#: The server's codes for "wrong last sequence".
_WRONG_LAST: Final = frozenset({10071, 10164})
_NANOSECONDS: Final = 1_000_000_000
#: How long :meth:`Tail.take` sleeps before it looks whether the connection was replaced.
_LOOK_SECONDS: Final = 0.1

#: What the client raises when the bus does not answer.
BUS_FAULTS = (nats.errors.Error, TimeoutError, OSError)


class Stored(NamedTuple):
    """A message of a stream: sequence, subject, bytes."""

    seq: int
    subject: str
    payload: bytes


class _Ack(msgspec.Struct):
    stream: str = ""
    seq: int = 0
    duplicate: bool = False
    error: dict[str, Any] | None = None


_decode_ack = msgspec.json.Decoder(_Ack).decode


async def stream_state(client: Client, stream: str) -> StreamState:
    """What the stream holds: first and last sequence, count, bytes.

    Raises:
        Misconfigured: there is no such stream.
        Unavailable: the bus does not answer.
    """
    try:
        return (await client.jetstream(timeout=REQUEST_SECONDS).stream_info(stream)).state
    except NotFoundError as error:
        raise Misconfigured(f"there is no stream {stream}", hint="run the provisioning first") from error
    except BUS_FAULTS as error:
        raise Unavailable(f"stream {stream} does not answer", cause=repr(error)) from error


async def message_at(client: Client, stream: str, seq: int) -> Stored | None:
    """The message with the sequence ``seq``, or None.

    Raises:
        Unavailable: the bus does not answer.
    """
    try:
        # From the stream's leader: a replica's direct answer may lag behind.
        got = await client.jetstream(timeout=REQUEST_SECONDS).get_msg(stream, seq=seq)
    except NotFoundError:
        return None
    except BUS_FAULTS as error:
        raise Unavailable(f"stream {stream} does not answer", cause=repr(error)) from error
    return Stored(seq, got.subject or "", got.data or b"")


async def last_message(client: Client, stream: str) -> Stored | None:
    """The newest message, or None in an empty stream.

    Raises:
        Misconfigured: there is no such stream.
        Unavailable: the bus does not answer.
        RolledBack: the newest message has been deleted.
    """
    state = await stream_state(client, stream)
    if not state.last_seq:
        return None
    found = await message_at(client, stream, state.last_seq)
    if found is None:
        raise RolledBack(f"the newest message of {stream}, {state.last_seq}, is gone")
    return found


async def append(
    client: Client,
    subject: str,
    payload: bytes,
    *,
    expected_last: int,
    headers: dict[str, str] | None = None,
    timeout_seconds: float = REQUEST_SECONDS,
) -> int:
    """Appends one message if the stream's last sequence still is ``expected_last``.

    Returns:
        The message's sequence. It is durable.

    Raises:
        Fenced: it is not; nothing was stored by this call. (An earlier call whose answer was lost may have been.)
        Unavailable: refused for another reason, or no answer: it may or may not be stored. Look before going on.
    """
    sent = {**(headers or {}), EXPECTED_LAST: str(expected_last)}
    try:
        reply = await client.request(subject, payload, timeout=timeout_seconds, headers=sent)
    except BUS_FAULTS as error:
        raise Unavailable(f"no answer to an append to {subject}", cause=repr(error)) from error
    try:
        ack = _decode_ack(reply.data)
    except msgspec.MsgspecError as error:
        raise Unavailable(f"unreadable answer to an append to {subject}", cause=repr(error)) from error
    if ack.error is not None:
        if ack.error.get("err_code") in _WRONG_LAST:
            raise Fenced(f"{subject} has moved past {expected_last}")
        raise Unavailable(f"an append to {subject} was refused", cause=str(ack.error.get("description")))
    if not ack.seq or ack.duplicate:
        raise Unavailable(f"an append to {subject} was answered without a new position")
    return ack.seq


class _Pull(Enum):
    """What the server has been asked for and has not ended."""

    NOTHING = auto()
    #: All that there is, and the word that this was all.
    SWEEP = auto()
    #: The next message, whenever it comes. Everything before it has been given.
    NEXT = auto()


class Tail:
    """Reads a stream in order from a position on, also what is appended later. One reader, one task."""

    def __init__(self, client: Client, stream: str, after: int) -> None:
        """Takes the connection, the stream, and the sequence of the last message that the reader has."""
        self._client = client
        self._stream = stream
        self._after = after
        self._buffer: deque[Stored] = deque()
        self._arrived = asyncio.Event()
        self._subscription: Subscription | None = None
        self._consumer = ""
        self._inbox = ""
        self._consumer_seq = 0
        self._pull = _Pull.NOTHING
        self._wanted = 0
        #: Whether the last sweep ended because there was no more.
        self._has_all = False
        self._heard_at = 0.0
        self._reconnects = 0
        self._lost = True

    async def take(self, wait_seconds: float) -> list[Stored]:
        """What the stream holds by now, in order; waits up to ``wait_seconds`` while there is nothing. May be empty.

        Raises:
            Misconfigured: there is no such stream.
            RolledBack: the stream ends before the reader's position.
            Unavailable: the bus does not answer; call again.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + wait_seconds
        raise_if_cancelled()
        # What was all a moment ago need not be it now; while the next message is waited for, there is none.
        self._has_all = self._pull is _Pull.NEXT
        while not self._buffer or self._pull is _Pull.SWEEP:
            self._arrived.clear()
            if self._is_lost():
                if self._buffer:
                    break
                await self._open()
            if self._pull is _Pull.NOTHING and not self._has_all:
                await self._ask(_Pull.SWEEP)
            left = until - loop.time()
            if left <= 0 and self._has_all:
                return []
            if self._pull is _Pull.NOTHING:
                await self._ask(_Pull.NEXT)
            await self._hear(_LOOK_SECONDS if self._pull is _Pull.SWEEP else min(left, _LOOK_SECONDS))
        taken = list(self._buffer)
        self._buffer.clear()
        if self._pull is _Pull.NOTHING and not self._has_all and not self._is_lost():
            # There was more than one sweep brings: the rest is on its way while the reader works.
            await self._ask(_Pull.SWEEP)
        return taken

    async def _hear(self, seconds: float) -> None:
        """Returns when something has arrived, or after so long."""
        try:
            async with asyncio.timeout(seconds):
                await self._arrived.wait()
        except TimeoutError:
            return

    def waiting(self) -> int:
        """How many messages have arrived and are not taken."""
        return len(self._buffer)

    async def close(self) -> None:
        """Ends the consumer; if the bus is away, the server forgets it after :data:`ABANDONED_SECONDS`."""
        subscription, self._subscription = self._subscription, None
        self._lost = True
        if subscription is None or self._client.is_closed:
            return
        try:
            await subscription.unsubscribe()
            # Nobody waits for the answer: the consumer ends by itself if this is lost.
            await self._client.publish(f"$JS.API.CONSUMER.DELETE.{self._stream}.{self._consumer}")
        except BUS_FAULTS:
            return

    def _is_lost(self) -> bool:
        silent = asyncio.get_running_loop().time() - self._heard_at > SILENCE_SECONDS
        replaced = self._client.stats["reconnects"] != self._reconnects
        return self._lost or replaced or (self._pull is not _Pull.NOTHING and silent)

    async def _open(self) -> None:
        await self.close()
        state = await stream_state(self._client, self._stream)
        if state.last_seq < self._after:
            raise RolledBack(
                f"stream {self._stream} ends at {state.last_seq}, but {self._after} was read from it before",
                hint=f"restore the store, or create {self._stream} again with first_seq {self._after + 1}",
            )
        try:
            self._reconnects = self._client.stats["reconnects"]
            self._inbox = self._client.new_inbox()
            self._consumer = "audit-" + self._inbox.rpartition(".")[2]
            self._subscription = await self._client.subscribe(self._inbox, cb=self._receive)
            await self._client.jetstream(timeout=REQUEST_SECONDS).add_consumer(
                self._stream,
                ConsumerConfig(
                    name=self._consumer,
                    deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
                    opt_start_seq=self._after + 1,
                    ack_policy=AckPolicy.NONE,
                    mem_storage=True,
                    num_replicas=1,
                    inactive_threshold=ABANDONED_SECONDS,
                ),
            )
        except BUS_FAULTS as error:
            raise Unavailable(f"stream {self._stream} does not answer", cause=repr(error)) from error
        self._consumer_seq = 0
        self._pull, self._has_all = _Pull.NOTHING, False
        self._lost = False

    async def _ask(self, what: _Pull) -> None:
        asked: dict[str, object] = {"batch": PULL_MESSAGES, "max_bytes": PULL_BYTES, "no_wait": True}
        if what is _Pull.NEXT:
            asked = {
                "batch": 1,
                "expires": int(PULL_SECONDS * _NANOSECONDS),
                "idle_heartbeat": int(HEARTBEAT_SECONDS * _NANOSECONDS),
            }
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._consumer}"
        try:
            await self._client.publish(subject, json.dumps(asked).encode(), reply=self._inbox)
        except BUS_FAULTS as error:
            self._lost = True
            raise Unavailable(f"stream {self._stream} does not answer", cause=repr(error)) from error
        self._pull = what
        self._wanted = 1 if what is _Pull.NEXT else PULL_MESSAGES
        self._heard_at = asyncio.get_running_loop().time()

    async def _receive(self, message: Msg) -> None:
        if self._lost:
            return
        self._heard_at = asyncio.get_running_loop().time()
        # A status comes on the inbox itself; a stored message on its own subject, whatever its headers claim.
        if message.subject == self._inbox:
            self._take_status((message.headers or {}).get("Status", ""), (message.headers or {}).get("Description", ""))
            return
        consumer_seq, seq = _positions(message.reply)
        if consumer_seq != self._consumer_seq + 1 or seq <= self._after:
            # A delivery was lost between server and client. What is buffered is whole; go on behind it.
            self._lost = True
            self._arrived.set()
            return
        self._consumer_seq = consumer_seq
        self._after = seq
        self._wanted -= 1
        if not self._wanted:
            # The server says no more of a question that it has answered in full; there may be more.
            self._pull, self._has_all = _Pull.NOTHING, self._pull is _Pull.NEXT
        self._buffer.append(Stored(seq, message.subject, message.data))
        self._arrived.set()

    def _take_status(self, status: str, description: str) -> None:
        if status == "100":
            return
        is_full = status == "409" and "MaxBytes" in description
        self._lost = self._lost or not (is_full or status in ("404", "408"))
        self._has_all = not is_full
        self._pull = _Pull.NOTHING
        self._arrived.set()


def _positions(reply: str) -> tuple[int, int]:
    """Consumer sequence and stream sequence from ``$JS.ACK...``, in both forms of ADR-15; (0, 0) if it is neither."""
    tokens = reply.split(".")
    at = 5 if len(tokens) == 9 else 7
    if len(tokens) < 9 or not (tokens[at].isdigit() and tokens[at + 1].isdigit()):
        return 0, 0
    return int(tokens[at + 1]), int(tokens[at])
