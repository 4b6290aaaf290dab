"""Operators stand in records by a random id: their names are in no store, and can be exported and erased."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.parquet
import pytest
from nacl.public import PrivateKey
from tests.integration.documented import GitHub
from tests.integration.test_operator_sign_in import Person

from nomos.agent import StepUpRequired
from nomos.bearer import seal_bearer
from nomos.cli.main import main
from nomos.client import Connection
from nomos.creds import USER, Nkey
from nomos.errors import NomosError
from nomos.events import Actor, Envelope
from nomos.keys import SigningKey
from nomos.log.erasure import parse_disclosure
from nomos.log.record import parse_record
from nomos.log.report import render_text
from nomos.log.sealedfield import SUBJECT_ERASED, SUBJECT_NAMED, dek_of, is_subject, subject_of
from nomos.log.verify import verify_export
from nomos.operator import Operator
from nomos.passkey import SoftwarePasskey
from nomos_audit.block import Block
from nomos_identity.operators import Operators
from nomos_runtime.embedded.postgres import OWNERS
from nomos_runtime.local import OPERATOR_NAME, issue_operator
from nomos_runtime.responder import UNNAMED
from nomos_runtime.responder import Operator as Asking
from nomos_runtime.subjects import Subjects
from nomos_runtime.topology.issue import issue_user

DELETE, REPO = "github:repos.delete", "github:repo/acme/site"
MARK = "zarathustra"
READER = base64.urlsafe_b64encode(bytes(PrivateKey.generate().public_key)).decode()
CLOUD = {
    "kind": "gcp",
    "audience": "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/pool/providers/nomos",
}
CID = "bafyreigh2akiscaildcqabsyg3dfr6chu3fgpregiymsck7e7aqa4s52zy"
_block = msgspec.msgpack.Decoder(Block)


class Doer:
    """An operator with a marked name, a tenant of theirs, and what the commands need."""

    def __init__(self, scene: Any, operator: Operator, name: str) -> None:
        self.scene, self.operator, self.name = scene, operator, name
        self.subject = operator._connection.credentials.name
        self.tenant = scene.name("tenant")
        self.auditor_key = Nkey.new(USER).public
        self.offer: dict[str, Any] = {}
        self.waiting: dict[str, str] = {}

    async def ask(self, service: str, verb: str, tenant: str | None = None, **params: Any) -> dict[str, Any]:
        return await self.operator.ask(service, verb, self.tenant if tenant is None else tenant, **params)

    # One step for each verb that records its operator, in an order in which they can be done.

    async def agent_create(self) -> None:
        did = SigningKey(os.urandom(32)).did
        await self.ask("identity", "agent-create", app="triage", name="bot", key=Nkey.new(USER).public, did=did)

    async def connection_add(self) -> None:
        sealing = await self.ask("proxy", "sealing-key")
        sealed = seal_bearer(str(sealing["public_key"]), self.scene.bearer)
        await self.ask("proxy", "connection-add", connector="github", name="github", sealed_bearer=sealed,
                       base_url=self.scene.upstream.origin)  # fmt: skip

    async def connection_replace(self) -> None:
        sealing = await self.ask("proxy", "sealing-key")
        sealed = seal_bearer(str(sealing["public_key"]), "another bearer".replace(" ", "-"))
        await self.ask("proxy", "connection-replace", name="github", sealed_bearer=sealed)

    async def connection_device(self) -> None:
        provider = await asyncio.to_thread(GitHub, "https://nowhere.example")
        try:
            client = {"connector": "github", "client_id": "ours"}
            await self.ask("proxy", "client-set", **client, base_url=provider.issuer)
            made = await self.ask("proxy", "connection-device", connector="github", name="account")
            polled = await self.ask("proxy", "connection-device-poll", flow=made["flow"])
            assert polled["state"] == "pending"
        finally:
            await asyncio.to_thread(provider.stop)

    async def passkey_offer(self) -> None:
        self.offer = await self.ask("stepup", "passkey-offer", name="ada")

    async def passkey_enrol(self) -> None:
        offer, at = self.offer, self.scene.directory / "ada.passkey"
        pad = {name: offer[name] + "=" * (-len(offer[name]) % 4) for name in ("challenge", "user_handle")}
        response = SoftwarePasskey.create(at).register(
            rp_id=offer["rp_id"], origin=offer["origin"], user_name="ada",
            challenge=base64.urlsafe_b64decode(pad["challenge"]),
            user_handle=base64.urlsafe_b64decode(pad["user_handle"]),
        )  # fmt: skip
        await self.ask("stepup", "passkey-enrol", name="ada", challenge=offer["challenge"], response=response)

    async def wait(self, verb: str) -> str:
        """An approval that waits for a human."""
        bot = await self.scene.agent(self.tenant)
        waits = await bot.agent.authorize(DELETE, REPO)
        assert isinstance(waits, StepUpRequired)
        self.waiting[verb] = waits.approval
        return waits.approval

    async def approve(self) -> None:
        approval = await self.wait("approve")
        shown = await self.ask("stepup", "approval-show", approval=approval)
        text = str(shown["challenge"])
        response = SoftwarePasskey.load(self.scene.directory / "ada.passkey").assert_(
            rp_id=shown["rp_id"], origin=shown["origin"],
            challenge=base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)),
        )  # fmt: skip
        await self.ask("stepup", "approve", approval=approval, response=response)

    async def draft_discard(self) -> None:
        await self.ask("policy", "draft-save", draft="other", text=self.scene.POLICY, why="try")
        await self.ask("policy", "draft-discard", draft="other", why="no")

    async def cancel(self) -> None:
        await self.ask("stepup", "cancel", approval=await self.wait("cancel"), why="late")

    async def operator_passkey(self) -> None:
        self.person = Person(self.scene, self.operator)
        assert await self.person.enrol() == 303
        assert (await self.person.open())["operator"] == self.subject

    async def operator_session_end(self) -> None:
        held = await self.person.open()
        await self.ask("stepup", "operator-session-end", session=held["session"])

    async def approver_passkey_revoke(self) -> None:
        (held,) = (await self.ask("stepup", "approver-passkeys", name="ada"))["passkeys"]
        await self.ask("stepup", "approver-passkey-revoke", name="ada", passkey=held["passkey"])

    async def operator_passkey_revoke(self) -> None:
        (held,) = (await self.ask("stepup", "operator-passkeys"))["passkeys"]
        await self.ask("stepup", "operator-passkey-revoke", passkey=held["passkey"])

    async def erase_tenant(self, service: str) -> None:
        await self.ask(service, "tenant-erase", "_", name=self.tenant, basis="ended")


Step = Callable[[Doer], Awaitable[Any]]
#: Every verb that records who asked, and the types of events that it records under their id.
DONE: dict[tuple[str, str], tuple[Step, set[str]]] = {
    # Done by whoever made the operator; the events are looked for as of the others.
    ("identity", "operator-name"): (lambda d: asyncio.sleep(0), {SUBJECT_NAMED, "operator.added"}),
    ("identity", "tenant-create"): (
        lambda d: d.ask("identity", "tenant-create", "_", name=d.tenant), {"tenant.created"}),
    ("identity", "app-create"): (lambda d: d.ask("identity", "app-create", name="triage"), {"app.created"}),
    ("identity", "agent-create"): (Doer.agent_create, {"agent.created"}),
    ("identity", "auditor-create"): (
        lambda d: d.ask("identity", "auditor-create", name="otto", key=d.auditor_key),
        {"auditor.created", SUBJECT_NAMED}),
    ("identity", "key-revoke"): (
        lambda d: d.ask("identity", "key-revoke", key=d.auditor_key, why="lost"), {"key.revoked"}),
    ("identity", "subject-export"): (
        lambda d: d.ask("identity", "subject-export", name="otto", reader=READER), {"subject.disclosed"}),
    ("identity", "subject-erase"): (
        lambda d: d.ask("identity", "subject-erase", name="otto", basis="asked"), {SUBJECT_ERASED}),
    ("policy", "put"): (lambda d: d.ask("policy", "put", text=d.scene.POLICY, why="first"), {"policy.put"}),
    ("policy", "pieces"): (lambda d: d.ask("policy", "pieces", texts=[d.scene.POLICY]), {"policy.piece"}),
    ("policy", "draft-save"): (
        lambda d: d.ask("policy", "draft-save", draft="next", text=d.scene.POLICY + "//", why="try"),
        {"policy.draft-saved"}),
    ("policy", "shadow-start"): (
        lambda d: d.ask("policy", "shadow-start", draft="next", why="try"), {"policy.shadow-started"}),
    ("policy", "activate"): (lambda d: d.ask("policy", "activate", draft="next"), {"policy.put"}),
    ("policy", "rollback"): (lambda d: d.ask("policy", "rollback", to=1, why="back"), {"policy.put"}),
    ("policy", "draft-discard"): (Doer.draft_discard, {"policy.draft-saved", "policy.draft-discarded"}),
    ("policy", "shadow-stop"): (lambda d: d.ask("policy", "shadow-stop", why="tried"), {"policy.shadow-stopped"}),
    ("minting", "revoke"): (lambda d: d.ask("minting", "revoke", cid=CID, why="lost"), {"ucan.revoked"}),
    ("minting", "revoke-app"): (
        lambda d: d.ask("minting", "revoke-app", app="triage", why="leaked"), {"ucan.revoked-all"}),
    ("minting", "revoke-tenant"): (lambda d: d.ask("minting", "revoke-tenant", why="leaked"), {"ucan.revoked-all"}),
    ("minting", "issuer-rotate"): (lambda d: d.ask("minting", "issuer-rotate", why="yearly"), {"ucan.issuer-rotated"}),
    ("proxy", "connection-add"): (Doer.connection_add, {"connection.added"}),
    ("proxy", "connection-replace"): (Doer.connection_replace, {"connection.replaced"}),
    ("proxy", "client-set"): (
        lambda d: d.ask("proxy", "client-set", connector="github", client_id="ours"), {"oauth.client-set"}),
    ("proxy", "shared-client-set"): (
        lambda d: d.ask("proxy", "shared-client-set", "_", connector="gmail", client_id="ours"), {"oauth.client-set"}),
    ("proxy", "shared-client-withdraw"): (
        lambda d: d.ask("proxy", "shared-client-withdraw", "_", connector="gmail"), {"oauth.client-withdrawn"}),
    ("proxy", "connection-connect"): (
        lambda d: d.ask("proxy", "connection-connect", connector="github", name="account"), {"oauth.offered"}),
    ("proxy", "connection-device"): (Doer.connection_device, {"oauth.client-set", "oauth.offered"}),
    ("proxy", "connection-federate"): (
        lambda d: d.ask("proxy", "connection-federate", connector="http", name="cloud", host="api.example.com",
                        federation=CLOUD), {"connection.added"}),
    ("proxy", "connection-remove"): (
        lambda d: d.ask("proxy", "connection-remove", name="github"), {"connection.removed"}),
    ("proxy", "pii-set"): (lambda d: d.ask("proxy", "pii-set", classes=["card"]), {"sanitizer.pii-set"}),
    ("stepup", "approver-add"): (
        lambda d: d.ask("stepup", "approver-add", name="ada"), {"approver.added", SUBJECT_NAMED}),
    ("stepup", "approver-groups"): (
        lambda d: d.ask("stepup", "approver-groups", name="ada", groups=["ops"]), {"approver.grouped"}),
    ("stepup", "notify-add"): (
        lambda d: d.ask("stepup", "notify-add", channel="ops", kind="slack", to="http://localhost:9/x"),
        {"notify.added"}),
    ("stepup", "notify-remove"): (
        lambda d: d.ask("stepup", "notify-remove", channel="ops"), {"notify.removed"}),
    ("stepup", "passkey-offer"): (Doer.passkey_offer, {"passkey.offered"}),
    ("stepup", "passkey-enrol"): (Doer.passkey_enrol, {"passkey.enrolled"}),
    # The approver is the actor, whoever carries the message.
    ("stepup", "approve"): (Doer.approve, set()),
    ("stepup", "cancel"): (Doer.cancel, {"stepup.cancelled"}),
    ("stepup", "approver-sign-out"): (
        lambda d: d.ask("stepup", "approver-sign-out", name="ada"), {"approver.signed-out"}),
    ("stepup", "approver-passkey-revoke"): (Doer.approver_passkey_revoke, {"passkey.revoked"}),
    ("stepup", "operator-passkey"): (
        Doer.operator_passkey, {"operator.passkey-offered", "operator.passkey-enrolled", "operator.signed-in"}),
    ("stepup", "operator-session-end"): (Doer.operator_session_end, {"operator.session-ended"}),
    ("stepup", "operator-passkey-revoke"): (Doer.operator_passkey_revoke, {"operator.passkey-revoked"}),
    ("stepup", "subject-export"): (
        lambda d: d.ask("stepup", "subject-export", name="ada", reader=READER), {"subject.disclosed"}),
    ("stepup", "subject-erase"): (
        lambda d: d.ask("stepup", "subject-erase", name="ada", basis="asked"), {"approver.removed", SUBJECT_ERASED}),
    ("identity", "tenant-close"): (
        lambda d: d.ask("identity", "tenant-close", "_", name=d.tenant, basis="ended"), {"tenant.closed"}),
    **{
        (service, "tenant-erase"): ((lambda d, s=service: d.erase_tenant(s)), {"tenant.erased"})
        for service in ("policy", "minting", "proxy", "stepup", "identity")
    },
}  # fmt: skip
#: Verbs that record nothing but a refusal, and audit's new key: this installation has no next one, so it is refused
#: here; ``test_a_new_key_is_proven_by_the_old_one_and_old_proofs_verify_after_it`` looks at its record.
READING = {
    ("identity", "tenant-list"), ("identity", "key-list"), ("policy", "list"), ("policy", "show"),
    ("policy", "history"), ("policy", "explain"), ("policy", "shadow-report"), ("policy", "draft-list"),
    ("minting", "issuer-list"), ("proxy", "sealing-key"), ("proxy", "connection-list"),
    ("proxy", "pii-show"), ("proxy", "connection-show"), ("proxy", "connection-renew"), ("proxy", "client-list"),
    ("proxy", "key-progress"), ("proxy", "stages"), ("proxy", "shared-client-list"),
    ("proxy", "connection-device-poll"),
    ("stepup", "approver-list"), ("stepup", "approver-passkeys"), ("stepup", "notify-list"), ("stepup", "notify-test"),
    ("stepup", "operator-passkeys"), ("stepup", "operator-sessions"),
    ("stepup", "approvals"), ("stepup", "approval-find"), ("stepup", "approval-show"), ("audit", "rotate-key"),
    # No segment of this chain has ended; the record of one that goes is in tests/integration/audit.
    ("audit", "retire"),
    *(("audit", verb) for verb in ("read", "checkpoint", "keys", "prove", "receipt", "consistency")),
    *(("audit", verb) for verb in ("export-open", "export-read", "export-close")),
    *((service, "subject-list") for service in ("identity", "stepup")),
    *((s, "ready") for s in ("identity", "policy", "proxy", "stepup", "audit", "minting", "sanitizer")),
}  # fmt: skip


async def refused(work: Any, *codes: str) -> None:
    with pytest.raises(NomosError) as e:
        await work
    assert e.value.code in codes, e.value


async def intake_and_chain(scene: Any) -> list[bytes]:
    """Every message of the journal and of the chain, and every record of a block."""
    client, found = await scene.service("audit"), []
    for stream in ("INTAKE", "CHAIN"):
        info = await client.request(f"$JS.API.STREAM.INFO.{stream}", b"", timeout=10)
        state = msgspec.json.decode(info.data)["state"]
        for seq in range(state["first_seq"], state["last_seq"] + 1):
            query = msgspec.json.encode({"seq": seq})
            reply = await client.request(f"$JS.API.DIRECT.GET.{stream}", query, timeout=10)
            found.append(reply.data)
            if stream == "CHAIN":
                found += _block.decode(reply.data).records
    return found


async def rows(scene: Any) -> list[bytes]:
    """Every row of every table of the services, as text and with each bytea's bytes."""
    database, found = await scene.admin_database(), []
    for schema in OWNERS:
        tables = await database.fetch("SELECT tablename FROM pg_tables WHERE schemaname = $1", schema)
        for table in tables:
            for row in await database.fetch(f"SELECT * FROM {schema}.{table['tablename']}"):
                found += [v if isinstance(v, bytes) else str(v).encode() for v in row.values()]
    return found


async def export_of(scene: Any, tenant: str, directory: Path) -> Path:
    ask = scene.operator.ask
    opened = await ask("audit", "export-open", tenant, timeout_ms=60_000)
    for one in opened["files"]:
        path = directory / one["n"]
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as f:
            while f.tell() < one["bytes"]:
                read = await ask(
                    "audit", "export-read", tenant, export=opened["export"], n=one["n"], offset=f.tell()
                )  # fmt: skip
                f.write(base64.b64decode(read["content"]))
    await ask("audit", "export-close", tenant, export=opened["export"])
    return directory


def exported_records(directory: Path) -> list[bytes]:
    parts = [pyarrow.parquet.read_table(p) for p in directory.rglob("*.parquet")]
    return [record for part in parts for record in part.column("record").to_pylist()]


async def chained(scene: Any, tenant: str, kind: str) -> Any:
    """The newest record of this type, once it is chained and projected."""
    (event, *_) = reversed(await scene.events(tenant, kind))

    async def find() -> Any:
        page, tseq = None, 0
        while page is None or page["records"]:
            page = await scene.operator.ask("audit", "read", tenant, limit=500, from_tseq=tseq)
            found = [r for r in map(parse_record, page["records"]) if r.id == event.id]
            if found:
                return found[0]
            tseq += len(page["records"])
        return None

    return await scene.until(find, f"{kind} in the log")


def test_every_verb_that_is_served_records_an_operator_or_reads(installation: Any) -> None:
    served = {(name, verb) for name, service in installation.services.items() for verb in service._parts.verbs}
    assert served == set(DONE) | READING
    assert not set(DONE) & READING


async def test_an_operators_name_is_in_no_store_whatever_the_operator_does(scene: Any, tmp_path: Path) -> None:
    name = f"{MARK}-{scene.name('op')}"
    doer = Doer(scene, await scene.named_operator(name), name)
    seen: list[Envelope] = []
    for (service, verb), (step, kinds) in DONE.items():
        await step(doer)
        new = [e for _, e in await scene.journal()][len(seen):]  # fmt: skip
        mine = {e.type for e in new if e.actor == Actor(kind="operator", id=doer.subject)}
        assert mine >= kinds, (service, verb)
        seen += new
    # Refusals of each service, in a tenant, outside any, and of a tenant that there is not.
    for service in scene.installation.services:
        for tenant in ("_", doer.tenant, "nowhere"):
            await refused(doer.ask(service, "no-such-verb", tenant), "not_permitted", "unknown_tenant")
    await refused(doer.ask("audit", "rotate-key", "_"), "misconfigured")
    assert await doer.ask("audit", "retire", "_", only_look=False) == {"segments": []}
    control = scene.name(f"{MARK[::-1]}-tenant")
    await doer.ask("identity", "tenant-create", "_", name=control)

    events = [e for _, e in await scene.journal()]
    refusals = {str(e.event["service"]) for e in events if e.type == "request.refused" and e.actor.id == doer.subject}
    assert refusals == set(scene.installation.services)
    asked = await scene.operator.ask("identity", "subject-list", "_")
    assert {"id": doer.subject, "kind": "operator", "name": name, "erased_at": 0} in asked["subjects"]
    await chained(scene, control, "tenant.created")
    export = await export_of(scene, "_", tmp_path / "log")
    stores = {
        "journal and chain": await intake_and_chain(scene),
        "tables": await rows(scene),
        "parquet": exported_records(export),
        "files of the export": [p.read_bytes() for p in export.rglob("*") if p.is_file()],
    }
    for store, contents in stores.items():
        assert not [one for one in contents if MARK.encode() in one], store
    assert not [f for f in scene.files_with(MARK.encode()) if f != "wire"], "a name stands in plain text"
    # What is looked through holds what is not sealed: the search can fail.
    for store in ("journal and chain", "tables", "parquet"):
        assert [one for one in stores[store] if control.encode() in one], store
    assert [f for f in scene.files_with(control.encode()) if f != "wire"]


async def test_an_operator_is_exported_and_then_erased_and_refused_everywhere(
    scene: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = scene.name("olga")
    operator, other = await scene.named_operator(name), await scene.tenant(connection=False)
    subject, tenant = operator._connection.credentials.name, scene.name("tenant")
    await operator.ask("identity", "tenant-create", name=tenant)
    await operator.ask("minting", "issuer-rotate", other, why="theirs")
    await chained(scene, other, "ucan.issuer-rotated")

    async def run(*words: str) -> tuple[int, str]:
        code = await asyncio.to_thread(main, [*words, "--context", str(scene.installation.local.context)])
        said = capsys.readouterr()
        return code, said.out + said.err

    tail = ("audit", "tail", "--tenant", other)
    assert f"operator:{subject} ({name})" in (await run(*tail, "--names"))[1]
    assert name not in (await run(*tail))[1]
    out, keys = tmp_path / "person.json", tmp_path / "keys.json"
    words = ("subject", "export", "--tenant", "_sys", name, "--out", str(out), "--with-keys", str(keys))
    assert (await run(*words))[0] == 0
    document = json.loads(out.read_text())
    assert document["subjects"][0]["held"] == {"since": document["subjects"][0]["held"]["since"], "tenant": ""}
    found = {(r["tenant"], r["type"]) for r in document["records"]}
    assert {("_sys", SUBJECT_NAMED), ("_sys", "operator.added"), (tenant, "tenant.created"),
            (other, "ucan.issuer-rotated")} <= found  # fmt: skip
    opened = [r["opened"] for r in document["records"] if r["type"] == SUBJECT_NAMED]
    assert opened == [{"name": name}]
    (told,) = [e for e in await scene.events("_sys", "subject.disclosed") if e.event["subject"] == subject]
    assert told.event["purpose"] == "export"

    code, said = await run("subject", "erase", "--tenant", "_sys", name, "--basis", "left the company")
    assert (code, f"{subject} (operator) erased by identity" in said) == (0, True)
    assert "nothing to erase" in (await run("subject", "erase", "--tenant", "_sys", name, "--basis", "again"))[1]
    for service in scene.installation.services:
        if service != "sanitizer":
            await refused(operator.ask(service, "no-such-verb", other), "not_permitted")
    for service, verb in (("policy", "put"), ("minting", "issuer-rotate"), ("proxy", "connection-list"),
                          ("stepup", "approvals"), ("audit", "read"), ("identity", "key-list")):  # fmt: skip

        async def is_refused(service: str = service, verb: str = verb) -> bool:
            # Each service learns it as a fact, within the interval of its feed.
            try:
                await operator.ask(service, verb, other, **({"text": "", "why": ""} if verb == "put" else {}))
            except NomosError as e:
                return e.code == "revoked"
            return False

        await scene.until(is_refused, f"{service} to refuse an operator who was erased")
        assert (verb, "revoked") in await scene.refusals(other)
    await refused(operator.ask("identity", "operator-name", name="else"), "revoked")
    assert subject in (await run("subject", "list", "--tenant", "_sys"))[1]
    assert f"operator:{subject} (erased)" in (await run(*tail, "--names"))[1]

    record = await chained(scene, "_sys", SUBJECT_ERASED)
    assert record.event["subject"] == subject
    export = await export_of(scene, "_", tmp_path / "log")
    trust = scene.installation.local.trust.read_bytes()
    disclosed = parse_disclosure(keys.read_bytes())
    assert list(disclosed) == [dek_of(subject)]
    report = verify_export(export, trust, 2, now=2_000_000_000, keys=disclosed)
    assert f"1 fields of {dek_of(subject)} erased by record {record.seq}" in report.checked, render_text(report)
    assert "1 sealed fields opened with the keys given" in report.checked, report.checked
    # The name may be given again, to somebody who counts as another person.
    again = await scene.named_operator(name)
    assert again._connection.credentials.name != subject


async def test_a_credential_that_bears_a_name_is_refused_and_no_record_repeats_the_name(scene: Any) -> None:
    tenant, name = await scene.tenant(connection=False, policy=""), f"{MARK}x{scene.name('old')}"
    held = scene.installation.local.installation
    user = Nkey.new(USER)
    jwt = issue_user(
        role="operator", name=name, user_public_key=user.public, account=held.accounts["OPS"],
        signer=held.role_key("operator"), issued_at=1,
    )  # fmt: skip
    credentials = scene.credentials("operator", name, "", jwt, user)
    operator = Operator(await scene._stack.enter_async_context(await Connection.open(credentials)))
    await refused(operator.ask("identity", "app-create", tenant, name="mine"), "not_permitted")
    await refused(operator.ask("identity", "tenant-create", name=scene.name("tenant")), "not_permitted")
    await refused(operator.ask("identity", "operator-name", name=name), "not_permitted")
    assert await scene.refusals(tenant) == [("app-create", "not_permitted")]
    refusals = list(await scene.events(tenant, "request.refused"))
    refusals += [e for e in await scene.events("_sys", "request.refused") if e.event["verb"] == "operator-name"]
    assert {(e.actor.kind, e.actor.id) for e in refusals} == {("operator", UNNAMED)}
    assert not [f for f in scene.files_with(name.encode()) if f != "wire"]


async def test_an_operator_without_a_name_does_nothing_and_the_refusal_is_recorded(scene: Any) -> None:
    tenant = await scene.tenant(connection=False, policy="")
    credentials = issue_operator(scene.installation.local.installation, servers=(scene.installation.bus.url,))
    operator = Operator(await scene._stack.enter_async_context(await Connection.open(credentials)))
    for service, verb in (("identity", "key-list"), ("policy", "list"), ("minting", "issuer-list"),
                          ("proxy", "connection-list"), ("stepup", "approvals"), ("audit", "read")):  # fmt: skip
        await refused(operator.ask(service, verb, tenant), "unknown_operator")
        assert (verb, "unknown_operator") in await scene.refusals(tenant)
    assert {e.actor.id for e in await scene.events(tenant, "request.refused")} == {credentials.name}
    # Whether a service is well may be asked; and from the name on everything.
    assert (await operator.ask("sanitizer", "ready"))["service"] == "sanitizer"
    await operator.ask("identity", "operator-name", name=scene.name("late"))
    for service, verb in (("policy", "list"), ("audit", "read")):
        await operator.ask(service, verb, tenant)


async def test_a_name_belongs_to_one_operator_and_an_operator_has_one_name(scene: Any) -> None:
    operator = await scene.named_operator(scene.name("olga"))
    await refused(operator.ask("identity", "operator-name", name=OPERATOR_NAME), "conflict")
    await refused(operator.ask("identity", "operator-name", name=scene.name("other")), "conflict")
    await refused(operator.ask("identity", "operator-name", name="No Slug"), "malformed")
    verbs = [e.event["code"] for e in await scene.events("_sys", "request.refused")
             if e.actor.id == operator._connection.credentials.name]  # fmt: skip
    assert verbs == ["conflict", "conflict", "malformed"]


async def test_who_is_named_cannot_try_the_names_of_others(scene: Any) -> None:
    tenant = await scene.tenant(connection=False, policy="")
    operator, told = await scene.named_operator(scene.name("tina"), tenant), set()
    for name in (OPERATOR_NAME, scene.name("nobody")):
        with pytest.raises(NomosError) as e:
            await operator.ask("identity", "operator-name", tenant, name=name)
        told.add((e.value.code, e.value.detail, e.value.hint))
    assert {code for code, _, _ in told} == {"conflict"}
    assert len(told) == 1, told
    assert await scene.refusals(tenant) == [("operator-name", "conflict")] * 2


async def test_naming_and_erasing_an_operator_go_on_after_a_crash_at_each_step(scene: Any) -> None:
    identity, name = scene.installation.services["identity"], scene.name("olga")
    credentials = issue_operator(scene.installation.local.installation, servers=(scene.installation.bus.url,))
    subjects = Subjects(identity._parts.store, identity._sealer)
    by, run = Actor(kind="operator", id=credentials.name), scene.installation.run
    # Died with the name known, before the operator was accepted.
    await run(subjects.enrol("_sys", "operator", name, by=by, corr="", now=1, subject=credentials.name))
    operator = Operator(await scene._stack.enter_async_context(await Connection.open(credentials)))
    await refused(operator.ask("identity", "tenant-list"), "unknown_operator")
    for _ in range(2):
        assert (await operator.ask("identity", "operator-name", name=name))["subject"] == credentials.name
    # Died with the right taken away, before the key was destroyed.
    admin = scene.operator
    asking = Asking(name=admin._connection.credentials.name, tenant="_", request="")
    await run(Operators(identity._parts.store, subjects).release(asking, credentials.name))
    assert (await admin.ask("identity", "subject-erase", name=name, basis="asked"))["erased"] == 1
    kinds = [e.type for e in await scene.events("_sys")
             if credentials.name in (e.event.get("operator"), e.event.get("subject"))]  # fmt: skip
    assert kinds == [SUBJECT_NAMED, "operator.added", "operator.removed", SUBJECT_ERASED]


async def test_an_operator_of_one_tenant_is_named_and_reaches_no_other_operators_name(scene: Any) -> None:
    tenant, name = await scene.tenant(connection=False, policy=""), scene.name("tina")
    operator = await scene.named_operator(name, tenant)
    listed = [s for service in ("identity", "stepup")
              for s in (await operator.ask(service, "subject-list", tenant))["subjects"]]  # fmt: skip
    assert listed == []
    await operator.ask("identity", "app-create", tenant, name="mine")
    (made,) = [e for e in await scene.events(tenant, "app.created") if e.event["app"] == "mine"]
    assert is_subject(made.actor.id)
    (added,) = [e for e in await scene.events("_sys", "operator.added") if e.event["operator"] == made.actor.id]
    assert added.event["tenant"] == tenant


async def test_a_subject_that_bears_a_name_already_takes_no_other(scene: Any) -> None:
    identity, run = scene.installation.services["identity"], scene.installation.run
    subjects, by = Subjects(identity._parts.store, identity._sealer), Actor(kind="system", id="test")
    first = await run(subjects.enrol("_sys", "operator", scene.name("one"), by=by, corr="", now=1))
    await refused(
        run(subjects.enrol("_sys", "operator", scene.name("two"), by=by, corr="", now=1, subject=first)), "conflict"
    )
    await refused(
        run(subjects.enrol("_sys", "operator", scene.name("two"), by=by, corr="", now=1, subject="ada")), "malformed"
    )
    assert subject_of(dek_of(first)) == first
