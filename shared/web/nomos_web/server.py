"""Serves a site on one address, in the loop of the service that owns it: TLS 1.3, or plain HTTP on loopback.

Plain HTTP is for development: only on a loopback address, and only where every origin of the site is
``http://localhost``, which browsers take for secure. Everything else needs a certificate.

Trusted / not trusted: whoever connects is not. Size of the head, number of connections and time of a body have limits;
a client that sends its head slowly holds a connection, of which there are :data:`CONNECTIONS_MAX`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import ssl
from collections.abc import Generator
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import msgspec
import uvicorn
from starlette.types import ASGIApp

from nomos.errors import Misconfigured, Unavailable

#: Connections at once; more are answered 503.
CONNECTIONS_MAX: Final = 256
#: Bytes of a request's head.
HEAD_BYTES_MAX: Final = 16_384
KEEP_ALIVE_SECONDS: Final = 15
STOP_SECONDS: Final = 5
_START_SECONDS: Final = 10.0
_LOOK_SECONDS: Final = 0.01


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """Where a site listens. ``cert`` and ``key`` are paths of PEM files, both or neither."""

    host: str
    port: int
    cert: str = ""
    key: str = ""

    @property
    def https(self) -> bool:
        """Whether it speaks TLS."""
        return bool(self.cert)


def parse_address(listen: str, *, cert: str, key: str, origins: tuple[str, ...]) -> Address:
    """Checks where a site is to listen.

    Args:
        listen: ``address:port``; the address is an IP address, in brackets where it is IPv6.
        cert: path of the certificate chain, PEM; empty for plain HTTP.
        key: path of its key, PEM.
        origins: of the site.

    Raises:
        Misconfigured: not such an address, half a certificate, or plain HTTP where it is not allowed.
    """
    try:
        parts = urlsplit(f"//{listen}")
        host, port = parts.hostname or "", parts.port
        address = ipaddress.ip_address(host)
    except ValueError as e:
        raise Misconfigured(f"expected an IP address and a port to listen on, got {listen!a}", cause=str(e)) from e
    if port is None or parts.netloc != listen or parts.username is not None:
        raise Misconfigured(f"expected an IP address and a port to listen on, got {listen!a}")
    if bool(cert) != bool(key):
        raise Misconfigured("a certificate and its key are needed together")
    schemes = {urlsplit(origin).scheme for origin in origins}
    if cert and schemes != {"https"}:
        raise Misconfigured("with a certificate every origin must be https")
    if not cert and (schemes != {"http"} or not address.is_loopback):
        raise Misconfigured(
            "plain HTTP is for http://localhost on a loopback address only", hint="set a certificate and its key"
        )
    return Address(host=host, port=port, cert=cert, key=key)


class WebServer:
    """A running site."""

    def __init__(self, app: ASGIApp, address: Address) -> None:
        self._app = app
        self._address = address
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listens; returns when it serves.

        Raises:
            Misconfigured: the address is taken, or the certificate can't be used.
        """
        a = self._address
        config = uvicorn.Config(
            self._app,
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            # A stranger's garbage must not fill the diagnostics.
            log_level="error",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=CONNECTIONS_MAX,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=STOP_SECONDS,
            h11_max_incomplete_event_size=HEAD_BYTES_MAX,
        )
        config.load()
        config.ssl = tls_context(a) if a.https else None
        listener = _listener(a)
        self._server = _Server(config)
        self._task = asyncio.create_task(self._server.serve(sockets=[listener]), name="pages")
        async with asyncio.timeout(_START_SECONDS):
            while not self._server.started:
                if self._task.done():
                    raise Unavailable("the pages' server ended", cause=repr(self._task.exception()))
                await asyncio.sleep(_LOOK_SECONDS)

    def faults(self) -> list[str]:
        """Why it does not serve; empty when it does."""
        return [] if self._task is not None and not self._task.done() else ["the pages are not served"]

    async def stop(self) -> None:
        """Takes no more requests, and ends within :data:`STOP_SECONDS`."""
        if self._server is None or self._task is None:
            return
        self._server.should_exit = True
        await asyncio.wait([self._task], timeout=2 * STOP_SECONDS)
        self._task.cancel()


class _Server(uvicorn.Server):
    """Signals are the process's own business: it stops its services in order."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


def tls_context(address: Address) -> ssl.SSLContext:
    """TLS 1.3 and nothing older, with the certificate of ``address``.

    Raises:
        Misconfigured: it can't be read, or the key is another's.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    try:
        context.load_cert_chain(Path(address.cert), Path(address.key))
    except (OSError, ssl.SSLError) as e:
        raise Misconfigured("the pages' certificate or its key cannot be used", cause=str(e)) from e
    return context


def _listener(address: Address) -> socket.socket:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address.host, address.port))
        listener.setblocking(False)
    except OSError as e:
        listener.close()
        raise Misconfigured(f"the pages cannot listen on {address.host}:{address.port}: {e.strerror}") from e
    return listener
