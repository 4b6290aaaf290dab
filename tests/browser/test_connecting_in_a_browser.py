"""A person connects an account in a real browser. Needs Chromium and the provider: make chromium, make provider."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from axe_playwright_python.async_playwright import Axe
from tests.browser.conftest import CHROMIUM
from tests.integration.accounts import World
from tests.integration.provider import needs_provider

pytestmark = [
    needs_provider,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: make chromium"),
    pytest.mark.asyncio(loop_scope="session"),
]
CALENDAR = "google-calendar"


def goes_to(world: World) -> str:
    """The button names where the browser really goes."""
    return "Go on to " + world.provider.issuer.removeprefix("http://")


@pytest_asyncio.fixture(loop_scope="session")
async def world(stage: Any) -> AsyncIterator[World]:
    made = World(stage.scene, CALENDAR)
    await made.open()
    yield made
    await made.close()


async def test_a_person_connects_an_account(stage: Any, world: World) -> None:
    human = await stage.window("ada")
    await human.page.goto(await world.link("calendar"))
    assert await human.heading() == "Connect your Google Calendar account"
    await human.sees(world.tenant)
    await human.sees("https://www.googleapis.com/auth/calendar")
    await human.press(goes_to(world))
    await human.sees("The account is connected")
    assert await human.heading() == "Account connected"
    # the address holds neither code nor state, and going back brings none
    assert human.page.url == world.scene.installation.local.connect_pages_origin + "/done"
    assert human.complaints == []
    assert (await world.state("calendar"))["state"] == "ready"


async def test_a_person_says_no_at_the_provider_and_is_told_so(stage: Any, world: World) -> None:
    await world.provider.control(fault="deny")
    human = await stage.window("ada")
    await human.page.goto(await world.link("calendar"))
    await human.press(goes_to(world))
    await human.sees("The provider connected nothing: access_denied")
    assert await human.heading() == "Not connected"


async def test_the_cookies_are_this_host_s_alone_and_no_script_reads_them(stage: Any, world: World) -> None:
    human = await stage.window("ada")
    await human.page.goto(await world.link("calendar"))
    assert await human.page.evaluate("document.cookie") == ""
    kept = {cookie["name"]: cookie for cookie in await human.context.cookies()}
    assert set(kept) == {"__Host-nomos-connect"}
    cookie = kept["__Host-nomos-connect"]
    assert (cookie["httpOnly"], cookie["secure"], cookie["sameSite"], cookie["path"]) == (True, True, "Lax", "/")


async def test_a_page_of_somebody_else_cannot_send_the_form(stage: Any, world: World) -> None:
    link = await world.link("calendar")
    human = await stage.window("ada")
    await human.page.goto(link)
    form = await human.form(goes_to(world))
    refused = await human.page.request.post(
        link, form={"token": form["token"]}, headers={"Origin": "https://evil.example"}
    )
    assert refused.status == 403
    refused = await human.page.request.post(
        link, form={"token": "x"}, headers={"Origin": world.scene.installation.local.connect_pages_origin}
    )
    assert refused.status == 403


async def test_axe_finds_nothing_and_nothing_scrolls_sideways_at_320_pixels(stage: Any, world: World) -> None:
    # Axe is put into the page, which our pages forbid; so this one window does without their policy.
    human = await stage.window("ada", bypass_csp=True, viewport={"width": 320, "height": 640})
    origin = world.scene.installation.local.connect_pages_origin
    for address in (await world.link("calendar"), f"{origin}/", f"{origin}/done", f"{origin}/connect/nothing"):
        await human.page.goto(address)
        found = await Axe().run(human.page)
        assert found.violations_count == 0, found.generate_report()
        assert await human.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
