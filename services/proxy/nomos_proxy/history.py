"""A tenant's connections as their events tell, for whoever decides the next one. Pure: no IO and no clock."""

from __future__ import annotations

from collections.abc import Sequence

from nomos.errors import Conflict, NotFound
from nomos.events import CONNECTION_ADDED, CONNECTION_REMOVED, CONNECTION_REPLACED
from nomos_runtime.eventstore import StoredEvent


def check_free(history: Sequence[StoredEvent], name: str) -> None:
    """Checks that a name has not been given.

    Raises:
        Conflict: it has.
    """
    if any(e.envelope.type == CONNECTION_ADDED and e.envelope.event["name"] == name for e in history):
        raise Conflict(f"connection {name} exists", hint="names are given once")


def added(history: Sequence[StoredEvent], name: str) -> dict[str, object]:
    """How the connection ``name`` was added.

    Raises:
        NotFound: there is none, or it was removed.
    """
    named = [e.envelope for e in history if e.envelope.event.get("name") == name]
    if not named or any(e.type == CONNECTION_REMOVED for e in named):
        raise NotFound("this tenant has no such connection")
    return named[0].event


def connected_through(history: Sequence[StoredEvent], connector: str, *, is_shared: bool) -> list[str]:
    """The accounts of a provider that are there, by the client through which each was connected last.

    Args:
        history: of the tenant.
        connector: at which provider.
        is_shared: through the installation's client, or through the tenant's own.
    """
    found: dict[str, bool] = {}
    for envelope in (e.envelope for e in history):
        event = envelope.event
        name = str(event.get("name", ""))
        if (
            envelope.type == CONNECTION_ADDED and (event.get("method"), event["connector"]) == ("oauth", connector)
        ) or (envelope.type == CONNECTION_REPLACED and name in found):
            found[name] = bool(event.get("shared"))
        elif envelope.type == CONNECTION_REMOVED:
            found.pop(name, None)
    return [name for name, shared in found.items() if shared == is_shared]
