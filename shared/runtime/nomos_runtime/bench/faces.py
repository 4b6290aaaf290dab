"""The measurements of this distribution, as ``nomos bench`` finds them (``nomos_runtime.commands.bench.Bench``)."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

import uvloop

from nomos.cli.output import say
from nomos_runtime.bench import authorize, call, stream, verify
from nomos_runtime.bench.load import CLIENT
from nomos_runtime.bench.subject import Subject
from nomos_runtime.bench.synthetic import TENANTS
from nomos_runtime.commands.bench import parse_in_flight, parse_numbers

WARMUP_SECONDS: Final = 2.0
#: Records of the logs that are verified, where none are asked for.
VERIFY_RECORDS: Final = "10000,100000,1000000"


class AuthorizeBench:
    """From an agent's request to its delegation."""

    WITH: Final[dict[str, object]] = {"client": CLIENT, "warmup_seconds": WARMUP_SECONDS}

    def run(self, args: argparse.Namespace, folder: Path) -> list[authorize.Row]:
        """Measures."""
        return uvloop.run(self._run(args, folder, parse_in_flight(args.in_flight)))

    async def _run(self, args: argparse.Namespace, folder: Path, in_flight: list[int]) -> list[authorize.Row]:
        say("nomos: starting servers and services of its own")
        subject = await Subject.start(folder, Path(args.connectors), authorize.CLIENTS_MAX)
        rows = []
        try:
            for case in authorize.CASES:
                for number in in_flight:
                    say(f"nomos: {case}, {number} in flight, {args.seconds:g} s")
                    rows.append(
                        await authorize.measure(
                            subject, case, number, warmup_seconds=WARMUP_SECONDS, seconds=args.seconds
                        )
                    )
        finally:
            await subject.stop()
        return rows

    def lines(self, rows: list[authorize.Row]) -> list[str]:
        """The outcome as lines."""
        shown = [name for name in rows[0].cpu_us if any(row.cpu_us[name] >= 1 for row in rows)]
        lines = [
            f"{'':<16}{'':>9}{'':>11}{'':>9}{'':>9}   microseconds of processor for each request",
            f"{'case':<16}{'in flight':>9}{'per second':>11}{'p50 ms':>9}{'p99 ms':>9}   "
            + "".join(f"{name:>12}" for name in shown),
        ]
        for row in rows:
            lines.append(
                f"{row.case:<16}{row.in_flight:>9}{row.per_second:>11,.0f}{row.p50_ms:>9.2f}{row.p99_ms:>9.2f}   "
                + "".join(f"{row.cpu_us[name]:>12.0f}" for name in shown)
            )
            if row.errors:
                told = ", ".join(f"{name} {count}" for name, count in row.errors.items())
                lines.append(f"{'':<16}not allowed: {told}")
        return lines


class VerifyBench:
    """The offline verifier over logs of several sizes."""

    WITH: Final[dict[str, object]] = {"log": f"{TENANTS} tenants, records of about 675 bytes"}

    def run(self, args: argparse.Namespace, folder: Path) -> list[verify.Row]:
        """Measures."""
        return verify.measure(folder, parse_numbers(args.records or VERIFY_RECORDS, "--records", verify.RECORDS_MAX))

    def lines(self, rows: list[verify.Row]) -> list[str]:
        """The outcome as lines."""
        return verify.table(rows)


class CallBench:
    """A call through the broker, against the same call made directly."""

    WITH: Final[dict[str, object]] = {
        "client": CLIENT,
        "warmup_seconds": WARMUP_SECONDS,
        "upstream": "recorded answers on loopback, in a process of its own, in Python",
    }

    def run(self, args: argparse.Namespace, folder: Path) -> list[call.Row]:
        """Measures."""
        return uvloop.run(self._run(args, folder, parse_in_flight(args.in_flight)))

    async def _run(self, args: argparse.Namespace, folder: Path, in_flight: list[int]) -> list[call.Row]:
        say("nomos: starting servers, services and an upstream of its own")
        bodies = Path(args.bodies)
        subject = await Subject.start(folder, Path(args.connectors), authorize.CLIENTS_MAX, broker_bodies=bodies)
        rows = []
        try:
            for number in dict.fromkeys(in_flight):
                for case in call.CASES:
                    say(f"nomos: {case}, {number} in flight, {args.seconds:g} s")
                    rows.append(
                        await call.measure(subject, case, number, warmup_seconds=WARMUP_SECONDS, seconds=args.seconds)
                    )
        finally:
            await subject.stop()
        return rows

    def lines(self, rows: list[call.Row]) -> list[str]:
        """The outcome as lines."""
        return call.table(rows)


class StreamBench:
    """Live answers through the broker, against the same read directly. ``--in-flight`` says how many at once."""

    #: An agent reads so many at once, and no more.
    STREAMS_MAX: Final = 8
    WITH: Final[dict[str, object]] = {
        "client": "nomos.Agent on uvloop, in this process",
        "upstream": "events on loopback, in a process of its own, in Python",
    }

    def run(self, args: argparse.Namespace, folder: Path) -> list[stream.Row]:
        """Measures."""
        numbers = dict.fromkeys(min(number, self.STREAMS_MAX) for number in parse_in_flight(args.in_flight))
        return uvloop.run(self._run(args, folder, list(numbers)))

    async def _run(self, args: argparse.Namespace, folder: Path, streams: list[int]) -> list[stream.Row]:
        say("nomos: starting servers, services and an upstream of its own")
        subject = await Subject.start(folder, Path(args.connectors), 0, broker_bodies=Path(args.bodies))
        source = stream.Streams(subject, folder)
        rows = []
        try:
            await source.open()
            for case in stream.PATHS:
                for number in streams:
                    for way in ("direct", "broker"):
                        say(f"nomos: {way}, {case}, {number} streams, {args.seconds:g} s")
                        rows.append(await source.measure(way, case, number, args.seconds))
        finally:
            source.close()
            await subject.stop()
        return rows

    def lines(self, rows: list[stream.Row]) -> list[str]:
        """The outcome as lines."""
        return stream.table(rows)
