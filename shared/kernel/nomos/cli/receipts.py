"""``prove`` and ``audit receipt``: one record of the log, or the way from one checkpoint to another, with its proof.

Checked before it is kept.

The receipt is written to the file that was named, the record's canonical bytes beside it with ``.record`` behind the
name. Both together, and the trust file, are all that a check needs, on any machine and without the service.
"""

from __future__ import annotations

import asyncio
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from nomos.cli.context import Context, load_context
from nomos.cli.output import Exit, error, result
from nomos.errors import BadSignature, Malformed, MalformedRecord, Misconfigured
from nomos.log.consistency import parse_consistency, verify_continues
from nomos.log.proof import parse_receipt, verify_receipt
from nomos.log.record import Record, parse_record
from nomos.log.trust import TrustPolicy, parse_trust
from nomos.operator import INSTALLATION, Operator

RECORD_SUFFIX: Final = ".record"
#: A new checkpoint may have to be signed first.
PROVE_MS: Final = 60_000


class _Proved(msgspec.Struct, frozen=True):
    seq: int
    record: str
    receipt: str


class _Continuity(msgspec.Struct, frozen=True):
    proof: str


def prove(args: Namespace) -> int:
    """``nomos prove SEQ``: a record by its number in the log; of one tenant only with ``--tenant``.

    ``nomos prove --from SIZE [--to SIZE]``: that one checkpoint continues another.
    """
    if (args.seq is None) == (args.older is None) or (args.newer is not None and args.older is None):
        raise Misconfigured("name a record's number, or --from and a size")
    if args.older is not None:
        return _prove_continuity(args)
    if args.seq < 0:
        raise Misconfigured("a record's number is 0 or more")

    def is_asked(record: Record) -> bool:
        return record.seq == args.seq and args.tenant in ("", record.tenant)

    return _run(args, "prove", args.tenant or INSTALLATION, {"seq": args.seq}, is_asked)


def _prove_continuity(args: Namespace) -> int:
    context, out, trust = _prepared(args)
    params = {"older": args.older} | ({} if args.newer is None else {"newer": args.newer})
    try:
        proof = _proof_in(asyncio.run(_ask(context, "consistency", args.tenant or INSTALLATION, params))).encode()
        older, newer = (one.checkpoint for one in verify_continues(parse_consistency(proof), trust))
        if older.size != args.older or args.newer not in (None, newer.size):
            raise MalformedRecord(f"the service proves other sizes: {older.size} and {newer.size}")
    except (MalformedRecord, BadSignature) as e:
        error(f"the proof does not verify: {e.detail}", "nothing was kept; keep both checkpoints, and export the log")
        return Exit.NO
    if out is not None:
        _keep(out, proof)
    members = {
        "origin": newer.origin,
        "from": older.size,
        "to": newer.size,
        "proof": proof.decode(),
        "out": args.out or None,
    }
    lines = [f"size {newer.size} of {newer.origin} continues size {older.size}"]
    result(args, "prove", members, [*lines, f"  proof {out}" if out else proof.decode()])
    return Exit.YES


def _proof_in(reply: dict[str, Any]) -> str:
    try:
        return msgspec.convert(reply, _Continuity).proof
    except msgspec.ValidationError as e:
        raise Malformed("the audit service sent another answer", cause=str(e)) from e


def receipt(args: Namespace) -> int:
    """``nomos audit receipt --tenant T TSEQ|EVENT_ID``: one of a tenant's records."""
    wanted: str = args.record
    number = int(wanted) if wanted.isascii() and wanted.isdigit() else None

    def is_asked(record: Record) -> bool:
        return record.tenant == args.tenant and (record.id == wanted if number is None else record.tseq == number)

    params: dict[str, object] = {"event": wanted} if number is None else {"tseq": number}
    return _run(args, "audit receipt", args.tenant, params, is_asked)


def _run(
    args: Namespace, command: str, tenant: str, params: dict[str, object], is_asked: Callable[[Record], bool]
) -> int:
    context, out, trust = _prepared(args)
    reply = asyncio.run(_ask(context, command.rsplit(maxsplit=1)[-1], tenant, params))
    try:
        proved = msgspec.convert(reply, _Proved)
    except msgspec.ValidationError as e:
        raise Malformed("the audit service sent another answer", cause=str(e)) from e
    encoded, proof = proved.record.encode(), proved.receipt.encode()
    try:
        record, parsed = parse_record(encoded), parse_receipt(proof)
        if parsed.index != record.seq or not is_asked(record):
            raise MalformedRecord(f"the service proves another record: {record.seq} of {record.tenant}")
        opened = verify_receipt(parsed, encoded, trust)
    except (MalformedRecord, BadSignature) as e:
        error(f"the receipt does not verify: {e.detail}", "nothing was kept; export the log and verify it")
        return Exit.NO
    if out is not None:
        _keep(out, proof)
        _keep(_beside(out), encoded)
    size = opened.checkpoint.size
    members = {
        "seq": record.seq,
        "tenant": record.tenant,
        "tseq": record.tseq,
        "type": record.type,
        "id": record.id,
        "size": size,
        "witnesses": len(opened.cosignatures),
        "record": proved.record,
        "receipt": proved.receipt,
        "out": args.out or None,
    }
    lines = [f"record {record.seq} is {record.type} of {record.tenant}, number {record.tseq}; proven in size {size}"]
    result(
        args, command, members, [*lines, *([f"  receipt {out}, record {_beside(out)}"] if out else [proved.receipt])]
    )
    return Exit.YES


def _prepared(args: Namespace) -> tuple[Context, Path | None, TrustPolicy]:
    """The installation, where to write, and whom the operator trusts."""
    context = load_context(args)
    out = Path(args.out) if args.out else None
    if out is not None and (out.exists() or _beside(out).exists()):
        raise Misconfigured(f"{args.out} exists", hint="name another; nothing is overwritten")
    try:
        return context, out, parse_trust(Path(context.trust).read_bytes())
    except OSError as e:
        raise Misconfigured(f"{e.filename}: {e.strerror or e}") from e


async def _ask(context: Context, verb: str, tenant: str, params: dict[str, object]) -> dict[str, Any]:
    async with await Operator.connect(context.operator_creds, url=context.bus_url) as operator:
        return await operator.ask("audit", verb, tenant, timeout_ms=PROVE_MS, **params)


def _beside(out: Path) -> Path:
    return out.with_name(out.name + RECORD_SUFFIX)


def _keep(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as target:
            target.write(content)
    except OSError as e:
        raise Misconfigured(f"{path}: {e.strerror or e}") from e
