"""The tree against the recursive definition of RFC 6962, exhaustively for small sizes."""

from __future__ import annotations

import itertools
from functools import cache
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomos.errors import MalformedRecord
from nomos.log.proof import many_proof, many_root
from nomos.log.tree import (
    EMPTY_ROOT,
    CompactRange,
    ProofFailed,
    consistency_proof,
    group_roots,
    inclusion_proof,
    leaf_hash,
    root_from_leaf_hashes,
    subtree_root,
    verify_consistency,
    verify_inclusion,
)

SIZE = 300
PROOFS = 130
DATA = [sha256(bytes([seq % 256, seq // 256])).digest() for seq in range(SIZE)]
LEAVES = [leaf_hash(one) for one in DATA]


@cache
def mth(begin: int, end: int) -> bytes:
    """Merkle Tree Hash as RFC 6962 section 2.1 defines it, word for word."""
    n = end - begin
    if n == 0:
        return sha256(b"").digest()
    if n == 1:
        return sha256(b"\x00" + DATA[begin]).digest()
    k = 1
    while k * 2 < n:
        k *= 2
    return sha256(b"\x01" + mth(begin, begin + k) + mth(begin + k, end)).digest()


def test_roots_equal_the_recursive_definition() -> None:
    one_by_one = CompactRange()
    for size in range(SIZE + 1):
        at_once = CompactRange()
        at_once.extend(DATA[:size])
        assert one_by_one.root() == at_once.root() == mth(0, size) == root_from_leaf_hashes(LEAVES, size)
        assert one_by_one.hashes() == at_once.hashes()
        again = CompactRange.from_hashes(size, one_by_one.hashes())
        if size < SIZE:
            again.append(DATA[size])
            one_by_one.append(DATA[size])
            assert again.root() == one_by_one.root()
    assert CompactRange().root() == EMPTY_ROOT


@given(st.lists(st.integers(0, SIZE), min_size=1, max_size=6))
def test_ranges_that_are_hashed_apart_merge_to_the_same_tree(cuts: list[int]) -> None:
    edges = sorted({0, SIZE, *cuts})
    whole = CompactRange()
    for begin, end in itertools.pairwise(edges):
        apart = CompactRange(begin)
        apart.extend(DATA[begin:end])
        slowly = CompactRange(begin)
        for one in DATA[begin:end]:
            slowly.append(one)
        assert apart.hashes() == slowly.hashes()
        whole.merge(apart)
        assert whole.root() == mth(0, end)


def test_group_roots_are_nodes_of_the_tree() -> None:
    assert list(group_roots(DATA, 64)) == [mth(at, at + 64) for at in range(0, 256, 64)]
    with pytest.raises(MalformedRecord):
        subtree_root(LEAVES[:3])


def test_every_inclusion_proof_verifies_and_no_other_leaf_does() -> None:
    for size in range(1, PROOFS + 1):
        for index in range(size):
            proof = inclusion_proof(LEAVES, index, size)
            verify_inclusion(index, size, LEAVES[index], proof, mth(0, size))
            with pytest.raises(ProofFailed):
                verify_inclusion(index, size, LEAVES[index + 1], proof, mth(0, size))


def test_every_consistency_proof_verifies() -> None:
    for new in range(PROOFS + 1):
        for old in range(new + 1):
            proof = consistency_proof(LEAVES.__getitem__, old, new)
            verify_consistency(old, new, mth(0, old), mth(0, new), proof)


def mutations(proof: list[bytes]) -> list[list[bytes]]:
    changed = [[*proof[:at], bytes(32), *proof[at + 1 :]] for at in range(len(proof))]
    changed += [proof[:at] + proof[at + 1 :] for at in range(len(proof))]
    changed += [[*proof, bytes(32)], [bytes(32), *proof], [*proof, b"short"]]
    swapped = proof[1::-1] + proof[2:]
    return changed + ([swapped] if swapped != proof else [])


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 8, 13, 64, 100])
def test_a_mutated_inclusion_proof_fails(size: int) -> None:
    for index in range(size):
        proof = inclusion_proof(LEAVES, index, size)
        for changed in mutations(proof):
            with pytest.raises(ProofFailed):
                verify_inclusion(index, size, LEAVES[index], changed, mth(0, size))
        for other in (-1, index + size, size):
            with pytest.raises(ProofFailed):
                verify_inclusion(other, size, LEAVES[index], proof, mth(0, size))
        with pytest.raises(ProofFailed):
            verify_inclusion(index, size, LEAVES[index], proof, bytes(32))


@pytest.mark.parametrize(("old", "new"), [(0, 3), (1, 2), (3, 3), (3, 5), (4, 8), (6, 7), (64, 100), (99, 100)])
def test_a_mutated_consistency_proof_fails(old: int, new: int) -> None:
    proof = consistency_proof(LEAVES, old, new)
    for changed in mutations(proof):
        with pytest.raises(ProofFailed):
            verify_consistency(old, new, mth(0, old), mth(0, new), changed)
    for roots in ((bytes(32), mth(0, new)), (mth(0, old), bytes(32))):
        if old == 0 and roots[0] == mth(0, 0):
            continue  # the empty tree is a prefix of every tree
        with pytest.raises(ProofFailed):
            verify_consistency(old, new, *roots, proof)
    with pytest.raises(ProofFailed):
        verify_consistency(new + 1, new, mth(0, new), mth(0, new), [])


def test_impossible_sizes_are_refused() -> None:
    for make in (
        lambda: inclusion_proof(LEAVES, 3, 3),
        lambda: consistency_proof(LEAVES, 4, 3),
        lambda: CompactRange.from_hashes(3, [bytes(32)]),
        lambda: CompactRange.from_hashes(1, [b""]),
        lambda: CompactRange.from_hashes(-1, []),
        lambda: CompactRange().merge(CompactRange(1)),
        lambda: CompactRange(1).root(),
        lambda: many_proof(mth, [], 3),
        lambda: many_proof(mth, [1, 1], 3),
        lambda: many_proof(mth, [3], 3),
    ):
        with pytest.raises(MalformedRecord):
            make()


@given(st.data())
def test_many_records_are_proven_at_once(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, SIZE))
    indexes = sorted(data.draw(st.sets(st.integers(0, size - 1), min_size=1)))
    proof = list(many_proof(mth, indexes, size))
    leaves = [(index, LEAVES[index]) for index in indexes]
    assert many_root(leaves, proof, size) == mth(0, size)
    which = data.draw(st.integers(0, len(indexes) - 1))
    forged = [*leaves]
    forged[which] = (indexes[which], bytes(32))
    assert many_root(forged, proof, size) != mth(0, size)
    for bad_leaves, bad_proof in ((leaves, [*proof, bytes(32)]), (leaves, proof[:-1] or [b""]), ([], proof)):
        with pytest.raises(ProofFailed):
            many_root(bad_leaves, bad_proof, size)


def test_leaves_out_of_order_prove_nothing() -> None:
    for leaves in ([(2, LEAVES[2]), (1, LEAVES[1])], [(1, LEAVES[1]), (9, LEAVES[9])], [(1, LEAVES[1])] * 2):
        with pytest.raises(ProofFailed):
            many_root(leaves, [bytes(32)] * 9, 4)
