"""The pages themselves. Each view: who is there, what they may see, and the ceremony that they ask for.

What is shown of a request comes from ``render.py`` alone, and the challenge under the approve button from the same
stored bytes. Looking needs a session; approving needs a passkey signature each time; refusing needs a session and is
one button, like approving. Opening an address changes nothing: whatever does is a form (``nomos_web.site`` checks where
it comes from).
"""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable
from typing import Final

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from nomos_stepup.approvercommands import SignOut
from nomos_stepup.approvers import DEFAULT_LABEL, LABEL_LENGTH_MAX, Approver, check_offer
from nomos_stepup.ceremonies import Ceremonies, actor_of
from nomos_stepup.domain import REASON_LENGTH_MAX, Approval, ApprovalState, may_sign
from nomos_stepup.index import Index, credential_of
from nomos_stepup.links import APPROVALS, ENROL, approval_path, parse_approval, parse_enrolment
from nomos_stepup.options import assertion_options, registration_options
from nomos_stepup.pages.access import Access, SignedIn
from nomos_stepup.pages.answers import passkey_answer
from nomos_stepup.pages.desk import SIGN_IN, SIGN_OUT, Desk
from nomos_stepup.pages.refusals import acting
from nomos_stepup.render import clean, render
from nomos_stepup.sessions import SECRET_BYTES, CloseSession, SignedOut
from nomos_stepup.store import StepupStore
from nomos_web.csrf import FIELD, check_token
from nomos_web.forms import read_form
from nomos_web.refusals import attempt, concerns
from nomos_web.site import View

ENROLLED: Final = "/enrolled"
#: Of what waits, so many are listed; the rest show as these are decided.
LISTED_MAX: Final = 200
_SEE_OTHER: Final = 303
_MINUTE: Final = 60


class Views:
    """The views of one service, in :meth:`routes`."""

    def __init__(
        self,
        access: Access,
        desk: Desk,
        *,
        ceremonies: Ceremonies,
        store: StepupStore,
        index: Index,
        refresh: Callable[[], Awaitable[None]],
    ) -> None:
        self._access = access
        self._desk = desk
        self._ceremonies = ceremonies
        self._store = store
        self._index = index
        self._refresh = refresh

    def routes(self) -> list[tuple[str, str, View]]:
        """Method, path and view of every page."""
        one = APPROVALS + "/{approval}"
        return [
            ("GET", "/", self.home),
            ("GET", SIGN_IN, self.sign_in_page),
            ("POST", SIGN_IN, self.sign_in),
            ("POST", SIGN_OUT, self.sign_out),
            ("GET", ENROL + "{link}", self.enrol_page),
            ("POST", ENROL + "{link}", self.enrol),
            ("GET", ENROLLED, self.enrolled),
            ("GET", APPROVALS, self.waiting),
            ("GET", one, self.approval),
            ("POST", one + "/approve", self.approve),
            ("POST", one + "/refuse", self.refuse),
        ]

    async def home(self, request: Request) -> Response:
        """Leads to the list."""
        return RedirectResponse(APPROVALS, status_code=_SEE_OTHER)

    # --- signing in ---------------------------------------------------------------------------------------------------

    async def sign_in_page(self, request: Request) -> Response:
        """Asks for a passkey; any of this installation's."""
        following = request.query_params.get("next", "")
        if following:
            parse_approval(following)
        now, secret = int(time.time()), self._access.browser_secret(request)
        ask = self._access.new_ask(now)
        options = assertion_options([], challenge=self._access.challenge(ask, now), party=self._ceremonies.party)
        paths = {"sign_in": SIGN_IN}
        response = self._desk.page("sign_in.html", secret, paths, ask=ask, next=following, options=options)
        self._access.give_browser_secret(response, secret)
        return response

    async def sign_in(self, request: Request) -> Response:
        """Opens a session."""
        form = await read_form(request, (FIELD, "ask", "next", "response"))
        check_token(form[FIELD], self._access.browser_secret(request), SIGN_IN)
        answer = passkey_answer(form["response"])
        approver = await self._holder(credential_of(answer))
        if approver is None:
            raise SignedOut(
                "this passkey belongs to no approver here", hint="enrol it first, with a link from an operator"
            )
        # Named, not proved: whoever knows a credential's id gets here.
        concerns(request, approver.tenant)
        self._access.check_open(approver.tenant)
        secret = os.urandom(SECRET_BYTES)
        session = await self._ceremonies.sign_in(
            approver,
            challenge=self._access.challenge(form["ask"], int(time.time())),
            response=answer,
            secret=secret,
            seconds=self._access.session_seconds,
            corr=attempt(request).id,
        )
        target = approval_path(parse_approval(form["next"])) if form["next"] else APPROVALS
        response = RedirectResponse(target, status_code=_SEE_OTHER)
        self._access.give_session(response, approver.tenant, session, secret)
        return response

    async def sign_out(self, request: Request) -> Response:
        """Ends this session, or every session of the person."""
        person, form = await self._desk.form(request, "everywhere")
        approver, corr = person.approver, attempt(request).id
        now, actor = int(time.time()), actor_of(approver)
        await self._store.decide_session(person.tenant, person.session.id, CloseSession(now=now), actor, corr)
        if form["everywhere"]:
            await self._store.decide_approver(person.tenant, approver.id, SignOut(now=now), actor, corr)
        response = RedirectResponse(SIGN_IN, status_code=_SEE_OTHER)
        self._access.take_session(response)
        return response

    # --- enrolling ----------------------------------------------------------------------------------------------------

    async def enrol_page(self, request: Request) -> Response:
        """What the link is for. Opening it uses nothing up."""
        link = request.path_params["link"]
        tenant, subject, challenge = parse_enrolment(link)
        self._access.check_open(tenant)
        approver = check_offer(await self._store.approver(tenant, subject), challenge, int(time.time()))
        secret = self._access.browser_secret(request)
        options = registration_options(approver, challenge=challenge, party=self._ceremonies.party)
        response = self._desk.page(
            "enrol.html",
            secret,
            {"enrol": ENROL + link},
            name=approver.name or approver.id,
            tenant=tenant,
            label=DEFAULT_LABEL,
            label_max=LABEL_LENGTH_MAX,
            options=options,
        )
        self._access.give_browser_secret(response, secret)
        return response

    async def enrol(self, request: Request) -> Response:
        """Enrols the passkey that the browser made."""
        link = request.path_params["link"]
        form = await read_form(request, (FIELD, "label", "response"))
        check_token(form[FIELD], self._access.browser_secret(request), ENROL + link)
        tenant, subject, challenge = parse_enrolment(link)
        self._access.check_open(tenant)
        approver = check_offer(await self._store.approver(tenant, subject), challenge, int(time.time()))
        acting(request, approver)
        await self._ceremonies.enrol(
            approver,
            challenge=challenge,
            response=passkey_answer(form["response"]),
            label=form["label"].strip() or DEFAULT_LABEL,
            actor=actor_of(approver),
            corr=attempt(request).id,
        )
        return RedirectResponse(ENROLLED, status_code=_SEE_OTHER)

    async def enrolled(self, request: Request) -> Response:
        """Says that it worked."""
        return self._desk.page("enrolled.html", b"", {}, sign_in=SIGN_IN)

    # --- approving ----------------------------------------------------------------------------------------------------

    async def waiting(self, request: Request) -> Response:
        """What waits in the person's tenant, oldest first."""
        now = int(time.time())
        try:
            person = await self._desk.person(request, now)
        except SignedOut:
            return self._desk.to_sign_in(request, "")
        pending = [a for a in self._index.of_tenant(person.tenant) if _state(a, now) is ApprovalState.PENDING]
        listed = [_listed(a, person, now) for a in pending[:LISTED_MAX]]
        return self._desk.signed_in("waiting.html", person, {}, listed=listed, more=len(pending) - len(listed))

    async def approval(self, request: Request) -> Response:
        """One request: all of it, and what may be done about it."""
        approval, now = parse_approval(request.path_params["approval"]), int(time.time())
        try:
            person = await self._desk.person(request, now)
        except SignedOut:
            return self._desk.to_sign_in(request, approval)
        state = await self._store.approval(person.tenant, approval)
        shown, stands = render(state.request, state.args_text), _state(state, now)
        signed = [await self._name(person.tenant, subject) for subject in state.approvers]
        approver = person.approver
        paths = {"approve": approval_path(approval) + "/approve", "refuse": approval_path(approval) + "/refuse"}
        return self._desk.signed_in(
            "approval.html",
            person,
            paths,
            shown=shown,
            state=stands.value,
            used=state.consumed_by is not None,
            signed=signed,
            missing=_missing(state),
            may_sign=may_sign(state, approver),
            has_signed=approver.id in state.approvers,
            asks=not {approver.id, approver.name}.isdisjoint(state.request.requesters),
            minutes=_minutes(state, now),
            reason_max=REASON_LENGTH_MAX,
            options=assertion_options([approver], challenge=state.challenge, party=self._ceremonies.party),
        )

    async def approve(self, request: Request) -> Response:
        """Approves with the signature that the browser got."""
        person, form = await self._desk.form(request, "response")
        approval = parse_approval(request.path_params["approval"])
        answer = passkey_answer(form["response"])
        await self._ceremonies.approve(person.approver, approval, answer, attempt(request).id)
        return RedirectResponse(approval_path(approval), status_code=_SEE_OTHER)

    async def refuse(self, request: Request) -> Response:
        """Refuses."""
        person, form = await self._desk.form(request, "reason")
        approval = parse_approval(request.path_params["approval"])
        await self._ceremonies.refuse(person.approver, approval, form["reason"].strip(), attempt(request).id)
        return RedirectResponse(approval_path(approval), status_code=_SEE_OTHER)

    # --- whom a view looks for ---------------------------------------------------------------------------------------

    async def _holder(self, credential_id: bytes) -> Approver | None:
        holder = self._index.holder_of(credential_id)
        if holder is None:
            # Enrolled a moment ago, perhaps: ask once before refusing.
            await self._refresh()
            holder = self._index.holder_of(credential_id)
        return await self._store.approver(*holder) if holder else None

    async def _name(self, tenant: str, subject: str) -> str:
        approver = await self._store.approver(tenant, subject)
        return subject if approver is None else approver.name or subject


def _state(approval: Approval, now: int) -> ApprovalState:
    """Where it stands; past its time a pending one is over, whether or not that is recorded yet."""
    is_over = approval.state is ApprovalState.PENDING and now >= approval.request.expires_at
    return ApprovalState.EXPIRED if is_over else approval.state


def _missing(approval: Approval) -> str:
    """Whose approval is still missing, as the end of a sentence; empty where nobody's is."""
    told = [
        ("one person" if number == 1 else f"{number} people") + (f" of the group {group}" if group else "")
        for group, number in approval.missing.items()
        if number
    ]
    return " and ".join(told)


def _minutes(approval: Approval, now: int) -> int:
    return max(0, approval.request.expires_at - now + _MINUTE - 1) // _MINUTE


def _listed(approval: Approval, person: SignedIn, now: int) -> dict[str, object]:
    request = approval.request
    return {
        "path": approval_path(approval.id),
        "agent": request.agent,
        "action": clean(request.action),
        "resource": clean(request.resource),
        "risk": request.risk,
        "minutes": _minutes(approval, now),
        "missing": _missing(approval) if approval.request.needed > 1 or approval.request.quorums else "",
        "has_signed": person.approver.id in approval.approvers,
    }
