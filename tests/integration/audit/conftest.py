"""A real nats-server with the log's four streams, syncing every write, and services that append to the journal."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import nats
import pytest
from nats.aio.client import Client
from nats.js.api import DiscardPolicy, StreamConfig
from tests.integration.plainserver import PlainServer, synced

from nomos.events import Actor, Envelope, encode_batch, encode_envelope
from nomos.log.record import parse_object
from nomos_audit.follow import Follower, load_head
from nomos_audit.projections import MIGRATIONS
from nomos_audit.replay import start_of
from nomos_audit.segments import newest_segment
from nomos_audit.writer import State, Writer
from nomos_runtime.database import Database
from nomos_runtime.embedded.postgres import EmbeddedPostgres

ORIGIN = "audit.example.com/test"
SERVICES = {"AP": "policy", "AM": "minting", "AA": "audit"}
DEADLINE_SECONDS = 60


async def until(condition: Callable[[], Any], what: str, seconds: float = DEADLINE_SECONDS) -> None:
    """Waits until ``condition()``, plain or awaitable, is true."""
    ends = time.monotonic() + seconds
    while True:
        found = condition()
        if isinstance(found, Awaitable):
            found = await found
        if found:
            return
        assert time.monotonic() < ends, f"waited in vain for: {what}"
        await asyncio.sleep(0.02)


def envelope(number: int, tenant: str = "acme", **changes: Any) -> Envelope:
    made = Envelope(
        id=f"ev_{number:032x}",
        type="test.decision",
        tenant=tenant,
        actor=Actor(kind="agent", id="bot"),
        corr=f"rq_{number}",
        cause="",
        event={"number": number, "effect": "allow"},
    )
    return msgspec.structs.replace(made, **changes)


class Stage:
    """The server, connections to it, and what the tests do with both."""

    origin = ORIGIN
    services = SERVICES
    until = staticmethod(until)
    envelope = staticmethod(envelope)

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.store = directory / "store"
        more = synced(self.store, ", max_file_store: 1G")
        self.server = PlainServer(directory, f"max_payload: 1048576\n{more}")
        self._clients: list[Client] = []
        self._tasks: list[asyncio.Task[None]] = []
        self.starts = 0

    @property
    def url(self) -> str:
        return self.server.url

    def start_server(self) -> None:
        self.starts += 1
        self.server.start()

    def kill_server(self) -> None:
        self.server.kill()

    def copy_store(self, name: str) -> Path:
        return Path(shutil.copytree(self.store, self.directory / name))

    def swap_store(self, copy: Path) -> None:
        shutil.rmtree(self.store)
        shutil.copytree(copy, self.store)

    async def connect(self) -> Client:
        async def quiet(_: Exception) -> None:
            return

        client = await nats.connect(
            self.url, max_reconnect_attempts=-1, reconnect_time_wait=0.05, connect_timeout=5, error_cb=quiet
        )
        self._clients.append(client)
        return client

    async def make_streams(self) -> None:
        js = (await self.connect()).jetstream()
        for name, subject, kept in (
            ("INTAKE", "intake.*.batch", False),
            ("CHAIN", "chain.0", True),
            ("AUDIT", "audit.*", False),
            ("CHECKPOINT", "checkpoint.0", True),
        ):
            await js.add_stream(
                StreamConfig(
                    name=name,
                    subjects=[subject],
                    discard=DiscardPolicy.NEW,
                    duplicate_window=120,
                    deny_delete=kept,
                    deny_purge=kept,
                    allow_direct=True,
                )
            )

    async def journal(
        self, client: Client, producer: str, first: int, events: list[Envelope | bytes], account: str = "AP"
    ) -> None:
        encoded = [e if isinstance(e, bytes) else encode_envelope(e) for e in events]
        await self.put(client, encode_batch(producer, first, encoded), account)

    async def put(self, client: Client, payload: bytes, account: str = "AP") -> None:
        """Appends one message to the journal, again and again until it is known to be durable."""
        headers = {"Nats-Msg-Id": f"{account}:{hash(payload)}"}
        while True:
            try:
                await client.jetstream(timeout=1).publish(f"intake.{account}.batch", payload, headers=headers)
            except (nats.errors.Error, TimeoutError, OSError):
                await asyncio.sleep(0.05)
                continue
            return

    def run(self, work: Any, name: str) -> asyncio.Task[None]:
        task: asyncio.Task[None] = asyncio.create_task(work, name=name)
        self._tasks.append(task)
        return task

    async def writer(self, name: str = "w1", **more: Any) -> tuple[Writer, asyncio.Task[None]]:
        made = Writer(
            await self.connect(),
            origin=ORIGIN,
            writer_id=name,
            services=SERVICES,
            now=lambda: time.time_ns() // 1000,
            **more,
        )
        return made, self.run(made.run(), name)

    async def chain_size(self, client: Client) -> int:
        return (await load_head(client, ORIGIN)).size

    async def is_consumed(self, client: Client) -> bool:
        """Whether the chain has consumed the whole journal."""
        last = (await client.jetstream().stream_info("INTAKE")).state.last_seq
        return (await load_head(client, ORIGIN)).intake == last

    async def read_chain(self, client: Client) -> list[dict[str, Any]]:
        """All records, every link checked from genesis."""
        last = (await newest_segment(client)).last
        follower = Follower(client, start_of(ORIGIN))
        found: list[dict[str, Any]] = []
        while follower.position.block < last:
            for verified in await follower.take(1):
                found += [parse_object(one) for one in verified.block.records]
        await follower.close()
        return found

    async def stop_task(self, task: asyncio.Task[None]) -> None:
        task.cancel()
        await asyncio.wait([task])

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        for client in self._clients:
            await client.close()


@pytest.fixture
def bus_directory(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def server(bus_directory: Path) -> Iterator[Stage]:
    stage = Stage(bus_directory)
    stage.start_server()
    yield stage
    stage.kill_server()


@pytest.fixture
async def stage(server: Stage) -> AsyncIterator[Stage]:
    await server.make_streams()
    yield server
    await server.close()


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(tmp_path_factory.mktemp("pg"), fsync=False)
    server.start()
    asyncio.run(server.prepare())
    yield server
    server.stop()


@pytest.fixture
async def database(postgres: EmbeddedPostgres) -> AsyncIterator[Database]:
    admin = await asyncpg.connect(postgres.admin_url())
    await admin.execute("DROP SCHEMA audit CASCADE; CREATE SCHEMA audit AUTHORIZATION audit")
    await admin.close()
    made = await Database.open("audit", postgres.urls()["audit"])
    await made.migrate(MIGRATIONS)
    yield made
    await made.close()


@pytest.fixture(scope="session")
def states() -> type[State]:
    return State
