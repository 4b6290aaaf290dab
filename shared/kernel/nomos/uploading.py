"""What an agent sends that is too long, or no text, to be an argument.

    await agent.call("aws-s3:objects.put", "aws-s3:bucket/web", {"key": "a.png", "upload": Upload.of_file("a.png")})

The argument becomes the name of the bytes (SHA-256, how many, media type), and that is decided and signed; the bytes go
to the proxy when it waits for them. A piece has no effect until the last one, so one that was lost is sent again.
"""

from __future__ import annotations

import hashlib
import mimetypes
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Self

from nomos.client import Connection, NoAnswer, NobodyAnswers
from nomos.contents import BYTES, CONTENT_BYTES_MAX, Content, named_by
from nomos.errors import Expired, LimitExceeded, Malformed, Misconfigured, Unavailable, UnknownOutcome
from nomos.messages import (
    UPLOAD_PIECE_BYTES_MAX,
    Decoder,
    Invoke,
    Returned,
    Taken,
    UploadPiece,
    UploadReply,
    Wanted,
    now_ms,
)

#: Tries of a piece that nothing answers, and how long one may take unless it is the last, milliseconds.
TRIES_MAX: Final = 3
PIECE_MS: Final = 5_000

_upload = Decoder.of(UploadReply, "upload reply")
_GUESSED: Final = re.compile(r"[a-z0-9/.+-]+")


class Upload:
    """Bytes to send, and what they are.

    Args:
        data: the bytes, 8 MiB at most.
        media_type: what they are, such as ``image/png``; lower case.

    Raises:
        LimitExceeded: they are too many.
        Malformed: the media type is none.
    """

    __slots__ = ("content", "data")

    def __init__(self, data: bytes, media_type: str = BYTES) -> None:
        if len(data) > CONTENT_BYTES_MAX:
            raise LimitExceeded("CONTENT_BYTES_MAX", CONTENT_BYTES_MAX, len(data))
        self.data: Final = data
        named = Content(sha256=hashlib.sha256(data).hexdigest(), size=len(data), media_type=media_type)
        self.content: Final = named_by(named.arg)

    @classmethod
    def of_file(cls, path: Path | str, media_type: str | None = None) -> Self:
        """The bytes of a file; its media type is guessed from its name where none is given.

        Raises:
            Misconfigured: it cannot be read.
            LimitExceeded, Malformed: as :class:`Upload`.
        """
        try:
            with Path(path).open("rb") as file:
                data = file.read(CONTENT_BYTES_MAX + 1)
        except OSError as e:
            raise Misconfigured(f"{path} cannot be read: {e.strerror}") from e
        guessed = mimetypes.guess_type(str(path))[0] or ""
        return cls(data, media_type or (guessed if _GUESSED.fullmatch(guessed) else BYTES))

    def __repr__(self) -> str:
        return f"Upload({self.content.size} bytes, {self.content.media_type})"


def separated(args: Mapping[str, object] | None) -> tuple[dict[str, object], Upload | None]:
    """The arguments as they are decided and signed, and what was among them to upload.

    Raises:
        Malformed: more than one upload.
    """
    given = dict(args or {})
    uploads = {name: value for name, value in given.items() if isinstance(value, Upload)}
    if len(uploads) > 1:
        raise Malformed("a call takes one upload")
    for name, upload in uploads.items():
        given[name] = upload.content.arg
    return given, next(iter(uploads.values()), None)


async def sent(connection: Connection, name: str, command: Invoke, wanted: Wanted, upload: Upload | None) -> Returned:
    """Sends the content that an invocation waits for; gives the invocation's answer.

    Args:
        connection: of the agent.
        name: the agent's.
        command: the invocation; its deadline is the upload's.
        wanted: where it waits.
        upload: the content.

    Raises:
        Malformed: there is none to send.
        Expired: it took too long; nothing was sent upstream.
        Unavailable: the replica that waited is gone; nothing was sent upstream.
        UnknownOutcome: the last piece was sent, and no answer came.
        NomosError: refused, as the class of its code.
    """
    if upload is None:
        raise Malformed("the invocation waits for a content", hint="give the argument as a nomos.Upload, not its name")
    data = upload.data
    pieces = [data[at : at + UPLOAD_PIECE_BYTES_MAX] for at in range(0, len(data), UPLOAD_PIECE_BYTES_MAX)] or [b""]
    for seq, piece in enumerate(pieces, start=1):
        reply = await _piece(
            connection,
            f"req.upload.{wanted.at}.{name}",
            command,
            seq == len(pieces),
            _message(command, wanted, seq, piece),
        )
        if isinstance(reply, Returned):
            return reply
    raise Malformed("the content was sent, and the proxy still waits")


def _message(command: Invoke, wanted: Wanted, seq: int, piece: bytes) -> UploadPiece:
    # under the invocation's own id, so that a refusal in the log is found by it
    return UploadPiece(v=1, id=command.id, deadline_ms=command.deadline_ms, upload=wanted.upload, seq=seq, data=piece)


async def _piece(
    connection: Connection, subject: str, command: Invoke, is_last: bool, message: UploadPiece
) -> Returned | Taken:
    for _ in range(TRIES_MAX):
        left_ms = command.deadline_ms - now_ms()
        if left_ms <= 0:
            raise Expired("the time of this call is over; nothing was sent upstream")
        try:
            reply = await connection.ask(subject, message, _upload, left_ms if is_last else min(left_ms, PIECE_MS))
        except NobodyAnswers as e:
            raise Unavailable("the process that waited for the content is gone; nothing was sent upstream") from e
        except NoAnswer as e:
            if is_last:
                raise UnknownOutcome("no answer to the invocation; the log says what became of it") from e
            continue
        if not isinstance(reply, Returned | Taken):
            raise Malformed("not an upload reply")
        return reply
    raise Unavailable("no answer to a piece of the content; nothing was sent upstream")
