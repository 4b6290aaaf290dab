"""``nomos policy test FILE``: does a policy set give the answers that a table of requests expects.

Against ``--policy FILE``, or the set that is in force for ``--tenant``. Both are evaluated here, with the connectors of
this folder; the format of the table stands in ``nomos_policy.expected``.

Exit 0: every answer is as expected; 1: one is not, or the set has policies in quarantine; 2: usage, or a file that is
malformed; 3: the installation does not answer.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import msgspec

from nomos.cli.output import Exit, result
from nomos.cli.policies import shown_text
from nomos.errors import Malformed, Misconfigured
from nomos_policy.commands.files import printable, read_file, read_policy_text, read_vocabulary
from nomos_policy.expected import differences, parse_table
from nomos_policy.policyset import CompiledSet, compile_policies, load_policies
from nomos_policy.vocabulary import Vocabulary


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``policy test``."""
    parser.add_argument("file", metavar="FILE", help="requests and expected answers, YAML or JSON")
    parser.add_argument("--policy", metavar="FILE", help="this policy set")
    parser.add_argument("--tenant", default="", metavar="T", help="the policy set in force for this tenant")
    parser.add_argument("--connectors", metavar="DIR", default="connectors", help="the catalogue (default connectors)")


def run(args: argparse.Namespace) -> int:
    """Tests."""
    try:
        table, lines = parse_table(read_file(Path(args.file)))
    except Malformed as e:
        raise Malformed(f"{args.file}: {e.detail}", hint=e.hint) from e
    policies = policies_of(args, read_vocabulary(Path(args.connectors)))
    found = differences(table, lines, policies, now_seconds=int(time.time()))
    members = {
        "file": args.file,
        "tests": len(table.tests),
        "revision": policies.revision,
        "policy_set": policies.sha256,
        "differences": msgspec.to_builtins(found),
        "quarantined": [one.id for one in policies.quarantined],
    }
    told = [
        f"{args.file}:{one.line}: test {one.test} ({one.name}): expected {one.expected}, got {one.got}" for one in found
    ]
    told += [f"policy {one.id or 'without id'} is in quarantine: {one.error}" for one in policies.quarantined]
    told.append(f"{len(table.tests) - len(found)} of {len(table.tests)} answers are as expected")
    result(args, "policy test", members, [printable(one) for one in told])
    return Exit.NO if found or policies.quarantined else Exit.YES


def policies_of(args: argparse.Namespace, vocabulary: Vocabulary) -> CompiledSet:
    """The set of ``--policy``, or of ``--tenant`` as it is in force.

    Raises:
        Misconfigured: neither is named, or both.
        MalformedPolicy: the file holds no policy set.
    """
    if (args.policy is None) == (not args.tenant):
        raise Misconfigured("name --policy FILE, or --tenant T for the set in force")
    if args.policy is not None:
        return compile_policies(read_policy_text(Path(args.policy)), vocabulary)
    shown = shown_text(args)
    return load_policies(shown["text"], vocabulary, revision=shown["revision"])
