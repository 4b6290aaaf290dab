"""Signed checkpoints: never smaller, never two for one size, and a store that went back is refused."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from nomos.errors import BadSignature, RolledBack
from nomos.log.checkpoint import Checkpoint, open_checkpoint, sign_checkpoint
from nomos.log.note import NoteSigner
from nomos.log.tree import CompactRange
from nomos_audit.anchors import FileAnchor
from nomos_audit.checkpoints import STREAM, SUBJECT, Signer
from nomos_audit.follow import Follower, load_head
from nomos_audit.replay import start_of
from nomos_audit.streams import message_at, stream_state


@pytest.fixture
def seed() -> bytes:
    return os.urandom(32)


async def signer(stage: Any, seed: bytes, *anchors: Any, active: bool = True, every_seconds: float = 10.0) -> Signer:
    made = Signer(
        await stage.connect(),
        origin=stage.origin,
        seed=seed,
        anchors=anchors,
        may_sign=lambda: active,
        every_seconds=every_seconds,
    )
    await made.open()
    return made


async def grow(stage: Any, client: Any, first: int, count: int) -> None:
    for number in range(first, first + count):
        await stage.journal(client, "p1", number, [stage.envelope(number)])
    await stage.until(lambda: stage.is_consumed(client), "the journal to be consumed")


def checkpoint_of(note: bytes, one: Signer) -> Checkpoint:
    return open_checkpoint(note, [one.verifier_key], {}).checkpoint


async def test_a_checkpoint_has_the_root_of_the_chain(stage: Any, seed: bytes) -> None:
    client = await stage.connect()
    await stage.writer()
    await grow(stage, client, 0, 7)
    one = await signer(stage, seed)
    found = checkpoint_of(await one.checkpoint_now(), one)
    head = await load_head(client, stage.origin)
    assert (found.size, found.root) == (7, CompactRange.from_hashes(7, head.range).root())
    assert found.origin == stage.origin


async def test_a_log_that_has_not_grown_is_not_signed_again(stage: Any, seed: bytes) -> None:
    client = await stage.connect()
    await stage.writer()
    await grow(stage, client, 0, 3)
    one = await signer(stage, seed)
    assert await one.checkpoint_now() == await one.checkpoint_now()
    assert (await stream_state(client, STREAM)).messages == 1


async def test_a_growing_log_is_signed_by_itself(stage: Any, seed: bytes) -> None:
    client = await stage.connect()
    await stage.writer()
    one = await signer(stage, seed, every_seconds=0.05)
    stage.run(one.run(), "signer")
    await grow(stage, client, 0, 2)
    await stage.until(lambda: one.size == 2, "a checkpoint of size 2")
    await grow(stage, client, 2, 3)
    await stage.until(lambda: one.size == 5, "a checkpoint of size 5")
    assert one.signed_intake == 5


async def test_a_standby_signs_only_what_nobody_else_has_signed(stage: Any, seed: bytes) -> None:
    client = await stage.connect()
    await stage.writer()
    standby = await signer(stage, seed, active=False, every_seconds=0.3)
    await grow(stage, client, 0, 2)
    began = asyncio.get_running_loop().time()
    stage.run(standby.run(), "standby")
    await stage.until(lambda: standby.size == 2, "the standby to sign")
    assert asyncio.get_running_loop().time() - began >= 0.9


async def test_two_signers_say_the_same(stage: Any, seed: bytes) -> None:
    client = await stage.connect()
    await stage.writer()
    await grow(stage, client, 0, 5)
    first, second = await signer(stage, seed), await signer(stage, seed)
    notes = await asyncio.gather(*(one.checkpoint_now() for one in (first, second)))
    assert notes[0] == notes[1]
    await grow(stage, client, 5, 5)
    one = await first.checkpoint_now()
    # The second learns of the first one's note, checks it against the chain, and goes on from it.
    assert await second.checkpoint_now() == one
    await grow(stage, client, 10, 1)
    assert checkpoint_of(await second.checkpoint_now(), second).size == 11
    assert (await stream_state(client, STREAM)).messages == 3


async def test_a_note_reaches_the_anchors_only_after_it_is_durable(stage: Any, seed: bytes, tmp_path: Path) -> None:
    client = await stage.connect()
    await stage.writer()
    await grow(stage, client, 0, 4)
    kept: list[int] = []

    class Watching:
        name = "watching"

        async def newest(self) -> bytes | None:
            return None

        async def keep(self, size: int, note: bytes) -> None:
            stored = await message_at(client, STREAM, 1)
            assert stored is not None
            assert stored.payload == note
            kept.append(size)

    anchor = FileAnchor(tmp_path / "newest")
    one = await signer(stage, seed, Watching(), anchor)
    note = await one.checkpoint_now()
    assert kept == [4]
    assert await anchor.newest() == note


async def test_a_signer_restarts_from_its_last_checkpoint(stage: Any, seed: bytes) -> None:
    client = await stage.connect()
    await stage.writer()
    await grow(stage, client, 0, 3)
    await (await signer(stage, seed)).checkpoint_now()
    for number in range(3, 12):
        await grow(stage, client, number, 1)
    again = await signer(stage, seed)
    found = checkpoint_of(await again.checkpoint_now(), again)
    head = await load_head(client, stage.origin)
    assert (found.size, found.root) == (12, CompactRange.from_hashes(12, head.range).root())


async def test_a_checkpoint_inside_a_block_is_found_again(stage: Any, seed: bytes, tmp_path: Path) -> None:
    client = await stage.connect()
    await stage.journal(client, "p1", 0, [stage.envelope(n) for n in range(9)])
    await stage.writer()
    await stage.until(lambda: stage.is_consumed(client), "the journal to be consumed")
    tree = CompactRange()
    one = await signer(stage, seed)
    [block] = await Follower(client, start_of(stage.origin)).take(2)
    tree.extend(block.hashes[:6])
    note = sign_checkpoint(Checkpoint(origin=stage.origin, size=6, root=tree.root()), [NoteSigner(stage.origin, seed)])
    (tmp_path / "newest").write_bytes(note)
    again = await signer(stage, seed, FileAnchor(tmp_path / "newest"))
    assert again.size == 6
    assert checkpoint_of(await again.checkpoint_now(), one).size == 9


# -- refusals ----------------------------------------------------------------------------------------------------------


async def test_a_store_that_was_rolled_back_as_a_whole_is_refused(stage: Any, seed: bytes, tmp_path: Path) -> None:
    client = await stage.connect()
    await stage.writer()
    await grow(stage, client, 0, 3)
    anchor = FileAnchor(tmp_path / "newest")
    await (await signer(stage, seed, anchor)).checkpoint_now()
    stage.kill_server()
    backup = stage.copy_store("backup")
    stage.start_server()
    await stage.until(lambda: client.is_connected, "the client to reconnect")
    await grow(stage, client, 3, 3)
    await (await signer(stage, seed, anchor)).checkpoint_now()
    stage.kill_server()
    stage.swap_store(backup)
    stage.start_server()
    with pytest.raises(RolledBack, match="3 records, but 6") as refused:
        await signer(stage, seed, anchor)
    assert "nomos verify" in (refused.value.hint or "")


async def test_a_log_written_anew_with_the_same_length_is_refused(stage: Any, seed: bytes, tmp_path: Path) -> None:
    client = await stage.connect()
    _, task = await stage.writer()
    await grow(stage, client, 0, 3)
    anchor = FileAnchor(tmp_path / "newest")
    await (await signer(stage, seed, anchor)).checkpoint_now()
    await stage.stop_task(task)
    js = client.jetstream()
    for name in ("CHAIN", "CHECKPOINT", "INTAKE"):
        config = (await js.stream_info(name)).config
        await js.delete_stream(name)
        await js.add_stream(config)
    await stage.writer("w2")
    for number in range(3):
        await stage.journal(client, "other", number, [stage.envelope(number + 100)])
    await stage.until(lambda: stage.is_consumed(client), "the journal to be consumed")
    with pytest.raises(RolledBack, match="not the one that was signed"):
        await signer(stage, seed, anchor)


async def test_a_chain_cut_behind_a_running_signer_is_refused(stage: Any, seed: bytes) -> None:
    client = await stage.connect()
    _, task = await stage.writer()
    await grow(stage, client, 0, 3)
    one = await signer(stage, seed)
    await one.checkpoint_now()
    await stage.stop_task(task)
    js = client.jetstream()
    config = (await js.stream_info("CHAIN")).config
    await js.delete_stream("CHAIN")
    await js.add_stream(config)
    with pytest.raises(RolledBack):
        await one.checkpoint_now()


async def test_another_root_for_a_signed_size_is_refused(stage: Any, seed: bytes) -> None:
    client = await stage.connect()
    await stage.writer()
    await grow(stage, client, 0, 3)
    forged = sign_checkpoint(Checkpoint(origin=stage.origin, size=3, root=b"\7" * 32), [NoteSigner(stage.origin, seed)])
    await client.jetstream().publish(SUBJECT, forged)
    with pytest.raises(RolledBack):
        await signer(stage, seed)


async def test_a_checkpoint_of_another_key_or_log_is_refused(stage: Any, seed: bytes, tmp_path: Path) -> None:
    await stage.connect()
    for origin, key in ((stage.origin, os.urandom(32)), ("another.log", seed)):
        empty = Checkpoint(origin=origin, size=0, root=CompactRange().root())
        (tmp_path / "newest").write_bytes(sign_checkpoint(empty, [NoteSigner(origin, key)]))
        with pytest.raises(BadSignature):
            await signer(stage, seed, FileAnchor(tmp_path / "newest"))


async def test_a_log_that_outgrew_the_signer_is_no_reason_to_sign_a_smaller_size(stage: Any, seed: bytes) -> None:
    client = await stage.connect()
    await stage.writer()
    await grow(stage, client, 0, 2)
    one = await signer(stage, seed)
    await one.checkpoint_now()
    ahead = sign_checkpoint(Checkpoint(origin=stage.origin, size=50, root=b"\7" * 32), [NoteSigner(stage.origin, seed)])
    await client.jetstream().publish(SUBJECT, ahead)
    with pytest.raises(RolledBack, match="2 records, but 50"):
        await one.checkpoint_now()
