"""The measurement measures decisions that are right, and says so when they are not."""

from __future__ import annotations

import pytest

from nomos_policy import bench
from nomos_policy.slicing import ScopeIndex


@pytest.fixture
def sets(vocabulary):
    return [bench._compile(vocabulary, (*bench._GENERAL, *bench._grants(more))) for more in (0, 200)]


def test_a_slice_is_measured_against_the_answers_of_all_policies(sets) -> None:
    rows = bench.measure([("sliced", one) for one in sets], 0.0)
    assert [row.policies for row in rows] == [10, 210]
    assert [row.errors for row in rows] == [{}, {}]
    # The grant of the agent that asks, and nobody else's.
    assert rows[1].met == rows[0].met + 1


def test_a_slice_that_lacks_a_policy_makes_the_figures_worthless(sets, monkeypatch) -> None:
    found = ScopeIndex.candidates
    monkeypatch.setattr(ScopeIndex, "candidates", lambda self, *request: found(self, *request)[:1])
    assert all(row.errors for row in bench.measure([("sliced", one) for one in sets], 0.0))


async def test_tenants_are_started_and_asked(vocabulary, monkeypatch) -> None:
    monkeypatch.setattr(bench, "TENANTS", 3)
    row = await bench.measure_tenants(vocabulary, "\n".join(bench._GENERAL), seconds=30)
    assert (row.tenants, row.policies, row.compiled_at_start, row.asked) == (3, 10, 3, 3)


def test_a_large_tenants_text_is_as_long_as_it_says(compiled) -> None:
    text = bench._full_text()
    assert len(compiled(text).policies) > 200
    assert bench.TENANT_TEXT - len(text.encode()) < 512
