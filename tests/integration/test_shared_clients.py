"""A client that the operator of the installation sets for every tenant: used by each, and read or changed by none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import Any

import pytest
from tests.integration.accounts import World
from tests.integration.provider import Browser, Provider, needs_provider

from nomos import events
from nomos.bearer import seal_bearer
from nomos.catalogue import Rate
from nomos.client import RemoteLimit
from nomos.errors import Conflict, NomosError, NotFound, NotPermitted, RateLimited
from nomos.ids import SYSTEM_TENANT
from nomos_proxy.oauth import clients
from nomos_proxy.oauth.sweeping import Sweeper

pytestmark = needs_provider
CALENDAR = "google-calendar"


class Shared:
    """A provider, its client shared with all, and tenants without one of their own."""

    def __init__(self, scene: Any, provider: Provider) -> None:
        self.scene = scene
        self.provider = provider
        self.worlds: list[World] = []

    async def set(self, provider: Provider, **changes: Any) -> dict[str, Any]:
        key = str((await self.scene.operator.ask("proxy", "sealing-key"))["public_key"])
        setting = {
            "connector": CALENDAR, "client_id": provider.client_id, "base_url": provider.issuer,
            "sealed_secret": seal_bearer(key, provider.client_secret),
        }  # fmt: skip
        return dict(await self.scene.operator.ask("proxy", "shared-client-set", **(setting | changes)))

    async def world(self) -> World:
        """A further tenant."""
        world = World(self.scene, CALENDAR)
        await world.open(provider=self.provider, client=False)
        self.worlds.append(world)
        return world

    async def listed(self) -> dict[str, Any]:
        found = (await self.scene.operator.ask("proxy", "shared-client-list"))["clients"]
        (mine,) = [one for one in found if one["connector"] == CALENDAR]
        return dict(mine)


@pytest.fixture
async def shared(scene: Any, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Shared]:
    async def nothing(self: Any) -> None:
        pass

    monkeypatch.setattr(Sweeper, "sweep", nothing)
    redirect_uri = scene.installation.local.connect_pages_origin + "/connected"
    async with AsyncExitStack() as stack:
        provider = await asyncio.to_thread(Provider.start, CALENDAR, redirect_uri)
        stack.push_async_callback(asyncio.to_thread, provider.stop)
        made = Shared(scene, provider)
        await made.set(provider)
        yield made
        monkeypatch.undo()
        for world in made.worlds:
            for one in (await world.ask("connection-list"))["connections"]:
                if one["state"] != "removed":
                    await world.ask("connection-remove", name=one["name"])
            await world.upstream.close()
        if not (await made.listed())["is_withdrawn"]:
            await scene.operator.ask("proxy", "shared-client-withdraw", connector=CALENDAR)


def parts(scene: Any) -> Any:
    return scene.installation.services["proxy"]._parts.verbs["connection-show"][1].__self__


async def test_tenants_connect_accounts_through_it_and_see_no_more_than_that_it_is_there(shared: Shared) -> None:
    one, two = await shared.world(), await shared.world()
    await one.connect("calendar")
    await two.connect("calendar")
    assert (await one.ask("connection-renew", name="calendar"))["generation"] == 2
    operator = await shared.scene.tenant_operator(one.tenant)
    seen = await operator.ask("proxy", "client-list", one.tenant)
    assert (seen["clients"], CALENDAR in seen["shared"]) == ([], True)
    assert shared.provider.client_id not in str(seen)
    (added,) = await one.events(events.CONNECTION_ADDED)
    assert added["shared"] is True
    listed = await shared.listed()
    assert (listed["client_id"], listed["accounts"], listed["tenants"]) == (shared.provider.client_id, 2, 2)
    recorded = await shared.scene.events(SYSTEM_TENANT, events.OAUTH_CLIENT_SET)
    assert recorded[-1].event["client_id"] == shared.provider.client_id
    assert shared.scene.files_with(shared.provider.client_secret.encode()) == []
    # what one of them gives back is its own
    assert (await one.ask("connection-remove", name="calendar"))["outcome"] == "revoked"
    assert (await two.ask("connection-renew", name="calendar"))["generation"] == 2


async def test_no_operator_of_a_tenant_sets_lists_or_withdraws_it(shared: Shared) -> None:
    world = await shared.world()
    operator = await shared.scene.tenant_operator(world.tenant)
    setting = {"connector": CALENDAR, "client_id": "mine", "base_url": shared.provider.issuer}
    for verb, params in (
        ("shared-client-set", setting), ("shared-client-list", {}), ("shared-client-withdraw", {"connector": CALENDAR}),
    ):  # fmt: skip
        # for its tenant the verb is refused, and for the installation the bus lets nothing through
        with pytest.raises(NotPermitted, match="takes _, not a tenant"):
            await operator.ask("proxy", verb, world.tenant, **params)
        with pytest.raises(NotPermitted, match="may not use"):
            await operator.ask("proxy", verb, "_", **params)
    assert await shared.scene.refusals(world.tenant) == [
        ("shared-client-set", "not_permitted"), ("shared-client-list", "not_permitted"),
        ("shared-client-withdraw", "not_permitted"),
    ]  # fmt: skip
    assert (await shared.listed())["client_id"] == shared.provider.client_id


async def test_a_tenant_s_own_client_goes_first_and_an_account_stays_with_the_one_it_came_through(
    shared: Shared, scene: Any
) -> None:
    world = await shared.world()
    await world.connect("before")
    pending = await world.link("pending")
    redirect_uri = scene.installation.local.connect_pages_origin + "/connected"
    own = await asyncio.to_thread(Provider.start, CALENDAR, redirect_uri)
    try:
        world.provider = own
        await world.set_client(world.tenant)
        await world.connect("after")
        assert [s["grant_type"] for s in await own.seen()] == ["authorization_code"]
        # what was begun as one client is ended as the same
        world.browser = Browser()
        assert await world.browser.connect(pending) == 200
        before = len(await shared.provider.seen())
        for name in ("before", "pending", "after"):
            assert (await world.ask("connection-renew", name=name))["generation"] == 2
        assert [s["status"] for s in (await shared.provider.seen())[before:]] == [200, 200]
        assert [s["status"] for s in await own.seen("refresh_token")] == [200]
        # connected again, it is an account of the tenant's own client
        world.browser = Browser()
        await world.connect("before", base_url="")
        assert (await world.ask("connection-renew", name="before"))["generation"] == 4
        assert len(await own.seen("refresh_token")) == 2
        assert (await shared.listed())["accounts"] == 1
        # the own one's id cannot change under its accounts; those of the shared one do not count
        other = world.ask("client-set", connector=CALENDAR, client_id="another", base_url=own.issuer)
        with pytest.raises(Conflict, match="another client: before, after"):
            await other
        for name in ("before", "after"):
            await world.ask("connection-remove", name=name)
    finally:
        await asyncio.to_thread(own.stop)


async def test_another_id_does_not_take_its_place_while_accounts_go_through_it(shared: Shared) -> None:
    world = await shared.world()
    await world.connect("calendar")
    with pytest.raises(Conflict, match="1 accounts of 1 tenants are connected through another client"):
        await shared.set(shared.provider, client_id="another")
    await shared.set(shared.provider)  # a new secret of the same one is no harm
    assert (await world.ask("connection-renew", name="calendar"))["generation"] == 2
    await world.ask("connection-remove", name="calendar")
    await shared.set(shared.provider, client_id="another")


async def test_a_withdrawn_one_takes_no_further_account_and_those_that_are_there_go_on(shared: Shared) -> None:
    world = await shared.world()
    await world.connect("calendar")
    withdraw = shared.scene.operator.ask("proxy", "shared-client-withdraw", connector=CALENDAR)
    assert (await withdraw)["accounts"] == 1
    assert (await shared.listed())["is_withdrawn"] is True
    with pytest.raises(NotFound, match="no client at the provider"):
        await world.link("other")
    assert CALENDAR not in (await world.ask("client-list"))["shared"]
    assert (await world.ask("connection-renew", name="calendar"))["generation"] == 2
    with pytest.raises(NotFound, match="no shared client"):
        await shared.scene.operator.ask("proxy", "shared-client-withdraw", connector=CALENDAR)
    await shared.set(shared.provider)
    await world.connect("other")
    recorded = await shared.scene.events(SYSTEM_TENANT, events.OAUTH_CLIENT_WITHDRAWN)
    assert recorded[-1].event["connector"] == CALENDAR


async def test_one_tenant_has_so_many_accounts_through_it_and_leaves_the_rest_to_others(
    shared: Shared, scene: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = await shared.world(), await shared.world()
    monkeypatch.setattr(parts(scene)._connecting._clients, "_shared_accounts_max", 1)
    first, second = await one.link("first"), await one.link("second")
    assert await one.browser.connect(first) == 200
    one.browser = Browser()
    # asked for while there was room: counted again when it would be stored, and what is not kept is given back
    assert await one.browser.connect(second) == 413
    assert "shared_client_accounts is 1, got 2" in one.browser.text.lower()
    assert len(await shared.provider.seen("revocation")) == 1
    with pytest.raises(RemoteLimit, match="shared_client_accounts is 1, got 2"):
        await one.link("third")
    assert [code for _, code in await scene.refusals(one.tenant)] == ["limit_exceeded", "limit_exceeded"]
    one.browser = Browser()
    await one.connect("first", base_url="")  # connected again, it is no further one
    await two.connect("first")
    await one.ask("connection-remove", name="first")
    one.browser = Browser()
    await one.connect("third")


async def test_one_tenant_asks_the_provider_so_often_and_leaves_the_rest_to_others(
    shared: Shared, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients, "SHARED_ASKS", Rate(calls=2, seconds=600))
    one, two = await shared.world(), await shared.world()
    await one.connect("calendar")
    await one.ask("connection-renew", name="calendar")
    seen = len(await shared.provider.seen())
    with pytest.raises(
        RateLimited, match="the tenant's rate at the shared client of google-calendar is 2 calls in 600"
    ):
        await one.ask("connection-renew", name="calendar")
    assert len(await shared.provider.seen()) == seen, "the provider was not asked"
    ended = await one.events(events.CREDENTIAL_RENEWED)
    assert [(e["outcome"], e["code"]) for e in ended] == [("renewed", ""), ("failed", "rate_limited")]
    await two.connect("calendar")
    assert (await two.ask("connection-renew", name="calendar"))["generation"] == 2
    assert (await one.state("calendar"))["state"] == "ready", "and no account is lost by it"
    monkeypatch.undo()


async def test_it_is_set_for_connectors_that_connect_accounts_alone(shared: Shared) -> None:
    with pytest.raises(NotPermitted, match="accounts are connected to"):
        await shared.set(shared.provider, connector="aws-s3")
    with pytest.raises(NomosError, match="a client's id"):
        await shared.set(shared.provider, client_id="")
