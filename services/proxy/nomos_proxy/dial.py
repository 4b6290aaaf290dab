"""Opens a connection to an origin: resolve once, check every address, connect to a checked one.

The name is not resolved again between the check and the connection, so an answer that changes in between changes
nothing. TLS is 1.3 with the original name in SNI and in the certificate check. No proxy is read from the
environment, and no session keys are written for debugging.

Sources: RFC 8446; RFC 9525 (service identity).
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence, Set
from enum import StrEnum
from pathlib import Path
from typing import Final, TypeVar, cast

from nomos.errors import UpstreamFailed
from nomos_proxy.destination import Origin, check_addresses, check_origin

#: Addresses that one connection attempt goes through.
ADDRESSES_TRIED_MAX: Final = 3

#: What TLS says where the server speaks none of the versions that were offered (RFC 7301 section 3.2).
_NO_COMMON_VERSION: Final = "no application protocol"

ProtocolT = TypeVar("ProtocolT", bound=asyncio.Protocol)
#: Host and port to textual addresses.
Resolver = Callable[[str, int], Awaitable[Sequence[str]]]


async def system_resolver(host: str, port: int) -> list[str]:
    """Asks the operating system.

    Raises:
        OSError: there is no answer.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


class HttpVersion(StrEnum):
    """A version of HTTP, by its name in ALPN (RFC 7301)."""

    HTTP1 = "http/1.1"
    HTTP2 = "h2"

    @property
    def other(self) -> HttpVersion:
        """The one that is tried where this is not spoken."""
        return HttpVersion.HTTP2 if self is HttpVersion.HTTP1 else HttpVersion.HTTP1


class OtherVersion(UpstreamFailed):
    """The upstream does not speak the version of HTTP that was offered. Nothing of the request was sent."""


def tls_context(ca_file: Path | None = None, version: HttpVersion = HttpVersion.HTTP1) -> ssl.SSLContext:
    """A context for upstream calls.

    Args:
        ca_file: the only roots to trust; None for the system's.
        version: the one version of HTTP that it offers, so that what is spoken is known before the first byte.
    """
    # create_default_context would honour SSLKEYLOGFILE, and with it write the keys of sessions that carry credentials
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols([version])
    if ca_file is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    else:
        context.load_verify_locations(cafile=ca_file)
    return context


class Dialer:
    """Opens connections for one process."""

    __slots__ = ("_contexts", "_development_origins", "_resolver")

    def __init__(
        self, *, contexts: Mapping[HttpVersion, ssl.SSLContext], resolver: Resolver, development_origins: Set[Origin]
    ) -> None:
        self._contexts = contexts
        self._resolver = resolver
        # The caller's own set, not a copy: it grows while the process runs, when an operator adds a connection.
        self._development_origins = development_origins

    def check(self, origin: Origin) -> None:
        """Refuses an origin by its scheme, before anything is resolved.

        Raises:
            DestinationRefused: clear text, and not a development origin.
        """
        check_origin(origin, self._development_origins)

    def speaks(self, origin: Origin, version: HttpVersion) -> bool:
        """Whether an origin can be spoken to in this version at all: HTTP/2 needs TLS, and a context for it."""
        return version is HttpVersion.HTTP1 or (origin.scheme == "https" and version in self._contexts)

    async def dial(
        self, origin: Origin, timeout_seconds: float, make: Callable[[], ProtocolT], version: HttpVersion
    ) -> ProtocolT:
        """A fresh connection.

        Args:
            origin: where to.
            timeout_seconds: for name, TCP and TLS together.
            make: makes what sits on the connection.
            version: what it speaks.

        Raises:
            DestinationRefused: an address of the name is not allowed.
            OtherVersion: the upstream does not speak this version.
            UpstreamFailed: no address answered in time, or TLS failed. Nothing of the request was sent.
        """
        self.check(origin)
        try:
            async with asyncio.timeout(timeout_seconds):
                addresses = check_addresses(
                    origin, await self._resolver(origin.host, origin.port), self._development_origins
                )
                return await self._connect(origin, addresses[:ADDRESSES_TRIED_MAX], make, version)
        except TimeoutError as error:
            raise UpstreamFailed("the upstream could not be reached in time") from error
        except ssl.SSLError as error:
            # the alert has no name of its own in `ssl`
            if _NO_COMMON_VERSION in str(error).lower():
                raise OtherVersion(f"the upstream does not speak {version}") from error
            raise UpstreamFailed("TLS with the upstream failed", cause=str(error)) from error
        except (OSError, UnicodeError) as error:
            raise UpstreamFailed("the upstream could not be reached", cause=str(error)) from error

    async def _connect(
        self, origin: Origin, addresses: Sequence[str], make: Callable[[], ProtocolT], version: HttpVersion
    ) -> ProtocolT:
        loop = asyncio.get_running_loop()
        is_tls = origin.scheme == "https"
        for position, address in enumerate(addresses):
            try:
                transport, made = await loop.create_connection(
                    make,
                    host=address,
                    port=origin.port,
                    ssl=self._contexts[version] if is_tls else None,
                    server_hostname=origin.host if is_tls else None,
                )
            except ssl.SSLError:
                # a name that cannot prove itself at one address is not tried at the next
                raise
            except OSError:
                if position + 1 == len(addresses):
                    raise
            else:
                if is_tls:
                    _check_version(transport, version)
                return made
        raise UpstreamFailed("the upstream's name has no address")


def _check_version(transport: asyncio.BaseTransport, version: HttpVersion) -> None:
    """Refuses a connection on which the server chose nothing, where nothing means HTTP/1.1 and that was not offered."""
    chosen = transport.get_extra_info("ssl_object").selected_alpn_protocol()
    if version is HttpVersion.HTTP2 and chosen != version:
        cast(asyncio.Transport, transport).abort()
        raise OtherVersion(f"the upstream does not speak {version}")
