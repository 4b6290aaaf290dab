"""Operators' verbs that change a tenant's policies: pieces, put, activate, rollback, draft-save, draft-discard.

A text that one message cannot carry is sent in pieces first (``pieces``), and then named by them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from nomos.errors import Malformed, MalformedRecord, NotFound
from nomos.ids import OperatorId
from nomos.policytext import join_pieces
from nomos_policy.aggregate import Activate, Command, DiscardDraft, PutPolicySet, RollBack, SaveDraft
from nomos_policy.lint import warnings
from nomos_policy.store import PolicySets, PolicyStore
from nomos_runtime.replicas import Replicas
from nomos_runtime.responder import Operator, Verb

#: Policies that an answer names; the rest is counted.
LISTED_MAX: Final = 500


class Text(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A policy text: itself, or the names of its pieces in order."""

    text: str = ""
    pieces: list[str] | None = None


class PiecesParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Pieces of a text that will be named."""

    texts: list[str]


class PutParams(Text, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A policy set's text, why it is put in force, and the revision that was edited, if that matters."""

    why: str
    if_revision: int | None = None
    wait: bool = True


class ActivateParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A draft, why it is put in force (empty: the draft's own reason), and what must be in force and in the draft."""

    draft: str
    why: str = ""
    if_revision: int | None = None
    if_sha256: str | None = None
    wait: bool = True


class RollBackParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The revision whose text is put in force again, and why."""

    to: int
    why: str
    if_revision: int | None = None
    wait: bool = True


class SaveParams(Text, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A draft's name and text, and the hash of the draft that was edited (empty: a new one), if that matters."""

    draft: str
    why: str
    if_sha256: str | None = None


class DiscardParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A draft, and why it ends."""

    draft: str
    why: str


class Spread:
    """Waits for a change to reach this replica, and every other one."""

    def __init__(
        self,
        replicas: Replicas,
        sets: PolicySets,
        refresh: Callable[[], Awaitable[None]],
        mine: Callable[[], int],
        *,
        wait_seconds: float,
    ) -> None:
        """Takes the replicas, the sets of this one and how to bring them up to date, and how long a change is awaited.

        Args:
            replicas: all of them.
            sets: of this replica.
            refresh: brings them up to date, within a second.
            mine: up to which number this replica has folded policy's facts.
            wait_seconds: how long a change is waited for, at most.
        """
        self._replicas = replicas
        self._sets = sets
        self._refresh = refresh
        self._mine = mine
        self._wait_seconds = wait_seconds

    async def wait(self, tenant: str, revision: int, *, everywhere: bool) -> tuple[bool, int, list[str]]:
        """Waits for a revision.

        Args:
            tenant: whose.
            revision: the new one.
            everywhere: whether other replicas are waited for too.

        Returns:
            Whether this replica has it; how many replicas are known to; and the labels of those that lag.
        """
        until = time.monotonic() + self._wait_seconds
        await self._refresh()
        while self._sets.revision(tenant) < revision and time.monotonic() < until:
            # Any replica may answer with the facts: one that hangs costs a time-out, perhaps more than once.
            await self._refresh()
        if self._sets.revision(tenant) < revision:
            return False, 0, []
        if not everywhere:
            return True, 1, []
        return True, *await self._replicas.wait_for(self._mine(), max(until - time.monotonic(), 0))


class ChangeAdmin:
    """The verbs, by name, in :meth:`verbs`."""

    def __init__(self, store: PolicyStore, sets: PolicySets, spread: Spread) -> None:
        self._store = store
        self._sets = sets
        self._spread = spread

    def verbs(self) -> dict[str, Verb]:
        """Verb name to parameters and handler."""
        return {
            "pieces": (PiecesParams, self.pieces),
            "put": (PutParams, self.put),
            "activate": (ActivateParams, self.activate),
            "rollback": (RollBackParams, self.rollback),
            "draft-save": (SaveParams, self.save),
            "draft-discard": (DiscardParams, self.discard),
        }

    async def pieces(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """Keeps pieces of a text; answers when they are in the journal."""
        p = msgspec.convert(params, PiecesParams)
        await self._store.keep_pieces(by.tenant, tuple(p.texts), by.actor, by.request)
        return {"tenant": by.tenant}

    async def put(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """Validates a set and puts it in force; answers when it is in the journal and every replica has it.

        With ``wait`` false it answers when this replica has it. Replicas that lag after a bounded wait are named.
        """
        p = msgspec.convert(params, PutParams)
        text = await self._text(by.tenant, p)
        actor = OperatorId(by.actor.id)
        return await self._change(
            by, p.wait, PutPolicySet(text=text, actor=actor, why=p.why, expected_revision=p.if_revision)
        )

    async def activate(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """Puts a draft in force; answers as ``put``."""
        p = msgspec.convert(params, ActivateParams)
        actor = OperatorId(by.actor.id)
        return await self._change(
            by,
            p.wait,
            Activate(
                draft=p.draft, actor=actor, why=p.why, expected_revision=p.if_revision, expected_sha256=p.if_sha256
            ),
        )

    async def rollback(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """Puts the text of an earlier revision in force, as a new one; answers as ``put``."""
        p = msgspec.convert(params, RollBackParams)
        actor = OperatorId(by.actor.id)
        return await self._change(
            by, p.wait, RollBack(to_revision=p.to, actor=actor, why=p.why, expected_revision=p.if_revision)
        )

    async def save(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """Validates a text and keeps it as a draft; answers when it is in the journal."""
        p = msgspec.convert(params, SaveParams)
        text = await self._text(by.tenant, p)
        actor = OperatorId(by.actor.id)
        command = SaveDraft(draft=p.draft, text=text, actor=actor, why=p.why, expected_sha256=p.if_sha256)
        state = await self._store.do(by.tenant, command, by.actor, by.request)
        draft = state.draft(p.draft)
        return {"tenant": by.tenant, "draft": draft.draft, "sha256": draft.sha256, "based_on": draft.based_on}

    async def discard(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """Ends a draft; answers when that is in the journal."""
        p = msgspec.convert(params, DiscardParams)
        command = DiscardDraft(draft=p.draft, actor=OperatorId(by.actor.id), why=p.why)
        await self._store.do(by.tenant, command, by.actor, by.request)
        return {"tenant": by.tenant, "draft": p.draft}

    async def _change(self, by: Operator, wait: bool, command: Command) -> dict[str, object]:
        state = await self._store.do(by.tenant, command, by.actor, by.request)
        is_here, applied, lagging = await self._spread.wait(by.tenant, state.revision, everywhere=wait)
        in_force = await self._sets.in_force(by.tenant)
        found = await asyncio.to_thread(warnings, in_force)
        return {
            "tenant": by.tenant,
            "revision": state.revision,
            "sha256": in_force.sha256,
            "policies": [{"id": p.id, "description": p.description} for p in in_force.policies[:LISTED_MAX]],
            "total": len(in_force.policies),
            "in_force_here": is_here,
            "replicas": applied,
            "lagging": lagging,
            "warnings": msgspec.to_builtins(found),
        }

    async def _text(self, tenant: str, given: Text) -> str:
        if given.pieces is None:
            return given.text
        if given.text:
            raise Malformed("a text is given itself or by its pieces, not both")
        state = await self._store.history(tenant)
        try:
            return join_pieces(given.pieces, state.pieces)
        except MalformedRecord as error:
            raise NotFound(error.detail, hint="send the pieces of a text before its names") from error
