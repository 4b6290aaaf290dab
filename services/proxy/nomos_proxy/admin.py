"""Operators' verbs of proxy: add and list connections, replace a bearer. A bearer goes in and never comes out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec

from nomos.catalogue import Auth, Catalogue, Connector
from nomos.catalogue.auth import auth_text, parse_auth
from nomos.catalogue.load import is_host
from nomos.catalogue.model import matches
from nomos.errors import Conflict, Malformed, NotFound, NotPermitted, UnknownAction
from nomos_proxy.destination import parse_development_origin
from nomos_proxy.domain import ConnectionFacts
from nomos_proxy.echo import PASSWORD_CHARS_MIN
from nomos_proxy.files.volumes import Volumes
from nomos_proxy.headers import check_credential
from nomos_proxy.intake import BearerIntake
from nomos_proxy.settings import ProxySettings
from nomos_proxy.ssh.keys import host_key, private_key
from nomos_proxy.ssh.target import SshTarget, parse_target
from nomos_proxy.store import Connections, CredentialStore
from nomos_runtime.responder import NoParams, Operator, Verb
from nomos_runtime.secret import Secret

#: A bearer shorter than this cannot be told from ordinary text in an answer.
BEARER_CHARS_MIN: Final = 8


class AddParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A connection: connector, name, the bearer sealed to ``sealing-key``; ``base_url`` in development only.

    ``host`` and ``auth`` where the connector leaves them to the connection, and nowhere else. For files ``host`` is the
    volume, and there is no bearer. ``ssh`` {user, port, host_keys, roots} for a host of SSH; its bearer is a private
    key.
    """

    connector: str
    name: str
    sealed_bearer: str = ""
    base_url: str = ""
    host: str = ""
    auth: str = ""
    ssh: dict[str, object] = {}


class ReplaceParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A connection's name, and what takes the place of its own: a bearer, sealed to ``sealing-key``, or host keys."""

    name: str
    sealed_bearer: str = ""
    host_keys: list[str] = []


class ProxyAdmin:
    """The verbs, by name, in :meth:`verbs`."""

    def __init__(
        self,
        *,
        settings: ProxySettings,
        catalogue: Catalogue,
        connections: Connections,
        credentials: CredentialStore,
        intake: BearerIntake,
        volumes: Volumes,
        refresh: Callable[[], Awaitable[None]],
    ) -> None:
        self._settings = settings
        self._volumes = volumes
        self._catalogue = catalogue
        self._connections = connections
        self._credentials = credentials
        self._intake = intake
        self._refresh = refresh

    def verbs(self) -> dict[str, Verb]:
        """Verb name to parameters and handler."""
        return {
            "sealing-key": (NoParams, self.sealing_key),
            "connection-add": (AddParams, self.add),
            "connection-replace": (ReplaceParams, self.replace),
            "connection-list": (NoParams, self.list),
        }

    async def sealing_key(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """The public key that bearers are sealed to, so that they cross the bus as ciphertext."""
        return {"public_key": self._intake.public_key}

    async def add(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """Stores a connection, its bearer sealed."""
        p = msgspec.convert(params, AddParams)
        if p.connector not in self._catalogue.connectors:
            raise UnknownAction(
                f"there is no connector of this name; there are {', '.join(self._catalogue.connectors)}"
            )
        connector = self._catalogue.connectors[p.connector]
        if p.ssh and connector.scheme != "ssh":
            raise Malformed("user, host keys and roots are of connections to hosts of SSH")
        if connector.scheme == "file":
            await self._add_files(by, connector, p)
        else:
            check_host(connector, p.host)
            auth = chosen_auth(connector, p.auth)
            target = self._target(p.ssh) if connector.scheme == "ssh" else None
            bearer = self._bearer(auth, p.sealed_bearer)
            check_base_url(self._settings, p.base_url, is_ssh=target is not None)
            await self._credentials.add(
                by.tenant,
                connector=p.connector,
                name=p.name,
                bearer=bearer,
                base_url=p.base_url,
                host=p.host,
                auth=p.auth,
                ssh=target,
                actor=by.actor,
                corr=by.request,
            )
        await self._refresh()
        return {"tenant": by.tenant, "connector": p.connector, "name": p.name}

    @staticmethod
    def _target(members: dict[str, object]) -> SshTarget:
        """Reads a host of SSH, and checks that its keys are keys."""
        target = parse_target(members)
        for line in target.host_keys:
            host_key(line)
        return target

    def _host_keys(self, connection: ConnectionFacts, lines: Sequence[str]) -> tuple[str, ...]:
        """The keys that a host is to have from now on; none where nothing is said."""
        if not lines:
            return ()
        if connection.ssh is None:
            raise Malformed("host keys are of connections to hosts of SSH")
        return self._target(connection.ssh.members() | {"host_keys": [*lines]}).host_keys

    async def _add_files(self, by: Operator, connector: Connector, p: AddParams) -> None:
        if p.sealed_bearer or p.auth or p.base_url:
            raise Malformed("a connection to files has a volume (host), and no credential and no other origin")
        if not matches(connector.host_pattern, p.host):
            raise Malformed("a connection to files names its volume", hint="--host VOLUME")
        self._volumes.check(by.tenant, p.host)
        await self._credentials.add_bare(
            by.tenant, connector=connector.name, name=p.name, host=p.host, actor=by.actor, corr=by.request
        )

    async def list(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """The connections of the tenant, without their credentials."""
        await self._refresh()
        found = self._connections.of_tenant(by.tenant)
        return {"connections": [listed(c) for c in found]}

    async def replace(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """Puts another bearer, or other host keys, in place of a connection's."""
        p = msgspec.convert(params, ReplaceParams)
        await self._refresh()
        connection = self._connections.find(by.tenant, p.name)
        if connection.is_bare:
            raise Conflict("this connection has no credential")
        if connection.connector not in self._catalogue.connectors:
            raise NotFound("the connector of this connection is not in the catalogue any more")
        auth = connection.auth or self._catalogue.connectors[connection.connector].auth
        keys = self._host_keys(connection, p.host_keys)
        bearer = self._bearer(auth, p.sealed_bearer) if p.sealed_bearer or not keys else None
        await self._credentials.replace(connection, bearer, host_keys=keys, actor=by.actor, corr=by.request)
        await self._refresh()
        return {"tenant": by.tenant, "connector": connection.connector, "name": p.name}

    def _bearer(self, auth: Auth, sealed: str) -> Secret:
        """Opens a bearer, and checks that it can be presented so."""
        if not sealed:
            raise Malformed("a connection of this connector has a credential", hint="--token-file FILE")
        bearer = self._intake.open(sealed)
        if auth.kind == "key":
            private_key(bearer)
            return bearer
        content = bearer.reveal()
        if len(content) < BEARER_CHARS_MIN or not all(0x21 <= byte <= 0x7E for byte in content):
            raise Malformed(f"a bearer is at least {BEARER_CHARS_MIN} printable ASCII characters without spaces")
        check_credential(auth, bearer)
        if auth.kind != "header":
            _check_password(content)
        return bearer


def check_host(connector: Connector, host: str) -> None:
    """Checks the host of a connection.

    Raises:
        Malformed: there must be one and is none, or the other way round, or it is not one of the connector's.
    """
    if not connector.host_pattern:
        if host:
            raise Malformed(f"{connector.name} is at {connector.host}, for every connection")
        return
    if not is_host(host) or not matches(connector.host_pattern, host):
        raise Malformed(
            f"a connection of {connector.name} has a host of its own, a lower-case DNS name such as its pattern admits",
            hint=f"--host NAME, matching {connector.host_pattern}",
        )


def chosen_auth(connector: Connector, text: str) -> Auth:
    """How a connection's credential is presented.

    Raises:
        Malformed: the connector says so already, or what is said is none.
    """
    if not connector.is_auth_chosen:
        if text:
            raise Malformed(
                f"{connector.name} says itself how its credential is presented: {auth_text(connector.auth)}"
            )
        return connector.auth
    return parse_auth(text or "bearer")


def listed(connection: ConnectionFacts) -> dict[str, object]:
    """A connection as operators see it."""
    state = "ready"
    if connection.is_removed:
        state = "removed"
    elif not connection.is_open:
        state = "closed"
    elif connection.is_lost:
        state = "lost"
    method = "account" if connection.is_account else "none" if connection.is_bare else "bearer"
    if connection.federation is not None:
        method = "federated"
    shown: dict[str, object] = {
        "name": connection.name,
        "connector": connection.connector,
        "method": method,
        "state": state,
    }
    if connection.host:
        shown["host"] = connection.host
    if connection.ssh is not None:
        shown |= {"method": "key", "ssh": connection.ssh.members()}
    if connection.federation is not None:
        shown["federation"] = {"kind": connection.federation.kind, **connection.federation.values}
    if connection.auth is not None:
        shown["auth"] = auth_text(connection.auth)
    return shown


def check_base_url(settings: ProxySettings, base_url: str, *, is_ssh: bool = False) -> None:
    """Checks another origin than the connector's.

    Raises:
        NotPermitted: this is no development installation.
        Misconfigured: it is no origin.
        Malformed: it is one of SSH, or none of SSH, and should not be.
    """
    if base_url:
        if settings.environment != "development":
            raise NotPermitted("another origin than the connector's is for development only")
        if (parse_development_origin(base_url).scheme == "ssh") != is_ssh:
            raise Malformed("a connector of SSH goes to ssh://host:port, and no other one does")


def _check_password(content: bytes) -> None:
    if len(content.partition(b":")[2]) < PASSWORD_CHARS_MIN:
        raise Malformed(f"a password is at least {PASSWORD_CHARS_MIN} characters: a shorter one hides in any answer")
