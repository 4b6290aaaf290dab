"""``nomos verify``: no network, no bus, no service; it imports the log and nothing else."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path

from nomos.errors import Misconfigured
from nomos.log.consistency import is_consistency_file
from nomos.log.main import run_verify, run_verify_consistency


def verify(args: Namespace) -> int:
    """Exit 0 only when everything demanded was checked and is right."""
    path = Path(args.dir)
    if path.is_file() and _is_consistency(path):
        return run_verify_consistency(path, Path(args.trust), args.json, sys.stdout, sys.stderr)
    return int(
        run_verify(
            Path(args.dir),
            Path(args.trust),
            args.level,
            args.json,
            sys.stdout,
            sys.stderr,
            tenant=args.tenant or None,
            strict=args.strict,
            workers=args.workers,
            tsa_roots=Path(args.tsa_roots) if args.tsa_roots else None,
        )
    )


def _is_consistency(path: Path) -> bool:
    try:
        with path.open("rb") as source:
            return is_consistency_file(source.read(32))
    except OSError as e:
        raise Misconfigured(f"{path}: {e.strerror or e}") from e
