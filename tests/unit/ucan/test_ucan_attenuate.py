"""Handing on: a child is never wider than its parent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomos.errors import (
    AudienceMismatch,
    BadSignature,
    CommandNotCovered,
    Malformed,
    NomosError,
    NotCovered,
    PolicyNotMet,
    SubjectMismatch,
    Unrooted,
)
from nomos.ucan.attenuate import attenuate
from nomos.ucan.chain import verify_chain
from nomos.ucan.command import covers
from nomos.ucan.delegation import parse_delegation
from nomos.ucan.profile import SPEC

if TYPE_CHECKING:
    from conftest import World


def _hand_on(world: World, parents: list[bytes], **changes: Any) -> bytes:
    fields: dict[str, Any] = {"audience": world.runner.did, "expires_at": world.now + 60, "nonce": world.nonce}
    signing_key = changes.pop("signing_key", world.agent)
    return attenuate(signing_key, parents, **{**fields, **changes})


def _verifies(world: World, chain: list[bytes], holder: Any, now: int, command: str, arguments: dict[str, Any]) -> bool:
    invocation = world.raw_invocation(chain, signing_key=holder, cmd=command, args=arguments, exp=None)
    try:
        verify_chain(invocation, chain, now=now, revoked=lambda _cid: False, profile=SPEC)
    except NomosError:
        return False
    return True


commands = st.sampled_from(["/a", "/a/b", "/a/bb", "/a/b/c", "/d"])
policies = st.lists(
    st.sampled_from([["==", ".x", 1], ["!=", ".x", 2], [">", ".y", 0], ["like", ".z", "a*"], ["or", []]]), max_size=2
)
argument_maps = st.fixed_dictionaries(
    {"x": st.integers(0, 2), "y": st.integers(-1, 1), "z": st.sampled_from(["a", "ab", "b"])}
)


@given(
    root=st.tuples(commands, policies, st.integers(0, 60)),
    child=st.tuples(commands, policies, st.integers(0, 60)),
    arguments=argument_maps,
    command=commands,
    offset=st.integers(0, 60),
)
def test_whatever_a_child_may_do_its_parent_may_do(
    world: World, root: Any, child: Any, arguments: dict[str, Any], command: str, offset: int
) -> None:
    parent = world.raw_delegation(cmd=root[0], pol=root[1], exp=world.now + root[2])
    try:
        handed = _hand_on(world, [parent], command=child[0], policy=child[1], expires_at=world.now + child[2])
    except NotCovered:
        assert not covers(root[0], child[0]) or child[2] > root[2]
        return
    now = world.now + offset
    if _verifies(world, [parent, handed], world.runner, now, command, arguments):
        assert _verifies(world, [parent], world.agent, now, command, arguments)


def test_a_silent_child_keeps_its_parents_policy(world: World) -> None:
    grant = world.grant()
    chain = [grant, _hand_on(world, [grant])]
    assert parse_delegation(chain[1]).policy == ()
    world.verify(world.sign(chain, signing_key=world.runner), chain)
    with pytest.raises(PolicyNotMet):
        world.verify(world.sign(chain, signing_key=world.runner, args={"title": "other"}), chain)


def test_a_child_adds_statements_of_its_own(world: World) -> None:
    grant = world.grant()
    for statement, met in ((["==", ".args.draft", False], True), (["==", ".args.draft", True], False)):
        chain = [grant, _hand_on(world, [grant], policy=[statement])]
        invocation = world.sign(chain, signing_key=world.runner)
        if met:
            world.verify(invocation, chain)
        else:
            with pytest.raises(PolicyNotMet):
                world.verify(invocation, chain)


def test_a_chain_of_three_verifies_and_names_its_leaf(world: World) -> None:
    chain = [world.grant()]
    chain.append(_hand_on(world, chain, expires_at=world.now + 40))
    chain.append(_hand_on(world, chain, signing_key=world.runner, audience=world.intern.did, expires_at=world.now + 20))
    verified = world.verify(world.sign(chain, signing_key=world.intern), chain)
    assert verified.agent == world.intern.did
    assert verified.expires_at == world.now + 20
    assert verified.delegation_cids == tuple(parse_delegation(token).cid for token in chain)
    assert verified.leaf_cid == verified.delegation_cids[-1]


def test_child_delegation_cannot_outlive_its_parent(world: World) -> None:
    grant = world.grant(ttl_seconds=30)
    _hand_on(world, [grant], expires_at=world.now + 30)
    with pytest.raises(NotCovered):
        _hand_on(world, [grant], expires_at=world.now + 31)


def test_child_delegation_cannot_begin_before_its_parent(world: World) -> None:
    parent = world.raw_delegation(nbf=world.now + 5)
    assert parse_delegation(_hand_on(world, [parent])).not_before == world.now + 5
    assert parse_delegation(_hand_on(world, [parent], not_before=world.now + 6)).not_before == world.now + 6
    assert parse_delegation(_hand_on(world, [world.grant()], not_before=world.now)).not_before == world.now
    with pytest.raises(NotCovered):
        _hand_on(world, [parent], not_before=world.now + 4)


@pytest.mark.parametrize("command", ["/", "/github", "/github/issues", "/github/issues/created", "/slack"])
def test_child_delegation_cannot_have_a_wider_command(world: World, command: str) -> None:
    with pytest.raises(CommandNotCovered):
        _hand_on(world, [world.grant()], command=command)


def test_child_delegation_may_have_a_narrower_command(world: World) -> None:
    child = _hand_on(world, [world.grant()], command=world.command + "/draft")
    assert parse_delegation(child).command == world.command + "/draft"


def test_only_the_holder_hands_on(world: World) -> None:
    with pytest.raises(AudienceMismatch):
        _hand_on(world, [world.grant()], signing_key=world.stranger)
    with pytest.raises(Unrooted):
        _hand_on(world, [])


def test_broken_parents_are_not_built_upon(world: World) -> None:
    forged = world.raw_delegation(world.stranger, iss=world.tenant.did)
    with pytest.raises(BadSignature):
        _hand_on(world, [forged])
    with pytest.raises(Unrooted):
        _hand_on(world, [world.raw_delegation(world.stranger)])
    with pytest.raises(Unrooted):
        _hand_on(world, [world.raw_delegation(sub=None)])
    with pytest.raises(SubjectMismatch):
        _hand_on(world, [world.grant(), world.raw_delegation(world.agent, aud=world.agent.did, sub=world.stranger.did)])
    with pytest.raises(AudienceMismatch):
        _hand_on(world, [world.grant(), world.raw_delegation(world.stranger)])
    with pytest.raises(Malformed):
        _hand_on(world, [b"not a token"])


@pytest.mark.parametrize(
    "change", [{"policy": [["unknown", ".a", 1]]}, {"command": "Issues"}, {"audience": "did:key:x"}]
)
def test_what_no_verifier_would_take_is_not_handed_on(world: World, change: dict[str, Any]) -> None:
    with pytest.raises(Malformed):
        _hand_on(world, [world.grant()], **change)
