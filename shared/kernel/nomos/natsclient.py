"""nats-py with a shorter way for each message: connecting, authenticating, reconnecting and draining stay its own.

nats-py reads a stream in a task, puts each message into a queue of its subscription, and writes from a third task: six
turns of the event loop for a request that is answered. Here the connection's protocol cuts messages as bytes arrive
(:mod:`nomos.natslink`, :mod:`nomos.natsparser`), gives an answer to whoever waits for it, and sends what was written in
one turn of the loop with one system call. Once connected the link takes the place of nats-py's own reader; when the
connection is lost it is gone, and what is published meanwhile waits in nats-py's buffer, as before. A WebSocket keeps
nats-py's way.

It reaches into nats-py, whose version the lock files fix; ``tests/integration/test_natsclient.py`` holds both to the
same behaviour on the real server.

Trusted: the server. Not trusted: any payload, header or subject; a message that cannot be read is said and dropped,
and costs no other message anything.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Awaitable, Callable
from typing import Any, Final

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.aio.transport import TcpTransport

from nomos.errors import Malformed
from nomos.natslink import Link
from nomos.natsparser import parse_headers

#: Random bytes in the name of a request's inbox: who learned one inbox cannot answer for another.
TOKEN_BYTES: Final = 9
#: Tokens that are drawn from the system at once: each time costs a system call.
TOKENS_DRAWN: Final = 128
_NO_RESPONDERS: Final = "503"
_SPACE: Final = re.compile(r"[ \t\r\n]")
#: Headers that stand on the wire as they are. All others are nats-py's to strip or to refuse.
_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9-]+")
_HEADER_VALUE: Final = re.compile(r"[!-~]+(?: [!-~]+)*")

#: Takes a message at once, on the loop that reads; it must be quick and must not raise.
Receiver = Callable[[Msg], None]


class LeanClient(Client):
    """A nats-py client whose messages take the shorter way. Use it as one; :meth:`receive` is what it adds."""

    def __init__(self) -> None:
        """Prepares a client; :meth:`connect` as in nats-py."""
        super().__init__()
        self._link: Link | None = None
        #: Whether there was a link and it is gone: what is published then waits for the next one.
        self._is_cut = False
        self._receivers: dict[int, Receiver] = {}
        self._asked: dict[str, asyncio.Future[Msg]] = {}
        self._inbox_of_answers = ""
        #: Subscribes to the answers; not tied to the request that came first, which may end.
        self._listening: asyncio.Task[None] | None = None
        self._beside: set[asyncio.Future[None]] = set()
        self._tokens: list[str] = []

    async def receive(self, subject: str, receiver: Receiver, *, queue: str = "") -> Subscription:
        """Subscribes ``receiver``, which is called for each message as it arrives, without a queue between.

        The receiver bounds what it keeps: nothing here does.
        """
        subscription = await self.subscribe(subject, queue=queue)
        self._receivers[subscription._id] = receiver
        early = subscription._pending_queue
        while not early.empty():
            receiver(early.get_nowait())
            early.task_done()
        return subscription

    async def publish(
        self, subject: str, payload: bytes = b"", reply: str = "", headers: dict[str, str] | None = None
    ) -> None:
        """As nats-py's."""
        link = self._link
        block = _header_block(headers) if headers else b""
        size = len(payload)
        if link is None or block is None or self._status != Client.CONNECTED or size + len(block) > self._max_payload:
            # The rarer ways, and all errors, are nats-py's.
            await super().publish(subject, payload, reply, headers)
            return
        _check_subject(subject)
        if reply:
            _check_subject(reply)
        self.stats["out_msgs"] += 1
        self.stats["out_bytes"] += size
        to = (subject.encode(), reply.encode())
        if block:
            link.write(b"HPUB %s %s %d %d\r\n%s%s\r\n" % (*to, len(block), len(block) + size, block, payload))
        else:
            link.write(b"PUB %s %s %d\r\n%s\r\n" % (*to, size, payload))
        if link.is_full:
            await self._wait_for_room(link)

    async def request(
        self,
        subject: str,
        payload: bytes = b"",
        timeout: float = 0.5,  # noqa: ASYNC109 - nats-py's name
        old_style: bool = False,
        headers: dict[str, Any] | None = None,
    ) -> Msg:
        """As nats-py's; cancelling it raises CancelledError also where the answer arrived in the same tick."""
        if old_style:
            return await super().request(subject, payload, timeout, old_style, headers)
        if self.is_draining_pubs:
            raise nats.errors.ConnectionDrainingError
        if not self._inbox_of_answers:
            await self._listen_for_answers()
        token = self._token()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Msg] = loop.create_future()
        self._asked[token] = future
        timer = loop.call_later(timeout, _give_up, future)
        try:
            await self.publish(subject, payload, self._inbox_of_answers + token, headers)
            message = await future
        finally:
            timer.cancel()
            del self._asked[token]
        if message.headers and message.headers.get("Status") == _NO_RESPONDERS:
            raise nats.errors.NoRespondersError
        return message

    def _token(self) -> str:
        if not self._tokens:
            drawn = os.urandom(TOKEN_BYTES * TOKENS_DRAWN).hex()
            self._tokens = [drawn[at : at + 2 * TOKEN_BYTES] for at in range(0, len(drawn), 2 * TOKEN_BYTES)]
        return self._tokens.pop()

    async def _listen_for_answers(self) -> None:
        """Returns when answers are subscribed to, once for all who ask."""
        listening = self._listening
        if listening is None or listening.done():
            listening = self._listening = asyncio.create_task(self._subscribe_to_answers())
            listening.add_done_callback(_heard)
        try:
            await asyncio.shield(listening)
        except asyncio.CancelledError:
            if listening.cancelled():
                raise nats.errors.ConnectionClosedError from None
            raise

    async def _subscribe_to_answers(self) -> None:
        prefix = f"{self._inbox_prefix.decode()}.{self._nuid.next().decode()}."
        await self.receive(f"{prefix}*", self._take_answer)
        self._inbox_of_answers = prefix

    def _take_answer(self, message: Msg) -> None:
        future = self._asked.get(message.subject[len(self._inbox_of_answers) :])
        if future is not None and not future.done():
            future.set_result(message)

    # -- what nats-py calls ------------------------------------------------------------------------------------------

    async def _process_connect_init(self) -> None:
        await super()._process_connect_init()
        streams = self._transport
        if not isinstance(streams, TcpTransport):
            return
        assert streams._io_reader is not None
        assert streams._io_writer is not None
        reader, transport = streams._io_reader, streams._io_writer.transport
        link = Link(self, transport)
        self._link, self._is_cut = link, False
        if transport.is_closing() or reader.at_eof():
            # Over before it began; nobody would tell the link.
            link.leave(nats.errors.UnexpectedEOF())
            return
        # What arrived behind the handshake's last line is in the old reader.
        reader.feed_eof()
        link.data_received(await reader.read())

    async def _read_loop(self) -> None:
        """Waits until the connection ends. nats-py starts it once for each connection, when the handshake is done."""
        if self._link is None:
            await super()._read_loop()
            return
        link = self._link
        try:
            error = await link.ended
        except asyncio.CancelledError:
            return
        finally:
            link.leave(nats.errors.ConnectionClosedError())
        await self._end_of_connection(error)

    async def _end_of_connection(self, error: Exception) -> None:
        if not isinstance(error, OSError):
            await self._error_cb(error)
        await self._process_op_err(error)

    async def _send_command(self, cmd: bytes, priority: bool = False) -> None:
        link = self._link
        if link is None:
            await super()._send_command(cmd, priority)
            return
        link.write(cmd)
        if link.is_full:
            await self._wait_for_room(link)

    async def _flush_pending(self, force_flush: bool = False) -> Any:
        if self._link is None and not self._is_cut:
            return await super()._flush_pending(force_flush)
        if self._link is not None:
            # What is sent is on its way; what was kept while there was no link follows the subscriptions. nats-py
            # counts its pings here.
            waiting, self._pending, self._pending_data_size = self._pending, [], 0
            for command in waiting:
                self._link.write(command)
        return None

    async def _send_ping(self, future: asyncio.Future[Any] | None = None) -> None:
        if self._link is not None:
            # It is written past the link, and its answer stands for all that was sent before.
            self._link.flush()
        await super()._send_ping(future)

    async def _close(self, status: int, do_cbs: bool = True) -> None:
        if self._link is not None:
            self._link.flush()
        await super()._close(status, do_cbs)
        if self._listening is not None:
            self._listening.cancel()
        self._receivers.clear()
        self._inbox_of_answers = ""

    def _remove_sub(self, sid: int, max_msgs: int = 0) -> None:
        super()._remove_sub(sid, max_msgs)
        self._receivers.pop(sid, None)

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        # Only over a WebSocket. nats-py ends its read loop, without a word, when decoding one message raises.
        try:
            await super()._process_msg(sid, subject, reply, data, headers)
        except (ValueError, LookupError) as e:
            # UnicodeDecodeError is a ValueError; an empty header block is an IndexError.
            await self._error_cb(e)

    # -- what the link calls -----------------------------------------------------------------------------------------

    def cut(self, link: Link) -> None:
        """The link is over: nothing more is written to it."""
        if self._link is link:
            self._link, self._is_cut = None, True

    def take(self, sid: int, subject: bytes, reply: bytes, headers: bytes, payload: bytes) -> None:
        """Gives a message to its subscription."""
        self.stats["in_msgs"] += 1
        self.stats["in_bytes"] += len(payload)
        subscription = self._subs.get(sid)
        if subscription is None:
            return
        receiver = self._receivers.get(sid)
        subscription._received += 1
        if 0 < subscription._max_msgs <= subscription._received:
            self._remove_sub(sid)
        message = Msg(self, subject.decode(), reply.decode(), payload, parse_headers(headers), _sid=sid)
        if receiver is not None:
            receiver(message)
        elif subscription._future is not None:
            if not subscription._future.done():
                subscription._future.set_result(message)
        elif subscription._jsi is not None:
            raise Malformed("a subscription of a JetStream context is not supported by this client")
        else:
            self._queue(subscription, message)

    def _queue(self, subscription: Subscription, message: Msg) -> None:
        """As nats-py: a subscription that is at its limit loses the message, and the error callback hears of it."""
        size, most = subscription._pending_size + len(message.data), subscription._pending_bytes_limit
        if (0 < most <= size) or subscription._pending_queue.full():
            slow = nats.errors.SlowConsumerError(
                subject=message.subject, reply=message.reply, sid=subscription._id, sub=subscription
            )
            self._beside_reading(self._error_cb(slow))
            return
        subscription._pending_size = size
        subscription._pending_queue.put_nowait(message)

    def take_pong(self) -> None:
        """The server has done everything that was sent before the oldest ping."""
        self._pings_outstanding = 0
        if self._pongs:
            self._pongs_received += 1
            waiting = self._pongs.pop(0)
            if not waiting.done():
                waiting.set_result(True)

    def take_info(self, said: dict[str, Any]) -> None:
        """The server says something of itself."""
        self._beside_reading(self._process_info(said))

    def take_refusal(self, text: str) -> None:
        """The server refuses something, or the whole connection."""
        self._beside_reading(self._process_err(text.lower()))

    def complain(self, error: Exception) -> None:
        """Tells the error callback."""
        self._beside_reading(self._error_cb(error))

    def _beside_reading(self, work: Awaitable[None]) -> None:
        """Runs what nats-py does in coroutines, outside of the reading."""
        task = asyncio.ensure_future(work)
        self._beside.add(task)
        task.add_done_callback(self._beside.discard)

    async def _wait_for_room(self, link: Link) -> None:
        try:
            async with asyncio.timeout(self._flush_timeout):
                await link.room()
        except TimeoutError:
            await self._error_cb(nats.errors.FlushTimeoutError())


def _give_up(future: asyncio.Future[Msg]) -> None:
    if not future.done():
        future.set_exception(nats.errors.TimeoutError())


def _heard(listening: asyncio.Task[None]) -> None:
    """Its error was raised to whoever waited; nobody may have."""
    if not listening.cancelled():
        listening.exception()


def _header_block(headers: dict[str, str]) -> bytes | None:
    """The headers as they stand on the wire; None where nats-py would change or refuse one."""
    lines = ["NATS/1.0\r\n"]
    for name, value in headers.items():
        if not (_HEADER_NAME.fullmatch(name) and _HEADER_VALUE.fullmatch(value)):
            return None
        lines.append(f"{name}: {value}\r\n")
    lines.append("\r\n")
    return "".join(lines).encode()


def _check_subject(subject: str) -> None:
    """A subject is one word: a space or a line's end in it would be another command.

    Raises:
        nats.errors.BadSubjectError: it is not.
    """
    if not subject or _SPACE.search(subject):
        raise nats.errors.BadSubjectError
