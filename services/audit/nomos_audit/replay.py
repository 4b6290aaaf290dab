"""From blocks back to the head: what every reader of the chain checks, and the fold that a standby follows. Pure.

:func:`verify_block` recomputes every link of a block from the position before it. :func:`evolve` folds a verified block
into a :class:`~nomos_audit.head.Head` and checks counters, tenant links and the tree as it goes; the head it gives
equals the one that the writer held (a property test says so).

Trusted: nothing but the position that the caller starts from. A block that does not follow from it means that someone
else than a writer changed the stream: :class:`~nomos.errors.RolledBack`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, TypeVar

import msgspec

from nomos.errors import RolledBack
from nomos.log.chain import genesis, link
from nomos.log.tree import CompactRange
from nomos_audit.block import Block, parse_block
from nomos_audit.head import NEW_TENANT, Head, ProducerHead, TenantHead, forget_oldest, producer_name

HINT: Final = (
    "stop the audit service; compare the stream CHAIN with the newest checkpoint and a copy of the log "
    "(nomos verify), and restore the store from the copy that the checkpoint proves"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """A place in the chain: after block ``block``, with ``size`` records, the last of which has chain hash ``hash``."""

    block: int
    size: int
    hash: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedBlock:
    """A block whose links follow from the position before it.

    Attributes:
        block: the block.
        hashes: chain hash of each record.
        after: the position after it.
    """

    block: Block
    hashes: tuple[bytes, ...]
    after: Position

    def prev_of(self, index: int) -> bytes:
        """The chain hash before the record at ``index`` of this block."""
        return self.hashes[index - 1] if index else self.block.prev


_Known = TypeVar("_Known", TenantHead, ProducerHead)


class _Counter(msgspec.Struct):
    id: str
    n: int
    svc: str


class _Counted(msgspec.Struct):
    """The members of a record that move the head."""

    seq: int
    tenant: str
    tprev: str
    tseq: int
    pc: _Counter | None


_counted = msgspec.json.Decoder(_Counted)


def start_of(origin: str) -> Position:
    """The position before the first block of the log ``origin``."""
    return Position(block=0, size=0, hash=genesis(origin))


def position_of(head: Head) -> Position:
    """The position of a head."""
    return Position(block=head.block, size=head.size, hash=head.hash)


def verify_block(before: Position, sequence: int, encoded: bytes) -> VerifiedBlock:
    """Checks that the message ``sequence`` of ``CHAIN`` is the block after ``before``.

    Raises:
        MalformedRecord: it is no block.
        RolledBack: a block is missing, or this one does not continue the chain.
    """
    if sequence != before.block + 1:
        raise _broken(f"block {before.block + 1} of the chain was expected, got {sequence}")
    block = parse_block(encoded)
    if block.first != before.size or block.prev != before.hash:
        raise _broken(f"block {sequence} does not continue the chain at record {before.size}")
    hashes: list[bytes] = []
    last = before.hash
    for record in block.records:
        last = link(last, record)
        hashes.append(last)
    if block.head != last:
        raise _broken(f"the links of block {sequence} do not lead to its head")
    return VerifiedBlock(
        block=block,
        hashes=tuple(hashes),
        after=Position(block=sequence, size=block.size, hash=last),
    )


def evolve(head: Head, verified: VerifiedBlock, *, complete: bool = True) -> Head:
    """The head after ``verified``.

    Args:
        head: the head before it.
        verified: the block after ``head``.
        complete: whether ``head`` knows every tenant. False while a replay has not yet passed a whole snapshot; then
            a tenant that is seen for the first time is taken as it is.

    Raises:
        RolledBack: a counter, a tenant's link, the tree, the journal position or the snapshot contradicts the head.
    """
    block = verified.block
    tenants = dict(head.tenants)
    producers = dict(head.producers)
    for index, (encoded, own) in enumerate(zip(block.records, verified.hashes, strict=True)):
        record = _decode(encoded)
        before = tenants.get(record.tenant, NEW_TENANT if complete else None)
        is_next = record.seq == head.size + index
        if not is_next or (before is not None and before != TenantHead(record.tseq, record.tprev)):
            raise _broken(f"record {head.size + index} does not carry the counters that follow")
        tenants[record.tenant] = TenantHead(record.tseq + 1, own.hex())
        if record.pc is not None:
            name = producer_name(record.pc.svc, record.pc.id)
            producers.pop(name, None)
            producers[name] = ProducerHead(record.pc.n + 1, record.seq)
    _merge(tenants, {name: TenantHead(*one) for name, one in (block.heads or {}).items()})
    if block.producers:
        _merge(producers, {name: ProducerHead(*one) for name, one in block.producers.items()})
        producers = dict(sorted(producers.items(), key=lambda item: item[1].seq))
    forget_oldest(producers)
    tree = CompactRange.from_hashes(head.size, head.range)
    tree.extend(verified.hashes)
    if tree.hashes() != block.range or block.intake < head.intake:
        raise _broken(f"block {verified.after.block} does not carry the tree or the journal position that follow")
    return Head(
        origin=head.origin,
        block=verified.after.block,
        size=verified.after.size,
        hash=verified.after.hash,
        intake=block.intake,
        range=tuple(block.range),
        tenants=tenants,
        producers=producers,
        heads_at=block.heads_at,
    )


def head_before(origin: str, sequence: int, encoded: bytes) -> Head:
    """A head without tenants at the block ``sequence``, from where a replay with ``complete=False`` can begin.

    Its hash, size and tree are what the block says; they are proven by what follows them in the chain, once that has
    been compared with a signed checkpoint.

    Raises:
        MalformedRecord: not a block, or its tree does not fit its size.
    """
    block = parse_block(encoded)
    CompactRange.from_hashes(block.size, block.range)
    return Head(
        origin=origin,
        block=sequence,
        size=block.size,
        hash=block.head,
        intake=block.intake,
        range=tuple(block.range),
        tenants={},
        producers={},
        heads_at=block.heads_at,
    )


def _decode(encoded: bytes) -> _Counted:
    try:
        return _counted.decode(encoded)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise _broken("a record of the chain cannot be read") from None


def _merge(into: dict[str, _Known], part: dict[str, _Known]) -> None:
    """Adds a snapshot's entries, which hold the values after the block that carries them."""
    for name, one in part.items():
        if into.setdefault(name, one) != one:
            raise _broken("a snapshot of heads contradicts the records before it")


def _broken(detail: str) -> RolledBack:
    return RolledBack(detail, hint=HINT)
