"""Accounts of Notion and Stripe, whose ways are their own, and of Discord, whose accounts can do little."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from tests.integration.accounts import World
from tests.integration.documented import Documented, Notion, Stripe
from tests.integration.provider import needs_provider

from nomos import events
from nomos.agent import Allowed
from nomos.errors import ConnectionLost, NotPermitted
from nomos_proxy.oauth import renewing
from nomos_proxy.oauth.sweeping import Sweeper

POLICY = '@id("all") permit (principal, action, resource);'
NOTION_CALL = ("notion:users.list", "notion:workspace/self")
STRIPE_CALL = ("stripe:balance.get", "stripe:account/self")


@pytest.fixture(autouse=True)
def _no_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing(self: Any) -> None:
        pass

    monkeypatch.setattr(Sweeper, "sweep", nothing)


@asynccontextmanager
async def opened(scene: Any, connector: str, kind: type[Documented]) -> AsyncIterator[Any]:
    provider = await asyncio.to_thread(kind, scene.installation.local.connect_pages_origin + "/connected")
    world = World(scene, connector)
    await world.open(provider=provider)
    try:
        yield world
    finally:
        await world.close()


@pytest.fixture
async def notion(scene: Any) -> AsyncIterator[Any]:
    async with opened(scene, "notion", Notion) as world:
        yield world


@pytest.fixture
async def stripe(scene: Any) -> AsyncIterator[Any]:
    async with opened(scene, "stripe", Stripe) as world:
        yield world


async def agent(world: World) -> Any:
    await world.scene.operator.ask("policy", "put", world.tenant, text=POLICY, why="test")
    return await world.scene.agent(world.tenant)


async def call(bot: Any, action: str, resource: str, connection: str) -> Any:
    allowed = await bot.agent.authorize(action, resource, connection=connection)
    assert isinstance(allowed, Allowed)
    return await bot.agent.invoke(allowed, action, resource, {}, connection=connection)


async def test_an_account_of_notion_is_connected_used_renewed_and_given_back(
    notion: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider: Any = notion.provider
    await notion.connect("wiki")
    (_, asked), (_, exchanged) = provider.asked
    assert "code_challenge" not in asked
    assert "scope" not in asked
    assert set(exchanged) == {"grant_type", "code", "redirect_uri"}
    bot = await agent(notion)
    await call(bot, *NOTION_CALL, "wiki")
    assert notion.shown == list(provider.good)
    # its tokens say no end: the upstream does
    monkeypatch.setattr(renewing, "YOUNG_SECONDS", 0)
    notion.ended.add(notion.shown[0])
    await call(bot, *NOTION_CALL, "wiki")
    assert provider.asked[-1][1].keys() == {"grant_type", "refresh_token"}
    assert notion.shown[-1] in provider.good
    assert (await notion.ask("connection-remove", name="wiki"))["outcome"] == "revoked"
    assert provider.asked[-1] == ("/v1/oauth/revoke", {"token": notion.shown[-1]})


async def test_a_refresh_token_that_notion_does_not_take_loses_the_connection(
    notion: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its errors stand in ``code``; read elsewhere, a grant that is gone would look like a provider that is down."""
    monkeypatch.setattr(renewing, "YOUNG_SECONDS", 0)
    provider: Any = notion.provider
    await notion.connect("wiki")
    bot = await agent(notion)
    await call(bot, *NOTION_CALL, "wiki")
    notion.ended.add(notion.shown[0])
    provider.refreshes.clear()
    assert (await call(bot, *NOTION_CALL, "wiki")).status == 401, "the upstream's own answer"
    with pytest.raises(ConnectionLost):
        await call(bot, *NOTION_CALL, "wiki")
    assert (await notion.state("wiki"))["state"] == "lost"
    (lost,) = await notion.events(events.CONNECTION_LOST)
    assert lost["code"] == "grant_refused"


async def test_another_workspace_of_notion_is_not_taken_under_the_same_name(notion: World) -> None:
    provider: Any = notion.provider
    await notion.connect("wiki")
    provider.account = "another"
    assert await notion.browser.connect(await notion.link("wiki", base_url="")) == 403
    assert "another account" in notion.browser.text
    assert provider.asked[-1][0] == "/v1/oauth/revoke", "what is not taken is given back"


async def test_an_account_of_stripe_is_connected_used_and_deauthorized(stripe: World) -> None:
    provider: Any = stripe.provider
    await stripe.connect("shop")
    (_, asked), (_, exchanged) = provider.asked
    assert (asked["scope"], asked["code_challenge_method"]) == ("read_write", "S256")
    assert "client_secret" not in exchanged
    bot = await agent(stripe)
    await call(bot, *STRIPE_CALL, "shop")
    assert stripe.shown == list(provider.good)
    # the platform's key opens every account of the platform: it is nowhere but at the provider
    on_the_bus = stripe.scene.installation.wire.read_bytes()
    assert provider.client_secret.encode() not in on_the_bus
    assert provider.client_secret not in stripe.shown
    assert (await stripe.ask("connection-remove", name="shop"))["outcome"] == "revoked"
    wanted = {"client_id": provider.client_id, "stripe_user_id": f"acct_{provider.account}"}
    assert provider.asked[-1] == ("/oauth/deauthorize", wanted)
    assert not provider.good


async def test_what_is_not_taken_of_stripe_ends_no_other_connection_of_that_account(stripe: World) -> None:
    """Deauthorizing ends the whole account's connection to the platform, so it is done on removal alone."""
    provider: Any = stripe.provider
    await stripe.connect("shop")
    first, provider.account = provider.account, "another"
    await stripe.connect("other")
    provider.account = first
    assert await stripe.browser.connect(await stripe.link("other", base_url="")) == 403
    assert [path for path, _ in provider.asked if path == "/oauth/deauthorize"] == []
    bot = await agent(stripe)
    await call(bot, *STRIPE_CALL, "shop")


@needs_provider
async def test_an_account_of_discord_reads_who_it_is_and_does_nothing_that_needs_a_bot(scene: Any) -> None:
    world = World(scene, "discord")
    await world.open()
    try:
        await world.connect("me", scopes=["identify"])
        bot = await agent(world)
        await call(bot, "discord:bot.get", "discord:bot/self", "me")
        assert world.upstream.seen[-1].bearer_ok, "presented as a bearer, although a bot's token is not"
        with pytest.raises(NotPermitted, match="without the scope guilds"):
            await call(bot, "discord:bot.guilds", "discord:bot/self", "me")
        for_bots = ("discord:messages.list", "discord:channel/100000000000000001")
        with pytest.raises(NotPermitted, match=r"an account of discord cannot do discord:messages\.list") as refused:
            await call(bot, *for_bots, "me")
        assert "credential of its own" in str(refused.value.hint)
        assert len(world.upstream.seen) == 1, "nothing was sent"
        assert await scene.refusals(world.tenant) == [("invoke", "not_permitted")] * 2
        # a bot's own token does what a bot can do
        await scene.add_connection(world.tenant, "bot", connector="discord")
        scene.upstream.seen.clear()
        await call(bot, *for_bots, "bot")
        assert [seen.path for seen in scene.upstream.seen] == ["/api/v10/channels/100000000000000001/messages"]
        assert (await world.ask("connection-remove", name="me"))["outcome"] == "revoked"
    finally:
        await world.close()
