"""Bad input to every subject that anybody can reach: a typed error with a stable code, and a record of the refusal."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from nomos import errors, messages
from nomos.agent import Allowed
from nomos.creds import USER, Nkey
from nomos.ids import Did, new_id
from nomos.keys import SigningKey
from nomos.log.record import parse_record
from nomos.messages import Admin, Authorize, AwaitApproval, Failure, Invoke, PolicyRef, ReadAudit, now_ms
from nomos.request import command_of, request_digest
from nomos.ucan.cid import cid_of, format_cid
from nomos.ucan.delegation import parse_delegation
from nomos.ucan.grant import mint_grant, sign_request
from nomos.ucan.invocation import sign_invocation
from nomos_runtime.local import SECRETS, SERVICES
from nomos_runtime.sealing import Sealer
from nomos_runtime.topology.doors import DOORS, TENANTS
from nomos_runtime.topology.roles import AGENT_PAYLOAD_BYTES

LIST, REPO = "github:issues.list", "github:repo/acme/refused"
NESTED = b"\x91" * 100_000 + b"\xc0"
pack = msgspec.msgpack.encode


def fields(**more: Any) -> dict[str, Any]:
    return {"v": 1, "id": new_id("rq"), "deadline_ms": now_ms() + 10_000, **more}


#: Verb of the tenants' door -> a whole message. A door that is not here fails the test of completeness.
TENANT_DOORS: dict[str, Callable[[], dict[str, Any]]] = {
    "authorize": lambda: fields(action=LIST, resource=REPO),
    "invoke": lambda: fields(invocation=b"x", proofs=[b"y"]),
    "read.*": lambda: fields(answer=new_id("an"), seq=1),
    "upload.*": lambda: fields(upload=new_id("up"), seq=1, data=b"x"),
    "revoke": lambda: fields(chain=[b"x"]),
    "stepup": lambda: fields(approval=new_id("ap")),
    "audit": fields,
}
#: Subject between services -> who may ask, and a whole message.
SERVICE_DOORS: dict[str, tuple[str, dict[str, Any]]] = {
    "svc.mint": ("policy", {"v": 1, "items": []}),
    "svc.sanitize": (
        "proxy",
        {"v": 1, "tenant": "acme", "content_type": "", "headers": [], "body": b"", "credentials": []},
    ),
    "svc.sanitize.open": ("proxy", {"v": 1, "tenant": "acme", "content_type": "", "headers": []}),
    "svc.sanitize.piece.*": ("proxy", {"v": 1, "body": "", "seq": 1}),
    "svc.stepup.open": (
        "policy",
        {
            "v": 1, "tenant": "acme", "agent": "bot", "agent_did": "", "app": "", "request": "", "action": "",
            "risk": "read", "resource": "", "connection": "", "args": {}, "digest": b"", "decision": "", "revision": 1,
            "policy_set": "", "policies": [],
        },
    ),
    "svc.stepup.consume": (
        "policy",
        {
            "v": 1, "tenant": "acme", "agent": "bot", "approval": "", "connection": "", "digest": b"", "request": "",
        },
    ),
    "svc.stepup.redeem": ("policy", {"v": 1, "code": "", "verifier": ""}),
    "svc.stepup.session": ("policy", {"v": 1, "session": "", "secret": "", "end": False}),
}  # fmt: skip
FEEDS = {"svc.feed.identity": "policy", "svc.feed.minting": "proxy", "svc.feed.stepup": "policy"}
#: The journal has no one who answers: what is no batch becomes a record of its own in the log.
JOURNAL = "intake.batch"


def test_every_door_of_the_topology_has_a_case() -> None:
    tenants = {f"req.{verb}.*" for verb in TENANT_DOORS}
    services = {*SERVICE_DOORS, *FEEDS, JOURNAL}
    operators = {f"admin.{service}.>" for service in SERVICES}
    doors = {d.local for d in DOORS if d.kind == "service"}
    assert doors == tenants | services | operators
    assert {d.local for d in DOORS if TENANTS in d.importers} == tenants


def at_replica(scene: Any, door: str) -> str:
    """The door's subject, where a ``*`` stands for one process."""
    services = scene.installation.services
    replica = services["sanitizer"].replica if door.startswith("svc.sanitize") else services["proxy"]._answers.replica
    return door.replace("*", replica)


def garbage(valid: dict[str, Any]) -> dict[str, bytes]:
    """Payloads that are no message of this type, whatever the type."""
    packed = pack(valid)
    first = next(k for k, v in valid.items() if isinstance(v, str | list | bytes))
    return {
        "nothing": b"",
        "not msgpack": b"\xc1\xff\x00",
        "a list": pack([1, 2]),
        "a number": pack(7),
        "nested too deep": NESTED,
        "cut short": packed[:-1],
        "something behind it": packed + b"\xc0",
        "a field of another type": pack({**valid, first: 1.5}),
        "an unknown field": pack({**valid, "surprise": 1}),
        "a missing field": pack({k: v for k, v in valid.items() if k != "v"}),
        "a lone surrogate": pack({**valid, "v": "@@@"}).replace(b"@@@", b"\xed\xa0\x80"),
        "a key twice with another type": pack({**valid})[:1] + pack("v") + pack("x") + packed[3:],
    }


def stale(valid: dict[str, Any]) -> dict[str, tuple[bytes, str]]:
    """Messages whose header is wrong, and the code of the refusal."""
    return {
        "an unknown version": (pack({**valid, "v": 2}), "malformed"),
        "an id of another kind": (pack({**valid, "id": new_id("ap")}), "malformed"),
        "an id with NUL": (pack({**valid, "id": "rq_\0" + "0" * 31}), "malformed"),
        "a deadline that is over": (pack({**valid, "deadline_ms": now_ms() - 1}), "expired"),
        "a deadline too far": (pack({**valid, "deadline_ms": now_ms() + 130_000}), "limit_exceeded"),
        "a negative deadline": (pack({**valid, "deadline_ms": -1}), "expired"),
        "a deadline beyond 64 bits": (pack({**valid, "deadline_ms": 2**64 - 1}), "limit_exceeded"),
    }


@pytest.mark.parametrize("verb", TENANT_DOORS)
async def test_a_tenants_subject_refuses_what_is_no_message_and_records_it(scene: Any, verb: str) -> None:
    tenant = await scene.tenant(policy="", connection=False)
    person = await (scene.auditor(tenant) if verb == "audit" else scene.agent(tenant))
    client, subject = await scene.raw_person(person), f"req.{at_replica(scene, verb)}.{person.name}"
    expected = []
    cases = {name: (payload, "malformed") for name, payload in garbage(TENANT_DOORS[verb]()).items()}
    for name, (payload, code) in (cases | stale(TENANT_DOORS[verb]())).items():
        reply = await scene.ask_raw(client, subject, payload)
        assert (reply["type"], reply["code"]) == ("error", code), name
        assert len(reply["detail"]) < 300
        expected.append((verb.removesuffix(".*"), code))
    assert await scene.refusals(tenant) == expected
    assert {e.actor.id for e in await scene.events(tenant, "request.refused")} == {person.name}


@pytest.mark.parametrize("subject", SERVICE_DOORS)
async def test_a_services_subject_refuses_what_is_no_message_and_records_it(scene: Any, subject: str) -> None:
    asker, valid = SERVICE_DOORS[subject]
    subject = at_replica(scene, subject)
    client = await scene.service(asker)
    cases = {name: (payload, "malformed") for name, payload in garbage(valid).items()}
    cases["over the limit"] = (pack("x" * 950_000), "limit_exceeded")
    expected = []
    for name, (payload, code) in cases.items():
        reply = await scene.ask_raw(client, subject, payload)
        assert (reply["type"], reply["code"]) == ("error", code), name
        expected.append((f"{subject}.*", code))
    recorded = await scene.refusals("_sys")
    assert [one for one in recorded if one[0] == f"{subject}.*"] == expected


@pytest.mark.parametrize("subject", FEEDS)
async def test_a_feed_refuses_what_is_no_message(scene: Any, subject: str) -> None:
    client = await scene.service(FEEDS[subject])
    for name, payload in garbage({"v": 1, "since": 0, "": ""}).items():
        reply = await scene.ask_raw(client, subject, payload)
        assert (reply["type"], reply["code"]) == ("error", "malformed"), name
    reply = await scene.ask_raw(client, subject, pack({"v": 1, "since": -1}))
    assert reply["code"] == "malformed"


@pytest.mark.parametrize("service", SERVICES)
async def test_an_admin_subject_refuses_what_is_no_command_and_records_it(scene: Any, service: str) -> None:
    # The sanitizer keeps nothing of a tenant and knows none.
    tenant = "_" if service == "sanitizer" else await scene.tenant(policy="", connection=False)
    operator = scene.operator._connection
    subject, valid = f"admin.{service}.{tenant}.zzz.{operator.credentials.name}", fields(params={})
    cases = {name: (payload, "malformed") for name, payload in garbage(valid).items()} | stale(valid)
    cases["a verb that is none"] = (pack(valid), "not_permitted")
    for name, (payload, code) in cases.items():
        reply = await scene.ask_raw(operator._client, subject, payload)
        assert (reply["type"], reply["code"]) == ("error", code), name
    expected = [("zzz", code) for _, code in cases.values()]
    assert await scene.refusals("_sys" if tenant == "_" else tenant) == expected
    with pytest.raises(errors.UnknownTenant):
        await scene.operator.ask(service, "ready", "nobody")


async def test_a_journal_message_that_is_no_batch_becomes_a_record(scene: Any) -> None:
    client, database = await scene.service("policy"), await scene.admin_database()
    count = "SELECT count(*) FROM audit.audit_events WHERE tenant = '_sys' AND type = 'audit.poison'"
    before = await database.fetchval(count)
    for payload in (b"\xc1", NESTED, pack({"v": 1, "p": "policy-x", "n": 0, "e": [b"\xff"]})):
        await client.request(JOURNAL, payload, timeout=5)

    async def recorded() -> bool:
        return bool(await database.fetchval(count) >= before + 2)

    await scene.until(recorded, "records of what was no batch")


@pytest.mark.parametrize("verb", ["authorize", "invoke", "stepup"])
async def test_an_agent_that_sends_too_much_loses_its_own_connection_and_nobody_elses(scene: Any, verb: str) -> None:
    tenant = await scene.tenant()
    bot, neighbour = await scene.agent(tenant), await scene.agent(tenant)
    client = await scene.raw_person(bot)
    await client.publish(f"req.{verb}.{bot.name}", b"x" * (AGENT_PAYLOAD_BYTES + 1))
    await scene.until(lambda: client.is_closed or not client.is_connected, "the server to end the connection")
    assert isinstance(await neighbour.agent.authorize(LIST, REPO), Allowed)


BAD_ARGUMENTS: dict[str, tuple[dict[str, Any], str]] = {
    "NUL": ({"a": "x\0y"}, "malformed"),
    "NUL in a key": ({"x\0y": 1}, "malformed"),
    "a float": ({"a": 1.5}, "malformed"),
    "bytes": ({"a": b"x"}, "malformed"),
    "an integer beyond 53 bits": ({"a": 2**53}, "malformed"),
    "an extension of Cedar": ({"a": [{"__extn": {"fn": "ip", "arg": "::1"}}]}, "reserved_key"),
    "an entity of Cedar": ({"__entity": {"type": "App", "id": "x"}}, "reserved_key"),
    "a key of the server": ({"a": {"cosigned": True}}, "reserved_key"),
    "too many bytes": ({"a": "x" * 66_000}, "limit_exceeded"),
    "a key that no record holds": ({"a key": 1}, "malformed_record"),
    "deeper than a record": ({"a": [[[[[[[[[[[[[1]]]]]]]]]]]]]}, "limit_exceeded"),
    "too deep": ({"a": [[[[[[[[[[[[[[[[[1]]]]]]]]]]]]]]]]]}, "limit_exceeded"),
}


@pytest.mark.parametrize("place", ["args", "claims"])
async def test_agents_data_that_no_request_may_hold_is_refused_and_recorded(scene: Any, place: str) -> None:
    bot = await scene.agent(await scene.tenant(connection=False))
    for name, (data, code) in BAD_ARGUMENTS.items():
        reply = await scene.ask(bot, "authorize", scene.command(Authorize, action=LIST, resource=REPO, **{place: data}))
        assert isinstance(reply, Failure), name
        assert reply.code == code, name
    assert await scene.refusals(bot.tenant) == [("authorize", code) for _, code in BAD_ARGUMENTS.values()]
    assert await scene.events(bot.tenant, "authz.decision") == []


async def test_a_request_for_what_does_not_exist_is_refused_and_recorded(scene: Any) -> None:
    bot = await scene.agent(await scene.tenant(connection=False))
    cases = {
        ("github:issues.nothing", REPO, ""): "unknown_action",
        ("evil:issues.list", REPO, ""): "unknown_action",
        ("", REPO, ""): "unknown_action",
        (LIST, "github:repo/acme", ""): "unknown_resource",
        (LIST, "github:repo/acme/..", ""): "unknown_resource",
        (LIST, "github:repo/acme/a\0b", ""): "unknown_resource",
        (LIST, "", ""): "unknown_resource",
        (LIST, REPO, "Not A Slug"): "malformed",
        (LIST, REPO, "a" * 5_000): "malformed",
    }
    for (action, resource, connection), code in cases.items():
        command = scene.command(Authorize, action=action, resource=resource, connection=connection)
        reply = await scene.ask(bot, "authorize", command)
        assert isinstance(reply, Failure)
        assert reply.code == code, (action, resource, connection)
    assert [code for _, code in await scene.refusals(bot.tenant)] == list(cases.values())


@pytest.mark.parametrize("action", [LIST, "github:labels.list", "github:repos.delete"])
@pytest.mark.parametrize("text", ["x" * 58_000, "\x01" * 10_000])
async def test_a_decision_that_the_log_cannot_hold_is_not_made_whatever_it_would_be(
    scene: Any, action: str, text: str
) -> None:
    bot, neighbour = await scene.agent(await scene.tenant()), await scene.agent(await scene.tenant())

    async def ask(person: Any, action: str, claims: dict[str, Any]) -> Any:
        command = scene.command(Authorize, action=action, resource=REPO, claims=claims)
        return await scene.ask(person, "authorize", command)

    replies = await asyncio.gather(
        *(ask(*one) for _ in range(3) for one in ((bot, action, {"note": text}), (neighbour, LIST, {})))
    )
    assert all(isinstance(r, messages.Allowed) for r in replies[1::2]), replies[1::2]
    assert {r.code for r in replies[0::2]} == {"limit_exceeded"}
    assert await scene.refusals(bot.tenant) == [("authorize", "limit_exceeded")] * 3
    assert await scene.refusals(neighbour.tenant) == []


async def test_large_requests_at_once_cost_the_neighbour_nothing(scene: Any) -> None:
    bot, neighbour = await scene.agent(await scene.tenant()), await scene.agent(await scene.tenant())

    async def ask(person: Any, claims: dict[str, Any]) -> Any:
        command = scene.command(Authorize, action=LIST, resource=REPO, claims=claims)
        return await scene.ask(person, "authorize", command)

    replies = await asyncio.gather(
        *(ask(one, claims) for _ in range(40) for one, claims in ((bot, {"note": "x" * 45_000}), (neighbour, {})))
    )
    assert all(isinstance(r, messages.Allowed) for r in replies), {getattr(r, "code", "") for r in replies}


# --- invocations ---------------------------------------------------------------------------------------------------


class Holder:
    """An agent with a delegation for one request, and ways to misuse it."""

    def __init__(self, scene: Any, bot: Any, allowed: Allowed, args: dict[str, Any]) -> None:
        self.scene, self.bot, self.allowed, self.args = scene, bot, allowed, args
        self.subject = str(parse_delegation(allowed.delegation).subject)

    def signed(self, **more: Any) -> bytes:
        given = {
            "subject": Did(self.subject), "action": LIST, "resource": REPO, "args": self.args,
            "proofs": [self.allowed.delegation], "now": int(time.time()), "ttl_seconds": 30, "nonce": os.urandom(12),
            "connection": "github",
        } | more  # fmt: skip
        return sign_request(given.pop("key", self.bot.key), **given)

    def forged(self, **changed: Any) -> bytes:
        """Signed by the right key, with arguments that need not agree with each other."""
        arguments = {
            "resource": REPO, "connection": "github", "args": self.args,
            "digest": request_digest(LIST, REPO, self.args, "github"),
        } | changed  # fmt: skip
        return sign_invocation(
            self.bot.key, subject=Did(self.subject), command=command_of(LIST), arguments=arguments,
            proofs=[cid_of(self.allowed.delegation)], expires_at=int(time.time()) + 30, nonce=os.urandom(12),
        )  # fmt: skip

    async def send(self, invocation: bytes, proofs: list[bytes] | None = None, person: Any = None) -> Any:
        command = self.scene.command(
            Invoke, invocation=invocation, proofs=[self.allowed.delegation] if proofs is None else proofs
        )
        return await self.scene.ask(person or self.bot, "invoke", command)


@pytest.fixture
async def holder(scene: Any) -> Holder:
    tenant = await scene.tenant()
    bot, args = await scene.agent(tenant), {"state": "open"}
    allowed = await bot.agent.authorize(LIST, REPO, args)
    assert isinstance(allowed, Allowed)
    return Holder(scene, bot, allowed, args)


async def refused(holder: Holder, reply: Any, *codes: str) -> None:
    """The reply is this refusal, it is in the log, and nothing was sent upstream."""
    assert isinstance(reply, Failure), reply
    assert reply.code in codes
    assert (await holder.scene.refusals(holder.bot.tenant))[-1:] == [("invoke", reply.code)]
    assert await holder.scene.events(holder.bot.tenant, "proxy.attempted") == []
    assert not any(s.path.startswith("/repos/acme/refused/") for s in holder.scene.upstream.seen)


async def test_an_invocation_is_used_once(holder: Holder) -> None:
    invocation = holder.signed(resource=REPO)
    assert isinstance(await holder.send(invocation), messages.Returned)
    again = await holder.send(invocation)
    assert (again.code, await holder.scene.refusals(holder.bot.tenant)) == ("replayed", [("invoke", "replayed")])
    assert len(await holder.scene.events(holder.bot.tenant, "proxy.attempted")) == 1
    holder.scene.upstream.seen.clear()


async def test_a_permission_that_another_proxy_used_a_moment_ago_is_refused_before_an_attempt(holder: Holder) -> None:
    invocation = holder.signed(resource=REPO)
    other = await holder.scene.service("proxy")
    mark = await other.request(f"nonce.{format_cid(cid_of(invocation))}", b"", timeout=5, headers={"Nats-TTL": "180s"})
    assert b"error" not in mark.data
    await refused(holder, await holder.send(invocation), "replayed")


async def test_another_agents_invocation_is_refused(holder: Holder) -> None:
    other = await holder.scene.agent(holder.bot.tenant)
    await refused(holder, await holder.send(holder.signed(), person=other), "not_covered")


async def test_a_delegation_to_another_agent_is_refused(holder: Holder) -> None:
    other = await holder.scene.agent(holder.bot.tenant)
    await refused(holder, await holder.send(holder.signed(key=other.key), person=other), "audience_mismatch")


async def test_an_invocation_signed_by_another_key_is_refused(holder: Holder) -> None:
    await refused(holder, await holder.send(holder.signed(key=SigningKey(os.urandom(32)))), "audience_mismatch")


async def test_an_invocation_with_other_arguments_is_refused(holder: Holder) -> None:
    await refused(holder, await holder.send(holder.signed(args={"state": "closed"})), "policy_not_met")


async def test_an_invocation_for_another_resource_is_refused(holder: Holder) -> None:
    await refused(holder, await holder.send(holder.signed(resource="github:repo/acme/other")), "policy_not_met")


async def test_an_invocation_of_another_action_is_refused(holder: Holder) -> None:
    reply = await holder.send(holder.signed(action="github:repos.delete", args={}))
    await refused(holder, reply, "command_not_covered")


async def test_an_invocation_for_another_connection_is_refused(holder: Holder) -> None:
    await holder.scene.add_connection(holder.bot.tenant, "second")
    await refused(holder, await holder.send(holder.signed(connection="second")), "policy_not_met")
    await refused(holder, await holder.send(holder.forged(connection="second")), "binding_mismatch")


async def test_arguments_that_the_digest_does_not_stand_for_are_refused(holder: Holder) -> None:
    await refused(holder, await holder.send(holder.forged(args={"state": "closed"})), "binding_mismatch")


async def test_a_digest_of_something_else_is_refused(holder: Holder) -> None:
    await refused(holder, await holder.send(holder.forged(digest=bytes(32))), "policy_not_met")
    await refused(holder, await holder.send(holder.forged(digest=b"short")), "malformed_token", "policy_not_met")


async def test_an_altered_token_is_refused(holder: Holder) -> None:
    invocation = bytearray(holder.signed())
    invocation[10] ^= 1
    await refused(holder, await holder.send(bytes(invocation)), "bad_signature", "malformed_token")
    delegation = bytearray(holder.allowed.delegation)
    delegation[10] ^= 1
    altered = bytes(delegation)
    reply = await holder.send(holder.signed(proofs=[altered]), [altered])
    await refused(holder, reply, "bad_signature", "malformed_token")


async def test_an_invocation_without_its_proof_or_with_too_many_is_refused(holder: Holder) -> None:
    await refused(holder, await holder.send(holder.signed(), []), "proof_missing")
    await refused(holder, await holder.send(holder.signed(), [holder.allowed.delegation] * 200), "proof_missing")
    await refused(holder, await holder.send(os.urandom(500)), "malformed_token")
    await refused(holder, await holder.send(b""), "malformed_token")


async def test_a_self_made_delegation_is_refused(holder: Holder) -> None:
    key = SigningKey(os.urandom(32))
    now = int(time.time())
    fake = mint_grant(
        key, agent=holder.bot.key.did, command=command_of(LIST), resource=REPO, now=now, ttl_seconds=30,
        digest=request_digest(LIST, REPO, holder.args, "github"), nonce=os.urandom(12),
    )  # fmt: skip
    reply = await holder.send(holder.signed(subject=key.did, proofs=[fake]), [fake])
    await refused(holder, reply, "unrooted", "subject_mismatch")


async def test_an_expired_delegation_is_refused_although_the_tenants_own_key_signed_it(holder: Holder) -> None:
    key, now = await issuing_key(holder.scene, holder.bot.tenant), int(time.time())
    assert key.did == holder.subject
    for at, code in ((now - 90, "expired"), (now, "")):
        grant = mint_grant(
            key, agent=holder.bot.key.did, command=command_of(LIST), resource=REPO, now=at, ttl_seconds=60,
            digest=request_digest(LIST, REPO, holder.args, "github"), nonce=os.urandom(12),
        )  # fmt: skip
        reply = await holder.send(holder.signed(proofs=[grant]), [grant])
        if code:
            await refused(holder, reply, code)
        else:
            # So it was the time, and nothing else.
            assert isinstance(reply, messages.Returned)
    holder.scene.upstream.seen.clear()


async def issuing_key(scene: Any, tenant: str) -> SigningKey:
    """What a thief of minting's database and environment key would hold."""
    database = await scene.database("minting")
    async with database.transaction():
        await database.execute("SELECT set_config('nomos.tenant', $1, true)", tenant)
        record = await database.fetchval("SELECT record FROM sealed WHERE tenant = $1", tenant)
    (secret,) = SECRETS["minting"]
    text = (scene.installation.local.directory / "secrets" / secret).read_text()
    return SigningKey(Sealer.from_text(text).open(record, purpose="issuing-key-v1", tenant=tenant, name="issuing-key"))


async def test_a_connection_that_is_not_there_is_refused_before_anything_is_sent(scene: Any) -> None:
    bot = await scene.agent(await scene.tenant(connection=False))
    with pytest.raises(errors.NotFound):
        await bot.agent.call(LIST, REPO)
    assert await scene.refusals(bot.tenant) == [("invoke", "not_found")]


# --- approvals, operators ---------------------------------------------------------------------------------------


async def test_an_approval_that_is_not_the_agents_is_not_found(scene: Any) -> None:
    tenant = await scene.tenant(connection=False)
    bot, other = await scene.agent(tenant), await scene.agent(tenant)
    wait = await bot.agent.authorize("github:repos.delete", REPO)
    for approval, code in ((wait.approval, "not_found"), (new_id("ap"), "not_found"), ("../x", "malformed")):
        for wait_ms in (0, -5):
            reply = await scene.ask(other, "stepup", scene.command(AwaitApproval, approval=approval, wait_ms=wait_ms))
            assert reply.code == code
    assert [code for _, code in await scene.refusals(tenant)] == ["not_found"] * 4 + ["malformed"] * 2


async def test_a_negative_or_huge_page_of_the_log_is_cut(scene: Any) -> None:
    auditor = await scene.auditor(await scene.tenant(policy="", connection=False))
    for first, limit in ((-5, -1), (0, 10**9), (2**62, 5)):
        reply = await scene.ask(auditor, "audit", scene.command(ReadAudit, from_tseq=first, limit=limit))
        assert isinstance(reply, messages.AuditRecords)
    reply = await scene.ask(auditor, "audit", scene.command(ReadAudit, from_tseq=2**63))
    assert isinstance(reply, Failure | messages.AuditRecords)
    assert getattr(reply, "code", "") != "internal"


async def test_policy_text_that_is_no_policy_is_refused_and_recorded(scene: Any) -> None:
    tenant = await scene.tenant(policy="", connection=False)
    texts = {
        "permit (": "malformed_policy",
        '@id("x") permit (principal, action, resource) when { context.nothing };': "malformed_policy",
        "(" * 5_000: "limit_exceeded",
        "\0": "malformed_policy",
        '@id("x") permit (principal, action, resource) when { context.env == "'
        + "x" * 20_000
        + '" };': "limit_exceeded",
    }
    for text, code in texts.items():
        with pytest.raises(errors.NomosError) as failed:
            await scene.operator.ask("policy", "put", tenant, text=text, why="test")
        assert failed.value.code == code
    assert [c for _, c in await scene.refusals(tenant)] == list(texts.values())


async def test_names_and_keys_that_are_none_are_refused(scene: Any) -> None:
    tenant = await scene.tenant(policy="", connection=False)
    good = Nkey.new(USER).public
    did = SigningKey(os.urandom(32)).did
    cases: list[tuple[str, dict[str, Any]]] = [
        ("app-create", {"name": "Not A Slug"}),
        ("app-create", {"name": "x\0"}),
        ("app-create", {"name": "ok", "env": "prod"}),
        ("app-create", {"name": 7}),
        ("app-create", {"name": "ok", "more": 1}),
        ("app-create", {}),
        ("agent-create", {"app": "triage", "name": "a.b", "key": good, "did": did}),
        ("agent-create", {"app": "triage", "name": "ok", "key": "U" * 56, "did": did}),
        ("agent-create", {"app": "triage", "name": "ok", "key": good, "did": "did:key:z6Mk"}),
        ("agent-create", {"app": "../x", "name": "ok", "key": good, "did": did}),
        ("auditor-create", {"name": "ok", "key": "A" + good[1:]}),
    ]
    for verb, params in cases:
        with pytest.raises(errors.Malformed):
            await scene.operator.ask("identity", verb, tenant, **params)
    assert await scene.refusals(tenant) == [(verb, "malformed") for verb, _ in cases]


async def test_a_verb_of_the_installation_takes_no_tenant_and_a_tenants_verb_takes_one(scene: Any) -> None:
    tenant = await scene.tenant(policy="", connection=False)
    for service, verb, params in (
        ("identity", "tenant-create", {"name": "sneaky"}),
        ("identity", "tenant-list", {}),
        ("stepup", "approval-find", {"approval": new_id("ap")}),
    ):
        with pytest.raises(errors.NotPermitted):
            await scene.operator.ask(service, verb, tenant, **params)
    for service, verb, params in (
        ("identity", "app-create", {"name": "nobodys"}),
        ("identity", "key-list", {}),
        ("policy", "put", {"text": "", "why": ""}),
        ("policy", "list", {}),
        ("stepup", "approver-add", {"name": "nobody"}),
    ):
        with pytest.raises(errors.NotPermitted):
            await scene.operator.ask(service, verb, "_", **params)
    assert [e for _, e in await scene.journal() if e.tenant == "_"] == []


def test_an_admin_command_is_what_the_operators_client_sends() -> None:
    assert set(msgspec.structs.asdict(Admin(**fields()))) == {*fields(), "params"}
    assert PolicyRef(id="x").description == ""


async def test_a_receipt_that_is_asked_for_badly_is_refused(scene: Any) -> None:
    tenant = await scene.tenant(policy="", connection=False)
    for params, refused in (
        ({}, errors.Malformed),
        ({"tseq": 0, "event": new_id("ev")}, errors.Malformed),
        ({"event": "no-id"}, errors.Malformed),
        ({"event": new_id("ev")}, errors.NotFound),
        ({"tseq": -1}, errors.NotFound),
        ({"tseq": 2**53 - 1}, errors.NotFound),
    ):
        with pytest.raises(refused):
            await scene.operator.ask("audit", "receipt", tenant, **params)
    # The installation's are the log's own, and no tenant's.
    own: dict[str, Any] = await scene.operator.ask("audit", "receipt", "_", tseq=0)
    assert parse_record(own["record"].encode()).tenant == "_sys"
    with pytest.raises(errors.NotFound):
        await scene.operator.ask("audit", "receipt", "_", event=(await scene.events(tenant))[0].id)


async def test_one_tenant_cannot_hold_all_exports_open(scene: Any) -> None:
    tenant, other = await scene.tenant(), await scene.tenant()
    await scene.agent(other)
    opened = [await scene.operator.ask("audit", "export-open", tenant) for _ in range(2)]
    with pytest.raises(errors.NomosError, match="TENANT_EXPORTS_MAX"):
        await scene.operator.ask("audit", "export-open", tenant)
    opened_other = await scene.operator.ask("audit", "export-open", other)
    await scene.operator.ask("audit", "export-close", other, export=opened_other["export"])
    for one in opened:
        await scene.operator.ask("audit", "export-close", tenant, export=one["export"])
