"""The environment keys of the services are rotated: whatever is sealed under them moves, and opens as before."""

from __future__ import annotations

import base64
import hashlib
import os
from pathlib import Path
from typing import Any

import pytest

from nomos.agent import Allowed, StepUpRequired
from nomos.errors import Misconfigured
from nomos_proxy.app import build as build_proxy
from nomos_runtime.database import Database
from nomos_runtime.eventstore import EventStore
from nomos_runtime.resealing import by_purpose, reseal
from nomos_runtime.sealing import Sealer
from nomos_runtime.vault import KEY_ID_BYTES, CredentialUnreadable, key_id_of

DELETE, LIST, REPO = "github:repos.delete", "github:issues.list", "github:repo/acme/site"
#: Service -> the name of its environment key.
KEYS = {
    "identity": "IDENTITY_KEY_ENCRYPTION_KEY",
    "stepup": "STEPUP_KEY_ENCRYPTION_KEY",
    "minting": "MINT_KEY_ENCRYPTION_KEY",
    "proxy": "OAUTH_TOKEN_ENCRYPTION_KEY",
}


def key_id(text: str) -> bytes:
    return hashlib.sha256(base64.urlsafe_b64decode(text + "=")).digest()[:KEY_ID_BYTES]


def new_key() -> str:
    return base64.urlsafe_b64encode(os.urandom(32)).decode().rstrip("=")


async def restart(installation: Any) -> None:
    for service in KEYS:
        await installation.stop_service(service)
    for service in ("identity", "stepup", "minting", "proxy"):
        await installation.start_service(service)


async def ids_at_rest(scene: Any, service: str) -> dict[str, set[bytes]]:
    """Beginning of a sealed record's name -> ids of the keys that such records are under."""
    database, found = await scene.admin_database(), {}
    for row in await database.fetch(f"SELECT name, record FROM {service}.sealed"):
        found.setdefault(str(row["name"]).partition("/")[0], set()).add(key_id_of(bytes(row["record"])))
    return found


async def test_every_sealed_record_moves_to_the_new_environment_key_and_opens(scene: Any) -> None:
    installation, ask = scene.installation, scene.operator.ask
    secrets = Path(installation.local.directory) / "secrets"
    tenant = await scene.tenant()
    bot = await scene.agent(tenant)
    name, passkey = await scene.approver(tenant)
    await scene.auditor(tenant)
    await ask("minting", "issuer-rotate", tenant, why="so that there are two")
    await ask("proxy", "client-set", tenant, connector="github", client_id="ours")
    assert isinstance(await bot.agent.authorize(LIST, REPO), Allowed)
    waits = await bot.agent.authorize(DELETE, REPO)
    assert isinstance(waits, StepUpRequired)
    old = {service: (secrets / key).read_text() for service, key in KEYS.items()}
    for service, key in KEYS.items():
        (secrets / f"{key}_OTHERS").write_text(old[service])
        (secrets / key).write_text(new_key())
    await restart(installation)
    progress = await ask("proxy", "key-progress", "_")
    assert progress["current"] >= 1
    assert progress["other"] == 0
    # what lies under the tenant's data key opens as before
    await ask("proxy", "connection-connect", tenant, connector="github", name="work")
    for service, key in KEYS.items():
        current = key_id((secrets / key).read_text())
        held = await ids_at_rest(scene, service)
        # What a tenant's data key seals stays; it does not change.
        bearers = set().union(*(held.pop(name, set()) for name in ("bearer", "oauth-client", "connect")))
        assert {one for ids in held.values() for one in ids} == {current}, service
        assert key_id(old[service]) not in bearers
    assert {"subject-key", "subject-index", "subject-index-key", "role-key"} <= set(
        await ids_at_rest(scene, "identity")
    )
    assert {"subject-key", "subject-index", "subject-index-key", "cosigner-key"} <= set(
        await ids_at_rest(scene, "stepup")
    )
    for key in KEYS.values():
        (secrets / f"{key}_OTHERS").unlink()
    await restart(installation)

    # Without the old keys: names open, people are found by name and erased, approvals, tokens and credentials work.
    listed = [s["name"] for s in (await ask("stepup", "subject-list", tenant))["subjects"]]
    assert listed == [name]
    operators = [s["name"] for s in (await ask("identity", "subject-list", "_"))["subjects"]]
    assert "admin" in operators
    assert (await scene.approve(tenant, waits.approval, passkey))["approver"] == name
    assert isinstance(await bot.agent.authorize(LIST, REPO), Allowed)
    await bot.agent.call(LIST, REPO)
    await scene.agent(tenant)
    assert (await ask("stepup", "subject-erase", tenant, name=name, basis="asked"))["erased"] == 1


@pytest.fixture
async def store(scene: Any) -> Any:
    database = await Database.open("stepup", scene.installation.environment("stepup")["NOMOS_DATABASE_URL"])
    yield EventStore(database, scene.installation.services["stepup"]._parts.bus, journal_timeout_ms=1_000), database
    await database.close()


async def put(database: Database, tenant: str, records: dict[str, bytes]) -> None:
    async with database.transaction(tenant) as c:
        for name, record in records.items():
            await c.execute("INSERT INTO sealed (tenant, name, record) VALUES ($1, $2, $3)", tenant, name, record)


def ring(current: str, *others: str) -> Sealer:
    return Sealer.from_env("KEY", {"KEY": current, "KEY_OTHERS": " ".join(others)})


async def test_a_record_that_does_not_open_is_left_and_counted_and_keeps_no_other_from_moving(
    scene: Any, store: tuple[EventStore, Database]
) -> None:
    events, database = store
    tenant, old, new, lost = scene.name("reseal"), new_key(), new_key(), new_key()

    def sealed(key: str, name: str) -> bytes:
        return ring(key).seal(b"x" * 32, purpose="p", tenant=tenant, name=name)

    records = {
        "good/1": sealed(old, "good/1"), "good/2": sealed(new, "good/2"), "good/3": sealed(lost, "good/3"),
        "good/4": sealed(old, "good/5"), "unknown": sealed(old, "unknown"), "good/6": b"short",
        "good/7": sealed(old, "good/7"),
    }  # fmt: skip
    await put(database, tenant, records)
    both = ring(new, old)
    done = await reseal(events, [tenant], by_purpose(both, {"good/": "p"}))
    assert (done.moved, done.left) == (2, 4)
    kept = {name: await events.sealed(tenant, name) for name in records}
    assert {name for name in records if kept[name] != records[name]} == {"good/1", "good/7"}
    for name in ("good/1", "good/2", "good/7"):
        opened = ring(new).open(kept[name] or b"", purpose="p", tenant=tenant, name=name)
        assert opened == b"x" * 32
    again = await reseal(events, [tenant], by_purpose(both, {"good/": "p"}))
    assert (again.moved, again.left) == (0, 4)


async def test_a_key_that_is_destroyed_while_it_is_sealed_again_does_not_come_back(
    scene: Any, store: tuple[EventStore, Database]
) -> None:
    events, database = store
    tenant, old, new = scene.name("reseal"), new_key(), new_key()
    record = ring(old).seal(b"x" * 32, purpose="p", tenant=tenant, name="k")
    await put(database, tenant, {"k": record})
    async with database.transaction(tenant) as c:
        await c.execute("DELETE FROM sealed WHERE tenant = $1", tenant)
    again = ring(new, old).seal(b"x" * 32, purpose="p", tenant=tenant, name="k")
    assert not await events.replace_sealed(tenant, "k", record, again)
    assert await events.sealed(tenant, "k") is None


def test_without_the_key_among_the_others_nothing_opens_and_a_bad_key_stops_the_service(installation: Any) -> None:
    old, new = new_key(), new_key()
    record = ring(old).seal(b"x" * 32, purpose="p", tenant="acme", name="k")
    with pytest.raises(CredentialUnreadable):
        ring(new).open(record, purpose="p", tenant="acme", name="k")
    assert ring(new, old).open(record, purpose="p", tenant="acme", name="k") == b"x" * 32
    assert (ring(new).is_rotating, ring(new, old).is_rotating) == (False, True)
    env = installation.environment("proxy")
    for others in ("nonsense", f"{old} {old}"):
        with pytest.raises(Misconfigured):
            build_proxy(env | {"OAUTH_TOKEN_ENCRYPTION_KEY_OTHERS": others})
