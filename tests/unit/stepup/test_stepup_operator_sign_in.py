"""Operators' passkeys and sessions: the rules, and histories that these rules cannot have written."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from nomos.errors import (
    ApprovalRefused,
    Conflict,
    Expired,
    LimitExceeded,
    Malformed,
    MalformedRecord,
    Misconfigured,
    NotFound,
    Refused,
    Replayed,
)
from nomos.eventschemas import what_is_wrong
from nomos.servicemessages import Fact
from nomos.signin import state_of
from nomos_stepup.approvers import ENROLMENT_SECONDS_MAX, PASSKEYS_MAX
from nomos_stepup.facts import CounterStalled, Passkey, VerifiedAssertion, VerifiedRegistration
from nomos_stepup.operatoraccess import parse_link, parse_services
from nomos_stepup.operatorevents import operator_event, sign_in_event, to_record
from nomos_stepup.operators import (
    EnrolPasskey,
    OfferPasskey,
    OperatorKeys,
    RaiseCounter,
    ReportStalledCounter,
    RevokePasskey,
    check_offer,
    decide_operator,
    evolve_operator,
)
from nomos_stepup.operatorstore import SessionIndex
from nomos_stepup.pages.access import challenge_of_ask
from nomos_stepup.pages.operators import challenge_of
from nomos_stepup.sessions import SESSION_SECONDS_MAX, SignedOut
from nomos_stepup.signins import (
    CODE_SECONDS,
    End,
    Open,
    Redeem,
    SignIn,
    check_sign_in,
    decide_sign_in,
    evolve_sign_in,
    parse_code,
    parse_session,
)

NOW = 1_800_000_000
OPERATOR = "sub-" + "0" * 12 + "7" + "0" * 19
CHALLENGE, CODE, SECRET, VERIFIER = (bytes([n]) * 32 for n in range(1, 5))
KEY = b"credential"


def run(state: Any, *commands: Any) -> Any:
    for command in commands:
        is_keys = isinstance(state, OperatorKeys)
        events = decide_operator(state, command) if is_keys else decide_sign_in(state, command)
        for event in events:
            kind, payload = to_record(event)
            assert what_is_wrong(kind, payload) is None
            read: Any = operator_event if is_keys else sign_in_event
            evolve: Any = evolve_operator if is_keys else evolve_sign_in
            assert read(kind, payload) == event
            state = evolve(state, event)
    return state


def registration(**changes: Any) -> VerifiedRegistration:
    given = {
        "challenge": CHALLENGE, "credential_id": KEY, "public_key": b"cose", "sign_count": 0, "aaguid": "a",
        "backup_eligible": False,
    }  # fmt: skip
    return VerifiedRegistration(**(given | changes))


def assertion(**changes: Any) -> VerifiedAssertion:
    given = {
        "challenge": CHALLENGE, "credential_id": KEY, "public_key": b"cose", "sign_count": 1, "rp_id": "localhost",
        "client_data_json": b"", "authenticator_data": b"", "signature": b"",
    }  # fmt: skip
    return VerifiedAssertion(**(given | changes))


def offer(**changes: Any) -> OfferPasskey:
    return OfferPasskey(**({"challenge": CHALLENGE, "expires_at": NOW + 60, "now": NOW} | changes))


@pytest.fixture
def keys() -> OperatorKeys:
    enrol = EnrolPasskey(registration=registration(), now=NOW)
    return run(OperatorKeys(id=OPERATOR), offer(), enrol)  # type: ignore[no-any-return]


def opening(keys: OperatorKeys, **changes: Any) -> Open:
    given = {
        "operator": keys, "assertion": assertion(), "service": "policy", "state": state_of(VERIFIER), "code": CODE,
        "expires_at": NOW + 3_600, "now": NOW,
    }  # fmt: skip
    return Open(**(given | changes))


def redeeming(**changes: Any) -> Redeem:
    given = {"service": "policy", "code": CODE, "verifier": VERIFIER, "secret": SECRET, "now": NOW}
    return Redeem(**(given | changes))


@pytest.fixture
def session(keys: OperatorKeys) -> SignIn:
    return run(None, opening(keys), redeeming())  # type: ignore[no-any-return]


def test_an_offer_enrols_one_passkey_in_time(keys: OperatorKeys) -> None:
    assert keys.passkey(KEY).public_key == b"cose"
    again = EnrolPasskey(registration=registration(credential_id=b"other"), now=NOW)
    with pytest.raises(NotFound):
        decide_operator(keys, again)
    offered = run(keys, offer())
    with pytest.raises(Expired):
        decide_operator(offered, EnrolPasskey(registration=registration(credential_id=b"other"), now=NOW + 60))
    with pytest.raises(NotFound):
        decide_operator(offered, EnrolPasskey(registration=registration(challenge=bytes(32)), now=NOW))
    with pytest.raises(Conflict):
        decide_operator(offered, EnrolPasskey(registration=registration(), now=NOW))
    assert check_offer(offered, CHALLENGE, NOW + 59) is offered
    for state, challenge, error in ((offered, bytes(32), NotFound), (keys, CHALLENGE, NotFound)):
        with pytest.raises(error):
            check_offer(state, challenge, NOW)


def test_an_offer_keeps_its_limits(keys: OperatorKeys) -> None:
    for wrong, error in (
        (offer(challenge=b"short"), Malformed),
        (offer(expires_at=NOW), Malformed),
        (offer(expires_at=NOW + ENROLMENT_SECONDS_MAX + 1), LimitExceeded),
    ):
        with pytest.raises(error):
            decide_operator(keys, wrong)
    many = tuple(
        Passkey(credential_id=bytes([n]), public_key=b"", sign_count=0, aaguid="", label="", backup_eligible=False)
        for n in range(PASSKEYS_MAX)
    )
    with pytest.raises(LimitExceeded):
        decide_operator(msgspec.structs.replace(keys, passkeys=many), offer())


def test_a_counter_rises_and_a_revoked_passkey_is_none(keys: OperatorKeys) -> None:
    raised = run(keys, RaiseCounter(assertion=assertion(sign_count=5)))
    assert raised.passkey(KEY).sign_count == 5
    with pytest.raises(CounterStalled) as stalled:
        decide_operator(raised, RaiseCounter(assertion=assertion(sign_count=5)))
    assert run(raised, ReportStalledCounter(stalled=stalled.value, now=NOW)).passkeys == raised.passkeys
    assert decide_operator(keys, RaiseCounter(assertion=assertion(sign_count=0))) == ()
    revoked = run(raised, RevokePasskey(credential_id=KEY, now=NOW))
    with pytest.raises(ApprovalRefused):
        revoked.passkey(KEY)
    with pytest.raises(NotFound):
        decide_operator(revoked, RevokePasskey(credential_id=KEY, now=NOW))


def test_a_code_is_redeemed_once_in_time_by_its_service_and_browser(keys: OperatorKeys) -> None:
    opened = run(None, opening(keys))
    for wrong, error in (
        (redeeming(service="console"), NotFound),
        (redeeming(code=bytes(32)), NotFound),
        (redeeming(verifier=bytes(32)), Refused),
        (redeeming(now=NOW + CODE_SECONDS), Expired),
        (redeeming(secret=b""), Malformed),
    ):
        with pytest.raises(error):
            decide_sign_in(opened, wrong)
    with pytest.raises(Replayed):
        decide_sign_in(run(opened, redeeming()), redeeming())
    with pytest.raises(Expired):
        decide_sign_in(run(opened, End(why="x", now=NOW)), redeeming())
    with pytest.raises(NotFound):
        decide_sign_in(None, redeeming())


def test_one_signature_opens_one_session_within_the_limits(keys: OperatorKeys) -> None:
    with pytest.raises(Conflict):
        decide_sign_in(run(None, opening(keys)), opening(keys))
    for wrong, error in (
        (opening(keys, code=b""), Malformed),
        (opening(keys, state="x"), Malformed),
        (opening(keys, expires_at=NOW + SESSION_SECONDS_MAX + 1), LimitExceeded),
    ):
        with pytest.raises(error):
            decide_sign_in(None, wrong)


def test_a_session_holds_until_it_ends_by_any_rule(keys: OperatorKeys, session: SignIn) -> None:
    right = {"service": "policy", "secret": SECRET, "now": NOW + 3_599}
    check_sign_in(session, keys, **right)  # type: ignore[arg-type]
    revoked = run(keys, RevokePasskey(credential_id=KEY, now=NOW))
    unredeemed = run(None, opening(keys))
    for held, by, changes in (
        (session, keys, {"service": "console"}),
        (session, keys, {"secret": CODE}),
        (session, keys, {"secret": b""}),
        (unredeemed, keys, {"secret": b""}),
        (session, keys, {"now": NOW + 3_600}),
        (session, revoked, {}),
        (run(session, End(why="x", now=NOW)), keys, {}),
    ):
        with pytest.raises(SignedOut):
            check_sign_in(held, by, **(right | changes))
    assert decide_sign_in(run(session, End(why="x", now=NOW)), End(why="x", now=NOW)) == ()


def test_histories_that_cannot_be_are_refused(keys: OperatorKeys, session: SignIn) -> None:
    (opened,), (redeemed,) = decide_sign_in(None, opening(keys)), decide_sign_in(run(None, opening(keys)), redeeming())
    for state, event in (
        (session, opened),
        (session, redeemed),
        (None, redeemed),
        (session, msgspec.structs.replace(redeemed, session="0" * 32)),
        (run(run(None, opening(keys)), End(why="x", now=NOW)), redeemed),
    ):
        with pytest.raises(MalformedRecord):
            evolve_sign_in(state, event)
    (offered,) = decide_operator(keys, offer())
    with pytest.raises(MalformedRecord):
        evolve_operator(OperatorKeys(id="sub-else"), offered)
    for read in (operator_event, sign_in_event):
        with pytest.raises(MalformedRecord):
            read("operator.signed-in", {"operator": OPERATOR})
    with pytest.raises(MalformedRecord):
        evolve_operator(OperatorKeys(id=OPERATOR), operator_event(
            "operator.passkey-revoked", {"operator": OPERATOR, "credential_id": "!", "at": 1}))  # fmt: skip


def test_the_index_lists_what_is_open_and_lets_go_of_what_is_over(keys: OperatorKeys) -> None:
    index, rev = SessionIndex(), 0
    for event in (*decide_sign_in(None, opening(keys)), *decide_sign_in(run(None, opening(keys)), redeeming())):
        assert index.open(NOW) == []
        kind, payload = to_record(event)
        index.apply(Fact(rev=rev, type=kind, tenant="_sys", event=payload))
    assert [s.operator for s in index.open(NOW)] == [OPERATOR]
    assert index.open(NOW + 3_600) == []
    assert index._sessions
    assert index.open(NOW + 7_200) == []
    assert not index._sessions


def test_a_sign_in_of_an_operator_is_in_a_domain_of_its_own() -> None:
    assert challenge_of(b"ask") != challenge_of_ask(b"ask")


@pytest.mark.parametrize("text", ["", ".", "x.y", "0" * 32, "0" * 32 + ".A", "G" * 32 + "." + "A" * 43])
def test_what_is_no_code_is_malformed(text: str) -> None:
    with pytest.raises(Malformed):
        parse_code(text)


def test_links_and_sessions_that_are_none_open_nothing() -> None:
    for link in ("", "x.y", f"{OPERATOR}x.y", "sub-.y", OPERATOR + "." + "A" * 200):
        with pytest.raises(NotFound):
            parse_link(link)
    for text in ("", "x", "0" * 33, "G" * 32):
        with pytest.raises(NotFound):
            parse_session(text)


def test_return_addresses_are_configured_for_services_that_may_ask() -> None:
    pages = ("policy", "console")
    right = "policy=https://policy.example/signed-in,console=http://localhost:1/signed-in"
    assert parse_services(right, pages) == {
        "policy": "https://policy.example/signed-in", "console": "http://localhost:1/signed-in",
    }  # fmt: skip
    assert parse_services("", pages) == {}
    for wrong in (
        "policy", "policy=", "proxy=https://a.example/signed-in", "policy=http://a.example/signed-in",
        "policy=https://a.example/", "policy=https://a.example/signed-in?x=1", "policy=https://a@b.example/signed-in",
        "policy=https:///signed-in", "policy=javascript:alert(1)//signed-in",
        "policy=https://a.example/signed-in,policy=https://b.example/signed-in",
    ):  # fmt: skip
        with pytest.raises(Misconfigured):
            parse_services(wrong, pages)
