"""The directory: identity's facts, and nothing of a request."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomos import events
from nomos.errors import Revoked, UnknownAgent, UnknownOperator, UnknownTenant
from nomos.servicemessages import Fact
from nomos_runtime.directory import Directory


def fact(kind: str, of: str, /, **event: object) -> Fact:
    return Fact(rev=0, type=kind, tenant=of, event=dict(event))


def tenant(name: str, account: str) -> Fact:
    return fact(events.TENANT_CREATED, name, account=account)


def agent(of: str, name: str, key: str) -> Fact:
    return fact(events.AGENT_CREATED, of, agent=name, app="triage", env="test", did="did:key:z", key=key)


def revoked(of: str, key: str) -> Fact:
    return fact(events.KEY_REVOKED, of, key=key)


def folded(*facts: Fact) -> Directory:
    directory = Directory()
    for one in facts:
        directory.apply(one)
    return directory


def test_an_account_is_its_tenant_and_no_other() -> None:
    directory = folded(tenant("acme", "AA"), tenant("beta", "AB"))
    assert (directory.tenant("AA"), directory.tenant("AB")) == ("acme", "beta")
    assert directory.tenants == ["acme", "beta"]
    for unknown in ("", "aa", "acme", "AC"):
        with pytest.raises(UnknownTenant):
            directory.tenant(unknown)


def test_an_agent_is_found_in_its_own_tenant_only() -> None:
    directory = folded(tenant("acme", "AA"), tenant("beta", "AB"), agent("acme", "bot", "U1"))
    assert directory.agent("acme", "bot").key == "U1"
    for of, name in (("beta", "bot"), ("acme", "other"), ("", "bot")):
        with pytest.raises(UnknownAgent):
            directory.agent(of, name)


def test_a_revocation_holds_for_its_tenants_key_whatever_comes_after() -> None:
    directory = folded(agent("acme", "bot", "U1"), agent("beta", "bot", "U1"), revoked("acme", "U1"))
    directory.apply(agent("acme", "second", "U1"))
    for name in ("bot", "second"):
        with pytest.raises(Revoked):
            directory.agent("acme", name)
    assert directory.agent("beta", "bot").tenant == "beta"


def test_a_revocation_that_is_heard_first_holds_too() -> None:
    with pytest.raises(Revoked):
        folded(revoked("acme", "U1"), agent("acme", "bot", "U1")).agent("acme", "bot")


@given(st.permutations([tenant("acme", "AA"), agent("acme", "bot", "U1"), agent("acme", "two", "U2")]))
def test_facts_of_different_things_may_come_in_any_order(facts: list[Fact]) -> None:
    directory = folded(*facts, *facts)
    assert directory.tenant("AA") == "acme"
    assert [directory.agent("acme", name).key for name in ("bot", "two")] == ["U1", "U2"]


@given(st.text(), st.dictionaries(st.text(), st.none() | st.text() | st.integers()))
def test_a_fact_of_another_type_changes_nothing(kind: str, event: dict[str, object]) -> None:
    if kind.startswith(("tenant.", "app.", "agent.", "auditor.", "key.", "operator.")):
        return
    directory = folded(Fact(rev=1, type=kind, tenant="acme", event=event))
    assert directory.tenants == []


def test_a_closed_tenant_is_known_and_asks_for_nothing_any_more() -> None:
    directory = folded(tenant("acme", "AA"), tenant("beta", "AB"), fact(events.TENANT_CLOSED, "acme", basis="x", at=1))
    with pytest.raises(Revoked):
        directory.tenant("AA")
    assert directory.tenant("AB") == "beta"
    assert (directory.has_tenant("acme"), directory.is_closed("acme"), directory.is_closed("beta")) == (
        True,
        True,
        False,
    )


def test_an_operator_is_known_from_their_name_on_and_never_again_after_their_erasure() -> None:
    added = fact(events.OPERATOR_ADDED, "_sys", operator="sub-1", tenant="acme", at=1)
    removed = fact(events.OPERATOR_REMOVED, "_sys", operator="sub-1", at=2)
    directory = folded(added)
    directory.check_operator("sub-1")
    assert directory.tenant_of_operator("sub-1") == "acme"
    for unknown in ("sub-2", "", "admin"):
        with pytest.raises(UnknownOperator):
            directory.check_operator(unknown)
    with pytest.raises(UnknownOperator):
        directory.tenant_of_operator("sub-2")
    directory.apply(removed)
    with pytest.raises(Revoked):
        directory.check_operator("sub-1")
    with pytest.raises(Revoked):
        directory.tenant_of_operator("sub-1")
    # Facts may be told again, from the beginning.
    for one in (added, removed):
        directory.apply(one)
    with pytest.raises(Revoked):
        directory.check_operator("sub-1")
