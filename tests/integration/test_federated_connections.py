"""Connections that a cloud gives credentials: its token endpoint checks our tokens with the npm package jose."""

from __future__ import annotations

import asyncio
import http.client
import json
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
from msgspec import structs
from tests.integration.provider import HOME, ROOT, needs_provider

from nomos import events
from nomos.agent import Allowed
from nomos.errors import Malformed, NomosError, NotPermitted, Unavailable
from nomos_proxy.destination import parse_development_origin
from nomos_proxy.domain import ConnectionFacts
from nomos_proxy.federation import tokens
from nomos_proxy.federation.cloud import parse_federation

pytestmark = needs_provider
SCRIPT = ROOT / "tests" / "oauth" / "cloud.mjs"
POLICY = """
@id("aws") permit (principal, action in [Action::"connector:aws-sts"], resource);
@id("http") permit (principal, action in [Action::"connector:http"], resource);
"""
UUID = "0a1b2c3d-0000-4000-8000-00000000beef"
AWS = {"kind": "aws", "role": "arn:aws:iam::123456789012:role/agents", "region": "eu-central-1"}
GCP = {
    "kind": "gcp",
    "audience": "//iam.googleapis.com/projects/1234/locations/global/workloadIdentityPools/agents/providers/nomos",
}
ACCOUNT = "agents@acme-prod.iam.gserviceaccount.com"
STORAGE = "https://www.googleapis.com/auth/devstorage.read_only"
ACTING = GCP | {"service_account": ACCOUNT, "scope": STORAGE}
AZURE = {"kind": "azure", "directory": UUID, "client": UUID, "scope": "https://graph.microsoft.com/.default"}
STS = ("aws-sts", "sts.eu-central-1.amazonaws.com")
HTTP = ("http", "storage.example.com")
CALL = ("http:requests.get", "http:site/storage.example.com", {"path": "repos/acme/site/issues"})


class Cloud:
    """The token endpoints."""

    def __init__(self, process: subprocess.Popen[str], origin: str) -> None:
        self.process, self.origin = process, origin

    async def seen(self) -> list[dict[str, Any]]:
        def run() -> list[dict[str, Any]]:
            connection = http.client.HTTPConnection("127.0.0.1", urlsplit(self.origin).port or 0, timeout=10)
            try:
                connection.request("GET", "/_seen")
                found: list[dict[str, Any]] = json.loads(connection.getresponse().read())
                return found
            finally:
                connection.close()

        return await asyncio.to_thread(run)


@asynccontextmanager
async def cloud(
    scene: Any, subject: str, lives: float = 3_600, account: str | int | list[str] | None = None, delay: int = 0
) -> AsyncIterator[Cloud]:
    node, script = shutil.which("node"), HOME / "cloud.mjs"
    assert node is not None
    script.write_bytes(SCRIPT.read_bytes())
    given = {
        "issuer": scene.installation.local.connect_pages_origin,
        "subject": subject,
        "lives": lives,
        "delay": delay,
    }
    given |= {} if account is None else {"account": account}
    process = subprocess.Popen(
        [node, str(script), json.dumps(given)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    try:
        line = await asyncio.to_thread(process.stdout.readline)
        yield Cloud(process, json.loads(line)["origin"])
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait, 10)
        process.stdout.close()


async def federate(scene: Any, tenant: str, at: Cloud, connector: tuple[str, str], federation: dict[str, str]) -> Any:
    return await scene.operator.ask(
        "proxy", "connection-federate", tenant, connector=connector[0], name=connector[0], host=connector[1],
        federation=federation, base_url=scene.upstream.origin, exchange_url=at.origin,
    )  # fmt: skip


@contextmanager
def shown_bearers(scene: Any, takes: Callable[[str], bool] = lambda bearer: True) -> Iterator[list[str]]:
    """The bearers that the upstream is shown; it answers 401 to those that it does not take."""
    shown: list[str] = []
    before = scene.upstream.accepts
    scene.upstream.accepts = lambda bearer: bool(shown.append(bearer)) or takes(bearer)
    try:
        yield shown
    finally:
        scene.upstream.accepts = before


def federated_of(scene: Any) -> Any:
    """What the running proxy keeps of clouds' credentials."""
    return scene.installation.services["proxy"]._parts.verbs["connection-federate"][1].__self__._federated


async def steps(scene: Any, tenant: str) -> list[tuple[str, str, str]]:
    found = [e for e in await scene.events(tenant) if e.type.startswith("credential.")]
    return [(e.type, str(e.event.get("step", "")), str(e.event.get("outcome", ""))) for e in found]


async def test_a_role_of_aws_is_assumed_by_what_the_connection_is_and_the_request_signed(scene: Any) -> None:
    tenant = await scene.tenant(policy=POLICY, connection=False)
    bot = await scene.agent(tenant)
    async with cloud(scene, f"tenant:{tenant}:connection:aws-sts") as at:
        made = await federate(scene, tenant, at, STS, AWS)
        assert made["subject"] == f"tenant:{tenant}:connection:aws-sts"
        assert made["issuer"] == scene.installation.local.connect_pages_origin
        scene.upstream.seen.clear()
        for _ in range(3):
            await bot.agent.call("aws-sts:identity.get", "aws-sts:account/self", {})
        (asked,) = await at.seen()
        assert asked["wrong"] == ""
        assert asked["form"]["RoleArn"] == AWS["role"]
        assert asked["claims"]["aud"] == "sts.amazonaws.com"
    assert len(scene.upstream.seen) == 3
    for seen in scene.upstream.seen:
        assert len(seen.headers["x-amz-security-token"]) > 20
        assert seen.headers["x-amz-date"]
        assert seen.body == b"Action=GetCallerIdentity&Version=2011-06-15"
    # nothing of it is stored, and nothing crossed the bus
    database = await scene.admin_database()
    assert await database.fetchval("SELECT count(*) FROM proxy.sealed WHERE tenant = $1", tenant) == 0
    on_the_bus = scene.installation.wire.read_bytes()
    assert scene.upstream.seen[0].headers["x-amz-security-token"].encode() not in on_the_bus
    kinds = [e.type for e in await scene.events(tenant) if e.type.startswith("credential.")]
    assert kinds == [events.CREDENTIAL_RENEWING, events.CREDENTIAL_RENEWED]


@pytest.mark.parametrize("federation", [GCP, AZURE], ids=["gcp", "azure"])
async def test_a_bearer_of_another_cloud_is_exchanged_and_sent(scene: Any, federation: dict[str, str]) -> None:
    tenant = await scene.tenant(policy=POLICY, connection=False)
    bot, shown = await scene.agent(tenant), []
    before = scene.upstream.accepts
    scene.upstream.accepts = lambda bearer: bool(shown.append(bearer)) or len(bearer) > 20
    try:
        async with cloud(scene, f"tenant:{tenant}:connection:http") as at:
            await federate(scene, tenant, at, HTTP, federation)
            calls = [
                bot.agent.call("http:requests.get", "http:site/storage.example.com", {"path": "repos/acme/site/issues"})
                for _ in range(8)
            ]
            answers = await asyncio.gather(*calls)
            assert [isinstance(one, Allowed) and one.status for one in answers] == [200] * 8
            (asked,) = await at.seen()
            assert asked["wrong"] == ""
    finally:
        scene.upstream.accepts = before
    assert len(set(shown)) == 1
    (listed,) = (await scene.operator.ask("proxy", "connection-list", tenant))["connections"]
    assert (listed["method"], listed["federation"]) == ("federated", federation)


async def test_a_service_account_of_google_is_acted_as_by_a_second_question(scene: Any) -> None:
    tenant = await scene.tenant(policy=POLICY, connection=False)
    bot = await scene.agent(tenant)
    async with cloud(scene, f"tenant:{tenant}:connection:http", account=ACCOUNT) as at:
        made = await federate(scene, tenant, at, HTTP, ACTING)
        assert made["service_account"] == ACCOUNT
        pool = "principal://iam.googleapis.com/projects/1234/locations/global/workloadIdentityPools/agents"
        assert made["principal"] == f"{pool}/subject/tenant:{tenant}:connection:http"
        with shown_bearers(scene) as shown:
            answers = await asyncio.gather(*[bot.agent.call(*CALL) for _ in range(8)])
        assert [isinstance(one, Allowed) and one.status for one in answers] == [200] * 8
        exchanged, acted = await at.seen()
    assert (exchanged["wrong"], acted["wrong"]) == ("", "")
    assert exchanged["form"]["scope"] == "https://www.googleapis.com/auth/iam", "good for the second question alone"
    assert acted["path"] == f"/v1/projects/-/serviceAccounts/{ACCOUNT}:generateAccessToken"
    assert (acted["body"], acted["type"]) == ({"scope": [STORAGE], "lifetime": "3600s"}, "application/json")
    # the upstream sees the service account's token and never the one between; neither crosses the bus or is stored
    assert len(set(shown)) == 1
    assert acted["bearer"] not in shown
    on_the_bus = scene.installation.wire.read_bytes()
    database = await scene.admin_database()
    assert await database.fetchval("SELECT count(*) FROM proxy.sealed WHERE tenant = $1", tenant) == 0
    written = repr([e.event for e in await scene.events(tenant)])
    for token in (acted["bearer"], shown[0]):
        assert token.encode() not in on_the_bus
        assert token not in written
    assert await steps(scene, tenant) == [
        (events.CREDENTIAL_RENEWING, "exchange", ""), (events.CREDENTIAL_RENEWED, "exchange", "renewed"),
        (events.CREDENTIAL_RENEWING, "impersonation", ""), (events.CREDENTIAL_RENEWED, "impersonation", "renewed"),
    ]  # fmt: skip
    (listed,) = (await scene.operator.ask("proxy", "connection-list", tenant))["connections"]
    assert listed["federation"] == ACTING


@pytest.mark.parametrize(
    ("account", "says", "outcome", "code"),
    [
        ("others@acme-prod.iam.gserviceaccount.com", "act as its service account", "refused", "grant_refused"),
        (503, "503", "failed", "upstream_failed"),
    ],
)
async def test_a_service_account_that_google_does_not_give_gives_no_other_credential(
    scene: Any, account: str | int, says: str, outcome: str, code: str
) -> None:
    tenant = await scene.tenant(policy=POLICY, connection=False)
    bot = await scene.agent(tenant)
    async with cloud(scene, f"tenant:{tenant}:connection:http", account=account) as at:
        await federate(scene, tenant, at, HTTP, ACTING)
        with shown_bearers(scene) as shown:
            with pytest.raises(NomosError, match=says):
                await bot.agent.call(*CALL)
            # and the cloud is not asked again at once
            with pytest.raises(NomosError, match="a moment ago"):
                await bot.agent.call(*CALL)
        assert len(await at.seen()) == 2
    assert shown == [], "what the first question gave is shown to nobody else"
    assert await scene.refusals(tenant) == [("invoke", code), ("invoke", "unavailable")]
    assert (await steps(scene, tenant))[1::2] == [
        (events.CREDENTIAL_RENEWED, "exchange", "renewed"), (events.CREDENTIAL_RENEWED, "impersonation", outcome),
    ]  # fmt: skip


async def test_a_service_accounts_token_is_had_anew_before_its_end(scene: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tenant = await scene.tenant(policy=POLICY, connection=False)
    bot = await scene.agent(tenant)
    async with cloud(scene, f"tenant:{tenant}:connection:http", account=ACCOUNT, lives=30) as at:
        await federate(scene, tenant, at, HTTP, ACTING)
        with shown_bearers(scene) as shown:
            await bot.agent.call(*CALL)
            # a fifth of its life is left
            monkeypatch.setattr(federated_of(scene), "_clock", lambda: time.time() + 25)
            await bot.agent.call(*CALL)
        assert len(await at.seen()) == 4
    assert len(set(shown)) == 2


async def test_another_service_account_is_another_credential(scene: Any) -> None:
    tenant = await scene.tenant(policy=POLICY, connection=False)
    other = "others@acme-prod.iam.gserviceaccount.com"
    async with cloud(scene, f"tenant:{tenant}:connection:http", account=[ACCOUNT, other]) as at:
        await federate(scene, tenant, at, HTTP, ACTING)
        facts = ConnectionFacts(
            tenant=tenant,
            name="http",
            connector="http",
            federation=parse_federation(ACTING),
            exchange=parse_development_origin(at.origin),
        )
        changed = structs.replace(facts, federation=parse_federation(ACTING | {"service_account": other}))
        asked = [facts, facts, changed, changed]
        given = [(await federated_of(scene).credential(one, within_seconds=10)).bearer for one in asked]
        paths = [one["path"] for one in await at.seen() if "bearer" in one]
    assert given[0] == given[1] != given[2] == given[3]
    assert [path.rpartition("/")[2] for path in paths] == [
        f"{ACCOUNT}:generateAccessToken", f"{other}:generateAccessToken",
    ]  # fmt: skip


async def test_a_proxy_that_stops_waits_for_what_it_has_asked_of_a_cloud(scene: Any) -> None:
    tenant = await scene.tenant(policy=POLICY, connection=False)
    running = federated_of(scene)
    mine = tokens.Federated(issuer=running._issuer, upstreams=running._upstreams, journal=running._journal)
    async with cloud(scene, f"tenant:{tenant}:connection:http", account=ACCOUNT, delay=300) as at:
        await federate(scene, tenant, at, HTTP, ACTING)
        facts = ConnectionFacts(
            tenant=tenant,
            name="http",
            connector="http",
            federation=parse_federation(ACTING),
            exchange=parse_development_origin(at.origin),
        )
        waiting = asyncio.create_task(mine.credential(facts, within_seconds=10))
        async with asyncio.timeout(10):
            while not await at.seen():
                await asyncio.sleep(0)
        assert not waiting.done()
        await mine.close()
        assert (await waiting).bearer.reveal()
    assert [outcome for _, _, outcome in await steps(scene, tenant)] == ["", "renewed", "", "renewed"]
    with pytest.raises(Unavailable, match="stopping"):
        await mine.credential(structs.replace(facts, name="other"), within_seconds=10)


async def test_nothing_of_a_connection_is_kept_that_is_removed_while_a_cloud_is_asked(scene: Any) -> None:
    tenant = await scene.tenant(policy=POLICY, connection=False)
    running = federated_of(scene)
    mine = tokens.Federated(issuer=running._issuer, upstreams=running._upstreams, journal=running._journal)
    async with cloud(scene, f"tenant:{tenant}:connection:http", delay=300) as at:
        await federate(scene, tenant, at, HTTP, GCP)
        origin = parse_development_origin(at.origin)
        facts = ConnectionFacts(
            tenant=tenant, name="http", connector="http", federation=parse_federation(GCP), exchange=origin
        )
        waiting = asyncio.create_task(mine.credential(facts, within_seconds=10))
        async with asyncio.timeout(10):
            while not await at.seen():
                await asyncio.sleep(0)
        mine.drop(tenant, "http")
        assert (await waiting).bearer.reveal()
        assert mine._held.find(tenant, "http") is None


async def test_a_token_that_the_upstream_does_not_take_stays_while_its_cloud_gives_no_other(
    scene: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokens, "YOUNG_SECONDS", 0)
    tenant = await scene.tenant(policy=POLICY, connection=False)
    bot = await scene.agent(tenant)
    async with cloud(scene, f"tenant:{tenant}:connection:http") as at:
        await federate(scene, tenant, at, HTTP, GCP)
        with shown_bearers(scene, lambda bearer: len(shown) != 2) as shown:
            assert (await bot.agent.call(*CALL)).status == 200
            at.process.terminate()
            await asyncio.to_thread(at.process.wait, 10)
            # what the upstream says of one request stays the answer to that request
            assert [(await bot.agent.call(*CALL)).status for _ in range(2)] == [401, 200]
    assert len(set(shown)) == 1


async def test_a_token_that_the_upstream_takes_no_more_is_had_anew_once(
    scene: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    tenant = await scene.tenant(policy=POLICY, connection=False)
    bot = await scene.agent(tenant)
    async with cloud(scene, f"tenant:{tenant}:connection:http") as at:
        await federate(scene, tenant, at, HTTP, GCP)
        with shown_bearers(scene, lambda bearer: bearer != shown[0]) as shown:
            # one that was given just now is not asked for again
            assert (await bot.agent.call(*CALL)).status == 401
            assert len(await at.seen()) == 1
            monkeypatch.setattr(tokens, "YOUNG_SECONDS", 0)
            assert (await bot.agent.call(*CALL)).status == 200
            assert (await bot.agent.call(*CALL)).status == 200
        assert len(await at.seen()) == 2
    assert len(set(shown)) == 2


async def test_a_connection_of_another_tenant_is_not_believed(scene: Any) -> None:
    """The cloud's policy binds a role to one subject; a namesake of another tenant is another subject."""
    name = await scene.tenant(policy=POLICY, connection=False)
    bot = await scene.agent(name)
    async with cloud(scene, "tenant:somebody-else:connection:http") as at:
        await federate(scene, name, at, HTTP, GCP)
        call = ("http:requests.get", "http:site/storage.example.com", {"path": "x"})
        with pytest.raises(NomosError) as e:
            await bot.agent.call(*call)
        assert "does not trust this connection" in e.value.detail
        (asked,) = await at.seen()
        assert 'unexpected "sub" claim value' in asked["wrong"]
        # and the cloud is not asked again at once
        with pytest.raises(NomosError):
            await bot.agent.call(*call)
        assert len(await at.seen()) == 1
    ended = [e.event for e in await scene.events(name, events.CREDENTIAL_RENEWED)]
    assert [(e["outcome"], e["code"]) for e in ended] == [("refused", "grant_refused")]


async def test_a_credential_is_exchanged_anew_before_its_end(scene: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tenant = await scene.tenant(policy=POLICY, connection=False)
    bot = await scene.agent(tenant)
    async with cloud(scene, f"tenant:{tenant}:connection:aws-sts", lives=30) as at:
        await federate(scene, tenant, at, STS, AWS)
        await bot.agent.call("aws-sts:identity.get", "aws-sts:account/self", {})
        # a fifth of its life is left
        monkeypatch.setattr(federated_of(scene), "_clock", lambda: time.time() + 25)
        await bot.agent.call("aws-sts:identity.get", "aws-sts:account/self", {})
        assert len(await at.seen()) == 2


async def test_a_bearer_is_stored_for_a_tenant_whose_first_connection_was_of_a_cloud(scene: Any) -> None:
    """Nothing was sealed for the first one, so the tenant's data key is made only now."""
    tenant = await scene.tenant(connection=False)
    async with cloud(scene, "") as at:
        await federate(scene, tenant, at, STS, AWS)
    await scene.add_connection(tenant)
    bot = await scene.agent(tenant)
    assert (await bot.agent.call("github:issues.list", "github:repo/acme/site")).status == 200


async def test_what_an_operator_is_refused(scene: Any) -> None:
    tenant = await scene.tenant(policy=POLICY, connection=False)

    async def ask(**changes: Any) -> Any:
        given = {"connector": "http", "name": "x", "host": "api.example.com", "federation": GCP} | changes
        return await scene.operator.ask("proxy", "connection-federate", tenant, **given)

    for changes, says in [
        ({"federation": AWS}, "a connector of AWS"),
        ({"connector": "aws-sts", "host": STS[1]}, "a connector of AWS"),
        ({"federation": {"kind": "ibm"}}, "one of aws"),
        ({"host": ""}, "a host of its own"),
        ({"federation": GCP | {"service_account": "agents@evil.example"}}, "service_account"),
        ({"federation": GCP | {"scope": STORAGE}}, "none is named"),
        ({"federation": AWS | {"service_account": ACCOUNT}}, "nothing else"),
    ]:
        with pytest.raises(Malformed, match=says):
            await ask(**changes)
    with pytest.raises(NomosError, match="no connector of this name"):
        await ask(connector="nope")
    await ask()
    with pytest.raises(NomosError, match="exists"):
        await ask()


async def test_another_origin_is_for_development_only(scene: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tenant = await scene.tenant(policy=POLICY, connection=False)
    admin = scene.installation.services["proxy"]._parts.verbs["connection-federate"][1].__self__
    monkeypatch.setattr(admin, "_settings", type("Production", (), {"environment": "production"}))
    with pytest.raises(NotPermitted):
        await scene.operator.ask(
            "proxy", "connection-federate", tenant, connector="http", name="x", host="api.example.com", federation=GCP,
            exchange_url="http://127.0.0.1:9",
        )  # fmt: skip
