"""When a bearer is opened: once for all who need it first, and never in place of another one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from nomos import events
from nomos.agent import Allowed
from nomos.bearer import seal_bearer
from nomos.errors import NotFound
from nomos_runtime.eventstore import EventStore

LIST, REPO = "github:issues.list", "github:repo/acme/site"
CALLS = 20


class Reads:
    """The times at which the bearer of ``github`` is read; the first one waits until it may go on."""

    def __init__(self) -> None:
        self.count = 0
        self.may_go_on = False


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[Reads]:
    made, original = Reads(), EventStore.sealed

    async def sealed(self: EventStore, tenant: str, name: str) -> bytes | None:
        found = await original(self, tenant, name)
        if name == "bearer/github":
            made.count += 1
            if made.count == 1:
                while not made.may_go_on:
                    await asyncio.sleep(0.01)
        return found

    monkeypatch.setattr(EventStore, "sealed", sealed)
    yield made
    made.may_go_on = True


async def allowed(bot: Any) -> Allowed:
    found = await bot.agent.authorize(LIST, REPO)
    assert isinstance(found, Allowed)
    return found


async def replace(scene: Any, tenant: str) -> None:
    key = str((await scene.operator.ask("proxy", "sealing-key", tenant))["public_key"])
    bearer = seal_bearer(key, "another-bearer-of-the-same")
    await scene.operator.ask("proxy", "connection-replace", tenant, name="github", sealed_bearer=bearer)


async def test_of_many_first_uses_at_once_one_opens_the_bearer(scene: Any, reads: Reads) -> None:
    bot = await scene.agent(await scene.tenant())
    calls = [asyncio.create_task(bot.agent.invoke(await allowed(bot), LIST, REPO, {})) for _ in range(CALLS)]
    await scene.until(lambda: reads.count, "the bearer is read")
    reads.may_go_on = True
    assert {answer.status for answer in await asyncio.gather(*calls)} == {200}
    assert reads.count == 1


async def test_a_bearer_that_was_replaced_while_it_was_opened_is_not_used_for_what_comes_after(
    scene: Any, reads: Reads
) -> None:
    tenant = await scene.tenant()
    bot = await scene.agent(tenant)
    first = asyncio.create_task(bot.agent.invoke(await allowed(bot), LIST, REPO, {}))
    await scene.until(lambda: reads.count, "the bearer is read")
    await replace(scene, tenant)
    assert (await bot.agent.invoke(await allowed(bot), LIST, REPO, {})).status == 401, "the upstream knows the old one"
    reads.may_go_on = True
    assert (await first).status == 200
    assert (await bot.agent.invoke(await allowed(bot), LIST, REPO, {})).status == 401


async def test_a_connection_that_was_removed_while_its_bearer_was_opened_leaves_nothing_in_memory(
    scene: Any, reads: Reads
) -> None:
    tenant = await scene.tenant()
    bot = await scene.agent(tenant)
    first = asyncio.create_task(bot.agent.invoke(await allowed(bot), LIST, REPO, {}))
    await scene.until(lambda: reads.count, "the bearer is read")
    await scene.operator.ask("proxy", "connection-remove", tenant, name="github")
    with pytest.raises(NotFound):
        await bot.agent.invoke(await allowed(bot), LIST, REPO, {})
    reads.may_go_on = True
    # it was on its way before the removal, as one that has left for the upstream is
    assert (await first).status == 200
    admin = scene.installation.services["proxy"]._parts.verbs["connection-list"][1].__self__
    assert admin._credentials._bearers.find(tenant, "github") is None
    refused = await scene.events(tenant, events.REQUEST_REFUSED)
    assert [one.event["code"] for one in refused] == ["not_found"]
