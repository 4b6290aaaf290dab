"""People's commands: ``subject list``, ``subject export``, ``subject erase``, and ``tenant erase``.

An export is put together here: each service that knows the person hands out their key, sealed to a key that this
command makes and forgets, and records that it did; the records that name the person are read from the log and opened
here. So no key and no opened field crosses the bus.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import time
from argparse import Namespace
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final, TextIO

from nacl.exceptions import CryptoError
from nacl.public import PrivateKey, SealedBox

from nomos.cli.admin import ask
from nomos.cli.context import load_context
from nomos.cli.output import Exit, result, say
from nomos.errors import Malformed, Misconfigured, NotFound
from nomos.ids import SYSTEM_TENANT
from nomos.log.erasure import format_disclosure
from nomos.log.record import Record, parse_record
from nomos.log.sealedfield import FieldPlace, FieldUnreadable, open_text, sealed_fields
from nomos.operator import Operator

EXPORT_SCHEMA: Final = "nomos.subject-export/1"
#: The services that know people.
KNOWING: Final = ("stepup", "identity")
#: Where operators are known; they are the people of ``_sys``.
KNOWING_OPERATORS: Final = ("identity",)
#: The services that hold keys of tenants; identity last, so that the tenant is known as closed until the end.
HOLDING: Final = ("policy", "minting", "proxy", "stepup", "identity")
PAGE_RECORDS: Final = 500
ERASE_MS: Final = 60_000


def knowing(tenant: str) -> tuple[str, ...]:
    """The services that know people of ``tenant``."""
    return KNOWING_OPERATORS if tenant == SYSTEM_TENANT else KNOWING


def subject_list(args: Namespace) -> int:
    """``nomos subject list --tenant T``: the people whom the services know, with the ids that records name them by."""
    found = [
        {"service": service, **one}
        for service in knowing(args.tenant)
        for one in ask(args, service, "subject-list", args.tenant)["subjects"]
    ]
    lines = [f"{s['id']}  {s['kind']:<9} {'erased' if s['name'] is None else s['name']}" for s in found]
    result(args, "subject list", {"tenant": args.tenant, "subjects": found}, lines)
    return Exit.YES


def subject_erase(args: Namespace) -> int:
    """``nomos subject erase --tenant T NAME --basis WORDS``: in every service that knows them; may be repeated."""
    done = [ask(args, s, "subject-erase", args.tenant, name=args.name, basis=args.basis) for s in knowing(args.tenant)]
    erased = [one for one in done if one["erased"]]
    lines = [f"{one['subject']} ({one['kind']}) erased by {one['service']}" for one in erased]
    members = {"tenant": args.tenant, "erased": sum(one["erased"] for one in done), "services": done}
    # Whether nobody had this name, or they were erased before, cannot be told any more.
    result(args, "subject erase", members, lines or ["nobody of this name is known: nothing to erase"])
    return Exit.YES


def tenant_erase(args: Namespace) -> int:
    """``nomos tenant erase --tenant T --basis WORDS --yes``: closes it, then every service destroys its keys."""
    if not args.yes:
        raise Misconfigured(
            f"this destroys every key of {args.tenant} for good",
            hint="say --yes; export its log before, if it is wanted",
        )
    context = load_context(args)

    async def run() -> list[dict[str, Any]]:
        async with await Operator.connect(context.operator_creds, url=context.bus_url) as operator:
            await operator.ask("identity", "tenant-close", name=args.tenant, basis=args.basis)
            return [
                await operator.ask(service, "tenant-erase", timeout_ms=ERASE_MS, name=args.tenant, basis=args.basis)
                for service in HOLDING
            ]

    done = asyncio.run(run())
    lines = [f"{one['service']:<10} {one['subjects']} people, {one['secrets']} other keys destroyed" for one in done]
    result(args, "tenant erase", {"tenant": args.tenant, "services": done}, [f"{args.tenant} is closed", *lines])
    return Exit.YES


def subject_export(args: Namespace) -> int:
    """``nomos subject export --tenant T NAME --out FILE [--with-keys FILE]``: everything about one person."""
    for path in (args.out, args.with_keys):
        if path and Path(path).exists():
            raise Misconfigured(f"{path} exists", hint="name another file; nothing is overwritten")
    context = load_context(args)

    async def run() -> tuple[int, dict[str, bytes]]:
        async with await Operator.connect(context.operator_creds, url=context.bus_url) as operator:
            held, keys = await _held(operator, args.tenant, args.name)
            with _private(args.out) as out:
                return await _write(operator, out, args, held, keys), keys

    number, keys = asyncio.run(run())
    if args.with_keys:
        with _private(args.with_keys) as out:
            out.write(format_disclosure(keys).decode())
        say(f"{args.with_keys} opens what it names: keep it as the name itself")
    members = {"tenant": args.tenant, "out": args.out, "records": number, "subjects": len(keys)}
    result(args, "subject export", members, [f"{number} records about {args.name} written to {args.out}"])
    return Exit.YES


async def _held(operator: Operator, tenant: str, name: str) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """What each service holds of the person, and their keys by id.

    Raises:
        NotFound: no service knows the name, or the person was erased.
        Malformed: a service gave a key that was not sealed to this command's.
    """
    private = PrivateKey.generate()
    reader = base64.urlsafe_b64encode(bytes(private.public_key)).decode()
    held: list[dict[str, Any]] = []
    keys: dict[str, bytes] = {}
    for service in knowing(tenant):
        given: dict[str, Any] = await operator.ask(service, "subject-export", tenant, name=name, reader=reader)
        if not given["found"]:
            continue
        try:
            key = SealedBox(private).decrypt(base64.urlsafe_b64decode(str(given["sealed_key"])))
        except (CryptoError, ValueError) as e:
            raise Malformed(f"{service} gave no key that opens", cause=type(e).__name__) from None
        keys[str(given["dek"])] = key
        held.append({member: given[member] for member in ("service", "kind", "subject", "dek", "held")})
    if not held:
        raise NotFound("nobody of this name is known in this tenant", hint="nomos subject list --tenant T")
    return held, keys


async def _write(
    operator: Operator, out: TextIO, args: Namespace, held: list[dict[str, Any]], keys: dict[str, bytes]
) -> int:
    """Writes the document record by record: memory holds one page of the log."""
    head = {"schema": EXPORT_SCHEMA, "tenant": args.tenant, "name": args.name, "exported_at": int(time.time())}
    out.write(json.dumps({**head, "subjects": held}, ensure_ascii=False)[:-1] + ', "records": [')
    names = [str(one["subject"]) for one in held] + list(keys)
    number = 0
    tenants = [args.tenant]
    if args.tenant == SYSTEM_TENANT:
        # What an operator did stands in the tenant's log in which it was done.
        known: dict[str, Any] = await operator.ask("identity", "tenant-list")
        tenants += [str(one["tenant"]) for one in known["tenants"]]
    for tenant in tenants:
        async for encoded in _records(operator, tenant):
            if any(name in encoded for name in names):
                out.write(("," if number else "") + "\n" + json.dumps(_item(encoded, keys), ensure_ascii=False))
                number += 1
    out.write("\n]}\n")
    return number


async def _records(operator: Operator, tenant: str) -> AsyncIterator[str]:
    tseq = 0
    while True:
        page: dict[str, Any] = await operator.ask("audit", "read", tenant, from_tseq=tseq, limit=PAGE_RECORDS)
        records = page["records"]
        for one in records:
            yield one.decode()
        tseq += len(records)
        if not records or tseq >= page["head_tseq"]:
            return


def _item(encoded: str, keys: dict[str, bytes]) -> dict[str, Any]:
    record = parse_record(encoded.encode())
    return {
        "tenant": record.tenant,
        "seq": record.seq,
        "tseq": record.tseq,
        "ts": record.ts,
        "type": record.type,
        "opened": _opened(record, keys),
        "record": json.loads(encoded),
        "receipt": f"nomos audit receipt --tenant {record.tenant} {record.tseq} --out FILE",
    }


def _opened(record: Record, keys: dict[str, bytes]) -> dict[str, str]:
    opened: dict[str, str] = {}
    for name, field in sealed_fields(record.type, record.event):
        key = keys.get(field.dek)
        if key is None:
            continue
        place = FieldPlace(tenant=record.tenant, id=record.id, field=name)
        try:
            opened[name] = open_text(key, place, field)
        except FieldUnreadable as e:
            raise Malformed(f"record {record.seq}: {e.detail}") from None
    return opened


def _private(path: str) -> TextIO:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except OSError as e:
        raise Misconfigured(f"{path}: {e.strerror}") from e
    return os.fdopen(descriptor, "w", encoding="utf-8")
