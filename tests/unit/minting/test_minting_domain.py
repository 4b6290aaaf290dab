"""Whether minting may sign: the allow that was made for exactly this request, and no other."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomos.errors import Malformed, NomosError, NotFresh
from nomos.request import request_digest
from nomos.servicemessages import MintItem
from nomos_minting.domain import check_item, minted_event

NOW, FRESH = 1_800_000_000_000, 2_000
ARGS: dict[str, object] = {"state": "open", "labels": ["a", "b"]}
DIGEST = request_digest("github:issues.list", "github:repo/acme/site", ARGS, "github")
REQUEST: dict[str, Any] = {
    "tenant": "acme", "agent": "bot", "action": "github:issues.list", "resource": "github:repo/acme/site",
    "connection": "github", "digest": DIGEST.hex(), "args": ARGS,
}  # fmt: skip


def envelope(
    *, request: dict[str, Any] | None = None, event: dict[str, Any] | None = None, **more: Any
) -> dict[str, Any]:
    made = {"decision": "dc_1", "outcome": "allow", "at_ms": NOW, "request": REQUEST | (request or {})} | (event or {})
    return {
        "id": "ev_1", "type": "authz.decision", "tenant": "acme", "actor": {"kind": "agent", "id": "bot"},
        "corr": "rq_1", "cause": "", "event": made,
    } | more  # fmt: skip


def item(decision: object, **more: Any) -> MintItem:
    made: dict[str, Any] = {
        "tenant": "acme", "agent": "bot", "agent_did": "did:key:z", "action": "github:issues.list",
        "resource": "github:repo/acme/site", "connection": "github", "digest": DIGEST,
    } | more  # fmt: skip
    return MintItem(**made, decision=msgspec.Raw(msgspec.msgpack.encode(decision)))


def test_a_fresh_allow_for_this_request_is_taken() -> None:
    decision, facts = check_item(item(envelope()), NOW, FRESH)
    assert (facts.decision, facts.request.args) == ("dc_1", ARGS)
    event = minted_event("ev_2", decision, facts, cid="b", issuer="did:i", agent_did="did:key:z", expires_at=9)
    assert (event.cause, event.corr, event.tenant) == ("ev_1", "rq_1", "acme")
    assert event.event["digest"] == DIGEST.hex()


@pytest.mark.parametrize("at_ms", [NOW - FRESH - 1, NOW + FRESH + 1, 0, -NOW, 2**53])
def test_an_allow_outside_the_bound_is_not_fresh(at_ms: int) -> None:
    with pytest.raises(NotFresh):
        check_item(item(envelope(event={"at_ms": at_ms})), NOW, FRESH)


@pytest.mark.parametrize("at_ms", [NOW - FRESH, NOW, NOW + FRESH])
def test_an_allow_at_the_bound_is_fresh(at_ms: int) -> None:
    check_item(item(envelope(event={"at_ms": at_ms})), NOW, FRESH)


@given(st.text())
def test_only_the_word_allow_is_an_allow(outcome: str) -> None:
    if outcome != "allow":
        with pytest.raises(NotFresh):
            check_item(item(envelope(event={"outcome": outcome})), NOW, FRESH)


MEMBERS = ["tenant", "agent", "action", "resource", "connection"]


@given(st.sampled_from(MEMBERS), st.text(min_size=1, max_size=20), st.sampled_from(["item", "request", "both"]))
def test_any_difference_between_request_and_decision_is_refused(member: str, value: str, where: str) -> None:
    if value == REQUEST[member]:
        return
    in_item = {member: value} if where != "request" else {}
    in_request = {member: value} if where != "item" else {}
    with pytest.raises(NomosError):
        check_item(item(envelope(request=in_request), **in_item), NOW, FRESH)


@given(st.dictionaries(st.text(max_size=5), st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=5)))
def test_other_arguments_are_refused_whatever_the_digests_say(args: dict[str, object]) -> None:
    if args == ARGS:
        return
    with pytest.raises(NomosError):
        check_item(item(envelope(request={"args": args})), NOW, FRESH)


@given(st.binary(max_size=40))
def test_another_digest_is_refused_in_either_place(digest: bytes) -> None:
    if digest == DIGEST:
        return
    for in_item, in_request in ((digest, DIGEST), (DIGEST, digest), (digest, digest)):
        with pytest.raises(NotFresh):
            check_item(item(envelope(request={"digest": in_request.hex()}), digest=in_item), NOW, FRESH)


def test_the_record_must_be_of_the_agent_and_tenant_that_asked() -> None:
    for changed in (
        {"tenant": "beta"},
        {"actor": {"kind": "agent", "id": "other"}},
        {"actor": {"kind": "operator", "id": "bot"}},
        {"type": "request.refused"},
    ):
        with pytest.raises(NotFresh):
            check_item(item(envelope(**changed)), NOW, FRESH)


anything = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
)


@given(anything)
def test_what_is_no_decision_is_malformed(decision: object) -> None:
    with pytest.raises(Malformed):
        check_item(item(decision), NOW, FRESH)


@given(st.sampled_from([*REQUEST, "decision", "outcome", "at_ms", "request"]), anything)
def test_a_decision_with_any_member_of_any_type_is_refused_with_a_code(member: str, value: object) -> None:
    made = envelope(request={member: value}) if member in REQUEST else envelope(event={member: value})
    if made == envelope():
        return
    try:
        check_item(item(made), NOW, FRESH)
    except NomosError as e:
        assert e.code != "internal"
    else:
        # Only what minting does not check may differ: which id the decision has, and when inside the bound.
        assert member in ("decision", "at_ms")
