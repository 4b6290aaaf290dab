"""Honest logs pass, whatever their size and wherever their row groups are cut."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from nomos.log.checkpoint import Checkpoint, sign_checkpoint
from nomos.log.note import NoteSigner
from nomos.log.report import Verdict, render_text


@pytest.mark.parametrize("size", range(1, 71))
def test_an_honest_log_of_any_size_verifies(book: Any, tmp_path: Path, size: int) -> None:
    made = book(size, checkpoints=sorted({0, 1, size // 2, size - 1, size}))
    directory = made.export(tmp_path / "x", group_rows=16)
    report = made.verify(directory)
    assert report.verdict is Verdict.VERIFIED, render_text(report)
    assert (report.records, report.to_size, report.first) == (size, size, None)


def test_an_empty_log_is_never_a_success(book: Any, tmp_path: Path) -> None:
    made = book(0)
    directory = made.export(tmp_path / "x")
    for level in (0, 1, 2):
        report = made.verify(directory, level)
        assert report.verdict is Verdict.UNVERIFIABLE
        assert report.verdict.exit_code == 3


@pytest.mark.parametrize("size", [7, 8, 9, 15, 16, 17, 31, 32, 33])
def test_every_checkpoint_size_around_a_row_group_boundary_is_recomputed(book: Any, tmp_path: Path, size: int) -> None:
    made = book(size, checkpoints=range(size + 1))
    report = made.verify(made.export(tmp_path / "x", group_rows=8), 2)
    assert report.verdict is Verdict.VERIFIED, render_text(report)
    assert len(report.roots) == size + 1


@pytest.mark.parametrize("level", [0, 1, 2])
def test_each_level_says_what_it_did_not_check(book: Any, tmp_path: Path, level: int) -> None:
    made = book(5)
    report = made.verify(made.export(tmp_path / "x"), level)
    assert report.verdict is Verdict.VERIFIED
    assert report.not_checked
    assert any("level 1" in one for one in report.not_checked) == (level == 0)


def test_a_day_change_and_a_clock_that_steps_back_are_no_fault(book: Any, tmp_path: Path) -> None:
    made = book(12)
    for seq, day in enumerate(["22", "22", "23", "23", "22", "22", "23", "24", "24", "24", "23", "25"]):
        made.objects[seq]["ts"] = f"2026-11-{day}T00:00:00.000000Z"
    made.chain()
    made.notes = {at: made.note(at) for at in (3, 12)}
    directory = made.export(tmp_path / "x", group_rows=4)
    assert (directory / "day=2026-11-22" / "part-001.parquet").exists()
    report = made.verify(directory)
    assert report.verdict is Verdict.VERIFIED, render_text(report)


def test_several_processes_come_to_the_same_report(book: Any, tmp_path: Path) -> None:
    made = book(40, checkpoints=[3, 17, 40])
    directory = made.export(tmp_path / "x", group_rows=8)
    assert made.verify(directory, 1, workers=2) == made.verify(directory, 1)


def test_an_export_that_was_copied_verifies_there(book: Any, tmp_path: Path) -> None:
    made = book(9)
    shutil.copytree(made.export(tmp_path / "x"), tmp_path / "elsewhere")
    assert made.verify(tmp_path / "elsewhere").verdict is Verdict.VERIFIED


def test_a_rotated_key_speaks_for_its_own_sizes(book: Any, tmp_path: Path) -> None:
    made = book(9)
    new = NoteSigner(made.signer.verifier_key.name, bytes(32))
    made.notes = {
        3: made.note(3),
        5: sign_checkpoint(Checkpoint(origin=new.verifier_key.name, size=5, root=made.root(5)), [made.signer, new]),
        9: made.note(9, signer=new),
    }
    old_line = f"log {made.signer.verifier_key}"
    trust = made.trust.decode().replace(old_line, f"{old_line} sizes:0-5\nlog {new.verifier_key} sizes:5-").encode()
    directory = made.export(tmp_path / "x")
    assert made.verify(directory, trust=trust).verdict is Verdict.VERIFIED
    late = trust.replace(b"sizes:0-5", b"sizes:0-2")
    report = made.verify(directory, trust=late)
    assert report.verdict is Verdict.TAMPERED
    assert report.first is not None
    assert "may not speak" in report.first.reason


@pytest.mark.parametrize("tenant", ["acme", "globex", "_sys"])
@pytest.mark.parametrize("size", [3, 10, 40])
def test_an_honest_bundle_of_a_tenant_verifies(book: Any, tmp_path: Path, tenant: str, size: int) -> None:
    made = book(size, checkpoints=[2, size])
    directory = made.export(tmp_path / "x", group_rows=8, tenant=tenant)
    report = made.verify(directory, 2, tenant=tenant)
    assert report.verdict is Verdict.VERIFIED, render_text(report)
    assert any("after" in one for one in report.not_checked)
