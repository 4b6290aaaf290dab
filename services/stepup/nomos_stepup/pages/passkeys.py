"""A person's own passkeys: which there are, what they are called, a new one, and one that goes.

Looking and renaming need a session. A new passkey, and taking one out of use, need a signature of a passkey that is
enrolled already (``deeds.py``); the page to which a new one leads is that of an enrolment link, which nobody else has.
"""

from __future__ import annotations

import time
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from nomos.errors import NotFound
from nomos_stepup.approvercommands import RenamePasskey
from nomos_stepup.approvers import DEFAULT_LABEL, LABEL_LENGTH_MAX, PASSKEYS_MAX, Approver
from nomos_stepup.base64url import b64url
from nomos_stepup.ceremonies import Ceremonies, actor_of
from nomos_stepup.deeds import Deeds, What, name_of
from nomos_stepup.facts import Passkey
from nomos_stepup.links import enrolment_path
from nomos_stepup.options import assertion_options
from nomos_stepup.pages.access import SignedIn
from nomos_stepup.pages.answers import passkey_answer
from nomos_stepup.pages.desk import Desk
from nomos_stepup.render import clean
from nomos_stepup.sessions import SignedOut
from nomos_stepup.store import StepupStore
from nomos_web.refusals import attempt
from nomos_web.site import View

PASSKEYS: Final = "/passkeys"
ADD: Final = f"{PASSKEYS}/add"
_ONE: Final = PASSKEYS + "/{passkey}"
_SEE_OTHER: Final = 303


class PasskeyViews:
    """The views, in :meth:`routes`."""

    def __init__(
        self, desk: Desk, *, ceremonies: Ceremonies, store: StepupStore, deeds: Deeds, enrolment_seconds: int
    ) -> None:
        self._desk = desk
        self._ceremonies = ceremonies
        self._store = store
        self._deeds = deeds
        self._enrolment_seconds = enrolment_seconds

    def routes(self) -> list[tuple[str, str, View]]:
        """Method, path and view of every page."""
        return [
            ("GET", PASSKEYS, self.passkeys),
            ("POST", ADD, self.add),
            ("POST", _ONE + "/rename", self.rename),
            ("POST", _ONE + "/remove", self.remove),
        ]

    async def passkeys(self, request: Request) -> Response:
        """The list."""
        now = int(time.time())
        try:
            person = await self._desk.person(request, now)
        except SignedOut:
            return self._desk.to_sign_in(request, "")
        approver = person.approver
        called = await self._store.labels(person.tenant, approver.id)
        paths = {"add": ADD}
        shown = []
        for number, one in enumerate(approver.passkeys):
            name = name_of(one.credential_id)
            paths |= {f"rename{number}": f"{PASSKEYS}/{name}/rename", f"remove{number}": f"{PASSKEYS}/{name}/remove"}
            shown.append(self._shown(person, one, called.get(one.credential_id, ""), now))
        return self._desk.signed_in(
            "passkeys.html",
            person,
            paths,
            passkeys=shown,
            label_max=LABEL_LENGTH_MAX,
            passkeys_max=PASSKEYS_MAX,
            new=self._asked(approver, "add", "", now),
        )

    async def add(self, request: Request) -> Response:
        """Opens an enrolment for a new passkey, and leads to its page."""
        person, form = await self._desk.form(request, "ask", "response")
        challenge = self._deeds.check(person.approver, "add", "", form["ask"], int(time.time()))
        offered, secret = await self._ceremonies.offer(
            person.approver,
            challenge=challenge,
            response=passkey_answer(form["response"]),
            seconds=self._enrolment_seconds,
            corr=attempt(request).id,
        )
        return RedirectResponse(enrolment_path(offered, secret), status_code=_SEE_OTHER)

    async def rename(self, request: Request) -> Response:
        """Calls one something else."""
        person, form = await self._desk.form(request, "label")
        one = _found(person.approver, request.path_params["passkey"])
        command = RenamePasskey(credential_id=one.credential_id, label=form["label"].strip(), now=int(time.time()))
        actor, corr = actor_of(person.approver), attempt(request).id
        await self._store.decide_approver(person.tenant, person.approver.id, command, actor, corr)
        return RedirectResponse(PASSKEYS, status_code=_SEE_OTHER)

    async def remove(self, request: Request) -> Response:
        """Takes one out of use. Sessions that it opened are over, perhaps this one."""
        person, form = await self._desk.form(request, "ask", "response")
        one = _found(person.approver, request.path_params["passkey"])
        name = name_of(one.credential_id)
        await self._ceremonies.remove(
            person.approver,
            one,
            challenge=self._deeds.check(person.approver, "remove", name, form["ask"], int(time.time())),
            response=passkey_answer(form["response"]),
            corr=attempt(request).id,
        )
        return RedirectResponse(PASSKEYS, status_code=_SEE_OTHER)

    def _shown(self, person: SignedIn, one: Passkey, label: str, now: int) -> dict[str, object]:
        return {
            # A name was checked when it was given, and marked here all the same: a log may be older than the check.
            "label": clean(label) or DEFAULT_LABEL,
            "raw": label,
            "is_synced": one.backup_eligible,
            "is_here": b64url(one.credential_id) == person.session.credential_id,
            "gone": self._asked(person.approver, "remove", name_of(one.credential_id), now),
        }

    def _asked(self, approver: Approver, what: What, passkey: str, now: int) -> dict[str, str]:
        """What a form of a deed carries."""
        ask, challenge = self._deeds.ask(approver, what, passkey, now)
        options = assertion_options([approver], challenge=challenge, party=self._ceremonies.party)
        return {"ask": ask, "options": msgspec.json.encode(options).decode()}


def _found(approver: Approver, name: str) -> Passkey:
    for one in approver.passkeys:
        if name_of(one.credential_id) == name:
            return one
    raise NotFound("you have no such passkey", hint="it may have been removed; look again")
