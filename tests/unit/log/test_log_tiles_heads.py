"""Tiles, heads and the proofs of roots: spelled as specified, read back as written, and refused in any other form."""

from __future__ import annotations

import hmac
import os
from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nomos.errors import Malformed, MalformedRecord
from nomos.log.heads import (
    Roots,
    TenantLeaf,
    blind,
    format_leaves,
    parse_leaves,
    parse_seal,
    parse_statement,
    producers_root,
    prove_leaf,
    root_of,
    tenant_key,
    tenant_leaf,
    tenant_leaves,
    verify_head,
)
from nomos.log.roots import RootProofs, format_root_proofs, parse_root_proofs
from nomos.log.tiles import TILE_WIDTH, TiledTree, is_tile_path, tile_path, tile_width
from nomos.log.tree import (
    EMPTY_ROOT,
    CompactRange,
    ProofFailed,
    consistency_path,
    consistency_proof,
    inclusion_path,
    inclusion_proof,
    leaf_hash,
)

# --- tiles (c2sp.org/tlog-tiles) ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("level", "index", "width", "path"),
    [
        (0, 0, 256, "tile/0/000"),
        (0, 1234067, 256, "tile/0/x001/x234/067"),
        (1, 273, 112, "tile/1/273.p/112"),
        (None, 1000, 256, "tile/entries/x001/000"),
        (None, 5, 1, "tile/entries/005.p/1"),
        (63, 999, 255, "tile/63/999.p/255"),
    ],
)
def test_a_tile_has_the_path_of_the_specification(level, index, width, path) -> None:
    assert tile_path(level, index, width) == path
    assert is_tile_path(path)


@pytest.mark.parametrize("path", ["tile/64/000", "tile/0/00", "tile/0/../000", "tile/0/000.p/0", "tile/x/000", "tile/"])
def test_what_is_no_tile_is_not_taken_for_one(path) -> None:
    assert not is_tile_path(path)


@pytest.mark.parametrize(("level", "index", "width"), [(-1, 0, 1), (64, 0, 1), (0, -1, 1), (0, 0, 0), (0, 0, 257)])
def test_a_tile_that_no_tree_has_is_refused(level, index, width) -> None:
    with pytest.raises(MalformedRecord):
        tile_path(level, index, width)


def _tiles(leaves: list[bytes]) -> dict[tuple[int, int], bytes]:
    """All tiles of a tree, by the definition: each hash is the root of 256^level leaves."""
    found: dict[tuple[int, int], list[bytes]] = {}
    for level in range(3):
        span = TILE_WIDTH**level
        for number in range(len(leaves) // span):
            tree = CompactRange()
            tree.extend(leaves[number * span : (number + 1) * span])
            root = leaf_hash(leaves[number]) if level == 0 else tree.root()
            found.setdefault((level, number // TILE_WIDTH), []).append(root)
    return {where: b"".join(hashes) for where, hashes in found.items()}


LEAVES = [sha256(number.to_bytes(4, "big")).digest() for number in range(1_500)]
HASHES = [leaf_hash(one) for one in LEAVES]
TILES = _tiles(LEAVES)


@settings(max_examples=60)
@given(st.data())
def test_proofs_from_tiles_are_those_of_the_tree(data) -> None:
    size = data.draw(st.integers(1, len(LEAVES)))
    tree = TiledTree(lambda level, index, width: TILES[level, index][: width * 32], size)
    whole = CompactRange()
    whole.extend(LEAVES[:size])
    assert tree.subtree(0, size) == whole.root()
    index, old = data.draw(st.integers(0, size - 1)), data.draw(st.integers(0, size))
    assert inclusion_path(tree.subtree, index, size) == inclusion_proof(HASHES, index, size)
    assert consistency_path(tree.subtree, old, size) == consistency_proof(HASHES, old, size)


def test_a_tile_of_the_wrong_length_is_refused() -> None:
    tree = TiledTree(lambda level, index, width: b"x" * 31, 5)
    with pytest.raises(MalformedRecord):
        tree.subtree(0, 5)
    with pytest.raises(MalformedRecord):
        tree.subtree(0, 6)


def test_widths_add_up_to_the_size() -> None:
    for size in (0, 1, 255, 256, 257, 65_536, 65_537):
        assert sum(tile_width(0, index, size) for index in range(size // 256 + 1)) == size


# --- heads ----------------------------------------------------------------------------------------------------------

HEADS = {
    name: (number + 1, sha256(name.encode()).hexdigest()) for number, name in enumerate(("acme", "globex", "_sys"))
}


def test_a_head_is_proven_without_showing_the_others() -> None:
    secret = os.urandom(32)
    leaves = tenant_leaves(HEADS, secret)
    encoded = [tenant_leaf(one) for one in leaves]
    roots = Roots(n=3, root=root_of(encoded).hex())
    key = tenant_key(secret, "acme")
    assert key == hmac.digest(secret, b"nomos-tenant-blind/v1\0acme", "sha256")
    index = next(at for at, one in enumerate(leaves) if one.b == blind(key, "acme"))
    verify_head(leaves[index], index, prove_leaf(encoded, index), roots)
    other = TenantLeaf(b=leaves[index].b, h=leaves[index].h, n=leaves[index].n + 1)
    with pytest.raises(ProofFailed):
        verify_head(other, index, prove_leaf(encoded, index), roots)
    assert not any(name in format_leaves(leaves).decode() for name in ("acme", "globex"))


def test_leaves_are_read_back_and_must_rise() -> None:
    leaves = tenant_leaves(HEADS, os.urandom(32))
    assert parse_leaves(format_leaves(leaves)) == leaves
    for wrong in (leaves[::-1], [leaves[0], leaves[0]]):
        with pytest.raises(MalformedRecord):
            parse_leaves(format_leaves(wrong))


def test_nobody_has_the_empty_root() -> None:
    assert root_of([]) == producers_root({}) == EMPTY_ROOT


@given(st.binary(max_size=300))
def test_any_bytes_are_refused_as_heads_and_as_proofs(content) -> None:
    for parse in (parse_leaves, parse_root_proofs):
        if parse is parse_leaves and content == b"":
            continue
        with pytest.raises(Malformed):
            parse(content)


SEAL = {
    "count": 2,
    "day": "2026-11-22",
    "erasures": 0,
    "files": [{"first": 0, "last": 1, "n": "day=2026-11-22/part-000.parquet", "rows": 2, "sha256": "0" * 64}],
    "first": 0,
    "keys": ["audit.example.com/prod+244ccc7a"],
    "last": 1,
    "pc_root": "1" * 64,
    "prev_seal": None,
    "src": [{"q": 7, "s": "INTAKE"}],
    "tenants": {"n": 1, "root": "2" * 64},
    "tool": "nomos",
}


def test_a_seal_says_what_a_statement_says() -> None:
    seal, statement = parse_seal(SEAL), parse_statement("audit.seal", SEAL)
    assert (seal.last, seal.tenants, seal.pc_root) == (statement.last, statement.tenants, statement.pc_root)


@pytest.mark.parametrize(
    "changes",
    [
        {"count": 3},
        {"last": 2},
        {"first": -1},
        {"day": "22.11.2026"},
        {"pc_root": "x"},
        {"tenants": {"n": -1, "root": "2" * 64}},
        {"files": [{**SEAL["files"][0], "first": 1}]},  # type: ignore[index]
        {"files": [{**SEAL["files"][0], "last": 0, "rows": 1}]},  # type: ignore[index]
        {"files": [{**SEAL["files"][0], "sha256": "0"}]},  # type: ignore[index]
        {"prev_seal": {"h": "0", "seq": 1}},
        {"extra": 1},
        {"tool": None},
    ],
)
def test_a_seal_that_contradicts_itself_is_malformed(changes) -> None:
    with pytest.raises(MalformedRecord):
        parse_seal({**SEAL, **changes})


def test_the_proofs_of_a_root_are_read_back() -> None:
    proofs = RootProofs(
        day="2026-11-22",
        size=3,
        seal=b'{"a":1}',
        prev=b"p" * 32,
        inclusion=(b"i" * 32,),
        content_size=2,
        content_root=b"c" * 32,
        consistency=(),
        prev_size=0,
        prev_consistency=(b"x" * 32,),
    )
    assert parse_root_proofs(format_root_proofs(proofs)) == proofs
