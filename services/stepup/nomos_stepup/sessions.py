"""Who is signed in to the pages: short-lived, ended at any time, recorded. Pure: a fold over events.

A session lets a person see what waits and refuse it. It never approves: that takes a passkey signature each time.

Rules, in order, for a session to hold: its secret is the one that was given out; it was not ended; its time is not
over; its person is an approver still; the passkey that opened it is enrolled still; the person's sessions were not
ended since (``approver.signed-out``). It is asked for each request anew, so an end is in force at once, at every
replica.

The id of a session is the hash of the challenge that was signed to open it, so that one signature opens one session:
the second one finds the history begun. The browser holds the secret, the log its SHA-256.
"""

from __future__ import annotations

import hashlib
import hmac
from typing import Final

import msgspec

from nomos.errors import Conflict, LimitExceeded, Malformed, MalformedRecord, Refused
from nomos_stepup.approvers import Approver
from nomos_stepup.base64url import b64url
from nomos_stepup.events import SessionClosed, SessionEvent, SessionOpened
from nomos_stepup.facts import VerifiedAssertion

SECRET_BYTES: Final = 32
#: The longest life of a session, in seconds.
SESSION_SECONDS_MAX: Final = 86_400
_ID_CHARS: Final = 32


class SignedOut(Refused):
    """Nobody is signed in with this cookie."""

    code = "signed_out"


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """One session, as the fold of events gives it. Times in Unix seconds."""

    id: str
    approver: str
    credential_id: str
    secret_sha256: str
    opened_at: int
    expires_at: int
    closed: bool
    version: int


class OpenSession(msgspec.Struct, frozen=True, kw_only=True):
    """A passkey has signed a challenge of ours that stood for nothing but signing in."""

    approver: Approver
    assertion: VerifiedAssertion
    secret: bytes
    expires_at: int
    now: int


class CloseSession(msgspec.Struct, frozen=True, kw_only=True):
    """The person leaves."""

    now: int


SessionCommand = OpenSession | CloseSession


def session_id(challenge: bytes) -> str:
    """The session that a signature over ``challenge`` opens."""
    return hashlib.sha256(challenge).hexdigest()[:_ID_CHARS]


def decide_session(state: Session | None, command: SessionCommand) -> tuple[SessionEvent, ...]:
    """The events that ``command`` causes in ``state``; none where it is closed already.

    Raises:
        Conflict: this signature has opened a session before.
        SignedOut: there is no such session.
        Malformed: a secret of another length; LimitExceeded over a limit.
    """
    if isinstance(command, CloseSession):
        if state is None:
            raise SignedOut("there is no such session")
        return () if state.closed else (SessionClosed(session=state.id, approver=state.approver, at=command.now),)
    if state is not None:
        raise Conflict("this signature has been used to sign in")
    if len(command.secret) != SECRET_BYTES:
        raise Malformed(f"expected a secret of {SECRET_BYTES} bytes")
    if command.expires_at - command.now > SESSION_SECONDS_MAX:
        raise LimitExceeded("SESSION_SECONDS_MAX", SESSION_SECONDS_MAX, command.expires_at - command.now)
    return (
        SessionOpened(
            session=session_id(command.assertion.challenge),
            approver=command.approver.id,
            credential_id=b64url(command.assertion.credential_id),
            secret_sha256=hashlib.sha256(command.secret).hexdigest(),
            expires_at=command.expires_at,
            at=command.now,
        ),
    )


def evolve_session(state: Session | None, event: SessionEvent) -> Session:
    """The state after ``event``.

    Raises:
        MalformedRecord: a history that began twice, or of another session.
    """
    if isinstance(event, SessionOpened):
        if state is not None:
            raise MalformedRecord("a session was opened twice")
        return Session(
            id=event.session,
            approver=event.approver,
            credential_id=event.credential_id,
            secret_sha256=event.secret_sha256,
            opened_at=event.at,
            expires_at=event.expires_at,
            closed=False,
            version=1,
        )
    if state is None or state.id != event.session:
        raise MalformedRecord("an event of another session")
    return msgspec.structs.replace(state, closed=True, version=state.version + 1)


def check_secret(session: Session, secret: bytes) -> None:
    """Checks that ``secret`` is the session's.

    Raises:
        SignedOut: it is not.
    """
    if not hmac.compare_digest(hashlib.sha256(secret).hexdigest(), session.secret_sha256):
        raise SignedOut("there is no such session")


def check_session(session: Session, approver: Approver | None, now: int) -> Approver:
    """Checks that a session holds at ``now``, Unix seconds; gives its person.

    Raises:
        SignedOut: it ended, by whatever rule.
    """
    if session.closed:
        raise SignedOut("this session was ended")
    if now >= session.expires_at:
        raise SignedOut("the time of this session is over")
    if approver is None or not approver.active:
        raise SignedOut("this person may not approve any more")
    if all(b64url(passkey.credential_id) != session.credential_id for passkey in approver.passkeys):
        raise SignedOut("the passkey of this session was taken out of use")
    # Within one second nobody can tell which came first, so the session ends.
    if session.opened_at <= approver.signed_out_at:
        raise SignedOut("the sessions of this person were ended")
    return approver
