"""A host that speaks SSH, over the real bus: a pinned key, a path by policy, a command that a person releases."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import asyncssh
import msgspec
import pytest
from tests.unit.proxy.sshserver import Server

from nomos.agent import Allowed, Denied, StepUpRequired
from nomos.bearer import seal_bearer
from nomos.errors import HostKeyChanged, Malformed, NomosError, PathRefused

HOST = "build.example.com"


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("root/app", "root/app-old", "root/closed"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "f").write_text(name)
    return tmp_path / "root"


def policy(root: Path) -> str:
    at = f"{HOST}{root}"
    return (
        f'@id("app") permit (principal, action, resource in Ssh::Directory::"{at}/app");\n'
        f'@id("outside") permit (principal, action, resource in Ssh::Directory::"{HOST}{root.parent}/outside");\n'
        f'@id("commands") permit (principal, action == Action::"ssh:commands.run", resource == Ssh::Host::"{HOST}");\n'
    )


async def add(scene: Any, server: Server, tenant: str, root: Path, key: bytes = b"", **params: object) -> Any:
    sealing = str((await scene.operator.ask("proxy", "sealing-key", tenant))["public_key"])
    ssh = {"user": "deploy", "host_keys": [server.public_key + " root@build"], "roots": [str(root)]}
    given: dict[str, object] = {
        "connector": "ssh", "name": "ssh", "host": HOST, "base_url": str(server.origin), "ssh": ssh,
        "sealed_bearer": seal_bearer(sealing, (key or server.private_key).decode()),
    }  # fmt: skip
    return await scene.operator.ask("proxy", "connection-add", tenant, **(given | params))


async def test_an_agent_reads_below_the_directory_that_a_policy_names(scene: Any, server: Server, root: Path) -> None:
    tenant = await scene.tenant(policy=policy(root), connection=False)
    bot = await scene.agent(tenant)
    await add(scene, server, tenant, root)
    file = f"ssh:file/{HOST}{root}/app/f"
    read = await bot.agent.call("ssh:files.read", file)
    assert isinstance(read, Allowed)
    assert (read.status, read.body) == (200, b"root/app")
    assert isinstance(await bot.agent.call("ssh:files.read", f"ssh:file/{HOST}{root}/app-old/f"), Denied)
    assert isinstance(await bot.agent.call("ssh:files.read", f"ssh:file/other.example.com{root}/app/f"), Denied)
    (attempt,) = await scene.events(tenant, "proxy.attempted")
    assert (attempt.event["method"], attempt.event["path"]) == ("GET", f"/read{root}/app/f")
    (end,) = await scene.events(tenant, "proxy.finished")
    assert (end.event["outcome"], end.event["status"]) == ("done", 200)
    # allowed by policy, and beside the connection's roots
    (root.parent / "outside").mkdir()
    with pytest.raises(PathRefused):
        await bot.agent.call("ssh:files.read", f"ssh:file/{HOST}{root.parent}/outside/f")
    (root / "app" / "link").symlink_to("../closed")
    with pytest.raises(PathRefused):
        await bot.agent.call("ssh:files.read", f"ssh:file/{HOST}{root}/app/link/f")
    ends = await scene.events(tenant, "proxy.finished")
    assert [(e.event["outcome"], e.event.get("code")) for e in ends[1:]] == [("failed", "path_refused")] * 2
    assert [one for one in await scene.refusals(tenant) if one == ("invoke", "path_refused")] != []
    (shown,) = (await scene.operator.ask("proxy", "connection-list", tenant))["connections"]
    assert (shown["method"], shown["ssh"]["user"], shown["ssh"]["roots"]) == ("key", "deploy", [str(root)])


async def test_a_command_runs_once_a_person_has_released_exactly_that_one(
    scene: Any, server: Server, root: Path
) -> None:
    tenant = await scene.tenant(policy=policy(root), connection=False)
    bot = await scene.agent(tenant)
    _, passkey = await scene.approver(tenant)
    await add(scene, server, tenant, root)
    command = ("ssh:commands.run", f"ssh:host/{HOST}", {"program": "cat", "arguments": ["-n"], "stdin": "a\nb\n"})
    wait = await bot.agent.call(*command)
    assert isinstance(wait, StepUpRequired)
    assert server.commands == []
    await scene.approve(tenant, wait.approval, passkey)
    done = await bot.agent.call(*command, cosigner=await bot.agent.wait_for(wait, 10))
    assert isinstance(done, Allowed)
    answer = msgspec.json.decode(done.body)
    assert (answer["exit_status"], answer["stdout"]) == (0, "     1\ta\n     2\tb\n")
    assert server.commands == ["'cat' '-n'"]


async def test_a_changed_host_key_is_refused_and_recorded(scene: Any, server: Server, root: Path) -> None:
    tenant = await scene.tenant(policy=policy(root), connection=False)
    bot = await scene.agent(tenant)
    await add(scene, server, tenant, root)
    await server.restart(asyncssh.generate_private_key("ssh-ed25519"))
    server.users.clear()
    with pytest.raises(HostKeyChanged):
        await bot.agent.call("ssh:files.read", f"ssh:file/{HOST}{root}/app/f")
    (end,) = await scene.events(tenant, "proxy.finished")
    assert (end.event["outcome"], end.event["code"]) == ("failed", "host_key_changed")
    assert ("invoke", "host_key_changed") in await scene.refusals(tenant)
    assert server.users == []
    # until an operator says that the host has this key now, which the log keeps
    other = await scene.tenant(policy=policy(root))
    for of, params, says in (
        (tenant, {"name": "ssh", "host_keys": ["ssh-ed25519 AAAA"]}, "a host key is one line"),
        (tenant, {"name": "ssh"}, "has a credential"),
        (other, {"name": "github", "host_keys": [server.public_key]}, "hosts of SSH"),
    ):
        with pytest.raises(Malformed, match=says):
            await scene.operator.ask("proxy", "connection-replace", of, **params)
    await scene.operator.ask("proxy", "connection-replace", tenant, name="ssh", host_keys=[server.public_key])
    read = await bot.agent.call("ssh:files.read", f"ssh:file/{HOST}{root}/app/f")
    assert isinstance(read, Allowed)
    (replaced,) = await scene.events(tenant, "connection.replaced")
    assert replaced.event == {"name": "ssh", "host_keys": [server.public_key]}


async def test_a_connection_to_a_host_says_all_that_it_must_and_its_key_stays(
    scene: Any, server: Server, root: Path
) -> None:
    tenant = await scene.tenant(policy=policy(root), connection=False)
    ok = {"user": "deploy", "host_keys": [server.public_key], "roots": [str(root)]}
    wrong: list[tuple[dict[str, object], str]] = [
        ({"ssh": {}}, "the user is"),
        ({"ssh": ok | {"host_keys": []}}, "at least one pinned key"),
        ({"ssh": ok | {"host_keys": ["ssh-ed25519 " + "A" * 68]}}, "cannot be read"),
        ({"ssh": ok | {"roots": ["/etc/../root"]}}, "dot segment"),
        ({"ssh": ok | {"host_keys": [server.public_key] * 9}}, "host_keys_max is 8"),
        ({"host": "localhost"}, "a host of its own"),
        ({"host": "127.0.0.1"}, "a host of its own"),
        ({"auth": "bearer"}, "says itself"),
        ({"base_url": "http://127.0.0.1:22"}, "ssh://host:port"),
        ({"sealed_bearer": ""}, "has a credential"),
        ({"connector": "github"}, "hosts of SSH"),
    ]
    for params, says in wrong:
        with pytest.raises(NomosError, match=says):
            await add(scene, server, tenant, root, **params)
    with pytest.raises(Malformed, match="Ed25519"):
        await add(scene, server, tenant, root, b"no-private-key-at-all")
    weak = asyncssh.generate_private_key("ecdsa-sha2-nistp256").export_private_key()
    with pytest.raises(Malformed, match="Ed25519"):
        await add(scene, server, tenant, root, weak)
    assert len(await scene.refusals(tenant)) == len(wrong) + 2
    await add(scene, server, tenant, root)
    # replaced by another key of the same kind, which the host does not know
    sealing = str((await scene.operator.ask("proxy", "sealing-key", tenant))["public_key"])
    other = asyncssh.generate_private_key("ssh-ed25519").export_private_key().decode()
    with pytest.raises(Malformed, match="Ed25519"):
        await scene.operator.ask(
            "proxy", "connection-replace", tenant, name="ssh", sealed_bearer=seal_bearer(sealing, "token-token")
        )
    await scene.operator.ask(
        "proxy", "connection-replace", tenant, name="ssh", sealed_bearer=seal_bearer(sealing, other)
    )
    bot = await scene.agent(tenant)
    with pytest.raises(NomosError, match="does not take the connection's key"):
        await bot.agent.call("ssh:files.read", f"ssh:file/{HOST}{root}/app/f")
    middle = server.private_key.splitlines()[2]
    assert scene.files_with(middle) == []
