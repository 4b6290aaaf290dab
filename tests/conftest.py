"""The order of the whole suite: what is quick first, what starts and kills processes last.

The system tests share one installation for as long as they run; anything behind them would keep it standing idle.

No test is timed: a property that is slow on a busy machine still holds. Speed is measured by the benchmarks.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

ORDER = ("architecture", "unit", "interop", "integration", "browser", "system", "differential")
HERE = Path(__file__).parent

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sorts by folder; inside a folder the order stays."""

    def place(item: pytest.Item) -> int:
        return ORDER.index(item.path.relative_to(HERE).parts[0])

    items.sort(key=place)
