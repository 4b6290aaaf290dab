"""A local HTTP server that stands for the GitHub API in the demo and in tests. Loopback only, never in production.

It demands ``Authorization: Bearer <token>``, answers from recorded bodies (:mod:`.upstream_state`), remembers every
request that reached it, so that "the denied call was never made" can be shown, and breaks in any way on request.

``GET /_nomos/seen`` lists what it saw, without a credential; it stands outside the API's paths.
Run alone: ``python -m nomos_runtime.embedded.upstream --bodies DIR --token-file FILE --ready-file FILE``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import ssl
from collections import deque
from collections.abc import Callable, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Final

from msgspec import Struct, structs

from nomos_runtime.embedded.upstream_state import BAD_CREDENTIALS, Answer, Planted, RecordedGitHub

HOST: Final = "127.0.0.1"
SEEN_PATH: Final = "/_nomos/seen"
#: Bytes of a request's head, and of its body.
HEAD_BYTES_MAX: Final = 32_768
BODY_BYTES_MAX: Final = 2_000_000
#: Requests that are remembered; older ones are forgotten first.
SEEN_MAX: Final = 10_000
#: Seconds that a kept connection may rest.
IDLE_SECONDS: Final = 60.0
#: Bytes that the faults without end send at a time.
_FLOOD_CHUNK: Final = 16_384

_REASONS: Final[Mapping[int, str]] = {
    200: "OK", 201: "Created", 204: "No Content", 302: "Found", 400: "Bad Request", 401: "Unauthorized",
    404: "Not Found", 422: "Unprocessable Content",
}  # fmt: skip


class FaultKind(StrEnum):
    """How the server breaks."""

    NONE = "none"
    SLOW = "slow"
    """Waits ``delay_seconds``, then answers."""
    HANG = "hang"
    """Reads the request and never answers."""
    CLOSE = "close"
    """Reads the request and closes."""
    GARBAGE = "garbage"
    """Answers with bytes that are not HTTP."""
    TRUNCATE = "truncate"
    """Announces a length and closes after half of it."""
    OVERSIZE = "oversize"
    """A body of ``size_bytes`` with its length."""
    ENDLESS_BODY = "endless_body"
    """Chunks without end."""
    ENDLESS_HEAD = "endless_head"
    """Headers without end."""
    BAD_CHUNKS = "bad_chunks"
    """A chunk whose size is no number."""
    REDIRECT = "redirect"
    """302 to ``location``."""
    PAGED = "paged"
    """Good answers that name a next page, up to the third."""
    BUSY = "busy"
    """429, and to come again after ``delay_seconds``."""
    DOWN = "down"
    """503."""
    ENCODED = "encoded"
    """Says that its body is gzip."""
    UNFRAMED = "unframed"
    """A body without length, ended by closing."""
    TWICE_FRAMED = "twice_framed"
    """A length and chunks."""
    SPLIT = "split"
    """A second, unasked answer right behind the first."""
    CLOSE_AFTER = "close_after"
    """A good answer that promises to keep the connection, which then closes."""
    CLOSE_KEPT = "close_kept"
    """Serves the first request of a connection and closes on the second without an answer."""


_KEEPING: Final = frozenset({
    FaultKind.NONE, FaultKind.SLOW, FaultKind.OVERSIZE, FaultKind.REDIRECT, FaultKind.SPLIT, FaultKind.CLOSE_KEPT,
    FaultKind.BUSY, FaultKind.DOWN, FaultKind.PAGED,
})  # fmt: skip


class Fault(Struct, frozen=True, kw_only=True):
    """One way to break, for every request until it is changed."""

    kind: FaultKind = FaultKind.NONE
    delay_seconds: float = 0.0
    size_bytes: int = 0
    location: str = ""


class SeenRequest(Struct, frozen=True, kw_only=True):
    """One request that arrived. ``connection`` numbers the connections from 1."""

    connection: int
    method: str
    path: str
    query: str
    headers: dict[str, str]
    bearer_ok: bool
    body: bytes


class EmbeddedUpstream:
    """The server. Start it with :meth:`start`, end it with :meth:`close`."""

    def __init__(self, github: RecordedGitHub, token: str) -> None:
        self._github = github
        self._token = token
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._stopping = asyncio.Event()
        self._connections = 0
        self._is_tls = False
        #: What arrived, oldest first.
        self.seen: deque[SeenRequest] = deque(maxlen=SEEN_MAX)
        #: How it breaks from now on.
        self.fault = Fault()
        #: Whether a bearer is taken; the one that it was started with, unless a test says otherwise.
        self.accepts: Callable[[str], bool] = token.__eq__

    @classmethod
    async def start(
        cls,
        *,
        bodies: Path,
        token: str,
        planted: Planted | None = None,
        tls: ssl.SSLContext | None = None,
        port: int = 0,
    ) -> EmbeddedUpstream:
        """Starts to listen on loopback.

        Args:
            bodies: folder of the recorded answers.
            token: the only credential that is accepted.
            planted: what an issue carries.
            tls: context of the server; None for clear text.
            port: TCP port; 0 for a free one.
        """
        upstream = cls(RecordedGitHub(bodies, planted), token)
        upstream._is_tls = tls is not None
        upstream._server = await asyncio.start_server(upstream._serve, HOST, port, ssl=tls, limit=HEAD_BYTES_MAX)
        return upstream

    @property
    def port(self) -> int:
        """The TCP port."""
        if self._server is None:
            raise RuntimeError("the embedded upstream is not started")
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def origin(self) -> str:
        """Where it listens, ``http://127.0.0.1:PORT``."""
        return f"{'https' if self._is_tls else 'http'}://{HOST}:{self.port}"

    def count(self, method: str, path: str) -> int:
        """How many requests with this method and path arrived with the right credential."""
        return sum(seen.bearer_ok and (seen.method, seen.path) == (method, path) for seen in self.seen)

    async def close(self) -> None:
        """Stops listening and ends every connection."""
        self._stopping.set()
        if self._server is not None:
            self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        if self._serving:
            await asyncio.wait(self._serving)
        if self._server is not None:
            await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections += 1
        self._writers.add(writer)
        task = asyncio.current_task()
        if task is not None:
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)
        try:
            number = self._connections
            is_first = True
            while await self._serve_one(reader, writer, number, is_first=is_first):
                is_first = False
        except (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError, ValueError):
            # the peer left, or sent what is no request: for a stand-in server that is the end of the connection
            writer.transport.abort()
        finally:
            self._writers.discard(writer)
            writer.close()

    async def _serve_one(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int, *, is_first: bool
    ) -> bool:
        """Reads one request and answers it. Returns whether another may follow."""
        async with asyncio.timeout(IDLE_SECONDS):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *fields = head.split("\r\n")[:-2]
        method, target, _version = line.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
        length = int(headers.get("content-length", "0"))
        if length > BODY_BYTES_MAX:
            raise ValueError("request body over the limit")
        body = await reader.readexactly(length)
        path, _, query = target.partition("?")
        if path == SEEN_PATH:
            writer.write(_rendered(Answer(status=200, body=[_public(seen) for seen in self.seen])))
            await writer.drain()
            return True
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        is_right = scheme == "Bearer" and self.accepts(bearer)
        kept = {name: value for name, value in headers.items() if name != "authorization"}
        seen = SeenRequest(
            connection=number, method=method, path=path, query=query, headers=kept, bearer_ok=is_right, body=body
        )
        self.seen.append(seen)
        if self.fault.kind is FaultKind.CLOSE_KEPT and not is_first:
            return False
        return await self._respond(seen, writer)

    async def _pause(self, seconds: float | None) -> None:
        """Waits, for ever if ``seconds`` is None; ends early, with an error, when the server closes."""
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return
        raise ConnectionAbortedError("the embedded upstream is closing")

    async def _respond(self, seen: SeenRequest, writer: asyncio.StreamWriter) -> bool:
        fault = self.fault
        match fault.kind:
            case FaultKind.SLOW:
                await self._pause(fault.delay_seconds)
            case FaultKind.HANG:
                await self._pause(None)
            case FaultKind.ENDLESS_BODY:
                writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                chunk = b"%x\r\n%s\r\n" % (_FLOOD_CHUNK, b" " * _FLOOD_CHUNK)
                await _flood(writer, chunk)
            case FaultKind.ENDLESS_HEAD:
                writer.write(b"HTTP/1.1 200 OK\r\n")
                await _flood(writer, b"X-Filler: " + b"a" * 500 + b"\r\n")
        answer = Answer(status=401, body=BAD_CREDENTIALS)
        if seen.bearer_ok:
            answer = self._github.answer(seen.method, seen.path, seen.body, self._token)
        good = _rendered(answer)
        if fault.kind is FaultKind.PAGED and "page=3" not in seen.query.split("&"):
            good = good.replace(b"\r\n", b'\r\nLink: <https://api.github.com/elsewhere?page=9>; rel="next"\r\n', 1)
        writer.write(_broken(fault, good))
        await writer.drain()
        return fault.kind in _KEEPING


async def _flood(writer: asyncio.StreamWriter, chunk: bytes) -> None:
    while not writer.is_closing():
        writer.write(chunk)
        await writer.drain()


def _broken(fault: Fault, good: bytes) -> bytes:
    """What is sent in place of a good answer."""
    match fault.kind:
        case FaultKind.CLOSE:
            return b""
        case FaultKind.GARBAGE:
            return b"\x00\xff\x16 not http at all\r\n\r\n" * 20
        case FaultKind.TRUNCATE:
            return good[: -max(1, len(good) // 4)]
        case FaultKind.OVERSIZE:
            return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % fault.size_bytes + b" " * fault.size_bytes
        case FaultKind.BAD_CHUNKS:
            return b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\nhello\r\n0\r\n\r\n"
        case FaultKind.REDIRECT:
            location = fault.location.encode("ascii")
            return b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: %s\r\n\r\n" % location
        case FaultKind.BUSY:
            seconds = int(fault.delay_seconds)
            return b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\nRetry-After: %d\r\n\r\n" % seconds
        case FaultKind.DOWN:
            return b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
        case FaultKind.ENCODED:
            return b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n{}"
        case FaultKind.UNFRAMED:
            return b"HTTP/1.1 200 OK\r\n\r\n{}"
        case FaultKind.TWICE_FRAMED:
            return b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
        case FaultKind.SPLIT:
            return good + b'HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n"forged"'
    return good


def _rendered(answer: Answer) -> bytes:
    body = b"" if answer.body is None else json.dumps(answer.body, ensure_ascii=False).encode()
    head = f"HTTP/1.1 {answer.status} {_REASONS[answer.status]}\r\n"
    if answer.body is not None:
        head += f"Content-Type: application/json; charset=utf-8\r\nContent-Length: {len(body)}\r\n"
    head += "X-GitHub-Request-Id: 0000:0000\r\nSet-Cookie: session=of-the-upstream\r\nServer: github.com\r\n\r\n"
    return head.encode("ascii") + body


def _public(seen: SeenRequest) -> dict[str, object]:
    return {**structs.asdict(seen), "body": seen.body.decode("utf-8", "replace")}


async def _main(arguments: argparse.Namespace, token: str, planted: Planted) -> None:
    upstream = await EmbeddedUpstream.start(
        bodies=Path(arguments.bodies), token=token, planted=planted, port=arguments.port
    )
    upstream.fault = Fault(kind=FaultKind(arguments.fault), delay_seconds=arguments.delay_seconds)
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    # renamed into place, so a reader never sees half of it
    ready = Path(arguments.ready_file)
    written = ready.with_name(ready.name + ".new")
    written.write_text(json.dumps({"origin": upstream.origin, "pid": os.getpid()}), encoding="utf-8")
    written.replace(ready)
    await stopped.wait()
    await upstream.close()


def _read(path: str) -> str:
    return Path(path).read_text(encoding="utf-8").strip()


def main() -> None:
    """Serves until it is told to stop."""
    parser = argparse.ArgumentParser(description="a stand-in for the GitHub API, on loopback, for development")
    parser.add_argument("--bodies", required=True, help="folder of recorded answers")
    parser.add_argument("--token-file", required=True, help="file with the bearer token to accept")
    parser.add_argument("--ready-file", required=True, help="written once it listens: origin and pid as JSON")
    parser.add_argument("--port", type=int, default=0, help="TCP port; 0 for a free one")
    parser.add_argument("--secret-file", help="file with a text to plant in issue 13")
    parser.add_argument("--hidden", default="", help="ASCII text to hide in issue 13")
    parser.add_argument("--echo-credential", action="store_true", help="repeat the bearer in issue 13")
    parser.add_argument("--fault", default="none", choices=[kind.value for kind in FaultKind])
    parser.add_argument("--delay-seconds", type=float, default=0.0)
    arguments = parser.parse_args()
    secret = _read(arguments.secret_file) if arguments.secret_file else ""
    planted = Planted(secret=secret, hidden=arguments.hidden, echo_credential=arguments.echo_credential)
    asyncio.run(_main(arguments, _read(arguments.token_file), planted))


if __name__ == "__main__":
    main()
