"""An archive is judged by files and trust policy alone: an honest one passes, a changed one never does."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from nomos.log.index import INDEX_NAME, file_digest, format_index, parse_index, root_name
from nomos.log.memory import Memory
from nomos.log.note import NoteSigner
from nomos.log.report import Report, Verdict
from nomos.log.verify import verify_export
from nomos_audit.log import AuditLog
from nomos_audit.store.folder import FolderStore
from nomos_runtime.database import Database

DAYS = ("2026-11-22", "2026-11-23", "2026-11-24")
NOW = 1_900_000_000
LEVELS = (0, 1, 2)


class Archive:
    """A real archive of three days, the middle one without a record of its own."""

    def __init__(self, folder: Path, trust: bytes) -> None:
        self.folder = folder
        self.trust = trust

    def copy(self, to: Path) -> Archive:
        return Archive(Path(shutil.copytree(self.folder, to)), self.trust)

    def verify(self, level: int = 1, **more: Any) -> Report:
        return verify_export(self.folder, more.pop("trust", self.trust), level, now=NOW, **more)

    def refresh(self) -> None:
        """What an attacker does who can write every file: the index fits again."""
        index = parse_index((self.folder / INDEX_NAME).read_bytes())
        files = [one for one in index.files if (self.folder / one.n).exists()]
        others = [one for one in index.others if (self.folder / one.n).exists()]
        changed = msgspec.structs.replace(
            index,
            files=tuple(msgspec.structs.replace(one, sha256=file_digest(self.folder / one.n)) for one in files),
            others=tuple(msgspec.structs.replace(one, sha256=file_digest(self.folder / one.n)) for one in others),
        )
        (self.folder / INDEX_NAME).write_bytes(format_index(changed))


@pytest.fixture(scope="module")
def built() -> dict[str, Archive]:
    """The archive that the first test of this module made; the others take copies."""
    return {}


@pytest.fixture
async def archive(
    stage: Any,
    database: Database,
    built: dict[str, Archive],
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Archive:
    if not built:
        made = await _build(stage, database, tmp_path)
        built["archive"] = made.copy(tmp_path_factory.mktemp("built") / "archive")
    return built["archive"].copy(tmp_path / "own")


async def _build(stage: Any, database: Database, tmp_path: Path) -> Archive:
    from nomos.events import Actor, Envelope
    from nomos.ids import new_id

    seed, now, counter = os.urandom(32), [1_795_348_800_000_000], [0]
    client = await stage.connect()

    def tick() -> int:
        now[0] += 1
        return now[0]

    async def journal(kind: str, event: dict[str, Any]) -> None:
        actor = Actor(kind="system", id="audit")
        one = Envelope(id=new_id("ev"), type=kind, tenant="_sys", actor=actor, corr="", cause="", event=event)
        await stage.journal(client, "a1", counter[0], [one], account="AA")
        counter[0] += 1

    log = await AuditLog.open(
        await stage.connect(),
        database,
        origin=stage.origin,
        seed=seed,
        writer_id="w1",
        services=stage.services,
        now=tick,
        checkpoint_seconds=0.1,
        tiles=tmp_path / "tiles",
    )
    folder = tmp_path / "archive"
    log.archive(
        FolderStore(folder),
        blinding_key=os.urandom(32),
        journal=journal,
        now=lambda: now[0],
        tool="nomos test",
        grace_seconds=1.0,
        retry_seconds=0.1,
    )
    running = stage.run(log.run(), "audit log")
    for day, (first, number) in zip(DAYS, ((0, 300), (300, 0), (300, 7)), strict=True):
        for batch in range(first, first + number, 100):
            events = [stage.envelope(n, tenant=f"t{n % 3}") for n in range(batch, min(batch + 100, first + number))]
            await stage.journal(client, "p1", batch, events)
        await stage.until(lambda: stage.is_consumed(client), "the journal to be consumed")
        now[0] += 86_400_000_000
        await stage.until(lambda day=day: log.archiver.done.day == day, f"the archive of {day}")

    def is_indexed() -> bool:
        # The index is written after a day's files, so it may still be that of the day before.
        index = folder / INDEX_NAME
        return index.exists() and any(one.n == root_name(DAYS[-1]) for one in parse_index(index.read_bytes()).others)

    await stage.until(is_indexed, "the index")
    await stage.stop_task(running)
    await log.close()
    return Archive(folder, f"log {NoteSigner(stage.origin, seed).verifier_key}\nquorum none\n".encode())


async def test_an_honest_archive_is_verified_at_every_level_and_says_what_it_did_not_check(archive: Archive) -> None:
    for level in LEVELS:
        report = archive.verify(level)
        assert report.verdict is Verdict.VERIFIED, report.first
    report = archive.verify(1)
    assert report.records == 309
    assert [one.size for one in report.roots] == sorted(one.size for one in report.roots)
    assert any("3 days, 2026-11-22 to 2026-11-24" in one for one in report.checked)
    assert any("heads of all tenants at 3 seals" in one for one in report.checked)
    assert any("cut after the newest checkpoint" in one for one in report.not_checked)


async def test_an_archive_that_was_copied_elsewhere_is_verified_there(archive: Archive, tmp_path: Path) -> None:
    copy = archive.copy(tmp_path / "elsewhere")
    shutil.rmtree(archive.folder)
    assert copy.verify(2).verdict is Verdict.VERIFIED
    assert copy.verify(1, workers=2).verdict is Verdict.VERIFIED


def _remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def _swap(one: str, other: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        content = (folder / one).read_bytes()
        (folder / one).write_bytes((folder / other).read_bytes())
        (folder / other).write_bytes(content)

    return change


def _remove_day(day: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for path in (folder / "roots").glob(f"{day}*"):
            path.unlink()
        shutil.rmtree(folder / f"day={day}", ignore_errors=True)

    return change


def _extra(folder: Path) -> None:
    shutil.copy(folder / "day=2026-11-22/part-000.parquet", folder / "day=2026-11-22/part-007.parquet")


@pytest.mark.parametrize("refreshed", [False, True])
@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        (_remove("day=2026-11-22/part-000.parquet"), Verdict.INCOMPLETE),
        (_remove("roots/2026-11-22.json"), Verdict.INCOMPLETE),
        (_remove("roots/2026-11-24.heads"), Verdict.INCOMPLETE),
        (_remove_day("2026-11-23"), Verdict.INCOMPLETE),
        (_remove_day("2026-11-22"), None),
        (_swap("roots/2026-11-22", "roots/2026-11-24"), Verdict.TAMPERED),
        (_swap("roots/2026-11-22.json", "roots/2026-11-24.json"), Verdict.TAMPERED),
        (_swap("roots/2026-11-22.heads", "roots/2026-11-24.heads"), Verdict.TAMPERED),
        (_swap("day=2026-11-22/part-000.parquet", "day=2026-11-24/part-000.parquet"), Verdict.TAMPERED),
        (_extra, Verdict.TAMPERED),
    ],
)
async def test_a_changed_archive_never_passes_at_any_level(
    archive: Archive, tmp_path: Path, change: Callable[[Path], None], verdict: Verdict | None, refreshed: bool
) -> None:
    copy = archive.copy(tmp_path / "changed")
    change(copy.folder)
    if refreshed:
        copy.refresh()
    for level in LEVELS:
        report = copy.verify(level)
        assert report.verdict is not Verdict.VERIFIED, level
        assert report.first is not None
        if verdict is not None and not refreshed:
            assert verdict in {one.verdict for one in report.findings}


async def test_an_archive_copied_while_it_grew_is_incomplete_and_not_tampered_with(
    archive: Archive, tmp_path: Path
) -> None:
    """The files of a day come before the index that lists them."""
    copy = archive.copy(tmp_path / "growing")
    _remove_day("2026-11-24")(copy.folder)
    copy.refresh()
    for name in ("roots/2026-11-24", "roots/2026-11-24.json"):
        shutil.copy(archive.folder / name, copy.folder / name)
    for level in LEVELS:
        report = copy.verify(level)
        assert {one.verdict for one in report.findings} == {Verdict.INCOMPLETE}
        assert report.first is not None
        assert "copy the archive again" in report.first.reason


async def test_the_last_day_cut_off_is_found_by_who_knows_a_later_size(archive: Archive, tmp_path: Path) -> None:
    """The blind spot, stated: an archive that ends a day earlier is an honest archive of a day earlier."""
    copy = archive.copy(tmp_path / "cut")
    _remove_day("2026-11-24")(copy.folder)
    assert copy.verify(1).verdict is not Verdict.VERIFIED
    copy.refresh()
    report = copy.verify(1)
    assert (report.verdict, report.to_size < archive.verify(1).to_size) == (Verdict.VERIFIED, True)
    assert any("whether a newer checkpoint exists" in one for one in report.not_checked)


async def test_one_flipped_bit_anywhere_is_found(archive: Archive, tmp_path: Path) -> None:
    """One bit in each byte of every small file, and of a sample of the parts' bytes; the index fitted again or not."""
    copy = archive.copy(tmp_path / "flipped")
    judged = [
        path
        for path in sorted(copy.folder.rglob("*"))
        if path.is_file() and "tile" not in path.relative_to(copy.folder).parts
    ]
    flips = 0
    for path in judged:
        content = path.read_bytes()
        step = 1 if path.suffix != ".parquet" and len(content) < 2_000 else 61
        for at in range(0, len(content), step):
            changed = bytearray(content)
            changed[at] ^= 1 << (at % 8)
            path.write_bytes(changed)
            assert copy.verify(0).verdict is not Verdict.VERIFIED, (path.name, at)
            flips += 1
        path.write_bytes(content)
    assert flips > 2_000
    assert copy.verify(1).verdict is Verdict.VERIFIED


async def test_another_logs_key_or_a_missing_quorum_verifies_nothing(archive: Archive) -> None:
    other = NoteSigner("audit.example.com/test", os.urandom(32)).verifier_key
    assert archive.verify(0, trust=f"log {other}\nquorum none\n".encode()).verdict is Verdict.UNVERIFIABLE
    from nomos.log.checkpoint import WitnessSigner

    witness = WitnessSigner("witness.example.org/w1", os.urandom(32)).verifier_key
    demanding = archive.trust.replace(b"quorum none", f"witness w {witness}\nquorum w".encode())
    assert archive.verify(1, trust=demanding).verdict is Verdict.UNVERIFIABLE


async def test_an_archive_is_read_on_and_a_day_that_was_verified_cannot_be_cut_off(
    archive: Archive, tmp_path: Path
) -> None:
    memory = Memory()
    earlier = archive.copy(tmp_path / "earlier")
    _remove_day("2026-11-24")(earlier.folder)
    earlier.refresh()
    for level in (0, 1):
        assert earlier.verify(level, memory=memory).verdict is Verdict.VERIFIED
    later = archive.verify(1, memory=memory)
    assert later.verdict is Verdict.VERIFIED
    whole = archive.verify(1)
    assert 0 < later.from_size < whole.records == later.from_size + later.records
    assert any("roots that were verified earlier are those of this log" in one for one in later.checked)
    for level in LEVELS:
        cut = earlier.verify(level, memory=memory)
        assert (cut.verdict, len(cut.evidence)) == (Verdict.TAMPERED, 2)
    # A root that was verified is taken out, and the seals are left.
    _remove("roots/2026-11-24")(archive.folder)
    archive.refresh()
    assert archive.verify(0, memory=memory).verdict is not Verdict.VERIFIED
