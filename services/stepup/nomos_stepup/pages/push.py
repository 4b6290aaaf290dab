"""Browsers that their owner wants to be told on: which there are, this one too, and none any more.

A session is enough: what a browser is told, the session shows. It ends with "Sign out everywhere" (``pushes``).

The page alone may register a worker, so it alone has a policy that lets it.
"""

from __future__ import annotations

import time
from typing import Final

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from nomos.errors import Misconfigured
from nomos_stepup.ceremonies import actor_of
from nomos_stepup.notices import check_url
from nomos_stepup.pages.desk import Desk
from nomos_stepup.pushes import SUBSCRIPTIONS_MAX, Pushes
from nomos_stepup.sessions import SignedOut
from nomos_stepup.webpush import Browser, Sender, parse_browser
from nomos_web.assets import Assets
from nomos_web.headers import with_worker
from nomos_web.refusals import attempt
from nomos_web.site import View

NOTICES: Final = "/notices"
_ADD: Final = f"{NOTICES}/add"
_REMOVE: Final = NOTICES + "/{subscription}/remove"
_SEE_OTHER: Final = 303


class PushViews:
    """The views, in :meth:`routes`."""

    def __init__(self, desk: Desk, *, pushes: Pushes, sender: Sender | None, assets: Assets, development: bool) -> None:
        self._desk = desk
        self._pushes = pushes
        self._sender = sender
        self._assets = assets
        self._development = development

    def routes(self) -> list[tuple[str, str, View]]:
        """Method, path and view of every page."""
        return [("GET", NOTICES, self.notices), ("POST", _ADD, self.add), ("POST", _REMOVE, self.remove)]

    async def notices(self, request: Request) -> Response:
        """The list, and the button for this browser."""
        try:
            person = await self._desk.person(request, int(time.time()))
        except SignedOut:
            return self._desk.to_sign_in(request, "")
        known, _ = await self._pushes.of_approver(person.tenant, person.approver.id)
        paths = {"add": _ADD} | {f"remove{at}": f"{NOTICES}/{name}/remove" for at, name in enumerate(known)}
        response = self._desk.signed_in(
            "notices.html",
            person,
            paths,
            browsers=[time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(one.at)) for one in known.values()],
            browsers_max=SUBSCRIPTIONS_MAX,
            key="" if self._sender is None else self._sender.public_key,
            worker=self._assets["push-worker.js"].path,
        )
        with_worker(response)
        return response

    async def add(self, request: Request) -> Response:
        """Has this browser told."""
        person, form = await self._desk.form(request, "endpoint", "p256dh", "auth")
        if self._sender is None:
            raise Misconfigured("this installation sends no web push")
        browser = Browser(endpoint=form["endpoint"], p256dh=form["p256dh"], auth=form["auth"])
        check_url(browser.endpoint, development=self._development)
        parse_browser(browser)
        await self._pushes.add(
            person.tenant,
            person.approver.id,
            browser,
            actor=actor_of(person.approver),
            corr=attempt(request).id,
        )
        return RedirectResponse(NOTICES, status_code=_SEE_OTHER)

    async def remove(self, request: Request) -> Response:
        """Has a browser told nothing any more."""
        person, _ = await self._desk.form(request)
        await self._pushes.remove(
            person.tenant,
            person.approver.id,
            str(request.path_params["subscription"]),
            why="its owner",
            actor=actor_of(person.approver),
            corr=attempt(request).id,
        )
        return RedirectResponse(NOTICES, status_code=_SEE_OTHER)
