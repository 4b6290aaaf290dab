"""Rates, a provider's wait, and circuits: what passes, what is refused, and that nobody else pays for it."""

from __future__ import annotations

import asyncio
import time
from email.utils import formatdate

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from nomos.catalogue import Rate
from nomos.errors import (
    CircuitOpen,
    DestinationRefused,
    LimitExceeded,
    RateLimited,
    Unavailable,
    UnknownOutcome,
    UpstreamFailed,
)
from nomos_proxy.answer import AnswerRefused, UpstreamResponse
from nomos_proxy.breaker import FAILURES_MAX, PAUSE_SECONDS, PAUSE_SECONDS_MAX, Breaker
from nomos_proxy.domain import CallPlan, ConnectionFacts, plan_call
from nomos_proxy.gate import RETRY_AFTER_SECONDS_MAX, Gate, GateLimits, retry_after_seconds
from nomos_proxy.pool import PoolFull
from nomos_proxy.rates import RATE_KEYS_MAX, SHARE_CALLS_MIN, Allowance, Place, Rates, divided

from .test_proxy_domain import CATALOGUE, CONNECTION, verified

WIDE = Rate(calls=1_000_000, seconds=1)


def plan(
    action: str = "github:repos.get", *, tenant: str = "acme", connection: str = "github", rate: Rate | None = None
) -> CallPlan:
    facts = ConnectionFacts(tenant=tenant, name=connection, connector="github")
    made = plan_call(verified(action), CATALOGUE, facts)
    return msgspec.structs.replace(
        made,
        action=msgspec.structs.replace(made.action, rate=rate),
        connector=msgspec.structs.replace(made.connector, rate=None),
    )


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def gate(clock: Clock, *, tenant: Rate = WIDE, agent: Rate = WIDE) -> Gate:
    return Gate(GateLimits(tenant=tenant, agent=agent), clock=clock)


def answer(status: int, **headers: str) -> UpstreamResponse:
    return UpstreamResponse(
        status=status, headers=tuple((k.replace("_", "-"), v) for k, v in headers.items()), body=b""
    )


# --- rates ------------------------------------------------------------------------------------------------------------
@given(st.integers(1, 8), st.integers(1, 30), st.lists(st.floats(0, 20, allow_nan=False), max_size=60))
def test_in_no_span_does_more_pass_than_a_burst_and_what_refilled(calls: int, seconds: int, gaps: list[float]) -> None:
    rates, now, passed = Rates(), 0.0, []
    allowance = Allowance(name="x", key=("x",), rate=Rate(calls=calls, seconds=seconds))
    for gap in gaps:
        now += gap
        try:
            rates.use("acme", [allowance], now)
        except RateLimited as refused:
            # what it says is true: just before it no call fits, and then one does
            probe = Rates()
            probe._full_at = {"acme": dict(rates._full_at["acme"])}
            if refused.retry_after_ms > 2:
                with pytest.raises(RateLimited):
                    probe.use("acme", [allowance], now + (refused.retry_after_ms - 2) / 1000)
            probe.use("acme", [allowance], now + refused.retry_after_ms / 1000)
        else:
            passed.append(now)
    for first in range(len(passed)):
        for last in range(first, len(passed)):
            span = passed[last] - passed[first]
            assert last - first + 1 <= calls + span * calls / seconds + 1e-3


def test_a_call_that_one_rate_refuses_uses_up_no_other() -> None:
    rates = Rates()
    tight = Allowance(name="tight", key=("tight",), rate=Rate(calls=1, seconds=10))
    wide = Allowance(name="wide", key=("wide",), rate=Rate(calls=3, seconds=10))
    rates.use("acme", [wide, tight], 0.0)
    for _ in range(50):
        with pytest.raises(RateLimited, match="tight is 1 calls in 10 seconds"):
            rates.use("acme", [wide, tight], 0.0)
    rates.use("acme", [wide], 0.0)
    rates.use("acme", [wide], 0.0)


def test_a_tenant_that_makes_up_keys_reaches_its_own_bound_and_nobody_elses() -> None:
    rates, slow = Rates(), Rate(calls=1, seconds=60)
    for number in range(RATE_KEYS_MAX):
        rates.use("flood", [Allowance(name="x", key=(str(number),), rate=slow)], 0.0)
    with pytest.raises(LimitExceeded):
        rates.use("flood", [Allowance(name="x", key=("one more",), rate=slow)], 1.0)
    rates.use("acme", [Allowance(name="x", key=("one",), rate=slow)], 1.0)
    # what is full again is forgotten
    rates.use("flood", [Allowance(name="x", key=("one more",), rate=slow)], 61.0)
    assert len(rates._full_at["flood"]) == 1


# --- over several replicas --------------------------------------------------------------------------------------------
@given(st.integers(1, 10_000), st.integers(1, 3_600), st.integers(2, 40))
def test_the_shares_of_a_rate_add_up_to_it_and_none_is_too_small(calls: int, seconds: int, count: int) -> None:
    one = Allowance(name="x", key=("x",), rate=Rate(calls=calls, seconds=seconds))
    places = [divided([one], Place(rank, count)) for rank in range(count)]
    if calls < SHARE_CALLS_MIN * count:
        # not one call of it is anybody's own: it is counted in one place, and the whole of it
        assert places == [([], [one])] * count
        return
    shares = [own[0].rate for own, shared in places if not shared]
    assert len(shares) == count
    assert sum(share.calls for share in shares) == calls
    assert {share.seconds for share in shares} == {seconds}
    assert min(share.calls for share in shares) >= SHARE_CALLS_MIN
    assert max(share.calls for share in shares) - min(share.calls for share in shares) <= 1


@given(
    st.integers(8, 40), st.integers(1, 30), st.integers(2, 5),
    st.lists(st.tuples(st.floats(0, 5, allow_nan=False), st.integers(0, 4)), max_size=80),
)  # fmt: skip
def test_whichever_replica_calls_come_to_no_more_pass_than_the_rate(
    calls: int, seconds: int, count: int, coming: list[tuple[float, int]]
) -> None:
    one = Allowance(name="x", key=("x",), rate=Rate(calls=max(calls, SHARE_CALLS_MIN * count), seconds=seconds))
    replicas, passed, now = [Rates() for _ in range(count)], [], 0.0
    for gap, which in coming:
        now, rank = now + gap, which % count
        own, _ = divided([one], Place(rank, count))
        try:
            replicas[rank].use("acme", own, now)
        except RateLimited as refused:
            assert f"is {one.rate.calls} calls in {seconds} seconds" in refused.detail, "the whole rate is named"
        else:
            passed.append(now)
    for first in range(len(passed)):
        for last in range(first, len(passed)):
            span = passed[last] - passed[first]
            assert last - first + 1 <= one.rate.calls + span * one.rate.calls / seconds + 1e-3


@given(st.integers(20, 60), st.integers(1, 4), st.integers(1, 4))
def test_while_replicas_come_and_go_at_most_a_share_more_passes_for_each_change(
    calls: int, before: int, after: int
) -> None:
    """At one moment: all that are there use up what they may, the others come or go, and they try again."""
    one = Allowance(name="x", key=("x",), rate=Rate(calls=calls, seconds=60))
    replicas = {rank: Rates() for rank in range(max(before, after))}

    def use_up(count: int) -> int:
        passed = 0
        for rank in range(count):
            own, _ = divided([one], Place(rank, count))
            for _ in range(calls + 1):
                try:
                    replicas[rank].use("acme", own, 0.0)
                except RateLimited:
                    break
                passed += 1
        return passed

    assert use_up(before) == calls
    largest = -(-calls // after)
    assert use_up(after) <= max(after - before, 0) * largest


def test_what_a_call_has_counted_is_taken_back_where_the_one_place_refuses_it(clock: Clock) -> None:
    """And where there is no such place it is not let through."""
    tight = Rate(calls=8, seconds=60)
    made = Gate(GateLimits(tenant=tight, agent=Rate(calls=7, seconds=60)), clock=clock, place=lambda: Place(0, 2))
    for _ in range(20):
        passage = made.enter("a", plan())
        with pytest.raises(Unavailable, match="cannot be counted here"):
            asyncio.run(passage.admit())
        passage.leave()


def test_what_is_no_call_is_divided_in_the_same_way(clock: Clock) -> None:
    made = Gate(GateLimits(tenant=WIDE, agent=WIDE), clock=clock, place=lambda: Place(1, 2))
    one = Allowance(name="the tenant's rate there", key=("there",), rate=Rate(calls=9, seconds=60))
    for _ in range(4):
        asyncio.run(made.admit_one("acme", one))
    with pytest.raises(RateLimited, match="the tenant's rate there is 9 calls in 60 seconds"):
        asyncio.run(made.admit_one("acme", one))
    asyncio.run(made.admit_one("other", one))
    with pytest.raises(Unavailable):
        asyncio.run(made.admit_one("acme", msgspec.structs.replace(one, rate=Rate(calls=2, seconds=60))))


def test_each_rate_counts_for_its_own(clock: Clock) -> None:
    one = gate(clock, agent=Rate(calls=2, seconds=10))
    for agent in ("a", "b"):
        for _ in range(2):
            one.enter(agent, plan())
        with pytest.raises(RateLimited, match="the agent's rate is 2 calls in 10 seconds") as refused:
            one.enter(agent, plan())
        assert refused.value.retry_after_ms == 5000
        assert refused.value.hint == "again in 5 seconds"
    one.enter("a", plan(tenant="other"))
    clock.now += 5
    one.enter("a", plan())


def test_a_tenant_has_a_rate_over_all_of_its_agents(clock: Clock) -> None:
    one = gate(clock, tenant=Rate(calls=3, seconds=1))
    for agent in ("a", "b", "c"):
        one.enter(agent, plan())
    with pytest.raises(RateLimited, match="the tenant's rate"):
        one.enter("d", plan())
    one.enter("a", plan(tenant="other"))


def test_an_action_has_the_rate_that_its_connector_says_for_each_connection(clock: Clock) -> None:
    one, slow = gate(clock), Rate(calls=1, seconds=60)
    one.enter("a", plan(rate=slow))
    with pytest.raises(RateLimited, match=r"the rate of github:repos\.get is 1 calls in 60 seconds"):
        one.enter("b", plan(rate=slow))
    one.enter("a", plan(connection="another", rate=slow))
    one.enter("a", plan("github:issues.list"))


# --- what a provider asks for -----------------------------------------------------------------------------------------
def test_a_provider_that_asks_to_wait_is_left_alone_for_that_connection(clock: Clock) -> None:
    one = gate(clock)
    one.enter("a", plan()).end(answer(429, retry_after="30"))
    with pytest.raises(RateLimited, match="the provider asked to wait") as refused:
        one.enter("b", plan())
    assert refused.value.retry_after_ms == 30_000
    one.enter("a", plan(connection="another"))
    one.enter("a", plan(tenant="other"))
    clock.now += 30
    one.enter("a", plan()).end(answer(200, retry_after="30"))
    one.enter("a", plan())


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("", 0),
        ("0", 0),
        ("7", 7),
        (" 7 ", 7),
        ("-7", 0),
        ("7.5", 0),
        ("99999999999999", 0),
        ("86400", RETRY_AFTER_SECONDS_MAX),
        ("soon", 0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", RETRY_AFTER_SECONDS_MAX),
        ("\u0667", 0),
    ],
)
def test_a_retry_after_is_read_or_ignored(value: str, seconds: float) -> None:
    assert retry_after_seconds(value) == seconds


def test_a_retry_after_may_be_a_date() -> None:
    assert 55 < retry_after_seconds(formatdate(time.time() + 60, usegmt=True)) <= 61


@given(st.text(max_size=40))
def test_any_retry_after_is_a_bounded_wait(value: str) -> None:
    assert 0 <= retry_after_seconds(value) <= RETRY_AFTER_SECONDS_MAX


# --- circuits ---------------------------------------------------------------------------------------------------------
class Circuits(RuleBasedStateMachine):
    """Against a model that keeps who runs: closed, or open until a moment, with at most one probe that counts."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = Breaker()
        self.now = 0.0
        self.running: list[int] = []
        self.probe = 0
        self.failures, self.open_until, self.pause = 0, None, PAUSE_SECONDS

    @rule(seconds=st.sampled_from([0.0, 0.3, 1.0, 2.5, 70.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def enter(self) -> None:
        may = self.open_until is None or (self.now >= self.open_until and not self.probe)
        try:
            entered = self.breaker.enter(self.now)
        except CircuitOpen as refused:
            assert not may
            assert 0 < refused.retry_after_ms <= PAUSE_SECONDS_MAX * 1000
            return
        assert may
        assert bool(entered) == (self.open_until is not None)
        self.probe = entered or self.probe
        self.running.append(entered)

    def ended(self, data: st.DataObject) -> bool:
        """Takes one of those that run; whether it is the probe that counts."""
        self.ending = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        is_probe = self.ending != 0 and self.ending == self.probe
        if is_probe:
            self.probe = 0
        return is_probe

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def succeed(self, data: st.DataObject) -> None:
        self.ended(data)
        self.breaker.succeeded()
        self.failures, self.open_until, self.pause, self.probe = 0, None, PAUSE_SECONDS, 0

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        is_probe = self.ended(data)
        self.breaker.failed(self.now, probe=self.ending)
        self.failures += 1
        if is_probe:
            self.pause = min(self.pause * 2, PAUSE_SECONDS_MAX)
            self.open_until = self.now + self.pause
        elif self.open_until is None and self.failures >= FAILURES_MAX:
            self.open_until = self.now + self.pause

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        self.ended(data)
        self.breaker.left(probe=self.ending)


def test_a_probe_that_a_success_overtook_neither_opens_the_circuit_nor_ends_a_later_probe() -> None:
    breaker = Breaker()
    calls = [breaker.enter(0.0) for _ in range(FAILURES_MAX + 1)]
    for call in calls[1:]:
        breaker.failed(0.0, probe=call)
    first = breaker.enter(PAUSE_SECONDS)
    breaker.succeeded()
    breaker.failed(PAUSE_SECONDS, probe=first)
    # closed: one failure is not enough
    for _ in range(FAILURES_MAX - 1):
        breaker.failed(PAUSE_SECONDS, probe=breaker.enter(PAUSE_SECONDS))
    second = breaker.enter(2 * PAUSE_SECONDS)
    assert second > first
    breaker.left(probe=first)
    with pytest.raises(CircuitOpen):
        breaker.enter(2 * PAUSE_SECONDS)


TestCircuits = Circuits.TestCase


FAILURES = [
    UpstreamFailed("not reached"),
    UnknownOutcome("no answer"),
    answer(502),
    answer(503),
    answer(504),
]


@pytest.mark.parametrize("how", FAILURES, ids=repr)
def test_failures_in_a_row_open_the_circuit_of_one_tenant(clock: Clock, how: object) -> None:
    one = gate(clock)
    for _ in range(FAILURES_MAX):
        one.enter("a", plan()).end(how)  # type: ignore[arg-type]
    with pytest.raises(CircuitOpen):
        one.enter("a", plan(connection="another"))
    one.enter("a", plan(tenant="other"))
    clock.now += PAUSE_SECONDS
    probe = one.enter("a", plan())
    with pytest.raises(CircuitOpen):
        one.enter("a", plan())
    probe.end(answer(200))
    one.enter("a", plan())


@pytest.mark.parametrize(
    "how",
    [answer(200), answer(404), answer(500), DestinationRefused("x"), PoolFull("x"), AnswerRefused("too long", 200)],
)
def test_what_is_no_failure_of_the_upstream_opens_nothing(clock: Clock, how: object) -> None:
    one = gate(clock)
    for _ in range(3 * FAILURES_MAX):
        one.enter("a", plan()).end(how)  # type: ignore[arg-type]
    one.enter("a", plan())


def test_a_probe_that_never_reached_the_upstream_is_made_again(clock: Clock) -> None:
    one = gate(clock, agent=Rate(calls=FAILURES_MAX + 2, seconds=100))
    for _ in range(FAILURES_MAX):
        one.enter("a", plan()).end(UnknownOutcome("x"))
    clock.now += PAUSE_SECONDS
    one.enter("a", plan()).leave()
    # refused by a rate while it held the probe
    one.enter("a", plan()).leave()
    with pytest.raises(RateLimited):
        one.enter("a", plan())
    one.enter("b", plan()).end(answer(200))


def test_a_closed_tenant_leaves_nothing_behind(clock: Clock) -> None:
    one = gate(clock, agent=Rate(calls=1, seconds=100))
    one.enter("a", plan()).end(answer(429, retry_after="60"))
    one.forget("acme")
    one.enter("a", plan())


def test_the_connection_of_the_plan_is_what_counts() -> None:
    assert plan().connection == CONNECTION
