"""What repeats the chain: the table behind row-level security, the tenants' subjects, the exports."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import pytest

from nomos.errors import Conflict, MalformedRecord, NotFound, RolledBack
from nomos.log.chain import link
from nomos.log.keyhistory import KeyHistory
from nomos.log.note import NoteSigner
from nomos.log.record import parse_object
from nomos.log.report import Verdict
from nomos.log.verify import verify_export
from nomos_audit.anchors import DatabaseAnchor
from nomos_audit.export import export_log, read_tenant
from nomos_audit.follow import Follower, load_head
from nomos_audit.log import AuditLog
from nomos_audit.projections import TableProjection
from nomos_audit.replay import start_of
from nomos_audit.streams import last_message, stream_state
from nomos_audit.tenants import TenantMessage, TenantStreams, messages_of, parse_message
from nomos_audit.writer import State
from nomos_runtime.database import Database


@pytest.fixture
def seed() -> bytes:
    return os.urandom(32)


async def fill(stage: Any, client: Any, first: int, batches: int) -> None:
    """Five events in each batch, of three tenants in turn."""
    for batch in range(first, first + batches):
        events = [stage.envelope(batch * 5 + i, tenant=f"t{(batch * 5 + i) % 3}") for i in range(5)]
        await stage.journal(client, "p1", batch * 5, events)
    await stage.until(lambda: stage.is_consumed(client), "the journal to be consumed")


async def audit_log(stage: Any, database: Database, seed: bytes, **more: Any) -> AuditLog:
    log = await AuditLog.open(
        await stage.connect(),
        database,
        origin=stage.origin,
        seed=seed,
        writer_id="w1",
        services=stage.services,
        now=lambda: time.time_ns() // 1000,
        checkpoint_seconds=0.1,
        tiles=stage.directory / "tiles",
        **more,
    )
    log.running = stage.run(log.run(), "audit log")  # type: ignore[attr-defined]
    return log


async def test_the_table_repeats_the_chain(stage: Any, database: Database) -> None:
    client = await stage.connect()
    await stage.writer()
    await fill(stage, client, 0, 10)
    table = TableProjection(await stage.connect(), database, origin=stage.origin)
    stage.run(table.run(), "table")
    await stage.until(lambda: table.position.size == 50, "the table to be complete")
    found = await read_tenant(database, "t1", 0, 100)
    assert found.head_tseq == len(found.records) == 17
    chain = await stage.read_chain(client)
    assert [parse_object(one) for one in found.records] == [one for one in chain if one["tenant"] == "t1"]
    later = await read_tenant(database, "t1", 10, 3)
    assert later.records == found.records[10:13]
    assert (later.prev, later.head_tseq) == (found.prev[10:13], 17)
    # An auditor can check each record against its neighbour in time without seeing whose that is.
    async with database.transaction(tenant="t1") as connection:
        hashes = [row["hash"] for row in await connection.fetch("SELECT hash FROM audit_events ORDER BY tseq")]
    assert [link(p, r) for p, r in zip(found.prev, found.records, strict=True)] == hashes


async def test_a_transaction_sees_its_own_tenants_records_and_no_others(stage: Any, database: Database) -> None:
    client = await stage.connect()
    await stage.writer()
    await fill(stage, client, 0, 3)
    table = TableProjection(await stage.connect(), database, origin=stage.origin)
    stage.run(table.run(), "table")
    await stage.until(lambda: table.position.size == 15, "the table to be complete")
    for tenant, scope, seen in (
        (None, None, set()),
        ("t1", None, {"t1"}),
        ("*", None, set()),
        (None, "project", set()),
        ("nobody", "project", set()),
    ):
        async with database.transaction(tenant=tenant, scope=scope) as connection:
            rows = await connection.fetch("SELECT tenant FROM audit_events")
        assert {row["tenant"] for row in rows} == seen
    for statement in ("UPDATE audit_events SET type = 'x'", "DELETE FROM audit_events"):
        for tenant, scope in (("t1", None), ("t1", "project")):
            async with database.transaction(tenant=tenant, scope=scope) as connection:
                assert (await connection.execute(statement)).endswith(" 0")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        async with database.transaction(tenant="t1") as connection:
            await connection.execute(
                "INSERT INTO audit_events VALUES (99, now(), 't1', 99, 'x', $1, $1, $1)", b"\0" * 32
            )
    assert (await read_tenant(database, "*", 0, 10)).records == []


async def test_the_table_goes_on_after_a_restart_and_two_projections_do_not_collide(
    stage: Any, database: Database
) -> None:
    client = await stage.connect()
    await stage.writer()
    first = TableProjection(await stage.connect(), database, origin=stage.origin)
    task = stage.run(first.run(), "first")
    await fill(stage, client, 0, 4)
    await stage.until(lambda: first.position.size == 20, "the table to be complete")
    await stage.stop_task(task)
    await fill(stage, client, 4, 4)
    both = [TableProjection(await stage.connect(), database, origin=stage.origin) for _ in range(2)]
    for one in both:
        stage.run(one.run(), "projection")
    await fill(stage, client, 8, 10)

    async def complete() -> bool:
        async with database.transaction() as connection:
            return bool(await connection.fetchval("SELECT size FROM audit_projection") == 90)

    await stage.until(complete, "the table to be complete")
    assert [(await read_tenant(database, f"t{i}", 0, 1000)).head_tseq for i in range(3)] == [30, 30, 30]


async def test_a_projection_behind_the_position_starts_over(stage: Any, database: Database) -> None:
    client = await stage.connect()
    await stage.writer()
    await fill(stage, client, 0, 2)
    blocks = []
    follower = Follower(client, start_of(stage.origin))
    while follower.position.size < 10:
        blocks += await follower.take(1)
    table = TableProjection(client, database, origin=stage.origin)
    await table._store(blocks)
    late = TableProjection(client, database, origin=stage.origin)
    with pytest.raises(Conflict):
        await late._store(blocks)


async def test_each_record_is_published_once_on_its_tenants_subject(stage: Any) -> None:
    client = await stage.connect()
    await stage.writer()
    await fill(stage, client, 0, 10)
    one = TenantStreams(await stage.connect(), origin=stage.origin, may_publish=lambda: True)
    task = stage.run(one.run(), "tenants")
    await stage.until(lambda: one.size == 50, "the stream to be complete")
    await stage.stop_task(task)
    await fill(stage, client, 10, 10)
    for _ in range(2):
        stage.run(TenantStreams(await stage.connect(), origin=stage.origin, may_publish=lambda: True).run(), "tenants")

    async def complete() -> bool:
        newest = await last_message(client, "AUDIT")
        return newest is not None and parse_message(newest.payload).seqs[-1] >= 98

    await stage.until(complete, "the stream to be complete")
    chain = await stage.read_chain(client)
    published: dict[int, dict[str, object]] = {}
    own = b""
    for at in range(1, (await stream_state(client, "AUDIT")).last_seq + 1):
        stored = await client.jetstream().get_msg("AUDIT", seq=at)
        message = parse_message(stored.data)
        for seq, prev, record in zip(message.seqs, message.prev, message.records, strict=True):
            assert seq not in published
            published[seq] = parse_object(record)
            assert stored.subject == f"audit.{chain[seq]['tenant']}"
            if seq == 99:
                own = link(prev, record)
    assert [published[seq] for seq in range(100)] == chain
    assert (await load_head(client, stage.origin)).hash == own


async def test_a_block_whose_tenants_were_published_in_part_is_completed(stage: Any) -> None:
    client = await stage.connect()
    await stage.writer()
    await fill(stage, client, 0, 4)
    follower = Follower(client, start_of(stage.origin))
    blocks = await follower.take(1)
    one = TenantStreams(client, origin=stage.origin, may_publish=lambda: True)
    tenant, first = messages_of(blocks[0])[0]
    await one._append(tenant, first, 0)
    task = stage.run(one.run(), "tenants")
    await stage.until(lambda: one.size == 20, "the stream to be complete")
    await stage.stop_task(task)
    seen: list[int] = []
    for at in range(1, (await stream_state(client, "AUDIT")).last_seq + 1):
        seen += parse_message((await client.jetstream().get_msg("AUDIT", seq=at)).data).seqs
    assert sorted(seen) == list(range(20))


async def test_something_planted_in_the_tenants_stream_is_refused(stage: Any) -> None:
    client = await stage.connect()
    await client.jetstream().publish("audit.t1", b"planted")
    one = TenantStreams(client, origin=stage.origin, may_publish=lambda: True)
    with pytest.raises(MalformedRecord):
        await one.run()


async def test_a_tenants_stream_that_is_ahead_of_the_chain_is_refused(stage: Any) -> None:
    client = await stage.connect()
    ahead = TenantMessage(v=1, block=7, part=0, parts=1, seqs=[0], prev=[bytes(32)], records=[b"{}"])
    await client.jetstream().publish("audit.t1", msgspec.msgpack.encode(ahead))
    with pytest.raises(RolledBack):
        await TenantStreams(client, origin=stage.origin, may_publish=lambda: True).run()


# -- exports -----------------------------------------------------------------------------------------------------------


async def test_an_export_is_verified_offline_with_the_key_alone(
    stage: Any, database: Database, seed: bytes, tmp_path: Path
) -> None:
    client = await stage.connect()
    log = await audit_log(stage, database, seed)
    await fill(stage, client, 0, 6)
    await log.signer.checkpoint_now()
    await stage.put(client, b"\xc1rubbish")
    await fill(stage, client, 6, 6)
    await log.signer.checkpoint_now()
    trust = f"log {log.signer.verifier_key}\nquorum none\n".encode()
    keys = log.signer.keys

    index = await export_log(client, tmp_path / "out-log", origin=stage.origin, keys=keys)
    assert sum(one.rows for one in index.files) == 61
    whole = verify_export(tmp_path / "out-log", trust, 2, now=int(time.time()))
    assert whole.verdict is Verdict.VERIFIED, whole

    await export_log(client, tmp_path / "out-t1", origin=stage.origin, keys=keys, tenant="t1")
    bundle = verify_export(tmp_path / "out-t1", trust, 2, now=int(time.time()), tenant="t1")
    assert bundle.verdict is Verdict.VERIFIED, bundle

    with pytest.raises(NotFound):
        await export_log(client, tmp_path / "out-none", origin=stage.origin, keys=keys, tenant="nobody")
    with pytest.raises(FileExistsError):
        await export_log(client, tmp_path / "out-log", origin=stage.origin, keys=keys)


async def test_an_export_of_a_log_that_is_not_signed_is_refused(stage: Any, seed: bytes, tmp_path: Path) -> None:
    client = await stage.connect()
    with pytest.raises(NotFound):
        await export_log(
            client,
            tmp_path / "out-log",
            origin=stage.origin,
            keys=KeyHistory.begin(NoteSigner(stage.origin, seed).verifier_key),
        )


async def test_the_whole_log_runs_restarts_and_is_refused_when_its_store_goes_back(
    stage: Any, database: Database, seed: bytes
) -> None:
    client = await stage.connect()
    log = await audit_log(stage, database, seed)
    await fill(stage, client, 0, 4)
    await stage.until(lambda: log.signer.size == 20 and log.tenants.size == 20, "the log to be signed and projected")
    await stage.stop_task(log.running)  # type: ignore[attr-defined]
    assert log.writer.state is State.STOPPED
    await log.close()
    stage.kill_server()
    backup = stage.copy_store("backup")
    stage.start_server()
    await stage.until(lambda: client.is_connected, "the client to reconnect")

    log = await audit_log(stage, database, seed)
    await fill(stage, client, 4, 4)
    await stage.until(lambda: log.signer.size == 40 and log.table.position.size == 40, "the log to be complete")
    assert await DatabaseAnchor(database).newest() == log.signer.newest
    await stage.stop_task(log.running)  # type: ignore[attr-defined]
    await log.close()

    stage.kill_server()
    stage.swap_store(backup)
    stage.start_server()
    with pytest.raises(RolledBack):
        await audit_log(stage, database, seed)


async def test_the_journal_is_trimmed_only_up_to_what_is_signed(
    stage: Any, database: Database, seed: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nomos_audit.log.TRIM_SECONDS", 0.05)
    client = await stage.connect()
    await audit_log(stage, database, seed, journal_kept=2)
    await fill(stage, client, 0, 8)

    async def trimmed() -> bool:
        return bool((await stream_state(client, "INTAKE")).first_seq == 7)

    await stage.until(trimmed, "the journal to be trimmed")
    await fill(stage, client, 8, 2)
    assert [one["type"] for one in await stage.read_chain(client)] == ["test.decision"] * 50
