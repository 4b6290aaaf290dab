"""An evaluation that is remembered is the evaluation that the engine would make."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nomos.catalogue import load_catalogue
from nomos.ids import AgentId, AppId, TenantId
from nomos_policy.decision import AuthorizeFacts, Outcome, decide
from nomos_policy.polarity import context_reads
from nomos_policy.policyset import CompiledSet, compile_policies
from nomos_policy.remembered import Remembered
from nomos_policy.vocabulary import Principal, Vocabulary

VOCABULARY = Vocabulary(load_catalogue(Path(__file__).parents[3] / "connectors"))
CONDITIONS = (
    "true",
    'context.env == "live"',
    "context.now < 1000",
    "context.cosigned",
    'context.connection == "github"',
    'context.args has state && context.args.state == "open"',
    "context.now >= 1000 || context.cosigned",
)
POLICIES = st.lists(
    st.tuples(st.sampled_from(("permit", "forbid")), st.sampled_from(CONDITIONS)), min_size=1, max_size=4
)
REQUESTS = st.lists(
    st.tuples(
        st.sampled_from(("acme/site", "acme/docs")),
        st.sampled_from(("github", "other")),
        st.sampled_from(({}, {"state": "open"}, {"state": "closed"})),
        st.sampled_from((500, 999, 1000, 2000)),
        st.booleans(),
    ),
    min_size=1,
    max_size=12,
)


def _compiled(policies: list[tuple[str, str]]) -> CompiledSet:
    text = "".join(
        f'@id("p{i}")\n{effect} (principal, action, resource) '
        f"{'unless' if effect == 'forbid' else 'when'} {{ {condition} }};\n"
        for i, (effect, condition) in enumerate(policies)
        if not (effect == "forbid" and condition == "true")
    )
    return compile_policies(text, VOCABULARY)


def _facts(policies: CompiledSet, request: tuple[str, str, dict[str, object], int, bool]) -> AuthorizeFacts:
    repo, connection, args, now, cosigned = request
    return AuthorizeFacts(
        principal=Principal(tenant=TenantId("acme"), app=AppId("triage"), agent=AgentId("bot"), env="live"),
        action=VOCABULARY.catalogue.action("github:issues.list"),
        resource=VOCABULARY.catalogue.parse_resource(f"github:repo/{repo}"),
        connection=connection,
        args=args,
        claims={},
        now_seconds=now,
        cosigned=cosigned,
        policies=policies,
    )


@settings(max_examples=60)
@given(policies=POLICIES, requests=REQUESTS)
def test_remembering_never_changes_a_decision(
    policies: list[tuple[str, str]], requests: list[tuple[str, str, dict[str, object], int, bool]]
) -> None:
    remembering = _compiled(policies)
    for request in requests:
        fresh = decide(_facts(_compiled(policies), request))
        assert decide(_facts(remembering, request)) == fresh
        assert decide(_facts(remembering, request)) == fresh


def test_a_policy_on_the_clock_is_evaluated_again_when_the_clock_has_moved() -> None:
    policies = compile_policies(
        '@id("until") permit (principal, action, resource) when { context.now < 1000 };', VOCABULARY
    )
    assert decide(_facts(policies, ("acme/site", "github", {}, 999, False))).outcome is Outcome.ALLOW
    assert decide(_facts(policies, ("acme/site", "github", {}, 1000, False))).outcome is Outcome.DENY


@pytest.mark.parametrize(
    ("condition", "names"),
    [
        ("true", frozenset()),
        ("context.now < 1", frozenset({"now"})),
        ('context.args has state && context.args.state == "open"', frozenset({"args"})),
        ('context.cosigned && context.env == "live"', frozenset({"cosigned", "env"})),
    ],
)
def test_what_a_policy_reads_of_the_context_is_known(condition: str, names: frozenset[str]) -> None:
    policies = compile_policies(
        f'@id("p") permit (principal, action == Action::"github:issues.list", resource) when {{ {condition} }};',
        VOCABULARY,
    )
    assert policies.policies[0].reads == names


def test_a_policy_that_uses_the_whole_context_may_read_anything() -> None:
    whole = {"kind": "when", "body": {"==": {"left": {"Var": "context"}, "right": {"Var": "context"}}}}
    assert context_reads([whole]) is None


def test_the_memory_is_bounded_and_forgets_the_least_recently_used() -> None:
    memory = Remembered(2)
    memory.put("a", 1)
    memory.put("b", 2)
    assert memory.get("a") == 1
    memory.put("c", 3)
    assert memory.get("b") is None
    assert (memory.get("a"), memory.get("c")) == (1, 3)


def test_another_agent_does_not_get_the_answer_of_the_first() -> None:
    policies = compile_policies('@id("bot") permit (principal == Agent::"bot", action, resource);', VOCABULARY)
    facts = _facts(policies, ("acme/site", "github", {}, 1, False))
    assert decide(facts).outcome is Outcome.ALLOW
    stranger = msgspec.structs.replace(facts.principal, agent=AgentId("other"))
    assert decide(msgspec.structs.replace(facts, principal=stranger)).outcome is Outcome.DENY
