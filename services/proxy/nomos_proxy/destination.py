"""Where the proxy may connect to. Every address of a name must pass, and the connection goes to a checked address.

Rules, in order:

1. An address in an IPv6 form that carries an IPv4 address (mapped, NAT64) is judged by the address that it carries.
2. Only global unicast is left: IPv4 outside the special registry, IPv6 inside 2000::/3 outside the special registry.
   6to4, Teredo, ISATAP and local NAT64 are refused whole: no provider's API is there, and each of them reaches an
   IPv4 address that the sender chooses.
3. Addresses of cloud metadata and host agents are refused even where a registry calls them public.
4. A development origin, named exactly in the settings, may also be loopback or private; never metadata.

``ipaddress.is_global`` is not used: it accepts NAT64 of a metadata address, 6to4 and 168.63.129.16.

Pure: who resolves and connects is :mod:`nomos_proxy.dial`.

Sources: IANA IPv4 and IPv6 Special-Purpose Address Registries (RFC 6890, RFC 8190); RFC 6052 (NAT64), RFC 8215
(64:ff9b:1::/48), RFC 3056 (6to4), RFC 4380 (Teredo), RFC 5214 (ISATAP), RFC 2765 (translated).
"""

from __future__ import annotations

import re
from collections.abc import Sequence, Set
from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final, Literal
from urllib.parse import urlsplit

from msgspec import Struct

from nomos.catalogue import Connector, OutgoingRequest
from nomos.errors import DestinationRefused, LimitExceeded, Misconfigured, UpstreamFailed

#: Addresses of one name. More is not how any API is served.
ADDRESSES_MAX: Final = 32

_PRIVATE_V4: Final = tuple(
    IPv4Network(text) for text in ("10.0.0.0/8", "127.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16")
)
_REFUSED_V4: Final = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # "this network"
        "100.64.0.0/10",  # carrier-grade NAT, RFC 6598; also 100.100.100.200, a metadata address
        "168.63.129.16/32",  # a cloud's host agent, in public space
        "169.254.0.0/16",  # link-local and metadata
        "192.0.0.0/24",  # protocol assignments; also 192.0.0.192, a metadata address
        "192.0.2.0/24",  # documentation
        "192.31.196.0/24",  # AS112
        "192.52.193.0/24",  # AMT relays
        "192.88.99.0/24",  # 6to4 relays
        "192.175.48.0/24",  # AS112
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved and broadcast
    )
)
_PRIVATE_V6: Final = (IPv6Network("::1/128"), IPv6Network("fc00::/7"))
#: fd00:ec2::254 and fd20:ce::254 are metadata addresses inside the private range.
_METADATA_V6: Final = (IPv6Network("fd00:ec2::/32"), IPv6Network("fd20:ce::/32"))
_GLOBAL_V6: Final = IPv6Network("2000::/3")
_REFUSED_V6: Final = tuple(
    IPv6Network(text)
    for text in (
        "2001::/23",  # protocol assignments: Teredo, benchmarks, ORCHID, ...
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4
        "2620:4f:8000::/48",  # AS112
        "3fff::/20",  # documentation, RFC 9637
    )
)
_MAPPED: Final = IPv6Network("::ffff:0:0/96")
_NAT64: Final = IPv6Network("64:ff9b::/96")
#: Interface identifiers of ISATAP, with the universal bit clear and set.
_ISATAP: Final = frozenset({0x00005EFE, 0x02005EFE})

_ORIGIN: Final = re.compile(
    r"(?P<scheme>https?)://(?P<host>[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?|\[[0-9a-f:.]{2,45}\]):(?P<port>[1-9][0-9]{0,4})"
)


class Origin(Struct, frozen=True, kw_only=True):
    """Scheme, host and port. ``host`` is a lower-case name or an address without brackets."""

    scheme: Literal["http", "https"]
    host: str
    port: int

    @property
    def authority(self) -> str:
        """What stands in the ``Host`` header (RFC 9110 section 7.2): the port only where it is not the default."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        is_default = self.port == (443 if self.scheme == "https" else 80)
        return host if is_default else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}"


def origin_of(connector: Connector) -> Origin:
    """Where a connector's provider is."""
    return Origin(scheme=connector.scheme, host=connector.host, port=connector.port)


def parse_development_origin(text: str) -> Origin:
    """Reads an origin that a developer allows by name: scheme, host and port, all written out, nothing after them.

    Args:
        text: such as ``http://127.0.0.1:8042``.

    Raises:
        Misconfigured: not exactly that.
    """
    found = _ORIGIN.fullmatch(text)
    if found is None or int(found["port"]) > 65535:
        raise Misconfigured("a development origin must be scheme://host:port in lower case, with nothing after it")
    return Origin(
        scheme="https" if found["scheme"] == "https" else "http",
        host=found["host"].strip("[]"),
        port=int(found["port"]),
    )


def check_origin(origin: Origin, development_origins: Set[Origin]) -> None:
    """Refuses clear text to anything but a development origin.

    Raises:
        DestinationRefused: the scheme is not https.
    """
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
        port = read.port or (443 if read.scheme == "https" else 80)
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


def is_allowed_address(text: str, *, may_be_private: bool = False) -> bool:
    """Whether the proxy may connect to this address."""
    address = _parse_address(text)
    if isinstance(address, IPv6Address):
        carried = _carried_v4(address)
        if carried is None:
            return _is_allowed_v6(address, may_be_private=may_be_private)
        address = carried
    return address is not None and _is_allowed_v4(address, may_be_private=may_be_private)


def _parse_address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return IPv4Address(text)
    except AddressValueError:
        pass
    try:
        address = IPv6Address(text)
    except AddressValueError:
        return None
    # a zone means link-local, whatever the bits say
    return address if address.scope_id is None else None


def _carried_v4(address: IPv6Address) -> IPv4Address | None:
    if address in _MAPPED or address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return None


def _is_allowed_v4(address: IPv4Address, *, may_be_private: bool) -> bool:
    if any(address in network for network in _PRIVATE_V4):
        return may_be_private
    return not any(address in network for network in _REFUSED_V4)


def _is_allowed_v6(address: IPv6Address, *, may_be_private: bool) -> bool:
    if any(address in network for network in _METADATA_V6):
        return False
    if any(address in network for network in _PRIVATE_V6):
        return may_be_private
    if (int(address) >> 32 & 0xFFFFFFFF) in _ISATAP:
        return False
    return address in _GLOBAL_V6 and not any(address in network for network in _REFUSED_V6)
