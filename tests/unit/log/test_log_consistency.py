"""A file that proves that one checkpoint continues another, for every pair of sizes, and refuses every change of it."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomos.cli.main import main
from nomos.errors import BadSignature, LimitExceeded, Malformed
from nomos.log.checkpoint import Checkpoint, sign_checkpoint
from nomos.log.consistency import (
    CONSISTENCY_BYTES_MAX,
    ConsistencyProof,
    format_consistency,
    is_consistency_file,
    parse_consistency,
    verify_continues,
)
from nomos.log.main import Demand, run_verify
from nomos.log.note import NoKnownKey, NoteSigner
from nomos.log.record import canonical_bytes
from nomos.log.tree import consistency_proof, leaf_hash
from nomos.log.trust import parse_trust


def proof_of(made: Any, low: int, high: int, **notes: bytes) -> ConsistencyProof:
    leaves = [leaf_hash(row.hash) for row in made.rows]
    return ConsistencyProof(
        older=notes.get("older", made.note(low)),
        newer=notes.get("newer", made.note(high)),
        path=tuple(consistency_proof(leaves, low, high)) if low < high else (),
    )


def test_every_pair_of_sizes_is_proven_and_survives_its_spelling(book: Any) -> None:
    made = book(17, checkpoints=[])
    trust = parse_trust(made.trust)
    for newer in range(1, 18):
        for older in range(newer + 1):
            proof = proof_of(made, older, newer)
            encoded = format_consistency(proof)
            assert is_consistency_file(encoded)
            assert parse_consistency(encoded) == proof
            found = verify_continues(proof, trust)
            assert [one.checkpoint.size for one in found] == [older, newer]


@pytest.mark.parametrize(
    "changes",
    [
        {"path": ()},
        {"path": "short"},
        {"path": "long"},
        {"path": "flipped"},
        {"older": "newer"},
        {"newer": "older"},
        {"older": 5},
        {"newer": 12},
    ],
    ids=str,
)
def test_a_changed_proof_is_refused(book: Any, changes: dict[str, Any]) -> None:
    made = book(13, checkpoints=[])
    proof = proof_of(made, 6, 13)
    ways = {
        "short": proof.path[:-1],
        "long": (*proof.path, bytes(32)),
        "flipped": (bytes([proof.path[0][0] ^ 1]) + proof.path[0][1:], *proof.path[1:]),
        "newer": proof.newer,
        "older": proof.older,
        5: made.note(5),
        12: made.note(12),
        (): (),
    }
    changed = msgspec.structs.replace(proof, **{name: ways[value] for name, value in changes.items()})
    if changes == {"older": "newer"} or changes == {"newer": "older"}:
        # One checkpoint twice needs no path; with one it is refused.
        changed = msgspec.structs.replace(changed, path=proof.path)
    with pytest.raises(BadSignature):
        verify_continues(changed, parse_trust(made.trust))


def test_two_histories_are_not_consistent(book: Any) -> None:
    made, other = book(13, checkpoints=[]), book(13, checkpoints=[])
    other.objects[2]["event"]["note"] = "forged"
    other.chain()
    proof = msgspec.structs.replace(proof_of(other, 6, 13), older=made.note(6))
    with pytest.raises(BadSignature):
        verify_continues(proof, parse_trust(made.trust))
    # Two roots of one size are no continuation of each other.
    with pytest.raises(BadSignature, match="two roots"):
        verify_continues(proof_of(made, 6, 6, newer=other.note(6)), parse_trust(made.trust))


def test_keys_quorum_and_origin_are_judged_by_the_trust_file(book: Any) -> None:
    made = book(13, checkpoints=[])
    lines = made.trust.decode()
    # The older one may lack witnesses: the newer covers it.
    verify_continues(proof_of(made, 6, 13, older=made.note(6, witnesses=())), parse_trust(made.trust))
    with pytest.raises(BadSignature, match="quorum"):
        verify_continues(proof_of(made, 6, 13, newer=made.note(13, witnesses=(0,))), parse_trust(made.trust))
    log_line = f"log {made.signer.verifier_key}"
    for sizes in ("0-12", "7-"):
        narrow = parse_trust(lines.replace(log_line, f"{log_line} sizes:{sizes}").encode())
        with pytest.raises(BadSignature, match="may speak for it"):
            verify_continues(proof_of(made, 6, 13), narrow)
    stranger = NoteSigner("audit.example.com/prod", bytes(32))
    with pytest.raises(NoKnownKey):
        verify_continues(proof_of(made, 6, 13, newer=made.note(13, signer=stranger)), parse_trust(made.trust))
    elsewhere = NoteSigner("another.log", bytes(32))
    foreign = sign_checkpoint(Checkpoint(origin="another.log", size=6, root=made.root(6)), [elsewhere])
    both = parse_trust(f"log {elsewhere.verifier_key}\n{lines}".encode())
    with pytest.raises(BadSignature, match="two logs"):
        verify_continues(proof_of(made, 6, 13, older=foreign), both)


def test_a_malformed_file_is_refused(book: Any) -> None:
    proof = proof_of(book(13, checkpoints=[]), 6, 13)
    encoded = format_consistency(proof)
    plain = json.loads(encoded)
    spelled = [
        encoded[:-1],
        b" " + encoded,
        encoded.replace(b"consistency/1", b"consistency/2"),
        canonical_bytes({**plain, "more": 1}) + b"\n",
        canonical_bytes({name: plain[name] for name in ("from", "schema", "to")}) + b"\n",
        canonical_bytes({**plain, "consistency": ["AAAA"]}) + b"\n",
        canonical_bytes({**plain, "consistency": ["!"]}) + b"\n",
        b"{}\n",
        b"\xff\n",
    ]
    for each in spelled:
        with pytest.raises(Malformed):
            parse_consistency(each)
    long = {**plain, "consistency": [base64.b64encode(bytes(32)).decode()] * 129}
    for each in (canonical_bytes(long) + b"\n", b"x" * CONSISTENCY_BYTES_MAX + b"\n\n"):
        with pytest.raises(LimitExceeded):
            parse_consistency(each)


@given(st.binary(max_size=200))
def test_bytes_that_are_no_proof_are_refused_in_one_way(encoded: bytes) -> None:
    with pytest.raises(Malformed):
        parse_consistency(encoded)


def test_the_command_tells_the_outcome_and_its_exit_status(
    book: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = book(13, checkpoints=[])
    trust, file = tmp_path / "trust.txt", tmp_path / "file"
    trust.write_bytes(made.trust)
    file.write_bytes(format_consistency(proof_of(made, 6, 13)))
    assert main(["verify", str(file), "--trust", str(trust), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["verdict"], said["from"]["size"], said["to"]["size"]) == ("verified", 6, 13)
    assert set(said["to"]["witnesses"]) == {"witness.example.org/w1", "witness.example.org/w2"}
    assert main(["verify", str(file), "--trust", str(trust)]) == 0
    assert "the tree of the first size is a prefix" in capsys.readouterr().out

    file.write_bytes(format_consistency(msgspec.structs.replace(proof_of(made, 6, 13), path=())))
    assert main(["verify", str(file), "--trust", str(trust)]) == 1
    assert capsys.readouterr().out.startswith("TAMPERED")
    stranger = NoteSigner("audit.example.com/prod", bytes(32))
    file.write_bytes(format_consistency(proof_of(made, 6, 13, newer=made.note(13, signer=stranger))))
    assert main(["verify", str(file), "--trust", str(trust)]) == 3
    trust.write_text("nothing\n")
    assert main(["verify", str(file), "--trust", str(trust)]) == 2
    out, err = io.StringIO(), io.StringIO()
    assert run_verify(Demand(path=file, trust=tmp_path / "none"), out, err) == 2
    assert (out.getvalue(), "none" in err.getvalue()) == ("", True)
