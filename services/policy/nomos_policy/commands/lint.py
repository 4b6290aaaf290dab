"""``nomos policy lint``: what is wrong, or can hardly be meant, in a policy set.

Exit 0: nothing, or warnings; 1: an error, or with ``--strict`` a warning; 2: usage; 3: the installation does not
answer.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import msgspec

from nomos.cli.output import Exit, result
from nomos.cli.policies import shown_text
from nomos.errors import Misconfigured
from nomos_policy.commands.files import printable, read_policy_text, read_vocabulary
from nomos_policy.lint import lint


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``policy lint``."""
    parser.add_argument("file", metavar="FILE", nargs="?", help="a policy set")
    parser.add_argument("--tenant", default="", metavar="T", help="instead: the set in force for this tenant")
    parser.add_argument("--strict", action="store_true", help="exit 1 on warnings too")
    parser.add_argument("--connectors", metavar="DIR", default="connectors", help="the catalogue (default connectors)")


def run(args: argparse.Namespace) -> int:
    """Lints."""
    if (args.file is None) == (not args.tenant):
        raise Misconfigured("name FILE, or --tenant T for the set in force")
    vocabulary = read_vocabulary(Path(args.connectors))
    if args.file is not None:
        name, text = args.file, read_policy_text(Path(args.file))
    else:
        name, text = args.tenant, shown_text(args)["text"]
    found = lint(text, vocabulary)
    lines = [
        f"{name}:{one.line}:{one.column}: {one.severity}: {one.policy or 'without id'}: {one.sentence} [{one.rule}]"
        for one in found
    ]
    errors = sum(one.severity == "error" for one in found)
    lines.append(f"{errors} errors, {len(found) - errors} warnings")
    members = {"of": name, "errors": errors, "findings": msgspec.to_builtins(found)}
    result(args, "policy lint", members, [printable(line) for line in lines])
    return Exit.NO if errors or (args.strict and found) else Exit.YES
