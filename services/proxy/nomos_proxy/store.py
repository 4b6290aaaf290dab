"""Connections: their facts as events, their credentials sealed beside them. Opened credentials stay in this process.

A name is given once, since policies and records speak of it: the credential behind it can be replaced, and a removed
connection's name is not given again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from msgspec import structs

from nomos.catalogue.auth import parse_auth
from nomos.errors import Conflict, LimitExceeded, NotFound
from nomos.events import (
    CONNECTION_ADDED,
    CONNECTION_LOST,
    CONNECTION_REMOVED,
    CONNECTION_REPLACED,
    Actor,
    Envelope,
)
from nomos.ids import new_id, parse_slug
from nomos.servicemessages import Fact
from nomos_proxy.clientfacts import CLIENTS_FOLLOWED, KnownClients, origin_in
from nomos_proxy.destination import Origin, parse_development_origin
from nomos_proxy.domain import ConnectionFacts
from nomos_proxy.echo import EchoGuard
from nomos_proxy.federation.cloud import parse_federation
from nomos_proxy.flights import Flights
from nomos_proxy.history import added, check_free
from nomos_proxy.keeping import Kept
from nomos_proxy.keys import DataKeys
from nomos_proxy.ssh.target import SshTarget, parse_target
from nomos_runtime.eventstore import EventStore, StoredEvent
from nomos_runtime.secret import Secret
from nomos_runtime.vault import PURPOSE_BEARER, Place, Vault

#: One stream for all connections of a tenant: of two first connections one loses, and finds the other's data key.
STREAM: Final = "connections"
#: Facts of the proxies that are folded here.
FOLLOWED: Final = (
    CONNECTION_ADDED,
    CONNECTION_REPLACED,
    CONNECTION_LOST,
    CONNECTION_REMOVED,
    *CLIENTS_FOLLOWED,
)
#: Bytes of a bearer: a header's value.
BEARER_BYTES_MAX: Final = 8_192
#: How long a call waits until its bearer has been opened.
OPEN_SECONDS_MAX: Final = 10.0


class Connections:
    """The replica's fold of the proxies' own feed: which connections and clients there are."""

    def __init__(self, *, is_development: bool = False) -> None:
        self._is_development = is_development
        self._facts: dict[tuple[str, str], ConnectionFacts] = {}
        #: As which clients providers are asked.
        self.clients = KnownClients(is_development=is_development)

    def apply(self, fact: Fact) -> None:
        """Folds one fact."""
        event = fact.event
        if fact.type in CLIENTS_FOLLOWED:
            self.clients.apply(fact)
            return
        if fact.type not in FOLLOWED:
            return
        at = (fact.tenant, str(event["name"]))
        if fact.type == CONNECTION_ADDED:
            origin = origin_in(event)
            self._facts[at] = ConnectionFacts(
                tenant=fact.tenant,
                name=str(event["name"]),
                connector=str(event["connector"]),
                # One that was added in development is closed in production: its credential goes nowhere else.
                is_open=self._is_development or (origin is None and not event.get("exchange")),
                origin=origin,
                host=str(event.get("host") or ""),
                auth=parse_auth(str(event["auth"])) if event.get("auth") else None,
                federation=parse_federation(_members(event["federation"])) if event.get("federation") else None,
                exchange=parse_development_origin(str(event["exchange"])) if event.get("exchange") else None,
                is_bare=event.get("method") == "none",
                ssh=parse_target(_members(event["ssh"])) if event.get("ssh") else None,
                is_account=event.get("method") == "oauth",
                is_shared=bool(event.get("shared")),
                scopes=_texts(event.get("scopes")),
            )
            return
        known = self._facts[at]
        if fact.type == CONNECTION_REPLACED:
            ssh = known.ssh
            if ssh is not None and event.get("host_keys"):
                ssh = structs.replace(ssh, host_keys=_texts(event["host_keys"]))
            self._facts[at] = structs.replace(
                known,
                revision=known.revision + 1,
                is_lost=False,
                scopes=_texts(event.get("scopes")),
                is_shared=bool(event.get("shared")),
                ssh=ssh,
            )
        elif fact.type == CONNECTION_LOST:
            self._facts[at] = structs.replace(known, is_lost=True)
        else:
            self._facts[at] = structs.replace(known, is_open=False, is_removed=True)

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

    def shared_accounts(self, connector: str) -> list[ConnectionFacts]:
        """The accounts of every tenant that were connected through the installation's client at a provider."""
        found = self._facts.values()
        return [one for one in found if one.is_shared and one.connector == connector and not one.is_removed]

    def origins(self, tenant: str) -> set[Origin]:
        """The development origins of the tenant's connections and clients."""
        connections = self.of_tenant(tenant)
        named = [one.origin for one in connections] + [one.exchange for one in connections]
        named += [one.origin for one in self.clients.of_tenant(tenant)]
        return {origin for origin in named if origin is not None}


def _members(value: object) -> dict[str, object]:
    return {str(name): one for name, one in value.items()} if isinstance(value, dict) else {}


def _texts(value: object) -> tuple[str, ...]:
    return tuple(str(one) for one in value) if isinstance(value, list) else ()


class Credential:
    """An opened bearer, and the search for it in answers."""

    __slots__ = ("bearer", "echo")

    def __init__(self, bearer: Secret, echo: EchoGuard) -> None:
        self.bearer = bearer
        self.echo = echo


NO_CREDENTIAL: Final = Credential(Secret(b""), EchoGuard(Secret(b"")))

#: What is decided of a tenant's connections as they stand: the type of an event and its payload. Raises a refusal.
Decide = Callable[[Sequence[StoredEvent]], tuple[str, dict[str, object]]]


class CredentialStore:
    """Seals and opens bearers, and appends to the tenants' connections."""

    def __init__(self, store: EventStore, vault: Vault, keys: DataKeys) -> None:
        self._store = store
        self._vault = vault
        self._keys = keys
        #: The revision of each connection, and its opened credential.
        self._bearers: Kept[tuple[int, Credential]] = Kept()
        #: By revision too: what replaced a credential is never waited for as what it replaced.
        self._opening: Flights[tuple[str, str, int], Credential] = Flights()

    async def add(
        self,
        tenant: str,
        *,
        connector: str,
        name: str,
        bearer: Secret,
        base_url: str,
        actor: Actor,
        corr: str,
        host: str = "",
        auth: str = "",
        ssh: SshTarget | None = None,
    ) -> None:
        """Stores a connection and its sealed bearer in one transaction.

        Args:
            tenant: whose.
            connector: at which provider.
            name: of the connection.
            bearer: its credential.
            base_url: another origin, in development.
            actor: who adds it.
            corr: the request.
            host: where it goes, where the connector has no host for all.
            auth: how its credential is presented, where the connector leaves that open (:mod:`nomos.catalogue.auth`).
            ssh: as whom, to which host keys and roots, where it goes to a host of SSH.

        Raises:
            Conflict: the name is taken.
            LimitExceeded: the bearer is too long.
        """
        parse_slug(name, "connection")

        def decide(history: Sequence[StoredEvent]) -> tuple[str, dict[str, object]]:
            check_free(history, name)
            event: dict[str, object] = {"connector": connector, "name": name}
            also: dict[str, object] = {"base_url": base_url, "host": host, "auth": auth}
            if ssh is not None:
                also["ssh"] = ssh.members()
            return CONNECTION_ADDED, event | {key: value for key, value in also.items() if value}

        seals = _bearer_at(tenant, name, connector, bearer)
        await self.change(tenant, decide, seals=seals, actor=actor, corr=corr)

    async def federate(
        self, tenant: str, *, connector: str, name: str, members: Mapping[str, object], actor: Actor, corr: str
    ) -> None:
        """Stores a connection that a cloud gives credentials; there is nothing to seal.

        Args:
            tenant: whose.
            connector: at which provider.
            name: of the connection.
            members: further members of the event: ``federation``, ``host``, ``base_url``, ``exchange``.
            actor: who adds it.
            corr: the request.

        Raises:
            Conflict: the name is taken.
        """
        await self._add_unsealed(
            tenant, connector=connector, name=name, method="federation", members=members, actor=actor, corr=corr
        )

    async def add_bare(self, tenant: str, *, connector: str, name: str, host: str, actor: Actor, corr: str) -> None:
        """Stores a connection that needs no credential.

        Args:
            tenant: whose.
            connector: of what.
            name: of the connection.
            host: where it goes: for files, the volume.
            actor: who adds it.
            corr: the request.

        Raises:
            Conflict: the name is taken.
        """
        await self._add_unsealed(
            tenant, connector=connector, name=name, method="none", members={"host": host}, actor=actor, corr=corr
        )

    async def _add_unsealed(
        self,
        tenant: str,
        *,
        connector: str,
        name: str,
        method: str,
        members: Mapping[str, object],
        actor: Actor,
        corr: str,
    ) -> None:
        parse_slug(name, "connection")

        def decide(history: Sequence[StoredEvent]) -> tuple[str, dict[str, object]]:
            check_free(history, name)
            event: dict[str, object] = {"connector": connector, "name": name, "key_id": "", "method": method}
            return CONNECTION_ADDED, event | {key: value for key, value in members.items() if value}

        await self.change(tenant, decide, actor=actor, corr=corr)

    async def replace(
        self,
        connection: ConnectionFacts,
        bearer: Secret | None,
        *,
        host_keys: Sequence[str] = (),
        actor: Actor,
        corr: str,
    ) -> None:
        """Puts another bearer in place of a connection's, or other host keys in place of those that it pins; or both.

        Raises:
            NotFound: there is no such connection.
            Conflict: its tokens come from the provider.
            LimitExceeded: the bearer is too long.
        """
        name = connection.name

        def decide(history: Sequence[StoredEvent]) -> tuple[str, dict[str, object]]:
            if added(history, name).get("method") in ("oauth", "federation"):
                raise Conflict("the credential of this connection comes from the provider")
            return CONNECTION_REPLACED, {"name": name} | ({"host_keys": [*host_keys]} if host_keys else {})

        seals = {} if bearer is None else _bearer_at(connection.tenant, name, connection.connector, bearer)
        await self.change(connection.tenant, decide, seals=seals, actor=actor, corr=corr)

    async def remove(
        self,
        connection: ConnectionFacts,
        *,
        actor: Actor,
        corr: str,
        also: Callable[[Any], Awaitable[None]] | None = None,
    ) -> None:
        """Closes a connection for good and destroys its bearer; ``also`` as :meth:`change`.

        Raises:
            NotFound: there is no such connection.
        """
        tenant, name = connection.tenant, connection.name

        def decide(history: Sequence[StoredEvent]) -> tuple[str, dict[str, object]]:
            added(history, name)
            return CONNECTION_REMOVED, {"name": name}

        async def destroy(c: Any) -> None:
            await c.execute("DELETE FROM sealed WHERE tenant = $1 AND name = $2", tenant, f"bearer/{name}")
            if also is not None:
                await also(c)

        await self.change(tenant, decide, also=destroy, actor=actor, corr=corr)

    async def change(
        self,
        tenant: str,
        decide: Decide,
        *,
        actor: Actor,
        corr: str,
        seals: Mapping[str, tuple[Place, Secret]] = MappingProxyType({}),
        also: Callable[[Any], Awaitable[None]] | None = None,
    ) -> None:
        """Appends one event to the tenant's connections, with what is sealed for it, in one transaction.

        Args:
            tenant: whose.
            decide: the event; it is given the tenant's connections as they stand.
            actor: who changes them.
            corr: the request.
            seals: what is sealed under the tenant's data key: by name, its place and content.
            also: what else is done in the transaction.

        Raises:
            Conflict: somebody else changed them at the same moment.
            Unavailable: the tenant's data key has been destroyed.
        """
        history = await self.history(tenant)
        kind, event = decide(history)
        sealed: dict[str, bytes] = {}
        if seals:
            key = await self._keys.of_or_new(tenant, history)
            event["key_id"] = key.id.hex()
            sealed = {name: self._vault.seal(key, place, content) for name, (place, content) in seals.items()}
        envelope = Envelope(id=new_id("ev"), type=kind, tenant=tenant, actor=actor, corr=corr, cause="", event=event)
        await self._store.append(tenant, STREAM, len(history), [envelope], sealed, also=also)

    async def history(self, tenant: str) -> Sequence[StoredEvent]:
        """The tenant's connections as they stand, event by event."""
        return await self._store.load(tenant, STREAM)

    async def credential(self, connection: ConnectionFacts) -> Credential:
        """The opened bearer of a connection, from memory after the first use; an empty one where it needs none.

        Of several first uses at once one opens it, and the others wait for that.

        Raises:
            CredentialUnreadable: the record does not open here.
            NotFound: the credential has been destroyed.
            Unavailable: Postgres does not answer.
        """
        if connection.is_bare:
            return NO_CREDENTIAL
        at = (connection.tenant, connection.name)
        known = self._bearers.find(*at)
        if known is not None and known[0] == connection.revision:
            return known[1]
        return await self._opening.outcome(
            (*at, connection.revision), lambda: self._opened(connection), OPEN_SECONDS_MAX
        )

    async def _opened(self, connection: ConnectionFacts) -> Credential:
        tenant, name = connection.tenant, connection.name
        place = _place(tenant, name, connection.connector)
        opened = credential_of(await self.unsealed(tenant, f"bearer/{name}", place))
        self._bearers.keep(tenant, name, (connection.revision, opened))
        return opened

    async def unsealed(self, tenant: str, name: str, place: Place) -> Secret:
        """What was sealed with an event.

        Raises:
            CredentialUnreadable: the record does not open here.
            NotFound: it has been destroyed.
        """
        key = await self._keys.of(tenant)
        record = await self._store.sealed(tenant, name)
        if key is None or record is None:
            raise NotFound("the credential of this connection has been destroyed")
        return self._vault.open(key, place, record)

    def drop(self, tenant: str, name: str) -> None:
        """Keeps nothing opened of a removed connection in memory from now on."""
        self._bearers.drop(tenant, name)

    def forget(self, tenant: str) -> None:
        """Keeps nothing opened of a closed tenant in memory from now on."""
        self._bearers.forget(tenant)


def credential_of(bearer: Secret) -> Credential:
    """An opened bearer, with what searches for it."""
    return Credential(bearer, EchoGuard(bearer))


def _bearer_at(tenant: str, name: str, connector: str, bearer: Secret) -> dict[str, tuple[Place, Secret]]:
    size = len(bearer.reveal())
    if size > BEARER_BYTES_MAX:
        raise LimitExceeded("bearer_bytes_max", BEARER_BYTES_MAX, size)
    return {f"bearer/{name}": (_place(tenant, name, connector), bearer)}


def _place(tenant: str, name: str, connector: str) -> Place:
    return Place(purpose=PURPOSE_BEARER, tenant=tenant, connection=name, provider=connector)
