"""Operators' verbs about clients at providers: a tenant's own, and those that the installation shares with all.

Verbs about shared ones take no tenant (:data:`INSTALLATION`), so an operator of one tenant cannot reach them. A tenant
learns that there is one, and nothing else about it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from nomos.ids import SYSTEM_TENANT
from nomos_proxy.admin import check_base_url
from nomos_proxy.clientfacts import ClientFacts
from nomos_proxy.intake import BearerIntake
from nomos_proxy.oauth.clients import Clients
from nomos_proxy.settings import ProxySettings
from nomos_proxy.store import Connections
from nomos_runtime.responder import NoParams, Operator, Verb
from nomos_runtime.secret import Secret

#: Verbs of the operators of the installation.
INSTALLATION: Final = ("shared-client-set", "shared-client-list", "shared-client-withdraw")


class ClientParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A client at a connector's provider; its secret or private key sealed to ``sealing-key``, or a public client."""

    connector: str
    client_id: str
    sealed_secret: str = ""
    sealed_key: str = ""
    base_url: str = ""


class ConnectorParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A connector's name."""

    connector: str


class ClientAdmin:
    """The verbs, by name, in :meth:`verbs`."""

    def __init__(
        self,
        *,
        settings: ProxySettings,
        connections: Connections,
        intake: BearerIntake,
        clients: Clients,
        redirect_uri: str,
        refresh: Callable[[], Awaitable[None]],
    ) -> None:
        self._settings = settings
        self._connections = connections
        self._intake = intake
        self._clients = clients
        self._redirect_uri = redirect_uri
        self._refresh = refresh

    def verbs(self) -> dict[str, Verb]:
        """Verb name to parameters and handler."""
        return {
            "client-set": (ClientParams, self.set),
            "client-list": (NoParams, self.list),
            "shared-client-set": (ClientParams, self.share),
            "shared-client-list": (NoParams, self.list_shared),
            "shared-client-withdraw": (ConnectorParams, self.withdraw),
        }

    async def set(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """Sets as which client the tenant asks a provider."""
        return {"tenant": by.tenant, **await self._set(by.tenant, by, params)}

    async def list(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """The tenant's clients, without their secrets, and the connectors that have a shared one."""
        await self._refresh()
        own = self._connections.clients.of_tenant(by.tenant)
        shared = [c.connector for c in self._connections.clients.of_tenant(SYSTEM_TENANT) if not c.is_withdrawn]
        return {"clients": [_listed(c) for c in own], "shared": shared, "redirect_uri": self._redirect_uri}

    async def share(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """Sets as which client tenants without one of their own ask a provider."""
        await self._refresh()
        return await self._set(SYSTEM_TENANT, by, params)

    async def list_shared(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """The shared clients, without their secrets, and how many accounts of how many tenants go through each."""
        await self._refresh()
        shown = []
        for client in self._connections.clients.of_tenant(SYSTEM_TENANT):
            accounts = self._connections.shared_accounts(client.connector)
            counts = {"accounts": len(accounts), "tenants": len({one.tenant for one in accounts})}
            shown.append(_listed(client) | counts | {"is_withdrawn": client.is_withdrawn})
        return {"clients": shown, "redirect_uri": self._redirect_uri}

    async def withdraw(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """Closes a shared client to further accounts; those that came through it go on."""
        connector = msgspec.convert(params, ConnectorParams).connector
        await self._refresh()
        left = await self._clients.withdraw(connector, actor=by.actor, corr=by.request)
        await self._refresh()
        return {"connector": connector, "accounts": left}

    async def _set(self, tenant: str, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        p = msgspec.convert(params, ClientParams)
        check_base_url(self._settings, p.base_url)
        secret = self._intake.open(p.sealed_secret) if p.sealed_secret else Secret(b"")
        key = self._intake.open(p.sealed_key) if p.sealed_key else Secret(b"")
        public = await self._clients.set(
            tenant,
            connector=p.connector,
            client_id=p.client_id,
            secret=secret,
            key=key,
            base_url=p.base_url,
            actor=by.actor,
            corr=by.request,
        )
        await self._refresh()
        made: dict[str, object] = {"connector": p.connector, "redirect_uri": self._redirect_uri}
        return made | ({"public_key": public} if public else {})


def _listed(client: ClientFacts) -> dict[str, object]:
    return {
        "connector": client.connector,
        "client_id": client.client_id,
        "has_secret": client.has_secret,
        "has_key": client.has_key,
    }
