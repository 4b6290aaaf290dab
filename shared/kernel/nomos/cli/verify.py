"""``nomos verify``: no network, no bus, no service; it imports the log and nothing else."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path

from nomos.log.main import Demand, run_verify


def verify(args: Namespace) -> int:
    """Exit 0 only when everything demanded was checked and is right."""
    demand = Demand(
        path=Path(args.path),
        trust=Path(args.trust),
        level=args.level,
        json=args.json,
        tenant=args.tenant or None,
        strict=args.strict,
        workers=args.workers,
        state=Path(args.state) if args.state else None,
        full=args.full,
        record=Path(args.record) if args.record else None,
        keys=Path(args.keys) if args.keys else None,
        tsa_roots=Path(args.tsa_roots) if args.tsa_roots else None,
        quiet=args.quiet,
    )
    return int(run_verify(demand, sys.stdout, sys.stderr))
