"""The tenants' policy sets: versions in the event store, compiled sets in every replica by policy's own feed."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from nomos.errors import NomosError
from nomos.events import POLICY_PIECE, POLICY_PUT, Actor, Envelope
from nomos.ids import TenantId, new_id
from nomos.policytext import join_pieces
from nomos.servicemessages import Fact
from nomos_policy.aggregate import Command, decide, decide_pieces
from nomos_policy.history import (
    Event,
    PolicyHistory,
    PolicyPiece,
    PolicyPut,
    evolve,
    parse_event,
    type_of,
)
from nomos_policy.policyset import CompiledSet, load_policies
from nomos_policy.vocabulary import Vocabulary
from nomos_runtime import observe
from nomos_runtime.eventstore import EventStore

STREAM = "policies"
#: Types of events that a replica folds.
FOLLOWED: Final = (POLICY_PIECE, POLICY_PUT)

#: Characters of policy text that stay compiled in one replica; a compiled set needs some 15 bytes for each.
COMPILED_TEXT_MAX: Final = 24 * 1024 * 1024
#: Compiled sets that may each keep all the slices and evaluations that a set may; more sets share the same room.
FULL_SHARES: Final = 16
#: What is in force is compiled at start for so long, seconds; the rest at its tenant's first request.
START_SECONDS: Final = 5.0


class PolicySets:
    """The sets in force, compiled: the replica's fold. A tenant without one gets a set that permits nothing.

    A set is compiled in a thread, one at a time, when it is first asked for: decisions of other tenants go on. The sets
    that were asked for least recently are dropped when too much text is compiled, and compiled again when asked for; so
    a replica's memory is bounded whatever the number of tenants.
    """

    def __init__(self, vocabulary: Vocabulary, *, text_max: int = COMPILED_TEXT_MAX) -> None:
        self._vocabulary = vocabulary
        self._text_max = text_max
        self._nothing = load_policies("", vocabulary, revision=0)
        #: In force, each with its text.
        self._newest: dict[str, PolicyPut] = {}
        #: Tenant -> pieces of the set in force, and those that came since, by name.
        self._pieces: dict[str, dict[str, str]] = {}
        # Least recently used first; each is of the revision in _newest.
        self._compiled: OrderedDict[str, CompiledSet] = OrderedDict()
        self._text = 0
        self._part = 1
        self._compiling = asyncio.Lock()

    def apply(self, fact: Fact) -> None:
        """Folds one version. A replica never goes back to an older one."""
        if fact.type not in FOLLOWED:
            return
        put = parse_event(fact.type, fact.event)
        pieces = self._pieces.setdefault(fact.tenant, {})
        if isinstance(put, PolicyPiece):
            pieces[put.sha256] = put.text
            return
        if not isinstance(put, PolicyPut):
            return
        known = self._newest.get(fact.tenant)
        if known is None or put.revision > known.revision:
            names = frozenset(put.pieces or ())
            put = msgspec.structs.replace(put, text=_text_of(put, pieces))
            self._pieces[fact.tenant] = {name: pieces[name] for name in names}
            # The compiled set goes with its slices and evaluations. A replay of history compiles only what is in force.
            self._drop(fact.tenant)
            self._newest[fact.tenant] = put

    async def compile_all(self, seconds: float = START_SECONDS) -> None:
        """Compiles what is in force, for at most ``seconds``, so that few requests wait for it."""
        until = time.monotonic() + seconds
        for tenant, put in list(self._newest.items()):
            if time.monotonic() > until or self._text + len(put.text) > self._text_max:
                return
            try:
                await self.in_force(tenant)
            except NomosError as e:
                # Accepted once, not any more: this tenant's requests are refused, and nobody else's start is held up.
                observe.say("policy", observe.BACKGROUND_FAULT, error=e.code, tenant=tenant)

    @property
    def compiled(self) -> int:
        """Sets that are compiled now."""
        return len(self._compiled)

    def revision(self, tenant: str) -> int:
        """The newest revision that this replica has; 0 for none."""
        newest = self._newest.get(tenant)
        return 0 if newest is None else newest.revision

    async def in_force(self, tenant: str) -> CompiledSet:
        """The tenant's set: at once when it is compiled.

        Raises:
            NomosError: the stored text cannot be loaded at all.
        """
        found = self._known(tenant)
        if found is not None:
            return found
        async with self._compiling:
            # Another request of this tenant may have compiled it, or a newer version come, while this one waited.
            while (found := self._known(tenant)) is None:
                put = self._newest[tenant]
                compiled = await asyncio.to_thread(load_policies, put.text, self._vocabulary, revision=put.revision)
                if self._newest[tenant] is put:
                    self._keep(tenant, compiled)
        return found

    def _known(self, tenant: str) -> CompiledSet | None:
        found = self._compiled.get(tenant)
        if found is not None:
            self._compiled.move_to_end(tenant)
            return found
        return None if tenant in self._newest else self._nothing

    def _keep(self, tenant: str, compiled: CompiledSet) -> None:
        self._compiled[tenant] = compiled
        self._text += len(self._newest[tenant].text)
        while self._text > self._text_max and len(self._compiled) > 1:
            self._drop(next(iter(self._compiled)))
        part = 1
        while part * FULL_SHARES < len(self._compiled):
            part *= 2
        for one in self._compiled.values() if part != self._part else (compiled,):
            one.share(part)
        self._part = part

    def _drop(self, tenant: str) -> None:
        if self._compiled.pop(tenant, None) is not None:
            self._text -= len(self._newest[tenant].text)


def _text_of(put: PolicyPut, pieces: Mapping[str, str]) -> str:
    return put.text if put.pieces is None else join_pieces(put.pieces, pieces)


class PolicyStore:
    """The only writer of the tenants' policy histories."""

    def __init__(self, store: EventStore, vocabulary: Vocabulary) -> None:
        self._store = store
        self._vocabulary = vocabulary

    async def history(self, tenant: str) -> PolicyHistory:
        """All versions and drafts of ``tenant``."""
        return (await self._load(tenant))[0]

    async def do(self, tenant: str, command: Command, actor: Actor, corr: str) -> PolicyHistory:
        """Carries out a command; returns when what it makes happen is in the journal.

        Raises:
            MalformedPolicy, LimitExceeded, Malformed: it is not accepted.
            Conflict: it names another state than the one that is there, or somebody else wrote meanwhile.
            NotFound: it names what is not there.
        """
        state, version = await self._load(tenant)
        # Validation takes milliseconds and releases the GIL: decisions go on meanwhile.
        events = await asyncio.to_thread(
            decide, state, command, vocabulary=self._vocabulary, now_seconds=int(time.time())
        )
        return await self._append(state, version, events, actor, corr)

    async def keep_pieces(self, tenant: str, texts: tuple[str, ...], actor: Actor, corr: str) -> None:
        """Writes pieces of a text that is to be named; those that are there already are not written again.

        Raises:
            Conflict: somebody else wrote meanwhile.
            LimitExceeded: a piece is too long, or there are too many.
        """
        state, version = await self._load(tenant)
        await self._append(state, version, decide_pieces(state, texts), actor, corr)

    async def _load(self, tenant: str) -> tuple[PolicyHistory, int]:
        state, version = PolicyHistory(tenant=TenantId(tenant)), 0
        for stored in await self._store.load(tenant, STREAM):
            state = evolve(state, parse_event(stored.envelope.type, stored.envelope.event))
            version = stored.version
        return state, version

    async def _append(
        self, state: PolicyHistory, version: int, events: Sequence[Event], actor: Actor, corr: str
    ) -> PolicyHistory:
        envelopes = [
            Envelope(
                id=new_id("ev"),
                type=type_of(event),
                tenant=state.tenant,
                actor=actor,
                corr=corr,
                cause="",
                event=event.payload(),
            )
            for event in events
        ]
        if envelopes:
            # One transaction: a version never names a piece that is not there.
            await self._store.append(state.tenant, STREAM, version, envelopes)
        for event in events:
            state = evolve(state, event)
        return state
