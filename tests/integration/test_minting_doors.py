"""Minting signs with policy's fresh allow for exactly this request, and for nothing else that anybody can send it."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from nomos.agent import Allowed
from nomos.events import Envelope
from nomos.ids import new_id
from nomos.keys import SigningKey
from nomos.messages import now_ms
from nomos.request import request_digest
from nomos.servicemessages import MintBatch, MintItem
from nomos_runtime.local import SERVICES
from nomos_runtime.topology.doors import doors_into

LIST, REPO = "github:issues.list", "github:repo/acme/mint"
Change = Callable[[dict[str, Any], dict[str, Any]], None]


class Mold:
    """A genuine allow of policy as minting gets it, to be sent again, as it is or changed."""

    def __init__(self, scene: Any, bot: Any, decision: Envelope) -> None:
        self.scene, self.bot, self.decision = scene, bot, decision

    @classmethod
    async def of(cls, scene: Any, bot: Any, *, action: str = LIST) -> Mold:
        answer = await bot.agent.authorize(action, REPO, {"state": "open"} if action == LIST else {})
        (decision,) = [
            e for e in await scene.events(bot.tenant, "authz.decision") if e.event["decision"] == answer.decision
        ]
        return cls(scene, bot, decision)

    def parts(self) -> tuple[dict[str, Any], dict[str, Any]]:
        envelope: dict[str, Any] = msgspec.to_builtins(self.decision)
        envelope["event"]["at_ms"] = now_ms()
        request = envelope["event"]["request"]
        item = {
            "tenant": self.bot.tenant, "agent": self.bot.name, "agent_did": self.bot.key.did, "action": LIST,
            "resource": REPO, "connection": "github", "digest": bytes.fromhex(request["digest"]),
        }  # fmt: skip
        return item, envelope

    async def send(self, *changes: Change, user: str = "policy") -> list[dict[str, Any]]:
        items = []
        for change in changes:
            item, envelope = self.parts()
            change(item, envelope)
            items.append(MintItem(**item, decision=msgspec.Raw(msgspec.msgpack.encode(envelope))))
        reply = await self.scene.ask_raw(
            await self.scene.service(user), "svc.mint", msgspec.msgpack.encode(MintBatch(v=1, items=items))
        )
        assert reply["type"] == "mints", reply
        return list(reply["items"])


def as_it_is(_: dict[str, Any], __: dict[str, Any]) -> None:
    return


def rebound(item: dict[str, Any], envelope: dict[str, Any]) -> None:
    """Makes the digests agree with what was changed, so that only the change itself is wrong."""
    request = envelope["event"]["request"]
    digest = request_digest(request["action"], request["resource"], request["args"], request["connection"])
    request["digest"], item["digest"] = digest.hex(), digest


def both(name: str, value: str) -> Change:
    def change(item: dict[str, Any], envelope: dict[str, Any]) -> None:
        item[name] = envelope["event"]["request"][name] = value
        rebound(item, envelope)

    return change


def in_item(name: str, value: Any) -> Change:
    return lambda item, _: item.__setitem__(name, value)


def in_event(name: str, value: Any) -> Change:
    return lambda _, envelope: envelope["event"].__setitem__(name, value)


def in_request(name: str, value: Any) -> Change:
    return lambda _, envelope: envelope["event"]["request"].__setitem__(name, value)


def in_envelope(name: str, value: Any) -> Change:
    return lambda _, envelope: envelope.__setitem__(name, value)


FORGERIES: dict[str, tuple[Change, str]] = {
    "a denial": (in_event("outcome", "deny"), "not_fresh"),
    "a step-up": (in_event("outcome", "step_up"), "not_fresh"),
    "no outcome": (in_event("outcome", "ALLOW"), "not_fresh"),
    "another kind of event": (in_envelope("type", "request.refused"), "not_fresh"),
    "a decision of long ago": (lambda _, e: e["event"].__setitem__("at_ms", now_ms() - 2_500), "not_fresh"),
    "a decision of tomorrow": (lambda _, e: e["event"].__setitem__("at_ms", now_ms() + 2_500), "not_fresh"),
    "another action": (in_item("action", "github:repos.delete"), "not_fresh"),
    "an action that was not decided": (in_request("action", "github:issues.get"), "not_fresh"),
    "another resource": (in_item("resource", "github:repo/acme/other"), "not_fresh"),
    "another connection": (in_item("connection", "other"), "not_fresh"),
    "another digest": (in_item("digest", bytes(32)), "not_fresh"),
    "a short digest": (in_item("digest", b""), "not_fresh"),
    "other arguments": (in_request("args", {"state": "closed"}), "not_fresh"),
    "arguments of Cedar": (in_request("args", {"__extn": 1}), "reserved_key"),
    "another tenant in the record": (in_envelope("tenant", "other"), "not_fresh"),
    "another tenant in the request": (in_request("tenant", "other"), "not_fresh"),
    "an unknown tenant": (in_item("tenant", "nobody"), "unknown_tenant"),
    "another actor": (in_envelope("actor", {"kind": "agent", "id": "other"}), "not_fresh"),
    "an actor that is no agent": (lambda i, e: e["actor"].__setitem__("kind", "operator"), "not_fresh"),
    "an unknown agent": (in_item("agent", "nobody"), "unknown_agent"),
    "a key that identity does not know": (in_item("agent_did", SigningKey(os.urandom(32)).did), "malformed"),
    "a key that is none": (in_item("agent_did", "did:key:zzz"), "malformed"),
    "no request": (lambda _, e: e["event"].__delitem__("request"), "malformed"),
    "no time": (lambda _, e: e["event"].__delitem__("at_ms"), "malformed"),
    "a time as text": (in_event("at_ms", "now"), "malformed"),
    "no event": (in_envelope("event", []), "malformed"),
    "a decision that no record can hold": (in_event("note", "x" * 60_000), "limit_exceeded"),
}


async def test_only_the_genuine_allow_is_signed_among_all_its_forgeries(scene: Any) -> None:
    mold = await Mold.of(scene, await scene.agent(await scene.tenant()))
    before = len(await scene.events(mold.bot.tenant, "ucan.minted"))
    answers = await mold.send(as_it_is, *(change for change, _ in FORGERIES.values()), as_it_is)
    assert [answers[0]["type"], answers[-1]["type"]] == ["minted", "minted"]
    for (name, (_, code)), answer in zip(FORGERIES.items(), answers[1:-1], strict=True):
        assert (answer["type"], answer.get("code")) == ("error", code), name
    minted = await scene.events(mold.bot.tenant, "ucan.minted")
    assert len(minted) == before + 2


async def test_a_decision_for_one_agent_is_not_signed_for_another(scene: Any) -> None:
    tenant = await scene.tenant()
    bot, other, stranger = await scene.agent(tenant), await scene.agent(tenant), await scene.agent(await scene.tenant())
    mold = await Mold.of(scene, bot)
    to_other = {"agent": other.name, "agent_did": other.key.did}
    answers = await mold.send(
        lambda item, _: item.update(to_other),
        in_item("agent_did", other.key.did),
        lambda item, _: item.update(tenant=stranger.tenant, agent=stranger.name, agent_did=stranger.key.did),
        # The record and the request agree, but the record is of another tenant than the one that will hold it.
        lambda item, e: (item.update(tenant=stranger.tenant), e["event"]["request"].update(tenant=stranger.tenant)),
    )
    assert [a["code"] for a in answers] == ["not_fresh", "malformed", "not_fresh", "unknown_agent"]


async def test_a_genuine_denial_or_step_up_is_not_signed(scene: Any) -> None:
    bot = await scene.agent(await scene.tenant())
    for action, outcome in (("github:labels.list", "deny"), ("github:repos.delete", "step_up")):
        mold = await Mold.of(scene, bot, action=action)
        assert mold.decision.event["outcome"] == outcome
        (answer,) = await mold.send(in_item("action", action))
        assert answer["code"] == "not_fresh"


async def test_nothing_is_signed_for_a_revoked_agent(scene: Any) -> None:
    bot = await scene.agent(await scene.tenant())
    mold = await Mold.of(scene, bot)
    await scene.operator.ask("identity", "key-revoke", bot.tenant, key=bot.credentials.user.public, why="test")

    async def revoked() -> bool:
        (answer,) = await mold.send(as_it_is)
        return bool(answer.get("code") == "revoked")

    await scene.until(revoked, "minting to know the revocation", 5)


async def test_a_batch_has_a_limit_and_may_be_empty(scene: Any) -> None:
    mold = await Mold.of(scene, await scene.agent(await scene.tenant()))
    assert await mold.send() == []
    item, envelope = mold.parts()
    one = MintItem(**item, decision=msgspec.Raw(msgspec.msgpack.encode(envelope)))
    reply = await scene.ask_raw(
        await scene.service("policy"), "svc.mint", msgspec.msgpack.encode(MintBatch(v=1, items=[one] * 257))
    )
    assert (reply["type"], reply["code"]) == ("error", "limit_exceeded")


@pytest.mark.parametrize("user", [s for s in SERVICES if s != "policy"])
async def test_no_other_services_credential_reaches_minting(scene: Any, user: str) -> None:
    assert not any(d.local == "svc.mint" for d in doors_into(user.upper()))
    client = await scene.service(user)
    key = scene.installation.local.installation.accounts["POLICY"]
    for subject in (
        "svc.mint",
        f"svc.mint.{key}",
        f"svc.mint.{scene.installation.local.installation.accounts['MINTING']}",
    ):
        assert not await scene.may_publish(client, subject), subject


async def test_no_agent_auditor_or_operator_reaches_minting(scene: Any) -> None:
    tenant = await scene.tenant(policy="", connection=False)
    bot, auditor = await scene.agent(tenant), await scene.auditor(tenant)
    key = scene.installation.local.installation.accounts["POLICY"]
    operator = await scene.raw_person(type("Op", (), {
        "credentials": scene.operator._connection.credentials, "name": scene.operator._connection.credentials.name,
    }))  # fmt: skip
    for client in (await scene.raw_person(bot), await scene.raw_person(auditor), operator):
        for subject in ("svc.mint", f"svc.mint.{key}", "req.mint.x", new_id("x")):
            assert not await scene.may_publish(client, subject), subject


async def test_a_delegation_stands_in_the_journal_with_its_decision_before_it_is_answered(scene: Any) -> None:
    bot = await scene.agent(await scene.tenant())
    allowed = await bot.agent.authorize(LIST, REPO)
    assert isinstance(allowed, Allowed)
    decision, minted = (await scene.events(bot.tenant))[-2:]
    assert (decision.type, minted.type) == ("authz.decision", "ucan.minted")
    assert minted.cause == decision.id
    assert minted.event["decision"] == allowed.decision == decision.event["decision"]
    services = {s for s, e in await scene.journal() if e.tenant == bot.tenant and e.type == "ucan.minted"}
    assert services == {"minting"}
