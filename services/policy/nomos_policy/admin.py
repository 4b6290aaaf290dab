"""Operators' verbs that read a tenant's policies: list, show, history, draft-list, explain."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from nomos.errors import NotFound
from nomos_policy.asked import facts_of
from nomos_policy.changing import LISTED_MAX
from nomos_policy.explain import explain
from nomos_policy.history import DraftSaved, PolicyPut
from nomos_policy.policyset import load_policies
from nomos_policy.store import PolicySets, PolicyStore
from nomos_policy.vocabulary import Vocabulary
from nomos_runtime.directory import Directory
from nomos_runtime.responder import NoParams, Operator, Verb

#: Characters of a text in one answer.
SHOWN_CHARACTERS_MAX: Final = 200_000


class ListParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which policy of the set to begin with, from 0."""

    offset: int = 0


class ShowParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A revision (0 for the one in force) or a draft, and the character of its text to begin with."""

    revision: int = 0
    draft: str = ""
    offset: int = 0


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
            "list": (ListParams, self.list),
            "draft-list": (NoParams, self.drafts),
            "show": (ShowParams, self.show),
            "history": (NoParams, self.history),
            "explain": (ExplainParams, self.explain),
        }

    async def list(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """The policies in force, and those in quarantine."""
        offset = max(msgspec.convert(params, ListParams).offset, 0)
        await self._refresh()
        in_force = await self._sets.in_force(by.tenant)
        listed = in_force.policies[offset : offset + LISTED_MAX]
        return {
            "tenant": by.tenant,
            "revision": in_force.revision,
            "total": len(in_force.policies),
            "policies": [{"id": p.id, "description": p.description} for p in listed],
            "quarantined": [{"id": q.id, "line": q.line, "error": q.error} for q in in_force.quarantined[:LISTED_MAX]],
        }

    async def show(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """The text of a revision or draft, or as much of it as one answer carries: ask again from where it ends."""
        wanted = msgspec.convert(params, ShowParams)
        state = await self._store.history(by.tenant)
        shown: PolicyPut | DraftSaved | None
        if wanted.draft:
            shown, revision = state.draft(wanted.draft), 0
        else:
            shown = state.version(wanted.revision) if wanted.revision else state.in_force
            if shown is None:
                raise NotFound("this tenant has no policy set", hint="nomos policy put --tenant T FILE")
            revision = shown.revision
        text = state.text_of(shown)
        offset = max(wanted.offset, 0)
        quarantined = 0
        if not offset:
            loaded = await asyncio.to_thread(load_policies, text, self._vocabulary, revision=revision)
            quarantined = len(loaded.quarantined)
        return {
            "tenant": by.tenant,
            "revision": revision,
            "sha256": shown.sha256,
            "text": text[offset : offset + SHOWN_CHARACTERS_MAX],
            "length": len(text),
            "quarantined": quarantined,
        }

    async def drafts(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """The drafts, by name, without their texts."""
        state = await self._store.history(by.tenant)
        listed = [
            {name: value for name, value in draft.payload().items() if name not in ("text", "pieces")}
            for _, draft in sorted(state.drafts.items())
        ]
        return {"tenant": by.tenant, "revision": state.revision, "drafts": listed}

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
