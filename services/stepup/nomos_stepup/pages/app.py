"""The pages, wired."""

from __future__ import annotations

from nomos_runtime.sealing import Sealer
from nomos_runtime.service import Parts
from nomos_stepup.ceremonies import Ceremonies
from nomos_stepup.deeds import Deeds
from nomos_stepup.index import Index
from nomos_stepup.operatoraccess import OperatorAccess
from nomos_stepup.pages.access import Access
from nomos_stepup.pages.desk import Desk
from nomos_stepup.pages.operators import OperatorViews
from nomos_stepup.pages.passkeys import PasskeyViews
from nomos_stepup.pages.push import PushViews
from nomos_stepup.pages.refusals import STRANGER, who
from nomos_stepup.pages.views import Views
from nomos_stepup.pushes import Pushes
from nomos_stepup.settings import StepupSettings
from nomos_stepup.store import StepupStore
from nomos_stepup.webpush import Sender
from nomos_web.assets import Assets
from nomos_web.refusals import Refusals
from nomos_web.server import WebServer, parse_address
from nomos_web.site import Site
from nomos_web.templates import Templates


def build_pages(
    parts: Parts,
    settings: StepupSettings,
    *,
    ceremonies: Ceremonies,
    store: StepupStore,
    index: Index,
    sealer: Sealer,
    operators: OperatorAccess,
    pushes: Pushes,
    sender: Sender | None,
) -> WebServer:
    """The server of the approval pages; it does not listen yet.

    Raises:
        Misconfigured: the address, or plain HTTP where it is not allowed.
    """
    origins = ceremonies.party.origins
    address = parse_address(
        settings.pages_listen, cert=settings.pages_tls_cert, key=settings.pages_tls_key, origins=origins
    )
    assets = Assets()
    templates = Templates("nomos_stepup.pages", assets)
    access = Access(store, sealer, check_tenant=parts.responder.check_open, session_seconds=settings.session_seconds)
    desk = Desk(access, templates)
    views = Views(access, desk, ceremonies=ceremonies, store=store, index=index, refresh=parts.refresh)
    passkey_views = PasskeyViews(
        desk,
        ceremonies=ceremonies,
        store=store,
        deeds=Deeds(sealer),
        enrolment_seconds=settings.enrolment_seconds,
    )
    push_views = PushViews(
        desk, pushes=pushes, sender=sender, assets=assets, development=settings.environment == "development"
    )
    operator_views = OperatorViews(operators, sealer, templates)
    refusals = Refusals(parts.responder, parts.bus.service, who=who, stranger=STRANGER)
    routes = [*views.routes(), *passkey_views.routes(), *push_views.routes(), *operator_views.routes()]
    site = Site(routes, origins=origins, templates=templates, assets=assets, refused=refusals.record)
    return WebServer(site.app, address)
