"""An answer in pieces, as its agent reads it.

A read has no effect but to get on, so one that was lost is made again under its number. A replica that is gone has
taken the rest of its answers with it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Final

from nomos import messages
from nomos.client import Connection, NoAnswer, NobodyAnswers, header, pause
from nomos.decisions import Allowed
from nomos.errors import Malformed, NomosError, StalePolicy, UnknownOutcome
from nomos.messages import Decoder, PolicyRef, ReadAnswer, Returned, now_ms

#: How long one read waits for a piece, and for its answer on the bus beyond that, milliseconds.
WAIT_MS: Final = 10_000
ANSWER_MS: Final = 5_000
#: Tries of a read that nothing answers.
TRIES_MAX: Final = 3
#: How long a piece is asked for that is held back, and between two such questions.
STALE_MS_MAX: Final = 20_000
STALE_PAUSE_SECONDS: Final = 0.2

_read = Decoder.of(messages.ReadReply, "read reply")


class Pieces:
    """The pieces of one answer, in order. Iterate over it once."""

    def __init__(self, connection: Connection, name: str, reply: Returned) -> None:
        self._connection = connection
        self._name = name
        self._first = reply.body
        self._rest = reply.rest
        self._seq = 0
        self.removed = list(reply.removed)
        self.noted = list(reply.noted)

    @property
    def is_over(self) -> bool:
        """Whether there is nothing left to read."""
        return self._rest is None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """The pieces, each as soon as it is there; empty ones are left out.

        Raises:
            UnknownOutcome: the rest is lost: with the upstream, or with the process that had it.
            NomosError: what ended the answer, as the class of its code.
        """
        if self._first:
            yield self._first
        while self._rest is not None:
            piece = await self._next(self._rest)
            if piece:
                yield piece

    async def leave(self) -> None:
        """Says that nobody reads further, where something is left. The proxy finds out by itself if this is lost."""
        if self._rest is None:
            return
        rest, self._rest = self._rest, None
        command = ReadAnswer(**header(ANSWER_MS), answer=rest.answer, seq=self._seq + 1, leave=True)  # type: ignore[arg-type]  # the fields of a header
        try:
            await self._connection.ask(self._subject(rest), command, _read, ANSWER_MS)
        except NomosError:
            # It has ended already, or ends when its time is over: there is nothing to do about either.
            return

    def _subject(self, rest: messages.Rest) -> str:
        return f"req.read.{rest.at}.{self._name}"

    async def _next(self, rest: messages.Rest) -> bytes:
        try:
            reply = await self._asked(rest)
        except NomosError:
            self._rest = None
            raise
        if reply.seq != self._seq + 1:
            raise Malformed("not the piece that was asked for")
        if reply.body or reply.is_last:
            self._seq += 1
        if reply.is_last:
            self._rest = None
            # of a live answer it is all known only now
            self.removed = reply.removed or self.removed
            self.noted = reply.noted or self.noted
        return reply.body

    async def _asked(self, rest: messages.Rest) -> messages.AnswerPiece:
        tries, stale_until_ms = 0, 0
        while tries < TRIES_MAX:
            time_ms = WAIT_MS + ANSWER_MS
            command = ReadAnswer(**header(time_ms), answer=rest.answer, seq=self._seq + 1, wait_ms=WAIT_MS)  # type: ignore[arg-type]  # as above
            try:
                reply = await self._connection.ask(self._subject(rest), command, _read, time_ms)
            except NoAnswer:
                tries += 1
                continue
            except NobodyAnswers as e:
                raise UnknownOutcome("the rest of the answer is lost with the process that had it") from e
            except StalePolicy:
                # It holds the piece back until it knows again that nothing was revoked.
                stale_until_ms = stale_until_ms or now_ms() + STALE_MS_MAX
                if now_ms() >= stale_until_ms:
                    raise
                await pause(STALE_PAUSE_SECONDS)
                continue
            if not isinstance(reply, messages.AnswerPiece):
                raise Malformed("not a read reply")
            return reply
        raise UnknownOutcome("no answer to a read; the rest of the answer is lost")


class Streaming:
    """An answer that is read while it comes: ``async for piece in answer``.

    Attributes:
        decision: id of the decision in the log.
        delegation: the UCAN delegation, for exactly this request.
        policies: the policies that permitted it.
        status: HTTP status of the upstream.
        headers: the allowed response headers.
    """

    def __init__(self, allowed: Allowed, reply: Returned, pieces: Pieces) -> None:
        self._allowed = allowed
        self.decision: str = allowed.decision
        self.delegation: bytes = allowed.delegation
        self.policies: tuple[PolicyRef, ...] = allowed.policies
        self.status: int = reply.status
        self.headers: tuple[tuple[str, str], ...] = tuple(reply.headers)
        self._pieces = pieces

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Its pieces. Errors as :meth:`Pieces.__aiter__`."""
        return self._pieces.__aiter__()

    @property
    def removed(self) -> tuple[Mapping[str, object], ...]:
        """What the sanitizer took out; whole after the last piece."""
        return tuple(self._pieces.removed)

    @property
    def noted(self) -> tuple[Mapping[str, object], ...]:
        """What it found and left; whole after the last piece."""
        return tuple(self._pieces.noted)

    def done(self) -> Allowed:
        """The same as a call's outcome, without the body, which was read."""
        return replace(self._allowed, status=self.status, headers=self.headers, removed=self.removed, noted=self.noted)
