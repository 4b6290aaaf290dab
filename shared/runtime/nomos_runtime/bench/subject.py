"""What is measured: an installation of its own in a temporary folder, one process for each service.

Real servers, with the fsync before each acknowledgement that production has, and the services that an authorization
needs. One tenant with two apps, some agents, and a policy set as a small company would write it.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self

import msgspec

from nomos.bearer import seal_bearer
from nomos.creds import USER, Credentials, Nkey, write_creds
from nomos.keys import SigningKey
from nomos.operator import Operator
from nomos_runtime.embedded.process import ServerProcess
from nomos_runtime.launch import ServiceProcess
from nomos_runtime.local import Local

#: In the order of their start-up: the others follow identity's facts.
SERVICES: Final = ("identity", "minting", "audit", "stepup", "policy")
#: What a call needs besides.
BROKER: Final = ("sanitizer", "proxy")
#: One agent is measured at a load that its default rate, or the bound of one live answer, would refuse.
UNLIMITED: Final = {
    "NOMOS_PROXY_TENANT_CALLS_PER_SECOND": "1000000",
    "NOMOS_PROXY_AGENT_CALLS_PER_SECOND": "1000000",
    "NOMOS_PROXY_LIVE_BYTES_MAX": "1000000000000",
}
#: How long the upstream may take to listen.
UPSTREAM_SECONDS: Final = 20.0
TENANT: Final = "acme"
APP: Final = "triage"
#: Ten policies. A request of the load meets those that its scope fits; the first permits it.
POLICIES: Final = """\
@id("triage-reads")
@description("The triage app reads issues, comments and labels.")
permit (
  principal in App::"triage",
  action in [Action::"github:issues.list", Action::"github:issues.get", Action::"github:comments.list"],
  resource
);

@id("triage-opens-issues")
@description("The triage app opens issues in our own repositories.")
permit (principal in App::"triage", action == Action::"github:issues.create", resource)
when { resource.owner == "acme" };

@id("triage-labels")
@description("The triage app labels what it may read.")
permit (principal in App::"triage", action == Action::"github:labels.create", resource)
when { resource.owner == "acme" };

@id("triage-comments")
@description("Test agents do not speak to people.")
permit (principal in App::"triage", action == Action::"github:comments.create", resource)
when { principal.env == "live" };

@id("release-reads")
@description("The release app reads everything of ours.")
permit (principal in App::"release", action in Action::"risk:read", resource);

@id("release-writes-files")
@description("The release app writes files.")
permit (principal in App::"release", action == Action::"github:contents.put", resource)
when { resource.owner == "acme" };

@id("release-cleans-up")
@description("The release app deletes branches; a human approves each.")
permit (principal in App::"release", action == Action::"github:refs.delete", resource);

@id("foreign-repositories")
@description("Nobody acts outside our own organisation.")
forbid (principal, action in Action::"connector:github", resource is GitHub::Repo)
unless { resource.owner == "acme" };

@id("payroll-is-closed")
@description("Nobody touches the payroll repository.")
forbid (principal, action, resource == GitHub::Repo::"acme/payroll");

@id("people-change-rights")
@description("Agents do not change who may do what.")
forbid (principal, action in Action::"risk:permission", resource);
"""


class Subject:
    """The running installation. Build with :meth:`start`, end with :meth:`stop`."""

    def __init__(self, local: Local, agents: int, broker_bodies: Path | None = None) -> None:
        self.local = local
        self._bodies = broker_bodies
        self._upstream: ServerProcess | None = None
        #: Where the upstream listens; empty without a broker.
        self.origin = ""
        self.token_file = local.directory / "upstream-token"
        self.processes: list[ServiceProcess] = []
        self.creds = [local.directory / f"bench-{number}.creds" for number in range(agents)]

    @classmethod
    async def start(cls, folder: Path, connectors: Path, agents: int, *, broker_bodies: Path | None = None) -> Self:
        """Starts servers and services and creates what the load needs. Call from the main thread.

        Args:
            folder: empty; everything is below it.
            connectors: folder of the connector catalogue.
            agents: how many agents to create.
            broker_bodies: recorded answers of an upstream; where given, the broker and that upstream run too.

        Raises:
            Unavailable: something does not serve; its log is the cause.
        """
        subject = cls(Local(folder / "installation", connectors=connectors), agents, broker_bodies)
        try:
            await subject._start()
        except BaseException:
            await subject.stop()
            raise
        return subject

    async def _start(self) -> None:
        await self.local.start()
        logs = self.local.directory / "run"
        logs.mkdir(mode=0o700)
        if self._bodies is not None:
            await self._start_upstream(self._bodies)
        services = SERVICES if self._bodies is None else (*SERVICES, *BROKER)
        self.processes = [ServiceProcess(name, self.local.environment(name) | UNLIMITED, logs) for name in services]
        await asyncio.gather(*(p.wait() for p in self.processes))
        await self.local.name_operator()
        async with await Operator.connect(self.local.operator_creds) as operator:
            await operator.ask("identity", "tenant-create", name=TENANT)
            for app in (APP, "release"):
                await operator.ask("identity", "app-create", TENANT, name=app, env="live")
            for path in self.creds:
                await self._create_agent(operator, path)
            await operator.ask("policy", "put", TENANT, text=POLICIES, why="measurement")

    async def _start_upstream(self, bodies: Path) -> None:
        self.token_file.write_text(os.urandom(24).hex(), encoding="ascii")
        ready = self.local.directory / "upstream-ready"
        command = [sys.executable, "-m", "nomos_runtime.embedded.upstream", "--bodies", str(bodies),
                   "--token-file", str(self.token_file), "--ready-file", str(ready)]  # fmt: skip
        self._upstream = ServerProcess("upstream", command, log=self.local.directory / "upstream.log")
        await asyncio.to_thread(self._upstream.wait_until, ready.exists, UPSTREAM_SECONDS)
        self.origin = str(json.loads(ready.read_text(encoding="utf-8"))["origin"])

    async def add_connections(self, names: Sequence[str]) -> None:
        """Connections to the upstream; each has the connector's rate for itself."""
        async with await Operator.connect(self.local.operator_creds) as operator:
            key = (await operator.ask("proxy", "sealing-key"))["public_key"]
            for name in names:
                bearer = seal_bearer(str(key), self.token_file.read_text(encoding="ascii"))
                await operator.ask("proxy", "connection-add", TENANT, connector="github", name=name,
                                   sealed_bearer=bearer, base_url=self.origin)  # fmt: skip

    async def stages(self) -> dict[str, float]:
        """The proxy's own stages of the calls since this was last asked: medians, milliseconds."""
        async with await Operator.connect(self.local.operator_creds) as operator:
            told = await operator.ask("proxy", "stages")
        return {name: took / 1000 for name, took in msgspec.convert(told["p50_us"], dict[str, float]).items()}

    async def _create_agent(self, operator: Operator, path: Path) -> None:
        user, seed = Nkey.new(USER), os.urandom(32)
        made = await operator.ask("identity", "agent-create", TENANT, app=APP, name=path.stem, key=user.public,
                                  did=SigningKey(seed).did)  # fmt: skip
        write_creds(path, Credentials(servers=(self.local.nats.url,), role="agent", name=path.stem, tenant=TENANT,
                                      jwt=str(made["jwt"]), user=user, agent_seed=seed))  # fmt: skip

    @property
    def pids(self) -> dict[str, int]:
        """Process ids by name, of the services and the bus's server."""
        upstream = {} if self._upstream is None else {"upstream": self._upstream.pid}
        return {p.label: p.pid for p in self.processes} | {"nats-server": self.local.nats.pid} | upstream

    @property
    def families(self) -> dict[str, int]:
        """Process ids by name, of servers that work in child processes."""
        return {"postgres": self.local.postgres.pid}

    async def stop(self) -> None:
        """Ends everything."""
        await asyncio.gather(*(p.stop() for p in self.processes))
        if self._upstream is not None:
            self._upstream.stop(signal.SIGTERM)
        self.local.stop()
