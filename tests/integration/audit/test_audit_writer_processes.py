"""Writers as processes: killed, frozen and woken. Every event is chained once, and the woken one is fenced."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

PROGRAM = """
import asyncio, sys, time
import nats
from nomos_audit.writer import Writer

async def quiet(_):
    return

async def main(url, origin, name):
    client = await nats.connect(url, max_reconnect_attempts=-1, reconnect_time_wait=0.05, error_cb=quiet)
    services = {"AP": "policy", "AM": "minting"}
    await Writer(client, origin=origin, writer_id=name, services=services, snapshot_every=20,
                 now=lambda: time.time_ns() // 1000).run()

asyncio.run(main(*sys.argv[1:]))
"""


class Process:
    """One writer in a process of its own, and what it said."""

    def __init__(self, running: asyncio.subprocess.Process, log: Path) -> None:
        self.running = running
        self.log = log
        self.frozen = False

    @classmethod
    async def start(cls, stage: Any, name: str) -> Process:
        log = stage.directory / f"{name}.log"
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        with log.open("wb") as target:
            running = await asyncio.create_subprocess_exec(
                sys.executable, "-c", PROGRAM, stage.url, stage.origin, name, stderr=target, env=environment
            )
        return cls(running, log)

    def said(self, event: str, **fields: str) -> bool:
        lines = [json.loads(one) for one in self.log.read_text().splitlines() if one.startswith("{")]
        return any(
            one["event"] == event and all(one.get(name) == value for name, value in fields.items()) for one in lines
        )

    @property
    def is_writing(self) -> bool:
        return self.said("audit_writer_state", now="writing")

    async def kill(self) -> None:
        self.running.send_signal(signal.SIGKILL)
        await self.running.wait()


async def load(stage: Any, producer: str, total: int) -> None:
    own = await stage.connect()
    for at in range(0, total, 5):
        events = [stage.envelope(at + i, tenant=f"t{(at + i) % 5}") for i in range(min(5, total - at))]
        await stage.journal(own, producer, at, events)


async def test_a_frozen_writer_that_wakes_is_fenced(stage: Any) -> None:
    client = await stage.connect()
    first = await Process.start(stage, "w1")
    try:
        await stage.journal(client, "p1", 0, [stage.envelope(0)])
        await stage.until(lambda: first.is_writing, "the first writer to write")
        first.running.send_signal(signal.SIGSTOP)
        second, _ = await stage.writer("w2")
        await stage.journal(client, "p1", 1, [stage.envelope(1)])
        await stage.until(lambda: second.is_active, "the second writer to take over")
        first.running.send_signal(signal.SIGCONT)
        number = 2
        while not first.said("audit_writer_fenced"):
            await stage.journal(client, "p1", number, [stage.envelope(number)])
            number += 1
            assert number < 5_000
        await stage.until(lambda: stage.is_consumed(client), "the journal to be consumed")
        found = await stage.read_chain(client)
        assert [one["event"]["number"] for one in found] == list(range(number))
    finally:
        await first.kill()


async def test_writers_killed_and_frozen_chain_every_event_once(stage: Any) -> None:
    chance = random.Random(11)  # reproducible, not secret
    client = await stage.connect()
    writers = [await Process.start(stage, f"w{i}") for i in range(3)]
    born, kills, freezes, retired = 3, 0, 0, []
    try:
        loads = [stage.run(load(stage, f"p{i}", 1_250), f"load {i}") for i in range(4)]
        while not all(one.done() for one in loads) or kills < 3 or freezes < 3:
            await asyncio.sleep(chance.uniform(0.1, 0.4))
            one = writers[chance.randrange(3)]
            if one.frozen:
                one.running.send_signal(signal.SIGCONT)
                one.frozen = False
            elif chance.random() < 0.5:
                one.running.send_signal(signal.SIGSTOP)
                one.frozen = True
                freezes += 1
            else:
                await one.kill()
                kills += 1
                retired.append(one)
                writers[writers.index(one)] = await Process.start(stage, f"w{born}")
                born += 1
        await asyncio.gather(*loads)
        for one in writers:
            one.running.send_signal(signal.SIGCONT)
        await stage.until(lambda: stage.is_consumed(client), "the journal to be consumed")
        found = await stage.read_chain(client)
        assert len(found) == 5_000
        assert Counter((one["pc"]["id"], one["pc"]["n"]) for one in found) == Counter(
            {(f"p{i}", n): 1 for i in range(4) for n in range(1_250)}
        )
        assert not any(one.said("audit_writer_state", now="refused") for one in [*writers, *retired])
    finally:
        for one in writers:
            await one.kill()
