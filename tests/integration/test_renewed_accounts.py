"""What happens to a connected account's tokens, against the npm package oidc-provider: one mistake ends a grant there.

The provider of most tests rotates: a refresh token that comes a second time revokes everything that was granted.
"""

from __future__ import annotations

import asyncio
import shutil
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.integration.accounts import LIST, REPO, World
from tests.integration.provider import Browser, needs_provider

from nomos import events
from nomos.agent import Allowed
from nomos.bearer import seal_bearer
from nomos.errors import ConnectionLost, NomosError, NotFound, Unavailable
from nomos_proxy.oauth import grants, renewing, sweeping
from nomos_proxy.oauth.sweeping import Sweeper
from nomos_runtime.launch import ServiceProcess

pytestmark = needs_provider
KILLING = Path(__file__).parents[1] / "oauth" / "killing.py"
#: Where a proxy of another process ends itself; see there.
STEPS = ("leased", "journaled", "asking", "answered", "stored", "recorded")
CALLS = 50
Sweep = Callable[[World], Any]


@pytest.fixture(autouse=True)
def sweep(monkeypatch: pytest.MonkeyPatch) -> Sweep:
    """What is due waits until the test sweeps."""
    original = Sweeper.sweep

    async def now(world: World) -> None:
        await world.scene.installation.run(original(admin(world)._sweeper))

    async def nothing(self: Any) -> None:
        pass

    monkeypatch.setattr(Sweeper, "sweep", nothing)
    monkeypatch.setattr(grants, "LEASE_SECONDS", 2)
    return now


@asynccontextmanager
async def opened(scene: Any, **provider: Any) -> AsyncIterator[World]:
    world = World(scene)
    await world.open(**provider)
    try:
        yield world
    finally:
        await world.close()


@pytest.fixture
async def world(scene: Any) -> AsyncIterator[World]:
    async with opened(scene) as made:
        yield made


async def connect_for(world: World, seconds: float) -> Any:
    """Connects an account whose first access token lives so long; later ones live an hour. Gives an agent."""
    await world.provider.control(lives=seconds)
    await world.connect()
    await world.provider.control(lives=3600)
    return await world.scene.agent(world.tenant)


def admin(world: World) -> Any:
    """The proxy's verbs, which hold its parts."""
    return world.scene.installation.services["proxy"]._parts.verbs["connection-show"][1].__self__


async def test_a_token_that_has_ended_is_renewed_before_the_call(world: World) -> None:
    bot = await connect_for(world, 1)
    await asyncio.sleep(1.1)
    assert (await world.call(bot)).status == 200
    assert (await world.call(bot)).status == 200
    assert len(await world.provider.seen("refresh_token")) == 1
    assert len(set(world.shown)) == 1
    assert [e["generation"] for e in await world.events(events.CREDENTIAL_RENEWING)] == [1]
    assert [e["outcome"] for e in await world.events(events.CREDENTIAL_RENEWED)] == ["renewed"]
    on_the_bus = world.scene.installation.wire.read_bytes()
    assert world.shown[0].encode() not in on_the_bus


@asynccontextmanager
async def another_proxy(world: World, tmp_path: Path, step: str = "") -> AsyncIterator[ServiceProcess]:
    """A second proxy, in a process of its own."""
    site = tmp_path / "site"
    site.mkdir()
    shutil.copy(KILLING, site / "sitecustomize.py")
    env = world.scene.installation.environment("proxy") | {"PYTHONPATH": str(site), "NOMOS_TEST_KILL": step}
    del env["NOMOS_PROXY_PAGES_LISTEN"]
    process = ServiceProcess("proxy", env, tmp_path, "-other")
    try:
        await process.wait()
        yield process
    finally:
        await process.stop()


async def test_fifty_calls_over_two_proxies_with_an_ended_token_make_one_refresh(world: World, tmp_path: Path) -> None:
    async with another_proxy(world, tmp_path):
        bot = await connect_for(world, 1)
        allowed = [await bot.agent.authorize(LIST, REPO) for _ in range(CALLS)]
        await asyncio.sleep(1.1)
        answers = await asyncio.gather(*(bot.agent.invoke(one, LIST, REPO, {}) for one in allowed))
        assert Counter(answer.status for answer in answers) == {200: CALLS}
        assert len(await world.provider.seen("refresh_token")) == 1
        assert len(set(world.shown)) == 1
        # both took part: the other one is there, and knows the token that one of them got
        await world.scene.installation.stop_service("proxy")
        try:
            assert (await world.call(bot)).status == 200
        finally:
            await world.scene.installation.start_service("proxy")
        assert len(await world.provider.seen("refresh_token")) == 1
    assert (await world.state())["generation"] == 2


@pytest.mark.parametrize("rotate", [True, False])
@pytest.mark.parametrize("step", STEPS)
async def test_a_proxy_killed_at_any_step_of_a_refresh_loses_no_connection(
    scene: Any, tmp_path: Path, step: str, rotate: bool
) -> None:
    """But for one step at a provider that rotates and forgives nothing: its answer was in the process that died."""
    async with opened(scene, rotate=rotate) as world:
        bot = await connect_for(world, 1)
        async with another_proxy(world, tmp_path, step) as other:
            await scene.installation.stop_service("proxy")
            try:
                await asyncio.sleep(1.1)
                allowed = await bot.agent.authorize(LIST, REPO)
                assert isinstance(allowed, Allowed)
                with pytest.raises(Unavailable):
                    await bot.agent.invoke(allowed, LIST, REPO, {}, timeout_ms=1_500)
                await scene.until(lambda: not other.running, "the proxy has ended itself")
            finally:
                await scene.installation.start_service("proxy")
        if step == "answered" and rotate:
            with pytest.raises(ConnectionLost):
                await world.call(bot)
            assert (await world.state())["state"] == "lost"
            world.browser = Browser()
            await world.connect(base_url="")
        assert (await world.call(bot)).status == 200
        assert (await world.state())["state"] == "ready"


async def test_a_good_token_is_used_while_the_provider_is_down(
    world: World, sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Due, and not over: it is renewed ahead, which fails; calls go on with the old one."""
    bot = await connect_for(world, 600)
    await world.provider.control(fault="down")
    # as if four fifths of the token's life were over
    monkeypatch.setattr(renewing, "renew_at", lambda tokens: 1)
    database = await world.scene.admin_database()
    await database.execute("UPDATE proxy.grants SET renew_at = 1 WHERE tenant = $1", world.tenant)
    await sweep(world)
    assert len(await world.provider.seen()) == 2
    assert (await world.call(bot)).status == 200
    assert [e["outcome"] for e in await world.events(events.CREDENTIAL_RENEWED)] == ["failed"]
    # nobody asks again before its time
    await sweep(world)
    assert len(await world.provider.seen()) == 2
    await world.provider.control(fault="none")
    await asyncio.sleep(2.1)
    await sweep(world)
    assert (await world.state())["generation"] == 2


async def test_an_ended_token_and_a_provider_that_is_down(world: World) -> None:
    bot = await connect_for(world, 1)
    await world.provider.control(fault="down")
    await asyncio.sleep(1.1)
    allowed = await bot.agent.authorize(LIST, REPO)
    with pytest.raises(Unavailable):
        await bot.agent.invoke(allowed, LIST, REPO, {}, timeout_ms=2_000)
    assert not world.upstream.seen
    await world.provider.control(fault="none")
    await asyncio.sleep(2.1)
    # the permission was not used up
    assert (await bot.agent.invoke(allowed, LIST, REPO, {})).status == 200


async def test_an_answer_that_never_came_is_an_unknown_outcome(scene: Any) -> None:
    """Without rotation the refresh token is as good as before; the second try gets what the first one lost."""
    async with opened(scene, rotate=False) as world:
        bot = await connect_for(world, 1)
        await world.provider.control(fault="cut")
        await asyncio.sleep(1.1)
        with pytest.raises(NomosError):
            await world.call(bot)
        assert [e["outcome"] for e in await world.events(events.CREDENTIAL_RENEWED)] == ["unknown"]
        await world.provider.control(fault="none")
        await asyncio.sleep(2.1)
        assert (await world.call(bot)).status == 200


async def test_a_token_that_the_upstream_takes_no_more_is_renewed_once_and_the_call_made_once_more(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renewing, "YOUNG_SECONDS", 0)
    bot = await connect_for(world, 600)
    assert (await world.call(bot)).status == 200
    world.ended.add(world.shown[0])
    assert (await world.call(bot)).status == 200
    assert len(await world.provider.seen("refresh_token")) == 1
    assert [one.bearer_ok for one in world.upstream.seen] == [True, False, True]
    # two attempts by the agent, two in the log, whatever was sent for them
    assert len(await world.events(events.CALL_ATTEMPTED)) == 2


async def test_an_upstream_that_says_401_to_everything_causes_no_refresh_without_end(world: World) -> None:
    bot = await connect_for(world, 600)
    world.upstream.accepts = lambda bearer: False
    for _ in range(3):
        assert (await world.call(bot)).status == 401
    # it is asked for no other token while its own is seconds old
    assert len(await world.provider.seen("refresh_token")) == 0


async def test_a_connection_whose_grant_was_taken_back_is_lost_until_it_is_connected_again(world: World) -> None:
    bot = await connect_for(world, 1)
    # the person takes it back: at this provider, by a use of the refresh token that is not ours
    await use_elsewhere(world)
    await asyncio.sleep(1.1)
    for _ in range(2):
        with pytest.raises(ConnectionLost) as e:
            await world.call(bot)
        assert "connect the account again" in str(e.value.hint)
    assert (await world.state())["state"] == "lost"
    assert len(await world.events(events.CONNECTION_LOST)) == 1
    assert [e["outcome"] for e in await world.events(events.CREDENTIAL_RENEWED)] == ["refused"]
    assert len(await world.provider.seen("refresh_token")) == 2, "ours once, and nobody asks again"
    world.browser = Browser()
    await world.connect(base_url="")
    assert (await world.call(bot)).status == 200
    assert (await world.state())["state"] == "ready"


async def use_elsewhere(world: World) -> None:
    """Uses the stored refresh token without storing what comes: a thief, or a restored backup."""
    accounts = admin(world)._accounts

    async def run() -> None:
        grant = await accounts._grants.find(world.tenant, "github", "github")
        party = await accounts._clients.party(world.tenant, "github", is_shared=False)
        request = renewing.refresh_request(party.oauth, party.client(), grant.tokens.refresh)
        assert (await party.ask(party.oauth.token, request)).status == 200

    await world.scene.installation.run(run())


async def test_a_refusal_counts_only_if_nobody_has_stored_other_tokens(
    scene: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lease ran out: another process renews while this one's request is on its way, and this one is refused."""
    async with opened(scene) as world:
        bot = await connect_for(world, 1)
        await asyncio.sleep(1.1)
        parts = admin(world)
        original, refused = renewing.Accounts._asked, []

        async def late(self: Any, party: Any, connection: Any, grant: Any) -> Any:
            if refused:
                return await original(self, party, connection, grant)
            refused.append(1)
            assert await parts._grants.store(grant, "github", await original(self, party, connection, grant))
            return await original(self, party, connection, grant)  # the same refresh token, a second time

        monkeypatch.setattr(renewing.Accounts, "_asked", late)
        assert (await world.call(bot)).status == 200
        assert [s["error"] for s in await world.provider.seen("refresh_token")] == ["", "invalid_grant"]
        assert await world.events(events.CONNECTION_LOST) == []
        assert [e["outcome"] for e in await world.events(events.CREDENTIAL_RENEWED)] == ["refused"]
        assert (await world.state())["generation"] == 2


async def test_wider_scopes_and_another_account_are_not_taken_at_a_renewal(scene: Any) -> None:
    async with opened(scene) as world:
        bot = await connect_for(world, 1)
        await world.provider.control(scope="repo read:org extra:scope")
        await asyncio.sleep(1.1)
        with pytest.raises(ConnectionLost):
            await world.call(bot)
        assert world.shown == []
        (lost,) = await world.events(events.CONNECTION_LOST)
        assert lost["code"] == "oauth_answer_refused"


async def test_tokens_are_renewed_ahead_without_a_call(world: World, sweep: Sweep) -> None:
    await connect_for(world, 5)
    await sweep(world)
    assert (await world.state())["generation"] == 1, "not due yet"
    await asyncio.sleep(4.1)
    await asyncio.gather(*(sweep(world) for _ in range(5)))
    assert (await world.state())["generation"] == 2
    assert len(await world.provider.seen("refresh_token")) == 1


async def test_an_operator_has_an_account_renewed_now(world: World) -> None:
    await connect_for(world, 600)
    assert (await world.ask("connection-renew", name="github"))["generation"] == 2
    assert (await world.ask("connection-renew", name="github"))["generation"] == 3
    with pytest.raises(NotFound):
        await world.ask("connection-renew", name="none")


async def test_without_a_refresh_token_a_person_is_needed_at_the_end(scene: Any) -> None:
    async with opened(scene, refresh=False) as world:
        bot = await connect_for(world, 2)
        assert (await world.call(bot)).status == 200
        await asyncio.sleep(2.1)
        with pytest.raises(ConnectionLost):
            await world.call(bot)
        (lost,) = await world.events(events.CONNECTION_LOST)
        assert lost["code"] == "no_refresh_token"


@asynccontextmanager
async def calendar(scene: Any) -> AsyncIterator[World]:
    """A provider that takes tokens back (RFC 7009)."""
    world = World(scene, "google-calendar")
    await world.open()
    try:
        yield world
    finally:
        await world.close()


async def test_a_removed_account_is_revoked_at_the_provider_and_its_name_is_not_given_again(scene: Any) -> None:
    async with calendar(scene) as world:
        await world.connect("calendar")
        assert (await world.ask("connection-remove", name="calendar"))["outcome"] == "revoked"
        assert [s["status"] for s in await world.provider.seen("revocation")] == [200]
        (revoked,) = await world.events(events.CREDENTIAL_REVOKED)
        assert (revoked["outcome"], revoked["tries"]) == ("revoked", 1)
        assert (await world.state("calendar"))["state"] == "removed"
        database = await scene.admin_database()
        assert await database.fetchval("SELECT count(*) FROM proxy.grants WHERE tenant = $1", world.tenant) == 0
        with pytest.raises(NomosError, match="exists"):
            await world.link("calendar", base_url="")
        with pytest.raises(NotFound):
            await world.ask("connection-remove", name="calendar")


async def test_a_provider_that_is_down_is_asked_again_to_revoke(
    scene: Any, sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeping, "REVOKE_PAUSE_SECONDS", 0)
    async with calendar(scene) as world:
        await world.connect("calendar")
        await world.provider.control(revocation="down")
        assert (await world.ask("connection-remove", name="calendar"))["outcome"] == "failed"
        assert (await world.state("calendar"))["state"] == "removed", "closed at once, whatever the provider says"
        await sweep(world)
        assert await world.events(events.CREDENTIAL_REVOKED) == []
        await world.provider.control(revocation="up")
        await sweep(world)
        (revoked,) = await world.events(events.CREDENTIAL_REVOKED)
        assert (revoked["outcome"], revoked["tries"]) == ("revoked", 3)


async def test_a_revocation_is_given_up_and_the_log_says_so(
    scene: Any, sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeping, "REVOKE_PAUSE_SECONDS", 0)
    monkeypatch.setattr(sweeping, "REVOKE_TRIES_MAX", 2)
    async with calendar(scene) as world:
        await world.connect("calendar")
        await world.provider.control(revocation="down")
        await world.ask("connection-remove", name="calendar")
        await sweep(world)
        (revoked,) = await world.events(events.CREDENTIAL_REVOKED)
        assert (revoked["outcome"], revoked["tries"]) == ("failed", 2)


async def test_an_erased_tenant_s_tokens_are_gone(world: World) -> None:
    await connect_for(world, 600)
    ask = world.scene.operator.ask
    await ask("identity", "tenant-close", "_", name=world.tenant, basis="ended")
    await ask("proxy", "tenant-erase", "_", name=world.tenant, basis="ended")
    database = await world.scene.admin_database()
    assert await database.fetchval("SELECT count(*) FROM proxy.grants WHERE tenant = $1", world.tenant) == 0


async def test_an_erased_tenant_s_tokens_are_given_back_first(scene: Any) -> None:
    async with calendar(scene) as world:
        await world.connect("calendar")
        await world.connect("second")
        await world.ask("connection-remove", name="second")
        ask = scene.operator.ask
        await ask("identity", "tenant-close", "_", name=world.tenant, basis="ended")
        await ask("proxy", "tenant-erase", "_", name=world.tenant, basis="ended", timeout_ms=30_000)
        assert [s["status"] for s in await world.provider.seen("revocation")] == [200, 200]
        revoked = await world.events(events.CREDENTIAL_REVOKED)
        assert [(e["connection"], e["outcome"]) for e in revoked] == [("second", "revoked"), ("calendar", "revoked")]


async def test_a_provider_that_is_down_holds_up_no_erasure(scene: Any) -> None:
    async with calendar(scene) as world:
        await world.connect("calendar")
        await world.provider.control(revocation="down")
        ask = scene.operator.ask
        await ask("identity", "tenant-close", "_", name=world.tenant, basis="ended")
        await ask("proxy", "tenant-erase", "_", name=world.tenant, basis="ended", timeout_ms=30_000)
        (told,) = await world.events(events.CREDENTIAL_REVOKED)
        assert (told["outcome"], told["tries"]) == ("failed", 1)
        database = await scene.admin_database()
        assert await database.fetchval("SELECT count(*) FROM proxy.grants WHERE tenant = $1", world.tenant) == 0


async def test_a_bearer_is_replaced_and_removed(scene: Any) -> None:
    tenant = await scene.tenant()
    bot = await scene.agent(tenant)
    allowed = await bot.agent.authorize(LIST, REPO)
    assert (await bot.agent.invoke(allowed, LIST, REPO, {})).status == 200
    key = str((await scene.operator.ask("proxy", "sealing-key", tenant))["public_key"])
    other = seal_bearer(key, "another-bearer-of-the-same")
    await scene.operator.ask("proxy", "connection-replace", tenant, name="github", sealed_bearer=other)
    allowed = await bot.agent.authorize(LIST, REPO)
    assert (await bot.agent.invoke(allowed, LIST, REPO, {})).status == 401
    await scene.operator.ask("proxy", "connection-remove", tenant, name="github")
    database = await scene.admin_database()
    left = "SELECT count(*) FROM proxy.sealed WHERE tenant = $1 AND name = 'bearer/github'"
    assert await database.fetchval(left, tenant) == 0
    allowed = await bot.agent.authorize(LIST, REPO)
    with pytest.raises(NotFound):
        await bot.agent.invoke(allowed, LIST, REPO, {})
    assert [e.type for e in await scene.events(tenant) if e.type.startswith("connection.")] == [
        events.CONNECTION_ADDED, events.CONNECTION_REPLACED, events.CONNECTION_REMOVED,
    ]  # fmt: skip
