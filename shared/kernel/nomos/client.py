"""What agents, operators and auditors share: one connection under a credentials file, requests with deadlines.

The credentials file holds the bus login (JWT and nkey seed) and, for an agent, its UCAN key. Private keys stay in this
process: the server gets a signature over its nonce, the services get signed tokens.
"""

from __future__ import annotations

import asyncio
import contextlib
from base64 import b64encode
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec
import nats.errors

from nomos import errors
from nomos.creds import Credentials, read_creds
from nomos.errors import Malformed, Misconfigured, NomosError, NotPermitted, Unavailable
from nomos.ids import new_id
from nomos.messages import Decoder, Failure, encode, now_ms
from nomos.natsclient import LeanClient
from nomos.waiting import raise_if_cancelled

CONNECT_SECONDS: Final = 5
#: Tries of the first connection to each server.
CONNECT_TRIES: Final = 2
#: How long a request may take, from the caller to the answer, milliseconds.
REQUEST_MS: Final = 10_000


def _classes(root: type[NomosError]) -> dict[str, type[NomosError]]:
    found = {root.code: root}
    for child in root.__subclasses__():
        found |= {code: cls for code, cls in _classes(child).items() if code not in found}
    return found


_BY_CODE = _classes(errors.NomosError)


class RemoteLimit(NomosError):
    """A service refused because of a named limit."""

    code = "limit_exceeded"


def error_of(reply: Failure) -> NomosError:
    """The error that a service answered, as the class of its code."""
    cls = _BY_CODE.get(reply.code, NomosError)
    if cls is errors.LimitExceeded:
        return RemoteLimit(reply.detail, hint=reply.hint)
    return cls(reply.detail, hint=reply.hint, retry_after_ms=reply.retry_after_ms)


class NobodyAnswers(Unavailable):
    """Nobody listens to the subject, so nothing was done."""


class NoAnswer(Unavailable):
    """A request was sent and no answer came in time; what became of it is not known here."""


class Connection:
    """A bus connection of one person, agent or auditor. Use with ``async with await Connection.open(...)``."""

    def __init__(self, credentials: Credentials, client: LeanClient) -> None:
        self.credentials = credentials
        self._client = client
        self._violation: str | None = None
        self._is_refused = False

    @classmethod
    async def open(cls, credentials: Credentials | Path | str, *, url: str | None = None) -> Self:
        """Connects.

        Args:
            credentials: parsed, or the path of the file.
            url: overrides the server that the file names.

        Raises:
            Misconfigured: the file cannot be read.
            NotPermitted: the server refuses this credential (revoked, expired, unknown).
            Unavailable: no server answers.
        """
        if not isinstance(credentials, Credentials):
            try:
                credentials = read_creds(Path(credentials))
            except OSError as e:
                raise Misconfigured(f"credentials file cannot be read: {e.strerror}") from e
        client = LeanClient()
        connection = cls(credentials, client)
        try:
            await client.connect(
                servers=[url] if url else list(credentials.servers),
                user_jwt_cb=lambda: bytearray(credentials.jwt.encode()),
                signature_cb=lambda nonce: b64encode(credentials.user.sign(nonce.encode())),
                inbox_prefix=f"_INBOX.{credentials.name}".encode(),
                name=credentials.name,
                connect_timeout=CONNECT_SECONDS,
                # The first connection gives up; one that stood keeps coming back (below).
                max_reconnect_attempts=CONNECT_TRIES,
                reconnect_time_wait=0.1,  # type: ignore[arg-type]  # slept as it is; a float works
                ping_interval=5,
                max_outstanding_pings=2,
                error_cb=connection._error,
            )
        except (nats.errors.Error, OSError, TimeoutError) as e:
            await client.close()
            # The exception only says that no server was left to try; why is what the error callback saw.
            if isinstance(e, nats.errors.AuthorizationError) or connection._is_refused:
                raise NotPermitted("the server refuses this credential", hint="it may be revoked or expired") from e
            raise Unavailable("the bus does not answer", cause=repr(e), hint="is nomos up running?") from e
        client.options["max_reconnect_attempts"] = -1
        return connection

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Disconnects."""
        # A server that has gone, or has thrown this client out, cut the connection before us.
        with contextlib.suppress(OSError):
            await self._client.close()

    async def ask(self, subject: str, command: msgspec.Struct, decoder: Decoder, timeout_ms: int) -> msgspec.Struct:
        """Sends a command, returns the reply.

        Raises:
            NotPermitted: the server did not let it through.
            Unavailable: nobody answered in time; for a call that has effects the outcome is then unknown.
            NomosError: what the service refused with, as the class of its code.
        """
        self._violation = None
        try:
            reply = await self._client.request(subject, encode(command), timeout=timeout_ms / 1000)
        except nats.errors.NoRespondersError as e:
            raise NobodyAnswers(f"nobody answers {subject}", hint="is the service running?") from e
        except (TimeoutError, nats.errors.Error) as e:
            if self._violation is not None:
                raise NotPermitted(f"this credential may not use {subject}") from e
            raise NoAnswer(f"no answer in {timeout_ms} ms", cause=repr(e)) from e
        raise_if_cancelled()
        message = decoder.decode(reply.data)
        if isinstance(message, Failure):
            raise error_of(message)
        if not isinstance(message, msgspec.Struct):
            raise Malformed("not a reply")
        return message

    async def _error(self, error: Exception) -> None:
        if "authorization" in str(error).lower() or "revoked" in str(error).lower():
            self._is_refused = True
        if "permissions violation" in str(error).lower():
            self._violation = str(error)


def header(timeout_ms: int) -> dict[str, object]:
    """Version, a new request id and the deadline of a command that may take ``timeout_ms``."""
    return {"v": 1, "id": new_id("rq"), "deadline_ms": now_ms() + timeout_ms}


async def pause(seconds: float) -> None:
    """Waits between two tries of something that is safe to repeat."""
    await asyncio.sleep(seconds)
