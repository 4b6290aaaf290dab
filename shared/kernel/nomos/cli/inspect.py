"""``nomos inspect``: a token for people. Nothing is sent anywhere."""

from __future__ import annotations

import sys
from argparse import Namespace
from pathlib import Path

from nomos.cli.output import Exit, result
from nomos.ucan.inspect import describe, parse_token_text


def inspect(args: Namespace) -> int:
    """Shows what a delegation or invocation says, and whether its signature verifies."""
    from_stdin = args.token == "-"  # noqa: S105 - a word of the command line
    text = sys.stdin.read() if from_stdin else args.token
    if len(text) < 255 and Path(text).is_file():
        text = Path(text).read_text(encoding="ascii", errors="replace")
    shown = describe(parse_token_text(text.strip()))
    result(args, "inspect", shown, [f"{name:<12} {value}" for name, value in shown.items()])
    return Exit.YES
