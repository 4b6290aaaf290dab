"""Our trees, proofs, tiles, notes and checkpoints against Go's ``golang.org/x/mod/sumdb``, in both directions.

``make differential`` runs it; ``make test`` does not collect it, because it needs Go and Debian's source package of the
module. Nothing is fetched. Sizes are random, from a seed that a failure shows (``NOMOS_SEED`` sets another).
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
from base64 import b64decode, b64encode
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from nomos.errors import BadSignature
from nomos.log.checkpoint import Checkpoint, parse_checkpoint, sign_checkpoint
from nomos.log.note import NoteSigner, parse_note, parse_vkey, sign_note, verify_note
from nomos.log.tiles import TiledTree
from nomos.log.tree import (
    EMPTY_ROOT,
    ProofFailed,
    consistency_path,
    consistency_proof,
    inclusion_path,
    inclusion_proof,
    leaf_hash,
    root_from_leaf_hashes,
    verify_consistency,
    verify_inclusion,
)

PROGRAM = Path(__file__).with_name("sumdb") / "main.go"
#: Where Debian's packages put the sources of Go modules.
GOPATH = Path("/usr/share/gocode")
SEED = int(os.environ.get("NOMOS_SEED", "6962"))
#: The edges of trees and tiles, and random sizes beside them.
EDGES = (1, 2, 3, 7, 8, 9, 255, 256, 257, 512)
RANDOM_SIZES = 12
SIZE_MAX = 3_000
ORIGIN = "audit.example.com/prod"


def text_of(raw: bytes) -> str:
    return b64encode(raw).decode()


def flipped(raw: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(raw) * 8)
    return (int.from_bytes(raw, "big") ^ (1 << at)).to_bytes(len(raw), "big")


def one_flipped(path: list[bytes], chance: random.Random) -> list[bytes]:
    at = chance.randrange(len(path))
    return [*path[:at], flipped(path[at], chance), *path[at + 1 :]]


@pytest.fixture(scope="module")
def go(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Gives one JSON document to the Go program and returns its answer."""
    if shutil.which("go") is None or not (GOPATH / "src/golang.org/x/mod/sumdb/tlog").is_dir():
        pytest.fail("this needs Go and its module x/mod: apt-get install golang-go golang-golang-x-mod-dev")
    folder = tmp_path_factory.mktemp("go")
    env = {
        **os.environ,
        "GO111MODULE": "off",
        "GOPATH": str(GOPATH),
        "GOFLAGS": "",
        "GOCACHE": str(folder / "cache"),
        "GOTOOLCHAIN": "local",
    }
    binary = folder / "sumdb"
    subprocess.run(["go", "build", "-o", str(binary), str(PROGRAM)], check=True, env=env, timeout=240)

    def ask(**document: Any) -> Any:
        said = subprocess.run(
            [binary], input=json.dumps(document), capture_output=True, check=True, text=True, timeout=60
        )
        return json.loads(said.stdout)

    return ask


@pytest.fixture
def chance() -> random.Random:
    print(f"NOMOS_SEED={SEED}")
    return random.Random(SEED)


def trees(chance: random.Random) -> list[list[bytes]]:
    sizes = [*EDGES, *(chance.randint(1, SIZE_MAX) for _ in range(RANDOM_SIZES))]
    return [[sha256(b"%d %d" % (size, at)).digest() for at in range(size)] for size in sizes]


def test_go_takes_our_proofs_and_refuses_mutated_ones(go: Any, chance: random.Random) -> None:
    inclusions: list[tuple[int, int, bytes, list[bytes], bytes]] = []
    consistencies: list[tuple[int, int, bytes, bytes, list[bytes]]] = []
    expected: list[bool] = []
    for data in trees(chance):
        leaves = [leaf_hash(one) for one in data]
        size = len(data)
        index, old = chance.randrange(size), chance.randint(1, size)
        root, old_root = root_from_leaf_hashes(leaves, size), root_from_leaf_hashes(leaves, old)
        path, grown = inclusion_proof(leaves, index, size), consistency_proof(leaves, old, size)
        inclusions.append((index, size, leaves[index], path, root))
        consistencies.append((old, size, old_root, root, grown))
        expected.append(True)
        # One bit of a root, of a hash of the path, and a path that is too long or too short.
        inclusions.append((index, size, leaves[index], path, flipped(root, chance)))
        consistencies.append((old, size, flipped(old_root, chance), root, grown))
        expected.append(False)
        inclusions.append((index, size, leaves[index], [*path, root], root))
        consistencies.append((old, size, old_root, root, [*grown, root]))
        expected.append(False)
        if path and grown:
            at = chance.randrange(len(path))
            inclusions.append(
                (index, size, leaves[index], [*path[:at], flipped(path[at], chance), *path[at + 1 :]], root)
            )
            at = chance.randrange(len(grown))
            consistencies.append(
                (old, size, old_root, root, [*grown[:at], flipped(grown[at], chance), *grown[at + 1 :]])
            )
            expected.append(False)
            inclusions.append((index, size, leaves[index], path[:-1], root))
            consistencies.append((old, size, old_root, root, grown[:-1]))
            expected.append(False)
    said = go(
        Inclusions=[
            {"Index": i, "Size": n, "Root": text_of(root), "Leaf": text_of(leaf), "Proof": [text_of(p) for p in path]}
            for i, n, leaf, path, root in inclusions
        ],
        Consistencies=[
            {"Old": o, "New": n, "OldRoot": text_of(a), "NewRoot": text_of(b), "Proof": [text_of(p) for p in path]}
            for o, n, a, b, path in consistencies
        ],
    )
    assert said["Inclusions"] == expected
    assert said["Consistencies"] == expected
    assert [holds(verify_inclusion, *one) for one in inclusions] == expected
    assert [holds(verify_consistency, *one) for one in consistencies] == expected


def holds(verify: Any, *words: Any) -> bool:
    try:
        verify(*words)
    except ProofFailed:
        return False
    return True


def test_we_take_the_proofs_of_go_and_read_its_tiles(go: Any, chance: random.Random) -> None:
    asked = [(data, chance.randrange(len(data)), chance.randint(1, len(data))) for data in trees(chance)]
    said = go(Trees=[{"Data": [text_of(d) for d in data], "Index": i, "Old": o} for data, i, o in asked])
    for (data, index, old), made in zip(asked, said["Trees"], strict=True):
        size, leaves = len(data), [leaf_hash(one) for one in data]
        inclusion, consistency = made["Inclusion"], made["Consistency"]
        root, old_root = b64decode(inclusion["Root"]), b64decode(consistency["OldRoot"])
        path = [b64decode(one) for one in inclusion["Proof"]]
        grown = [b64decode(one) for one in consistency["Proof"]]
        assert (root, old_root) == (root_from_leaf_hashes(leaves, size), root_from_leaf_hashes(leaves, old))
        verify_inclusion(index, size, leaves[index], path, root)
        verify_consistency(old, size, old_root, root, grown)
        with pytest.raises(ProofFailed):
            verify_inclusion(index, size, flipped(leaves[index], chance), path, root)
        with pytest.raises(ProofFailed):
            verify_consistency(old, size, old_root, flipped(root, chance), grown)
        tiles = {(one["Level"], one["Index"], one["Width"]): b64decode(one["Data"]) for one in made["Tiles"]}
        tree = TiledTree(lambda level, at, width, tiles=tiles: tiles[level, at, width], size)
        assert inclusion_path(tree.subtree, index, size) == path
        assert consistency_path(tree.subtree, old, size) == grown


def test_go_opens_our_notes_and_checkpoints_and_refuses_mutated_ones(go: Any, chance: random.Random) -> None:
    signer = NoteSigner(ORIGIN, chance.randbytes(32))
    vkey = str(signer.verifier_key)
    texts, notes = [], []
    for _ in range(50):
        checkpoint = Checkpoint(origin=ORIGIN, size=chance.randrange(2**53), root=chance.randbytes(32))
        texts.append(checkpoint.text())
        notes.append(sign_checkpoint(checkpoint, [signer]).decode())
    texts.append("free text ä\nof two lines\n")
    notes.append(sign_note(texts[-1], [signer]).decode())
    other = str(NoteSigner(ORIGIN, bytes(32)).verifier_key)
    # The first character of the text changed; another key of the same name.
    bad = [(vkey, "x" + one[1:]) for one in notes] + [(other, one) for one in notes]
    said = go(Notes=[{"Vkey": key, "Note": one} for key, one in [*((vkey, one) for one in notes), *bad]])
    assert said["Opened"] == texts + [""] * len(bad)
    for key, one in bad:
        with pytest.raises(BadSignature):
            verify_note(parse_note(one.encode()), [parse_vkey(key)])


def test_we_open_the_notes_and_checkpoints_of_go(go: Any, chance: random.Random) -> None:
    roots = {0: EMPTY_ROOT, 1: chance.randbytes(32), 2**53: chance.randbytes(32)}
    made = [Checkpoint(origin="go.example.com/log", size=size, root=root) for size, root in roots.items()]
    said = go(Texts=[one.text() for one in made])
    for checkpoint, signed in zip(made, said["Notes"], strict=True):
        key, note = parse_vkey(signed["Vkey"]), parse_note(signed["Note"].encode())
        assert verify_note(note, [key]) == [key]
        assert parse_checkpoint(note.text) == checkpoint
        with pytest.raises(BadSignature):
            verify_note(parse_note(("x" + signed["Note"][1:]).encode()), [key])
