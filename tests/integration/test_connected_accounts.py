"""Connecting an account, against the npm package oidc-provider: the way there and back, and what is refused on it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from msgspec import structs
from tests.integration.accounts import World
from tests.integration.provider import CATALOGUE, Browser, needs_provider, query_of

from nomos import events
from nomos.bearer import seal_bearer
from nomos.catalogue.oauth import Endpoint
from nomos.errors import Conflict, Malformed, NomosError, NotFound, NotPermitted
from nomos_proxy.oauth.assertion import public_key
from nomos_proxy.oauth.clients import Clients
from nomos_runtime.secret import Secret

pytestmark = needs_provider
CALENDAR = "google-calendar"


@pytest.fixture
async def world(scene: Any) -> AsyncIterator[World]:
    made = World(scene)
    await made.open()
    yield made
    await made.close()


@pytest.fixture
async def calendar(scene: Any) -> AsyncIterator[World]:
    """A provider that says whose account it is."""
    made = World(scene, CALENDAR)
    await made.open()
    yield made
    await made.close()


def bytes_on_the_bus(scene: Any) -> bytes:
    content: bytes = scene.installation.wire.read_bytes()
    return content


async def test_an_account_is_connected_and_used_and_its_tokens_stay_in_the_broker(world: World) -> None:
    await world.connect()
    assert (await world.ask("connection-list"))["connections"] == [
        {"name": "github", "connector": "github", "method": "account", "state": "ready"}
    ]
    bot = await world.scene.agent(world.tenant)
    assert (await world.call(bot)).status == 200
    (bearer,) = world.shown
    on_the_bus = bytes_on_the_bus(world.scene)
    assert world.tenant.encode() in on_the_bus
    assert bearer.encode() not in on_the_bus
    assert world.provider.client_secret.encode() not in on_the_bus
    recorded = [e.type for e in await world.scene.events(world.tenant) if e.type.startswith(("oauth.", "connection."))]
    assert recorded == [
        events.OAUTH_CLIENT_SET, events.CONNECT_OFFERED, events.CONNECT_BEGUN, events.CONNECT_RETURNED,
        events.CONNECTION_ADDED, events.CONNECT_ENDED,
    ]  # fmt: skip
    (added,) = await world.events(events.CONNECTION_ADDED)
    assert (added["method"], added["scopes"]) == ("oauth", ["read:org", "repo"])
    assert [e["outcome"] for e in await world.events(events.CONNECT_ENDED)] == ["connected"]
    # nothing of the way there is left at rest
    database = await world.scene.admin_database()
    names = await database.fetch("SELECT name FROM proxy.sealed WHERE tenant = $1", world.tenant)
    assert not [n["name"] for n in names if n["name"].startswith("connect/")]


async def test_the_request_at_the_provider_is_pkce_with_state_and_the_exact_redirect_address(calendar: World) -> None:
    target = await calendar.browser.begin(await calendar.link("calendar"))
    asked = query_of(target)
    assert asked["code_challenge_method"] == "S256"
    assert len(asked["code_challenge"]) == 43
    assert len(asked["state"]) == 43
    assert asked["redirect_uri"] == calendar.scene.installation.local.connect_pages_origin + "/connected"
    assert asked["scope"] == "openid https://www.googleapis.com/auth/calendar"
    assert (asked["access_type"], asked["prompt"]) == ("offline", "consent")
    assert asked["nonce"]
    # each time anew
    again = query_of(await calendar.browser.begin(await calendar.link("calendar")))
    assert all(asked[name] != again[name] for name in ("state", "code_challenge", "nonce"))


async def test_a_link_is_used_once(world: World) -> None:
    link = await world.link()
    assert await world.browser.connect(link) == 200
    assert await Browser().get(link) == 403
    refused = await world.events(events.REQUEST_REFUSED)
    assert [(r["code"], r["verb"]) for r in refused] == [("replayed", "GET /connect/{link}")]


@pytest.mark.parametrize("change", [lambda s: s[:-1] + ("A" if s[-1] != "A" else "B"), lambda s: s + "x", lambda s: ""])
async def test_a_link_that_is_not_ours_opens_nothing(world: World, change: Callable[[str], str]) -> None:
    link = await world.link()
    head, _, secret = link.rpartition(".")
    assert await world.browser.get(f"{head}.{change(secret)}") == 404
    assert await world.browser.get(link) == 200, "the right one still does"


async def test_an_answer_counts_only_in_the_browser_that_went_there(world: World) -> None:
    back = await world.browser.at_provider(await world.browser.begin(await world.link()))
    # a stranger who got hold of the address
    assert await Browser().get(back) == 403
    # somebody who has begun something of their own
    other = Browser()
    await other.begin(await world.link("other"))
    assert await other.get(back) == 403
    # and one who has the name of the attempt, but not this browser's secret
    thief = Browser()
    await thief.begin(await world.link("third"))
    host = urlsplit(back).netloc
    thief.cookies[host]["__Host-nomos-connecting"] = world.browser.cookies[host]["__Host-nomos-connecting"]
    assert await thief.get(back) == 403
    refused = await world.events(events.REQUEST_REFUSED)
    assert [r["code"] for r in refused] == ["wrong_browser"] * 2
    assert await world.browser.get(back) == 303, world.browser.text


@dataclass
class Changed:
    """An answer with one member changed: status, code of the refusal, and whether the attempt is over after it."""

    query: Callable[[Mapping[str, str]], list[tuple[str, str]]]
    status: int
    code: str
    is_over: bool


def put(**members: str | None) -> Callable[[Mapping[str, str]], list[tuple[str, str]]]:
    return lambda query: [(k, v) for k, v in ({**query} | members).items() if v is not None]


ANSWERS = {
    "another state": Changed(put(state="A" * 43), 403, "wrong_browser", False),
    "no state": Changed(put(state=None), 403, "wrong_browser", False),
    "another issuer": Changed(put(iss="https://evil.example"), 403, "oauth_answer_refused", True),
    "no code": Changed(put(code=None), 403, "not_connected", True),
    "an error": Changed(put(code=None, error="access_denied"), 403, "not_connected", True),
    "an error and a code": Changed(put(error="access_denied"), 403, "not_connected", True),
    "another code": Changed(put(code="x" * 43), 403, "grant_refused", True),
    "two codes": Changed(lambda q: [*q.items(), ("code", "x" * 43)], 400, "malformed", False),
    "too long a code": Changed(put(code="x" * 5_000), 400, "malformed", True),
    "too long a query": Changed(put(code="x" * 9_000), 400, "malformed", False),
}


@pytest.mark.parametrize("case", ANSWERS)
async def test_an_answer_that_is_not_the_provider_s_to_this_request_connects_nothing(
    calendar: World, case: str
) -> None:
    changed = ANSWERS[case]
    back = await calendar.browser.at_provider(await calendar.browser.begin(await calendar.link("calendar")))
    address = f"{back.partition('?')[0]}?{urlencode(changed.query(query_of(back)))}"
    assert await calendar.browser.get(address) == changed.status, calendar.browser.text
    assert changed.code in calendar.browser.text
    assert (await calendar.ask("connection-list"))["connections"] == []
    assert [r["code"] for r in await calendar.events(events.REQUEST_REFUSED)] == [changed.code]
    ended = await calendar.events(events.CONNECT_ENDED)
    assert [e["code"] for e in ended] == [changed.code] * changed.is_over
    # an attempt that is over takes no second answer; the other one does
    assert await calendar.browser.get(back) == (403 if changed.is_over else 303)


async def test_a_person_may_say_no(world: World) -> None:
    await world.provider.control(fault="deny")
    assert await world.browser.connect(await world.link()) == 403
    assert "access_denied" in world.browser.text
    (ended,) = await world.events(events.CONNECT_ENDED)
    assert (ended["outcome"], ended["code"]) == ("denied", "not_connected")
    await world.provider.control(fault="none")
    await world.connect()


async def test_more_than_was_asked_for_is_not_taken(calendar: World) -> None:
    await calendar.provider.control(scope="openid extra:scope")
    assert await calendar.browser.connect(await calendar.link("calendar")) == 403
    assert "extra:scope" in calendar.browser.text
    assert (await calendar.ask("connection-list"))["connections"] == []
    (ended,) = await calendar.events(events.CONNECT_ENDED)
    assert (ended["outcome"], ended["code"]) == ("failed", "oauth_answer_refused")
    assert len(await calendar.provider.seen("revocation")) == 1, "what is not taken is given back"


async def test_a_connection_is_connected_again_by_the_same_account_only(calendar: World) -> None:
    await calendar.connect("calendar")
    calendar.browser = Browser()
    await calendar.provider.control(account="mallory")
    assert await calendar.browser.connect(await calendar.link("calendar", base_url="")) == 403
    assert "another account" in calendar.browser.text
    assert len(await calendar.provider.seen("revocation")) == 1, "what is not taken is given back"
    assert (await calendar.state("calendar"))["generation"] == 1
    calendar.browser = Browser()
    await calendar.provider.control(account="alice")
    await calendar.connect("calendar", base_url="")
    assert (await calendar.state("calendar"))["generation"] == 2
    assert len(await calendar.events(events.CONNECTION_REPLACED)) == 1


async def test_an_id_token_of_another_request_is_not_taken(calendar: World) -> None:
    """The nonce that is kept is not the one that was sent, as if somebody had exchanged the two answers."""
    target = await calendar.browser.begin(await calendar.link("calendar"))
    asked = query_of(target)
    other = target.replace(asked["nonce"], "B" * 43)
    assert await calendar.browser.get(await calendar.browser.at_provider(other)) == 403
    assert "another request" in calendar.browser.text


async def test_a_public_client_and_pushed_requests(scene: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A provider that wants requests pushed (RFC 9126), says ``iss`` always, and knows resources (RFC 8707)."""
    oauth = CATALOGUE.connectors["github"].oauth
    assert oauth is not None
    pushing = structs.replace(
        oauth,
        push=Endpoint(host="github.com", port=443, path="/par"),
        issuer="https://github.com",
        is_iss_sent=True,
    )
    monkeypatch.setattr(Clients, "provider", lambda self, name: (CATALOGUE.connectors[name], pushing))
    world = World(scene)
    await world.open(public=True, par=True)
    try:
        target = await world.browser.begin(await world.link())
        assert set(query_of(target)) == {"client_id", "response_type", "request_uri"}
        back = await world.browser.at_provider(target)
        without = urlencode([(k, v) for k, v in query_of(back).items() if k != "iss"])
        assert await world.browser.get(f"{back.partition('?')[0]}?{without}") == 403
        assert "does not say which provider" in world.browser.text
        world.browser = Browser()
        await world.connect()
        bot = await scene.agent(world.tenant)
        assert (await world.call(bot)).status == 200
    finally:
        await world.close()


async def with_key(scene: Any, monkeypatch: pytest.MonkeyPatch, key: Any, registered: Any) -> World:
    """A client that proves itself by ``key``, at a provider that knows the public half of ``registered``."""
    oauth = CATALOGUE.connectors[CALENDAR].oauth
    assert oauth is not None
    taking = structs.replace(oauth, keys=("ES256", "PS256"))
    monkeypatch.setattr(Clients, "provider", lambda self, name: (CATALOGUE.connectors[name], taking))
    world = World(scene, CALENDAR)
    world.client_key = private_pem(key)
    await world.open(key=public_key(Secret(private_pem(registered).encode()), taking.keys))
    return world


def private_pem(key: Any) -> str:
    return str(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode())


@pytest.mark.parametrize("kind", ["rsa", "p-256"])
async def test_a_client_proves_itself_by_a_key_that_stays_here(
    scene: Any, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    key: Any = ec.generate_private_key(ec.SECP256R1())
    if kind == "rsa":
        key = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
    world = await with_key(scene, monkeypatch, key, key)
    try:
        await world.connect("calendar")
        assert (await world.ask("connection-renew", name="calendar"))["generation"] == 2
        (client,) = (await world.ask("client-list"))["clients"]
        assert (client["has_secret"], client["has_key"]) == (False, True)
        (recorded,) = await world.events(events.OAUTH_CLIENT_SET)
        assert (recorded["has_secret"], recorded["has_key"]) == (False, True)
        assert (await world.ask("connection-remove", name="calendar"))["outcome"] == "revoked"
        assert [s["status"] for s in await world.provider.seen()] == [200, 200, 200]
        line = world.client_key.splitlines()[2].encode()
        assert scene.files_with(line) == []
        # another secret in its place: the key is gone, and the secret is no key
        sealing = str((await world.ask("sealing-key"))["public_key"])
        await world.ask(
            "client-set", connector=CALENDAR, client_id=world.provider.client_id,
            sealed_secret=seal_bearer(sealing, "a-secret-of-ours"), base_url=world.provider.issuer,
        )  # fmt: skip
        (client,) = (await world.ask("client-list"))["clients"]
        assert (client["has_secret"], client["has_key"]) == (True, False)
    finally:
        await world.close()


async def test_another_key_than_the_registered_one_is_the_client_s_fault(
    scene: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, other = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    world = await with_key(scene, monkeypatch, ours, other)
    try:
        assert await world.browser.connect(await world.link("calendar")) == 503
        assert "does not take our client" in world.browser.text
        assert (await world.ask("connection-list"))["connections"] == []
    finally:
        await world.close()


async def test_a_key_that_the_provider_does_not_take_is_refused_when_it_is_set(world: World) -> None:
    sealing = str((await world.ask("sealing-key"))["public_key"])
    sealed = seal_bearer(sealing, private_pem(ec.generate_private_key(ec.SECP256R1())))
    setting = {"connector": "github", "client_id": "ours", "base_url": world.provider.issuer}
    await refused(world.ask("client-set", **setting, sealed_key=sealed), Malformed, "takes signatures of no client")
    secret = seal_bearer(sealing, "a-secret-of-ours")
    both = world.ask("client-set", **setting, sealed_key=sealed, sealed_secret=secret)
    await refused(both, Malformed, "not both")
    assert [code for verb, code in await world.scene.refusals(world.tenant)] == ["malformed", "malformed"]


async def test_a_provider_that_is_down_costs_the_attempt_and_nothing_else(world: World) -> None:
    await world.provider.control(fault="down")
    assert await world.browser.connect(await world.link()) == 503
    (ended,) = await world.events(events.CONNECT_ENDED)
    assert (ended["outcome"], ended["code"]) == ("failed", "upstream_failed")
    await world.provider.control(fault="none")
    await world.connect()


async def test_the_wrong_secret_is_said_to_be_the_client_s(world: World) -> None:
    key = str((await world.ask("sealing-key"))["public_key"])
    await world.ask(
        "client-set", connector="github", client_id=world.provider.client_id,
        sealed_secret=seal_bearer(key, "not-the-secret"), base_url=world.provider.issuer,
    )  # fmt: skip
    assert await world.browser.connect(await world.link()) == 503
    assert "does not take our client" in world.browser.text


async def refused(work: Any, kind: type[NomosError], detail: str) -> None:
    with pytest.raises(kind) as e:
        await work
    assert detail in e.value.detail


async def test_what_an_operator_is_refused(world: World) -> None:
    ask = world.ask
    await refused(ask("connection-connect", connector="aws-s3", name="x"), NotPermitted, "accounts are connected to")
    await refused(ask("connection-connect", connector="slack", name="x"), NotFound, "no client")
    await refused(ask("connection-connect", connector="github", name="x", scopes=["a b"]), NomosError, "a scope is")
    await world.scene.add_connection(world.tenant, "bearer")
    taken = ask("connection-connect", connector="github", name="bearer")
    await refused(taken, Conflict, "is no account of github")
    await world.connect()
    elsewhere = ask("connection-connect", connector="github", name="github", base_url=world.upstream.origin)
    await refused(elsewhere, Conflict, "stays at the origin")
    other = ask("client-set", connector="github", client_id="another", base_url=world.provider.issuer)
    await refused(other, Conflict, "through another client: github")
    await world.set_client(world.tenant)  # the same one, with a new secret, is no harm
    key = str((await ask("sealing-key"))["public_key"])
    replace = ask("connection-replace", name="github", sealed_bearer=seal_bearer(key, "x" * 20))
    await refused(replace, Conflict, "comes from the provider")
    await ask("connection-remove", name="github")
    for wrong in ("", "with space", "x" * 256):
        await refused(ask("client-set", connector="github", client_id=wrong), NomosError, "a client's id")
    short = ask("client-set", connector="github", client_id="ours", sealed_secret=seal_bearer(key, "short"))
    await refused(short, NomosError, "a client's secret")


async def test_a_link_s_time_is_over(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    link = await world.link()
    back = await world.browser.at_provider(await world.browser.begin(link))
    later = time.time() + 10_000
    monkeypatch.setattr("nomos_proxy.oauth.connecting.time.time", lambda: later)
    assert await world.browser.get(back) == 410
    assert await Browser().get(link) == 410
    monkeypatch.undo()
    assert await world.browser.get(back) == 303


async def test_two_answers_at_once_make_one_connection(world: World) -> None:
    back = await world.browser.at_provider(await world.browser.begin(await world.link()))
    other = Browser()
    other.cookies = {host: dict(kept) for host, kept in world.browser.cookies.items()}
    statuses = sorted(await asyncio.gather(world.browser.get(back), other.get(back)))
    assert statuses[0] == 303
    assert statuses[1] in (403, 409)
    assert len(await world.events(events.CONNECTION_ADDED)) == 1


async def test_a_closed_tenant_s_links_open_nothing(world: World) -> None:
    link = await world.link()
    await world.scene.operator.ask("identity", "tenant-close", "_", name=world.tenant, basis="ended")
    directory = world.scene.installation.services["proxy"]._parts.directory
    await world.scene.until(lambda: directory.is_closed(world.tenant), "proxy knows that the tenant is closed")
    assert await world.browser.get(link) == 403
