"""Operators by their names: given once, sealed, and erased as those of other people.

An operator's bus credential bears a random subject id, so every service, record and refusal names them by nothing else
(ADR 0026). Their name is said here once, by whoever holds the credential first (``nomos operator create``), sealed
under a key of tenant ``_sys``, and stands nowhere else. Every service refuses an operator without a name, so that no
record names somebody whom nobody can tell, and one who was erased.

Order of naming: the name, then the right. A crash between the two leaves a name without a right; the same command goes
on from there. Order of an erasure: the right, then the key.
"""

from __future__ import annotations

import time
from typing import Final

import msgspec

from nomos.errors import Conflict, NotPermitted
from nomos.ids import SYSTEM_TENANT, new_id, parse_slug
from nomos.log.sealedfield import is_subject
from nomos_identity import domain
from nomos_identity.handlers import NameParams
from nomos_runtime.eventstore import EventStore
from nomos_runtime.responder import Operator, Verb
from nomos_runtime.subjects import Subjects

#: What they are to this service.
KIND: Final = "operator"
#: The one verb of an operator whose name is not known yet.
VERB: Final = "operator-name"


class Operators:
    """The operators of the installation, and those of one tenant."""

    def __init__(self, store: EventStore, subjects: Subjects) -> None:
        """Takes the store and who seals names."""
        self._store = store
        self._subjects = subjects

    def verbs(self) -> dict[str, Verb]:
        """Verb name to parameters and handler."""
        return {VERB: (NameParams, self.name)}

    async def name(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """Names the asking operator, for good.

        Raises:
            NotPermitted: the credential bears a name instead of an id.
            Conflict: another operator has this name, or this one has another.
            Revoked: this operator has been erased.
        """
        name = parse_slug(msgspec.convert(params, NameParams).name, KIND)
        if not is_subject(by.name):
            raise NotPermitted(
                "the credential bears a name, and operators are known by a random id",
                hint="nomos operator create NAME --creds FILE",
            )
        now, tenant = int(time.time()), "" if by.tenant == "_" else by.tenant
        history = [s.envelope for s in await self._store.load(SYSTEM_TENANT, _stream(by.name))]
        added = domain.operator_added(
            new_id("ev"), history=history, operator=by.name, tenant=tenant, now=now, by=by.actor, corr=by.request
        )
        if added is None and await self._subjects.find(SYSTEM_TENANT, KIND, name) != by.name:
            # The same whether or not anybody has this name: who is named cannot try the names of others.
            raise Conflict("this operator has another name")
        subject = await self._subjects.enrol(
            SYSTEM_TENANT, KIND, name, by=by.actor, corr=by.request, now=now, subject=by.name
        )
        if subject != by.name:
            raise Conflict("another operator has this name")
        if added is not None:
            await self._store.append(SYSTEM_TENANT, _stream(by.name), 0, [added])
        return {"subject": subject, "name": name}

    async def release(self, by: Operator, subject: str) -> None:
        """Has every service refuse the operator, before their name is erased."""
        history = [s.envelope for s in await self._store.load(SYSTEM_TENANT, _stream(subject))]
        removed = domain.operator_removed(
            new_id("ev"), history=history, operator=subject, now=int(time.time()), by=by.actor, corr=by.request
        )
        if removed is not None:
            await self._store.append(SYSTEM_TENANT, _stream(subject), len(history), [removed])

    async def held(self, tenant: str, subject: str) -> dict[str, object]:
        """What identity holds of an operator beside their name: since when, and for which tenant (empty for all)."""
        events = [s.envelope.event for s in await self._store.load(tenant, _stream(subject))]
        return {"tenant": str(events[0]["tenant"]), "since": int(str(events[0]["at"]))} if events else {}


def _stream(subject: str) -> str:
    return f"operator/{subject}"
