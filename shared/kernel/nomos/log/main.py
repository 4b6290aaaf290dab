"""``nomos verify`` without its argument parser: files in, report out, exit status back.

Decides the exit status: 0 verified, 1 tampered or incomplete, 2 usage, 3 cannot tell. Imports the verifier when it
runs, so that the command line starts fast; reads no network, no environment and no configuration.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TextIO

from nomos.errors import Malformed


def run_verify(  # noqa: PLR0917 - the command's contract gives the six in this order
    directory: Path,
    trust_path: Path,
    level: int,
    json: bool,
    stdout: TextIO,
    stderr: TextIO,
    *,
    tenant: str | None = None,
    strict: bool = False,
    workers: int = 1,
    keys_path: Path | None = None,
) -> int:
    """Verifies an export and writes the report.

    Args:
        directory: the export.
        trust_path: the auditor's policy file; must not come from the export.
        level: 0, 1 or 2.
        json: whether to write one JSON object instead of lines.
        stdout: takes the report.
        stderr: takes what is wrong with the arguments.
        tenant: the tenant whose bundle this must be; None demands a whole log.
        strict: whether gaps that the log itself declares make it incomplete.
        workers: processes to use.
        keys_path: a file of people's keys (a disclosure); None opens no sealed field.

    Returns:
        The exit status.
    """
    from nomos.log.erasure import parse_disclosure  # noqa: PLC0415
    from nomos.log.report import EXIT_USAGE, render_json, render_text  # noqa: PLC0415
    from nomos.log.verify import verify_export  # noqa: PLC0415

    try:
        trust_text = trust_path.read_bytes()
        keys = None if keys_path is None else parse_disclosure(keys_path.read_bytes())
        report = verify_export(
            directory,
            trust_text,
            level,
            now=int(time.time()),
            tenant=tenant,
            strict=strict,
            workers=workers,
            keys=keys,
        )
    except Malformed as error:
        stderr.write(f"nomos verify: trust policy, keys or level: {error.detail}\n")
        return EXIT_USAGE
    except OSError as error:
        stderr.write(f"nomos verify: {error.filename or error}: {error.strerror or 'not a folder'}\n")
        return EXIT_USAGE
    stdout.write(render_json(report) if json else render_text(report))
    return report.verdict.exit_code
