"""``nomos policy impact FILE``: what a candidate set would have answered to everything that a tenant was ever asked.

The tenant's records are fetched from the running installation, verified under the context's trust file, and every
recorded decision is evaluated again: as it was made, and with the candidate. ``nomos replay --policy`` does the same
over an export that is at hand already.

Exit 0: told (with ``--fail-on-change``: no answer changes); 1: an answer changes, or the log is not what its
signatures say, or a recorded answer is wrong; 2: usage, or the candidate is no policy set; 3: a decision could not be
evaluated, there is none, or the installation does not answer.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import tempfile
import time
from pathlib import Path
from typing import Final

import msgspec

from nomos.cli.audit import fetch
from nomos.cli.context import load_context
from nomos.cli.output import error, result
from nomos.errors import Misconfigured
from nomos.log.reading import read_index
from nomos.log.record import format_ts
from nomos.log.report import Verdict
from nomos.log.verify import verify_export
from nomos_policy.commands.files import printable, read_policy_text, read_vocabulary
from nomos_policy.commands.replay import change_lines, exit_code, replayed
from nomos_policy.replay import Outcome, Replay

_AGO: Final = re.compile(r"([1-9][0-9]{0,4})([hd])")
_DATE: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_SECONDS: Final = {"h": 3_600, "d": 86_400}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``policy impact``."""
    parser.add_argument("file", metavar="FILE", help="the candidate policy set")
    parser.add_argument("--tenant", required=True, metavar="T")
    parser.add_argument(
        "--since", default="", metavar="WHEN", help="decisions since then: 7d, 12h, or 2026-01-31 (UTC)"
    )
    parser.add_argument("--fail-on-change", action="store_true", help="exit 1 when an answer changes")
    parser.add_argument(
        "--connectors",
        metavar="DIR",
        action="append",
        help="the catalogue that was in force (default connectors); may be given again for older ones",
    )


def run(args: argparse.Namespace) -> int:
    """Fetches, verifies, evaluates again, reports."""
    candidate = read_policy_text(Path(args.file))
    since = _since(args.since)
    context = load_context(args)
    replay = Replay([read_vocabulary(Path(one)) for one in args.connectors or ["connectors"]], candidate=candidate)
    try:
        trust = Path(context.trust).read_bytes()
        with tempfile.TemporaryDirectory(prefix="nomos-impact-") as name:
            folder = Path(name)
            asyncio.run(fetch(context, args.tenant, folder))
            report = verify_export(folder, trust, now=int(time.time()), tenant=args.tenant)
            if report.verdict is not Verdict.VERIFIED:
                told = "" if report.first is None else f": {report.first.reason}"
                error(f"the records are {report.verdict.value}{told}", "all of it: nomos audit export, nomos verify")
                return report.verdict.exit_code
            outcome = replayed(replay, folder, read_index(folder), args.tenant, since)
    except OSError as e:
        raise Misconfigured(f"{e.filename or args.tenant}: {e.strerror or e}") from e
    members = {"tenant": args.tenant, "since": since, "file": args.file, **msgspec.to_builtins(outcome)}
    result(args, "policy impact", members, [printable(one) for one in _lines(args, outcome)])
    return exit_code(args, outcome)


def _lines(args: argparse.Namespace, outcome: Outcome) -> list[str]:
    changes = outcome.changes
    lines = [] if changes is None else change_lines(changes)
    lines += [f"  not told  {number} decisions: {reason}" for reason, number in outcome.unproven.items()]
    if outcome.wrong:
        lines.append(f"  WRONG     {outcome.wrong} recorded answers do not follow from their policies: nomos replay")
    if not outcome.decisions:
        lines.append(f"  {args.tenant} has no recorded decision" + (f" since {args.since}" if args.since else ""))
    return lines


def _since(text: str) -> str:
    """The time that ``--since`` means, as ``ts`` spells times; empty for the beginning.

    Raises:
        Misconfigured: it is none.
    """
    if not text:
        return ""
    if _DATE.fullmatch(text) is not None:
        return f"{text}T00:00:00.000000Z"
    found = _AGO.fullmatch(text)
    if found is None:
        raise Misconfigured(f"--since {text}: expected 7d, 12h, or a date such as 2026-01-31")
    return format_ts((int(time.time()) - int(found.group(1)) * _SECONDS[found.group(2)]) * 1_000_000)
