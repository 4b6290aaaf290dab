"""The pages, wired."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from nomos_policy.changing import ChangeAdmin
from nomos_policy.pages.desk import Desk
from nomos_policy.pages.editing import Editing
from nomos_policy.pages.refusals import STRANGER, who
from nomos_policy.pages.views import Views
from nomos_policy.settings import PolicySettings
from nomos_policy.store import PolicySets, PolicyStore
from nomos_policy.vocabulary import Vocabulary
from nomos_runtime.bus import Bus
from nomos_runtime.directory import Directory
from nomos_runtime.responder import Responder
from nomos_web.assets import Assets
from nomos_web.refusals import Refusals
from nomos_web.server import WebServer, parse_address
from nomos_web.signin import SignIn
from nomos_web.site import Site
from nomos_web.templates import Templates


def build_pages(
    settings: PolicySettings,
    *,
    bus: Bus,
    responder: Responder,
    directory: Directory,
    store: PolicyStore,
    sets: PolicySets,
    vocabulary: Vocabulary,
    changes: ChangeAdmin,
    refresh: Callable[[], Awaitable[None]],
) -> WebServer:
    """The server of operators' pages; it does not listen yet.

    Raises:
        Misconfigured: the address, or plain HTTP where it is not allowed.
    """
    origins = (settings.pages_origin,)
    address = parse_address(
        settings.pages_listen, cert=settings.pages_tls_cert, key=settings.pages_tls_key, origins=origins
    )

    async def ask(subject: str, payload: bytes) -> bytes:
        return await bus.request(subject, payload, settings.request_timeout_ms)

    assets = Assets()
    templates = Templates("nomos_policy.pages", assets)
    refusals = Refusals(responder, bus.service, who=who, stranger=STRANGER)
    sign_in = SignIn(service=bus.service, site=settings.sign_in_site, ask=ask, templates=templates)
    desk = Desk(templates=templates, responder=responder, directory=directory, store=store)
    editing = Editing(desk, vocabulary=vocabulary, changes=changes, refused=refusals.record)
    views = Views(
        sign_in,
        desk,
        editing,
        sets=sets,
        vocabulary=vocabulary,
        changes=changes,
        refresh=refresh,
        refused=refusals.record,
    )
    routes = [*views.routes(), *sign_in.routes()]
    site = Site(routes, origins=origins, templates=templates, assets=assets, refused=refusals.record)
    return WebServer(site.app, address)
