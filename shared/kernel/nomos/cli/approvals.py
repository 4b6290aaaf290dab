"""Approvers' commands: ``approver add``, ``link`` and ``sign-out``, ``approvals``, ``approve``, ``cancel``.

``approve`` shows the stored request, as stepup renders it, and signs the challenge that binds exactly that. It signs
for the relying party that the context names, as a browser signs for the page it is on, whatever the service says. The
software passkey stands in for a person in development; in production people approve in the browser.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import os
from argparse import Namespace
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from nomos.cli.admin import ask
from nomos.cli.context import Context, load_context
from nomos.cli.output import Exit, result, say
from nomos.errors import Conflict, Malformed, Misconfigured
from nomos.operator import Operator
from nomos.passkey import ENVIRONMENTS, SoftwarePasskey

PASSKEY_LABEL: Final = "software passkey"
#: The state in which an approval can be signed for.
PENDING: Final = "pending"

Reply = dict[str, Any]


def approver_add(args: Namespace) -> int:
    """``nomos approver add --tenant T NAME [--software-passkey FILE]``; the file is made where it is missing."""
    context = load_context(args)
    # Before anything is added: names of approvers are given once.
    passkey = None if args.software_passkey is None else _passkey(context, args.software_passkey, create=True)

    async def add(operator: Operator) -> Reply:
        made = await operator.ask("stepup", "approver-add", args.tenant, name=args.name)
        if args.group:
            await operator.ask("stepup", "approver-groups", args.tenant, name=args.name, groups=args.group)
        offer: Reply = await operator.ask("stepup", "passkey-offer", args.tenant, name=args.name)
        if passkey is None:
            return {**made, "url": offer["url"], "expires_at": offer["expires_at"]}
        _check_party(context, offer)
        response = passkey.register(
            rp_id=context.rp_id,
            origin=context.expected_origin,
            challenge=_unb64(offer, "challenge"),
            user_handle=_unb64(offer, "user_handle"),
            user_name=args.name,
        )
        enrolled = await operator.ask(
            "stepup",
            "passkey-enrol",
            args.tenant,
            name=args.name,
            challenge=offer["challenge"],
            response=response,
            label=PASSKEY_LABEL,
        )
        return {**made, **enrolled}

    made = _ask(context, add)
    lines = [f"approver {made['approver']} added to {args.tenant}"]
    if passkey is None:
        lines += ["  no passkey yet: this person cannot approve", *_link_lines(made)]
    else:
        made["software_passkey"] = args.software_passkey
        lines.append(f"  software passkey in {args.software_passkey}: who can read it can approve (development only)")
    result(args, "approver add", made, lines)
    return Exit.YES


def approver_list(args: Namespace) -> int:
    """``nomos approver list --tenant T``."""
    found = ask(args, "stepup", "approver-list", args.tenant)
    lines = [
        f"{one['approver']:<24} {one['passkeys']} passkeys  {', '.join(one['groups'])}".rstrip()
        for one in found["approvers"]
    ]
    result(args, "approver list", found, lines)
    return Exit.YES


def approver_groups(args: Namespace) -> int:
    """``nomos approver groups --tenant T NAME [GROUP ...]``."""
    done = ask(args, "stepup", "approver-groups", args.tenant, name=args.name, groups=args.group)
    told = ", ".join(done["groups"]) or "no group"
    result(args, "approver groups", done, [f"{args.name} is in {told}"])
    return Exit.YES


def approver_passkeys(args: Namespace) -> int:
    """``nomos approver passkeys --tenant T NAME``: what they have enrolled."""
    found = ask(args, "stepup", "approver-passkeys", args.tenant, name=args.name)
    lines = [
        f"{one['passkey']}  {'on several devices' if one['synchronised'] else 'on one device'}  {one['label']}".rstrip()
        for one in found["passkeys"]
    ]
    result(args, "approver passkeys", found, lines or [f"{args.name} has no passkey"])
    return Exit.YES


def approver_revoke_passkey(args: Namespace) -> int:
    """``nomos approver revoke-passkey --tenant T NAME PASSKEY``: it signs nothing any more."""
    done = ask(args, "stepup", "approver-passkey-revoke", args.tenant, name=args.name, passkey=args.passkey)
    lines = [f"passkey {args.passkey} of {args.name} is out of use, and the sessions that it opened are over"]
    if not done["left"]:
        lines.append(f"  {args.name} has no passkey left, and cannot approve")
    result(args, "approver revoke-passkey", done, lines)
    return Exit.YES


def approver_link(args: Namespace) -> int:
    """``nomos approver link --tenant T NAME``: a link to enrol a passkey, also another one. Replaces an older link."""

    async def ask(operator: Operator) -> Reply:
        return await operator.ask("stepup", "passkey-offer", args.tenant, name=args.name)

    offer = _ask(load_context(args), ask)
    if not offer["url"]:
        raise Misconfigured("this installation serves no pages", hint="set NOMOS_STEPUP_PAGES_LISTEN of stepup")
    made = {"approver": offer["approver"], "url": offer["url"], "expires_at": offer["expires_at"]}
    result(args, "approver link", made, _link_lines(made))
    return Exit.YES


def approver_sign_out(args: Namespace) -> int:
    """``nomos approver sign-out --tenant T NAME``: ends every session of a person on the pages, at once."""

    async def ask(operator: Operator) -> Reply:
        return await operator.ask("stepup", "approver-sign-out", args.tenant, name=args.name)

    done = _ask(load_context(args), ask)
    result(args, "approver sign-out", done, [f"every session of {done['approver']} is over"])
    return Exit.YES


def _link_lines(offer: Reply) -> list[str]:
    if not offer["url"]:
        return []
    return [
        f"  who opens this link can enrol one passkey, once, until {_time(offer['expires_at'])}; "
        "give it to this person alone",
        f"  {offer['url']}",
    ]


def approvals(args: Namespace) -> int:
    """``nomos approvals --tenant T [--all]``: what waits for a human, oldest first; or also what has ended."""
    sent = {"all": True} if args.all else {}
    found = ask(args, "stepup", "approvals", args.tenant, **sent)
    result(args, "approvals", found, [_line(a, told=args.all) for a in found["approvals"]])
    return Exit.YES


def _line(approval: Reply, *, told: bool) -> str:
    asked = f"{approval['approval']}  {approval['agent']:<16} {approval['action']} on {approval['resource']}"
    if not told or approval["state"] == PENDING:
        return f"{asked}  ({approval['risk']}, until {_time(approval['expires_at'])})"
    state = "used" if approval["used"] else approval["state"]
    return f"{asked}  {state}" + (f": {approval['reason']}" if approval["reason"] else "")


def approve(args: Namespace) -> int:
    """``nomos approve ID --software-passkey FILE``: the cosigner delegation on standard output; 4 if more must sign."""
    context = load_context(args)
    passkey = _passkey(context, args.software_passkey, create=False)
    if args.out is not None and Path(args.out).exists():
        raise Misconfigured(f"{args.out} exists", hint="name another file; nothing is overwritten")

    async def sign(operator: Operator) -> Reply:
        tenant = await _tenant_of(operator, args)
        shown: Reply = await operator.ask("stepup", "approval-show", tenant, approval=args.id)
        _check_party(context, shown)
        say(_visible(shown["text"]))
        if shown["state"] != PENDING:
            raise Conflict(f"the approval is {shown['state']}")
        response = passkey.assert_(  # noqa: PT009 - the authenticator's operation, not a test's
            rp_id=context.rp_id, origin=context.expected_origin, challenge=_unb64(shown, "challenge")
        )
        approved = await operator.ask("stepup", "approve", tenant, approval=args.id, response=response)
        return {**approved, "text": shown["text"]}

    approved = _ask(context, sign)
    cosigner = approved.get("cosigner")
    if cosigner is None:
        say(f"signed by {approved['approver']}; the approval is {approved['state']}, others must sign too")
        result(args, "approve", {**approved, "cosigner": None}, [])
        return Exit.HUMAN_FIRST
    if args.out is not None:
        _write_private(args.out, cosigner)
        approved["out"] = args.out
    say(f"approved by {approved['approver']}; the agent has one minute to use it")
    result(args, "approve", approved, [cosigner])
    return Exit.YES


def cancel(args: Namespace) -> int:
    """``nomos cancel ID``: needs no passkey, since it only takes away."""

    async def ask(operator: Operator) -> Reply:
        tenant = await _tenant_of(operator, args)
        return await operator.ask("stepup", "cancel", tenant, approval=args.id, why=args.why)

    done = _ask(load_context(args), ask)
    result(args, "cancel", done, [f"approval {done['approval']} of {done['tenant']} is {done['state']}"])
    return Exit.YES


def _ask(context: Context, ask: Callable[[Operator], Awaitable[Reply]]) -> Reply:
    async def run() -> Reply:
        async with await Operator.connect(context.operator_creds, url=context.bus_url) as operator:
            return await ask(operator)

    return asyncio.run(run())


async def _tenant_of(operator: Operator, args: Namespace) -> str:
    if args.tenant:
        return str(args.tenant)
    return str((await operator.ask("stepup", "approval-find", approval=args.id))["tenant"])


def _passkey(context: Context, name: str, *, create: bool) -> SoftwarePasskey:
    if context.environment not in ENVIRONMENTS:
        raise Misconfigured(
            f"a software passkey does not approve in {context.environment}",
            hint="enrol a passkey in the browser, and approve there",
        )
    path = Path(name)
    try:
        if path.exists():
            return SoftwarePasskey.load(path)
        if create:
            return SoftwarePasskey.create(path, environment=context.environment)
    except OSError as e:
        raise Misconfigured(f"passkey file {name} cannot be used: {e.strerror}") from e
    raise Misconfigured(
        f"there is no passkey file {name}", hint=f"nomos approver add NAME --tenant T --software-passkey {name}"
    )


def _check_party(context: Context, offered: Reply) -> None:
    """A browser would not sign for a page that it is not on; neither does this command."""
    if offered.get("rp_id") != context.rp_id or offered.get("origin") != context.expected_origin:
        raise Misconfigured(
            "the service works for another relying party than the context names",
            hint=f"the context says {context.rp_id} and {context.expected_origin}",
        )


def _unb64(reply: Reply, name: str) -> bytes:
    text = str(reply.get(name, ""))
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as e:
        raise Malformed(f"the service sent a {name} that is not base64url") from e


def _visible(text: str) -> str:
    # Stepup writes hidden characters out already; a terminal must not have to trust that.
    return "".join(c if c.isprintable() or c == "\n" else f"\\u{ord(c):04x}" for c in text)


def _write_private(name: str, text: str) -> None:
    try:
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as f:
            f.write(text + "\n")
    except OSError as e:
        # Approved and spent nothing yet: the agent gets the same cosigner on its own inbox (nomos call --wait).
        say(text)
        raise Misconfigured(f"{name} cannot be written: {e.strerror}", hint="the cosigner stands above") from e


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, tz=UTC).strftime("%Y-%m-%d %H:%M:%SZ")
