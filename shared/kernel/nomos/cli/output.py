"""How commands speak: standard output is data, standard error is talk; lower case, no full stop."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Iterable, Mapping
from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of every command."""

    YES = 0
    NO = 1
    USAGE = 2
    CANNOT_TELL = 3
    HUMAN_FIRST = 4


def say(text: str) -> None:
    """Talk, to standard error."""
    print(text, file=sys.stderr)


def error(detail: str, hint: str | None = None) -> None:
    """An error and, when there is one, what to do next."""
    say(f"nomos: error: {detail}")
    if hint:
        say(f"nomos: hint: {hint}")


def document(command: str, members: Mapping[str, object]) -> str:
    """The ``--json`` document of a command."""
    return json.dumps({"schema": f"nomos.{command.replace(' ', '-')}/1", **members}, ensure_ascii=False)


def result(args: Namespace, command: str, members: Mapping[str, object], lines: Iterable[str]) -> None:
    """Prints ``members`` as JSON with ``--json``, else ``lines``."""
    if args.json:
        print(document(command, members))
        return
    for line in lines:
        print(line)
