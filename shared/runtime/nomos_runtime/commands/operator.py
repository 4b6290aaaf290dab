"""``nomos operator``: another operator's bus credentials, and one's own passkeys and sessions on pages.

``create``: the credential bears a random id and is signed here, with the role's key of the installation, which no
service holds. With it the command says the name to identity, once; whoever has the file then is that operator.

The other words ask stepup about the operator who asks, with their own credential.
"""

from __future__ import annotations

import argparse
import asyncio
import time
from pathlib import Path
from typing import Any, Final

from nomos.cli.admin import ask
from nomos.cli.context import load_context
from nomos.cli.output import Exit, result
from nomos.client import Connection
from nomos.creds import write_creds
from nomos.errors import Misconfigured
from nomos.ids import parse_slug
from nomos.operator import INSTALLATION, Operator
from nomos_runtime.local import issue_operator
from nomos_runtime.provision import load_installation

#: Commands about one's own passkeys and sessions, each one verb of stepup.
_OWN: Final = {
    "passkey": "operator-passkey",
    "passkeys": "operator-passkeys",
    "revoke": "operator-passkey-revoke",
    "sessions": "operator-sessions",
    "end": "operator-session-end",
}
_NAMED: Final = {"create": "a NAME", "revoke": "a passkey's id", "end": "a session's id"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``operator``."""
    parser.add_argument("what", choices=("create", *_OWN), help="the last five are about yourself and the pages")
    parser.add_argument(
        "name",
        nargs="?",
        default="",
        help="create: of the person; it stands sealed in the log, and can be erased. end: a session. revoke: a passkey",
    )
    parser.add_argument("--creds", default="", metavar="FILE", help="create: where to write; must not exist")
    parser.add_argument(
        "--tenant", default="", metavar="T", help="create: may name this one tenant only; else: ask as its operator"
    )
    parser.add_argument("--operator", default="", metavar="ID", help="revoke: whose passkey, where not your own")
    parser.add_argument("--bus", default="", metavar="DIR", help="the installation's keys (found beside the context)")


def run(args: argparse.Namespace) -> int:
    """Runs the command; for ``create`` makes the credentials, names the operator, then writes the file.

    Raises:
        Misconfigured: the file exists, there is no installation's key, or the command lacks what it is about.
        NomosError: the service refuses; no file is written.
    """
    if args.what in _NAMED and not args.name:
        raise Misconfigured(f"nomos operator {args.what} needs {_NAMED[args.what]}")
    if args.what in _OWN:
        return _own(args)
    if not args.creds:
        raise Misconfigured("nomos operator create needs --creds FILE")
    context = load_context(args)
    parse_slug(args.name, "operator")
    if args.tenant:
        parse_slug(args.tenant, "tenant")
    if Path(args.creds).exists():
        raise Misconfigured(f"{args.creds} exists", hint="name another file; nothing is overwritten")
    directory = Path(args.bus) if args.bus else Path(context.operator_creds).parent / "bus"
    credentials = issue_operator(load_installation(directory), servers=(context.bus_url,), tenant=args.tenant)

    async def give_name() -> None:
        async with Operator(await Connection.open(credentials)) as operator:
            await operator.ask("identity", "operator-name", args.tenant or INSTALLATION, name=args.name)

    asyncio.run(give_name())
    write_creds(Path(args.creds), credentials)
    made = {"operator": args.name, "subject": credentials.name, "tenant": args.tenant, "creds": args.creds}
    result(args, "operator create", made, [f"{args.name} is {credentials.name}; credentials in {args.creds}"])
    return Exit.YES


def _own(args: argparse.Namespace) -> int:
    params: dict[str, Any] = {}
    if args.what == "revoke":
        params = {"passkey": args.name, "operator": args.operator}
    if args.what == "end":
        params = {"session": args.name}
    found = ask(args, "stepup", _OWN[args.what], args.tenant or INSTALLATION, **params)
    result(args, f"operator {args.what}", found, _lines(args.what, found))
    return Exit.YES


def _lines(what: str, found: dict[str, Any]) -> list[str]:
    match what:
        case "passkey":
            minutes = max(0, int(found["expires_at"]) - int(time.time())) // 60
            return [f"open this link in your browser; it works once, for {minutes} minutes:", str(found["url"])]
        case "passkeys":
            return [str(one["passkey"]) for one in found["passkeys"]] or ["you have no passkey"]
        case "sessions":
            listed = [
                f"{one['session']}  {one['service']:<10} {one['operator']}  until {_utc(int(one['expires_at']))}"
                for one in found["sessions"]
            ]
            return listed or ["no session is open"]
        case "end":
            return [f"session {found['session']} is over"]
        case _:
            return [f"passkey {found['passkey']} is out of use, and its sessions are over"]


def _utc(at: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))
