"""The measurement ``audit`` in small: each part that a case names reaches the end of the log."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from nomos_audit.bench import CASES, STEADY, STEADY_PER_SECOND, _measure

CONNECTORS = Path(__file__).parents[3] / "connectors"


@pytest.mark.parametrize("case", ["signed, without copies", "everything"])
def test_bench_audit_measures_a_log_of_its_own(case: str, tmp_path: Path) -> None:
    row = asyncio.run(_measure(tmp_path, CONNECTORS, case, 300, 28))
    assert (row.case, row.records, row.batch, row.errors) == (case, 300, 28, {})
    assert row.seconds > 0
    assert row.per_second == pytest.approx(300 / row.seconds)
    assert row.cpu_us > 0
    assert set(row.behind) == set(row.after_seconds) == set(CASES[case])


@pytest.mark.parametrize("case", STEADY)
def test_a_steady_row_is_fed_at_its_pace_and_says_how_far_the_copies_fell_behind(case: str, tmp_path: Path) -> None:
    row = asyncio.run(_measure(tmp_path, CONNECTORS, case, 4_000, 256, steady=True))
    assert row.errors == {}
    assert row.seconds >= 3_800 / STEADY_PER_SECOND
    assert set(row.behind) == set(row.after_seconds) == set(STEADY[case])
    assert all(0 <= behind <= 4_000 for behind in row.behind.values())
