"""How an archiver waits for the table when it starts."""

from __future__ import annotations

import asyncio
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest

from nomos_audit import dayseals
from nomos_audit.dayseals import settled


class Busy:
    """A chain that grows whenever it is looked at, and a table that is always a little behind it."""

    def __init__(self) -> None:
        self._sizes = count(100, 10)
        self.newest = 0

    async def block(self, _: Any) -> Any:
        self.newest = next(self._sizes)
        return SimpleNamespace(payload=self.newest)

    @property
    def size(self) -> int:
        self.newest += 10
        return self.newest - 15


async def test_an_archiver_starts_although_the_table_never_reaches_the_newest_block(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    busy = Busy()

    async def state(client: Any, stream: str) -> Any:
        return SimpleNamespace(last_seq=7)

    monkeypatch.setattr(dayseals, "stream_state", state)
    monkeypatch.setattr(dayseals, "newest_block", busy.block)
    monkeypatch.setattr(dayseals, "parse_block", lambda size: SimpleNamespace(intake=7, size=size))
    monkeypatch.setattr(dayseals, "POLL_SECONDS", 0.0)
    async with asyncio.timeout(5):
        await settled(None, busy)  # type: ignore[arg-type] - nothing reads a client here
    assert busy.size >= 100


async def test_an_archiver_waits_until_what_was_journalled_before_is_in_the_table(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    table = SimpleNamespace(size=0)
    blocks = iter([(6, 90), (7, 100), (9, 200)])

    async def state(client: Any, stream: str) -> Any:
        return SimpleNamespace(last_seq=7)

    async def newest(_: Any) -> Any:
        return SimpleNamespace(payload=next(blocks))

    monkeypatch.setattr(dayseals, "stream_state", state)
    monkeypatch.setattr(dayseals, "newest_block", newest)
    monkeypatch.setattr(dayseals, "parse_block", lambda pair: SimpleNamespace(intake=pair[0], size=pair[1]))
    monkeypatch.setattr(dayseals, "POLL_SECONDS", 0.0)
    waiting = asyncio.create_task(settled(None, table))  # type: ignore[arg-type] - as above
    for size in (89, 90, 99):
        table.size = size
        await asyncio.sleep(0.01)
        assert not waiting.done(), size
    table.size = 100
    async with asyncio.timeout(5):
        await waiting
