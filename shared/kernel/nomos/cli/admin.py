"""Operators' commands: tenants, apps, agents, keys, policies. Each is one verb of one service."""

from __future__ import annotations

import asyncio
import json
import os
from argparse import Namespace
from pathlib import Path
from typing import Any

from nomos.cli.context import load_context
from nomos.cli.output import Exit, result
from nomos.client import REQUEST_MS
from nomos.errors import Misconfigured


def ask(
    args: Namespace, service: str, verb: str, tenant: str = "_", timeout_ms: int = REQUEST_MS, **params: Any
) -> dict[str, Any]:
    """Asks a service with the operator's credential."""
    from nomos.operator import Operator

    context = load_context(args)

    async def run() -> dict[str, Any]:
        async with await Operator.connect(context.operator_creds, url=context.bus_url) as operator:
            return await operator.ask(service, verb, tenant, timeout_ms=timeout_ms, **params)

    return asyncio.run(run())


def read_text(path: str, what: str) -> str:
    """The text of a file that the user named.

    Raises:
        Misconfigured: it cannot be read, or is not UTF-8.
    """
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as e:
        raise Misconfigured(f"{what} {path} cannot be read: {e.strerror}") from e
    except UnicodeDecodeError as e:
        raise Misconfigured(f"{what} {path} is not UTF-8 text") from e


def tenant_create(args: Namespace) -> int:
    """``nomos tenant create NAME``."""
    made = ask(args, "identity", "tenant-create", name=args.name)
    result(args, "tenant create", made, [f"tenant {made['tenant']} created, bus account {made['account']}"])
    return Exit.YES


def tenant_list(args: Namespace) -> int:
    """``nomos tenant list``."""
    found = ask(args, "identity", "tenant-list")
    result(args, "tenant list", found, [t["tenant"] for t in found["tenants"]])
    return Exit.YES


def app_create(args: Namespace) -> int:
    """``nomos app create --tenant T NAME``."""
    made = ask(args, "identity", "app-create", args.tenant, name=args.name, env=args.env)
    result(args, "app create", made, [f"app {made['app']} ({made['env']}) created in {args.tenant}"])
    return Exit.YES


def agent_create(args: Namespace) -> int:
    """``nomos agent create``: both private keys are made here and go nowhere but into the credentials file."""
    from nomos.creds import USER, Credentials, Nkey, write_creds
    from nomos.keys import SigningKey

    context = load_context(args)
    _must_not_exist(args.creds)
    user, seed = Nkey.new(USER), os.urandom(32)
    made = ask(
        args,
        "identity",
        "agent-create",
        args.tenant,
        app=args.app,
        name=args.name,
        key=user.public,
        did=SigningKey(seed).did,
    )
    write_creds(
        Path(args.creds),
        Credentials(
            servers=(context.bus_url,),
            role="agent",
            name=args.name,
            tenant=args.tenant,
            jwt=made["jwt"],
            user=user,
            agent_seed=seed,
        ),
    )
    shown = {k: v for k, v in made.items() if k != "jwt"} | {"creds": args.creds}
    result(
        args,
        "agent create",
        shown,
        [
            f"agent {made['agent']} created in {args.tenant}/{args.app}",
            f"  bus key   {made['key']}",
            f"  agent key {made['did']}",
            f"  credentials written to {args.creds}",
        ],
    )
    return Exit.YES


def auditor_create(args: Namespace) -> int:
    """``nomos auditor create``."""
    from nomos.creds import USER, Credentials, Nkey, write_creds

    context = load_context(args)
    _must_not_exist(args.creds)
    user = Nkey.new(USER)
    made = ask(args, "identity", "auditor-create", args.tenant, name=args.name, key=user.public)
    write_creds(
        Path(args.creds),
        Credentials(
            servers=(context.bus_url,),
            role="auditor",
            name=made["subject"],
            tenant=args.tenant,
            jwt=made["jwt"],
            user=user,
        ),
    )
    shown = {k: v for k, v in made.items() if k != "jwt"} | {"creds": args.creds}
    result(args, "auditor create", shown, [f"auditor {made['auditor']} created; credentials written to {args.creds}"])
    return Exit.YES


def _must_not_exist(path: str) -> None:
    if Path(path).exists():
        raise Misconfigured(f"{path} exists", hint="name another file; credentials are never overwritten")


def key_list(args: Namespace) -> int:
    """``nomos key list --tenant T``."""
    found = ask(args, "identity", "key-list", args.tenant)
    result(
        args,
        "key list",
        found,
        [
            f"{k['key']}  {k['role']:<8} {k['name']:<24} {'revoked' if k['revoked'] else 'active'}"
            for k in found["keys"]
        ],
    )
    return Exit.YES


def key_revoke(args: Namespace) -> int:
    """``nomos key revoke --tenant T KEY``."""
    done = ask(args, "identity", "key-revoke", args.tenant, key=args.key, why=args.why)
    result(args, "key revoke", done, [f"key of {done['role']} {done['name']} revoked and disconnected"])
    return Exit.YES


def parse_args_json(text: str) -> dict[str, object]:
    """The ``--args`` of a call.

    Raises:
        Misconfigured: it is not a JSON object.
    """
    try:
        value = json.loads(text)
    except ValueError as e:
        raise Misconfigured(f"--args is not JSON: {e}") from e
    if not isinstance(value, dict):
        raise Misconfigured("--args must be a JSON object", hint="""--args '{"state": "open"}'""")
    return value
