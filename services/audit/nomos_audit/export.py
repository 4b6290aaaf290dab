"""Reading the log out: a whole export or one tenant's bundle for an auditor, and one tenant's records by counter.

Decides which records and checkpoints an export holds; its bytes are :mod:`nomos.log.archive`. Everything is read from
the chain with every link checked from genesis, and ends at the newest signed checkpoint: an export never holds a record
that no signature covers. Once the beginning of the chain is retired, the whole log is the archive, and a tenant's
records come from the table, each with its link checked; the proof that goes with them is made from the tree either way.
"""

from __future__ import annotations

import asyncio
import queue
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Final

import msgspec
from nats.aio.client import Client

from nomos.errors import NotFound, RolledBack, Unavailable
from nomos.log.archive import ArchiveRow, write_export
from nomos.log.chain import link
from nomos.log.checkpoint import Checkpoint, parse_checkpoint
from nomos.log.index import HEAD_NAME, ExportIndex
from nomos.log.keyhistory import KeyHistory
from nomos.log.note import parse_note
from nomos.log.proof import many_proof
from nomos.log.record import INTEGER_MAX
from nomos.log.tree import HASH_BYTES, CompactRange, Subtree
from nomos.messages import AuditRecords
from nomos.waiting import raise_if_cancelled
from nomos_audit.checkpoints import STREAM as CHECKPOINT_STREAM
from nomos_audit.follow import Follower
from nomos_audit.replay import HINT, start_of
from nomos_audit.segments import first_block
from nomos_audit.streams import message_at, stream_state
from nomos_audit.tiles import Tiles
from nomos_runtime.database import Database

#: The newest checkpoints that an export holds. At one each ten seconds this is a day and more.
CHECKPOINTS_MAX: Final = 10_000
#: Records that one answer holds.
READ_LIMIT_MAX: Final = 1_000
#: Bytes of records in one answer; the bus carries 1 MiB.
READ_BYTES_MAX: Final = 600_000
#: Rows that are read from the table at once.
TABLE_ROWS: Final = 1_000
#: How long the table is waited for, and how often it is looked at.
TABLE_SECONDS: Final = 10.0
TABLE_POLL_SECONDS: Final = 0.1
#: Batches of rows between the reader and the file writer.
_AHEAD: Final = 8
_STALLED_SECONDS: Final = 0.5
#: Checkpoints that are asked for at once.
_AT_ONCE: Final = 64


class _Tenant(msgspec.Struct):
    tenant: str


_tenants = msgspec.json.Decoder(_Tenant)


async def read_checkpoints(client: Client, keys: KeyHistory) -> list[tuple[int, bytes]]:
    """Size and note of the newest :data:`CHECKPOINTS_MAX` checkpoints, rising, each verified with the keys of its size.

    Raises:
        BadSignature: one was not signed by the keys that must sign its size.
        MalformedRecord: one breaks its format.
        RolledBack: sizes do not rise, but for one tree that was signed again with witnesses.
        Unavailable: the bus does not answer.
    """
    last = (await stream_state(client, CHECKPOINT_STREAM)).last_seq
    found: list[tuple[int, bytes]] = []
    for begin in range(max(0, last - CHECKPOINTS_MAX) + 1, last + 1, _AT_ONCE):
        raise_if_cancelled()
        part = range(begin, min(begin + _AT_ONCE, last + 1))
        for stored in await asyncio.gather(*(message_at(client, CHECKPOINT_STREAM, seq) for seq in part)):
            if stored is None:
                raise RolledBack("a signed checkpoint is gone", hint=HINT)
            _keep(found, keys.open(stored.payload).checkpoint, stored.payload)
    return found


def _keep(found: list[tuple[int, bytes]], checkpoint: Checkpoint, note: bytes) -> None:
    """Adds a note; of two of one tree, the one that has more signatures stays: witnesses have added theirs."""
    if not found or checkpoint.size > found[-1][0]:
        found.append((checkpoint.size, note))
        return
    newest = parse_note(found[-1][1])
    if checkpoint.size < found[-1][0] or parse_checkpoint(newest.text) != checkpoint:
        raise RolledBack("the sizes of signed checkpoints do not rise", hint=HINT)
    if len(parse_note(note).signatures) > len(newest.signatures):
        found[-1] = (checkpoint.size, note)


async def export_log(
    client: Client,
    directory: Path,
    *,
    origin: str,
    keys: KeyHistory,
    tenant: str | None = None,
    tiles: Tiles | None = None,
    head: Callable[[bytes], Awaitable[bytes]] | None = None,
    cosigned: Callable[[list[tuple[int, bytes]]], Awaitable[list[tuple[int, bytes]]]] | None = None,
    table: Database | None = None,
    tool: str = "nomos",
) -> ExportIndex:
    """Writes the log, or one tenant's records with their proofs, up to the newest checkpoint.

    Args:
        client: connected to the account that owns the streams.
        directory: the folder to fill; empty or absent.
        origin: the log's identity.
        keys: the log's public keys.
        tenant: whose bundle; None for the whole log.
        tiles: the tree, from which a bundle's proof is made; without, 32 bytes for each record of the log are held.
        head: gives the bundle's ``head.json`` for the newest checkpoint.
        cosigned: gives notes with the cosignatures that witnesses added; None where there are no witnesses.
        table: where a tenant's records are read once the beginning of the chain is retired.
        tool: name and version of the program, for the reader.

    Raises:
        NotFound: nothing is signed yet, the tenant has no record, or the beginning of the log is in the archive only.
        RolledBack: the chain does not verify, or is behind its checkpoint.
        Unavailable: the bus does not answer.
        OSError: the folder is not empty or cannot be written.
    """
    notes = await read_checkpoints(client, keys)
    if cosigned is not None:
        notes = await cosigned(notes)
    if not notes or notes[-1][0] == 0:
        raise NotFound("the log has no signed record yet")
    size = notes[-1][0]
    batches = await _batches(client, origin, size, tenant, table)
    rows = _Feed()
    proof: Iterable[bytes] = ()
    indexes: list[int] = []
    others: dict[str, bytes] = {}
    if tenant is not None:
        # With tiles the proof is made when the records have been written and their places are known.
        proof = (
            await _prove(client, origin, tenant, size)
            if tiles is None
            else _many(await tiles.frozen(size), indexes, size)
        )
        if head is not None:
            others[HEAD_NAME] = await head(notes[-1][1])
    write = partial(
        write_export,
        directory,
        origin=origin,
        kind="log" if tenant is None else "tenant",
        tenant=tenant,
        rows=rows,
        checkpoints=[note for _, note in notes],
        proof=proof,
        others=others,
        tool=tool,
    )
    writing = asyncio.get_running_loop().run_in_executor(None, write)
    whole = False
    try:
        async for batch in batches:
            if tenant is not None:
                indexes.extend(row.seq for row in batch)
            await rows.put(batch, writing)
            if writing.done():
                break
        await rows.put(None, writing)
        whole = True
    finally:
        if not whole:
            # The thread stops with an error of its own, which says less than the one under way. What it has written
            # has no index and is no export.
            rows.fail()
            await asyncio.wait([writing])
            writing.exception()
    return await writing


async def _batches(
    client: Client, origin: str, size: int, tenant: str | None, table: Database | None
) -> AsyncIterator[list[ArchiveRow]]:
    """Where the records are read from: the chain, while it is whole; else, for a tenant, the table."""
    first = await first_block(client)
    if first <= 1:
        return _read(client, origin, size, tenant)
    if tenant is None or table is None:
        raise NotFound(
            f"the chain begins at block {first}: the records before it are in the archive only",
            hint="copy the archive and verify it; nomos audit export --tenant gives one tenant's records",
        )
    return _read_table(table, size, tenant)


async def _reach(table: Database, size: int) -> None:
    """Waits until the table holds the records below ``size``: one that it lacks would be missing without a word."""
    until = time.monotonic() + TABLE_SECONDS
    while True:
        raise_if_cancelled()
        async with table.transaction() as connection:
            there = await connection.fetchval("SELECT size FROM audit_projection")
        if there is not None and there >= size:
            return
        if time.monotonic() >= until:
            raise Unavailable(f"the table holds {there or 0} of {size} records", hint="ask again")
        await asyncio.sleep(TABLE_POLL_SECONDS)


async def _read_table(table: Database, size: int, tenant: str) -> AsyncIterator[list[ArchiveRow]]:
    """The tenant's records below ``size`` from the table, each compared with its chain hash.

    Raises:
        Unavailable: Postgres does not answer, the table is late, or a row is damaged.
    """
    await _reach(table, size)
    after = -1
    while True:
        async with table.transaction(tenant=tenant) as connection:
            rows = await connection.fetch(
                "SELECT tseq, seq, hash, record, prev FROM audit_events"
                " WHERE tenant = $1 AND tseq > $2 AND seq < $3 ORDER BY tseq LIMIT $4",
                tenant,
                after,
                size,
                TABLE_ROWS,
            )
        if not rows:
            return
        if any(link(row["prev"], row["record"]) != row["hash"] for row in rows):
            raise Unavailable("the copy of the log in the table is damaged")
        if [row["tseq"] for row in rows] != list(range(after + 1, after + 1 + len(rows))):
            raise Unavailable("the copy of the log in the table is not whole")
        after = rows[-1]["tseq"]
        yield [ArchiveRow(row["seq"], row["hash"], row["record"], row["prev"]) for row in rows]


async def _read(client: Client, origin: str, size: int, tenant: str | None) -> AsyncIterator[list[ArchiveRow]]:
    """The records below ``size``, all or the tenant's, with the chain hash before each."""
    follower = Follower(client, start_of(origin))
    try:
        while follower.position.size < size:
            raise_if_cancelled()
            blocks = await follower.take(1.0)
            if not blocks and not await follower.is_behind():
                raise RolledBack(f"the log has {follower.position.size} records, but {size} are signed for", hint=HINT)
            for one in blocks:
                batch = []
                for index, (record, own) in enumerate(zip(one.block.records, one.hashes, strict=True)):
                    seq = one.block.first + index
                    if seq < size and (tenant is None or _tenants.decode(record).tenant == tenant):
                        batch.append(ArchiveRow(seq, own, record, one.prev_of(index)))
                if batch:
                    yield batch
    finally:
        await follower.close()


async def _prove(client: Client, origin: str, tenant: str, size: int) -> list[bytes]:
    """The many-proof of the tenant's records in the tree of ``size``. Holds 32 bytes for each record of the log."""
    leaves = bytearray()
    indexes: list[int] = []
    async for batch in _read(client, origin, size, None):
        for row in batch:
            leaves += row.hash
            if _tenants.decode(row.record).tenant == tenant:
                indexes.append(row.seq)
    if not indexes:
        raise NotFound("the tenant has no signed record")

    def subtree(begin: int, end: int) -> bytes:
        tree = CompactRange()
        tree.extend(bytes(leaves[at * HASH_BYTES : (at + 1) * HASH_BYTES]) for at in range(begin, end))
        return tree.root()

    return await asyncio.to_thread(lambda: list(many_proof(subtree, indexes, size)))


def _many(subtree: Subtree, indexes: list[int], size: int) -> Iterator[bytes]:
    """The many-proof of the records whose places stand in ``indexes`` when the first hash is asked for."""
    if not indexes:
        raise NotFound("the tenant has no signed record")
    yield from many_proof(subtree, indexes, size)


class _Feed:
    """Rows on their way from the event loop to the thread that writes the files. Bounded."""

    def __init__(self) -> None:
        self._queue: queue.Queue[list[ArchiveRow] | None] = queue.Queue(_AHEAD)
        self._failed = False

    async def put(self, batch: list[ArchiveRow] | None, reader: asyncio.Future[ExportIndex]) -> None:
        """Hands over a batch, or None for the end. Returns at once if the reader has ended."""
        while not reader.done():
            try:
                await asyncio.to_thread(self._queue.put, batch, timeout=_STALLED_SECONDS)
            except queue.Full:
                continue
            return

    def fail(self) -> None:
        """Makes the reader stop with an error."""
        self._failed = True

    def __iter__(self) -> Iterator[ArchiveRow]:
        while True:
            try:
                batch = self._queue.get(timeout=_STALLED_SECONDS)
            except queue.Empty:
                if self._failed:
                    raise Unavailable("reading the log ended early") from None
                continue
            if batch is None:
                return
            yield from batch


async def read_tenant(database: Database, tenant: str, from_tseq: int, limit: int) -> AuditRecords:
    """One tenant's records from a counter on, with the chain hash before each, from the table.

    Args:
        database: the audit service's.
        tenant: as the bus stamped it.
        from_tseq: counter of the first record wanted, from 0.
        limit: records at most; cut at :data:`READ_LIMIT_MAX`, and at :data:`READ_BYTES_MAX` of records.

    Returns:
        The records that are projected by now; ``head_tseq`` is the counter that the next record will have.

    Raises:
        Unavailable: Postgres does not answer.
    """
    async with database.transaction(tenant=tenant) as connection:
        # First: what is added meanwhile may be given and not counted. Counted and not given would look like a hole.
        head = await connection.fetchval("SELECT max(tseq) FROM audit_events WHERE tenant = $1", tenant)
        # The tenant stands in the query for the index; row-level security holds without it.
        rows = await connection.fetch(
            "SELECT tseq, record, prev FROM audit_events WHERE tenant = $1 AND tseq >= $2 ORDER BY tseq LIMIT $3",
            tenant,
            min(max(from_tseq, 0), INTEGER_MAX),
            min(max(limit, 0), READ_LIMIT_MAX),
        )
    newest = max(-1 if head is None else head, rows[-1]["tseq"] if rows else -1)
    records: list[bytes] = []
    prev: list[bytes] = []
    left = READ_BYTES_MAX
    for row in rows:
        left -= len(row["record"])
        if left < 0:
            break
        records.append(row["record"])
        prev.append(row["prev"])
    return AuditRecords(records=records, prev=prev, head_tseq=newest + 1)
