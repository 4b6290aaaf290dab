"""``nomos bench``: measures on this machine, with servers and services of its own, and says what it measured with.

Exit 0: measured; 1: some requests were not answered as they should be, so the figures do not count; 2: no such
measurement; 3: something did not start.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Final

import msgspec
import uvloop

from nomos.cli.output import Exit, document, error, say
from nomos.errors import Misconfigured, Unavailable
from nomos_runtime.bench.authorize import CASES, CLIENTS_MAX, Row, measure
from nomos_runtime.bench.load import CLIENT
from nomos_runtime.bench.processor import machine
from nomos_runtime.bench.subject import Subject

#: What can be measured.
MEASUREMENTS: Final = ("authorize",)
IN_FLIGHT: Final = "1,8,64"
IN_FLIGHT_MAX: Final = 1_024
SECONDS: Final = 5.0
SECONDS_MAX: Final = 60.0
WARMUP_SECONDS: Final = 2.0
#: Load for each processor beyond which the machine is not ours.
BUSY: Final = 0.3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``bench``."""
    parser.add_argument("name", help="what to measure: " + ", ".join(MEASUREMENTS))
    parser.add_argument("--in-flight", default=IN_FLIGHT, metavar="N,N", help=f"requests at once (default {IN_FLIGHT})")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"for each row (default {SECONDS:g})")
    parser.add_argument("--connectors", metavar="DIR", default="connectors", help="the connector catalogue")


def run(args: argparse.Namespace) -> int:
    """Measures and prints a table, or one JSON document."""
    if args.name not in MEASUREMENTS:
        raise Misconfigured(f"there is no measurement {args.name}", hint="there is: " + ", ".join(MEASUREMENTS))
    if not 0 < args.seconds <= SECONDS_MAX:
        raise Misconfigured(f"--seconds must be above 0 and at most {SECONDS_MAX:g}")
    if not Path(args.connectors).is_dir():
        raise Misconfigured(f"there is no folder {args.connectors}", hint="--connectors DIR")
    in_flight = parse_in_flight(args.in_flight)
    with tempfile.TemporaryDirectory(prefix="nomos-bench-") as folder:
        members = {
            "name": args.name,
            "machine": machine(Path(folder)),
            "client": CLIENT,
            "warmup_seconds": WARMUP_SECONDS,
        }
        if os.getloadavg()[0] > BUSY * (os.cpu_count() or 1):
            say("nomos: the machine is busy with other work; the figures will be worse than it can do")
        try:
            rows = uvloop.run(_authorize(args, Path(folder), in_flight))
        except Unavailable as e:
            # The end of a log that is gone when the folder is.
            say(e.cause or "")
            raise
    if args.json:
        print(document("bench", {**members, "rows": [msgspec.to_builtins(row) for row in rows]}))
    else:
        _table(members, rows)
    if any(row.errors or not row.requests for row in rows):
        error("not every request was allowed, so these figures do not count")
        return Exit.NO
    return Exit.YES


def parse_in_flight(text: str) -> list[int]:
    """The numbers of ``1,8,64``.

    Raises:
        Misconfigured: not numbers of 1 to :data:`IN_FLIGHT_MAX`.
    """
    numbers = [int(part) if part.isascii() and part.isdigit() else 0 for part in text.split(",")]
    if not all(1 <= number <= IN_FLIGHT_MAX for number in numbers):
        raise Misconfigured(f"--in-flight takes numbers of 1 to {IN_FLIGHT_MAX}, separated by commas")
    return numbers


async def _authorize(args: argparse.Namespace, folder: Path, in_flight: list[int]) -> list[Row]:
    say("nomos: starting servers and services of its own")
    subject = await Subject.start(folder, Path(args.connectors), CLIENTS_MAX)
    rows = []
    try:
        for case in CASES:
            for number in in_flight:
                say(f"nomos: {case}, {number} in flight, {args.seconds:g} s")
                rows.append(await measure(subject, case, number, warmup_seconds=WARMUP_SECONDS, seconds=args.seconds))
    finally:
        await subject.stop()
    return rows


def _table(members: dict[str, object], rows: list[Row]) -> None:
    shown = [name for name in rows[0].cpu_us if any(row.cpu_us[name] >= 1 for row in rows)]
    print("machine  " + ", ".join(f"{k} {v}" for k, v in members["machine"].items()))  # type: ignore[attr-defined]
    print(f"client   {members['client']}")
    print(f"{'':<16}{'':>9}{'':>11}{'':>9}{'':>9}   microseconds of processor for each request")
    print(f"{'case':<16}{'in flight':>9}{'per second':>11}{'p50 ms':>9}{'p99 ms':>9}   "
          + "".join(f"{name:>12}" for name in shown))  # fmt: skip
    for row in rows:
        print(f"{row.case:<16}{row.in_flight:>9}{row.per_second:>11,.0f}{row.p50_ms:>9.2f}{row.p99_ms:>9.2f}   "
              + "".join(f"{row.cpu_us[name]:>12.0f}" for name in shown))  # fmt: skip
        if row.errors:
            print(f"{'':<16}not allowed: " + ", ".join(f"{name} {count}" for name, count in row.errors.items()))
