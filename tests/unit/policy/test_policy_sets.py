"""The sets of a replica: compiled when asked for, never older than what was seen, and bounded in memory."""

from __future__ import annotations

import asyncio
import threading

import msgspec
import pytest

from nomos.errors import StalePolicy
from nomos.events import AGENT_CREATED, POLICY_PUT
from nomos.messages import Authorize, now_ms
from nomos.servicemessages import Fact
from nomos_policy import store as module
from nomos_policy.decision import Outcome, decide
from nomos_policy.handlers import Authorizer
from nomos_policy.history import PolicyPut
from nomos_policy.policyset import SLICE_SIZE, SLICED_TEXT_MAX, CompiledSet, load_policies, text_sha256
from nomos_policy.remembered import Remembered
from nomos_policy.settings import PolicySettings
from nomos_policy.store import FULL_SHARES, PolicySets
from nomos_runtime.directory import Directory
from nomos_runtime.responder import Caller

PERMIT = '@id("all") permit(principal, action, resource);'
FORBID = '@id("none") forbid(principal, action, resource);'


def _fact(tenant: str, revision: int, text: str = PERMIT) -> Fact:
    put = PolicyPut(tenant=tenant, revision=revision, sha256=text_sha256(text), text=text, actor="op", why="test", at=1)
    return Fact(rev=1, type=POLICY_PUT, tenant=tenant, event=msgspec.to_builtins(put))


async def test_a_new_revision_takes_the_slices_and_evaluations_of_the_old_one_away(vocabulary, ask) -> None:
    sets = PolicySets(vocabulary)
    sets.apply(_fact("acme", 1))
    before = await sets.in_force("acme")
    assert decide(ask(before)).outcome is Outcome.ALLOW
    sets.apply(_fact("acme", 2, FORBID))
    after = await sets.in_force("acme")
    assert (before.revision, after.revision) == (1, 2)
    assert decide(ask(after)).outcome is Outcome.DENY


async def test_an_older_revision_never_comes_back(vocabulary) -> None:
    sets = PolicySets(vocabulary)
    sets.apply(_fact("acme", 2, FORBID))
    sets.apply(_fact("acme", 1))
    assert (await sets.in_force("acme")).revision == 2


async def test_a_tenant_without_policies_has_a_set_that_permits_nothing(vocabulary, ask) -> None:
    found = await PolicySets(vocabulary).in_force("nobody")
    assert decide(ask(found)).outcome is Outcome.DENY


async def test_requests_that_wait_for_one_tenants_set_compile_it_once(vocabulary, monkeypatch) -> None:
    compiled: list[int] = []

    def counting(text: str, vocabulary: object, *, revision: int) -> CompiledSet:
        compiled.append(revision)
        return load_policies(text, vocabulary, revision=revision)

    sets = PolicySets(vocabulary)
    monkeypatch.setattr(module, "load_policies", counting)
    sets.apply(_fact("acme", 1))
    found = await asyncio.gather(*(sets.in_force("acme") for _ in range(20)))
    assert compiled == [1]
    assert all(one is found[0] for one in found)


async def test_a_revision_that_comes_while_the_older_is_compiled_is_what_the_request_gets(
    vocabulary, monkeypatch
) -> None:
    started, go = threading.Event(), threading.Event()

    def slow(text: str, vocabulary: object, *, revision: int) -> CompiledSet:
        started.set()
        assert go.wait(timeout=30)
        return load_policies(text, vocabulary, revision=revision)

    sets = PolicySets(vocabulary)
    monkeypatch.setattr(module, "load_policies", slow)
    sets.apply(_fact("acme", 1))
    waiting = asyncio.create_task(sets.in_force("acme"))
    # The loop is free while a set is compiled: that is why this wait ends.
    assert await asyncio.to_thread(started.wait, 30)
    sets.apply(_fact("acme", 2, FORBID))
    go.set()
    assert (await waiting).revision == 2
    assert (await sets.in_force("acme")).revision == 2


async def test_a_replica_that_is_no_longer_fresh_when_the_policies_are_compiled_decides_nothing(
    vocabulary, monkeypatch
) -> None:
    started, go = threading.Event(), threading.Event()
    stale: list[bool] = []

    def slow(text: str, vocabulary: object, *, revision: int) -> CompiledSet:
        started.set()
        assert go.wait(timeout=30)
        return load_policies(text, vocabulary, revision=revision)

    def check_fresh() -> None:
        if stale:
            raise StalePolicy("not fresh")

    sets, directory = PolicySets(vocabulary), Directory()
    agent = {"agent": "bot", "app": "triage", "env": "test", "did": "did:key:z", "key": "U1"}
    directory.apply(Fact(rev=1, type=AGENT_CREATED, tenant="acme", event=agent))
    monkeypatch.setattr(module, "load_policies", slow)
    sets.apply(_fact("acme", 1))
    # The bus, the journal and stepup are not there: a request that got so far would fail on them.
    authorizer = Authorizer(
        settings=PolicySettings(connectors="connectors", bus_url="", bus_creds=""), bus=None, journal=None,
        directory=directory, catalogue=vocabulary.catalogue, sets=sets, cosigners=None, check_fresh=check_fresh,
        decided=lambda *_: None,
    )  # fmt: skip
    command = Authorize(
        v=1, id="rq", deadline_ms=now_ms() + 60_000, action="github:issues.list", resource="github:repo/acme/site"
    )
    waiting = asyncio.create_task(authorizer.authorize(Caller(tenant="acme", name="bot", kind="agent"), command))
    assert await asyncio.to_thread(started.wait, 30)
    stale.append(True)
    go.set()
    with pytest.raises(StalePolicy):
        await waiting


async def test_the_sets_asked_for_least_recently_are_dropped_and_compiled_again(vocabulary) -> None:
    sets = PolicySets(vocabulary, text_max=2 * len(PERMIT))
    for tenant in ("one", "two", "three"):
        sets.apply(_fact(tenant, 1))
    one, two = await sets.in_force("one"), await sets.in_force("two")
    assert await sets.in_force("one") is one
    await sets.in_force("three")
    assert await sets.in_force("one") is one
    again = await sets.in_force("two")
    assert again is not two
    assert (again.revision, again.sha256) == (two.revision, two.sha256)


async def test_start_compiles_no_more_than_may_stay_compiled_and_than_its_time_allows(vocabulary, monkeypatch) -> None:
    compiled: list[str] = []

    def counting(text: str, vocabulary: object, *, revision: int) -> CompiledSet:
        compiled.append(text)
        return load_policies(text, vocabulary, revision=revision)

    sets = PolicySets(vocabulary, text_max=2 * len(PERMIT))
    for tenant in ("one", "two", "three"):
        sets.apply(_fact(tenant, 1))
    monkeypatch.setattr(module, "load_policies", counting)
    await sets.compile_all(seconds=-1)
    assert not compiled
    await sets.compile_all()
    assert len(compiled) == 2
    assert (await sets.in_force("three")).policies


async def test_many_tenants_share_the_room_that_few_may_fill(vocabulary, monkeypatch) -> None:
    parts: dict[int, int] = {}
    monkeypatch.setattr(CompiledSet, "share", lambda self, part: parts.__setitem__(id(self), part))
    sets = PolicySets(vocabulary)
    kept = []
    for number in range(FULL_SHARES + 1):
        sets.apply(_fact(f"t{number}", 1))
        kept.append(await sets.in_force(f"t{number}"))
        assert set(parts.values()) == ({1} if number < FULL_SHARES else {2})


def test_the_slices_of_a_set_are_bounded_by_their_text(vocabulary, ask) -> None:
    padding = "x" * 8_000
    text = "".join(
        f'@id("p{number}") @description("a") permit(principal == Agent::"a{number}", action, resource) '
        f'when {{ "{padding}" != "" }};'
        for number in range(5)
    )
    policies = load_policies(text, vocabulary, revision=1)
    policies.share(SLICED_TEXT_MAX // 20_000)
    for number in range(5):
        assert decide(ask(policies, agent=f"a{number}")).outcome is Outcome.ALLOW
    # Two of 8 kB and not five are kept; the answers are what they were.
    assert len(policies._slices) == 20_000 // (8_000 + SLICE_SIZE)
    for number in range(5):
        assert decide(ask(policies, agent=f"a{number}")).outcome is Outcome.ALLOW


def test_what_is_kept_is_bounded_by_its_size_and_the_newest_stays() -> None:
    memory = Remembered(10)
    memory.put("a", 1, 4)
    memory.put("b", 2, 4)
    memory.put("a", 3, 4)
    assert len(memory) == 2
    memory.put("c", 4, 40)
    assert (memory.get("a"), memory.get("b"), memory.get("c")) == (None, None, 4)
    memory.put("d", 5, 1)
    memory.put("e", 6, 1)
    memory.resize(1)
    assert (memory.get("d"), memory.get("e")) == (None, 6)


@pytest.mark.parametrize("size", [0, 5_000])
def test_large_arguments_count_more_than_small_ones(compiled, ask, size) -> None:
    policies = compiled('@id("x") permit(principal, action, resource) when { context.args has title };'.replace(
        "action,", 'action == Action::"github:issues.create",'))  # fmt: skip
    policies.remembered.resize(8)
    for number in range(8):
        decide(ask(policies, "github:issues.create", args={"title": f"{number}" + "x" * size}))
    assert len(policies.remembered) == (8 if not size else 1)
