from __future__ import annotations

import hashlib
from typing import Any

import msgspec
import pytest

from nomos.errors import ApprovalRefused, Conflict, Expired, LimitExceeded, Malformed, MalformedRecord, NotFound
from nomos.log.sealedfield import FieldPlace, seal_text, subject_of
from nomos_stepup.approvercommands import (
    AddApprover,
    EnrolPasskey,
    OfferEnrolment,
    RaiseCounter,
    RemoveApprover,
    RenamePasskey,
    ReportStalledCounter,
    RevokePasskey,
)
from nomos_stepup.approvers import LABEL_LENGTH_MAX, PASSKEYS_MAX, Approver, decide_approver, evolve_approver
from nomos_stepup.events import ApproverEvent, ApproverRemoved, PasskeyCounterStalled, approver_event, to_record
from nomos_stepup.facts import CounterStalled, VerifiedRegistration

CHALLENGE = hashlib.sha256(b"enrolment").digest()


def offered(stage: Any) -> Approver:
    offer = OfferEnrolment(challenge=CHALLENGE, expires_at=stage.NOW + 600, now=stage.NOW)
    return stage.then_approver(stage.approver(), offer)


def enrolment(stage: Any, **changes: Any) -> EnrolPasskey:
    registration = VerifiedRegistration(
        challenge=CHALLENGE,
        credential_id=b"id",
        public_key=b"key",
        sign_count=0,
        aaguid="",
        backup_eligible=True,
    )
    right = EnrolPasskey(registration=registration, label="laptop", is_taken=False, now=stage.NOW + 1)
    return msgspec.structs.replace(right, **changes)


def test_an_offer_enrols_one_passkey(stage: Any) -> None:
    state = stage.then_approver(offered(stage), enrolment(stage))
    assert (len(state.passkeys), state.offer) == (1, None)
    with pytest.raises(ApprovalRefused, match="no enrolment"):
        decide_approver(state, enrolment(stage))


def test_a_registration_without_its_own_open_offer_is_refused(stage: Any) -> None:
    with pytest.raises(ApprovalRefused, match="no enrolment"):
        decide_approver(stage.approver(), enrolment(stage))
    other = msgspec.structs.replace(enrolment(stage).registration, challenge=bytes(32))
    with pytest.raises(ApprovalRefused, match="another enrolment"):
        decide_approver(offered(stage), enrolment(stage, registration=other))
    with pytest.raises(Expired):
        decide_approver(offered(stage), enrolment(stage, now=stage.NOW + 600))


def test_a_newer_offer_replaces_the_older(stage: Any) -> None:
    newer = OfferEnrolment(challenge=bytes(32), expires_at=stage.NOW + 600, now=stage.NOW)
    with pytest.raises(ApprovalRefused, match="another enrolment"):
        decide_approver(stage.then_approver(offered(stage), newer), enrolment(stage))


def test_a_passkey_has_one_owner(stage: Any) -> None:
    with pytest.raises(Conflict):
        decide_approver(offered(stage), enrolment(stage, is_taken=True))
    twice = stage.then_approver(
        stage.then_approver(offered(stage), enrolment(stage)),
        OfferEnrolment(challenge=CHALLENGE, expires_at=stage.NOW + 600, now=stage.NOW),
    )
    with pytest.raises(Conflict):
        decide_approver(twice, enrolment(stage))


def test_a_name_is_given_out_once(stage: Any) -> None:
    state = stage.then_approver(stage.approver(), RemoveApprover(now=stage.NOW))
    again = AddApprover(tenant="acme", approver="ada", name="Ada", user_handle=bytes(32), now=stage.NOW)
    with pytest.raises(Conflict):
        decide_approver(state, again)
    with pytest.raises(NotFound):
        decide_approver(state, enrolment(stage))
    with pytest.raises(NotFound):
        decide_approver(None, RemoveApprover(now=stage.NOW))


@pytest.mark.parametrize(
    "change",
    [{"approver": "Ada"}, {"tenant": "a b"}, {"name": ""}, {"name": "A\u202eda"}, {"user_handle": b"short"}],
    ids=str,
)
def test_an_approver_with_a_wrong_field_is_refused(stage: Any, change: dict[str, Any]) -> None:
    right = AddApprover(tenant="acme", approver="ada", name="Ada", user_handle=bytes(32), now=stage.NOW)
    with pytest.raises(Malformed):
        decide_approver(None, msgspec.structs.replace(right, **change))


def test_offers_have_limits(stage: Any) -> None:
    right = OfferEnrolment(challenge=CHALLENGE, expires_at=stage.NOW + 600, now=stage.NOW)
    for change in ({"challenge": b"short"}, {"expires_at": stage.NOW}, {"expires_at": stage.NOW + 86_401}):
        with pytest.raises(Malformed):
            decide_approver(stage.approver(), msgspec.structs.replace(right, **change))
    full = stage.approver(*(stage.Authenticator() for _ in range(PASSKEYS_MAX)))
    with pytest.raises(LimitExceeded, match="PASSKEYS_MAX"):
        decide_approver(full, right)


def test_a_counter_rises_and_its_stalling_is_recorded(stage: Any) -> None:
    authenticator = stage.Authenticator()
    state = stage.approver(authenticator)
    verified = stage.assertion(state, authenticator.sign(CHALLENGE), CHALLENGE)
    risen = stage.then_approver(state, RaiseCounter(assertion=verified))
    assert risen.passkeys[0].sign_count == 1
    with pytest.raises(CounterStalled) as alarm:  # a second use of the same assertion, verified on the older state
        decide_approver(risen, RaiseCounter(assertion=verified))
    (event,) = decide_approver(risen, ReportStalledCounter(stalled=alarm.value, now=stage.NOW))
    assert isinstance(event, PasskeyCounterStalled)
    assert (event.stored, event.got) == (1, 1)
    assert evolve_approver(risen, event).passkeys == risen.passkeys


def test_a_passkey_without_a_counter_leaves_no_event(stage: Any) -> None:
    authenticator = stage.Authenticator()
    state = stage.approver(authenticator)
    verified = stage.assertion(state, authenticator.sign(CHALLENGE, counter=0), CHALLENGE)
    assert decide_approver(state, RaiseCounter(assertion=verified)) == ()


def test_a_revoked_passkey_is_gone(stage: Any) -> None:
    authenticator, other = stage.Authenticator(), stage.Authenticator()
    state = stage.approver(authenticator, other)
    revoke = RevokePasskey(credential_id=authenticator.credential_id, now=stage.NOW)
    state = stage.then_approver(state, revoke)
    with pytest.raises(ApprovalRefused):
        state.passkey(authenticator.credential_id)
    assert state.passkey(other.credential_id)
    with pytest.raises(NotFound):
        decide_approver(state, revoke)


def test_a_person_keeps_the_only_passkey(stage: Any) -> None:
    authenticator = stage.Authenticator()
    state = stage.approver(authenticator)
    revoke = RevokePasskey(credential_id=authenticator.credential_id, now=stage.NOW)
    with pytest.raises(Conflict, match="only passkey"):
        decide_approver(state, msgspec.structs.replace(revoke, keeps_one=True))
    assert decide_approver(state, revoke)


def test_what_was_signed_for_one_state_counts_in_no_other(stage: Any) -> None:
    authenticator, other = stage.Authenticator(), stage.Authenticator()
    state = stage.approver(authenticator, other)
    offer = OfferEnrolment(challenge=CHALLENGE, expires_at=stage.NOW + 600, now=stage.NOW, version=state.version)
    revoke = RevokePasskey(credential_id=other.credential_id, now=stage.NOW, version=state.version)
    for command in (offer, revoke):
        later = stage.then_approver(state, command)
        for again in (offer, revoke):
            with pytest.raises((Conflict, NotFound)):
                decide_approver(later, again)


def test_a_passkey_is_called_something_else(stage: Any) -> None:
    authenticator, other = stage.Authenticator(), stage.Authenticator()
    state = stage.approver(authenticator, other)
    rename = RenamePasskey(credential_id=authenticator.credential_id, label="blue key", now=stage.NOW)
    state = stage.then_approver(state, rename)
    assert [one.label == "blue key" for one in state.passkeys] == [True, False]
    for label in ("", "a\nb", "a\u202eb", "x" * (LABEL_LENGTH_MAX + 1)):
        with pytest.raises(Malformed):
            decide_approver(state, msgspec.structs.replace(rename, label=label))
    with pytest.raises(NotFound):
        decide_approver(state, msgspec.structs.replace(rename, credential_id=b"another"))


def test_replay_of_an_approver_equals_the_live_state(stage: Any) -> None:
    authenticator = stage.Authenticator()
    history: list[ApproverEvent] = []
    state: Approver | None = None
    commands: list[Any] = [
        AddApprover(tenant="acme", approver="ada", name="Ada", user_handle=bytes(32), now=stage.NOW),
        OfferEnrolment(challenge=CHALLENGE, expires_at=stage.NOW + 600, now=stage.NOW),
        enrolment(stage),
        RenamePasskey(credential_id=b"id", label="blue key", now=stage.NOW),
        RemoveApprover(now=stage.NOW),
    ]
    for command in commands:
        for event in decide_approver(state, command):
            state = evolve_approver(state, event)
            history.append(event)
    replayed: Approver | None = None
    for event in history:
        replayed = evolve_approver(replayed, approver_event(*to_record(event)))
    assert replayed == state
    assert state is not None
    assert state.version == len(history) == 5
    assert authenticator.credential_id != b"id"


def test_a_history_whose_names_are_sealed_folds_without_a_key(stage: Any) -> None:
    dek = "dek_" + "0" * 32
    place = FieldPlace(tenant="acme", id="ev_" + "0" * 32, field="name")
    sealed = msgspec.to_builtins(seal_text(bytes(32), dek, place, "Ada", bytes(24)))
    add = AddApprover(tenant="acme", approver=subject_of(dek), name="Ada", user_handle=bytes(32), now=stage.NOW)
    (added,) = decide_approver(None, add)
    kind, payload = to_record(added)
    state = evolve_approver(None, approver_event(kind, payload | {"name": sealed}))
    assert state == msgspec.structs.replace(evolve_approver(None, added), name="")
    with pytest.raises(MalformedRecord):
        approver_event(kind, payload | {"name": {"alg": "xc20p"}})


def test_a_history_that_the_rules_cannot_write_is_refused_for_approvers(stage: Any) -> None:
    with pytest.raises(MalformedRecord):
        evolve_approver(None, ApproverRemoved(approver="ada", at=1))
    with pytest.raises(MalformedRecord):
        evolve_approver(stage.approver(), ApproverRemoved(approver="bob", at=1))
    with pytest.raises(MalformedRecord):
        approver_event("passkey.enrolled", {"approver": "ada"})
