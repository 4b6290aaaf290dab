"""``nomos inspect``: a token, or a chain of delegations, for people. Nothing is sent anywhere."""

from __future__ import annotations

import sys
import time
from argparse import Namespace
from pathlib import Path

from nomos.cli.output import Exit, result
from nomos.errors import Misconfigured
from nomos.handover import Grant
from nomos.ucan.inspect import describe, describe_chain, parse_token_text


def inspect(args: Namespace) -> int:
    """Shows what a token says, and whether its signature verifies; of a chain, also what is wrong with it."""
    text = _read(args.token).strip()
    if len(text.split()) < 2:
        shown = describe(parse_token_text(text))
        result(args, "inspect", shown, [f"{name:<12} {value}" for name, value in shown.items()])
        return Exit.YES
    shown = describe_chain(Grant.parse(text).chain, now=int(time.time()))
    result(args, "inspect", shown, _lines(shown))
    return Exit.YES


def _read(token: str) -> str:
    if token == "-":  # noqa: S105 - a word of the command line
        return sys.stdin.read()
    if len(token) < 255 and Path(token).is_file():
        try:
            return Path(token).read_text(encoding="ascii", errors="replace")
        except OSError as e:
            raise Misconfigured(f"{token} cannot be read: {e.strerror}") from e
    return token


def _lines(shown: dict[str, object]) -> list[str]:
    lines = [f"{shown['cmd']}, given by {shown['sub']}"]
    links = shown["links"]
    assert isinstance(links, list)
    for depth, link in enumerate(links):
        indent = "  " * (depth + 1)
        lines.append(f"{indent}to {link['aud']}, {link['seconds_left']} s left, {link['cid']}")
        lines += [f"{indent}  only where {sentence}" for sentence in link["policy"]]
    problems = shown["problems"]
    assert isinstance(problems, list)
    lines += [f"problem: {one}" for one in problems] or ["every link fits the one before it"]
    return lines
