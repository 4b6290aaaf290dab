"""One receipt, judged by the command: right as it is, refused in every other form."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest

from nomos.log.main import Demand, run_verify
from nomos.log.memory import Memory
from nomos.log.proof import Receipt, format_receipt, parse_receipt
from nomos.log.receiptfile import verify_receipt_file
from nomos.log.report import Verdict
from nomos.log.tree import inclusion_proof, leaf_hash
from nomos.log.trust import parse_trust

SIZE, AT = 13, 6
NOW = 1_795_305_600


def _write(made: Any, folder: Path, *, at: int = AT, size: int = SIZE) -> Path:
    leaves = [leaf_hash(row.hash) for row in made.rows[:size]]
    receipt = Receipt(
        prev=made.rows[at].prev, index=at, path=tuple(inclusion_proof(leaves, at, size)), checkpoint=made.notes[size]
    )
    path = folder / f"{at}.tlog-proof"
    path.write_bytes(format_receipt(receipt))
    path.with_name(path.name + ".record").write_bytes(made.rows[at].record)
    return path


def _judge(made: Any, path: Path, level: int = 1, **more: Any) -> Any:
    record = more.pop("record", path.with_name(path.name + ".record"))
    trust = more.pop("trust", made.trust)
    return verify_receipt_file(path, record, parse_trust(trust), level, now=NOW, **more)


@pytest.mark.parametrize("level", [0, 1, 2])
@pytest.mark.parametrize("at", [0, 6, 12])
def test_an_honest_receipt_verifies_with_the_policy_alone(book: Any, tmp_path: Path, level: int, at: int) -> None:
    made = book(SIZE)
    report = _judge(made, _write(made, tmp_path, at=at), level)
    assert (report.verdict, report.kind, report.records, report.to_size) == (Verdict.VERIFIED, "receipt", 1, SIZE)
    assert report.roots[0].quorum
    assert report.not_checked


def test_without_its_record_a_receipt_proves_nothing(book: Any, tmp_path: Path) -> None:
    made = book(SIZE)
    path = _write(made, tmp_path)
    path.with_name(path.name + ".record").unlink()
    report = _judge(made, path)
    assert (report.verdict, report.records) == (Verdict.INCOMPLETE, 0)


def test_another_record_another_place_and_another_proof_are_refused(book: Any, tmp_path: Path) -> None:
    made = book(SIZE)
    path = _write(made, tmp_path)
    honest = parse_receipt(path.read_bytes())
    record = path.with_name(path.name + ".record")
    content = record.read_bytes()
    for changed in (
        made.rows[AT + 1].record,
        content[:-1],
        content + b" ",
        b"",
        content.replace(b"allow", b"allov").replace(b"deny", b"denx"),
        b"x" * 70_000,
    ):
        record.write_bytes(changed)
        assert _judge(made, path).verdict is Verdict.TAMPERED
    record.write_bytes(content)
    hashes = honest.path
    for changed_receipt in (
        Receipt(prev=made.rows[0].prev, index=AT, path=hashes, checkpoint=honest.checkpoint),
        Receipt(prev=honest.prev, index=AT + 1, path=hashes, checkpoint=honest.checkpoint),
        Receipt(prev=honest.prev, index=SIZE, path=hashes, checkpoint=honest.checkpoint),
        Receipt(prev=honest.prev, index=AT, path=hashes[:-1], checkpoint=honest.checkpoint),
        Receipt(prev=honest.prev, index=AT, path=(*hashes, bytes(32)), checkpoint=honest.checkpoint),
        Receipt(prev=honest.prev, index=AT, path=hashes[::-1], checkpoint=honest.checkpoint),
        Receipt(prev=honest.prev, index=AT, path=(), checkpoint=honest.checkpoint),
        Receipt(prev=honest.prev, index=AT, path=(bytes(32), *hashes[1:]), checkpoint=honest.checkpoint),
    ):
        path.write_bytes(format_receipt(changed_receipt))
        assert _judge(made, path).verdict is Verdict.TAMPERED


def test_one_bit_in_every_byte_of_a_receipt_and_its_record_is_found(book: Any, tmp_path: Path) -> None:
    made = book(SIZE)
    path = _write(made, tmp_path)
    for target in (path, path.with_name(path.name + ".record")):
        honest = target.read_bytes()
        for at in range(len(honest)):
            target.write_bytes(honest[:at] + bytes([honest[at] ^ 1 << at % 8]) + honest[at + 1 :])
            report = _judge(made, path)
            # A cosignature that is damaged in its name or key id is one of an unknown witness: the other two count.
            assert report.verdict is not Verdict.VERIFIED or (target is path and len(report.roots[0].witnesses) == 2), (
                at
            )
        target.write_bytes(honest)


def test_signatures_are_judged_as_for_any_checkpoint(book: Any, tmp_path: Path) -> None:
    made = book(SIZE)
    path = _write(made, tmp_path)
    other = book(3)
    other.signer = type(made.signer)("audit.example.com/other", bytes(range(32)))
    assert _judge(made, path, trust=other.trust).verdict is Verdict.UNVERIFIABLE
    ranged = made.trust.replace(
        str(made.signer.verifier_key).encode(), str(made.signer.verifier_key).encode() + b" sizes:20-"
    )
    assert _judge(made, path, trust=ranged).verdict is Verdict.TAMPERED
    made.notes[SIZE] = made.note(SIZE, witnesses=(0,))
    # Two of three are demanded.
    assert _judge(made, _write(made, tmp_path)).verdict is Verdict.UNVERIFIABLE
    none = b"\n".join(line for line in made.trust.split(b"\n") if line.startswith(b"log")) + b"\nquorum none\n"
    assert _judge(made, path, trust=none).verdict is Verdict.VERIFIED


def test_a_receipt_of_another_tenant_than_demanded_is_not_accepted(book: Any, tmp_path: Path) -> None:
    made = book(SIZE)
    path = _write(made, tmp_path)
    assert _judge(made, path, tenant="acme").verdict is Verdict.VERIFIED
    assert _judge(made, path, tenant="globex").verdict is Verdict.UNVERIFIABLE


def test_a_receipt_of_a_fork_is_found_by_what_was_verified_before(book: Any, tmp_path: Path) -> None:
    honest, fork = book(SIZE), book(SIZE)
    memory = Memory()
    assert honest.verify(honest.export(tmp_path / "x"), memory=memory).verdict is Verdict.VERIFIED
    fork.objects[2]["event"] = {"effect": "another history"}
    fork.chain()
    fork.notes = {SIZE: fork.note(SIZE)}
    path = _write(fork, tmp_path)
    assert _judge(fork, path).verdict is Verdict.VERIFIED
    seen = _judge(fork, path, memory=memory)
    assert (seen.verdict, len(seen.evidence)) == (Verdict.TAMPERED, 2)
    # An older receipt is no rollback.
    early = book(SIZE, checkpoints=[8, SIZE])
    assert _judge(early, _write(early, tmp_path, size=8), memory=memory).verdict is Verdict.VERIFIED


def _run(path: Path, trust: Path, **more: Any) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    return run_verify(Demand(path=path, trust=trust, **more), out, err), out.getvalue(), err.getvalue()


def test_the_command_takes_a_receipt_and_says_what_is_wrong_with_other_files(book: Any, tmp_path: Path) -> None:
    made = book(SIZE)
    trust = tmp_path / "trust.txt"
    trust.write_bytes(made.trust)
    path = _write(made, tmp_path)
    code, out, _ = _run(path, trust)
    assert code == 0
    assert f"record {AT} is in the tree of size {SIZE}" in out
    elsewhere = tmp_path / "elsewhere"
    path.with_name(path.name + ".record").rename(elsewhere)
    assert _run(path, trust)[0] == 1
    assert _run(path, trust, record=elsewhere)[0] == 0
    folder = made.export(tmp_path / "x")
    part = next(folder.glob("day=*/*.parquet"))
    for wrong, told in (
        (part, "name the folder that holds log.json"),
        (folder / "log.json", "name the folder"),
        (trust, "neither a folder nor a receipt"),
        (tmp_path, "name that folder"),
        (tmp_path / "none", "none"),
    ):
        code, out, err = _run(wrong, trust)
        assert (code, out) == (2, "")
        assert told in err
    assert _run(folder, trust, record=elsewhere)[0] == 2
    for content, told in ((b"", "trust policy"), (made.trust.replace(b"\n", b"\r\n"), "trust policy")):
        trust.write_bytes(content)
        code, out, err = _run(folder, trust)
        assert (code, out) == (2, "")
        assert told in err
