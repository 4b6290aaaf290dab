"""What operators do with passkeys: enrol one, sign in to a service's pages; and what such a service is told.

* An operator opens an enrolment for themselves only, with their bus credential: whoever could enrol a passkey for
  somebody else could act under their id.
* Where the browser goes after a sign-in is the one address that the installation configured for the service; no
  address is ever read from a request.
* A service is named by the account that the bus server stamped. It redeems codes and asks after sessions of its own.
* Each request of a page asks here anew, so an end is in force at the next request. That an operator was removed is a
  fact of identity, here within the interval of its feed.

Trusted / not trusted: a service that serves pages learns who visits its own, and can end those sessions; it can open
none, and cannot sign in to another.
"""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final
from urllib.parse import urlsplit

import msgspec

from nomos.errors import Malformed, Misconfigured, NotFound, Refused, Replayed
from nomos.events import Actor
from nomos.ids import new_id
from nomos.log.sealedfield import is_subject
from nomos.messages import Decoder, failure
from nomos.signin import SECRET_BYTES, AskSession, OperatorSignedIn, OperatorSignedOut, RedeemSignIn
from nomos_stepup.approvers import ENROLMENT_CHALLENGE_BYTES
from nomos_stepup.base64url import b64url
from nomos_stepup.facts import CounterStalled, VerifiedAssertion
from nomos_stepup.operators import (
    EnrolPasskey,
    OfferPasskey,
    OperatorKeys,
    RaiseCounter,
    ReportStalledCounter,
)
from nomos_stepup.operatorstore import OperatorStore
from nomos_stepup.sessions import SignedOut, session_id
from nomos_stepup.signins import End, Open, Redeem, SignIn, check_sign_in, exactly, parse_code, parse_session
from nomos_stepup.webauthn import (
    RelyingParty,
    parse_assertion,
    parse_registration,
    verify_assertion,
    verify_registration,
)

redeem_decoder = Decoder.of(RedeemSignIn, "redeem sign-in")
session_decoder = Decoder.of(AskSession, "ask session")
#: Where a service takes the browser back, whatever its origin.
RETURN_PATH: Final = "/signed-in"

#: The one tenant of an operator, empty for all. Raises where they are none (any more), or the tenant is closed.
Standing = Callable[[str], Awaitable[str]]


def parse_services(text: str, pages: tuple[str, ...]) -> dict[str, str]:
    """Service to return address, from the setting ``sign_in_services``.

    Args:
        text: as there.
        pages: the services that the bus lets ask here.

    Raises:
        Misconfigured: not such a list, a service that may not ask, or an address that is not ``https`` (or
            ``http://localhost``) with the path :data:`RETURN_PATH` and nothing behind it.
    """
    found: dict[str, str] = {}
    for entry in filter(None, text.split(",")):
        service, _, address = entry.partition("=")
        if service not in pages or service in found:
            raise Misconfigured(f"operators sign in to each of {', '.join(pages)} once, got {service!a}")
        parts = urlsplit(address)
        is_local = parts.scheme == "http" and parts.hostname == "localhost"
        rebuilt = f"{parts.scheme}://{parts.netloc}{RETURN_PATH}"
        if not (parts.scheme == "https" or is_local) or not parts.hostname or "@" in address or address != rebuilt:
            raise Misconfigured(f"expected https://HOST{RETURN_PATH} for {service}, got {address!a}")
        found[service] = address
    return found


def operator_actor(operator: str) -> Actor:
    """An operator as the actor of an event."""
    return Actor(kind="operator", id=operator)


class OperatorAccess:
    """Enrols, signs in, redeems, answers."""

    def __init__(
        self,
        store: OperatorStore,
        party: RelyingParty,
        *,
        standing: Standing,
        services: Mapping[str, str],
        enrolment_seconds: int,
        session_seconds: int,
    ) -> None:
        """Wires it.

        Args:
            store: of passkeys and sessions.
            party: this installation.
            standing: of an operator, as identity's facts say.
            services: name to return address.
            enrolment_seconds: how long a link works.
            session_seconds: how long a session lasts.
        """
        self.party = party
        self.standing = standing
        self._store = store
        self._services = services
        self._enrolment_seconds = enrolment_seconds
        self._session_seconds = session_seconds

    def return_address(self, service: str) -> str:
        """Where the browser goes after a sign-in to ``service``.

        Raises:
            NotFound: operators do not sign in to it here.
        """
        address = self._services.get(service)
        if address is None:
            raise NotFound("operators do not sign in to such a service here")
        return address

    async def keys(self, operator: str) -> OperatorKeys:
        """The operator's passkeys; raises where they are no operator (any more)."""
        await self.standing(operator)
        return await self._store.keys(operator)

    async def offer(self, operator: str, corr: str) -> tuple[bytes, int]:
        """Opens an enrolment; gives its challenge, and until when it is open."""
        now, challenge = int(time.time()), os.urandom(ENROLMENT_CHALLENGE_BYTES)
        command = OfferPasskey(challenge=challenge, expires_at=now + self._enrolment_seconds, now=now)
        await self._store.decide_keys(operator, command, operator_actor(operator), corr)
        return challenge, command.expires_at

    async def enrol(self, operator: str, challenge: bytes, response: Mapping[str, object], corr: str) -> None:
        """Verifies a registration against the open offer and enrols the passkey; errors as ``decide_operator``."""
        await self.standing(operator)
        made = verify_registration(parse_registration(response), challenge=challenge, party=self.party)
        command = EnrolPasskey(registration=made, now=int(time.time()))
        await self._store.decide_keys(operator, command, operator_actor(operator), corr)

    async def sign_in(
        self, *, challenge: bytes, response: Mapping[str, object], service: str, state: str, corr: str
    ) -> tuple[SignIn, str]:
        """Verifies a signature over a challenge that stands for signing in to ``service``; gives session and code.

        Raises:
            SignedOut: the passkey is no operator's.
            Revoked, UnknownOperator: its owner is no operator any more.
            Conflict: the challenge has opened a session before.
            Malformed, ApprovalRefused: the response does not verify.
        """
        handle = parse_assertion(response).user_handle or b""
        operator = handle.decode("ascii", "replace")
        if not is_subject(operator):
            raise SignedOut("this passkey belongs to no operator", hint="enrol one: nomos operator passkey")
        await self.standing(operator)
        keys, verified = await self._verified(operator, challenge, response, corr)
        now, code = int(time.time()), os.urandom(SECRET_BYTES)
        command = Open(
            operator=keys,
            assertion=verified,
            service=service,
            state=state,
            code=code,
            expires_at=now + self._session_seconds,
            now=now,
        )
        opened = await self._store.decide_session(session_id(challenge), command, operator_actor(operator), corr)
        return opened, f"{opened.id}.{b64url(code)}"

    async def _verified(
        self, operator: str, challenge: bytes, response: Mapping[str, object], corr: str
    ) -> tuple[OperatorKeys, VerifiedAssertion]:
        keys, actor = await self._store.keys(operator), operator_actor(operator)
        parsed = parse_assertion(response)
        try:
            verified = verify_assertion(
                parsed,
                challenge=challenge,
                passkey=keys.passkey(parsed.credential_id),
                user_handle=keys.user_handle,
                party=self.party,
            )
        except CounterStalled as e:
            alarm = ReportStalledCounter(stalled=e, now=int(time.time()))
            await self._store.decide_keys(operator, alarm, actor, corr)
            raise
        # The counter first: of two uses of one assertion one loses here.
        return await self._store.decide_keys(operator, RaiseCounter(assertion=verified), actor, corr), verified

    async def redeem(self, service: str, message: object) -> msgspec.Struct:
        """Answers ``svc.stepup.redeem``. A code that was used already ends the session that it opened.

        Raises:
            Malformed, NotFound, Refused, Replayed, Expired: as ``decide_sign_in``; recorded.
        """
        if not isinstance(message, RedeemSignIn):
            raise Malformed("not a redeem sign-in message")
        session, code = parse_code(message.code)
        verifier, corr = exactly(message.verifier, "verifier"), new_id("rq")
        held = await self._store.session(session)
        if held is None:
            # Whoever reaches a page can make such codes up; recording each would let them fill the log.
            return failure(NotFound("there is no such sign-in"))
        tenant = await self.standing(held.operator)
        secret, actor = os.urandom(SECRET_BYTES), Actor(kind="service", id=service)
        command = Redeem(service=service, code=code, verifier=verifier, secret=secret, now=int(time.time()))
        try:
            held = await self._store.decide_session(session, command, actor, corr)
        except Replayed:
            # Somebody else holds the code, and nobody can tell who was first (RFC 6749, 4.1.2).
            await self._store.decide_session(session, End(why="code replayed", now=int(time.time())), actor, corr)
            raise
        return _signed_in(held, tenant, b64url(secret))

    async def ask(self, service: str, message: object) -> msgspec.Struct:
        """Answers ``svc.stepup.session``: who is signed in, or why nobody is."""
        if not isinstance(message, AskSession):
            raise Malformed("not an ask session message")
        try:
            held = await self._store.session(parse_session(message.session))
            if held is None:
                raise SignedOut("there is no such session")
            secret, now = exactly(message.secret, "secret"), int(time.time())
            check_sign_in(held, await self._store.keys(held.operator), service=service, secret=secret, now=now)
            tenant = await self.standing(held.operator)
        except (Refused, Malformed) as e:
            return OperatorSignedOut(why=e.detail)
        if message.end:
            end = End(why="signed out", now=now)
            await self._store.decide_session(held.id, end, operator_actor(held.operator), new_id("rq"))
            return OperatorSignedOut(why="signed out")
        return _signed_in(held, tenant)


def _signed_in(held: SignIn, tenant: str, secret: str = "") -> OperatorSignedIn:
    return OperatorSignedIn(
        session=held.id,
        secret=secret,
        operator=held.operator,
        role="tenant-operator" if tenant else "operator",
        tenant=tenant,
        expires_at=held.expires_at,
    )


def parse_link(link: str) -> tuple[str, str]:
    """Operator and challenge (text) of what stands behind the enrolment's path.

    Raises:
        NotFound: no link of ours; it says no more than that.
    """
    operator, _, challenge = link.partition(".")
    if len(link) > _LINK_CHARS_MAX or not is_subject(operator):
        raise NotFound("this link opens nothing", hint="nomos operator passkey gives a new one")
    return operator, challenge


_LINK_CHARS_MAX: Final = 120
