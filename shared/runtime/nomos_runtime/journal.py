"""The write-ahead journal: no answer leaves a process before its event is durable in the stream ``INTAKE``.

Group commit: while one append is in flight, the events of all concurrent requests collect into the next message. One
append is in flight at a time, so the counters of a producer are contiguous in the order of the stream and an
auditor sees every omission.

What an append can end in:

* **acknowledged**: durable (fsynced on one node, or acknowledged by a quorum); the callers go on.
* **refused** (an error with a code, for instance a full stream): nothing was stored; the callers get
  :class:`JournalUnavailable`; the counters are used again.
* **unknown** (no acknowledgement in time): the callers get :class:`JournalUnavailable`, which means deny. The journal
  is *stalled*: it sends the same message with the same ``Nats-Msg-Id`` and the same counters until it knows, and
  refuses every new event meanwhile. If the first copy was stored, the copies are duplicates (dropped by the stream
  inside its window, by the writer's producer counters after it). If the process dies here, its successor has another
  producer id; and when a copy is refused the journal goes on under another one, since an earlier copy may be stored.

Trusted: the stream, for durability. An attacker who controls it can stop every answer, and cannot forge an emitter
(the server stamps the account).
"""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec

from nomos.errors import JournalUnavailable, LimitExceeded, Unavailable
from nomos.events import Envelope, encode_batch, encode_envelope
from nomos.ids import new_id
from nomos.log.record import canonical_bytes
from nomos_runtime import observe
from nomos_runtime.bus import Bus

SUBJECT: Final = "intake.batch"
#: Bytes of events in one append; the server's ``max_payload`` is 1 MiB.
APPEND_BYTES_MAX: Final = 700_000
#: Events in one append.
APPEND_EVENTS_MAX: Final = 1_024
#: Bytes of one event; the log refuses records over 60 KiB, and the record adds its own members.
EVENT_BYTES_MAX: Final = 56_000
#: One byte of msgpack becomes at most so many of JSON (a control character is written as six).
_JSON_GROWTH: Final = 6
#: Callers that wait for the next append, and bytes of their events; beyond either callers are refused at once.
WAITING_MAX: Final = 20_000
WAITING_BYTES_MAX: Final = 64 * 1024 * 1024
STALLED_RETRY_SECONDS: Final = 0.25


class _Ack(msgspec.Struct):
    stream: str = ""
    seq: int = 0
    duplicate: bool = False
    error: dict[str, object] | None = None


_decode_ack = msgspec.json.Decoder(_Ack).decode


def encode_event(envelope: Envelope) -> bytes:
    """The envelope as it stands in the journal, once it is certain that the log can hold it as a record.

    Raises:
        LimitExceeded: it is over :data:`EVENT_BYTES_MAX`; what cannot be recorded must not happen.
        MalformedRecord: a value that no record may hold.
    """
    encoded = encode_envelope(envelope)
    if len(encoded) * _JSON_GROWTH > EVENT_BYTES_MAX:
        canonical_bytes({"event": envelope.event}, EVENT_BYTES_MAX)
    return encoded


class Journal:
    """The journal of one process. :meth:`append` returns when the events are durable."""

    def __init__(self, bus: Bus, *, timeout_ms: int, producer: str | None = None) -> None:
        self._bus = bus
        self.producer = producer or self._new_producer()
        self._timeout_ms = timeout_ms
        self._next = 0
        self._waiting_bytes = 0
        self._waiting: list[tuple[list[bytes], int, asyncio.Future[None]]] = []
        self._flusher: asyncio.Task[None] | None = None
        self.stalled = False

    def _new_producer(self) -> str:
        return f"{self._bus.service}-{new_id('pr')[3:]}"

    async def append(self, events: list[Envelope]) -> None:
        """Makes ``events`` durable, together and in order.

        Raises:
            JournalUnavailable: they are not known to be durable; the caller must answer deny.
            LimitExceeded: an event that the log could not hold.
        """
        await self.append_encoded([encode_event(e) for e in events])

    async def append_encoded(self, events: list[bytes]) -> None:
        """As :meth:`append`, for envelopes that are encoded already (:func:`encode_event`)."""
        if self.stalled:
            raise JournalUnavailable("the journal is stalled")
        if len(self._waiting) >= WAITING_MAX:
            raise JournalUnavailable(f"WAITING_MAX is {WAITING_MAX}")
        size = sum(len(e) for e in events)
        if self._waiting_bytes + size > WAITING_BYTES_MAX:
            raise JournalUnavailable(f"WAITING_BYTES_MAX is {WAITING_BYTES_MAX}")
        for event in events:
            if len(event) > EVENT_BYTES_MAX:
                raise LimitExceeded("EVENT_BYTES_MAX", EVENT_BYTES_MAX, len(event))
        if size > APPEND_BYTES_MAX:
            raise LimitExceeded("APPEND_BYTES_MAX", APPEND_BYTES_MAX, size)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((events, size, future))
        self._waiting_bytes += size
        if self._flusher is None:
            self._flusher = asyncio.create_task(self._flush(), name="journal")
        await future

    def _take(self) -> tuple[list[bytes], list[asyncio.Future[None]]]:
        events: list[bytes] = []
        futures: list[asyncio.Future[None]] = []
        size = taken = 0
        for group, group_size, future in self._waiting:
            if events and (size + group_size > APPEND_BYTES_MAX or len(events) + len(group) > APPEND_EVENTS_MAX):
                break
            events += group
            size += group_size
            taken += 1
            futures.append(future)
        del self._waiting[:taken]
        self._waiting_bytes -= size
        return events, futures

    async def _flush(self) -> None:
        # The events of one loop tick ride together even when the journal is idle.
        await asyncio.sleep(0)
        try:
            while self._waiting:
                events, futures = self._take()
                await self._commit(events, futures)
        finally:
            self._flusher = None
            if self._waiting:
                # Only where the loop above was left by an error.
                waiting, self._waiting, self._waiting_bytes = self._waiting, [], 0
                self._refuse([f for _, _, f in waiting], _AppendError("the journal failed", known=True))

    async def _commit(self, events: list[bytes], futures: list[asyncio.Future[None]]) -> None:
        payload = encode_batch(self.producer, self._next, events)
        message_id = f"{self.producer}:{self._next}"
        try:
            error = await self._send(payload, message_id, is_first_copy=True)
        except BaseException:
            # Nobody foresaw this, so it is not known what was stored: these counters are never used again, and whoever
            # waits must not wait for ever.
            self._start_anew()
            self._refuse(futures, _AppendError("the journal failed", known=False))
            raise
        if error is None:
            # Durable now. A crash here loses the answers, not the events.
            self._next += len(events)
            for future in futures:
                if not future.done():
                    future.set_result(None)
            return
        self._refuse(futures, error)
        if not error.known:
            await self._resolve(payload, message_id, len(events))

    async def _resolve(self, payload: bytes, message_id: str, count: int) -> None:
        """Sends the same message until its fate is known. Nothing else is appended meanwhile."""
        self.stalled = True
        observe.say(self._bus.service, observe.JOURNAL_STALLED, message=message_id)
        waiting, self._waiting, self._waiting_bytes = self._waiting, [], 0
        self._refuse([f for _, _, f in waiting], _AppendError("the journal is stalled", known=True))
        while True:
            await asyncio.sleep(STALLED_RETRY_SECONDS)
            error = await self._send(payload, message_id)
            if error is None:
                self._next += count
                break
            if error.known:
                # Refused with a code. An earlier copy may still be stored (outside the duplicate window, or refused by
                # a limit that is checked first), so these counters are never used again.
                self._start_anew()
                break
        self.stalled = False
        observe.say(self._bus.service, observe.JOURNAL_RESUMED, message=message_id)

    def _start_anew(self) -> None:
        self.producer, self._next = self._new_producer(), 0

    async def _send(self, payload: bytes, message_id: str, *, is_first_copy: bool = False) -> _AppendError | None:
        try:
            reply = await self._bus.request(SUBJECT, payload, self._timeout_ms, headers={"Nats-Msg-Id": message_id})
        except Unavailable as e:
            return _AppendError(e.detail, known=False)
        try:
            ack = _decode_ack(reply)
        except msgspec.DecodeError:
            return _AppendError("unreadable acknowledgement", known=False)
        if ack.error is not None:
            return _AppendError(str(ack.error.get("description", "refused")), known=True)
        if not ack.stream or not ack.seq:
            return _AppendError("acknowledgement without a position", known=False)
        if ack.duplicate and is_first_copy:
            # Another message has this id: these events are not in the stream, and these counters are taken.
            self._start_anew()
            return _AppendError("acknowledged as a duplicate of another message", known=True)
        return None

    def _refuse(self, futures: list[asyncio.Future[None]], error: _AppendError) -> None:
        observe.say(self._bus.service, observe.JOURNAL_REFUSED, detail=error.detail, known=error.known)
        for future in futures:
            if not future.done():
                future.set_exception(JournalUnavailable("the journal did not confirm the event", cause=error.detail))

    async def close(self) -> None:
        """Waits for what is under way; a stalled journal is given up (its successor has another producer id)."""
        flusher = self._flusher
        if flusher is None:
            return
        if not self.stalled:
            await asyncio.wait([flusher], timeout=self._timeout_ms / 1000)
        # Done, or stalled: then it would go on sending for as long as this process lives.
        flusher.cancel()
        await asyncio.wait([flusher], timeout=self._timeout_ms / 1000)


class _AppendError(msgspec.Struct, frozen=True):
    detail: str
    known: bool
