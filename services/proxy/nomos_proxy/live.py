"""An answer that leaves while it comes: the upstream's bytes, through echo guard and sanitizer, piece by piece.

    upstream -> echo window -> sanitizer -> the agent's next read

Nothing moves unless the agent asks: while it does not, the socket is told to wait, and so is the upstream. So memory is
bounded by what the windows hold back, whatever the upstream sends and however slow the agent is.

What the end means, and what the log says of it:

* the upstream's last byte came: done.
* the upstream broke off, or was silent for too long: unknown, as for any answer that is not complete.
* it could not be made safe, was too large or took too long, or the agent left, was revoked, or the service stopped:
  refused. The status came, so the upstream acted; the rest is not passed on.
"""

from __future__ import annotations

import asyncio
import hashlib
from typing import Final

from msgspec import Struct

from nomos.errors import LimitExceeded, NomosError, UnknownOutcome
from nomos.messages import PIECE_BYTES_MAX
from nomos_proxy.cleaning import InPieces, Lines, echoes
from nomos_proxy.echo import EchoGuard
from nomos_proxy.upstream import OpenAnswer

#: Lines of all kinds of such bodies end so.
_LINE_END: Final = b"\n"


class LiveLimits(Struct, frozen=True, kw_only=True):
    """Bounds of one live answer; its bytes are bounded by the exchange.

    Attributes:
        total_seconds: from its head to its last piece.
        silent_seconds: without one byte of the upstream, while the agent asks.
    """

    total_seconds: float
    silent_seconds: float = 60.0


class LiveAnswer:
    """One answer on its way. Used by one reader at a time."""

    __slots__ = (
        "_body", "_count", "_digest", "_ends_at", "_error", "_heard_at", "_is_ended", "_limits", "_out", "_upstream",
        "_window", "passed", "received", "status",
    )  # fmt: skip

    def __init__(self, upstream: OpenAnswer, body: InPieces, echo: EchoGuard, limits: LiveLimits) -> None:
        now = asyncio.get_running_loop().time()
        self._upstream = upstream
        self._body = body
        self._window = echo.window(_LINE_END if body.is_lines else None)
        self._limits = limits
        self._digest = hashlib.sha256()
        self._out = bytearray()
        self._count = 0
        self._is_ended = False
        #: Raised when what came before it has left.
        self._error: NomosError | None = None
        self._heard_at = now
        self._ends_at = now + limits.total_seconds
        self.status = upstream.head.status
        #: Bytes that came, and bytes that left.
        self.received = 0
        self.passed = 0

    @property
    def is_over(self) -> bool:
        """Whether the last piece was given."""
        return self._is_ended and not self._out

    @property
    def sha256(self) -> bytes:
        """Of what has come."""
        return self._digest.digest()

    @property
    def removed(self) -> Lines:
        """What was taken out, as far as it is known."""
        return self._body.removed + echoes(self._count)

    @property
    def noted(self) -> Lines:
        """What was found and left; known at the end."""
        return self._body.noted

    async def next(self, until: float) -> bytes:
        """The next piece, at most ``PIECE_BYTES_MAX``; empty where none was ready by ``until``, loop time.

        Raises:
            UnknownOutcome: the upstream broke off or is silent.
            LimitExceeded: it took too long.
            AnswerRefused: it is too large.
            ResponseRefused: it cannot be made safe.
        """
        while not self._out and not self._is_ended:
            if self._error is not None:
                raise self._error
            self._check_time(is_silent=False)
            arrived = await self._arrived(min(until, self._ends_at))
            if arrived:
                await self._pass(arrived)
            elif not self._is_ended:
                self._check_time(is_silent=True)
                return b""
        piece = bytes(self._out[:PIECE_BYTES_MAX])
        del self._out[:PIECE_BYTES_MAX]
        self.passed += len(piece)
        return piece

    async def close(self) -> None:
        """Lets go of the upstream and of the sanitizer. May be called at any time, and twice."""
        self._upstream.close()
        await self._body.drop()

    async def _arrived(self, until: float) -> bytes:
        """What has come by ``until``: at least something, and then whatever is there already."""
        chunks: list[bytes] = []
        size = 0
        while size < PIECE_BYTES_MAX // 2:
            try:
                # a read that is cut short has taken nothing
                async with asyncio.timeout_at(0 if chunks else until):
                    chunk = await self._upstream.read()
            except TimeoutError:
                break
            except NomosError as error:
                if not chunks:
                    raise
                # what came before leaves first
                self._error = error
                break
            if not chunk:
                await self._end(b"".join(chunks))
                return b""
            chunks.append(chunk)
            size += len(chunk)
        return b"".join(chunks)

    async def _pass(self, arrived: bytes) -> None:
        searched = self._searched(arrived)
        for at in range(0, len(searched), PIECE_BYTES_MAX):
            self._out += await self._body.feed(searched[at : at + PIECE_BYTES_MAX])

    async def _end(self, arrived: bytes) -> None:
        await self._pass(arrived)
        self._out += await self._body.finish(self._window.finish())
        self._is_ended = True

    def _searched(self, arrived: bytes) -> bytes:
        if not arrived:
            return b""
        self._heard_at = asyncio.get_running_loop().time()
        self.received += len(arrived)
        self._digest.update(arrived)
        searched, count = self._window.feed(arrived)
        self._count += count
        return searched

    def _check_time(self, *, is_silent: bool) -> None:
        now = asyncio.get_running_loop().time()
        if now >= self._ends_at:
            raise LimitExceeded("live_seconds_max", round(self._limits.total_seconds))
        if is_silent and now - self._heard_at >= self._limits.silent_seconds:
            raise UnknownOutcome(f"the upstream sent nothing for {self._limits.silent_seconds:g} seconds")
