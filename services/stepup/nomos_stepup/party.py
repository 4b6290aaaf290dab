"""The relying party: the domain that passkeys are bound to, and the pages on which they may be used."""

from __future__ import annotations

from urllib.parse import urlsplit

import msgspec

from nomos.errors import Misconfigured


class RelyingParty(msgspec.Struct, frozen=True, kw_only=True):
    """Where passkeys are used. Made by :func:`relying_party`, which checks it.

    Attributes:
        id: a domain name; passkeys are bound to it.
        name: shown by authenticators.
        origins: the allow-list, ``https://host[:port]`` (``http`` for localhost only).
        software_passkeys: whether the development authenticator of ``nomos.passkey`` may enrol. Never in production.
    """

    id: str
    name: str
    origins: tuple[str, ...]
    software_passkeys: bool


def relying_party(*, rp_id: str, name: str, origins: tuple[str, ...], software_passkeys: bool = False) -> RelyingParty:
    """Checks and makes a relying party.

    Args:
        rp_id: a lower-case domain name, or ``localhost``.
        name: shown by authenticators.
        origins: the origins of the approval pages; each on ``rp_id`` or below it.
        software_passkeys: accept the development authenticator.

    Raises:
        Misconfigured: an origin that browsers would not allow for this id, or that is not https.
    """
    if not rp_id or rp_id != rp_id.lower().strip(".") or "/" in rp_id or ":" in rp_id:
        raise Misconfigured("the relying party id must be a lower-case domain name")
    if not origins:
        raise Misconfigured("the relying party needs at least one origin")
    for origin in origins:
        try:
            parts = urlsplit(origin)
            host, port = parts.hostname or "", parts.port
        except ValueError as e:
            raise Misconfigured("an origin of the relying party is not a URL", cause=str(e)) from e
        spelled = f"{parts.scheme}://{host}" + (f":{port}" if port is not None else "")
        if spelled != origin:
            raise Misconfigured(f"origin must be written as a browser writes it, expected {spelled}")
        if parts.scheme != "https" and not (parts.scheme == "http" and host == "localhost"):
            raise Misconfigured("an origin must be https, or http on localhost")
        if host != rp_id and not host.endswith("." + rp_id):
            raise Misconfigured("an origin must be the relying party id or a subdomain of it")
    return RelyingParty(id=rp_id, name=name, origins=origins, software_passkeys=software_passkeys)
