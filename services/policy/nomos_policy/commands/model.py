"""``nomos policy model FILE``: a policy text as the values that a form shows, and one edit of it.

Without ``--edit`` it prints the blocks of the text. With ``--edit EDIT`` it applies one edit and prints the new text:
EDIT is JSON, ``{"sha256": ..., "policy": ..., "model": {...}}`` to change a policy, without ``policy`` to add one, with
a ``model`` of null to remove one. ``--write`` writes the file instead of printing.

Exit 0: done; 1: the edit does not fit the text, or no text says what it says; 2: usage, or a file that is malformed.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import msgspec

from nomos.cli.output import Exit, result
from nomos.errors import Malformed
from nomos_policy.commands.files import printable, read_file, read_policy_text
from nomos_policy.visual.document import Document, add, read_document, remove, replace
from nomos_policy.visual.model import Model


class Edit(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One edit; see the module."""

    sha256: str
    policy: str = ""
    model: Model | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``policy model``."""
    parser.add_argument("file", metavar="FILE", help="a policy set")
    parser.add_argument("--edit", metavar="EDIT", help="a JSON file: one edit to apply")
    parser.add_argument("--write", action="store_true", help="with --edit: write the file instead of printing the text")


def run(args: argparse.Namespace) -> int:
    """Shows or edits."""
    path = Path(args.file)
    document = read_document(read_policy_text(path))
    if args.edit is None:
        members = {"file": args.file, "sha256": document.sha256, "blocks": msgspec.to_builtins(document.blocks)}
        result(args, "policy model", members, [printable(one) for one in _lines(document)])
        return Exit.YES
    try:
        edit = msgspec.json.decode(read_file(Path(args.edit)), type=Edit)
    except msgspec.MsgspecError as e:
        raise Malformed(f"{args.edit} is no edit: {e}") from e
    text = apply(document, edit)
    if args.write:
        # Whole or not at all: an interrupted write must not cut a set.
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        draft.write_text(text, encoding="utf-8")
        draft.replace(path)
    members = {"file": args.file, "text": text}
    result(args, "policy model", members, [f"{args.file} is written"] if args.write else text.rstrip("\n").split("\n"))
    return Exit.YES


def apply(document: Document, edit: Edit) -> str:
    """The text after an edit.

    Raises:
        Conflict: the text has changed since the edit was made.
        Malformed: the edit names neither a policy nor a model.
        NotFound, MalformedPolicy, LimitExceeded: as in ``visual.document``.
    """
    if edit.model is None:
        if not edit.policy:
            raise Malformed("an edit without a model removes a policy: name it")
        return remove(document, edit.policy, sha256=edit.sha256)
    if not edit.policy:
        return add(document, edit.model, sha256=edit.sha256)
    return replace(document, edit.policy, edit.model, sha256=edit.sha256)


def _lines(document: Document) -> list[str]:
    lines = [f"sha256 {document.sha256}"]
    for one in document.blocks:
        state = one.reason or ("in part" if one.opaque else "throughout")
        lines.append(f"line {one.line:<5} {one.id or '(text)':<32} a form {state}" if one.model else
                     f"line {one.line:<5} {one.id or '(text)':<32} text: {state}")  # fmt: skip
        lines += [f"           as text: {text}" for text in one.opaque]
    return lines
