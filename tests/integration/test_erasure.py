"""People and tenants erased from a running installation: what is left, what is recorded, and what others keep."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import pytest

from nomos.agent import StepUpRequired
from nomos.cli.main import main
from nomos.creds import USER, Nkey
from nomos.errors import NomosError
from nomos.events import Actor
from nomos.log.erasure import parse_disclosure
from nomos.log.record import parse_record
from nomos.log.report import Verdict, render_text
from nomos.log.sealedfield import SUBJECT_ERASED, SUBJECT_NAMED, dek_of
from nomos.log.verify import verify_export
from nomos.messages import AuditRecords, Decoder, Failure, ReadAudit
from nomos_runtime.embedded.postgres import OWNERS
from nomos_runtime.subjects import Subjects
from nomos_stepup.approvercommands import RemoveApprover
from nomos_stepup.store import StepupStore

DELETE, REPO = "github:repos.delete", "github:repo/acme/site"


audit_reply = Decoder.of(AuditRecords | Failure, "audit reply")


async def refused(work: Any, *codes: str) -> None:
    with pytest.raises(NomosError) as e:
        await work
    assert e.value.code in codes, e.value


async def exported(scene: Any, tenant: str, directory: Path) -> Path:
    """The tenant's bundle, as an operator writes it."""
    ask = scene.operator.ask
    opened = await ask("audit", "export-open", tenant)
    for one in opened["files"]:
        path = directory / one["n"]
        path.parent.mkdir(parents=True, exist_ok=True)
        read = await ask("audit", "export-read", tenant, export=opened["export"], n=one["n"])
        path.write_bytes(base64.b64decode(read["content"]))
    await ask("audit", "export-close", tenant, export=opened["export"])
    return directory


async def recorded(scene: Any, tenant: str, kind: str) -> Any:
    """The tenant's record of this type, once it is chained and projected."""

    async def find() -> Any:
        page = await scene.operator.ask("audit", "read", tenant, limit=1_000)
        return next((r for r in map(parse_record, page["records"]) if r.type == kind), None)

    return await scene.until(find, f"{kind} in the log")


async def test_an_approvers_name_is_nowhere_at_rest_and_erased_for_good(scene: Any, tmp_path: Path) -> None:
    tenant = await scene.tenant()
    bot = await scene.agent(tenant)
    name, passkey = await scene.approver(tenant)
    kept, kept_passkey = await scene.approver(tenant)
    wait = await bot.agent.authorize(DELETE, REPO)
    assert isinstance(wait, StepUpRequired)
    approved = await scene.approve(tenant, wait.approval, passkey)
    assert approved["approver"] == name
    named = next(e for e in await scene.events(tenant, SUBJECT_NAMED))
    subject = str(named.event["subject"])
    (signed,) = await scene.events(tenant, "stepup.approved")
    assert (signed.actor.id, signed.event["approver"]) == (subject, subject)
    assert not [f for f in scene.files_with(name.encode()) if f != "wire"], "a name stands in plain text"

    ask = scene.operator.ask
    done = await ask("stepup", "subject-erase", tenant, name=name, basis="asked on paper")
    assert (done["erased"], done["subject"]) == (1, subject)
    again = await ask("stepup", "subject-erase", tenant, name=name, basis="asked on paper")
    assert again["erased"] == 0
    (erased,) = await scene.events(tenant, SUBJECT_ERASED)
    assert erased.event["dek"] == dek_of(subject)
    assert erased.event["kc"] == named.event["name"]["kc"]
    assert (erased.actor.kind, erased.event["basis"]) == ("operator", "asked on paper")

    pending = await bot.agent.authorize(DELETE, REPO)
    await refused(scene.approve(tenant, pending.approval, passkey), "approval_refused")
    await refused(ask("stepup", "passkey-offer", tenant, name=name), "not_found")
    listed = {s["id"]: s["name"] for s in (await ask("stepup", "subject-list", tenant))["subjects"]}
    assert listed[subject] is None
    assert kept in listed.values()
    assert (await scene.approve(tenant, pending.approval, kept_passkey))["state"] == "approved"

    record = await recorded(scene, tenant, SUBJECT_ERASED)
    bundle = await exported(scene, tenant, tmp_path / "bundle")
    trust = scene.installation.local.trust.read_bytes()
    report = verify_export(bundle, trust, 2, now=2_000_000_000, tenant=tenant)
    assert report.verdict is Verdict.VERIFIED, render_text(report)
    assert f"3 fields of {dek_of(subject)} erased by record {record.seq}" in report.checked, report.checked


async def test_a_name_may_be_given_again_after_its_erasure_and_is_another_person(scene: Any) -> None:
    tenant, ask = await scene.tenant(connection=False), scene.operator.ask
    first = await ask("stepup", "approver-add", tenant, name="ada")
    await refused(ask("stepup", "approver-add", tenant, name="ada"), "conflict")
    await ask("stepup", "subject-erase", tenant, name="ada", basis="asked")
    second = await ask("stepup", "approver-add", tenant, name="ada")
    assert first["subject"] != second["subject"]


async def test_an_erased_auditor_reads_nothing_any_more(scene: Any) -> None:
    tenant, ask = await scene.tenant(connection=False), scene.operator.ask
    auditor = await scene.auditor(tenant)
    (known,) = (await ask("identity", "subject-list", tenant))["subjects"]
    assert (known["id"], known["kind"]) == (auditor.name, "auditor")
    await ask("identity", "subject-erase", tenant, name=known["name"], basis="asked")
    (erased,) = await scene.events(tenant, SUBJECT_ERASED)
    assert erased.event["subject"] == auditor.name
    (key,) = (await ask("identity", "key-list", tenant))["keys"]
    assert key["revoked"]
    # Refused by the service or, once the server has dropped the connection, not answered.
    asked = scene.command(ReadAudit, limit=1)
    await refused(
        auditor.connection.ask(f"req.audit.{auditor.name}", asked, audit_reply, 2_000), "revoked", "unavailable"
    )


async def test_an_auditors_name_that_is_given_twice_is_not_repeated_by_the_refusal(scene: Any) -> None:
    tenant, name = await scene.tenant(connection=False, policy=""), scene.name("zoroaster")
    ask = scene.operator.ask
    await ask("identity", "auditor-create", tenant, name=name, key=Nkey.new(USER).public)
    await refused(ask("identity", "auditor-create", tenant, name=name, key=Nkey.new(USER).public), "conflict")
    assert ("auditor-create", "conflict") in await scene.refusals(tenant)
    assert not [f for f in scene.files_with(name.encode()) if f != "wire"], "a name stands in plain text"


@pytest.mark.parametrize("basis", ["", "  ", "two\nlines", "x" * 201])
async def test_a_basis_that_is_no_line_erases_nothing_and_the_refusal_is_recorded(scene: Any, basis: str) -> None:
    tenant, ask = await scene.tenant(connection=False, policy=""), scene.operator.ask
    await ask("stepup", "approver-add", tenant, name="ada")
    await refused(ask("stepup", "subject-erase", tenant, name="ada", basis=basis), "malformed")
    assert ("subject-erase", "malformed") in await scene.refusals(tenant)
    assert (await ask("stepup", "subject-list", tenant))["subjects"][0]["name"] == "ada"


async def test_an_export_holds_what_the_log_and_the_services_know_of_a_person(
    scene: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tenant = await scene.tenant()
    bot = await scene.agent(tenant)
    name, passkey = await scene.approver(tenant)
    other, _ = await scene.approver(tenant)
    wait = await bot.agent.authorize(DELETE, REPO)
    await scene.approve(tenant, wait.approval, passkey)
    await recorded(scene, tenant, "stepup.approved")
    out, keys = tmp_path / "person.json", tmp_path / "keys.json"
    words = ["subject", "export", "--tenant", tenant, name, "--out", str(out), "--with-keys", str(keys)]
    words += ["--context", str(scene.installation.local.context)]
    assert await asyncio.to_thread(main, words) == 0, capsys.readouterr().err
    document = json.loads(out.read_text())
    assert (document["schema"], document["name"]) == ("nomos.subject-export/1", name)
    (held,) = document["subjects"]
    assert len(held["held"]["passkeys"]) == 1
    assert {"approver.added", "passkey.enrolled", SUBJECT_NAMED, "stepup.approved"} <= {
        r["type"] for r in document["records"]
    }
    opened = {(r["type"], f): text for r in document["records"] for f, text in r["opened"].items()}
    assert opened[SUBJECT_NAMED, "name"] == opened["approver.added", "name"] == name
    assert opened["passkey.enrolled", "label"] == "passkey"
    assert other not in out.read_text()
    assert out.stat().st_mode & 0o077 == keys.stat().st_mode & 0o077 == 0
    (told,) = await scene.events(tenant, "subject.disclosed")
    assert told.event["purpose"] == "export"
    disclosed = parse_disclosure(keys.read_bytes())
    assert list(disclosed) == [held["dek"]]
    assert not scene.files_with(next(iter(disclosed.values()))), "a key stands open on the bus or at rest"
    assert await asyncio.to_thread(main, words) == 2
    bundle = await exported(scene, tenant, tmp_path / "bundle")
    trust = scene.installation.local.trust.read_bytes()
    report = verify_export(bundle, trust, 2, now=2_000_000_000, tenant=tenant, keys=disclosed)
    assert report.verdict is Verdict.VERIFIED, render_text(report)
    assert any("3 sealed fields opened" in one for one in report.checked), report.checked


async def test_a_tenant_is_erased_in_every_service_and_no_other_tenant_is_touched(scene: Any, tmp_path: Path) -> None:
    a, b, ask = await scene.tenant(), await scene.tenant(), scene.operator.ask
    bot, others = await scene.agent(a), await scene.agent(b)
    await scene.approver(a)
    name_b, passkey_b = await scene.approver(b)
    await scene.auditor(a)
    assert isinstance(await bot.agent.authorize(DELETE, REPO), StepUpRequired)
    await refused(ask("proxy", "tenant-erase", name=a, basis="contract ended"), "refused")
    database = await scene.admin_database()

    async def sealed(tenant: str) -> dict[str, int]:
        return {s: await database.fetchval(f"SELECT count(*) FROM {s}.sealed WHERE tenant = $1", tenant)
                for s in OWNERS if s != "audit"}  # fmt: skip

    before = await sealed(b)
    assert sum((await sealed(a)).values()) > 0
    await ask("identity", "tenant-close", name=a, basis="contract ended")
    for service in ("policy", "minting", "proxy", "stepup", "identity"):
        done = await ask(service, "tenant-erase", name=a, basis="contract ended")
        assert done["service"] == service
        again = await ask(service, "tenant-erase", name=a, basis="contract ended")
        assert (again["subjects"], again["secrets"]) == (0, 0)
    assert set((await sealed(a)).values()) == {0}
    assert await sealed(b) == before
    erased = await scene.events(a, "tenant.erased")
    assert sorted(str(e.event["service"]) for e in erased) == ["identity", "minting", "policy", "proxy", "stepup"]
    assert len(await scene.events(a, SUBJECT_ERASED)) == 2

    # Its agent is cut off, nothing new is accepted of it, and its log can still be read and proven.
    await refused(bot.agent.authorize(DELETE, REPO, timeout_ms=2_000), "unavailable", "revoked")
    await refused(ask("stepup", "approver-add", a, name="late"), "revoked")
    await refused(ask("identity", "app-create", a, name="late"), "revoked")
    assert {("approver-add", "revoked"), ("app-create", "revoked")} <= set(await scene.refusals(a))
    await recorded(scene, a, "tenant.erased")
    bundle = await exported(scene, a, tmp_path / "bundle")
    trust = scene.installation.local.trust.read_bytes()
    report = verify_export(bundle, trust, 2, now=2_000_000_000, tenant=a)
    assert report.verdict is Verdict.VERIFIED, render_text(report)
    assert not any("what the fields under" in one for one in report.not_checked), report.not_checked

    wait = await others.agent.authorize(DELETE, REPO)
    assert (await scene.approve(b, wait.approval, passkey_b))["approver"] == name_b


async def test_adding_and_erasing_a_person_go_on_after_a_crash_at_each_step(scene: Any) -> None:
    tenant, ask = await scene.tenant(connection=False, policy=""), scene.operator.ask
    stepup = scene.installation.services["stepup"]
    subjects = Subjects(stepup._parts.store, stepup._sealer)
    store = StepupStore(stepup._parts.store, stepup._sealer, subjects)
    run, by = scene.installation.run, Actor(kind="operator", id="dev")
    # Died with the name known, before the approver was added.
    subject = await run(subjects.enrol(tenant, "approver", "ada", by=by, corr="", now=1))
    await refused(ask("stepup", "passkey-offer", tenant, name="ada"), "not_found")
    assert (await ask("stepup", "approver-add", tenant, name="ada"))["subject"] == subject
    # Died with the right taken away, before the key was destroyed.
    await run(store.decide_approver(tenant, subject, RemoveApprover(now=2), by, ""))
    done = await ask("stepup", "subject-erase", tenant, name="ada", basis="asked")
    assert done["erased"] == 1
    kinds = [e.type for e in await scene.events(tenant) if e.event.get("approver", e.event.get("subject")) == subject]
    assert kinds == [SUBJECT_NAMED, "approver.added", "approver.removed", SUBJECT_ERASED]


async def test_the_commands_list_erase_and_ask_before_a_tenant_is_destroyed(
    scene: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    tenant, ask = await scene.tenant(connection=False, policy=""), scene.operator.ask
    made = await ask("stepup", "approver-add", tenant, name="ada")

    async def run(*words: str) -> int:
        context = ["--context", str(scene.installation.local.context), "--tenant", tenant]
        return await asyncio.to_thread(main, [*words, *context])

    assert await run("subject", "list") == 0
    assert f"{made['subject']}  approver  ada" in capsys.readouterr().out
    assert await run("subject", "erase", "ada", "--basis", "asked") == 0
    assert f"{made['subject']} (approver) erased by stepup" in capsys.readouterr().out
    assert await run("subject", "erase", "ada", "--basis", "asked") == 0
    assert "nothing to erase" in capsys.readouterr().out
    assert await run("subject", "export", "ada", "--out", str(scene.directory / "none.json")) == 1
    assert not (scene.directory / "none.json").exists()
    assert await run("tenant", "erase", "--basis", "ended") == 2
    assert {"tenant": tenant, "closed": False} in (await ask("identity", "tenant-list"))["tenants"]
    assert await run("tenant", "erase", "--basis", "ended", "--yes") == 0
    assert "identity" in capsys.readouterr().out
    assert {"tenant": tenant, "closed": True} in (await ask("identity", "tenant-list"))["tenants"]


async def test_services_start_again_with_an_erased_tenant_in_their_history(scene: Any) -> None:
    tenant, ask = await scene.tenant(), scene.operator.ask
    await scene.approver(tenant)
    await ask("identity", "tenant-close", name=tenant, basis="ended")
    for service in ("policy", "minting", "proxy", "stepup", "identity"):
        await ask(service, "tenant-erase", name=tenant, basis="ended")
    installation = scene.installation
    for service in ("identity", "stepup", "minting", "proxy"):
        await installation.stop_service(service)
        await installation.start_service(service)
    for service in installation.services.values():
        await scene.until(lambda service=service: not service.faults(), "a service without faults")
    await refused(ask("stepup", "approver-add", tenant, name="late"), "revoked")
    # A new tenant is served as ever.
    assert isinstance(await (await scene.agent(await scene.tenant())).agent.authorize(DELETE, REPO), StepUpRequired)
