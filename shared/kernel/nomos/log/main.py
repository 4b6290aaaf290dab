"""``nomos verify`` without its argument parser: files in, report out, exit status back.

Decides the exit status: 0 verified, 1 tampered or incomplete, 2 usage, 3 cannot tell. Imports the verifier when it
runs, so that the command line starts fast; reads no network, no environment and no configuration.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TextIO

from nomos.errors import BadSignature, Malformed


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
    tsa_roots: Path | None = None,
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
        tsa_roots: file of certificates of whom the auditor trusts for time stamps; None leaves tokens unchecked.

    Returns:
        The exit status.
    """
    from nomos.log.report import EXIT_USAGE, render_json, render_text  # noqa: PLC0415
    from nomos.log.verify import verify_export  # noqa: PLC0415

    try:
        trust_text = trust_path.read_bytes()
        report = verify_export(
            directory,
            trust_text,
            level,
            now=int(time.time()),
            tenant=tenant,
            strict=strict,
            workers=workers,
            tsa_roots=None if tsa_roots is None else tsa_roots.read_bytes(),
        )
    except Malformed as error:
        stderr.write(f"nomos verify: trust policy, TSA roots or level: {error.detail}\n")
        return EXIT_USAGE
    except ModuleNotFoundError as error:
        stderr.write(f"nomos verify: {error.name} is not installed: install nomos-authz[verify]\n")
        return EXIT_USAGE
    except OSError as error:
        stderr.write(f"nomos verify: {error.filename or error}: {error.strerror or 'not a folder'}\n")
        return EXIT_USAGE
    stdout.write(render_json(report) if json else render_text(report))
    return report.verdict.exit_code


def run_verify_consistency(path: Path, trust_path: Path, json: bool, stdout: TextIO, stderr: TextIO) -> int:
    """Verifies a file of :mod:`nomos.log.consistency` and writes what it proves.

    Args:
        path: the file.
        trust_path: the auditor's policy file; must not come with the proof.
        json: whether to write one JSON object instead of lines.
        stdout: takes the outcome.
        stderr: takes what is wrong with the arguments.

    Returns:
        The exit status.
    """
    from nomos.log import consistency  # noqa: PLC0415
    from nomos.log.note import NoKnownKey  # noqa: PLC0415
    from nomos.log.report import EXIT_USAGE, Verdict, render_continuity  # noqa: PLC0415
    from nomos.log.trust import parse_trust  # noqa: PLC0415

    try:
        trust = parse_trust(trust_path.read_bytes())
        with path.open("rb") as source:
            encoded = source.read(consistency.CONSISTENCY_BYTES_MAX + 1)
    except Malformed as error:
        stderr.write(f"nomos verify: trust policy: {error.detail}\n")
        return EXIT_USAGE
    except OSError as error:
        stderr.write(f"nomos verify: {error.filename or error}: {error.strerror}\n")
        return EXIT_USAGE
    try:
        found = consistency.verify_continues(consistency.parse_consistency(encoded), trust)
        verdict, reason = Verdict.VERIFIED, None
    except NoKnownKey as error:
        found, verdict, reason = None, Verdict.UNVERIFIABLE, error.detail
    except (Malformed, BadSignature) as error:
        found, verdict, reason = None, Verdict.TAMPERED, error.detail
    stdout.write(render_continuity(verdict, found, reason, json=json))
    return verdict.exit_code
