"""A key of the log follows another: by a record, with a checkpoint that both keys sign, across any crash."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import pytest

from nomos.errors import BadSignature, Conflict, Misconfigured, RolledBack, Unavailable
from nomos.events import Actor, Envelope
from nomos.ids import new_id
from nomos.log.checkpoint import Checkpoint, open_checkpoint, sign_checkpoint
from nomos.log.heads import KEY
from nomos.log.keyhistory import KeyChange, NotInForce, event_of_change, short_name, verify_turn
from nomos.log.note import NoteSigner, VerifierKey, parse_note
from nomos.log.proof import Receipt
from nomos_audit.anchors import FileAnchor
from nomos_audit.checkpoints import STREAM, SUBJECT, Signer
from nomos_audit.export import read_checkpoints
from nomos_audit.keys import NoTurns, TurnTable
from nomos_audit.rotating import Rotation
from nomos_audit.streams import message_at, stream_state
from nomos_runtime.database import Database

BY = Actor(kind="operator", id="sub-" + "0" * 32)
OLD, NEW, THIRD = (os.urandom(32) for _ in range(3))


class Log:
    """A chain with a writer, and signers that the test starts and ends."""

    def __init__(self, stage: Any) -> None:
        self.stage = stage
        self._own = 0
        self._events = 0

    async def start(self) -> None:
        self.client = await self.stage.connect()
        await self.stage.writer()

    def key(self, seed: bytes) -> VerifierKey:
        return NoteSigner(self.stage.origin, seed).verifier_key

    async def signer(self, seed: bytes, following: bytes | None = None, *anchors: Any, turns: Any = None) -> Signer:
        made = Signer(
            await self.stage.connect(),
            origin=self.stage.origin,
            seed=seed,
            next_seed=following,
            turns=turns,
            anchors=anchors,
            may_sign=lambda: True,
        )
        await made.open()
        return made

    async def own(self, kind: str, event: dict[str, Any], actor: Actor | None = None) -> None:
        one = Envelope(
            id=new_id("ev"),
            type=kind,
            tenant="_sys",
            actor=actor or Actor(kind="system", id="audit"),
            corr="",
            cause="",
            event=event,
        )
        await self.stage.journal(self.client, "a1", self._own, [one], account="AA")
        self._own += 1
        await self.settled()

    async def grow(self, count: int) -> None:
        events = [self.stage.envelope(n) for n in range(self._events, self._events + count)]
        await self.stage.journal(self.client, "p1", self._events, events)
        self._events += count
        await self.settled()

    async def settled(self) -> None:
        await self.stage.until(lambda: self.stage.is_consumed(self.client), "the journal to be consumed")

    async def announce(self, prev: bytes, key: bytes) -> None:
        await self.own(KEY, event_of_change(KeyChange(key=self.key(key), prev=self.key(prev))))

    async def signed(self) -> list[tuple[int, int]]:
        """Size and number of signatures of every note in the stream."""
        last = (await stream_state(self.client, STREAM)).last_seq
        found = []
        for seq in range(1, last + 1):
            stored = await message_at(self.client, STREAM, seq)
            assert stored is not None
            note = parse_note(stored.payload)
            found.append((int(note.text.split("\n")[1]), len(note.signatures)))
        return found

    def rotation(self, signer: Signer) -> Rotation:
        return Rotation(signer, journal=self.own)


@pytest.fixture
async def log(stage: Any) -> Log:
    made = Log(stage)
    await made.start()
    return made


async def test_the_size_that_the_record_completes_is_signed_by_both_keys_and_later_ones_by_the_new_one(
    log: Log,
) -> None:
    await log.grow(5)
    one = await log.signer(OLD, NEW)
    await one.checkpoint_now()
    keys = await log.rotation(one).rotate(BY)
    await log.grow(4)
    last = await one.checkpoint_now()
    assert await log.signed() == [(5, 1), (6, 2), (10, 1)]
    assert [(span.key, span.first_size) for span in keys.spans] == [(log.key(OLD), 0), (log.key(NEW), 6)]
    assert keys.spans[0].last_size == 6
    assert open_checkpoint(last, [log.key(NEW)], {}).keys == (log.key(NEW),)
    assert keys.trust_lines() == [f"log {log.key(OLD)} sizes:0-6", f"log {log.key(NEW)} sizes:6-"]
    # Asked again it only says so.
    assert await log.rotation(one).rotate(BY) == keys
    assert (await log.signed())[-1] == (10, 1)


async def test_after_the_rotation_the_new_key_alone_starts_the_log_and_proves_the_old_one(
    log: Log, tmp_path: Path
) -> None:
    await log.grow(3)
    behind = FileAnchor(tmp_path / "behind")
    await (await log.signer(OLD, None, behind)).checkpoint_now()
    one = await log.signer(OLD, NEW)
    keys = await log.rotation(one).rotate(BY)
    await log.grow(2)
    await one.checkpoint_now()
    # An anchor that was away holds a note of the old key.
    again = await log.signer(NEW, None, behind)
    assert again.keys == keys
    [turn] = again.ring.turns
    assert verify_turn(turn, log.key(OLD)) == verify_turn(turn, log.key(NEW))
    await log.grow(1)
    await again.checkpoint_now()
    assert [size for size, _ in await read_checkpoints(log.client, again.keys)] == [3, 4, 6, 7]
    # The old key alone, or one that was never one, starts nothing.
    for seed in (OLD, THIRD):
        with pytest.raises(BadSignature) as refused:
            await log.signer(seed)
        assert "AUDIT_SIGN_KEY" in str(refused.value.hint)


async def test_two_rotations_in_a_row_are_both_proven(log: Log) -> None:
    await log.grow(2)
    one = await log.signer(OLD, NEW)
    await log.rotation(one).rotate(BY)
    two = await log.signer(NEW, THIRD)
    keys = await log.rotation(two).rotate(BY)
    assert [span.first_size for span in keys.spans] == [0, 3, 4]
    await log.grow(3)
    await two.checkpoint_now()
    assert (await log.signer(THIRD)).keys == keys
    assert await log.signed() == [(2, 1), (3, 2), (4, 2), (7, 1)]
    # A key comes once in the life of a log.
    back = await log.signer(THIRD, OLD)
    with pytest.raises(Conflict, match="has been a key of this log before"):
        await log.rotation(back).rotate(BY)


@pytest.mark.parametrize("first", [True, False])
async def test_a_record_whose_turn_was_not_signed_is_taken_up_by_whoever_holds_both_keys(log: Log, first: bool) -> None:
    if not first:
        await log.grow(2)
        await (await log.signer(OLD)).checkpoint_now()
    # Killed after the record was journalled.
    await log.announce(OLD, NEW)
    await log.grow(3)
    turn = 1 if first else 3
    with pytest.raises(BadSignature) if not first else pytest.raises(Unavailable):
        # The new key alone cannot sign the turn.
        await (await log.signer(NEW)).checkpoint_now()
    lacking = await log.signer(OLD)
    for _ in range(2):
        with pytest.raises(Unavailable, match="does not hold the key"):
            await lacking.checkpoint_now()
    assert (turn, 1) not in await log.signed()
    assert lacking.lacks == short_name(log.key(NEW))
    one = await log.signer(OLD, NEW)
    await one.checkpoint_now()
    assert (await log.signed())[-2:] == [(turn, 2), (turn + 3, 1)]
    # Who lacks the key reads on, learns of the new one, and signs nothing.
    await log.grow(1)
    with pytest.raises(Unavailable, match="does not hold the key"):
        await lacking.checkpoint_now()
    assert lacking.keys == one.keys
    assert (lacking.lacks, one.lacks) == (short_name(log.key(NEW)), None)
    await one.checkpoint_now()
    assert await lacking.checkpoint_now() == one.newest
    assert (await log.signer(NEW)).keys == one.keys


async def test_a_note_of_both_keys_that_no_anchor_has_seen_is_found_at_the_next_start(log: Log, tmp_path: Path) -> None:
    class Dying:
        name = "dying"

        async def newest(self) -> bytes | None:
            return None

        async def keep(self, size: int, note: bytes) -> None:
            raise asyncio.CancelledError

    await log.grow(2)
    await log.announce(OLD, NEW)
    with pytest.raises(asyncio.CancelledError):
        await (await log.signer(OLD, NEW, Dying())).checkpoint_now()
    assert await log.signed() == [(3, 2)]
    for held in ((OLD, NEW), (NEW, None)):
        again = await log.signer(*held)
        assert (again.size, again.keys.in_force) == (3, log.key(NEW))
    await log.grow(1)
    await again.checkpoint_now()
    assert await log.signed() == [(3, 2), (4, 1)]


async def test_a_signer_that_slept_through_a_rotation_catches_up_by_the_note_of_both_keys(log: Log) -> None:
    await log.grow(2)
    sleeper, one = await log.signer(OLD, NEW), await log.signer(OLD, NEW)
    await sleeper.checkpoint_now()
    await log.rotation(one).rotate(BY)
    await log.grow(2)
    newest = await one.checkpoint_now()
    assert await sleeper.checkpoint_now() == newest
    assert sleeper.keys == one.keys
    assert sleeper.ring.turns == one.ring.turns
    # Exactly at the turn as well.
    at_turn, two = await log.signer(NEW, THIRD), await log.signer(NEW, THIRD)
    await log.rotation(two).rotate(BY)
    assert await at_turn.checkpoint_now() == two.newest
    assert at_turn.keys == two.keys


async def test_two_processes_that_rotate_at_once_make_one_turn(log: Log) -> None:
    await log.grow(2)
    both = [await log.signer(OLD, NEW), await log.signer(OLD, NEW)]
    first, second = await asyncio.gather(*(log.rotation(one).rotate(BY) for one in both))
    assert first == second
    # A second record may stand in the chain; it says the same and changes nothing.
    assert [count for _, count in await log.signed()].count(2) == 1
    assert (await log.signer(NEW)).keys == first


async def test_of_two_next_keys_the_first_record_counts_and_the_other_process_is_told(log: Log) -> None:
    await log.grow(2)
    one, other = await log.signer(OLD, NEW), await log.signer(OLD, THIRD)
    await log.announce(OLD, NEW)
    await log.announce(OLD, THIRD)
    await one.checkpoint_now()
    size = await log.stage.chain_size(log.client)
    with pytest.raises(Conflict, match="does not hold"):
        await log.rotation(other).rotate(BY)
    assert await log.stage.chain_size(log.client) == size
    await log.grow(1)
    await one.checkpoint_now()
    assert one.keys.in_force == log.key(NEW)
    assert [count for _, count in await log.signed()].count(2) == 1
    with pytest.raises(Misconfigured):
        # Held the wrong way round: the next key is the one in force.
        await log.signer(THIRD, NEW)


async def test_a_process_without_a_next_key_rotates_nothing(log: Log) -> None:
    await log.grow(1)
    one = await log.signer(OLD)
    with pytest.raises(Misconfigured, match="holds no next key"):
        await log.rotation(one).rotate(BY)
    with pytest.raises(Misconfigured, match="same key"):
        await log.signer(OLD, OLD)
    assert await log.stage.chain_size(log.client) == 1


async def test_a_note_of_the_wrong_key_for_its_size_is_refused_everywhere(log: Log, tmp_path: Path) -> None:
    await log.grow(2)
    one = await log.signer(OLD, NEW)
    await one.checkpoint_now()
    await log.rotation(one).rotate(BY)
    await log.grow(2)
    await one.checkpoint_now()

    def note(size: int, *seeds: bytes) -> bytes:
        checkpoint = Checkpoint(origin=log.stage.origin, size=size, root=bytes(32))
        return sign_checkpoint(checkpoint, [NoteSigner(log.stage.origin, seed) for seed in seeds])

    wrong = {
        "the old key for a later size": note(5, OLD),
        "the new key for an earlier size": note(2, NEW),
        "one key at the turn": note(3, NEW),
        "the old one at the turn": note(3, OLD),
        "both behind the turn": note(4, OLD, NEW),
    }
    for what, each in wrong.items():
        with pytest.raises(NotInForce):
            one.keys.open(each)
        (tmp_path / what).write_bytes(each)
        with pytest.raises(BadSignature):
            await log.signer(NEW, None, FileAnchor(tmp_path / what))
    # The same in the log's own stream: nothing is exported from it, and nothing is signed behind it.
    await log.client.jetstream().publish(SUBJECT, wrong["the old key for a later size"])
    with pytest.raises(NotInForce):
        await read_checkpoints(log.client, one.keys)
    with pytest.raises(BadSignature):
        await one.checkpoint_now()


async def test_a_record_of_a_new_key_that_the_old_key_never_signed_is_no_turn(log: Log) -> None:
    """Who controls the chain and the notes, but no key, makes no key of the log."""
    await log.grow(2)
    honest = await log.signer(OLD)
    await honest.checkpoint_now()
    await log.announce(OLD, NEW)
    evil = NoteSigner(log.stage.origin, NEW)
    await log.grow(1)
    forged = sign_checkpoint(Checkpoint(origin=log.stage.origin, size=4, root=bytes(32)), [evil])
    await log.client.jetstream().publish(SUBJECT, forged)
    with pytest.raises(RolledBack, match="where the key changes"):
        await honest.checkpoint_now()
    with pytest.raises(BadSignature):
        await log.signer(OLD)
    with pytest.raises(BadSignature, match="no record says so"):
        await log.signer(NEW)


async def test_turns_are_proven_from_the_table_when_the_chain_was_rolled_and_a_false_row_is_none(
    log: Log, database: Database
) -> None:
    table = TurnTable(database)
    await log.grow(2)
    one = await log.signer(OLD, NEW, turns=table)
    keys = await log.rotation(one).rotate(BY)
    await log.grow(2)
    await one.checkpoint_now()
    assert tuple(await table.all()) == one.ring.turns
    # A false row: a turn with another path. It is not believed, and replaced from the chain.
    [turn] = one.ring.turns
    false = Receipt(prev=turn.receipt.prev, index=2, path=(bytes(32),), checkpoint=turn.receipt.checkpoint)
    async with database.transaction() as connection:
        await connection.execute("DELETE FROM audit_keys")
    await table.keep(3, type(turn)(record=turn.record, receipt=false))
    assert (await log.signer(NEW, turns=table)).keys == keys
    assert tuple(await table.all()) == one.ring.turns
    # The chain without the block of the record and those before it.
    js = log.client.jetstream()
    config = (await js.stream_info("CHAIN")).config
    config.deny_purge = False
    last = (await js.stream_info("CHAIN")).state.last_seq
    blocks = [await message_at(log.client, "CHAIN", seq) for seq in range(1, last + 1)]
    await js.delete_stream("CHAIN")
    config.name, config.subjects, config.first_seq = f"CHAIN-{last}", [f"chain.{last}"], last
    await js.add_stream(config)
    assert blocks[-1] is not None
    await js.publish(f"chain.{last}", blocks[-1].payload)
    with pytest.raises(RolledBack, match="rolled past record 2"):
        await _history(log, NoTurns())
    assert await _history(log, table) == keys


async def _history(log: Log, turns: Any) -> Any:
    from nomos_audit.keys import load_history

    stored = await message_at(log.client, STREAM, (await stream_state(log.client, STREAM)).last_seq)
    assert stored is not None
    return (await load_history(log.client, log.stage.origin, [log.key(NEW)], stored.payload, turns))[0]
