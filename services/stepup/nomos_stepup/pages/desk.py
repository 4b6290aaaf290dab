"""What every page of approvers does: who is there, whether a form is theirs, and a page with its forms.

A form's token is tied to the browser's secret and to the address that the form is sent to.
"""

from __future__ import annotations

import time
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from nomos_stepup.pages.access import Access, SignedIn
from nomos_stepup.pages.refusals import acting
from nomos_web.csrf import FIELD, check_token, form_token
from nomos_web.forms import read_form
from nomos_web.templates import Templates

SIGN_IN: Final = "/sign-in"
SIGN_OUT: Final = "/sign-out"
_SEE_OTHER: Final = 303


class Desk:
    """Stands between the views and the browser."""

    def __init__(self, access: Access, templates: Templates) -> None:
        self._access = access
        self._templates = templates

    async def person(self, request: Request, now: int) -> SignedIn:
        """Who is signed in at ``now``, Unix seconds; from here on a refusal is theirs.

        Raises:
            SignedOut: nobody.
        """
        person = await self._access.person(request, now)
        acting(request, person.approver)
        return person

    async def form(self, request: Request, *fields: str) -> tuple[SignedIn, dict[str, str]]:
        """Who sends a form, and its fields, once its token is right; errors as :meth:`person` and ``check_token``."""
        person = await self.person(request, int(time.time()))
        form = await read_form(request, (FIELD, *fields))
        check_token(form[FIELD], person.secret, request.url.path)
        return person, form

    def to_sign_in(self, request: Request, approval: str) -> Response:
        """Leads to the page that signs in, and from there to an approval, if one is named."""
        # A link in another site's page, or in web mail: the browser keeps the cookie back. Coming from a page of ours
        # it does not; so the same address is asked for once more, from here.
        if request.headers.get("sec-fetch-site") == "cross-site":
            return self.page("continue.html", b"", {}, path=request.url.path)
        target = SIGN_IN + (f"?next={approval}" if approval else "")
        return RedirectResponse(target, status_code=_SEE_OTHER)

    def signed_in(self, template: str, person: SignedIn, paths: dict[str, str], **values: object) -> Response:
        """A page for somebody, with the way out."""
        account = {"name": person.approver.name or person.approver.id, "tenant": person.tenant}
        return self.page(template, person.secret, {**paths, "sign_out": SIGN_OUT}, account=account, **values)

    def page(self, template: str, secret: bytes, paths: dict[str, str], **values: object) -> Response:
        """A page; ``paths`` are those that its forms are sent to, by name."""
        forms = {name: {"path": path, "token": form_token(secret, path)} for name, path in paths.items()}
        if "options" in values:
            values["options"] = msgspec.json.encode(values["options"]).decode()
        return HTMLResponse(self._templates.render(template, forms=forms, token_field=FIELD, **values))
