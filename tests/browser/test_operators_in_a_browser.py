"""An operator signs in to another service's page in a real browser. Needs Chromium: `make chromium` installs it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from axe_playwright_python.async_playwright import Axe
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from tests.browser.conftest import CHROMIUM

from nomos.errors import NomosError
from nomos_web.assets import Assets
from nomos_web.csrf import FIELD
from nomos_web.server import Address, WebServer
from nomos_web.signin import SIGN_OUT, SignedIn, SignIn
from nomos_web.site import Site
from nomos_web.templates import Templates

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: make chromium"),
    pytest.mark.asyncio(loop_scope="session"),
]
SIGN_IN = "Sign in with your passkey"


class Elsewhere:
    """Pages of the service policy, on a port of their own: one page with a form to sign out."""

    def __init__(self, stage: Any) -> None:
        self.stage = stage
        self.origin = f"http://localhost:{stage.scene.installation.policy_port}"
        self.refused: list[str] = []
        assets = Assets()
        templates = Templates("nomos_stepup.pages", assets)
        sign_in = SignIn(service="policy", site=stage.origin, ask=self.ask, templates=templates)

        async def home(request: Request, person: SignedIn) -> Response:
            return HTMLResponse(
                f"<!doctype html><html lang=en><title>Policies</title><main><h1>Policies</h1><p>{person.operator}</p>"
                f"<form method=post action={SIGN_OUT}><input type=hidden name={FIELD} "
                f'value="{person.token(SIGN_OUT)}"><button>Sign out</button></form></main></html>'
            )

        async def refused(request: Request, error: Exception) -> NomosError:
            assert isinstance(error, NomosError), error
            self.refused.append(error.code)
            return error

        views = [("GET", "/", sign_in.page(home)), ("GET", "/policies", sign_in.page(home)), *sign_in.routes()]
        site = Site(views, origins=(self.origin,), templates=templates, assets=assets, refused=refused)
        self.server = WebServer(site.app, Address(host="127.0.0.1", port=stage.scene.installation.policy_port))

    async def ask(self, subject: str, payload: bytes) -> bytes:
        client = await self.stage.scene.service("policy")
        return bytes((await client.request(subject, payload, timeout=10)).data)


@pytest_asyncio.fixture(loop_scope="session")
async def elsewhere(stage: Any) -> AsyncIterator[Elsewhere]:
    made = Elsewhere(stage)
    await made.server.start()
    yield made
    await made.server.stop()


async def test_an_operator_enrols_signs_in_elsewhere_signs_out_and_is_signed_out(
    stage: Any, elsewhere: Elsewhere
) -> None:
    operator = await stage.scene.named_operator(stage.scene.name("olga"))
    subject, ask = operator._connection.credentials.name, operator.ask
    olga = await stage.window("olga")
    await olga.page.goto((await ask("stepup", "operator-passkey"))["url"])
    assert await olga.heading() == "Enrol an operator's passkey"
    await olga.sees(subject)
    await olga.press("Create a passkey")
    await olga.sees("Your passkey is enrolled")
    # From the page that was asked for to stepup, and back to it.
    await olga.page.goto(elsewhere.origin + "/policies")
    assert await olga.heading() == "Sign in as an operator"
    assert olga.page.url.startswith(stage.origin + "/operator/sign-in?service=policy&state=")
    brought: list[str] = []
    olga.page.on("request", lambda r: brought.append(r.url) if "/signed-in?" in r.url else None)
    await olga.press(SIGN_IN)
    await olga.sees(subject)
    assert olga.page.url == elsewhere.origin + "/policies"
    cookies = {c["name"]: c for c in await olga.context.cookies(elsewhere.origin)}
    session = cookies["__Host-nomos-policy-session"]
    assert (session["httpOnly"], session["secure"], session["sameSite"]) == (True, True, "Strict")
    assert "__Host-nomos-policy-begun" not in cookies
    # The address of the way back opens nothing any more, here or in another browser.
    (address,) = brought
    assert urlsplit(address).netloc == urlsplit(elsewhere.origin).netloc
    await olga.page.goto(address)
    await olga.sees("This browser did not begin this sign-in")
    mallory = await stage.window("mallory")
    await mallory.page.goto(address)
    await mallory.sees("This browser did not begin this sign-in")
    assert elsewhere.refused == ["not_permitted", "not_permitted"]
    # Ended by command: at the next request the page asks for the passkey again.
    (held,) = (s for s in (await ask("stepup", "operator-sessions"))["sessions"] if s["operator"] == subject)
    await ask("stepup", "operator-session-end", session=held["session"])
    await olga.page.goto(elsewhere.origin + "/policies")
    await olga.press(SIGN_IN)
    await olga.sees(subject)
    await olga.press("Sign out")
    await olga.page.wait_for_url(stage.origin + "/**")
    assert await olga.heading() == "Sign in as an operator"
    wanted = ("operator.signed-in", "operator.code-redeemed", "operator.session-ended")
    kinds = [e.type for e in await stage.scene.events("_sys") if e.event.get("operator") == subject]
    assert [k for k in kinds if k in wanted] == [*wanted, *wanted]
    # The page of this test has no icon, and two of its answers were refusals; nothing was blocked.
    assert [c for c in olga.complaints if not c.startswith("Failed to load resource")] == []


async def test_without_user_verification_nobody_signs_in(stage: Any, elsewhere: Elsewhere) -> None:
    operator = await stage.scene.named_operator(stage.scene.name("olga"))
    olga = await stage.window("olga")
    await olga.page.goto((await operator.ask("stepup", "operator-passkey"))["url"])
    await olga.press("Create a passkey")
    await olga.sees("Your passkey is enrolled")
    await olga.is_verified(False)
    await olga.page.goto(elsewhere.origin)
    await olga.press(SIGN_IN)
    await olga.sees("The passkey was not used")
    assert (await stage.scene.events("_sys", "operator.signed-in")) == []


async def test_axe_finds_nothing_on_operators_pages_at_320_pixels(stage: Any, elsewhere: Elsewhere) -> None:
    operator = await stage.scene.named_operator(stage.scene.name("olga"))
    # Axe is put into the page, which our pages forbid; so this one window does without their policy.
    olga = await stage.window("olga", bypass_csp=True, viewport={"width": 320, "height": 640})
    link = (await operator.ask("stepup", "operator-passkey"))["url"]
    for address in (link, elsewhere.origin, stage.origin + "/operator/enrolled"):
        for scheme in ("light", "dark"):
            await olga.page.emulate_media(color_scheme=scheme)
            await olga.page.goto(address)
            found = await Axe().run(olga.page)
            assert found.violations_count == 0, (address, scheme, found.generate_report())
        assert await olga.page.evaluate("document.documentElement.scrollWidth") <= 320, address
