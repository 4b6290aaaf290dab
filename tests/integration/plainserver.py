"""A nats-server without accounts, for tests of what needs none: on a port of its own, killed and started again."""

from __future__ import annotations

import socket
from pathlib import Path

from nomos_runtime.embedded.nats import server_binary
from nomos_runtime.embedded.process import ServerProcess

START_SECONDS = 20


class PlainServer:
    """The server; nothing runs before :meth:`start`. Its port stays the same.

    Attributes:
        folder: where its configuration and log are.
        port: on loopback.
        pid: of the process that runs; 0 while none does.
    """

    def __init__(self, folder: Path, more: str = "") -> None:
        """Takes a free port; ``more`` are further lines of the configuration."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.folder = folder
        self._more = more
        self._process: ServerProcess | None = None

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        return 0 if self._process is None else self._process.pid

    def start(self) -> None:
        """Starts it; returns when it answers."""
        configuration = self.folder / "nats.conf"
        configuration.write_text(f'listen: "127.0.0.1:{self.port}"\n{self._more}\n', encoding="utf-8")
        command = [str(server_binary()), "-c", str(configuration)]
        self._process = ServerProcess("nats-server", command, log=self.folder / "log")
        self._process.wait_until(self._answers, START_SECONDS)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as probe:
                return probe.recv(4) == b"INFO"
        except OSError:
            return False

    def kill(self) -> None:
        """Ends it at once, whatever it is about; nothing where none runs."""
        if self._process is not None:
            self._process.kill()
            self._process = None


def synced(store: Path, more: str = "") -> str:
    """Lines of a configuration by which every write is on the disk before it is confirmed."""
    return f'jetstream {{ store_dir: "{store}", sync_interval: always{more} }}'
