"""Accounts that are connected by a code entered elsewhere, against the device flow of the npm package oidc-provider."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from msgspec import structs
from tests.integration.accounts import World
from tests.integration.documented import GitHub
from tests.integration.provider import CATALOGUE, Browser, needs_provider

from nomos import events
from nomos.errors import Conflict, Expired, NomosError, NotFound, NotPermitted, Replayed, Unavailable
from nomos_proxy.oauth import devices
from nomos_proxy.oauth.clients import Clients
from nomos_runtime.launch import ServiceProcess

pytestmark = needs_provider
DEVICE = "urn:ietf:params:oauth:grant-type:device_code"
CALENDAR = "google-calendar"


@pytest.fixture
async def world(scene: Any) -> AsyncIterator[World]:
    made = World(scene)
    await made.open()
    await made.provider.control(device=1)
    yield made
    await made.close()


async def offer(world: World, name: str = "github", **params: Any) -> dict[str, Any]:
    asked = {"connector": world.connector, "name": name, "base_url": world.upstream.origin} | params
    return dict(await world.ask("connection-device", **asked))


async def poll(world: World, made: dict[str, Any]) -> dict[str, Any]:
    """One question to the proxy, when it is time for one."""
    await asyncio.sleep(made["again_seconds"] + 0.05)
    found = dict(await world.ask("connection-device-poll", flow=made["flow"]))
    made["again_seconds"] = found["again_seconds"]
    return found


async def test_an_account_is_connected_by_a_code_that_is_entered_elsewhere(world: World) -> None:
    made = await offer(world)
    assert made["complete"] == f"{made['address']}?user_code={made['user_code']}"
    assert (await poll(world, made))["state"] == "pending"
    assert "Sign-in Success" in await Browser().enter(made["complete"])
    assert (await poll(world, made))["state"] == "connected"
    bot = await world.scene.agent(world.tenant)
    assert (await world.call(bot)).status == 200
    assert (await world.ask("connection-renew", name="github"))["generation"] == 2
    assert [s["grant_type"] for s in await world.provider.seen()] == ["device", DEVICE, DEVICE, "refresh_token"]
    recorded = [e.type for e in await world.scene.events(world.tenant) if e.type.startswith(("oauth.", "connection."))]
    assert recorded == [
        events.OAUTH_CLIENT_SET, events.CONNECT_OFFERED, events.CONNECT_RETURNED, events.CONNECTION_ADDED,
        events.CONNECT_ENDED,
    ]  # fmt: skip
    (offered,) = await world.events(events.CONNECT_OFFERED)
    assert offered["device"] is True
    assert made["user_code"] not in str(offered), "who reads the log must not be able to enter it"
    # used once, and nothing of it is left at rest
    with pytest.raises(Replayed):
        await world.ask("connection-device-poll", flow=made["flow"])
    database = await world.scene.admin_database()
    names = await database.fetch("SELECT name FROM proxy.sealed WHERE tenant = $1", world.tenant)
    assert not [n["name"] for n in names if n["name"].startswith("connect/")]


async def test_the_provider_is_asked_no_sooner_than_it_allows_by_however_many(world: World) -> None:
    await world.provider.control(device=3)
    made = await offer(world)
    started = time.monotonic()
    while time.monotonic() < started + 7:
        polled = [world.ask("connection-device-poll", flow=made["flow"]) for _ in range(5)]
        found = await asyncio.gather(*polled)
        assert {one["state"] for one in found} == {"pending"}
        assert all(1 <= one["again_seconds"] <= 3 + devices.ASK_SECONDS for one in found)
        await asyncio.sleep(0.2)
    asked = len(await world.provider.seen(DEVICE))
    assert 1 <= asked <= 2, "one question in three seconds, whoever asks"


async def test_a_provider_that_says_slow_down_is_asked_five_seconds_later_each_time(world: World) -> None:
    await world.provider.control(busy=2)
    made = await offer(world)
    assert (await poll(world, made))["again_seconds"] == 1 + devices.SLOW_DOWN_SECONDS
    await Browser().enter(made["complete"])
    polled = await poll(world, made)
    assert (polled["state"], polled["again_seconds"]) == ("pending", 1 + 2 * devices.SLOW_DOWN_SECONDS)
    assert (await poll(world, made))["state"] == "connected"
    assert [s["error"] for s in await world.provider.seen(DEVICE)] == ["slow_down", "slow_down", ""]


async def test_a_person_may_say_no(world: World) -> None:
    made = await offer(world)
    await Browser().enter(made["complete"], yes=False)
    with pytest.raises(NomosError, match="access_denied"):
        await poll(world, made)
    (ended,) = await world.events(events.CONNECT_ENDED)
    assert (ended["outcome"], ended["code"]) == ("denied", "not_connected")
    assert (await world.ask("connection-list"))["connections"] == []
    assert await world.scene.refusals(world.tenant) == [("connection-device-poll", "not_connected")]
    with pytest.raises(Replayed):
        await poll(world, made)


async def test_a_code_that_nobody_enters_ends(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether the provider says so first, or our own clock."""
    await world.provider.control(code_lives=2)
    made, other = await offer(world), await offer(world, "other")
    await asyncio.sleep(made["expires_at"] - time.time() + 1)
    with monkeypatch.context() as behind:
        behind.setattr("nomos_proxy.oauth.devices.time.time", lambda: made["expires_at"] - 0.5)
        with pytest.raises(Expired, match="the time of this code is over"):
            await world.ask("connection-device-poll", flow=made["flow"])
    seen = await world.provider.seen(DEVICE)
    assert [s["error"] for s in seen] == ["expired_token"]
    with pytest.raises(Expired):
        await world.ask("connection-device-poll", flow=other["flow"])
    assert len(await world.provider.seen(DEVICE)) == 1, "the provider is not asked any more"
    ended = await world.events(events.CONNECT_ENDED)
    assert [(e["outcome"], e["code"]) for e in ended] == [("failed", "expired")] * 2
    assert await world.scene.refusals(world.tenant) == [("connection-device-poll", "expired")] * 2


async def test_a_provider_that_is_down_costs_a_wait_and_not_the_code(world: World) -> None:
    made = await offer(world)
    await Browser().enter(made["complete"])
    await world.provider.control(fault="down")
    polled = await poll(world, made)
    assert (polled["state"], polled["trouble"]) == ("pending", "upstream_failed")
    await world.provider.control(fault="none")
    assert (await poll(world, made))["state"] == "connected"


async def test_no_code_is_given_while_the_provider_is_away(world: World) -> None:
    await asyncio.to_thread(world.provider.stop)
    with pytest.raises(Unavailable):
        await offer(world)
    assert await world.events(events.CONNECT_OFFERED) == []


async def test_more_than_was_asked_for_is_not_taken_and_given_back(scene: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    world = await calendar(scene, monkeypatch)
    try:
        made = await offer(world, "calendar")
        await Browser().enter(made["complete"])
        await world.provider.control(scope="openid extra:scope")
        with pytest.raises(NomosError, match="extra:scope"):
            await poll(world, made)
        assert await scene.refusals(world.tenant) == [("connection-device-poll", "oauth_answer_refused")]
        assert len(await world.provider.seen("revocation")) == 1
        (ended,) = await world.events(events.CONNECT_ENDED)
        assert (ended["outcome"], ended["code"]) == ("failed", "oauth_answer_refused")
    finally:
        await world.close()


async def calendar(scene: Any, monkeypatch: pytest.MonkeyPatch) -> World:
    """A provider that says whose account it is, and gives codes."""
    oauth, github = CATALOGUE.connectors[CALENDAR].oauth, CATALOGUE.connectors["github"].oauth
    assert oauth is not None
    assert github is not None
    giving = structs.replace(oauth, device=github.device and structs.replace(github.device, path="/device/auth"))
    monkeypatch.setattr(Clients, "provider", lambda self, name: (CATALOGUE.connectors[name], giving))
    world = World(scene, CALENDAR)
    await world.open()
    await world.provider.control(device=1)
    return world


async def test_it_is_connected_again_by_the_same_account_only(scene: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    world = await calendar(scene, monkeypatch)
    try:
        made = await offer(world, "calendar")
        await Browser().enter(made["complete"])
        assert (await poll(world, made))["state"] == "connected"
        await world.provider.control(account="mallory")
        again = await offer(world, "calendar", base_url="")
        await Browser().enter(again["complete"])
        with pytest.raises(NomosError, match="another account"):
            await poll(world, again)
        assert len(await world.provider.seen("revocation")) == 1, "what is not taken is given back"
        assert (await world.state("calendar"))["generation"] == 1
    finally:
        await world.close()


async def test_an_attempt_is_polled_by_operators_of_its_tenant_as_what_it_is(world: World) -> None:
    made = await offer(world)
    other = await world.scene.tenant_operator(await world.scene.tenant(connection=False))
    for tenant in (other, world.scene.operator):
        theirs = tenant._connection.credentials.tenant or await world.scene.tenant(connection=False)
        with pytest.raises(NotFound, match="opens nothing"):
            await tenant.ask("proxy", "connection-device-poll", theirs, flow=made["flow"])
    link = (await world.link("linked")).split(".")[-2]
    for flow in (link, "cn_" + "0" * 32, "x", "\x00", ""):
        with pytest.raises(NotFound):
            await world.ask("connection-device-poll", flow=flow)
    # and a browser opens nothing with it
    pages = world.scene.installation.local.connect_pages_origin
    assert await Browser().get(f"{pages}/connect/{world.tenant}.{made['flow']}.{'A' * 43}") == 404


async def test_what_an_operator_is_refused(world: World) -> None:
    await world.ask("client-set", connector="slack", client_id="ours", base_url=world.provider.issuer)
    with pytest.raises(NotPermitted, match="gives no codes for devices"):
        await offer(world, connector="slack")
    await world.connect()
    with pytest.raises(Conflict, match="stays at the origin"):
        await offer(world)
    with pytest.raises(NotFound, match="no client"):
        await offer(world, connector="linear")


async def test_of_two_proxies_that_poll_at_once_one_asks(world: World, tmp_path: Any) -> None:
    env = dict(world.scene.installation.environment("proxy"))
    del env["NOMOS_PROXY_PAGES_LISTEN"]
    process = ServiceProcess("proxy", env, tmp_path, "-other")
    try:
        await process.wait()
        made = await offer(world)
        await Browser().enter(made["complete"])
        await asyncio.sleep(1.1)
        polled = [world.ask("connection-device-poll", flow=made["flow"]) for _ in range(12)]
        found = await asyncio.gather(*polled, return_exceptions=True)
        states = [one["state"] for one in found if isinstance(one, dict)]
        assert states.count("connected") == 1
        assert all(isinstance(one, dict | Replayed | NotFound) for one in found), found
        assert len(await world.provider.seen(DEVICE)) == 1
        assert len(await world.events(events.CONNECTION_ADDED)) == 1
    finally:
        await process.stop()


async def test_the_answers_of_github_are_read_as_its_documentation_has_them(
    scene: Any,
) -> None:
    """Status 200 for everything, commas between scopes, and an end of its own words for a code that is none."""
    provider = await asyncio.to_thread(GitHub, "unused")
    world = World(scene)
    await world.open(provider=provider)
    try:
        made = await offer(world)
        assert (made["user_code"], made["address"]) == ("WDJB-MJHT", "https://github.com/login/device")
        assert (await poll(world, made))["state"] == "pending"
        assert (await poll(world, made))["state"] == "connected"
        assert set(provider.asked[-1][1]) == {"grant_type", "device_code", "client_id", "client_secret"}
        provider.answers = ["incorrect_device_code"]
        other = await offer(world, "other")
        with pytest.raises(NomosError, match="refused the grant: incorrect_device_code"):
            await poll(world, other)
    finally:
        await world.close()
