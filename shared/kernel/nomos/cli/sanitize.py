"""Operators' commands about what is removed from answers."""

from __future__ import annotations

from argparse import Namespace
from typing import Final

from nomos.cli.admin import ask
from nomos.cli.output import Exit, result
from nomos.pii import parse_classes

_NONE: Final = "none"


def pii(args: Namespace) -> int:
    """``nomos sanitize pii --tenant T [CLASSES]``."""
    if args.classes is None:
        found = ask(args, "proxy", "pii-show", args.tenant)
    else:
        names = [] if args.classes == _NONE else [name.strip() for name in args.classes.split(",")]
        # Checked here too, so that a misspelt class is said before anything is connected.
        found = ask(args, "proxy", "pii-set", args.tenant, classes=sorted(parse_classes(names)))
    classes = ", ".join(found["classes"]) or _NONE
    result(args, "sanitize pii", found, [f"personal data removed from answers of {found['tenant']}: {classes}"])
    return Exit.YES
