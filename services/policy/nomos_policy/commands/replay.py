"""``nomos replay``: evaluates the decisions of an export again, and with ``--policy`` what another set would answer.

The export is verified first: what is proven about answers is worth what is proven about the records. Needs the engine,
so it comes with the policy service; needs no bus and no database.

Exit 0: every decision is right (and with ``--fail-on-change`` the candidate changes none); 1: one is wrong, or changed,
or the export is not what its signatures say; 2: usage; 3: a decision could not be proven, or there is none.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Final

import msgspec

from nomos.cli.output import Exit, error, result, say
from nomos.errors import Misconfigured
from nomos.events import DECISION_MADE
from nomos.log.index import ExportIndex
from nomos.log.reading import read_index, read_records
from nomos.log.report import Verdict
from nomos.log.verify import verify_export
from nomos_policy.changes import Changes
from nomos_policy.commands.files import printable, read_policy_text, read_vocabulary
from nomos_policy.replay import TYPES, Outcome, Replay

_PROGRESS_EVERY: Final = 5_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``replay``."""
    parser.add_argument("--export", required=True, metavar="DIR", help="an export, a tenant's bundle, or an archive")
    parser.add_argument("--trust", metavar="FILE", help="the trust file; the export is verified first")
    parser.add_argument("--unverified", action="store_true", help="do not verify the export first")
    parser.add_argument("--tenant", default="", metavar="T", help="this tenant's decisions only")
    parser.add_argument("--policy", metavar="FILE", help="a candidate policy set: report which answers would change")
    parser.add_argument("--fail-on-change", action="store_true", help="exit 1 when the candidate changes an answer")
    parser.add_argument(
        "--connectors",
        metavar="DIR",
        action="append",
        help="the catalogue that was in force (default connectors); may be given again for older ones",
    )


def run(args: argparse.Namespace) -> int:
    """Replays and reports."""
    directory = Path(args.export)
    vocabularies = [read_vocabulary(Path(one)) for one in args.connectors or ["connectors"]]
    candidate = None if args.policy is None else read_policy_text(Path(args.policy))
    try:
        index = read_index(directory)
    except OSError as e:
        raise Misconfigured(f"{args.export} is no export: {e.strerror or e}", hint="nomos audit export") from e
    if candidate is not None and index.tenant is None and not args.tenant:
        raise Misconfigured("a candidate is one tenant's policy set: name --tenant")
    if index.tenant is not None and args.tenant not in ("", index.tenant):
        raise Misconfigured(f"the export is {index.tenant}'s, not {args.tenant}'s")
    verdict = verified(args, directory, index)
    if verdict is not None and verdict is not Verdict.VERIFIED:
        return verdict.exit_code
    replay = Replay(vocabularies, candidate=candidate)
    outcome = replayed(replay, directory, index, args.tenant)
    members = {
        "export": args.export,
        "verdict": None if verdict is None else verdict.value,
        **msgspec.to_builtins(outcome),
    }
    result(args, "replay", members, _lines(outcome, verdict))
    return exit_code(args, outcome)


def replayed(replay: Replay, directory: Path, index: ExportIndex, tenant: str, since: str = "") -> Outcome:
    """Feeds an export's records to ``replay``: all, or those of ``tenant``. Shows on a terminal how far it is.

    Args:
        replay: takes the records.
        directory: of the export.
        index: of the export.
        tenant: whose records; empty for everybody's.
        since: decisions before this time are left out, as ``ts`` spells times; empty for none.

    Returns:
        What it found.
    """
    for number, record in enumerate(read_records(directory, index, TYPES)):
        if (not tenant or record.tenant == tenant) and (record.type != DECISION_MADE or record.ts >= since):
            replay.add(record)
        if number % _PROGRESS_EVERY == 0 and sys.stderr.isatty():
            print(f"\r{number:,} records", end="", file=sys.stderr, flush=True)
    if sys.stderr.isatty():
        print("\r", end="", file=sys.stderr)
    return replay.outcome()


def verified(args: argparse.Namespace, directory: Path, index: ExportIndex) -> Verdict | None:
    """The verdict on the export, by ``--trust``; None with ``--unverified``.

    Raises:
        Misconfigured: neither is given, or the trust file cannot be read.
    """
    if args.unverified:
        say("nomos: the export is not verified: what follows holds for these files, whoever wrote them")
        return None
    if args.trust is None:
        raise Misconfigured("an export must be verified first: name --trust FILE", hint="or --unverified, knowing that")
    try:
        trust = Path(args.trust).read_bytes()
    except OSError as e:
        raise Misconfigured(f"{args.trust}: {e.strerror or e}") from e
    report = verify_export(directory, trust, now=int(time.time()), tenant=index.tenant)
    if report.verdict is not Verdict.VERIFIED:
        told = "" if report.first is None else f": {report.first.reason}"
        error(f"the export is {report.verdict.value}{told}", f"all of it: nomos verify {args.export}")
    return report.verdict


def exit_code(args: argparse.Namespace, outcome: Outcome) -> int:
    """What the outcome of a replay means to who called the command; see the module."""
    if outcome.wrong or (args.fail_on_change and outcome.changes is not None and outcome.changes.changed):
        return Exit.NO
    if outcome.unproven or not outcome.decisions:
        return Exit.CANNOT_TELL
    return Exit.YES


def _lines(outcome: Outcome, verdict: Verdict | None) -> list[str]:
    how = "not verified" if verdict is None else f"records {verdict.value}"
    lines = [
        f"{outcome.decisions} decisions replayed ({how}): {outcome.right} right, {outcome.wrong} wrong, "
        f"{sum(outcome.unproven.values())} unproven",
        *(f"  answer    {name}: {number}" for name, number in outcome.outcomes.items()),
        *(f"  unproven  {number}: {reason}" for reason, number in outcome.unproven.items()),
        *(f"  WRONG     record {one.seq} ({one.tenant}, {one.decision}): {one.reason}" for one in outcome.examples),
    ]
    if outcome.behind:
        lines.append(f"  note      {outcome.behind} were made under an older revision than the log's newest then")
    if not outcome.decisions:
        lines.append("  there is no decision in this export: nothing is proven")
    lines.append("  not proven here: that approvals were genuine and clocks right (nomos verify --level 2)")
    if outcome.changes is not None:
        lines += change_lines(outcome.changes)
    return [printable(line) for line in lines]


def change_lines(changes: Changes) -> list[str]:
    """What a candidate changes, for people."""
    lines = [f"candidate: {changes.changed} of {changes.evaluated} answers would change"]
    for title, counted in (
        ("answer", changes.by_answer),
        ("agent", changes.by_agent),
        ("action", changes.by_action),
        ("resource", changes.by_resource),
    ):
        lines += [f"  {title:<9} {name}: {number}" for name, number in counted.items()]
    for one in changes.examples:
        why = ", ".join(one.policies) or one.reason
        told = f"{one.agent} {one.action} {one.resource}: {one.before} -> {one.after} ({why})"
        place = one.decision if one.seq is None else f"record {one.seq}"
        lines.append(f"  example   {place}: {told}")
    return lines
