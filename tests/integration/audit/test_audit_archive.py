"""Days are sealed, archived without a gap and continued after any crash; what is archived is what was chained."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import nomos_audit.archiver
from nomos.errors import Conflict, NotFound, RolledBack, Unavailable
from nomos.events import Actor, Envelope
from nomos.ids import new_id
from nomos.log.heads import parse_leaves, parse_seal
from nomos.log.index import parse_index
from nomos.log.note import NoteSigner
from nomos.log.record import parse_record
from nomos.log.report import Report, Verdict
from nomos.log.roots import parse_root_proofs
from nomos.log.sealedfield import SUBJECT_ERASED, subject_of
from nomos.log.verify import verify_export
from nomos_audit.log import AuditLog
from nomos_audit.store.folder import FolderStore
from nomos_audit.store.port import digest_of
from nomos_audit.writer import Writer
from nomos_runtime.database import Database

from .conftest import envelope

DAY_US = 86_400_000_000
#: 2026-11-22T12:00:00Z
NOON_US = 1_795_348_800_000_000
BLINDING = bytes(range(32))


class Days:
    """A log whose clock the test turns, with an archive in a folder."""

    def __init__(self, stage: Any, database: Database, seed: bytes) -> None:
        self.stage = stage
        self.seed = seed
        self._database = database
        self.now = NOON_US
        self.folder: Path = stage.directory / "archive"
        self.store: Any = FolderStore(self.folder)
        self.log: AuditLog
        self._events = 0
        self._own = 0

    async def start(self, producer: str = "a1") -> None:
        stage = self.stage
        self.client = await stage.connect()
        self._producer, self._own = producer, 0
        self.log = await AuditLog.open(
            await stage.connect(),
            self._database,
            origin=stage.origin,
            seed=self.seed,
            writer_id=new_id("wr"),
            services=stage.services,
            now=self._tick,
            checkpoint_seconds=0.1,
            tiles=stage.directory / "tiles",
        )
        self.log.archive(
            self.store,
            blinding_key=BLINDING,
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

    async def own(self, kind: str, event: dict[str, Any]) -> None:
        envelope = Envelope(
            id=new_id("ev"),
            type=kind,
            tenant="_sys",
            actor=Actor(kind="system", id="audit"),
            corr="",
            cause="",
            event=event,
        )
        await self.stage.journal(self.client, self._producer, self._own, [envelope], account="AA")
        self._own += 1

    async def events(self, number: int) -> None:
        first = self._events
        self._events += number
        made = [self.stage.envelope(n, tenant=f"t{n % 3}") for n in range(first, first + number)]
        await self.stage.journal(self.client, "p1", first, made)
        await self.stage.until(lambda: self.stage.is_consumed(self.client), "the journal to be consumed")

    def next_day(self, days: int = 1) -> None:
        self.now = NOON_US + ((self.now - NOON_US) // DAY_US + days) * DAY_US

    async def archived(self, day: str) -> None:
        def there() -> bool:
            if self.running.done():
                self.running.result()
            index = self.folder / "log.json"
            return index.exists() and any(one.n == f"roots/{day}" for one in parse_index(index.read_bytes()).others)

        await self.stage.until(there, f"the archive of {day}")

    def seal(self, day: str) -> Any:
        proofs = parse_root_proofs((self.folder / f"roots/{day}.json").read_bytes())
        return parse_seal(parse_record(proofs.seal).event)

    def objects(self) -> dict[str, str]:
        found = {path.relative_to(self.folder).as_posix(): path for path in self.folder.rglob("*") if path.is_file()}
        return {name: digest_of(path) for name, path in found.items()}


@pytest.fixture
def days(stage: Any, database: Database) -> Days:
    return Days(stage, database, os.urandom(32))


async def test_a_day_that_is_over_is_sealed_and_archived(days: Days) -> None:
    await days.start()
    await days.events(30)
    days.next_day()
    await days.archived("2026-11-22")
    seal = days.seal("2026-11-22")
    assert (seal.first, seal.last, seal.count, seal.prev_seal) == (0, 29, 30, None)
    assert [(one.n, one.rows) for one in seal.files] == [("day=2026-11-22/part-000.parquet", 30)]
    assert digest_of(days.folder / seal.files[0].n) == seal.files[0].sha256
    leaves = parse_leaves((days.folder / "roots/2026-11-22.heads").read_bytes())
    assert (seal.tenants.n, sorted(one.n for one in leaves)) == (3, [10, 10, 10])
    await days.stop()


def erasure(number: int) -> Envelope:
    """An erasure as a service emits it."""
    dek = new_id("dek")
    event: dict[str, Any] = {
        "subject": subject_of(dek), "dek": dek, "kc": "0" * 64, "kind": "approver", "basis": "asked", "at": 1,
    }  # fmt: skip
    return envelope(number, type=SUBJECT_ERASED, actor=Actor(kind="operator", id="dev"), event=event)


async def sealed_with_erasures(days: Days) -> Report:
    await days.start()
    await days.events(3)
    await days.stage.journal(days.client, "p1", 3, [erasure(3), erasure(4), envelope(5)])
    await days.stage.until(lambda: days.stage.is_consumed(days.client), "the journal to be consumed")
    days.next_day()
    await days.archived("2026-11-22")
    await days.stop()
    trust = f"log {NoteSigner(days.stage.origin, days.seed).verifier_key}\nquorum none\n".encode()
    return verify_export(days.folder, trust, 2, now=1_900_000_000)


async def test_a_seal_counts_the_erasures_of_its_day(days: Days) -> None:
    report = await sealed_with_erasures(days)
    assert report.verdict is Verdict.VERIFIED, report.first
    assert days.seal("2026-11-22").erasures == 2


async def test_a_seal_that_counts_other_erasures_than_the_records_is_found(
    days: Days, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A sealer that counts gaps for erasures signs an untrue seal.
    monkeypatch.setattr(nomos_audit.archiver, "_ERASURE_END", b'"type":"audit.gap","v":1}')
    report = await sealed_with_erasures(days)
    assert report.verdict is Verdict.TAMPERED
    assert report.first is not None
    assert report.first.reason == "the seal of 2026-11-22 counts 0 erasures, the records 2"


async def test_days_without_a_record_are_sealed_in_order_also_after_an_outage(days: Days) -> None:
    await days.start()
    await days.events(6)
    await days.stop()
    days.next_day(4)
    await days.start("a2")
    await days.archived("2026-11-25")
    seals = [days.seal(f"2026-11-{day}") for day in (22, 23, 24, 25)]
    assert [one.count for one in seals] == [6, 0, 0, 0]
    assert [one.first for one in seals] == [0, 6, 6, 6]
    assert [one.prev_seal is None for one in seals] == [True, False, False, False]
    await days.events(3)
    days.next_day()
    await days.archived("2026-11-26")
    last = days.seal("2026-11-26")
    # The four seals before, which were chained on this day, are records of this day.
    assert (last.first, last.count) == (6, 7)
    await days.stop()


async def test_a_clock_that_steps_back_seals_no_day_twice(days: Days) -> None:
    await days.start()
    await days.events(3)
    days.next_day()
    await days.archived("2026-11-22")
    days.next_day(-1)
    await days.events(3)
    days.next_day(2)
    await days.archived("2026-11-23")
    assert days.seal("2026-11-23").count == 4
    await days.stop()


class Breaking:
    """A store that fails once, at the call of the given number; before it is done, or after."""

    def __init__(self, store: FolderStore, at: int, *, after: bool) -> None:
        self._store = store
        self._left = at
        self._after = after
        self.name = "breaking"
        self.broke = False

    async def _call(self, method: Callable[..., Any], *args: Any) -> Any:
        self._left -= 1
        breaks = self._left == 0
        # Said before the call: what it writes may be seen, and the log stopped, before the call returns.
        self.broke = self.broke or breaks
        if breaks and not self._after:
            raise Unavailable("broken before")
        found = await method(*args)
        if breaks:
            raise Unavailable("broken after")
        return found

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)
        return lambda *args: self._call(method, *args)


@pytest.mark.parametrize("after", [False, True])
async def test_whatever_call_of_the_store_fails_the_archive_comes_out_the_same(
    days: Days, after: bool, tmp_path: Path
) -> None:
    await days.start()
    await days.events(9)
    days.next_day()
    await days.archived("2026-11-22")
    whole = days.objects()
    await days.stop()
    number = 0
    while True:
        number += 1
        days.folder = tmp_path / f"archive-{number}"
        days.store = breaking = Breaking(FolderStore(days.folder), number, after=after)
        await days.start(f"b{number}")
        await days.archived("2026-11-22")
        await days.stop()
        assert days.objects() == whole, number
        if not breaking.broke:
            break
    assert number > 10


async def test_an_archive_that_is_killed_while_a_day_is_sealed_goes_on_without_a_second_seal(days: Days) -> None:
    await days.start()
    await days.events(9)

    async def die(*_: Any) -> None:
        raise RuntimeError("killed")

    days.log.archiver._publish = die  # type: ignore[union-attr, method-assign]
    days.next_day()
    await days.stage.until(days.running.done, "the process to die after the seal was chained")
    assert days.running.exception() is not None
    await days.log.close()
    await days.start("a2")
    await days.archived("2026-11-22")
    records = await days.stage.read_chain(days.client)
    assert [one["event"]["day"] for one in records if one["type"] == "audit.seal"] == ["2026-11-22"]
    await days.stop()


async def test_a_part_of_an_attempt_that_was_cut_short_is_taken_as_it_is(days: Days) -> None:
    await days.start()
    await days.events(9)
    days.next_day()
    await days.archived("2026-11-22")
    part = (days.folder / "day=2026-11-22/part-000.parquet").read_bytes()
    await days.stop()
    # The archive has the part, and nothing says so.
    for name in days.objects():
        if not name.endswith(".parquet"):
            (days.folder / name).unlink()
    await days.start("a2")
    await days.archived("2026-11-22")
    assert (days.folder / "day=2026-11-22/part-000.parquet").read_bytes() == part
    await days.stop()


async def test_an_archive_of_another_log_is_never_continued(days: Days, stage: Any) -> None:
    await days.start()
    await days.events(9)
    days.next_day()
    await days.archived("2026-11-22")
    await days.stop()
    for name in days.objects():
        if not name.endswith(".parquet"):
            (days.folder / name).unlink()
    part = days.folder / "day=2026-11-22/part-000.parquet"
    content = bytearray(part.read_bytes())
    content[len(content) // 3] ^= 1
    part.write_bytes(content)
    await days.start("a2")
    await days.stage.until(days.running.done, "the log to stop")
    with pytest.raises(ExceptionGroup) as found:
        days.running.result()
    assert found.value.subgroup(lambda error: isinstance(error, RolledBack) or "decoded" in str(error))
    await days.log.close()


async def test_the_log_goes_on_while_its_archive_is_away(days: Days) -> None:
    class Away:
        name = "away"

        def __getattr__(self, name: str) -> Any:
            async def fail(*_: Any) -> Any:
                raise Unavailable("away")

            return fail

    days.store = Away()
    await days.start()
    await days.events(9)
    days.next_day()
    await days.events(9)
    assert not days.running.done()
    assert isinstance(days.log.writer, Writer)
    await days.stop()
    days.store = FolderStore(days.folder)
    await days.start("a2")
    await days.archived("2026-11-22")
    assert days.seal("2026-11-22").count == 9
    await days.stop()


async def test_a_folder_never_gives_up_an_object_for_another(tmp_path: Path) -> None:
    store = FolderStore(tmp_path)
    name = "roots/2026-11-22"
    await store.put_new(name, b"one", digest_of(b"one"))
    await store.put_new(name, b"one", digest_of(b"one"))
    with pytest.raises(Conflict):
        await store.put_new(name, b"two", digest_of(b"two"))
    assert await store.get(name) == b"one"
    with pytest.raises(NotFound):
        await store.get("roots/2026-11-23")
    assert await store.names("roots/") == [name]
