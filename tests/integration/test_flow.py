"""The main job over real servers: ask, get a delegation for exactly one request, use it once, get a cleaned answer."""

from __future__ import annotations

import asyncio
import base64
import secrets
from pathlib import Path
from typing import Any

import msgspec
import pytest

from nomos.agent import Allowed, Denied, StepUpRequired
from nomos.bearer import seal_bearer
from nomos.errors import NomosError, Replayed
from nomos.messages import AuditRecords, ReadAudit
from nomos_runtime.embedded.upstream import EmbeddedUpstream
from nomos_runtime.embedded.upstream_state import Planted

GET, LIST, DELETE = "github:issues.get", "github:issues.list", "github:repos.delete"
BODIES = Path(__file__).parents[1] / "fixtures" / "github"


async def test_an_allowed_call_returns_the_cleaned_body_and_says_what_was_removed(scene: Any) -> None:
    tenant = await scene.tenant()
    bot = await scene.agent(tenant)
    done = await bot.agent.call(GET, "github:repo/acme/clean", {"issue_number": 13})
    assert isinstance(done, Allowed)
    assert done.status == 200
    assert isinstance(done.json(), dict)
    assert scene.SECRET.encode() not in done.body
    assert not any(0xE0000 <= ord(c) <= 0xE007F for c in done.body.decode())
    assert {str(r["kind"]) for r in done.removed} >= {"secret", "invisible"}
    assert [p.id for p in done.policies] == ["read-issues"]
    events = [e for e in await scene.events(tenant) if e.type.split(".")[0] in ("authz", "ucan", "proxy")][-4:]
    assert [e.type for e in events] == ["authz.decision", "ucan.minted", "proxy.attempted", "proxy.finished"]
    assert (events[1].cause, events[1].corr) == (events[0].id, events[0].corr)
    assert events[3].cause == events[2].id
    assert events[3].event["outcome"] == "done"
    assert scene.upstream.count("GET", "/repos/acme/clean/issues/13") == 1


async def test_a_denied_call_names_its_policy_and_sentence_and_never_reaches_the_upstream(scene: Any) -> None:
    tenant = await scene.tenant()
    bot = await scene.agent(tenant)
    forbidden = await bot.agent.call("github:labels.list", "github:repo/acme/denied")
    assert isinstance(forbidden, Denied)
    assert [(p.id, p.description) for p in forbidden.policies] == [("no-labels", "labels are not for agents")]
    unnamed = await bot.agent.call("github:contents.get", "github:repo/acme/denied", {"path": "README.md"})
    assert isinstance(unnamed, Denied)
    assert (unnamed.policies, unnamed.reason) == ((), "no policy permits")
    assert not any(seen.path.startswith("/repos/acme/denied") for seen in scene.upstream.seen)
    decisions = {e.event["decision"]: e.event["outcome"] for e in await scene.events(tenant, "authz.decision")}
    assert decisions == {forbidden.decision: "deny", unnamed.decision: "deny"}


async def test_a_deletion_needs_a_passkey_and_runs_exactly_once(scene: Any) -> None:
    tenant = await scene.tenant()
    bot, (_, passkey) = await scene.agent(tenant), await scene.approver(tenant)
    repo = "github:repo/acme/doomed"
    wait = await bot.agent.authorize(DELETE, repo)
    assert isinstance(wait, StepUpRequired)
    assert scene.upstream.count("DELETE", "/repos/acme/doomed") == 0
    await scene.approve(tenant, wait.approval, passkey)
    cosigner = await bot.agent.wait_for(wait, 5)

    async def ask() -> Any:
        try:
            return await bot.agent.authorize(DELETE, repo, cosigner=cosigner)
        except NomosError as e:
            return e.code

    answers = await asyncio.gather(*(ask() for _ in range(5)))
    (allowed,) = [a for a in answers if isinstance(a, Allowed)]
    assert {a for a in answers if isinstance(a, str)} == {"replayed"}

    async def run() -> Any:
        try:
            return (await bot.agent.invoke(allowed, DELETE, repo, {})).status
        except NomosError as e:
            return e.code

    assert sorted(map(str, await asyncio.gather(*(run() for _ in range(5))))) == ["204", *["replayed"] * 4]
    assert scene.upstream.count("DELETE", "/repos/acme/doomed") == 1
    kinds = [e.type for e in await scene.events(tenant)]
    assert (kinds.count("stepup.consumed"), kinds.count("proxy.attempted")) == (1, 1)
    codes = [code for _, code in await scene.refusals(tenant)]
    assert codes == ["replayed"] * 8


async def test_an_approval_is_for_one_request_of_one_agent(scene: Any) -> None:
    tenant = await scene.tenant()
    bot, other = await scene.agent(tenant), await scene.agent(tenant)
    _, passkey = await scene.approver(tenant)
    wait = await bot.agent.authorize(DELETE, "github:repo/acme/one")
    await scene.approve(tenant, wait.approval, passkey)
    cosigner = await bot.agent.wait_for(wait, 5)
    for asker, repo in ((bot, "github:repo/acme/two"), (other, "github:repo/acme/one")):
        with pytest.raises(NomosError) as refused:
            await asker.agent.authorize(DELETE, repo, cosigner=cosigner)
        assert refused.value.code in ("policy_not_met", "audience_mismatch", "not_covered")
    # The attempts have spent nothing.
    assert isinstance(await bot.agent.authorize(DELETE, "github:repo/acme/one", cosigner=cosigner), Allowed)


async def test_a_write_runs_once_for_each_delegation(scene: Any) -> None:
    tenant = await scene.tenant()
    bot = await scene.agent(tenant)
    args = {"title": "once"}
    allowed = await bot.agent.authorize("github:issues.create", "github:repo/acme/once", args)
    assert (await bot.agent.invoke(allowed, "github:issues.create", "github:repo/acme/once", args)).status == 201
    with pytest.raises(Replayed):
        await bot.agent.invoke(allowed, "github:issues.create", "github:repo/acme/once", args)
    assert scene.upstream.count("POST", "/repos/acme/once/issues") == 1


async def test_the_bearer_is_nowhere_but_on_the_wire_to_the_upstream(
    scene: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    bearer = "gh" + "o_" + secrets.token_hex(20)
    upstream = await EmbeddedUpstream.start(bodies=BODIES, token=bearer, planted=Planted(echo_credential=True))
    try:
        tenant = await scene.tenant(connection=False)
        sealing = await scene.operator.ask("proxy", "sealing-key", tenant)
        made = await scene.operator.ask(
            "proxy",
            "connection-add",
            tenant,
            connector="github",
            name="github",
            base_url=upstream.origin,
            sealed_bearer=seal_bearer(str(sealing["public_key"]), bearer),
        )
        listed = await scene.operator.ask("proxy", "connection-list", tenant)
        bot = await scene.agent(tenant)
        done = await bot.agent.call(GET, "github:repo/acme/echo", {"issue_number": 13})
        assert upstream.count("GET", "/repos/acme/echo/issues/13") == 1
        with pytest.raises(NomosError) as refused:
            await scene.operator.ask(
                "proxy",
                "connection-add",
                tenant,
                connector="github",
                name="github",
                sealed_bearer=seal_bearer(str(sealing["public_key"]), bearer),
            )
    finally:
        await upstream.close()
    assert any(r["kind"] == "credential" for r in done.removed)
    journaled = [msgspec.json.encode(e) for e in await scene.events(tenant)]
    replies = [done.body, *map(repr, (made, listed, done, refused.value, refused.value.cause))]
    out, err = capfd.readouterr()
    haystacks = [*journaled, *(r if isinstance(r, bytes) else r.encode() for r in replies), out.encode(), err.encode()]
    spellings = [
        bearer.encode(), base64.b64encode(bearer.encode()).rstrip(b"="), bearer.encode().hex().encode(),
        base64.urlsafe_b64encode(b"x" + bearer.encode())[4:-8], bearer.encode("utf-16-le"),
    ]  # fmt: skip
    # The search itself: what did cross the bus and was stored is found in both places.
    assert {"wire", "1.blk"} <= set(scene.files_with(bot.name.encode()))
    for spelling in spellings:
        assert not any(spelling in haystack for haystack in haystacks)
        assert scene.files_with(spelling) == []


async def test_an_auditor_reads_the_decision_that_was_made(scene: Any) -> None:
    tenant = await scene.tenant()
    bot, auditor = await scene.agent(tenant), await scene.auditor(tenant)
    denied = await bot.agent.authorize("github:labels.list", "github:repo/acme/read")

    async def decided() -> list[dict[str, Any]]:
        reply = await scene.ask(auditor, "audit", scene.command(ReadAudit))
        assert isinstance(reply, AuditRecords)
        records = [msgspec.json.decode(r) for r in reply.records]
        return [r for r in records if r["type"] == "authz.decision"]

    (record,) = await scene.until(decided, "the decision in the log")
    assert record["event"]["decision"] == denied.decision
    assert (record["tenant"], record["actor"]) == (tenant, {"id": bot.name, "kind": "agent"})
    assert record["pc"]["svc"] == "policy"


@pytest.mark.parametrize(
    "headers", [b"NATS/1.0 \xff\xfe\xfd\r\n\r\n", b"NATS/1.0", b"NATS/1.0\r\n\xff\xff: \xfe\r\n\r\n"]
)
async def test_headers_that_nobody_can_read_hold_up_no_service(scene: Any, headers: bytes) -> None:
    tenant, neighbour = await scene.tenant(), await scene.agent(await scene.tenant())
    bot, auditor = await scene.agent(tenant), await scene.auditor(tenant)
    for person, verbs in ((bot, ("authorize", "invoke", "stepup")), (auditor, ("audit",))):
        client = await scene.raw_person(person)
        for verb in verbs:
            size = len(headers)
            head = f"HPUB req.{verb}.{person.name} _INBOX.{person.name}.x {size} {size}\r\n"
            client._transport.write(head.encode() + headers + b"\r\n")
        await client.flush()
        assert client.complaints == []
    # A service that lost its connection would answer only after its pings had failed.
    done = await neighbour.agent.call(LIST, "github:repo/acme/poison", timeout_ms=4_000)
    assert isinstance(done, Allowed)
