"""Reading the chain with every link checked: used by the standby, the signer, the projections and the export.

Decides how a reader gets from a position to verified blocks, and how a head is rebuilt from the store. The checks
themselves are pure and stand in :mod:`nomos_audit.replay`.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from nats.aio.client import Client

from nomos.errors import RolledBack
from nomos.log.tree import CompactRange
from nomos_audit.block import Block, parse_block
from nomos_audit.head import Head, empty_head
from nomos_audit.replay import HINT, Position, VerifiedBlock, evolve, head_before, position_of, start_of, verify_block
from nomos_audit.segments import RETIRED_HINT, block_stored, first_block, newest_block, newest_segment, segment_after
from nomos_audit.streams import Tail

#: Blocks whose verification the readers of one process share.
VERIFIED_MAX: Final = 16


class _Verified:
    """Blocks that a reader of this process has verified lately.

    Verification is a pure function of position, sequence and bytes; a block is taken from here only for the same three,
    so another reader's block that reads differently is verified (and refused) as ever.
    """

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[Position, int], tuple[bytes, VerifiedBlock]] = OrderedDict()

    def verify(self, position: Position, seq: int, payload: bytes) -> VerifiedBlock:
        """As :func:`nomos_audit.replay.verify_block`."""
        known = self._known.get((position, seq))
        if known is not None and known[0] == payload:
            return known[1]
        one = verify_block(position, seq, payload)
        self._known[position, seq] = (payload, one)
        if len(self._known) > VERIFIED_MAX:
            self._known.popitem(last=False)
        return one


_verified = _Verified()


class Follower:
    """Gives verified blocks in order from a position on. One reader, one task."""

    def __init__(self, client: Client, position: Position) -> None:
        self._tail: Tail | None = None
        self._client = client
        self.position = position

    async def take(self, wait_seconds: float) -> list[VerifiedBlock]:
        """The blocks that have arrived; waits up to ``wait_seconds`` while there is none. May be empty.

        Raises:
            RolledBack: a block is missing, was retired or does not continue the chain; nothing is given from there on.
            MalformedRecord: a message of the chain is no block.
            Unavailable: the bus does not answer; call again.
        """
        if self._tail is None:
            name = await segment_after(self._client, self.position.block)
            self._tail = Tail(self._client, name, self.position.block)
        verified: list[VerifiedBlock] = []
        for stored in await self._tail.take(wait_seconds):
            if verified and verified[-1].block.next:
                raise RolledBack(f"block {stored.seq} stands behind the end of its segment", hint=HINT)
            one = _verified.verify(self.position, stored.seq, stored.payload)
            self.position = one.after
            verified.append(one)
        if verified and verified[-1].block.next:
            await self._tail.close()
            self._tail = Tail(self._client, verified[-1].block.next, self.position.block)
        return verified

    async def is_behind(self) -> bool:
        """Whether the chain has blocks that were not yet given.

        Raises:
            RolledBack: the chain ends before the position.
            Unavailable: the bus does not answer.
        """
        last = (await newest_segment(self._client)).last
        if last < self.position.block:
            raise RolledBack(f"the chain ends at block {last}, but block {self.position.block} was read", hint=HINT)
        return last > self.position.block

    async def close(self) -> None:
        """Ends reading."""
        if self._tail is not None:
            await self._tail.close()


async def block_at(client: Client, sequence: int) -> tuple[Block, bytes]:
    """One block, not verified, with its bytes.

    Raises:
        RolledBack: it is not there, or was retired.
        MalformedRecord: it is no block.
        Unavailable: the bus does not answer.
    """
    stored = await block_stored(client, sequence)
    return parse_block(stored.payload), stored.payload


async def block_of(client: Client, seq: int, last_block: int) -> int:
    """The number of the block that holds record ``seq``, found by halving.

    Args:
        client: the connection.
        seq: a record below the size of block ``last_block``.
        last_block: the newest block to look at.

    Raises:
        RolledBack: the block was retired.
        MalformedRecord: a message of the chain is no block.
        Unavailable: the bus does not answer.
    """
    low, high = await first_block(client), last_block
    if low > 1 and (await block_at(client, low))[0].first > seq:
        raise RolledBack(f"record {seq} stands before the beginning of the chain", hint=RETIRED_HINT)
    while low < high:
        middle = (low + high) // 2
        block, _ = await block_at(client, middle)
        if block.size > seq:
            high = middle
        else:
            low = middle + 1
    return low


async def position_before(client: Client, origin: str, sequence: int) -> tuple[Position, Block | None]:
    """The position before block ``sequence`` as the block before it claims it, with that block (None before the first).

    What it claims is proven by what follows it, once that has been compared with a signed checkpoint.
    """
    if sequence <= 1:
        return start_of(origin), None
    block, _ = await block_at(client, sequence - 1)
    return Position(block=sequence - 1, size=block.size, hash=block.head), block


async def block_holding(client: Client, origin: str, seq: int, last_block: int) -> tuple[CompactRange, VerifiedBlock]:
    """The block that holds record ``seq``, its links checked, and the tree before it as the block before claims it.

    The claim is proven, or refuted, by a signed root at any later size.

    Args:
        client: the connection.
        origin: the log's identity.
        seq: a record below the size of block ``last_block``.
        last_block: the newest block to look at.

    Raises:
        RolledBack: a block is missing or does not continue the chain.
        MalformedRecord: a message of the chain is no block.
        Unavailable: the bus does not answer.
    """
    position, before = await position_before(client, origin, await block_of(client, seq, last_block))
    tree = CompactRange.from_hashes(position.size, before.range if before is not None else ())
    follower = Follower(client, position)
    try:
        while True:
            found = await follower.take(1.0)
            if found:
                return tree, found[0]
    finally:
        await follower.close()


async def head_at(client: Client, origin: str, last: int | None) -> Head:
    """The head behind the block that holds record ``last``; of the whole chain where it is None.

    Raises:
        RolledBack: there is no such record; blocks are missing or contradict each other.
        MalformedRecord: a message of the chain is no block.
        Unavailable: the bus does not answer.
    """
    if last is None:
        return await load_head(client, origin)
    newest = await newest_block(client)
    if newest is None or parse_block(newest.payload).size <= last:
        raise RolledBack(f"the chain does not hold record {last}", hint=HINT)
    return await load_head(client, origin, await block_of(client, last, newest.seq))


async def load_head(client: Client, origin: str, end: int | None = None) -> Head:
    """Rebuilds the head behind block ``end`` (None: the newest) from the whole snapshot before it, checking every link.

    Raises:
        RolledBack: blocks are missing or contradict each other.
        MalformedRecord: a message of the chain is no block.
        Unavailable: the bus does not answer.
    """
    if end is None:
        last = await newest_block(client)
        if last is None:
            return empty_head(origin)
        end, newest = last.seq, parse_block(last.payload)
    else:
        newest, _ = await block_at(client, end)
    if not 0 <= newest.heads_at <= end:
        raise RolledBack("a block names a snapshot that is not before it", hint=HINT)
    begin = max(newest.heads_at, 1)
    if begin == 1:
        head, complete = empty_head(origin), True
    else:
        _, payload = await block_at(client, begin - 1)
        head, complete = head_before(origin, begin - 1, payload), False
    follower = Follower(client, position_of(head))
    try:
        while head.block < end:
            for verified in await follower.take(1.0):
                if head.block < end:
                    head = evolve(head, verified, complete=complete or head.block >= end)
    finally:
        await follower.close()
    return head
