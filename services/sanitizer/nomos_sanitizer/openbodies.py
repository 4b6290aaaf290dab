"""Bodies that come in pieces, while they are open: each at the one replica that opened it, a piece at a time, in order.

    open -> piece ... piece -> last -> what is left of the clean ones

A *live* body goes through :class:`~nomos_sanitizer.stream.Stream`, and what is clean leaves with each piece. Any other
is collected and cleaned as a whole when its last piece has come; then the clean body is handed out in pieces.

Decides how many may be open, how much they may hold, and when one is given up. Nothing of a body outlives it, and what
is given up has left only as far as it was clean. A replica that stops takes its open bodies with it: the proxy hears
that nobody answers and withholds the rest.

Trusted / not trusted: the proxy, for the order of the pieces (a wrong number is refused). An upstream can at most have
its own body refused, or take up the places of one tenant.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Final

import msgspec

from nomos.errors import Conflict, LimitExceeded, NotFound, ResponseRefused, Unavailable
from nomos.ids import new_id
from nomos.messages import PIECE_BYTES_MAX
from nomos.servicemessages import BodyOpened, BodyPiece, CleanPiece, OpenBody
from nomos_sanitizer.domain import Sanitized, Sanitizer
from nomos_sanitizer.limits import BODY_BYTES_MAX, INLINE_BYTES_MAX
from nomos_sanitizer.report import Report
from nomos_sanitizer.scrub import Options
from nomos_sanitizer.stream import Stream

#: Bodies that are open at once, of one tenant and of all.
OPEN_PER_TENANT_MAX: Final = 64
OPEN_MAX: Final = 512
#: Bytes that all open bodies hold together, and those of one tenant: pieces that are collected, lines and windows that
#: wait for their end, and clean pieces that were not fetched.
HELD_BYTES_MAX: Final = 256 * 1024 * 1024
HELD_PER_TENANT_BYTES_MAX: Final = 128 * 1024 * 1024
#: A body that no piece was sent or fetched of for so long is given up: the proxy has gone.
IDLE_SECONDS: Final = 180.0


class _Body:
    """One open body."""

    __slots__ = ("done", "held", "is_busy", "is_ended", "last_used", "message", "options", "out", "seq", "stream")

    def __init__(self, message: OpenBody, options: Options, stream: Stream | None, head: Sanitized, now: float) -> None:
        self.message = message
        self.options = options
        #: None where it is cleaned as a whole.
        self.stream = stream
        #: What is known of its headers and findings; of the whole once ``stream`` and ``held`` are used up.
        self.done = head
        #: What was collected of a body that is not live.
        self.held = bytearray()
        #: What is clean and was not fetched.
        self.out = bytearray()
        self.is_busy = False
        self.is_ended = False
        self.seq = 0
        self.last_used = now

    @property
    def size(self) -> int:
        """Bytes that it holds."""
        waiting = 0 if self.stream is None else self.stream.held_bytes
        return len(self.held) + len(self.out) + waiting

    def give(self) -> CleanPiece:
        """The next of what is clean."""
        data = bytes(self.out[:PIECE_BYTES_MAX])
        del self.out[:PIECE_BYTES_MAX]
        if self.out or not self.is_ended:
            return CleanPiece(data=data, has_more=bool(self.out))
        return CleanPiece(
            data=data,
            is_over=True,
            headers=list(self.done.headers),
            removed=[msgspec.to_builtins(line) for line in self.done.report.removed],
            noted=[msgspec.to_builtins(line) for line in self.done.report.noted],
        )


class OpenBodies:
    """The open bodies of one replica. Used from one event loop; what may take long runs in a thread.

    Args:
        sanitizer: the compiled rules.
        threads: where large pieces, and bodies as a whole, are cleaned.
        replica: the token of the subject at which pieces reach this process.
        options: what a tenant's operator and the installation decide, by the message that opens a body.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        sanitizer: Sanitizer,
        threads: Executor,
        *,
        replica: str,
        options: Callable[[str, list[str]], Options],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._sanitizer = sanitizer
        self._threads = threads
        self._replica = replica
        self._options = options
        self._clock = clock
        self._bodies: dict[str, _Body] = {}
        self._of_tenant: Counter[str] = Counter()

    def open(self, message: OpenBody) -> BodyOpened:
        """Takes on a body whose pieces follow.

        Raises:
            Unavailable: too many are open.
            ResponseRefused: headers that cannot be made safe, or an encoding of characters that is not read here.
        """
        self._drop_idle()
        if self._of_tenant[message.tenant] >= OPEN_PER_TENANT_MAX or len(self._bodies) >= OPEN_MAX:
            raise Unavailable(f"OPEN_PER_TENANT_MAX is {OPEN_PER_TENANT_MAX}, OPEN_MAX is {OPEN_MAX}")
        options = self._options(message.tenant, message.pii)
        head = self._sanitizer.sanitize(b"", content_type="", headers=message.headers, credentials=(), options=options)
        stream = None
        if message.is_live:
            try:
                stream = self._sanitizer.stream(content_type=message.content_type, options=options)
            except ResponseRefused:
                # of a type that can only be cleaned as a whole
                stream = None
        body = _Body(message, options, stream, head, self._clock())
        made = new_id("body")
        self._bodies[made] = body
        self._of_tenant[message.tenant] += 1
        return BodyOpened(
            body=made,
            at=self._replica,
            is_live=stream is not None,
            is_lines=stream is not None and stream.is_lines,
            headers=list(head.headers),
            removed=[msgspec.to_builtins(line) for line in head.report.removed],
        )

    async def piece(self, message: BodyPiece) -> CleanPiece:
        """Takes the next piece, and gives what may leave. A body ends with its last clean piece, or with any error.

        Raises:
            NotFound: no such body is open here.
            Conflict: a piece out of its order.
            LimitExceeded: a piece is over its limit.
            Unavailable: what all bodies hold is over its limit.
            ResponseRefused: it cannot be made safe.
        """
        body = self._bodies.get(message.body)
        if body is None:
            raise NotFound("no such body is open here")
        if body.is_busy:
            raise Conflict("the piece before is still being cleaned")
        is_over, body.is_busy = True, True
        try:
            given = await self._next(body, message)
            is_over = given.is_over
        finally:
            body.is_busy = False
            if is_over:
                self._close(message.body)
        return given

    async def _next(self, body: _Body, message: BodyPiece) -> CleanPiece:
        if message.seq != body.seq + 1:
            raise Conflict(f"piece {body.seq + 1} of the body was expected, got {message.seq}")
        if len(message.data) > PIECE_BYTES_MAX:
            raise LimitExceeded("PIECE_BYTES_MAX", PIECE_BYTES_MAX, len(message.data))
        body.seq, body.last_used = message.seq, self._clock()
        if message.step == "drop":
            return CleanPiece(data=b"", is_over=True)
        if body.is_ended and (message.data or message.step == "last"):
            raise Conflict("the last piece of the body has come already")
        self._check_room(body.message.tenant, len(message.data))
        is_last = message.step == "last"
        if is_last or len(message.data) > INLINE_BYTES_MAX:
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(self._threads, self._work, body, message.data, is_last)
        else:
            self._work(body, message.data, is_last)
        return body.give()

    def _check_room(self, tenant: str, size: int) -> None:
        """Checks that so many bytes more may be held."""
        if self._has_room(tenant, size):
            return
        # what nobody goes on with takes no place of what somebody does
        self._drop_idle()
        if not self._has_room(tenant, size):
            limits = f"HELD_PER_TENANT_BYTES_MAX is {HELD_PER_TENANT_BYTES_MAX}, HELD_BYTES_MAX is {HELD_BYTES_MAX}"
            raise Unavailable(limits, hint="ask again later")

    def _has_room(self, tenant: str, size: int) -> bool:
        of_all = sum(one.size for one in self._bodies.values())
        of_tenant = sum(one.size for one in self._bodies.values() if one.message.tenant == tenant)
        return of_all + size <= HELD_BYTES_MAX and of_tenant + size <= HELD_PER_TENANT_BYTES_MAX

    def _work(self, body: _Body, data: bytes, is_last: bool) -> None:
        """Cleans what can be cleaned now. Touches this one body and nothing else, so it may run in a thread."""
        if data:
            self._take(body, data)
        if is_last:
            self._finish(body)

    def _take(self, body: _Body, data: bytes) -> None:
        if body.stream is not None:
            body.out += body.stream.feed(data)
            return
        if len(body.held) + len(data) > BODY_BYTES_MAX:
            raise ResponseRefused(f"answer is over {BODY_BYTES_MAX} bytes")
        body.held += data

    def _finish(self, body: _Body) -> None:
        if body.stream is not None:
            body.out += body.stream.finish()
            head, found = body.done.report, body.stream.report
            report = Report(removed=(*found.removed, *head.removed), noted=found.noted)
            body.done = msgspec.structs.replace(body.done, report=report)
        else:
            whole, body.held = bytes(body.held), bytearray()
            body.done = self._sanitizer.sanitize(
                whole,
                content_type=body.message.content_type,
                headers=body.message.headers,
                credentials=(),
                options=body.options,
            )
            body.out += body.done.body
            body.done = msgspec.structs.replace(body.done, body=b"")
        body.is_ended = True

    def _drop_idle(self) -> None:
        oldest = self._clock() - IDLE_SECONDS
        for name in [name for name, body in self._bodies.items() if body.last_used < oldest and not body.is_busy]:
            self._close(name)

    def _close(self, name: str) -> None:
        tenant = self._bodies.pop(name).message.tenant
        self._of_tenant[tenant] -= 1
        if not self._of_tenant[tenant]:
            del self._of_tenant[tenant]
