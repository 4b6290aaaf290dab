"""The measurement ``verify``: how fast the offline verifier is, in how much memory, and how both grow.

Each row is one run of the command ``nomos verify`` in a process of its own, start-up included, over a synthetic log.
Two floors are measured in the same run, so that figures of two machines can be compared: hashing the same records in a
chain with nothing else, and reading them from the files with nothing else.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path
from typing import Final

import msgspec

from nomos.cli.output import say
from nomos.errors import Misconfigured, Unavailable
from nomos.log.parts import Part
from nomos.log.reading import read_index
from nomos_runtime.bench.synthetic import TENANTS, records, write_log

LEVELS: Final = (0, 1, 2)
WORKERS: Final = (1, 2)
RECORDS_MAX: Final = 20_000_000
#: Bytes on disk for each record, at most; what is free must be more.
DISK_BYTES: Final = 400
FLOOR_RECORDS: Final = 200_000
#: One run may take so long, seconds.
RUN_SECONDS: Final = 600.0
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_LOOK_SECONDS: Final = 0.02


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the outcome.

    Attributes:
        case: ``verify``, or the floors ``hash`` and ``read``.
        records: in the log.
        level: of the verification; 0 for a floor.
        workers: processes that judge records.
        seconds: from start to exit.
        per_second: records a second.
        memory_mib: the largest resident size of the process and its children together, MiB; 0 for a floor.
        errors: why the figure does not count.
    """

    case: str
    records: int
    level: int
    workers: int
    seconds: float
    per_second: float
    memory_mib: int
    errors: dict[str, int] = {}


def measure(folder: Path, sizes: list[int]) -> list[Row]:
    """Writes a log of each size into ``folder`` and verifies it; the log is removed when the next is written.

    Raises:
        Misconfigured: there is not enough room on the disk.
        Unavailable: a run did not end in time.
    """
    rows: list[Row] = []
    for size in sizes:
        _check_room(folder, size)
        say(f"nomos: writing a log of {size:,} records of {TENANTS} tenants")
        export, trust = folder / f"log-{size}", folder / "trust.txt"
        trust.write_bytes(write_log(export, size))
        if size == min(sizes):
            rows.append(_hash_floor())
        rows.append(_read_floor(export, size))
        for level in LEVELS:
            for workers in WORKERS if level else WORKERS[:1]:
                say(f"nomos: verify level {level}, {workers} processes")
                rows.append(_run(export, trust, size, level, workers))
        for path in sorted(export.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        export.rmdir()
    return rows


def _check_room(folder: Path, size: int) -> None:
    found = os.statvfs(folder)
    if found.f_bavail * found.f_frsize < size * DISK_BYTES:
        raise Misconfigured(f"{size:,} records need {size * DISK_BYTES >> 20:,} MiB of disk")


def _hash_floor() -> Row:
    ready = [row.record for row in records(FLOOR_RECORDS)]
    head = bytes(32)
    began = time.perf_counter()
    for record in ready:
        head = sha256(head.hex().encode() + record).digest()
    return _row("hash", FLOOR_RECORDS, 0, 1, time.perf_counter() - began)


def _read_floor(export: Path, size: int) -> Row:
    began = time.perf_counter()
    seen = 0
    for entry in read_index(export).files:
        with Part(export / entry.n, with_prev=False) as part:
            for group in range(part.groups):
                seen += len(part.read(group))
    return _row("read", seen, 0, 1, time.perf_counter() - began, errors={} if seen == size else {"records": seen})


def _run(export: Path, trust: Path, size: int, level: int, workers: int) -> Row:
    words = ["verify", str(export), "--trust", str(trust), "--level", str(level), "--workers", str(workers), "--json"]
    began = time.perf_counter()
    with subprocess.Popen(  # noqa: S603  # our own command
        [sys.executable, "-m", "nomos.cli.main", *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        largest = 0
        while process.poll() is None:
            largest = max(largest, _resident(process.pid))
            if time.perf_counter() - began > RUN_SECONDS:
                process.kill()
                raise Unavailable(f"a verification did not end in {RUN_SECONDS:g} s")
            time.sleep(_LOOK_SECONDS)
        seconds = time.perf_counter() - began
        assert process.stdout is not None
        report = process.stdout.read()
    said = msgspec.json.decode(report, type=dict[str, object]) if report else {}
    verdict = str(said.get("verdict", "nothing"))
    errors = {} if verdict == "verified" else {verdict: 1}
    return _row("verify", size, level, workers, seconds, memory=largest, errors=errors)


def _row(
    case: str,
    number: int,
    level: int,
    workers: int,
    seconds: float,
    *,
    memory: int = 0,
    errors: dict[str, int] | None = None,
) -> Row:
    return Row(
        case=case,
        records=number,
        level=level,
        workers=workers,
        seconds=seconds,
        per_second=number / seconds,
        memory_mib=memory >> 20,
        errors=errors or {},
    )


def _resident(parent: int) -> int:
    """Resident bytes of a process and its children. What has just ended counts as nothing."""
    total = 0
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            fields = (folder / "stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
            if folder.name == str(parent) or int(fields[1]) == parent:
                total += int(fields[21]) * _PAGE
        except (OSError, IndexError, ValueError):
            continue
    return total


def table(rows: list[Row]) -> list[str]:
    """The outcome as lines, each with its ratio to hashing alone."""
    floor = next(row.per_second for row in rows if row.case == "hash")
    header = ("case", "records", "level", "processes", "seconds", "records/s", "of hashing", "MiB")
    lines = [f"{header[0]:<8}" + "".join(f"{one:>12}" for one in header[1:])]
    for row in rows:
        columns = (
            f"{row.records:,}",
            "" if row.case != "verify" else str(row.level),
            str(row.workers),
            f"{row.seconds:.2f}",
            f"{row.per_second:,.0f}",
            f"{row.per_second / floor:.2f}",
            f"{row.memory_mib:,}" if row.memory_mib else "",
        )
        lines.append(f"{row.case:<8}" + "".join(f"{one:>12}" for one in columns))
        lines += [f"{'':<8}not verified: {name}" for name in row.errors]
    return lines
