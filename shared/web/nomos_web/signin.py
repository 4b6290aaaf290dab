"""Operators at the pages of a service: who is signed in, and the way to stepup's sign-in page and back (ADR 0032).

A service that serves pages to operators uses this and nothing else for it:

    sign_in = SignIn(service="policy", site="https://approve.example", ask=ask, templates=templates)
    Site([("GET", "/", sign_in.page(home)), ("POST", "/save", sign_in.form(save, ("text",))), *sign_in.routes()], ...)

Order of a sign-in: the browser gets a *verifier* in a cookie and goes to stepup with its hash; stepup sends it back
with a one-time code; the service redeems the code with the verifier over the bus, and puts the secret that it is given
into the session's cookie. So a code is of use only in the browser that began, and no cookie that was there before
becomes a session. The session's state is stepup's: it is asked after for every request, so an end is in force at the
next one, and where stepup does not answer nobody is signed in.

Nothing of a request says where the browser goes: stepup's address is given, stepup has ours, and the page that was
asked for is kept in the cookie as a path of this site.

What is refused the site's owner records, and bounds what strangers can make it record.

Trusted / not trusted: stepup, for who is signed in. Who steals a session's cookie is that operator on this service's
pages until the session ends.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import os
from collections.abc import Awaitable, Callable, Collection
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from nomos.client import error_of
from nomos.errors import Malformed, NotPermitted, Refused
from nomos.messages import Decoder, Failure, encode
from nomos.signin import SECRET_BYTES, AskSession, OperatorSignedIn, OperatorSignedOut, RedeemSignIn, is_code, state_of
from nomos_web.cookies import clear_cookie, cookie, set_cookie
from nomos_web.csrf import FIELD, check_token, form_token
from nomos_web.forms import read_form
from nomos_web.site import View
from nomos_web.templates import Templates

#: Sends one request over the bus: subject and payload, gives the answer; raises Unavailable.
Ask = Callable[[str, bytes], Awaitable[bytes]]
RETURN: Final = "/signed-in"
SIGN_OUT: Final = "/sign-out"
#: How long a sign-in may take from page to page, in seconds.
SIGN_IN_SECONDS: Final = 600
PATH_CHARS_MAX: Final = 1_024
_SEE_OTHER: Final = 303
_redeemed = Decoder.of(OperatorSignedIn | Failure, "redeem sign-in reply")
_answered = Decoder.of(OperatorSignedIn | OperatorSignedOut | Failure, "ask session reply")


class NotSignedIn(Refused):
    """No operator is signed in here."""

    code = "signed_out"


class SignedIn(msgspec.Struct, frozen=True, kw_only=True):
    """The operator at the browser, whose session holds.

    Attributes:
        operator: subject id; the actor of what they do.
        role: ``operator`` or ``tenant-operator``.
        tenant: the one tenant that they may act for; empty for all of them and the installation.
        session: its id.
        expires_at: Unix seconds.
        secret: ties the forms of their pages to their browser.
    """

    operator: str
    role: str
    tenant: str
    session: str
    expires_at: int
    secret: bytes

    def check_tenant(self, tenant: str) -> None:
        """Checks that the operator may act for ``tenant``.

        Raises:
            NotPermitted: they may not.
        """
        if self.tenant and tenant != self.tenant:
            raise NotPermitted("this operator acts for another tenant")

    def token(self, path: str) -> str:
        """The token (field ``csrf.FIELD``) of the form that is sent to ``path``."""
        return form_token(self.secret, path)


#: A view that is told who is signed in.
OperatorView = Callable[[Request, SignedIn], Awaitable[Response]]
#: The same for a form: its fields, besides the token, which has been checked.
OperatorForm = Callable[[Request, SignedIn, dict[str, str]], Awaitable[Response]]


class SignIn:
    """The sign-in of one service's pages."""

    def __init__(self, *, service: str, site: str, ask: Ask, templates: Templates) -> None:
        """Wires it.

        Args:
            service: this one's name, as stepup's configuration has it.
            site: origin of stepup's pages.
            ask: the service's connection to the bus.
            templates: has this package's ``going.html``.
        """
        self._service = service
        self._site = site
        self._ask = ask
        self._templates = templates
        # Cookies know no ports: the name keeps two services on one host apart.
        self._session, self._begun = f"nomos-{service}-session", f"nomos-{service}-begun"

    def routes(self) -> list[tuple[str, str, View]]:
        """Method, path and view: where stepup sends the browser back to, and signing out."""
        return [("GET", RETURN, self.returned), ("POST", SIGN_OUT, self.form(self._sign_out, ()))]

    def page(self, view: OperatorView) -> View:
        """A page for operators: who is not signed in is led to sign in, and back to this page."""

        async def led(request: Request) -> Response:
            try:
                person = await self.operator(request)
            except NotSignedIn:
                # From another site the browser keeps the session's cookie back; from a page of ours it does not.
                if request.headers.get("sec-fetch-site") == "cross-site":
                    return self._go_on(request.url.path)
                return self.to_sign_in(request)
            return await view(request, person)

        return led

    def form(self, view: OperatorForm, fields: Collection[str]) -> View:
        """A form of operators: without a session, or without the form's own token, it is refused."""

        async def checked(request: Request) -> Response:
            person = await self.operator(request)
            form = await read_form(request, (FIELD, *fields))
            check_token(form[FIELD], person.secret, request.url.path)
            return await view(request, person, form)

        return checked

    async def operator(self, request: Request) -> SignedIn:
        """Who is signed in, asked of stepup now.

        Raises:
            NotSignedIn: nobody.
            Unavailable: stepup does not answer.
        """
        session, _, secret = cookie(request, self._session).partition(".")
        octets = _octets(secret)
        if octets is None:
            raise NotSignedIn("nobody is signed in")
        reply = await self._answer(AskSession(v=1, session=session, secret=secret))
        if isinstance(reply, OperatorSignedOut):
            raise NotSignedIn(reply.why)
        return SignedIn(
            operator=reply.operator,
            role=reply.role,
            tenant=reply.tenant,
            session=reply.session,
            expires_at=reply.expires_at,
            secret=octets,
        )

    def to_sign_in(self, request: Request) -> Response:
        """Leads the browser to stepup, and remembers which page was asked for."""
        verifier, path = os.urandom(SECRET_BYTES), request.url.path
        target = f"{self._site}/operator/sign-in?service={self._service}&state={state_of(verifier)}"
        response = RedirectResponse(target, status_code=_SEE_OTHER)
        kept = f"{_text(verifier)}.{_text((path if is_local(path) else '/').encode())}"
        set_cookie(response, self._begun, kept, seconds=SIGN_IN_SECONDS, samesite="lax")
        return response

    async def returned(self, request: Request) -> Response:
        """Redeems the code with which stepup sent the browser back.

        Raises:
            NotPermitted: this browser did not begin this sign-in.
            NomosError: stepup refuses the code.
        """
        code, state = request.query_params.get("code", ""), request.query_params.get("state", "")
        verifier_text, _, path_text = cookie(request, self._begun).partition(".")
        verifier = _octets(verifier_text)
        if verifier is None or not hmac.compare_digest(state_of(verifier).encode(), state.encode()):
            raise NotPermitted("this browser did not begin this sign-in", hint="open the page again")
        # Here and not at stepup: strangers must not make the log of the installation longer by what they make up.
        if not is_code(code):
            raise Malformed("not a code of a sign-in")
        asked = RedeemSignIn(v=1, code=code, verifier=verifier_text)
        reply = _redeemed.decode(await self._ask("svc.stepup.redeem", encode(asked)))
        if isinstance(reply, Failure):
            raise error_of(reply)
        if not isinstance(reply, OperatorSignedIn) or not reply.secret:
            raise Malformed("not a redeem sign-in reply")
        # Not a redirect: the chain began at another site, and a browser would keep the new cookie back.
        response = self._go_on(_path(path_text))
        set_cookie(response, self._session, f"{reply.session}.{reply.secret}")
        clear_cookie(response, self._begun)
        return response

    async def _sign_out(self, request: Request, person: SignedIn, form: dict[str, str]) -> Response:
        asked = AskSession(v=1, session=person.session, secret=_text(person.secret), end=True)
        await self._answer(asked)
        response = self._go_on("/")
        clear_cookie(response, self._session)
        return response

    async def _answer(self, asked: AskSession) -> OperatorSignedIn | OperatorSignedOut:
        reply = _answered.decode(await self._ask("svc.stepup.session", encode(asked)))
        if isinstance(reply, Failure):
            raise error_of(reply)
        if not isinstance(reply, OperatorSignedIn | OperatorSignedOut):
            raise Malformed("not an ask session reply")
        return reply

    def _go_on(self, path: str) -> Response:
        target = path if is_local(path) else "/"
        return HTMLResponse(self._templates.render("going.html", path=target))


def is_local(path: str) -> bool:
    """Whether ``path`` is one of this site, whatever a browser makes of it: ``//host`` and ``/\\host`` are not."""
    return (
        len(path) <= PATH_CHARS_MAX
        and path.isascii()
        and path.isprintable()
        and path.startswith("/")
        and not path.startswith("//")
        and not {"\\", ";", " "} & set(path)
    )


def _path(text: str) -> str:
    """The page that was asked for, from the cookie; the first page where it holds none."""
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode("ascii")
    except (ValueError, binascii.Error):
        return "/"


def _octets(text: str) -> bytes | None:
    """A secret of a cookie, or None where it is none."""
    try:
        octets = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (ValueError, binascii.Error):
        return None
    return octets if len(octets) == SECRET_BYTES and _text(octets) == text else None


def _text(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode("ascii")
