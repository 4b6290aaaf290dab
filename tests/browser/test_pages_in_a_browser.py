"""The approval pages in a real browser. Needs Chromium: `make chromium` installs it on Debian."""

from __future__ import annotations

import asyncio
import functools
from typing import Any, Literal
from urllib.parse import parse_qs

import pytest
from axe_playwright_python.async_playwright import Axe
from tests.browser.conftest import CHROMIUM, CREATE, DELETE

import nomos_stepup.handlers
from nomos.agent import Allowed

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: make chromium"),
    pytest.mark.asyncio(loop_scope="session"),
]
HIDDEN = "\u202egpj.exe\u202c"
APPROVE = "Approve with your passkey"
SIGN_IN = "Sign in with your passkey"
APPROVE_VERB, REFUSE_VERB = "POST /approvals/{approval}/approve", "POST /approvals/{approval}/refuse"


def opened_with(monkeypatch: pytest.MonkeyPatch, **given: int) -> None:
    """What the service asks of humans from now on: ``lifetime_seconds``, or ``needed``, which no policy sets yet."""
    prepare = nomos_stepup.handlers.prepare

    @functools.wraps(prepare)
    def prepare_with(message: Any, **others: Any) -> Any:
        return prepare(message, **(others | given))

    monkeypatch.setattr(nomos_stepup.handlers, "prepare", prepare_with)


async def kept_back(human: Any, button: str) -> dict[str, str]:
    """Presses a button, and keeps back what the browser would have sent."""
    sent: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def keep(route: Any) -> None:
        sent.set_result(route.request.post_data)
        # No content: the browser stays where it is.
        await route.fulfill(status=204)

    await human.page.route("**/approve", keep)
    await human.press(button)
    fields = parse_qs(await asyncio.wait_for(sent, 10), keep_blank_values=True)
    await human.page.unroute("**/approve")
    return {name: values[0] for name, values in fields.items()}


async def post(human: Any, url: str, form: dict[str, str], origin: str) -> int:
    """Sends a form from the browser's own cookies, without a page."""
    return int((await human.context.request.post(url, form=form, headers={"Origin": origin}, max_redirects=0)).status)


# --- the main job -----------------------------------------------------------------------------------------------------


async def test_a_person_enrols_by_a_link_signs_in_and_approves(stage: Any) -> None:
    alice = await stage.window()
    await alice.page.goto(await stage.link("alice"))
    assert await alice.heading() == "Enrol a passkey"
    await alice.press("Create a passkey")
    await alice.sees("Your passkey is enrolled")
    wait = await stage.asks(DELETE, "github:repo/acme/doomed")
    assert wait.url == f"{stage.origin}/approvals/{wait.approval}"
    await alice.page.goto(wait.url)
    await alice.press(SIGN_IN)
    await alice.sees("Pending.")
    await alice.press(APPROVE)
    await alice.sees("Approved.")
    assert await stage.state(wait) == "approved"
    assert alice.complaints == []
    cosigner = await stage.bot.agent.wait_for(wait, 5)
    cosigned = await stage.bot.agent.authorize(DELETE, "github:repo/acme/doomed", cosigner=cosigner)
    assert isinstance(cosigned, Allowed)
    await alice.page.reload()
    await alice.sees("It has been used")
    kinds = [e.type for e in await stage.scene.events(stage.tenant)]
    assert [k for k in kinds if k.startswith(("session.", "stepup.a", "passkey.e"))] == [
        "passkey.enrolled", "session.opened", "stepup.approved",
    ]  # fmt: skip


async def test_what_waits_is_listed_and_refused_with_a_reason(stage: Any) -> None:
    alice, wait = await stage.human("alice"), await stage.asks(DELETE, "github:repo/acme/precious")
    await alice.page.reload()
    await alice.page.get_by_role("link", name="github:repos.delete on github:repo/acme/precious").click()
    await alice.page.get_by_label("Why (optional)").fill("we still need it")
    await alice.press("Refuse")
    await alice.sees("Denied.")
    assert await stage.state(wait) == "denied"
    assert await alice.page.get_by_role("button", name=APPROVE).count() == 0
    await alice.page.get_by_role("link", name="What else waits").click()
    await alice.sees("Nothing waits for a person")
    (denied,) = await stage.scene.events(stage.tenant, "stepup.denied")
    assert denied.actor.kind == "approver"
    assert "we still need it" not in str(denied.event), "the reason is sealed"


async def test_a_person_adds_a_passkey_names_it_and_removes_the_one_that_was_lost(stage: Any) -> None:
    alice = await stage.human("alice")
    await alice.page.get_by_role("link", name="Your passkeys").click()
    await alice.sees("It is your only one")
    await alice.press("Add a passkey")
    await alice.page.wait_for_url("**/enrol/*")
    await alice.another_device()
    await alice.page.get_by_label("What you call it").fill("new phone")
    await alice.press("Create a passkey")
    await alice.sees("Your passkey is enrolled")
    await alice.page.goto(stage.origin + "/passkeys")
    one = alice.page.get_by_role("listitem").filter(has_text="new phone")
    await one.get_by_label("What you call it").fill("blue phone")
    await one.get_by_role("button", name="Rename").click()
    await alice.sees("blue phone")
    first = alice.page.get_by_role("listitem").filter(has_text="You signed in with it")
    await first.get_by_role("button", name="Remove key").click()
    await alice.page.wait_for_url("**/sign-in")
    await alice.press(SIGN_IN)
    await alice.page.wait_for_url("**/approvals")
    await alice.page.goto(stage.origin + "/passkeys")
    assert await alice.page.get_by_role("listitem").count() == 1
    await alice.sees("blue phone")
    assert alice.complaints == []
    assert len(await stage.scene.events(stage.tenant, "passkey.revoked")) == 1


async def test_a_browser_is_subscribed_and_stopped(stage: Any) -> None:
    alice = await stage.human("alice")
    await alice.page.goto(stage.origin + "/notices")
    await alice.press("Tell me on this browser")
    await alice.sees("This browser may not show notices here")
    await alice.context.grant_permissions(["notifications"], origin=stage.origin)
    point, secret = "BCVxsr7N_eNgVRqvHtD0zTZsEc6-VV-JvLexhqUzORcxaOzi6-AYWXvTBHm4bjyPjs7Vd8pZGH6SRpkNtoIAiw4", "A" * 22
    # The push service of this browser is its vendor's, on the internet: what it would answer is put in its place.
    await alice.page.add_init_script(
        f"""PushManager.prototype.subscribe = async (asked) => {{
          if (!asked.userVisibleOnly || asked.applicationServerKey.length !== 65) throw new Error("asked for another");
          const keys = {{p256dh: "{point}", auth: "{secret}"}};
          return {{toJSON: () => ({{endpoint: "https://push.example.com/x", keys}})}};
        }}"""
    )
    await alice.page.reload()
    await alice.press("Tell me on this browser")
    await alice.sees("Browser 1")
    workers = "navigator.serviceWorker.getRegistrations().then((all) => all.map((one) => one.active.scriptURL))"
    (worker,) = await alice.page.evaluate(workers)
    assert worker.startswith(f"{stage.origin}/static/push-worker.")
    (added,) = await stage.scene.events(stage.tenant, "push.added")
    assert added.actor.kind == "approver"
    assert "push.example.com" not in str(added.event)
    await alice.press("Stop notices on browser 1")
    await alice.page.wait_for_url("**/notices")
    assert await alice.page.get_by_role("listitem").count() == 0
    assert alice.complaints == []


async def test_several_people_of_a_group_must_approve_and_each_sees_who_is_missing(stage: Any) -> None:
    ask = stage.scene.operator.ask
    asking = stage.POLICY.replace(
        '@id("delete-needs-human")', '@id("delete-needs-human") @approvals("2") @approvers("ops")'
    )
    await ask("policy", "put", stage.tenant, text=asking, why="two of them")
    alice, bob, cyd = [await stage.human(name) for name in ("alice", "bob", "cyd")]
    for name in ("alice", "bob"):
        await ask("stepup", "approver-groups", stage.tenant, name=name, groups=["ops"])
    wait = await stage.asks()
    await cyd.page.goto(wait.url)
    await cyd.sees("2 different people of the group ops must approve")
    await cyd.sees("It waits for people of a group that you are not in.")
    assert await cyd.page.get_by_role("button", name=APPROVE).count() == 0
    await alice.page.goto(wait.url)
    await alice.sees("It needs the approval of 2 people of the group ops.")
    await alice.press(APPROVE)
    await alice.sees("It needs the approval of one person of the group ops.")
    await alice.sees("You have approved. It waits for another person.")
    assert await alice.page.get_by_role("button", name=APPROVE).count() == 0
    assert await stage.state(wait) == "pending"
    await bob.page.goto(stage.origin + "/approvals")
    await bob.sees("It needs the approval of one person of the group ops.")
    await bob.page.goto(wait.url)
    await bob.press(APPROVE)
    await bob.sees("Approved by alice, bob.")
    assert await stage.state(wait) == "approved"


async def test_hidden_characters_and_markup_in_arguments_are_shown_and_run_nothing(stage: Any) -> None:
    alice = await stage.human("alice")
    title = f"Release {HIDDEN} <script>document.title='owned'</script><img src=x onerror=alert(1)>"
    wait = await stage.asks(CREATE, "github:repo/acme/site", {"title": title})
    await alice.page.goto(wait.url)
    await alice.sees("2 hidden characters are written out")
    shown = await alice.page.locator("pre").inner_text()
    assert "⟨U+202E⟩gpj.exe⟨U+202C⟩ <script>document.title='owned'</script>" in shown
    assert await alice.page.locator("mark").all_inner_texts() == ["⟨U+202E⟩", "⟨U+202C⟩"]
    assert await alice.page.title() == "Pending: approval – Nomos"
    assert alice.complaints == []
    assert "policy write-needs-human: an issue is read by a human first" in await alice.page.inner_text("main")


# --- what must not work -----------------------------------------------------------------------------------------------


async def test_an_enrolment_link_enrols_one_passkey_once(stage: Any) -> None:
    link = await stage.link("alice")
    alice, thief = await stage.window(), await stage.window()
    await thief.page.goto(link)
    await alice.page.goto(link)
    await alice.press("Create a passkey")
    await alice.sees("Your passkey is enrolled")
    await thief.press("Create a passkey")
    await thief.sees("this link opens nothing, or has been used")
    await thief.page.goto(link)
    await thief.sees("this link opens nothing, or has been used")
    assert len(await stage.scene.events(stage.tenant, "passkey.enrolled")) == 1
    refused = [r for r in await stage.scene.refusals("_sys") if "/enrol/" in r[0]]
    assert refused == [("POST /enrol/{link}", "not_found"), ("GET /enrol/{link}", "not_found")]


async def test_an_expired_approval_is_shown_as_such_and_cannot_be_approved(
    stage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = await stage.human("alice")
    opened_with(monkeypatch, lifetime_seconds=3)
    wait = await stage.asks()
    await alice.page.goto(wait.url)
    form = await kept_back(alice, APPROVE)

    async def is_over() -> bool:
        return await stage.state(wait) == "expired"

    await stage.scene.until(is_over, "the approval expires")
    assert await post(alice, f"{wait.url}/approve", form, stage.origin) == 410
    await alice.page.goto(wait.url)
    await alice.sees("Expired.")
    assert await alice.page.get_by_role("button", name=APPROVE).count() == 0
    assert (APPROVE_VERB, "expired") in await stage.refusals()


async def test_a_page_that_was_sent_once_cannot_be_sent_again(stage: Any) -> None:
    alice, wait = await stage.human("alice"), await stage.asks()
    await alice.page.goto(wait.url)
    form = await kept_back(alice, APPROVE)
    assert await post(alice, f"{wait.url}/approve", form, stage.origin) == 303
    assert await post(alice, f"{wait.url}/approve", form, stage.origin) == 403
    assert len(await stage.scene.events(stage.tenant, "stepup.approved")) == 1
    assert (APPROVE_VERB, "approval_refused") in await stage.refusals()


async def test_a_signature_for_one_request_does_not_approve_another(stage: Any) -> None:
    alice = await stage.human("alice")
    shown, other = await stage.asks(), await stage.asks()
    await alice.page.goto(shown.url)
    form = await kept_back(alice, APPROVE)
    await alice.page.goto(other.url)
    token = (await alice.form(APPROVE))["token"]
    assert await post(alice, f"{other.url}/approve", form | {"token": token}, stage.origin) == 403
    assert await post(alice, f"{other.url}/approve", form, stage.origin) == 403
    assert [await stage.state(w) for w in (shown, other)] == ["pending", "pending"]
    assert [r for r in await stage.refusals() if r[0] == APPROVE_VERB] == [
        (APPROVE_VERB, "approval_refused"), (APPROVE_VERB, "cross_origin"),
    ]  # fmt: skip


async def test_signing_in_signs_nothing_that_approves(stage: Any) -> None:
    alice, wait = await stage.human("alice"), await stage.asks()
    await alice.page.goto(stage.origin + "/sign-in")
    sent: list[str] = []

    async def keep(route: Any) -> None:
        if route.request.method != "POST":
            return await route.continue_()
        sent.append(route.request.post_data)
        return await route.fulfill(status=204)

    await alice.page.route("**/sign-in", keep)
    async with alice.page.expect_response(lambda r: r.request.method == "POST"):
        await alice.press(SIGN_IN)
    await alice.page.goto(wait.url)
    form = {"token": (await alice.form(APPROVE))["token"], "response": parse_qs(sent[0])["response"][0]}
    assert await post(alice, f"{wait.url}/approve", form, stage.origin) == 403
    assert await stage.state(wait) == "pending"
    assert (APPROVE_VERB, "approval_refused") in await stage.refusals()


async def test_a_signature_without_user_verification_does_not_approve(stage: Any) -> None:
    alice, wait = await stage.human("alice"), await stage.asks()
    await alice.is_verified(False)
    await alice.page.goto(wait.url)
    await alice.press(APPROVE)
    await alice.sees("The passkey was not used")
    # The page asked for it; a page that was made not to is refused by the service.
    await alice.page.get_by_role("button", name=APPROVE, exact=True).evaluate(
        "b => { b.form.dataset.options = b.form.dataset.options.replace('\"required\"', '\"discouraged\"'); }"
    )
    await alice.press(APPROVE)
    await alice.sees("the passkey did not verify its user")
    assert await stage.state(wait) == "pending"
    assert await stage.refusals() == [(APPROVE_VERB, "approval_refused")]


async def test_a_double_click_approves_once(stage: Any) -> None:
    alice, wait = await stage.human("alice"), await stage.asks()
    await alice.page.goto(wait.url)
    await alice.page.get_by_role("button", name=APPROVE, exact=True).dblclick()
    await alice.sees("Approved.")
    assert len(await stage.scene.events(stage.tenant, "stepup.approved")) == 1
    assert await stage.refusals() == []


async def test_of_two_people_who_approve_at_once_one_counts(stage: Any) -> None:
    alice, bob, wait = await stage.human("alice"), await stage.human("bob"), await stage.asks()
    forms = []
    for human in (alice, bob):
        await human.page.goto(wait.url)
        forms.append(await kept_back(human, APPROVE))
    answers = await asyncio.gather(
        *(post(h, f"{wait.url}/approve", f, stage.origin) for h, f in zip((alice, bob), forms, strict=True))
    )
    assert sorted(answers) == [303, 409]
    assert len(await stage.scene.events(stage.tenant, "stepup.approved")) == 1
    assert await stage.refusals() == [(APPROVE_VERB, "conflict")]
    for human in (alice, bob):
        await human.page.goto(wait.url)
        await human.sees("Approved.")


async def test_a_page_of_another_origin_refuses_and_approves_nothing(stage: Any) -> None:
    """Another port of the same host: the browser sends the cookie along, so the service must look at the origin."""
    alice, wait = await stage.human("alice"), await stage.asks()
    await alice.page.goto(wait.url)
    token = (await alice.form("Refuse"))["token"]
    other = "http://localhost:1234"
    body = f'<form method="post" action="{wait.url}/refuse"><input name="token" value="{token}"><button>Win</button>'
    await alice.page.route(other + "/**", lambda route: route.fulfill(content_type="text/html", body=body))
    await alice.page.goto(other + "/prize")
    await alice.press("Win")
    await alice.sees("the form was not sent by a page of this site")
    assert await stage.state(wait) == "pending"
    assert (REFUSE_VERB, "cross_origin") in await stage.scene.refusals("_sys")


async def test_the_pages_answer_to_no_other_name(stage: Any) -> None:
    window = await stage.window()
    answer = await window.page.goto(stage.origin.replace("localhost", "127.0.0.1") + "/sign-in")
    assert answer.status == 421
    await window.sees("this name is not served here")


async def test_a_page_of_ours_is_in_no_frame(stage: Any) -> None:
    alice, wait = await stage.human("alice"), await stage.asks()
    other = "http://localhost:1234"
    body = f'<iframe src="{wait.url}"></iframe>'
    await alice.page.route(other + "/**", lambda route: route.fulfill(content_type="text/html", body=body))
    await alice.page.goto(other + "/frame")
    await alice.page.wait_for_load_state("networkidle")
    shown = alice.page.frames[1]
    assert not shown.url.startswith("http")
    assert "github:repos.delete" not in await shown.content()


async def test_a_link_in_another_site_opens_the_approval_of_who_is_signed_in(stage: Any) -> None:
    alice, wait = await stage.human("alice"), await stage.asks()
    other = "http://127.0.0.1:1234"
    body = f'<a href="{wait.url}">Please approve</a>'
    await alice.page.route(other + "/**", lambda route: route.fulfill(content_type="text/html", body=body))
    await alice.page.goto(other + "/mail")
    await alice.page.get_by_role("link", name="Please approve").click()
    await alice.sees("Pending.")
    assert await stage.state(wait) == "pending"


async def test_an_ended_session_shows_and_refuses_nothing(stage: Any) -> None:
    alice, wait = await stage.human("alice"), await stage.asks()
    await alice.page.goto(wait.url)
    await stage.scene.operator.ask("stepup", "approver-sign-out", stage.tenant, name="alice")
    await alice.press("Refuse")
    await alice.sees("the sessions of this person were ended")
    await alice.page.goto(wait.url)
    assert await alice.heading() == "Sign in"
    assert await stage.state(wait) == "pending"
    assert (REFUSE_VERB, "signed_out") in await stage.scene.refusals("_sys")


async def test_who_signs_out_has_ended_the_session_and_not_only_the_cookie(stage: Any) -> None:
    alice = await stage.human("alice")
    cookies = await alice.context.cookies()
    (held,) = [c for c in cookies if c["name"] == "__Host-nomos-session"]
    assert (held["httpOnly"], held["secure"], held["sameSite"], held["path"]) == (True, True, "Strict", "/")
    await alice.press("Sign out")
    assert await alice.heading() == "Sign in"
    await alice.context.add_cookies([held])
    await alice.page.goto(stage.origin + "/approvals")
    assert await alice.heading() == "Sign in"
    assert len(await stage.scene.events(stage.tenant, "session.closed")) == 1


# --- for everybody ----------------------------------------------------------------------------------------------------


async def test_axe_finds_nothing_and_nothing_scrolls_sideways_at_320_pixels(stage: Any) -> None:
    # Axe is put into the page, which our pages forbid; so this one window does without their policy.
    alice = await stage.window("alice", bypass_csp=True, viewport={"width": 320, "height": 640})
    link = await stage.link("alice")
    waits = [await stage.asks(), await stage.asks(CREATE, "github:repo/acme/site", {"title": "x" * 200 + HIDDEN})]

    async def judged(path: str, *schemes: Literal["light", "dark"]) -> None:
        await alice.page.goto(path)
        for scheme in schemes or ("light",):
            await alice.page.emulate_media(color_scheme=scheme)
            found = await Axe().run(alice.page)
            assert found.violations_count == 0, (path, scheme, found.generate_report())
        width = await alice.page.evaluate("document.documentElement.scrollWidth")
        assert width <= 320, path

    # It finds what it should: an image that says nothing to who does not see it.
    await alice.page.set_content("<img src=x>")
    assert (await Axe().run(alice.page)).violations_count > 0
    await judged(link)
    await alice.press("Create a passkey")
    await alice.sees("Your passkey is enrolled")
    for path in ("/enrolled", "/sign-in", "/nothing"):
        await judged(stage.origin + path)
    await alice.page.goto(stage.origin + "/sign-in")
    await alice.press(SIGN_IN)
    await alice.page.wait_for_url("**/approvals")
    await judged(stage.origin + "/approvals", "light", "dark")
    await judged(stage.origin + "/notices", "light", "dark")
    await judged(stage.origin + "/passkeys")
    await alice.press("Add a passkey")
    await alice.page.wait_for_url("**/enrol/*")
    await alice.another_device()
    await alice.press("Create a passkey")
    await alice.sees("Your passkey is enrolled")
    await judged(stage.origin + "/passkeys", "light", "dark")
    await judged(waits[1].url, "light", "dark")
    await alice.press("Refuse")
    await alice.sees("Denied.")
    await judged(waits[1].url, "dark", "light")


async def test_a_keyboard_alone_reaches_refuse_and_approve_and_neither_is_preselected(stage: Any) -> None:
    alice, wait = await stage.human("alice"), await stage.asks()
    await alice.page.goto(wait.url)
    focused = "document.activeElement.textContent.trim() || document.activeElement.id"
    assert await alice.page.evaluate("document.activeElement.tagName") == "BODY"
    order = []
    for _ in range(12):
        await alice.page.keyboard.press("Tab")
        order.append(await alice.page.evaluate(focused))
        if order[-1] == APPROVE:
            break
    assert order == [
        "Skip to the content", "Nomos", "Your passkeys", "Notices", "Sign out", "Sign out everywhere", "reason",
        "Refuse", APPROVE,
    ]  # fmt: skip
    assert await alice.page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    sizes = [
        await alice.page.get_by_role("button", name=name, exact=True).bounding_box() for name in ("Refuse", APPROVE)
    ]
    assert sizes[0]["width"] == sizes[1]["width"]
    await alice.page.keyboard.press("Enter")
    await alice.sees("Approved.")


async def test_without_javascript_everything_works_but_the_passkey_itself(stage: Any) -> None:
    alice, wait = await stage.human("alice"), await stage.asks()
    state = await alice.context.storage_state()
    plain = await stage.window("alice", java_script_enabled=False, storage_state=state)
    await plain.page.goto(stage.origin + "/approvals")
    await plain.page.get_by_role("link", name="github:repos.delete").click()
    assert "This needs JavaScript" in await plain.page.inner_text("main")
    assert await plain.page.get_by_role("button", name=APPROVE).is_disabled()
    await plain.press("Refuse")
    await plain.sees("Denied.")
    assert await stage.state(wait) == "denied"
