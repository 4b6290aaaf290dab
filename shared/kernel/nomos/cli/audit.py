"""The log's commands: ``audit tail`` and ``audit export``. Neither believes the service.

``tail`` prints a record only after its counters and its links to the tenant's records before it have been checked; a
break ends it with exit code 1 and the record's number. ``export`` fetches the files that the service prepared and
judges them as ``nomos verify`` does, under the context's trust file, before it says that they are an export.

What a tail cannot see is a record cut off at the end; signed checkpoints, and so exports, show that.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import shutil
import tempfile
import time
from argparse import Namespace
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, ClassVar, Final, TypeVar

import msgspec

from nomos.cli.context import Context, load_context
from nomos.cli.names import Names
from nomos.cli.output import Exit, error, result, say
from nomos.client import REQUEST_MS, Connection, header
from nomos.errors import Malformed, MalformedRecord, Misconfigured, Refused, Unavailable
from nomos.log.chain import HASH_BYTES, NO_HASH, link
from nomos.log.index import CHECKPOINT_NAME, CHECKPOINTS_NAME, HEAD_NAME, INDEX_NAME, PROOF_NAME, is_part_name
from nomos.log.record import Record, parse_record
from nomos.messages import AuditRecords, Decoder, Failure, ReadAudit
from nomos.operator import INSTALLATION, Operator

READ_RECORDS: Final = 500
FOLLOW_SECONDS: Final = 0.5
#: How long the service waits for the next record before it answers that there is none.
WAIT_MS: Final = 15_000
#: Between an answer of a service that has waited and the next question; bounds what a service costs that does not wait.
ANSWERED_SECONDS: Final = 0.02
#: Preparing an export reads the whole chain; deadlines lie at most two minutes ahead.
OPEN_MS: Final = 110_000
#: Members of an event that a line shows, in this order, where they are there.
SHOWN: Final = ("outcome", "code", "action", "resource", "reason", "name", "approval", "approver", "status")
_SHOWN_CHARS_MAX: Final = 100

T = TypeVar("T", bound=msgspec.Struct)

_records = Decoder.of(AuditRecords | Failure, "audit records")

#: Records, the chain hash before each, and the counter that the tenant's next record will have.
Page = tuple[list[bytes], list[bytes], int]


class ChainBroken(Refused):
    """A record that does not continue the chain; every record before it does."""

    code: ClassVar[str] = "chain_broken"


class TenantChain:
    """Checks one tenant's records in order: ``tseq`` without a gap, and ``tprev`` the hash of the one before."""

    def __init__(self, tenant: str, first: int) -> None:
        """Begins with the record ``first`` of ``tenant``. Of a beginning in the middle, ``tprev`` is taken as it is."""
        self.next = first
        self._tenant = tenant
        self._last: bytes | None = NO_HASH if first == 0 else None
        self._seq = -1

    def add(self, encoded: bytes, prev: bytes) -> tuple[Record, bytes]:
        """The record and its chain hash.

        Args:
            encoded: the record's bytes.
            prev: the chain hash before it, of whichever tenant that record is.

        Raises:
            ChainBroken: it is not the next record.
        """
        where = f"record {self.next} of {self._tenant}"
        try:
            record = parse_record(encoded)
        except MalformedRecord as e:
            raise ChainBroken(f"{where}: {e.detail}") from e
        if record.tenant != self._tenant or record.tseq != self.next or record.seq <= self._seq:
            raise ChainBroken(f"{where}: got record {record.tseq} of {record.tenant}, seq {record.seq}")
        if self._last is not None and record.tprev != self._last.hex():
            raise ChainBroken(f"{where}, seq {record.seq}: tprev is not the hash of the record before it")
        if len(prev) != HASH_BYTES:
            raise ChainBroken(f"{where}, seq {record.seq}: the hash before it has {len(prev)} bytes")
        self._last = link(prev, encoded)
        self._seq = record.seq
        self.next += 1
        return record, self._last


def tail(args: Namespace) -> int:
    """``nomos audit tail``: checked records, as lines or as one JSON document each."""
    if args.from_tseq < 0:
        raise Misconfigured("--from must be 0 or more")
    if args.names and (args.json or args.auditor_creds is not None):
        raise Misconfigured("--names is an operator's, and for lines: a document shows the record's own bytes")
    if args.auditor_creds is not None:
        return asyncio.run(_tail_as_auditor(args))
    if not args.tenant:
        raise Misconfigured(
            "whose records: name --tenant, or --auditor-creds", hint="the whole log: nomos audit export"
        )
    return asyncio.run(_tail_as_operator(args, load_context(args)))


async def _tail_as_auditor(args: Namespace) -> int:
    async with await Connection.open(args.auditor_creds) as connection:
        mine = connection.credentials
        if mine.role != "auditor":
            raise Misconfigured(
                f"{args.auditor_creds} is not an auditor's", hint="nomos auditor create NAME --tenant T --creds FILE"
            )
        if args.tenant not in ("", mine.tenant):
            raise Misconfigured(f"this auditor belongs to {mine.tenant}, not to {args.tenant}")

        async def read(first: int) -> Page:
            wait_ms = WAIT_MS if args.follow else 0
            timeout_ms = REQUEST_MS + wait_ms
            command = ReadAudit(**header(timeout_ms), from_tseq=first, limit=READ_RECORDS, wait_ms=wait_ms)  # type: ignore[arg-type]
            reply = await connection.ask(f"req.audit.{mine.name}", command, _records, timeout_ms)
            if not isinstance(reply, AuditRecords):
                raise Malformed("not an audit reply")
            return reply.records, reply.prev, reply.head_tseq

        return await _tail(args, mine.tenant, read, pause_seconds=ANSWERED_SECONDS)


async def _tail_as_operator(args: Namespace, context: Context) -> int:
    async with await Operator.connect(context.operator_creds, url=context.bus_url) as operator:

        async def read(first: int) -> Page:
            reply = await operator.ask("audit", "read", args.tenant, from_tseq=first, limit=READ_RECORDS)
            page = _convert(reply, AuditRecords)
            return page.records, page.prev, page.head_tseq

        names = Names(operator, args.tenant) if args.names else None
        return await _tail(args, args.tenant, read, pause_seconds=FOLLOW_SECONDS, names=names)


async def _tail(
    args: Namespace,
    tenant: str,
    read: Callable[[int], Awaitable[Page]],
    *,
    pause_seconds: float,
    names: Names | None = None,
) -> int:
    """``pause_seconds``: between a question that found nothing and the next. ``names`` opens the names of people."""
    # One record earlier, so that the first one that is shown has its tprev checked.
    chain = TenantChain(tenant, max(args.from_tseq - 1, 0))
    has_read = False
    while True:
        try:
            records, prev, head = await read(chain.next)
        except Unavailable as e:
            # Who follows wants to go on when the service is back; who asks once wants to know.
            if not (args.follow and has_read):
                raise
            say(f"nomos: {e.detail}; trying again")
            await asyncio.sleep(FOLLOW_SECONDS)
            continue
        has_read = True
        if len(records) != len(prev) or (not records and head > chain.next):
            raise ChainBroken(f"record {chain.next} of {tenant}: {head} exist, and the service does not give it")
        for encoded, before in zip(records, prev, strict=True):
            record, own = chain.add(encoded, before)
            if record.tseq >= args.from_tseq:
                name = "" if names is None else await names.find(record.actor.id)
                _show(args, record, encoded, own, name)
        if not records:
            if not args.follow:
                return Exit.YES
            await asyncio.sleep(pause_seconds)


def _show(args: Namespace, record: Record, encoded: bytes, own: bytes, name: str) -> None:
    if args.json:
        # The canonical bytes as they are: a reader can compute the hash again.
        print(f'{{"schema":"nomos.audit-tail/1","hash":"{own.hex()}","record":{encoded.decode()}}}', flush=True)
        return
    request = record.event.get("request")
    event = {**request, **record.event} if isinstance(request, dict) else record.event
    said = " ".join(dict.fromkeys(str(event[name]) for name in SHOWN if isinstance(event.get(name), str | int)))
    said = "".join(c if c.isprintable() else "?" for c in said)[:_SHOWN_CHARS_MAX]
    actor = f"{record.actor.kind}:{record.actor.id}" + (f" ({name})" if name else "")
    print(f"{record.tseq:>7}  {record.ts}  {record.type:<20} {actor}  {said}".rstrip(), flush=True)


class _File(msgspec.Struct, frozen=True):
    n: str
    bytes: int


class _Opened(msgspec.Struct, frozen=True):
    export: str
    files: list[_File]


class _Piece(msgspec.Struct, frozen=True):
    content: str
    bytes: int


def export(args: Namespace) -> int:
    """``nomos audit export --out DIR``: the log, or one tenant's records with their proof, signed as of now."""
    from nomos.log.verify import verify_export

    context = load_context(args)
    out = Path(args.out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise Misconfigured(
            f"{args.out} exists and is not an empty folder", hint="name another; nothing is overwritten"
        )
    try:
        trust = Path(context.trust).read_bytes()
        out.parent.mkdir(parents=True, exist_ok=True)
        # What is not complete has no name: an export appears whole or not at all.
        draft = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        try:
            asyncio.run(fetch(context, args.tenant or INSTALLATION, draft))
            draft.replace(out)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
        report = verify_export(out, trust, now=int(time.time()), tenant=args.tenant or None)
    except ModuleNotFoundError as e:
        raise Misconfigured("checking an export needs pyarrow", hint="install nomos-authz[verify]") from e
    except OSError as e:
        raise Misconfigured(f"{e.filename or args.out}: {e.strerror or e}") from e
    members = {
        "out": args.out,
        "origin": report.origin,
        "kind": report.kind,
        "tenant": report.tenant,
        "records": report.records,
        "size": report.to_size,
        "verdict": report.verdict.value,
    }
    verify = f"nomos verify {args.out} --trust {context.trust}" + (f" --tenant {args.tenant}" if args.tenant else "")
    lines = [f"{report.records} records in {args.out}, {report.verdict.value} up to size {report.to_size}"]
    result(args, "audit export", members, [*lines, f"  again, anywhere: {verify}"])
    if report.first is not None:
        at = "" if report.first.seq is None else f"record {report.first.seq}: "
        error(f"the export is {report.verdict.value}: {at}{report.first.reason}", f"all of it: {verify}")
    return report.verdict.exit_code


async def fetch(context: Context, tenant: str, folder: Path) -> None:
    """Has an export prepared and fetches it into ``folder``, file by file. Not verified.

    Args:
        context: of the installation.
        tenant: whose bundle; :data:`nomos.operator.INSTALLATION` for the whole log.
        folder: empty.

    Raises:
        NomosError: the audit service refuses, or does not answer.
        OSError: a file cannot be written.
    """
    async with await Operator.connect(context.operator_creds, url=context.bus_url) as operator:
        opened = _convert(await operator.ask("audit", "export-open", tenant, timeout_ms=OPEN_MS), _Opened)
        try:
            for file in opened.files:
                path = folder / _checked_name(file.n)
                path.parent.mkdir(exist_ok=True)
                with path.open("wb") as target:
                    while target.tell() < file.bytes:
                        target.write(await _piece(operator, tenant, opened.export, file, target.tell()))
        finally:
            await operator.ask("audit", "export-close", tenant, export=opened.export)


async def _piece(operator: Operator, tenant: str, export: str, file: _File, offset: int) -> bytes:
    reply = await operator.ask("audit", "export-read", tenant, export=export, n=file.n, offset=offset)
    try:
        piece = base64.b64decode(_convert(reply, _Piece).content, validate=True)
    except binascii.Error as e:
        raise Malformed("the audit service sent a piece that is not base64") from e
    if not 0 < len(piece) <= file.bytes - offset:
        raise Malformed(f"the audit service sent {len(piece)} bytes of a file that has {file.bytes - offset} left")
    return piece


def _checked_name(name: str) -> str:
    """A name that an export can have; anything else could be a path out of the folder."""
    folder, _, size = name.rpartition("/")
    is_note = folder == CHECKPOINTS_NAME and size.isascii() and size.isdigit()
    if name in (INDEX_NAME, CHECKPOINT_NAME, PROOF_NAME, HEAD_NAME) or is_note or is_part_name(name):
        return name
    raise Malformed("the audit service named a file that no export has")


def _convert(reply: dict[str, Any], kind: type[T]) -> T:
    try:
        return msgspec.convert(reply, kind)
    except msgspec.ValidationError as e:
        raise Malformed("the audit service sent another answer", cause=str(e)) from e
