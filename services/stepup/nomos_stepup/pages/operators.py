"""Operators' pages: enrol a passkey by a link, and sign in to the pages of another service (ADR 0032).

A sign-in signs ``SHA-256("nomos-operator-sign-in-v1" ‖ 0x00 ‖ ask)``, a domain of its own: no signature of an approver,
or over an approval, can stand for it. The *ask* is what the page was opened for (service, state, time), sealed by the
service with a random nonce, so nothing is stored until it is signed, and a form can change nothing of it.

Stepup keeps no session of operators in the browser: each service asks for a passkey once more, and what one service's
cookie may do no other's may. The address that the browser goes to next is the configured one; it is a link that opens
by itself, since a policy of ``form-action 'self'`` lets no form end at another origin.
"""

from __future__ import annotations

import hashlib
import time
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from nomos.errors import Expired, Malformed, NomosError, NotFound
from nomos.ids import SYSTEM_TENANT
from nomos_runtime.sealing import Sealer
from nomos_stepup.approvers import ENROLMENT_CHALLENGE_BYTES
from nomos_stepup.base64url import b64url, parse_b64url
from nomos_stepup.operatoraccess import OperatorAccess, parse_link
from nomos_stepup.operatoradmin import OPERATOR_PASSKEY
from nomos_stepup.operators import OperatorKeys, check_offer
from nomos_stepup.options import assertion_options, registration_options
from nomos_stepup.pages.access import ASK_SECONDS, Access
from nomos_stepup.pages.answers import passkey_answer
from nomos_stepup.pages.refusals import acting_operator
from nomos_stepup.signins import parse_state
from nomos_web.csrf import FIELD, check_token, form_token
from nomos_web.forms import read_form
from nomos_web.refusals import attempt
from nomos_web.site import View
from nomos_web.templates import Templates

OPERATOR_SIGN_IN: Final = "/operator/sign-in"
OPERATOR_ENROLLED: Final = "/operator/enrolled"
_TAG: Final = b"nomos-operator-sign-in-v1\0"
_PURPOSE: Final = "operator-sign-in-ask-v1"
_ASK_BYTES_MAX: Final = 1_024
_SEE_OTHER: Final = 303


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """What a sign-in page was opened for: whose pages, for which browser there, and until when (Unix seconds)."""

    service: str
    state: str
    until: int


class OperatorViews:
    """The views, in :meth:`routes`."""

    def __init__(self, access: OperatorAccess, sealer: Sealer, templates: Templates) -> None:
        self._access = access
        self._sealer = sealer
        self._templates = templates

    def routes(self) -> list[tuple[str, str, View]]:
        """Method, path and view of every page."""
        return [
            ("GET", OPERATOR_SIGN_IN, self.sign_in_page),
            ("POST", OPERATOR_SIGN_IN, self.sign_in),
            ("GET", OPERATOR_PASSKEY + "{link}", self.enrol_page),
            ("POST", OPERATOR_PASSKEY + "{link}", self.enrol),
            ("GET", OPERATOR_ENROLLED, self.enrolled),
        ]

    async def sign_in_page(self, request: Request) -> Response:
        """Asks for a passkey, for the pages of one service."""
        service, state = request.query_params.get("service", ""), parse_state(request.query_params.get("state", ""))
        self._access.return_address(service)
        ask = self._new_ask(Ask(service=service, state=state, until=int(time.time()) + ASK_SECONDS))
        options = assertion_options([], challenge=challenge_of(ask), party=self._access.party)
        return self._page(
            "operator_sign_in.html", request, OPERATOR_SIGN_IN, service=service, ask=b64url(ask), options=options
        )

    async def sign_in(self, request: Request) -> Response:
        """Opens a session, and sends the browser back with a code."""
        form = await read_form(request, (FIELD, "ask", "response"))
        check_token(form[FIELD], Access.browser_secret(request), OPERATOR_SIGN_IN)
        sealed = parse_b64url(form["ask"], "sign-in", _ASK_BYTES_MAX)
        ask = self._ask(sealed, int(time.time()))
        opened, code = await self._access.sign_in(
            challenge=challenge_of(sealed),
            response=passkey_answer(form["response"]),
            service=ask.service,
            state=ask.state,
            corr=attempt(request).id,
        )
        acting_operator(request, opened.operator)
        target = f"{self._access.return_address(ask.service)}?code={code}&state={ask.state}"
        return HTMLResponse(self._templates.render("operator_signed_in.html", target=target, service=ask.service))

    async def enrol_page(self, request: Request) -> Response:
        """What the link is for. Opening it uses nothing up."""
        link = request.path_params["link"]
        keys, challenge = await self._offered(link)
        options = registration_options(keys, challenge=challenge, party=self._access.party)
        return self._page("operator_passkey.html", request, OPERATOR_PASSKEY + link, operator=keys.id, options=options)

    async def enrol(self, request: Request) -> Response:
        """Enrols the passkey that the browser made."""
        link = request.path_params["link"]
        form = await read_form(request, (FIELD, "response"))
        check_token(form[FIELD], Access.browser_secret(request), OPERATOR_PASSKEY + link)
        keys, challenge = await self._offered(link)
        acting_operator(request, keys.id)
        await self._access.enrol(keys.id, challenge, passkey_answer(form["response"]), attempt(request).id)
        return RedirectResponse(OPERATOR_ENROLLED, status_code=_SEE_OTHER)

    async def enrolled(self, request: Request) -> Response:
        """Says that it worked."""
        return HTMLResponse(self._templates.render("operator_enrolled.html"))

    async def _offered(self, link: str) -> tuple[OperatorKeys, bytes]:
        operator, text = parse_link(link)
        try:
            challenge = parse_b64url(text, "challenge", ENROLMENT_CHALLENGE_BYTES)
        except Malformed as e:
            raise NotFound("this link opens nothing", hint="nomos operator passkey gives a new one") from e
        return check_offer(await self._access.keys(operator), challenge, int(time.time())), challenge

    def _new_ask(self, ask: Ask) -> bytes:
        return self._sealer.seal(msgspec.msgpack.encode(ask), purpose=_PURPOSE, tenant=SYSTEM_TENANT, name="")

    def _ask(self, sealed: bytes, now: int) -> Ask:
        try:
            ask = msgspec.msgpack.decode(
                self._sealer.open(sealed, purpose=_PURPOSE, tenant=SYSTEM_TENANT, name=""), type=Ask
            )
        except NomosError as e:
            raise Malformed("not a sign-in of this site", cause=e.detail) from e
        if now >= ask.until:
            raise Expired("the time of this page is over", hint="go back and sign in again")
        return ask

    def _page(self, template: str, request: Request, path: str, **values: object) -> Response:
        """A page with one form of a passkey, which is sent to ``path``."""
        secret = Access.browser_secret(request)
        values["options"] = msgspec.json.encode(values["options"]).decode()
        form = {"path": path, "token": form_token(secret, path)}
        response = HTMLResponse(self._templates.render(template, form=form, token_field=FIELD, **values))
        Access.give_browser_secret(response, secret)
        return response


def challenge_of(sealed: bytes) -> bytes:
    """What a passkey signs to sign in an operator; nothing else has this challenge."""
    return hashlib.sha256(_TAG + sealed).digest()
