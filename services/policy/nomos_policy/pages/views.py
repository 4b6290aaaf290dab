"""The pages themselves: a tenant's policies and drafts, and one draft; one policy of it is ``editing``'s.

    set in force -> draft -> (form -> text, shown before it is kept) -> draft -> tried -> put in force

Only a draft is edited. What is shown is what is kept: each form names the text that it began from by its hash, and an
edit of another text is refused. Putting a draft in force names the draft and the revision that were looked at. Every
change goes through the same verbs as the command line's (``changing``), under the operator's id.

What a person typed is not lost by an error: the form comes back with it, and the refusal is recorded.

Trusted / not trusted: stepup, for who the operator is (``nomos_web.signin``).
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from nomos.errors import Malformed, NomosError, NotFound
from nomos_policy.asked import facts_of
from nomos_policy.changing import ActivateParams, ChangeAdmin, DiscardParams, SaveParams
from nomos_policy.explain import explain
from nomos_policy.pages.desk import Desk, draft_path, listed, operator_of
from nomos_policy.pages.editing import EDIT_FIELDS, Editing
from nomos_policy.pages.refusals import acting
from nomos_policy.policyset import load_policies
from nomos_policy.store import PolicySets
from nomos_policy.visual.document import Block
from nomos_policy.vocabulary import Vocabulary
from nomos_web.signin import SignedIn, SignIn
from nomos_web.site import Refused, View, status_of

#: Policies, tenants and drafts that a page lists; the rest is counted.
LISTED_MAX: Final = 200
_TENANT: Final = "/t/{tenant}"
_DRAFTS: Final = _TENANT + "/drafts"
_DRAFT: Final = _DRAFTS + "/{draft}"
_POLICY: Final = _DRAFT + "/policy"
_TRY: Final = ("agent", "action", "resource", "arguments", "cosigned")
_SEE_OTHER: Final = 303


class Views:
    """The views of one service, in :meth:`routes`."""

    def __init__(
        self,
        sign_in: SignIn,
        desk: Desk,
        editing: Editing,
        *,
        sets: PolicySets,
        vocabulary: Vocabulary,
        changes: ChangeAdmin,
        refresh: Callable[[], Awaitable[None]],
        refused: Refused,
    ) -> None:
        self._sign_in = sign_in
        self._desk = desk
        self._editing = editing
        self._sets = sets
        self._vocabulary = vocabulary
        self._changes = changes
        self._refresh = refresh
        self._refused = refused

    def routes(self) -> list[tuple[str, str, View]]:
        """Method, path and view of every page."""
        page, form = self._sign_in.page, self._sign_in.form
        return [
            ("GET", "/", page(self.home)),
            ("GET", _TENANT, page(self.tenant)),
            ("POST", _DRAFTS, form(self.begin, ("draft", "why"))),
            ("GET", _DRAFT, page(self.draft)),
            ("POST", _DRAFT + "/try", form(self.attempted, _TRY)),
            ("POST", _DRAFT + "/activate", form(self.activate, ("why", "sha256", "revision"))),
            ("POST", _DRAFT + "/discard", form(self.discard, ("why",))),
            ("GET", _POLICY, page(self._editing.policy)),
            ("POST", _POLICY, form(self._editing.edit, EDIT_FIELDS)),
        ]

    # --- a tenant -----------------------------------------------------------------------------------------------------

    async def home(self, request: Request, person: SignedIn) -> Response:
        """The tenants that the operator may act for."""
        acting(request, person.operator)
        tenants = [person.tenant] if person.tenant else sorted(self._desk.directory.tenants)
        shown = [{"name": one, "path": f"/t/{one}"} for one in tenants[:LISTED_MAX]]
        return self._desk.page("tenants.html", person, {}, listed=shown, more=len(tenants) - len(shown))

    async def tenant(self, request: Request, person: SignedIn) -> Response:
        """The policies in force, and the drafts."""
        tenant = self._desk.tenant(request, person)
        await self._refresh()
        state, in_force = await self._desk.store.history(tenant), await self._sets.in_force(tenant)
        drafts = [listed(tenant, one) for _, one in sorted(state.drafts.items())]
        return self._desk.page(
            "tenant.html",
            person,
            {"begin": f"/t/{tenant}/drafts"},
            tenant=tenant,
            revision=state.revision,
            why=state.in_force.why if state.in_force else "",
            policies=[{"id": one.id, "description": one.description} for one in in_force.policies[:LISTED_MAX]],
            total=len(in_force.policies),
            quarantined=[{"id": one.id, "error": one.error} for one in in_force.quarantined[:LISTED_MAX]],
            drafts=drafts,
        )

    async def begin(self, request: Request, person: SignedIn, form: dict[str, str]) -> Response:
        """Begins a draft with what is in force."""
        tenant = self._desk.tenant(request, person)
        state = await self._desk.store.history(tenant)
        if state.in_force is None:
            raise NotFound("this tenant has no policies yet", hint="begin with a pack: nomos policy pack")
        name = form["draft"].strip()
        params = SaveParams(draft=name, text=state.text_of(state.in_force), why=form["why"], if_sha256="")
        await self._changes.save(operator_of(request, person, tenant), params)
        return RedirectResponse(draft_path(tenant, name), status_code=_SEE_OTHER)

    # --- a draft ------------------------------------------------------------------------------------------------------

    async def draft(self, request: Request, person: SignedIn) -> Response:
        """Its policies, and what may be done with it."""
        return await self._draft(request, person)

    async def attempted(self, request: Request, person: SignedIn, form: dict[str, str]) -> Response:
        """What an agent's request would be answered with this draft. Decides and records nothing."""
        tenant, state, draft = await self._desk.named(request, person)
        try:
            arguments = json.loads(form["arguments"] or "{}")
        except (ValueError, RecursionError) as error:
            wrong = Malformed("the arguments are not JSON", cause=str(error))
            return await self._draft(request, person, tried=form, error=wrong)
        try:
            agent = self._desk.directory.agent(tenant, form["agent"].strip())
            policies = await asyncio.to_thread(load_policies, state.text_of(draft), self._vocabulary, revision=0)
            facts = facts_of(
                policies,
                tenant=tenant,
                app=agent.app,
                agent=agent.agent,
                env=agent.env,
                action=form["action"].strip(),
                resource=form["resource"].strip(),
                args=arguments,
                connection="",
                cosigned=bool(form["cosigned"]),
                now_seconds=int(time.time()),
            )
            found = await asyncio.to_thread(explain, facts)
        except NomosError as error:
            return await self._draft(request, person, tried=form, error=error)
        answer: dict[str, object] = {
            "outcome": {"allow": "Allowed", "deny": "Denied", "step_up": "A human must approve"}[found.outcome],
            "reason": found.reason,
            "policies": [{"id": one.id, "description": one.description} for one in found.decided_by],
            "changes": found.changes,
        }
        return await self._draft(request, person, tried=form, answer=answer)

    async def activate(self, request: Request, person: SignedIn, form: dict[str, str]) -> Response:
        """Puts it in force, if both it and what is in force are what the operator saw."""
        tenant, _, draft = await self._desk.named(request, person)
        if not form["revision"].isascii() or not form["revision"].isdigit():
            raise Malformed("not a form of this page")
        params = ActivateParams(
            draft=draft.draft, why=form["why"], if_revision=int(form["revision"][:10]), if_sha256=form["sha256"]
        )
        done = await self._changes.activate(operator_of(request, person, tenant), params)
        lagging = [str(one) for one in done["lagging"]] if isinstance(done["lagging"], list) else []
        return self._desk.page("activated.html", person, {}, tenant=tenant, revision=done["revision"], lagging=lagging)

    async def discard(self, request: Request, person: SignedIn, form: dict[str, str]) -> Response:
        """Ends it."""
        tenant, _, draft = await self._desk.named(request, person)
        params = DiscardParams(draft=draft.draft, why=form["why"])
        await self._changes.discard(operator_of(request, person, tenant), params)
        return RedirectResponse(f"/t/{tenant}", status_code=_SEE_OTHER)

    async def _draft(
        self,
        request: Request,
        person: SignedIn,
        *,
        tried: dict[str, str] | None = None,
        answer: dict[str, object] | None = None,
        error: NomosError | None = None,
    ) -> Response:
        tenant, state, draft = await self._desk.named(request, person)
        document = await self._desk.document(state, draft)
        path = draft_path(tenant, draft.draft)
        shown = None if error is None else await self._refused(request, error)
        response = self._desk.page(
            "draft.html",
            person,
            {"try": f"{path}/try", "activate": f"{path}/activate", "discard": f"{path}/discard"},
            tenant=tenant,
            draft=listed(tenant, draft),
            sha256=draft.sha256,
            revision=state.revision,
            is_old=draft.based_on != state.revision,
            add=f"{path}/policy",
            policies=[_named_block(path, one) for one in document.blocks[:LISTED_MAX]],
            total=len(document.blocks),
            tried={name: (tried or {}).get(name, "") for name in _TRY},
            answer=answer,
            error=shown,
        )
        response.status_code = 200 if shown is None else status_of(shown)
        return response


def _named_block(path: str, block: Block) -> dict[str, object]:
    annotations = dict(block.model.annotations) if block.model else {}
    return {
        "id": block.id,
        "path": f"{path}/policy?id={quote(block.id, safe='')}" if block.id else "",
        "effect": block.model.effect if block.model else "",
        "description": annotations.get("description") or "",
        "line": block.line,
        "reason": block.reason,
    }
