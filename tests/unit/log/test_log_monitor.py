"""``nomos monitor``: what it says when a log goes back, forks, stands still or cannot be read."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nomos.cli.main import main
from nomos.cli.monitor import STALE

from .conftest import NOW


class Watched:
    """A folder that a test replaces, and the monitor's files."""

    def __init__(self, book: Any, folder: Path) -> None:
        self._book = book
        self.folder = folder
        self.path = folder / "copy"
        self.evidence = folder / "evidence"
        (folder / "trust.txt").write_bytes(book(1).trust)

    def show(self, size: int, start: str | None = None, witnesses: tuple[int, ...] = (0, 1)) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        made = self._book(size, start=start)
        made.notes = {size: made.note(size, witnesses)}
        made.export(self.path)

    def words(self, *more: str) -> list[str]:
        files = ["--trust", str(self.folder / "trust.txt"), "--state", str(self.folder / "state")]
        return ["monitor", str(self.path), *files, "--evidence", str(self.evidence), *more]

    def look(self, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, str]:
        code = main(self.words("--once", *more))
        said = capsys.readouterr()
        return code, said.out + said.err


@pytest.fixture
def watched(book: Any, tmp_path: Path) -> Watched:
    return Watched(book, tmp_path)


def test_a_log_that_grows_is_well(watched: Watched, capsys: pytest.CaptureFixture[str]) -> None:
    for size in (5, 5, 9, 40):
        watched.show(size)
        code, said = watched.look(capsys)
        assert (code, said) == (0, f"size {size} of audit.example.com/prod continues what was seen before\n")
    assert not watched.evidence.exists()


def test_a_log_that_goes_back_is_an_alarm_with_evidence(watched: Watched, capsys: pytest.CaptureFixture[str]) -> None:
    watched.show(9)
    assert watched.look(capsys)[0] == 0
    watched.show(5)
    code, said = watched.look(capsys)
    assert code == 1
    assert said.startswith("ALARM tampered: the newest root is of size 5, and one of size 9 was verified earlier")
    kept = sorted(watched.evidence.glob("*.note"))
    assert sorted(one.read_text().split("\n")[1] for one in kept) == ["5", "9"]
    # It is still an alarm at the next look: nothing was remembered of what was wrong.
    assert watched.look(capsys)[0] == 1


def test_two_histories_of_one_size_are_an_alarm(watched: Watched, capsys: pytest.CaptureFixture[str]) -> None:
    watched.show(9)
    assert watched.look(capsys)[0] == 0
    made = watched._book(9)
    made.objects[3]["event"]["effect"] = "changed"
    made.chain()
    made.notes = {9: made.note(9)}
    shutil.rmtree(watched.path)
    made.export(watched.path)
    code, said = watched.look(capsys, "--json")
    told = json.loads(said)
    assert (code, told["alarm"], told["verdict"]) == (1, "tampered", "tampered")
    assert "another root of size 9" in told["reason"]
    assert len(told["evidence"]) == 2


def test_a_lack_of_witnesses_cannot_be_told(watched: Watched, capsys: pytest.CaptureFixture[str]) -> None:
    watched.show(9, witnesses=(0,))
    code, said = watched.look(capsys)
    assert (code, said.startswith("ALARM unverifiable")) == (3, True)


def test_a_head_that_nobody_has_signed_for_long_is_stale(
    watched: Watched, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    watched.show(9)
    monkeypatch.setattr("nomos.cli.monitor.time.time", lambda: float(NOW))
    assert watched.look(capsys, "--max-age", "10")[0] == 0
    monkeypatch.setattr("nomos.cli.monitor.time.time", lambda: float(NOW + 1))
    code, said = watched.look(capsys, "--max-age", "10")
    assert (code, said) == (STALE, "ALARM stale: the newest cosignature is 11 s old\n")


@pytest.mark.parametrize(
    ("break_it", "said"),
    [
        (lambda watched: shutil.rmtree(watched.path), "No such file"),
        (lambda watched: (watched.folder / "state").write_text("{}"), "the state file is damaged"),
        (lambda watched: (watched.folder / "trust.txt").write_text("nonsense\n"), "trust policy or state"),
        (lambda watched: (watched.path / "log.json").write_text("{}"), "log.json: "),
    ],
)
def test_what_cannot_be_read_is_told(
    watched: Watched, capsys: pytest.CaptureFixture[str], break_it: Any, said: str
) -> None:
    watched.show(9)
    assert watched.look(capsys)[0] == 0
    break_it(watched)
    code, told = watched.look(capsys)
    assert (code, said in told) == (2, True), told


@pytest.mark.parametrize("more", [("--every", "0.5"), ("--max-age", "-1")])
def test_bad_numbers_are_refused(watched: Watched, capsys: pytest.CaptureFixture[str], more: tuple[str, str]) -> None:
    watched.show(9)
    assert watched.look(capsys, *more)[0] == 2


def test_it_goes_on_looking_after_an_alarm(watched: Watched) -> None:
    watched.show(9)
    program = [sys.executable, "-m", "nomos.cli.main", *watched.words("--every", "1", "--json")]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as running:
        try:
            assert running.stdout is not None
            assert json.loads(running.stdout.readline())["alarm"] is None
            shutil.rmtree(watched.path)
            assert json.loads(running.stdout.readline())["alarm"] == "unreadable"
            watched.show(5)
            told = json.loads(running.stdout.readline())
            while told["alarm"] == "unreadable":
                told = json.loads(running.stdout.readline())
            assert told["alarm"] == "tampered"
            watched.show(12)
            told = json.loads(running.stdout.readline())
            while told["alarm"] is not None:
                told = json.loads(running.stdout.readline())
            assert told["size"] == 12
        finally:
            running.send_signal(signal.SIGKILL)
