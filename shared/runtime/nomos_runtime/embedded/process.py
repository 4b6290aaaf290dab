"""A server process that belongs to this process: started by its own id, stopped by its own id, never left behind.

The kernel ends it when this process ends, however that happens (Linux: parent-death signal, by ``_launch.py``). That
signal hangs on the *thread* that started it, so servers are started from the main thread only.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from nomos.errors import Conflict, Misconfigured, Unavailable

POLL_SECONDS: Final = 0.01
STOP_SECONDS: Final = 20
LOG_TAIL_BYTES: Final = 4_000
_LAUNCH: Final = Path(__file__).with_name("_launch.py")


def launch_command(
    command: Sequence[str], *, on_parent_death: signal.Signals, identity: str, timer_slack_ns: int = 0
) -> list[str]:
    """``command``, wrapped so that it ends with this process and runs under ``identity`` (``_launch.py``).

    Its timers may be late by ``timer_slack_ns``; 0 leaves that as it is for this process.
    """
    launcher = [sys.executable, "-I", "-S", str(_LAUNCH)]
    return [*launcher, str(os.getpid()), str(int(on_parent_death)), identity, str(timer_slack_ns), *command]


class ServerProcess:
    """One running server, in a process group of its own so that a Ctrl-C in the terminal does not reach it first."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        log: Path,
        on_parent_death: signal.Signals = signal.SIGKILL,
        identity: str = "user",
        timer_slack_ns: int = 0,
    ) -> None:
        if threading.current_thread() is not threading.main_thread():
            raise Misconfigured(f"{name} must be started from the main thread")
        self.name = name
        self._log = log
        with log.open("ab") as out:
            self._process = subprocess.Popen(  # noqa: S603  # the command is ours, no shell
                launch_command(
                    command, on_parent_death=on_parent_death, identity=identity, timer_slack_ns=timer_slack_ns
                ),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The server's process id."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process.poll() is None

    @property
    def status(self) -> int | None:
        """Its exit status, None while it runs."""
        return self._process.poll()

    def wait_until(self, ready: Callable[[], bool], seconds: float) -> None:
        """Returns when ``ready()`` holds.

        Raises:
            Unavailable: the process ended, or the time is over; the end of its log is the cause.
        """
        deadline = time.monotonic() + seconds
        while not ready():
            if not self.running:
                raise Unavailable(f"{self.name} ended with status {self.status}", cause=self.log_tail())
            if time.monotonic() > deadline:
                raise Unavailable(f"{self.name} was not ready in {seconds:g} s", cause=self.log_tail())
            time.sleep(POLL_SECONDS)

    def log_tail(self) -> str:
        """The last lines that the server wrote."""
        with self._log.open("rb") as f:
            f.seek(max(0, self._log.stat().st_size - LOG_TAIL_BYTES))
            return f.read().decode(errors="replace")

    def stop(self, with_signal: signal.Signals, seconds: float = STOP_SECONDS) -> None:
        """Asks the process to end, and kills it after ``seconds``. Returns when its whole group is gone."""
        if self.running:
            self._process.send_signal(with_signal)
            try:
                self._process.wait(seconds)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._gone()

    def kill(self) -> None:
        """``kill -9``: what a crash of the server looks like. Returns when its whole group is gone."""
        if self.running:
            self._process.kill()
        self._gone()

    def _gone(self) -> None:
        self._process.wait()
        # Children (of Postgres) end by themselves when they see that their parent has; a restart must not meet them.
        deadline = time.monotonic() + STOP_SECONDS
        while _group_alive(self.pid):
            if time.monotonic() > deadline:
                os.killpg(self.pid, signal.SIGKILL)
                deadline += STOP_SECONDS
            time.sleep(POLL_SECONDS)


def _group_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


class DirectoryLock:
    """Keeps a server's directory to one process. Freed by the kernel when this process ends."""

    def __init__(self, directory: Path, what: str) -> None:
        self._descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            os.close(self._descriptor)
            raise Conflict(f"another process runs {what} in this directory") from e

    def release(self) -> None:
        """Lets another process have the directory."""
        os.close(self._descriptor)
