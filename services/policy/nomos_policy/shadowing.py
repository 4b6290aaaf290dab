"""Evaluates tenants' shadows beside their decisions, and keeps what was compared.

    decision answered -> waiting (bounded) -> in pieces, between other work: the candidate's answer -> counts
                      -> now and then, one event for each tenant with what came since -> event store -> report

A decision never waits for this: what does not fit into the queue is counted as missed. Events come more rarely the more
was compared already, so their number grows with its logarithm and, at worst, by one each :data:`REPORT_SECONDS_MAX`.

Trusted: nothing here; a shadow's answers release nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict, deque
from typing import Final

import msgspec

from nomos.errors import Conflict, JournalUnavailable, LimitExceeded, MalformedRecord, NomosError, Revoked
from nomos.events import SHADOW_COMPARED, SHADOW_STARTED, SHADOW_STOPPED, Actor, Envelope
from nomos.ids import TenantId, new_id
from nomos.servicemessages import Fact
from nomos_policy.changes import Tally
from nomos_policy.decision import AuthorizeFacts, Decision, decide_batch
from nomos_policy.policyset import CompiledSet, load_policies
from nomos_policy.shadow import Compared, Report, Shadows, Started, Stopped, evolve, report, start, stop
from nomos_policy.store import PolicyStore
from nomos_policy.vocabulary import Vocabulary
from nomos_runtime import observe
from nomos_runtime.eventstore import EventStore

STREAM: Final = "shadows"
#: Decisions that wait to be compared in one replica.
WAITING_MAX: Final = 4_096
#: Decisions that are compared before whoever shares this loop is heard.
PIECE: Final = 16
#: Candidates that stay compiled in one replica.
COMPILED_MAX: Final = 16
#: The parts of a set's room for slices and evaluations that a candidate gets one of.
PART: Final = 4
#: Between two events of one replica about one shadow, at least; and at most while it compares anything.
REPORT_SECONDS_MIN: Final = 10.0
REPORT_SECONDS_MAX: Final = 600.0
#: An event comes early when so much was compared since the one before, in percent of all before.
REPORT_PERCENT: Final = 2


class _Waiting(msgspec.Struct, frozen=True):
    shadow: Started
    facts: AuthorizeFacts
    outcome: str
    decision: str


class _Counted:
    """What this replica has compared for one shadow and not yet said, and the stream in which it says it."""

    def __init__(self, tenant: str, shadow: Started, replica: str) -> None:
        self.tenant = tenant
        self.shadow = shadow
        self.stream = f"shadow/{shadow.shadow}/{replica}"
        self.version = 0
        self.tally = Tally()
        self.missed = 0
        self.said = 0
        self.said_at = time.monotonic()
        #: An event that may be stored or not: said again under the same version until it is clear.
        self.unclear: Envelope | None = None

    @property
    def pending(self) -> int:
        """Requests that no event is known to have said."""
        return self.tally.evaluated + self.missed + (self.unclear is not None)

    def is_due(self, now: float) -> bool:
        """Whether an event is to be written at ``now``, seconds of a steady clock."""
        if not self.pending or now - self.said_at < REPORT_SECONDS_MIN:
            return False
        is_much = self.pending * 100 >= self.said * REPORT_PERCENT
        return is_much or self.unclear is not None or now - self.said_at >= REPORT_SECONDS_MAX


class Shadowing:
    """The shadows of all tenants, in one replica."""

    def __init__(self, store: EventStore, policies: PolicyStore, vocabulary: Vocabulary) -> None:
        self._store = store
        self._policies = policies
        self._vocabulary = vocabulary
        self._replica = new_id("rp")
        self._shadows: dict[str, Shadows] = {}
        self._running: dict[str, Started] = {}
        self._waiting: deque[_Waiting] = deque()
        self._counted: dict[str, _Counted] = {}
        self._compiled: OrderedDict[str, CompiledSet] = OrderedDict()
        self._wake = asyncio.Event()
        self._saying = asyncio.Lock()
        self._comparing = asyncio.Lock()

    def apply(self, fact: Fact) -> None:
        """Folds one fact of policy's own."""
        if fact.type not in (SHADOW_STARTED, SHADOW_STOPPED):
            return
        state = self._shadows[fact.tenant] = evolve(self._shadows.get(fact.tenant, Shadows()), fact.type, fact.event)
        running = state.running(int(time.time()))
        if running is None:
            self._running.pop(fact.tenant, None)
        else:
            self._running[fact.tenant] = running

    def offer(self, facts: AuthorizeFacts, decision: Decision, decided: str) -> None:
        """Has a decision compared later, where its tenant has a shadow. Costs a look-up where it has none.

        Args:
            facts: what was decided.
            decision: the answer.
            decided: the decision's id.
        """
        shadow = self._running.get(facts.principal.tenant)
        if shadow is None:
            return
        if facts.now_seconds >= shadow.until:
            del self._running[facts.principal.tenant]
            return
        if len(self._waiting) >= WAITING_MAX:
            self._of(facts.principal.tenant, shadow).missed += 1
            return
        self._waiting.append(_Waiting(shadow, facts, decision.outcome.value, decided))
        self._wake.set()

    async def run(self) -> None:
        """Compares and says, for as long as the service lives."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REPORT_SECONDS_MIN):
                    await self._wake.wait()
            self._wake.clear()
            await self._compare()
            await self._say([one for one in self._counted.values() if one.is_due(time.monotonic())])
            running = {one.shadow for one in self._running.values()}
            for name in [name for name, one in self._counted.items() if name not in running and not one.pending]:
                del self._counted[name]

    async def start(self, tenant: str, actor: Actor, corr: str, *, draft: str, why: str, days: int) -> Started:
        """Starts a shadow; returns when that is in the journal.

        Raises:
            Conflict: one runs.
            LimitExceeded, Malformed: not accepted.
            NotFound: there is no such draft.
        """
        state, version = await self._load(tenant)
        saved = (await self._policies.history(tenant)).draft(draft)
        started = start(state, saved, why, shadow=new_id("sh"), days=days, now_seconds=int(time.time()))
        await self._append(tenant, version, SHADOW_STARTED, msgspec.to_builtins(started), actor=actor, corr=corr)
        return started

    async def stop(self, tenant: str, actor: Actor, corr: str, *, why: str) -> Stopped:
        """Stops the shadow that runs; returns when that is in the journal.

        Raises:
            NotFound: none runs.
            Malformed, LimitExceeded: the reason is not accepted.
        """
        state, version = await self._load(tenant)
        stopped = stop(state, why, now_seconds=int(time.time()))
        await self._append(tenant, version, SHADOW_STOPPED, msgspec.to_builtins(stopped), actor=actor, corr=corr)
        return stopped

    async def report(self, tenant: str, shadow: str) -> Report:
        """What a shadow has compared: of this replica up to now, of others up to their last event.

        Raises:
            NotFound: the tenant has none of that name.
        """
        await self._compare()
        await self._say([one for one in self._counted.values() if one.tenant == tenant])
        state, _ = await self._load(tenant)
        named = state.named(shadow)
        said = await self._store.load_matching(tenant, f"shadow/{named.shadow}/")
        return report(state, named, [one.envelope.event for one in said], now_seconds=int(time.time()))

    async def close(self) -> None:
        """Says what was compared and not said yet."""
        await self._say(list(self._counted.values()))

    async def _compare(self) -> None:
        """Compares what waits; returns when all of it is counted, whoever began with it."""
        async with self._comparing:
            while self._waiting:
                await self._compare_piece()
                await asyncio.sleep(0)

    async def _compare_piece(self) -> None:
        piece = [self._waiting.popleft() for _ in range(min(PIECE, len(self._waiting)))]
        for one in {waiting.shadow.shadow: waiting for waiting in piece}.values():
            await self._candidate(one.facts.principal.tenant, one.shadow)
        asked = [one for one in piece if one.shadow.shadow in self._compiled]
        answers = decide_batch(
            [msgspec.structs.replace(one.facts, policies=self._compiled[one.shadow.shadow]) for one in asked]
        )
        for one, answer in zip(asked, answers, strict=True):
            counted = self._of(one.facts.principal.tenant, one.shadow)
            counted.tally.add(one.facts, one.outcome, answer, one.decision)
        for one in piece:
            if one.shadow.shadow not in self._compiled:
                self._of(one.facts.principal.tenant, one.shadow).missed += 1

    async def _candidate(self, tenant: str, shadow: Started) -> None:
        """Has the candidate compiled; it is not, where it cannot be loaded at all."""
        if shadow.shadow in self._compiled:
            self._compiled.move_to_end(shadow.shadow)
            return
        try:
            state = await self._policies.history(tenant)
            saved = state.kept.get(shadow.sha256)
            if saved is None:
                raise MalformedRecord("the draft of a shadow was never saved")
            text = state.text_of(saved)
            compiled = await asyncio.to_thread(load_policies, text, self._vocabulary, revision=0)
        except NomosError as error:
            observe.say("policy", observe.BACKGROUND_FAULT, error=error.code, shadow=shadow.shadow)
            return
        compiled.share(PART)
        self._compiled[shadow.shadow] = compiled
        while len(self._compiled) > COMPILED_MAX:
            self._compiled.popitem(last=False)

    def _of(self, tenant: TenantId, shadow: Started) -> _Counted:
        found = self._counted.get(shadow.shadow)
        if found is None:
            found = self._counted[shadow.shadow] = _Counted(tenant, shadow, self._replica)
        return found

    async def _say(self, counted: list[_Counted]) -> None:
        async with self._saying:
            for one in counted:
                try:
                    await self._say_one(one)
                except Revoked:
                    # The tenant was erased: nothing is counted for it any more.
                    self._running.pop(one.tenant, None)
                    self._counted.pop(one.shadow.shadow, None)
                except LimitExceeded as error:
                    # No later try would be taken: it is gone, and the operator hears so.
                    observe.say("policy", observe.BACKGROUND_FAULT, error=error.code, shadow=one.shadow.shadow)
                    one.unclear = None
                    one.said_at = time.monotonic()
                except NomosError as error:
                    # It stays counted, and is said when the store and the journal are back.
                    observe.say("policy", observe.BACKGROUND_FAULT, error=error.code, shadow=one.shadow.shadow)
                    one.said_at = time.monotonic()

    async def _say_one(self, one: _Counted) -> None:
        if one.unclear is None:
            if not one.tally.evaluated + one.missed:
                return
            compared = Compared(
                shadow=one.shadow.shadow, changes=one.tally.summed(), missed=one.missed, at=int(time.time())
            )
            one.unclear = Envelope(
                id=new_id("ev"),
                type=SHADOW_COMPARED,
                tenant=one.tenant,
                actor=Actor(kind="service", id="policy"),
                corr=one.shadow.shadow,
                cause="",
                event=compared.payload(),
            )
            one.said += one.tally.evaluated + one.missed
            one.tally, one.missed = Tally(), 0
        # Only this replica writes this stream. What conflicts is there already, and what is not in the journal yet the
        # store publishes later.
        with contextlib.suppress(Conflict, JournalUnavailable):
            await self._store.append(one.tenant, one.stream, one.version, [one.unclear])
        one.version += 1
        one.unclear = None
        one.said_at = time.monotonic()

    async def _load(self, tenant: str) -> tuple[Shadows, int]:
        state, version = Shadows(), 0
        for stored in await self._store.load(tenant, STREAM):
            state, version = evolve(state, stored.envelope.type, stored.envelope.event), stored.version
        return state, version

    async def _append(
        self, tenant: str, version: int, kind: str, event: dict[str, object], *, actor: Actor, corr: str
    ) -> None:
        envelope = Envelope(id=new_id("ev"), type=kind, tenant=tenant, actor=actor, corr=corr, cause="", event=event)
        await self._store.append(tenant, STREAM, version, [envelope])
