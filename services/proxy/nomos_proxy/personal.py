"""Which classes of personal data are removed from a tenant's answers: an operator's setting, a fact of the proxies.

Decides who may set it (an operator, in the tenant of the subject) and what is in force. Each proxy keeps a replica from
the proxies' own feed and sends the classes with each body; the sanitizer keeps nothing. A replica that cannot prove
that it is fresh refuses calls, so a setting holds everywhere after ``feed_fresh_ms`` at the latest.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from nomos.events import PII_SET, Envelope
from nomos.ids import new_id
from nomos.pii import PII_CLASSES, parse_classes
from nomos.servicemessages import Fact
from nomos_runtime.eventstore import EventStore
from nomos_runtime.responder import NoParams, Operator, Verb

_STREAM = "pii"


class SetParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The classes that are removed from now on; empty for none."""

    classes: list[str]


class PersonalData:
    """The replica's fold: classes by tenant. Without a fact there are none."""

    def __init__(self) -> None:
        self._classes: dict[str, list[str]] = {}

    def apply(self, fact: Fact) -> None:
        """Folds one fact. A class that this version does not know stays: the sanitizer refuses it."""
        if fact.type == PII_SET:
            classes = fact.event["classes"]
            self._classes[fact.tenant] = [str(name) for name in classes] if isinstance(classes, list) else []

    def of_tenant(self, tenant: str) -> list[str]:
        """The classes that are removed from answers of ``tenant``, in the order of their names."""
        return self._classes.get(tenant, [])


class PersonalDataAdmin:
    """The verbs, by name, in :meth:`verbs`."""

    def __init__(self, *, settings: PersonalData, store: EventStore, refresh: Callable[[], Awaitable[None]]) -> None:
        self._settings = settings
        self._store = store
        self._refresh = refresh

    def verbs(self) -> dict[str, Verb]:
        """Verb name to parameters and handler."""
        return {"pii-set": (SetParams, self.set), "pii-show": (NoParams, self.show)}

    async def set(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """Sets the classes of the tenant.

        Raises:
            Malformed: a class that is none; nothing changes.
            Conflict: somebody else set them at the same moment.
        """
        chosen = parse_classes(msgspec.convert(params, SetParams).classes)
        classes = [name for name in PII_CLASSES if name in chosen]
        version = len(await self._store.load(by.tenant, _STREAM))
        event: dict[str, object] = {"classes": classes}
        envelope = Envelope(
            id=new_id("ev"), type=PII_SET, tenant=by.tenant, actor=by.actor, corr=by.request, cause="", event=event
        )
        await self._store.append(by.tenant, _STREAM, version, [envelope])
        await self._refresh()
        return {"tenant": by.tenant, "classes": classes}

    async def show(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """The classes of the tenant."""
        await self._refresh()
        return {"tenant": by.tenant, "classes": self._settings.of_tenant(by.tenant)}
