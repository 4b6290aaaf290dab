"""Operators' sessions on the pages of other services: opened by a passkey, redeemed once, ended at any time. Pure.

One signature opens one session for one service: its id is the hash of the challenge, so a second use finds the history
begun. The browser carries a one-time code to the service, which redeems it over the bus and puts a fresh secret into
its own cookie: what stood in an address opens nothing afterwards, and no cookie from before means anything.

Rules of redeeming, in order: the code is this session's; the service is the one that the operator signed in to; the
verifier is the one that the browser's state was made from; it was not redeemed; it was not ended; its time is not over.

Rules of a session, in order: it was redeemed, by the service that asks; the secret is its own; it was not ended; its
time is not over; the passkey that opened it is enrolled still. That its person still is an operator is asked besides.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final, assert_never

import msgspec

from nomos.errors import Conflict, Expired, LimitExceeded, Malformed, MalformedRecord, NotFound, Refused, Replayed
from nomos.signin import SECRET_BYTES, state_of
from nomos_stepup.base64url import b64url, parse_b64url
from nomos_stepup.facts import VerifiedAssertion
from nomos_stepup.operatorevents import CodeRedeemed, SessionEnded, SignedIn, SignInEvent
from nomos_stepup.operators import OperatorKeys
from nomos_stepup.sessions import SESSION_SECONDS_MAX, SignedOut, session_id

#: How long a code may be redeemed, in seconds: the browser brings it at once.
CODE_SECONDS: Final = 60
STATE_CHARS: Final = 43
_SESSION_CHARS: Final = 32
_HEX: Final = frozenset("0123456789abcdef")


class SignIn(msgspec.Struct, frozen=True, kw_only=True):
    """One session, as the fold of events gives it. Times in Unix seconds; ``secret_sha256`` is empty until redeemed."""

    id: str
    operator: str
    service: str
    credential_id: str
    code_sha256: str
    state: str
    code_expires_at: int
    opened_at: int
    expires_at: int
    secret_sha256: str = ""
    ended: bool = False
    version: int = 1


class Open(msgspec.Struct, frozen=True, kw_only=True):
    """A passkey has signed a challenge that stood for signing in to ``service`` with ``state``."""

    operator: OperatorKeys
    assertion: VerifiedAssertion
    service: str
    state: str
    code: bytes
    expires_at: int
    now: int


class Redeem(msgspec.Struct, frozen=True, kw_only=True):
    """``service`` brings a code and its verifier; ``secret`` is what the browser shall hold."""

    service: str
    code: bytes
    verifier: bytes
    secret: bytes
    now: int


class End(msgspec.Struct, frozen=True, kw_only=True):
    """The session ends, for the reason ``why``."""

    why: str
    now: int


def decide_sign_in(state: SignIn | None, command: Open | Redeem | End) -> tuple[SignInEvent, ...]:
    """The events that ``command`` causes in ``state``; none where it has ended already.

    Raises:
        Conflict: this signature has opened a session before.
        NotFound: there is no such session, or the code is not the one of this session and service.
        Replayed: the code has been redeemed. Expired: its time is over, or the session was ended.
        Malformed: a value of another length; LimitExceeded over a limit.
    """
    if isinstance(command, Open):
        return (_open(state, command),)
    if state is None:
        raise NotFound("there is no such session")
    match command:
        case Redeem():
            return (_redeem(state, command),)
        case End():
            ended = SessionEnded(session=state.id, operator=state.operator, why=command.why, at=command.now)
            return () if state.ended else (ended,)
        case _:
            assert_never(command)


def evolve_sign_in(state: SignIn | None, event: SignInEvent) -> SignIn:
    """The state after ``event``.

    Raises:
        MalformedRecord: a history that these rules cannot have written.
    """
    if isinstance(event, SignedIn):
        if state is not None:
            raise MalformedRecord("a session was opened twice")
        return SignIn(
            id=event.session,
            operator=event.operator,
            service=event.service,
            credential_id=event.credential_id,
            code_sha256=event.code_sha256,
            state=event.state,
            code_expires_at=event.code_expires_at,
            opened_at=event.at,
            expires_at=event.expires_at,
        )
    if state is None or (state.id, state.operator) != (event.session, event.operator):
        raise MalformedRecord("an event of another session")
    then = msgspec.structs.replace(state, version=state.version + 1)
    if isinstance(event, SessionEnded):
        return msgspec.structs.replace(then, ended=True)
    if state.secret_sha256 or state.ended:
        raise MalformedRecord("a code was redeemed twice, or after the end")
    return msgspec.structs.replace(then, secret_sha256=event.secret_sha256)


def check_sign_in(session: SignIn, keys: OperatorKeys, *, service: str, secret: bytes, now: int) -> None:
    """Checks that a session holds for ``service`` at ``now``, Unix seconds.

    Raises:
        SignedOut: it does not, by whatever rule.
    """
    digest = hashlib.sha256(secret).hexdigest()
    if session.service != service or not hmac.compare_digest(digest, session.secret_sha256):
        raise SignedOut("there is no such session")
    if session.ended:
        raise SignedOut("this session was ended")
    if now >= session.expires_at:
        raise SignedOut("the time of this session is over")
    if all(b64url(passkey.credential_id) != session.credential_id for passkey in keys.passkeys):
        raise SignedOut("the passkey of this session was taken out of use")


def parse_session(text: str) -> str:
    """A session's id.

    Raises:
        NotFound: not one.
    """
    if len(text) != _SESSION_CHARS or not _HEX.issuperset(text):
        raise NotFound("there is no such session")
    return text


def parse_code(text: str) -> tuple[str, bytes]:
    """Session and secret of a code.

    Raises:
        Malformed: not a code.
    """
    session, _, secret = text.partition(".")
    if len(session) != _SESSION_CHARS or not _HEX.issuperset(session):
        raise Malformed("not a code of a sign-in")
    return session, exactly(secret, "code")


def exactly(text: str, what: str) -> bytes:
    """Parses a secret.

    Raises:
        Malformed: not base64url of :data:`SECRET_BYTES` bytes.
    """
    octets = parse_b64url(text, what, SECRET_BYTES)
    if len(octets) != SECRET_BYTES:
        raise Malformed(f"{what} must hold {SECRET_BYTES} bytes")
    return octets


def parse_state(text: str) -> str:
    """A browser's state.

    Raises:
        Malformed: not base64url of 32 bytes.
    """
    exactly(text, "state")
    return text


def _open(state: SignIn | None, command: Open) -> SignInEvent:
    if state is not None:
        raise Conflict("this signature has been used to sign in")
    if len(command.code) != SECRET_BYTES:
        raise Malformed(f"expected a code of {SECRET_BYTES} bytes")
    if command.expires_at - command.now > SESSION_SECONDS_MAX:
        raise LimitExceeded("SESSION_SECONDS_MAX", SESSION_SECONDS_MAX, command.expires_at - command.now)
    return SignedIn(
        session=session_id(command.assertion.challenge),
        operator=command.operator.id,
        service=command.service,
        credential_id=b64url(command.assertion.credential_id),
        code_sha256=hashlib.sha256(command.code).hexdigest(),
        state=parse_state(command.state),
        code_expires_at=command.now + CODE_SECONDS,
        expires_at=command.expires_at,
        at=command.now,
    )


def _redeem(state: SignIn, command: Redeem) -> SignInEvent:
    is_code = hmac.compare_digest(hashlib.sha256(command.code).hexdigest(), state.code_sha256)
    if not is_code or command.service != state.service:
        raise NotFound("there is no such sign-in")
    if not hmac.compare_digest(state_of(command.verifier), state.state):
        raise Refused("this sign-in was begun by another browser")
    if state.secret_sha256:
        raise Replayed("this code has been used")
    if state.ended or command.now >= state.code_expires_at:
        raise Expired("the time of this code is over", hint="sign in again")
    if len(command.secret) != SECRET_BYTES:
        raise Malformed(f"expected a secret of {SECRET_BYTES} bytes")
    digest = hashlib.sha256(command.secret).hexdigest()
    return CodeRedeemed(
        session=state.id, operator=state.operator, service=state.service, secret_sha256=digest, at=command.now
    )
