"""A whole installation of real processes: nats-server, Postgres, one process for each service, an upstream, agents.

One world serves all modules that break and heal it (``world``); ``steady`` brings back whatever a failed test left
down. A test that needs other streams or stores builds its own world (``build_world``).

What every test asks of the log after a fault (:meth:`World.check`): the export verifies with the pinned key; each
answered request stands in it once, each answered call has one beginning and one end, nothing ran twice, nothing ran
after its deadline.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import os
import signal
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import msgspec
import nats
import nats.errors
import pytest
import pytest_asyncio
from nats.aio.client import Client

from nomos import messages
from nomos.agent import Agent, Allowed, Denied, StepUpRequired
from nomos.bearer import seal_bearer
from nomos.client import Connection
from nomos.creds import USER, Credentials, Nkey
from nomos.errors import NomosError, Unavailable
from nomos.keys import SigningKey
from nomos.log.report import Verdict
from nomos.log.verify import verify_export
from nomos.messages import Failure, Invoke
from nomos.operator import Operator
from nomos_audit.block import parse_block
from nomos_audit.segments import newest_block
from nomos_runtime.embedded.upstream import EmbeddedUpstream, SeenRequest
from nomos_runtime.launch import ServiceProcess
from nomos_runtime.local import SERVICES, Local
from nomos_runtime.topology.ensure import ensure_streams
from nomos_runtime.topology.streams import Bounds

MIB = 1 << 20
ROOT = Path(__file__).resolve().parents[2]
BOUNDS = Bounds(
    intake_bytes=64 * MIB,
    chain_bytes=64 * MIB,
    audit_bytes=64 * MIB,
    checkpoint_bytes=8 * MIB,
    nonce_bytes=8 * MIB,
)
STORE_BYTES = 1 << 30
#: Shorter than in production, so that what a fault costs is seen within seconds.
SHORT = {
    "NOMOS_REQUEST_TIMEOUT_MS": "1000",
    "NOMOS_JOURNAL_TIMEOUT_MS": "1000",
    "NOMOS_FEED_FRESH_MS": "2000",
    "NOMOS_SANITIZE_TIMEOUT_MS": "1000",
    "NOMOS_CHECKPOINT_SECONDS": "1",
    # Few agents ask very often here, and each of their refusals is looked for in the log.
    "NOMOS_REFUSALS_PER_MINUTE": "1000000",
}
DEADLINE_SECONDS = 30.0
CALL_MS = 2_500
#: A refusal is quick; an agent waits a little before it asks again.
PAUSE_SECONDS = 0.05
#: Approvals that the agent of one load opens; the service allows 20 to wait.
APPROVALS_MAX = 8
TENANT, APP, AGENT = "acme", "triage", "bot"
REPO = "github:repo/acme/site"
READ, WRITE, FORBIDDEN, DELETE = (
    "github:issues.get",
    "github:issues.create",
    "github:labels.create",
    "github:repos.delete",
)
POLICY = """
@id("issues")
@description("triage may read and open issues")
permit (principal in App::"triage", action in [Action::"github:issues.get", Action::"github:issues.create"], resource);
@id("delete-needs-human")
@description("a human approves each deletion")
permit (principal in App::"triage", action == Action::"github:repos.delete", resource) when { context.cosigned };
"""
#: What an agent may be told while a part is away: each says that nothing was allowed, or that the outcome is unknown.
CLEAR = frozenset(
    {"unavailable", "journal_unavailable", "stale_policy", "unknown_outcome", "response_refused", "expired"}
)


async def until(condition: Callable[[], Any], what: str | Callable[[], str], seconds: float = DEADLINE_SECONDS) -> Any:
    """Waits until ``condition()``, plain or awaitable, is true; gives what it gave."""
    ends = time.monotonic() + seconds
    while True:
        found = condition()
        if isinstance(found, Awaitable):
            found = await found
        if found:
            return found
        assert time.monotonic() < ends, f"waited in vain for: {what if isinstance(what, str) else what()}"
        await asyncio.sleep(0.02)


@dataclass
class Answer:
    """One request of an agent and what came back: a reply, or the client's own error."""

    command: messages.Command
    label: str
    reply: msgspec.Struct | None = None
    code: str = ""

    @property
    def outcome(self) -> str:
        """The tag of the reply, the code of the refusal, or the code of the client's error."""
        if isinstance(self.reply, Failure):
            return self.reply.code
        return str(self.reply.__struct_config__.tag) if self.reply is not None else self.code


class _Noting:
    """A decoder that keeps what it decoded: the reply as it came, before the client makes an error of it."""

    def __init__(self, decoder: messages.Decoder, answer: Answer) -> None:
        self._decoder, self._answer = decoder, answer

    def decode(self, payload: bytes) -> object:
        reply = self._decoder.decode(payload)
        assert isinstance(reply, msgspec.Struct)
        self._answer.reply = reply
        return reply


class Watched(Connection):
    """A connection that keeps every request with its answer."""

    answers: list[Answer]
    label = ""

    async def ask(self, subject: str, command: Any, decoder: Any, timeout_ms: int) -> msgspec.Struct:
        answer = Answer(command, self.label)
        self.answers.append(answer)
        try:
            return await super().ask(subject, command, _Noting(decoder, answer), timeout_ms)  # type: ignore[arg-type]
        except NomosError as e:
            answer.code = e.code
            raise


class Stamped(deque[SeenRequest]):
    """What the upstream saw, with the time of each arrival by the title of the issue it opens."""

    def __init__(self) -> None:
        super().__init__()
        self.titles: dict[str, list[int]] = {}

    def append(self, seen: SeenRequest) -> None:
        super().append(seen)
        if seen.method == "POST":
            self.titles.setdefault(json.loads(seen.body)["title"], []).append(messages.now_ms())


@dataclass
class Load:
    """Workers that go on asking, and every answer that they got."""

    answers: list[Answer] = field(default_factory=list)
    done: int = 0
    failed: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    waiting: int = 0
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    @property
    def outcomes(self) -> Counter[str]:
        return Counter(a.outcome for a in self.answers)

    def _goes_on(self) -> bool:
        for task in self.tasks:
            if task.done():
                task.result()
        return True

    async def more(self, calls: int, what: str = "calls to succeed") -> None:
        """Returns when so many more calls were answered by the upstream."""
        wanted = self.done + calls
        await until(lambda: self._goes_on() and self.done >= wanted, lambda: f"{what}; {self.outcomes}")

    async def trouble(self, code: str = "", times: int = 1) -> None:
        """Returns when so many more calls ended in an error (the error ``code``, as the agent's program sees it)."""
        await self._sees(lambda: self.errors[code] if code else self.failed, times, f"error {code}")

    async def refusals(self, code: str, times: int = 1) -> None:
        """Returns when services have answered ``code`` so many more times."""
        await self._sees(lambda: self.outcomes[code], times, f"refusal {code}")

    async def _sees(self, count: Callable[[], int], times: int, what: str) -> None:
        wanted = count() + times
        await until(lambda: self._goes_on() and count() >= wanted, lambda: f"{what}; {self.outcomes}")


class World:
    """The installation. Build with :func:`build_world`."""

    until = staticmethod(until)

    def __init__(self, local: Local, folder: Path, env: dict[str, str]) -> None:
        self.local = local
        self.folder = folder
        self.env = env
        self.processes: dict[str, ServiceProcess] = {}
        #: What each service said last of its own readiness.
        self.faults: dict[str, Any] = {}
        self.upstream: EmbeddedUpstream
        self.seen = Stamped()
        self.bearer = "tok_" + os.urandom(12).hex()
        self._operator: Operator | None = None
        self._stack = AsyncExitStack()
        self._said_before: dict[str, int] = {}
        self._titles = itertools.count()
        self._agents = itertools.count()
        self._exports = itertools.count()

    # -- life --------------------------------------------------------------------------------------------------------

    async def start(self) -> Self:
        await self.local.start()
        self.upstream = await EmbeddedUpstream.start(bodies=ROOT / "tests/fixtures/github", token=self.bearer)
        self.upstream.seen = self.seen
        await asyncio.gather(*(self.run(name) for name in SERVICES))
        await self.local.name_operator()
        await self.ask("identity", "tenant-create", name=TENANT)
        await self.ask("identity", "app-create", TENANT, name=APP)
        self.credentials = await self.new_agent(AGENT)
        await self.restore_policy()
        sealing = await self.ask("proxy", "sealing-key", TENANT)
        sealed = seal_bearer(sealing["public_key"], self.bearer)
        origin = str(self.upstream.origin)
        await self.ask(
            "proxy", "connection-add", TENANT, connector="github", name="github", sealed_bearer=sealed, base_url=origin
        )
        return self

    async def run(self, name: str, instance: str = "", **env: str) -> ServiceProcess:
        """Starts one process of a service, and returns when it serves."""
        log = self.folder / f"{name}{instance}.log"
        self._said_before[name + instance] = log.stat().st_size if log.exists() else 0
        # Replicas on one machine would take each other's address: the first one serves the pages.
        alone = {f"NOMOS_{name.upper()}_PAGES_LISTEN": ""} if instance and name in ("policy", "proxy") else {}
        process = ServiceProcess(
            name, {**self.local.environment(name), **alone, **self.env, **env}, self.folder, instance
        )
        self.processes[process.label] = process
        await process.wait()
        return process

    async def heal(self) -> None:
        """Brings back what is down or frozen; returns when every service keeps its promise."""
        if not self.local.nats.running:
            self.start_nats()
        self.local.postgres.start()
        for process in list(self.processes.values()):
            process.signal(signal.SIGCONT)
            if process.label != process.name:
                await process.stop()
                del self.processes[process.label]
        await asyncio.gather(*(self.run(n) for n in SERVICES if not self.processes[n].running))
        for name in SERVICES:
            await until(lambda name=name: self.is_ready(name), lambda: f"services to be ready; {self.faults}")

    async def stop(self) -> None:
        await self._stack.aclose()
        if self._operator is not None:
            await self._operator.__aexit__(None, None, None)
        for process in self.processes.values():
            # The log is judged by now; what is frozen or stuck must not hold the tests up.
            process.kill()
        if hasattr(self, "upstream"):
            await self.upstream.close()
        self.local.stop()

    async def restore_policy(self) -> None:
        """Puts the policies of the beginning in force again."""
        await self.ask("policy", "put", TENANT, text=POLICY, why="as before")

    def start_nats(self, store_bytes: int | None = None) -> None:
        """Starts the server again, with the room that it had or with ``store_bytes``."""
        assert self.local.installation is not None
        if store_bytes is not None:
            self.local.nats.max_file_store = store_bytes
        self.local.nats.start(self.local.installation)

    def said(self, label: str, event: str, **fields: object) -> int:
        """How often a process said ``event`` in its diagnostics since it started."""
        with self.processes[label].log.open("rb") as log:
            log.seek(self._said_before[label])
            lines = [json.loads(s) for s in log.read().splitlines() if s.startswith(b"{") and s.endswith(b"}")]
        return sum(s["event"] == event and all(s.get(name) == value for name, value in fields.items()) for s in lines)

    # -- people and programs -----------------------------------------------------------------------------------------

    async def operator(self) -> Operator:
        if self._operator is None:
            self._operator = await Operator.connect(self.local.operator_creds)
        return self._operator

    async def ask(self, service: str, verb: str, tenant: str = "_", **params: Any) -> dict[str, Any]:
        """An operator's command; asked again while a service is away, as an operator would."""
        ends = time.monotonic() + DEADLINE_SECONDS
        while True:
            try:
                return await (await self.operator()).ask(service, verb, tenant, timeout_ms=5_000, **params)
            except Unavailable:
                if time.monotonic() > ends:
                    raise
                await asyncio.sleep(0.05)

    async def is_ready(self, service: str) -> bool:
        try:
            reply = await (await self.operator()).ask(service, "ready", timeout_ms=1_000)
        except Unavailable:
            return False
        self.faults[service] = reply["faults"]
        return not reply["faults"]

    async def new_agent(self, name: str) -> Credentials:
        user, seed = Nkey.new(USER), os.urandom(32)
        did = SigningKey(seed).did
        made = await self.ask("identity", "agent-create", TENANT, app=APP, name=name, key=user.public, did=did)
        return Credentials(
            servers=(self.local.nats.url,), role="agent", name=name, tenant=TENANT, jwt=made["jwt"], user=user,
            agent_seed=seed,
        )  # fmt: skip

    @asynccontextmanager
    async def connected(
        self, answers: list[Answer], credentials: Credentials | None = None
    ) -> AsyncIterator[tuple[Agent, Watched]]:
        """An agent whose requests and answers are kept in ``answers``."""
        credentials = credentials or self.credentials
        assert credentials.agent_seed is not None
        async with await Watched.open(credentials) as connection:
            connection.answers = answers
            yield Agent(connection, SigningKey(credentials.agent_seed)), connection

    async def service_client(self, user: str) -> Client:
        """A bus connection with a service's own credentials; closed with the world."""
        assert self.local.installation is not None

        async def quiet(_: Exception) -> None:
            return

        client = await nats.connect(
            self.local.nats.url,
            user_credentials=str(self.local.installation.creds_path(user)),
            inbox_prefix=f"_INBOX.{user}".encode(),
            max_reconnect_attempts=-1,
            reconnect_time_wait=0.05,  # type: ignore[arg-type]
            error_cb=quiet,
        )
        self._stack.push_async_callback(client.close)
        return client

    async def grow(self, account: str, **bounds: int) -> None:
        """What an operator does about a full stream."""
        self.local.bounds = msgspec.structs.replace(self.local.bounds, **bounds)
        await ensure_streams(await self.service_client(f"{account.lower()}-provisioner"), account, self.local.bounds)

    # -- load --------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def load(self, workers: int = 8, *, filler: int = 0) -> AsyncIterator[Load]:
        """Runs ``workers`` agents beside the block: reads, writes, denied and step-up requests.

        Args:
            workers: connections, each with one call at a time.
            filler: bytes that each request's arguments have besides.
        """
        load, stop = Load(), asyncio.Event()
        # An agent of its own: how many approvals may wait for one agent is limited.
        credentials = await self.new_agent(f"{AGENT}-{next(self._agents)}")
        load.tasks = [asyncio.create_task(self._work(load, credentials, stop, i, filler)) for i in range(workers)]
        try:
            yield load
        finally:
            stop.set()
            await asyncio.gather(*load.tasks)

    async def _work(self, load: Load, credentials: Credentials, stop: asyncio.Event, worker: int, filler: int) -> None:
        async with self.connected(load.answers, credentials) as (agent, connection):
            for number in itertools.count(worker):
                if stop.is_set():
                    return
                title = connection.label = f"issue {next(self._titles)}"
                issue = {"title": title, **({"body": "x" * filler} if filler else {})}
                action, args = (
                    (READ, {"issue_number": 1 + number}),
                    (WRITE, issue),
                    (WRITE, issue),
                    (FORBIDDEN, {"name": title}),
                    (DELETE, {}) if load.waiting < APPROVALS_MAX else (WRITE, issue),
                )[number % 5]
                load.waiting += action == DELETE
                try:
                    done = await agent.call(action, REPO, args, timeout_ms=CALL_MS)
                except NomosError as e:
                    load.failed += 1
                    load.errors[e.code] += 1
                    await asyncio.sleep(PAUSE_SECONDS)
                    continue
                expected = {FORBIDDEN: Denied, DELETE: StepUpRequired}.get(action, Allowed)
                assert isinstance(done, expected), done
                if isinstance(done, Allowed):
                    load.done += 1

    # -- the log -----------------------------------------------------------------------------------------------------

    async def settled(self) -> None:
        """Returns when the log has consumed the whole journal and its table shows it."""
        client = await self.service_client("audit")

        async def consumed() -> bool:
            try:
                journal = (await client.jetstream(timeout=1).stream_info("INTAKE")).state.last_seq
                newest = await newest_block(client)
            except (nats.errors.Error, TimeoutError, Unavailable):
                return False
            return newest is not None and parse_block(newest.payload).intake == journal

        await until(consumed, "the log to consume the journal")

    async def export(self) -> Path:
        """The whole log, as an operator exports it."""
        opened = await self.ask("audit", "export-open")
        target = self.folder / f"export-{next(self._exports)}"
        for one in opened["files"]:
            path = target / one["n"]
            path.parent.mkdir(parents=True, exist_ok=True)
            content = b""
            while len(content) < one["bytes"]:
                piece = await self.ask("audit", "export-read", export=opened["export"], n=one["n"], offset=len(content))
                content += base64.b64decode(piece["content"])
            path.write_bytes(content)
        await self.ask("audit", "export-close", export=opened["export"])
        return target

    async def records(self) -> list[dict[str, Any]]:
        """Every record, from an export that verified at level 1 with the pinned key, without a gap."""
        import pyarrow.parquet as pq

        await self.settled()
        export = await self.export()
        report = await asyncio.to_thread(
            verify_export, export, self.local.trust.read_bytes(), 1, now=int(time.time()), strict=True
        )
        assert report.verdict is Verdict.VERIFIED, report
        parts = sorted(export.rglob("*.parquet"))
        return [
            json.loads(record) for part in parts for record in pq.read_table(part)["record"].to_pylist()
        ]  # parts are in order of seq

    async def check(self, *loads: Load) -> list[dict[str, Any]]:
        """The promise, for every answer of ``loads``; gives the log's records."""
        records = await self.records()
        assert [r["seq"] for r in records] == list(range(len(records)))
        once = Counter(r["id"] for r in records)
        assert not [i for i, n in once.items() if n != 1], "an event stands in the log twice"
        by_corr: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for record in records:
            by_corr.setdefault((record["type"], record["corr"]), []).append(record)
        for answer in (a for load in loads for a in load.answers):
            _check_answer(answer, by_corr, self.seen)
        ended = Counter(r["event"]["invocation"] for r in records if r["type"] == "proxy.finished")
        begun = Counter(r["event"]["invocation"] for r in records if r["type"] == "proxy.attempted")
        assert set(begun.values()) <= {1}
        assert set(ended.values()) <= {1}
        assert set(ended) <= set(begun)
        twice = {title: at for title, at in self.seen.titles.items() if len(at) > 1}
        assert not twice, "a permission ran twice"
        return records


def _check_answer(answer: Answer, by_corr: dict[tuple[str, str], list[dict[str, Any]]], seen: Stamped) -> None:
    reply, request = answer.reply, answer.command.id

    def found(kind: str) -> list[dict[str, Any]]:
        return by_corr.get((kind, request), [])

    match reply:
        case messages.Allowed() | messages.Denied() | messages.StepUpRequired():
            assert [r["event"]["decision"] for r in found("authz.decision")] == [reply.decision], answer
            minted = [r["event"]["decision"] for r in found("ucan.minted")]
            assert minted == ([reply.decision] if isinstance(reply, messages.Allowed) else []), answer
        case messages.Returned():
            assert [r["event"]["invocation"] for r in found("proxy.attempted")] == [reply.invocation], answer
            ends = found("proxy.finished")
            assert [(r["event"]["invocation"], r["event"]["outcome"]) for r in ends] == [(reply.invocation, "done")]
        case Failure(code="journal_unavailable"):
            assert answer.outcome in CLEAR  # the one refusal that the log cannot have
        case Failure(code="unknown_outcome"):
            # Told even if nothing more could be recorded: the attempt is in the log already.
            assert len(found("proxy.attempted")) == 1, answer
        case Failure():
            assert reply.code in CLEAR, answer
            assert [r["event"]["code"] for r in found("request.refused")] == [reply.code], answer
        case None:
            assert answer.code in CLEAR, answer
    if isinstance(answer.command, Invoke):
        ran = seen.titles.get(answer.label, [])
        assert all(at <= answer.command.deadline_ms for at in ran), "a call ran after its deadline"
        if ran:
            assert len(found("proxy.attempted")) == 1, "a call ran that the log does not know"


@asynccontextmanager
async def build(
    folder: Path, *, bounds: Bounds = BOUNDS, store_bytes: int = STORE_BYTES, **env: str
) -> AsyncIterator[World]:
    folder.mkdir(parents=True, exist_ok=True)
    run = folder / "run"
    run.mkdir(exist_ok=True)
    local = Local(folder / "data", bounds=bounds, max_file_store=store_bytes, connectors=ROOT / "connectors")
    world = World(local, run, {**SHORT, **env})
    try:
        yield await world.start()
    finally:
        await world.stop()


@pytest.fixture(scope="session")
def build_world() -> Callable[..., Any]:
    """``async with build_world(folder, bounds=...) as world``."""
    return build


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def shared_world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with build(tmp_path_factory.mktemp("world")) as world:
        yield world


@pytest_asyncio.fixture(loop_scope="session")
async def world(shared_world: World) -> World:
    """The shared world, whole again."""
    await shared_world.heal()
    return shared_world
