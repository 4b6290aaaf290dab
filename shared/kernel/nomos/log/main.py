"""``nomos verify`` without its argument parser: files in, report out, exit status back.

Decides the exit status: 0 verified, 1 tampered or incomplete, 2 usage, 3 cannot tell; what kind of thing was named (a
folder, a receipt, a proof of consistency); and how progress is shown on a terminal. Imports the verifier when it runs,
so that the command line starts fast; reads no network, no environment and no configuration.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TextIO

from nomos.errors import BadSignature, Malformed

if TYPE_CHECKING:
    from nomos.log.memory import Memory
    from nomos.log.report import Report

#: Processes, where none are asked for: one for each processor, and no more than this.
WORKERS_MAX: Final = 8
#: Below so many records a second process costs more than it saves.
WORKERS_RECORDS_MIN: Final = 200_000
#: Between two lines of progress.
PROGRESS_SECONDS: Final = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What the auditor asks for.

    Attributes:
        path: a folder (an archive, an export, a bundle) or a receipt's file.
        trust: the auditor's policy file; must not come from the export.
        level: 0, 1 or 2.
        json: whether to write one JSON object instead of lines.
        tenant: the tenant whose bundle (or record) this must be; None demands a whole log.
        strict: whether gaps that the log itself declares make it incomplete.
        workers: processes to use; 0 chooses by records and processors.
        state: the file of what earlier runs verified; None remembers nothing.
        full: whether to read all records, also those that an earlier run verified.
        record: the record of a receipt; None looks beside it.
        keys: people's keys that were disclosed (at level 2); None opens no sealed field.
        tsa_roots: certificates of whom the auditor trusts for time stamps; None leaves tokens unchecked.
        quiet: whether to show no progress on a terminal.
    """

    path: Path
    trust: Path
    level: int = 1
    json: bool = False
    tenant: str | None = None
    strict: bool = False
    workers: int = 0
    state: Path | None = None
    full: bool = False
    record: Path | None = None
    keys: Path | None = None
    tsa_roots: Path | None = None
    quiet: bool = False


class _Usage(Exception):
    """The arguments cannot be used; the message says why."""


def run_verify(demand: Demand, stdout: TextIO, stderr: TextIO) -> int:
    """Verifies and writes the report.

    Args:
        demand: what is asked for.
        stdout: takes the report.
        stderr: takes what is wrong with the arguments, and progress where it is a terminal.

    Returns:
        The exit status.
    """
    from nomos.log.memory import Memory  # noqa: PLC0415
    from nomos.log.report import EXIT_USAGE, Verdict, render_json, render_text  # noqa: PLC0415

    try:
        if _is_consistency(demand.path):
            return _run_consistency(demand, stdout)
        memory = None if demand.state is None else Memory.load(demand.state)
        report = _verify(demand, memory, stderr)
        if memory is not None and demand.state is not None and report.verdict is Verdict.VERIFIED:
            memory.save(demand.state)
    except _Usage as error:
        stderr.write(f"nomos verify: {error}\n")
        return EXIT_USAGE
    except Malformed as error:
        stderr.write(f"nomos verify: trust policy, keys, TSA roots, state or level: {error.detail}\n")
        return EXIT_USAGE
    except ModuleNotFoundError as error:
        stderr.write(f"nomos verify: {error.name} is not installed: install nomos-authz[verify]\n")
        return EXIT_USAGE
    except OSError as error:
        stderr.write(f"nomos verify: {error.filename or error}: {error.strerror or 'not a folder'}\n")
        return EXIT_USAGE
    stdout.write(render_json(report) if demand.json else render_text(report))
    return report.verdict.exit_code


def _verify(demand: Demand, memory: Memory | None, stderr: TextIO) -> Report:
    from nomos.log.erasure import parse_disclosure  # noqa: PLC0415
    from nomos.log.receiptfile import record_beside, verify_receipt_file  # noqa: PLC0415
    from nomos.log.trust import parse_trust  # noqa: PLC0415
    from nomos.log.verify import verify_export  # noqa: PLC0415

    trust = demand.trust.read_bytes()
    if demand.path.is_file():
        _check_is_receipt(demand.path)
        record = demand.record or record_beside(demand.path)
        return verify_receipt_file(
            demand.path,
            record,
            parse_trust(trust),
            demand.level,
            now=int(time.time()),
            tenant=demand.tenant,
            memory=memory,
        )
    if demand.record is not None:
        raise _Usage("--record goes with a receipt's file")
    _check_folder(demand.path)
    shown = None if demand.quiet or demand.json or not stderr.isatty() else Progress(stderr)
    try:
        return verify_export(
            demand.path,
            trust,
            demand.level,
            now=int(time.time()),
            tenant=demand.tenant,
            strict=demand.strict,
            workers=demand.workers or _workers(demand.path),
            memory=memory,
            full=demand.full,
            progress=shown,
            tsa_roots=None if demand.tsa_roots is None else demand.tsa_roots.read_bytes(),
            keys=None if demand.keys is None else parse_disclosure(demand.keys.read_bytes()),
        )
    finally:
        if shown is not None:
            shown.clear()


def _is_consistency(path: Path) -> bool:
    from nomos.log.consistency import is_consistency_file  # noqa: PLC0415

    if not path.is_file():
        return False
    with path.open("rb") as source:
        return is_consistency_file(source.read(32))


def _run_consistency(demand: Demand, stdout: TextIO) -> int:
    """Verifies a file of :mod:`nomos.log.consistency`; raises for arguments as the rest does."""
    from nomos.log import consistency  # noqa: PLC0415
    from nomos.log.note import NoKnownKey  # noqa: PLC0415
    from nomos.log.report import Verdict, render_continuity  # noqa: PLC0415
    from nomos.log.trust import parse_trust  # noqa: PLC0415

    trust = parse_trust(demand.trust.read_bytes())
    with demand.path.open("rb") as source:
        encoded = source.read(consistency.CONSISTENCY_BYTES_MAX + 1)
    try:
        found = consistency.verify_continues(consistency.parse_consistency(encoded), trust)
        verdict, reason = Verdict.VERIFIED, None
    except NoKnownKey as error:
        found, verdict, reason = None, Verdict.UNVERIFIABLE, error.detail
    except (Malformed, BadSignature) as error:
        found, verdict, reason = None, Verdict.TAMPERED, error.detail
    stdout.write(render_continuity(verdict, found, reason, json=demand.json))
    return verdict.exit_code


def _check_is_receipt(path: Path) -> None:
    if path.suffix == ".parquet":
        raise _Usage(f"{path}: one part of an archive proves nothing alone; name the folder that holds log.json")
    if path.name == "log.json":
        raise _Usage(f"{path}: name the folder, not its index")
    from nomos.log.proof import PROOF_HEADER  # noqa: PLC0415

    name = PROOF_HEADER.partition("@")[0].encode()
    with path.open("rb") as source:
        if source.read(len(name)) != name:
            raise _Usage(f"{path}: neither a folder nor a receipt nor a proof of consistency")


def _check_folder(path: Path) -> None:
    from nomos.log.index import INDEX_NAME  # noqa: PLC0415

    if path.is_dir() and not (path / INDEX_NAME).exists():
        inside = sorted(one.parent.name for one in path.glob(f"*/{INDEX_NAME}"))
        if inside:
            raise _Usage(f"{path} holds no log.json, but {path / inside[0]} does; name that folder")


def _workers(directory: Path) -> int:
    """As many processes as are worth it. The unsigned index says so: it changes how long it takes, nothing else."""
    from nomos.log.reading import read_index  # noqa: PLC0415

    try:
        rows = sum(one.rows for one in read_index(directory).files)
    except (Malformed, OSError):
        # Told by the verifier, in its turn.
        return 1
    return min(os.cpu_count() or 1, WORKERS_MAX) if rows >= WORKERS_RECORDS_MIN else 1


class Progress:
    """One line on a terminal: records, percent, rate, time left."""

    def __init__(self, stream: TextIO, clock: Callable[[], float] = time.monotonic) -> None:
        """Takes the terminal, and seconds that only rise."""
        self._stream = stream
        self._clock = clock
        self._began = clock()
        self._shown = -PROGRESS_SECONDS
        self._width = 0

    def __call__(self, done: int, total: int) -> None:
        """Shows that ``done`` of ``total`` records are judged; at most every :data:`PROGRESS_SECONDS`."""
        now = self._clock() - self._began
        if now - self._shown < PROGRESS_SECONDS and done < total:
            return
        self._shown = now
        rate = done / now if now > 0 else 0.0
        left = f", {(total - done) / rate:,.0f} s left" if rate and done < total else ""
        percent = 100 * done // total if total else 100
        line = f"{done:,} of {total:,} records, {percent} %, {rate:,.0f}/s{left}"
        self._stream.write("\r" + line.ljust(self._width))
        self._stream.flush()
        self._width = len(line)

    def clear(self) -> None:
        """Takes the line away again."""
        if self._width:
            self._stream.write("\r" + " " * self._width + "\r")
            self._stream.flush()
