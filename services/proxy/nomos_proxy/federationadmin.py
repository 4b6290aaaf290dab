"""Operators' verb that adds a connection to which a cloud gives credentials: nothing secret is brought or stored."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from nomos.catalogue import Catalogue
from nomos.errors import Malformed, UnknownAction
from nomos_proxy.admin import check_base_url, check_host
from nomos_proxy.federation.cloud import parse_federation
from nomos_proxy.federation.issuer import subject_of
from nomos_proxy.federation.tokens import Federated
from nomos_proxy.settings import ProxySettings
from nomos_proxy.store import CredentialStore
from nomos_runtime.responder import Operator, Verb


class FederateParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A connection and its cloud; ``base_url`` and ``exchange_url`` in development only."""

    connector: str
    name: str
    federation: dict[str, str]
    host: str = ""
    base_url: str = ""
    exchange_url: str = ""


class FederationAdmin:
    """The verb, by name, in :meth:`verbs`."""

    def __init__(
        self,
        *,
        settings: ProxySettings,
        catalogue: Catalogue,
        credentials: CredentialStore,
        federated: Federated,
        refresh: Callable[[], Awaitable[None]],
    ) -> None:
        self._settings = settings
        self._catalogue = catalogue
        self._credentials = credentials
        self._federated = federated
        self._refresh = refresh

    def verbs(self) -> dict[str, Verb]:
        """Verb name to parameters and handler."""
        return {"connection-federate": (FederateParams, self.federate)}

    async def federate(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """Adds the connection; gives what the cloud's trust policy must name."""
        p = msgspec.convert(params, FederateParams)
        connector = self._catalogue.connectors.get(p.connector)
        if connector is None:
            raise UnknownAction(
                f"there is no connector of this name; there are {', '.join(self._catalogue.connectors)}"
            )
        issuer = self._federated.issuer
        federation = parse_federation(p.federation)
        if connector.scheme != "https":
            raise Malformed("a connector of HTTP is federated, and no other one is")
        check_host(connector, p.host)
        signs = connector.auth.kind == "aws4" and not connector.is_auth_chosen
        if signs != (federation.kind == "aws"):
            raise Malformed("a connector of AWS is federated with aws, and no other one is")
        for url in (p.base_url, p.exchange_url):
            check_base_url(self._settings, url)
        await self._credentials.federate(
            by.tenant,
            connector=p.connector,
            name=p.name,
            members={
                "federation": {"kind": federation.kind, **federation.values},
                "host": p.host,
                "base_url": p.base_url,
                "exchange": p.exchange_url,
            },
            actor=by.actor,
            corr=by.request,
        )
        await self._refresh()
        subject = subject_of(by.tenant, p.name)
        made: dict[str, object] = {
            "name": p.name,
            "connector": p.connector,
            "issuer": issuer.origin,
            "subject": subject,
            "audience": federation.audience,
        }
        if principal := federation.principal(subject):
            made["principal"] = principal
        if federation.service_account:
            made["service_account"] = federation.service_account
        return made
