"""The seal that closes a day, as the chain holds it: where it is found, and what proves it and the day to an auditor.

The table in which it is looked up proves nothing by itself, and may be behind (:func:`settled`); the proofs do,
and they are checked here as an auditor will check them, before anything is published.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

import msgspec
from nats.aio.client import Client

from nomos.log.chain import link
from nomos.log.checkpoint import Checkpoint
from nomos.log.heads import SEAL, Seal, SealRef, parse_seal
from nomos.log.record import Record, parse_record
from nomos.log.roots import RootProofs
from nomos.log.tree import (
    Subtree,
    consistency_path,
    inclusion_path,
    leaf_hash,
    verify_consistency,
    verify_inclusion,
)
from nomos.waiting import raise_if_cancelled
from nomos_audit.block import parse_block
from nomos_audit.domain import JOURNAL
from nomos_audit.segments import newest_block
from nomos_audit.streams import stream_state
from nomos_runtime.database import Database

POLL_SECONDS: Final = 0.5


class Projected(Protocol):
    """How far the table is."""

    @property
    def size(self) -> int:
        """Records in it."""
        ...


class FoundSeal(msgspec.Struct, frozen=True, kw_only=True):
    """A seal in the chain.

    Attributes:
        record: the record that holds it.
        encoded: that record's bytes.
        prev: the chain hash before it.
        seal: what it says.
    """

    record: Record
    encoded: bytes
    prev: bytes
    seal: Seal

    @property
    def ref(self) -> SealRef:
        """How the next seal names it."""
        return SealRef(seq=self.record.seq, h=link(self.prev, self.encoded).hex())


async def settled(client: Client, projected: Projected) -> None:
    """Waits until all that was journalled before now is in the table: a seal of an earlier life among it."""
    journalled = (await stream_state(client, JOURNAL)).last_seq
    size: int | None = None
    while True:
        if size is None:
            # What the newest block says of itself is enough: the table reaches its size only by verified links.
            newest = await newest_block(client)
            intake, reached = 0, 0
            if newest is not None:
                block = parse_block(newest.payload)
                intake, reached = block.intake, block.size
            # That size and no later one: under load the table is always a little behind the newest.
            size = reached if intake >= journalled else None
        if size is not None and projected.size >= size:
            return
        raise_if_cancelled()
        await asyncio.sleep(POLL_SECONDS)


async def find_seal(database: Database, day: str, after: int) -> FoundSeal | None:
    """The first seal of ``day`` behind record ``after``, from the table. The signed root proves it later.

    Raises:
        Unavailable: Postgres does not answer.
    """
    async with database.transaction(tenant="_sys") as connection:
        rows = await connection.fetch(
            "SELECT record, prev FROM audit_events WHERE tenant = '_sys' AND type = $1 AND seq > $2 ORDER BY tseq",
            SEAL,
            after,
        )
    for row in rows:
        record = parse_record(row["record"])
        seal = parse_seal(record.event)
        if seal.day == day:
            return FoundSeal(record=record, encoded=row["record"], prev=row["prev"], seal=seal)
    return None


def proofs_of(
    found: FoundSeal, root: Checkpoint, subtree: Subtree, root_at: Callable[[int], bytes], *, before: int
) -> RootProofs:
    """The proofs of a day, checked as an auditor will check them.

    Args:
        found: its seal.
        root: the daily root, of exactly the size that the seal completes.
        subtree: reads the tree.
        root_at: the tree's root at an earlier size.
        before: size of the daily root before; 0 for the first.

    Raises:
        ProofFailed: the tree on disk is not the signed one.
    """
    seal, size, content = found.seal, root.size, found.seal.last + 1
    proofs = RootProofs(
        day=seal.day,
        size=size,
        seal=found.encoded,
        prev=found.prev,
        inclusion=tuple(inclusion_path(subtree, size - 1, size)),
        content_size=content,
        content_root=root_at(content),
        consistency=tuple(consistency_path(subtree, content, size)),
        prev_size=before,
        prev_consistency=tuple(consistency_path(subtree, before, size)),
    )
    verify_inclusion(size - 1, size, leaf_hash(link(found.prev, found.encoded)), proofs.inclusion, root.root)
    verify_consistency(content, size, proofs.content_root, root.root, proofs.consistency)
    if before:
        verify_consistency(before, size, root_at(before), root.root, proofs.prev_consistency)
    return proofs
