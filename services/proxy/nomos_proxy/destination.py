"""Where the proxy may connect to. Every address of a name must pass, and the connection goes to a checked address.

Which addresses are allowed at all says :mod:`nomos.addresses`. A development origin, named exactly in the
settings, may also be loopback or private; never metadata.

Pure: who resolves and connects is :mod:`nomos_proxy.dial`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence, Set
from typing import Final, Literal
from urllib.parse import urlsplit

from msgspec import Struct

from nomos.addresses import is_allowed_address
from nomos.catalogue import Connector, OutgoingRequest
from nomos.errors import DestinationRefused, LimitExceeded, Misconfigured, UpstreamFailed

#: Addresses of one name. More is not how any API is served.
ADDRESSES_MAX: Final = 32

#: Ports that an origin need not name; files have none.
DEFAULT_PORTS: Final = {"https": 443, "http": 80, "ssh": 22, "file": 0}
_ORIGIN: Final = re.compile(
    r"(?P<scheme>https?|ssh)://(?P<host>[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?|\[[0-9a-f:.]{2,45}\]):(?P<port>[1-9][0-9]{0,4})"
)


class Origin(Struct, frozen=True, kw_only=True):
    """Scheme, host and port. ``host`` is a lower-case name or an address without brackets; of files, a volume."""

    scheme: Literal["http", "https", "ssh", "file"]
    host: str
    port: int

    @property
    def authority(self) -> str:
        """What stands in the ``Host`` header (RFC 9110 section 7.2): the port only where it is not the default."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        is_default = self.port == DEFAULT_PORTS[self.scheme]
        return host if is_default else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}"


def origin_of(connector: Connector, host: str = "") -> Origin:
    """Where a connector's provider is; ``host`` is the connection's, where each has its own."""
    return Origin(scheme=connector.scheme, host=connector.host or host, port=connector.port)


def parse_development_origin(text: str) -> Origin:
    """Reads an origin that a developer allows by name: scheme, host and port, all written out, nothing after them.

    Args:
        text: such as ``http://127.0.0.1:8042`` or ``ssh://127.0.0.1:8022``.

    Raises:
        Misconfigured: not exactly that.
    """
    found = _ORIGIN.fullmatch(text)
    if found is None or int(found["port"]) > 65535:
        raise Misconfigured("a development origin must be scheme://host:port in lower case, with nothing after it")
    scheme = found["scheme"]
    return Origin(
        scheme="https" if scheme == "https" else "ssh" if scheme == "ssh" else "http",
        host=found["host"].strip("[]"),
        port=int(found["port"]),
    )


def check_origin(origin: Origin, development_origins: Set[Origin]) -> None:
    """Refuses clear text to anything but a development origin.

    Raises:
        DestinationRefused: the scheme is not https.
    """
    if origin.scheme not in ("https", "http"):
        raise DestinationRefused("HTTP does not go to what is no HTTP origin")
    if origin.scheme != "https" and origin not in development_origins:
        raise DestinationRefused("an upstream must be https; only a development origin may be http")


def check_request(origin: Origin, request: OutgoingRequest) -> str:
    """Builds the URL from its parts, reads it as a URL again, and compares.

    Returns:
        The request target, ASCII.

    Raises:
        DestinationRefused: the parts do not come back, so some reader could see another origin or path.
    """

    target = request.target
    refused = DestinationRefused("the built URL is not the one that its parts say")
    if not target.isascii() or not target.startswith("/") or target.startswith("//") or set("?#") & set(request.path):
        raise refused
    if any(character <= " " or character in "\\\x7f" for character in target):
        raise refused
    try:
        read = urlsplit(f"{origin}{target}")
        port = read.port or DEFAULT_PORTS.get(read.scheme, 0)
    except ValueError as error:
        raise refused from error
    path, _, query = target.partition("?")
    if (read.scheme, read.hostname, port) != (origin.scheme, origin.host, origin.port) or read.username is not None:
        raise refused
    if (read.path, read.query, read.fragment) != (path, query, ""):
        raise refused
    return target


def check_addresses(origin: Origin, addresses: Sequence[str], development_origins: Set[Origin]) -> tuple[str, ...]:
    """Checks every address that the name of ``origin`` resolved to.

    Args:
        origin: where the request goes.
        addresses: textual addresses, as the resolver gave them.
        development_origins: origins that may also be loopback or private.

    Returns:
        The addresses to connect to, in order and without repetition.

    Raises:
        DestinationRefused: one of them, whichever, is not allowed.
        LimitExceeded: more than ``ADDRESSES_MAX``.
        UpstreamFailed: there is none.
    """
    if not addresses:
        raise UpstreamFailed("the upstream's name has no address")
    if len(addresses) > ADDRESSES_MAX:
        raise LimitExceeded("addresses_max", ADDRESSES_MAX, len(addresses))
    may_be_private = origin in development_origins
    for text in addresses:
        if not is_allowed_address(text, may_be_private=may_be_private):
            # the address stays with the operator: to the caller it would be a map of the inside
            raise DestinationRefused("the upstream's name leads to an address that is not public", cause=text)
    return tuple(dict.fromkeys(addresses))
