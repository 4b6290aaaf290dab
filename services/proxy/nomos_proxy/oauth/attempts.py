"""Attempts to connect an account: their events, what is sealed for them, and the connection that one ends in.

How a person gets to the provider is left to :mod:`nomos_proxy.oauth.connecting` (a browser) and
:mod:`nomos_proxy.oauth.devices` (a code that is entered elsewhere).

An account is connected *again* under the name of its connection. Then it must be the account that it was, where the
provider says whose account it is: policies speak of the connection, and must not come to mean somebody else's things.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from msgspec import Struct

from nomos.catalogue.oauth import check_scopes
from nomos.errors import Conflict, JournalUnavailable, NomosError, NotFound
from nomos.events import (
    CONNECT_ENDED,
    CONNECT_OFFERED,
    CONNECTION_ADDED,
    CONNECTION_REPLACED,
    Actor,
    Envelope,
)
from nomos.ids import new_id, parse_slug
from nomos_proxy.domain import PROXY
from nomos_proxy.history import added, check_free
from nomos_proxy.keys import DataKeys
from nomos_proxy.oauth.clients import Clients
from nomos_proxy.oauth.flow import Flow, fold
from nomos_proxy.oauth.grants import Grants
from nomos_proxy.oauth.party import Party
from nomos_proxy.oauth.protocol import AnswerNotTaken, Granted, NotConnected, TokenSet, taken
from nomos_proxy.store import CredentialStore
from nomos_runtime.eventstore import EventStore, StoredEvent
from nomos_runtime.secret import Secret
from nomos_runtime.vault import PURPOSE_FLOW, Place, Vault


class Asked(Struct, frozen=True, kw_only=True):
    """What somebody is to connect.

    Attributes:
        connector: at which provider.
        name: of the connection.
        scopes: what is asked for.
        base_url: another origin than the connector's, in development.
        is_shared: as which kind of client.
    """

    connector: str
    name: str
    scopes: tuple[str, ...]
    base_url: str
    is_shared: bool


class Attempts:
    """Loads attempts, appends to them, and stores what they end in."""

    def __init__(
        self,
        *,
        store: EventStore,
        vault: Vault,
        keys: DataKeys,
        clients: Clients,
        credentials: CredentialStore,
        grants: Grants,
    ) -> None:
        """Wires it.

        Args:
            store: of the service.
            vault: seals what is kept of a way.
            keys: the tenants' data keys.
            clients: as whom a provider is asked.
            credentials: where connections are recorded.
            grants: where tokens are stored.
        """
        self._store = store
        self._vault = vault
        self._keys = keys
        self._clients = clients
        self._credentials = credentials
        self._grants = grants

    async def asked(
        self, tenant: str, *, connector: str, name: str, scopes: tuple[str, ...], base_url: str
    ) -> tuple[Asked, Party]:
        """What an operator asks for, checked, and the client that asks the provider.

        Raises:
            NotPermitted: accounts are not connected to such a connector.
            NotFound: the tenant has no client there, and there is none for all.
            LimitExceeded: it has as many accounts through the one for all as it may.
            Conflict: the name is that of a connection of another kind or provider.
            MalformedCatalogue: a scope that is none.
        """
        parse_slug(name, "connection")
        _, oauth = self._clients.provider(connector)
        is_shared = self._clients.is_shared(tenant, connector)
        party = await self._clients.party(tenant, connector, is_shared=is_shared)
        scopes = scopes or oauth.scopes
        check_scopes(scopes)
        history = await self._credentials.history(tenant)
        if _is_again(history, connector, name) and base_url:
            raise Conflict("a connection stays at the origin that it was added with")
        self._clients.check_room(history, connector, name, is_shared=is_shared)
        # A tenant that uses a shared client may have sealed nothing before.
        await self._keys.of_or_new(tenant, history)
        asked = Asked(connector=connector, name=name, scopes=scopes, base_url=base_url, is_shared=is_shared)
        return asked, party

    async def offered(
        self,
        tenant: str,
        flow: str,
        asked: Asked,
        members: Mapping[str, object],
        *,
        by: Actor,
        corr: str,
        sealed: Mapping[str, bytes] | None = None,
    ) -> None:
        """Records a new attempt; ``members`` say how a person gets on with it, and until when."""
        event: dict[str, object] = {
            "flow": flow,
            "connector": asked.connector,
            "name": asked.name,
            "scopes": list(asked.scopes),
            "at": int(time.time()),
            **members,
        }
        event |= {"base_url": asked.base_url} if asked.base_url else {}
        event |= {"shared": True} if asked.is_shared else {}
        await self.append(tenant, flow, 0, CONNECT_OFFERED, event, actor=by, corr=corr, sealed=sealed)

    async def flow(self, tenant: str, flow_id: str) -> Flow:
        """An attempt as it stands.

        Raises:
            NotFound: there is none.
        """
        found = fold(tenant, flow_id, (e.envelope for e in await self._store.load(tenant, stream(flow_id))))
        if found is None:
            raise NotFound("this link opens nothing", hint="ask for a new one")
        return found

    async def append(
        self,
        tenant: str,
        flow: str,
        version: int,
        kind: str,
        event: dict[str, object],
        *,
        corr: str,
        actor: Actor = PROXY,
        sealed: Mapping[str, bytes] | None = None,
        also: Callable[[Any], Awaitable[None]] | None = None,
    ) -> None:
        """Appends an event to an attempt that stands at ``version``. Errors as :meth:`EventStore.append`."""
        envelope = Envelope(id=new_id("ev"), type=kind, tenant=tenant, actor=actor, corr=corr, cause="", event=event)
        await self._store.append(tenant, stream(flow), version, [envelope], sealed, also=also)

    async def seal(self, tenant: str, flow: str, provider: str, content: Secret) -> bytes:
        """What is kept of an attempt, sealed under the tenant's data key.

        Raises:
            NotFound: the key has been destroyed.
        """
        key = await self._keys.of(tenant)
        if key is None:
            raise NotFound("the data key of this tenant has been destroyed")
        return self._vault.seal(key, _place(tenant, flow, provider), content)

    async def kept(self, flow: Flow) -> tuple[Secret, bytes]:
        """What was sealed for an attempt, opened and as it is stored.

        Raises:
            NotFound: it or its key has been destroyed.
            CredentialUnreadable: it does not open here.
        """
        key = await self._keys.of(flow.tenant)
        record = await self._store.sealed(flow.tenant, stream(flow.id))
        if key is None or record is None:
            raise NotFound("what was kept of this attempt has been destroyed", hint="ask for a new one")
        return self._vault.open(key, _place(flow.tenant, flow.id, flow.connector), record), record

    async def exchange(self, flow: Flow, before: bytes, content: Secret) -> bytes | None:
        """Puts other content in place of what was stored as ``before``; None where somebody else has done so."""
        record = await self.seal(flow.tenant, flow.id, flow.connector, content)
        is_done = await self._store.replace_sealed(flow.tenant, stream(flow.id), before, record)
        return record if is_done else None

    async def take(self, party: Party, flow: Flow, granted: Granted, *, nonce: str, corr: str) -> None:
        """Stores what a provider has granted, as a connection; what is not taken is given back.

        Raises:
            AnswerNotTaken: it is more than was asked for, or of another account.
            Conflict: the connection was made, removed or changed meanwhile.
            LimitExceeded: as :meth:`asked`.
            JournalUnavailable: the connection is stored, and is there when the journal is back.
        """
        try:
            tokens = taken(
                party.oauth,
                granted,
                client_id=party.client_id,
                issuer=party.issuer,
                nonce=nonce,
                before=None,
                asked=flow.scopes,
            )
            await self._store_connection(flow, tokens, corr)
        except JournalUnavailable:
            raise
        except NomosError:
            # What we do not keep must not go on living at the provider.
            await party.give_back(granted.tokens)
            raise

    async def _store_connection(self, flow: Flow, tokens: TokenSet, corr: str) -> None:
        history = await self._credentials.history(flow.tenant)
        is_again = _is_again(history, flow.connector, flow.name)
        if is_again:
            before = await self._grants.find(flow.tenant, flow.name, flow.connector)
            if before.tokens.account != tokens.account:
                raise AnswerNotTaken(
                    f"this is another account than the one that {flow.name} was connected to",
                    hint="connect it under a name of its own",
                )
        key_id, write = await self._grants.writing(flow.tenant, flow.name, flow.connector, tokens)

        def decide(now: Sequence[StoredEvent]) -> tuple[str, dict[str, object]]:
            if _is_again(now, flow.connector, flow.name) != is_again:
                raise Conflict(f"connection {flow.name} has changed meanwhile")
            # counted here: of two that were asked for at once the second may be one too many
            self._clients.check_room(now, flow.connector, flow.name, is_shared=flow.is_shared)
            event: dict[str, object] = {"name": flow.name, "key_id": key_id, "scopes": list(tokens.scopes)}
            event |= {"shared": True} if flow.is_shared else {}
            if is_again:
                return CONNECTION_REPLACED, event
            event |= {"connector": flow.connector, "method": "oauth"}
            return CONNECTION_ADDED, event | ({"base_url": flow.base_url} if flow.base_url else {})

        await self._credentials.change(flow.tenant, decide, also=write, actor=flow.by, corr=corr)

    async def failed(self, flow: Flow, version: int, error: NomosError, corr: str) -> None:
        """Ends an attempt that stands at ``version`` with an error of :meth:`take`, or of what comes before it."""
        outcome = "failed"
        if isinstance(error, NotConnected):
            outcome = "denied"
        elif isinstance(error, JournalUnavailable):
            # what the log will hold of the connection when it is back
            outcome = "connected"
        await self.end(flow, version, outcome, error.code, corr)

    async def end(self, flow: Flow, version: int, outcome: str, code: str, corr: str) -> None:
        """Ends an attempt that stands at ``version``, and destroys what was kept of it."""
        event: dict[str, object] = {"flow": flow.id, "outcome": outcome, "code": code, "at": int(time.time())}

        async def destroy(c: Any) -> None:
            await c.execute("DELETE FROM sealed WHERE tenant = $1 AND name = $2", flow.tenant, stream(flow.id))

        await self.append(flow.tenant, flow.id, version, CONNECT_ENDED, event, corr=corr, also=destroy)


def stream(flow: str) -> str:
    """Where an attempt's events stand, and the name of what is sealed for it."""
    return f"connect/{flow}"


def _is_again(history: Sequence[StoredEvent], connector: str, name: str) -> bool:
    """Whether an account of this connection was connected before."""
    try:
        before = added(history, name)
    except NotFound:
        check_free(history, name)
        return False
    if before.get("method") != "oauth" or before["connector"] != connector:
        raise Conflict(f"connection {name} exists, and is no account of {connector}", hint="names are given once")
    return True


def _place(tenant: str, flow: str, provider: str) -> Place:
    return Place(purpose=PURPOSE_FLOW, tenant=tenant, connection=flow, provider=provider)
