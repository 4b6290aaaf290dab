"""Everything issued for an app or a tenant is taken back: in force when the command answers, recorded, and for good."""

from __future__ import annotations

import os
from typing import Any

import pytest
from tests.integration.conftest import Person

from nomos import errors
from nomos.agent import Allowed
from nomos.creds import USER, Nkey
from nomos.errors import NomosError
from nomos.keys import SigningKey
from nomos.ucan.cutoff import cutoff_of
from nomos_proxy.app import Proxy

LIST, READ = "github:issues.list", {"state": "open"}
REPO = "github:repo/acme/site"
POLICY = """
@id("both-read")
@description("triage and release may read issues")
permit (principal, action == Action::"github:issues.list", resource)
  when { principal in App::"triage" || principal in App::"release" };
"""


async def agent_of(scene: Any, tenant: str, app: str) -> Any:
    user, seed, name = Nkey.new(USER), os.urandom(32), scene.name("bot")
    made = await scene.operator.ask(
        "identity", "agent-create", tenant, app=app, name=name, key=user.public, did=SigningKey(seed).did
    )
    return await scene.connect(Person(scene.credentials("agent", name, tenant, str(made["jwt"]), user, seed)))


async def allowed(bot: Any) -> Allowed:
    got = await bot.agent.authorize(LIST, REPO, READ)
    assert isinstance(got, Allowed)
    return got


async def two_apps(scene: Any) -> str:
    tenant: str = await scene.tenant(policy=POLICY)
    await scene.operator.ask("identity", "app-create", tenant, name="release")
    return tenant


async def refused(work: Any, kind: type[NomosError]) -> None:
    with pytest.raises(kind) as e:
        await work
    assert type(e.value) is kind, e.value


async def issued_again(scene: Any, bot: Any) -> None:
    """Waits until clocks can differ no more, and uses a new permission."""

    async def allows() -> Any:
        try:
            return await bot.agent.authorize(LIST, REPO, READ)
        except errors.Revoked:
            return None

    got = await scene.until(allows, "a permission that is issued anew")
    assert isinstance(got, Allowed)
    assert (await bot.agent.invoke(got, LIST, REPO, READ)).status == 200


async def test_everything_of_an_app_is_refused_when_the_command_answers_and_nothing_of_another(scene: Any) -> None:
    tenant = await two_apps(scene)
    first, second = await scene.agent(tenant), await scene.agent(tenant)
    release = await agent_of(scene, tenant, "release")
    held, other = await allowed(first), await allowed(release)
    grant = first.agent.delegate(held, to=second.agent.did)
    across = first.agent.delegate(held, to=release.agent.did)
    into = release.agent.delegate(other, to=first.agent.did)
    assert (await second.agent.use(grant, LIST, REPO, READ)).status == 200
    done = await scene.operator.ask("minting", "revoke-app", tenant, app="triage", why="seen in a chat")
    # At once, in every way: by who was given it, down the chain, and where a holder is of the app.
    await refused(first.agent.invoke(held, LIST, REPO, READ), errors.Revoked)
    await refused(second.agent.use(grant, LIST, REPO, READ), errors.Revoked)
    await refused(release.agent.use(across, LIST, REPO, READ), errors.Revoked)
    await refused(first.agent.use(into, LIST, REPO, READ), errors.Revoked)
    assert (await release.agent.invoke(other, LIST, REPO, READ)).status == 200
    assert (await release.agent.invoke(await allowed(release), LIST, REPO, READ)).status == 200
    (event,) = await scene.events(tenant, "ucan.revoked-all")
    assert event.event == {"app": "triage", "at": done["at"], "until": cutoff_of(done["at"]), "why": "seen in a chat"}
    assert event.actor.kind == "operator"
    recorded = await scene.events(tenant, "request.refused")
    assert [(e.actor.id, e.event["code"]) for e in recorded] == [
        (first.name, "revoked"), (second.name, "revoked"), (release.name, "revoked"), (first.name, "revoked"),
    ]  # fmt: skip
    await issued_again(scene, first)


async def test_everything_of_a_tenant_is_refused_and_nothing_of_another_tenant(scene: Any) -> None:
    tenant, neighbour = await two_apps(scene), await scene.tenant()
    bots = [await scene.agent(tenant), await agent_of(scene, tenant, "release")]
    stranger = await scene.agent(neighbour)
    held, others = [await allowed(bot) for bot in bots], await allowed(stranger)
    await scene.operator.ask("minting", "revoke-tenant", tenant, why="leaked")
    for bot, one in zip(bots, held, strict=True):
        await refused(bot.agent.invoke(one, LIST, REPO, READ), errors.Revoked)
    assert (await stranger.agent.invoke(others, LIST, REPO, READ)).status == 200
    (event,) = await scene.events(tenant, "ucan.revoked-all")
    assert event.event["app"] == ""
    assert not await scene.events(neighbour, "ucan.revoked-all")
    await issued_again(scene, bots[0])


async def test_minting_issues_nothing_that_the_proxy_could_not_tell_from_what_was_taken_back(scene: Any) -> None:
    tenant = await scene.tenant()
    bot = await scene.agent(tenant)
    await allowed(bot)
    minted = len(await scene.events(tenant, "ucan.minted"))
    await scene.operator.ask("minting", "revoke-app", tenant, app="triage")
    # The clocks of two processes may differ by more than the command took.
    answer: Any = None
    try:
        answer = await bot.agent.authorize(LIST, REPO, READ)
    except errors.Revoked as e:
        answer = e
    assert getattr(answer, "code", "") == "revoked", answer
    assert len(await scene.events(tenant, "ucan.minted")) == minted
    assert "revoked" in {str(e.event.get("code", e.event.get("reason"))) for e in await scene.events(tenant)}
    await issued_again(scene, bot)


async def test_a_revocation_of_everything_survives_a_restart_of_minting_and_proxy(scene: Any) -> None:
    tenant = await scene.tenant()
    bot = await scene.agent(tenant)
    held = await allowed(bot)
    await scene.operator.ask("minting", "revoke-tenant", tenant)
    for service in ("minting", "proxy"):
        await scene.installation.stop_service(service)
        await scene.installation.start_service(service)
    await refused(bot.agent.invoke(held, LIST, REPO, READ), errors.Revoked)


async def test_a_proxy_that_hears_nothing_of_minting_allows_nothing_when_the_command_answers(scene: Any) -> None:
    tenant, installation = await scene.tenant(), scene.installation
    bot = await scene.agent(tenant)
    held = await allowed(bot)
    proxy = installation.services["proxy"]
    assert isinstance(proxy, Proxy)
    assert proxy._parts is not None
    (deaf,) = [f for f in proxy._parts.followers if f.owner == "minting"]
    try:
        await installation.run(deaf.stop())
        await scene.operator.ask("minting", "revoke-app", tenant, app="triage")
        await refused(bot.agent.invoke(held, LIST, REPO, READ), errors.StalePolicy)
    finally:
        await installation.stop_service("proxy")
        await installation.start_service("proxy")
    await refused(bot.agent.invoke(held, LIST, REPO, READ), errors.Revoked)


async def test_an_app_that_there_is_not_is_not_revoked_and_the_refusal_is_recorded(scene: Any) -> None:
    tenant, other = await scene.tenant(), await two_apps(scene)
    bot = await scene.agent(tenant)
    held, ask = await allowed(bot), scene.operator.ask
    for app, kind in (("triaged", errors.NotFound), ("release", errors.NotFound), ("No Slug", errors.Malformed)):
        await refused(ask("minting", "revoke-app", tenant, app=app), kind)
    with pytest.raises(NomosError, match="WHY_CHARS_MAX is 500, got 501"):
        await ask("minting", "revoke-app", tenant, app="triage", why="x" * 501)
    with pytest.raises(NomosError, match="WHY_CHARS_MAX is 500, got 501"):
        await ask("minting", "revoke-tenant", tenant, why="x" * 501)
    codes = [code for verb, code in await scene.refusals(tenant) if verb.startswith("revoke-")]
    assert codes == ["not_found", "not_found", "malformed", "limit_exceeded", "limit_exceeded"]
    assert not await scene.events(tenant, "ucan.revoked-all")
    assert not await scene.events(other, "ucan.revoked-all")
    assert (await bot.agent.invoke(held, LIST, REPO, READ)).status == 200
