"""An operator edits policies in a real browser. Needs Chromium: `make chromium` installs it on Debian."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from axe_playwright_python.async_playwright import Axe
from tests.browser.conftest import CHROMIUM
from tests.integration.visitor import b64

from nomos.agent import Allowed, Denied
from nomos_policy.app import build
from nomos_policy.pages.editing import Editing
from nomos_policy.pages.views import Views
from nomos_web.csrf import FIELD, form_token
from nomos_web.signin import SignIn

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: make chromium"),
    pytest.mark.asyncio(loop_scope="session"),
]
LIST, SITE = "github:issues.list", "github:repo/acme/site"
EDIT_VERB = "POST /t/{tenant}/drafts/{draft}/policy"


class Editor:
    """A replica of policy that serves its pages where stepup sends browsers back to, and operators at them."""

    def __init__(self, stage: Any) -> None:
        self.stage = stage
        installation = stage.scene.installation
        self.origin = f"http://localhost:{installation.policy_port}"
        self.service = build(
            installation.environment("policy")
            | {
                "NOMOS_POLICY_PAGES_LISTEN": f"127.0.0.1:{installation.policy_port}",
                "NOMOS_POLICY_PAGES_ORIGIN": self.origin,
            }
        )

    async def operator(self, tenant: str = "", **options: Any) -> Any:
        """A window of an operator who has signed in; of one tenant, if one is named."""
        scene = self.stage.scene
        operator = await scene.named_operator(scene.name("olga"), tenant)
        human = await self.stage.window("olga", **options)
        await human.page.goto((await operator.ask("stepup", "operator-passkey", tenant or "_"))["url"])
        await human.press("Create a passkey")
        await human.sees("Your passkey is enrolled")
        await human.page.goto(self.origin + "/")
        await human.press("Sign in with your passkey")
        await human.sees("Whose policies")
        human.subject = operator._connection.credentials.name
        return human

    @property
    def routes(self) -> list[Any]:
        """Method, path and view of every page of the editor."""
        nothing: Any = None
        sign_in = SignIn(service="policy", site="", ask=nothing, templates=nothing)
        editing = Editing(nothing, vocabulary=nothing, changes=nothing, refused=nothing)
        names = ("sets", "vocabulary", "changes", "refresh", "refused")
        return list(Views(sign_in, nothing, editing, **dict.fromkeys(names, nothing)).routes())

    @property
    def path(self) -> str:
        return f"{self.origin}/t/{self.stage.tenant}"

    async def draft(self, human: Any, name: str = "next") -> None:
        await human.page.goto(self.path)
        await human.page.get_by_label("Name of a new draft").fill(name)
        await human.page.get_by_label("What it is for").fill("open issues only")
        await human.press("Begin a draft")
        await human.sees(f"Draft {name} of")


@pytest_asyncio.fixture(loop_scope="session")
async def editor(stage: Any) -> AsyncIterator[Editor]:
    made = Editor(stage)
    await made.service.start()
    yield made
    await made.service.stop()


async def test_an_operator_builds_a_policy_sees_its_text_tries_it_and_puts_it_in_force(
    stage: Any, editor: Editor
) -> None:
    olga = await editor.operator()
    page, ask = olga.page, stage.bot.agent.authorize
    assert isinstance(await ask(LIST, SITE, {"state": "open"}), Denied)
    await page.get_by_role("link", name=stage.tenant, exact=True).click()
    await olga.sees("is in force: 2 policies")
    await editor.draft(olga)
    await page.get_by_role("link", name="Add a policy").click()
    await page.get_by_label("Annotations, a line each").fill("id: reads\ndescription: The bot reads open issues.")
    await page.locator("#principal_kind").select_option("within")
    await page.get_by_label("Type, such as App").fill("App")
    await page.locator("#principal_id").fill("triage")
    await page.locator("#action_kind").select_option("equal")
    await page.locator("#actions").fill(LIST)
    await page.locator("#c0_kind").select_option("when")
    row = page.get_by_role("group", name="Condition 1, row 1")
    await row.get_by_label("Left side").fill("context.args.state")
    await row.get_by_label("Operator").select_option("==")
    # A typical error: a text without its quotes. What was typed is still there.
    await row.get_by_label("Right side").fill("open")
    await olga.press("Show the text")
    await olga.sees("condition 1, row 1:")
    await olga.sees("A text stands in quotes")
    assert await page.locator("#principal_id").input_value() == "triage"
    await row.get_by_label("Right side").fill('"open"')
    await olga.press("Show the text")
    # What the engine's strict check refuses is said now, not when it is put in force.
    await olga.sees("unable to guarantee safety of access to optional attribute")
    second = page.get_by_role("group", name="Condition 1, row 2")
    for side, value in (("Left side", "context.args"), ("Right side", "state")):
        await row.get_by_label(side).fill(value)
    await row.get_by_label("Operator").select_option("has")
    await second.get_by_label("Left side").fill("context.args.state")
    await second.get_by_label("Right side").fill('"open"')
    await olga.press("Show the text")
    await olga.sees("What it would say")
    await olga.sees('context.args.state == "open"')
    await olga.press("Keep it in the draft")
    await olga.sees("3 policies")
    await page.get_by_label("Agent").fill(stage.bot.name)
    await page.get_by_label("Action, such as").fill(LIST)
    await page.get_by_label("Resource, such as").fill(SITE)
    for arguments, outcome in (('{"state": "open"}', "Allowed."), ('{"state": "closed"}', "Denied.")):
        await page.get_by_label("Arguments, as JSON").fill(arguments)
        await olga.press("Try it with this draft")
        await olga.sees(outcome)
    assert isinstance(await ask(LIST, SITE, {"state": "open"}), Denied), "a draft decides nothing"
    await olga.press("Put this draft in force")
    await olga.sees("is in force.")
    assert isinstance(await ask(LIST, SITE, {"state": "open"}), Allowed)
    assert isinstance(await ask(LIST, SITE, {"state": "closed"}), Denied)
    put = (await stage.scene.events(stage.tenant, "policy.put"))[-1]
    assert (put.actor.kind, put.actor.id) == ("operator", olga.subject)
    assert (EDIT_VERB, "malformed_policy") in await stage.refusals()


async def test_a_policy_is_edited_and_keeps_its_comments_and_a_stale_form_is_refused(
    stage: Any, editor: Editor
) -> None:
    ask = stage.scene.operator.ask
    await ask("policy", "put", stage.tenant, text="// whose idea\n" + stage.POLICY, why="comment")
    olga = await editor.operator()
    await editor.draft(olga)
    await olga.page.get_by_role("link", name="delete-needs-human").click()
    await olga.page.wait_for_url("**/policy?id=delete-needs-human")
    edited = olga.page.url
    other = await olga.context.new_page()
    await other.goto(edited)
    await olga.page.get_by_label("Annotations, a line each").fill("id: delete-needs-human\ndescription: ask first")
    await olga.press("Keep it in the draft")
    await olga.sees("ask first")
    shown = (await ask("policy", "show", stage.tenant, draft="next"))["text"]
    assert shown.startswith("// whose idea\n")
    assert '@description("ask first")' in shown
    await other.get_by_label("Annotations, a line each").fill("id: delete-needs-human\ndescription: never mind")
    await other.get_by_role("button", name="Keep it in the draft").click()
    await other.get_by_text("the policies have changed since this edit began").wait_for()
    assert "never mind" in await other.get_by_label("Annotations, a line each").input_value()
    assert (await ask("policy", "show", stage.tenant, draft="next"))["text"] == shown
    await olga.page.goto(edited)
    text = olga.page.get_by_label("Cedar text of this policy")
    typed = await text.input_value()
    assert typed == shown.partition("\n")[2].partition(";")[0].strip() + ";"
    await text.fill(typed[:-2])
    await olga.press("Keep this text in the draft")
    await olga.sees("Not done:")
    assert await text.input_value() == typed[:-2]
    await text.fill(typed.replace("ask first", "ask twice"))
    await olga.press("Keep this text in the draft")
    await olga.sees("ask twice")
    await olga.page.goto(edited)
    await olga.press("Remove this policy")
    await olga.sees("1 policies")
    await olga.page.locator("#discard-why").fill("no")
    await olga.press("Discard this draft")
    await olga.sees("There is none.")
    assert (EDIT_VERB, "conflict") in await stage.refusals()


async def test_a_draft_that_is_not_the_one_that_was_looked_at_is_not_put_in_force(stage: Any, editor: Editor) -> None:
    ask = stage.scene.operator.ask
    olga = await editor.operator()
    await editor.draft(olga)
    await ask("policy", "draft-save", stage.tenant, draft="next", text=stage.POLICY + "// later", why="meanwhile")
    await olga.press("Put this draft in force")
    await olga.sees("is another than the one that was looked at")
    assert (await ask("policy", "list", stage.tenant))["revision"] == 1


async def test_an_operator_of_another_tenant_sees_and_changes_nothing(stage: Any, editor: Editor) -> None:
    other = await stage.scene.tenant()
    olga = await editor.operator()
    await editor.draft(olga)
    eve = await editor.operator(other)
    assert await eve.page.get_by_role("link", name=stage.tenant, exact=True).count() == 0
    (session,) = [one for one in await eve.context.cookies() if one["name"].endswith("nomos-policy-session")]
    secret = b64(session["value"].partition(".")[2])
    # Every route that names a tenant, with everything right but that.
    routes = [(method, path) for method, path, _ in editor.routes if "{tenant}" in path]
    assert len(routes) == 8
    for method, route in routes:
        path = route.replace("{tenant}", stage.tenant).replace("{draft}", "next")
        if method == "GET":
            answer = await eve.page.goto(editor.origin + path)
            await eve.sees("This operator acts for another tenant")
        else:
            form, headers = {FIELD: form_token(secret, path)}, {"Origin": editor.origin}
            sent = eve.context.request.post(editor.origin + path, form=form, headers=headers, max_redirects=0)
            answer = await sent
        assert answer.status == 403, path
    assert (await stage.scene.operator.ask("policy", "list", stage.tenant))["revision"] == 1
    assert len((await stage.scene.operator.ask("policy", "draft-list", stage.tenant))["drafts"]) == 1
    refused = {verb for verb, code in await stage.scene.refusals("_sys") if code == "not_permitted"}
    assert refused >= {f"{method} {route}" for method, route in routes}


async def test_axe_finds_nothing_on_the_editors_pages_at_320_pixels(stage: Any, editor: Editor) -> None:
    olga = await editor.operator(bypass_csp=True, viewport={"width": 320, "height": 640})
    await editor.draft(olga)
    draft = editor.path + "/drafts/next"
    shown = (
        editor.origin + "/", editor.path, draft, f"{draft}/policy", f"{draft}/policy?id=write-needs-human",
        f"{draft}/nothing",
    )  # fmt: skip
    for path in shown:
        answer = await olga.page.goto(path)
        assert answer.status == (404 if path.endswith("/nothing") else 200), path
        for scheme in ("light", "dark"):
            await olga.page.emulate_media(color_scheme=scheme)
            found = await Axe().run(olga.page)
            assert found.violations_count == 0, (path, scheme, found.generate_report())
        assert await olga.page.evaluate("document.documentElement.scrollWidth") <= 320, path
