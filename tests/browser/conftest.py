"""People at real browsers: Chromium with an authenticator that tests can tell what to do, before the real service.

Needs Chromium (`make chromium` on Debian) and skips without it.
"""

from __future__ import annotations

import base64
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest_asyncio
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from playwright.async_api import Browser, BrowserContext, CDPSession, Page, TimeoutError, async_playwright
from tests.integration.conftest import Installation, Scene, installation
from tests.integration.visitor import SESSION, Visitor, b64

from nomos.agent import StepUpRequired
from nomos.eventschemas import what_is_wrong

__all__ = ["installation"]

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next((found for name in NAMES if (found := shutil.which(name))), None)
DELETE, CREATE = "github:repos.delete", "github:issues.create"
WAIT_MS = 10_000
POLICY = """
@id("delete-needs-human")
@description("deleting needs a human")
permit (principal in App::"triage", action == Action::"github:repos.delete", resource);
@id("write-needs-human")
@description("an issue is read by a human first")
permit (principal in App::"triage", action == Action::"github:issues.create", resource) when { context.cosigned };
"""
AUTHENTICATOR = {
    "protocol": "ctap2",
    "transport": "internal",
    "hasResidentKey": True,
    "hasUserVerification": True,
    "isUserVerified": True,
    "automaticPresenceSimulation": True,
}


class Human:
    """A person with a browser of their own and a passkey in it."""

    def __init__(self, name: str, context: BrowserContext, page: Page, devtools: CDPSession, key: str) -> None:
        self.name, self.context, self.page = name, context, page
        self.devtools, self.authenticator = devtools, key
        #: What the browser complained about: blocked content, errors of scripts.
        self.complaints: list[str] = []
        page.on("console", lambda m: self.complaints.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda e: self.complaints.append(str(e)))

    async def press(self, name: str) -> None:
        await self.page.get_by_role("button", name=name, exact=True).click()

    async def sees(self, text: str) -> None:
        try:
            await self.page.get_by_text(text).first.wait_for(timeout=WAIT_MS)
        except TimeoutError as e:
            shown = await self.page.locator("main").inner_text()
            raise AssertionError(f"{text!r} is not on the page, but: {shown}; complaints: {self.complaints}") from e

    async def heading(self) -> str:
        return await self.page.locator("h1").inner_text()

    async def is_verified(self, verified: bool) -> None:
        """Whether the authenticator recognises its user from now on."""
        asked = {"authenticatorId": self.authenticator, "isUserVerified": verified}
        await self.devtools.send("WebAuthn.setUserVerified", asked)

    async def another_device(self) -> None:
        """The passkeys that this browser had are elsewhere from now on; it has an empty authenticator."""
        await self.devtools.send("WebAuthn.removeVirtualAuthenticator", {"authenticatorId": self.authenticator})
        made = await self.devtools.send("WebAuthn.addVirtualAuthenticator", {"options": AUTHENTICATOR})
        self.authenticator = made["authenticatorId"]

    async def form(self, button: str) -> dict[str, str]:
        """Where the form of a button is sent, and its fields."""
        found: dict[str, str] = await self.page.get_by_role("button", name=button, exact=True).evaluate(
            "b => ({...Object.fromEntries(new FormData(b.form)), action: b.form.action})"
        )
        return found


class Stage:
    """A tenant, its agent, and the people who approve."""

    POLICY = POLICY

    def __init__(self, scene: Scene, browser: Browser) -> None:
        self.scene, self.browser = scene, browser
        self.origin = scene.installation.local.pages_origin
        self.tenant = ""
        self.bot: Any

    async def open(self) -> None:
        self.tenant = await self.scene.tenant(policy=POLICY)
        self.bot = await self.scene.agent(self.tenant)

    async def window(self, name: str = "", **options: Any) -> Human:
        """A browser with an empty authenticator."""
        context = await self.browser.new_context(locale="en-GB", **options)
        context.set_default_timeout(WAIT_MS)
        page = await context.new_page()
        devtools = await context.new_cdp_session(page)
        await devtools.send("WebAuthn.enable")
        made = await devtools.send("WebAuthn.addVirtualAuthenticator", {"options": AUTHENTICATOR})
        return Human(name, context, page, devtools, made["authenticatorId"])

    async def link(self, name: str, *, add: bool = True) -> str:
        if add:
            await self.scene.operator.ask("stepup", "approver-add", self.tenant, name=name)
        return str((await self.scene.operator.ask("stepup", "passkey-offer", self.tenant, name=name))["url"])

    async def human(self, name: str, **options: Any) -> Human:
        """Somebody who has enrolled and signed in, at the list of what waits; made past the pages, to be quick."""
        human, visitor = await self.window(name, **options), Visitor(self.scene)
        offer = await visitor.enrol(self.scene, self.tenant, name)
        await visitor.sign_in()
        authenticator = visitor.authenticator
        key = authenticator.private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        credential = {
            "credentialId": base64.b64encode(authenticator.credential_id).decode(),
            "isResidentCredential": True,
            "rpId": "localhost",
            "privateKey": base64.b64encode(key).decode(),
            "userHandle": base64.b64encode(b64(offer["user_handle"])).decode(),
            "signCount": authenticator.counter,
        }
        asked = {"authenticatorId": human.authenticator, "credential": credential}
        await human.devtools.send("WebAuthn.addCredential", asked)
        session = {"name": SESSION, "value": visitor.cookies[SESSION], "domain": "localhost", "path": "/"}
        await human.context.add_cookies([{**session, "httpOnly": True, "secure": True, "sameSite": "Strict"}])
        await human.page.goto(self.origin + "/approvals")
        assert await human.heading() == "What waits"
        return human

    async def asks(self, action: str = DELETE, resource: str = "", args: Any = None) -> StepUpRequired:
        """The agent asks for something that a person must approve first."""
        resource = resource or f"github:repo/acme/{self.scene.name('old')}"
        wait = await self.bot.agent.authorize(action, resource, args or {})
        assert isinstance(wait, StepUpRequired), wait
        return wait

    async def state(self, wait: StepUpRequired) -> str:
        shown = await self.scene.operator.ask("stepup", "approval-show", self.tenant, approval=wait.approval)
        return str(shown["state"])

    async def refusals(self) -> list[tuple[str, str]]:
        return await self.scene.refusals(self.tenant)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    """One browser for all tests; each person has a window, cookies and an authenticator of their own."""
    async with async_playwright() as playwright:
        # In a container Chromium's own sandbox cannot be set up; what it loads here is ours.
        browser = await playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        )
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="session")
async def stage(installation: Installation, browser: Browser, tmp_path: Path) -> AsyncIterator[Stage]:
    async with AsyncExitStack() as stack:
        scene = Scene(installation, stack, tmp_path)
        await scene.open()
        made = Stage(scene, browser)
        await made.open()
        yield made
        for context in browser.contexts:
            await context.close()
        wrong = {(e.type, what_is_wrong(e.type, e.event)) for _, e in await scene.journal()}
        assert {one for one in wrong if one[1] is not None} == set()


__all__ += ["Human", "Installation", "Stage"]
