"""The projection of the chain into the table ``audit_events``.

Decides nothing: it repeats the chain, checks every link before it repeats it, and can be dropped and rebuilt. The rows
of some blocks and the new position are one transaction, so a crash leaves both or neither. Two processes may project at
once; the position's row lock makes the slower one start over from the newer position.

Not trusted by anyone who verifies: an attacker who controls it can hide or change a copy, not the log.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import msgspec
from nats.aio.client import Client

from nomos.errors import Conflict, Unavailable
from nomos.log.record import parse_ts
from nomos.waiting import raise_if_cancelled
from nomos_audit.follow import Follower
from nomos_audit.replay import Position, VerifiedBlock, start_of
from nomos_runtime import observe
from nomos_runtime.database import Database

MIGRATIONS: Final = Path(__file__).with_name("migrations")
#: Rows of one transaction; a block is never split.
ROWS_MAX: Final = 5_000
RETRY_SECONDS: Final = 0.5
WAIT_SECONDS: Final = 1.0
#: How long rows are collected for one transaction; how far the table may be behind the chain.
LINGER_SECONDS: Final = 0.1

PROJECTION_AWAY: Final = "audit_projection_away"
PROJECTION_RESET: Final = "audit_projection_reset"

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_INSERT: Final = (
    "INSERT INTO audit_events (seq, ts, tenant, tseq, type, prev, hash, record) SELECT * FROM unnest("
    "$1::bigint[], $2::timestamptz[], $3::text[], $4::bigint[], $5::text[], $6::bytea[], $7::bytea[], $8::bytea[])"
)


class _Columns(msgspec.Struct):
    """The members of a record that are columns too."""

    seq: int
    ts: str
    tenant: str
    tseq: int
    type: str


_columns = msgspec.json.Decoder(_Columns)


def _rows(block: VerifiedBlock) -> Iterator[tuple[Any, ...]]:
    for index, (record, own) in enumerate(zip(block.block.records, block.hashes, strict=True)):
        one = _columns.decode(record)
        at = _EPOCH + timedelta(microseconds=parse_ts(one.ts))
        yield (one.seq, at, one.tenant, one.tseq, one.type, block.prev_of(index), own, record)


class TableProjection:
    """Keeps ``audit_events`` up with the chain. :meth:`run` until cancelled."""

    def __init__(self, client: Client, database: Database, *, origin: str) -> None:
        self._client = client
        self._database = database
        self._origin = origin
        self.position = start_of(origin)

    @property
    def size(self) -> int:
        """Records of the log that are in the table, by this process's knowledge."""
        return self.position.size

    async def run(self) -> None:
        """Projects the chain until cancelled.

        Raises:
            RolledBack: the chain does not continue what was projected before.
            MalformedRecord: a message of the chain is no block.
        """
        while True:
            raise_if_cancelled()
            try:
                await self._project()
            except (Unavailable, Conflict) as error:
                event = PROJECTION_RESET if isinstance(error, Conflict) else PROJECTION_AWAY
                observe.say("audit", event, projection="table", detail=error.detail, cause=error.cause)
                await asyncio.sleep(RETRY_SECONDS)

    async def _project(self) -> None:
        self.position = await self._load()
        follower = Follower(self._client, self.position)
        try:
            while True:
                raise_if_cancelled()
                waiting = await follower.take(WAIT_SECONDS)
                if waiting:
                    # A transaction costs the same for one row and for thousands.
                    await asyncio.sleep(LINGER_SECONDS)
                    waiting += await follower.take(0)
                while waiting:
                    taken = _whole_blocks(waiting)
                    await self._store(waiting[:taken])
                    del waiting[:taken]
        finally:
            await follower.close()

    async def _load(self) -> Position:
        async with self._database.transaction() as connection:
            row = await connection.fetchrow("SELECT block, size, hash FROM audit_projection")
        if row is None:
            return start_of(self._origin)
        return Position(block=row["block"], size=row["size"], hash=row["hash"])

    async def _store(self, blocks: Sequence[VerifiedBlock]) -> None:
        """Adds the rows of ``blocks`` and moves the position, in one transaction.

        Raises:
            Conflict: another process has moved the position.
            Unavailable: not known to be stored; the position says so when it is read again.
        """
        after = blocks[-1].after
        rows = [row for block in blocks for row in _rows(block)]
        async with self._database.transaction(scope="project") as connection:
            await connection.execute(
                "INSERT INTO audit_projection (block, size, hash) VALUES (0, 0, $1) ON CONFLICT DO NOTHING",
                start_of(self._origin).hash,
            )
            at = await connection.fetchval("SELECT block FROM audit_projection FOR UPDATE")
            if at != self.position.block:
                raise Conflict(f"the projection stands at block {at}, not {self.position.block}")
            # One statement with arrays: COPY is refused on tables with row-level security, and a staging table would be
            # a table of tenants' records without it.
            if rows:
                await connection.execute(_INSERT, *(list(column) for column in zip(*rows, strict=True)))
            await connection.execute(
                "UPDATE audit_projection SET block = $1, size = $2, hash = $3", after.block, after.size, after.hash
            )
        self.position = after


def _whole_blocks(blocks: Sequence[VerifiedBlock]) -> int:
    """How many of ``blocks`` go into the next transaction; at least one."""
    rows = 0
    for number, block in enumerate(blocks):
        rows += len(block.hashes)
        if rows > ROWS_MAX:
            return max(number, 1)
    return len(blocks)
