"""Everything issued up to a moment is taken back by one fact, and nothing that can tell itself from it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nomos.ucan.cutoff import WHOLE_TENANT, Cutoffs, cutoff_of
from nomos.ucan.profile import LIFETIME_SECONDS_MAX, SKEW_SECONDS

seconds = st.integers(0, 2**40)
apps = st.sampled_from([WHOLE_TENANT, "triage", "release"])


@given(seconds, st.integers(0, 1_000), st.integers(1, LIFETIME_SECONDS_MAX), st.integers(-SKEW_SECONDS, SKEW_SECONDS))
def test_whatever_was_issued_before_is_cut_whatever_its_life_and_the_clocks_difference(
    at: int, age: int, ttl: int, skew: int
) -> None:
    cutoffs = Cutoffs()
    cutoffs.apply("acme", "triage", cutoff_of(at))
    assert cutoffs.is_cut("acme", ("triage",), at - age + skew + ttl)


def test_what_is_issued_when_clocks_can_differ_no_more_is_not_cut() -> None:
    cutoffs = Cutoffs()
    cutoffs.apply("acme", "triage", cutoff_of(1_000))
    first = 1_000 + SKEW_SECONDS + 1
    assert not cutoffs.is_cut("acme", ("triage",), first + LIFETIME_SECONDS_MAX)
    assert cutoffs.is_cut("acme", ("triage",), first - 1 + LIFETIME_SECONDS_MAX)


def test_an_app_is_cut_in_its_own_tenant_alone_and_a_tenant_with_every_app() -> None:
    cutoffs = Cutoffs()
    cutoffs.apply("acme", "triage", 100)
    assert cutoffs.is_cut("acme", ("release", "triage"), 100)
    for tenant, of in (("acme", ("release",)), ("acme", ()), ("beta", ("triage",))):
        assert not cutoffs.is_cut(tenant, of, 0)
    cutoffs.apply("acme", WHOLE_TENANT, 90)
    assert cutoffs.is_cut("acme", ("release",), 90)
    assert not cutoffs.is_cut("acme", ("release",), 91)
    assert not cutoffs.is_cut("beta", ("release",), 90)


@given(st.lists(st.tuples(apps, seconds), max_size=8), st.randoms(use_true_random=False), apps, seconds)
def test_facts_come_in_any_order_and_again_and_none_gives_anything_back(
    facts: list[tuple[str, int]], random: object, app: str, expires_at: int
) -> None:
    one, two = Cutoffs(), Cutoffs()
    shuffled = [*facts, *facts]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    for name, until in facts:
        one.apply("acme", name, until)
    for name, until in shuffled:
        two.apply("acme", name, until)
    assert one.is_cut("acme", (app,), expires_at) == two.is_cut("acme", (app,), expires_at)
    assert one.is_cut("acme", (app,), expires_at) == any(
        expires_at <= until for name, until in facts if name in (app, WHOLE_TENANT)
    )
