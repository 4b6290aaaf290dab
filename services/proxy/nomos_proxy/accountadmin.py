"""Operators' verbs about accounts that somebody connects, and the end of a connection of either kind."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from nomos.errors import Conflict, NotFound
from nomos_proxy.admin import check_base_url, listed
from nomos_proxy.clientadmin import ClientAdmin
from nomos_proxy.domain import ConnectionFacts
from nomos_proxy.intake import BearerIntake
from nomos_proxy.oauth.clients import Clients
from nomos_proxy.oauth.connecting import Connecting
from nomos_proxy.oauth.grants import Grants
from nomos_proxy.oauth.renewing import Accounts
from nomos_proxy.oauth.sweeping import Sweeper
from nomos_proxy.settings import ProxySettings
from nomos_proxy.store import Connections, CredentialStore
from nomos_runtime.responder import Operator, Verb

#: How long an operator's command waits for a provider.
WAIT_SECONDS: Final = 8.0


class ConnectParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whose account, under which name, with which scopes (the connector's where empty)."""

    connector: str
    name: str
    scopes: list[str] = []
    base_url: str = ""


class FlowParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An attempt of a device."""

    flow: str


class NameParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A connection's name."""

    name: str


class AccountAdmin:
    """The verbs, by name, in :meth:`verbs`."""

    def __init__(
        self,
        *,
        settings: ProxySettings,
        connections: Connections,
        credentials: CredentialStore,
        intake: BearerIntake,
        clients: Clients,
        connecting: Connecting,
        grants: Grants,
        accounts: Accounts,
        sweeper: Sweeper,
        refresh: Callable[[], Awaitable[None]],
    ) -> None:
        self._settings = settings
        self._connections = connections
        self._credentials = credentials
        self._client_admin = ClientAdmin(
            settings=settings,
            connections=connections,
            intake=intake,
            clients=clients,
            redirect_uri=connecting.redirect_uri,
            refresh=refresh,
        )
        self._connecting = connecting
        self._grants = grants
        self._accounts = accounts
        self._sweeper = sweeper
        self._refresh = refresh

    def verbs(self) -> dict[str, Verb]:
        """Verb name to parameters and handler."""
        return {
            **self._client_admin.verbs(),
            "connection-connect": (ConnectParams, self.connect),
            "connection-device": (ConnectParams, self.device),
            "connection-device-poll": (FlowParams, self.poll),
            "connection-show": (NameParams, self.show),
            "connection-renew": (NameParams, self.renew),
            "connection-remove": (NameParams, self.remove),
        }

    async def connect(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """Makes a link by which somebody connects an account, once."""
        p = msgspec.convert(params, ConnectParams)
        check_base_url(self._settings, p.base_url)
        if not self._settings.pages_origin:
            raise Conflict("this installation serves no pages for it", hint="set NOMOS_PROXY_PAGES_ORIGIN")
        await self._refresh()
        link, expires_at = await self._connecting.offer(
            by.tenant,
            connector=p.connector,
            name=p.name,
            scopes=tuple(p.scopes),
            base_url=p.base_url,
            by=by.actor,
            corr=by.request,
        )
        return {"tenant": by.tenant, "name": p.name, "link": link, "expires_at": expires_at}

    async def device(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """Asks the provider for a code that somebody enters there, wherever they are."""
        p = msgspec.convert(params, ConnectParams)
        check_base_url(self._settings, p.base_url)
        await self._refresh()
        flow, code = await self._connecting.devices.offer(
            by.tenant,
            connector=p.connector,
            name=p.name,
            scopes=tuple(p.scopes),
            base_url=p.base_url,
            by=by.actor,
            corr=by.request,
        )
        return {
            "tenant": by.tenant,
            "name": p.name,
            "flow": flow,
            "user_code": code.user_code,
            "address": code.address,
            "complete": code.complete,
            "expires_at": code.expires_at,
            "again_seconds": code.interval,
        }

    async def poll(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """Asks whether the code has been entered, as often as the provider allows."""
        flow = msgspec.convert(params, FlowParams).flow
        await self._refresh()
        polled = await self._connecting.devices.poll(by.tenant, flow, by.request)
        return {"state": polled.state, "again_seconds": polled.again_seconds, "trouble": polled.trouble}

    async def show(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """One connection: its state, and for an account its scopes, renewals and how often somebody connected it."""
        connection = await self._found(by, params)
        shown = listed(connection)
        if connection.is_account:
            generation, renew_at = (await self._grants.renewed_at(by.tenant)).get(connection.name, (0, 0))
            shown |= {"scopes": list(connection.scopes), "generation": generation, "renew_at": renew_at}
            shown["connected"] = connection.revision
        return shown

    async def renew(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """Has the provider renew an account's tokens now."""
        connection = await self._found(by, params)
        if not connection.is_account or connection.is_removed:
            raise NotFound("there is no such account to renew", hint="nomos connection list --tenant T")
        generation = await self._accounts.now(connection, within_seconds=WAIT_SECONDS)
        return {"name": connection.name, "generation": generation}

    async def remove(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """Closes a connection for good; an account's tokens are given back to the provider."""
        connection = await self._found(by, params)
        also = self._grants.ending(by.tenant, connection.name) if connection.is_account else None
        await self._credentials.remove(connection, actor=by.actor, corr=by.request, also=also)
        await self._refresh()
        if connection.is_account:
            outcome = await self._sweeper.revoke(connection) or "under way"
        else:
            outcome = "destroyed" if connection.federation is None else "forgotten"
            if connection.is_bare:
                outcome = "closed"
        return {"name": connection.name, "outcome": outcome}

    async def _found(self, by: Operator, params: msgspec.Struct) -> ConnectionFacts:
        await self._refresh()
        return self._connections.find(by.tenant, msgspec.convert(params, NameParams).name)
