"""A writer killed at one system call after another of its path: nothing is lost, nothing is chained twice.

One process after another runs under strace, which kills it at the entry of its N-th call of one kind; what it left
behind is what the next one goes on from. strace counts each kind by itself, so each has a sweep of its own, which ends
when processes live to the end of their work: N is then past the path. That takes in the connection, the reading of the
head, the append and its answer.

Needs strace, and the right to trace a process of one's own.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from nats.aio.client import Client

from nomos_audit.follow import load_head

#: Kind of call -> step of N. Killed at the entry of ``epoll_wait``, a process has sent but not heard; timers make it so
#: frequent that only some are struck.
SWEEPS = {"sendto": 1, "sendmsg": 1, "write": 1, "recvfrom": 1, "epoll_wait": 8}
#: So many processes in a row must live before a sweep ends: two runs may differ by a call or two.
LIVE_IN_A_ROW = 2
#: A path longer than this means that the sweep no longer ends.
CALLS_MAX = 400
EVENTS_EACH = 3
RUN_SECONDS = 30

#: Imports first, then waits for its order, so that the next one can be made ready while this one runs. Reading from
#: standard input is not among the traced calls.
PROGRAM = """
import asyncio, sys, time
import nats
import nomos_audit.writer
from nomos_audit.writer import Writer

nomos_audit.writer.TAKEOVER_SECONDS = 0.0  # there is no other writer to wait for

async def main(url, origin, name, last):
    client = await nats.connect(url, allow_reconnect=False)
    writer = Writer(client, origin=origin, writer_id=name, services={"AP": "policy"}, snapshot_every=4,
                    now=lambda: time.time_ns() // 1000)
    running = asyncio.create_task(writer.run())
    while writer.head is None or writer.head.intake < last:
        if running.done():
            running.result()
        await asyncio.sleep(0.05)

last = int(sys.stdin.readline())
asyncio.run(main(*sys.argv[1:], last))
"""


class Traced:
    """One writer that strace kills at its N-th call of one kind."""

    def __init__(self, running: asyncio.subprocess.Process, log: Path) -> None:
        self.running = running
        self.log = log

    @classmethod
    async def start(cls, stage: Any, call: str, number: int) -> Traced:
        name = f"{call}-{number}"
        log = stage.directory / f"{name}.log"
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        strace = ["strace", "-f", "-qq", "-o", os.devnull, "-e", f"trace={call}"]
        strace += ["-e", f"inject={call}:signal=SIGKILL:when={number}"]
        program = [sys.executable, "-c", PROGRAM, stage.url, stage.origin, name]
        with log.open("wb") as target:
            running = await asyncio.create_subprocess_exec(
                *strace,
                *program,
                stdin=asyncio.subprocess.PIPE,
                stderr=target,
                env=environment,
                start_new_session=True,
            )
        return cls(running, log)

    async def finish(self, last: int) -> int:
        """Lets it write until the chain has consumed the journal up to ``last``; gives how it ended."""
        async with asyncio.timeout(RUN_SECONDS):
            await self.running.communicate(f"{last}\n".encode())
        assert self.running.returncode is not None
        return self.running.returncode

    async def kill(self) -> None:
        """Ends strace and what it traces, which are a group of their own."""
        if self.running.returncode is None:
            os.killpg(self.running.pid, signal.SIGKILL)
            await self.running.wait()


async def require_strace() -> None:
    """Skips, with what is missing, where no process can be traced."""
    program = shutil.which("strace")
    if program is None:
        pytest.skip("needs strace (apt-get install strace)")
    tried = await asyncio.create_subprocess_exec(program, "-f", "-qq", "-o", os.devnull, sys.executable, "-c", "")
    if await tried.wait() != 0:
        pytest.skip("needs strace with the right to trace a process (ptrace)")


class Sweep:
    """Processes killed one after another, on one chain, and what they left behind."""

    def __init__(self, stage: Any, client: Client) -> None:
        self.stage = stage
        self.client = client
        self.sent = 0
        self.kills: Counter[str] = Counter()
        self.left: Counter[str] = Counter()

    async def over(self, call: str, step: int) -> None:
        """Kills at each ``step``-th call of one kind, until nobody is killed any more."""
        number, lived = 1, 0
        current = following = await Traced.start(self.stage, call, number)
        try:
            while lived < LIVE_IN_A_ROW:
                assert number <= CALLS_MAX, f"no writer lived through {CALLS_MAX} of {call}"
                following = await Traced.start(self.stage, call, number + step)
                lived = 0 if await self.kills_one(call, current) else lived + 1
                number += step
                current = following
        finally:
            await current.kill()
            await following.kill()

    async def kills_one(self, call: str, one: Traced) -> bool:
        """Gives it new events to write; whether it was killed before it came to its end."""
        events = [self.stage.envelope(self.sent + i, tenant=f"t{i}") for i in range(EVENTS_EACH)]
        await self.stage.journal(self.client, "p1", self.sent, events)
        self.sent += EVENTS_EACH
        before = await load_head(self.client, self.stage.origin)
        last = (await self.client.jetstream().stream_info("INTAKE")).state.last_seq
        ended = await one.finish(last)
        after = await load_head(self.client, self.stage.origin)
        if ended == 0:
            assert after.intake == last
            return False
        assert ended == -signal.SIGKILL, one.log.read_text()
        self.kills[call] += 1
        self.left["nothing" if after.block == before.block else "a block"] += 1
        return True


async def test_a_writer_killed_at_one_system_call_after_another_loses_and_repeats_nothing(stage: Any) -> None:
    await require_strace()
    client = await stage.connect()
    sweep = Sweep(stage, client)
    for call, step in SWEEPS.items():
        await sweep.over(call, step)
    # It says something only if it struck while sending and while hearing, before and after a block became durable.
    assert sweep.kills["sendto"] + sweep.kills["sendmsg"] > 0
    assert sweep.kills["recvfrom"] > 0
    assert sweep.kills["epoll_wait"] > 0
    assert sweep.left["nothing"] > 0
    assert sweep.left["a block"] > 0
    found = await stage.read_chain(client)
    assert [one["event"]["number"] for one in found] == list(range(sweep.sent))
    assert [(one["pc"]["id"], one["pc"]["n"]) for one in found] == [("p1", n) for n in range(sweep.sent)]
