"""Connections: their facts as events, their credentials sealed beside them. Opened credentials stay in this process."""

from __future__ import annotations

from typing import Final

from nomos.errors import Conflict, NotFound, Unavailable
from nomos.events import CONNECTION_ADDED, Actor, Envelope
from nomos.ids import new_id, parse_slug
from nomos.messages import Fact
from nomos_proxy.destination import parse_development_origin
from nomos_proxy.domain import ConnectionFacts
from nomos_proxy.echo import EchoGuard
from nomos_runtime.eventstore import EventStore
from nomos_runtime.secret import Secret
from nomos_runtime.vault import PURPOSE_BEARER, DataKey, Place, Vault

DATA_KEY: Final = "data-key"


class Connections:
    """The replica's fold of the proxies' own feed: which connections there are."""

    def __init__(self, *, is_development: bool = False) -> None:
        self._is_development = is_development
        self._facts: dict[tuple[str, str], ConnectionFacts] = {}

    def apply(self, fact: Fact) -> None:
        """Folds one fact."""
        if fact.type == CONNECTION_ADDED:
            event = fact.event
            base = str(event.get("base_url", ""))
            self._facts[fact.tenant, str(event["name"])] = ConnectionFacts(
                tenant=fact.tenant,
                name=str(event["name"]),
                connector=str(event["connector"]),
                # One that was added in development is closed in production: its credential goes nowhere else.
                is_open=self._is_development or not base,
                origin=parse_development_origin(base) if base else None,
            )

    def find(self, tenant: str, name: str) -> ConnectionFacts:
        """The connection ``name`` of ``tenant``.

        Raises:
            NotFound: there is none.
        """
        found = self._facts.get((tenant, name))
        if found is None:
            raise NotFound("this tenant has no such connection", hint="nomos connection add --tenant T ...")
        return found

    def of_tenant(self, tenant: str) -> list[ConnectionFacts]:
        """The connections of ``tenant``."""
        return [facts for (of, _), facts in self._facts.items() if of == tenant]


class Credential:
    """An opened bearer, and the search for it in answers."""

    __slots__ = ("bearer", "echo")

    def __init__(self, bearer: Secret, echo: EchoGuard) -> None:
        self.bearer = bearer
        self.echo = echo


class CredentialStore:
    """Seals and opens credentials. A tenant's data key is made with its first connection, by compare-and-set."""

    def __init__(self, store: EventStore, vault: Vault) -> None:
        self._store = store
        self._vault = vault
        self._data_keys: dict[str, DataKey] = {}
        self._bearers: dict[tuple[str, str], Credential] = {}
        self._closed: set[str] = set()

    async def add(
        self, tenant: str, *, connector: str, name: str, bearer: Secret, base_url: str, actor: Actor, corr: str
    ) -> None:
        """Stores a connection and its sealed bearer in one transaction.

        Raises:
            Conflict: the name is taken.
        """
        parse_slug(name, "connection")
        sealed: dict[str, bytes] = {}
        data_key = await self._data_key(tenant)
        if data_key is None:
            wrapped = self._vault.new_data_key(tenant)
            sealed[DATA_KEY] = wrapped
            data_key = self._vault.open_data_key(tenant, wrapped)
        record = self._vault.seal(data_key, _place(tenant, name, connector), bearer)
        sealed[f"bearer/{name}"] = record
        event: dict[str, object] = {"connector": connector, "name": name, "key_id": data_key.id.hex()}
        if base_url:
            event["base_url"] = base_url
        envelope = Envelope(
            id=new_id("ev"), type=CONNECTION_ADDED, tenant=tenant, actor=actor, corr=corr, cause="", event=event
        )
        # One stream for all connections of a tenant: of two first connections one loses and finds the data key.
        history = await self._store.load(tenant, "connections")
        if any(s.envelope.event["name"] == name for s in history):
            raise Conflict(f"connection {name} exists", hint="names are given once")
        version = len(history)
        if DATA_KEY in sealed and version:
            raise Unavailable("the data key of this tenant has been destroyed")
        await self._store.append(tenant, "connections", version, [envelope], sealed)
        self._keep(tenant, data_key)

    async def credential(self, connection: ConnectionFacts) -> Credential:
        """The opened credential of a connection, from memory after the first use.

        Raises:
            CredentialUnreadable: the record does not open here.
            NotFound: the credential has been destroyed.
        """
        at = (connection.tenant, connection.name)
        known = self._bearers.get(at)
        if known is not None:
            return known
        data_key = await self._data_key(connection.tenant)
        record = await self._store.sealed(connection.tenant, f"bearer/{connection.name}")
        if data_key is None or record is None:
            raise NotFound("the credential of this connection has been destroyed")
        place = _place(connection.tenant, connection.name, connection.connector)
        bearer = self._vault.open(data_key, place, record)
        opened = Credential(bearer, EchoGuard(bearer))
        if connection.tenant not in self._closed:
            self._bearers[at] = opened
        return opened

    def seal_again(self, tenant: str, name: str, record: bytes) -> bytes | None:
        """A data key under the current environment key; None for what is under it, and for bearers.

        Bearers are sealed under their tenant's data key, which does not change.

        Raises:
            CredentialUnreadable: a data key that does not open.
        """
        return self._vault.rewrap(tenant, record) if name == DATA_KEY else None

    def forget(self, tenant: str) -> None:
        """Keeps nothing opened of a closed tenant in memory from now on."""
        self._closed.add(tenant)
        self._data_keys.pop(tenant, None)
        for at in [one for one in self._bearers if one[0] == tenant]:
            del self._bearers[at]

    async def _data_key(self, tenant: str) -> DataKey | None:
        known = self._data_keys.get(tenant)
        if known is None:
            wrapped = await self._store.sealed(tenant, DATA_KEY)
            if wrapped is None:
                return None
            known = self._vault.open_data_key(tenant, wrapped)
            self._keep(tenant, known)
        return known

    def _keep(self, tenant: str, data_key: DataKey) -> None:
        if tenant not in self._closed:
            self._data_keys[tenant] = data_key


def _place(tenant: str, name: str, connector: str) -> Place:
    return Place(purpose=PURPOSE_BEARER, tenant=tenant, connection=name, provider=connector)
