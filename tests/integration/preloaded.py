"""Runs commands in processes of their own that begin with everything imported: what a command does, not how it starts.

A server, started once, imports the command and forks for each one that is asked for. Each child has the arguments, the
folder, the environment and the standard streams that it would have, and ends as it would. How the command starts by
itself is looked at by the tests that run ``python -m nomos.cli.main``.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

POLL_SECONDS = 0.005
#: What commands import, by what they do.
PRELOADED = (
    "nomos.cli.main", "nomos.cli.admin", "nomos.cli.audit", "nomos.agent", "nomos.operator", "nomos.log.verify",
    "nomos_policy.commands.replay",
)  # fmt: skip


class Done(NamedTuple):
    """How a command ended: exit code, and what it wrote."""

    returncode: int
    stdout: str
    stderr: str


class Preloaded:
    """The server, seen from the tests. End it with :meth:`close`."""

    def __init__(self, folder: Path) -> None:
        """``folder`` takes what commands write, while they run."""
        self._folder = folder
        folder.mkdir()
        self._server = subprocess.Popen(
            [sys.executable, str(Path(__file__))], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._number = 0

    def run(self, words: list[str], *, cwd: Path, env: Mapping[str, str], stdin: str, seconds: float) -> Done:
        """Runs one command.

        Raises:
            subprocess.TimeoutExpired: it was killed, it took longer than ``seconds``.
        """
        self._number += 1
        at = self._folder / str(self._number)
        files = {name: str(at.with_suffix(f".{name}")) for name in ("in", "out", "err")}
        Path(files["in"]).write_text(stdin, encoding="utf-8")
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        ask = {"words": words, "cwd": str(cwd), "env": dict(env), "files": files, "seconds": seconds}
        print(json.dumps(ask), file=self._server.stdin, flush=True)
        code = json.loads(self._server.stdout.readline())
        if code is None:
            raise subprocess.TimeoutExpired(words, seconds)
        out, err = (Path(files[name]).read_text(encoding="utf-8") for name in ("out", "err"))
        return Done(code, out, err)

    def close(self) -> None:
        """Ends the server."""
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait(30)
        assert self._server.stdout is not None
        self._server.stdout.close()


def _serve() -> None:
    for name in PRELOADED:
        importlib.import_module(name)
    for line in sys.stdin:
        ask = json.loads(line)
        child = os.fork()
        if child == 0:
            _become(ask)
        print(json.dumps(_wait(child, ask["seconds"])), flush=True)


def _become(ask: dict[str, object]) -> None:
    """Runs the command in this process, and ends it."""
    from nomos.cli.main import main

    files = ask["files"]
    assert isinstance(files, dict)
    for number, name in enumerate(("in", "out", "err")):
        flags = os.O_RDONLY if name == "in" else os.O_WRONLY | os.O_CREAT | os.O_TRUNC
        os.dup2(os.open(files[name], flags, 0o600), number)
    os.chdir(str(ask["cwd"]))
    os.environ.clear()
    os.environ.update(ask["env"])  # type: ignore[call-overload]
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", closefd=False, buffering=1)  # noqa: SIM115
    sys.argv = ["nomos", *ask["words"]]  # type: ignore[misc]
    code = 1
    try:
        code = main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:  # noqa: BLE001 - as an interpreter ends with whatever is left
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _wait(child: int, seconds: float) -> int | None:
    """The child's exit code; None where it had to be killed."""
    ends = time.monotonic() + seconds
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > ends:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return None
        time.sleep(POLL_SECONDS)


if __name__ == "__main__":
    _serve()
