"""The write-ahead journal on a real stream: what was confirmed is there once, in order, whatever the server does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from nomos.errors import JournalUnavailable, LimitExceeded
from nomos.events import Actor, Batch, Envelope
from nomos.ids import new_id
from nomos_runtime.bus import Bus
from nomos_runtime.journal import APPEND_BYTES_MAX, EVENT_BYTES_MAX, Journal, encode_event

_envelope = msgspec.msgpack.Decoder(Envelope)


def event(number: int, text: str = "") -> Envelope:
    return Envelope(
        id=new_id("ev"), type="test.made", tenant="acme", actor=Actor(kind="service", id="policy"), corr="", cause="",
        event={"number": number, "text": text},
    )  # fmt: skip


@asynccontextmanager
async def journal_of(servers: Any, *, timeout_ms: int = 2_000) -> AsyncIterator[Journal]:
    bus = await Bus.connect(service="policy", url=servers.local.nats.url, creds=servers.creds("policy"))
    journal = Journal(bus, timeout_ms=timeout_ms)
    try:
        yield journal
    finally:
        await journal.close()
        await bus.close()


def check_contiguous(batches: list[Batch]) -> list[int]:
    """The events' numbers; every counter of the producer is there once and in order."""
    at, numbers = 0, []
    for batch in batches:
        assert batch.n == at
        at += len(batch.e)
        numbers += [int(str(_envelope.decode(e).event["number"])) for e in batch.e]
    return numbers


async def test_events_of_concurrent_requests_ride_together_and_in_order(servers: Any) -> None:
    async with journal_of(servers) as journal:
        await asyncio.gather(*(journal.append([event(2 * i), event(2 * i + 1)]) for i in range(300)))
        batches = await servers.batches(journal.producer)
    assert check_contiguous(batches) == list(range(600))
    assert len(batches) < 30


async def test_a_cancelled_caller_takes_nothing_away_from_its_neighbours(servers: Any) -> None:
    async with journal_of(servers) as journal:
        tasks = [asyncio.create_task(journal.append([event(i)])) for i in range(20)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await journal.append([event(20)])
        numbers = check_contiguous(await servers.batches(journal.producer))
    assert set(range(1, 20, 2)) | {20} <= set(numbers)
    assert len(numbers) == len(set(numbers))


async def test_kill_9_of_the_server_loses_no_confirmed_event_and_repeats_none(servers: Any) -> None:
    confirmed: list[int] = []
    refused = 0
    killed = asyncio.Event()
    async with journal_of(servers, timeout_ms=300) as journal:

        async def work(worker: int) -> None:
            nonlocal refused
            for i in range(60):
                number = worker * 1_000 + i
                try:
                    await journal.append([event(number)])
                    confirmed.append(number)
                except JournalUnavailable:
                    refused += 1
                    await killed.wait()
                    await servers.until(lambda: not journal.stalled, "the journal to resume")

        async def kill() -> None:
            await servers.until(lambda: len(confirmed) > 20, "some confirmed events")
            servers.kill_nats()
            await servers.until(lambda: journal.stalled, "the journal to stall")
            with pytest.raises(JournalUnavailable):
                await journal.append([event(-1)])
            servers.start_nats()
            killed.set()

        await asyncio.gather(*(work(w) for w in range(8)), kill())
        await journal.append([event(-2)])
        batches = await servers.batches(journal.producer)
    numbers = check_contiguous(batches)
    assert refused > 0
    assert len(confirmed) > 300
    assert set(confirmed) <= set(numbers)
    assert len(numbers) == len(set(numbers)), "an event stands twice in the journal"
    assert -1 not in numbers


async def test_a_full_stream_refuses_loses_nothing_and_goes_on_when_there_is_room(servers: Any) -> None:
    await servers.purge()
    text, confirmed = "x" * 50_000, 0
    async with journal_of(servers) as journal:
        try:
            for i in range(200):
                await journal.append([event(i, text)])
                confirmed += 1
        except JournalUnavailable as e:
            assert e.cause
        assert 10 < confirmed < 200
        for _ in range(3):
            with pytest.raises(JournalUnavailable):
                await journal.append([event(-1, text)])
        # Refused with a code: nothing was stored, so the journal is not stalled and its counters have no gap.
        assert not journal.stalled
        kept = check_contiguous(await servers.batches(journal.producer))
        assert kept == list(range(confirmed))
        await servers.purge()
        await journal.append([event(confirmed)])
        (batch,) = await servers.batches(journal.producer)
    assert batch.n == confirmed


async def test_counters_whose_fate_is_unknown_are_never_used_again(servers: Any) -> None:
    await servers.purge()
    async with journal_of(servers, timeout_ms=250) as journal:
        before = journal.producer
        for i in range(70):
            await journal.append([event(i, "x" * 50_000)])
        last = len(check_contiguous(await servers.batches(before)))
        servers.kill_nats()
        with pytest.raises(JournalUnavailable):
            await journal.append([event(70, "x" * 55_000)])
        assert journal.stalled
        # While it is away somebody else fills what is left, so that the copy is refused with a code.
        servers.start_nats()
        async with journal_of(servers) as other:
            with pytest.raises(JournalUnavailable):
                for i in range(60):
                    await other.append([event(i, "x" * 50_000)])
        await servers.until(lambda: not journal.stalled, "the journal to know")
        await servers.purge()
        await journal.append([event(71)])
        after = await servers.batches(journal.producer)
    if journal.producer == before:
        # The copy came before the stream was full: it stands, and the counters go on behind it.
        assert after[-1].n == last + 1
    else:
        assert [b.n for b in after] == [0]


@pytest.mark.parametrize("text", ["x" * (EVENT_BYTES_MAX + 1), "\x01" * (EVENT_BYTES_MAX // 6 + 1)])
async def test_an_event_that_the_log_cannot_hold_is_refused_and_the_next_one_is_not(servers: Any, text: str) -> None:
    await servers.purge()
    async with journal_of(servers) as journal:
        with pytest.raises(LimitExceeded):
            await journal.append([event(0, text)])
        with pytest.raises(LimitExceeded):
            await journal.append_encoded([b"x" * (EVENT_BYTES_MAX + 1)])
        with pytest.raises(LimitExceeded):
            await journal.append_encoded([b"x" * 50_000] * (APPEND_BYTES_MAX // 50_000 + 1))
        await journal.append([event(1)])
        assert check_contiguous(await servers.batches(journal.producer)) == [1]


def test_the_largest_event_is_one_that_a_record_can_hold() -> None:
    assert encode_event(event(0, "x" * (EVENT_BYTES_MAX - 200)))
