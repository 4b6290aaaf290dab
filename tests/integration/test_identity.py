"""Who exists, over real servers: names once, keys apart, and a revocation that holds whatever the bus says."""

from __future__ import annotations

import asyncio
import base64
import os
import time
from typing import Any

import nats.errors
import pytest

from nomos.agent import Allowed
from nomos.client import Connection
from nomos.creds import ACCOUNT, USER, Nkey, parse_public_key
from nomos.errors import Conflict, Malformed, NomosError, NotFound, NotPermitted, Revoked, UnknownAgent
from nomos.keys import SigningKey, base58_encode
from nomos_runtime.local import SECRETS
from nomos_runtime.sealing import Sealer
from nomos_runtime.topology.issue import issue_user

LIST, REPO = "github:issues.list", "github:repo/acme/identity"


async def test_a_tenant_works_at_once_without_a_restart_or_reload(scene: Any) -> None:
    """Created, provisioned and used faster than any replica polls."""
    for _ in range(3):
        bot = await scene.agent(await scene.tenant())
        assert isinstance(await bot.agent.call(LIST, REPO), Allowed)


async def test_a_revoked_agent_is_disconnected_at_once_and_not_let_in_again(scene: Any) -> None:
    bot = await scene.agent(await scene.tenant())
    assert isinstance(await bot.agent.authorize(LIST, REPO), Allowed)
    client = bot.connection._client
    await scene.operator.ask("identity", "key-revoke", bot.tenant, key=bot.credentials.user.public, why="stolen")
    await scene.until(lambda: not client.is_connected, "the agent to be disconnected", 2)
    with pytest.raises(NotPermitted):
        await Connection.open(bot.credentials)
    (key,) = (await scene.operator.ask("identity", "key-list", bot.tenant))["keys"]
    assert (key["key"], key["revoked"]) == (bot.credentials.user.public, True)
    with pytest.raises(Conflict):
        await scene.operator.ask("identity", "key-revoke", bot.tenant, key=bot.credentials.user.public, why="again")


async def test_another_agent_of_the_tenant_stays_when_one_is_revoked(scene: Any) -> None:
    tenant = await scene.tenant()
    bot, other = await scene.agent(tenant), await scene.agent(tenant)
    await scene.operator.ask("identity", "key-revoke", tenant, key=bot.credentials.user.public, why="x")
    assert isinstance(await other.agent.authorize(LIST, REPO), Allowed)


async def test_policy_and_proxy_refuse_a_revoked_agent_even_where_the_bus_lets_it_in(scene: Any) -> None:
    """Whoever stole the tenant's role key can log in under the agent's name; the facts refuse it all the same."""
    bot = await scene.agent(await scene.tenant())
    allowed = await bot.agent.authorize(LIST, REPO)
    forged = await scene.connect(await login_as(scene, bot, bot.name))
    assert isinstance(await forged.agent.authorize(LIST, REPO), Allowed)
    await scene.operator.ask("identity", "key-revoke", bot.tenant, key=bot.credentials.user.public, why="stolen")

    async def code(work: Any) -> str:
        try:
            await work
        except NomosError as e:
            return str(e.code)
        return ""

    async def denied() -> bool:
        return await code(forged.agent.authorize(LIST, REPO)) == "revoked"

    await scene.until(denied, "policy to refuse", 5)

    async def sent() -> bool:
        return await code(forged.agent.invoke(allowed, LIST, REPO, {})) == "revoked"

    await scene.until(sent, "proxy to refuse", 5)


async def test_a_bus_user_that_identity_never_created_is_nobody(scene: Any) -> None:
    bot = await scene.agent(await scene.tenant())
    stranger = await scene.connect(await login_as(scene, bot, "stranger"))
    with pytest.raises(UnknownAgent):
        await stranger.agent.authorize(LIST, REPO)
    assert await scene.refusals(bot.tenant) == [("authorize", "unknown_agent")]


async def login_as(scene: Any, bot: Any, name: str) -> Any:
    """A bus login under ``name``, made with the tenant's own role key, and the agent's own UCAN key."""
    database = await scene.database("identity")
    async with database.transaction():
        await database.execute("SELECT set_config('nomos.tenant', $1, true)", bot.tenant)
        record = await database.fetchval("SELECT record FROM sealed WHERE name = 'role-key/agent'")
    text = (scene.installation.local.directory / "secrets" / SECRETS["identity"][0]).read_text()
    seed = Sealer.from_text(text).open(record, purpose="role-key-v1", tenant=bot.tenant, name="role-key/agent")
    user = Nkey.new(USER)
    jwt = issue_user(
        role="agent", name=name, user_public_key=user.public, account=await account_of(scene, bot.tenant),
        signer=Nkey(ACCOUNT, seed), issued_at=int(time.time()),
    )  # fmt: skip
    return type(bot)(scene.credentials("agent", name, bot.tenant, jwt, user, bot.credentials.agent_seed))


async def account_of(scene: Any, tenant: str) -> str:
    (created,) = await scene.events(tenant, "tenant.created")
    return str(created.event["account"])


async def test_a_revoked_key_never_comes_back(scene: Any) -> None:
    """Not under another name, another role, or a moment before the revocation reaches the servers again."""
    bot = await scene.agent(await scene.tenant())
    key, did = bot.credentials.user.public, SigningKey(os.urandom(32)).did
    ask = scene.operator.ask
    with pytest.raises(Conflict):
        await ask("identity", "agent-create", bot.tenant, app="triage", name="second", key=key, did=did)
    await ask("identity", "key-revoke", bot.tenant, key=key, why="stolen")
    with pytest.raises(Conflict):
        await ask("identity", "agent-create", bot.tenant, app="triage", name="third", key=key, did=did)
    with pytest.raises(Conflict):
        await ask("identity", "auditor-create", bot.tenant, name="fourth", key=key)
    # Another change tells the servers about the account again.
    other = await scene.agent(bot.tenant)
    await ask("identity", "key-revoke", bot.tenant, key=other.credentials.user.public, why="x")
    with pytest.raises(nats.errors.Error, match=r"(?i)authorization"):
        await scene.raw_person(bot)


async def test_names_are_given_once(scene: Any) -> None:
    bot = await scene.agent(await scene.tenant())
    ask = scene.operator.ask

    def agent(name: str) -> dict[str, Any]:
        return {
            "app": "triage", "name": name, "key": Nkey.new(USER).public, "did": SigningKey(os.urandom(32)).did,
        }  # fmt: skip

    with pytest.raises(Conflict):
        await ask("identity", "tenant-create", name=bot.tenant)
    with pytest.raises(Conflict):
        await ask("identity", "app-create", bot.tenant, name="triage")
    await ask("identity", "key-revoke", bot.tenant, key=bot.credentials.user.public, why="x")
    with pytest.raises(Conflict):
        await ask("identity", "agent-create", bot.tenant, **agent(bot.name))
    with pytest.raises(NotFound):
        await ask("identity", "agent-create", bot.tenant, **(agent("other") | {"app": "none"}))
    with pytest.raises(NotFound):
        await ask("identity", "key-revoke", bot.tenant, key=Nkey.new(USER).public, why="x")


async def test_of_many_who_create_one_tenant_at_once_one_does(scene: Any) -> None:
    name = scene.name("race")
    done = await asyncio.gather(
        *(scene.operator.ask("identity", "tenant-create", name=name) for _ in range(6)), return_exceptions=True
    )
    assert sum(isinstance(d, dict) for d in done) == 1
    assert sum(isinstance(d, Conflict) for d in done) == 5
    account = next(d["account"] for d in done if isinstance(d, dict))
    (created,) = await scene.events(name, "tenant.created")
    assert created.event["account"] == account


#: Points of small order: anybody can sign for them.
SMALL_ORDER = [
    bytes(32),
    b"\x01" + bytes(31),
    b"\xec" + b"\xff" * 30 + b"\x7f",
    bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
    bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
]


@pytest.mark.parametrize("point", SMALL_ORDER)
async def test_a_key_of_small_order_is_refused(scene: Any, point: bytes) -> None:
    tenant = await scene.tenant(policy="", connection=False)
    did = "did:key:z" + base58_encode(b"\xed\x01" + point)
    good = {"app": "triage", "name": "weak", "key": Nkey.new(USER).public, "did": SigningKey(os.urandom(32)).did}
    for changed in ({"did": did}, {"key": nkey_of(point)}):
        with pytest.raises(NomosError) as refused:
            await scene.operator.ask("identity", "agent-create", tenant, **(good | changed))
        assert refused.value.code in ("malformed", "bad_signature")
    with pytest.raises(Malformed):
        await scene.operator.ask("identity", "auditor-create", tenant, name="weak", key=nkey_of(point))
    assert (await scene.operator.ask("identity", "key-list", tenant))["keys"] == []


def nkey_of(point: bytes) -> str:
    import binascii

    body = bytes([USER]) + point
    text = base64.b32encode(body + binascii.crc_hqx(body, 0).to_bytes(2, "little")).decode().rstrip("=")
    assert parse_public_key(text, USER) == point
    return text


async def test_one_key_for_the_bus_and_for_tokens_is_refused(scene: Any) -> None:
    tenant = await scene.tenant(policy="", connection=False)
    user = Nkey.new(USER)
    with pytest.raises(Malformed):
        await scene.operator.ask(
            "identity", "agent-create", tenant, app="triage", name="one-key", key=user.public,
            did=SigningKey(user.raw_seed).did,
        )  # fmt: skip


async def test_the_directory_of_every_service_refuses_the_revoked_key(scene: Any) -> None:
    bot = await scene.agent(await scene.tenant())
    await scene.operator.ask("identity", "key-revoke", bot.tenant, key=bot.credentials.user.public, why="x")
    for name in ("policy", "minting", "proxy", "stepup", "identity"):
        directory = scene.installation.services[name]._parts.directory

        def refused(directory: Any = directory) -> bool:
            try:
                directory.agent(bot.tenant, bot.name)
            except Revoked:
                return True
            return False

        await scene.until(refused, f"{name} to know", 5)
