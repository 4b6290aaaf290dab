"""A local HTTP server that answers every request with events (SSE), for measurements; loopback only.

Each event carries the time at which it was written. ``GET /paced?rate=N`` writes N events a second, ``GET /full`` as
many as its peer takes; both until the peer leaves.
Run alone: ``python -m nomos_runtime.embedded.events --ready-file FILE``.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import time
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, urlsplit

HOST: Final = "127.0.0.1"
HEAD_BYTES_MAX: Final = 32_768
#: Events that are written at once where nothing paces them.
_AT_ONCE: Final = 64
_HEAD: Final = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
#: What a model says, in tokens; no secret is like it.
_WORDS: Final = "the answer goes on with a few more words about the same matter and then one further "


def event(size_bytes: int) -> bytes:
    """One event of about this size, with the time of now."""
    text = (_WORDS * (size_bytes // len(_WORDS) + 1))[:size_bytes]
    return b"data: %s\n\n" % json.dumps({"at_ns": time.time_ns(), "text": text}, separators=(",", ":")).encode()


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers one request, and closes with its peer."""
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        target = urlsplit(head.split(" ", 2)[1])
        asked = {name: int(values[0]) for name, values in parse_qs(target.query).items()}
        writer.write(_HEAD)
        if target.path == "/paced":
            await _paced(writer, asked.get("rate", 100), asked.get("size", 200))
        else:
            await _full(writer, asked.get("size", 1_000))
    except (OSError, EOFError, asyncio.LimitOverrunError, ValueError, IndexError):
        # the peer left, or sent what is no request: for a stand-in server that is the end of the connection
        writer.transport.abort()
    finally:
        writer.close()


async def _paced(writer: asyncio.StreamWriter, rate: int, size_bytes: int) -> None:
    loop = asyncio.get_running_loop()
    due = loop.time()
    while not writer.is_closing():
        one = event(size_bytes)
        writer.write(b"%x\r\n%s\r\n" % (len(one), one))
        await writer.drain()
        due += 1 / rate
        await asyncio.sleep(max(due - loop.time(), 0))


async def _full(writer: asyncio.StreamWriter, size_bytes: int) -> None:
    while not writer.is_closing():
        many = b"".join(event(size_bytes) for _ in range(_AT_ONCE))
        writer.write(b"%x\r\n%s\r\n" % (len(many), many))
        await writer.drain()


async def _main(ready_file: str) -> None:
    server = await asyncio.start_server(serve, HOST, 0, limit=HEAD_BYTES_MAX)
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    # renamed into place, so a reader never sees half of it
    ready = Path(ready_file)
    written = ready.with_name(ready.name + ".new")
    origin = f"http://{HOST}:{server.sockets[0].getsockname()[1]}"
    written.write_text(json.dumps({"origin": origin, "pid": os.getpid()}), encoding="utf-8")
    written.replace(ready)
    await stopped.wait()
    server.close()


def main() -> None:
    """Serves until it is told to stop."""
    parser = argparse.ArgumentParser(description="an upstream that answers with events, on loopback, for measurements")
    parser.add_argument("--ready-file", required=True, help="written once it listens: origin and pid as JSON")
    asyncio.run(_main(parser.parse_args().ready_file))


if __name__ == "__main__":
    main()
