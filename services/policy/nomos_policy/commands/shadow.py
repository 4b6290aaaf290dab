"""``nomos policy shadow start|report|stop``: a candidate set beside the one in force, on live traffic.

Exit 0: done, and for ``report`` with ``--fail-on-change``: no answer differs; 1: one differs, or there is no such
shadow; 2: usage, or the candidate is no policy set; 3: the installation does not answer.
"""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from nomos.cli.admin import ask
from nomos.cli.output import Exit, result
from nomos.cli.policies import save_draft
from nomos.cli.words import behind_the_verb
from nomos.errors import Misconfigured
from nomos_policy.commands.files import printable, read_policy_text
from nomos_policy.commands.replay import change_lines
from nomos_policy.shadow import SHADOW_DAYS_MAX, Report

#: The draft that ``start FILE`` keeps.
DRAFT: Final = "shadow"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``policy shadow``."""
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    common = behind_the_verb()
    common.add_argument("--tenant", required=True, metavar="T")
    start = verbs.add_parser("start", parents=[common], help="evaluate a candidate set beside the one in force")
    start.add_argument("file", metavar="FILE", nargs="?", help="the candidate policy set; it is kept as a draft")
    start.add_argument(
        "--draft", default="", metavar="NAME", help=f"the draft (with FILE: its name, {DRAFT!r} by default)"
    )
    start.add_argument("--days", type=int, default=SHADOW_DAYS_MAX, metavar="N", help="at most (default %(default)s)")
    start.add_argument("--why", default="", help="the reason, for the log")
    report = verbs.add_parser("report", parents=[common], help="which answers differed so far")
    report.add_argument("--shadow", default="", metavar="ID", help="an older one (default: the newest)")
    report.add_argument("--fail-on-change", action="store_true", help="exit 1 when an answer differed")
    stop = verbs.add_parser("stop", parents=[common], help="end it")
    stop.add_argument("--why", default="", help="the reason, for the log")


def run(args: argparse.Namespace) -> int:
    """Starts, reports or stops."""
    match args.verb:
        case "start":
            return _start(args)
        case "stop":
            return _stop(args)
        case _:
            return _report(args)


def _start(args: argparse.Namespace) -> int:
    draft, why = args.draft, args.why or f"try {args.file or args.draft}"
    if args.file is not None:
        draft = draft or DRAFT
        save_draft(args, draft, read_policy_text(Path(args.file)), why=why)
    elif not draft:
        raise Misconfigured("name the candidate: FILE, or --draft NAME")
    started = ask(args, "policy", "shadow-start", args.tenant, draft=draft, why=why, days=args.days)
    until = _time(started["until"])
    lines = [
        f"shadow {started['shadow']} of {args.tenant} runs until {until}; it releases and refuses nothing",
        f"  what differs: nomos policy shadow report --tenant {args.tenant}",
    ]
    result(args, "policy shadow start", started, lines)
    return Exit.YES


def _stop(args: argparse.Namespace) -> int:
    stopped = ask(args, "policy", "shadow-stop", args.tenant, why=args.why or "tried")
    result(args, "policy shadow stop", stopped, [f"shadow {stopped['shadow']} of {args.tenant} is stopped"])
    return Exit.YES


def _report(args: argparse.Namespace) -> int:
    answer = ask(args, "policy", "shadow-report", args.tenant, shadow=args.shadow)
    report = msgspec.convert({name: value for name, value in answer.items() if name != "tenant"}, Report)
    state = "runs" if report.ended_at is None else f"ended {_time(report.ended_at)}"
    lines = [f"shadow {report.shadow} of {args.tenant}: since {_time(report.started_at)}, {state}"]
    lines += change_lines(report.changes)
    if report.missed:
        lines.append(f"  not told  {report.missed} requests were not compared: too many at once")
    result(args, "policy shadow report", answer, [printable(one) for one in lines])
    return Exit.NO if args.fail_on_change and report.changes.changed else Exit.YES


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
