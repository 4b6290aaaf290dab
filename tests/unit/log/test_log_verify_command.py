"""The command as an auditor has it: progress on a terminal, and an installation that holds nothing but the verifier.

``test_the_verifier_installs_alone`` needs a package index or a cache that has pyarrow, as ``make test`` does.
"""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nomos.log.main import Demand, Progress, run_verify

ROOT = Path(__file__).parents[3]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def _paths(book: Any, tmp_path: Path) -> tuple[Path, Path]:
    made = book(40)
    (tmp_path / "trust.txt").write_bytes(made.trust)
    return made.export(tmp_path / "x", group_rows=8), tmp_path / "trust.txt"


def test_progress_is_shown_on_a_terminal_and_taken_away(book: Any, tmp_path: Path) -> None:
    path, trust = _paths(book, tmp_path)
    shown = Terminal()
    assert run_verify(Demand(path=path, trust=trust), io.StringIO(), shown) == 0
    assert "40 of 40 records, 100 %" in shown.getvalue()
    assert shown.getvalue().endswith("\r")


@pytest.mark.parametrize("more", [{"quiet": True}, {"json": True}])
def test_progress_is_not_shown_where_it_is_not_wanted(book: Any, tmp_path: Path, more: dict[str, bool]) -> None:
    path, trust = _paths(book, tmp_path)
    shown = Terminal()
    assert run_verify(Demand(path=path, trust=trust, **more), io.StringIO(), shown) == 0
    assert shown.getvalue() == ""
    plain = io.StringIO()
    assert run_verify(Demand(path=path, trust=trust), io.StringIO(), plain) == 0
    assert plain.getvalue() == ""


def test_progress_says_the_rate_and_the_time_that_is_left() -> None:
    now = [0.0]
    shown = Terminal()
    progress = Progress(shown, clock=lambda: now[0])
    now[0] = 2.0
    progress(1_000, 4_000)
    now[0] = 2.1
    progress(1_100, 4_000)
    assert shown.getvalue() == "\r1,000 of 4,000 records, 25 %, 500/s, 6 s left"


def test_the_command_shows_progress_on_a_real_terminal_only(book: Any, tmp_path: Path) -> None:
    path, trust = _paths(book, tmp_path)
    words = [sys.executable, "-m", "nomos.cli.main", "verify", str(path), "--trust", str(trust)]
    ours, theirs = pty.openpty()
    try:
        done = subprocess.run(words, stdout=subprocess.PIPE, stderr=theirs, check=False)
    finally:
        os.close(theirs)
    said = os.read(ours, 65_536).decode()
    os.close(ours)
    assert (done.returncode, "40 of 40 records" in said) == (0, True)
    piped = subprocess.run(words, capture_output=True, check=False)
    assert (piped.returncode, piped.stderr) == (0, b"")


def test_the_verifier_installs_alone(book: Any, tmp_path: Path) -> None:
    uv = Path(sys.executable).with_name("uv")
    env = tmp_path / "env"
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, env], check=True)
    kernel = f"nomos-authz[verify] @ file://{ROOT / 'shared/kernel'}"
    subprocess.run([uv, "pip", "install", "--quiet", "--python", env / "bin/python", kernel], check=True)
    held = subprocess.run(
        [uv, "pip", "list", "--python", env / "bin/python", "--format", "freeze"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    names = {line.partition("==")[0].partition(" @")[0] for line in held.splitlines()}
    assert {"nomos-authz", "pyarrow"} <= names
    assert not names & {"nats-py", "cedarpy", "asyncpg", "boto3", "nomos-authz-runtime", "uvloop"}
    path, trust = _paths(book, tmp_path)
    for level in ("0", "1", "2"):
        words = [env / "bin/nomos", "verify", path, "--trust", trust, "--level", level]
        done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert (done.returncode, done.stdout.partition("\n")[0]) == (0, f"VERIFIED at level {level}"), done.stderr
