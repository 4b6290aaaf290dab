"""``nomos verify``: no network, no bus, no service; it imports the log and nothing else."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path

from nomos.log.main import run_verify


def verify(args: Namespace) -> int:
    """Exit 0 only when everything demanded was checked and is right."""
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
            keys_path=Path(args.keys) if args.keys else None,
        )
    )
