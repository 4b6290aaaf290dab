"""The golden bytes of the design, unchanged."""

from __future__ import annotations

import json
from base64 import b64decode
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from nomos.log.chain import genesis, link
from nomos.log.checkpoint import Checkpoint, WitnessSigner, add_signature, open_checkpoint, sign_checkpoint
from nomos.log.note import NoteSigner, parse_note, parse_vkey
from nomos.log.proof import format_receipt, parse_receipt, verify_receipt
from nomos.log.record import canonical_bytes, parse_object
from nomos.log.tree import CompactRange, consistency_proof, inclusion_proof, leaf_hash, verify_consistency
from nomos.log.trust import parse_trust

PATH = Path(__file__).parents[2] / "vectors" / "log" / "chain-and-checkpoint.json"


@pytest.fixture(scope="module")
def vectors() -> dict[str, Any]:
    return json.loads(PATH.read_text())


def leaves(vectors: dict[str, Any]) -> list[bytes]:
    return [leaf_hash(bytes.fromhex(one)) for one in vectors["hashes"]]


def test_records_are_their_own_canonical_form(vectors: dict[str, Any]) -> None:
    for text in vectors["records"]:
        assert canonical_bytes(parse_object(text.encode())) == text.encode()


def test_the_chain_of_the_vectors_is_reproduced(vectors: dict[str, Any]) -> None:
    head = genesis(vectors["origin"])
    assert head.hex() == vectors["genesis"]
    for text, hexed in zip(vectors["records"], vectors["hashes"], strict=True):
        head = link(head, text.encode())
        assert head.hex() == hexed


def test_both_checkpoints_are_signed_to_the_same_bytes(vectors: dict[str, Any]) -> None:
    signer = NoteSigner(vectors["origin"], sha256(vectors["log_key_seed_text"].encode()).digest())
    witness_name = vectors["witness_vkey"].split("+")[0]
    witness = WitnessSigner(witness_name, sha256(vectors["witness_key_seed_text"].encode()).digest())
    assert str(signer.verifier_key) == vectors["log_vkey"]
    assert str(witness.verifier_key) == vectors["witness_vkey"]
    tree = CompactRange()
    for size, hexed in enumerate(vectors["hashes"], 1):
        tree.append(bytes.fromhex(hexed))
        if size not in (3, 5):
            continue
        note = sign_checkpoint(Checkpoint(origin=vectors["origin"], size=size, root=tree.root()), [signer])
        if size == 5:
            note = add_signature(note, witness.cosign(parse_note(note).text, vectors["witness_time"]))
        assert note.decode() == vectors[f"checkpoint_{size}"]
        log_key, witness_key = parse_vkey(vectors["log_vkey"]), parse_vkey(vectors["witness_vkey"])
        opened = open_checkpoint(note, [log_key], {"w": witness_key})
        assert opened.keys == (log_key,)
        assert [one.time for one in opened.cosignatures] == ([vectors["witness_time"]] if size == 5 else [])


def test_the_consistency_proof_of_the_vectors_is_reproduced(vectors: dict[str, Any]) -> None:
    proof = [b64decode(one) for one in vectors["consistency_3_5"]]
    assert consistency_proof(leaves(vectors), 3, 5) == proof
    roots = {n: parse_note(vectors[f"checkpoint_{n}"].encode()).text.split("\n")[2] for n in (3, 5)}
    verify_consistency(3, 5, b64decode(roots[3]), b64decode(roots[5]), proof)


def test_the_receipt_of_the_vectors_is_reproduced_and_verifies(vectors: dict[str, Any]) -> None:
    encoded = (vectors["proof_1_of_5_head"] + "\n" + vectors["checkpoint_5"]).encode()
    receipt = parse_receipt(encoded)
    assert format_receipt(receipt) == encoded
    assert list(receipt.path) == inclusion_proof(leaves(vectors), 1, 5)
    trust = parse_trust(f"log {vectors['log_vkey']}\nwitness w {vectors['witness_vkey']}\nquorum w\n".encode())
    opened = verify_receipt(receipt, vectors["records"][1].encode(), trust)
    assert opened.checkpoint.size == 5
