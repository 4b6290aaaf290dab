"""``nomos verify --state``: what was verified stays verified, and nothing takes its place."""

from __future__ import annotations

import json
import os
import random
import stat
from pathlib import Path
from typing import Any

import msgspec
import pytest

from nomos.errors import Malformed
from nomos.log.main import Demand, run_verify
from nomos.log.memory import STATE_VERSION, Memory
from nomos.log.note import NoteSigner
from nomos.log.report import Verdict

GROUP = 8


def _days(made: Any, *starts: int) -> Any:
    """Gives the records days of their own, so that an export has several parts."""
    for number, start in enumerate(starts):
        for one in made.objects[start:]:
            one["ts"] = f"2026-11-{20 + number:02d}T10:00:00.000000Z"
    made.chain()
    made.notes = {at: made.note(at) for at in made.notes}
    return made


def _book(book: Any, size: int, *checkpoints: int) -> Any:
    return _days(book(size, checkpoints=list(checkpoints or (size,))), 0, 10, 25, 40)


def _run(made: Any, folder: Path, memory: Memory, *, level: int = 1, **more: Any) -> Any:
    return made.verify(made.export(folder, group_rows=GROUP), level, memory=memory, **more)


def _saved(memory: Memory, path: Path) -> Memory:
    memory.save(path)
    return Memory.load(path)


def test_a_later_run_reads_what_is_new_and_says_what_it_did_not_read(book: Any, tmp_path: Path) -> None:
    memory = Memory()
    first = _run(_book(book, 30), tmp_path / "a", memory)
    assert (first.verdict, first.from_size, first.records) == (Verdict.VERIFIED, 0, 30)
    memory = _saved(memory, tmp_path / "state.json")
    later = _run(_book(book, 50, 28, 50), tmp_path / "b", memory)
    assert (later.verdict, later.from_size, later.records) == (Verdict.VERIFIED, 25, 25)
    assert any("records 0 to 24, verified earlier" in one for one in later.not_checked)
    assert any("continues the 25 records" in one for one in later.checked)
    # And once more from where that ended.
    again = _run(_book(book, 60), tmp_path / "c", _saved(memory, tmp_path / "state.json"))
    assert (again.verdict, again.from_size, again.records) == (Verdict.VERIFIED, 40, 20)
    full = _run(_book(book, 60), tmp_path / "d", memory, full=True)
    assert (full.verdict, full.from_size, full.records) == (Verdict.VERIFIED, 0, 60)


def test_reading_on_comes_to_the_same_end_as_reading_all(book: Any, tmp_path: Path) -> None:
    chance = random.Random(7)
    memory = Memory()
    sizes = sorted(chance.sample(range(1, 90), 12))
    for size in sizes:
        made = _book(book, size)
        on = _run(made, tmp_path / f"on{size}", memory)
        whole = made.verify(tmp_path / f"on{size}")
        assert (on.verdict, on.to_size, on.roots) == (whole.verdict, whole.to_size, whole.roots)
        entry = memory.entry(on.origin or "", "log")
        assert entry is not None
        fresh = Memory()
        made.verify(tmp_path / f"on{size}", memory=fresh)
        other = fresh.entry(on.origin or "", "log")
        assert other is not None
        # The state that grew is the state of a first run.
        assert entry.place == other.place


def test_an_older_root_as_the_newest_is_a_rollback(book: Any, tmp_path: Path) -> None:
    memory = Memory()
    assert _run(_book(book, 50), tmp_path / "a", memory).verdict is Verdict.VERIFIED
    older = _run(_book(book, 30), tmp_path / "b", memory)
    assert older.verdict is Verdict.TAMPERED
    assert older.first is not None
    assert "size 30, and one of size 50 was verified earlier" in older.first.reason
    assert len(older.evidence) == 2
    # The failure is not remembered.
    assert _run(_book(book, 50), tmp_path / "c", memory).verdict is Verdict.VERIFIED


def _forked(book: Any, size: int, *checkpoints: int, at: int) -> Any:
    made = _book(book, size, *checkpoints)
    made.objects[at]["event"] = {"effect": "another history"}
    made.chain()
    made.notes = {one: made.note(one) for one in made.notes}
    return made


def test_another_root_of_a_remembered_size_is_a_fork_with_both_notes_as_evidence(book: Any, tmp_path: Path) -> None:
    memory = Memory()
    honest = _book(book, 30)
    _run(honest, tmp_path / "a", memory)
    fork = _forked(book, 30, at=29)
    assert fork.verify(fork.export(tmp_path / "b", group_rows=GROUP)).verdict is Verdict.VERIFIED
    seen = fork.verify(tmp_path / "b", memory=memory)
    assert seen.verdict is Verdict.TAMPERED
    assert seen.evidence == (honest.notes[30].decode(), fork.notes[30].decode())


@pytest.mark.parametrize("at", [0, 24, 25, 29])
def test_a_larger_log_that_does_not_continue_the_remembered_one_is_found(book: Any, tmp_path: Path, at: int) -> None:
    memory = Memory()
    _run(_book(book, 30), tmp_path / "a", memory)
    fork = _forked(book, 50, at=at)
    assert fork.verify(fork.export(tmp_path / "b", group_rows=GROUP)).verdict is Verdict.VERIFIED
    for full in (False, True):
        seen = fork.verify(tmp_path / "b", memory=memory, full=full)
        assert seen.verdict is Verdict.TAMPERED, (at, full)


def test_level_0_says_that_it_cannot_tell_whether_the_log_continues(book: Any, tmp_path: Path) -> None:
    memory = Memory()
    _run(_book(book, 30), tmp_path / "a", memory)
    seen = _run(_book(book, 50), tmp_path / "b", memory, level=0)
    assert seen.verdict is Verdict.VERIFIED
    assert any("whether this tree continues the root of size 30" in one for one in seen.not_checked)
    # The place of the run before is kept for the next one that reads.
    assert _run(_book(book, 50), tmp_path / "c", memory).from_size == 25


def test_a_place_that_was_judged_less_strictly_does_not_count(book: Any, tmp_path: Path) -> None:
    memory = Memory()
    _run(_book(book, 30), tmp_path / "a", memory, level=1)
    assert _run(_book(book, 50), tmp_path / "b", memory, level=2).from_size == 0
    assert _run(_book(book, 50), tmp_path / "c", memory, level=1).from_size == 40
    assert _run(_book(book, 50), tmp_path / "d", memory, level=1, strict=True).from_size == 0


def test_a_bundle_and_a_log_of_one_origin_are_compared_with_each_other(book: Any, tmp_path: Path) -> None:
    memory = Memory()
    _run(_book(book, 30), tmp_path / "a", memory)
    fork = _forked(book, 30, at=0)
    bundle = fork.export(tmp_path / "b", tenant="acme")
    assert fork.verify(bundle, tenant="acme").verdict is Verdict.VERIFIED
    assert fork.verify(bundle, tenant="acme", memory=memory).verdict is Verdict.TAMPERED
    # A bundle that was exported before is no rollback of the log.
    early = _book(book, 20)
    assert early.verify(early.export(tmp_path / "c", tenant="acme"), tenant="acme", memory=memory).verdict is (
        Verdict.VERIFIED
    )
    before = _book(book, 15)
    assert before.verify(before.export(tmp_path / "d", tenant="acme"), tenant="acme", memory=memory).verdict is (
        Verdict.TAMPERED
    )


def test_a_state_of_other_keys_is_refused_and_never_begun_anew(book: Any, tmp_path: Path) -> None:
    memory = Memory()
    _run(_book(book, 30), tmp_path / "a", memory)
    thief = _book(book, 30)
    thief.signer = NoteSigner(thief.signer.verifier_key.name, os.urandom(32))
    thief.notes = {30: thief.note(30)}
    with pytest.raises(Malformed, match="under keys that the trust policy has not"):
        _run(thief, tmp_path / "b", memory)


# --- the file -------------------------------------------------------------------------------------------------------


@pytest.fixture
def shell(book: Any, tmp_path: Path) -> Any:
    made = _book(book, 30)
    made.export(tmp_path / "x", group_rows=GROUP)
    (tmp_path / "trust.txt").write_bytes(made.trust)

    def run(folder: str = "x", **more: Any) -> tuple[int, str]:
        import io

        out, err = io.StringIO(), io.StringIO()
        demand = Demand(path=tmp_path / folder, trust=tmp_path / "trust.txt", state=tmp_path / "state.json", **more)
        return run_verify(demand, out, err), out.getvalue() + err.getvalue()

    return run


def test_the_state_is_the_owners_alone_and_written_after_a_success_only(book: Any, shell: Any, tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    assert shell()[0] == 0
    assert stat.S_IMODE(state.stat().st_mode) == 0o600
    kept = state.read_bytes()
    _book(book, 20).export(tmp_path / "old", group_rows=GROUP)
    code, said = shell("old")
    assert (code, state.read_bytes()) == (1, kept)
    assert "evidence" in said
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("damage", ["cut", "bit", "empty", "version", "text", "member"])
def test_a_damaged_state_is_a_clear_error(shell: Any, tmp_path: Path, damage: str) -> None:
    state = tmp_path / "state.json"
    shell()
    kept = state.read_bytes()
    changed = {
        "cut": kept[:-20],
        "bit": kept.replace(b'"size":30', b'"size":20'),
        "empty": b"",
        "version": kept.replace(b'"v":%d' % STATE_VERSION, b'"v":9'),
        "text": b"\xff\xfe",
        "member": kept.replace(b'{"v"', b'{"x":1,"v"'),
    }[damage]
    assert changed != kept
    state.write_bytes(changed)
    code, said = shell()
    assert (code, state.read_bytes()) == (2, changed)
    assert "state" in said


def test_a_state_that_cannot_be_written_leaves_the_one_before(shell: Any, tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    shell()
    kept = state.read_bytes()
    (tmp_path / ".state.json.new").mkdir()
    code, said = shell(full=True)
    assert (code, state.read_bytes()) == (2, kept)
    assert ".state.json.new" in said


def test_the_state_file_is_plain_json_with_a_digest_of_itself(shell: Any, tmp_path: Path) -> None:
    shell()
    read = json.loads((tmp_path / "state.json").read_text())
    assert set(read) == {"v", "sum", "entries"}
    assert [(one["what"], one["size"]) for one in read["entries"]] == [("log", 30)]
    assert msgspec.json.decode((tmp_path / "state.json").read_bytes())
