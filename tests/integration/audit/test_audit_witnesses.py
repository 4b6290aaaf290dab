"""The log asks witnesses, real processes of ``nomos witness run``, and what they sign reaches whoever verifies."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from nomos.errors import Misconfigured, Unavailable
from nomos.ids import new_id
from nomos.log.checkpoint import Checkpoint, WitnessSigner, open_checkpoint, sign_checkpoint
from nomos.log.index import parse_index
from nomos.log.note import Note, NoteSigner, format_note, parse_note
from nomos.log.proof import parse_receipt, verify_receipt
from nomos.log.report import Verdict
from nomos.log.trust import TrustPolicy, parse_trust
from nomos.log.verify import verify_export
from nomos.witness.decide import SIZE_TYPE, format_request
from nomos_audit.archiving import ask_witnesses
from nomos_audit.asking import ANSWER_BYTES_MAX, Asker
from nomos_audit.cosigning import QUORUM_SECONDS, Cosigning
from nomos_audit.export import export_log
from nomos_audit.log import AuditLog
from nomos_audit.notes import size_of
from nomos_audit.receipts import Receipts
from nomos_audit.settings import AuditSettings
from nomos_audit.store.folder import FolderStore
from nomos_runtime.database import Database

SEED = sha256(b"TEST ONLY log key").digest()
NOW = 1_900_000_000


class Running:
    """One witness as a customer runs it."""

    def __init__(self, folder: Path, number: int, log: str) -> None:
        self.folder = folder / f"w{number}"
        self.name = f"witness.example.org/w{number}"
        self._log = log
        self.port = 0
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self.folder.mkdir(exist_ok=True)
        key = self.folder / "key"
        if not key.exists():
            made = await self._run("keygen", "--name", self.name, "--out", str(key))
            assert await made.wait() == 0
        ready = self.folder / "ready"
        ready.unlink(missing_ok=True)
        words = ["--name", self.name, "--key-file", str(key), "--state", str(self.folder / "state"), "--log", self._log]
        words += ["--listen", f"127.0.0.1:{self.port}", "--ready-file", str(ready)]
        self.process = await self._run("run", *words)
        async with asyncio.timeout(30):
            while not ready.exists():
                assert self.process.returncode is None
                await asyncio.sleep(0.02)
        told = json.loads(ready.read_text())
        self.url, self.key = told["url"], told["key"]
        self.port = int(self.url.rstrip("/").rpartition(":")[2])

    async def _run(self, *words: str) -> asyncio.subprocess.Process:
        program = [sys.executable, "-m", "nomos.cli.main", "witness", *words]
        with (self.folder / "out").open("ab") as target:
            return await asyncio.create_subprocess_exec(*program, stdout=target, stderr=target)

    async def stop(self, number: int = signal.SIGKILL) -> int:
        if self.process is None or self.process.returncode is not None:
            return 0
        self.process.send_signal(number)
        return await self.process.wait()


class Observed:
    """The log with its witnesses."""

    def __init__(self, stage: Any, database: Database, number: int = 3) -> None:
        self.stage = stage
        self.database = database
        self.key = NoteSigner(stage.origin, SEED).verifier_key
        self.witnesses = [Running(stage.directory, n, str(self.key)) for n in range(1, number + 1)]
        self._sent = 0

    @property
    def trust(self) -> bytes:
        lines = [f"log {self.key}"]
        lines += [f"witness w{n} {one.key} {one.url}" for n, one in enumerate(self.witnesses, 1)]
        names = [f"w{n}" for n, _ in enumerate(self.witnesses, 1)]
        quorum = f"group q {min(2, len(names))} {' '.join(names)}"
        return "\n".join([*lines, quorum, "quorum q", ""]).encode()

    async def start(self, *, wait_seconds: float = 10.0, archive: Path | None = None, **more: Any) -> None:
        now = more.pop("now", lambda: NOW * 1_000_000)
        self.client = await self.stage.connect()
        self.log = await AuditLog.open(
            await self.stage.connect(),
            self.database,
            origin=self.stage.origin,
            seed=SEED,
            writer_id=new_id("wr"),
            services=self.stage.services,
            now=now,
            checkpoint_seconds=0.1,
            tiles=self.stage.directory / "tiles",
        )
        self.log.witness(parse_trust(more.pop("trust", self.trust)), wait_seconds=wait_seconds, development=True)
        if archive is not None:
            self.log.archive(FolderStore(archive), tool="nomos test", now=now, **more)
        self.running = self.stage.run(self.log.run(), "audit log")

    async def stop(self) -> None:
        await self.stage.stop_task(self.running)
        await self.log.close()

    async def events(self, number: int = 5) -> bytes:
        """Appends some, and gives the note that covers them."""
        made = [self.stage.envelope(n, tenant=f"t{n % 2}") for n in range(self._sent, self._sent + number)]
        await self.stage.journal(self.client, "p1", self._sent, made)
        self._sent += number
        await self.stage.until(lambda: self.stage.is_consumed(self.client), "the journal to be consumed")
        return await self.log.signer.checkpoint_now()

    def cosigners(self, note: bytes) -> set[str]:
        policy = parse_trust(self.trust)
        opened = open_checkpoint(note, [self.key], policy.witnesses)
        return {one.witness.name.rpartition("/")[2] for one in opened.cosignatures}

    def times(self, note: bytes) -> dict[str, int]:
        opened = open_checkpoint(note, [self.key], parse_trust(self.trust).witnesses)
        return {one.witness.name: one.time for one in opened.cosignatures}

    async def cosigned_by(self, note: bytes, *names: str) -> bytes:
        """Waits until exactly these have cosigned, and gives the note."""

        async def found() -> bool:
            self.note = await self.log.vouched(note)
            return self.cosigners(self.note) == set(names)

        await self.stage.until(found, f"the cosignatures of {names}")
        return self.note

    async def export(self, folder: Path) -> Path:
        assert self.log.cosigning is not None
        keys, cosigned = self.log.signer.keys, self.log.cosigning.vouched
        await export_log(self.client, folder, origin=self.stage.origin, keys=keys, cosigned=cosigned)
        return folder

    def receipts(self) -> Receipts:
        log = self.log
        return Receipts(
            log.client, self.database, origin=log.origin, signer=log.signer, tiles=log.tiles, vouched=log.vouched
        )


@pytest.fixture
async def one_witness(stage: Any, database: Database) -> AsyncIterator[Observed]:
    made = Observed(stage, database, 1)
    await made.witnesses[0].start()
    yield made
    await made.witnesses[0].stop()


@pytest.fixture
async def observed(stage: Any, database: Database) -> AsyncIterator[Observed]:
    made = Observed(stage, database)
    await asyncio.gather(*(one.start() for one in made.witnesses))
    yield made
    await asyncio.gather(*(one.stop() for one in made.witnesses))


async def test_a_quorum_cosigns_and_one_dead_witness_costs_nothing(observed: Observed, tmp_path: Path) -> None:
    await observed.start()
    first = await observed.events()
    await observed.cosigned_by(first, "w1", "w2", "w3")
    await observed.witnesses[2].stop()
    second = await observed.events()
    await observed.cosigned_by(second, "w1", "w2")
    report = verify_export(await observed.export(tmp_path / "x"), observed.trust, 2, now=NOW)
    assert report.verdict is Verdict.VERIFIED, report.first
    assert report.to_size == size_of(second)
    assert {name.rpartition("/")[2] for name in report.roots[-1].witnesses} >= {"w1", "w2"}
    receipts = observed.receipts()
    found = await receipts.by_seq(3, None)
    proven = verify_receipt(parse_receipt(await receipts.prove(found)), found.record, parse_trust(observed.trust))
    assert len(proven.cosignatures) >= 2
    await observed.stop()


async def test_without_a_quorum_the_log_goes_on_and_the_auditor_cannot_verify(
    observed: Observed, tmp_path: Path
) -> None:
    for one in observed.witnesses[1:]:
        await one.stop()
    await observed.start(wait_seconds=0.3)
    note = await observed.events()
    await observed.cosigned_by(note, "w1")
    report = verify_export(await observed.export(tmp_path / "x"), observed.trust, 1, now=NOW)
    assert report.verdict is Verdict.UNVERIFIABLE
    await observed.stop()


async def test_a_witness_that_was_away_is_offered_what_it_missed(observed: Observed) -> None:
    await observed.witnesses[0].stop()
    await observed.start()
    notes = [await observed.events() for _ in range(3)]
    for note in notes:
        await observed.cosigned_by(note, "w2", "w3")
    await observed.witnesses[0].start()
    for note in notes:
        await observed.cosigned_by(note, "w1", "w2", "w3")
    await observed.stop()


async def test_a_log_that_starts_again_goes_on_where_its_witnesses_are(observed: Observed) -> None:
    await observed.start()
    await observed.cosigned_by(await observed.events(), "w1", "w2", "w3")
    await observed.stop()
    for one in observed.witnesses:
        await one.stop(signal.SIGTERM)
    await asyncio.gather(*(one.start() for one in observed.witnesses))
    await observed.start()
    await observed.cosigned_by(await observed.events(), "w1", "w2", "w3")
    assert observed.log.cosigning is not None
    assert observed.log.cosigning.fault() is None
    await observed.stop()


async def test_a_quiet_log_is_cosigned_anew(observed: Observed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nomos_audit.cosigning.REFRESH_SECONDS", 0.5)
    await observed.start()
    note = await observed.events()
    first = observed.times(await observed.cosigned_by(note, "w1", "w2", "w3"))

    async def all_later() -> bool:
        now = observed.times(await observed.log.vouched(note))
        return all(now[name] > time for name, time in first.items())

    await observed.stage.until(all_later, "younger cosignatures of the same checkpoint")
    assert size_of(await observed.log.signer.checkpoint_now()) == size_of(note)
    await observed.stop()


async def test_a_standby_asks_where_nobody_does(observed: Observed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything has stopped between the checkpoint and the asking; after the start no event makes anybody write."""
    monkeypatch.setattr("nomos_audit.cosigning.STANDBY_SECONDS", 0.5)
    await asyncio.gather(*(one.stop() for one in observed.witnesses))
    await observed.start(wait_seconds=0.2)
    note = await observed.events()
    await observed.stop()
    await asyncio.gather(*(one.start() for one in observed.witnesses))
    await observed.start(wait_seconds=0.2)
    assert not observed.log.writer.is_active
    await observed.cosigned_by(note, "w1", "w2", "w3")
    assert not observed.log.writer.is_active
    await observed.stop()


async def test_a_daily_root_waits_for_its_quorum(observed: Observed, tmp_path: Path) -> None:
    clock = [1_795_348_800_000_000]

    def tick() -> int:
        clock[0] += 1
        return clock[0]

    async def own(kind: str, event: dict[str, Any]) -> None:
        made = observed.stage.envelope(9_000, tenant="_sys", type=kind, event=event)
        await observed.stage.journal(observed.client, "a1", 0, [made], account="AA")

    folder = tmp_path / "archive"
    more = {"blinding_key": bytes(32), "journal": own, "grace_seconds": 1.0, "retry_seconds": 0.1}
    await observed.start(archive=folder, now=tick, **more)
    await observed.events()
    clock[0] += 86_400_000_000
    await observed.stage.until((folder / "log.json").exists, "the archive")
    index = parse_index((folder / "log.json").read_bytes())
    root = next(one.n for one in index.others if one.n == "roots/2026-11-22")
    assert len(observed.cosigners((folder / root).read_bytes())) >= 2
    report = verify_export(folder, observed.trust, 2, now=NOW)
    assert report.verdict is Verdict.VERIFIED, report.first
    await observed.stop()


async def test_another_history_is_an_alarm_that_stays(observed: Observed, capfd: pytest.CaptureFixture[str]) -> None:
    """Whoever holds the log's key showed the witness another log first, and a longer one."""
    asker = Asker(parse_trust(observed.trust).witnesses["w1"], observed.witnesses[0].url, development=True)
    forged = sign_checkpoint(
        Checkpoint(origin=observed.stage.origin, size=3, root=bytes(32)), [NoteSigner(observed.stage.origin, SEED)]
    )
    assert (await asker.ask(format_request(0, [], forged)))[0] == 200
    await observed.start()
    note = await observed.events()
    await observed.cosigned_by(note, "w2", "w3")
    cosigning = observed.log.cosigning
    assert cosigning is not None
    await observed.stage.until(lambda: cosigning.fault() is not None, "the alarm")
    assert cosigning.fault() == "the witness witness.example.org/w1 has seen another history of this log"
    assert "audit_witness_contradicts" in capfd.readouterr().err
    await observed.stop()


async def test_a_log_that_was_rolled_back_is_told_by_its_witness(observed: Observed) -> None:
    asker = Asker(parse_trust(observed.trust).witnesses["w1"], observed.witnesses[0].url, development=True)
    longer = sign_checkpoint(
        Checkpoint(origin=observed.stage.origin, size=1_000, root=bytes(32)), [NoteSigner(observed.stage.origin, SEED)]
    )
    assert (await asker.ask(format_request(0, [], longer)))[0] == 200
    await observed.start()
    await observed.events()
    cosigning = observed.log.cosigning
    assert cosigning is not None
    await observed.stage.until(lambda: cosigning.fault() is not None, "the alarm")
    await observed.stop()


class Scripted:
    """Something that answers as the test says, in a witness's place."""

    def __init__(self, answer: Callable[[asyncio.StreamWriter, bytes], Awaitable[None]]) -> None:
        self._answer = answer
        self.asked = 0

    async def __aenter__(self) -> Scripted:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/"
        return self

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        body = await reader.readexactly(length)
        self.asked += 1
        try:
            await self._answer(writer, body)
        except OSError:
            pass
        finally:
            writer.close()

    async def __aexit__(self, *_: object) -> None:
        self._server.close()


def http(status: int, kind: str, body: bytes) -> bytes:
    head = f"HTTP/1.1 {status} x\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


LIAR = WitnessSigner("witness.example.org/liar", sha256(b"TEST ONLY liar").digest())
OTHER = WitnessSigner("witness.example.org/liar", sha256(b"TEST ONLY other").digest())


def line(signer: WitnessSigner, text: str, time: int) -> bytes:
    signature = signer.cosign(text, time)
    return format_note(Note(text=text, signatures=(signature,))).removeprefix(f"{text}\n".encode())


async def _endless(writer: asyncio.StreamWriter, _: bytes) -> None:
    writer.write(b"HTTP/1.1 200 x\r\ntransfer-encoding: chunked\r\n\r\n")
    while True:
        writer.write(b"1000\r\n" + b"x" * 4096 + b"\r\n")
        await writer.drain()


def _says(make: Callable[[str], bytes]) -> Callable[[asyncio.StreamWriter, bytes], Awaitable[None]]:
    async def answer(writer: asyncio.StreamWriter, body: bytes) -> None:
        text = parse_note(body.partition(b"\n\n")[2]).text
        writer.write(make(text))
        await writer.drain()

    return answer


HOSTILE = {
    "no http": _says(lambda _: b"\x00\x01\x02garbage\r\n\r\n"),
    "nothing": _says(lambda _: b""),
    "endless": _endless,
    "error": _says(lambda _: http(500, "text/plain", b"no\n")),
    "redirect": _says(lambda _: b"HTTP/1.1 302 x\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n"),
    "empty": _says(lambda _: http(200, "text/plain", b"")),
    "no line": _says(lambda _: http(200, "text/plain", b"hello\n")),
    "other key": _says(lambda text: http(200, "text/plain", line(OTHER, text, NOW))),
    "other text": _says(lambda text: http(200, "text/plain", line(LIAR, text + "more\n", 1))),
    "future": _says(lambda text: http(200, "text/plain", line(LIAR, text, 2**40))),
    "size that is none": _says(lambda _: http(409, SIZE_TYPE, b"-1\n")),
    "size of another type": _says(lambda _: http(409, "text/plain", b"5\n")),
    "not utf-8": _says(lambda _: http(200, "text/plain", b"\xff\xfe\n")),
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_what_a_hostile_witness_answers_is_kept_nowhere(
    one_witness: Observed, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nomos_audit.cosigning.RETRY_SECONDS", 0.05)
    async with Scripted(HOSTILE[name]) as scripted:
        lines = [f"log {one_witness.key}", f"witness liar {LIAR.verifier_key} {scripted.url}"]
        lines += [f"witness w1 {one_witness.witnesses[0].key} {one_witness.witnesses[0].url}", "quorum liar", ""]
        await one_witness.start(wait_seconds=0.2, trust="\n".join(lines).encode())
        note = await one_witness.events()
        await one_witness.cosigned_by(note, "w1")
        await one_witness.stage.until(lambda: scripted.asked > 2, "the liar to be asked again")
        assert LIAR.verifier_key.name.encode() not in await one_witness.log.vouched(note)
        await one_witness.stop()


async def test_an_answer_that_never_comes_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nomos_audit.asking.ANSWER_SECONDS", 0.2)

    async def silent(_: asyncio.StreamWriter, __: bytes) -> None:
        await asyncio.sleep(5)

    async with Scripted(silent) as scripted:
        asker = Asker(LIAR.verifier_key, scripted.url, development=True)
        with pytest.raises(Unavailable, match="does not answer"):
            await asker.ask(b"old 0\n\n")


async def test_an_answer_has_a_size() -> None:
    async with Scripted(_says(lambda _: http(200, "text/plain", b"x" * (ANSWER_BYTES_MAX + 1)))) as scripted:
        asker = Asker(LIAR.verifier_key, scripted.url, development=True)
        note = sign_checkpoint(Checkpoint(origin="a", size=1, root=bytes(32)), [NoteSigner("a", SEED)])
        with pytest.raises(Unavailable, match="more than"):
            await asker.ask(b"old 0\n\n" + note)


async def test_a_damaged_row_of_the_table_reaches_nobody(observed: Observed, capfd: pytest.CaptureFixture[str]) -> None:
    await observed.start(wait_seconds=0.3)
    note = await observed.events()
    signed = await observed.cosigned_by(note, "w1", "w2", "w3")
    wrong = bytearray(signed)
    wrong[-10] ^= 1
    for damaged in (bytes(wrong), b"no note"):
        async with observed.database.transaction() as connection:
            query = "UPDATE audit_checkpoints SET note = $2 WHERE size = $1"
            await connection.execute(query, size_of(note), damaged)
        assert observed.cosigners(await observed.log.vouched(note)) <= {"w1", "w2"}
        assert "audit_cosignatures_damaged" in capfd.readouterr().err
    await observed.stop()


async def test_a_lasting_lack_of_a_quorum_is_a_fault(stage: Any, database: Database) -> None:
    now = [0.0]
    key = NoteSigner(stage.origin, SEED).verifier_key
    policy = parse_trust(f"log {key}\nwitness liar {LIAR.verifier_key} http://127.0.0.1:1/\nquorum liar\n".encode())
    made = _cosigning(policy, database, now=lambda: now[0])
    note = sign_checkpoint(Checkpoint(origin=stage.origin, size=1, root=bytes(32)), [NoteSigner(stage.origin, SEED)])
    assert made.fault() is None
    await made._count(note)
    assert made.fault() is None
    now[0] = QUORUM_SECONDS + 1
    assert made.fault() == "no quorum of witnesses for 301 s"


def _cosigning(policy: TrustPolicy, database: Any, *, development: bool = True, **more: Any) -> Cosigning:
    none: Any = None
    return Cosigning(
        none, database, none, policy, open_note=none, is_active=lambda: True, development=development, **more
    )


WITNESS = f"witness w1 {LIAR.verifier_key}"


@pytest.mark.parametrize(
    ("witness", "said"),
    [
        (WITNESS, "has no URL"),
        (f"{WITNESS} http://witness.example.org/", "must be https"),
        (f"{WITNESS} http://127.0.0.1.example.org/", "must be https"),
        (f"{WITNESS} https://user:secret@witness.example.org/", "must be https"),
        (f"{WITNESS} https://witness.example.org/?a=b", "must be https"),
        (f"{WITNESS} ftp://witness.example.org/", "must be https"),
        (f"{WITNESS} https:///", "must be https"),
        (f"{WITNESS} https://witness.example.org:99999/", "cannot be read"),
    ],
)
def test_a_witness_that_cannot_be_asked_stops_the_start(witness: str, said: str) -> None:
    policy = parse_trust(f"log {NoteSigner('a', SEED).verifier_key}\n{witness}\nquorum w1\n".encode())
    with pytest.raises(Misconfigured, match=said):
        _cosigning(policy, None)


def test_loopback_without_tls_is_for_development() -> None:
    policy = parse_trust(
        f"log {NoteSigner('a', SEED).verifier_key}\n{WITNESS} http://127.0.0.1:7380/\nquorum w1\n".encode()
    )
    _cosigning(policy, None)
    with pytest.raises(Misconfigured, match="must be https"):
        _cosigning(policy, None, development=False)


@pytest.mark.parametrize(("number", "said"), [(0, "names none"), (15, "at most 14")])
def test_a_log_asks_at_least_one_and_not_too_many(number: int, said: str) -> None:
    lines = [f"log {NoteSigner('a', SEED).verifier_key}"]
    for n in range(number):
        key = WitnessSigner(f"w{n}", os.urandom(32)).verifier_key
        lines.append(f"witness w{n} {key} https://w{n}.example.org/")
    policy = parse_trust("\n".join([*lines, "quorum none", ""]).encode())
    with pytest.raises(Misconfigured, match=said):
        _cosigning(policy, None)


@pytest.mark.parametrize(("content", "said"), [(None, "cannot be read"), (b"nonsense\n", "the policy of witnesses")])
def test_a_policy_that_cannot_be_read_stops_the_start(tmp_path: Path, content: bytes | None, said: str) -> None:
    path = tmp_path / "witnesses.txt"
    if content is not None:
        path.write_bytes(content)
    settings = AuditSettings(bus_url="", bus_creds="", origin="a", environment="development", witnesses=str(path))
    none: Any = None
    with pytest.raises(Misconfigured, match=said):
        ask_witnesses(settings, none)
