"""As which clients providers are asked: the replica's fold of what was set. Facts only; secrets lie elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from msgspec import Struct, structs

from nomos.errors import NotFound
from nomos.events import OAUTH_CLIENT_SET, OAUTH_CLIENT_WITHDRAWN
from nomos.servicemessages import Fact
from nomos_proxy.destination import Origin, parse_development_origin

#: Facts of the proxies that are folded here.
CLIENTS_FOLLOWED: Final = (OAUTH_CLIENT_SET, OAUTH_CLIENT_WITHDRAWN)


class ClientFacts(Struct, frozen=True, kw_only=True):
    """As which client a tenant asks a provider, or any tenant where it is the log's own one's: a shared client.

    Attributes:
        tenant: whose; :data:`nomos.ids.SYSTEM_TENANT` of a shared one.
        connector: at which provider.
        client_id: as the provider named it.
        has_secret: whether it has one.
        has_key: whether it proves itself by a private key.
        is_withdrawn: whether a shared one is closed to further accounts.
        origin: takes the place of the provider's, in development only.
    """

    tenant: str
    connector: str
    client_id: str
    has_secret: bool
    has_key: bool = False
    is_withdrawn: bool = False
    origin: Origin | None = None


class KnownClients:
    """The fold, by tenant and connector."""

    def __init__(self, *, is_development: bool = False) -> None:
        self._is_development = is_development
        self._clients: dict[tuple[str, str], ClientFacts] = {}

    def apply(self, fact: Fact) -> None:
        """Folds one fact."""
        event = fact.event
        at = (fact.tenant, str(event["connector"]))
        if fact.type == OAUTH_CLIENT_SET:
            self._clients[at] = ClientFacts(
                tenant=fact.tenant,
                connector=str(event["connector"]),
                client_id=str(event["client_id"]),
                has_secret=bool(event["has_secret"]),
                has_key=bool(event.get("has_key")),
                origin=origin_in(event),
            )
        elif fact.type == OAUTH_CLIENT_WITHDRAWN:
            self._clients[at] = structs.replace(self._clients[at], is_withdrawn=True)

    def find(self, tenant: str, connector: str) -> ClientFacts:
        """The client of ``tenant`` at the provider of ``connector``.

        Raises:
            NotFound: none is set, or it was set in development.
        """
        found = self._clients.get((tenant, connector))
        if found is None or not self._is_usable(found):
            raise no_client(connector)
        return found

    def has(self, tenant: str, connector: str) -> bool:
        """Whether ``tenant`` has a client at the provider of ``connector`` that further accounts may come through."""
        found = self._clients.get((tenant, connector))
        return found is not None and not found.is_withdrawn and self._is_usable(found)

    def of_tenant(self, tenant: str) -> list[ClientFacts]:
        """The clients of ``tenant``."""
        return [facts for (of, _), facts in self._clients.items() if of == tenant]

    def _is_usable(self, client: ClientFacts) -> bool:
        # One that was set in development asks nobody in production.
        return client.origin is None or self._is_development


def no_client(connector: str) -> NotFound:
    """There is no client; what to do about it."""
    return NotFound(
        f"this tenant has no client at the provider of {connector}",
        hint="register one there, then: nomos connection client --tenant T ...",
    )


def origin_in(event: Mapping[str, object]) -> Origin | None:
    """The origin that an event names in place of a provider's, in development only."""
    base = str(event.get("base_url") or "")
    return parse_development_origin(base) if base else None
