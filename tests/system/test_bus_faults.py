"""The bus itself: ``kill -9`` of the server under load, a frozen server, and journal messages that come again."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from typing import Any

import msgspec
import pytest

from nomos_runtime.topology.doors import SERVICES

pytestmark = [pytest.mark.system, pytest.mark.asyncio(loop_scope="session")]

AT_ONCE = 64


async def test_a_killed_server_loses_no_answer(world: Any) -> None:
    async with world.load() as load:
        for _ in range(2):
            await load.more(20)
            world.local.nats.kill()
            await load.trouble()
            world.start_nats()
        await load.more(20, "calls to succeed again")
    await world.check(load)


async def test_a_frozen_server_runs_nothing_late(world: Any) -> None:
    async with world.load() as load:
        await load.more(20)
        os.kill(world.local.nats.pid, signal.SIGSTOP)
        try:
            await load.trouble()
        finally:
            os.kill(world.local.nats.pid, signal.SIGCONT)
        await load.more(20, "calls to succeed again")
    await world.check(load)


async def test_every_journal_message_that_comes_again_is_chained_once(world: Any) -> None:
    async with world.load() as load:
        await load.more(20)
    before = await world.check(load)
    audit = await world.service_client("audit")
    accounts = {key: name.lower() for name, key in world.local.installation.accounts.items()}
    js = audit.jetstream(timeout=5)
    last = (await js.stream_info("INTAKE")).state.last_seq
    senders = {name: await world.service_client(name) for name in SERVICES}
    outcomes: Counter[bool] = Counter()

    async def send_again(seq: int) -> None:
        stored = await js.get_msg("INTAKE", seq=seq)
        service = accounts[stored.subject.split(".")[1]]
        # As its own service would send it: same account, same bytes.
        subject = stored.subject if service == "audit" else "intake.batch"
        for message_id in (stored.headers["Nats-Msg-Id"], f"again:{seq}"):
            headers = {"Nats-Msg-Id": message_id}
            reply = await senders[service].request(subject, stored.data, timeout=5, headers=headers)
            ack = msgspec.json.decode(reply.data)
            assert "error" not in ack, ack
            outcomes[ack.get("duplicate", False)] += 1

    for begin in range(1, last + 1, AT_ONCE):
        await asyncio.gather(*(send_again(seq) for seq in range(begin, min(begin + AT_ONCE, last + 1))))
    # Inside the stream's window the same id is dropped there; the writer drops what the stream took in.
    assert outcomes[False] >= last
    after = await world.records()
    assert after[: len(before)] == before
    assert [r for r in after[len(before) :] if r["pc"] is not None and r["pc"]["svc"] != "audit"] == []
    assert not [r for r in after if r["type"].startswith("audit.")]
