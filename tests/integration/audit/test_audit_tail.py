"""Reading a stream in order: all there is, once, and nothing before it is asked for."""

from __future__ import annotations

import asyncio
from typing import Any

from nats.aio.client import Client

from nomos_audit.streams import PULL_MESSAGES, Tail

SUBJECT = "intake.AP.batch"


async def store(client: Client, begin: int, end: int) -> None:
    js = client.jetstream()
    await asyncio.gather(*(js.publish(SUBJECT, b"%d" % number, timeout=20) for number in range(begin, end)))


async def pending(client: Client) -> int:
    """Messages that the stream holds and its only consumer was not sent."""
    (info,) = await client.jetstream().consumers_info("INTAKE")
    assert info.num_pending is not None
    return info.num_pending


async def test_what_is_stored_while_a_reader_does_not_ask_comes_in_one_go(stage: Any) -> None:
    client = await stage.connect()
    tail = Tail(client, "INTAKE", 0)
    await store(client, 0, 3)
    assert [one.seq for one in await tail.take(5)] == [1, 2, 3]
    await store(client, 3, 23)
    assert await pending(client) == 20
    assert tail.waiting() == 0
    assert [one.seq for one in await tail.take(0)] == list(range(4, 24))
    assert await tail.take(0) == []
    await tail.close()


async def test_a_reader_that_waits_is_given_the_next_message_when_it_is_stored(stage: Any) -> None:
    client = await stage.connect()
    tail = Tail(client, "INTAKE", 0)
    for seq in range(1, 6):
        waiting = asyncio.create_task(tail.take(20))
        await store(client, seq, seq + 1)
        assert [(one.seq, one.subject, one.payload) for one in await waiting] == [(seq, SUBJECT, b"%d" % seq)]
    # A wait that ended in vain goes on with the next one.
    assert await tail.take(0.05) == []
    await store(client, 6, 9)
    found = list(await tail.take(20))
    while len(found) < 3:
        found += await tail.take(20)
    assert [one.seq for one in found] == [6, 7, 8]
    await tail.close()


async def test_a_reader_that_is_far_behind_is_given_everything_in_order(stage: Any) -> None:
    client = await stage.connect()
    total = 2 * PULL_MESSAGES + 88
    await store(client, 0, total)
    tail = Tail(client, "INTAKE", 0)
    found: list[int] = []
    while len(found) < total:
        found += [one.seq for one in await tail.take(20)]
    assert found == list(range(1, total + 1))
    await tail.close()


async def test_a_sweep_that_ends_with_a_full_answer_is_followed_by_another(stage: Any) -> None:
    client = await stage.connect()
    await store(client, 0, PULL_MESSAGES)
    tail = Tail(client, "INTAKE", 0)
    assert len(await tail.take(20)) == PULL_MESSAGES
    assert await tail.take(0) == []
    await store(client, PULL_MESSAGES, PULL_MESSAGES + 1)
    assert [one.seq for one in await tail.take(20)] == [PULL_MESSAGES + 1]
    await tail.close()


async def test_a_reader_whose_consumer_was_forgotten_goes_on_from_its_position(stage: Any) -> None:
    client = await stage.connect()
    tail = Tail(client, "INTAKE", 0)
    await store(client, 0, 2)
    assert [one.seq for one in await tail.take(5)] == [1, 2]
    (info,) = await client.jetstream().consumers_info("INTAKE")
    await client.jetstream().delete_consumer("INTAKE", info.name)
    await store(client, 2, 4)
    assert [one.seq for one in await tail.take(20)] == [3, 4]
    await tail.close()
