"""Of an agent that is refused in a loop so many refusals are recorded one by one, and no one is lost from the count."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomos_runtime import refusals
from nomos_runtime.refusals import KINDS_MAX, OTHER, SPAN_SECONDS, Spans


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def take(spans: Spans, number: int, *, agent: str = "bot", tenant: str = "acme", code: str = "rate_limited") -> str:
    return spans.take(tenant, agent, "invoke", code, f"ev_{number}")


def test_the_last_that_is_recorded_says_that_further_ones_are_counted(clock: Clock) -> None:
    spans = Spans(per_minute=3, clock=clock)
    assert [take(spans, n) for n in range(6)] == ["record", "record", "last", "count", "count", "count"]
    assert spans.over() == []
    clock.now += SPAN_SECONDS
    (counted,) = spans.over()
    assert (counted.tenant, counted.agent, counted.since, counted.cause) == ("acme", "bot", 1000, "ev_2")
    assert counted.kinds == {("invoke", "rate_limited"): 3}
    assert spans.over() == []


def test_each_agent_of_each_tenant_has_spans_of_its_own_and_a_new_one_after_a_minute(clock: Clock) -> None:
    spans = Spans(per_minute=1, clock=clock)
    for tenant, agent in (("acme", "a"), ("acme", "b"), ("globex", "a")):
        assert take(spans, 0, tenant=tenant, agent=agent) == "last"
        assert take(spans, 1, tenant=tenant, agent=agent) == "count"
    clock.now += SPAN_SECONDS
    assert take(spans, 2, agent="a") == "last"
    assert sorted((c.tenant, c.agent) for c in spans.over()) == [("acme", "a"), ("acme", "b"), ("globex", "a")]
    assert spans.over(all_of_them=True) == [], "of the new span nothing has been counted"


def test_what_could_not_be_recorded_is_recorded_later(clock: Clock) -> None:
    spans = Spans(per_minute=2, clock=clock)
    assert take(spans, 0) == "record"
    spans.unrecorded("acme", "bot")
    assert [take(spans, n) for n in range(1, 4)] == ["record", "last", "count"]
    counted = spans.over(all_of_them=True)
    spans.put_back(counted)
    assert spans.over() == counted
    spans.unrecorded("acme", "nobody")


def test_agents_beyond_the_bound_are_recorded_one_by_one(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "AGENTS_MAX", 2)
    spans = Spans(per_minute=1, clock=clock)
    for agent in ("a", "b"):
        take(spans, 0, agent=agent)
    assert [take(spans, n, agent="c") for n in range(3)] == ["record"] * 3
    assert take(spans, 1, agent="a") == "count"


def test_kinds_beyond_the_bound_are_counted_together(clock: Clock) -> None:
    spans = Spans(per_minute=1, clock=clock)
    for number in range(KINDS_MAX + 11):
        take(spans, number, code=f"code_{number}")
    take(spans, 0, code="code_1")
    (counted,) = spans.over(all_of_them=True)
    assert counted.kinds[OTHER] == 10
    assert counted.kinds["invoke", "code_1"] == 2
    assert sum(counted.kinds.values()) == KINDS_MAX + 11


@given(
    st.integers(1, 5),
    st.lists(st.tuples(st.integers(0, 40), st.sampled_from("ab"), st.booleans()), max_size=120),
)
def test_every_refusal_is_in_a_record_of_its_own_or_in_one_count(
    per_minute: int, coming: list[tuple[int, str, bool]]
) -> None:
    clock = Clock()
    spans, recorded, counted = Spans(per_minute=per_minute, clock=clock), Counter[str](), Counter[str]()
    within: dict[str, list[float]] = {"a": [], "b": []}
    for gap, agent, is_looked_for in coming:
        clock.now += gap
        if take(spans, 0, agent=agent) != "count":
            recorded[agent] += 1
            within[agent].append(clock.now)
        if is_looked_for:
            for one in spans.over():
                counted[one.agent] += sum(one.kinds.values())
    for one in spans.over(all_of_them=True):
        counted[one.agent] += sum(one.kinds.values())
    assert recorded + counted == Counter(agent for _, agent, _ in coming)
    # in no minute more than two spans' worth
    for times in within.values():
        for first in times:
            assert sum(first <= t < first + SPAN_SECONDS for t in times) <= 2 * per_minute
