"""Operators' verbs of policy: put, list, show, history, explain."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

import msgspec

from nomos.errors import NotFound
from nomos_policy.asked import facts_of
from nomos_policy.explain import explain
from nomos_policy.lint import warnings
from nomos_policy.policyset import load_policies
from nomos_policy.store import PolicySets, PolicyStore
from nomos_policy.vocabulary import Vocabulary
from nomos_runtime.directory import Directory
from nomos_runtime.responder import NoParams, Operator, Verb


class PutParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A policy set's text, and why it is put in force."""

    text: str
    why: str


class ShowParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A revision; 0 for the one in force."""

    revision: int = 0


class ExplainParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request to explain, as an agent would make it; ``cosigned``: as if a human had approved exactly it."""

    agent: str
    action: str
    resource: str
    arguments: dict[str, object] = {}
    connection: str = ""
    cosigned: bool = False


class PolicyAdmin:
    """The verbs, by name, in :meth:`verbs`."""

    def __init__(
        self,
        store: PolicyStore,
        sets: PolicySets,
        vocabulary: Vocabulary,
        directory: Directory,
        refresh: Callable[[], Awaitable[None]],
    ) -> None:
        self._store = store
        self._sets = sets
        self._vocabulary = vocabulary
        self._directory = directory
        self._refresh = refresh

    def verbs(self) -> dict[str, Verb]:
        """Verb name to parameters and handler."""
        return {
            "put": (PutParams, self.put),
            "list": (NoParams, self.list),
            "show": (ShowParams, self.show),
            "history": (NoParams, self.history),
            "explain": (ExplainParams, self.explain),
        }

    async def put(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """Validates a set and puts it in force; answers when it is in the journal and in force in this replica."""
        p = msgspec.convert(params, PutParams)
        state = await self._store.put(by.tenant, p.text, by.actor, p.why, by.request)
        await self._refresh()
        in_force = await self._sets.in_force(by.tenant)
        found = await asyncio.to_thread(warnings, in_force)
        return {
            "tenant": by.tenant,
            "revision": state.revision,
            "sha256": in_force.sha256,
            "policies": [{"id": p.id, "description": p.description} for p in in_force.policies],
            "in_force_here": in_force.revision >= state.revision,
            "warnings": msgspec.to_builtins(found),
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

    async def explain(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """What an agent's request would be answered, why, and what would change it. Decides and records nothing."""
        p = msgspec.convert(params, ExplainParams)
        await self._refresh()
        agent = self._directory.agent(by.tenant, p.agent)
        facts = facts_of(
            await self._sets.in_force(by.tenant),
            tenant=by.tenant,
            app=agent.app,
            agent=agent.agent,
            env=agent.env,
            action=p.action,
            resource=p.resource,
            args=p.arguments,
            connection=p.connection,
            cosigned=p.cosigned,
            now_seconds=int(time.time()),
        )
        found: dict[str, object] = msgspec.to_builtins(await asyncio.to_thread(explain, facts))
        return found
