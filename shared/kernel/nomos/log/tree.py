"""The Merkle tree over the chain: RFC 6962 section 2.1 (same tree as RFC 9162 section 2.1).

Leaf data is the 32 raw bytes of a chain hash ``h_i``; leaf hash ``SHA-256(0x00 || h_i)``; node hash
``SHA-256(0x01 || left || right)``. Decides roots, compact ranges and proofs. Who signed a root is decided in
:mod:`nomos.log.checkpoint`.

A *compact range* [begin, end) is the list of roots of the largest complete subtrees that cover it, left to right:
at most 2 * 64 hashes. Two neighbours merge into the range over both, so row groups can be hashed apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import sha256
from typing import Final, NamedTuple

from nomos.errors import BadSignature, MalformedRecord

HASH_BYTES: Final = 32
#: One row group of the archive, and one node on level 16 of the tree.
GROUP_ROWS: Final = 65_536
#: No log has more leaves; bounds every proof at 63 hashes (c2sp.org/tlog-tiles, 2^63).
TREE_SIZE_MAX: Final = 2**63 - 1
EMPTY_ROOT: Final = sha256(b"").digest()

#: Gives the leaf *hash* of an index. A list's ``__getitem__`` will do.
LeafHashes = Sequence[bytes] | Callable[[int], bytes]

#: Gives the RFC 6962 root of the leaves [begin, end).
Subtree = Callable[[int, int], bytes]


class ProofFailed(BadSignature):
    """An inclusion or consistency proof that does not lead to the given root."""

    code = "proof_failed"


class _Node(NamedTuple):
    level: int
    place: int
    hash: bytes


def leaf_hash(data: bytes) -> bytes:
    """The leaf hash of ``data`` (here: a 32-byte chain hash)."""
    return sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """The hash of the node over two 32-byte hashes."""
    return sha256(b"\x01" + left + right).digest()


def subtree_root(leaf_hashes: Sequence[bytes]) -> bytes:
    """The root of a complete subtree; the number of leaf hashes must be a power of two.

    Raises:
        MalformedRecord: it is not.
    """
    if not leaf_hashes or len(leaf_hashes) & (len(leaf_hashes) - 1):
        raise MalformedRecord("a complete subtree has a power of two leaves")
    level = list(leaf_hashes)
    # A copy of a hash that has begun costs less than the next one's beginning; so below.
    begun = sha256(b"\x01").copy
    while len(level) > 1:
        pairs, above = iter(level), []
        for left, right in zip(pairs, pairs, strict=True):
            node = begun()
            node.update(left)
            node.update(right)
            above.append(node.digest())
        level = above
    return level[0]


class CompactRange:
    """A growing range of leaves. Starts at leaf 0 unless ``begin`` says otherwise."""

    __slots__ = ("_begin", "_end", "_nodes")

    def __init__(self, begin: int = 0) -> None:
        self._begin = begin
        self._end = begin
        self._nodes: list[_Node] = []

    @classmethod
    def from_hashes(cls, size: int, hashes: Sequence[bytes]) -> CompactRange:
        """The range [0, size) from what :meth:`hashes` gave for it.

        Raises:
            MalformedRecord: the number or length of the hashes does not fit ``size``.
        """
        if not 0 <= size <= TREE_SIZE_MAX:
            raise MalformedRecord("a tree size must be 0 to 2^63-1")
        if len(hashes) != size.bit_count() or any(len(one) != HASH_BYTES for one in hashes):
            raise MalformedRecord(f"a tree of size {size} has {size.bit_count()} hashes of {HASH_BYTES} bytes")
        made = cls()
        position = 0
        for one in hashes:
            level = (size - position).bit_length() - 1
            made._nodes.append(_Node(level, position >> level, bytes(one)))
            position += 1 << level
        made._end = size
        return made

    @property
    def begin(self) -> int:
        """Index of the first leaf."""
        return self._begin

    @property
    def size(self) -> int:
        """Index after the last leaf; the tree size where the range begins at 0."""
        return self._end

    def copy(self) -> CompactRange:
        """A range of its own with the same content."""
        twin = CompactRange(self._begin)
        twin._end = self._end
        twin._nodes = list(self._nodes)
        return twin

    def _push(self, level: int, index: int, digest: bytes) -> None:
        nodes = self._nodes
        while nodes and index & 1 and nodes[-1].level == level:
            digest = sha256(b"\x01" + nodes.pop().hash + digest).digest()
            level += 1
            index >>= 1
        nodes.append(_Node(level, index, digest))

    def append(self, data: bytes) -> None:
        """Adds one leaf with the leaf data ``data`` (a 32-byte chain hash)."""
        self._push(0, self._end, sha256(b"\x00" + data).digest())
        self._end += 1

    def extend(self, data: Iterable[bytes]) -> None:
        """Adds leaves with these leaf data. Same outcome as :meth:`append` for each, in fewer steps."""
        leaves = []
        begun = sha256(b"\x00").copy
        for one in data:
            leaf = begun()
            leaf.update(one)
            leaves.append(leaf.digest())
        at = 0
        while at < len(leaves):
            # The largest aligned power of two that starts here and fits.
            width = 1 << ((len(leaves) - at).bit_length() - 1)
            if self._end:
                width = min(width, self._end & -self._end)
            self._push(
                width.bit_length() - 1, self._end >> (width.bit_length() - 1), subtree_root(leaves[at : at + width])
            )
            self._end += width
            at += width

    def merge(self, right: CompactRange) -> None:
        """Adds the range ``right``, which must begin where this one ends.

        Raises:
            MalformedRecord: it begins elsewhere.
        """
        if right._begin != self._end:
            raise MalformedRecord(f"a range that begins at {self._end} was expected, got {right._begin}")
        for node in right._nodes:
            self._push(*node)
        self._end = right._end

    def hashes(self) -> list[bytes]:
        """The subtree roots, left to right."""
        return [node.hash for node in self._nodes]

    def root(self) -> bytes:
        """The RFC 6962 root of the tree [0, size).

        Raises:
            MalformedRecord: the range does not begin at leaf 0, so it has no root.
        """
        if self._begin != 0:
            raise MalformedRecord("only a range from leaf 0 has a root")
        if not self._nodes:
            return EMPTY_ROOT
        digest = self._nodes[-1].hash
        for node in reversed(self._nodes[:-1]):
            digest = sha256(b"\x01" + node.hash + digest).digest()
        return digest


def group_roots(data: Iterable[bytes], rows: int = GROUP_ROWS) -> Iterator[bytes]:
    """The subtree root of each complete group of ``rows`` leaf data (a power of two); the rest has none."""
    group: list[bytes] = []
    for one in data:
        group.append(leaf_hash(one))
        if len(group) == rows:
            yield subtree_root(group)
            group.clear()


def _accessor(leaves: LeafHashes) -> Callable[[int], bytes]:
    return leaves if callable(leaves) else leaves.__getitem__


def _range_root(leaf: Callable[[int], bytes], begin: int, end: int) -> bytes:
    grown = CompactRange()
    for index in range(begin, end):
        grown._push(0, grown._end, leaf(index))
        grown._end += 1
    return grown.root()


def split_size(size: int) -> int:
    """The largest power of two below ``size`` (RFC 6962 section 2.1), for sizes from 2."""
    return 1 << ((size - 1).bit_length() - 1)


def root_from_leaf_hashes(leaves: LeafHashes, size: int) -> bytes:
    """The root of the first ``size`` leaf hashes."""
    return _range_root(_accessor(leaves), 0, size)


def inclusion_proof(leaves: LeafHashes, index: int, size: int) -> list[bytes]:
    """The audit path of leaf ``index`` in the tree of the first ``size`` leaf hashes (RFC 6962 section 2.1.1).

    Raises:
        MalformedRecord: not ``0 <= index < size``.
    """
    leaf = _accessor(leaves)
    return inclusion_path(lambda begin, end: _range_root(leaf, begin, end), index, size)


def inclusion_path(subtree: Subtree, index: int, size: int) -> list[bytes]:
    """As :func:`inclusion_proof`, from whatever knows the root of the leaves [begin, end).

    Raises:
        MalformedRecord: not ``0 <= index < size``.
    """
    if not 0 <= index < size:
        raise MalformedRecord(f"leaf index {index} is not in a tree of size {size}")
    begin, end, path = 0, size, []
    while end - begin > 1:
        middle = begin + split_size(end - begin)
        if index < middle:
            path.append(subtree(middle, end))
            end = middle
        else:
            path.append(subtree(begin, middle))
            begin = middle
    path.reverse()
    return path


def consistency_proof(leaves: LeafHashes, old: int, new: int) -> list[bytes]:
    """The proof that the tree of size ``old`` is a prefix of the tree of size ``new`` (RFC 6962 section 2.1.2).

    Empty where ``old`` is 0 or equals ``new``.

    Raises:
        MalformedRecord: not ``0 <= old <= new``.
    """
    leaf = _accessor(leaves)
    return consistency_path(lambda begin, end: _range_root(leaf, begin, end), old, new)


def consistency_path(subtree: Subtree, old: int, new: int) -> list[bytes]:
    """As :func:`consistency_proof`, from whatever knows the root of the leaves [begin, end).

    Raises:
        MalformedRecord: not ``0 <= old <= new``.
    """
    if not 0 <= old <= new:
        raise MalformedRecord(f"size {old} is no earlier size of a tree of size {new}")
    if old in (0, new):
        return []
    begin, end, complete, path = 0, new, True, []
    while old != end:
        middle = begin + split_size(end - begin)
        if old <= middle:
            path.append(subtree(middle, end))
            end = middle
        else:
            path.append(subtree(begin, middle))
            begin, complete = middle, False
    if not complete:
        path.append(subtree(begin, end))
    path.reverse()
    return path


def _check_hashes(hashes: Sequence[bytes]) -> None:
    if any(len(one) != HASH_BYTES for one in hashes):
        raise ProofFailed(f"a proof has hashes of {HASH_BYTES} bytes")


def verify_inclusion(index: int, size: int, leaf: bytes, proof: Sequence[bytes], root: bytes) -> None:
    """Checks that leaf hash ``leaf`` stands at ``index`` in the tree (``size``, ``root``) (RFC 9162 section 2.1.3.2).

    Raises:
        ProofFailed: it is not proven.
    """
    if not 0 <= index < size <= TREE_SIZE_MAX:
        raise ProofFailed(f"leaf index {index} is not in a tree of size {size}")
    _check_hashes([leaf, root, *proof])
    node, last, digest = index, size - 1, leaf
    for one in proof:
        if last == 0:
            raise ProofFailed("inclusion proof is too long")
        if node & 1 or node == last:
            digest = node_hash(one, digest)
            while not node & 1 and node:
                node >>= 1
                last >>= 1
        else:
            digest = node_hash(digest, one)
        node >>= 1
        last >>= 1
    if last != 0:
        raise ProofFailed("inclusion proof is too short")
    if digest != root:
        raise ProofFailed("inclusion proof does not lead to the root")


def verify_consistency(old: int, new: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> None:
    """Checks that tree (``old``, ``old_root``) is a prefix of (``new``, ``new_root``) (RFC 9162 section 2.1.4.2).

    Raises:
        ProofFailed: it is not proven.
    """
    if not 0 <= old <= new <= TREE_SIZE_MAX:
        raise ProofFailed(f"size {old} is no earlier size of a tree of size {new}")
    _check_hashes([old_root, new_root, *proof])
    if old == 0 and old_root != EMPTY_ROOT:
        raise ProofFailed("the root of an empty tree is wrong")
    if old == new and old_root != new_root:
        raise ProofFailed("two roots for one size")
    if old in (0, new):
        if proof:
            raise ProofFailed("consistency proof is too long")
        return
    _walk_consistency(old, new, old_root, new_root, proof)


def _walk_consistency(old: int, new: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> None:
    path = [old_root, *proof] if old & (old - 1) == 0 else list(proof)
    if not path:
        raise ProofFailed("consistency proof is too short")
    node, last = old - 1, new - 1
    while node & 1:
        node >>= 1
        last >>= 1
    old_digest = new_digest = path[0]
    for one in path[1:]:
        if last == 0:
            raise ProofFailed("consistency proof is too long")
        if node & 1 or node == last:
            old_digest = node_hash(one, old_digest)
            new_digest = node_hash(one, new_digest)
            while not node & 1 and node:
                node >>= 1
                last >>= 1
        else:
            new_digest = node_hash(new_digest, one)
        node >>= 1
        last >>= 1
    if last != 0:
        raise ProofFailed("consistency proof is too short")
    if old_digest != old_root:
        raise ProofFailed("consistency proof does not lead to the old root")
    if new_digest != new_root:
        raise ProofFailed("consistency proof does not lead to the new root")
