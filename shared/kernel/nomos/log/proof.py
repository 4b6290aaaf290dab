"""Receipts for one record (c2sp.org/tlog-proof) and the inclusion proof of many records at once.

A receipt's ``extra`` is the 32-byte chain hash before the record, so the leaf is
``SHA-256(0x00 || SHA-256(hex(extra) || P_i))``: it proves the record and, through the chain, the whole prefix.

The *many-proof* serves a tenant's bundle. Walk the tree of the given size from the root, left before right: a subtree
without any of the records contributes its root; a leaf that is a record contributes nothing (the verifier has it);
every other subtree is entered. The hashes in the order of that walk are the proof. Text form::

    nomos.many-proof/1
    <tree size>
    <base64 of a hash>            one line for each hash
"""

from __future__ import annotations

from base64 import b64encode
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Final

import msgspec

from nomos.errors import LimitExceeded, MalformedRecord
from nomos.log.chain import link
from nomos.log.checkpoint import VerifiedCheckpoint, open_checkpoint, parse_decimal
from nomos.log.note import NOTE_BYTES_MAX, decode_base64
from nomos.log.tree import HASH_BYTES, ProofFailed, leaf_hash, node_hash, split_size, verify_inclusion
from nomos.log.trust import TrustPolicy

PROOF_HEADER: Final = "c2sp.org/tlog-proof@v1"
MANY_PROOF_HEADER: Final = "nomos.many-proof/1"
#: A tree of 2^63 leaves has no longer path.
PATH_LENGTH_MAX: Final = 63
PROOF_BYTES_MAX: Final = NOTE_BYTES_MAX + 8_192
_EXTRA: Final = "extra "
_INDEX: Final = "index "


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """A parsed receipt, not verified. ``prev`` is ``extra``: the chain hash before the record."""

    prev: bytes
    index: int
    path: tuple[bytes, ...]
    checkpoint: bytes


def _hash_line(line: str) -> bytes:
    decoded = decode_base64(line)
    if len(decoded) != HASH_BYTES:
        raise MalformedRecord(f"a hash in a proof has {HASH_BYTES} bytes")
    return decoded


def format_receipt(receipt: Receipt) -> bytes:
    """The ``.tlog-proof`` file of ``receipt``."""
    lines = [PROOF_HEADER, _EXTRA + b64encode(receipt.prev).decode(), f"{_INDEX}{receipt.index}"]
    lines += [b64encode(one).decode() for one in receipt.path]
    return "\n".join([*lines, "", ""]).encode() + receipt.checkpoint


def parse_receipt(encoded: bytes) -> Receipt:
    """Parses a ``.tlog-proof`` file without verifying it.

    Raises:
        MalformedRecord: it breaks the format, or has no ``extra`` (our receipts need it).
        LimitExceeded: longer than :data:`PROOF_BYTES_MAX`.
    """
    if len(encoded) > PROOF_BYTES_MAX:
        raise LimitExceeded("receipt size in bytes", PROOF_BYTES_MAX, len(encoded))
    head, blank, checkpoint = encoded.partition(b"\n\n")
    try:
        lines = head.decode("ascii").split("\n")
    except UnicodeDecodeError:
        raise MalformedRecord("a receipt's proof lines must be ASCII") from None
    if not blank or len(lines) < 3 or lines[0] != PROOF_HEADER:
        raise MalformedRecord(f"a receipt begins with {PROOF_HEADER}, extra and index")
    if not lines[1].startswith(_EXTRA) or not lines[2].startswith(_INDEX):
        raise MalformedRecord("a receipt's second line is extra, its third index")
    if len(lines) - 3 > PATH_LENGTH_MAX:
        raise LimitExceeded("hashes of an inclusion proof", PATH_LENGTH_MAX, len(lines) - 3)
    return Receipt(
        prev=_hash_line(lines[1].removeprefix(_EXTRA)),
        index=parse_decimal(lines[2].removeprefix(_INDEX)),
        path=tuple(_hash_line(line) for line in lines[3:]),
        checkpoint=checkpoint,
    )


def verify_receipt(receipt: Receipt, record: bytes, trust: TrustPolicy) -> VerifiedCheckpoint:
    """Checks that ``record`` is in a log of the policy, under a checkpoint with the demanded quorum.

    Args:
        receipt: the parsed receipt.
        record: the canonical bytes of the record.
        trust: the auditor's policy.

    Returns:
        The checkpoint that vouches for the record.

    Raises:
        MalformedRecord: the checkpoint breaks its format.
        BadSignature: a signature, the quorum, a key's range of sizes or the path is wrong.
    """
    opened = open_checkpoint(receipt.checkpoint, trust.log_keys(), trust.witnesses)
    size = opened.checkpoint.size
    if not any(trust.may_sign(one, size) for one in opened.keys):
        raise ProofFailed("no key that signed the checkpoint may speak for its size")
    if not trust.is_quorum([one.witness for one in opened.cosignatures]):
        raise ProofFailed("the checkpoint lacks the quorum of witnesses that the policy demands")
    leaf = leaf_hash(link(receipt.prev, record))
    verify_inclusion(receipt.index, size, leaf, receipt.path, opened.checkpoint.root)
    return opened


def many_proof(subtree: Callable[[int, int], bytes], indexes: Sequence[int], size: int) -> Iterator[bytes]:
    """The hashes that, with the leaves at ``indexes``, give the root of the tree of ``size``.

    Args:
        subtree: gives the RFC 6962 root of the leaves [begin, end).
        indexes: leaf indexes, strictly rising, at least one.
        size: the tree size.

    Raises:
        MalformedRecord: the indexes are empty, do not rise, or lie outside the tree.
    """
    if not indexes or indexes[0] < 0 or indexes[-1] >= size or any(a >= b for a, b in pairwise(indexes)):
        raise MalformedRecord("indexes must rise strictly and lie in the tree")

    def walk(low: int, high: int, begin: int, end: int) -> Iterator[bytes]:
        # indexes[low:high] are those in [begin, end); the depth is at most 63.
        if low == high:
            yield subtree(begin, end)
        elif end - begin > 1:
            middle = begin + split_size(end - begin)
            cut = bisect_left(indexes, middle, low, high)
            yield from walk(low, cut, begin, middle)
            yield from walk(cut, high, middle, end)

    return walk(0, len(indexes), 0, size)


def many_root(leaves: Iterable[tuple[int, bytes]], proof: Iterable[bytes], size: int) -> bytes:
    """The root that leaves and proof lead to.

    Args:
        leaves: pairs of leaf index and leaf *hash*, strictly rising, at least one.
        proof: the hashes of :func:`many_proof`.
        size: the tree size.

    Raises:
        ProofFailed: too few or too many hashes, or leaves that do not rise or lie outside the tree.
    """
    walk = _RootWalk(iter(leaves), iter(proof))
    if walk.next_leaf is None or size <= 0:
        raise ProofFailed("a proof needs at least one leaf")
    root = walk.root(0, size)
    if walk.next_leaf is not None:
        raise ProofFailed("leaves must rise strictly and lie in the tree")
    if next(walk.proof, None) is not None:
        raise ProofFailed("inclusion proof is too long")
    return root


class _RootWalk:
    def __init__(self, leaves: Iterator[tuple[int, bytes]], proof: Iterator[bytes]) -> None:
        self.leaves = leaves
        self.proof = proof
        self.next_leaf = next(leaves, None)

    def root(self, begin: int, end: int) -> bytes:
        if self.next_leaf is None or self.next_leaf[0] >= end:
            one = next(self.proof, None)
            if one is None or len(one) != HASH_BYTES:
                raise ProofFailed("inclusion proof is too short")
            return one
        index, leaf = self.next_leaf
        if index < begin:
            raise ProofFailed("leaves must rise strictly and lie in the tree")
        if end - begin == 1:
            self.next_leaf = next(self.leaves, None)
            return leaf
        middle = begin + split_size(end - begin)
        left = self.root(begin, middle)
        return node_hash(left, self.root(middle, end))


def format_many_proof(size: int, proof: Iterable[bytes]) -> Iterator[bytes]:
    """The lines of the text form, each with its newline."""
    yield f"{MANY_PROOF_HEADER}\n{size}\n".encode()
    for one in proof:
        yield b64encode(one) + b"\n"


def parse_many_proof(lines: Iterator[bytes]) -> tuple[int, Iterator[bytes]]:
    """The tree size and, while they are read, the hashes of the text form.

    Args:
        lines: the file's lines, each with its newline.

    Raises:
        MalformedRecord: it breaks the format; also later, from the iterator of hashes.
    """
    texts = (_proof_line(line) for line in lines)
    if next(texts, "") != MANY_PROOF_HEADER:
        raise MalformedRecord(f"a many-proof begins with {MANY_PROOF_HEADER}")
    size = parse_decimal(next(texts, ""))
    return size, (_hash_line(text) for text in texts)


def _proof_line(line: bytes) -> str:
    if not line.endswith(b"\n"):
        raise MalformedRecord("a many-proof's lines end in newlines")
    try:
        return line[:-1].decode("ascii")
    except UnicodeDecodeError:
        raise MalformedRecord("a many-proof must be ASCII") from None
