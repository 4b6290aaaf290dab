"""A tenant with a client at a provider, a browser, and an upstream that takes the provider's tokens."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from tests.integration.provider import Browser, Provider

from nomos.agent import Allowed
from nomos.bearer import seal_bearer
from nomos_runtime.embedded.upstream import EmbeddedUpstream

BODIES = Path(__file__).parents[1] / "fixtures" / "github"
LIST, REPO = "github:issues.list", "github:repo/acme/site"


class World:
    """See the module."""

    def __init__(self, scene: Any, connector: str = "github") -> None:
        self.scene = scene
        self.connector = connector
        self.tenant = ""
        self.provider: Provider
        self.upstream: EmbeddedUpstream
        self.browser = Browser()
        #: PEM, of a client that proves itself by it.
        self.client_key = ""
        #: The bearers that the upstream was shown, in order, and those that it takes no more.
        self.shown: list[str] = []
        self.ended: set[str] = set()

    async def open(self, *, provider: Any = None, client: bool = True, **how: Any) -> None:
        """With a provider that runs, or with one that is started as ``how`` says; with a client of the tenant's own."""
        redirect_uri = self.scene.installation.local.connect_pages_origin + "/connected"
        self.provider = provider or await asyncio.to_thread(Provider.start, self.connector, redirect_uri, **how)
        self.upstream = await EmbeddedUpstream.start(bodies=BODIES, token="unused")
        self.upstream.accepts = self._accepts
        self.tenant = await self.scene.tenant(connection=False)
        if client:
            await self.set_client(self.tenant)

    def _accepts(self, bearer: str) -> bool:
        self.shown.append(bearer)
        return len(bearer) > 20 and bearer not in self.ended

    async def close(self) -> None:
        await self.upstream.close()
        await asyncio.to_thread(self.provider.stop)

    async def ask(self, verb: str, **params: Any) -> Any:
        return await self.scene.operator.ask("proxy", verb, self.tenant, timeout_ms=30_000, **params)

    async def set_client(self, tenant: str) -> None:
        key = str((await self.scene.operator.ask("proxy", "sealing-key", tenant))["public_key"])
        secret = self.provider.client_secret
        await self.scene.operator.ask(
            "proxy", "client-set", tenant, connector=self.connector, client_id=self.provider.client_id,
            sealed_secret=seal_bearer(key, secret) if secret else "", base_url=self.provider.issuer,
            sealed_key=seal_bearer(key, self.client_key) if self.client_key else "",
        )  # fmt: skip

    async def link(self, name: str = "github", **params: Any) -> str:
        """A link by which an account is connected; ``base_url`` only for the first time."""
        made = await self.ask(
            "connection-connect", connector=self.connector, name=name,
            **({"base_url": self.upstream.origin} | params),
        )  # fmt: skip
        return str(made["link"])

    async def connect(self, name: str = "github", **params: Any) -> None:
        assert await self.browser.connect(await self.link(name, **params)) == 200, self.browser.text

    async def call(self, bot: Any) -> Any:
        """One call of an agent with the connection ``github``."""
        allowed = await bot.agent.authorize(LIST, REPO)
        assert isinstance(allowed, Allowed)
        return await bot.agent.invoke(allowed, LIST, REPO, {})

    async def events(self, kind: str) -> list[Any]:
        return [one.event for one in await self.scene.events(self.tenant, kind)]

    async def state(self, name: str = "github") -> dict[str, Any]:
        return dict(await self.ask("connection-show", name=name))
