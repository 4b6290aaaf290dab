"""The pages themselves: a tenant's policies and drafts, one draft, one policy of it as a form.

    set in force -> draft -> (form -> text, shown before it is kept) -> draft -> tried -> put in force

Only a draft is edited. What is shown is what is kept: each form names the text that it began from by its hash, and an
edit of another text is refused. Putting a draft in force names the draft and the revision that were looked at. Every
change goes through the same verbs as the command line's (``changing``), under the operator's id.

What a person typed is not lost by an error: the form comes back with it, and the refusal is recorded.

Trusted / not trusted: stepup, for who the operator is (``nomos_web.signin``). A path names the tenant; whether the
operator may act for it is checked for each request before anything of it is read.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from typing import Final
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from nomos.errors import Conflict, LimitExceeded, Malformed, MalformedPolicy, NomosError, NotFound
from nomos_policy.asked import facts_of
from nomos_policy.changing import ActivateParams, ChangeAdmin, DiscardParams, SaveParams
from nomos_policy.explain import explain
from nomos_policy.history import DraftSaved, PolicyHistory
from nomos_policy.pages.forms import (
    ACTIONS,
    CLAUSES,
    CONDITIONS_MAX,
    EFFECTS,
    FIELDS,
    OPERATORS,
    ROWS_MAX,
    SCOPES,
    SPARE,
    fields_of,
    model_of,
)
from nomos_policy.pages.refusals import acting
from nomos_policy.policyset import compile_policies, load_policies
from nomos_policy.store import PolicySets, PolicyStore
from nomos_policy.visual.document import Block, Document, add, read_document, remove, replace, rewrite
from nomos_policy.vocabulary import Vocabulary
from nomos_runtime.directory import Directory
from nomos_runtime.responder import Operator, Responder
from nomos_web.csrf import FIELD
from nomos_web.refusals import attempt
from nomos_web.signin import SIGN_OUT, SignedIn, SignIn
from nomos_web.site import Refused, View, status_of
from nomos_web.templates import Templates

#: Policies, tenants and drafts that a page lists; the rest is counted.
LISTED_MAX: Final = 200
_TENANT: Final = "/t/{tenant}"
_DRAFTS: Final = _TENANT + "/drafts"
_DRAFT: Final = _DRAFTS + "/{draft}"
_POLICY: Final = _DRAFT + "/policy"
_EDIT: Final = (*FIELDS, "policy", "sha256", "why", "do", "text")
_TRY: Final = ("agent", "action", "resource", "arguments", "cosigned")
_SEE_OTHER: Final = 303
_CHOICES: Final = {
    "effects": EFFECTS,
    "scopes": SCOPES,
    "actions": ACTIONS,
    "clauses": CLAUSES,
    "operators": OPERATORS,
}


class Views:
    """The views of one service, in :meth:`routes`."""

    def __init__(
        self,
        sign_in: SignIn,
        *,
        templates: Templates,
        responder: Responder,
        directory: Directory,
        store: PolicyStore,
        sets: PolicySets,
        vocabulary: Vocabulary,
        changes: ChangeAdmin,
        refresh: Callable[[], Awaitable[None]],
        refused: Refused,
    ) -> None:
        self._sign_in = sign_in
        self._templates = templates
        self._responder = responder
        self._directory = directory
        self._store = store
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
            ("GET", _POLICY, page(self.policy)),
            ("POST", _POLICY, form(self.edit, _EDIT)),
        ]

    # --- a tenant -----------------------------------------------------------------------------------------------------

    async def home(self, request: Request, person: SignedIn) -> Response:
        """The tenants that the operator may act for."""
        acting(request, person.operator)
        tenants = [person.tenant] if person.tenant else sorted(self._directory.tenants)
        listed = [{"name": one, "path": f"/t/{one}"} for one in tenants[:LISTED_MAX]]
        return self._page("tenants.html", person, {}, listed=listed, more=len(tenants) - len(listed))

    async def tenant(self, request: Request, person: SignedIn) -> Response:
        """The policies in force, and the drafts."""
        tenant = self._tenant(request, person)
        await self._refresh()
        state, in_force = await self._store.history(tenant), await self._sets.in_force(tenant)
        drafts = [_listed(tenant, one) for _, one in sorted(state.drafts.items())]
        return self._page(
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
        tenant = self._tenant(request, person)
        state = await self._store.history(tenant)
        if state.in_force is None:
            raise NotFound("this tenant has no policies yet", hint="begin with a pack: nomos policy pack")
        name = form["draft"].strip()
        params = SaveParams(draft=name, text=state.text_of(state.in_force), why=form["why"], if_sha256="")
        await self._changes.save(_operator(request, person, tenant), params)
        return RedirectResponse(_draft_path(tenant, name), status_code=_SEE_OTHER)

    # --- a draft ------------------------------------------------------------------------------------------------------

    async def draft(self, request: Request, person: SignedIn) -> Response:
        """Its policies, and what may be done with it."""
        return await self._draft(request, person)

    async def attempted(self, request: Request, person: SignedIn, form: dict[str, str]) -> Response:
        """What an agent's request would be answered with this draft. Decides and records nothing."""
        tenant, state, draft = await self._named(request, person)
        try:
            arguments = json.loads(form["arguments"] or "{}")
        except (ValueError, RecursionError) as error:
            wrong = Malformed("the arguments are not JSON", cause=str(error))
            return await self._draft(request, person, tried=form, error=wrong)
        try:
            agent = self._directory.agent(tenant, form["agent"].strip())
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
        tenant, _, draft = await self._named(request, person)
        if not form["revision"].isascii() or not form["revision"].isdigit():
            raise Malformed("not a form of this page")
        params = ActivateParams(
            draft=draft.draft, why=form["why"], if_revision=int(form["revision"][:10]), if_sha256=form["sha256"]
        )
        done = await self._changes.activate(_operator(request, person, tenant), params)
        lagging = [str(one) for one in done["lagging"]] if isinstance(done["lagging"], list) else []
        return self._page("activated.html", person, {}, tenant=tenant, revision=done["revision"], lagging=lagging)

    async def discard(self, request: Request, person: SignedIn, form: dict[str, str]) -> Response:
        """Ends it."""
        tenant, _, draft = await self._named(request, person)
        params = DiscardParams(draft=draft.draft, why=form["why"])
        await self._changes.discard(_operator(request, person, tenant), params)
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
        tenant, state, draft = await self._named(request, person)
        document = await asyncio.to_thread(read_document, state.text_of(draft))
        path = _draft_path(tenant, draft.draft)
        shown = None if error is None else await self._refused(request, error)
        response = self._page(
            "draft.html",
            person,
            {"try": f"{path}/try", "activate": f"{path}/activate", "discard": f"{path}/discard"},
            tenant=tenant,
            draft=_listed(tenant, draft),
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

    # --- a policy -----------------------------------------------------------------------------------------------------

    async def policy(self, request: Request, person: SignedIn) -> Response:
        """One policy as a form, or a new one where the address names none."""
        tenant, state, draft = await self._named(request, person)
        document = await asyncio.to_thread(read_document, state.text_of(draft))
        policy = request.query_params.get("id", "")
        block = document.block(policy) if policy else None
        fields, reason = _fields(block)
        return self._form(person, tenant, draft, policy, fields, text=block.text if block else "", reason=reason)

    async def edit(self, request: Request, person: SignedIn, form: dict[str, str]) -> Response:
        """Shows what an edit would write, or keeps it in the draft."""
        tenant, state, draft = await self._named(request, person)
        policy = form["policy"]
        fields = {name: form[name] for name in FIELDS if form[name]}
        # A browser sends line ends as CR LF.
        typed = form["text"].replace("\r\n", "\n")
        document = await asyncio.to_thread(read_document, state.text_of(draft))
        block = document.block(policy) if policy else None
        reason = ""
        if form["do"] in ("text", "remove"):
            # What was typed into the fields belongs to the other form.
            fields, reason = _fields(block)
        try:
            text = await asyncio.to_thread(_edited, document, policy, fields, form, typed)
            if form["do"] != "show":
                params = SaveParams(draft=draft.draft, text=text, why=form["why"], if_sha256=form["sha256"])
                await self._changes.save(_operator(request, person, tenant), params)
                return RedirectResponse(_draft_path(tenant, draft.draft), status_code=_SEE_OTHER)
            # What could not be kept is not shown as if it could.
            await asyncio.to_thread(compile_policies, text, self._vocabulary)
            after = await asyncio.to_thread(_written, text, policy, fields, block)
        except (Malformed, Conflict) as error:
            return self._form(
                person,
                tenant,
                draft,
                policy,
                fields,
                text=block.text if block else "",
                typed=typed,
                why=form["why"],
                sha256=form["sha256"],
                reason=reason,
                error=await self._refused(request, error),
            )
        return self._form(
            person, tenant, draft, policy, fields, text=block.text if block else "", after=after, why=form["why"]
        )

    def _form(
        self,
        person: SignedIn,
        tenant: str,
        draft: DraftSaved,
        policy: str,
        fields: dict[str, str],
        *,
        text: str,
        after: str = "",
        typed: str = "",
        why: str = "",
        sha256: str = "",
        reason: str = "",
        error: NomosError | None = None,
    ) -> Response:
        path = _draft_path(tenant, draft.draft)
        response = self._page(
            "policy.html",
            person,
            {"edit": f"{path}/policy"},
            tenant=tenant,
            draft=_listed(tenant, draft),
            policy=policy,
            # What the form began from, also when it comes back with an error.
            sha256=sha256 or draft.sha256,
            fields=dict.fromkeys(FIELDS, "") | fields,
            conditions=_shown_rows(fields),
            text=text,
            typed=typed or text,
            after=after,
            why=why or draft.why,
            reason=reason,
            error=error,
            choices={
                "effects": EFFECTS,
                "scopes": SCOPES,
                "actions": ACTIONS,
                "clauses": CLAUSES,
                "operators": OPERATORS,
            },
            known=sorted(self._vocabulary.catalogue.actions),
        )
        response.status_code = 200 if error is None else status_of(error)
        return response

    # --- how a view talks ---------------------------------------------------------------------------------------------

    def _tenant(self, request: Request, person: SignedIn) -> str:
        """The tenant that the path names, once the operator may act for it.

        Raises:
            NotPermitted: they may not.
            NotFound: there is none of this name.
            Revoked: it is closed.
        """
        acting(request, person.operator)
        tenant = str(request.path_params["tenant"])
        person.check_tenant(tenant)
        if not self._directory.has_tenant(tenant):
            raise NotFound("there is no such tenant")
        acting(request, person.operator, tenant)
        self._responder.check_open(tenant)
        return tenant

    async def _named(self, request: Request, person: SignedIn) -> tuple[str, PolicyHistory, DraftSaved]:
        tenant = self._tenant(request, person)
        state = await self._store.history(tenant)
        return tenant, state, state.draft(str(request.path_params["draft"]))

    def _page(self, template: str, person: SignedIn, paths: dict[str, str], **values: object) -> Response:
        """A page; ``paths`` are those that its forms are sent to, by name."""
        sent = {**paths, "sign_out": SIGN_OUT}
        forms = {name: {"path": path, "token": person.token(path)} for name, path in sent.items()}
        account = {"operator": person.operator, "tenant": person.tenant}
        return HTMLResponse(self._templates.render(template, forms=forms, token_field=FIELD, account=account, **values))


def _operator(request: Request, person: SignedIn, tenant: str) -> Operator:
    return Operator(name=person.operator, tenant=tenant, request=attempt(request).id)


def _draft_path(tenant: str, draft: str) -> str:
    return f"/t/{tenant}/drafts/{draft}"


def _listed(tenant: str, draft: DraftSaved) -> dict[str, object]:
    return {
        "name": draft.draft,
        "path": _draft_path(tenant, draft.draft),
        "why": draft.why,
        "based_on": draft.based_on,
    }


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


def _fields(block: Block | None) -> tuple[dict[str, str], str]:
    """The fields of a policy, or why no form shows it; of a new one where there is none."""
    if block is None:
        return {"effect": "permit", "annotations": "id: \ndescription: "}, ""
    if block.model is None:
        return {}, block.reason
    try:
        return fields_of(block.model), ""
    except (LimitExceeded, MalformedPolicy) as error:
        return {}, error.detail


def _edited(document: Document, policy: str, fields: dict[str, str], form: dict[str, str], typed: str) -> str:
    if form["do"] == "remove":
        return remove(document, policy, sha256=form["sha256"])
    if form["do"] == "text":
        return rewrite(document, policy, typed, sha256=form["sha256"])
    if form["do"] not in ("show", "save"):
        raise Malformed("not a form of this page")
    model = model_of(fields)
    if not model.id:
        raise MalformedPolicy("a policy needs an @id", hint="a line of the annotations: id: my-policy")
    if policy:
        return replace(document, policy, model, sha256=form["sha256"])
    return add(document, model, sha256=form["sha256"])


def _written(text: str, policy: str, fields: dict[str, str], block: Block | None) -> str:
    """The text of the edited policy alone."""
    blocks = read_document(text).blocks
    wanted = model_of(fields).id
    if block is None:
        return blocks[-1].text
    return next((one.text for one in blocks if one.id == wanted), "")


def _shown_rows(fields: dict[str, str]) -> list[dict[str, object]]:
    """The conditions that are filled, and :data:`SPARE` empty ones; of each the rows likewise."""
    conditions: list[dict[str, object]] = []
    for at in range(CONDITIONS_MAX):
        rows = [
            {
                "name": f"c{at}_{row}",
                **{side: fields.get(f"c{at}_{row}_{side}", "") for side in ("left", "operator", "right")},
            }
            for row in range(ROWS_MAX)
        ]
        filled = [number for number, row in enumerate(rows) if row["left"] or row["right"]]
        kind = fields.get(f"c{at}_kind", "")
        conditions.append({
            "name": f"c{at}",
            "number": at + 1,
            "kind": kind,
            "rows": rows[: (filled[-1] + 1 if filled else 0) + SPARE],
            "is_filled": bool(filled or kind),
        })  # fmt: skip
    last = max((number for number, one in enumerate(conditions) if one["is_filled"]), default=-1)
    return conditions[: last + 1 + SPARE]
