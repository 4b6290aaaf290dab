"""An explanation says what the decision says, and why."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nomos_policy.clauses import clauses_of
from nomos_policy.decision import Outcome, decide
from nomos_policy.explain import CONDITION_SHOWN_MAX, CONDITIONS_SHOWN_MAX, SHOWN_MAX, explain
from nomos_policy.policyset import compile_policies

CREATE, DELETE = "github:issues.create", "github:repos.delete"
ON_CREATE = f'principal, action == Action::"{CREATE}", resource'


def test_conditions_are_cut_at_and_and_keep_their_words() -> None:
    text = """@when("x") permit(principal, action, resource) // a comment with { when
      when { context.args has title && // why
             context.args.title like "a && b }*" && (context.now > 1 || context.cosigned) }
      unless { context.env == "test" && context.cosigned }
      when { context.now > 1 || context.now < 1 && true }
      when { if context.cosigned then true else false && true };"""
    assert [(one.kind, one.text) for one in clauses_of(text)] == [
        ("when", "context.args has title"),
        ("when", 'context.args.title like "a && b }*"'),
        ("when", "(context.now > 1 || context.cosigned)"),
        ("unless", 'context.env == "test" && context.cosigned'),
        ("when", "context.now > 1 || context.now < 1 && true"),
        ("when", "if context.cosigned then true else false && true"),
    ]
    assert all(text[one.offset :].startswith(one.text[:10]) for one in clauses_of(text))


def test_a_policy_without_conditions_has_none() -> None:
    assert clauses_of('@when("x") permit(principal, action in [Action::"unless"], resource);') == ()


def test_a_denial_names_the_nearest_permit_and_its_failing_condition(compiled, ask) -> None:
    policies = compiled(f"""
        @id("far") permit({ON_CREATE}) when {{ context.env == "test" && context.now < 5 }};
        @id("near") @description("Titles begin with bug.") permit({ON_CREATE})
          when {{ context.args has title && context.args.title like "bug*" }};
        @id("elsewhere") permit(principal == Agent::"other-bot", action, resource);
    """)
    told = explain(ask(policies, CREATE, args={"title": "x"}))
    assert told.outcome == "deny"
    assert told.changes[0] == 'near (Titles begin with bug.) would permit it if context.args.title like "bug*"'
    assert told.changes[1] == 'far would permit it if context.env == "test" and context.now < 5'
    assert [one.id for one in told.met] == ["near", "far"]
    assert told.not_met == 1


def test_a_condition_behind_a_failed_guard_is_no_error(compiled, ask) -> None:
    policies = compiled(f'@id("x") permit({ON_CREATE}) when {{ context.args has title && context.args.title == "a" }};')
    (met,) = explain(ask(policies, CREATE)).met
    assert [(one.text, one.error) for one in met.failing] == [("context.args has title", "")]


def test_a_denial_by_a_forbid_names_it_and_says_that_no_approval_helps(compiled, ask) -> None:
    policies = compiled(
        '@id("all") permit(principal, action, resource);'
        '@id("never") @description("Nobody.") forbid(principal, action, resource);'
    )
    told = explain(ask(policies))
    assert [one.id for one in told.decided_by] == ["never"]
    assert told.changes == ("never (Nobody.) must not apply: it forbids this, approved or not",)


def test_a_step_up_says_that_an_approval_is_missing(compiled, ask) -> None:
    policies = compiled(f'@id("x") permit(principal, action == Action::"{DELETE}", resource);')
    told = explain(ask(policies, DELETE))
    assert told.outcome == "step_up"
    assert told.changes == ("a human's approval of exactly this request would allow it",)
    (met,) = told.met
    assert [one.platform for one in met.failing] == [True]
    assert met.applies_approved
    assert explain(ask(policies, DELETE, cosigned=True)).outcome == "allow"


def test_a_missing_approval_and_a_failing_condition_are_both_told(compiled, ask) -> None:
    policies = compiled(
        f'@id("x") permit(principal, action == Action::"{DELETE}", resource) when {{ context.now < 5 }};'
    )
    told = explain(ask(policies, DELETE))
    assert told.outcome == "deny"
    assert told.changes == ("x would permit it if context.now < 5 and a human approved it",)


def test_an_allow_names_the_forbid_that_could_apply(compiled, ask) -> None:
    policies = compiled(
        '@id("all") permit(principal, action, resource);'
        '@id("late") forbid(principal, action, resource) when { context.now > 1900000000 } unless { context.cosigned };'
    )
    told = explain(ask(policies))
    assert told.outcome == "allow"
    assert told.changes == ("it would be denied if context.now > 1900000000 (late forbids it then)",)


def test_a_request_that_no_head_names_is_told_which_permit_is_needed(compiled, ask) -> None:
    told = explain(ask(compiled('@id("x") permit(principal == Agent::"other-bot", action, resource);')))
    assert "no permit's head names this" in told.changes[0]
    assert "triage-bot" in told.changes[0]


def test_a_policy_that_fails_is_why_a_request_is_denied(compiled, ask) -> None:
    policies = compiled(
        '@id("all") permit(principal, action, resource);'
        '@id("sick") forbid(principal, action, resource) when { 9223372036854775807 + context.now > 0 };'
    )
    told = explain(ask(policies))
    assert told.outcome == "deny"
    assert told.changes == ("what failed must be put right: while anything cannot be evaluated, the answer is deny",)
    assert "overflow" in next(one for one in told.met if one.id == "sick").failing[0].error


def test_an_explanation_shows_a_bounded_number_of_policies(compiled, ask) -> None:
    text = "".join(f'@id("p{i}") permit(principal, action, resource) when {{ context.now < {i} }};' for i in range(60))
    told = explain(ask(compiled(text)))
    assert (len(told.met), told.met_more) == (SHOWN_MAX, 60 - SHOWN_MAX)


def test_an_explanation_of_a_policy_with_many_conditions_is_bounded_and_says_so(compiled, ask) -> None:
    many = " && ".join(f"context.now < {i}" for i in range(CONDITIONS_SHOWN_MAX + 5))
    long = f'context.env == "{"x" * CONDITION_SHOWN_MAX}"'
    told = explain(ask(compiled(f'@id("x") permit(principal, action, resource) when {{ {long} && {many} }};')))
    (met,) = told.met
    assert (len(met.failing), met.failing_more) == (CONDITIONS_SHOWN_MAX, 6)
    assert len(met.failing[0].text) == CONDITION_SHOWN_MAX
    assert met.failing[0].text.endswith("…")
    assert told.changes[0].endswith("and 6 more conditions hold")


CONDITIONS = (
    "", "when { context.cosigned }", 'when { context.env == "live" && context.now > 5 }', "unless { context.cosigned }",
    'when { context.args has title && context.args.title == "a" }', 'when { context.env == "test" || context.now > 5 }',
    'unless { context.env == "test" } when { principal.env == "live" && 1 == 1 }',
    "when { if context.now > 5 then context.cosigned else false }",
)  # fmt: skip
POLICIES = st.lists(
    st.tuples(st.sampled_from(("permit", "forbid")), st.sampled_from(CONDITIONS)), min_size=1, max_size=6
).map(lambda some: [one for one in some if one not in {("permit", CONDITIONS[3]), ("forbid", CONDITIONS[1]),
                                                       ("forbid", CONDITIONS[7])}])  # fmt: skip


@settings(max_examples=80)
@given(
    policies=POLICIES,
    action=st.sampled_from((CREATE, DELETE)),
    now=st.sampled_from((1, 9)),
    cosigned=st.booleans(),
    title=st.sampled_from(("a", "b")),
)
def test_what_an_explanation_says_applies_is_what_the_engine_found(
    vocabulary, ask, policies, action, now, cosigned, title
) -> None:
    """Conditions asked one by one add up to the evaluation of the whole, without an approval and with one."""
    text = "".join(
        f'@id("p{i}") {effect}(principal, action, resource) {condition};'
        for i, (effect, condition) in enumerate(policies)
    )
    args = {"title": title} if action == CREATE else {}
    facts = ask(compile_policies(text, vocabulary), action, args=args, now_seconds=now, cosigned=cosigned)
    decision, told = decide(facts), explain(facts)
    assert told.outcome == decision.outcome.value
    for one in decision.passes:
        applies = [met for met in told.met if (met.applies_approved if one.cosigned else met.applies)]
        forbids = {met.id for met in applies if met.effect == "forbid"}
        permits = {met.id for met in applies if met.effect == "permit"}
        assert set(one.policies) == (forbids or permits)
        assert one.allowed == (bool(permits) and not forbids)
    assert all(met.applies == (not met.failing) for met in told.met)
    assert told.changes or decision.outcome is Outcome.ALLOW


@pytest.mark.parametrize("args", [{"nope": 1}, {"title": 5}])
def test_a_request_with_arguments_that_are_none_is_a_denial_that_says_so(compiled, ask, args) -> None:
    told = explain(ask(compiled('@id("all") permit(principal, action, resource);'), CREATE, args=args))
    assert told.outcome == "deny"
    assert "argument" in told.reason
    assert told.met == ()
