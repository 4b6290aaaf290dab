"""Several processes of one service share its work and its promises."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.system.conftest import POLICY, until

from nomos import messages
from nomos.agent import Allowed
from nomos.client import header
from nomos.errors import NomosError, Unavailable
from nomos.ids import new_id
from nomos.messages import Decoder, Invoke
from nomos_runtime.local import SECRETS

pytestmark = [pytest.mark.system, pytest.mark.asyncio(loop_scope="session")]

REPO = "github:repo/acme/site"
INVOKE = Decoder.of(messages.InvokeReply, "invoke reply")


@pytest.mark.parametrize("action", ["github:issues.get", "github:issues.create"])
async def test_a_replay_is_refused_across_two_proxy_processes(world: Any, action: str) -> None:
    await world.run("proxy", "-2")
    args = {"issue_number": 1} if action.endswith("get") else {"title": "once only"}
    answers: list[Any] = []
    async with world.connected(answers) as (agent, connection):
        assert isinstance(await agent.call(action, REPO, args), Allowed)
        used = answers[-1].command
        assert isinstance(used, Invoke)
        upstream = len(world.seen)

        async def again() -> str:
            command = msgspec.structs.replace(used, **header(5_000))
            try:
                await connection.ask("req.invoke.bot", command, INVOKE, 5_000)
            except NomosError as e:
                return e.code
            return "answered"

        assert Counter(await asyncio.gather(*(again() for _ in range(24)))) == {"replayed": 24}
        # The mark outlives the process that made it.
        world.processes["proxy"].kill()
        world.processes["proxy-2"].kill()
        await world.run("proxy")
        assert await again() == "replayed"
        assert len(world.seen) == upstream
    records = await world.records()
    asked = {a.command.id for a in answers}
    refused = [r for r in records if r["type"] == "request.refused" and r["corr"] in asked]
    assert len(refused) == 25
    assert len({r["pc"]["id"] for r in refused}) == 3, "both processes refused, and the one after them"


async def test_one_invocation_sent_to_two_proxies_at_once_runs_once(world: Any) -> None:
    await world.run("proxy", "-2")
    answers: list[Any] = []
    async with world.connected(answers) as (agent, _):
        for number in range(5):
            title = f"raced {number}"
            allowed = await agent.authorize("github:issues.create", REPO, {"title": title})
            assert isinstance(allowed, Allowed)

            async def use(allowed: Allowed = allowed, title: str = title) -> str:
                # Each use signs an invocation of its own; the permission behind them is one.
                try:
                    await agent.invoke(allowed, "github:issues.create", REPO, {"title": title})
                except NomosError as e:
                    return e.code
                return "answered"

            assert Counter(await asyncio.gather(*(use() for _ in range(8)))) == {"answered": 1, "replayed": 7}
            assert len(world.seen.titles[title]) == 1


async def test_replicas_of_the_hot_path_share_the_load_and_one_may_die(world: Any) -> None:
    for name in ("policy", "minting", "proxy", "sanitizer"):
        await world.run(name, "-2")
    async with world.load() as load:
        await load.more(20)
        for name in ("policy", "minting", "proxy", "sanitizer"):
            world.processes[name].kill()
        await load.more(40, "calls to succeed with the replicas")
    records = await world.check(load)
    producers = {r["pc"]["id"] for r in records if r["pc"] is not None and r["type"] == "proxy.attempted"}
    assert len(producers) >= 2


async def test_a_policy_change_waits_for_every_replica_and_names_the_one_that_lags(world: Any) -> None:
    second = await world.run("policy", "-2")

    async def put(**more: Any) -> dict[str, Any]:
        """Answered by whichever replica takes it; a frozen one answers nobody, so it is asked again."""
        return await world.ask("policy", "put", "acme", text=f"{POLICY}\n// {new_id('rq')}", why="test", **more)

    async def has(replicas: int) -> bool:
        return (await put())["replicas"] == replicas

    async def put_while_frozen() -> dict[str, Any]:
        """What the other replica answers; where the frozen one was asked, it is woken and all begins again."""
        while True:
            await until(lambda: has(2), "both replicas to be known")
            second.signal(signal.SIGSTOP)
            text = f"{POLICY}\n// {new_id('rq')}"
            try:
                operator = await world.operator()
                done = await operator.ask("policy", "put", "acme", text=text, why="test", timeout_ms=3_500)
            except Unavailable:
                second.signal(signal.SIGCONT)
                continue
            if done["in_force_here"]:
                return done
            # The frozen one was asked for policy's facts, each time.
            second.signal(signal.SIGCONT)

    try:
        assert (await put())["lagging"] == []
        done = await put_while_frozen()
        assert [label.rpartition("/")[2] for label in done["lagging"]] == [str(second.pid)]
        assert (done["replicas"], done["in_force_here"]) == (1, True)
        second.signal(signal.SIGCONT)
        await until(lambda: has(2), "the replica to have caught up")
        assert (await put(wait=False))["replicas"] == 1
    finally:
        second.signal(signal.SIGCONT)
    await second.stop()
    done = await put()
    assert (done["replicas"], done["lagging"]) == (1, [])


async def test_a_process_holds_its_own_secrets_and_nobody_elses(world: Any) -> None:
    for name, process in world.processes.items():
        environment = Path(f"/proc/{process.pid}/environ").read_bytes().decode().split("\0")
        variables = dict(v.split("=", 1) for v in environment if v)
        theirs = {f"{secret}_FILE" for owner, secrets in SECRETS.items() for secret in secrets if owner != name}
        assert not theirs & set(variables)
        assert variables["NOMOS_BUS_CREDS"].endswith(f"{name}.creds")
        assert name in variables.get("NOMOS_DATABASE_URL", name)
