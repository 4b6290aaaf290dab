"""One policy of a draft: as a form whose text is shown before it is kept, or as text.

What a person typed is not lost by an error: the form comes back with it, and the refusal is recorded. What is kept is
the draft with one policy changed; every other policy stays as it was (``visual.document``).
"""

from __future__ import annotations

import asyncio
from typing import Final

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from nomos.errors import Conflict, LimitExceeded, Malformed, MalformedPolicy, NomosError
from nomos_policy.changing import ChangeAdmin, SaveParams
from nomos_policy.history import DraftSaved
from nomos_policy.pages.desk import Desk, draft_path, listed, operator_of
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
from nomos_policy.policyset import compile_policies
from nomos_policy.visual.document import Block, Document, add, read_document, remove, replace, rewrite
from nomos_policy.vocabulary import Vocabulary
from nomos_web.signin import SignedIn
from nomos_web.site import Refused, status_of

#: Fields of the page's two forms.
EDIT_FIELDS: Final = (*FIELDS, "policy", "sha256", "why", "do", "text")
_SEE_OTHER: Final = 303
_CHOICES: Final = {
    "effects": EFFECTS,
    "scopes": SCOPES,
    "actions": ACTIONS,
    "clauses": CLAUSES,
    "operators": OPERATORS,
}


class Editing:
    """The page of one policy."""

    def __init__(self, desk: Desk, *, vocabulary: Vocabulary, changes: ChangeAdmin, refused: Refused) -> None:
        self._desk = desk
        self._vocabulary = vocabulary
        self._changes = changes
        self._refused = refused

    async def policy(self, request: Request, person: SignedIn) -> Response:
        """One policy as a form, or a new one where the address names none."""
        tenant, state, draft = await self._desk.named(request, person)
        document = await self._desk.document(state, draft)
        policy = request.query_params.get("id", "")
        block = document.block(policy) if policy else None
        fields, reason = _fields(block)
        return self._form(person, tenant, draft, policy, fields, text=block.text if block else "", reason=reason)

    async def edit(self, request: Request, person: SignedIn, form: dict[str, str]) -> Response:
        """Shows what an edit would write, or keeps it in the draft."""
        tenant, state, draft = await self._desk.named(request, person)
        policy = form["policy"]
        fields = {name: form[name] for name in FIELDS if form[name]}
        # A browser sends line ends as CR LF.
        typed = form["text"].replace("\r\n", "\n")
        document = await self._desk.document(state, draft)
        block = document.block(policy) if policy else None
        reason = ""
        if form["do"] in ("text", "remove"):
            # What was typed into the fields belongs to the other form.
            fields, reason = _fields(block)
        try:
            text = await asyncio.to_thread(_edited, document, policy, fields, form, typed)
            if form["do"] != "show":
                params = SaveParams(draft=draft.draft, text=text, why=form["why"], if_sha256=form["sha256"])
                await self._changes.save(operator_of(request, person, tenant), params)
                return RedirectResponse(draft_path(tenant, draft.draft), status_code=_SEE_OTHER)
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
        path = draft_path(tenant, draft.draft)
        response = self._desk.page(
            "policy.html",
            person,
            {"edit": f"{path}/policy"},
            tenant=tenant,
            draft=listed(tenant, draft),
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
