"""Sessions of the pages: when they hold, and all the ways in which they end."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from nomos.errors import Conflict, Expired, LimitExceeded, Malformed, MalformedRecord, NotFound
from nomos_stepup.approvercommands import OfferEnrolment, RemoveApprover, RevokePasskey, SignOut
from nomos_stepup.approvers import check_offer, decide_approver, evolve_approver
from nomos_stepup.events import SessionClosed, session_event, to_record
from nomos_stepup.links import enrolment_url, parse_enrolment
from nomos_stepup.pages.access import challenge_of_ask
from nomos_stepup.sessions import (
    SESSION_SECONDS_MAX,
    CloseSession,
    OpenSession,
    Session,
    SignedOut,
    check_secret,
    check_session,
    decide_session,
    evolve_session,
    session_id,
)

SECRET = bytes(range(32))


def folded(state: Any, events: Any, evolve: Any) -> Any:
    for event in events:
        state = evolve(state, event)
    return state


def changed(approver: Any, command: Any) -> Any:
    return folded(approver, decide_approver(approver, command), evolve_approver)


def opened(stage: Any) -> tuple[Any, Session]:
    authenticator = stage.Authenticator()
    approver = stage.approver(authenticator)
    command = OpenSession(
        approver=approver,
        assertion=stage.approve(stage.approval(), approver, authenticator).assertion,
        secret=SECRET,
        expires_at=stage.NOW + 60,
        now=stage.NOW,
    )
    return approver, folded(None, decide_session(None, command), evolve_session)


def test_a_session_holds_for_its_secret_in_its_time(stage: Any) -> None:
    approver, session = opened(stage)
    check_secret(session, SECRET)
    assert check_session(session, approver, stage.NOW + 59) is approver
    with pytest.raises(SignedOut):
        check_secret(session, bytes(32))
    with pytest.raises(SignedOut):
        check_session(session, approver, stage.NOW + 60)


def test_the_log_does_not_hold_what_the_browser_holds(stage: Any) -> None:
    _, session = opened(stage)
    assert SECRET.hex() not in str(session)


def test_a_session_that_was_closed_holds_no_more(stage: Any) -> None:
    approver, session = opened(stage)
    closed = folded(session, decide_session(session, CloseSession(now=stage.NOW)), evolve_session)
    with pytest.raises(SignedOut):
        check_session(closed, approver, stage.NOW)
    assert decide_session(closed, CloseSession(now=stage.NOW)) == ()
    with pytest.raises(SignedOut):
        decide_session(None, CloseSession(now=stage.NOW))


def test_a_session_ends_with_its_passkey_and_with_its_person(stage: Any) -> None:
    approver, session = opened(stage)
    (passkey,) = approver.passkeys
    revoked = changed(approver, RevokePasskey(credential_id=passkey.credential_id, now=stage.NOW))
    for then in (None, revoked, changed(approver, RemoveApprover(now=stage.NOW))):
        with pytest.raises(SignedOut):
            check_session(session, then, stage.NOW)


def test_signing_a_person_out_ends_what_was_opened_until_then(stage: Any) -> None:
    approver, session = opened(stage)
    out = changed(approver, SignOut(now=stage.NOW))
    with pytest.raises(SignedOut):
        check_session(session, out, stage.NOW)
    later = msgspec.structs.replace(session, opened_at=stage.NOW + 1)
    assert check_session(later, out, stage.NOW + 1) is out


def test_one_signature_opens_one_session(stage: Any) -> None:
    approver, session = opened(stage)
    authenticator = stage.Authenticator()
    again = OpenSession(
        approver=approver,
        assertion=stage.approve(stage.approval(), stage.approver(authenticator), authenticator).assertion,
        secret=SECRET,
        expires_at=stage.NOW + 60,
        now=stage.NOW,
    )
    with pytest.raises(Conflict):
        decide_session(session, again)
    with pytest.raises(Malformed):
        decide_session(None, msgspec.structs.replace(again, secret=b"short"))
    with pytest.raises(LimitExceeded):
        decide_session(None, msgspec.structs.replace(again, expires_at=stage.NOW + SESSION_SECONDS_MAX + 1))


def test_a_history_of_sessions_that_cannot_be_is_malformed(stage: Any) -> None:
    _, session = opened(stage)
    kind, payload = to_record(SessionClosed(session="other", approver="x", at=1))
    with pytest.raises(MalformedRecord):
        evolve_session(session, session_event(kind, payload))
    with pytest.raises(MalformedRecord):
        session_event("session.opened", {})


def test_no_challenge_of_a_request_is_one_of_a_sign_in(stage: Any) -> None:
    state = stage.approval()
    assert challenge_of_ask(state.salt) != state.challenge
    assert session_id(state.challenge) != session_id(challenge_of_ask(state.salt))


def test_a_link_opens_its_own_open_offer_in_time_only(stage: Any) -> None:
    approver = stage.approver(stage.Authenticator())
    challenge = bytes([7]) * 32
    offered = changed(approver, OfferEnrolment(challenge=challenge, expires_at=stage.NOW + 10, now=stage.NOW))
    assert check_offer(offered, challenge, stage.NOW) is offered
    with pytest.raises(Expired):
        check_offer(offered, challenge, stage.NOW + 10)
    for state, given in ((None, challenge), (approver, challenge), (offered, bytes(32))):
        with pytest.raises(NotFound):
            check_offer(state, given, stage.NOW)
    url = enrolment_url(stage.party, approver, challenge)
    assert parse_enrolment(url.rpartition("/enrol/")[2]) == (approver.tenant, approver.id, challenge)


@pytest.mark.parametrize(
    "link", ["", "a.b", "a.b.c.d", "A.b.AAAA", "a.b.A=", "a.B.AAAA", "a.b." + "A" * 300, "a/.b.AAAA"]
)
def test_what_is_no_link_opens_nothing(link: str) -> None:
    with pytest.raises(NotFound):
        parse_enrolment(link)
