"""Decisions: the two passes, high stakes, errors, injected values, and properties over random policy sets."""

from __future__ import annotations

import json
from itertools import product

import cedarpy
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomos.errors import Malformed, MalformedPolicy, MalformedRecord
from nomos.servicemessages import Quorum
from nomos_policy.decision import AuthorizeFacts, Decision, Outcome, decide, decide_batch
from nomos_policy.policy import HIGH_STAKES_ID
from nomos_policy.policyset import CompiledSet, compile_policies
from nomos_policy.record import decision_event, facts_from_event
from nomos_policy.vocabulary import context_text, entity_slice, typed_args

PERMIT = '@id("all") @description("Everything.") permit(principal, action, resource);'
ON_COSIGNED = '@id("asks") @description("Asks.") permit(principal, action, resource) when { context.cosigned };'
UNLESS_COSIGNED = '@id("stops") @description("Stops.") forbid(principal, action, resource) unless { context.cosigned };'
FORBID = '@id("never") @description("Never.") forbid(principal, action, resource);'
OVERFLOW = "context.now + 9223372036854775807 > 0"


def _ids(decision: Decision) -> list[str]:
    return [policy.id for policy in decision.policies]


# --- the truth table -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "outcome", "policies", "reason"),
    [
        ("", "deny", [], "no policy permits"),
        (PERMIT, "allow", ["all"], "permitted"),
        (FORBID, "deny", ["never"], "forbidden by policy"),
        (PERMIT + FORBID, "deny", ["never"], "forbidden by policy"),
        (ON_COSIGNED, "step_up", ["asks"], "a human must approve first"),
        (PERMIT + ON_COSIGNED, "allow", ["all"], "permitted"),
        (PERMIT + UNLESS_COSIGNED, "step_up", ["stops"], "a human must approve first"),
        (ON_COSIGNED + UNLESS_COSIGNED, "step_up", ["stops"], "a human must approve first"),
        (UNLESS_COSIGNED, "deny", ["stops"], "forbidden by policy"),
        (PERMIT + UNLESS_COSIGNED + FORBID, "deny", ["never"], "forbidden by policy"),
        (ON_COSIGNED + FORBID, "deny", ["never"], "forbidden by policy"),
    ],
)
def test_two_passes_make_allow_step_up_or_deny(compiled, ask, text, outcome, policies, reason) -> None:
    decision = decide(ask(compiled(text)))
    assert (decision.outcome, _ids(decision), decision.reason) == (outcome, policies, reason)
    assert not decision.errors
    assert not decision.alarm


def test_a_decision_names_the_policys_sentence_hash_and_revision(compiled, ask) -> None:
    policies = compiled(PERMIT)
    decision = decide(ask(policies))
    assert decision.policies[0].description == "Everything."
    assert (decision.policy_set_hash, decision.revision) == (policies.sha256, 7)


def test_the_second_pass_is_left_out_only_where_no_policy_reads_the_approval(compiled, ask) -> None:
    assert [one.cosigned for one in decide(ask(compiled(FORBID))).passes] == [False]
    assert [one.cosigned for one in decide(ask(compiled(ON_COSIGNED))).passes] == [False, True]


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ("", "deny"),
        (PERMIT, "allow"),
        (ON_COSIGNED, "allow"),
        (PERMIT + UNLESS_COSIGNED, "allow"),
        (PERMIT + FORBID, "deny"),
        (f'{ON_COSIGNED} @id("e") permit(principal, action, resource) when {{ {OVERFLOW} }};', "deny"),
    ],
)
def test_an_approved_request_is_evaluated_for_real_and_is_never_asked_again(compiled, ask, text, outcome) -> None:
    decision = decide(ask(compiled(text), cosigned=True))
    assert decision.outcome == outcome
    assert [one.cosigned for one in decision.passes] == [True]


# --- high stakes ---------------------------------------------------------------------------------------------------

DELETE = "github:repos.delete"
SHARE = ("github:collaborators.add", {"username": "ann", "permission": "pull"})


def test_a_plain_permit_of_a_high_stakes_action_asks_a_human(compiled, ask) -> None:
    policies = compiled(PERMIT)
    for action, args in ((DELETE, {}), SHARE):
        decision = decide(ask(policies, action, args=args))
        assert decision.outcome is Outcome.STEP_UP
        assert _ids(decision) == [HIGH_STAKES_ID, "all"]
        assert decide(ask(policies, action, args=args, cosigned=True)).outcome is Outcome.ALLOW


def test_an_unattended_permit_lets_exactly_its_actions_run_without_a_human(compiled, ask) -> None:
    policies = compiled(
        PERMIT + '@id("nightly") @unattended("nightly clean-up") '
        f'permit(principal == Agent::"cleaner", action == Action::"{DELETE}", resource);'
    )
    decision = decide(ask(policies, DELETE, agent="cleaner"))
    assert decision.outcome is Outcome.ALLOW
    assert _ids(decision) == ["nightly"]
    assert decide(ask(policies, DELETE)).outcome is Outcome.STEP_UP
    assert decide(ask(policies, SHARE[0], args=SHARE[1], agent="cleaner")).outcome is Outcome.STEP_UP


def test_a_forbid_beats_an_unattended_permit(compiled, ask) -> None:
    text = f'@id("u") @unattended("why") permit(principal, action == Action::"{DELETE}", resource);'
    assert decide(ask(compiled(text + FORBID), DELETE)).outcome is Outcome.DENY
    decision = decide(ask(compiled(text + UNLESS_COSIGNED), DELETE))
    assert (decision.outcome, _ids(decision)) == (Outcome.STEP_UP, ["stops"])


def test_a_high_stakes_action_that_nothing_permits_is_denied_not_asked(compiled, ask) -> None:
    reads = '@id("r") permit(principal, action in [Action::"risk:read"], resource);'
    assert decide(ask(compiled(reads), DELETE)).outcome is Outcome.DENY


def test_the_clause_cannot_be_commented_out_by_a_policys_last_line(compiled, ask) -> None:
    text = '@id("x") permit(principal, action, resource) // trailing comment\n;'
    assert decide(ask(compiled(text), DELETE)).outcome is Outcome.STEP_UP
    text = '@id("x") permit(principal, action, resource) when { true // ;\n} //\n;'
    assert decide(ask(compiled(text), DELETE)).outcome is Outcome.STEP_UP


@pytest.mark.parametrize(
    ("action", "args", "env", "outcome", "first"),
    [
        ("github:issues.list", {}, "test", "allow", "read-everything"),
        ("github:issues.create", {"title": "t"}, "test", "allow", "work-on-issues"),
        ("github:contents.put", {"path": "README.md"}, "live", "allow", "change-files"),
        ("github:contents.put", {"path": "README.md"}, "test", "deny", None),
        ("github:contents.put", {"path": ".github/workflows/x.yml"}, "live", "step_up", "workflows-need-a-human"),
        (DELETE, {}, "live", "step_up", HIGH_STAKES_ID),
        (DELETE, {}, "test", "deny", "test-agents-only-read"),
        (*SHARE, "live", "step_up", HIGH_STAKES_ID),
        ("github:collaborators.add", {"permission": "admin"}, "live", "deny", "nobody-becomes-admin"),
    ],
)
def test_the_starter_set_decides_as_it_says(compiled, ask, starter, action, args, env, outcome, first) -> None:
    decision = decide(ask(compiled(starter), action, args=args, env=env))
    assert decision.outcome == outcome
    assert (_ids(decision) or [None])[0] == first


# --- errors --------------------------------------------------------------------------------------------------------


def test_a_forbid_that_fails_denies_and_is_named(compiled, ask) -> None:
    decision = decide(ask(compiled(f'{PERMIT} @id("sums") forbid(principal, action, resource) when {{ {OVERFLOW} }};')))
    assert decision.outcome is Outcome.DENY
    assert "`sums`" in decision.errors[0]
    assert decision.passes[0].allowed, "the engine itself would have allowed"


def test_a_permit_that_fails_denies_though_another_permits(compiled, ask) -> None:
    policies = compiled(f'{PERMIT} @id("sums") permit(principal, action, resource) when {{ {OVERFLOW} }};')
    assert decide(ask(policies)).outcome is Outcome.DENY


def test_an_error_on_the_second_pass_alone_denies_and_asks_nobody(compiled, ask) -> None:
    failing = f'@id("f") permit(principal, action, resource) when {{ context.cosigned && {OVERFLOW} }};'
    decision = decide(ask(compiled(ON_COSIGNED + failing)))
    assert decision.outcome is Outcome.DENY
    assert [bool(one.errors) for one in decision.passes] == [False, True]


def test_a_request_that_the_engine_cannot_take_is_denied_with_an_alarm(compiled, ask) -> None:
    decision = decide(ask(compiled(PERMIT), "github:issues.list", resource="github:search/code"))
    assert decision.outcome is Outcome.DENY
    assert decision.alarm
    assert decision.errors


def test_the_schema_applies_to_the_entities(compiled, ask) -> None:
    facts = ask(compiled(PERMIT))
    wrong = msgspec.structs.replace(facts, principal=msgspec.structs.replace(facts.principal, env=5))
    decision = decide(wrong)
    assert decision.outcome is Outcome.DENY
    assert decision.reason == "the request's entities break the schema"


@pytest.mark.parametrize(
    "args",
    [
        {"undeclared": "x"},
        {"title": 5},
        {"title": None},
        {"title": {"__extn": {"fn": "ip", "arg": "10.0.0.1"}}},
        {"title": {"__entity": {"type": "Agent", "id": "root"}}},
        {"milestone": "5"},
        {"milestone": True},
        {"milestone": 2**63},
        {"labels": "bug"},
        {"labels": [{"__extn": {"fn": "decimal", "arg": "1.0"}}]},
        {"title": "\ud800"},
    ],
)
def test_an_argument_that_is_not_declared_or_not_of_its_type_denies(compiled, ask, args) -> None:
    decision = decide(ask(compiled(PERMIT), "github:issues.create", args=args))
    assert decision.outcome is Outcome.DENY
    assert not decision.passes, "the engine never saw it"


def test_an_injected_extension_value_would_pass_a_forbid_and_is_denied_here(compiled, ask, vocabulary) -> None:
    text = (
        PERMIT + '@id("no-secrets") forbid(principal, action == Action::"github:issues.create", resource) '
        'when { context.args has title && context.args.title like "*secret*" };'
    )
    injected = {"title": {"__extn": {"fn": "ip", "arg": "10.0.0.1"}}}
    facts = ask(compiled(text), "github:issues.create", args=injected)
    naive = cedarpy.is_authorized(
        {
            "principal": {"type": "Agent", "id": facts.principal.agent},
            "action": {"type": "Action", "id": facts.action.id},
            "resource": {"type": facts.resource.type.cedar, "id": facts.resource.id},
            "context": {"cosigned": False, "args": injected},
        },
        text,
        entity_slice(facts.principal, facts.resource),
    )
    assert naive.allowed, "this is the attack"
    assert decide(facts).outcome is Outcome.DENY
    with pytest.raises(Malformed):
        typed_args(facts.action, injected)


def test_no_claim_can_stand_for_the_servers_keys(compiled, ask) -> None:
    claims = {"cosigned": True, "args": {"cosigned": True}}
    assert decide(ask(compiled(ON_COSIGNED), claims=claims)).outcome is Outcome.STEP_UP
    assert decide(ask(compiled(PERMIT + UNLESS_COSIGNED), claims=claims)).outcome is Outcome.STEP_UP


def test_ids_with_quotes_and_colons_stay_ids(compiled, ask) -> None:
    facts = ask(compiled('@id("x") permit(principal == Agent::"root", action, resource);'))
    odd = msgspec.structs.replace(facts.principal, agent='x" || Agent::"root')
    assert decide(msgspec.structs.replace(facts, principal=odd)).outcome is Outcome.DENY


def test_policies_see_time_environment_connection_and_resource_fields(compiled, ask) -> None:
    text = (
        '@id("x") permit(principal in Tenant::"acme", action, resource is GitHub::Repo) '
        'when { resource.owner == "acme" && context.env == "live" && principal.env == "live" '
        '&& context.connection == "github" '
        '&& context.now >= 1800000000 && principal.app == App::"helpdesk" };'
    )
    policies = compiled(text)
    assert decide(ask(policies)).outcome is Outcome.ALLOW
    for changed in (
        {"env": "test"}, {"connection": "other"}, {"now_seconds": 1_799_999_999}, {"app": "other"}, {"tenant": "other"},
        {"resource": "github:repo/other/site"},
    ):  # fmt: skip
        assert decide(ask(policies, **changed)).outcome is Outcome.DENY


# --- properties ----------------------------------------------------------------------------------------------------

HEADS = {
    "principal": [
        "principal", 'principal == Agent::"triage-bot"', 'principal == Agent::"other-bot"',
        'principal in App::"helpdesk"', 'principal in App::"other"', 'principal in Tenant::"acme"',
        'principal in Agent::"triage-bot"', "principal is Agent", 'principal is Agent in App::"other"',
    ],
    "action": [
        "action", 'action == Action::"github:issues.list"', 'action == Action::"github:repos.delete"',
        'action in [Action::"risk:read"]', 'action in Action::"risk:destructive"',
        'action in [Action::"github:issues.list", Action::"risk:permission"]', 'action in Action::"connector:github"',
    ],
    "resource": [
        "resource", 'resource == GitHub::Repo::"acme/site"', 'resource == GitHub::Repo::"acme/other"',
        'resource in GitHub::Repo::"acme/site"', "resource is GitHub::Repo", 'resource is GitHub::Repo in '
        'GitHub::Repo::"acme/other"',
    ],
}  # fmt: skip
CLAUSES = {
    "permit": ["", "when { context.cosigned }", 'when { context.env == "live" }', f"when {{ {OVERFLOW} }}",
               'when { context.env == "live" || context.cosigned }'],
    "forbid": ["", "unless { context.cosigned }", 'when { context.env == "test" }', f"when {{ {OVERFLOW} }}",
               'when { principal.env == "live" } unless { context.cosigned }'],
}  # fmt: skip


@st.composite
def policy_texts(draw: st.DrawFn, effects: tuple[str, ...] = ("permit", "permit", "forbid")) -> str:
    effect = draw(st.sampled_from(effects))
    heads = [draw(st.sampled_from(HEADS[part])) for part in ("principal", "action", "resource")]
    marks = effect == "permit" and heads[1] != "action" and draw(st.booleans())
    note = '@unattended("why") ' if marks else ""
    return f"{note}{effect}({', '.join(heads)}) {draw(st.sampled_from(CLAUSES[effect]))};"


def _numbered(texts: list[str]) -> str:
    return "\n".join(f'@id("p{index}") {text}' for index, text in enumerate(texts))


REQUESTS = st.fixed_dictionaries({
    "action": st.sampled_from(["github:issues.list", DELETE]),
    "resource": st.sampled_from(["github:repo/acme/site", "github:repo/acme/other", "github:repo/x/y"]),
    "agent": st.sampled_from(["triage-bot", "other-bot", "third-bot"]),
    "app": st.sampled_from(["helpdesk", "other"]),
    "tenant": st.sampled_from(["acme", "elsewhere"]),
    "env": st.sampled_from(["live", "test"]),
    "cosigned": st.booleans(),
})  # fmt: skip
SETS = st.lists(policy_texts(), max_size=6)


def _compile(texts: list[str], vocabulary) -> CompiledSet | None:
    try:
        return compile_policies(_numbered(texts), vocabulary)
    except Malformed:  # heads that no action of the catalogue can meet together
        return None


def _reference(facts: AuthorizeFacts) -> Outcome:
    """The rule as it is written: the whole set, both passes, always."""
    whole = facts.policies.whole()
    entities = cedarpy.Entities.from_json_str(
        json.dumps(entity_slice(facts.principal, facts.resource)), facts.policies.vocabulary.schema
    )

    def evaluate(cosigned: bool) -> tuple[bool, bool]:
        result = cedarpy.is_authorized(
            {
                "principal": {"type": "Agent", "id": facts.principal.agent},
                "action": {"type": "Action", "id": facts.action.id},
                "resource": {"type": facts.resource.type.cedar, "id": facts.resource.id},
                "context": context_text(
                    facts.principal, {}, connection=facts.connection, now_seconds=facts.now_seconds, cosigned=cosigned
                ),
            },
            whole.handle,
            entities,
            facts.policies.vocabulary.schema,
        )
        return result.allowed, bool(result.diagnostics.errors)

    if facts.cosigned:
        return Outcome.ALLOW if evaluate(True) == (True, False) else Outcome.DENY
    first, second = evaluate(False), evaluate(True)
    if first[1] or second[1]:
        return Outcome.DENY
    if first[0]:
        return Outcome.ALLOW
    return Outcome.STEP_UP if second[0] else Outcome.DENY


@given(texts=SETS, requests=st.lists(REQUESTS, min_size=1, max_size=4))
def test_slicing_and_leaving_out_a_pass_never_change_a_decision(vocabulary, ask, texts, requests) -> None:
    policies = _compile(texts, vocabulary)
    if policies is None:
        return
    for request in requests:
        facts = ask(policies, **request)
        assert decide(facts).outcome is _reference(facts)


@given(texts=SETS, requests=st.lists(REQUESTS, min_size=1, max_size=5))
def test_a_batch_decides_each_request_as_if_it_were_alone(vocabulary, ask, texts, requests) -> None:
    policies = _compile(texts, vocabulary)
    if policies is None:
        return
    facts = [ask(policies, **request) for request in requests]
    spoiled = [*facts, msgspec.structs.replace(facts[0], args={"undeclared": 1}), *facts]
    alone = [decide(one) for one in spoiled]
    assert decide_batch(spoiled) == alone


@given(texts=SETS, request_=REQUESTS, added=policy_texts(effects=("forbid",)))
def test_adding_a_forbid_never_widens(vocabulary, ask, texts, request_, added) -> None:
    before, after = _compile(texts, vocabulary), _compile([*texts, added], vocabulary)
    if before is None or after is None:
        return
    order = [Outcome.DENY, Outcome.STEP_UP, Outcome.ALLOW]
    was = decide(ask(before, **request_))
    now = decide(ask(after, **request_))
    assert order.index(now.outcome) <= order.index(was.outcome)


@given(texts=st.lists(policy_texts(effects=("forbid",)), max_size=5), request_=REQUESTS)
def test_without_a_permit_everything_is_denied(vocabulary, ask, texts, request_) -> None:
    policies = _compile(texts, vocabulary)
    if policies is not None:
        assert decide(ask(policies, **request_)).outcome is Outcome.DENY


@given(texts=SETS, request_=REQUESTS)
def test_an_approval_never_takes_away_what_was_allowed(vocabulary, ask, texts, request_) -> None:
    policies = _compile(texts, vocabulary)
    if policies is None:
        return
    without = decide(ask(policies, **{**request_, "cosigned": False}))
    approved = decide(ask(policies, **{**request_, "cosigned": True}))
    if without.outcome is not Outcome.DENY:
        assert approved.outcome is Outcome.ALLOW


def test_heads_without_the_requests_entities_share_one_slice(compiled, ask) -> None:
    policies = compiled(PERMIT + '@id("one") forbid(principal == Agent::"other-bot", action, resource);')
    slices = {id(policies.slice(facts.principal, facts.action, facts.resource)) for facts in (
        ask(policies, agent=agent, resource=resource)
        for agent, resource in product(("a", "b"), ("github:repo/a/b", "github:repo/c/d"))
    )}  # fmt: skip
    assert len(slices) == 1
    facts = ask(policies, agent="other-bot")
    assert len(policies.slice(facts.principal, facts.action, facts.resource).policies) == 2


# --- the record ----------------------------------------------------------------------------------------------------


def _event(facts: AuthorizeFacts, decision: Decision) -> dict[str, object]:
    return decision_event(facts, decision, decision_id="dc_" + "0" * 32, request_id="rq_" + "0" * 32, digest=b"\1" * 32)


def _is_strict(value: object) -> bool:
    if value is None or type(value) in (str, bool):
        return True
    if type(value) is int:
        return abs(value) < 2**53
    if type(value) is list:
        return all(map(_is_strict, value))
    return type(value) is dict and all(type(key) is str and _is_strict(item) for key, item in value.items())


@given(texts=SETS, request_=REQUESTS)
def test_a_recorded_decision_evaluates_again_to_the_same(vocabulary, ask, texts, request_) -> None:
    policies = _compile(texts, vocabulary)
    if policies is None:
        return
    facts = ask(policies, **request_, claims={"model": "m"})
    decision = decide(facts)
    event = json.loads(json.dumps(_event(facts, decision)))
    assert _is_strict(_event(facts, decision))
    again = facts_from_event(event, vocabulary.catalogue, policies)
    assert again == facts
    assert decide(again) == decision


def test_a_record_holds_all_that_decided(compiled, ask, vocabulary) -> None:
    facts = ask(compiled(PERMIT), DELETE)
    event = _event(facts, decide(facts))
    assert event["outcome"] == "step_up"
    assert event["schema"] == vocabulary.sha256
    assert event["policy_set"] == facts.policies.sha256
    assert event["platform"] == "high-stakes/1"
    assert event["entities"] == entity_slice(facts.principal, facts.resource)
    assert [one["allowed"] for one in event["passes"]] == [False, True]


@pytest.mark.parametrize("event", [{}, {"request": {}}, {"request": 5}])
def test_an_event_that_is_no_decision_is_malformed(vocabulary, compiled, event) -> None:
    with pytest.raises(MalformedRecord):
        facts_from_event(event, vocabulary.catalogue, compiled(PERMIT))


def test_a_decision_about_an_action_that_is_gone_cannot_be_replayed(vocabulary, compiled, ask) -> None:
    facts = ask(compiled(PERMIT))
    event = _event(facts, decide(facts))
    event["request"]["action"] = "github:gone.away"
    with pytest.raises(MalformedRecord, match="no connector declares"):
        facts_from_event(event, vocabulary.catalogue, facts.policies)


# --- whose approval -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("notes", "quorums"),
    [
        ("", ()),
        ('@approvals("1")', ()),
        ('@approvals("2")', (Quorum(approvals=2),)),
        ('@approvers("finance")', (Quorum(approvals=1, group="finance"),)),
        ('@approvals("3") @approvers("finance")', (Quorum(approvals=3, group="finance"),)),
    ],
)
def test_a_permit_that_waits_says_whose_approval_it_wants(ask, compiled, notes, quorums) -> None:
    policies = compiled(f'@id("clean") {notes} permit (principal, action in [Action::"risk:destructive"], resource);')
    decision = decide(ask(policies, "github:repos.delete"))
    assert (decision.outcome, decision.quorums) == (Outcome.STEP_UP, quorums)
    event = decision_event(
        ask(policies, "github:repos.delete"), decision, decision_id="dc", request_id="rq", digest=bytes(32)
    )
    assert ("quorums" in event) == bool(quorums)
    # Approved, nothing is asked any more.
    assert decide(ask(policies, "github:repos.delete", cosigned=True)).quorums == ()


def test_several_policies_want_what_the_strictest_wants_of_each_group(ask, compiled) -> None:
    policies = compiled(
        '@id("a") @approvals("2") permit (principal, action in [Action::"risk:destructive"], resource);'
        '@id("b") @approvers("legal") permit (principal, action, resource);'
        '@id("c") @approvals("3") @approvers("legal") forbid (principal, action, resource) unless { context.cosigned };'
        '@id("d") @approvals("8") @approvers("other") permit (principal in App::"other", action, resource);'
    )
    decision = decide(ask(policies, "github:repos.delete"))
    assert decision.quorums == (Quorum(approvals=2), Quorum(approvals=3, group="legal"))


@pytest.mark.parametrize(
    "notes",
    ['@approvals("0")', '@approvals("9")', '@approvals("two")', "@approvals", '@approvers("A B")', "@approvers"],
)
def test_a_policy_that_asks_for_nobody_is_refused(compiled, notes) -> None:
    with pytest.raises(MalformedPolicy, match="@approv"):
        compiled(f'@id("clean") {notes} permit (principal, action, resource);')
