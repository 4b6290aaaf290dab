"""Who is at the page: the session cookie, the browser's own secret, and what a sign-in signs.

* Session cookie: ``<tenant>.<session>.<secret>``. Nothing of it is believed: the session is loaded and judged
  (``sessions.py``) for each request, so whoever ends it ends it at every replica at once.
* Before anybody is signed in the browser holds a random secret, which ties forms to it and means nothing else.
* A sign-in signs ``SHA-256("nomos-sign-in-v1" ‖ 0x00 ‖ ask)``, another domain than an approval's, so neither signature
  can stand for the other. The *ask* is the time until which it holds, sealed by the service with a random nonce:
  nothing is stored until it has been signed, and then the session's history holds it, once.

Trusted / not trusted: who steals the cookie sees what waits for one tenant and may refuse it, until the session ends.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from typing import Final

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from nomos.errors import Expired, Malformed, NomosError, Revoked
from nomos.ids import SYSTEM_TENANT, parse_slug
from nomos_runtime.sealing import Sealer
from nomos_stepup.approvers import Approver
from nomos_stepup.base64url import b64url, parse_b64url
from nomos_stepup.sessions import SECRET_BYTES, Session, SignedOut, check_secret, check_session
from nomos_stepup.store import StepupStore
from nomos_web import csrf
from nomos_web.cookies import clear_cookie, cookie, set_cookie

SESSION_COOKIE: Final = "nomos-session"
BROWSER_COOKIE: Final = "nomos-browser"
#: How long a sign-in page can be used, in seconds.
ASK_SECONDS: Final = 300
_SIGN_IN_TAG: Final = b"nomos-sign-in-v1\0"
_PURPOSE: Final = "sign-in-ask-v1"
_ASK_BYTES_MAX: Final = 512
_TIME_BYTES: Final = 8
_SESSION_CHARS: Final = 32
_HEX: Final = frozenset("0123456789abcdef")


class SignedIn(msgspec.Struct, frozen=True, kw_only=True):
    """A person whose session holds. ``secret`` ties the forms of their pages to their browser."""

    approver: Approver
    session: Session
    secret: bytes

    @property
    def tenant(self) -> str:
        """Whose requests they see."""
        return self.approver.tenant


class Access:
    """Judges cookies and makes them."""

    def __init__(
        self, store: StepupStore, sealer: Sealer, *, check_tenant: Callable[[str], None], session_seconds: int
    ) -> None:
        """Wires it.

        Args:
            store: loads sessions and approvers.
            sealer: seals what a sign-in signs.
            check_tenant: raises where a tenant is closed.
            session_seconds: how long a session lasts.
        """
        self._store = store
        self._sealer = sealer
        #: Raises Revoked where a tenant is closed.
        self.check_open = check_tenant
        self.session_seconds = session_seconds

    async def person(self, request: Request, now: int) -> SignedIn:
        """Who is signed in.

        Raises:
            SignedOut: nobody.
        """
        tenant, session_id, secret = _parse(cookie(request, SESSION_COOKIE))
        session = await self._store.session(tenant, session_id)
        if session is None:
            raise SignedOut("there is no such session")
        check_secret(session, secret)
        try:
            self.check_open(tenant)
        except Revoked as e:
            raise SignedOut(e.detail) from e
        approver = check_session(session, await self._store.approver(tenant, session.approver), now)
        return SignedIn(approver=approver, session=session, secret=secret)

    def give_session(self, response: Response, tenant: str, session: Session, secret: bytes) -> None:
        """Puts a new session into the browser."""
        value = f"{tenant}.{session.id}.{b64url(secret)}"
        set_cookie(response, SESSION_COOKIE, value, seconds=self.session_seconds)

    @staticmethod
    def take_session(response: Response) -> None:
        """Takes the session out of the browser."""
        clear_cookie(response, SESSION_COOKIE)

    @staticmethod
    def browser_secret(request: Request) -> bytes:
        """The browser's secret, or a new one where it has none."""
        try:
            secret = parse_b64url(cookie(request, BROWSER_COOKIE), "browser cookie", csrf.SECRET_BYTES)
        except Malformed:
            secret = b""
        return secret if len(secret) == csrf.SECRET_BYTES else os.urandom(csrf.SECRET_BYTES)

    @staticmethod
    def give_browser_secret(response: Response, secret: bytes) -> None:
        """Puts the browser's secret into the browser."""
        set_cookie(response, BROWSER_COOKIE, b64url(secret))

    def new_ask(self, now: int) -> str:
        """An ask that may be signed until :data:`ASK_SECONDS` from ``now``."""
        until = (now + ASK_SECONDS).to_bytes(_TIME_BYTES, "big")
        return b64url(self._sealer.seal(until, purpose=_PURPOSE, tenant=SYSTEM_TENANT, name=""))

    def challenge(self, ask: str, now: int) -> bytes:
        """The challenge of an ask.

        Raises:
            Malformed: not an ask of this service.
            Expired: its time is over.
        """
        sealed = parse_b64url(ask, "sign-in", _ASK_BYTES_MAX)
        try:
            until = self._sealer.open(sealed, purpose=_PURPOSE, tenant=SYSTEM_TENANT, name="")
        except NomosError as e:
            raise Malformed("not a sign-in of this site", cause=e.detail) from e
        if now >= int.from_bytes(until, "big"):
            raise Expired("the time of this page is over", hint="reload it")
        return challenge_of_ask(sealed)


def challenge_of_ask(sealed: bytes) -> bytes:
    """What a passkey signs to sign in; no request has this challenge."""
    return hashlib.sha256(_SIGN_IN_TAG + sealed).digest()


def _parse(value: str) -> tuple[str, str, bytes]:
    parts = value.split(".")
    try:
        tenant, session, secret = parts
        parse_slug(tenant, "tenant")
        octets = parse_b64url(secret, "session", SECRET_BYTES)
    except (ValueError, Malformed) as e:
        raise SignedOut("nobody is signed in") from e
    if len(session) != _SESSION_CHARS or not _HEX.issuperset(session):
        raise SignedOut("nobody is signed in")
    return tenant, session, octets
