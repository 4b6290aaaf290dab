"""Answers that agents read piece by piece: who may read which, in which order, and when one is given up.

An answer is in this process alone, and is named by a random id that its agent got with the beginning. Every read is
checked anew: the agent, its delegation and the connection must still be in force, so a revocation ends an answer at its
next piece. A piece that was lost on its way is asked for again under its number; one further means that it arrived.

Two kinds: one that is *live* (:mod:`nomos_proxy.live`), whose end is recorded when it comes, and one that is *held*,
whole and recorded already. The last piece leaves after the record. An agent that reads no further for
``READER_IDLE_SECONDS`` has left. When this process stops, its live answers end, and are recorded as ended.

Trusted / not trusted: an agent can read its own answers, and hold so many of them; it cannot learn whether another's
exist.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final, Protocol

from nomos.errors import (
    AnswerEnded,
    Conflict,
    LimitExceeded,
    Malformed,
    NomosError,
    NotFound,
    StalePolicy,
    Unavailable,
)
from nomos.ids import new_id
from nomos.messages import PIECE_BYTES_MAX, AnswerPiece, Command, Decoder, ReadAnswer, Rest, now_ms
from nomos_proxy.cleaning import Lines
from nomos_proxy.live import LiveAnswer
from nomos_runtime.responder import Caller

decoder: Final = Decoder.of(ReadAnswer, "read answer")
#: Live answers that are open at once: of one agent, of one tenant, and of all.
LIVE_PER_AGENT_MAX: Final = 8
LIVE_PER_TENANT_MAX: Final = 32
LIVE_MAX: Final = 256
#: Bytes of held answers: of one tenant, and of all.
HELD_PER_TENANT_BYTES_MAX: Final = 64 * 1024 * 1024
HELD_BYTES_MAX: Final = 256 * 1024 * 1024
#: Seconds in which an agent must ask for the next piece; and in which one that is over can be asked for again.
READER_IDLE_SECONDS: Final = 30.0
#: Longest wait for a piece, and what is left of a deadline for sending it, milliseconds.
WAIT_MS_MAX: Final = 20_000
ANSWERING_MS: Final = 200
#: Between two looks for readers that have left, seconds.
LOOK_SECONDS: Final = 1.0


class Source(Protocol):
    """Where pieces come from. Used by one reader at a time."""

    @property
    def is_over(self) -> bool:
        """Whether the last piece was given."""

    @property
    def held_bytes(self) -> int:
        """What it keeps in memory for its reader."""

    async def next(self, until: float) -> bytes:
        """The next piece; empty where none was ready by ``until``, loop time. Raises what ended it."""

    async def end(self, error: NomosError | None) -> tuple[Lines, Lines]:
        """Records the end and lets go of everything; called once. Gives what was removed, and noted, in all of it."""


class Held:
    """A cleaned body that is here as a whole, behind its first piece. Its call is recorded already."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._at = 0

    @property
    def is_over(self) -> bool:
        """Whether the last piece was given."""
        return self._at >= len(self._body)

    @property
    def held_bytes(self) -> int:
        """Its length."""
        return len(self._body)

    async def next(self, until: float) -> bytes:
        """The next piece, at once."""
        del until
        piece = self._body[self._at : self._at + PIECE_BYTES_MAX]
        self._at += len(piece)
        return piece

    async def end(self, error: NomosError | None) -> tuple[Lines, Lines]:
        """Nothing is left to record."""
        del error
        self._body, self._at = b"", 0
        return [], []


class Live:
    """A live answer and how its end is recorded.

    Args:
        answer: what is read.
        record: records the end; raises where it cannot.
    """

    def __init__(self, answer: LiveAnswer, record: Callable[[LiveAnswer, NomosError | None], Awaitable[None]]) -> None:
        self._answer = answer
        self._record = record

    @property
    def is_over(self) -> bool:
        """Whether the last piece was given."""
        return self._answer.is_over

    @property
    def held_bytes(self) -> int:
        """Nothing but windows of bounded length."""
        return 0

    async def next(self, until: float) -> bytes:
        """As :meth:`LiveAnswer.next`."""
        return await self._answer.next(until)

    async def end(self, error: NomosError | None) -> tuple[Lines, Lines]:
        """Ends and records it."""
        await self._answer.close()
        await self._record(self._answer, error)
        return self._answer.removed, self._answer.noted


class _Open:
    """One answer that is being read."""

    __slots__ = (
        "agent", "check", "cut", "error", "is_ended", "kept", "last", "lock", "seq", "source", "tenant", "used_at",
    )  # fmt: skip

    def __init__(self, tenant: str, agent: str, source: Source, check: Callable[[], None], now: float) -> None:
        self.tenant = tenant
        self.agent = agent
        self.source = source
        self.check = check
        self.lock = asyncio.Lock()
        self.seq = 0
        self.last: AnswerPiece | None = None
        #: A piece that was ready when nobody knew whether it may leave.
        self.kept: bytes | None = None
        self.is_ended = False
        #: What ended it, and how its reader is told so while it waits.
        self.error: NomosError | None = None
        self.cut: asyncio.Timeout | None = None
        self.used_at = now


class OpenAnswers:
    """The answers of one replica. Used from one event loop.

    Args:
        replica: the token of the subject at which reads reach this process.
        idle_seconds: how long an agent may not read.
    """

    def __init__(self, replica: str, *, idle_seconds: float = READER_IDLE_SECONDS) -> None:
        self.replica = replica
        self._idle_seconds = idle_seconds
        self._open: dict[str, _Open] = {}

    def check_live(self, tenant: str, agent: str) -> None:
        """Checks that one more live answer may be open, before anything is used up for it.

        Raises:
            LimitExceeded: the agent or its tenant has as many as it may.
            Unavailable: this process has.
        """
        live = [one for one in self._open.values() if not one.is_ended and not one.source.held_bytes]
        of_tenant = [one for one in live if one.tenant == tenant]
        of_agent = sum(one.agent == agent for one in of_tenant)
        if of_agent >= LIVE_PER_AGENT_MAX:
            raise LimitExceeded("LIVE_PER_AGENT_MAX", LIVE_PER_AGENT_MAX, of_agent + 1)
        if len(of_tenant) >= LIVE_PER_TENANT_MAX:
            raise LimitExceeded("LIVE_PER_TENANT_MAX", LIVE_PER_TENANT_MAX, len(of_tenant) + 1)
        if len(live) >= LIVE_MAX:
            raise Unavailable(f"LIVE_MAX is {LIVE_MAX}", hint="ask again later")

    def check_held(self, tenant: str, size: int) -> None:
        """Checks that so many bytes more may be held.

        Raises:
            LimitExceeded: the tenant's answers, or all together, hold as much as they may.
        """
        held = sum(one.source.held_bytes for one in self._open.values())
        of_tenant = sum(one.source.held_bytes for one in self._open.values() if one.tenant == tenant)
        if of_tenant + size > HELD_PER_TENANT_BYTES_MAX:
            raise LimitExceeded("HELD_PER_TENANT_BYTES_MAX", HELD_PER_TENANT_BYTES_MAX, of_tenant + size)
        if held + size > HELD_BYTES_MAX:
            raise LimitExceeded("HELD_BYTES_MAX", HELD_BYTES_MAX, held + size)

    def add(self, tenant: str, agent: str, source: Source, check: Callable[[], None]) -> Rest:
        """Takes on an answer.

        Args:
            tenant: whose it is.
            agent: who alone may read it.
            source: its pieces.
            check: raises where it may not be read any more; called before each piece.
        """
        made = new_id("an")
        self._open[made] = _Open(tenant, agent, source, check, self._now())
        return Rest(answer=made, at=self.replica)

    async def read(self, caller: Caller, command: Command) -> AnswerPiece:
        """Answers ``read``.

        Raises:
            NotFound: this agent has no such answer here.
            Conflict: a piece out of its order.
            NomosError: what ended the answer.
        """
        if not isinstance(command, ReadAnswer):
            raise Malformed("not a read answer message")
        found = self._open.get(command.answer)
        if found is None or (found.tenant, found.agent) != (caller.tenant, caller.name):
            raise NotFound("you have no such answer to read here")
        async with found.lock:
            found.used_at = self._now()
            try:
                return await self._read(found, command)
            finally:
                found.used_at = self._now()

    async def _read(self, found: _Open, command: ReadAnswer) -> AnswerPiece:
        if found.last is not None and command.seq == found.seq:
            return found.last
        if found.error is not None:
            raise found.error
        if command.seq != found.seq + 1 or found.is_ended:
            raise Conflict(f"piece {found.seq + 1} is the next of this answer, got {command.seq}")
        if command.leave:
            await self._end(found, AnswerEnded("the agent read no further"))
            return AnswerPiece(seq=command.seq, body=b"", is_last=True)
        until = self._now() + min(command.wait_ms, WAIT_MS_MAX, command.deadline_ms - now_ms() - ANSWERING_MS) / 1000
        try:
            body = await self._next(found, until)
        except StalePolicy:
            # For now nobody knows whether it may go on; the piece waits.
            raise
        except NomosError as e:
            await self._end(found, e)
            raise
        if not body and not found.source.is_over:
            return AnswerPiece(seq=command.seq, body=b"")
        piece = AnswerPiece(seq=command.seq, body=body)
        if found.source.is_over:
            removed, noted = await self._end(found, None)
            piece = AnswerPiece(seq=command.seq, body=body, is_last=True, removed=removed, noted=noted)
        found.seq, found.last = command.seq, piece
        return piece

    @staticmethod
    async def _next(found: _Open, until: float) -> bytes:
        found.check()
        try:
            async with asyncio.timeout(None) as found.cut:
                body = await found.source.next(until) if found.kept is None else found.kept
        except TimeoutError as e:
            # by _give_up, which has said why
            raise found.error or AnswerEnded("the answer was given up") from e
        finally:
            found.cut = None
        # What was in force when the agent asked may have been taken back while it waited.
        found.kept = body
        found.check()
        found.kept = None
        return body

    async def watch(self) -> None:
        """Ends the answers that nobody reads, for as long as the service lives."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await self.look()

    async def look(self) -> None:
        """Ends the answers whose readers have left; forgets those that are over."""
        for name, one in list(self._open.items()):
            if one.lock.locked() or self._now() - one.used_at < self._idle_seconds:
                continue
            if one.is_ended:
                del self._open[name]
                continue
            seconds = f"{self._idle_seconds:g}"
            await self._give_up(one, AnswerEnded(f"the agent read no further for {seconds} seconds"))

    async def forget(self, tenant: str) -> None:
        """Ends the answers of a closed tenant."""
        for one in [one for one in self._open.values() if one.tenant == tenant]:
            await self._give_up(one, AnswerEnded("this tenant is closed"))

    async def close(self) -> None:
        """Ends all answers."""
        for one in list(self._open.values()):
            await self._give_up(one, AnswerEnded("the service is stopping"))

    async def _give_up(self, one: _Open, error: NomosError) -> None:
        if one.is_ended:
            return
        one.error = error
        if one.cut is not None:
            one.cut.reschedule(self._now())
        async with one.lock:
            # Its reader may have ended it meanwhile.
            if not one.is_ended:
                with suppress(NomosError):
                    # Without a record of its end, the call stays one that was attempted and whose outcome is unknown.
                    await self._end(one, error)
            one.used_at = self._now()

    @staticmethod
    async def _end(one: _Open, error: NomosError | None) -> tuple[Lines, Lines]:
        one.is_ended, one.error = True, error
        try:
            return await one.source.end(error)
        except NomosError as e:
            one.error = e
            raise

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
