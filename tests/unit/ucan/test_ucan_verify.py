"""The verifier: upstream's fixtures, the Nomos profile, binding to a request, cosigners."""

from __future__ import annotations

import base64
import itertools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomos import errors
from nomos.request import request_digest
from nomos.ucan.attenuate import attenuate
from nomos.ucan.chain import verify_chain
from nomos.ucan.cid import cid_of
from nomos.ucan.grant import pin_policy
from nomos.ucan.profile import CHAIN_LENGTH_MAX, LIFETIME_SECONDS_MAX, NOMOS, SKEW_SECONDS, SPEC
from nomos.ucan.verify import VerifiedDelegation, check_binding, verify_delegation_for

if TYPE_CHECKING:
    from conftest import World

FIXTURES = json.loads((Path(__file__).parents[2] / "vectors" / "ucan" / "invocation.json").read_text())
#: Upstream's names of errors, in our words.
ERRORS = {
    "InvalidClaim": errors.Unrooted,
    "UnavailableProof": errors.ProofMissing,
    "Expired": errors.Expired,
    "TooEarly": errors.NotYetValid,
    "InvalidAudience": errors.AudienceMismatch,
    "InvalidSubject": errors.SubjectMismatch,
    "InvalidSignature": errors.BadSignature,
    "MatchError": errors.PolicyNotMet,
}


def _octets(dag_json: Any) -> bytes:
    text = dag_json["/"]["bytes"]
    return base64.b64decode(text + "=" * (-len(text) % 4))


def _never(_cid: bytes) -> bool:
    return False


def _verify_fixture(case: Any) -> None:
    proofs = [_octets(proof) for proof in case["proofs"]]
    verify_chain(_octets(case["invocation"]), proofs, now=case["time"], revoked=_never, profile=SPEC)


@pytest.mark.parametrize("case", FIXTURES["valid"], ids=lambda case: case["name"])
def test_upstreams_valid_invocations_verify(case: Any) -> None:
    _verify_fixture(case)


@pytest.mark.parametrize("case", FIXTURES["invalid"], ids=lambda case: case["name"])
def test_upstreams_invalid_invocations_are_refused_for_the_right_reason(case: Any) -> None:
    with pytest.raises(ERRORS[case["error"]["name"]]):
        _verify_fixture(case)


def test_upstreams_fixtures_are_all_there() -> None:
    assert len(FIXTURES["valid"]) + len(FIXTURES["invalid"]) == 20


@given(st.binary(max_size=200), st.lists(st.binary(max_size=200), max_size=3))
def test_arbitrary_bytes_are_malformed(world: World, invocation: bytes, proofs: list[bytes]) -> None:
    with pytest.raises(errors.Malformed):
        world.verify(invocation, proofs)
    with pytest.raises((errors.Malformed, errors.ProofMissing)):
        world.verify(world.sign(proofs), proofs + [b""] * (not proofs))


def test_an_agent_uses_its_grant(world: World) -> None:
    grant = world.grant()
    invocation = world.sign([grant])
    verified = world.verify(invocation, [grant])
    assert (verified.agent, verified.subject) == (world.agent.did, world.tenant.did)
    assert (verified.command, verified.resource, verified.args) == (world.command, world.resource, world.args)
    assert (verified.digest, verified.expires_at) == (world.digest, world.now + 60)
    assert (verified.leaf_cid, verified.delegation_cids) == (cid_of(grant), (cid_of(grant),))
    assert (verified.invocation_cid, verified.issued_at) == (cid_of(invocation), world.now)
    check_binding(verified, action=world.action, resource=world.resource, args=world.args)
    check_binding(verified, action=world.action, resource=world.resource, args=verified.args)


def test_a_stolen_grant_is_useless(world: World) -> None:
    grant = world.grant()
    with pytest.raises(errors.AudienceMismatch):
        world.verify(world.sign([grant], signing_key=world.stranger), [grant])


def test_an_invocation_signed_by_somebody_else_is_refused(world: World) -> None:
    grant = world.grant()
    forged = world.raw_invocation([grant], signing_key=world.stranger, iss=world.agent.did)
    with pytest.raises(errors.BadSignature):
        world.verify(forged, [grant])
    forged_grant = world.raw_delegation(world.stranger, iss=world.tenant.did)
    with pytest.raises(errors.BadSignature):
        world.verify(world.sign([forged_grant]), [forged_grant])


def test_a_root_that_is_not_trusted_here_is_refused(world: World) -> None:
    grant = world.grant(signing_key=world.stranger)
    with pytest.raises(errors.Unrooted):
        world.verify(world.sign([grant], subject=world.stranger.did), [grant])


def test_a_grant_issued_for_another_subject_is_refused(world: World) -> None:
    grant = world.raw_delegation(world.stranger)
    with pytest.raises(errors.Unrooted):
        world.verify(world.sign([grant]), [grant])


@pytest.mark.parametrize("position", [0, 1])
def test_a_revoked_delegation_anywhere_in_the_chain_refuses(world: World, position: int) -> None:
    chain = [world.grant()]
    chain.append(attenuate(world.agent, chain, audience=world.runner.did, expires_at=world.now + 60, nonce=world.nonce))
    invocation = world.sign(chain, signing_key=world.runner)
    world.verify(invocation, chain)
    with pytest.raises(errors.Revoked):
        world.verify(invocation, chain, revoked={cid_of(chain[position])}.__contains__)


def test_proofs_must_be_those_named_and_root_first(world: World) -> None:
    chain = [world.grant()]
    chain.append(attenuate(world.agent, chain, audience=world.runner.did, expires_at=world.now + 60, nonce=world.nonce))
    invocation = world.sign(chain, signing_key=world.runner)
    for sent in (chain[::-1], chain[:1], [], [*chain, chain[0]], [chain[0], world.grant(nonce=bytes(12))]):
        with pytest.raises(errors.ProofMissing):
            world.verify(invocation, sent)


@pytest.mark.parametrize(
    ("command", "below"),
    [
        ("/github", True),
        ("/github/issues", True),
        ("/git", False),
        ("/github/issue", False),
        ("/github/issues/create/x", False),
    ],
)
def test_a_command_is_covered_at_segment_boundaries_only(world: World, command: str, below: bool) -> None:
    grant = world.grant(command=command)
    if below:
        world.verify(world.sign([grant]), [grant])
        return
    with pytest.raises(errors.CommandNotCovered):
        world.verify(world.sign([grant]), [grant])


def test_a_child_with_a_wider_command_is_refused(world: World) -> None:
    root = world.grant(command="/github/issues")
    child = world.raw_delegation(world.agent, aud=world.runner.did, cmd="/github")
    with pytest.raises(errors.CommandNotCovered):
        world.verify(world.sign([root, child], signing_key=world.runner), [root, child])


def test_a_grant_lives_to_the_last_second_and_no_longer(world: World) -> None:
    grant = world.grant(ttl_seconds=30)
    invocation = world.sign([grant])
    assert world.verify(invocation, [grant], now=world.now + 30).expires_at == world.now + 30
    with pytest.raises(errors.Expired):
        world.verify(invocation, [grant], now=world.now + 31)
    short = world.sign([grant], ttl_seconds=10)
    assert world.verify(short, [grant]).expires_at == world.now + 10
    with pytest.raises(errors.Expired):
        world.verify(short, [grant], now=world.now + 11)


def test_a_child_that_claims_a_longer_life_ends_with_its_parent(world: World) -> None:
    root = world.grant(ttl_seconds=20)
    child = world.raw_delegation(world.agent, aud=world.runner.did, exp=world.now + 60)
    invocation = world.sign([root, child], signing_key=world.runner)
    assert world.verify(invocation, [root, child]).expires_at == world.now + 20
    with pytest.raises(errors.Expired):
        world.verify(invocation, [root, child], now=world.now + 21)


def test_a_grant_is_not_used_before_its_time(world: World) -> None:
    grant = world.raw_delegation(nbf=world.now + 1)
    with pytest.raises(errors.NotYetValid):
        world.verify(world.sign([grant]), [grant])
    world.verify(world.sign([grant]), [grant], now=world.now + 1)


@pytest.mark.parametrize(
    "change",
    [
        {"exp": None},
        {"exp": 1_800_000_000 + LIFETIME_SECONDS_MAX + SKEW_SECONDS + 1},
        {"sub": None},
        {"cmd": "/"},
        {"nonce": b"12345678901"},
        {"pol": []},
        {"pol": [["==", ".resource", "github:repo/acme/site"]]},
        {"pol": [["like", ".resource", "*"], ["!=", ".digest", b""]]},
        {"pol": [["or", [["==", ".resource", 1], ["==", ".digest", 1], ["or", []]]]]},
    ],
)
def test_grants_outside_the_profile_are_refused_though_they_are_valid_ucans(
    world: World, change: dict[str, Any]
) -> None:
    grant = world.raw_delegation(**change)
    invocation = world.sign([grant])
    refused = errors.Unrooted if change.get("sub", 1) is None else errors.OutsideProfile
    with pytest.raises(refused):
        world.verify(invocation, [grant])
    if refused is errors.OutsideProfile:
        verify_chain(invocation, [grant], now=world.now, revoked=_never, profile=SPEC)


@pytest.mark.parametrize(
    "change", [{"exp": None}, {"exp": 1_800_000_066}, {"nonce": b"short"}, {"exp": 1_800_000_060, "iat": 1_799_999_999}]
)
def test_invocations_outside_the_profile_are_refused_though_they_are_valid_ucans(
    world: World, change: dict[str, Any]
) -> None:
    grant = world.grant()
    invocation = world.raw_invocation([grant], **change)
    verify_chain(invocation, [grant], now=world.now, revoked=_never, profile=SPEC)
    with pytest.raises(errors.OutsideProfile):
        world.verify(invocation, [grant])


def test_an_invocation_for_another_executor_is_refused(world: World) -> None:
    grant = world.grant()
    with pytest.raises(errors.OutsideProfile):
        world.verify(world.raw_invocation([grant], aud=world.stranger.did), [grant])
    world.verify(world.raw_invocation([grant], aud=world.tenant.did), [grant])


def test_an_invocation_of_every_command_is_refused(world: World) -> None:
    grant = world.raw_delegation(cmd="/")
    with pytest.raises(errors.OutsideProfile):
        world.verify(world.raw_invocation([grant], cmd="/"), [grant])


def test_a_powerline_below_the_root_is_refused_though_it_is_a_valid_ucan(world: World) -> None:
    chain = [world.grant(), world.raw_delegation(world.agent, aud=world.runner.did, sub=None)]
    invocation = world.sign(chain, signing_key=world.runner)
    verify_chain(invocation, chain, now=world.now, revoked=_never, profile=SPEC)
    with pytest.raises(errors.OutsideProfile):
        world.verify(invocation, chain)


def test_the_subject_itself_needs_a_delegation_too(world: World) -> None:
    invocation = world.sign([], signing_key=world.tenant)
    verify_chain(invocation, [], now=world.now, revoked=_never, profile=SPEC)
    with pytest.raises(errors.OutsideProfile):
        world.verify(invocation, [])


def test_a_clock_that_runs_ahead_is_taken_within_the_skew(world: World) -> None:
    ahead = world.now + SKEW_SECONDS
    grant = world.grant(now=ahead)
    world.verify(world.sign([grant], now=ahead), [grant])
    too_far = world.sign([grant], now=ahead + 1, ttl_seconds=10)
    with pytest.raises(errors.NotYetValid):
        world.verify(too_far, [grant])


def test_a_chain_longer_than_the_profile_is_refused(world: World) -> None:
    keys = [world.agent, *(world.key(f"sub-agent {number}") for number in range(CHAIN_LENGTH_MAX))]
    chain = [world.grant()]
    for holder, following in itertools.pairwise(keys):
        if len(chain) == CHAIN_LENGTH_MAX:
            world.verify(world.sign(chain, signing_key=holder), chain)
            with pytest.raises(errors.LimitExceeded):
                attenuate(holder, chain, audience=following.did, expires_at=world.now + 60, nonce=world.nonce)
            chain.append(world.raw_delegation(holder, aud=following.did))
            break
        chain.append(attenuate(holder, chain, audience=following.did, expires_at=world.now + 60, nonce=world.nonce))
    invocation = world.sign(chain, signing_key=keys[-1])
    with pytest.raises(errors.OutsideProfile):
        world.verify(invocation, chain)


def test_meta_carries_no_authority(world: World) -> None:
    boast = {"cmd": "/", "sub": world.tenant.did, "aud": world.stranger.did, "exp": world.now + 9999, "pol": []}
    grant = world.grant(meta=boast)
    verified = world.verify(world.sign([grant]), [grant])
    assert verified == world.verify(world.sign([grant]), [grant])
    with pytest.raises(errors.AudienceMismatch):
        world.verify(world.sign([grant], signing_key=world.stranger), [grant])
    with pytest.raises(errors.Expired):
        world.verify(world.sign([grant], now=world.now + 50), [grant], now=world.now + 61)


def test_a_grant_for_one_request_serves_no_other(world: World) -> None:
    grant = world.grant()
    for change in (
        {"resource": "github:repo/acme/other"},
        {"args": {"title": "other"}},
        {"args": {**world.args, "draft": 0}},
    ):
        with pytest.raises(errors.PolicyNotMet):
            world.verify(world.sign([grant], **change), [grant])
    with pytest.raises(errors.CommandNotCovered):
        world.verify(world.sign([grant], action="github:repos.delete"), [grant])


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"resource": "r", "connection": "", "args": {}},
        {"resource": "r", "connection": "", "args": {}, "digest": b"short"},
        {"resource": "r", "connection": "", "args": {}, "digest": bytes(32), "extra": 1},
        {"resource": 1, "connection": "", "args": {}, "digest": bytes(32)},
        {"resource": "r", "connection": "", "args": [], "digest": bytes(32)},
    ],
)
def test_arguments_of_another_shape_are_malformed(world: World, arguments: dict[str, Any]) -> None:
    grant = world.raw_delegation(
        pol=[["==", ".resource", arguments.get("resource")], ["==", ".digest", arguments.get("digest")]]
    )
    with pytest.raises(errors.MalformedToken):
        world.verify(world.raw_invocation([grant], args=arguments), [grant])


@pytest.mark.parametrize(
    ("args", "refused"),
    [({"__extn": 1}, errors.ReservedKey), ({"a": 1.5}, errors.Malformed), ({"a": b"x"}, errors.Malformed)],
)
def test_signed_arguments_are_checked_like_any_others(
    world: World, args: dict[str, Any], refused: type[Exception]
) -> None:
    grant = world.grant()
    invocation = world.raw_invocation(
        [grant], args={"resource": world.resource, "connection": "", "args": args, "digest": world.digest}
    )
    with pytest.raises(refused):
        world.verify(invocation, [grant])


def test_binding_refuses_anything_but_the_signed_request(world: World) -> None:
    grant = world.grant()
    verified = world.verify(world.sign([grant]), [grant])
    signed: dict[str, Any] = {"action": world.action, "resource": world.resource, "args": world.args}
    for change in (
        {"action": "github:issues.update"},
        {"action": "github.issues.create"},
        {"resource": "github:repo/acme/other"},
        {"args": {}},
        {"args": {**world.args, "draft": 0}},
        {"args": {**world.args, "milestone": "7"}},
        {"args": {**world.args, "extra": None}},
    ):
        with pytest.raises(errors.BindingMismatch):
            check_binding(verified, **{**signed, **change})
    with pytest.raises(errors.Malformed):
        check_binding(verified, **{**signed, "args": {"a": 1.5}})


def test_binding_refuses_signed_arguments_that_their_digest_does_not_stand_for(world: World) -> None:
    grant = world.grant()
    shown = {"resource": world.resource, "connection": "", "args": {"title": "harmless"}, "digest": world.digest}
    verified = world.verify(world.raw_invocation([grant], args=shown), [grant])
    for args in (world.args, {"title": "harmless"}, verified.args):
        with pytest.raises(errors.BindingMismatch):
            check_binding(verified, action=world.action, resource=world.resource, args=args)


def _cosigned(world: World, token: bytes, **changes: Any) -> VerifiedDelegation:
    fields: dict[str, Any] = {
        "issuers": {world.cosigner.did},
        "audience": world.agent.did,
        "command": world.command,
        "resource": world.resource,
        "digest": world.digest,
        "now": world.now,
        "revoked": _never,
    }
    return verify_delegation_for(token, **{**fields, **changes})


def test_a_cosigner_grants_one_request_to_one_agent(world: World) -> None:
    token = world.grant(signing_key=world.cosigner, meta={"approval": "ap_1"})
    verified = _cosigned(world, token)
    assert (verified.cid, verified.issuer, verified.audience) == (cid_of(token), world.cosigner.did, world.agent.did)
    assert (verified.command, verified.resource, verified.digest) == (world.command, world.resource, world.digest)
    assert (verified.expires_at, verified.meta) == (world.now + 60, {"approval": "ap_1"})


@pytest.mark.parametrize(
    ("change", "refused"),
    [
        ({"issuers": set()}, errors.Unrooted),
        ({"audience": "did:key:other"}, errors.AudienceMismatch),
        ({"command": "/github/issues"}, errors.CommandNotCovered),
        ({"command": "/github/issues/create/x"}, errors.CommandNotCovered),
        ({"resource": "github:repo/acme/other"}, errors.PolicyNotMet),
        ({"digest": bytes(32)}, errors.PolicyNotMet),
        ({"now": 1_800_000_061}, errors.Expired),
        ({"now": 1_799_999_994}, errors.OutsideProfile),
        ({"revoked": lambda _cid: True}, errors.Revoked),
    ],
)
def test_a_cosigners_grant_serves_nothing_else(world: World, change: dict[str, Any], refused: type[Exception]) -> None:
    with pytest.raises(refused):
        _cosigned(world, world.grant(signing_key=world.cosigner), **change)


@pytest.mark.parametrize(
    ("change", "refused"),
    [
        ({"sub": None}, errors.Unrooted),
        ({}, errors.Unrooted),  # about the tenant, not about itself
        ({"exp": None}, errors.OutsideProfile),
        ({"pol": []}, errors.OutsideProfile),
        ({"nbf": 1_800_000_001}, errors.NotYetValid),
    ],
)
def test_a_cosigners_token_of_another_shape_is_refused(
    world: World, change: dict[str, Any], refused: type[Exception]
) -> None:
    subject = {"sub": world.cosigner.did} if change and "sub" not in change else {}
    with pytest.raises(refused):
        _cosigned(world, world.raw_delegation(world.cosigner, **subject, **change))


def test_a_cosigners_grant_with_another_policy_is_refused(world: World) -> None:
    pins = pin_policy(world.resource, world.digest)
    for policy in (
        [*pins, ["==", ".x", None]],
        pins[::-1],
        [*pins, *pins],
        [["==", ".resource", [world.resource]], pins[1]],
    ):
        with pytest.raises(errors.PolicyNotMet):
            _cosigned(world, world.raw_delegation(world.cosigner, sub=world.cosigner.did, pol=policy))


def test_a_forged_cosigners_grant_is_refused(world: World) -> None:
    token = world.raw_delegation(world.stranger, iss=world.cosigner.did, sub=world.cosigner.did)
    with pytest.raises(errors.BadSignature):
        _cosigned(world, token)


@given(st.binary(max_size=300))
def test_arbitrary_bytes_as_a_cosigners_grant_are_malformed(world: World, token: bytes) -> None:
    with pytest.raises(errors.Malformed):
        _cosigned(world, token)


def test_the_profile_only_narrows() -> None:
    assert (NOMOS.chain_length_max, NOMOS.lifetime_seconds_max, NOMOS.skew_seconds) == (5, 60, 5)
    allowances = [name for name in NOMOS.__struct_fields__ if name.endswith("_allowed")]
    assert allowances
    assert not any(getattr(NOMOS, name) for name in allowances)
    assert all(getattr(SPEC, name) for name in allowances)


def test_a_request_of_two_actions_has_two_digests(world: World) -> None:
    assert request_digest("github:issues.update", world.resource, world.args) != world.digest
