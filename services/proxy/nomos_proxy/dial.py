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
from collections.abc import Awaitable, Callable, Sequence, Set
from pathlib import Path
from typing import Final

from nomos.errors import UpstreamFailed
from nomos_proxy.destination import Origin, check_addresses, check_origin
from nomos_proxy.wire import Wire

#: Addresses that one connection attempt goes through.
ADDRESSES_TRIED_MAX: Final = 3

#: Host and port to textual addresses.
Resolver = Callable[[str, int], Awaitable[Sequence[str]]]


async def system_resolver(host: str, port: int) -> list[str]:
    """Asks the operating system.

    Raises:
        OSError: there is no answer.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [str(address[0]) for *_, address in found]


def tls_context(ca_file: Path | None = None) -> ssl.SSLContext:
    """A context for upstream calls.

    Args:
        ca_file: the only roots to trust; None for the system's.
    """
    # create_default_context would honour SSLKEYLOGFILE, and with it write the keys of sessions that carry credentials
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["http/1.1"])
    if ca_file is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    else:
        context.load_verify_locations(cafile=ca_file)
    return context


class Dialer:
    """Opens connections for one process."""

    __slots__ = ("_context", "_development_origins", "_resolver")

    def __init__(self, *, context: ssl.SSLContext, resolver: Resolver, development_origins: Set[Origin]) -> None:
        self._context = context
        self._resolver = resolver
        # The caller's own set, not a copy: it grows while the process runs, when an operator adds a connection.
        self._development_origins = development_origins

    def check(self, origin: Origin) -> None:
        """Refuses an origin by its scheme, before anything is resolved.

        Raises:
            DestinationRefused: clear text, and not a development origin.
        """
        check_origin(origin, self._development_origins)

    async def dial(self, origin: Origin, timeout_seconds: float) -> Wire:
        """A fresh connection.

        Args:
            origin: where to.
            timeout_seconds: for name, TCP and TLS together.

        Raises:
            DestinationRefused: an address of the name is not allowed.
            UpstreamFailed: no address answered in time, or TLS failed. Nothing of the request was sent.
        """
        self.check(origin)
        try:
            async with asyncio.timeout(timeout_seconds):
                addresses = check_addresses(
                    origin, await self._resolver(origin.host, origin.port), self._development_origins
                )
                return await self._connect(origin, addresses[:ADDRESSES_TRIED_MAX])
        except TimeoutError as error:
            raise UpstreamFailed("the upstream could not be reached in time") from error
        except ssl.SSLError as error:
            raise UpstreamFailed("TLS with the upstream failed", cause=str(error)) from error
        except (OSError, UnicodeError) as error:
            raise UpstreamFailed("the upstream could not be reached", cause=str(error)) from error

    async def _connect(self, origin: Origin, addresses: Sequence[str]) -> Wire:
        loop = asyncio.get_running_loop()
        is_tls = origin.scheme == "https"
        for position, address in enumerate(addresses):
            try:
                _, wire = await loop.create_connection(
                    Wire,
                    host=address,
                    port=origin.port,
                    ssl=self._context if is_tls else None,
                    server_hostname=origin.host if is_tls else None,
                )
            except ssl.SSLError:
                # a name that cannot prove itself at one address is not tried at the next
                raise
            except OSError:
                if position + 1 == len(addresses):
                    raise
            else:
                return wire
        raise UpstreamFailed("the upstream's name has no address")
