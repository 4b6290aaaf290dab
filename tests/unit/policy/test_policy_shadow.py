"""A shadow: when it may start and ends, what it counts, and that a decision never waits for it."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any

import msgspec
import pytest

from nomos.errors import (
    Conflict,
    JournalUnavailable,
    LimitExceeded,
    Malformed,
    NotFound,
    Revoked,
    Unavailable,
)
from nomos.events import SHADOW_COMPARED, SHADOW_STARTED, SHADOW_STOPPED, Actor
from nomos.ids import OperatorId
from nomos.servicemessages import Fact
from nomos_policy import shadowing as module
from nomos_policy.aggregate import SaveDraft
from nomos_policy.changes import EXAMPLES_MAX, NAMES_MAX, OTHERS, Tally, joined
from nomos_policy.decision import decide
from nomos_policy.history import DraftSaved
from nomos_policy.shadow import SHADOW_DAYS_MAX, Shadows, evolve, start, stop
from nomos_policy.shadowing import Shadowing
from nomos_policy.store import PolicyStore

NOW = 1_800_000_000
DAY = 86_400
ANN = Actor(kind="operator", id="ann")
NOTHING = Shadows()
OPEN = '@id("open") permit (principal, action in [Action::"risk:read", Action::"risk:write"], resource);'
SHUT = '@id("shut") forbid (principal, action, resource);'


class Store:
    """An event store in memory; ``fails`` says what the next appends do."""

    def __init__(self) -> None:
        self.streams: dict[tuple[str, str], list[Any]] = defaultdict(list)
        self.fails: list[tuple[Exception, bool]] = []
        self.facts: list[Fact] = []

    async def append(self, tenant: str, stream: str, version: int, envelopes: list[Any]) -> None:
        error, is_stored = self.fails.pop(0) if self.fails else (None, True)
        there = self.streams[tenant, stream]
        if len(there) != version:
            raise Conflict("moved")
        if is_stored:
            there += envelopes
            self.facts += [Fact(rev=1, type=e.type, tenant=tenant, event=e.event) for e in envelopes]
        if error is not None:
            raise error

    async def load(self, tenant: str, stream: str) -> list[Any]:
        return [_Stored(version=n, envelope=e) for n, e in enumerate(self.streams[tenant, stream], 1)]

    async def load_matching(self, tenant: str, prefix: str) -> list[Any]:
        found = [(key, some) for key, some in self.streams.items() if key[0] == tenant and key[1].startswith(prefix)]
        return [_Stored(version=0, envelope=e) for _, some in found for e in some]

    def compared(self) -> list[dict[str, Any]]:
        return [fact.event for fact in self.facts if fact.type == SHADOW_COMPARED]


class _Stored(msgspec.Struct):
    version: int
    envelope: Any


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds; Unix time is NOW after them."""
    seconds = [0.0]
    monkeypatch.setattr(module.time, "time", lambda: NOW + seconds[0])
    monkeypatch.setattr(module.time, "monotonic", lambda: seconds[0])
    return seconds


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
async def shadowing(store: Store, vocabulary: Any, clock: list[float]) -> Shadowing:
    return Shadowing(store, PolicyStore(store, vocabulary), vocabulary)  # type: ignore[arg-type]


async def _started(shadowing: Shadowing, store: Store, text: str = SHUT, days: int = 1) -> str:
    await _save(shadowing, text)
    started = await shadowing.start("acme", ANN, "rq", draft="next", why="try", days=days)
    shadowing.apply(store.facts[-1])
    return started.shadow


async def _save(shadowing: Shadowing, text: str, tenant: str = "acme") -> None:
    command = SaveDraft(draft="next", text=text, actor=OperatorId("ann"), why="try")
    await shadowing._policies.do(tenant, command, ANN, "rq")


def _offer(shadowing: Shadowing, ask: Any, compiled: Any, number: int = 1, **more: Any) -> None:
    facts = ask(compiled(OPEN), now_seconds=NOW, **more)
    for _ in range(number):
        shadowing.offer(facts, decide(facts), "dc_1")


# --- the rules ------------------------------------------------------------------------------------------------------


DRAFT = DraftSaved(draft="next", sha256="0" * 64, text=SHUT, actor="ann", why="try", at=NOW, based_on=0)


def _start(state: Shadows = NOTHING, why: str = "try", days: int = 1) -> Any:
    return start(state, DRAFT, why, shadow="sh_1", days=days, now_seconds=NOW)


def test_one_shadow_runs_at_a_time_until_it_is_stopped_or_over() -> None:
    started = _start()
    state = evolve(Shadows(), SHADOW_STARTED, msgspec.to_builtins(started))
    with pytest.raises(Conflict, match="the shadow sh_1 runs"):
        _start(state)
    assert state.running(NOW + DAY - 1) == started
    assert state.running(NOW + DAY) is None
    stopped = evolve(state, SHADOW_STOPPED, msgspec.to_builtins(stop(state, "tried", now_seconds=NOW)))
    assert stopped.running(NOW) is None
    _start(stopped)
    for ended in (stopped, Shadows()):
        with pytest.raises(NotFound, match="no shadow runs"):
            stop(ended, "tried", now_seconds=NOW)
    with pytest.raises(NotFound, match="has no shadow sh_2"):
        stopped.named("sh_2")


@pytest.mark.parametrize(
    ("more", "error"),
    [
        ({"why": " "}, Malformed),
        ({"days": 0}, LimitExceeded),
        ({"days": SHADOW_DAYS_MAX + 1}, LimitExceeded),
    ],
)
def test_what_is_no_shadow_is_refused(more, error) -> None:
    with pytest.raises(error):
        _start(**more)


async def test_a_shadow_is_of_a_draft_that_is_there(shadowing) -> None:
    with pytest.raises(NotFound, match="no such draft"):
        await shadowing.start("acme", ANN, "rq", draft="next", why="try", days=1)


async def test_a_shadow_keeps_the_text_that_the_draft_had(shadowing, store, ask, compiled) -> None:
    await _started(shadowing, store)
    await _save(shadowing, OPEN)
    _offer(shadowing, ask, compiled)
    assert (await shadowing.report("acme", "")).changes.changed == 1


def test_counts_are_bounded_and_sum_up(vocabulary, ask, compiled) -> None:
    shut, tallies = compiled(SHUT), []
    for half in (0, 1):
        tally = Tally()
        for number in range(NAMES_MAX + 5):
            facts = ask(compiled(OPEN), resource=f"github:repo/acme/site-{half}-{number}")
            tally.add(facts, "allow", decide(msgspec.structs.replace(facts, policies=shut)), "dc_1")
        tallies.append(tally.summed())
    summed = joined(tallies)
    total = 2 * (NAMES_MAX + 5)
    assert (summed.evaluated, summed.changed, summed.by_answer) == (total, total, {"allow -> deny": total})
    assert len(summed.by_resource) == NAMES_MAX + 1
    assert summed.by_resource[OTHERS] == total - NAMES_MAX
    assert len(summed.examples) == EXAMPLES_MAX


# --- in a replica ---------------------------------------------------------------------------------------------------


async def test_what_differs_is_counted_and_reported(shadowing, store, ask, compiled) -> None:
    shadow = await _started(shadowing, store)
    _offer(shadowing, ask, compiled, 3)
    _offer(shadowing, ask, compiled, action="github:repos.delete")
    found = await shadowing.report("acme", "")
    assert (found.shadow, found.running, found.missed) == (shadow, True, 0)
    assert (found.changes.evaluated, dict(found.changes.by_answer)) == (4, {"allow -> deny": 3})
    assert found.changes.examples[0].policies == ("shut",)
    assert [one["changed"] for one in store.compared()] == [3]
    # A second report says nothing twice.
    assert (await shadowing.report("acme", shadow)).changes.evaluated == 4
    assert len(store.compared()) == 1


async def test_without_a_shadow_or_after_its_end_nothing_is_kept(shadowing, store, ask, compiled, clock) -> None:
    _offer(shadowing, ask, compiled)
    assert not shadowing._waiting
    await _started(shadowing, store)
    clock[0] = DAY
    facts = ask(compiled(OPEN), now_seconds=NOW + DAY)
    shadowing.offer(facts, decide(facts), "dc_1")
    assert not shadowing._waiting
    other = ask(compiled(OPEN), tenant="other")
    shadowing.offer(other, decide(other), "dc_1")
    assert not shadowing._waiting
    report = await shadowing.report("acme", "")
    assert (report.running, report.ended_at) == (False, NOW + DAY)


async def test_what_does_not_fit_is_missed_and_said(shadowing, store, ask, compiled, monkeypatch) -> None:
    monkeypatch.setattr(module, "WAITING_MAX", 5)
    await _started(shadowing, store)
    _offer(shadowing, ask, compiled, 8)
    found = await shadowing.report("acme", "")
    assert (found.changes.evaluated, found.missed) == (5, 3)


async def test_events_come_more_rarely_the_more_was_said(shadowing, store, ask, compiled, clock) -> None:
    await _started(shadowing, store)
    running = asyncio.create_task(shadowing.run())

    async def after(seconds: float, number: int) -> int:
        clock[0] += seconds
        _offer(shadowing, ask, compiled, number)
        while shadowing._waiting or shadowing._wake.is_set():
            await asyncio.sleep(0)
        async with shadowing._comparing, shadowing._saying:
            pass
        for _ in range(10):
            await asyncio.sleep(0)
        return len(store.compared())

    try:
        assert await after(1, 1) == 0, "too early"
        assert await after(10, 999) == 1
        assert await after(10, 1) == 1, "below two percent of what was said"
        assert await after(10, 30) == 2
        assert await after(10, 1) == 2
        assert await after(600, 1) == 3, "late enough"
    finally:
        running.cancel()
    assert sum(one["evaluated"] for one in store.compared()) == 1033


@pytest.mark.parametrize(
    ("error", "is_stored"),
    [(JournalUnavailable("away"), True), (Unavailable("away"), True), (Unavailable("away"), False)],
)
async def test_what_could_not_be_said_is_said_once(shadowing, store, ask, compiled, error, is_stored) -> None:
    await _started(shadowing, store)
    _offer(shadowing, ask, compiled, 3)
    store.fails = [(error, is_stored)]
    await shadowing.report("acme", "")
    _offer(shadowing, ask, compiled, 2)
    await shadowing.report("acme", "")
    found = await shadowing.report("acme", "")
    assert found.changes.evaluated == 5


async def test_an_event_that_no_try_could_store_is_not_tried_for_ever(shadowing, store, ask, compiled, capsys) -> None:
    await _started(shadowing, store)
    _offer(shadowing, ask, compiled, 3)
    store.fails = [(LimitExceeded("size of an event", 1), False)]
    await shadowing.report("acme", "")
    assert "limit_exceeded" in "".join(capsys.readouterr())
    _offer(shadowing, ask, compiled, 2)
    found = await shadowing.report("acme", "")
    assert (found.changes.evaluated, len(store.compared())) == (2, 1)


async def test_an_erased_tenants_shadow_ends(shadowing, store, ask, compiled) -> None:
    await _started(shadowing, store)
    _offer(shadowing, ask, compiled)
    store.fails = [(Revoked("erased"), False)]
    await shadowing.report("acme", "")
    _offer(shadowing, ask, compiled)
    assert not shadowing._waiting


async def test_a_candidate_is_compiled_again_after_others(
    shadowing, store, vocabulary, ask, compiled, monkeypatch
) -> None:
    monkeypatch.setattr(module, "COMPILED_MAX", 1)
    shadow = await _started(shadowing, store)
    await _save(shadowing, OPEN, "other")
    draft = (await shadowing._policies.history("other")).draft("next")
    other = start(NOTHING, draft, "try", shadow="sh_other", days=1, now_seconds=NOW)
    shadowing.apply(Fact(rev=1, type=SHADOW_STARTED, tenant="other", event=msgspec.to_builtins(other)))
    for tenant in ("acme", "other", "acme"):
        _offer(shadowing, ask, compiled, tenant=tenant)
        await shadowing._compare()
    assert len(shadowing._compiled) == 1
    assert {name: one.tally.evaluated for name, one in shadowing._counted.items()} == {shadow: 2, "sh_other": 1}
