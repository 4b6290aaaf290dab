"""The measurement ``call``: what the broker adds to a call, against the same request made directly to its upstream.

A row ``call`` is an authorization and its use: decided, minted, signed by the agent, verified, journaled, sent,
cleaned, journaled, answered. The load tells an authorization from its use; what happens inside a use the proxy tells
(:mod:`nomos_proxy.stages`). A row ``direct`` is the upstream's own time with the same number of requests in flight.
Both are measured in one run, so their difference and their ratio count and not the machine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final, Literal

import msgspec

from nomos_runtime.bench.authorize import quantile, run_load
from nomos_runtime.bench.load import Load, Measured
from nomos_runtime.bench.subject import Subject

#: More calls a second than this are not measured: each connection may make so many as its connector's rate says.
CALLS_PER_SECOND_MAX: Final = 4_000
CONNECTION_CALLS: Final = 5_000
#: What the table shows of the stages, in order, and how wide.
SHOWN: Final = {
    "authorize": 11,
    "invoke": 9,
    "checks": 8,
    "mark": 7,
    "attempt": 9,
    "upstream": 10,
    "sanitize": 10,
    "end": 7,
}
CASES: Final[tuple[Literal["direct", "call"], ...]] = ("direct", "call")


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the outcome.

    Attributes:
        case: ``direct`` or ``call``.
        in_flight: requests at once, over all load processes.
        seconds: measured.
        requests: answered with 200.
        errors: anything else, by name.
        per_second: requests a second.
        p50_ms: half of the requests took no longer.
        p99_ms: of a hundred, ninety-nine took no longer.
        stages_p50_ms: of a call, the median of its authorization and of its invocation as the load sees them, and of
            the proxy's stages inside the invocation: checks, mark, attempt (journal), upstream, sanitize and end
            (journal). Those of the warm-up are in them.
        cpu_us: processor time for each request, microseconds, by process.
    """

    case: str
    in_flight: int
    seconds: float
    requests: int
    errors: dict[str, int]
    per_second: float
    p50_ms: float
    p99_ms: float
    stages_p50_ms: dict[str, float]
    cpu_us: dict[str, float]


async def measure(
    subject: Subject, case: Literal["direct", "call"], in_flight: int, *, warmup_seconds: float, seconds: float
) -> Row:
    """Measures one row.

    Raises:
        Unavailable: a load process does not start, or gives no outcome.
    """
    many = math.ceil((warmup_seconds + seconds) * CALLS_PER_SECOND_MAX / CONNECTION_CALLS)
    connections = tuple(f"github-{in_flight}-{number}" for number in range(many if case == "call" else 0))
    if case == "call":
        await subject.add_connections(connections)
        await subject.stages()
    load = Load(
        creds="",
        in_flight=0,
        warmup_seconds=warmup_seconds,
        seconds=seconds,
        is_new=False,
        what=case,
        connections=connections,
        origin=subject.origin,
        token_file=str(subject.token_file),
    )
    measured, cpu = await run_load(subject, load, in_flight)
    return _row(case, in_flight, measured, cpu, await subject.stages() if case == "call" else {})


def _row(
    case: str, in_flight: int, measured: Sequence[Measured], cpu: dict[str, float], inner: dict[str, float]
) -> Row:
    latencies = sorted(one for m in measured for one in m.latencies_us)
    errors: dict[str, int] = {}
    for m in measured:
        for name, count in m.errors.items():
            errors[name] = errors.get(name, 0) + count
    stages = {
        name: sorted(one for m in measured for one in m.stages_us.get(name, [])) for name in measured[0].stages_us
    }
    told = {name: round(quantile(found, 0.50) / 1000, 3) for name, found in stages.items()}
    seconds = measured[0].seconds
    return Row(
        case=case,
        in_flight=in_flight,
        seconds=seconds,
        requests=len(latencies),
        errors=errors,
        per_second=round(len(latencies) / seconds, 1),
        p50_ms=round(quantile(latencies, 0.50) / 1000, 3),
        p99_ms=round(quantile(latencies, 0.99) / 1000, 3),
        stages_p50_ms=told | {name: round(took, 3) for name, took in inner.items()},
        cpu_us={name: round(spent * 1e6 / max(len(latencies), 1), 1) for name, spent in cpu.items()},
    )


def table(rows: Sequence[Row]) -> list[str]:
    """The outcome as lines; a call also says what it adds to the direct row with as many in flight."""
    direct = {row.in_flight: row.p50_ms for row in rows if row.case == "direct"}
    shown = [name for name in rows[0].cpu_us if any(row.cpu_us[name] >= 1 for row in rows)]
    lines = [
        f"{'case':<8}{'in flight':>9}{'per second':>11}{'p50 ms':>9}{'p99 ms':>9}{'added p50':>11}"
        + "".join(f"{name:>{width}}" for name, width in SHOWN.items())
        + "   microseconds of processor for each request"
    ]
    for row in rows:
        added = f"{row.p50_ms - direct[row.in_flight]:>11.2f}" if row.case == "call" else f"{'':>11}"
        stages = "".join(
            f"{row.stages_p50_ms[name]:>{width}.2f}" if name in row.stages_p50_ms else " " * width
            for name, width in SHOWN.items()
        )
        spent = ", ".join(f"{name} {row.cpu_us[name]:.0f}" for name in shown if row.cpu_us[name] >= 1)
        lines.append(
            f"{row.case:<8}{row.in_flight:>9}{row.per_second:>11,.0f}{row.p50_ms:>9.2f}{row.p99_ms:>9.2f}"
            f"{added}{stages}   {spent}"
        )
        if row.errors:
            lines.append("        not answered: " + ", ".join(f"{name} {count}" for name, count in row.errors.items()))
    return lines
