"""Files of a volume over the real bus: decided by directory, opened without a link, recorded like any call."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from nomos.agent import Allowed, Denied, StepUpRequired
from nomos.bearer import seal_bearer
from nomos.errors import Conflict, Malformed, Misconfigured, NotCovered, NotFound, PathRefused, ResponseRefused
from nomos_runtime.launch import build

POLICY = """
@id("reports") permit (principal, action in [Action::"connector:files"], resource in Files::Directory::"work/reports");
@id("other-volume") permit (principal, action, resource in Files::Volume::"own");
"""
FILE = "files:file/work/reports/q4.md"
AUDIENCE = "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/pool/providers/nomos"
VOLUMES = "NOMOS_PROXY_FILES_VOLUMES"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the volume ``work``: a folder for each tenant, which a test makes."""
    return tmp_path_factory.mktemp("shared")


@pytest.fixture
async def proxy(installation: Any, shared: Path) -> AsyncIterator[None]:
    """The proxy, with the volume ``work``; afterwards as it was."""
    before = installation.environment

    def environment(service: str) -> dict[str, str]:
        return before(service) | {VOLUMES: f"work={shared}"}

    installation.environment = environment
    await installation.stop_service("proxy")
    await installation.start_service("proxy")
    yield
    installation.environment = before
    await installation.stop_service("proxy")
    await installation.start_service("proxy")


async def set_up(scene: Any, shared: Path) -> tuple[str, Any, Path]:
    """A tenant with a folder in the volume, an agent, and the connection ``files``."""
    tenant = await scene.tenant(policy=POLICY, connection=False)
    folder = shared / tenant
    (folder / "reports").mkdir(parents=True)
    await scene.operator.ask("proxy", "connection-add", tenant, connector="files", name="files", host="work")
    return tenant, await scene.agent(tenant), folder


async def test_an_agent_reads_and_writes_in_the_directory_that_a_policy_names_and_not_beside_it(
    scene: Any, proxy: None, shared: Path
) -> None:
    tenant, bot, folder = await set_up(scene, shared)
    made = await bot.agent.call("files:files.create", FILE, {"text": f"fine; {scene.SECRET}\n"})
    assert isinstance(made, Allowed)
    assert made.status == 201
    read = await bot.agent.call("files:files.read", FILE)
    assert isinstance(read, Allowed)
    # as every answer, it went through the sanitizer
    assert read.body.startswith(b"fine; [redacted")
    assert (folder / "reports" / "q4.md").read_text() == f"fine; {scene.SECRET}\n"
    (folder / "reports-old").mkdir()
    (folder / "reports-old" / "q4.md").write_text("old")
    for resource in ("files:file/work/reports-old/q4.md", "files:file/work/q4.md"):
        denied = await bot.agent.call("files:files.read", resource)
        assert isinstance(denied, Denied)
    assert isinstance(await bot.agent.call("files:files.delete", FILE), StepUpRequired)
    attempts = await scene.events(tenant, "proxy.attempted")
    ends = await scene.events(tenant, "proxy.finished")
    assert [(e.event["method"], e.event["path"], e.event["resource"]) for e in attempts] == [
        ("POST", "/create/reports/q4.md", FILE), ("GET", "/read/reports/q4.md", FILE),
    ]  # fmt: skip
    assert [(e.event["outcome"], e.event["status"]) for e in ends] == [("done", 201), ("done", 200)]
    decided = [e.event["outcome"] for e in await scene.events(tenant, "authz.decision")]
    assert decided == ["allow", "allow", "deny", "deny", "step_up"]


async def test_a_link_is_refused_and_the_refusal_is_in_the_log(scene: Any, proxy: None, shared: Path) -> None:
    tenant, bot, folder = await set_up(scene, shared)
    (shared / "beside.txt").write_text("of somebody else")
    (folder / "reports" / "q4.md").symlink_to(shared / "beside.txt")
    with pytest.raises(PathRefused):
        await bot.agent.call("files:files.read", FILE)
    (end,) = await scene.events(tenant, "proxy.finished")
    assert (end.event["outcome"], end.event["code"], end.event["bytes"]) == ("failed", "path_refused", 0)
    assert ("invoke", "path_refused") in await scene.refusals(tenant)
    (folder / "reports" / "q4.md").unlink()
    (folder / "reports" / "q4.md").write_bytes(b"\xff\xfe\x00binary")
    with pytest.raises(ResponseRefused):
        await bot.agent.call("files:files.read", FILE)
    # larger than a message of the bus, it comes in pieces; larger than that, not at all
    (folder / "reports" / "q4.md").write_bytes(b"words " * 200_000)
    assert (await bot.agent.call("files:files.read", FILE, timeout_ms=60_000)).body == b"words " * 200_000
    (folder / "reports" / "q4.md").write_bytes(b"x" * 9_000_000)
    with pytest.raises(ResponseRefused, match="body_bytes_max"):
        await bot.agent.call("files:files.read", FILE)
    last = (await scene.events(tenant, "proxy.finished"))[-1]
    assert (last.event["outcome"], last.event["code"]) == ("refused", "response_refused")


async def test_a_tenant_has_its_own_folder_and_no_other_s(scene: Any, proxy: None, shared: Path) -> None:
    _, bot, folder = await set_up(scene, shared)
    (folder / "reports" / "q4.md").write_text("mine")
    other, other_bot, _ = await set_up(scene, shared)
    read = await bot.agent.call("files:files.read", FILE)
    assert isinstance(read, Allowed)
    assert read.body == b"mine"
    none = await other_bot.agent.call("files:files.read", FILE)
    assert isinstance(none, Allowed)
    assert (none.status, msgspec.json.decode(none.body)["error"]) == (404, "not_found")
    # decided for one volume, and the connection goes to another
    with pytest.raises(NotCovered, match="another host"):
        await other_bot.agent.call("files:files.read", "files:file/own/x")
    assert ("invoke", "not_covered") in await scene.refusals(other)


async def test_an_operator_names_only_what_the_installation_gives(scene: Any, proxy: None, shared: Path) -> None:
    tenant = await scene.tenant(policy=POLICY, connection=False)
    sealing = await scene.operator.ask("proxy", "sealing-key", tenant)
    sealed = seal_bearer(str(sealing["public_key"]), scene.bearer)
    wrong: list[tuple[dict[str, str], type[Exception], str]] = [
        ({"host": "work"}, NotFound, "no folder"),
        ({"host": "etc"}, NotFound, "no such volume"),
        ({"host": "../etc"}, Malformed, "names its volume"),
        ({"host": "/etc"}, Malformed, "names its volume"),
        ({}, Malformed, "names its volume"),
        ({"host": "work", "sealed_bearer": sealed}, Malformed, "no credential"),
        ({"host": "work", "auth": "bearer"}, Malformed, "no credential"),
        ({"host": "work", "base_url": "http://127.0.0.1:1"}, Malformed, "no other origin"),
        ({"connector": "github", "name": "github"}, Malformed, "has a credential"),
        ({"connector": "github", "sealed_bearer": sealed, "base_url": "ssh://127.0.0.1:22"}, Malformed, "SSH"),
    ]
    for params, kind, says in wrong:
        given = {"connector": "files", "name": "files"} | params
        with pytest.raises(kind, match=says):
            await scene.operator.ask("proxy", "connection-add", tenant, **given)
    assert len([one for one in await scene.refusals(tenant) if one[0] == "connection-add"]) == len(wrong)
    (shared / tenant).mkdir()
    await scene.operator.ask("proxy", "connection-add", tenant, connector="files", name="files", host="work")
    (shown,) = (await scene.operator.ask("proxy", "connection-list", tenant))["connections"]
    assert (shown["method"], shown["host"], shown["state"]) == ("none", "work", "ready")
    with pytest.raises(Conflict, match="no credential"):
        await scene.operator.ask("proxy", "connection-replace", tenant, name="files", sealed_bearer=sealed)
    with pytest.raises(Malformed, match="federated"):
        await scene.operator.ask(
            "proxy", "connection-federate", tenant, connector="files", name="more", host="work",
            federation={"kind": "gcp", "audience": AUDIENCE},
        )  # fmt: skip
    gone = await scene.operator.ask("proxy", "connection-remove", tenant, name="files")
    assert gone["outcome"] == "closed"


async def test_without_a_volume_there_are_no_files(scene: Any) -> None:
    tenant = await scene.tenant(policy=POLICY, connection=False)
    with pytest.raises(NotFound, match="no such volume"):
        await scene.operator.ask("proxy", "connection-add", tenant, connector="files", name="files", host="work")


def test_a_proxy_with_a_wrong_volume_does_not_start(installation: Any) -> None:
    with pytest.raises(Misconfigured, match="files_volumes"):
        build("proxy", installation.environment("proxy") | {VOLUMES: "work=/"})
