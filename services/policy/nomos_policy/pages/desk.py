"""What every page of the editor does: for which tenant, which draft, its text cut into policies, and a page.

A path names the tenant; whether the operator may act for it is checked for each request before anything of it is read.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import Final

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from nomos.errors import NotFound
from nomos_policy.history import DraftSaved, PolicyHistory
from nomos_policy.pages.refusals import acting
from nomos_policy.store import PolicyStore
from nomos_policy.visual.document import Document, read_document
from nomos_runtime.directory import Directory
from nomos_runtime.responder import Operator, Responder
from nomos_web.csrf import FIELD
from nomos_web.refusals import attempt
from nomos_web.signin import SIGN_OUT, SignedIn
from nomos_web.templates import Templates

#: Texts that stay cut into policies: a large one takes seconds, and who edits looks at it again and again.
DOCUMENTS_MAX: Final = 4


class Desk:
    """Stands between the views and the browser."""

    def __init__(self, *, templates: Templates, responder: Responder, directory: Directory, store: PolicyStore) -> None:
        self._templates = templates
        self._responder = responder
        self.directory = directory
        self.store = store
        self._documents: OrderedDict[str, Document] = OrderedDict()

    def tenant(self, request: Request, person: SignedIn) -> str:
        """The tenant that the path names, once the operator may act for it.

        Raises:
            NotPermitted: they may not.
            NotFound: there is none of this name.
            Revoked: it is closed.
        """
        acting(request, person.operator)
        tenant = str(request.path_params["tenant"])
        person.check_tenant(tenant)
        if not self.directory.has_tenant(tenant):
            raise NotFound("there is no such tenant")
        acting(request, person.operator, tenant)
        self._responder.check_open(tenant)
        return tenant

    async def named(self, request: Request, person: SignedIn) -> tuple[str, PolicyHistory, DraftSaved]:
        """Tenant and draft of the path, and the tenant's history; errors as :meth:`tenant`, and NotFound."""
        tenant = self.tenant(request, person)
        state = await self.store.history(tenant)
        return tenant, state, state.draft(str(request.path_params["draft"]))

    def page(self, template: str, person: SignedIn, paths: dict[str, str], **values: object) -> Response:
        """A page; ``paths`` are those that its forms are sent to, by name."""
        sent = {**paths, "sign_out": SIGN_OUT}
        forms = {name: {"path": path, "token": person.token(path)} for name, path in sent.items()}
        account = {"operator": person.operator, "tenant": person.tenant}
        return HTMLResponse(self._templates.render(template, forms=forms, token_field=FIELD, account=account, **values))

    async def document(self, state: PolicyHistory, draft: DraftSaved) -> Document:
        """The draft's text, cut into policies."""
        found = self._documents.get(draft.sha256)
        if found is None:
            found = await asyncio.to_thread(read_document, state.text_of(draft))
            self._documents[draft.sha256] = found
            while len(self._documents) > DOCUMENTS_MAX:
                self._documents.popitem(last=False)
        self._documents.move_to_end(draft.sha256)
        return found


def operator_of(request: Request, person: SignedIn, tenant: str) -> Operator:
    """The operator as the asker of a verb."""
    return Operator(name=person.operator, tenant=tenant, request=attempt(request).id)


def draft_path(tenant: str, draft: str) -> str:
    """The page of a draft."""
    return f"/t/{tenant}/drafts/{draft}"


def listed(tenant: str, draft: DraftSaved) -> dict[str, object]:
    """A draft as pages name it."""
    return {
        "name": draft.draft,
        "path": draft_path(tenant, draft.draft),
        "why": draft.why,
        "based_on": draft.based_on,
    }
