"""What comes back from an upstream, on its way through the echo guard and the sanitizer.

First the credential is taken out here, which nobody else may see; then, at the sanitizer, everything else. An answer
that fits one message goes in one; a larger one, and one that is still coming, in pieces to the replica that opened it.

Decides nothing about what is found. When the sanitizer does not answer, the answer is withheld.
"""

from __future__ import annotations

from typing import Final, TypeVar

from msgspec import Struct

from nomos import messages, servicemessages
from nomos.client import error_of
from nomos.errors import Malformed, NomosError, ResponseRefused, Unavailable
from nomos.messages import MESSAGE_BYTES_MAX, PIECE_BYTES_MAX, Decoder, Failure
from nomos.servicemessages import BodyOpened, BodyPiece, CleanPiece, OpenBody, Sanitize
from nomos_proxy.answer import Headers, UpstreamResponse
from nomos_proxy.echo import EchoGuard
from nomos_proxy.personal import PersonalData
from nomos_runtime.bus import Bus

_sanitized: Final = Decoder.of(servicemessages.Sanitized | Failure, "sanitize reply")
_opened: Final = Decoder.of(BodyOpened | Failure, "open body reply")
_piece: Final = Decoder.of(CleanPiece | Failure, "body piece reply")

Lines = list[dict[str, object]]
ReplyT = TypeVar("ReplyT", servicemessages.Sanitized, BodyOpened, CleanPiece)


class Cleaned(Struct, frozen=True, kw_only=True):
    """An answer that may leave, and what was taken out of it and noted in it."""

    headers: list[tuple[str, str]]
    body: bytes
    removed: Lines
    noted: Lines


class Cleaning:
    """The way of answers to the sanitizer and back."""

    def __init__(self, bus: Bus, personal: PersonalData, *, timeout_ms: int, large_timeout_ms: int) -> None:
        self._bus = bus
        self._personal = personal
        self._timeout_ms = timeout_ms
        self._large_timeout_ms = large_timeout_ms

    async def whole(self, tenant: str, response: UpstreamResponse, echo: EchoGuard) -> Cleaned:
        """Cleans an answer that has come.

        Raises:
            ResponseRefused: it cannot be made safe, or the sanitizer does not answer.
        """
        body, echoed = echo.clean(response.body)
        headers, removed = _without_echo(response.headers, echo)
        removed = echoes(echoed) + removed
        message = messages.encode(
            Sanitize(
                v=1,
                tenant=tenant,
                content_type=_content_type(headers),
                headers=headers,
                body=body,
                pii=self._personal.of_tenant(tenant),
            )
        )
        if len(message) > MESSAGE_BYTES_MAX:
            return await self._in_pieces(tenant, headers, body, removed)
        reply = await self._ask("svc.sanitize", message, _sanitized, servicemessages.Sanitized)
        return Cleaned(headers=reply.headers, body=reply.body, removed=removed + reply.removed, noted=reply.noted)

    async def _in_pieces(self, tenant: str, headers: list[tuple[str, str]], body: bytes, removed: Lines) -> Cleaned:
        opened = await self._open(tenant, headers, removed, is_live=False)
        out = [await opened.feed(body[at : at + PIECE_BYTES_MAX]) for at in range(0, len(body), PIECE_BYTES_MAX)]
        out.append(await opened.finish(b""))
        return Cleaned(headers=opened.headers, body=b"".join(out), removed=opened.removed, noted=opened.noted)

    async def open(self, tenant: str, headers: Headers, echo: EchoGuard) -> InPieces:
        """Begins with an answer that is still coming; the caller finishes or drops it.

        Raises:
            ResponseRefused: its headers cannot be made safe, or the sanitizer does not answer.
            Unavailable: the sanitizer has too many open.
        """
        kept, removed = _without_echo(headers, echo)
        return await self._open(tenant, kept, removed, is_live=True)

    async def _open(self, tenant: str, headers: list[tuple[str, str]], echoed: Lines, *, is_live: bool) -> InPieces:
        message = OpenBody(
            v=1,
            tenant=tenant,
            content_type=_content_type(headers),
            headers=headers,
            pii=self._personal.of_tenant(tenant),
            is_live=is_live,
        )
        opened = await self._ask("svc.sanitize.open", messages.encode(message), _opened, BodyOpened)
        return InPieces(self, opened, echoed)

    async def step(self, at: str, message: BodyPiece) -> CleanPiece:
        """Sends a piece to the replica that has the body. Errors as :meth:`whole`."""
        # with the last piece of one that is cleaned as a whole, all of the work is done
        timeout_ms = self._large_timeout_ms if message.step == "last" else self._timeout_ms
        encoded = messages.encode(message)
        return await self._ask(f"svc.sanitize.piece.{at}", encoded, _piece, CleanPiece, timeout_ms)

    async def _ask(
        self, subject: str, message: bytes, decoder: Decoder, kind: type[ReplyT], timeout_ms: int = 0
    ) -> ReplyT:
        try:
            reply = decoder.decode(await self._bus.request(subject, message, timeout_ms or self._timeout_ms))
        except Unavailable as e:
            raise ResponseRefused("the sanitizer does not answer, so the body is withheld", cause=e.cause) from e
        if isinstance(reply, Failure):
            raise error_of(reply)
        if not isinstance(reply, kind):
            raise Malformed("not a reply of the sanitizer")
        return reply


class InPieces:
    """One body that is open at the sanitizer. ``removed`` and ``noted`` are whole after :meth:`finish`."""

    __slots__ = (
        "_at", "_body", "_cleaning", "_echoed", "_is_over", "_seq", "headers", "is_lines", "is_live", "noted",
        "removed",
    )  # fmt: skip

    def __init__(self, cleaning: Cleaning, opened: BodyOpened, echoed: Lines) -> None:
        self._cleaning = cleaning
        self._body = opened.body
        self._at = opened.at
        self._echoed = echoed
        self._seq = 0
        self._is_over = False
        self.is_live = opened.is_live
        self.is_lines = opened.is_lines
        self.headers = opened.headers
        self.removed = echoed + opened.removed
        self.noted: Lines = []

    async def feed(self, data: bytes) -> bytes:
        """Sends the next bytes, at most ``PIECE_BYTES_MAX``; gives what may leave already.

        Raises:
            ResponseRefused: it cannot be made safe, or the sanitizer does not answer; nothing more may be fed.
        """
        return await self._go(BodyPiece(v=1, body=self._body, seq=self._seq + 1, data=data))

    async def finish(self, data: bytes) -> bytes:
        """Sends the last bytes; gives all that was left. Errors as :meth:`feed`."""
        return await self._go(BodyPiece(v=1, body=self._body, seq=self._seq + 1, data=data, step="last"))

    async def drop(self) -> None:
        """Says that nobody wants the rest. Raises nothing: the end of the call is recorded next."""
        if not self._is_over:
            self._is_over = True
            try:
                await self._cleaning.step(self._at, BodyPiece(v=1, body=self._body, seq=self._seq + 1, step="drop"))
            except NomosError:
                return  # the sanitizer gives the body up by itself after a while

    async def _go(self, message: BodyPiece) -> bytes:
        out = []
        self._is_over = True  # unless it goes well
        while True:
            self._seq = message.seq
            reply = await self._cleaning.step(self._at, message)
            out.append(reply.data)
            if reply.is_over:
                self.headers = reply.headers
                self.removed = self._echoed + reply.removed
                self.noted = reply.noted
                break
            if not reply.has_more:
                self._is_over = False
                break
            message = BodyPiece(v=1, body=self._body, seq=self._seq + 1)
        return b"".join(out)


def echoes(count: int, where: str = "body") -> Lines:
    """The line of a report that says how often the credential stood in an answer; none where it did not."""
    return [{"kind": "credential", "rule": "injected-bearer", "where": where, "count": count}] if count else []


def _without_echo(received: Headers, echo: EchoGuard) -> tuple[list[tuple[str, str]], Lines]:
    headers, removed = [], []
    for name, value in received:
        clean, count = echo.clean(value.encode("latin-1"))
        headers.append((name, clean.decode("latin-1")))
        removed += echoes(count, f"header:{name}")
    return headers, removed


def _content_type(headers: list[tuple[str, str]]) -> str:
    return next((value for name, value in headers if name == "content-type"), "")
