"""Two walls between tenants, each tested with the other one taken down: every subject, verb, table and stream there is.

What exists is asked of the code and of the servers, so a new one without a case fails here.
"""

from __future__ import annotations

import base64
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import asyncpg
import msgspec
import pytest
from nacl.public import PrivateKey

from nomos import messages
from nomos.agent import Allowed, StepUpRequired
from nomos.bearer import seal_bearer
from nomos.creds import USER, Nkey
from nomos.errors import NomosError, NotFound
from nomos.ids import Did
from nomos.keys import SigningKey
from nomos.log.record import parse_record
from nomos.messages import Authorize, AwaitApproval, Failure, Invoke, ReadAnswer, ReadAudit, Revoke, Taken, UploadPiece
from nomos.passkey import SoftwarePasskey
from nomos.policytext import piece_name
from nomos.ucan.cid import cid_of, format_cid
from nomos.ucan.delegation import parse_delegation
from nomos.ucan.grant import sign_request
from nomos.uploading import Upload
from nomos_proxy.openanswers import Held
from nomos_runtime.embedded.postgres import OWNERS
from nomos_runtime.topology.doors import DOORS, TENANTS
from nomos_runtime.topology.streams import STREAMS

LIST, DELETE = "github:issues.list", "github:repos.delete"
#: Tables without a column for the tenant, and why they hold nothing of one.
WITHOUT_TENANT = {
    "head": "one number",
    "migrations": "names of files",
    "audit_projection": "one position",
    "audit_checkpoints": "signed sizes and hashes",
    "audit_keys": "public keys of the log, and their proofs",
}
#: Names of A's things say so, so that any of them is found in an answer to B. What B itself sends does not.
MARK = "alphas"
LETTERS = str.maketrans("0123456789", "abcdefghij")


@dataclass
class Alpha:
    """Tenant A, with something in every service."""

    tenant: str
    bot: Any
    repo: str
    allowed: Allowed
    invocation: bytes
    cosigner: bytes
    approval: str
    pending: str
    approver: str
    export: str
    shadow: str
    piece: str
    #: An attempt to connect an account.
    flow: str
    #: One of its records: number in the log and event.
    seq: int
    event: str

    @property
    def marks(self) -> list[bytes]:
        did, key = self.bot.key.did, self.bot.credentials.user.public
        found = [MARK, self.tenant, did, key, self.allowed.decision]
        return [m.encode() for m in found] + [self.allowed.delegation, self.cosigner]


@dataclass
class World:
    scene: Any
    a: Alpha
    tenant: str
    bot: Any
    auditor: Any
    operator: Any
    passkey: Any


@pytest.fixture
async def world(scene: Any) -> AsyncIterator[World]:
    a = await alpha(scene)
    tenant = await scene.tenant()
    _, passkey = await scene.approver(tenant)
    yield World(
        scene=scene, a=a, tenant=tenant, bot=await scene.agent(tenant), auditor=await scene.auditor(tenant),
        operator=await scene.tenant_operator(tenant), passkey=passkey,
    )  # fmt: skip
    await scene.operator.ask("audit", "export-close", a.tenant, export=a.export)


async def alpha(scene: Any) -> Alpha:
    tenant = scene.name(f"{MARK}-").translate(LETTERS)
    ask = scene.operator.ask
    await ask("identity", "tenant-create", name=tenant)
    for app in ("triage", f"{MARK}-app"):
        await ask("identity", "app-create", tenant, name=app)
    await ask("policy", "put", tenant, text=scene.POLICY.replace("labels are not", f"{MARK} labels are not"), why=MARK)
    await scene.add_connection(tenant)
    await scene.add_connection(tenant, "only-of-a")
    await ask("proxy", "client-set", tenant, connector="github", client_id=f"{MARK}-client")
    bot = await scene.agent(tenant, f"{MARK}-bot")
    await scene.auditor(tenant)
    approver, passkey = await scene.approver(tenant)
    repo = "github:repo/shared/site"
    allowed = await bot.agent.authorize(LIST, repo)
    assert isinstance(allowed, Allowed)
    done = await bot.agent.wait_for(wait := await step_up(scene, bot, repo, passkey), 5)
    pending = await bot.agent.authorize(DELETE, repo)
    opened = await ask("audit", "export-open", tenant)
    hook = f"https://{MARK}.example.com/x"
    await ask("stepup", "notify-add", tenant, channel=f"{MARK}-hook", kind="webhook", to=hook, after=3_600)
    marked = f'@id("{MARK}") permit (principal, action, resource);'
    await ask("policy", "pieces", tenant, texts=[marked])
    await ask("policy", "draft-save", tenant, draft=f"{MARK}-draft", text=marked, why=MARK)
    link = await ask("proxy", "connection-connect", tenant, connector="github", name=f"{MARK}-account")
    # Last: what it compares would be another row of A.
    shadow = await ask("policy", "shadow-start", tenant, draft=f"{MARK}-draft", why=MARK)
    receipt = await scene.until(lambda: first_receipt(scene, tenant), "the log's first record of A")
    event = str(parse_record(str(receipt["record"]).encode()).id)
    return Alpha(
        tenant=tenant, bot=bot, repo=repo, allowed=allowed, invocation=signed(bot.key, allowed, repo), cosigner=done,
        approval=wait.approval, pending=pending.approval, approver=approver, export=str(opened["export"]),
        shadow=str(shadow["shadow"]), piece=piece_name(marked),
        flow=str(link["link"]).split(".")[-2],
        seq=int(receipt["seq"]), event=event,
    )  # fmt: skip


async def first_receipt(scene: Any, tenant: str) -> Any:
    """None while the log has not come so far."""
    try:
        return await scene.operator.ask("audit", "receipt", tenant, tseq=0)
    except NotFound:
        return None


async def step_up(scene: Any, bot: Any, repo: str, passkey: Any) -> StepUpRequired:
    wait = await bot.agent.authorize(DELETE, repo)
    assert isinstance(wait, StepUpRequired)
    await scene.approve(bot.tenant, wait.approval, passkey)
    return wait


def signed(key: SigningKey, allowed: Allowed, repo: str) -> bytes:
    return sign_request(
        key, subject=Did(str(parse_delegation(allowed.delegation).subject)), action=LIST, resource=repo, args={},
        proofs=[allowed.delegation], now=int(time.time()), ttl_seconds=50, nonce=os.urandom(12), connection="github",
    )  # fmt: skip


async def alphas_rows(world: World) -> dict[str, int]:
    """How many rows of A each table holds, seen by nobody's wall."""
    database = await world.scene.admin_database()
    return {
        f"{schema}.{table}": await database.fetchval(
            f"SELECT count(*) FROM {schema}.{table} WHERE tenant = $1", world.a.tenant
        )
        for schema, table in await tenant_tables(database)
        if schema != "audit"
    }


async def tenant_tables(database: asyncpg.Connection) -> list[tuple[str, str]]:
    rows = await database.fetch(
        "SELECT table_schema, table_name FROM information_schema.columns WHERE column_name = 'tenant' "
        "AND table_schema = ANY($1) ORDER BY 1, 2",
        list(OWNERS),
    )
    return [(r[0], r[1]) for r in rows]


# --- the bus ---------------------------------------------------------------------------------------------------

Send = Callable[[World], Awaitable[list[Any]]]


async def authorize_as_b(w: World) -> list[Any]:
    """With the cosigner of A's agent for A's request, and for the connection that only A has."""
    cosigned = await w.scene.ask(
        w.bot, "authorize", w.scene.command(Authorize, action=DELETE, resource=w.a.repo, cosigner=w.a.cosigner)
    )
    assert isinstance(cosigned, Failure)
    name, repo = "only-of-a", "github:repo/acme/site"
    allowed = await w.bot.agent.authorize(LIST, repo, connection=name)
    try:
        await w.bot.agent.invoke(allowed, LIST, repo, {}, connection=name)
    except NomosError as e:
        assert e.code == "not_found"
        return [cosigned, Failure(code=e.code, detail=e.detail, hint=e.hint)]
    raise AssertionError("B used a connection that only A has")


async def invoke_as_b(w: World) -> list[Any]:
    replies = [
        await w.scene.ask(w.bot, "invoke", w.scene.command(Invoke, invocation=stolen, proofs=[w.a.allowed.delegation]))
        for stolen in (w.a.invocation, signed(w.bot.key, w.a.allowed, w.a.repo))
    ]
    assert all(isinstance(r, Failure) for r in replies)
    return replies


async def read_as_b(w: World) -> list[Any]:
    """An answer of A that is being read, by its id, at the replica that has it; by its own name and in A's order."""
    answers = w.scene.installation.services["proxy"]._answers

    async def plant() -> Any:
        return answers.add(w.a.tenant, w.a.bot.name, Held(MARK.encode() * 1_000), lambda: None)

    rest = await w.scene.installation.run(plant())
    replies = [
        await w.scene.ask(
            w.bot, f"read.{rest.at}", w.scene.command(ReadAnswer, answer=rest.answer, seq=seq, leave=leave)
        )
        for seq in (0, 1, 2)
        for leave in (False, True)
    ]
    assert [r.code for r in replies] == ["not_found"] * 6
    mine = await w.scene.ask(w.a.bot, f"read.{rest.at}", w.scene.command(ReadAnswer, answer=rest.answer, seq=1))
    assert mine.body == MARK.encode() * 1_000
    return replies


async def upload_as_b(w: World) -> list[Any]:
    """A content that A's invocation waits for, by its id, at the replica that waits; in A's order."""
    uploads = w.scene.installation.services["proxy"]._uploads
    content = Upload(MARK.encode()).content
    command = w.scene.command(Invoke, invocation=b"", proofs=[])

    async def plant() -> Any:
        return uploads.open(w.a.tenant, w.a.bot.name, command, content)

    wanted = await w.scene.installation.run(plant())
    replies = [
        await w.scene.ask(
            w.bot, f"upload.{wanted.at}", w.scene.command(UploadPiece, upload=wanted.upload, seq=seq, data=b"x")
        )
        for seq in (0, 1, 2)
    ]
    assert [r.code for r in replies] == ["not_found"] * 3
    piece = w.scene.command(UploadPiece, upload=wanted.upload, seq=1, data=b"x")
    assert await w.scene.ask(w.a.bot, f"upload.{wanted.at}", piece) == Taken(seq=1)
    return replies


async def approvals_as_b(w: World) -> list[Any]:
    replies = [
        await w.scene.ask(w.bot, "stepup", w.scene.command(AwaitApproval, approval=one))
        for one in (w.a.approval, w.a.pending)
    ]
    assert [r.code for r in replies] == ["not_found"] * 2
    return replies


async def log_as_b(w: World) -> list[Any]:
    reply = await w.scene.ask(w.auditor, "audit", w.scene.command(ReadAudit, limit=10_000))
    assert isinstance(reply, messages.AuditRecords)
    assert {msgspec.json.decode(r)["tenant"] for r in reply.records} == {w.tenant}
    return [reply]


async def revoke_as_b(w: World) -> list[Any]:
    reply = await w.scene.ask(w.bot, "revoke", w.scene.command(Revoke, chain=[w.a.allowed.delegation]))
    assert isinstance(reply, Failure)
    assert reply.code == "unrooted"
    return [reply]


SUBJECTS: dict[str, Send] = {
    "req.authorize.*": authorize_as_b,
    "req.invoke.*": invoke_as_b,
    "req.read.*.*": read_as_b,
    "req.upload.*.*": upload_as_b,
    "req.revoke.*": revoke_as_b,
    "req.stepup.*": approvals_as_b,
    "req.audit.*": log_as_b,
}


def test_every_subject_of_a_tenant_has_a_case() -> None:
    assert set(SUBJECTS) == {d.local for d in DOORS if TENANTS in d.importers}


Params = Callable[[World], dict[str, Any] | Awaitable[dict[str, Any]]]


def nothing(_: World) -> dict[str, Any]:
    return {}


async def enrolment(w: World) -> dict[str, Any]:
    fresh = SoftwarePasskey.create(w.scene.directory / f"{w.scene.name('fresh')}.passkey")
    response = fresh.register(
        rp_id="localhost",
        origin=w.scene.installation.local.pages_origin,
        challenge=bytes(32),
        user_handle=b"x",
        user_name="x",
    )
    return {"name": w.a.approver, "challenge": "A" * 43, "response": response}


async def assertion(w: World) -> dict[str, Any]:
    """B's approver signs for A's request, with the very challenge that A's approvers see."""
    shown = await w.scene.operator.ask("stepup", "approval-show", w.a.tenant, approval=w.a.pending)
    text = str(shown["challenge"])
    challenge = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    response = w.passkey.assert_(rp_id="localhost", origin=w.scene.installation.local.pages_origin, challenge=challenge)
    return {"approval": w.a.pending, "response": response}


async def connection(w: World) -> dict[str, Any]:
    key = await w.operator.ask("proxy", "sealing-key", w.tenant)
    return {"connector": "github", "name": "mine", "sealed_bearer": seal_bearer(str(key["public_key"]), "x" * 20)}


async def replacement(w: World) -> dict[str, Any]:
    return {"name": "only-of-a", "sealed_bearer": (await connection(w))["sealed_bearer"]}


#: Services that know people, and the key of somebody who would read what they know.
PEOPLE = ("identity", "stepup")
READER = base64.urlsafe_b64encode(bytes(PrivateKey.generate().public_key)).decode()
#: Every verb, with parameters that aim at A's things.
VERBS: dict[tuple[str, str], Params] = {
    ("identity", "tenant-create"): lambda w: {"name": w.a.tenant},
    ("identity", "tenant-list"): nothing,
    ("identity", "tenant-close"): lambda w: {"name": w.a.tenant, "basis": "mine"},
    ("identity", "app-create"): lambda w: {"name": "mine"},
    ("identity", "agent-create"): lambda w: {
        "app": f"{MARK}-app", "name": "mine", "key": Nkey.new(USER).public, "did": SigningKey(os.urandom(32)).did,
    },
    ("identity", "auditor-create"): lambda w: {"name": "mine", "key": Nkey.new(USER).public},
    ("identity", "key-list"): nothing,
    ("identity", "key-revoke"): lambda w: {"key": w.a.bot.credentials.user.public},
    ("identity", "operator-name"): lambda w: {"name": "mine"},
    # A piece is named by its hash, whoever wrote it: it must not be anybody's.
    ("policy", "put"): lambda w: {"pieces": [w.a.piece], "why": "mine"},
    ("policy", "pieces"): lambda w: {"texts": [w.scene.POLICY]},
    ("policy", "rollback"): lambda w: {"to": 1, "why": "mine"},
    ("policy", "activate"): lambda w: {"draft": f"{MARK}-draft"},
    ("policy", "draft-save"): lambda w: {"draft": "mine", "text": w.scene.POLICY, "why": "mine"},
    ("policy", "draft-list"): nothing,
    ("policy", "list"): nothing,
    ("policy", "show"): nothing,
    ("policy", "history"): nothing,
    ("policy", "explain"): lambda w: {"agent": f"{MARK}-bot", "action": LIST, "resource": w.a.repo},
    ("policy", "shadow-start"): lambda w: {"draft": "mine", "why": "mine"},
    ("policy", "shadow-report"): lambda w: {"shadow": w.a.shadow},
    ("policy", "shadow-stop"): lambda w: {"why": "mine"},
    ("policy", "draft-discard"): lambda w: {"draft": f"{MARK}-draft", "why": "mine"},
    # Named in B's tenant, where it means nothing: A's permission is used below.
    ("minting", "revoke"): lambda w: {"cid": format_cid(cid_of(w.a.allowed.delegation))},
    # A's app has another name than any of B's; B's own tenant is B's to revoke.
    ("minting", "revoke-app"): lambda w: {"app": f"{MARK}-app"},
    ("minting", "revoke-tenant"): nothing,
    ("minting", "issuer-rotate"): nothing,
    ("minting", "issuer-list"): nothing,
    ("proxy", "sealing-key"): nothing,
    ("proxy", "connection-add"): connection,
    ("proxy", "connection-list"): nothing,
    ("proxy", "client-list"): nothing,
    ("proxy", "client-set"): lambda w: {"connector": "github", "client_id": "mine"},
    ("proxy", "shared-client-set"): lambda w: {"connector": "github", "client_id": "mine"},
    ("proxy", "shared-client-list"): nothing,
    ("proxy", "shared-client-withdraw"): lambda w: {"connector": "github"},
    ("proxy", "connection-connect"): lambda w: {"connector": "github", "name": "only-of-a"},
    # At a provider where B has no client: with one it would be asked, over the network.
    ("proxy", "connection-device"): lambda w: {"connector": "slack", "name": "only-of-a"},
    ("proxy", "connection-device-poll"): lambda w: {"flow": w.a.flow},
    ("proxy", "connection-replace"): replacement,
    ("proxy", "connection-show"): lambda w: {"name": "only-of-a"},
    ("proxy", "connection-renew"): lambda w: {"name": "only-of-a"},
    ("proxy", "connection-remove"): lambda w: {"name": "only-of-a"},
    ("proxy", "connection-federate"): lambda w: {
        "connector": "http", "name": "clouds", "host": "api.example.com", "federation": {
            "kind": "azure", "directory": "0" * 8 + "-0000" * 3 + "-" + "0" * 12, "scope": "https://x.example/.default",
            "client": "0" * 8 + "-0000" * 3 + "-" + "0" * 12,
        },
    },
    ("proxy", "key-progress"): nothing,
    ("proxy", "stages"): nothing,
    ("proxy", "pii-set"): lambda w: {"classes": ["card"]},
    ("proxy", "pii-show"): nothing,
    ("stepup", "approver-add"): lambda w: {"name": "mine"},
    ("stepup", "passkey-offer"): lambda w: {"name": w.a.approver},
    ("stepup", "passkey-enrol"): enrolment,
    ("stepup", "approver-sign-out"): lambda w: {"name": w.a.approver},
    ("stepup", "approver-groups"): lambda w: {"name": w.a.approver, "groups": ["mine"]},
    ("stepup", "approver-passkeys"): lambda w: {"name": w.a.approver},
    ("stepup", "approver-passkey-revoke"): lambda w: {"name": w.a.approver, "passkey": "0" * 32},
    ("stepup", "approver-list"): nothing,
    ("stepup", "notify-add"): lambda w: {"channel": "mine", "kind": "webhook", "to": "https://hooks.example.com/x"},
    ("stepup", "notify-list"): nothing,
    ("stepup", "notify-test"): lambda w: {"channel": f"{MARK}-hook"},
    ("stepup", "notify-remove"): lambda w: {"channel": f"{MARK}-hook"},
    ("stepup", "approvals"): nothing,
    ("stepup", "operator-passkey"): nothing,
    ("stepup", "operator-passkeys"): nothing,
    ("stepup", "operator-passkey-revoke"): lambda w: {
        "passkey": "AAAA", "operator": w.scene.operator._connection.credentials.name,
    },
    ("stepup", "operator-sessions"): nothing,
    ("stepup", "operator-session-end"): lambda w: {"session": "0" * 32},
    ("stepup", "approval-find"): lambda w: {"approval": w.a.pending},
    ("stepup", "approval-show"): lambda w: {"approval": w.a.pending},
    ("stepup", "approve"): assertion,
    ("stepup", "cancel"): lambda w: {"approval": w.a.pending, "why": "mine"},
    **{(s, "subject-list"): nothing for s in PEOPLE},
    **{(s, "subject-erase"): lambda w: {"name": w.a.approver, "basis": "mine"} for s in PEOPLE},
    **{(s, "subject-export"): lambda w: {"name": w.a.approver, "reader": READER} for s in PEOPLE},
    **{
        (s, "tenant-erase"): lambda w: {"name": w.a.tenant, "basis": "mine"}
        for s in ("identity", "policy", "proxy", "stepup", "minting")
    },
    ("audit", "read"): lambda w: {"limit": 10_000},
    ("audit", "checkpoint"): nothing,
    ("audit", "rotate-key"): nothing,
    ("audit", "keys"): nothing,
    ("audit", "retire"): lambda w: {"only_look": False},
    ("audit", "consistency"): lambda w: {"older": w.a.seq},
    ("audit", "prove"): lambda w: {"seq": w.a.seq},
    ("audit", "receipt"): lambda w: {"event": w.a.event},
    ("audit", "export-open"): nothing,
    ("audit", "export-read"): lambda w: {"export": w.a.export, "n": "log.json"},
    ("audit", "export-close"): lambda w: {"export": w.a.export},
    **{(s, "ready"): nothing for s in ("identity", "policy", "proxy", "stepup", "audit", "minting", "sanitizer")},
}  # fmt: skip
#: Where B must be refused; elsewhere B gets its own things.
REFUSED = {
    ("identity", "tenant-create"), ("identity", "tenant-list"), ("identity", "agent-create"),
    ("identity", "key-revoke"), ("identity", "operator-name"), ("minting", "revoke-app"),
    ("stepup", "passkey-offer"), ("stepup", "passkey-enrol"),
    ("stepup", "approver-sign-out"), ("stepup", "approver-groups"), ("stepup", "notify-test"),
    ("stepup", "approver-passkeys"), ("stepup", "approver-passkey-revoke"),
    ("stepup", "notify-remove"),
    ("stepup", "operator-passkey-revoke"), ("stepup", "operator-session-end"),
    ("stepup", "approval-find"), ("stepup", "approval-show"), ("stepup", "approve"), ("stepup", "cancel"),
    ("audit", "checkpoint"), ("audit", "rotate-key"), ("audit", "retire"), ("audit", "keys"), ("audit", "export-read"),
    ("policy", "explain"), ("policy", "shadow-report"), ("policy", "put"), ("policy", "activate"),
    ("policy", "draft-discard"),
    ("proxy", "connection-replace"), ("proxy", "connection-show"), ("proxy", "connection-renew"),
    ("proxy", "connection-remove"), ("proxy", "key-progress"), ("proxy", "stages"), ("proxy", "shared-client-set"),
    ("proxy", "shared-client-list"), ("proxy", "shared-client-withdraw"),
    ("proxy", "connection-device"), ("proxy", "connection-device-poll"),
    ("audit", "export-close"), ("audit", "prove"), ("audit", "receipt"), ("identity", "tenant-close"),
    *((service, verb) for service, verb in VERBS if verb in ("ready", "tenant-erase")),
}  # fmt: skip


async def test_every_verb_that_is_served_has_a_case(installation: Any) -> None:
    served = {(name, verb) for name, service in installation.services.items() for verb in service._parts.verbs}
    assert served == set(VERBS)


async def reach(world: World) -> None:
    """Everything that B can send, aimed at A: nothing of A comes back and nothing of A changes."""
    before = await alphas_rows(world)
    for subject, send in SUBJECTS.items():
        for reply in await send(world):
            check_nothing_of_alpha(world, subject, msgspec.msgpack.encode(reply))
    for (service, verb), params in VERBS.items():
        given = params(world)
        if isinstance(given, Awaitable):
            given = await given
        try:
            answer: Any = await world.operator.ask(service, verb, world.tenant, **given)
        except NomosError as e:
            assert e.code != "internal", (service, verb)
            answer = [e.code, e.detail, e.hint, e.cause]
        else:
            assert (service, verb) not in REFUSED, (service, verb)
            if verb == "export-open":
                await world.operator.ask("audit", "export-close", world.tenant, export=answer["export"])
        check_nothing_of_alpha(world, f"{service} {verb}", msgspec.msgpack.encode(answer))
    assert await alphas_rows(world) == before
    # A's permission is unspent, and A's request still waits for A's humans.
    replayed = await world.scene.ask(
        world.a.bot, "invoke",
        world.scene.command(Invoke, invocation=world.a.invocation, proofs=[world.a.allowed.delegation]),
    )  # fmt: skip
    assert isinstance(replayed, messages.Returned)
    shown = await world.scene.operator.ask("stepup", "approval-show", world.a.tenant, approval=world.a.pending)
    assert shown["state"] == "pending"
    assert isinstance(await world.a.bot.agent.authorize(DELETE, world.a.repo, cosigner=world.a.cosigner), Allowed)


def check_nothing_of_alpha(world: World, what: str, answer: bytes) -> None:
    for mark in world.a.marks:
        assert mark not in answer, (what, mark)


async def test_nothing_that_b_sends_reaches_a(world: World) -> None:
    await reach(world)


async def test_the_bus_wall_holds_without_the_databases(world: World, without_row_security: None) -> None:
    await reach(world)


@pytest.fixture
async def without_row_security(scene: Any) -> AsyncIterator[None]:
    database = await scene.admin_database()
    tables = [f"{schema}.{table}" for schema, table in await tenant_tables(database)]
    for table in tables:
        await database.execute(f"ALTER TABLE {table} DISABLE ROW LEVEL SECURITY")
    try:
        yield
    finally:
        for table in tables:
            await database.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")


async def test_an_operator_of_one_tenant_names_no_other_and_not_the_installation(world: World) -> None:
    client, name = world.operator._connection._client, world.operator._connection.credentials.name
    for service, verb in VERBS:
        for scope in (world.a.tenant, "_", "_sys", "*"):
            world.operator._connection._violation = None
            await client.publish(f"admin.{service}.{scope}.{verb}.{name}", b"x")
            await client.flush()
            await client.flush()
            assert world.operator._connection._violation is not None, (service, verb, scope)


async def test_no_stream_can_be_reached_by_a_tenant(world: World) -> None:
    for person in (world.bot, world.auditor):
        client = await world.scene.raw_person(person)
        for stream in STREAMS:
            subjects = [
                stream.subject.replace("*", world.a.tenant),
                *(
                    f"$JS.API.{call}.{stream.name}{rest}"
                    for call, rest in (
                        ("STREAM.INFO", ""), ("STREAM.MSG.GET", ""), ("DIRECT.GET", ""), ("STREAM.PURGE", ""),
                        ("DIRECT.GET", f".{stream.subject.replace('*', world.a.tenant)}"), ("STREAM.DELETE", ""),
                        ("CONSUMER.CREATE", ".c"), ("CONSUMER.MSG.NEXT", ".c"),
                    )
                ),
            ]  # fmt: skip
            for subject in subjects:
                assert not await world.scene.may_publish(client, subject), subject


# --- the database ----------------------------------------------------------------------------------------------


async def test_every_table_has_a_tenant_and_forced_row_security_or_a_reason(scene: Any) -> None:
    database = await scene.admin_database()
    rows = await database.fetch(
        "SELECT n.nspname AS schema, c.relname AS name, c.relrowsecurity AS secured, c.relforcerowsecurity AS forced "
        "FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
        "WHERE n.nspname = ANY($1) AND c.relkind IN ('r', 'p', 'v', 'm', 'f')",
        list(OWNERS),
    )
    assert len(rows) > 10
    with_tenant = set(await tenant_tables(database))
    for row in rows:
        if (row["schema"], row["name"]) in with_tenant:
            assert (row["secured"], row["forced"]) == (True, True), row
        else:
            assert row["name"] in WITHOUT_TENANT, row


async def test_the_databases_wall_holds_without_the_bus(world: World) -> None:
    """As each service's own role, with B's tenant set or none: no row of A, and none as A."""
    admin = await world.scene.admin_database()
    tables = await tenant_tables(admin)
    assert {schema for schema, _ in tables} == set(OWNERS)
    for schema, table in tables:
        await plant(admin, schema, table, world.a.tenant)
        database = await world.scene.database(schema)
        mine = await seen(database, table, world.a.tenant, world.a.tenant)
        assert mine == {world.a.tenant}, f"{schema}.{table} has nothing of A to find"
        for tenant in (world.tenant, "", None):
            found = await seen(database, table, tenant, world.a.tenant)
            assert found <= {tenant}, f"{schema}.{table} as {tenant}"
            await check_untouchable(database, table, tenant, world.a.tenant)
        # What crosses the tenants for the log, the feed or the renewal of tokens says so, and is one table.
        for scope in ("replicate", "project", "sweep"):
            crossing = await seen(database, table, None, world.a.tenant, scope)
            may = (table, scope) in (("events", "replicate"), ("grants", "sweep"))
            assert not crossing or may, f"{schema}.{table} in {scope}"


async def plant(admin: asyncpg.Connection, schema: str, table: str, tenant: str) -> None:
    """A row of A where the services have written none."""
    if table == "sealed":
        await admin.execute(f"INSERT INTO {schema}.sealed VALUES ($1, 'planted', 'x') ON CONFLICT DO NOTHING", tenant)
    elif table == "grants":
        await admin.execute(
            f"INSERT INTO {schema}.grants (tenant, connection, generation, record, renew_at, state) "
            "VALUES ($1, 'planted', 1, 'x', 0, 'active') ON CONFLICT DO NOTHING",
            tenant,
        )
    elif table == "rates":
        await admin.execute(f"INSERT INTO {schema}.rates VALUES ($1, 'planted', now()) ON CONFLICT DO NOTHING", tenant)
    elif not await admin.fetchval(f"SELECT count(*) FROM {schema}.{table} WHERE tenant = $1", tenant):
        assert schema == "audit", f"{schema}.{table} holds nothing of A: give it a case"


async def seen(
    database: asyncpg.Connection, table: str, tenant: str | None, of: str, scope: str | None = None
) -> set[str | None]:
    """The tenants whose rows a transaction as ``tenant`` sees, asking for all and for those ``of`` A."""
    async with database.transaction():
        if tenant is not None:
            await database.execute("SELECT set_config('nomos.tenant', $1, true)", tenant)
        if scope is not None:
            await database.execute("SELECT set_config('nomos.scope', $1, true)", scope)
        rows = await database.fetch(f"SELECT DISTINCT tenant FROM {table}")
        rows += await database.fetch(f"SELECT DISTINCT tenant FROM {table} WHERE tenant = $1", of)
    return {r["tenant"] for r in rows}


async def check_untouchable(database: asyncpg.Connection, table: str, tenant: str | None, of: str) -> None:
    columns = await database.fetch(
        "SELECT column_name, data_type FROM information_schema.columns "
        "WHERE table_schema = current_schema() AND table_name = $1 AND is_nullable = 'NO'",
        table,
    )
    made = {"bigint": "-1", "integer": "1", "bytea": "decode(repeat('00', 32), 'hex')", "boolean": "true"}
    values = {
        c["column_name"]: made.get(c["data_type"], "now()" if "time" in c["data_type"] else "'planted'")
        for c in columns
    } | {"tenant": f"'{of}'"}
    statements = {
        f"DELETE FROM {table} WHERE tenant = '{of}'": "DELETE 0",
        f"UPDATE {table} SET tenant = tenant WHERE tenant = '{of}'": "UPDATE 0",
        f"INSERT INTO {table} ({', '.join(values)}) VALUES ({', '.join(values.values())})": None,
    }
    for statement, wanted in statements.items():
        done: str | None
        try:
            async with database.transaction():
                if tenant is not None:
                    await database.execute("SELECT set_config('nomos.tenant', $1, true)", tenant)
                done = await database.execute(statement)
        except asyncpg.InsufficientPrivilegeError:
            done = None
        assert done in (wanted, None), statement
    if tenant:
        # B's own row does not become A's either.
        with_own = f"UPDATE {table} SET tenant = '{of}' WHERE tenant = '{tenant}'"
        async with database.transaction():
            await database.execute("SELECT set_config('nomos.tenant', $1, true)", tenant)
            try:
                async with database.transaction():
                    moved = await database.execute(with_own)
            except asyncpg.InsufficientPrivilegeError:
                moved = "UPDATE 0"
        assert moved == "UPDATE 0", with_own
