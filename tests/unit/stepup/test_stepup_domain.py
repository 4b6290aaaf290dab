from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from nomos.errors import (
    ApprovalRefused,
    Conflict,
    Expired,
    LimitExceeded,
    Malformed,
    MalformedRecord,
    NomosError,
    NotCovered,
    NotFound,
    Refused,
    Replayed,
)
from nomos.servicemessages import Quorum
from nomos_stepup.approvercommands import RemoveApprover, RevokePasskey, SetGroups
from nomos_stepup.approvers import GROUPS_MAX, decide_approver
from nomos_stepup.domain import (
    PENDING_PER_AGENT_MAX,
    Approval,
    ApprovalState,
    Cancel,
    Consume,
    Deny,
    Expire,
    decide,
    evolve,
)
from nomos_stepup.events import (
    StepUpApproved,
    StepUpConsumed,
    StepUpDenied,
    StepUpExpired,
    approval_event,
    to_record,
)
from nomos_stepup.facts import VerifiedAssertion
from nomos_stepup.recheck import recheck


def consume(stage: Any, **changes: Any) -> Consume:
    right = Consume(
        tenant="acme",
        agent="site-bot",
        connection="github",
        digest=stage.DIGEST,
        request="rq_" + "8" * 32,
        now=stage.NOW + 2,
    )
    return msgspec.structs.replace(right, **changes)


def approved(stage: Any) -> Approval:
    authenticator = stage.Authenticator()
    state = stage.approval()
    return stage.then(state, stage.approve(state, stage.approver(authenticator), authenticator))


def test_an_approved_request_is_released_once(stage: Any) -> None:
    state = approved(stage)
    assert state.state is ApprovalState.APPROVED
    spent = stage.then(state, consume(stage))
    assert spent.consumed_by == "rq_" + "8" * 32
    with pytest.raises(Replayed):
        decide(spent, consume(stage))


def test_a_pending_request_releases_nothing(stage: Any) -> None:
    with pytest.raises(Refused, match="pending"):
        decide(stage.approval(), consume(stage))
    with pytest.raises(NotFound):
        decide(None, consume(stage))


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        ({"tenant": "globex"}, NotFound),
        ({"agent": "other-bot"}, NotFound),
        ({"connection": "github-prod"}, NotCovered),
        ({"digest": bytes(32)}, NotCovered),
        ({"now": 1_800_000_900}, Expired),
    ],
    ids=str,
)
def test_an_approval_is_consumed_for_its_own_request_only(
    stage: Any, change: dict[str, Any], refusal: type[NomosError]
) -> None:
    with pytest.raises(refusal):
        decide(approved(stage), consume(stage, **change))


def test_an_assertion_made_for_another_request_does_not_approve_this_one(stage: Any) -> None:
    authenticator = stage.Authenticator()
    approver = stage.approver(authenticator)
    harmless = stage.approval(resource="github:repo/acme/sandbox")
    with pytest.raises(ApprovalRefused, match="another challenge"):
        decide(stage.approval(), stage.approve(harmless, approver, authenticator))


def test_an_assertion_made_for_the_same_request_with_another_salt_does_not_approve_it(stage: Any) -> None:
    authenticator = stage.Authenticator()
    other = stage.approval(salt=b"t" * 32)
    with pytest.raises(ApprovalRefused, match="another challenge"):
        decide(stage.approval(), stage.approve(other, stage.approver(authenticator), authenticator))


def test_an_approver_of_another_tenant_finds_no_such_approval(stage: Any) -> None:
    authenticator = stage.Authenticator()
    stranger = stage.approver(authenticator, tenant="globex")
    state = stage.approval()
    with pytest.raises(NotFound):
        decide(state, stage.approve(state, stranger, authenticator))
    with pytest.raises(NotFound):
        decide(state, Deny(approver=stranger, reason="", now=stage.NOW))


def test_a_passkey_of_another_approver_does_not_approve(stage: Any) -> None:
    hers, his = stage.Authenticator(), stage.Authenticator()
    ada, bob = stage.approver(hers, id="ada"), stage.approver(his, id="bob")
    state = stage.approval()
    command = stage.approve(state, bob, his)
    with pytest.raises(ApprovalRefused, match="no approver"):
        decide(state, msgspec.structs.replace(command, approver=ada))


def test_an_assertion_verified_with_a_key_that_is_not_enrolled_does_not_approve(stage: Any) -> None:
    authenticator = stage.Authenticator()
    state = stage.approval()
    command = stage.approve(state, stage.approver(authenticator), authenticator)
    swapped = msgspec.structs.replace(command.assertion, public_key=stage.Authenticator().cose)
    with pytest.raises(ApprovalRefused, match="another key"):
        decide(state, msgspec.structs.replace(command, assertion=swapped))


@pytest.mark.parametrize("who", [{"agent": "ada"}, {"behalf": "ada"}], ids=str)
def test_who_asks_cannot_approve(stage: Any, who: dict[str, Any]) -> None:
    authenticator = stage.Authenticator()
    state = stage.approval(**who)
    with pytest.raises(ApprovalRefused, match="who asks"):
        decide(state, stage.approve(state, stage.approver(authenticator), authenticator))


def test_an_approver_with_the_name_of_who_asks_cannot_approve_under_another_id(stage: Any) -> None:
    authenticator = stage.Authenticator()
    state = stage.approval(behalf="lovelace")
    approver = msgspec.structs.replace(stage.approver(authenticator, id="sub-" + "0" * 32), name="lovelace")
    with pytest.raises(ApprovalRefused, match="who asks"):
        decide(state, stage.approve(state, approver, authenticator))


def test_a_removed_approver_or_a_revoked_passkey_does_not_approve(stage: Any) -> None:
    authenticator = stage.Authenticator()
    approver = stage.approver(authenticator)
    state = stage.approval()
    command = stage.approve(state, approver, authenticator)
    removed = stage.then_approver(approver, RemoveApprover(now=stage.NOW))
    revoked = stage.then_approver(approver, RevokePasskey(credential_id=authenticator.credential_id, now=stage.NOW))
    for then in (removed, revoked):
        with pytest.raises(ApprovalRefused):
            decide(state, msgspec.structs.replace(command, approver=then))
    with pytest.raises(ApprovalRefused):
        decide(state, Deny(approver=removed, reason="", now=stage.NOW))


def test_approval_at_or_after_the_end_is_refused(stage: Any) -> None:
    authenticator = stage.Authenticator()
    approver = stage.approver(authenticator)
    state = stage.approval()
    for now in (state.request.expires_at, state.request.expires_at + 1):
        with pytest.raises(Expired):
            decide(state, stage.approve(state, approver, authenticator, now=now))
    assert decide(state, stage.approve(state, approver, authenticator, now=state.request.expires_at - 1))


def test_two_approvals_at_the_same_moment_cannot_both_be_appended(stage: Any) -> None:
    hers, his = stage.Authenticator(), stage.Authenticator()
    ada, bob = stage.approver(hers, id="ada"), stage.approver(his, id="bob")
    seen_by_both = stage.approval()
    first = decide(seen_by_both, stage.approve(seen_by_both, ada, hers))
    second = decide(seen_by_both, stage.approve(seen_by_both, bob, his))
    stored = evolve(seen_by_both, first[0])
    assert stored.version != seen_by_both.version  # so the store refuses the second append
    with pytest.raises(MalformedRecord):
        evolve(stored, second[0])  # and no history can hold both
    with pytest.raises(Conflict):
        decide(stored, stage.approve(stored, bob, his))  # nor does deciding again help


def test_two_consumptions_at_the_same_moment_cannot_both_be_appended(stage: Any) -> None:
    seen_by_both = approved(stage)
    first, second = decide(seen_by_both, consume(stage)), decide(seen_by_both, consume(stage))
    with pytest.raises(MalformedRecord):
        evolve(evolve(seen_by_both, first[0]), second[0])


def test_approval_by_several_needs_as_many_different_people(stage: Any) -> None:
    hers, spare, his = stage.Authenticator(), stage.Authenticator(), stage.Authenticator()
    ada, bob = stage.approver(hers, spare, id="ada"), stage.approver(his, id="bob")
    state = stage.approval(needed=2)
    state = stage.then(state, stage.approve(state, ada, hers))
    assert state.state is ApprovalState.PENDING
    with pytest.raises(Refused):
        decide(state, consume(stage))
    with pytest.raises(Conflict, match="signed already"):
        decide(state, stage.approve(state, ada, spare))
    state = stage.then(state, stage.approve(state, bob, his))
    assert (state.state, state.approvers) == (ApprovalState.APPROVED, ("ada", "bob"))


def _in(stage: Any, approver: Any, *groups: str) -> Any:
    return stage.then_approver(approver, SetGroups(groups=groups, now=stage.NOW))


def test_of_each_group_that_is_asked_as_many_must_sign(stage: Any) -> None:
    keys = {name: stage.Authenticator() for name in ("ada", "ben", "cyd", "dan")}
    people = {name: stage.approver(key, id=name) for name, key in keys.items()}
    ada, ben = _in(stage, people["ada"], "finance"), _in(stage, people["ben"], "finance", "legal")
    cyd, dan = _in(stage, people["cyd"], "ops"), _in(stage, people["dan"], "finance")
    quorums = (Quorum(approvals=2, group="finance"), Quorum(approvals=1, group="legal"))
    state = stage.approval(v=2, needed=2, quorums=quorums)
    assert state.missing == {"finance": 2, "legal": 1}
    with pytest.raises(ApprovalRefused, match="waits for people of the group finance"):
        decide(state, stage.approve(state, cyd, keys["cyd"]))
    state = stage.then(state, stage.approve(state, ada, keys["ada"]))
    state = stage.then(state, stage.approve(state, ben, keys["ben"]))
    # Ben counts in both of his groups.
    assert (state.state, state.missing) == (ApprovalState.APPROVED, {"finance": 0, "legal": 0})
    again = stage.approval(v=2, needed=2, quorums=quorums)
    again = stage.then(again, stage.approve(again, ada, keys["ada"]))
    again = stage.then(again, stage.approve(again, dan, keys["dan"]))
    assert (again.state, again.missing) == (ApprovalState.PENDING, {"finance": 0, "legal": 1})
    eve_key = stage.Authenticator()
    eve = _in(stage, stage.approver(eve_key, id="eve"), "finance")
    with pytest.raises(ApprovalRefused, match="waits for people of the group legal"):
        decide(again, stage.approve(again, eve, eve_key))
    assert stage.then(again, stage.approve(again, ben, keys["ben"])).state is ApprovalState.APPROVED


def test_groups_are_slugs_and_bounded_and_said_only_when_they_change(stage: Any) -> None:
    ada = _in(stage, stage.approver(id="ada"), "legal", "finance", "legal")
    assert ada.groups == {"finance", "legal"}
    assert decide_approver(ada, SetGroups(groups=("finance", "legal"), now=stage.NOW)) == ()
    assert _in(stage, ada).groups == frozenset()
    with pytest.raises(Malformed):
        decide_approver(ada, SetGroups(groups=("Not a group",), now=stage.NOW))
    with pytest.raises(LimitExceeded, match="groups of an approver"):
        decide_approver(ada, SetGroups(groups=tuple(f"g{n}" for n in range(GROUPS_MAX + 1)), now=stage.NOW))


def test_one_refusal_ends_an_approval_by_several(stage: Any) -> None:
    hers = stage.Authenticator()
    ada, bob = stage.approver(hers, id="ada"), stage.approver(id="bob")
    state = stage.approval(needed=2)
    state = stage.then(state, stage.approve(state, ada, hers))
    state = stage.then(state, Deny(approver=bob, reason="not this one", now=stage.NOW))
    assert state.state is ApprovalState.DENIED


def test_a_timer_that_fires_early_late_or_twice_does_no_harm(stage: Any) -> None:
    state = stage.approval()
    assert decide(state, Expire(now=stage.NOW)) == ()
    over = stage.then(state, Expire(now=state.request.expires_at))
    assert over.state is ApprovalState.EXPIRED
    assert decide(over, Expire(now=state.request.expires_at + 1)) == ()
    assert decide(approved(stage), Expire(now=state.request.expires_at)) == ()


def test_only_the_asking_agent_and_operators_cancel(stage: Any) -> None:
    right = Cancel(tenant="acme", by_kind="agent", by="site-bot", reason="", now=stage.NOW)
    assert stage.then(stage.approval(), right).state is ApprovalState.CANCELLED
    operator = msgspec.structs.replace(right, by_kind="operator", by="olga")
    assert stage.then(stage.approval(), operator).state is ApprovalState.CANCELLED
    for change in ({"tenant": "globex"}, {"by": "other-bot"}, {"by_kind": "service"}):
        with pytest.raises(Refused):
            decide(stage.approval(), msgspec.structs.replace(right, **change))


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        ({"salt": b"short"}, Malformed),
        ({"args_text": "{}"}, Malformed),
        ({"now": 1_800_000_900}, Expired),
        ({"now": 1_800_000_900 - 86_401}, LimitExceeded),
        ({"pending_of_agent": PENDING_PER_AGENT_MAX}, LimitExceeded),
    ],
    ids=str,
)
def test_a_request_that_breaks_a_rule_is_not_opened(
    stage: Any, change: dict[str, Any], refusal: type[NomosError]
) -> None:
    with pytest.raises(refusal):
        decide(None, msgspec.structs.replace(stage.opening(), **change))


def test_a_request_is_opened_once(stage: Any) -> None:
    with pytest.raises(Conflict):
        decide(stage.approval(), stage.opening())


@pytest.mark.parametrize("reason", ["a\nb", "\u202egood", "x" * 501, " "])
def test_a_reason_is_one_short_printable_line(stage: Any, reason: str) -> None:
    with pytest.raises(Malformed):
        decide(stage.approval(), Deny(approver=stage.approver(), reason=reason, now=stage.NOW))


def test_a_history_that_the_rules_cannot_write_is_refused(stage: Any) -> None:
    state, one = stage.approval(), stage.request().approval
    spent = StepUpConsumed(approval=one, agent="site-bot", request="rq_1", at=1)
    expired = StepUpExpired(approval=one, at=1)
    with pytest.raises(MalformedRecord):
        evolve(state, spent)
    with pytest.raises(MalformedRecord):
        evolve(None, expired)
    with pytest.raises(MalformedRecord):
        evolve(state, StepUpExpired(approval="ap_" + "0" * 32, at=1))
    with pytest.raises(MalformedRecord):
        evolve(evolve(state, expired), StepUpDenied(approval=one, approver="ada", reason="", at=1))
    with pytest.raises(MalformedRecord):
        evolve(state, decide(None, stage.opening())[0])
    with pytest.raises(MalformedRecord):
        approval_event("stepup.requested", {"approval": one})
    with pytest.raises(MalformedRecord):
        approval_event("authz.decision", {})


def test_an_auditor_verifies_the_passkey_again_from_the_log_alone(stage: Any) -> None:
    authenticator = stage.Authenticator()
    enrolled = enrolments(stage, authenticator)
    approver = stage.approver(authenticator)
    history = list(decide(None, stage.opening()))
    state = evolve(None, history[0])
    history += decide(state, stage.approve(state, approver, authenticator))
    history += decide(evolve(state, history[1]), consume(stage))
    history = [approval_event(*to_record(event)) for event in history]
    assert recheck(history, enrolled=enrolled, party=stage.party).consumed_by is not None

    with pytest.raises(ApprovalRefused, match="not enrolled"):
        recheck(history, enrolled=[], party=stage.party)
    changed = msgspec.structs.replace(history[0], request=stage.request(resource="github:repo/acme/other"))
    with pytest.raises(ApprovalRefused, match="another challenge"):
        recheck([changed, *history[1:]], enrolled=enrolled, party=stage.party)
    with pytest.raises(MalformedRecord):
        recheck(
            [msgspec.structs.replace(history[0], args_text="{}"), *history[1:]], enrolled=enrolled, party=stage.party
        )
    late = msgspec.structs.replace(history[1], at=state.request.expires_at)
    with pytest.raises(ApprovalRefused, match="after its time"):
        recheck([history[0], late], enrolled=enrolled, party=stage.party)
    cut = msgspec.structs.replace(history[1], signature=stage.b64(b"x"))
    with pytest.raises(ApprovalRefused, match="does not verify"):
        recheck([history[0], cut], enrolled=enrolled, party=stage.party)
    for wrong in ({"sign_count": 7}, {"rp_id": "other.test"}):
        with pytest.raises(MalformedRecord, match="not the one that was signed"):
            recheck([history[0], msgspec.structs.replace(history[1], **wrong)], enrolled=enrolled, party=stage.party)
    other_key = [msgspec.structs.replace(enrolled[0], public_key=stage.b64(stage.Authenticator().cose))]
    with pytest.raises(ApprovalRefused, match="not enrolled"):
        recheck(history, enrolled=other_key, party=stage.party)
    loose = msgspec.structs.replace(history[1], signature="%")
    with pytest.raises(MalformedRecord):
        recheck([history[0], loose], enrolled=enrolled, party=stage.party)
    with pytest.raises(MalformedRecord):
        recheck([], enrolled=enrolled, party=stage.party)


def test_an_auditor_refuses_an_approval_by_who_asked(stage: Any) -> None:
    authenticator = stage.Authenticator()
    state = stage.approval(behalf="ada")
    verified = stage.approve(state, stage.approver(authenticator), authenticator).assertion
    forged = StepUpApproved(
        approval=state.id,
        approver="ada",
        credential_id=stage.b64(verified.credential_id),
        public_key=stage.b64(verified.public_key),
        client_data_json=stage.b64(verified.client_data_json),
        authenticator_data=stage.b64(verified.authenticator_data),
        signature=stage.b64(verified.signature),
        rp_id=verified.rp_id,
        sign_count=verified.sign_count,
        missing=0,
        at=stage.NOW,
    )
    requested = decide(None, stage.opening(behalf="ada"))[0]
    with pytest.raises(ApprovalRefused, match="who asks"):
        recheck([requested, forged], enrolled=enrolments(stage, authenticator), party=stage.party)


def enrolments(stage: Any, authenticator: Any) -> list[Any]:
    from nomos_stepup.events import PasskeyEnrolled

    return [
        PasskeyEnrolled(
            approver="ada",
            credential_id=stage.b64(authenticator.credential_id),
            public_key=stage.b64(authenticator.cose),
            sign_count=0,
            aaguid="",
            label="key",
            backup_eligible=False,
            at=stage.NOW,
        )
    ]


class ApprovalMachine(RuleBasedStateMachine):
    """Any commands in any order: what is decided is appended, what is refused leaves no trace."""

    stage: Any = None
    people: Any = None

    @initialize(needed=st.integers(1, 3))
    def opened(self, needed: int) -> None:
        self.history = list(decide(None, self.stage.opening(needed=needed)))
        self.state = evolve(None, self.history[0])
        self.now = self.stage.NOW
        self.ended_as: tuple[ApprovalState, tuple[str, ...]] | None = None

    def attempt(self, command: Any) -> None:
        try:
            events = decide(self.state, command)
        except NomosError:
            return
        for event in events:
            self.state = evolve(self.state, event)
            self.history.append(event)

    @rule(seconds=st.integers(0, 600))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds

    @rule(person=st.integers(0, 3), honest=st.booleans())
    def approve(self, person: int, honest: bool) -> None:
        from nomos_stepup.domain import Approve

        approver = self.people[person]
        assertion = VerifiedAssertion(
            challenge=self.state.challenge if honest else bytes(32),
            credential_id=approver.passkeys[0].credential_id,
            public_key=approver.passkeys[0].public_key,
            sign_count=1,
            rp_id="approve.example.test",
            client_data_json=b"{}",
            authenticator_data=b"",
            signature=b"",
        )
        self.attempt(Approve(approver=approver, assertion=assertion, now=self.now))

    @rule(person=st.integers(0, 3))
    def deny(self, person: int) -> None:
        self.attempt(Deny(approver=self.people[person], reason="no", now=self.now))

    @rule()
    def expire(self) -> None:
        self.attempt(Expire(now=self.now))

    @rule(agent=st.sampled_from(["site-bot", "other-bot"]))
    def cancel(self, agent: str) -> None:
        self.attempt(Cancel(tenant="acme", by_kind="agent", by=agent, reason="", now=self.now))

    @rule(agent=st.sampled_from(["site-bot", "other-bot"]), right=st.booleans())
    def consume(self, agent: str, right: bool) -> None:
        digest = self.stage.DIGEST if right else bytes(32)
        self.attempt(consume(self.stage, agent=agent, digest=digest, now=self.now))

    @precondition(lambda self: hasattr(self, "history"))
    @invariant()
    def replay_equals_the_live_state(self) -> None:
        replayed: Approval | None = None
        for event in self.history:
            replayed = evolve(replayed, approval_event(*to_record(event)))
        assert replayed == self.state

    @precondition(lambda self: hasattr(self, "history"))
    @invariant()
    def what_is_consumed_was_approved_by_enough_people_once(self) -> None:
        signers = {event.approver for event in self.history if isinstance(event, StepUpApproved)}
        spent = [event for event in self.history if isinstance(event, StepUpConsumed)]
        assert len(spent) <= 1
        assert (self.state.consumed_by is not None) == (len(spent) == 1)
        is_approved = self.state.state is ApprovalState.APPROVED
        assert is_approved == (len(signers) >= self.state.request.needed)
        assert is_approved or not spent
        assert "globex-person" not in signers

    @precondition(lambda self: hasattr(self, "history"))
    @invariant()
    def an_end_is_final(self) -> None:
        if self.ended_as is not None:
            assert (self.state.state, self.state.approvers) == self.ended_as
        elif self.state.state is not ApprovalState.PENDING:
            self.ended_as = (self.state.state, self.state.approvers)


def test_approvals_keep_their_rules_under_any_commands(stage: Any) -> None:
    people = [stage.approver(stage.Authenticator(), id=name) for name in ("ada", "bob", "cyd")]
    people.append(stage.approver(stage.Authenticator(), id="globex-person", tenant="globex"))

    class Machine(ApprovalMachine):
        pass

    Machine.stage, Machine.people = stage, people
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(Machine, settings=settings(max_examples=60, stateful_step_count=25))
