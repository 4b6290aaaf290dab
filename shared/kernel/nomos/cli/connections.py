"""``nomos connection ...``: bearers that somebody brings, and accounts that somebody connects.

A credential crosses the bus sealed to the proxy's key; it is never printed, and no command gives one back.
"""

from __future__ import annotations

import json
import time
from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from nomos.cli.admin import ask, read_text
from nomos.cli.output import Exit, result, say
from nomos.errors import Misconfigured

#: Milliseconds for a command that may wait for a provider.
PROVIDER_MS = 15_000
#: Between two looks whether an account has been connected, seconds.
LOOK_SECONDS = 1.0


def _sealed(args: Namespace, path: str, what: str) -> str:
    """The content of a file, sealed to the proxy's key."""
    from nomos.bearer import seal_bearer

    content = read_text(path, what).strip()
    return seal_bearer(ask(args, "proxy", "sealing-key")["public_key"], content)


def _host_keys(paths: list[str]) -> list[str]:
    """The lines of public key files."""
    return [line for path in paths for line in read_text(path, "host key file").splitlines() if line.strip()]


def connection_add(args: Namespace) -> int:
    """``nomos connection add``."""
    ssh: dict[str, object] = {}
    if args.user or args.host_key or args.root or args.port:
        ssh = {"user": args.user, "port": args.port, "host_keys": _host_keys(args.host_key), "roots": args.root}
    made = ask(
        args,
        "proxy",
        "connection-add",
        args.tenant,
        connector=args.connector,
        name=args.name,
        sealed_bearer=_sealed(args, args.token_file, "token file") if args.token_file else "",
        base_url=args.base_url,
        host=args.host,
        auth=args.auth,
        ssh=ssh,
    )
    line = f"connection {made['name']} to {made['connector']} stored{', sealed' if args.token_file else ''}"
    result(args, "connection add", made, [line])
    return Exit.YES


def connection_replace(args: Namespace) -> int:
    """``nomos connection replace``: the next call uses the new bearer, or believes the new host keys."""
    if not args.token_file and not args.host_key:
        raise Misconfigured("say what is replaced: --token-file FILE or --host-key FILE")
    sealed = _sealed(args, args.token_file, "token file") if args.token_file else ""
    keys = _host_keys(args.host_key)
    made = ask(args, "proxy", "connection-replace", args.tenant, name=args.name, sealed_bearer=sealed, host_keys=keys)
    what = " and ".join(["another bearer"] * bool(sealed) + ["other host keys"] * bool(keys))
    result(args, "connection replace", made, [f"connection {made['name']} has {what}"])
    return Exit.YES


def connection_list(args: Namespace) -> int:
    """``nomos connection list --tenant T``."""
    found = ask(args, "proxy", "connection-list", args.tenant)
    lines = [
        f"{c['name']:<24} {c['connector']:<16} {c['method']:<8} {c['state']}{_acts_as(c)}" for c in found["connections"]
    ]
    result(args, "connection list", found, lines)
    return Exit.YES


def _acts_as(connection: Mapping[str, Any]) -> str:
    """A cloud's role, service account or application, where there is one."""
    values = connection.get("federation", {})
    found = values.get("role") or values.get("service_account") or values.get("client")
    return f"  as {found}" if found else ""


def connection_show(args: Namespace) -> int:
    """``nomos connection show``: exit 1 where it cannot be used."""
    found = ask(args, "proxy", "connection-show", args.tenant, name=args.name)
    lines = [f"{found['name']}: {found['method']} of {found['connector']}, {found['state']}"]
    if found["method"] == "account":
        at = time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(found["renew_at"])) if found["renew_at"] else "never"
        lines += [f"  granted  {' '.join(found['scopes']) or 'what the provider grants by itself'}"]
        lines += [f"  renewed  {max(found['generation'] - 1, 0)} times, next {at}"]
    if "ssh" in found:
        ssh = found["ssh"]
        lines += [f"  host     {found['host']}, as {ssh['user']}, {len(ssh['host_keys'])} pinned keys"]
        lines += [f"  roots    {' '.join(ssh['roots']) or 'none: commands only'}"]
    if "federation" in found:
        values = found["federation"]
        lines += [f"  {name.replace('_', ' '):<15}  {values[name]}" for name in sorted(values)]
    if found["state"] == "lost":
        lines += ["  the provider does not renew it any more: connect the account again, under the same name"]
    result(args, "connection show", found, lines)
    return Exit.YES if found["state"] == "ready" else Exit.NO


def connection_client(args: Namespace) -> int:
    """``nomos connection client``: sets the tenant's client at a provider, or lists what is set."""
    if not args.connector:
        _no_client_words(args)
        found = ask(args, "proxy", "client-list", args.tenant)
        lines = [f"{c['connector']:<16} {c['client_id']} ({_proof(c)})" for c in found["clients"]]
        lines += [f"{name:<16} the installation's, where the tenant has none" for name in found["shared"]]
        result(args, "connection client", found, [*lines, f"redirect address: {found['redirect_uri']}"])
        return Exit.YES
    made = _client_set(args, "client-set", args.tenant)
    lines = [f"{args.tenant} asks the provider of {made['connector']} as {args.client_id}", *_to_register(made)]
    result(args, "connection client", made, lines)
    return Exit.YES


def connection_shared_client(args: Namespace) -> int:
    """``nomos connection shared-client``: sets or withdraws a client for every tenant, or lists them."""
    if not args.connector:
        _no_client_words(args)
        if args.withdraw:
            raise Misconfigured("say at which connector's provider: --connector NAME")
        found = ask(args, "proxy", "shared-client-list")
        lines = [
            f"{c['connector']:<16} {c['client_id']} ({_proof(c)}), {c['accounts']} accounts of {c['tenants']} tenants"
            f"{', withdrawn' if c['is_withdrawn'] else ''}"
            for c in found["clients"]
        ]
        result(args, "connection shared-client", found, [*lines, f"redirect address: {found['redirect_uri']}"])
        return Exit.YES
    if args.withdraw:
        done = ask(args, "proxy", "shared-client-withdraw", connector=args.connector)
        line = f"no further account of {done['connector']} comes through it; {done['accounts']} go on"
        result(args, "connection shared-client", done, [line])
        return Exit.YES
    made = _client_set(args, "shared-client-set", "_")
    lines = [f"tenants without a client at the provider of {made['connector']} ask it as {args.client_id}"]
    result(args, "connection shared-client", made, [*lines, *_to_register(made)])
    return Exit.YES


def _no_client_words(args: Namespace) -> None:
    if args.client_id or args.secret_file or args.private_key_file or args.base_url:
        raise Misconfigured("say at which connector's provider: --connector NAME")


def _client_set(args: Namespace, verb: str, tenant: str) -> dict[str, Any]:
    if not args.client_id:
        raise Misconfigured("a client has an id: --client-id ID")
    if args.secret_file and args.private_key_file:
        raise Misconfigured("a client has a secret or a private key, not both")
    return ask(
        args,
        "proxy",
        verb,
        tenant,
        connector=args.connector,
        client_id=args.client_id,
        sealed_secret=_sealed(args, args.secret_file, "secret file") if args.secret_file else "",
        sealed_key=_sealed(args, args.private_key_file, "private key file") if args.private_key_file else "",
        base_url=args.base_url,
    )


def _to_register(made: dict[str, Any]) -> list[str]:
    lines = [f"  register there as its redirect address, exactly: {made['redirect_uri']}"]
    if made.get("public_key"):
        lines += [f"  and as its public key: {json.dumps(made['public_key'], sort_keys=True)}"]
    return lines


def _proof(client: dict[str, Any]) -> str:
    return "secret sealed" if client["has_secret"] else "key sealed" if client["has_key"] else "public"


def connection_connect(args: Namespace) -> int:
    """``nomos connection connect``: a link by which somebody connects an account; with ``--wait`` until it is done."""
    if args.device:
        return _connect_by_code(args)
    made = ask(args, "proxy", "connection-connect", args.tenant, **_asked(args))
    until = time.strftime("%H:%M:%SZ", time.gmtime(made["expires_at"]))
    if not args.wait:
        result(args, "connection connect", made, [f"until {until}, once: {made['link']}"])
        return Exit.YES
    say(f"until {until}, once: {made['link']}")
    ends = time.time() + args.wait
    before = _connected(args)
    while (now := _connected(args)) <= before:
        if time.time() >= ends:
            say("nomos: not connected yet; the link still works")
            return Exit.HUMAN_FIRST
        time.sleep(LOOK_SECONDS)
    result(args, "connection connect", {**made, "connected": now}, [f"connection {args.name} is connected"])
    return Exit.YES


def _asked(args: Namespace) -> dict[str, Any]:
    return {"connector": args.connector, "name": args.name, "scopes": args.scope, "base_url": args.base_url}


def _connect_by_code(args: Namespace) -> int:
    """``--device``: a code that somebody enters at the provider, wherever they are; waits until they have."""
    made = ask(args, "proxy", "connection-device", args.tenant, timeout_ms=PROVIDER_MS, **_asked(args))
    until = time.strftime("%H:%M:%SZ", time.gmtime(made["expires_at"]))
    say(f"until {until}, whom the account belongs to enters  {made['user_code']}  at {made['address']}")
    if made["complete"]:
        say(f"  or opens {made['complete']}")
    ends = time.time() + args.wait if args.wait else float("inf")
    trouble = ""
    while True:
        if time.time() + made["again_seconds"] > ends:
            say("nomos: not connected yet; begin again for another code")
            return Exit.HUMAN_FIRST
        time.sleep(made["again_seconds"])
        found = ask(args, "proxy", "connection-device-poll", args.tenant, timeout_ms=PROVIDER_MS, flow=made["flow"])
        if found["state"] == "connected":
            shown = {"tenant": args.tenant, "name": args.name, "flow": made["flow"]}
            result(args, "connection connect", shown, [f"connection {args.name} is connected"])
            return Exit.YES
        if found["trouble"] not in ("", trouble):
            say(f"nomos: the provider could not be asked ({found['trouble']}); going on")
        trouble = found["trouble"]
        made["again_seconds"] = found["again_seconds"]


def _connected(args: Namespace) -> int:
    """How often somebody has connected the account; 0 before it is there. A renewal is none."""
    found = ask(args, "proxy", "connection-list", args.tenant)
    if all(one["name"] != args.name for one in found["connections"]):
        return 0
    return int(ask(args, "proxy", "connection-show", args.tenant, name=args.name)["connected"])


def connection_federate(args: Namespace) -> int:
    """``nomos connection federate``."""
    given: dict[str, str] = {}
    if args.aws_role or args.aws_region:
        given = {"kind": "aws", "role": args.aws_role or "", "region": args.aws_region or ""}
    elif args.gcp_audience:
        given = {"kind": "gcp", "audience": args.gcp_audience}
        if args.gcp_service_account:
            given["service_account"] = args.gcp_service_account
        if args.gcp_scope:
            given["scope"] = " ".join(args.gcp_scope)
    elif args.azure:
        given = {"kind": "azure", **dict(zip(("directory", "client", "scope"), args.azure, strict=True))}
    if not given or sum(map(bool, (args.aws_role or args.aws_region, args.gcp_audience, args.azure))) != 1:
        raise Misconfigured("name one of --aws-role with --aws-region, --gcp-audience, and --azure")
    if (args.gcp_service_account or args.gcp_scope) and not args.gcp_audience:
        raise Misconfigured("--gcp-service-account and --gcp-scope go with --gcp-audience")
    made = ask(
        args,
        "proxy",
        "connection-federate",
        args.tenant,
        connector=args.connector,
        name=args.name,
        federation=given,
        host=args.host,
        base_url=args.base_url,
        exchange_url=args.exchange_url,
    )
    lines = [
        f"connection {made['name']} to {made['connector']} is federated; the cloud must trust",
        f"  issuer    {made['issuer']}",
        f"  subject   {made['subject']}",
        f"  audience  {made['audience']}",
    ]
    if "service_account" in made:
        lines += [
            f"and let the principal act as {made['service_account']} (roles/iam.workloadIdentityUser)",
            f"  principal {made['principal']}",
        ]
    result(args, "connection federate", made, lines)
    return Exit.YES


def connection_renew(args: Namespace) -> int:
    """``nomos connection renew``: has the provider renew an account's tokens now."""
    done = ask(args, "proxy", "connection-renew", args.tenant, timeout_ms=PROVIDER_MS, name=args.name)
    result(args, "connection renew", done, [f"connection {done['name']} has new tokens"])
    return Exit.YES


def connection_remove(args: Namespace) -> int:
    """``nomos connection remove``: closed for good; an account's tokens are given back to the provider."""
    done = ask(args, "proxy", "connection-remove", args.tenant, timeout_ms=PROVIDER_MS, name=args.name)
    said = {
        "closed": "it had no credential",
        "destroyed": "its bearer is destroyed; revoke it at the provider too",
        "forgotten": "its credential lives on in nobody's memory; take the trust away in the cloud too",
        "revoked": "the provider has revoked its tokens",
        "unsupported": "its tokens are destroyed; this provider takes none back, so end its access there too",
        "failed": "the provider has not revoked its tokens yet; it is asked again",
        "under way": "its tokens are being revoked",
    }
    lines = [f"connection {done['name']} is removed: {said[done['outcome']]}"]
    result(args, "connection remove", done, lines)
    return Exit.YES


def connection_keys(args: Namespace) -> int:
    """``nomos connection keys``: how far the rotation of the token encryption key is. Exit 1 while keys wait."""
    found = ask(args, "proxy", "key-progress")
    lines = [f"{found['current']} tenants' keys are under the current key, {found['other']} under another one"]
    if found["other"]:
        lines += ["  they are sealed again when a proxy starts with both keys; keep the other key until none is left"]
    result(args, "connection keys", found, lines)
    return Exit.NO if found["other"] else Exit.YES
