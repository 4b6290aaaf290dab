"""``nomos bench``: measures on this machine, with servers and services of its own, and says what it measured with.

A measurement is an entry point of the group ``nomos.benches``: a module with :class:`Bench` as its face, so that a
service brings its own. Exit 0: measured; 1: some results are not as they should be, so the figures do not count; 2: no
such measurement; 3: something did not start.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Sequence
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final, Protocol

import msgspec

from nomos.cli.output import Exit, document, error, say
from nomos.errors import Misconfigured, Unavailable
from nomos_runtime.bench.processor import machine

IN_FLIGHT: Final = "1,8,64"
IN_FLIGHT_MAX: Final = 1_024
SECONDS: Final = 5.0
SECONDS_MAX: Final = 60.0
#: Load for each processor beyond which the machine is not ours.
BUSY: Final = 0.3


class Row(Protocol):
    """A line of an outcome: a struct, with what speaks against it."""

    @property
    def errors(self) -> dict[str, int]:
        """Why the line does not count, by name; empty where it does."""
        ...


class Bench(Protocol):
    """The face of a measurement."""

    #: What it measures with, for the reader.
    WITH: dict[str, object]

    def run(self, args: argparse.Namespace, folder: Path) -> Sequence[Row]:
        """Measures, with everything below ``folder``."""
        ...

    def lines(self, rows: Sequence[Row]) -> list[str]:
        """The outcome as lines."""
        ...


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``bench``."""
    parser.add_argument("name", help="what to measure: " + ", ".join(measurements()))
    parser.add_argument("--in-flight", default=IN_FLIGHT, metavar="N,N", help=f"requests at once (default {IN_FLIGHT})")
    parser.add_argument("--seconds", type=float, default=SECONDS, help=f"for each row (default {SECONDS:g})")
    parser.add_argument("--records", default="", metavar="N,N", help="sizes of the log (audit, verify)")
    parser.add_argument(
        "--bodies", metavar="DIR", default="tests/fixtures/github", help="the upstream's answers (call)"
    )
    parser.add_argument("--connectors", metavar="DIR", default="connectors", help="the connector catalogue")


def measurements() -> list[str]:
    """The names of what can be measured."""
    return sorted({point.name for point in entry_points(group="nomos.benches")})


def run(args: argparse.Namespace) -> int:
    """Measures and prints a table, or one JSON document."""
    bench = _find(args.name)
    if not 0 < args.seconds <= SECONDS_MAX:
        raise Misconfigured(f"--seconds must be above 0 and at most {SECONDS_MAX:g}")
    if not Path(args.connectors).is_dir():
        raise Misconfigured(f"there is no folder {args.connectors}", hint="--connectors DIR")
    with tempfile.TemporaryDirectory(prefix="nomos-bench-") as folder:
        members = {"name": args.name, "machine": machine(Path(folder)), **bench.WITH}
        if os.getloadavg()[0] > BUSY * (os.cpu_count() or 1):
            say("nomos: the machine is busy with other work; the figures will be worse than it can do")
        try:
            rows = bench.run(args, Path(folder))
        except Unavailable as e:
            # The end of a log that is gone when the folder is.
            say(e.cause or "")
            raise
    if args.json:
        print(document("bench", {**members, "rows": [msgspec.to_builtins(row) for row in rows]}))
    else:
        for name, value in members.items():
            told = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
            print(f"{name:<8} {told}")
        for line in bench.lines(rows):
            print(line)
    if any(row.errors for row in rows):
        error("not everything went as it should, so these figures do not count")
        return Exit.NO
    return Exit.YES


def _find(name: str) -> Bench:
    for point in entry_points(group="nomos.benches", name=name):
        bench: Bench = point.load()()
        return bench
    raise Misconfigured(f"there is no measurement {name}", hint="there is: " + ", ".join(measurements()))


def parse_numbers(text: str, what: str, most: int) -> list[int]:
    """The numbers of ``1,8,64``.

    Raises:
        Misconfigured: not numbers of 1 to ``most``.
    """
    numbers = [int(part) if part.isascii() and part.isdigit() else 0 for part in text.split(",")]
    if not all(1 <= number <= most for number in numbers):
        raise Misconfigured(f"{what} takes numbers of 1 to {most}, separated by commas")
    return numbers


def parse_in_flight(text: str) -> list[int]:
    """The numbers of ``--in-flight``.

    Raises:
        Misconfigured: not numbers of 1 to :data:`IN_FLIGHT_MAX`.
    """
    return parse_numbers(text, "--in-flight", IN_FLIGHT_MAX)
