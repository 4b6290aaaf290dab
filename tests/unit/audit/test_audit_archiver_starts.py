"""How an archiver waits for the table when it starts."""

from __future__ import annotations

import asyncio
from itertools import count
from types import SimpleNamespace
from typing import Any

import pytest

from nomos_audit import archiver
from nomos_audit.archiver import Archiver


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

    monkeypatch.setattr(archiver, "stream_state", state)
    monkeypatch.setattr(archiver, "newest_block", busy.block)
    monkeypatch.setattr(archiver, "parse_block", lambda size: SimpleNamespace(intake=7, size=size))
    monkeypatch.setattr(archiver, "POLL_SECONDS", 0.0)
    made = object.__new__(Archiver)
    made._client, made._projected = None, busy  # type: ignore[assignment]
    async with asyncio.timeout(5):
        await made._settle()
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

    monkeypatch.setattr(archiver, "stream_state", state)
    monkeypatch.setattr(archiver, "newest_block", newest)
    monkeypatch.setattr(archiver, "parse_block", lambda pair: SimpleNamespace(intake=pair[0], size=pair[1]))
    monkeypatch.setattr(archiver, "POLL_SECONDS", 0.0)
    made = object.__new__(Archiver)
    made._client, made._projected = None, table  # type: ignore[assignment]
    waiting = asyncio.create_task(made._settle())
    for size in (89, 90, 99):
        table.size = size
        await asyncio.sleep(0.01)
        assert not waiting.done(), size
    table.size = 100
    async with asyncio.timeout(5):
        await waiting
