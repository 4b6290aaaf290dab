"""Which addresses of the internet a service may connect to, where somebody else chose the name.

Rules, in order:

1. An address in an IPv6 form that carries an IPv4 address (mapped, NAT64) is judged by the address that it carries.
2. Only global unicast is left: IPv4 outside the special registry, IPv6 inside 2000::/3 outside the special registry.
   6to4, Teredo, ISATAP and local NAT64 are refused whole: no public service is there, and each of them reaches an
   IPv4 address that the sender chooses.
3. Addresses of cloud metadata and host agents are refused even where a registry calls them public.

``ipaddress.is_global`` is not used: it accepts NAT64 of a metadata address, 6to4 and 168.63.129.16.

Pure: who resolves and connects must connect to an address that passed, and not resolve again.

Sources: IANA IPv4 and IPv6 Special-Purpose Address Registries (RFC 6890, RFC 8190); RFC 6052 (NAT64), RFC 8215
(64:ff9b:1::/48), RFC 3056 (6to4), RFC 4380 (Teredo), RFC 5214 (ISATAP), RFC 2765 (translated).
"""

from __future__ import annotations

from ipaddress import AddressValueError, IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final

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


def is_allowed_address(text: str, *, may_be_private: bool = False) -> bool:
    """Whether a connection may go to this address.

    Args:
        text: as a resolver gives it.
        may_be_private: also loopback and private ones, for development; never metadata.
    """
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
