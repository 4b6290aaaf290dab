"""The approval pages over plain HTTP, as a browser that lies would speak: what they refuse, and that it is recorded."""

from __future__ import annotations

import asyncio
import re
from typing import Any
from urllib.parse import urlencode

import pytest
from tests.integration.visitor import SESSION, Visitor, b64

from nomos.agent import ApprovalEnded
from nomos_runtime import observe
from nomos_web import refusals

DELETE = "github:repos.delete"
APPROVE_VERB, REFUSE_VERB = "POST /approvals/{approval}/approve", "POST /approvals/{approval}/refuse"


class World:
    """A tenant with an agent, a pending approval, and a person who is signed in."""

    def __init__(self, scene: Any) -> None:
        self.scene = scene
        self.visitor = Visitor(scene)
        self.tenant = self.approval = ""

    async def open(self) -> None:
        self.tenant = await self.scene.tenant()
        self.bot = await self.scene.agent(self.tenant)
        self.approval = await self.ask()
        await self.visitor.enrol(self.scene, self.tenant, "alice")
        await self.visitor.sign_in()

    async def ask(self) -> str:
        self.asked = await self.bot.agent.authorize(DELETE, f"github:repo/acme/{self.scene.name('r')}")
        return str(self.asked.approval)

    async def is_pending(self) -> bool:
        shown = await self.scene.operator.ask("stepup", "approval-show", self.tenant, approval=self.approval)
        return bool(shown["state"] == "pending")

    async def refused(self) -> list[tuple[str, str]]:
        return [r for r in await self.scene.refusals(self.tenant) if "/" in r[0]]


@pytest.fixture
async def world(scene: Any) -> World:
    made = World(scene)
    await made.open()
    return made


async def test_every_answer_forbids_scripts_frames_and_copies(world: World) -> None:
    v = world.visitor
    script = re.compile(r'(?:src|href)="(/static/[^"]+)"')
    for path in ("/sign-in", "/approvals", f"/approvals/{world.approval}", "/enrol/x", "/nothing", "/approvals/ap_0"):
        await v.get(path)
        policy = v.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'"), path
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert v.headers["x-content-type-options"] == "nosniff"
        assert v.headers["x-frame-options"] == "DENY"
        assert v.headers["cache-control"] == "no-store", path
        assert "server" not in v.headers
        assert not re.search(r"<script(?![^>]* src=)|<style|\son\w+=|style=|javascript:", v.text), path
    files = set(script.findall(v.text))
    assert {f.rsplit(".", 1)[1] for f in files} == {"css", "js", "svg"}
    for path in files:
        assert await v.get(path) == 200
        assert "immutable" in v.headers["cache-control"]
    assert await v.get("/static/nomos.css") == 404
    assert await v.get("/static/..%2f..%2fserver.py") == 404


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": ""},
        {"Origin": "null"},
        {"Origin": "https://evil.example"},
        {"Origin": "http://localhost"},
        {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site"},
        {"Sec_Fetch_Site": "none"},
    ],
)
async def test_a_form_of_another_origin_is_refused_and_recorded(world: World, headers: dict[str, str]) -> None:
    form, path = await world.visitor.approve_form(world.approval), f"/approvals/{world.approval}/refuse"
    token = world.visitor.fields(path)
    assert await world.visitor.post(path, token | {"reason": ""}, **headers) == 403
    signed = form | {"response": world.visitor.signed()}
    assert await world.visitor.post(f"/approvals/{world.approval}/approve", signed, **headers) == 403
    assert await world.is_pending()
    recorded = await world.scene.refusals("_sys")
    assert {(REFUSE_VERB, "cross_origin"), (APPROVE_VERB, "cross_origin")} <= set(recorded)


async def test_a_form_without_its_own_token_is_refused_and_recorded(world: World) -> None:
    form = await world.visitor.approve_form(world.approval)
    path = f"/approvals/{world.approval}/refuse"
    right = world.visitor.fields(path)
    for token in ("", "x", form["token"], "A" * 43):
        assert await world.visitor.post(path, {"token": token, "reason": ""}) == 403
    assert await world.is_pending()
    assert await world.refused() == [(REFUSE_VERB, "cross_origin")] * 4
    assert await world.visitor.post(path, right | {"reason": ""}) == 303


async def test_another_host_is_not_served(world: World) -> None:
    v = world.visitor
    for host in ("evil.example", f"127.0.0.1:{v.port}", "localhost", f"localhost:{v.port}.evil.example"):
        assert await v.get(f"/approvals/{world.approval}", Host=host) == 421
        assert DELETE not in v.text
    assert ("GET /approvals/{approval}", "wrong_host") in await world.scene.refusals("_sys")
    assert await v.get("/approvals/", Host="evil.example") == 404
    assert "location" not in v.headers


@pytest.mark.parametrize(
    "changes",
    [
        {"rp_id": "evil.example"},
        {"origin": "https://evil.example"},
        {"origin": "http://localhost:1"},
        {"flags": 0x01},
        {"flags": 0x04},
        {"crossOrigin": True},
        {"topOrigin": "https://evil.example"},
        {"challenge": bytes(32)},
        {"kind": "webauthn.create"},
    ],
)
async def test_a_signature_that_is_not_for_this_page_is_refused_and_recorded(
    world: World, changes: dict[str, Any]
) -> None:
    form = await world.visitor.approve_form(world.approval)
    form |= {"response": world.visitor.signed(**changes)}
    assert await world.visitor.post(f"/approvals/{world.approval}/approve", form) == 403
    assert await world.is_pending()
    assert await world.refused() == [(APPROVE_VERB, "approval_refused")]


async def test_an_answer_that_is_none_is_malformed_and_recorded(world: World) -> None:
    form, path = await world.visitor.approve_form(world.approval), f"/approvals/{world.approval}/approve"
    for response in ("", "{", "[]", "{}", '{"id": 7}', '{"id":"AA","rawId":"AA","type":"public-key","response":{}}'):
        assert await world.visitor.post(path, form | {"response": response}) in (400, 403), response
    assert await world.visitor.post(path, form | {"response": "x" * 70_000}) == 413
    assert await world.visitor.post(path, form | {"response": "x" * 140_000}) == 413
    assert await world.visitor.post(path, form | {"extra": "1"}) == 400
    assert await world.visitor.post(path, form, Content_Type="application/json") == 400
    assert await world.is_pending()
    assert len(await world.refused()) == 10


async def test_another_persons_passkey_does_not_approve_in_this_session(world: World) -> None:
    bob = Visitor(world.scene)
    await bob.enrol(world.scene, world.tenant, "bob")
    form = await world.visitor.approve_form(world.approval)
    bob.challenge = world.visitor.challenge
    form |= {"response": bob.signed()}
    assert await world.visitor.post(f"/approvals/{world.approval}/approve", form) == 403
    assert await world.is_pending()
    assert await world.refused() == [(APPROVE_VERB, "approval_refused")]


async def test_who_asks_is_not_offered_to_approve_and_is_refused(world: World) -> None:
    """The agent's name is the person's: nothing on the page approves, and neither does what is sent past the page."""
    asker = Visitor(world.scene)
    await asker.enrol(world.scene, world.tenant, world.bot.name)
    await asker.sign_in()
    assert await asker.get(f"/approvals/{world.approval}") == 200
    assert "Who asks cannot approve" in asker.text
    assert "Approve with your passkey" not in asker.text
    shown = await world.scene.operator.ask("stepup", "approval-show", world.tenant, approval=world.approval)
    path = f"/approvals/{world.approval}/approve"
    # The form is there for nobody, so its token is computed as the service would.
    form = {"token": asker.token(path), "response": asker.signed(challenge=b64(shown["challenge"]))}
    assert await asker.post(path, form) == 403
    assert await world.is_pending()
    assert await world.refused() == [(APPROVE_VERB, "approval_refused")]


async def test_a_person_of_another_tenant_finds_nothing(world: World) -> None:
    other = World(world.scene)
    await other.open()
    for path in (f"/approvals/{world.approval}", "/approvals"):
        status = await other.visitor.get(path)
        assert status == (200 if path == "/approvals" else 404)
        assert world.tenant not in other.visitor.text
        assert world.approval not in other.visitor.text
    own = await other.visitor.approve_form(other.approval)
    for verb in ("approve", "refuse"):
        path = f"/approvals/{world.approval}/{verb}"
        form = {"token": own["token"], "response" if verb == "approve" else "reason": ""}
        assert await other.visitor.post(path, form) == 403
        form["token"] = other.visitor.token(path)
        if verb == "approve":
            form["response"] = other.visitor.signed(challenge=bytes(32))
        assert await other.visitor.post(path, form) == 404
    assert await world.is_pending()
    assert ("GET /approvals/{approval}", "not_found") in await other.refused()
    assert await world.refused() == []


async def test_a_cookie_names_no_tenant_and_nobody_by_itself(world: World) -> None:
    tenant, session, secret = world.visitor.cookies[SESSION].split(".")
    for forged in (
        "", "x", f"{tenant}.{session}.{'A' * 43}", f"{tenant}.{'0' * 32}.{secret}", f"_sys.{session}.{secret}",
        f"{tenant}.{session}.{secret}.x", f"other.{session}.{secret}", f"{tenant}.{session[:-1]}G.{secret}",
    ):  # fmt: skip
        world.visitor.cookies[SESSION] = forged
        assert await world.visitor.get(f"/approvals/{world.approval}") == 303
        assert world.visitor.headers["location"] == f"/sign-in?next={world.approval}"
        assert DELETE not in world.visitor.text


async def test_signing_in_leads_to_an_approval_and_to_no_other_address(world: World) -> None:
    stranger = Visitor(world.scene)
    for target in ("https://evil.example", "//evil.example", "/approvals", "ap_0"):
        assert await stranger.get("/sign-in?" + urlencode({"next": target})) == 404


async def test_one_signature_signs_in_once(world: World) -> None:
    v = world.visitor
    await v.get("/sign-in")
    form = v.fields("/sign-in") | {"response": v.signed()}
    assert await v.post("/sign-in", form) == 303
    # The counter stops it first; an authenticator without one is stopped by the session that its challenge opened.
    assert await v.post("/sign-in", form) == 403
    assert (await world.refused())[-1] == ("POST /sign-in", "approval_refused")


async def test_a_sign_in_of_an_authenticator_without_a_counter_is_used_once(scene: Any) -> None:
    tenant, v = await scene.tenant(), Visitor(scene)
    await v.enrol(scene, tenant, "carol")
    await v.get("/sign-in")
    form = v.fields("/sign-in") | {"response": v.signed(counter=0)}
    assert await v.post("/sign-in", form) == 303, v.text
    assert await v.post("/sign-in", form) == 409
    assert ("POST /sign-in", "conflict") in await scene.refusals(tenant)
    assert len(await scene.events(tenant, "session.opened")) == 1


async def test_signing_in_is_refused_without_a_page_of_ours_and_recorded(world: World) -> None:
    v = world.visitor
    await v.get("/sign-in")
    form = v.fields("/sign-in")
    assert await v.post("/sign-in", form | {"response": v.signed(), "ask": "AAAA"}) == 400
    assert await v.post("/sign-in", form | {"response": v.signed(challenge=bytes(32))}) == 403
    stranger = Visitor(world.scene)
    await stranger.get("/sign-in")
    unknown = stranger.fields("/sign-in") | {"response": stranger.signed()}
    assert await stranger.post("/sign-in", unknown) == 403
    assert SESSION not in stranger.cookies
    assert await world.refused() == [("POST /sign-in", "malformed"), ("POST /sign-in", "approval_refused")]
    assert ("POST /sign-in", "signed_out") in await world.scene.refusals("_sys")
    tried = [e for e in await world.scene.events(world.tenant, "request.refused") if "sign-in" in str(e.event["verb"])]
    assert {e.actor.id for e in tried} == {"unknown"}, "nobody has proved who it was"


async def test_a_session_ends_with_its_passkey_its_person_and_its_tenant(world: World) -> None:
    assert await world.visitor.get("/approvals") == 200
    await world.scene.operator.ask("stepup", "subject-erase", world.tenant, name="alice", basis="left")
    assert await world.visitor.get("/approvals") == 303
    other = World(world.scene)
    await other.open()
    await world.scene.operator.ask("identity", "tenant-close", name=other.tenant, basis="left")

    async def is_out() -> bool:
        return await other.visitor.get("/approvals") == 303

    await world.scene.until(is_out, "the closed tenant's person is signed out")


async def test_opening_a_link_changes_nothing(world: World) -> None:
    """GET and HEAD of every page, as a mail scanner does; and no form is sent by another method."""
    offer = await world.scene.operator.ask("stepup", "passkey-offer", world.tenant, name="alice")
    link = offer["url"].removeprefix(world.visitor.origin)
    before = len(await world.scene.events(world.tenant))
    for path in (link, link, "/", "/sign-in", "/approvals", f"/approvals/{world.approval}"):
        for method in ("GET", "HEAD"):
            assert await world.visitor.send(method, path) in (200, 303)
    for path in (f"/approvals/{world.approval}/approve", f"/approvals/{world.approval}/refuse", "/sign-out"):
        for method in ("GET", "PUT", "DELETE", "OPTIONS"):
            assert await world.visitor.send(method, path) == 405
    assert len(await world.scene.events(world.tenant)) == before
    assert await world.is_pending()


async def test_what_was_cancelled_is_shown_as_such_and_cannot_be_decided(world: World) -> None:
    form = await world.visitor.approve_form(world.approval)
    refuse = world.visitor.fields(f"/approvals/{world.approval}/refuse")
    signed = world.visitor.signed()
    await world.scene.operator.ask("stepup", "cancel", world.tenant, approval=world.approval, why="mistake")
    assert await world.visitor.get(f"/approvals/{world.approval}") == 200
    assert "Cancelled." in world.visitor.text
    assert "<form" not in world.visitor.text.partition("<main")[2]
    assert await world.visitor.post(f"/approvals/{world.approval}/approve", form | {"response": signed}) == 409
    assert await world.visitor.post(f"/approvals/{world.approval}/refuse", refuse | {"reason": "no"}) == 409
    assert await world.refused() == [(APPROVE_VERB, "conflict"), (REFUSE_VERB, "conflict")]


async def test_a_reason_is_one_line_within_its_limit(world: World) -> None:
    await world.visitor.approve_form(world.approval)
    path = f"/approvals/{world.approval}/refuse"
    form = world.visitor.fields(path)
    assert await world.visitor.post(path, form | {"reason": "two\nlines"}) == 400
    assert await world.visitor.post(path, form | {"reason": "x" * 501}) == 413
    assert await world.is_pending()
    assert await world.visitor.post(path, form | {"reason": "  too risky "}) == 303
    assert [code for _, code in await world.refused()] == ["malformed", "limit_exceeded"]


async def test_strangers_cannot_fill_the_journal(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "STRANGERS_PER_MINUTE_MAX", 3)
    stranger = Visitor(world.scene)
    before = observe.counts["stepup", observe.PAGE_FLOOD]
    for _ in range(6):
        assert await stranger.post("/sign-in", {"token": "x"}) == 403
    assert len(await world.scene.refusals("_sys")) <= 3
    assert observe.counts["stepup", observe.PAGE_FLOOD] - before >= 3
    # Whoever is signed in is recorded still.
    path = f"/approvals/{world.approval}/refuse"
    assert await world.visitor.post(path, {"token": "x", "reason": ""}) == 403
    assert await world.refused() == [(REFUSE_VERB, "cross_origin")]


async def test_the_secret_of_a_link_stands_in_no_record(world: World) -> None:
    offer = await world.scene.operator.ask("stepup", "passkey-offer", world.tenant, name="alice")
    secret = offer["challenge"]
    assert await world.visitor.post(f"/enrol/{world.tenant}.sub-x.{secret}", {"token": "x"}) == 403
    for _, envelope in await world.scene.journal():
        assert secret not in str(envelope.event)


async def test_the_agent_hears_why_a_person_refused_until_that_person_is_erased(world: World) -> None:
    await world.visitor.approve_form(world.approval)
    path = f"/approvals/{world.approval}/refuse"
    waiting = asyncio.create_task(world.bot.agent.wait_for(world.asked, 20))
    await asyncio.sleep(0)
    form = world.visitor.fields(path) | {"reason": "not before the release"}
    assert await world.visitor.post(path, form) == 303
    with pytest.raises(ApprovalEnded, match="the approval is denied: not before the release") as ended:
        await waiting
    assert (ended.value.state, ended.value.reason) == ("denied", "not before the release")
    # The reason is the person's own words: sealed in every store and in the log.
    denied = await world.scene.events(world.tenant, "stepup.denied")
    assert set(denied[0].event["reason"]) == {"alg", "ct", "dek", "kc", "n"}
    await world.scene.operator.ask("stepup", "subject-erase", world.tenant, name="alice", basis="asked")
    with pytest.raises(ApprovalEnded) as ended:
        await world.bot.agent.wait_for(world.asked, 1)
    assert (ended.value.state, ended.value.reason) == ("denied", "")
