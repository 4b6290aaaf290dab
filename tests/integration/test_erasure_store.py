"""Keys of people in the event store, on a real Postgres and a real journal: crashes, races, other tenants."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from nomos.errors import Conflict, JournalUnavailable, Revoked
from nomos.events import Actor, Envelope
from nomos.ids import new_id
from nomos.log.sealedfield import SUBJECT_ERASED, SUBJECT_NAMED
from nomos_runtime.erasing import erase_tenant
from nomos_runtime.eventstore import SUBJECT_KEY
from nomos_runtime.sealing import Sealer
from nomos_runtime.subjects import Subjects

from .test_eventstore import Store

BY = Actor(kind="operator", id="dev")
NOW = 1_795_305_600


@pytest.fixture
async def people(servers: Any) -> AsyncIterator[tuple[Store, Subjects, str]]:
    if not servers.local.nats.running:
        servers.start_nats()
    await servers.purge()
    opened = await Store.open(servers)
    await opened.store.relay()
    yield opened, Subjects(opened.store, Sealer.from_text("A" * 43)), "t" + new_id("x")[-20:]
    await opened.close()


async def test_a_crash_after_the_key_is_destroyed_ends_in_a_record(servers: Any, people: Any) -> None:
    """The journal is away when the erasure commits; the next process of the service publishes it."""
    opened, subjects, tenant = people
    subject = await subjects.enrol(tenant, "approver", "ada", by=BY, corr="", now=NOW)
    servers.kill_nats()
    with pytest.raises(JournalUnavailable):
        await subjects.erase(tenant, subject, basis="asked", by=BY, corr="", now=NOW)
    assert await opened.store.sealed(tenant, SUBJECT_KEY + subject) is None
    assert await subjects.find(tenant, "approver", "ada") is None
    assert (await subjects.show(tenant, subject)).name is None
    assert not await subjects.erase(tenant, subject, basis="asked", by=BY, corr="", now=NOW)
    servers.start_nats()
    successor = await Store.open(servers)
    try:
        assert await successor.store.relay() >= 0
        history = [s.envelope.type for s in await successor.store.load(tenant, f"subject/{subject}")]
        assert history == [SUBJECT_NAMED, SUBJECT_ERASED]
    finally:
        await successor.close()


async def test_nothing_is_sealed_under_a_key_after_its_erasure(people: Any) -> None:
    """A process that opened the key a moment before another destroyed it does not get its event stored."""
    opened, subjects, tenant = people
    subject = await subjects.enrol(tenant, "approver", "ada", by=BY, corr="", now=NOW)
    event: dict[str, object] = {"approver": subject, "reason": "no, by ada"}
    made = Envelope(
        id=new_id("ev"), type="stepup.denied", tenant=tenant, actor=BY, corr="", cause="", event=event
    )  # fmt: skip
    late = await subjects.protect(made)
    assert await subjects.erase(tenant, subject, basis="asked", by=BY, corr="", now=NOW)
    with pytest.raises(Conflict, match="destroyed"):
        await opened.store.append(tenant, "approval/x", 0, [late])
    with pytest.raises(Conflict, match="erased"):
        await subjects.protect(made)
    assert await opened.store.load(tenant, "approval/x") == []


async def test_of_many_who_add_or_erase_one_person_at_once_one_does(people: Any) -> None:
    _, subjects, tenant = people
    added = await asyncio.gather(
        *(subjects.enrol(tenant, "approver", "ada", by=BY, corr="", now=NOW) for _ in range(5))
    )
    assert len(set(added)) == 1
    erased = await asyncio.gather(
        *(subjects.erase(tenant, added[0], basis="asked", by=BY, corr="", now=NOW) for _ in range(5))
    )
    assert sorted(erased) == [False] * 4 + [True]


async def test_an_interrupted_erasure_of_a_tenant_goes_on_and_nothing_comes_after(people: Any) -> None:
    opened, subjects, tenant = people
    first, second = [await subjects.enrol(tenant, "approver", name, by=BY, corr="", now=NOW) for name in ("ada", "bob")]
    other = await subjects.enrol("beta", "approver", "ada", by=BY, corr="", now=NOW)
    await subjects.erase(tenant, first, basis="ended", by=BY, corr="", now=NOW)

    async def again() -> tuple[int, int]:
        return await erase_tenant(
            opened.store, subjects, tenant, service="stepup", basis="ended", by=BY, corr="", now=NOW
        )

    assert await again() == (1, 1)
    assert await again() == (0, 0)
    assert await opened.store.sealed_names(tenant, "") == []
    assert (await subjects.show(tenant, second)).name is None
    assert (await subjects.show("beta", other)).name == "ada"
    with pytest.raises(Revoked):
        await subjects.enrol(tenant, "approver", "eve", by=BY, corr="", now=NOW)
    with pytest.raises(Revoked):
        await opened.store.seal_once(tenant, "data-key", b"x")
    assert await opened.store.sealed(tenant, "data-key") is None


async def test_a_subject_of_one_tenant_is_unknown_to_another(people: Any) -> None:
    _, subjects, tenant = people
    subject = await subjects.enrol(tenant, "approver", "ada", by=BY, corr="", now=NOW)
    assert await subjects.find("beta-two", "approver", "ada") != subject
    assert not await subjects.erase("beta-two", subject, basis="asked", by=BY, corr="", now=NOW)
    assert (await subjects.show(tenant, subject)).name == "ada"
