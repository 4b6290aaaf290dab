"""The measurement ``audit``: how fast journalled events become the log, and whether its copies keep up.

Each row has servers of its own (embedded, every write synced), a journal that is full beforehand, and one process that
does what the audit service does: the same objects, in one event loop. The clock starts when the writer does and stops
when the last event of the journal is durable in ``CHAIN``; how far each copy is at that moment, and how long it needs
after it, stands beside. In the steady rows the journal is filled while the log runs, :data:`STEADY_PER_SECOND` events a
second, and the furthest that each copy falls behind what is durable stands beside: whether it keeps up.
Two floors are measured in the same run: canonical bytes alone, and the chain alone.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

import msgspec
import nats
import uvloop
from nats.aio.client import Client

from nomos.cli.output import say
from nomos.errors import Unavailable
from nomos.events import Actor, Envelope, encode_batch, encode_envelope
from nomos.log.record import canonical_bytes
from nomos_audit.archiver import GRACE_SECONDS
from nomos_audit.log import AuditLog
from nomos_audit.projections import MIGRATIONS
from nomos_audit.store.folder import FolderStore
from nomos_runtime.bench.synthetic import TENANTS, sample
from nomos_runtime.commands.bench import parse_numbers
from nomos_runtime.database import Database
from nomos_runtime.local import Local

ORIGIN: Final = "nomos.localhost/bench"
RECORDS: Final = "10000,100000"
RECORDS_MAX: Final = 10_000_000
#: Events of one journal message: what 64 requests in flight collect, and what a full message holds.
BATCHES: Final = (28, 256)
PRODUCERS: Final = 4
FLOOR_RECORDS: Final = 20_000
#: Journal messages whose answers are waited for at once while it is filled.
IN_FLIGHT: Final = 64
#: One row may take so long, seconds.
ROW_SECONDS: Final = 300.0
#: 2026-11-22 00:00 UTC, for the writer and the archiver: the day is open, its parts are written as it grows.
NOW: Final = 1_795_305_600_000_000

#: Case -> the parts that run beside the writer.
CASES: Final[dict[str, tuple[str, ...]]] = {
    "writer": (),
    "writer, table": ("table",),
    "writer, table, archive": ("table", "archive"),
    "signed, without copies": ("signer", "tenants", "tiles"),
    "everything": ("signer", "table", "tenants", "tiles", "archive"),
}
#: Events a second of the steady rows, and for how long: what the copies are to keep up with.
STEADY_PER_SECOND: Final = 20_000
STEADY_SECONDS: Final = 15
STEADY: Final[dict[str, tuple[str, ...]]] = {
    "steady, table": ("table",),
    "steady, table, archive": ("table", "archive"),
}


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the outcome.

    Attributes:
        case: which parts ran, or a floor.
        records: events journalled.
        batch: events of one journal message.
        seconds: until the last was durable in ``CHAIN``.
        per_second: records a second until then.
        cpu_us: processor time of the process for each record until every copy was there, microseconds.
        behind: records that each copy was behind at that moment; in a steady row the most that it ever was, from a
            third of the row's time on.
        after_seconds: what each copy needed after it.
        errors: why the figure does not count.
    """

    case: str
    records: int
    batch: int
    seconds: float
    per_second: float
    cpu_us: float
    behind: dict[str, int] = {}
    after_seconds: dict[str, float] = {}
    errors: dict[str, int] = {}


class AuditBench:
    """The writer of the log with its copies (:class:`nomos_runtime.commands.bench.Bench`)."""

    WITH: Final[dict[str, object]] = {"log": f"{TENANTS} tenants, {PRODUCERS} producers, records of about 700 bytes"}

    def run(self, args: argparse.Namespace, folder: Path) -> list[Row]:
        """Measures."""
        sizes = parse_numbers(args.records or RECORDS, "--records", RECORDS_MAX)
        rows = _floors()
        for size in sizes:
            for batch in BATCHES:
                for case in CASES if batch == BATCHES[0] or size == max(sizes) else ("writer",):
                    say(f"nomos: {case}, {size:,} records, {batch} in a message")
                    place = folder / f"{len(rows)}"
                    rows.append(uvloop.run(_measure(place, Path(args.connectors), case, size, batch)))
        for case in STEADY:
            size = STEADY_SECONDS * STEADY_PER_SECOND
            say(f"nomos: {case}, {STEADY_PER_SECOND:,} a second")
            rows.append(
                uvloop.run(
                    _measure(folder / f"{len(rows)}", Path(args.connectors), case, size, BATCHES[-1], steady=True)
                )
            )
        return rows

    def lines(self, rows: list[Row]) -> list[str]:
        """The outcome as lines, each with its ratio to the chain alone."""
        floor = next(row.per_second for row in rows if row.case == "chain alone")
        lines = [f"{'case':<24}{'records':>10}{'batch':>7}{'seconds':>9}{'records/s':>11}{'of chain':>10}{'cpu us':>8}"]
        for row in rows:
            lines.append(
                f"{row.case:<24}{row.records:>10,}{row.batch or '':>7}{row.seconds:>9.2f}{row.per_second:>11,.0f}"
                f"{row.per_second / floor:>10.3f}{row.cpu_us:>8.1f}"
            )
            when = "at most" if row.case in STEADY else "at the end"
            for name, behind in row.behind.items():
                after = row.after_seconds.get(name, 0.0)
                lines.append(f"{'':<24}{name} {behind:,} records behind {when}, {after:.2f} s later there")
            lines += [f"{'':<24}{name}: {count}" for name, count in row.errors.items()]
        return lines


def _events(first: int, number: int) -> list[bytes]:
    made = []
    for at in range(first, first + number):
        members: dict[str, Any] = sample(f"tenant-{at % TENANTS:02d}")
        envelope = Envelope(
            id=f"ev_{at:032x}",
            type=members["type"],
            tenant=members["tenant"],
            actor=Actor(**members["actor"]),
            corr=members["corr"],
            cause="",
            event=members["event"],
        )
        made.append(encode_envelope(envelope))
    return made


def _floors() -> list[Row]:
    objects = [sample(f"tenant-{at % TENANTS:02d}") for at in range(FLOOR_RECORDS)]
    began = time.perf_counter()
    ready = [canonical_bytes(one) for one in objects]
    canonical = time.perf_counter() - began
    head = bytes(32)
    began = time.perf_counter()
    for one in ready:
        head = sha256(head.hex().encode() + one).digest()
    chain = time.perf_counter() - began
    return [
        Row(
            case=case,
            records=FLOOR_RECORDS,
            batch=0,
            seconds=s,
            per_second=FLOOR_RECORDS / s,
            cpu_us=s / FLOOR_RECORDS * 1e6,
        )
        for case, s in (("canonical bytes alone", canonical), ("chain alone", chain))
    ]


async def _measure(folder: Path, connectors: Path, case: str, size: int, batch: int, *, steady: bool = False) -> Row:
    local = Local(folder, connectors=connectors)
    await local.start()
    try:
        installation = local.installation
        assert installation is not None
        account = installation.accounts["AUDIT"]
        client = await nats.connect(
            local.nats.url, user_credentials=str(installation.creds_path("audit")), inbox_prefix=b"_INBOX.audit"
        )
        try:
            messages = _messages(size, batch)
            if not steady:
                await _fill(client, account, messages)
                messages = []
            return await _run(client, local.environment("audit"), account, folder, case, size, batch, messages)
        finally:
            await client.close()
    finally:
        local.stop()


def _messages(size: int, batch: int) -> list[bytes]:
    """The journal's messages, each of one of the producers in turn."""
    counters = [0] * PRODUCERS
    made = []
    for place, first in enumerate(range(0, size, batch)):
        events, number = _events(first, min(batch, size - first)), place % PRODUCERS
        made.append(encode_batch(f"bench-{number}", counters[number], events))
        counters[number] += len(events)
    return made


async def _fill(client: Client, account: str, messages: list[bytes]) -> None:
    """Puts the events into the journal, each producer's in order."""

    async def producer(number: int) -> None:
        for message in messages[number::PRODUCERS]:
            await _journal(client, account, message)

    await asyncio.gather(*(producer(number) for number in range(PRODUCERS)))


async def _feed(client: Client, account: str, messages: list[bytes], batch: int) -> None:
    """Puts the events into the journal at a steady pace; one that is late is not left out."""
    began = time.perf_counter()
    for place, message in enumerate(messages):
        wait = began + place * batch / STEADY_PER_SECOND - time.perf_counter()
        if wait > 0:
            await asyncio.sleep(wait)
        await _journal(client, account, message)


async def _lag(log: AuditLog, reached: dict[str, Callable[[], int]], furthest: dict[str, int], size: int) -> None:
    """Looks how far each copy is behind what is durable, from a third of the row on, when all have begun."""

    def written() -> int:
        return 0 if log.writer.head is None else log.writer.head.size

    await _until(lambda: written() >= size // 3, [])
    while True:
        for name, most in furthest.items():
            furthest[name] = max(most, written() - reached[name]())
        await asyncio.sleep(0.05)


async def _journal(client: Client, account: str, message: bytes) -> None:
    reply = await client.request(f"intake.{account}.batch", message, timeout=10)
    if b'"seq"' not in reply.data:
        raise Unavailable("the journal refused a message", cause=reply.data.decode("utf-8", "replace")[:200])


async def _run(  # noqa: PLR0917 - the servers, and what to measure on them
    client: Client,
    env: dict[str, str],
    account: str,
    folder: Path,
    case: str,
    size: int,
    batch: int,
    messages: list[bytes],
) -> Row:
    parts = {**CASES, **STEADY}[case]
    database = await Database.open("audit", env["NOMOS_DATABASE_URL"])
    try:
        await database.migrate(MIGRATIONS)
        log = await AuditLog.open(
            client,
            database,
            origin=ORIGIN,
            seed=os.urandom(32),
            writer_id="bench",
            services={account: "policy"},
            now=lambda: NOW,
            tiles=folder / "tiles",
        )
        if "archive" in parts:

            async def journal(kind: str, event: dict[str, Any]) -> None:
                raise Unavailable("the day does not end within a measurement")

            log.archive(
                FolderStore(folder / "archive"),
                blinding_key=bytes(32),
                journal=journal,
                now=lambda: NOW,
                tool="nomos bench",
                grace_seconds=GRACE_SECONDS,
            )
        try:
            feeding = asyncio.create_task(_feed(client, account, messages, batch)) if messages else None
            return await _watch(log, parts, case, size, batch, feeding)
        finally:
            await log.close()
    finally:
        await database.close()


async def _watch(  # noqa: PLR0917 - what runs, and what is looked for
    log: AuditLog, parts: tuple[str, ...], case: str, size: int, batch: int, feeding: asyncio.Task[None] | None
) -> Row:
    reached: dict[str, Callable[[], int]] = {
        "table": lambda: log.table.size,
        "tenants": lambda: log.tenants.size,
        "signer": lambda: log.signer.size,
        "tiles": lambda: log.tiles.files.size,
        "archive": lambda: 0 if log.archiver is None else log.archiver.gathered,
    }
    running = [asyncio.create_task(log.writer.run())]
    for name in parts:
        part = {"archive": log.archiver, "table": log.table, "tenants": log.tenants, "signer": log.signer}.get(
            name, log.tiles
        )
        assert part is not None
        running.append(asyncio.create_task(part.run()))
    began, used = time.perf_counter(), _processor()
    furthest: dict[str, int] = dict.fromkeys(parts, 0)
    if feeding is not None:
        running += [feeding, asyncio.create_task(_lag(log, reached, furthest, size))]
    try:
        await _until(lambda: log.writer.head is not None and log.writer.head.size >= size, running)
        seconds = time.perf_counter() - began
        behind = {name: size - min(reached[name](), size) for name in parts} if feeding is None else furthest
        after: dict[str, float] = {}
        ended = time.perf_counter()
        while len(after) < len(parts):
            await _until(lambda: any(reached[n]() >= size for n in parts if n not in after), running)
            for name in parts:
                if name not in after and reached[name]() >= size:
                    after[name] = time.perf_counter() - ended
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    return Row(
        case=case,
        records=size,
        batch=batch,
        seconds=seconds,
        per_second=size / seconds,
        cpu_us=(_processor() - used) / size * 1e6,
        behind=behind,
        after_seconds=after,
    )


async def _until(condition: Callable[[], bool], running: list[asyncio.Task[None]]) -> None:
    until = time.monotonic() + ROW_SECONDS
    while not condition():
        for task in running:
            if task.done() and (task.cancelled() or task.exception() is not None):
                raise Unavailable("a part of the log ended", cause=repr(task.exception()))
        if time.monotonic() > until:
            raise Unavailable(f"a row did not end in {ROW_SECONDS:g} s")
        await asyncio.sleep(0.01)


def _processor() -> float:
    """Processor time of this process so far, seconds; its servers are processes of their own."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime
