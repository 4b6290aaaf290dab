"""Operators' commands about delegations: ``issuer list``, ``issuer rotate``, ``revoke``."""

from __future__ import annotations

from argparse import Namespace
from datetime import UTC, datetime
from typing import Final

from nomos.cli.admin import ask
from nomos.cli.output import Exit, result
from nomos.errors import Misconfigured

#: The answer waits until no replica can be without the revocation.
REVOKE_MS: Final = 60_000


def issuer_list(args: Namespace) -> int:
    """``nomos issuer list --tenant T``."""
    found = ask(args, "minting", "issuer-list", args.tenant)
    lines = []
    for key in found["keys"]:
        since = datetime.fromtimestamp(key["since"], UTC).strftime("%Y-%m-%d %H:%M:%SZ") if key["since"] else "first"
        lines.append(
            f"{key['did']}  {since:<20}  {'in force' if key['in_force'] else 'replaced'}  {key['why']}".rstrip()
        )
    result(args, "issuer list", found, lines)
    return Exit.YES


def issuer_rotate(args: Namespace) -> int:
    """``nomos issuer rotate --tenant T``."""
    done = ask(args, "minting", "issuer-rotate", args.tenant, why=args.why)
    lines = [f"{args.tenant} signs with {done['did']}", f"  what {done['previous']} signed runs out within a minute"]
    result(args, "issuer rotate", done, lines)
    return Exit.YES


def revoke(args: Namespace) -> int:
    """``nomos revoke CID --tenant T``; or ``--app NAME``, or ``--all``, for everything that was issued up to now."""
    if (args.cid is not None) + (args.app is not None) + args.all != 1:
        raise Misconfigured("what is taken back: one of CID, --app NAME and --all")
    if args.cid is None:
        return _revoke_issued(args)
    done = ask(args, "minting", "revoke", args.tenant, cid=args.cid, why=args.why)
    result(args, "revoke", done, [f"{done['cid']} is revoked, and whatever was handed on from it"])
    return Exit.YES


def _revoke_issued(args: Namespace) -> int:
    if args.all:
        done, whose = ask(args, "minting", "revoke-tenant", args.tenant, REVOKE_MS, why=args.why), args.tenant
    else:
        done = ask(args, "minting", "revoke-app", args.tenant, REVOKE_MS, app=args.app, why=args.why)
        whose = f"{args.app} of {args.tenant}"
    result(args, "revoke", done, [f"everything that was issued for {whose} up to now is revoked, and in force"])
    return Exit.YES
