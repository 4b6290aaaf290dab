"""Rates over several proxies in processes of their own: together they let through what one would."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from nomos.agent import Allowed
from nomos.catalogue import Rate
from nomos.errors import RateLimited
from nomos_proxy import sharedrates
from nomos_proxy.rates import Allowance
from nomos_proxy.sharedrates import SharedRates
from nomos_runtime.database import Database
from nomos_runtime.launch import ServiceProcess

SEARCH, INDEX = "github:search.query", "github:search/issues"
LIST, REPO = "github:issues.list", "github:repo/acme/rates"
POLICY = '@id("all") permit (principal, action in [Action::"risk:read"], resource);'


@asynccontextmanager
async def proxies(scene: Any, folder: Path, count: int, **changes: str) -> AsyncIterator[list[ServiceProcess]]:
    """So many proxies, each a process, in place of the one of the installation."""
    env = dict(scene.installation.environment("proxy")) | changes
    del env["NOMOS_PROXY_PAGES_LISTEN"]
    await scene.installation.stop_service("proxy")
    made = [ServiceProcess("proxy", env, folder, f"-{number}") for number in range(count)]
    try:
        for one in made:
            await one.wait()
        yield made
    finally:
        for one in made:
            await one.stop()
        await scene.installation.start_service("proxy")


async def calls(bot: Any, action: str, resource: str, number: int) -> tuple[int, list[RateLimited]]:
    """So many calls at once, each with a permission: how many passed, and how the others were refused."""
    args = [{"q": f"n{n}"} if action == SEARCH else {} for n in range(number)]
    allowed = [await bot.agent.authorize(action, resource, one) for one in args]
    assert all(isinstance(one, Allowed) for one in allowed)
    asked = [bot.agent.invoke(one, action, resource, given) for one, given in zip(allowed, args, strict=True)]
    ended = await asyncio.gather(*asked, return_exceptions=True)
    refused = [one for one in ended if isinstance(one, RateLimited)]
    assert len(refused) + sum(isinstance(one, Allowed) for one in ended) == number, ended
    return number - len(refused), refused


@pytest.mark.parametrize("count", [2, 3])
async def test_proxies_let_through_together_what_an_action_s_rate_is(scene: Any, tmp_path: Path, count: int) -> None:
    """30 in 60 seconds, whichever of them a call comes to."""
    tenant = await scene.tenant(policy=POLICY)
    bot = await scene.agent(tenant)
    async with proxies(scene, tmp_path, count):
        scene.upstream.seen.clear()
        started = time.monotonic()
        passed, refused = await calls(bot, SEARCH, INDEX, 45 * count)
        refilled = (time.monotonic() - started) * 30 / 60
        assert 30 <= passed <= 30 + refilled
        assert len(scene.upstream.seen) == passed
        assert {one.detail for one in refused} == {"the rate of github:search.query is 30 calls in 60 seconds"}
        assert all(0 < one.retry_after_ms <= 2_000 * count for one in refused)
        # each refusal is in the log, whichever proxy it came from
        assert await scene.refusals(tenant) == [("invoke", "rate_limited")] * len(refused)
        # the permission was not used up, and another tenant's rate is its own
        other = await scene.agent(await scene.tenant(policy=POLICY))
        assert (await calls(other, SEARCH, INDEX, 4))[0] == 4


async def test_a_rate_that_is_too_slow_to_be_divided_still_lets_its_calls_through_and_no_more(
    scene: Any, tmp_path: Path
) -> None:
    """Two calls in two seconds of an agent, over three proxies."""
    bot = await scene.agent(await scene.tenant(policy=POLICY))
    async with proxies(scene, tmp_path, 3, NOMOS_PROXY_AGENT_CALLS_PER_SECOND="1"):
        started = time.monotonic()
        passed, refused = await calls(bot, LIST, REPO, 24)
        assert 2 <= passed <= 2 + (time.monotonic() - started)
        assert {one.detail for one in refused} == {"the agent's rate is 2 calls in 2 seconds"}
        await asyncio.sleep(max(one.retry_after_ms for one in refused) / 1000 + 1)
        # whichever proxy it comes to
        assert (await calls(bot, LIST, REPO, 1))[0] == 1
        again, _ = await calls(bot, LIST, REPO, 24)
        assert again >= 1
        assert passed + 1 + again <= 2 + (time.monotonic() - started)


async def place(scene: Any) -> tuple[int, int]:
    found: tuple[int, int] = scene.installation.services["proxy"]._replicas.place()
    return found


async def test_a_share_is_taken_over_when_its_proxy_leaves_and_when_it_dies(
    scene: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = dict(scene.installation.environment("proxy"))
    del env["NOMOS_PROXY_PAGES_LISTEN"]
    assert await place(scene) == (0, 1)
    for end, seconds in ((signal.SIGTERM, 3.0), (signal.SIGKILL, 8.0)):
        process = ServiceProcess("proxy", env, tmp_path, f"-{end.name}")
        await process.wait()
        assert (await place(scene))[1] == 2, "known before it serves its first call"
        process.signal(end)
        started = time.monotonic()
        while (await place(scene))[1] == 2:
            assert time.monotonic() - started < seconds, end
            await asyncio.sleep(0.05)
        await process.stop()


@asynccontextmanager
async def counted(scene: Any, number: int) -> AsyncIterator[list[SharedRates]]:
    """So many replicas' views of the one place."""
    url = scene.installation.environment("proxy")["NOMOS_DATABASE_URL"]
    opened = [await Database.open("proxy", url) for _ in range(number)]
    try:
        yield [SharedRates(one) for one in opened]
    finally:
        for one in opened:
            await one.close()


async def outcomes(replicas: Sequence[SharedRates], tenant: str, used: Sequence[Allowance], each: int) -> list[Any]:
    asked = [one.use(tenant, used) for one in replicas for _ in range(each)]
    return await asyncio.gather(*asked, return_exceptions=True)


def slow(name: str, calls: int, seconds: int) -> Allowance:
    return Allowance(name=f"the rate of {name}", key=("action", name), rate=Rate(calls=calls, seconds=seconds))


async def test_one_call_in_sixty_seconds_passes_once_whichever_of_three_it_comes_to(scene: Any) -> None:
    one, two = scene.name("tenant"), scene.name("tenant")
    async with counted(scene, 3) as replicas:
        for tenant in (one, two):
            ended = await outcomes(replicas, tenant, [slow("x", 1, 60)], 5)
            assert ended.count(None) == 1
            refused = [e for e in ended if isinstance(e, RateLimited)]
            assert len(refused) == 14
            assert {e.detail for e in refused} == {"the rate of x is 1 calls in 60 seconds"}
            assert all(59_000 < e.retry_after_ms <= 60_000 for e in refused)


async def test_a_call_that_one_of_its_rates_refuses_uses_up_no_other(scene: Any) -> None:
    tenant = scene.name("tenant")
    async with counted(scene, 2) as replicas:
        tight, wide = slow("tight", 1, 60), slow("wide", 3, 60)
        # in both orders, at once: none waits for the other without end
        both = await asyncio.gather(
            *(one.use(tenant, pair) for one in replicas for pair in ([tight, wide], [wide, tight]) for _ in range(6)),
            return_exceptions=True,
        )
        assert both.count(None) == 1
        assert all(e is None or "tight" in e.detail for e in both if e is None or isinstance(e, RateLimited))
        assert (await outcomes(replicas, tenant, [wide], 3)).count(None) == 2


async def test_what_is_full_again_passes_and_is_deleted(scene: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tenant = scene.name("tenant")
    database = await scene.admin_database()
    rows = "SELECT array_agg(key ORDER BY key) FROM proxy.rates WHERE tenant = $1"
    async with counted(scene, 2) as replicas:
        short = slow("short", 2, 1)
        assert (await outcomes(replicas, tenant, [short], 3)).count(None) == 2
        ended = await outcomes(replicas, tenant, [short], 1)
        (first, *_) = [e for e in ended if isinstance(e, RateLimited)]
        await asyncio.sleep(first.retry_after_ms / 1000 + 0.01)
        assert (await outcomes(replicas, tenant, [short], 1)).count(None) == 1
        await asyncio.sleep(1.1)
        monkeypatch.setattr(sharedrates, "CLEAN_SECONDS", 0.0)
        await replicas[0].use(tenant, [slow("long", 1, 60)])
        assert await database.fetchval(rows, tenant) == ["action/long"]


async def test_an_erased_tenant_s_rates_are_gone(scene: Any) -> None:
    tenant = await scene.tenant(connection=False)
    async with counted(scene, 1) as (one,):
        await one.use(tenant, [slow("x", 1, 60)])
    ask = scene.operator.ask
    await ask("identity", "tenant-close", "_", name=tenant, basis="ended")
    await ask("proxy", "tenant-erase", "_", name=tenant, basis="ended", timeout_ms=30_000)
    database = await scene.admin_database()
    assert await database.fetchval("SELECT count(*) FROM proxy.rates WHERE tenant = $1", tenant) == 0
