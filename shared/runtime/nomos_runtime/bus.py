"""The bus client of a service: requests with deadlines, subscriptions with bounded work, errors that are seen.

Each message that a service answers starts a task of its own, a bounded number at once; the client below takes a
message from the socket to that task without a queue between (:mod:`nomos.natsclient`).
A permission violation only shows in the error callback, so it is counted and fails readiness.

Trusted: the server, for stamping the caller's account into the subject. Not trusted: any payload.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Awaitable, Callable, Container
from typing import Final

import nats.errors
from nats.aio.msg import Msg
from nats.js.errors import ServiceUnavailableError

from nomos.errors import Misconfigured, Unavailable
from nomos.natsclient import LeanClient
from nomos.waiting import raise_if_cancelled
from nomos_runtime import observe

PING_SECONDS: Final = 5
PINGS_OUTSTANDING_MAX: Final = 2
RECONNECT_WAIT_SECONDS: Final = 0.1
CONNECT_SECONDS: Final = 10
DRAIN_SECONDS: Final = 5
#: Messages of one subject that wait for a place, and bytes of them; what comes beyond either is dropped and said.
WAITING_MAX: Final = 65_536
WAITING_BYTES_MAX: Final = 128 * 1024 * 1024

#: What the server says when an answer is sent after the connection that brought its request was lost.
_ANSWER_REFUSED: Final = re.compile(r'permissions violation for publish to "_(?:r_|inbox)\.', re.IGNORECASE)

MessageHandler = Callable[[Msg], Awaitable[None]]


class Bus:
    """One connection to the bus under one identity. Build with :meth:`connect`."""

    def __init__(self, service: str, client: LeanClient, in_flight_max: int) -> None:
        self.service = service
        self.client = client
        self.violations = 0
        self._in_flight_max = in_flight_max
        self._tasks: set[asyncio.Task[None]] = set()
        self._on_reconnect: list[Callable[[], None]] = []

    @classmethod
    async def connect(cls, *, service: str, url: str, creds: str, in_flight_max: int = 2_048) -> Bus:
        """Connects, and keeps reconnecting until closed.

        Args:
            service: diagnostic name and inbox prefix (``_INBOX.<service>``), as the topology's permissions say.
            url: server URLs, comma-separated.
            creds: path of a NATS credentials file.
            in_flight_max: messages of one subscription worked on at once.

        Raises:
            Misconfigured: the credentials file cannot be read.
            Unavailable: no server answered within :data:`CONNECT_SECONDS`.
        """
        client = LeanClient()
        bus = cls(service, client, in_flight_max)
        try:
            await asyncio.wait_for(
                client.connect(
                    servers=url.split(","),
                    user_credentials=creds,
                    inbox_prefix=f"_INBOX.{service}".encode(),
                    name=service,
                    max_reconnect_attempts=-1,
                    reconnect_time_wait=RECONNECT_WAIT_SECONDS,  # type: ignore[arg-type]  # slept as it is; a float works
                    ping_interval=PING_SECONDS,
                    max_outstanding_pings=PINGS_OUTSTANDING_MAX,
                    drain_timeout=DRAIN_SECONDS,
                    error_cb=bus._error,
                    reconnected_cb=bus._reconnected,
                    disconnected_cb=bus._disconnected,
                ),
                CONNECT_SECONDS,
            )
        except FileNotFoundError as e:
            raise Misconfigured(f"no credentials file for {service}", cause=str(e)) from e
        except (TimeoutError, OSError, nats.errors.Error) as e:
            await client.close()
            raise Unavailable("the bus does not answer", cause=repr(e)) from e
        observe.say(service, observe.CONNECTED)
        return bus

    @property
    def connected(self) -> bool:
        """Whether the connection stands right now."""
        return bool(self.client.is_connected)

    def on_reconnect(self, callback: Callable[[], None]) -> None:
        """Calls ``callback`` after each reconnection, before anything else is done with it."""
        self._on_reconnect.append(callback)

    async def request(
        self, subject: str, payload: bytes, timeout_ms: int, headers: dict[str, str] | None = None
    ) -> bytes:
        """One request, one reply.

        Raises:
            Unavailable: no responder, no answer in time, or no connection.
        """
        try:
            reply = await self.client.request(subject, payload, timeout=timeout_ms / 1000, headers=headers)
        except nats.errors.NoRespondersError as e:
            raise Unavailable(f"nobody answers {subject}") from e
        except (TimeoutError, nats.errors.Error, ServiceUnavailableError, ConnectionError) as e:
            raise Unavailable(f"no answer from {subject} in {timeout_ms} ms", cause=repr(e)) from e
        raise_if_cancelled()
        return bytes(reply.data)

    async def request_many(
        self, subject: str, payload: bytes, timeout_ms: int, end_status: Container[str]
    ) -> list[Msg]:
        """One request, an answer of several messages, up to the empty one whose status is one of ``end_status``.

        Raises:
            Unavailable: no responder, no end in time, or no connection.
        """
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        found: list[Msg] = []

        def take(message: Msg) -> None:
            status = (message.headers or {}).get("Status", "")
            if not status:
                found.append(message)
            elif not ended.done():
                if status in end_status:
                    ended.set_result(None)
                else:
                    ended.set_exception(Unavailable(f"{subject} is answered with status {status}"))

        inbox = self.client.new_inbox()
        try:
            subscription = await self.client.receive(inbox, take)
            try:
                await self.client.publish(subject, payload, inbox)
                async with asyncio.timeout(timeout_ms / 1000):
                    await ended
            finally:
                await subscription.unsubscribe()
        except (TimeoutError, nats.errors.Error, ConnectionError) as e:
            raise Unavailable(f"no whole answer from {subject} in {timeout_ms} ms", cause=repr(e)) from e
        return found

    async def answer(self, message: Msg, payload: bytes) -> None:
        """Answers a request: with the payload alone, where nats-py's ``respond`` sends the request's headers back.

        Raises:
            nats.errors.Error: it asked for no answer, or the connection is gone.
        """
        if not message.reply:
            raise nats.errors.Error("the message asks for no answer")
        await self.client.publish(message.reply, payload)

    async def serve(self, subject: str, queue: str, handler: MessageHandler) -> None:
        """Calls ``handler`` for each message, each in a task of its own, at most ``in_flight_max`` of it at once.

        Beyond that messages wait for a place, :data:`WAITING_MAX` of them; the callers' deadlines bound how long that
        is of use. Each subscription has places of its own, so a flood on one subject (a tenant's) never keeps another
        (a feed, an operator's verb) waiting.
        """
        places = _Places(self.service, subject, handler, self._in_flight_max, self._tasks)
        await self.client.receive(subject, places.take, queue=queue)

    async def listen(self, subject: str, callback: Callable[[Msg], Awaitable[None]]) -> None:
        """A plain subscription (notifications); ``callback`` must be quick."""
        await self.client.subscribe(subject, cb=callback)

    async def flush(self) -> None:
        """Returns when the server has processed every subscription made so far."""
        # nats-py 2.16 writes PING before what is queued, so the first flush proves nothing; the second does.
        await self.client.flush()
        await self.client.flush()

    async def close(self) -> None:
        """Stops receiving, lets running work end within :data:`DRAIN_SECONDS`, and disconnects."""
        if self.client.is_closed:
            return
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=DRAIN_SECONDS)
        if self.client.is_connected:
            try:
                await asyncio.wait_for(self.client.drain(), DRAIN_SECONDS)
            except (TimeoutError, OSError, nats.errors.Error):
                await self._abandon()
        else:
            await self._abandon()

    async def _abandon(self) -> None:
        try:
            # A server that stands still takes no last byte.
            await asyncio.wait_for(self.client.close(), DRAIN_SECONDS)
        except (TimeoutError, OSError, nats.errors.Error) as e:
            # The connection was lost already; what is left of it ends with the process.
            observe.say(self.service, observe.BUS_ERROR, error=repr(e)[:200])

    async def _error(self, error: Exception) -> None:
        if _ANSWER_REFUSED.search(str(error)):
            # The right to answer belongs to the connection that the request came on. Whoever asked has been told by
            # the disconnection, or by its own deadline; no subject of ours is missing a right.
            observe.say(self.service, observe.ANSWER_LOST)
        elif "permissions violation" in str(error).lower():
            self.violations += 1
            observe.say(self.service, observe.PERMISSION_VIOLATION, error=str(error)[:200])
        elif isinstance(error, nats.errors.SlowConsumerError):
            observe.say(self.service, observe.SLOW_CONSUMER, subject=str(error.subject))
        else:
            observe.say(self.service, observe.BUS_ERROR, error=repr(error)[:200])

    async def _reconnected(self) -> None:
        observe.say(self.service, observe.CONNECTED, again=True)
        for callback in self._on_reconnect:
            callback()

    async def _disconnected(self) -> None:
        observe.say(self.service, observe.DISCONNECTED)


class _Places:
    """The places in which messages of one subject are worked on, and those that wait for one."""

    def __init__(
        self, service: str, subject: str, handler: MessageHandler, most: int, tasks: set[asyncio.Task[None]]
    ) -> None:
        self._service = service
        self._subject = subject
        self._handler = handler
        self._most = most
        self._tasks = tasks
        self._running = 0
        self._waiting: deque[Msg] = deque()
        self._waiting_bytes = 0

    def take(self, message: Msg) -> None:
        """Begins with the message, or keeps it until there is a place."""
        if self._running < self._most:
            self._begin(message)
        elif len(self._waiting) >= WAITING_MAX or self._waiting_bytes + len(message.data) > WAITING_BYTES_MAX:
            observe.say(self._service, observe.SLOW_CONSUMER, subject=self._subject)
        else:
            self._waiting.append(message)
            self._waiting_bytes += len(message.data)

    def _begin(self, message: Msg) -> None:
        self._running += 1
        task = asyncio.ensure_future(self._handler(message))
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._running -= 1
        if not task.cancelled() and (error := task.exception()) is not None:
            # The caller gets no answer. Handlers answer every error, so this is a fault of ours: say it.
            observe.say(self._service, observe.REQUEST_FAULT, error=repr(error)[:200], subject=self._subject)
        if self._waiting:
            following = self._waiting.popleft()
            self._waiting_bytes -= len(following.data)
            self._begin(following)
