"""What the commands of policy read: a catalogue, a policy text, the words of a request."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Final

from nomos.catalogue import load_catalogue
from nomos.cli.admin import parse_args_json
from nomos.errors import Malformed, Misconfigured
from nomos_policy.vocabulary import Vocabulary

#: A file longer than this is refused before it is read.
POLICY_FILE_BYTES_MAX: Final = 16 * 1024 * 1024
ENVIRONMENTS: Final = ("live", "test")


def read_vocabulary(folder: Path) -> Vocabulary:
    """The schema of the connectors in ``folder``.

    Raises:
        Misconfigured: there is no such folder.
    """
    if not folder.is_dir():
        raise Misconfigured(f"there is no folder {folder}", hint="--connectors DIR: the catalogue that was in force")
    return Vocabulary(load_catalogue(folder))


def read_policy_text(path: Path) -> str:
    """The text of a policy file.

    Raises:
        Misconfigured: it cannot be read, or is too long.
        Malformed: it is not UTF-8.
    """
    try:
        return read_file(path).decode()
    except UnicodeDecodeError as e:
        raise Malformed(f"{path} is not UTF-8 text") from e


def read_file(path: Path) -> bytes:
    """The bytes of a file.

    Raises:
        Misconfigured: it cannot be read, or is longer than :data:`POLICY_FILE_BYTES_MAX`.
    """
    try:
        with path.open("rb") as source:
            content = source.read(POLICY_FILE_BYTES_MAX + 1)
    except OSError as e:
        raise Misconfigured(f"{path}: {e.strerror or e}") from e
    if len(content) > POLICY_FILE_BYTES_MAX:
        raise Misconfigured(f"{path} is longer than {POLICY_FILE_BYTES_MAX} bytes")
    return content


def add_request_arguments(parser: argparse.ArgumentParser) -> None:
    """The words of one request."""
    parser.add_argument("--agent", default="", metavar="NAME", help="who asks")
    parser.add_argument("--action", default="", help="for instance github:issues.list")
    parser.add_argument("--resource", default="", help="for instance github:repo/acme/site")
    told = "an argument; VALUE is JSON, or else text (may be given again)"
    parser.add_argument("--arg", action="append", default=[], metavar="NAME=VALUE", help=told)
    parser.add_argument("--args", default="{}", metavar="JSON", help="arguments as one JSON object")
    parser.add_argument("--connection", default="", metavar="NAME", help="default: the connector's name")
    parser.add_argument("--cosigned", action="store_true", help="as if a human had approved exactly this request")


def request_args(args: argparse.Namespace) -> dict[str, object]:
    """The arguments of ``--args`` and ``--arg``.

    Raises:
        Misconfigured: not as the help says, or a name is given twice.
    """
    found = parse_args_json(args.args)
    for one in args.arg:
        name, equals, value = one.partition("=")
        if not name or not equals:
            raise Misconfigured(f"--arg {one} is not NAME=VALUE")
        if name in found:
            raise Misconfigured(f"the argument {name} is given twice")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def printable(line: str) -> str:
    """Names in a file were chosen by others; none may steer the reader's terminal."""
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in line)
