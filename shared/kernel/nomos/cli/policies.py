"""What operators do with a tenant's policy sets: put, drafts, activate, roll back, compare, read."""

from __future__ import annotations

import difflib
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from nomos.cli.admin import ask, read_text
from nomos.cli.output import Exit, result, say
from nomos.errors import Malformed, Misconfigured, NotFound
from nomos.policytext import cut_text, is_one_event, piece_name

#: A large set is compiled in seconds.
CHANGE_MS: Final = 60_000
#: Characters of the pieces in one message.
_MESSAGE_CHARACTERS_MAX: Final = 200_000


def policy_put(args: Namespace) -> int:
    """``nomos policy put --tenant T FILE``."""
    text = read_text(args.file, "policy file")
    why = args.why or f"put {Path(args.file).name}"
    put = put_text(args, text, why=why, if_revision=args.if_revision, wait=not args.no_wait)
    return _changed(args, "policy put", put, args.file)


def policy_activate(args: Namespace) -> int:
    """``nomos policy activate --tenant T DRAFT``."""
    sent = {"draft": args.draft, "why": args.why, "if_revision": args.if_revision, "wait": not args.no_wait}
    put = ask(args, "policy", "activate", args.tenant, CHANGE_MS, **sent)
    return _changed(args, "policy activate", put, f"draft {args.draft}")


def policy_rollback(args: Namespace) -> int:
    """``nomos policy rollback --tenant T --to N``."""
    sent = {"to": args.to, "why": args.why, "if_revision": args.if_revision, "wait": not args.no_wait}
    put = ask(args, "policy", "rollback", args.tenant, CHANGE_MS, **sent)
    return _changed(args, "policy rollback", put, f"revision {args.to}")


def draft_save(args: Namespace) -> int:
    """``nomos policy draft save --tenant T NAME FILE``."""
    text = read_text(args.file, "policy file")
    saved = save_draft(args, args.draft, text, why=args.why or f"save {Path(args.file).name}", if_sha256=args.if_sha256)
    line = (
        f"draft {saved['draft']} of {args.tenant} is kept, made from revision {saved['based_on']}; it is not in force"
    )
    result(args, "policy draft save", saved, [line])
    return Exit.YES


def draft_list(args: Namespace) -> int:
    """``nomos policy draft list --tenant T``."""
    found = ask(args, "policy", "draft-list", args.tenant)
    lines = [
        f"{one['draft']:<24} from {one['based_on']:<6} {one['sha256'][:16]}  {one['why']}" for one in found["drafts"]
    ]
    result(args, "policy draft list", found, lines)
    return Exit.YES


def draft_show(args: Namespace) -> int:
    """``nomos policy draft show --tenant T NAME``."""
    shown = shown_text(args, draft=args.draft)
    result(args, "policy draft show", shown, [shown["text"].rstrip("\n")])
    return Exit.YES


def draft_discard(args: Namespace) -> int:
    """``nomos policy draft discard --tenant T NAME``."""
    done = ask(args, "policy", "draft-discard", args.tenant, draft=args.draft, why=args.why or "not wanted")
    result(args, "policy draft discard", done, [f"draft {args.draft} of {args.tenant} is discarded"])
    return Exit.YES


def policy_diff(args: Namespace) -> int:
    """``nomos policy diff --tenant T A B``: exit 1 where the two differ."""
    (name, one), (other_name, other) = (_named(args, given) for given in (args.one, args.other))
    lines = list(
        difflib.unified_diff(one.splitlines(), other.splitlines(), name, other_name, lineterm="", n=args.context_lines)
    )
    result(args, "policy diff", {"one": name, "other": other_name, "diff": lines}, lines or ["the same text"])
    return Exit.NO if lines else Exit.YES


def policy_list(args: Namespace) -> int:
    """``nomos policy list --tenant T``."""
    found = ask(args, "policy", "list", args.tenant)
    while len(found["policies"]) < found["total"]:
        more = ask(args, "policy", "list", args.tenant, offset=len(found["policies"]))
        if more["revision"] != found["revision"] or not more["policies"]:
            raise NotFound("the policies changed while they were listed", hint="list them again")
        found["policies"] += more["policies"]
    result(args, "policy list", found, [f"{p['id']:<32} {p['description']}" for p in found["policies"]])
    return Exit.YES


def policy_show(args: Namespace) -> int:
    """``nomos policy show --tenant T``."""
    found = shown_text(args, revision=args.revision)
    result(args, "policy show", found, [found["text"].rstrip("\n")])
    return Exit.YES


def policy_history(args: Namespace) -> int:
    """``nomos policy history --tenant T``."""
    found = ask(args, "policy", "history", args.tenant)
    result(
        args,
        "policy history",
        found,
        [f"{r['revision']:>6}  {r['at']}  {r['actor']:<16} {r['sha256'][:16]}  {r['why']}" for r in found["revisions"]],
    )
    return Exit.YES


def put_text(
    args: Namespace, text: str, *, why: str, if_revision: int | None = None, wait: bool = True
) -> dict[str, Any]:
    """Puts a text of any size in force; the service's answer.

    Args:
        args: of the command.
        text: Cedar policies.
        why: the reason.
        if_revision: the revision that must be in force, if that matters.
        wait: whether to wait until every replica has it.

    Raises:
        NomosError: it is not accepted, or the installation does not answer.
    """
    sent = {**_sent(args, text), "why": why, "if_revision": if_revision, "wait": wait}
    return ask(args, "policy", "put", args.tenant, CHANGE_MS, **sent)


def save_draft(args: Namespace, draft: str, text: str, *, why: str, if_sha256: str | None = None) -> dict[str, Any]:
    """Keeps a text of any size as a draft; the service's answer.

    Raises:
        NomosError: it is not accepted, or the installation does not answer.
    """
    sent = {**_sent(args, text), "draft": draft, "why": why, "if_sha256": if_sha256}
    return ask(args, "policy", "draft-save", args.tenant, CHANGE_MS, **sent)


def shown_text(args: Namespace, *, revision: int = 0, draft: str = "") -> dict[str, Any]:
    """A revision (0: the one in force) or a draft with its whole text, however many answers carry it.

    Raises:
        NomosError: there is none, or the installation does not answer.
    """
    shown = ask(args, "policy", "show", args.tenant, revision=revision, draft=draft)
    while len(shown["text"]) < shown["length"]:
        offset = len(shown["text"])
        more = ask(args, "policy", "show", args.tenant, revision=shown["revision"], draft=draft, offset=offset)
        if more["sha256"] != shown["sha256"] or not more["text"]:
            raise NotFound("the text changed while it was read", hint="read it again")
        shown["text"] += more["text"]
    if piece_name(shown["text"]) != shown["sha256"]:
        raise Malformed("the text that came is not the one that its hash names")
    return shown


def _sent(args: Namespace, text: str) -> dict[str, Any]:
    """How a message names a text: itself, or its pieces, which are sent before."""
    if is_one_event(text):
        return {"text": text}
    pieces = cut_text(text)
    for some in _messages(pieces):
        ask(args, "policy", "pieces", args.tenant, CHANGE_MS, texts=some)
    return {"pieces": [piece_name(one) for one in pieces]}


def _messages(pieces: tuple[str, ...]) -> Iterator[list[str]]:
    some: list[str] = []
    size = 0
    for piece in pieces:
        if some and size + len(piece) > _MESSAGE_CHARACTERS_MAX:
            yield some
            some, size = [], 0
        some.append(piece)
        size += len(piece)
    yield some


def _changed(args: Namespace, command: str, put: dict[str, Any], name: str) -> int:
    """Tells of a change. Exit 3 where it is in force and not every replica is known to have it."""
    line = f"revision {put['revision']} of {args.tenant} is in force: {put['total']} policies"
    result(args, command, put, [line])
    for one in put["warnings"]:
        say(f"{name}:{one['line']}:{one['column']}: warning: {one['policy']}: {one['sentence']} [{one['rule']}]")
    if put["in_force_here"] and not put["lagging"]:
        return Exit.YES
    who = ", ".join(put["lagging"]) or "the replica that answered"
    say(f"nomos: not applied yet by {who}: until then it decides by the revision before, or not at all")
    return Exit.CANNOT_TELL


def _named(args: Namespace, given: str) -> tuple[str, str]:
    """A text by what a person says: a revision's number, ``draft:NAME``, or a file."""
    if given.isascii() and given.isdigit():
        shown = shown_text(args, revision=int(given))
        return f"revision {shown['revision']}", shown["text"]
    kind, colon, name = given.partition(":")
    if colon and kind == "draft":
        return given, shown_text(args, draft=name)["text"]
    if not given:
        raise Misconfigured("name a revision, draft:NAME, or a file")
    return given, read_text(given, "policy file")
