"""Finds the services by their entry points (``nomos.services``) and runs them: in this process, or one process each.

The runtime imports no service; each distribution names its ``build(env)``.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final, Protocol

from nomos.errors import Misconfigured, Unavailable
from nomos_runtime.embedded.process import launch_command

READY_SECONDS: Final = 60.0
STOP_SECONDS: Final = 15.0
#: Service processes watch each other through the bus, so their order of start does not matter.
ENVIRONMENT_KEPT: Final = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "VIRTUAL_ENV", "PYTHONPATH", "TMPDIR")


class Service(Protocol):
    """A running service."""

    async def start(self) -> None:
        """Returns when it serves."""

    async def stop(self) -> None:
        """Ends what runs and disconnects."""

    def faults(self) -> list[str]:
        """Why it cannot keep its promise now; empty when it can."""


def build(name: str, env: Mapping[str, str]) -> Service:
    """The service ``name`` from its environment.

    Raises:
        Misconfigured: it is not installed, or a setting is missing or wrong.
    """
    for point in entry_points(group="nomos.services", name=name):
        service: Service = point.load()(env)
        return service
    raise Misconfigured(f"the service {name} is not installed")


async def run_together(environments: Mapping[str, Mapping[str, str]]) -> list[Service]:
    """Starts services in this process; they wait for each other's facts, so they start side by side."""
    services = [build(name, env) for name, env in environments.items()]
    started = await asyncio.gather(*(s.start() for s in services), return_exceptions=True)
    failed = [e for e in started if isinstance(e, BaseException)]
    if failed:
        await asyncio.gather(*(s.stop() for s in services), return_exceptions=True)
        raise failed[0]
    return services


class ServiceProcess:
    """One service in a process of its own, with its own environment and nothing else of ours."""

    def __init__(self, name: str, env: Mapping[str, str], folder: Path, instance: str = "") -> None:
        """Starts it; :meth:`wait` tells when it serves.

        Args:
            name: of the service.
            env: its environment (settings and secrets).
            folder: where its log and ready file go.
            instance: tells replicas of one service apart.
        """
        self.name = name
        self.label = name + instance
        self._ready = folder / f"{self.label}.ready"
        self._ready.unlink(missing_ok=True)
        self.log = folder / f"{self.label}.log"
        kept = {k: os.environ[k] for k in ENVIRONMENT_KEPT if k in os.environ}
        command = [sys.executable, "-m", "nomos.cli.main", "run", name, "--ready-file", str(self._ready)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own command, no shell
                launch_command(command, on_parent_death=signal.SIGTERM, identity="user"),
                env={**kept, **env},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it is there."""
        return self._process.poll() is None

    async def wait(self, seconds: float = READY_SECONDS) -> None:
        """Returns when it serves.

        Raises:
            Unavailable: it ended, or does not serve within ``seconds``.
        """
        end = asyncio.get_running_loop().time() + seconds
        while not self._ready.exists():
            if not self.running:
                raise Unavailable(f"{self.label} ended", cause=self.log_tail())
            if asyncio.get_running_loop().time() > end:
                raise Unavailable(f"{self.label} does not serve after {seconds} s", cause=self.log_tail())
            await asyncio.sleep(0.02)

    def log_tail(self) -> str:
        """The end of its log."""
        return self.log.read_text(encoding="utf-8", errors="replace")[-2_000:] if self.log.exists() else ""

    def signal(self, number: int) -> None:
        """Sends it a signal, by its own process id."""
        if self.running:
            os.kill(self.pid, number)

    async def stop(self) -> None:
        """Ends it: politely, then not."""
        self.signal(signal.SIGCONT)
        self.signal(signal.SIGTERM)
        # In a thread: a child's end is waited for with the system's own call.
        await asyncio.to_thread(self._wait_for_end)
        self.kill()

    def _wait_for_end(self) -> None:
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            return

    def kill(self) -> None:
        """``kill -9``."""
        if self.running:
            self._process.kill()
        self._process.wait()
