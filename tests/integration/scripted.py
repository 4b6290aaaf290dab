"""An upstream whose answers a test writes while they are read: chunk by chunk, or without end. Loopback only."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

HEAD_BYTES_MAX = 32_768


class Answering:
    """One answer under way, in the hands of the test's script."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, head: bytes) -> None:
        self._reader = reader
        self._writer = writer
        self.request_line, *fields = head.decode("latin-1").rstrip().split("\r\n")
        #: Fields of the request's head, names in lower case.
        self.fields = {name.lower(): value for name, _, value in (field.partition(": ") for field in fields)}
        #: Bytes of bodies that the peer's socket took.
        self.sent = 0

    async def body(self) -> bytes:
        """The body of the request."""
        return await self._reader.readexactly(int(self.fields.get("content-length", "0")))

    async def head(self, content_type: str, *, length: int | None = None, status: str = "200 OK") -> None:
        framing = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
        self._writer.write(f"HTTP/1.1 {status}\r\nContent-Type: {content_type}\r\n{framing}\r\n\r\n".encode())
        await self._writer.drain()

    async def chunk(self, data: bytes) -> None:
        self._writer.write(b"%x\r\n%s\r\n" % (len(data), data))
        await self._writer.drain()
        self.sent += len(data)

    async def end(self) -> None:
        self._writer.write(b"0\r\n\r\n")
        await self._writer.drain()

    async def raw(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()
        self.sent += len(data)

    async def gone(self) -> None:
        """Waits until the peer has closed."""
        await self._reader.read()

    def is_gone(self) -> bool:
        return self._writer.is_closing() or self._reader.at_eof()


Script = Callable[[Answering], Awaitable[None]]


class ScriptedUpstream:
    """A server that answers each request with the script that is set. Use with ``async with``."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.answers: list[Answering] = []
        self.bearers: list[str] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, limit=HEAD_BYTES_MAX)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            answering = Answering(reader, writer, head)
            if "authorization" in answering.fields:
                self.bearers.append(answering.fields["authorization"])
            self.answers.append(answering)
            await self.script(answering)
        except (OSError, asyncio.IncompleteReadError):
            pass  # the peer left, which a script may be about
        finally:
            writer.close()
            self._tasks.discard(task)
