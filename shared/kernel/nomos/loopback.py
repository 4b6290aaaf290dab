"""Whether a host is this machine itself: where plain HTTP may be spoken in development. Nothing is resolved."""

from __future__ import annotations

from ipaddress import ip_address


def is_loopback(host: str) -> bool:
    """Whether ``host`` is ``localhost`` or an address of the loopback network."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
