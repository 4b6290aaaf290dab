"""One message of the stream ``CHAIN``: a block of records and the position that the writer reached with it.

Decides the bytes of a block and its size. A block is the unit of commit: records, chain head, journal position and
tree move together or not at all. What stands in ``range``, ``heads`` and ``producers`` is a convenience that lets a
writer start quickly; every reader recomputes what it relies on (:mod:`nomos_audit.replay`).
"""

from __future__ import annotations

from typing import Final

import msgspec

from nomos.errors import LimitExceeded, MalformedRecord
from nomos.log.chain import HASH_BYTES

BLOCK_VERSION: Final = 1
SUBJECT: Final = "chain.0"
STREAM: Final = "CHAIN"
#: Bytes of records in one block; reached by collecting what is waiting, never by waiting for more.
BLOCK_RECORDS_BYTES_MAX: Final = 500_000
#: Entries of the snapshot of tenant heads, and of producers, that one block carries; the rest goes into the next.
SNAPSHOT_ENTRIES_MAX: Final = 1_000
#: One whole block; the bus carries 1 MiB.
BLOCK_BYTES_MAX: Final = 900_000


class Block(msgspec.Struct, frozen=True, kw_only=True):
    """A block. Unknown members are ignored, so that a later version can add some.

    Attributes:
        v: 1.
        first: seq of the first record (also where there is none).
        prev: 32 bytes, the chain hash before the first record.
        records: canonical bytes of each record; none where only the journal position moves.
        head: 32 bytes, the chain hash after the last record.
        intake: stream sequence of the last journal message that is consumed as a whole.
        range: the hashes of the tree's compact range after this block.
        heads_at: sequence in ``CHAIN`` of the block from which a replay sees every tenant head and producer; 0 if none.
        heads: tenant -> (next tseq, hash of its last record in hex): this block's part of a snapshot, or None.
        producers: ``service/producer`` -> (next counter, seq of its last record): likewise.
        writer: which process wrote it; diagnostic, and how a writer recognises its own block after a lost reply.
        next: the stream in which the next block stands, where this one is the last of its own; else empty. Such a block
            holds no record.
    """

    v: int
    first: int
    prev: bytes
    records: list[bytes]
    head: bytes
    intake: int
    range: list[bytes]
    heads_at: int
    heads: dict[str, tuple[int, str]] | None
    producers: dict[str, tuple[int, int]] | None = None
    writer: str
    next: str = ""

    @property
    def size(self) -> int:
        """The number of records in the log after this block."""
        return self.first + len(self.records)


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Block)


def encode_block(block: Block) -> bytes:
    """The bytes of a block.

    Raises:
        LimitExceeded: larger than :data:`BLOCK_BYTES_MAX`.
    """
    encoded = _encoder.encode(block)
    if len(encoded) > BLOCK_BYTES_MAX:
        raise LimitExceeded("block size in bytes", BLOCK_BYTES_MAX, len(encoded))
    return encoded


def parse_block(encoded: bytes) -> Block:
    """Parses a block without verifying it.

    Raises:
        MalformedRecord: it is none.
    """
    try:
        block = _decoder.decode(encoded)
    except (msgspec.MsgspecError, RecursionError, ValueError, TypeError, OverflowError) as error:
        raise MalformedRecord("a message of the chain must be a block", cause=repr(error)) from None
    if block.v != BLOCK_VERSION:
        raise MalformedRecord(f"block version must be {BLOCK_VERSION}, got {block.v}")
    if block.first < 0 or block.intake < 0 or block.heads_at < 0:
        raise MalformedRecord("a block's positions must not be negative")
    if any(len(one) != HASH_BYTES for one in (block.prev, block.head, *block.range)):
        raise MalformedRecord(f"a block's hashes have {HASH_BYTES} bytes")
    return block
