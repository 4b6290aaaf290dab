"""Tenants, apps, agents and keys: what may be created, and what a history amounts to."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomos.creds import ACCOUNT, USER, Nkey
from nomos.errors import Conflict, Malformed, NomosError, NotFound, Revoked
from nomos.events import Actor, Envelope
from nomos.keys import SigningKey
from nomos_identity import domain

BY = Actor(kind="operator", id="admin")
APP = domain.app_created("ev_1", tenant="acme", app="triage", env="test", by=BY, corr="")
KEY, OTHER = Nkey.new(USER).public, Nkey.new(USER).public
DID = SigningKey(os.urandom(32)).did


def agent(**changed: Any) -> Envelope:
    given_ = {
        "tenant": "acme", "app": [APP], "name": "bot", "key": KEY, "did": DID, "now": 5, "by": BY, "corr": "rq_1",
    } | changed  # fmt: skip
    return domain.agent_created("ev_2", **given_)


def auditor(name: str = "eve", key: str = OTHER) -> Envelope:
    return domain.auditor_created("ev_3", tenant="acme", name=name, key=key, now=6, by=BY, corr="")


def revocation(key: domain.Key | None, why: str = "") -> Envelope:
    return domain.key_revoked("ev_4", tenant="acme", key=key, why=why, now=9, by=BY, corr="")


def test_an_agent_takes_app_and_environment_from_the_apps_own_history() -> None:
    made = agent()
    assert made.event == {
        "agent": "bot", "app": "triage", "did": DID, "env": "test", "issued_at": 5, "key": KEY,
    }  # fmt: skip
    with pytest.raises(NotFound):
        agent(app=[])


def test_no_event_holds_more_than_public_halves() -> None:
    user = Nkey.new(USER)
    made = agent(key=user.public)
    assert user.seed not in repr(made)


@given(st.text(max_size=60))
def test_a_name_is_a_slug_or_refused(name: str) -> None:
    for make in (
        lambda: agent(name=name),
        lambda: auditor(name),
        lambda: domain.app_created("ev", tenant="acme", app=name, env="test", by=BY, corr=""),
        lambda: domain.tenant_created("ev", tenant=name, account="A", roles={}, by=BY, corr=""),
    ):
        try:
            made = make()
        except Malformed:
            continue
        assert made.event[made.type.partition(".")[0]] == name
        assert name.isascii()
        assert not set(name) & set(".*> \0\n/")


@given(st.text(max_size=80) | st.just(Nkey.new(ACCOUNT).public) | st.just(KEY.lower()) | st.just(KEY[:-1]))
def test_a_key_of_another_form_is_refused(text: str) -> None:
    for make in (lambda: agent(key=text), lambda: agent(did=text), lambda: auditor(key=text)):
        with pytest.raises(NomosError):
            make()


@given(st.binary(min_size=32, max_size=32))
def test_one_key_is_never_both_login_and_token_key(seed: bytes) -> None:
    with pytest.raises(Malformed):
        agent(key=Nkey(USER, seed).public, did=SigningKey(seed).did)


@pytest.mark.parametrize("env", ["", "prod", "LIVE", "live "])
def test_an_environment_is_live_or_test(env: str) -> None:
    with pytest.raises(Malformed):
        domain.app_created("ev", tenant="acme", app="x", env=env, by=BY, corr="")


def test_a_key_is_revoked_once_and_for_good() -> None:
    history = [agent(), auditor()]
    keys = domain.keys_of(history)
    assert {k: (v.role, v.name, v.revoked) for k, v in keys.items()} == {
        KEY: ("agent", "bot", False), OTHER: ("auditor", "eve", False),
    }  # fmt: skip
    history.append(revocation(keys[KEY], "stolen"))
    keys = domain.keys_of(history)
    assert (keys[KEY].revoked, keys[KEY].revoked_at, keys[OTHER].revoked) == (True, 9, False)
    with pytest.raises(Conflict):
        revocation(keys[KEY])
    with pytest.raises(NotFound):
        revocation(None)
    with pytest.raises(Malformed):
        revocation(keys[OTHER], "x" * 501)


@given(st.permutations([agent(name="second"), agent(name="third"), auditor(key=KEY)]))
def test_whoever_claims_a_revoked_key_later_does_not_bring_it_back(later: list[Envelope]) -> None:
    history = [agent()]
    history.append(revocation(domain.keys_of(history)[KEY]))
    assert domain.keys_of([*history, *later])[KEY].revoked


def operator_events(*kinds: str) -> list[Envelope]:
    history: list[Envelope] = []
    for kind in kinds:
        make = domain.operator_added if kind == "operator.added" else domain.operator_removed
        given_: dict[str, Any] = {"tenant": ""} if make is domain.operator_added else {}
        made = make("ev_9", history=history, operator="sub-1", now=7, by=BY, corr="", **given_)
        history += [] if made is None else [made]
    return history


def test_an_operator_is_added_once_and_removed_once() -> None:
    added, removed = "operator.added", "operator.removed"
    assert [e.type for e in operator_events(added, added, removed, removed)] == [added, removed]
    assert operator_events(removed) == []
    assert {e.tenant for e in operator_events(added, removed)} == {"_sys"}


def test_an_operator_who_was_removed_is_never_added_again() -> None:
    with pytest.raises(Revoked):
        operator_events("operator.added", "operator.removed", "operator.added")
