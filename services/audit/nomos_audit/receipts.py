"""Receipts: one record, its path in the tree, and the newest signed checkpoint (c2sp.org/tlog-proof).

Decides where the record is found: a tenant's in the table, behind row-level security, so that another tenant's number
is answered as a number that does not exist; the installation's in the chain. Whatever gave it, the receipt is checked
against the signed root before it leaves.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
from nats.aio.client import Client

from nomos.errors import Malformed, NotFound, Unavailable
from nomos.ids import is_id
from nomos.log.chain import link
from nomos.log.checkpoint import parse_checkpoint
from nomos.log.note import parse_note
from nomos.log.proof import Receipt, format_receipt
from nomos.log.record import INTEGER_MAX, parse_record
from nomos.log.tree import ProofFailed, inclusion_path, leaf_hash, verify_inclusion
from nomos.waiting import raise_if_cancelled
from nomos_audit.checkpoints import Signer
from nomos_audit.follow import Follower, block_at, block_of, position_before
from nomos_audit.segments import first_block, newest_segment
from nomos_audit.tiles import Tiles
from nomos_runtime.database import Database

#: How many of a tenant's newest records are searched for an event's id; the table has no index of ids.
EVENTS_SEARCHED_MAX: Final = 100_000


class Located(msgspec.Struct, frozen=True, kw_only=True):
    """A record, its place and the chain hash before it."""

    seq: int
    record: bytes
    prev: bytes


class Receipts:
    """Finds records of one log and proves them."""

    def __init__(
        self,
        client: Client,
        database: Database,
        *,
        origin: str,
        signer: Signer,
        tiles: Tiles,
        vouched: Callable[[bytes], Awaitable[bytes]],
    ) -> None:
        """Takes the connection to the account that owns the streams, and what knows the tree and who signed it."""
        self._client = client
        self._database = database
        self._origin = origin
        self._signer = signer
        self._tiles = tiles
        self._vouched = vouched

    async def by_seq(self, seq: int, tenant: str | None) -> Located:
        """Record ``seq``; of ``tenant`` only, where one is named.

        Raises:
            NotFound: there is none, or it is another tenant's.
            Unavailable: the bus or Postgres does not answer.
        """
        if tenant is None:
            return await self._in_chain(seq)
        return await self._in_table(tenant, "seq = $2", seq)

    async def by_tseq(self, tseq: int, tenant: str) -> Located:
        """The tenant's record number ``tseq``.

        Raises:
            NotFound: there is none.
            Unavailable: Postgres does not answer.
        """
        return await self._in_table(tenant, "tseq = $2", tseq)

    async def by_event(self, event: str, tenant: str) -> Located:
        """The tenant's record of event ``event``, among the newest :data:`EVENTS_SEARCHED_MAX`.

        Raises:
            Malformed: it is not spelled as an event's id.
            NotFound: there is none.
            Unavailable: Postgres does not answer.
        """
        if not is_id(event, "ev"):
            raise Malformed("not the id of an event")
        # The members of a record are in order: "pc" follows the record's own "id".
        needle = f'"id":"{event}","pc":'.encode()
        async with self._database.transaction(tenant=tenant) as connection:
            rows = await connection.fetch(
                "SELECT seq, record, prev FROM (SELECT seq, record, prev FROM audit_events WHERE tenant = $1"
                " ORDER BY tseq DESC LIMIT $3) AS newest WHERE position($2::bytea IN record) > 0 LIMIT 16",
                tenant,
                needle,
                EVENTS_SEARCHED_MAX,
            )
        for row in rows:
            if parse_record(row["record"]).id == event:
                return Located(seq=row["seq"], record=row["record"], prev=row["prev"])
        raise NotFound(
            f"no record of this event among the newest {EVENTS_SEARCHED_MAX}", hint="name the record's counter instead"
        )

    async def _in_table(self, tenant: str, where: str, number: int) -> Located:
        if not 0 <= number <= INTEGER_MAX:
            raise NotFound("there is no such record")
        async with self._database.transaction(tenant=tenant) as connection:
            # ``where`` is one of the two constants above.
            row = await connection.fetchrow(
                f"SELECT seq, record, prev FROM audit_events WHERE tenant = $1 AND {where}",  # noqa: S608
                tenant,
                number,
            )
        if row is None:
            raise NotFound("there is no such record")
        return Located(seq=row["seq"], record=row["record"], prev=row["prev"])

    async def _in_chain(self, seq: int) -> Located:
        last, first = (await newest_segment(self._client)).last, await first_block(self._client)
        if seq < 0 or last < first or (await block_at(self._client, last))[0].size <= seq:
            raise NotFound("there is no such record")
        if (await block_at(self._client, first))[0].first > seq:
            raise NotFound("the chain has been rolled past this record", hint="name its tenant, or read the archive")
        sequence = await block_of(self._client, seq, last)
        position, _ = await position_before(self._client, self._origin, sequence)
        follower = Follower(self._client, position)
        try:
            while True:
                raise_if_cancelled()
                for block in await follower.take(1.0):
                    at = seq - block.block.first
                    return Located(seq=seq, record=block.block.records[at], prev=block.prev_of(at))
        finally:
            await follower.close()

    async def prove(self, found: Located) -> bytes:
        """The ``.tlog-proof`` of a record, against the newest checkpoint that covers it.

        Raises:
            RolledBack: the log contradicts a checkpoint.
            Unavailable: the bus does not answer, or the tiles are late, or had to be made anew.
        """
        note = self._signer.newest
        if note is None or self._signer.size <= found.seq:
            note = await self._signer.checkpoint_now()
        checkpoint = parse_checkpoint(parse_note(note).text)
        subtree = await self._tiles.reach(checkpoint.size)
        path = tuple(inclusion_path(subtree, found.seq, checkpoint.size))
        leaf = leaf_hash(link(found.prev, found.record))
        try:
            verify_inclusion(found.seq, checkpoint.size, leaf, path, checkpoint.root)
        except ProofFailed as error:
            # The table or the tiles are damaged; both are copies of the chain. The tiles heal by themselves.
            self._tiles.forget()
            raise Unavailable("the copy of the log that proofs are made from is damaged", cause=error.detail) from error
        vouched = await self._vouched(note)
        return format_receipt(Receipt(prev=found.prev, index=found.seq, path=path, checkpoint=vouched))
