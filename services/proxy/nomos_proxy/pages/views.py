"""A link's page, the way to the provider, and the way back.

Two cookies, both of no worth alone: the browser's secret, which ties the form and the provider's answer to this
browser, and the name of the attempt that it began. Nobody signs in here: who holds a link may connect an account of
theirs, and sees nothing but for whom.

Source: RFC 6749 section 10.12, RFC 9700 section 4.7 (an answer belongs to the browser that asked).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Final

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from nomos.errors import Malformed, NotFound
from nomos.events import Actor
from nomos.ids import is_id, parse_slug
from nomos_proxy.federation.issuer import DISCOVERY, KEYS, Issuer
from nomos_proxy.oauth.connecting import CONNECT, CONNECTED, Connecting
from nomos_proxy.oauth.flow import ID_PREFIX, SECRET_BYTES, WrongBrowser, b64url, parse_link, parse_secret
from nomos_web.cookies import clear_cookie, cookie, set_cookie
from nomos_web.csrf import FIELD, check_token, form_token
from nomos_web.forms import read_form
from nomos_web.refusals import attempt, concerns
from nomos_web.site import View
from nomos_web.templates import Templates

DONE: Final = "/done"
BROWSER_COOKIE: Final = "nomos-connect"
ATTEMPT_COOKIE: Final = "nomos-connecting"
#: Who is at these pages nobody knows; who made the link stands in the log.
STRANGER: Final = Actor(kind="operator", id="unknown")
#: Characters of the query that a provider sends back, and its fields.
QUERY_CHARS_MAX: Final = 8_000
#: How long clouds may keep the issuer's documents.
KEPT_SECONDS: Final = 300
_ANSWER: Final = ("code", "state", "iss", "error")
_SEE_OTHER: Final = 303


class ConnectViews:
    """The views, in :meth:`routes`."""

    def __init__(
        self,
        connecting: Connecting,
        templates: Templates,
        *,
        issuer: Issuer | None,
        has_tenant: Callable[[str], bool],
        check_open: Callable[[str], None],
    ) -> None:
        """Wires it.

        Args:
            connecting: does it.
            templates: of the pages.
            issuer: whose keys clouds read here; None where there is none.
            has_tenant: whether there is one of this name.
            check_open: raises where a tenant is closed.
        """
        self._connecting = connecting
        self._templates = templates
        self._issuer = issuer
        self._has_tenant = has_tenant
        self._check_open = check_open

    def routes(self) -> list[tuple[str, str, View]]:
        """Method, path and view of every page."""
        return [
            ("GET", "/", self.home),
            ("GET", CONNECT + "{link}", self.page),
            ("POST", CONNECT + "{link}", self.begin),
            ("GET", CONNECTED, self.returned),
            ("GET", DONE, self.done),
            *([] if self._issuer is None else [("GET", DISCOVERY, self.discovery), ("GET", KEYS, self.keys)]),
        ]

    async def home(self, request: Request) -> Response:
        """What these pages are for."""
        return HTMLResponse(self._templates.render("home.html"))

    async def page(self, request: Request) -> Response:
        """For whom, to what, with which scopes. Opening it uses nothing up."""
        link = self._link(request)
        flow, provider, host = await self._connecting.opened(link)
        secret, path = _browser(request) or os.urandom(SECRET_BYTES), CONNECT + link
        body = self._templates.render(
            "connect.html",
            tenant=flow.tenant,
            name=flow.name,
            provider=provider,
            host=host,
            scopes=flow.scopes,
            until=time.strftime("%H:%M UTC", time.gmtime(flow.expires_at)),
            form={"path": path, "token": form_token(secret, path)},
            token_field=FIELD,
        )
        response = HTMLResponse(body)
        # lax: the provider sends the browser back from another site
        set_cookie(response, BROWSER_COOKIE, b64url(secret), samesite="lax")
        return response

    async def begin(self, request: Request) -> Response:
        """Sends the browser to the provider: by a link that opens by itself, since no form may end elsewhere."""
        link = self._link(request)
        form = await read_form(request, (FIELD,))
        secret = _browser(request)
        if secret is None:
            raise WrongBrowser("this browser keeps no cookies, or they are gone", hint="open the link again")
        check_token(form[FIELD], secret, CONNECT + link)
        target = await self._connecting.begin(link, secret, attempt(request).id)
        tenant, flow, _ = parse_link(link)
        response = HTMLResponse(self._templates.render("going.html", path=target))
        set_cookie(response, ATTEMPT_COOKIE, f"{tenant}.{flow}", samesite="lax")
        return response

    async def returned(self, request: Request) -> Response:
        """Takes the provider's answer, and leads to an address without it."""
        tenant, flow = _begun(cookie(request, ATTEMPT_COOKIE))
        self._known(request, tenant)
        if len(request.url.query) > QUERY_CHARS_MAX:
            raise Malformed(f"QUERY_CHARS_MAX is {QUERY_CHARS_MAX}")
        pairs = request.query_params.multi_items()
        query = {name: value for name, value in pairs if name in _ANSWER}
        if len([name for name, _ in pairs if name in _ANSWER]) != len(query):
            # RFC 6749 section 3.1: a parameter stands once
            raise Malformed("the provider's answer says one thing twice")
        secret = _browser(request)
        if secret is None:
            raise WrongBrowser("this is no answer to what this browser asked", hint="open the link again")
        await self._connecting.returned(tenant, flow, secret, query, attempt(request).id)
        response = RedirectResponse(DONE, status_code=_SEE_OTHER)
        clear_cookie(response, ATTEMPT_COOKIE)
        return response

    async def discovery(self, request: Request) -> Response:
        """What clouds read of the issuer."""
        return _document({} if self._issuer is None else self._issuer.discovery())

    async def keys(self, request: Request) -> Response:
        """The issuer's public keys."""
        return _document({} if self._issuer is None else self._issuer.key_set())

    async def done(self, request: Request) -> Response:
        """Says that it worked."""
        return HTMLResponse(self._templates.render("done.html"))

    def _link(self, request: Request) -> str:
        link = str(request.path_params["link"])
        tenant, _, _ = parse_link(link)
        self._known(request, tenant)
        return link

    def _known(self, request: Request, tenant: str) -> None:
        if not self._has_tenant(tenant):
            raise NotFound("this link opens nothing", hint="ask for a new one")
        concerns(request, tenant)
        self._check_open(tenant)


def _document(members: dict[str, object]) -> Response:
    """A public document, which may be kept a while."""
    return JSONResponse(members, headers={"cache-control": f"public, max-age={KEPT_SECONDS}"})


def _browser(request: Request) -> bytes | None:
    try:
        return parse_secret(cookie(request, BROWSER_COOKIE))
    except NotFound:
        return None


def _begun(text: str) -> tuple[str, str]:
    tenant, _, flow = text.partition(".")
    try:
        parse_slug(tenant, "tenant")
    except Malformed:
        flow = ""
    if not is_id(flow, ID_PREFIX):
        raise WrongBrowser("this browser has begun nothing here", hint="open the link again")
    return tenant, flow
