"""The chain rolls from stream to stream, whoever dies or races; an old stream goes only when its archive is proven."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import Client

from nomos.errors import Misconfigured, NotFound, RolledBack, Unavailable
from nomos.events import Actor, Envelope
from nomos.ids import new_id
from nomos.log.note import NoteSigner
from nomos.log.proof import parse_receipt, verify_receipt
from nomos.log.report import Verdict
from nomos.log.trust import parse_trust
from nomos.log.verify import verify_export
from nomos_audit.block import parse_block
from nomos_audit.export import export_log
from nomos_audit.follow import Follower, block_at, block_of, load_head
from nomos_audit.log import AuditLog
from nomos_audit.receipts import Receipts
from nomos_audit.replay import start_of
from nomos_audit.retiring import RETIRED, Retirement
from nomos_audit.rolling import NEVER, RETRY_SECONDS, OpenSegment, Rolling
from nomos_audit.segments import Room, first_of, make_segment, name_of, segment_after, segments, subject_of
from nomos_audit.store.folder import FolderStore
from nomos_audit.streams import append, message_at
from nomos_audit.writer import Writer
from nomos_runtime.database import Database

#: A block with one of the events below has about 700 bytes and an event's size more.
SMALL = Rolling(12_000, False)


def numbers(found: list[dict[str, Any]]) -> list[int]:
    return [one["event"]["number"] for one in found if one["type"] == "test.decision"]


async def send(stage: Any, client: Client, first: int, number: int, together: int = 1) -> None:
    """Events, so many at once, so that each of these is a block of its own."""
    for begin in range(first, first + number, together):
        made = range(begin, min(begin + together, first + number))
        events = [stage.envelope(at, tenant=f"t{at % 3}", event={"number": at, "x": "y" * 500}) for at in made]
        await stage.journal(client, "p1", begin, events)
        await stage.until(lambda: stage.is_consumed(client), "the journal to be consumed")


async def check_whole(stage: Any, client: Client, total: int, *, at_least: int) -> None:
    """All events once, in order; each segment but the last ends with a block that names the next."""
    assert numbers(await stage.read_chain(client)) == list(range(total))
    found = await segments(client)
    assert len(found) >= at_least
    for one, following in pairwise(found):
        assert following.first == one.last + 1
        last = await message_at(client, one.name, one.last)
        assert last is not None
        block = parse_block(last.payload)
        assert (block.next, block.records) == (following.name, [])


async def test_a_chain_rolls_by_size_and_every_reader_follows(stage: Any) -> None:
    client = await stage.connect()
    await stage.writer("w1", rolling=SMALL)
    await send(stage, client, 0, 40)
    await check_whole(stage, client, 40, at_least=3)
    head = await load_head(client, stage.origin)
    assert head.size == 40
    for seq in range(40):
        number = await block_of(client, seq, head.block)
        block, _ = await block_at(client, number)
        assert block.first <= seq < block.size


async def test_two_writers_race_over_the_end_of_segments(stage: Any) -> None:
    client = await stage.connect()
    tasks = [(await stage.writer(f"w{n}", rolling=SMALL))[1] for n in (1, 2)]
    for at in range(60):
        await stage.journal(client, "p1", at, [stage.envelope(at, event={"number": at, "x": "y" * 500})])
        if at % 20 == 10:
            # The one that writes dies; the other takes over, also where a segment ends.
            await stage.until(lambda: stage.is_consumed(client), "the journal to be consumed")
            await stage.stop_task(tasks.pop(0))
            tasks.append((await stage.writer(f"w{at}", rolling=SMALL))[1])
    await stage.until(lambda: stage.is_consumed(client), "the journal to be consumed")
    await check_whole(stage, client, 60, at_least=3)


class Died(Exception):
    pass


@pytest.mark.parametrize("step", ["before the segment is made", "after it is made", "after the block that ends"])
async def test_a_writer_that_dies_while_it_rolls_loses_nothing(
    stage: Any, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    client = await stage.connect()
    real = make_segment
    deaths = 0

    async def dying_make(*args: Any) -> str:
        nonlocal deaths
        if step.startswith("before"):
            deaths += 1
            raise Died
        made = await real(*args)
        if step.startswith("after it"):
            deaths += 1
            raise Died
        return made

    async def dying_enter(self: Writer, head: Any) -> OpenSegment:
        nonlocal deaths
        if (await block_at(client, head.block))[0].next if head.block else "":
            deaths += 1
            raise Died
        return OpenSegment("CHAIN", Room(0, 0, 0.0))

    monkeypatch.setattr("nomos_audit.writer.make_segment", dying_make)
    if step.startswith("after the"):
        monkeypatch.setattr(Writer, "_enter_segment", dying_enter)
    _, task = await stage.writer("w1", rolling=SMALL)
    at = 0
    while not task.done():
        await stage.journal(client, "p1", at, [stage.envelope(at, event={"number": at, "x": "y" * 500})])
        at += 1
        await asyncio.sleep(0.05)
    assert isinstance(task.exception(), Died)
    assert deaths == 1
    monkeypatch.undo()
    await stage.writer("w2", rolling=SMALL)
    await stage.until(lambda: stage.is_consumed(client), "the journal to be consumed")
    await send(stage, client, at, 25)
    await check_whole(stage, client, at + 25, at_least=2)


async def test_a_segment_that_nobody_names_is_part_of_nothing(stage: Any) -> None:
    client = await stage.connect()
    await stage.writer("w1", rolling=NEVER)
    await send(stage, client, 0, 5)
    await make_segment(client, "CHAIN", 4)
    await send(stage, client, 5, 5)
    assert numbers(await stage.read_chain(client)) == list(range(10))
    assert [one.name for one in await segments(client)] == ["CHAIN"]
    assert (await block_at(client, 7))[0].first == 6


async def test_where_no_segment_can_be_made_the_log_goes_on(
    stage: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    tries = 0

    async def refused(*_: Any) -> str:
        nonlocal tries
        tries += 1
        raise Unavailable("no space")

    monkeypatch.setattr("nomos_audit.writer.make_segment", refused)
    client = await stage.connect()
    await stage.writer("w1", rolling=SMALL)
    await send(stage, client, 0, 30)
    assert numbers(await stage.read_chain(client)) == list(range(30))
    # Not at every block: the next try is a while later.
    assert tries == 1
    assert "audit_chain_roll_away" in capfd.readouterr().err


async def test_a_block_behind_the_end_of_a_segment_is_found(stage: Any) -> None:
    client = await stage.connect()
    _, task = await stage.writer("w1", rolling=SMALL)
    await send(stage, client, 0, 25)
    await stage.stop_task(task)
    first = (await segments(client))[0]
    stored = await message_at(client, first.name, first.last - 1)
    assert stored is not None
    await append(client, subject_of(first.name), stored.payload, expected_last=first.last)
    follower = Follower(client, start_of(stage.origin))
    with pytest.raises(RolledBack, match="behind the end of its segment"):
        while True:
            await follower.take(1.0)
    await follower.close()


def test_a_segment_has_a_name_a_subject_and_a_first_block() -> None:
    assert (name_of(1), name_of(4711)) == ("CHAIN", "CHAIN-4711")
    assert (subject_of("CHAIN"), subject_of("CHAIN-4711")) == ("chain.0", "chain.4711")
    assert (first_of("CHAIN"), first_of("CHAIN-4711")) == (1, 4711)
    for wrong in ("CHAIN-", "CHAIN-01", "CHAIN-1", "CHAIN-x", "CHAIN--2", "CHAIN-\u0664"):
        with pytest.raises(Misconfigured, match="no segment"):
            first_of(wrong)


def test_when_a_segment_ends() -> None:
    november, december = 1_795_305_600.0, 1_796_083_200.0
    made = OpenSegment("CHAIN-5", Room(1_000, 10_000, november))

    def due(rolling: Rolling, *, block: int = 9, at: float = november, now: float = 0.0) -> bool:
        return made.is_due(rolling, block=block, at=int(at * 1e6), now=now)

    assert not due(Rolling(2_000, True))
    assert due(Rolling(2_000, True), at=december)
    assert not due(Rolling(2_000, False), at=december)
    assert not due(Rolling(2_000, True), at=december, block=4)
    made.wrote(999)
    assert not due(Rolling(2_000, False))
    made.wrote(1)
    assert due(Rolling(2_000, False))
    assert not due(NEVER)
    made.wrote(6_000)
    # 80 % of what the stream may hold.
    assert due(NEVER)
    made.put_off(10.0)
    assert not due(NEVER, now=10.0 + RETRY_SECONDS - 0.1)
    assert due(NEVER, now=10.0 + RETRY_SECONDS)


# -- retirement --------------------------------------------------------------------------------------------------------

DAY_US = 86_400_000_000
BY = Actor(kind="operator", id="sub-1")
#: 2026-11-22T12:00:00Z
NOON_US = 1_795_348_800_000_000


class Old:
    """A log with an archive, several segments and a clock that the test turns."""

    def __init__(self, stage: Any, database: Database) -> None:
        self.stage = stage
        self.database = database
        self.seed = os.urandom(32)
        self.now = NOON_US
        self.folder: Path = stage.directory / "archive"
        self.journalled: list[tuple[str, dict[str, Any]]] = []
        self._events = self._own = 0
        self._producer = ""

    async def start(self, *, with_archive: bool = True) -> None:
        stage = self.stage
        self.client = await stage.connect()
        self._producer, self._own = new_id("a"), 0
        self.log = await AuditLog.open(
            await stage.connect(),
            self.database,
            origin=stage.origin,
            seed=self.seed,
            writer_id=new_id("wr"),
            services=stage.services,
            now=self._tick,
            checkpoint_seconds=0.1,
            tiles=stage.directory / "tiles",
            rolling=Rolling(200_000, False),
        )
        if with_archive:
            self.log.archive(
                FolderStore(self.folder),
                blinding_key=bytes(32),
                journal=self.own,
                now=lambda: self.now,
                tool="nomos test",
                grace_seconds=1.0,
                retry_seconds=0.1,
            )
        self.running = stage.run(self.log.run(), "audit log")

    def _tick(self) -> int:
        self.now += 1
        return self.now

    async def stop(self) -> None:
        await self.stage.stop_task(self.running)
        await self.log.close()

    async def own(self, kind: str, event: dict[str, Any], by: Actor | None = None) -> None:
        self.journalled.append((kind, event))
        actor = by or Actor(kind="system", id="audit")
        envelope = Envelope(id=new_id("ev"), type=kind, tenant="_sys", actor=actor, corr="", cause="", event=event)
        await self.stage.journal(self.client, self._producer, self._own, [envelope], account="AA")
        self._own += 1

    async def events(self, number: int) -> None:
        await send(self.stage, self.client, self._events, number, together=50)
        self._events += number

    async def days(self, number: int) -> None:
        """So many days with enough events to roll, each archived."""
        for _ in range(number):
            await self.events(500)
            day = self.now // DAY_US
            self.now = (day + 1) * DAY_US + DAY_US // 2
            await self.stage.until(lambda day=day: self._sealed(day), "the day to be archived")

    def _sealed(self, day: int) -> bool:
        if self.running.done():
            self.running.result()
        done = self.log.archiver.done.day if self.log.archiver is not None else ""
        return done >= datetime.fromtimestamp(day * 86_400, UTC).date().isoformat()

    def retirement(self, **more: Any) -> Retirement:
        given = {"keep_days": 0, "tiles_stay": True, "journal": self.own, "now": lambda: 4e9, **more}
        return Retirement(self.log, **given)

    async def caught_up(self) -> None:
        """Everybody is past all ended segments."""

        async def is_past() -> bool:
            head = await load_head(self.client, self.stage.origin)
            copies = (self.log.table.size, self.log.tiles.files.size, self.log.tenants.size)
            return min(copies) >= head.size - 5

        await self.stage.until(is_past, "the copies to catch up")

    async def delete(self, names: list[str]) -> None:
        for name in names:
            await self.client.jetstream().delete_stream(name)

    @property
    def trust(self) -> bytes:
        return f"log {NoteSigner(self.stage.origin, self.seed).verifier_key}\nquorum none\n".encode()


@pytest.fixture
async def old(stage: Any, database: Database) -> Old:
    return Old(stage, database)


async def test_a_retired_segment_is_archived_and_everything_goes_on_without_it(
    old: Old, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await old.start()
    await old.days(3)
    await old.caught_up()
    retirement = old.retirement()
    looked = await retirement.retire(BY, only_look=True)
    assert looked[0].against == ""
    assert old.journalled == [one for one in old.journalled if one[0] != RETIRED]
    judged = await retirement.retire(BY, only_look=False)
    gone = [one for one in judged if not one.against]
    assert [one.stream for one in gone] == [one.stream for one in looked if not one.against]
    recorded = [event for kind, event in old.journalled if kind == RETIRED]
    assert [one["stream"] for one in recorded] == [one.stream for one in gone]
    await old.delete([one.stream for one in gone])
    cut = gone[-1].last
    # The log grows, also after a start.
    await old.events(3)
    await old.stop()
    await old.start()
    await old.events(3)
    await old.stage.until(lambda: old.log.tiles.files.size >= cut + 5, "the tiles")
    await old.log.signer.checkpoint_now()
    # The archive verifies, and holds what went.
    report = verify_export(old.folder, old.trust, 2, now=1_900_000_000)
    assert report.verdict is Verdict.VERIFIED, report.first
    assert report.to_size > cut
    # Receipts: by tenant from the table, by number only where the chain still has it.
    log = old.log
    receipts = Receipts(
        log.client, old.database, origin=log.origin, signer=log.signer, tiles=log.tiles, vouched=log.vouched
    )
    found = await receipts.by_seq(1, "t1")
    proven = verify_receipt(parse_receipt(await receipts.prove(found)), found.record, parse_trust(old.trust))
    assert proven.checkpoint.size >= cut
    with pytest.raises(NotFound, match="rolled past"):
        await receipts.by_seq(1, None)
    # Exports: a tenant's from the table, the whole log is the archive.
    export = {"origin": log.origin, "keys": log.signer.keys, "tiles": log.tiles, "table": old.database}
    with pytest.raises(NotFound, match="in the archive only"):
        await export_log(old.client, tmp_path / "whole", **export)
    assert not (tmp_path / "whole").exists()
    await export_log(old.client, tmp_path / "t1", tenant="t1", **export)
    bundle = verify_export(tmp_path / "t1", old.trust, 2, now=1_900_000_000, tenant="t1")
    assert bundle.verdict is Verdict.VERIFIED, bundle.first
    assert bundle.records == len([n for n in range(old._events) if n % 3 == 1])
    with monkeypatch.context() as patch:
        # A table that is behind is waited for, never read as if it were whole.
        patch.setattr("nomos_audit.export.TABLE_SECONDS", 0.2)
        async with old.database.transaction() as connection:
            size = await connection.fetchval("UPDATE audit_projection SET size = 7 RETURNING size")
        assert size == 7
        with pytest.raises(Unavailable, match="the table holds 7 of"):
            await export_log(old.client, tmp_path / "late", tenant="t1", **export)
    # What would have to begin at the beginning says so.
    with pytest.raises(RolledBack, match="the chain begins at block") as error:
        await segment_after(old.client, 0)
    assert "archive" in (error.value.hint or "")
    await old.stop()


async def test_segments_go_one_after_the_other(old: Old) -> None:
    """The next one is judged without the one before it."""
    await old.start()
    await old.days(3)
    await old.caught_up()
    first = (await segments(old.client))[0]
    await old.delete([first.name])
    again = await old.retirement().retire(BY, only_look=True)
    assert again[0].stream != first.name
    assert again[0].against == ""
    await old.stop()


async def test_a_segment_that_is_long_read_back_is_asked_for_again(old: Old, monkeypatch: pytest.MonkeyPatch) -> None:
    await old.start()
    await old.days(3)
    await old.caught_up()
    monkeypatch.setattr("nomos_audit.retiring.COMPARE_WAIT_SECONDS", 0.0)
    retirement = old.retirement()
    before = len(old.journalled)
    asked = await retirement.retire(BY, only_look=False)
    assert asked[0].against == "it is being read back from the archive; ask again"
    assert len(old.journalled) == before

    async def may_go() -> bool:
        return not (await retirement.retire(BY, only_look=True))[0].against

    await old.stage.until(may_go, "the segment to be read back")
    retirement.close()
    await old.stop()


async def against(old: Old, **more: Any) -> str:
    before = len(old.journalled)
    judged = await old.retirement(**more).retire(BY, only_look=False)
    assert len(old.journalled) == before, "what stays is not recorded as retired"
    assert all(one.against for one in judged)
    return judged[0].against


async def test_what_is_not_proven_to_be_archived_stays(old: Old, monkeypatch: pytest.MonkeyPatch) -> None:
    await old.start()
    await old.days(3)
    await old.caught_up()
    assert "days ago" in await against(old, keep_days=100_000)
    assert "tiles_dir" in await against(old, tiles_stay=False)
    archiver = old.log.archiver
    assert archiver is not None
    with monkeypatch.context() as patch:
        patch.setattr(old.log, "archiver", None)
        assert await against(old) == "there is no archive"
    with monkeypatch.context() as patch:
        patch.setattr("nomos_audit.projections.TableProjection.size", 3)
        assert await against(old) == "not past it: table"
    part = next(old.folder.glob("day=*/part-000.parquet"))
    for change, said in _damages(part):
        kept = part.read_bytes()
        change()
        assert said in await against(old), said
        part.write_bytes(kept)
    root = min((old.folder / "roots").glob("????-??-??"))
    kept = root.read_bytes()
    root.write_bytes(kept[:-20] + b"A" * 19 + b"\n")
    assert "the archive does not hold it" in await against(old)
    root.write_bytes(kept)
    # With all of it right again, it may go.
    assert (await old.retirement().retire(BY, only_look=True))[0].against == ""
    await old.stop()


def _damages(part: Path) -> list[tuple[Callable[[], Any], str]]:
    content = part.read_bytes()
    flipped = bytearray(content)
    flipped[len(flipped) // 2] ^= 1
    return [
        (lambda: part.write_bytes(bytes(flipped)), "does not have the digest"),
        (part.unlink, "the archive does not hold it"),
    ]


async def test_a_segment_that_is_not_sealed_yet_stays(old: Old) -> None:
    await old.start()
    await old.events(500)
    await old.caught_up()
    assert "sealed up to record -1" in await against(old)
    await old.stop()


async def test_what_a_start_needs_stays(old: Old) -> None:
    await old.start()
    await old.days(1)
    await old.events(500)
    await old.caught_up()
    judged = await old.retirement().retire(BY, only_look=True)
    # The archiver begins behind the sealed day: the segment with the snapshot before it stays, and all after it.
    stays = [one for one in judged if one.against]
    assert stays
    assert any("a start of the archiver needs block" in one.against for one in stays)
    assert stays[-1].against.endswith("before it stays") or len(stays) == 1
    await old.stop()
