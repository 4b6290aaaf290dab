"""The order of the whole suite: what is quick first, what starts and kills processes last.

The system tests share one installation for as long as they run; anything behind them would keep it standing idle.
"""

from __future__ import annotations

from pathlib import Path

import pytest

ORDER = ("architecture", "unit", "interop", "integration", "browser", "system", "differential")
HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sorts by folder; inside a folder the order stays."""

    def place(item: pytest.Item) -> int:
        return ORDER.index(item.path.relative_to(HERE).parts[0])

    items.sort(key=place)
