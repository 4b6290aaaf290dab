"""``nomos policy explain``: which policies decide a request, in their own sentences, and what would change the answer.

Three sources: a running installation, which knows the agent's app and the policies in force; files (``--policy``),
where the app is named; and a recorded decision of an export (``--export``, ``--decision``), with the policies of then.

Exit 0: explained, whatever the answer is; 1: the export is not what its signatures say, or it has no such decision;
2: usage; 3: what the decision was made with is not at hand, or the installation does not answer.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import msgspec

from nomos.cli.admin import ask
from nomos.cli.output import Exit, error, result
from nomos.errors import Misconfigured, NotFound
from nomos.events import DECISION_MADE
from nomos.log.reading import read_index, read_records
from nomos.log.report import Verdict
from nomos_policy.asked import facts_of
from nomos_policy.commands.files import (
    ENVIRONMENTS,
    add_request_arguments,
    printable,
    read_policy_text,
    read_vocabulary,
    request_args,
)
from nomos_policy.commands.replay import verified
from nomos_policy.decision import AuthorizeFacts
from nomos_policy.explain import Condition, Explanation, Met, explain
from nomos_policy.policyset import compile_policies
from nomos_policy.replay import TYPES, Replay, Unproven


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``policy explain``."""
    add_request_arguments(parser)
    parser.add_argument("--tenant", default="", metavar="T")
    parser.add_argument("--policy", metavar="FILE", help="offline: explain by this policy set")
    parser.add_argument("--app", default="", metavar="NAME", help="offline: the agent's app")
    parser.add_argument("--env", choices=ENVIRONMENTS, default="live", help="offline: the app's environment")
    parser.add_argument("--export", metavar="DIR", help="explain a recorded decision of this export")
    parser.add_argument("--decision", default="", metavar="ID", help="with --export: dc_… as the log names it")
    parser.add_argument("--trust", metavar="FILE", help="with --export: the trust file; the export is verified first")
    parser.add_argument("--unverified", action="store_true", help="with --export: do not verify it first")
    parser.add_argument(
        "--connectors", metavar="DIR", action="append", help="offline: the catalogue (default connectors)"
    )


def run(args: argparse.Namespace) -> int:
    """Explains."""
    if args.policy is not None and args.export is not None:
        raise Misconfigured("--policy and --export are two different sources: name one")
    if args.export is not None:
        return _recorded(args)
    if not (args.agent and args.action and args.resource):
        raise Misconfigured("a request needs --agent, --action and --resource")
    if args.policy is not None:
        return _offline(args)
    if not args.tenant:
        raise Misconfigured("name --tenant, or work offline with --policy FILE")
    answer = ask(
        args,
        "policy",
        "explain",
        args.tenant,
        agent=args.agent,
        action=args.action,
        resource=args.resource,
        arguments=request_args(args),
        connection=args.connection,
        cosigned=args.cosigned,
    )
    return _show(args, msgspec.convert(answer, Explanation), answer)


def _offline(args: argparse.Namespace) -> int:
    if not args.app:
        raise Misconfigured("offline, nothing tells the agent's app: name --app")
    vocabulary = read_vocabulary(Path((args.connectors or ["connectors"])[0]))
    policies = compile_policies(read_policy_text(Path(args.policy)), vocabulary)
    facts = facts_of(
        policies,
        tenant=args.tenant or "tenant",
        app=args.app,
        agent=args.agent,
        env=args.env,
        action=args.action,
        resource=args.resource,
        args=request_args(args),
        connection=args.connection,
        cosigned=args.cosigned,
        now_seconds=int(time.time()),
    )
    return _explained(args, facts)


def _recorded(args: argparse.Namespace) -> int:
    if not args.decision:
        raise Misconfigured("name the decision: --decision dc_…")
    directory = Path(args.export)
    try:
        index = read_index(directory)
    except OSError as e:
        raise Misconfigured(f"{args.export} is no export: {e.strerror or e}", hint="nomos audit export") from e
    verdict = verified(args, directory, index)
    if verdict is not None and verdict is not Verdict.VERIFIED:
        return verdict.exit_code
    replay = Replay([read_vocabulary(Path(one)) for one in args.connectors or ["connectors"]])
    for record in read_records(directory, index, TYPES):
        if record.type != DECISION_MADE:
            replay.add(record)
        elif record.event.get("decision") == args.decision and args.tenant in ("", record.tenant):
            try:
                return _explained(args, replay.facts(record))
            except Unproven as e:
                error(f"the decision cannot be explained: {e}", "name the catalogue of then: --connectors DIR")
                return Exit.CANNOT_TELL
    raise NotFound(f"the export has no decision {args.decision}")


def _explained(args: argparse.Namespace, facts: AuthorizeFacts) -> int:
    explanation = explain(facts)
    return _show(args, explanation, msgspec.to_builtins(explanation))


def _show(args: argparse.Namespace, explanation: Explanation, members: dict[str, Any]) -> int:
    result(args, "policy explain", members, [printable(line) for line in lines(explanation)])
    return Exit.YES


def lines(explanation: Explanation) -> list[str]:
    """An explanation for people."""
    told = [f"{explanation.outcome.replace('_', '-')}: {explanation.reason}"]
    told += [f"  by        {one.id}" + (f": {one.description}" if one.description else "")
             for one in explanation.decided_by]  # fmt: skip
    told += [f"  error     {one}" for one in explanation.errors]
    told += [f"  change    {one}" for one in explanation.changes]
    decided = {one.id for one in explanation.decided_by}
    for one in explanation.met:
        told.append(f"  met       {_met(one, decided)}")
        told += [f"              {_condition(condition)}" for condition in one.failing]
        if one.failing_more:
            told.append(f"              fails: and {one.failing_more} more")
    if explanation.met_more:
        told.append(f"  met       and {explanation.met_more} more")
    told.append(f"  not met   {explanation.not_met} policies, by their heads (revision {explanation.revision})")
    return told


def _met(one: Met, decided: set[str]) -> str:
    if one.applies:
        state = "applies"
    elif one.applies_approved:
        state = "applies once a human approved"
    else:
        state = "does not apply"
    # The decision's own policies stand above, with their sentences.
    sentence = f": {one.description}" if one.description and one.id not in decided else ""
    return f"{one.effect} {one.id} (line {one.line}) {state}{sentence}"


def _condition(one: Condition) -> str:
    if one.platform:
        return "fails: high-stakes actions need a human's approval (nomos:high-stakes)"
    return f"fails: {one.kind} {{ {one.text} }}" + (f": {one.error}" if one.error else "")
