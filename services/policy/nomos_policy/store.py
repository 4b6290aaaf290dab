"""The tenants' policy sets: versions in the event store, compiled sets in every replica by policy's own feed."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from typing import Final

from nomos.errors import NomosError
from nomos.events import POLICY_PUT, Actor, Envelope
from nomos.ids import OperatorId, TenantId, new_id
from nomos.messages import Fact
from nomos_policy.aggregate import PolicyHistory, PolicyPut, PutPolicySet, decide, evolve, parse_policy_put
from nomos_policy.policyset import CompiledSet, load_policies
from nomos_policy.vocabulary import Vocabulary
from nomos_runtime import observe
from nomos_runtime.eventstore import EventStore

STREAM = "policies"


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
        self._newest: dict[str, PolicyPut] = {}
        # Least recently used first; each is of the revision in _newest.
        self._compiled: OrderedDict[str, CompiledSet] = OrderedDict()
        self._text = 0
        self._part = 1
        self._compiling = asyncio.Lock()

    def apply(self, fact: Fact) -> None:
        """Folds one version. A replica never goes back to an older one."""
        if fact.type != POLICY_PUT:
            return
        put = parse_policy_put(fact.event)
        known = self._newest.get(fact.tenant)
        if known is None or put.revision > known.revision:
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


class PolicyStore:
    """The only writer of the tenants' policy histories."""

    def __init__(self, store: EventStore, vocabulary: Vocabulary) -> None:
        self._store = store
        self._vocabulary = vocabulary

    async def history(self, tenant: str) -> PolicyHistory:
        """All versions of ``tenant``."""
        state = PolicyHistory(tenant=TenantId(tenant))
        for stored in await self._store.load(tenant, STREAM):
            state = evolve(state, parse_policy_put(stored.envelope.event))
        return state

    async def put(self, tenant: str, text: str, actor: Actor, why: str, corr: str) -> PolicyHistory:
        """Validates ``text`` and puts it in force; returns when the change is in the journal.

        Raises:
            MalformedPolicy, LimitExceeded, Malformed: it is not accepted.
            Conflict: somebody else wrote meanwhile.
        """
        state = await self.history(tenant)
        command = PutPolicySet(text=text, actor=OperatorId(actor.id), why=why, expected_revision=state.revision)
        # Validation takes milliseconds and releases the GIL: decisions go on meanwhile.
        events = await asyncio.to_thread(
            decide, state, command, vocabulary=self._vocabulary, now_seconds=int(time.time())
        )
        for event in events:
            envelope = Envelope(
                id=new_id("ev"),
                type=POLICY_PUT,
                tenant=tenant,
                actor=actor,
                corr=corr,
                cause="",
                event=event.payload(),
            )
            await self._store.append(tenant, STREAM, state.revision, [envelope])
            state = evolve(state, event)
        return state
