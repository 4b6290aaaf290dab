"""A site: views at paths, the checks before them, the headers behind them. The one place where errors become pages.

Order for every request: host; for a form, same origin; the view. What a view refuses it raises; the site has it
recorded by its owner (``refused``) and shows it. A fault of our own shows nothing of itself and allows nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nomos.errors import (
    ApprovalRefused,
    Conflict,
    Expired,
    LimitExceeded,
    Malformed,
    NomosError,
    NotFound,
    NotPermitted,
    Unavailable,
)
from nomos_web.assets import PREFIX, Assets
from nomos_web.checks import WrongHost, check_host, check_same_origin, host_of
from nomos_web.headers import security_headers
from nomos_web.templates import Templates

View = Callable[[Request], Awaitable[Response]]
#: Records what was refused; gives what is shown, which is another error where that could not be recorded.
Refused = Callable[[Request, Exception], Awaitable[NomosError]]
#: The first class that fits gives the status.
_STATUS: Final[tuple[tuple[type[NomosError], int], ...]] = (
    (WrongHost, 421),
    (NotFound, 404),
    (Conflict, 409),
    (Expired, 410),
    (ApprovalRefused, 403),
    (NotPermitted, 403),
    (LimitExceeded, 413),
    (Malformed, 400),
    (Unavailable, 503),
)
_OTHER: Final = 403
_FAULT: Final = 500


def status_of(error: NomosError) -> int:
    """The HTTP status that says best what ``error`` says."""
    if error.code == "internal":
        return _FAULT
    return next((status for kind, status in _STATUS if isinstance(error, kind)), _OTHER)


class Site:
    """Views at paths. :attr:`app` is what a server serves."""

    def __init__(
        self,
        views: Sequence[tuple[str, str, View]],
        *,
        origins: tuple[str, ...],
        templates: Templates,
        assets: Assets,
        refused: Refused,
    ) -> None:
        """Builds the site.

        Args:
            views: method (GET or POST), path, view.
            origins: of the site; the only hosts that are served and the only pages whose forms are taken.
            templates: has ``error.html``.
            assets: served below ``/static/``.
            refused: records a refusal; ``request.state.template`` is the path's template, which holds no secret.
        """
        self._origins = frozenset(origins)
        self._hosts = frozenset(host_of(origin) for origin in origins)
        self._templates = templates
        self._refused = refused

        async def static(request: Request) -> Response:
            return assets.response(request.path_params["name"])

        served = [*views, ("GET", PREFIX + "{name}", static)]
        paths: dict[str, dict[str, View]] = {}
        for method, path, view in served:
            paths.setdefault(path, {})[method] = view
        routes = [Route(path, self._endpoint(path, by), methods=list(by)) for path, by in paths.items()]
        made = Starlette(routes=routes, exception_handlers={HTTPException: self._unknown})
        # A redirect would be built from the host that the client names.
        made.router.redirect_slashes = False
        https = all(origin.startswith("https:") for origin in origins)
        self.app: ASGIApp = _Headers(made, security_headers(https=https))

    def _endpoint(self, template: str, views: dict[str, View]) -> View:
        async def endpoint(request: Request) -> Response:
            request.state.template = template
            view = views["GET" if request.method == "HEAD" else request.method]
            try:
                check_host(request.headers, self._hosts)
                if request.method == "POST":
                    check_same_origin(request.headers, self._origins)
                return await view(request)
            except NomosError as e:
                return self._show(await self._refused(request, e))
            except Exception as e:  # noqa: BLE001 - the edge of the process: deny, record, say; never fail open
                return self._show(await self._refused(request, e))

        return endpoint

    async def _unknown(self, request: Request, error: Exception) -> Response:
        # No page, so nothing was asked of the service: answered, and not recorded.
        status = error.status_code if isinstance(error, HTTPException) else _FAULT
        return self._show(NotFound("there is no such page"), status)

    def _show(self, error: NomosError, status: int | None = None) -> Response:
        body = self._templates.render("error.html", detail=error.detail, hint=error.hint, code=error.code)
        return HTMLResponse(body, status_code=status or status_of(error))


class _Headers:
    """Puts the security headers on every answer, also on those that the framework makes; nothing is kept but files."""

    def __init__(self, app: ASGIApp, headers: dict[str, str]) -> None:
        self._app = app
        self._headers = [(name.encode(), value.encode()) for name, value in headers.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with(message: Message) -> None:
            if message["type"] == "http.response.start":
                given = list(message.get("headers", ()))
                if all(name != b"cache-control" for name, _ in given):
                    given.append((b"cache-control", b"no-store"))
                # A page may have a policy of its own.
                own = {name for name, _ in given}
                message = {**message, "headers": [*given, *(one for one in self._headers if one[0] not in own)]}
            await send(message)

        await self._app(scope, receive, send_with)
