"""A permission is handed on, taken back and outlives no rotation: over the real bus, with a real upstream."""

from __future__ import annotations

import os
import time
from typing import Any

import pytest

from nomos import errors
from nomos.agent import Allowed
from nomos.errors import NomosError
from nomos.handover import Grant, hand_on
from nomos.keys import SigningKey
from nomos.ucan.cid import format_cid
from nomos.ucan.grant import mint_grant
from nomos_proxy.issuers import ROTATED_SECONDS, Issuers

LIST, READ = "github:issues.list", {"state": "open"}
REPO = "github:repo/acme/site"
#: Facts reach a replica at once; a lost notification costs one poll.
HEARD_SECONDS = 5


async def _allowed(bot: Any) -> Allowed:
    allowed = await bot.agent.authorize(LIST, REPO, READ)
    assert isinstance(allowed, Allowed)
    return allowed


async def _three(scene: Any) -> tuple[Any, Any, Any]:
    tenant = await scene.tenant()
    return await scene.agent(tenant), await scene.agent(tenant), await scene.agent(tenant)


async def _refused(scene: Any, bot: Any, grant: Grant, kind: type[NomosError]) -> None:
    """Waits until the proxy refuses ``grant``, and checks that it says so in the log."""

    async def refused() -> bool:
        try:
            await bot.agent.use(grant, LIST, REPO, READ)
        except kind:
            return True
        return False

    await scene.until(refused, f"the proxy to refuse with {kind.code}", HEARD_SECONDS)
    recorded = await scene.events(bot.tenant, "request.refused")
    assert [e.event["code"] for e in recorded if e.actor.id == bot.name][-1] == kind.code


async def test_a_permission_goes_down_a_chain_and_the_log_names_everyone_in_it(scene: Any) -> None:
    first, second, third = await _three(scene)
    allowed = await _allowed(first)
    grant = first.agent.delegate(allowed, to=second.agent.did, only=READ, ttl_seconds=40)
    further = second.agent.delegate(Grant.parse(str(grant)), to=third.agent.did)
    done = await third.agent.use(further, LIST, REPO, READ)
    assert done.status == 200
    assert done.json()
    assert done.expires_at == grant.expires_at <= allowed.expires_at
    attempt = (await scene.events(first.tenant, "proxy.attempted"))[-1]
    assert attempt.actor.id == third.name
    assert attempt.event["via"] == [first.name, second.name]
    (minted,) = await scene.events(first.tenant, "ucan.minted")
    assert attempt.event["root"] == minted.event["cid"]
    assert attempt.event["delegation"] == format_cid(further.last.cid)


async def test_a_link_narrows_and_never_widens(scene: Any) -> None:
    first, second, _ = await _three(scene)
    allowed = await _allowed(first)
    narrow = first.agent.delegate(allowed, to=second.agent.did, only={"state": "closed"})
    with pytest.raises(errors.PolicyNotMet):
        await second.agent.use(narrow, LIST, REPO, READ)
    grant = first.agent.delegate(allowed, to=second.agent.did)
    for action, resource, args in (
        (LIST, REPO, {"state": "all"}),
        (LIST, "github:repo/acme/other", READ),
        ("github:issues.get", REPO, {"issue_number": 1}),
    ):
        with pytest.raises(errors.NotCovered):
            await second.agent.use(grant, action, resource, args)
    with pytest.raises(errors.NotCovered):
        first.agent.delegate(allowed, to=second.agent.did, ttl_seconds=3_600)
    with pytest.raises(errors.NotCovered):
        second.agent.delegate(allowed, to=second.agent.did)
    with pytest.raises(errors.Malformed):
        first.agent.delegate(allowed, to="did:key:zzz")
    assert (await second.agent.use(grant, LIST, REPO, READ)).status == 200


async def test_a_grant_is_of_use_to_its_holder_alone(scene: Any) -> None:
    first, second, third = await _three(scene)
    stranger = await scene.agent(await scene.tenant())
    grant = first.agent.delegate(await _allowed(first), to=second.agent.did)
    for thief in (first, third):
        with pytest.raises(errors.NotCovered):
            await thief.agent.use(grant, LIST, REPO, READ)
    # To another tenant's agent it can be signed, and the proxy knows no such root there.
    across = first.agent.delegate(await _allowed(first), to=stranger.agent.did)
    with pytest.raises(errors.NotCovered):
        await stranger.agent.use(across, LIST, REPO, READ)


async def test_a_chain_has_a_bounded_depth(scene: Any) -> None:
    first, second, _ = await _three(scene)
    grant = first.agent.delegate(await _allowed(first), to=second.agent.did)
    for _ in range(3):
        grant = second.agent.delegate(grant, to=second.agent.did)
    with pytest.raises(errors.LimitExceeded):
        second.agent.delegate(grant, to=second.agent.did)
    assert (await second.agent.use(grant, LIST, REPO, READ)).status == 200


async def test_a_revoked_link_refuses_all_below_it_and_nothing_above(scene: Any) -> None:
    first, second, third = await _three(scene)
    allowed = await _allowed(first)
    grant = first.agent.delegate(allowed, to=second.agent.did)
    further = second.agent.delegate(grant, to=third.agent.did)
    other = first.agent.delegate(allowed, to=third.agent.did)
    cid = await first.agent.revoke(grant, "wrong helper")
    assert cid == format_cid(grant.last.cid)
    await _refused(scene, second, grant, errors.Revoked)
    await _refused(scene, third, further, errors.Revoked)
    assert (await third.agent.use(other, LIST, REPO, READ)).status == 200
    # Asking again is no fault, and leaves one record.
    assert await second.agent.revoke(grant) == cid
    (event,) = await scene.events(first.tenant, "ucan.revoked")
    assert (event.actor.id, event.event["cid"], event.event["why"]) == (first.name, cid, "wrong helper")
    await first.agent.revoke(allowed)
    await _refused(scene, third, other, errors.Revoked)


async def test_only_who_held_a_link_may_revoke_it(scene: Any) -> None:
    first, second, third = await _three(scene)
    stranger = await scene.agent(await scene.tenant())
    allowed = await _allowed(first)
    grant = first.agent.delegate(allowed, to=second.agent.did)
    with pytest.raises(errors.NotCovered):
        await third.agent.revoke(grant)
    with pytest.raises(errors.Unrooted):
        await stranger.agent.revoke(grant)
    # A holder does not reach above itself.
    with pytest.raises(errors.NotCovered):
        await second.agent.revoke(allowed)
    forged = mint_grant(
        SigningKey(os.urandom(32)), agent=third.agent.did, command="/github/issues/list", resource=REPO,
        digest=os.urandom(32), now=int(time.time()), ttl_seconds=60, nonce=os.urandom(12),
    )  # fmt: skip
    with pytest.raises(errors.Unrooted):
        await third.agent.revoke(Grant(chain=(forged,)))
    with pytest.raises(errors.NotCovered):
        await third.agent.revoke(Grant(chain=(*grant.chain, forged)))
    codes = [e.event["code"] for e in await scene.events(first.tenant, "request.refused")]
    assert codes == ["not_covered", "not_covered", "unrooted", "audience_mismatch"]
    assert not await scene.events(first.tenant, "ucan.revoked")
    assert (await second.agent.use(grant, LIST, REPO, READ)).status == 200


async def test_an_operator_revokes_by_the_id_in_the_log(scene: Any) -> None:
    first, second, _ = await _three(scene)
    other = await scene.tenant()
    grant = first.agent.delegate(await _allowed(first), to=second.agent.did)
    (minted,) = await scene.events(first.tenant, "ucan.minted")
    # An operator of another tenant names it in its own tenant, where it means nothing.
    await (await scene.tenant_operator(other)).ask("minting", "revoke", other, cid=minted.event["cid"])
    assert (await second.agent.use(grant, LIST, REPO, READ)).status == 200
    done = await scene.operator.ask("minting", "revoke", first.tenant, cid=minted.event["cid"], why="seen in a chat")
    assert done["cid"] == minted.event["cid"]
    await _refused(scene, second, grant, errors.Revoked)
    with pytest.raises(errors.Malformed):
        await scene.operator.ask("minting", "revoke", first.tenant, cid="bafy")
    with pytest.raises(NomosError, match="WHY_CHARS_MAX is 500, got 501"):
        await scene.operator.ask("minting", "revoke", first.tenant, cid=minted.event["cid"], why="x" * 501)


async def test_a_revoked_agents_sub_agents_are_refused_with_it(scene: Any) -> None:
    first, second, third = await _three(scene)
    allowed = await _allowed(first)
    further = second.agent.delegate(first.agent.delegate(allowed, to=second.agent.did), to=third.agent.did)
    other = first.agent.delegate(allowed, to=third.agent.did)
    assert (await third.agent.use(further, LIST, REPO, READ)).status == 200
    key = second.credentials.user.public
    await scene.operator.ask("identity", "key-revoke", first.tenant, key=key, why="test")
    await _refused(scene, third, further, errors.Revoked)
    assert (await third.agent.use(other, LIST, REPO, READ)).status == 200


async def test_a_link_to_a_key_that_is_no_agents_ends_the_chain(scene: Any) -> None:
    first, second, _ = await _three(scene)
    nobody = SigningKey(os.urandom(32))
    grant = first.agent.delegate(await _allowed(first), to=nobody.did)
    through = hand_on(nobody, grant.chain, to=second.agent.did, only={}, ttl_seconds=None)
    with pytest.raises(errors.UnknownAgent):
        await second.agent.use(through, LIST, REPO, READ)


async def test_a_rotated_key_signs_no_more_and_what_it_signed_lives_out_its_minute(scene: Any) -> None:
    first, second, _ = await _three(scene)
    before = await _allowed(first)
    grant = first.agent.delegate(before, to=second.agent.did)
    old = grant.last.subject
    done = await scene.operator.ask("minting", "issuer-rotate", first.tenant, why="yearly")
    assert done["previous"] == old
    assert (await second.agent.use(grant, LIST, REPO, READ)).status == 200

    async def signed_anew() -> bool:
        after = await _allowed(first)
        return Grant(chain=(after.delegation,)).last.subject == done["did"]

    await scene.until(signed_anew, "minting to sign with the new key", HEARD_SECONDS)
    assert (await first.agent.call(LIST, REPO, READ)).status == 200  # type: ignore[union-attr]
    # What the old key signed can still be revoked.
    await first.agent.revoke(grant)
    await _refused(scene, second, grant, errors.Revoked)
    listed = await scene.operator.ask("minting", "issuer-list", first.tenant)
    assert [(k["did"], k["in_force"], k["why"]) for k in listed["keys"]] == [
        (done["did"], True, "yearly"),
        (old, False, ""),
    ]
    (event,) = await scene.events(first.tenant, "ucan.issuer-rotated")
    assert event.actor.kind == "operator"


async def test_a_key_is_rotated_again_and_survives_a_restart_of_minting(scene: Any) -> None:
    bot = await scene.agent(await scene.tenant())
    for _ in range(2):
        newest = (await scene.operator.ask("minting", "issuer-rotate", bot.tenant))["did"]
    await scene.installation.stop_service("minting")
    await scene.installation.start_service("minting")
    allowed = await _allowed(bot)
    assert Grant(chain=(allowed.delegation,)).last.subject == newest
    assert (await bot.agent.invoke(allowed, LIST, REPO, READ)).status == 200


def test_a_replaced_key_is_a_root_until_what_it_signed_has_expired() -> None:
    from nomos.servicemessages import Fact

    issuers = Issuers()
    issuers.apply(Fact(rev=0, type="ucan.issuer", tenant="acme", event={"did": "did:key:a"}))
    issuers.apply(
        Fact(
            rev=1, type="ucan.issuer-rotated", tenant="acme",
            event={"did": "did:key:b", "previous": "did:key:a", "at": 1_000, "why": ""},
        )
    )  # fmt: skip
    assert issuers.roots("acme", 1_000 + ROTATED_SECONDS) == {"did:key:a", "did:key:b"}
    assert issuers.roots("acme", 1_001 + ROTATED_SECONDS) == {"did:key:b"}
    assert issuers.roots("other", 1_000) == frozenset()
