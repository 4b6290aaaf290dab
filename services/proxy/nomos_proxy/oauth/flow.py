"""One attempt to connect an account, as its events tell it. Pure: no IO, no clock, no randomness.

    offered -> begun (again, while nobody has come back) -> returned -> ended
    offered for a device ------------------------------- -> returned -> ended

The link's secret opens the page; it connects nothing. What comes back from the provider counts only in the browser that
went there (its cookie), with the state that was made for it, once, and in time. A device's code has no link and takes
nothing that a browser brings.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable, Mapping
from typing import Final, Literal

from msgspec import Struct, structs

from nomos.errors import Expired, LimitExceeded, Malformed, NotFound, NotPermitted, Replayed
from nomos.events import CONNECT_BEGUN, CONNECT_ENDED, CONNECT_OFFERED, CONNECT_RETURNED, Actor, Envelope
from nomos.ids import is_id, parse_slug

SECRET_BYTES: Final = 32
#: How often a browser is sent to the provider by one link: whoever holds it writes an event each time.
BEGINS_MAX: Final = 20
ID_PREFIX: Final = "cn"
_LINK_CHARS_MAX: Final = 200
_SECRET_CHARS: Final = 43


class WrongBrowser(NotPermitted):
    """The answer of the provider came to another browser, or for another attempt, than the one that was begun."""

    code = "wrong_browser"


class Flow(Struct, frozen=True, kw_only=True):
    """An attempt.

    Attributes:
        tenant: for whom.
        id: its id.
        connector: at which provider.
        name: of the connection that is made, or whose account is connected again.
        scopes: what is asked for.
        base_url: an origin in place of the connector's, in development only.
        is_device: whether a person enters a code at the provider, in place of a link.
        is_shared: whether the provider is asked as the installation's client, to the end of this attempt.
        by: who made the link.
        link_sha256: of the link's secret, hexadecimal.
        expires_at: Unix seconds.
        phase: where it stands.
        state_sha256: of the state that the browser took along; empty before.
        browser_sha256: of the secret in that browser's cookie; empty before.
        version: events so far.
    """

    tenant: str
    id: str
    connector: str
    name: str
    scopes: tuple[str, ...]
    base_url: str
    is_device: bool
    is_shared: bool
    by: Actor
    link_sha256: str
    expires_at: int
    phase: Literal["offered", "begun", "returned", "ended"] = "offered"
    state_sha256: str = ""
    browser_sha256: str = ""
    version: int = 1

    def check_link(self, secret: bytes, now: int) -> None:
        """Checks a link that somebody opened.

        Raises:
            NotFound: it is not this one's.
            Expired: its time is over.
            Replayed: it has been used.
        """
        if not _is_hash_of(self.link_sha256, secret):
            raise _no_link()
        self.check_open(now)

    def check_begin(self) -> None:
        """Checks that the link has not led to the provider too often.

        Raises:
            LimitExceeded: as often as :data:`BEGINS_MAX`.
        """
        # before an answer has come, all events but the first are such ways
        if self.version > BEGINS_MAX:
            raise LimitExceeded("begins_max of a link", BEGINS_MAX, self.version)

    def check_return(self, state: str, browser: bytes, now: int) -> None:
        """Checks that a provider's answer belongs to the browser and the request that were begun.

        Raises:
            WrongBrowser: it does not.
            Expired: its time is over.
            Replayed: an answer has come before.
        """
        is_ours = _is_hash_of(self.browser_sha256, browser) and _is_hash_of(self.state_sha256, state.encode())
        if not is_ours:
            raise WrongBrowser("this is no answer to what this browser asked", hint="open the link again")
        self.check_open(now)

    def check_open(self, now: int) -> None:
        """Checks that it still waits for its answer.

        Raises:
            Expired: its time is over.
            Replayed: an answer has come before.
        """
        if self.phase in ("returned", "ended"):
            raise Replayed("this link has been used", hint="ask for a new one")
        if now >= self.expires_at:
            raise Expired("the time of this link is over", hint="ask for a new one")


def fold(tenant: str, flow: str, envelopes: Iterable[Envelope]) -> Flow | None:
    """The attempt that its events tell; None where there are none."""
    found: Flow | None = None
    for envelope in envelopes:
        event = envelope.event
        if envelope.type == CONNECT_OFFERED:
            found = _offered(tenant, flow, event, envelope.actor)
        elif found is not None:
            found = structs.replace(_next(found, envelope.type, event), version=found.version + 1)
    return found


def _offered(tenant: str, flow: str, event: Mapping[str, object], by: Actor) -> Flow:
    scopes = event["scopes"]
    return Flow(
        tenant=tenant,
        id=flow,
        connector=str(event["connector"]),
        name=str(event["name"]),
        scopes=tuple(str(one) for one in scopes) if isinstance(scopes, list) else (),
        base_url=str(event.get("base_url") or ""),
        is_device=bool(event.get("device")),
        is_shared=bool(event.get("shared")),
        by=by,
        link_sha256=str(event["link_sha256"]),
        expires_at=int(str(event["expires_at"])),
    )


def _next(flow: Flow, kind: str, event: Mapping[str, object]) -> Flow:
    if kind == CONNECT_BEGUN:
        state, browser = str(event["state_sha256"]), str(event["browser_sha256"])
        return structs.replace(flow, phase="begun", state_sha256=state, browser_sha256=browser)
    if kind == CONNECT_RETURNED:
        return structs.replace(flow, phase="returned")
    return structs.replace(flow, phase="ended") if kind == CONNECT_ENDED else flow


def link_of(tenant: str, flow: str, secret: bytes) -> str:
    """What stands in the address of the page."""
    return f"{tenant}.{flow}.{b64url(secret)}"


def parse_link(link: str) -> tuple[str, str, bytes]:
    """Tenant, attempt and secret of a link.

    Raises:
        NotFound: no link of ours; it says no more than that.
    """
    tenant, flow, text = _three(link)
    try:
        parse_slug(tenant, "tenant")
    except Malformed as e:
        raise _no_link() from e
    if not is_id(flow, ID_PREFIX):
        raise _no_link()
    return tenant, flow, parse_secret(text)


def parse_secret(text: str) -> bytes:
    """Base64url of :data:`SECRET_BYTES` bytes.

    Raises:
        NotFound: it is none.
    """
    try:
        octets = base64.b64decode(text + "=", altchars=b"-_", validate=True) if len(text) == _SECRET_CHARS else b""
    except (binascii.Error, ValueError):
        octets = b""
    if len(octets) != SECRET_BYTES or b64url(octets) != text:
        raise _no_link()
    return octets


def sha256_hex(octets: bytes) -> str:
    """SHA-256, hexadecimal."""
    return hashlib.sha256(octets).hexdigest()


def b64url(octets: bytes) -> str:
    """Base64url without padding."""
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode("ascii")


def _three(link: str) -> tuple[str, str, str]:
    parts = link.split(".") if len(link) <= _LINK_CHARS_MAX else []
    if len(parts) != 3:
        raise _no_link()
    return parts[0], parts[1], parts[2]


def _is_hash_of(digest: str, octets: bytes) -> bool:
    return bool(digest) and hmac.compare_digest(digest, sha256_hex(octets))


def _no_link() -> NotFound:
    return NotFound("this link opens nothing", hint="ask for a new one")
