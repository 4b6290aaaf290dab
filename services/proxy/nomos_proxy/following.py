"""What facts change here: of identity (who there is), of minting (who may issue, what was taken back), and our own.

A connection that was removed, and a tenant that was closed, leave nothing in memory: no opened credential, no token, no
rate, and no answer that is still being read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Protocol

from nomos.events import CONNECTION_REMOVED, TENANT_CLOSED
from nomos.servicemessages import Fact
from nomos_proxy.destination import Origin
from nomos_proxy.issuers import Issuers
from nomos_proxy.personal import PersonalData
from nomos_proxy.revocations import Revocations
from nomos_proxy.store import Connections
from nomos_runtime.directory import Directory


class Forgets(Protocol):
    """What keeps something of a tenant in memory."""

    def forget(self, tenant: str) -> None:
        """Forgets a tenant."""


class Keeps(Forgets, Protocol):
    """What keeps something of a connection in memory."""

    def drop(self, tenant: str, name: str) -> None:
        """Forgets a connection."""


class Following:
    """Applies facts.

    Args:
        directory: who there is.
        connections: of all tenants.
        personal: what is removed for which tenant.
        issuers: who may issue.
        revocations: what was taken back.
        keeps: what forgets connections and tenants.
        forgets: what forgets tenants.
        closed: told of a tenant that was closed.
        development_origins: grows by the connections that an operator gave another origin; None in production.
    """

    def __init__(
        self,
        *,
        directory: Directory,
        connections: Connections,
        personal: PersonalData,
        issuers: Issuers,
        revocations: Revocations,
        keeps: Sequence[Keeps],
        forgets: Sequence[Forgets],
        closed: Callable[[str], None],
        development_origins: set[Origin] | None,
    ) -> None:
        self._directory = directory
        self._connections = connections
        self._personal = personal
        self._issuers = issuers
        self._revocations = revocations
        self._keeps = keeps
        self._forgets = forgets
        self._closed = closed
        self._development_origins = development_origins

    def own(self, fact: Fact) -> None:
        """A fact of proxy."""
        self._connections.apply(fact)
        self._personal.apply(fact)
        if fact.type == CONNECTION_REMOVED:
            for kept in self._keeps:
                kept.drop(fact.tenant, str(fact.event["name"]))
        if self._development_origins is not None:
            self._development_origins.update(self._connections.origins(fact.tenant))

    def minted(self, fact: Fact) -> None:
        """A fact of minting."""
        self._issuers.apply(fact)
        self._revocations.apply(fact, int(time.time()))

    def identity(self, fact: Fact) -> None:
        """A fact of identity."""
        self._directory.apply(fact)
        if fact.type == TENANT_CLOSED:
            for kept in (*self._keeps, *self._forgets):
                kept.forget(fact.tenant)
            self._closed(fact.tenant)
