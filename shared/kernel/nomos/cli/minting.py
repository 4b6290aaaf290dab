"""Operators' commands about delegations: ``issuer list``, ``issuer rotate``, ``revoke``."""

from __future__ import annotations

from argparse import Namespace
from datetime import UTC, datetime

from nomos.cli.admin import ask
from nomos.cli.output import Exit, result


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
    """``nomos revoke CID --tenant T``."""
    done = ask(args, "minting", "revoke", args.tenant, cid=args.cid, why=args.why)
    result(args, "revoke", done, [f"{done['cid']} is revoked, and whatever was handed on from it"])
    return Exit.YES
