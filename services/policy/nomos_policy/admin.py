"""Operators' verbs of policy: put, list, show, history."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from nomos.errors import NotFound
from nomos_policy.policyset import load_policies
from nomos_policy.store import PolicySets, PolicyStore
from nomos_policy.vocabulary import Vocabulary
from nomos_runtime.responder import NoParams, Operator, Verb


class PutParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A policy set's text, and why it is put in force."""

    text: str
    why: str


class ShowParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A revision; 0 for the one in force."""

    revision: int = 0


class PolicyAdmin:
    """The verbs, by name, in :meth:`verbs`."""

    def __init__(
        self, store: PolicyStore, sets: PolicySets, vocabulary: Vocabulary, refresh: Callable[[], Awaitable[None]]
    ) -> None:
        self._store = store
        self._sets = sets
        self._vocabulary = vocabulary
        self._refresh = refresh

    def verbs(self) -> dict[str, Verb]:
        """Verb name to parameters and handler."""
        return {
            "put": (PutParams, self.put),
            "list": (NoParams, self.list),
            "show": (ShowParams, self.show),
            "history": (NoParams, self.history),
        }

    async def put(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """Validates a set and puts it in force; answers when it is in the journal and in force in this replica."""
        p = msgspec.convert(params, PutParams)
        state = await self._store.put(by.tenant, p.text, by.actor, p.why, by.request)
        await self._refresh()
        in_force = await self._sets.in_force(by.tenant)
        return {
            "tenant": by.tenant,
            "revision": state.revision,
            "sha256": in_force.sha256,
            "policies": [{"id": p.id, "description": p.description} for p in in_force.policies],
            "in_force_here": in_force.revision >= state.revision,
        }

    async def list(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """The policies in force, and those in quarantine."""
        await self._refresh()
        in_force = await self._sets.in_force(by.tenant)
        return {
            "tenant": by.tenant,
            "revision": in_force.revision,
            "policies": [{"id": p.id, "description": p.description} for p in in_force.policies],
            "quarantined": [{"id": q.id, "line": q.line, "error": q.error} for q in in_force.quarantined],
        }

    async def show(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """The text of a revision."""
        wanted = msgspec.convert(params, ShowParams).revision
        state = await self._store.history(by.tenant)
        put = state.version(wanted) if wanted else state.in_force
        if put is None:
            raise NotFound("this tenant has no policy set", hint="nomos policy put --tenant T FILE")
        quarantined = load_policies(put.text, self._vocabulary, revision=put.revision).quarantined
        return {
            "tenant": by.tenant,
            "revision": put.revision,
            "sha256": put.sha256,
            "text": put.text,
            "quarantined": len(quarantined),
        }

    async def history(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """The revisions, newest first."""
        state = await self._store.history(by.tenant)
        return {"tenant": by.tenant, "revisions": state.listing()}
