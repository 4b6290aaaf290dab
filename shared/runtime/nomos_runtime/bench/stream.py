"""The measurement ``stream``: live answers through the broker, against the same answers read directly.

Paced: events of 200 bytes, 100 a second on each stream, each with the time at which the upstream wrote it; what counts
is how late it is with the reader. Full: events of 1,000 bytes as fast as they are read. Upstream and reader are on one
machine and have one clock. Each stream is a call of its own: decided, minted, signed, journaled, recorded at its end.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec

from nomos.agent import Agent, Streaming
from nomos.bearer import seal_bearer
from nomos.creds import USER, Credentials, Nkey
from nomos.errors import NomosError, Unavailable
from nomos.keys import SigningKey
from nomos.operator import Operator
from nomos_runtime.bench.authorize import quantile
from nomos_runtime.bench.processor import processor_seconds
from nomos_runtime.bench.subject import Subject
from nomos_runtime.embedded.process import ServerProcess

TENANT: Final = "streams"
HOST: Final = "events.example"
SITE: Final = f"http:site/{HOST}"
ACTION: Final = "http:requests.get"
POLICY: Final = '@id("events") permit (principal, action == Action::"http:requests.get", resource);'
#: What each case asks the upstream for.
PATHS: Final = {"paced": "paced", "full": "full"}
QUERIES: Final = {"paced": {"rate": "100", "size": "200"}, "full": {"size": "1000"}}
READY_SECONDS: Final = 20.0
#: What is not counted at the beginning of a stream, seconds.
WARMUP_SECONDS: Final = 1.0
_AT: Final = re.compile(rb'"at_ns":(\d+)')


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the outcome.

    Attributes:
        case: ``direct`` or ``broker``, and ``paced`` or ``full``.
        streams: answers that are read at once.
        seconds: measured.
        errors: what ended a stream too early, by name.
        events_per_second: of all streams.
        mb_per_second: of all streams, 10^6 bytes.
        late_p50_ms: half of the events were with the reader no later than this after they were written.
        late_p99_ms: of a hundred, ninety-nine.
        cpu_us: processor time for each event, microseconds, by process.
    """

    case: str
    streams: int
    seconds: float
    errors: dict[str, int]
    events_per_second: float
    mb_per_second: float
    late_p50_ms: float
    late_p99_ms: float
    cpu_us: dict[str, float]


class _Reader:
    """Counts what comes of one stream."""

    def __init__(self, begins_at: float, ends_at: float) -> None:
        self._begins_at = begins_at
        self._ends_at = ends_at
        self._tail = b""
        self.late_us: list[int] = []
        self.size = 0

    def take(self, piece: bytes) -> bool:
        """Counts a piece; says whether to read on."""
        now, now_ns = time.monotonic(), time.time_ns()
        text = self._tail + piece
        # an event may be cut at the end of a piece
        end = text.rfind(b"\n\n") + 2
        self._tail = text[end:] if end > 1 else text
        if now >= self._begins_at:
            self.size += len(piece)
            whole = text[:end] if end > 1 else b""
            self.late_us += [(now_ns - int(at)) // 1_000 for at in _AT.findall(whole)]
        return now < self._ends_at


class Streams:
    """The upstream of events, and a tenant whose agent may read them."""

    def __init__(self, subject: Subject, folder: Path) -> None:
        self._subject = subject
        ready = folder / "events-ready"
        command = [sys.executable, "-m", "nomos_runtime.embedded.events", "--ready-file", str(ready)]
        self._upstream = ServerProcess("events", command, log=folder / "events.log")
        self._ready = ready
        self._origin = ""
        self._credentials: Credentials

    async def open(self) -> None:
        """Starts the upstream and makes tenant, agent, policy and connection."""
        await asyncio.to_thread(self._upstream.wait_until, self._ready.exists, READY_SECONDS)
        self._origin = str(json.loads(self._ready.read_text(encoding="utf-8"))["origin"])
        user, seed = Nkey.new(USER), os.urandom(32)
        async with await Operator.connect(self._subject.local.operator_creds) as operator:
            ask = operator.ask
            await ask("identity", "tenant-create", name=TENANT)
            await ask("identity", "app-create", TENANT, name="reader")
            did = SigningKey(seed).did
            made = await ask("identity", "agent-create", TENANT, app="reader", name="reader-bot", key=user.public,
                             did=did)  # fmt: skip
            await ask("policy", "put", TENANT, text=POLICY, why="measurement")
            key = str((await ask("proxy", "sealing-key", TENANT))["public_key"])
            bearer = seal_bearer(key, os.urandom(24).hex())
            await ask("proxy", "connection-add", TENANT, connector="http", name="http", host=HOST,
                      base_url=self._origin, sealed_bearer=bearer)  # fmt: skip
        self._credentials = Credentials(servers=(self._subject.local.nats.url,), role="agent", name="reader-bot",
                                        tenant=TENANT, jwt=str(made["jwt"]), user=user, agent_seed=seed)  # fmt: skip

    def close(self) -> None:
        """Ends the upstream."""
        self._upstream.stop(signal.SIGTERM)

    async def measure(self, way: str, case: str, streams: int, seconds: float) -> Row:
        """Measures one row."""
        begins_at = time.monotonic() + WARMUP_SECONDS
        readers = [_Reader(begins_at, begins_at + seconds) for _ in range(streams)]
        errors: dict[str, int] = {}
        async with self._opened(way) as read:

            async def one(reader: _Reader) -> None:
                try:
                    await read(case, reader)
                except (NomosError, OSError, EOFError) as e:
                    name = e.code if isinstance(e, NomosError) else type(e).__name__
                    errors[name] = errors.get(name, 0) + 1

            running = [asyncio.ensure_future(one(reader)) for reader in readers]
            await asyncio.sleep(WARMUP_SECONDS)
            before = self._cpu()
            await asyncio.sleep(seconds)
            after = self._cpu()
            await asyncio.gather(*running)
        late = sorted(one for reader in readers for one in reader.late_us)
        spent = {name: after[name] - before[name] for name in after}
        return Row(
            case=f"{way}, {case}",
            streams=streams,
            seconds=seconds,
            errors=errors,
            events_per_second=round(len(late) / seconds, 1),
            mb_per_second=round(sum(reader.size for reader in readers) / seconds / 1e6, 3),
            late_p50_ms=round(quantile(late, 0.50) / 1000, 3),
            late_p99_ms=round(quantile(late, 0.99) / 1000, 3),
            cpu_us={name: round(took * 1e6 / max(len(late), 1), 1) for name, took in spent.items()},
        )

    @asynccontextmanager
    async def _opened(self, way: str) -> AsyncIterator[Callable[[str, _Reader], Awaitable[None]]]:
        if way == "direct":
            yield self._directly
            return
        async with Agent.connect(self._credentials) as agent:
            yield lambda case, reader: _through_broker(agent, case, reader)

    async def _directly(self, case: str, reader: _Reader) -> None:
        place = urlsplit(self._origin)
        from_, to = await asyncio.open_connection(place.hostname, place.port)
        query = "&".join(f"{name}={value}" for name, value in QUERIES[case].items())
        to.write(f"GET /{PATHS[case]}?{query} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        try:
            await from_.readuntil(b"\r\n\r\n")
            while True:
                size = int((await from_.readuntil(b"\r\n"))[:-2], 16)
                if not reader.take((await from_.readexactly(size + 2))[:-2]):
                    return
        finally:
            to.close()
            with suppress(OSError):
                await to.wait_closed()

    def _cpu(self) -> dict[str, float]:
        pids = self._subject.pids | {"events": self._upstream.pid, "reader": os.getpid()}
        return {name: processor_seconds(pid) for name, pid in pids.items()}


async def _through_broker(agent: Agent, case: str, reader: _Reader) -> None:
    args = {"path": PATHS[case], "query": QUERIES[case]}
    async with agent.stream(ACTION, SITE, args) as answer:
        if not isinstance(answer, Streaming):
            raise Unavailable("the stream was not allowed")
        async for piece in answer:
            if not reader.take(piece):
                return


def table(rows: Sequence[Row]) -> list[str]:
    """The outcome as lines."""
    shown = [name for name in rows[0].cpu_us if any(row.cpu_us[name] >= 1 for row in rows)]
    lines = [
        f"{'case':<15}{'streams':>8}{'events/s':>10}{'MB/s':>8}{'late p50 ms':>13}{'late p99 ms':>13}"
        "   microseconds of processor for each event"
    ]
    for row in rows:
        spent = ", ".join(f"{name} {row.cpu_us[name]:.0f}" for name in shown if row.cpu_us[name] >= 1)
        lines.append(
            f"{row.case:<15}{row.streams:>8}{row.events_per_second:>10,.0f}{row.mb_per_second:>8.2f}"
            f"{row.late_p50_ms:>13.2f}{row.late_p99_ms:>13.2f}   {spent}"
        )
        if row.errors:
            lines.append("        ended early: " + ", ".join(f"{name} {count}" for name, count in row.errors.items()))
    return lines
