"""``nomos policy pack list|show|test|add|remove``: sets to start from, and templates of grants.

``add`` puts a pack in force beside what a tenant has, under a prefix; ``remove`` takes what bears the prefix out again,
and nothing else of the text changes.

Exit 0: done, and for ``test`` every pack keeps its rules; 1: ``test`` found a fault, or the set is not accepted;
2: usage, or a file that is malformed; 3: the installation does not answer.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Final

import msgspec

from nomos.cli.output import Exit, result
from nomos.cli.policies import put_text, shown_text
from nomos.cli.words import behind_the_verb
from nomos.errors import Conflict, LimitExceeded, Misconfigured, NotFound
from nomos_policy.commands.files import printable, read_file, read_policy_text, read_vocabulary
from nomos_policy.guard import split_policies
from nomos_policy.packs import Pack, faults, fill, parse_pack
from nomos_policy.policy import parse_policy
from nomos_policy.visual.document import read_document, remove

#: Packs of one folder.
PACKS_MAX: Final = 500


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``policy pack``."""
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    common = behind_the_verb()
    common.add_argument("--packs", metavar="DIR", default="packs", help="the folder of packs (default packs)")
    common.add_argument("--connectors", metavar="DIR", default="connectors", help="the catalogue (default connectors)")
    verbs.add_parser("list", parents=[common], help="the packs")
    show = verbs.add_parser("show", parents=[common], help="a pack's parameters, policies and tests")
    show.add_argument("pack")
    test = verbs.add_parser("test", parents=[common], help="check that packs keep their rules; all of them by default")
    test.add_argument("pack", nargs="*")
    add = verbs.add_parser("add", parents=[common], help="put a pack in force beside a tenant's policies")
    add.add_argument("pack")
    add.add_argument("--tenant", required=True, metavar="T")
    add.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a parameter of the pack")
    add.add_argument("--prefix", metavar="NAME", help="before each policy's id (default: the pack's name)")
    add.add_argument("--why", default="", help="the reason, for the log")
    add.add_argument("--print", action="store_true", help="print the policies and put nothing in force")
    remove = verbs.add_parser("remove", parents=[common], help="take what was added under a prefix out of the policies")
    remove.add_argument("prefix")
    remove.add_argument("--tenant", required=True, metavar="T")
    remove.add_argument("--why", default="", help="the reason, for the log")


def run(args: argparse.Namespace) -> int:
    """Lists, shows, tests or adds."""
    match args.verb:
        case "list":
            return _list(args)
        case "show":
            return _show(args)
        case "test":
            return _test(args)
        case "remove":
            return _remove(args)
        case _:
            return _add(args)


def read_pack(folder: Path, name: str) -> Pack:
    """One pack of a folder.

    Raises:
        Malformed: a file is not what it must be.
        NotFound: there is no such pack.
    """
    where = folder / name
    # The name comes from the command line: a folder beside the packs is none.
    if Path(name).name != name or not (where / "pack.yaml").is_file():
        known = ", ".join(one.name for one in _folders(folder))
        raise NotFound(f"there is no pack {name}", hint=f"packs: {known}")
    return parse_pack(
        name,
        read_file(where / "pack.yaml"),
        read_policy_text(where / "policies.cedar"),
        read_file(where / "tests.yaml"),
    )


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise Misconfigured(f"there is no folder {folder}", hint="--packs DIR")
    found = sorted(one.parent for one in folder.glob("*/pack.yaml"))
    if len(found) > PACKS_MAX:
        raise LimitExceeded("packs of a folder", PACKS_MAX, len(found))
    return found


def _remove(args: argparse.Namespace) -> int:
    shown = shown_text(args)
    document = read_document(str(shown["text"]))
    gone = [one.id for one in document.blocks if one.id.startswith(f"{args.prefix}/")]
    if not gone:
        raise NotFound(f"{args.tenant} has no policy whose id begins with {args.prefix}/")
    for policy in gone:
        document = read_document(remove(document, policy, sha256=document.sha256))
    why = args.why or f"remove {args.prefix}"
    put = put_text(args, document.text, why=why, if_revision=int(shown["revision"]))
    lines = [f"revision {put['revision']} of {args.tenant} is in force: {len(gone)} policies of {args.prefix} removed"]
    result(args, "policy pack remove", {**put, "removed": gone}, [*lines, *(f"  {one}" for one in gone)])
    return Exit.YES


def _all(args: argparse.Namespace) -> list[Pack]:
    folder = Path(args.packs)
    return [read_pack(folder, one.name) for one in _folders(folder)]


def _list(args: argparse.Namespace) -> int:
    packs = _all(args)
    members = {"packs": [{"name": one.name, "title": one.title, "parameters": [*one.parameters]} for one in packs]}
    lines = [f"{one.name:<24} {one.title}" + "".join(f"  --set {name}=" for name in one.parameters) for one in packs]
    result(args, "policy pack list", members, [printable(one) for one in lines])
    return Exit.YES


def _show(args: argparse.Namespace) -> int:
    pack = read_pack(Path(args.packs), args.pack)
    members = {
        "name": pack.name,
        "title": pack.title,
        "description": pack.description,
        "connectors": [*pack.connectors],
        "parameters": msgspec.to_builtins(pack.parameters),
        "text": pack.text,
    }
    lines = [f"{pack.title}", pack.description, ""]
    lines += [f"--set {name}=…  {one.title}, for instance {one.example}" for name, one in pack.parameters.items()]
    lines += ["", *pack.text.rstrip("\n").split("\n"), ""]
    lines += [f"{test.expect:<8} {test.name}" for test in pack.table.tests]
    result(args, "policy pack show", members, [printable(one) for one in lines])
    return Exit.YES


def _test(args: argparse.Namespace) -> int:
    packs = [read_pack(Path(args.packs), one) for one in args.pack] if args.pack else _all(args)
    if not packs:
        raise NotFound(f"there is no pack in {args.packs}")
    vocabulary = read_vocabulary(Path(args.connectors))
    found = {one.name: faults(one, vocabulary, now_seconds=int(time.time())) for one in packs}
    lines = [f"{name}: {fault}" for name, some in found.items() for fault in some]
    good = sum(not some for some in found.values())
    tests = sum(len(one.table.tests) for one in packs)
    lines.append(f"{good} of {len(packs)} packs keep their rules; {tests} answers were asked for")
    result(args, "policy pack test", {"faults": found, "tests": tests}, [printable(one) for one in lines])
    return Exit.YES if good == len(packs) else Exit.NO


def _add(args: argparse.Namespace) -> int:
    pack = read_pack(Path(args.packs), args.pack)
    values: dict[str, str] = {}
    for one in args.set:
        name, equals, value = one.partition("=")
        if not equals or name in values:
            raise Misconfigured(f"--set {one} is not NAME=VALUE, or is given twice")
        values[name] = value
    prefix = pack.name if args.prefix is None else args.prefix
    vocabulary = read_vocabulary(Path(args.connectors))
    said = " ".join(f"{name}={value}" for name, value in values.items())
    filled = f"// Pack {pack.name} {said}".rstrip() + "\n" + fill(pack, values, vocabulary.catalogue, prefix=prefix)
    new = [parse_policy(fragment).id for fragment in split_policies(filled)]
    if args.print:
        result(args, "policy pack add", {"text": filled, "ids": new}, filled.rstrip("\n").split("\n"))
        return Exit.YES
    try:
        shown = shown_text(args)
        text, revision = str(shown["text"]), int(shown["revision"])
    except NotFound:
        text, revision = "", 0
    there = {parse_policy(fragment).id for fragment in split_policies(text)}
    if both := sorted(there.intersection(new)):
        raise Conflict(
            f"{args.tenant} has the policy {both[0]} already",
            hint="--prefix NAME, or take the pack's policies out first",
        )
    text = f"{text.rstrip()}\n\n{filled}" if text.strip() else filled
    # What was read is what is added to: a change meanwhile must not be undone.
    put = put_text(args, text, why=args.why or f"add the pack {pack.name}", if_revision=revision)
    lines = [f"revision {put['revision']} of {args.tenant} is in force: {len(new)} policies of {pack.name} added"]
    result(args, "policy pack add", {**put, "added": new}, [*lines, *(f"  {one}" for one in new)])
    return Exit.YES
