"""What happens to an account's tokens while something else does: a removal, another connecting, an erasure."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.integration.accounts import World
from tests.integration.provider import needs_provider
from tests.integration.test_renewed_accounts import Sweep, admin, calendar, connect_for, opened, sweep

from nomos import events
from nomos.cli.context import Context
from nomos.errors import JournalUnavailable
from nomos.events import Envelope
from nomos_proxy.oauth import flow, grants, renewing, sweeping
from nomos_runtime.eventstore import EventStore

__all__ = ["sweep"]
pytestmark = needs_provider


async def outcomes(world: World) -> list[tuple[str, str]]:
    return [(e["outcome"], e["code"]) for e in await world.events(events.CREDENTIAL_RENEWED)]


async def erase(world: World) -> None:
    ask = world.scene.operator.ask
    await ask("identity", "tenant-close", "_", name=world.tenant, basis="ended")
    await ask("proxy", "tenant-erase", "_", name=world.tenant, basis="ended", timeout_ms=30_000)
    database = await world.scene.admin_database()
    assert await database.fetchval("SELECT count(*) FROM proxy.grants WHERE tenant = $1", world.tenant) == 0


@pytest.mark.parametrize("lives", [3_600, 0])
async def test_tokens_that_came_while_their_connection_was_removed_are_given_back(
    scene: Any, sweep: Sweep, lives: int
) -> None:
    """Also those that name no end, which nobody would look for again."""
    async with calendar(scene) as world:
        await world.connect("calendar")
        held = admin(world)._grants

        async def begun() -> Any:
            grant = await held.find(world.tenant, "calendar", "google-calendar")
            assert await held.lease(world.tenant, "calendar", grant.generation, "another process")
            return grant

        async def ended(grant: Any) -> None:
            now = int(time.time())
            ends = now + lives if lives else 0
            tokens = msgspec.structs.replace(grant.tokens, obtained_at=now, expires_at=ends)
            assert await held.store(grant, "google-calendar", tokens)

        grant = await scene.installation.run(begun())
        assert (await world.ask("connection-remove", name="calendar"))["outcome"] == "under way"
        await scene.installation.run(ended(grant))
        await sweep(world)
        assert [s["status"] for s in await world.provider.seen("revocation")] == [200]
        (revoked,) = await world.events(events.CREDENTIAL_REVOKED)
        assert revoked["outcome"] == "revoked"


async def test_what_cannot_be_asked_for_hides_nobody_from_the_sweep(
    scene: Any, sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grants, "DUE_MAX", 2)
    async with opened(scene) as world:
        await connect_for(world, 5)
        database = await scene.admin_database()
        stuck = "INSERT INTO proxy.grants (tenant, connection, generation, record, renew_at, state) "
        for number in range(5):
            await database.execute(f"{stuck} VALUES ($1, $2, 1, '', 1, 'active')", world.tenant, f"stuck-{number}")
        await database.execute(
            "UPDATE proxy.grants SET renew_at = 2 WHERE tenant = $1 AND connection = 'github'", world.tenant
        )
        monkeypatch.setattr(renewing, "renew_at", lambda tokens: 1)
        await sweep(world)
        assert (await world.state())["generation"] == 2


async def test_a_removed_account_s_tokens_that_wait_are_given_back_before_an_erasure(scene: Any) -> None:
    async with calendar(scene) as world:
        await world.connect("calendar")
        await world.provider.control(revocation="down")
        assert (await world.ask("connection-remove", name="calendar"))["outcome"] == "failed"
        await world.provider.control(revocation="up")
        await erase(world)
        (revoked,) = await world.events(events.CREDENTIAL_REVOKED)
        assert (revoked["outcome"], revoked["tries"]) == ("revoked", 2)


async def test_a_provider_that_does_not_answer_holds_up_no_erasure_and_the_log_says_so(
    scene: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeping, "LEAVE_SECONDS", 0.3)
    async with calendar(scene) as world:
        await world.connect("calendar")
        await world.provider.control(revocation="hang")
        await erase(world)
        (told,) = await world.events(events.CREDENTIAL_REVOKED)
        assert (told["outcome"], told["code"]) == ("failed", "unknown_outcome")


async def test_a_client_that_does_not_open_costs_tries_and_not_for_ever(
    scene: Any, sweep: Sweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeping, "REVOKE_TRIES_MAX", 1)
    async with calendar(scene) as world:
        await world.connect("calendar")
        database = await scene.admin_database()
        client = "tenant = $1 AND name = 'oauth-client/google-calendar'"
        kept = await database.fetchval(f"SELECT record FROM proxy.sealed WHERE {client}", world.tenant)
        await database.execute(f"UPDATE proxy.sealed SET record = 'altered' WHERE {client}", world.tenant)
        try:
            assert (await world.ask("connection-remove", name="calendar"))["outcome"] == "failed"
        finally:
            # Others count on records that open.
            await database.execute(f"UPDATE proxy.sealed SET record = $2 WHERE {client}", world.tenant, kept)
        (told,) = await world.events(events.CREDENTIAL_REVOKED)
        assert (told["outcome"], told["code"]) == ("failed", "credential_unreadable")


async def test_tokens_that_came_too_late_to_be_stored_are_in_the_log_as_such(
    scene: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lease ran out: another process has stored a set while this one's request was on its way."""
    async with opened(scene, rotate=False) as world:
        bot = await connect_for(world, 1)
        await asyncio.sleep(1.1)
        parts = admin(world)
        original, late = renewing.Accounts._asked, []

        async def overtaken(self: Any, party: Any, connection: Any, grant: Any) -> Any:
            tokens = await original(self, party, connection, grant)
            if not late:
                late.append(1)
                assert await parts._grants.store(grant, "github", await original(self, party, connection, grant))
            return tokens

        monkeypatch.setattr(renewing.Accounts, "_asked", overtaken)
        assert (await world.call(bot)).status == 200
        assert await outcomes(world) == [("failed", "conflict")]
        assert len(await world.events(events.CREDENTIAL_RENEWING)) == 1
        assert (await world.state())["generation"] == 2


async def test_an_account_that_is_stored_while_the_journal_is_away_keeps_its_tokens(
    scene: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with calendar(scene) as world:
        original, away = EventStore._publish, [True]

        async def publish(self: EventStore, first: int, batch: list[bytes]) -> None:
            told = [msgspec.msgpack.decode(one, type=Envelope).type for one in batch]
            if away and events.CONNECTION_ADDED in told:
                raise JournalUnavailable("the journal did not confirm the change")
            await original(self, first, batch)

        monkeypatch.setattr(EventStore, "_publish", publish)
        assert await world.browser.connect(await world.link("calendar")) == 503
        away.clear()
        await scene.until(lambda: world.events(events.CONNECT_ENDED), "what is stored is in the log")
        (ended,) = await world.events(events.CONNECT_ENDED)
        assert (ended["outcome"], ended["code"]) == ("connected", "journal_unavailable")
        assert (await world.state("calendar"))["state"] == "ready"
        assert await world.provider.seen("revocation") == []


async def test_a_link_leads_to_the_provider_so_often(scene: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow, "BEGINS_MAX", 2)
    async with opened(scene) as world:
        link = await world.link()
        for _ in range(2):
            await world.browser.begin(link)
        with pytest.raises(AssertionError, match="Begins_max of a link is 2"):
            await world.browser.begin(link)
        refused = await world.events(events.REQUEST_REFUSED)
        assert [e["code"] for e in refused] == ["limit_exceeded"]
        assert len(await world.events(events.CONNECT_BEGUN)) == 2


async def test_a_command_that_waits_for_a_person_does_not_take_a_renewal_for_one(scene: Any, tmp_path: Path) -> None:
    local = scene.installation.local
    context = tmp_path / "context.json"
    told = Context(
        bus_url=scene.installation.bus.url, operator_creds=str(local.operator_creds), trust="", origin="",
        environment="development", rp_id="", expected_origin="",
    )  # fmt: skip
    context.write_bytes(msgspec.json.encode(told))
    async with opened(scene) as world:
        await world.connect()
        words = ["connection", "connect", "--tenant", world.tenant, "--connector", "github", "--name", "github"]

        async def waiting(seconds: int) -> tuple[asyncio.subprocess.Process, str]:
            command = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "nomos.cli.main", *words, "--wait", str(seconds), "--context", str(context),
                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )  # fmt: skip
            assert command.stderr is not None
            return command, (await command.stderr.readline()).decode().split()[-1]

        command, _ = await waiting(3)
        ended = asyncio.create_task(command.communicate())
        while not ended.done():
            await world.ask("connection-renew", name="github")
            await asyncio.wait([ended], timeout=0.5)
        _, said = await ended
        assert (command.returncode, said) == (4, b"nomos: not connected yet; the link still works\n")
        command, link = await waiting(60)
        assert await world.browser.connect(link) == 200
        out, _ = await asyncio.wait_for(command.communicate(), 30)
        assert (command.returncode, out) == (0, b"connection github is connected\n")
