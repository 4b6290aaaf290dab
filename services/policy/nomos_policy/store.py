"""The tenants' policy sets: versions in the event store, compiled sets in every replica by policy's own feed."""

from __future__ import annotations

import asyncio
import time

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


class PolicySets:
    """The sets in force, compiled: the replica's fold. A tenant without one gets a set that permits nothing."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._nothing = load_policies("", vocabulary, revision=0)
        self._newest: dict[str, PolicyPut] = {}
        self._compiled: dict[str, CompiledSet] = {}

    def apply(self, fact: Fact) -> None:
        """Folds one version. A replica never goes back to an older one."""
        if fact.type != POLICY_PUT:
            return
        put = parse_policy_put(fact.event)
        known = self._newest.get(fact.tenant)
        if known is None or put.revision > known.revision:
            self._newest[fact.tenant] = put
            # Compiled by the next request of this tenant, or by compile_all at start: a replay of history compiles
            # only what is in force.
            self._compiled.pop(fact.tenant, None)

    def compile_all(self) -> None:
        """Compiles what is in force, so that no request waits for it."""
        for tenant in self._newest:
            try:
                self.in_force(tenant)
            except NomosError as e:
                # Accepted once, not any more: this tenant's requests are refused, and nobody else's start is held up.
                observe.say("policy", observe.BACKGROUND_FAULT, error=e.code, tenant=tenant)

    def in_force(self, tenant: str) -> CompiledSet:
        """The tenant's set."""
        compiled = self._compiled.get(tenant)
        if compiled is None:
            put = self._newest.get(tenant)
            if put is None:
                return self._nothing
            compiled = self._compiled[tenant] = load_policies(put.text, self._vocabulary, revision=put.revision)
        return compiled


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
