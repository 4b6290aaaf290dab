"""What a policy set must be on write, and what becomes of stored text that no longer is."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomos.catalogue import Risk
from nomos.errors import Malformed, MalformedCatalogue, MalformedPolicy
from nomos_policy.decision import Outcome, decide
from nomos_policy.policyset import compile_policies, load_policies
from nomos_policy.vocabulary import Vocabulary

PERMIT = '@id("all") permit(principal, action, resource);'


def test_the_starter_set_compiles_and_every_policy_explains_itself(compiled, starter) -> None:
    policies = compiled(starter).policies
    assert all(policy.description for policy in policies)
    assert len({policy.id for policy in policies}) == len(policies)


def test_the_hash_is_that_of_the_exact_text(compiled) -> None:
    text = "// a comment\n" + PERMIT
    assert compiled(text).sha256 == hashlib.sha256(text.encode()).hexdigest()
    assert compiled(text + " ").sha256 != compiled(text).sha256


def test_the_schema_is_the_same_text_for_the_same_catalogue(vocabulary) -> None:
    assert Vocabulary(vocabulary.catalogue).text == vocabulary.text


def test_every_action_stands_in_its_risk_and_connector_groups(vocabulary) -> None:
    for action in vocabulary.catalogue.actions.values():
        assert (
            f'action "{action.id}" in ["risk:{action.risk.value}", "connector:{action.connector}"]' in vocabulary.text
        )
    assert all(f'"risk:{risk.value}"' in vocabulary.text for risk in Risk)


def test_a_parameter_with_a_name_of_the_servers_is_refused(vocabulary) -> None:
    import msgspec

    from nomos_policy.vocabulary import schema_text

    catalogue = vocabulary.catalogue
    action = catalogue.action("github:issues.get")
    renamed = msgspec.structs.replace(action.parameters[0], name="cosigned")
    shadowed = msgspec.structs.replace(action, parameters=(renamed,))
    with pytest.raises(MalformedCatalogue, match="cosigned"):
        schema_text(msgspec.structs.replace(catalogue, actions={action.id: shadowed}))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("permit(principal, action, resource);", "line 2, column 1 has no @id"),
        ('@id("") permit(principal, action, resource);', "has no @id"),
        ('@id("two words") permit(principal, action, resource);', "@id must be"),
        ('@id("nomos:x") permit(principal, action, resource);', "belong to the platform"),
        (PERMIT, "policy all (line 2, column 1): the id stands already at line 1"),
        ('@id("t") permit(principal == ?principal, action, resource);', "is a template"),
        ('@id("x") permit(principal, action, resource) when { foo };', "line 2, column 1"),
        ('@id("x") permit(principal, action, resource) when { context.foo };', "policy x (line 2, column 1): "),
        ('@id("x") permit(principal, action == Action::"github:nope", resource);', "unrecognized action"),
        ('@id("x") permit(principal is Human, action, resource);', "policy x (line 2"),
        ('@id("x") permit(principal, action, resource) when { [1, "a"].contains(1) };', "policy x"),
        (
            '@id("x") permit(principal, action == Action::"github:issues.create", resource) when '
            '{ context.args.title == "a" };',
            "optional attribute",
        ),
        ('@id("x") permit(principal, action, resource) when { context.claims.admin };', "policy x"),
    ],
)
def test_a_faulty_policy_is_refused_with_its_name_and_position(compiled, text, says) -> None:
    with pytest.raises(MalformedPolicy) as refused:
        compiled(f"{PERMIT}\n{text}")
    assert says in refused.value.detail


@pytest.mark.parametrize(
    "text",
    [
        '@unattended("why") forbid(principal, action == Action::"github:repos.delete", resource);',
        '@unattended permit(principal, action == Action::"github:repos.delete", resource);',
        '@unattended("  ") permit(principal, action == Action::"github:repos.delete", resource);',
        '@unattended("why") permit(principal, action, resource);',
    ],
)
def test_unattended_needs_a_reason_a_permit_and_named_actions(compiled, text) -> None:
    with pytest.raises(MalformedPolicy, match="@unattended"):
        compiled('@id("x") ' + text)


@pytest.mark.parametrize(
    "text",
    [
        "forbid(principal, action, resource) when { context.cosigned };",
        "forbid(principal, action, resource) unless { !context.cosigned };",
        "permit(principal, action, resource) unless { context.cosigned };",
        "permit(principal, action, resource) when { context.cosigned == false };",
        "permit(principal, action, resource) when { context.now > 5 && !context.cosigned };",
        "permit(principal, action, resource) when { if context.cosigned then false else true };",
        "permit(principal, action, resource) when { [context.cosigned].contains(false) };",
        "permit(principal, action, resource) when { context.cosigned == (context.now > 5) };",
        "permit(principal, action, resource) when { {a: context.cosigned} == {a: false} };",
        'forbid(principal, action, resource) when { context["cosigned"] };',
    ],
)
def test_a_policy_that_grants_less_with_an_approval_is_refused(compiled, text) -> None:
    with pytest.raises(MalformedPolicy, match="less with a human's approval"):
        compiled('@id("x") ' + text)


@pytest.mark.parametrize(
    "text",
    [
        "permit(principal, action, resource) when { context.cosigned };",
        "permit(principal, action, resource) unless { !context.cosigned };",
        "permit(principal, action, resource) when { context.cosigned == true || context.now > 5 };",
        "permit(principal, action, resource) when { if context.now > 5 then context.cosigned else true };",
        "forbid(principal, action, resource) unless { context.cosigned };",
        "forbid(principal, action, resource) when { context.now > 5 && !context.cosigned };",
        "forbid(principal, action, resource) when { context has cosigned && context.cosigned != true };",
    ],
)
def test_a_policy_that_only_widens_with_an_approval_is_accepted(compiled, text) -> None:
    (policy,) = compiled('@id("x") ' + text).policies
    assert policy.reads_cosigned


def test_a_policy_that_reads_no_approval_says_so(compiled) -> None:
    text = '@id("x") permit(principal, action, resource) when { context.env == "live" && context has now };'
    assert not compiled(text).policies[0].reads_cosigned


# --- stored text ---------------------------------------------------------------------------------------------------


def test_a_faulty_stored_permit_is_quarantined_and_the_others_stay_in_force(vocabulary, ask) -> None:
    text = '@id("old") permit(principal, action == Action::"github:gone.away", resource);\n' + PERMIT
    loaded = load_policies(text, vocabulary, revision=3)
    (quarantined,) = loaded.quarantined
    assert (quarantined.id, quarantined.line, quarantined.effect) == ("old", 1, "permit")
    assert "unrecognized action" in quarantined.error
    assert decide(ask(loaded)).outcome is Outcome.ALLOW
    assert loaded.revision == 3


def test_a_faulty_stored_forbid_denies_what_it_might_forbid_and_nothing_else(vocabulary, ask) -> None:
    text = (
        PERMIT + '@id("old") forbid(principal == Agent::"triage-bot", action in [Action::"risk:read"], '
        "resource is GitHub::Repo) when { resource.gone };"
    )
    loaded = load_policies(text, vocabulary, revision=1)
    denied = decide(ask(loaded))
    assert denied.outcome is Outcome.DENY
    assert denied.reason == "a quarantined policy may forbid this"
    assert "old" in denied.errors[0]
    assert decide(ask(loaded, cosigned=True)).outcome is Outcome.DENY
    assert decide(ask(loaded, agent="other-bot")).outcome is Outcome.ALLOW
    assert decide(ask(loaded, "github:issues.create", args={"title": "t"})).outcome is Outcome.ALLOW
    assert decide(ask(loaded, "github:search.query", resource="github:search/code")).outcome is Outcome.ALLOW


@pytest.mark.parametrize("broken", ["forbid(principal, action);", "nonsense;", "forbid(principal, action, resource)"])
def test_a_stored_policy_that_cannot_be_read_denies_everything_of_the_tenant(vocabulary, ask, broken) -> None:
    loaded = load_policies(f"{PERMIT}\n{broken}", vocabulary, revision=1)
    assert loaded.quarantined[0].effect is None
    assert decide(ask(loaded)).outcome is Outcome.DENY
    assert decide(ask(loaded, cosigned=True)).outcome is Outcome.DENY


def test_a_stored_forbid_without_id_still_denies(vocabulary, ask) -> None:
    loaded = load_policies(PERMIT + "forbid(principal, action, resource);", vocabulary, revision=1)
    assert loaded.quarantined[0].effect == "forbid"
    assert decide(ask(loaded)).outcome is Outcome.DENY


def test_a_stored_forbid_with_a_taken_id_still_denies(vocabulary, ask) -> None:
    loaded = load_policies(PERMIT + '@id("all") forbid(principal, action, resource);', vocabulary, revision=1)
    assert decide(ask(loaded)).outcome is Outcome.DENY


def test_a_quarantined_policy_of_one_tenant_costs_another_nothing(vocabulary, ask) -> None:
    sick = load_policies("forbid(;", vocabulary, revision=1)
    well = load_policies(PERMIT, vocabulary, revision=1)
    assert decide(ask(sick)).outcome is Outcome.DENY
    assert decide(ask(well, tenant="other")).outcome is Outcome.ALLOW


@given(text=st.text(max_size=200) | st.lists(
    st.sampled_from(["@id", '("a")', "permit", "forbid", "(principal, action, resource)", "when", "unless", "{", "}",
                     "context", ".cosigned", " ", ";", "true", "?principal", "if", "then", "else", "has", "1", "=="]),
    max_size=20).map("".join))  # fmt: skip
def test_any_text_compiles_or_is_malformed_and_always_loads(vocabulary, text) -> None:
    try:
        compile_policies(text, vocabulary)
        faulty = False
    except Malformed:
        faulty = True
    loaded = load_policies(text, vocabulary, revision=1)
    assert faulty or not loaded.quarantined
