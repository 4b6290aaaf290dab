"""The pages, wired."""

from __future__ import annotations

from nomos_proxy.federation.issuer import Issuer
from nomos_proxy.oauth.connecting import Connecting
from nomos_proxy.pages.views import STRANGER, ConnectViews
from nomos_proxy.settings import ProxySettings
from nomos_runtime.directory import Directory
from nomos_runtime.responder import Responder
from nomos_web.assets import Assets
from nomos_web.refusals import Refusals
from nomos_web.server import WebServer, parse_address
from nomos_web.site import Site
from nomos_web.templates import Templates


def build_pages(
    settings: ProxySettings,
    *,
    responder: Responder,
    directory: Directory,
    service: str,
    connecting: Connecting,
    issuer: Issuer | None,
) -> WebServer:
    """The server of the pages; it does not listen yet.

    Raises:
        Misconfigured: the address, or plain HTTP where it is not allowed.
    """
    origins = (settings.pages_origin,)
    address = parse_address(
        settings.pages_listen, cert=settings.pages_tls_cert, key=settings.pages_tls_key, origins=origins
    )
    assets = Assets()
    templates = Templates("nomos_proxy.pages", assets)
    refusals = Refusals(responder, service, who=lambda _: None, stranger=STRANGER)
    views = ConnectViews(
        connecting, templates, issuer=issuer, has_tenant=directory.has_tenant, check_open=responder.check_open
    )
    site = Site(views.routes(), origins=origins, templates=templates, assets=assets, refused=refusals.record)
    return WebServer(site.app, address)
