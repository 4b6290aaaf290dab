"""Facts that other services need, as a feed: the owner's published events, in order, pulled by revision.

A follower asks the owner ``svc.feed.<owner>`` for what came after its revision: at once after a notification
(``feed.<owner>``), at once after a reconnection, and every ``feed_poll_ms``. The answer proves freshness: a follower
whose last complete answer is older than ``feed_fresh_ms`` is stale, and a service with a stale follower stops allowing.

Trusted: the owner, for its own facts; the server, for saying who the owner is. A lost notification costs one poll
interval; a lost answer costs freshness, never correctness.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import msgspec
from nats.aio.msg import Msg

from nomos.errors import Malformed, NomosError, Unavailable
from nomos.messages import Decoder, Failure, encode, failure
from nomos.servicemessages import Fact, FeedReply, FeedRequest
from nomos_runtime import observe
from nomos_runtime.bus import Bus
from nomos_runtime.eventstore import EventStore

FACTS_MAX: Final = 500
FACT_BYTES_MAX: Final = 600_000
REFRESH_SECONDS: Final = 1.0
#: Until a pull that failed is tried again.
RETRY_SECONDS: Final = 0.1

_request = Decoder.of(FeedRequest, "feed request")
_reply = Decoder.of(FeedReply | Failure, "feed reply")


async def serve_feed(bus: Bus, store: EventStore, types_of_reader: Mapping[str, tuple[str, ...]]) -> None:
    """Serves this service's facts.

    Args:
        bus: the owner's connection.
        store: where its events are.
        types_of_reader: the event types that each reader may have, by the token that the server stamps (the reader's
            account key, or ``self`` for the owner's own replicas).
    """

    async def answer(message: Msg) -> None:
        try:
            reply: msgspec.Struct = await _facts(message, store, types_of_reader)
        except NomosError as e:
            reply = failure(e)
        await bus.answer(message, encode(reply))

    await bus.serve(f"svc.feed.{bus.service}.*", bus.service, answer)


async def _facts(message: Msg, store: EventStore, types_of_reader: Mapping[str, tuple[str, ...]]) -> FeedReply:
    types = types_of_reader.get(message.subject.rsplit(".", 1)[1], ())
    request = _request.decode(message.data)
    if not isinstance(request, FeedRequest) or request.since < 0:
        raise Malformed("not a feed request message")
    events, head = await store.since(request.since, types, FACTS_MAX)
    facts: list[Fact] = []
    size = 0
    for stored in events:
        e = stored.envelope
        size += len(msgspec.msgpack.encode(e.event))
        if facts and size > FACT_BYTES_MAX:
            break
        facts.append(Fact(rev=stored.n, type=e.type, tenant=e.tenant, event=e.event))
    # Complete: the reader is at the owner's head. Otherwise it asks again from behind the last fact.
    complete = len(facts) == len(events) and len(events) < FACTS_MAX
    return FeedReply(rev=head if complete else facts[-1].rev + 1, facts=facts, complete=complete)


class Follower:
    """A replica of another service's facts. ``apply`` folds one fact and must be quick and total."""

    def __init__(
        self,
        bus: Bus,
        owner: str,
        apply: Callable[[Fact], None],
        *,
        poll_ms: int,
        fresh_ms: int,
        timeout_ms: int,
    ) -> None:
        self.owner = owner
        self.rev = 0
        #: Told the revision each time that this replica has caught up with the owner.
        self.on_applied: Callable[[int], None] = lambda _: None
        self._bus = bus
        self._apply = apply
        self._poll_seconds = poll_ms / 1000
        self._fresh_seconds = fresh_ms / 1000
        self._timeout_ms = min(timeout_ms, fresh_ms)
        self._subject = f"svc.feed.{owner}" + (".self" if owner == bus.service else "")
        self._fresh_at = float("-inf")
        self._look = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._caught_up = asyncio.Event()
        self._waiting: list[tuple[float, asyncio.Future[None]]] = []
        #: Whether the diagnostics say already that this replica is stale.
        self._is_said = False

    @property
    def is_fresh(self) -> bool:
        """Whether the owner confirmed within the bound that nothing newer exists."""
        return time.monotonic() - self._fresh_at <= self._fresh_seconds

    async def start(self) -> None:
        """Starts to follow; :meth:`wait` tells when the replica has caught up."""

        async def notified(_: Msg) -> None:
            self._look.set()

        await self._bus.listen(f"feed.{self.owner}", notified)
        self._bus.on_reconnect(self.look)
        self._task = asyncio.create_task(self._follow(), name=f"follow-{self.owner}")

    def look(self) -> None:
        """Asks the owner now instead of at the next interval."""
        self._look.set()

    async def refresh(self) -> None:
        """Asks the owner now and returns when it has answered, for a caller that names something not seen here yet.

        Returns after :data:`REFRESH_SECONDS` at the latest, with what is known then.
        """
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((time.monotonic(), future))
        self._look.set()
        await asyncio.wait([future], timeout=REFRESH_SECONDS)
        # While the owner is away nobody wakes them: they must not pile up.
        self._waiting = [one for one in self._waiting if one[1] is not future]

    async def wait(self, seconds: float) -> None:
        """Returns when the replica has caught up once.

        Raises:
            Unavailable: it has not within ``seconds``.
        """
        try:
            async with asyncio.timeout(seconds):
                await self._caught_up.wait()
        except TimeoutError as e:
            raise Unavailable(f"no facts from {self.owner} in {seconds} s") from e

    async def _follow(self) -> None:
        while True:
            self._look.clear()
            asked_at = time.monotonic()
            # An owner that reconnects a moment after its reader must not cost a whole interval.
            seconds = min(RETRY_SECONDS, self._poll_seconds)
            try:
                while not await self._pull():
                    pass
            except NomosError as e:
                if self._caught_up.is_set() and not self.is_fresh and not self._is_said:
                    self._is_said = True
                    observe.say(self._bus.service, observe.FEED_STALE, owner=self.owner, detail=e.detail)
            except Exception as e:  # noqa: BLE001 - a fact that cannot be folded: said, and stale until it can
                observe.say(
                    self._bus.service, observe.FEED_FAULT, owner=self.owner, rev=self.rev, error=type(e).__name__
                )
            else:
                # Fresh as of the moment of asking, not of the answer.
                self._fresh_at = asked_at
                seconds = self._poll_seconds
                self._is_said = False
                self.on_applied(self.rev)
                self._wake(asked_at)
                if not self._caught_up.is_set():
                    observe.say(self._bus.service, observe.FEED_CAUGHT_UP, owner=self.owner, rev=self.rev)
                    self._caught_up.set()
            try:
                async with asyncio.timeout(seconds):
                    await self._look.wait()
            except TimeoutError:
                continue

    def _wake(self, asked_at: float) -> None:
        still = []
        for since, future in self._waiting:
            if since > asked_at:
                still.append((since, future))
            elif not future.done():
                future.set_result(None)
        self._waiting = still

    async def _pull(self) -> bool:
        request = encode(FeedRequest(v=1, since=self.rev))
        reply = _reply.decode(await self._bus.request(self._subject, request, self._timeout_ms))
        if isinstance(reply, Failure):
            raise Unavailable(f"{self.owner} refuses its feed: {reply.code}")
        if not isinstance(reply, FeedReply):
            raise Malformed("not a feed reply message")
        for fact in reply.facts:
            self._apply(fact)
            self.rev = fact.rev + 1
        self.rev = max(self.rev, reply.rev)
        return reply.complete

    async def stop(self) -> None:
        """Stops following."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])


async def start_all(followers: list[Follower], seconds: float) -> None:
    """Starts ``followers`` and returns when each has caught up once."""
    for follower in followers:
        await follower.start()
    waits: list[Awaitable[None]] = [f.wait(seconds) for f in followers]
    await asyncio.gather(*waits)
