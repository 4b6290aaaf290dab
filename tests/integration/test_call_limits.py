"""Calls that come too often, or to an upstream that is down: refused with when to come again, recorded, not sent."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from nomos import messages
from nomos.agent import Denied
from nomos.errors import CircuitOpen, RateLimited
from nomos_proxy.breaker import FAILURES_MAX
from nomos_runtime.embedded.upstream import Fault, FaultKind

SEARCH, INDEX = "github:search.query", "github:search/issues"
LIST, REPO = "github:issues.list", "github:repo/acme/limits"
POLICY = '@id("all") permit (principal, action in [Action::"risk:read"], resource);'


async def test_an_actions_own_rate_is_kept_and_the_refusal_is_recorded(scene: Any) -> None:
    tenant = await scene.tenant(policy=POLICY)
    bot, neighbour = await scene.agent(tenant), await scene.agent(await scene.tenant(policy=POLICY))
    scene.upstream.seen.clear()
    for number in range(30):
        assert (await bot.agent.call(SEARCH, INDEX, {"q": f"n{number}"})).status == 200
    with pytest.raises(RateLimited, match=r"the rate of github:search\.query is 30 calls in 60 seconds") as refused:
        await bot.agent.call(SEARCH, INDEX, {"q": "one more"})
    assert 0 < refused.value.retry_after_ms <= 2_000
    assert refused.value.hint
    assert len(scene.upstream.seen) == 30
    assert await scene.refusals(tenant) == [("invoke", "rate_limited")]
    # other actions of the tenant, and the same action of another tenant, go on
    assert (await bot.agent.call(LIST, REPO)).status == 200
    assert (await neighbour.agent.call(SEARCH, INDEX, {"q": "mine"})).status == 200


async def test_a_permission_that_was_refused_for_its_rate_is_still_unused(scene: Any) -> None:
    bot = await scene.agent(await scene.tenant(policy=POLICY))
    scene.upstream.fault = Fault(kind=FaultKind.BUSY, delay_seconds=1)
    try:
        assert (await bot.agent.call(LIST, REPO)).status == 429
    finally:
        scene.upstream.fault = Fault()
    allowed = await bot.agent.authorize(LIST, REPO)
    seen = len(scene.upstream.seen)
    with pytest.raises(RateLimited, match="the provider asked to wait") as refused:
        await bot.agent.invoke(allowed, LIST, REPO, {})
    assert len(scene.upstream.seen) == seen
    await asyncio.sleep(refused.value.retry_after_ms / 1000)
    assert (await bot.agent.invoke(allowed, LIST, REPO, {})).status == 200


async def test_an_upstream_that_is_down_is_left_alone_and_then_tried_again(scene: Any) -> None:
    tenant = await scene.tenant(policy=POLICY)
    bot, neighbour = await scene.agent(tenant), await scene.agent(await scene.tenant(policy=POLICY))
    scene.upstream.fault = Fault(kind=FaultKind.DOWN)
    try:
        for _ in range(FAILURES_MAX):
            assert (await bot.agent.call(LIST, REPO)).status == 503
        seen = len(scene.upstream.seen)
        with pytest.raises(CircuitOpen) as refused:
            await bot.agent.call(LIST, REPO)
        assert len(scene.upstream.seen) == seen
    finally:
        scene.upstream.fault = Fault()
    assert await scene.refusals(tenant) == [("invoke", "circuit_open")]
    # the neighbour's circuit is its own
    assert (await neighbour.agent.call(LIST, REPO)).status == 200
    await asyncio.sleep(refused.value.retry_after_ms / 1000)
    assert (await bot.agent.call(LIST, REPO)).status == 200


def test_a_refusal_says_on_the_wire_when_to_come_again() -> None:
    failure = messages.failure(RateLimited("too often", retry_after_ms=1500))
    assert (failure.code, failure.hint, failure.retry_after_ms) == ("rate_limited", "again in 1.5 seconds", 1500)


async def test_an_action_that_comes_in_pages_is_read_page_by_page_and_each_is_decided(scene: Any) -> None:
    tenant = await scene.tenant(policy=POLICY)
    bot = await scene.agent(tenant)
    scene.upstream.fault = Fault(kind=FaultKind.PAGED)
    try:
        pages = [page async for page in bot.agent.pages("github:branches.list", REPO, {"per_page": 10})]
        two = [page async for page in bot.agent.pages("github:branches.list", REPO, pages_max=2)]
    finally:
        scene.upstream.fault = Fault()
    assert [page.next_args for page in pages] == [{"per_page": 10, "page": 2}, {"per_page": 10, "page": 3}, None]
    assert len({page.decision for page in pages}) == 3
    assert len(two) == 2
    denied = [page async for page in bot.agent.pages("github:issues.create", REPO, {"title": "x"})]
    assert [type(page) for page in denied] == [Denied]
