"""The embedded servers: real, durable over kill -9, closed to others, and gone when their parent is."""

import asyncio
import datetime
import ipaddress
import os
import signal
import socket
import ssl
import stat
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import msgspec
import nats
import nats.errors
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from nats.aio.client import Client

from nomos.errors import Conflict, Misconfigured, Unavailable
from nomos_runtime import topology
from nomos_runtime.embedded.nats import TIMER_SLACK_NS, EmbeddedNats, server_binary
from nomos_runtime.embedded.postgres import OWNERS, EmbeddedPostgres, PostgresUrls
from nomos_runtime.provision import Installation, preload_resolver, provision_operator
from nomos_runtime.topology import Bounds

KIB, MIB = 1 << 10, 1 << 20
SMALL = Bounds(
    intake_bytes=64 * KIB, chain_bytes=64 * KIB, audit_bytes=64 * KIB, checkpoint_bytes=64 * KIB, nonce_bytes=64 * KIB
)
DEADLINE_SECONDS = 20


def provision(directory: Path, server: EmbeddedNats) -> Installation:
    return provision_operator(
        directory / "installation",
        servers=[server.url],
        issued_at=int(time.time()),
        resolver_directory=server.resolver_directory,
    )


@asynccontextmanager
async def connected(server: EmbeddedNats, installation: Installation, user: str) -> AsyncIterator[Client]:
    client = await nats.connect(
        server.url,
        user_credentials=str(installation.creds_path(user)),
        inbox_prefix=f"_INBOX.{user}".encode(),
        allow_reconnect=False,
    )
    try:
        yield client
    finally:
        await client.close()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedNats]:
    server = EmbeddedNats(tmp_path / "nats", max_file_store=4 * MIB)
    try:
        yield server
    finally:
        server.stop()


async def append(client: Client, payload: bytes) -> dict[str, object]:
    reply = await client.request("intake.batch", payload, timeout=DEADLINE_SECONDS)
    return msgspec.json.decode(reply.data, type=dict[str, object])


# --- nats-server ----------------------------------------------------------------------------------------------------


async def test_what_was_acknowledged_is_there_after_kill_9_on_the_same_port(
    server: EmbeddedNats, tmp_path: Path
) -> None:
    installation = provision(tmp_path, server)
    server.start(installation)
    url, first = server.url, server.pid
    async with connected(server, installation, "audit-provisioner") as provisioner:
        await topology.ensure_streams(provisioner, "AUDIT", SMALL)
    async with connected(server, installation, "policy") as policy:
        acks = [await append(policy, b"%d" % i) for i in range(20)]
    assert [a["seq"] for a in acks] == list(range(1, 21))
    server.kill()
    assert not server.running
    server.start(installation)
    assert (server.url, server.pid != first) == (url, True)
    async with connected(server, installation, "audit") as audit:
        reply = await audit.request("$JS.API.STREAM.INFO.INTAKE", b"", timeout=DEADLINE_SECONDS)
        assert msgspec.json.decode(reply.data)["state"]["messages"] == 20
    async with connected(server, installation, "policy") as policy:
        assert (await append(policy, b"on"))["seq"] == 21


async def test_a_server_keeps_its_port_over_processes(server: EmbeddedNats) -> None:
    assert EmbeddedNats(server.directory).port == server.port


async def test_a_full_journal_refuses_and_drops_nothing(server: EmbeddedNats, tmp_path: Path) -> None:
    installation = provision(tmp_path, server)
    server.start(installation)
    async with connected(server, installation, "audit-provisioner") as provisioner:
        await topology.ensure_streams(provisioner, "AUDIT", SMALL)
    async with connected(server, installation, "policy") as policy:
        acks = [await append(policy, bytes(8 * KIB)) for _ in range(12)]
    refused = [a for a in acks if "error" in a]
    assert refused
    assert all(msgspec.convert(a["error"], dict[str, object])["err_code"] == 10077 for a in refused)
    async with connected(server, installation, "audit") as audit:
        reply = await audit.request("$JS.API.STREAM.INFO.INTAKE", b"", timeout=DEADLINE_SECONDS)
        assert msgspec.json.decode(reply.data)["state"]["first_seq"] == 1


async def test_streams_that_do_not_fit_the_store_are_refused(server: EmbeddedNats, tmp_path: Path) -> None:
    installation = provision(tmp_path, server)
    server.start(installation)
    async with connected(server, installation, "audit-provisioner") as provisioner:
        with pytest.raises(Misconfigured):
            await topology.ensure_streams(provisioner, "AUDIT", Bounds())


async def test_nobody_connects_without_credentials(server: EmbeddedNats, tmp_path: Path) -> None:
    server.start(provision(tmp_path, server))
    with pytest.raises(nats.errors.Error):
        await nats.connect(server.url, allow_reconnect=False)


async def test_the_server_listens_on_loopback_only(server: EmbeddedNats, tmp_path: Path) -> None:
    server.start(provision(tmp_path, server))
    with Path("/proc/net/tcp").open() as f:
        listening = [line.split()[1] for line in f if line.split()[3] == "0A"]
    assert [a for a in listening if a.endswith(f":{server.port:04X}")] == [f"0100007F:{server.port:04X}"]


def test_the_servers_timers_may_be_a_little_late(server: EmbeddedNats, tmp_path: Path) -> None:
    server.start(provision(tmp_path, server))
    assert int(Path(f"/proc/{server.pid}/timerslack_ns").read_text(encoding="ascii")) == TIMER_SLACK_NS


def test_a_directory_serves_one_process_at_a_time(server: EmbeddedNats, tmp_path: Path) -> None:
    installation = provision(tmp_path, server)
    server.start(installation)
    with pytest.raises(Conflict):
        EmbeddedNats(server.directory).start(installation)
    assert server.running


def test_a_taken_port_is_said_and_not_mistaken_for_the_server(server: EmbeddedNats, tmp_path: Path) -> None:
    server.start(provision(tmp_path, server))
    second = EmbeddedNats(tmp_path / "second", port=server.port)
    try:
        with pytest.raises(Unavailable) as refused:
            second.start(provision(tmp_path / "other", second))
        assert "address already in use" in (refused.value.cause or "")
    finally:
        second.stop()


def test_a_server_is_started_from_the_main_thread_only(server: EmbeddedNats, tmp_path: Path) -> None:
    installation = provision(tmp_path, server)
    found: list[BaseException] = []

    def start() -> None:
        try:
            server.start(installation)
        except Misconfigured as e:
            found.append(e)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert len(found) == 1


PARENT = """
import sys, time
from pathlib import Path
from nomos_runtime.embedded.nats import EmbeddedNats, server_binary
from nomos_runtime.embedded.postgres import EmbeddedPostgres
from nomos_runtime.provision import provision_operator
top = Path(sys.argv[1])
server = EmbeddedNats(top / "nats")
server.start(provision_operator(top / "installation", servers=[server.url], issued_at=int(time.time())))
postgres = EmbeddedPostgres(top / "postgres", fsync=False)
postgres.start()
print(server.pid, postgres.pid, flush=True)
sys.stdin.read()
"""


def test_no_server_outlives_a_parent_that_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pids = [int(p) for p in parent.stdout.readline().split()]
        assert len(pids) == 2
        assert all(Path(f"/proc/{p}").exists() for p in pids)
        parent.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + DEADLINE_SECONDS
    # Whoever adopts an orphan may leave it unreaped: a zombie has ended.
    while any(state_of(p) not in {"", "Z"} for p in pids):
        assert time.monotonic() < deadline, "a server outlived its parent"
        time.sleep(0.02)


def state_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][:1]
    except (FileNotFoundError, ProcessLookupError):
        return ""


# --- the production configuration -----------------------------------------------------------------------------------

PRODUCTION = Path(__file__).parents[2] / "infra" / "nats" / "nats-server.conf"


def certificate(directory: Path) -> bytes:
    """Writes a key and a self-signed certificate for 127.0.0.1, and returns the certificate."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bus")])
    today = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(today - datetime.timedelta(days=1))
        .not_valid_after(today + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    directory.mkdir()
    pem = made.public_bytes(serialization.Encoding.PEM)
    (directory / "server.pem").write_bytes(pem)
    (directory / "server.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return pem


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def production(tmp_path: Path) -> Iterator[tuple[str, Installation, ssl.SSLContext]]:
    """A server with the shipped configuration in a directory as its README says."""
    port, home = free_port(), tmp_path / "server"
    url = f"tls://127.0.0.1:{port}"
    installation = provision_operator(tmp_path / "installation", servers=[url], issued_at=int(time.time()))
    (home / "accounts").mkdir(parents=True)
    preload_resolver(installation, home / "accounts")
    (home / "operator.jwt").write_text(installation.operator_jwt)
    context = ssl.create_default_context(cadata=certificate(home / "tls").decode())
    environment = {
        "NATS_SERVER_NAME": "bus-1",
        "NATS_SYSTEM_ACCOUNT": installation.system_account,
        "NATS_STORE_BYTES": str(4 * MIB),
    }
    command = [str(server_binary()), "-c", str(PRODUCTION), "-a", "127.0.0.1", "-p", str(port), "-m", str(free_port())]
    with subprocess.Popen(command, cwd=home, env=environment, stderr=subprocess.PIPE) as process:
        try:
            assert process.stderr is not None
            lines: list[bytes] = []
            for line in process.stderr:
                lines.append(line)
                if b"Server is ready" in line:
                    break
            else:
                pytest.fail(b"".join(lines).decode())
            yield url, installation, context
        finally:
            process.kill()


async def test_the_production_configuration_speaks_tls_1_3_first(
    production: tuple[str, Installation, ssl.SSLContext],
) -> None:
    url, installation, context = production
    client = await nats.connect(
        url,
        tls=context,
        tls_handshake_first=True,
        user_credentials=str(installation.creds_path("audit-provisioner")),
        inbox_prefix=b"_INBOX.audit-provisioner",
        allow_reconnect=False,
    )
    made = await topology.ensure_streams(client, "AUDIT", SMALL)
    assert set(made.values()) == {"created"}
    await client.close()


async def test_the_production_configuration_says_nothing_in_the_clear_or_below_tls_1_3(
    production: tuple[str, Installation, ssl.SSLContext],
) -> None:
    url, _, context = production
    address = ("127.0.0.1", int(url.rpartition(":")[2]))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_connection(address, DEADLINE_SECONDS) as plain, pytest.raises(ssl.SSLError):
        context.wrap_socket(plain, server_hostname="127.0.0.1")
    with socket.create_connection(address, DEADLINE_SECONDS) as plain:
        plain.sendall(b"CONNECT {}\r\nPING\r\n")
        assert b"INFO" not in plain.recv(4_096)


# --- postgres -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(tmp_path_factory.mktemp("pg"))
    try:
        server.start()
        asyncio.run(server.prepare())
        yield server
    finally:
        server.stop()


@asynccontextmanager
async def session(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url, timeout=DEADLINE_SECONDS)
    try:
        yield connection
    finally:
        await connection.close()


async def test_the_server_is_version_18_with_checksums_and_fsync(postgres: EmbeddedPostgres) -> None:
    async with session(postgres.urls()["policy"]) as c:
        assert (await c.fetchval("SHOW server_version")).startswith("18.")
        for setting in ("data_checksums", "fsync", "full_page_writes", "synchronous_commit"):
            assert await c.fetchval(f"SHOW {setting}") == "on"
        assert await c.fetchval("SHOW listen_addresses") == ""


@pytest.mark.parametrize("service", OWNERS)
async def test_a_services_role_owns_its_schema_and_no_other_power(postgres: EmbeddedPostgres, service: str) -> None:
    async with session(postgres.urls()[service]) as c:
        role = await c.fetchrow(
            "SELECT rolsuper, rolbypassrls, rolcreatedb, rolcreaterole, rolreplication FROM pg_roles "
            "WHERE rolname = current_user"
        )
        assert list(role.values()) == [False] * 5
        assert await c.fetchval("SELECT current_user || '/' || current_schema()") == f"{service}/{service}"
        await c.execute("CREATE TABLE mine (x int)")
        await c.execute("DROP TABLE mine")
        for refused in (
            "CREATE TABLE public.theirs (x int)",
            "CREATE SCHEMA other",
            "CREATE DATABASE other",
            "SET ROLE nomos_admin",
            "COPY (SELECT 1) TO PROGRAM 'true'",
            "SELECT pg_read_file('/etc/hostname')",
            *(f"CREATE TABLE {other}.theirs (x int)" for other in OWNERS if other != service),
        ):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await c.execute(refused)


async def test_a_service_does_not_read_anothers_table(postgres: EmbeddedPostgres) -> None:
    urls = postgres.urls()
    async with session(urls["minting"]) as owner, session(urls["proxy"]) as other:
        await owner.execute("CREATE TABLE secrets (x int)")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await other.fetch("SELECT * FROM minting.secrets")
        await owner.execute("DROP TABLE secrets")


async def test_forced_row_security_holds_even_the_owner(postgres: EmbeddedPostgres) -> None:
    async with session(postgres.urls()["policy"]) as c, c.transaction():
        await c.execute("CREATE TABLE walled (tenant text)")
        await c.execute("INSERT INTO walled VALUES ('a'), ('b')")
        await c.execute("ALTER TABLE walled ENABLE ROW LEVEL SECURITY")
        await c.execute("ALTER TABLE walled FORCE ROW LEVEL SECURITY")
        await c.execute("CREATE POLICY wall ON walled USING (tenant = current_setting('nomos.tenant', true))")
        assert await c.fetch("SELECT * FROM walled") == []
        await c.execute("SELECT set_config('nomos.tenant', 'a', true)")
        assert [r["tenant"] for r in await c.fetch("SELECT * FROM walled")] == ["a"]
        await c.execute("DROP TABLE walled")


async def test_a_role_needs_its_own_password(postgres: EmbeddedPostgres) -> None:
    urls = postgres.urls()
    policy, minting = urls["policy"], urls["minting"]
    wrong = policy.replace("policy:", "minting:", 1)
    assert wrong not in (policy, minting)
    for url in (wrong, policy.replace("/nomos?", "/postgres?")):
        with pytest.raises(asyncpg.PostgresError):
            await asyncpg.connect(url, timeout=DEADLINE_SECONDS)


async def test_committed_rows_are_there_after_kill_9(postgres: EmbeddedPostgres) -> None:
    url = postgres.urls()["audit"]
    async with session(url) as c:
        await c.execute("CREATE TABLE kept (x int)")
        await c.execute("INSERT INTO kept SELECT generate_series(1, 1000)")
    postgres.kill()
    assert not postgres.running
    assert postgres.start()["audit"] == url
    await postgres.prepare()
    async with session(url) as c:
        assert await c.fetchval("SELECT count(*) FROM kept") == 1000
        await c.execute("DROP TABLE kept")


def test_the_passwords_and_the_data_are_the_owners_alone(postgres: EmbeddedPostgres) -> None:
    mode = stat.S_IMODE((postgres.directory / "passwords.json").stat().st_mode)
    assert mode == 0o600
    assert stat.S_IMODE((postgres.directory / "data").stat().st_mode) & 0o077 == 0


def test_the_urls_show_no_password(postgres: EmbeddedPostgres) -> None:
    urls: PostgresUrls = postgres.urls()
    for service in OWNERS:
        password = urls[service].split(":")[2].split("@")[0]
        assert len(password) >= 32
        assert password not in repr(urls)


def test_a_cluster_serves_one_process_at_a_time(postgres: EmbeddedPostgres) -> None:
    with pytest.raises(Conflict):
        EmbeddedPostgres(postgres.directory).start()
    assert postgres.running


def test_a_cluster_whose_making_was_cut_short_is_made_again(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path / "pg", fsync=False)
    (tmp_path / "pg" / "data.new").mkdir()
    (tmp_path / "pg" / "data.new" / "PG_VERSION").write_text("18\n")
    try:
        server.start()
        assert server.running
        assert not (tmp_path / "pg" / "data.new").exists()
    finally:
        server.stop()


def test_a_cluster_in_a_long_path_has_its_socket_elsewhere(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path / ("d" * 120), fsync=False)
    try:
        urls = server.start()
        asyncio.run(server.prepare())
        asyncio.run(_ask(lambda: _one(urls["policy"])))
    finally:
        server.stop()


async def _ask(question: Callable[[], Awaitable[int]]) -> None:
    assert await question() == 1


async def _one(url: str) -> int:
    async with session(url) as c:
        found = await c.fetchval("SELECT 1")
        assert isinstance(found, int)
        return found


def test_the_server_does_not_run_as_root(postgres: EmbeddedPostgres) -> None:
    if os.geteuid() != 0:
        assert Path(f"/proc/{postgres.pid}").stat().st_uid == os.geteuid()
        return
    inner = Path(f"/proc/{postgres.pid}/uid_map").read_text().split()
    own_namespace = inner[0] != "0"
    assert own_namespace or Path(f"/proc/{postgres.pid}").stat().st_uid != 0
