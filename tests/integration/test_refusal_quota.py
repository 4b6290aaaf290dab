"""An agent that is refused in a loop does not fill the log, and none of its refusals is lost from it."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from nomos import events
from nomos.agent import Allowed
from nomos.errors import NotFound, NotPermitted
from nomos_runtime.launch import ServiceProcess
from nomos_runtime.refusals import SPAN_SECONDS

LIST, REPO = "github:issues.list", "github:repo/acme/quota"


async def refused(scene: Any, bot: Any, number: int) -> None:
    """So many calls with a connection that the tenant does not have."""
    for _ in range(number):
        allowed = await bot.agent.authorize(LIST, REPO, connection="none")
        assert isinstance(allowed, Allowed)
        with pytest.raises(NotFound):
            await bot.agent.invoke(allowed, LIST, REPO, {}, connection="none")


def parts(scene: Any) -> Any:
    return scene.installation.services["proxy"]._parts.refusals


async def look(scene: Any) -> None:
    held = parts(scene)
    await scene.installation.run(held._record(held._spans.over()))


async def test_refusals_beyond_the_quota_are_counted_and_the_count_is_in_the_log(
    scene: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    spans, tenant = parts(scene)._spans, await scene.tenant(connection=False)
    bot, other = await scene.agent(tenant), await scene.agent(tenant)
    monkeypatch.setattr(spans, "_per_minute", 3)
    await refused(scene, bot, 8)
    await refused(scene, other, 2)
    recorded = await scene.events(tenant, events.REQUEST_REFUSED)
    assert [(e.actor.id, e.event.get("counting", False)) for e in recorded] == [
        (bot.credentials.name, False), (bot.credentials.name, False), (bot.credentials.name, True),
        (other.credentials.name, False), (other.credentials.name, False),
    ]  # fmt: skip
    await look(scene)
    assert await scene.events(tenant, events.REFUSALS_COUNTED) == [], "the minute is not over"
    now = spans._clock()
    monkeypatch.setattr(spans, "_clock", lambda: now + SPAN_SECONDS)
    await look(scene)
    (counted,) = await scene.events(tenant, events.REFUSALS_COUNTED)
    assert (counted.actor.kind, counted.actor.id, counted.cause) == ("agent", bot.credentials.name, recorded[2].id)
    assert (counted.event["count"], counted.event["service"], counted.event["seconds"]) == (5, "proxy", SPAN_SECONDS)
    assert counted.event["kinds"] == [{"verb": "invoke", "code": "not_found", "count": 5}]
    # a new minute has a quota of its own
    await refused(scene, bot, 1)
    assert len(await scene.events(tenant, events.REQUEST_REFUSED)) == 6


async def test_what_an_operator_is_refused_is_recorded_one_by_one(scene: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tenant = await scene.tenant(connection=False)
    monkeypatch.setattr(parts(scene)._spans, "_per_minute", 1)
    for _ in range(4):
        with pytest.raises(NotPermitted):
            await scene.operator.ask("proxy", "no-such-verb", tenant)
    assert len(await scene.refusals(tenant)) == 4


async def test_a_process_that_stops_records_its_counts_first(scene: Any, tmp_path: Path) -> None:
    """And one that is killed leaves the record that says that further ones were counted."""
    tenant = await scene.tenant(connection=False)
    bot = await scene.agent(tenant)
    env = dict(scene.installation.environment("proxy")) | {"NOMOS_PROXY_REFUSALS_PER_MINUTE": "2"}
    del env["NOMOS_PROXY_PAGES_LISTEN"]
    await scene.installation.stop_service("proxy")
    try:
        for end in (signal.SIGTERM, signal.SIGKILL):
            process = ServiceProcess("proxy", env, tmp_path, f"-{end.name}")
            try:
                await process.wait()
                await refused(scene, bot, 5)
                process.signal(end)
                await scene.until(lambda one=process: not one.running, "the proxy has ended")
            finally:
                await process.stop()
    finally:
        await scene.installation.start_service("proxy")
    recorded = await scene.events(tenant, events.REQUEST_REFUSED)
    assert [e.event.get("counting", False) for e in recorded] == [False, True, False, True]
    counted = await scene.events(tenant, events.REFUSALS_COUNTED)
    assert [(e.cause, e.event["count"]) for e in counted] == [(recorded[1].id, 3)]


async def test_counts_wait_while_the_journal_is_away(scene: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    held, tenant = parts(scene), await scene.tenant(connection=False)
    bot = await scene.agent(tenant)
    monkeypatch.setattr(held._spans, "_per_minute", 1)
    await refused(scene, bot, 3)
    now = held._spans._clock()
    monkeypatch.setattr(held._spans, "_clock", lambda: now + SPAN_SECONDS)
    monkeypatch.setattr(held._journal, "stalled", True)
    await look(scene)
    await look(scene)
    monkeypatch.setattr(held._journal, "stalled", False)
    assert await scene.events(tenant, events.REFUSALS_COUNTED) == []
    await look(scene)
    (counted,) = await scene.events(tenant, events.REFUSALS_COUNTED)
    assert counted.event["count"] == 2
