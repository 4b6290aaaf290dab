"""``nomos operator create``: another operator's bus credentials, and their name, sealed.

The credential bears a random id and is signed here, with the role's key of the installation, which no service holds.
With it the command says the name to identity, once; whoever has the file then is that operator.
"""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from nomos.cli.context import load_context
from nomos.cli.output import Exit, result
from nomos.client import Connection
from nomos.creds import write_creds
from nomos.errors import Misconfigured
from nomos.ids import parse_slug
from nomos.operator import INSTALLATION, Operator
from nomos_runtime.local import issue_operator
from nomos_runtime.provision import load_installation


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of ``operator``."""
    parser.add_argument("what", choices=("create",))
    parser.add_argument("name", help="of the person; it stands sealed in the log, and can be erased")
    parser.add_argument("--creds", required=True, metavar="FILE", help="where to write; must not exist")
    parser.add_argument("--tenant", default="", metavar="T", help="may name this one tenant only")
    parser.add_argument("--bus", default="", metavar="DIR", help="the installation's keys (found beside the context)")


def run(args: argparse.Namespace) -> int:
    """Makes the credentials, names the operator, then writes the file.

    Raises:
        Misconfigured: the file exists, or there is no installation's key.
        NomosError: identity refuses the name; no file is written.
    """
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
