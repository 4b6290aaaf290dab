"""The measurement ``authorize``: from an agent's request to its delegation, decided, signed and durable.

Each row is one number of requests in flight, from load processes of their own. Warm-up and measurement are separate;
the processor time of every process is read at both ends of the measurement.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Sequence
from typing import Final

import msgspec

from nomos.errors import Unavailable
from nomos_runtime.bench.load import Load, Measured
from nomos_runtime.bench.processor import all_seconds, processor_seconds
from nomos_runtime.bench.subject import Subject
from nomos_runtime.embedded.process import launch_command

#: Load processes at once; each has an agent of its own.
CLIENTS_MAX: Final = 2
READY_SECONDS: Final = 20.0
#: How long a load process may take beyond its measurement.
LATE_SECONDS: Final = 15.0
#: One answer of a load process: a number for each request of a minute.
_LINE_BYTES_MAX: Final = 64 << 20

#: Case -> whether each request is new.
CASES: Final = {"allow": False, "allow, all new": True}


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the outcome.

    Attributes:
        case: ``allow`` repeats over a working set, as agents do; ``allow, all new`` never repeats a resource.
        in_flight: requests at once, over all load processes.
        clients: load processes.
        seconds: measured.
        requests: answered with allow.
        errors: anything else, by name.
        per_second: requests a second.
        p50_ms: half of the requests took no longer.
        p99_ms: of a hundred, ninety-nine took no longer.
        cpu_us: processor time for each request, microseconds, by process.
    """

    case: str
    in_flight: int
    clients: int
    seconds: float
    requests: int
    errors: dict[str, int]
    per_second: float
    p50_ms: float
    p99_ms: float
    cpu_us: dict[str, float]


def quantile(ordered: Sequence[int], share: float) -> int:
    """The smallest value that at least ``share`` of ``ordered`` (rising) do not exceed; 0 of nothing."""
    if not ordered:
        return 0
    return ordered[min(max(-(-int(share * 1_000_000) * len(ordered) // 1_000_000) - 1, 0), len(ordered) - 1)]


async def measure(subject: Subject, case: str, in_flight: int, *, warmup_seconds: float, seconds: float) -> Row:
    """Measures one row.

    Raises:
        Unavailable: a load process does not start, or gives no outcome.
    """
    load = Load(creds="", in_flight=0, warmup_seconds=warmup_seconds, seconds=seconds, is_new=CASES[case])
    measured, cpu = await run_load(subject, load, in_flight)
    return _row(case, in_flight, measured, cpu)


async def run_load(subject: Subject, load: Load, in_flight: int) -> tuple[list[Measured], dict[str, float]]:
    """Runs a load in processes of its own.

    Args:
        subject: what is loaded; its agents are the load's.
        load: what to do; ``creds`` and ``in_flight`` are filled in here.
        in_flight: requests at once, over all processes.

    Returns:
        What each load process measured, and the processor seconds of the measurement by process.

    Raises:
        Unavailable: a load process does not start, or gives no outcome.
    """
    clients = min(CLIENTS_MAX, in_flight)
    shares = [in_flight // clients + (number < in_flight % clients) for number in range(clients)]
    loads = [
        msgspec.structs.replace(load, creds=str(creds), in_flight=share)
        for creds, share in zip(subject.creds, shares, strict=False)
    ]
    warmup_seconds, seconds = load.warmup_seconds, load.seconds
    running = [await _start(load) for load in loads]
    try:
        for process in running:
            await _ready(process)
        for process in running:
            _write(process, b"go\n")
        await asyncio.sleep(warmup_seconds)
        before = _cpu(subject, running)
        await asyncio.sleep(seconds)
        after = _cpu(subject, running)
        measured = [await _outcome(process) for process in running]
    finally:
        for process in running:
            await _end(process)
    return measured, {name: after[name] - before[name] for name in after}


def _row(case: str, in_flight: int, measured: Sequence[Measured], cpu: dict[str, float]) -> Row:
    latencies = sorted(one for m in measured for one in m.latencies_us)
    errors: dict[str, int] = {}
    for m in measured:
        for name, count in m.errors.items():
            errors[name] = errors.get(name, 0) + count
    seconds = measured[0].seconds
    return Row(
        case=case,
        in_flight=in_flight,
        clients=len(measured),
        seconds=seconds,
        requests=len(latencies),
        errors=errors,
        per_second=round(len(latencies) / seconds, 1),
        p50_ms=round(quantile(latencies, 0.50) / 1000, 3),
        p99_ms=round(quantile(latencies, 0.99) / 1000, 3),
        cpu_us={name: round(spent * 1e6 / max(len(latencies), 1), 1) for name, spent in cpu.items()},
    )


def _cpu(subject: Subject, running: Sequence[asyncio.subprocess.Process]) -> dict[str, float]:
    found = all_seconds(subject.pids, subject.families)
    return found | {"clients": sum(processor_seconds(process.pid) for process in running)}


async def _start(load: Load) -> asyncio.subprocess.Process:
    command = [sys.executable, "-m", "nomos_runtime.bench.load"]
    process = await asyncio.create_subprocess_exec(
        *launch_command(command, on_parent_death=signal.SIGKILL, identity="user"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=_LINE_BYTES_MAX,
    )
    _write(process, msgspec.json.encode(load) + b"\n")
    return process


def _write(process: asyncio.subprocess.Process, line: bytes) -> None:
    assert process.stdin is not None
    process.stdin.write(line)


async def _read(process: asyncio.subprocess.Process, seconds: float, what: str) -> bytes:
    assert process.stdout is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), seconds)
    except TimeoutError as e:
        raise Unavailable(f"a load process gave no {what} in {seconds:g} s") from e
    if not line:
        raise Unavailable(f"a load process ended before its {what}")
    return line


async def _ready(process: asyncio.subprocess.Process) -> None:
    await _read(process, READY_SECONDS, "ready")


async def _outcome(process: asyncio.subprocess.Process) -> Measured:
    try:
        return msgspec.json.decode(await _read(process, LATE_SECONDS, "outcome"), type=Measured)
    except msgspec.DecodeError as e:
        raise Unavailable("a load process gave no outcome that can be read", cause=str(e)) from e


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        assert process.stdin is not None
        process.stdin.close()
        try:
            await asyncio.wait_for(process.wait(), 1.0)
        except TimeoutError:
            process.kill()
            await process.wait()
