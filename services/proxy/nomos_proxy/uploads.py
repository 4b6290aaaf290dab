"""Contents on their way in: what invocations wait for, piece by piece, and when one is given up.

An upload begins when an invocation holds and names a content, so nobody sends bytes for which there is no permission;
how many and which they are was decided with it. It is in this process alone, under a random id that its agent got.
Pieces come in order; one that is sent again changes nothing. The last one ends the wait: whether all is what was named
is checked where the request is built. One that rests for ``IDLE_SECONDS``, or whose invocation is over, is forgotten:
nothing was used up for it.

Trusted / not trusted: an agent can make this process hold so many bytes, of contents that it was permitted to send; it
cannot learn whether another's uploads exist.
"""

from __future__ import annotations

import asyncio
from typing import Final

from msgspec import Struct

from nomos.contents import Content
from nomos.errors import Conflict, Expired, LimitExceeded, Malformed, NotFound, Unavailable
from nomos.ids import new_id
from nomos.messages import UPLOAD_PIECE_BYTES_MAX, Invoke, UploadPiece, Wanted, now_ms

#: Contents of one agent that are awaited, or being sent on, at once.
UPLOADS_PER_AGENT_MAX: Final = 4
#: Their bytes, as they were named: of one tenant, and of all.
UPLOADS_PER_TENANT_BYTES_MAX: Final = 64 * 1024 * 1024
UPLOADS_BYTES_MAX: Final = 256 * 1024 * 1024
#: Seconds in which the next piece must come.
IDLE_SECONDS: Final = 10.0
#: Between two looks for uploads that rest, seconds.
LOOK_SECONDS: Final = 1.0


class Whole(Struct, frozen=True, kw_only=True):
    """A content that has come, and the invocation that waited for it. Its room is kept until :meth:`Uploads.done`."""

    upload: str
    command: Invoke
    data: bytes


class _Awaited:
    """One content that is awaited; without pieces once all of it was handed on."""

    __slots__ = ("agent", "command", "content", "is_handed_on", "pieces", "received", "seq", "tenant", "used_at")

    def __init__(self, tenant: str, agent: str, command: Invoke, content: Content, now: float) -> None:
        self.tenant = tenant
        self.agent = agent
        self.command = command
        self.content = content
        self.pieces: list[bytes] = []
        self.received = 0
        self.seq = 0
        self.is_handed_on = False
        self.used_at = now


class Uploads:
    """The uploads of one replica. Used from one event loop.

    Args:
        replica: the token of the subject at which pieces reach this process.
        idle_seconds: how long an upload may rest.
    """

    def __init__(self, replica: str, *, idle_seconds: float = IDLE_SECONDS) -> None:
        self._replica = replica
        self._idle_seconds = idle_seconds
        self._awaited: dict[str, _Awaited] = {}

    def open(self, tenant: str, agent: str, command: Invoke, content: Content) -> Wanted:
        """Begins to wait for a content.

        Args:
            tenant: whose it is.
            agent: who alone may send it.
            command: what it is for; run when all is here.
            content: what was decided on.

        Raises:
            LimitExceeded: the agent or its tenant has as much under way as it may.
            Unavailable: this process has.
        """
        of_tenant = [one for one in self._awaited.values() if one.tenant == tenant]
        of_agent = sum(one.agent == agent for one in of_tenant)
        if of_agent >= UPLOADS_PER_AGENT_MAX:
            raise LimitExceeded("UPLOADS_PER_AGENT_MAX", UPLOADS_PER_AGENT_MAX, of_agent + 1)
        size = sum(one.content.size for one in of_tenant) + content.size
        if size > UPLOADS_PER_TENANT_BYTES_MAX:
            raise LimitExceeded("UPLOADS_PER_TENANT_BYTES_MAX", UPLOADS_PER_TENANT_BYTES_MAX, size)
        if sum(one.content.size for one in self._awaited.values()) + content.size > UPLOADS_BYTES_MAX:
            raise Unavailable(f"UPLOADS_BYTES_MAX is {UPLOADS_BYTES_MAX}", hint="ask again later")
        made = new_id("up")
        self._awaited[made] = _Awaited(tenant, agent, command, content, self._now())
        return Wanted(upload=made, at=self._replica)

    def take(self, tenant: str, agent: str, piece: UploadPiece) -> Whole | None:
        """Takes the next piece; gives the whole with the last one.

        Raises:
            NotFound: this agent has no such upload here, or not any more.
            Conflict: a piece out of its order, or all has come already.
            Malformed: an empty piece of a content that is not empty.
            LimitExceeded: a piece, or all of them together, are too long; then the upload is forgotten.
            Expired: the invocation's deadline is over; then too.
        """
        found = self._awaited.get(piece.upload)
        if found is None or (found.tenant, found.agent) != (tenant, agent):
            raise NotFound("no such upload of yours is awaited here")
        if found.is_handed_on:
            raise Conflict("all of this content has come already")
        if now_ms() >= found.command.deadline_ms:
            del self._awaited[piece.upload]
            raise Expired("the deadline of the invocation is over; nothing was sent")
        if piece.seq == found.seq and found.seq:
            return None
        if piece.seq != found.seq + 1:
            raise Conflict(f"piece {found.seq + 1} is the next of this content, got {piece.seq}")
        if len(piece.data) > UPLOAD_PIECE_BYTES_MAX:
            raise LimitExceeded("UPLOAD_PIECE_BYTES_MAX", UPLOAD_PIECE_BYTES_MAX, len(piece.data))
        if not piece.data and found.content.size:
            raise Malformed("a piece of a content holds at least one byte")
        received = found.received + len(piece.data)
        if received > found.content.size:
            del self._awaited[piece.upload]
            raise LimitExceeded("bytes of this content", found.content.size, received)
        found.seq, found.received, found.used_at = piece.seq, received, self._now()
        found.pieces.append(piece.data)
        if received < found.content.size:
            return None
        data = b"".join(found.pieces)
        found.pieces, found.is_handed_on = [], True
        return Whole(upload=piece.upload, command=found.command, data=data)

    def done(self, whole: Whole) -> None:
        """The call with this content is over."""
        self._awaited.pop(whole.upload, None)

    def forget(self, tenant: str) -> None:
        """Keeps nothing of a closed tenant."""
        self._awaited = {name: one for name, one in self._awaited.items() if one.tenant != tenant}

    async def watch(self) -> None:
        """Forgets what rests, for as long as the service lives."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self.look()

    def look(self) -> None:
        """Forgets the uploads that rest, or whose time is over."""
        for name, one in list(self._awaited.items()):
            is_over = self._now() - one.used_at >= self._idle_seconds or now_ms() >= one.command.deadline_ms
            if is_over and not one.is_handed_on:
                del self._awaited[name]

    @staticmethod
    def _now() -> float:
        return asyncio.get_running_loop().time()
