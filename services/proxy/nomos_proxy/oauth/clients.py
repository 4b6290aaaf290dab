"""As which client a provider is asked: its id as a fact, its secret or key sealed.

A tenant registers its own client, and what that is allowed, or loses, is nobody else's. Where it has none, and the
operator of the installation has set one for all (a *shared client*, of the tenant ``_sys``), accounts are connected
through that. An account stays with the client through which it was connected, whatever is set later: its tokens are
that client's (RFC 6749 section 6).

What a tenant can do to a shared client is use it: as often as :data:`SHARED_ASKS` says, for as many accounts as the
installation lets it have. It never sees the secret, and no verb of a tenant reaches it.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from nomos.catalogue import Catalogue, Connector, Rate
from nomos.catalogue.oauth import OAuth
from nomos.errors import Conflict, LimitExceeded, Malformed, NotFound, NotPermitted
from nomos.events import OAUTH_CLIENT_SET, OAUTH_CLIENT_WITHDRAWN, Actor
from nomos.ids import SYSTEM_TENANT
from nomos_proxy.clientfacts import ClientFacts, no_client
from nomos_proxy.history import connected_through
from nomos_proxy.oauth.assertion import public_key
from nomos_proxy.oauth.party import Party
from nomos_proxy.rates import Allowance
from nomos_proxy.store import Connections, CredentialStore
from nomos_proxy.upstream import Upstreams
from nomos_runtime.eventstore import StoredEvent
from nomos_runtime.secret import Secret
from nomos_runtime.vault import PURPOSE_CLIENT, PURPOSE_CLIENT_KEY, Place

#: Printable ASCII without spaces: what a provider hands out.
_CLIENT_ID: Final = re.compile(r"[!-~]{1,255}")
_SECRET: Final = re.compile(rb"[!-~]{8,}")
SECRET_BYTES_MAX: Final = 1_024
#: How often one tenant has a provider asked as a shared client.
SHARED_ASKS: Final = Rate(calls=60, seconds=60)


class Clients:
    """Sets clients, and opens them."""

    def __init__(
        self,
        *,
        catalogue: Catalogue,
        connections: Connections,
        credentials: CredentialStore,
        upstreams: Upstreams,
        shared_accounts_max: int,
        admit: Callable[[str, Allowance], Awaitable[None]],
    ) -> None:
        """Wires it.

        Args:
            catalogue: the connectors.
            connections: which clients there are.
            credentials: where they are stored.
            upstreams: sends.
            shared_accounts_max: accounts of one tenant at one provider through a shared client.
            admit: counts a question of a tenant against a rate; raises where it is one too many.
        """
        self._catalogue = catalogue
        self._connections = connections
        self._credentials = credentials
        self._upstreams = upstreams
        self._shared_accounts_max = shared_accounts_max
        self._admit = admit

    def provider(self, connector: str) -> tuple[Connector, OAuth]:
        """The connector and how its accounts are connected.

        Raises:
            NotPermitted: there is no such connector, or its accounts are not connected this way.
        """
        found = self._catalogue.connectors.get(connector)
        able = [name for name, one in self._catalogue.connectors.items() if one.oauth is not None]
        if found is None or found.oauth is None:
            raise NotPermitted(f"accounts are connected to {', '.join(able) or 'no connector here'}")
        return found, found.oauth

    def is_shared(self, tenant: str, connector: str) -> bool:
        """Whether further accounts of ``tenant`` come through the shared client; its own goes first.

        Raises:
            NotFound: there is neither.
        """
        if self._connections.clients.has(tenant, connector):
            return False
        if self._connections.clients.has(SYSTEM_TENANT, connector):
            return True
        raise no_client(connector)

    def check_room(self, history: Sequence[StoredEvent], connector: str, name: str, *, is_shared: bool) -> None:
        """Checks that the tenant may have ``name`` as an account of a shared client.

        Raises:
            LimitExceeded: it has as many as the installation lets it.
        """
        if not is_shared:
            return
        others = [one for one in connected_through(history, connector, is_shared=True) if one != name]
        if len(others) >= self._shared_accounts_max:
            raise LimitExceeded("shared_client_accounts", self._shared_accounts_max, len(others) + 1)

    def host(self, tenant: str, connector: str, *, is_shared: bool) -> str:
        """Where a browser is sent to, as a person reads it.

        Raises:
            NotFound, NotPermitted: as :meth:`party`.
        """
        _, oauth = self.provider(connector)
        origin = self._connections.clients.find(_owner(tenant, is_shared=is_shared), connector).origin
        return oauth.authorize.host if origin is None else origin.authority

    async def set(
        self,
        tenant: str,
        *,
        connector: str,
        client_id: str,
        secret: Secret,
        key: Secret,
        base_url: str,
        actor: Actor,
        corr: str,
    ) -> dict[str, object]:
        """Sets a client at a provider; an empty ``secret`` and ``key`` are a public client's.

        Args:
            tenant: whose; the log's own for a shared one.
            connector: at which provider.
            client_id: as the provider named it.
            secret: likewise.
            key: a private key in place of a secret.
            base_url: another origin than the provider's, in development.
            actor: who sets it.
            corr: the request.

        Returns:
            The public half of ``key``, a JSON Web Key; empty without one.

        Raises:
            NotPermitted: accounts are not connected to such a connector.
            Malformed, LimitExceeded: an id or secret that no provider hands out, or a key that this one does not take.
            Conflict: accounts are connected through another client; their tokens are of no use to this one.
        """
        _, oauth = self.provider(connector)
        content = secret.reveal()
        if _CLIENT_ID.fullmatch(client_id) is None:
            raise Malformed("a client's id is 1 to 255 printable ASCII characters without spaces")
        if content and key.reveal():
            raise Malformed("a client has a secret or a private key, not both")
        public = public_key(key, oauth.keys) if key.reveal() else {}
        if len(content) > SECRET_BYTES_MAX:
            raise LimitExceeded("secret_bytes_max of a client", SECRET_BYTES_MAX, len(content))
        if content and _SECRET.fullmatch(content) is None:
            raise Malformed("a client's secret is at least 8 printable ASCII characters without spaces")

        def decide(history: Sequence[StoredEvent]) -> tuple[str, dict[str, object]]:
            self._check_same_client(tenant, history, connector, client_id)
            event: dict[str, object] = {"connector": connector, "client_id": client_id, "has_secret": bool(content)}
            event |= {"has_key": True} if public else {}
            return OAUTH_CLIENT_SET, event | ({"base_url": base_url} if base_url else {})

        # A public client's empty secret is sealed too: the record of an earlier one must not stay behind.
        seals = {_name(connector): (_place(tenant, connector, has_key=bool(public)), key if public else secret)}
        await self._credentials.change(tenant, decide, seals=seals, actor=actor, corr=corr)
        return public

    async def withdraw(self, connector: str, *, actor: Actor, corr: str) -> int:
        """Closes the shared client at a provider to further accounts; gives how many go on through it.

        Raises:
            NotFound: there is none.
        """

        def decide(history: Sequence[StoredEvent]) -> tuple[str, dict[str, object]]:
            said = [e.envelope.type for e in history if e.envelope.event.get("connector") == connector]
            if not said or said[-1] == OAUTH_CLIENT_WITHDRAWN:
                raise NotFound(f"there is no shared client at the provider of {connector}")
            return OAUTH_CLIENT_WITHDRAWN, {"connector": connector}

        await self._credentials.change(SYSTEM_TENANT, decide, actor=actor, corr=corr)
        return len(self._connections.shared_accounts(connector))

    async def party(self, tenant: str, connector: str, *, is_shared: bool) -> Party:
        """The tenant's client at the provider of ``connector``, or the shared one.

        Raises:
            NotFound: none is set, or its secret has been destroyed.
            NotPermitted: accounts are not connected to such a connector (any more).
            CredentialUnreadable: its secret does not open here.
        """
        _, oauth = self.provider(connector)
        owner = _owner(tenant, is_shared=is_shared)
        facts: ClientFacts = self._connections.clients.find(owner, connector)
        place = _place(owner, connector, has_key=facts.has_key)
        held = await self._credentials.unsealed(owner, _name(connector), place)
        return Party(oauth, facts, held, self._upstreams, self._check(tenant, connector, is_shared=is_shared))

    def _check(self, tenant: str, connector: str, *, is_shared: bool) -> Callable[[], Awaitable[None]]:
        """What is checked before each request: one tenant's requests leave a shared client's to the others."""
        name = f"the tenant's rate at the shared client of {connector}"
        allowance = Allowance(name=name, key=("shared-client", connector), rate=SHARED_ASKS)

        async def check() -> None:
            if is_shared:
                await self._admit(tenant, allowance)

        return check

    def _check_same_client(self, tenant: str, history: Sequence[StoredEvent], connector: str, client_id: str) -> None:
        """Checks that no account would be lost by another client."""
        said = [e.envelope for e in history]
        clients = [e.event for e in said if e.type == OAUTH_CLIENT_SET and e.event["connector"] == connector]
        if not clients or clients[-1]["client_id"] == client_id:
            return
        hint = "remove them first; a new secret of the same client can be set at any time"
        if tenant == SYSTEM_TENANT:
            if shared := self._connections.shared_accounts(connector):
                tenants = len({one.tenant for one in shared})
                raise Conflict(
                    f"{len(shared)} accounts of {tenants} tenants are connected through another client", hint=hint
                )
        elif through := connected_through(history, connector, is_shared=False):
            raise Conflict(f"accounts are connected through another client: {', '.join(through)[:200]}", hint=hint)


def _owner(tenant: str, *, is_shared: bool) -> str:
    return SYSTEM_TENANT if is_shared else tenant


def _name(connector: str) -> str:
    return f"oauth-client/{connector}"


def _place(tenant: str, connector: str, *, has_key: bool) -> Place:
    purpose = PURPOSE_CLIENT_KEY if has_key else PURPOSE_CLIENT
    return Place(purpose=purpose, tenant=tenant, connection="", provider=connector)
