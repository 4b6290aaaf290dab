"""The single writer on a real server: one writer, then standbys, then everything that can go wrong between them."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import Any

import pytest

from nomos.errors import Fenced, Misconfigured, RolledBack
from nomos_audit import streams
from nomos_audit.batch import Delivery
from nomos_audit.block import STREAM, SUBJECT, encode_block, parse_block
from nomos_audit.follow import load_head
from nomos_audit.streams import Tail, append, message_at, stream_state
from nomos_audit.writer import State, Writer


def numbers(found: list[dict[str, Any]]) -> list[int]:
    return [one["event"]["number"] for one in found if one["type"] == "test.decision"]


async def test_events_become_records_once_and_in_the_journals_order(stage: Any) -> None:
    client = await stage.connect()
    writer, _ = await stage.writer()
    for batch in range(20):
        await stage.journal(client, "p1", batch * 5, [stage.envelope(batch * 5 + i) for i in range(5)])
    await stage.until(lambda: stage.is_consumed(client), "the journal to be consumed")
    found = await stage.read_chain(client)
    assert numbers(found) == list(range(100))
    assert [one["seq"] for one in found] == list(range(100))
    assert [one["tseq"] for one in found] == list(range(100))
    assert writer.is_active


async def test_a_journal_that_was_filled_while_no_writer_ran_is_chained_in_few_blocks(stage: Any) -> None:
    client = await stage.connect()
    for batch in range(50):
        await stage.journal(client, "p1", batch, [stage.envelope(batch)])
    await stage.writer()
    await stage.until(lambda: stage.is_consumed(client), "the journal to be consumed")
    assert (await stream_state(client, STREAM)).last_seq < 10
    assert numbers(await stage.read_chain(client)) == list(range(50))


async def test_a_restarted_writer_goes_on_where_the_chain_ends(stage: Any) -> None:
    client = await stage.connect()
    for round_ in range(3):
        _, task = await stage.writer(f"w{round_}", snapshot_every=3)
        for batch in range(8):
            await stage.journal(client, "p1", round_ * 8 + batch, [stage.envelope(round_ * 8 + batch)])
        await stage.until(lambda: stage.is_consumed(client), "the journal to be consumed")
        await stage.stop_task(task)
    assert numbers(await stage.read_chain(client)) == list(range(24))
    head = await load_head(client, stage.origin)
    assert head.heads_at > 1
    assert head.tenants["acme"].next == 24


async def test_the_journal_sent_again_as_a_whole_adds_nothing(stage: Any) -> None:
    client = await stage.connect()
    await stage.writer()
    for batch in range(10):
        await stage.journal(client, f"p{batch % 2}", batch // 2 * 3, [stage.envelope(batch * 3 + i) for i in range(3)])
    await stage.until(lambda: stage.is_consumed(client), "the journal to be consumed")
    size = await stage.chain_size(client)
    for seq in range(1, 11):
        # As a producer that repeats its message after the stream's window: same bytes, no message id.
        stored = await message_at(client, "INTAKE", seq)
        assert stored is not None
        await client.jetstream().publish(stored.subject, stored.payload)
    await stage.until(lambda: stage.is_consumed(client), "the repeats to be consumed")
    assert await stage.chain_size(client) == size == 30


async def test_poison_is_recorded_and_what_follows_it_is_chained(stage: Any) -> None:
    client = await stage.connect()
    await stage.writer()
    await stage.put(client, b"\xc1rubbish")
    await stage.journal(client, "p1", 0, [stage.envelope(0), b"\xc0", stage.envelope(2)])
    await stage.journal(client, "p1", 0, [stage.envelope(0)], account="NOBODY")
    await stage.journal(client, "p1", 3, [stage.envelope(3)])
    await stage.until(lambda: stage.is_consumed(client), "the journal to be consumed")
    found = await stage.read_chain(client)
    assert [one["type"] for one in found] == [
        "audit.poison",
        "test.decision",
        "audit.poison",
        "test.decision",
        "audit.poison",
        "test.decision",
    ]
    assert [one["event"]["svc"] for one in found if one["type"] == "audit.poison"] == ["policy", "policy", "unknown"]


async def test_a_message_deleted_from_the_journal_is_recorded_as_a_gap(stage: Any) -> None:
    client = await stage.connect()
    for number in range(4):
        await stage.journal(client, "p1", number, [stage.envelope(number)])
    await client.jetstream().delete_msg("INTAKE", 2)
    await stage.writer()
    await stage.until(lambda: stage.is_consumed(client), "the journal to be consumed")
    found = await stage.read_chain(client)
    assert [one["type"] for one in found] == ["test.decision", "audit.gap", "audit.gap"] + ["test.decision"] * 2
    assert found[1]["event"] == {"first": 2, "kind": "journal", "last": 2, "stream": "INTAKE"}


async def test_large_events_fill_blocks_that_the_bus_carries(stage: Any) -> None:
    client = await stage.connect()
    for batch in range(4):
        large = [stage.envelope(batch * 12 + i, event={"number": batch * 12 + i, "x": "y" * 50_000}) for i in range(12)]
        await stage.journal(client, "p1", batch * 12, large)
    await stage.writer()
    await stage.until(lambda: stage.is_consumed(client), "the journal to be consumed")
    assert numbers(await stage.read_chain(client)) == list(range(48))


async def test_a_standby_takes_over_when_the_writer_is_gone(stage: Any) -> None:
    client = await stage.connect()
    first, task = await stage.writer("w1")
    await stage.journal(client, "p1", 0, [stage.envelope(0)])
    await stage.until(lambda: first.is_active, "the first writer to write")
    second, _ = await stage.writer("w2")
    await stage.until(lambda: second.state is State.FOLLOWING, "the second writer to follow")
    await stage.journal(client, "p1", 1, [stage.envelope(1)])
    await stage.until(lambda: second.head is not None and second.head.size == 2, "the standby to follow the chain")
    assert not second.is_active
    assert second.head == first.head
    await stage.stop_task(task)
    await stage.journal(client, "p1", 2, [stage.envelope(2)])
    await stage.until(lambda: second.is_active, "the standby to take over")
    assert numbers(await stage.read_chain(client)) == [0, 1, 2]


async def test_a_writer_that_lost_the_race_is_fenced_and_follows(stage: Any) -> None:
    client = await stage.connect()
    first, _ = await stage.writer("w1")
    await stage.journal(client, "p1", 0, [stage.envelope(0)])
    await stage.until(lambda: first.is_active, "the first writer to write")
    head = await load_head(client, stage.origin)
    # Another writer's valid block, appended behind the first one's back.
    await stage.journal(client, "p1", 1, [])
    rival = Writer(client, origin=stage.origin, writer_id="w2", services=stage.services, now=lambda: 0)
    task = stage.run(rival._write(head), "rival")
    await stage.until(lambda: stage.is_consumed(client), "the journal to be consumed")
    for number in range(1, 30):
        await stage.journal(client, "p1", number, [stage.envelope(number)])
    await stage.until(lambda: stage.is_consumed(client), "the journal to be consumed")
    assert numbers(await stage.read_chain(client)) == list(range(30))
    await stage.until(lambda: task.done() or first.state is State.FOLLOWING, "one of the two to be fenced")


async def test_a_block_made_ahead_goes_with_the_block_before_it(stage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a block is under way the next is made; when the first loses its place, the second must not be appended."""
    client = await stage.connect()
    for batch in range(8):
        large = [stage.envelope(batch * 12 + i, event={"number": batch * 12 + i, "x": "y" * 50_000}) for i in range(12)]
        await stage.journal(client, "p1", batch * 12, large)
    real, prepared, fenced = Writer._prepare, Counter[str](), Counter[str]()

    async def counted(self: Writer, head: Any, waiting: Any, snapshot: Any) -> Any:
        prepared["ahead"] += self.head is not None and head.block > self.head.block
        return await real(self, head, waiting, snapshot)

    async def outrun(client: Any, subject: str, payload: bytes, *, expected_last: int) -> int:
        # Twice a rival is faster, with the same journal messages: its block holds what ours would have held.
        if fenced["times"] < 2 and prepared["ahead"] > fenced["times"]:
            fenced["times"] += 1
            rival = Writer(client, origin=stage.origin, writer_id="rival", services=stage.services, now=lambda: 0)
            head = await load_head(client, stage.origin)
            await streams.append(client, subject, await _block_of(rival, head, client), expected_last=head.block)
        return await streams.append(client, subject, payload, expected_last=expected_last)

    async def _block_of(rival: Writer, head: Any, client: Any) -> bytes:
        stored = await message_at(client, "INTAKE", head.intake + 1)
        delivery = Delivery(stored.seq, "AP", stored.payload)
        return encode_block((await real(rival, head, [delivery], None)).block)

    monkeypatch.setattr(Writer, "_prepare", counted)
    monkeypatch.setattr("nomos_audit.writer.append", outrun)
    await stage.writer()
    await stage.until(lambda: stage.is_consumed(client), "the journal to be consumed")
    assert fenced["times"] == 2
    assert numbers(await stage.read_chain(client)) == list(range(96))


async def test_an_append_behind_the_head_is_fenced(stage: Any) -> None:
    client = await stage.connect()
    assert await append(client, SUBJECT, b"one", expected_last=0) == 1
    with pytest.raises(Fenced):
        await append(client, SUBJECT, b"other", expected_last=0)


async def test_a_lost_answer_does_not_make_a_second_block(stage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    client = await stage.connect()
    real, lost = streams.append, Counter[str]()

    async def deaf(*args: Any, **more: Any) -> int:
        seq = await real(*args, **more)
        lost["answers"] += 1
        if lost["answers"] % 2:
            raise streams.Unavailable("the answer was lost")
        return seq

    monkeypatch.setattr("nomos_audit.writer.append", deaf)
    writer, _ = await stage.writer()
    for number in range(6):
        await stage.journal(client, "p1", number, [stage.envelope(number)])
        await stage.until(lambda: stage.is_consumed(client), "the journal to be consumed")
    assert lost["answers"] >= 6
    assert numbers(await stage.read_chain(client)) == list(range(6))
    assert writer.is_active


async def test_a_server_killed_under_load_loses_nothing_and_doubles_nothing(stage: Any) -> None:
    client = await stage.connect()
    for name in ("w1", "w2"):
        await stage.writer(name)

    async def load(producer: str, account: str) -> None:
        own = await stage.connect()
        for batch in range(60):
            events = [stage.envelope(batch * 10 + i, tenant=f"t{i % 3}") for i in range(10)]
            await stage.journal(own, producer, batch * 10, events, account=account)

    loads = [stage.run(load(f"p{i}", account), f"load {i}") for i, account in enumerate(("AP", "AM"))]
    for _ in range(3):
        await asyncio.sleep(0.4)
        stage.kill_server()
        await asyncio.sleep(0.1)
        stage.start_server()
    await asyncio.wait_for(asyncio.gather(*loads), 60)
    await stage.until(lambda: client.is_connected, "the client to reconnect")
    await stage.until(lambda: stage.is_consumed(client), "the journal to be consumed")
    found = await stage.read_chain(client)
    assert Counter((one["pc"]["svc"], one["pc"]["n"]) for one in found) == Counter(
        {(svc, n): 1 for svc in ("policy", "minting") for n in range(600)}
    )


async def test_writers_that_race_and_die_chain_every_event_once(stage: Any) -> None:
    chance = random.Random(20_261_122)  # reproducible, not secret
    client = await stage.connect()
    writers: list[tuple[Any, Any]] = [await stage.writer(f"w{i}", snapshot_every=20) for i in range(3)]

    async def load(producer: str) -> None:
        own = await stage.connect()
        at = 0
        while at < 1_250:
            count = min(chance.randint(1, 12), 1_250 - at)
            events = [stage.envelope(at + i, tenant=f"t{(at + i) % 7}") for i in range(count)]
            await stage.journal(own, producer, at, events)
            at += count

    loads = [stage.run(load(f"p{i}"), f"load {i}") for i in range(4)]
    born = 3
    while not all(one.done() for one in loads):
        await asyncio.sleep(chance.uniform(0.05, 0.3))
        victim = chance.randrange(3)
        await stage.stop_task(writers[victim][1])
        writers[victim] = await stage.writer(f"w{born}", snapshot_every=20)
        born += 1
    await asyncio.gather(*loads)
    await stage.until(lambda: stage.is_consumed(client), "the journal to be consumed")
    found = await stage.read_chain(client)
    assert len(found) == 5_000
    assert Counter((one["pc"]["id"], one["pc"]["n"]) for one in found) == Counter(
        {(f"p{i}", n): 1 for i in range(4) for n in range(1_250)}
    )
    last = await message_at(client, STREAM, (await stream_state(client, STREAM)).last_seq)
    assert last is not None
    assert parse_block(last.payload).size == 5_000


# -- a store that is not what it was -----------------------------------------------------------------------------------


async def test_a_journal_that_was_emptied_is_refused(stage: Any) -> None:
    client = await stage.connect()
    _, task = await stage.writer()
    for number in range(5):
        await stage.journal(client, "p1", number, [stage.envelope(number)])
    await stage.until(lambda: stage.is_consumed(client), "the journal to be consumed")
    await stage.stop_task(task)
    js = client.jetstream()
    config = (await js.stream_info("INTAKE")).config
    await js.delete_stream("INTAKE")
    await js.add_stream(config)
    again, task = await stage.writer("w2")
    await asyncio.wait([task], timeout=20)
    error = task.exception()
    assert isinstance(error, RolledBack)
    assert "first_seq 6" in (error.hint or "")
    assert again.state is State.REFUSED


async def test_a_chain_that_lost_its_end_is_refused_by_a_standby(stage: Any) -> None:
    client = await stage.connect()
    first, task = await stage.writer("w1")
    await stage.journal(client, "p1", 0, [stage.envelope(0)])
    await stage.until(lambda: stage.is_consumed(client), "the journal to be consumed")
    stage.kill_server()
    backup = stage.copy_store("backup")
    stage.start_server()
    await stage.journal(client, "p1", 1, [stage.envelope(1)])
    await stage.until(lambda: stage.is_consumed(client), "the journal to be consumed")
    standby, watching = await stage.writer("w2")
    await stage.until(lambda: standby.head is not None and standby.head == first.head, "the standby to follow")
    await stage.stop_task(task)
    stage.kill_server()
    stage.swap_store(backup)
    stage.start_server()
    await asyncio.wait([watching], timeout=20)
    assert isinstance(watching.exception(), RolledBack)
    assert standby.state is State.REFUSED


async def test_a_block_that_was_exchanged_is_refused_at_the_start(stage: Any) -> None:
    client = await stage.connect()
    _, task = await stage.writer("w1")
    for number in range(3):
        await stage.journal(client, "p1", number, [stage.envelope(number)])
        await stage.until(lambda: stage.is_consumed(client), "the journal to be consumed")
    await stage.stop_task(task)
    js = client.jetstream()
    config = (await js.stream_info(STREAM)).config
    kept = [(await message_at(client, STREAM, seq)).payload for seq in (1, 2, 3)]
    await js.delete_stream(STREAM)
    await js.add_stream(config)
    for payload in (kept[0], kept[1].replace(b'"effect":"allow"', b'"effect":"denyx"'), kept[2]):
        await js.publish(SUBJECT, payload)
    _, task = await stage.writer("w2")
    await asyncio.wait([task], timeout=20)
    assert isinstance(task.exception(), RolledBack)


async def test_a_missing_stream_is_said_so(stage: Any) -> None:
    client = await stage.connect()
    await client.jetstream().delete_stream("INTAKE")
    with pytest.raises(Misconfigured, match="INTAKE"):
        await Tail(client, "INTAKE", 0).take(1)
