"""The replay set on a real stream: any number of proxies, one use; and what a restart, a loss and a liar do to it."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from nats.aio.msg import Msg
from tests.integration.plainserver import PlainServer, synced

from nomos.errors import Replayed, Unavailable
from nomos.natsclient import LeanClient
from nomos_proxy import replay
from nomos_proxy.marks import KEYS_MAX, encode_keys
from nomos_proxy.replay import READ_MESSAGES, TTL_SECONDS_MIN, ReplaySet
from nomos_runtime.bus import Bus
from nomos_runtime.topology.streams import STREAMS, Bounds, stream_config

UNTIL_SECONDS = 20.0
NONCE = next(s for s in STREAMS if s.name == "NONCE")


async def until(condition: Callable[[], Any], what: str) -> None:
    ends = time.monotonic() + UNTIL_SECONDS
    while not condition():
        assert time.monotonic() < ends, f"waited in vain for: {what}"
        await asyncio.sleep(0.01)


class Stage:
    """A server that syncs every write, the stream, and proxies' replay sets."""

    def __init__(self, folder: Path) -> None:
        self.store = folder / "store"
        self._server = PlainServer(folder, synced(self.store))
        self.start, self.kill = self._server.start, self._server.kill
        self._clients: list[LeanClient] = []

    async def bus(self) -> Bus:
        client = LeanClient()
        bus = Bus("proxy", client, 64)
        await client.connect(
            self._server.url,
            max_reconnect_attempts=-1,
            reconnect_time_wait=0.05,
            error_cb=bus._error,
            reconnected_cb=bus._reconnected,
        )
        self._clients.append(client)
        return bus

    async def opened(self, timeout_ms: int = 2_000) -> ReplaySet:
        return await ReplaySet.open(await self.bus(), ttl_seconds=TTL_SECONDS_MIN, timeout_ms=timeout_ms)

    async def make_stream(self) -> None:
        wanted = msgspec.json.encode(stream_config(NONCE, Bounds(nonce_bytes=1 << 20)))
        reply = await (await self.bus()).request("$JS.API.STREAM.CREATE.NONCE", wanted, 5_000)
        assert "error" not in msgspec.json.decode(reply)

    async def count(self) -> int:
        reply = await (await self.bus()).request("$JS.API.STREAM.INFO.NONCE", b"", 5_000)
        return int(msgspec.json.decode(reply)["state"]["messages"])

    async def close(self) -> None:
        for client in self._clients:
            await client.close()
        self.kill()


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    stage = Stage(tmp_path)
    stage.start()
    await stage.make_stream()
    yield stage
    await stage.close()


async def outcome(used: Awaitable[None]) -> str:
    try:
        await used
    except (Replayed, Unavailable) as e:
        return e.code
    return "mine"


async def test_of_any_number_of_proxies_exactly_one_uses_a_key(stage: Stage) -> None:
    sets = [await stage.opened() for _ in range(3)]
    keys = [f"key-{number}" for number in range(150)]
    outcomes = await asyncio.gather(*(outcome(one.use(key)) for key in keys for one in sets))
    assert Counter(outcomes) == {"mine": len(keys), "replayed": 2 * len(keys)}
    again = await asyncio.gather(*(outcome(one.use(key)) for key in keys for one in sets))
    assert Counter(again) == {"replayed": 3 * len(keys)}


async def test_calls_that_wait_share_messages(stage: Stage) -> None:
    one = await stage.opened()
    before, calls = await stage.count(), 4 * KEYS_MAX
    assert set(await asyncio.gather(*(outcome(one.use(f"key-{number}")) for number in range(calls)))) == {"mine"}
    assert await stage.count() - before == calls // KEYS_MAX


async def test_one_key_twice_in_one_process_is_refused_without_a_message(stage: Stage) -> None:
    one = await stage.opened()
    before = await stage.count()
    outcomes = await asyncio.gather(*(outcome(one.use("key")) for _ in range(5)))
    assert outcomes == ["mine", *["replayed"] * 4]
    assert await outcome(one.use("key")) == "replayed"
    assert await stage.count() == before + 1


async def test_more_calls_than_may_wait_are_refused_by_the_limits_name(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await stage.opened()
    monkeypatch.setattr(replay, "WAITING_MAX", 3)
    first = [asyncio.create_task(one.use(f"key-{number}")) for number in range(3)]
    await asyncio.sleep(0)
    with pytest.raises(Unavailable, match="WAITING_MAX of the replay set is 3"):
        await one.use("over")
    await asyncio.gather(*first)
    await one.use("over")


async def test_an_answer_of_several_messages_needs_its_end(stage: Stage) -> None:
    bus = await stage.bus()
    # A subject that somebody hears and nobody answers, one that nobody hears, and an end of another kind.
    await bus.listen("silent", ignore)
    with pytest.raises(Unavailable, match="no whole answer"):
        await bus.request_many("silent", b"", 100, {"204"})
    with pytest.raises(Unavailable, match="status 503"):
        await bus.request_many("nobody", b"", 2_000, {"204"})
    assert await bus.request_many(replay.READ_SUBJECT, b'{"seq":1000,"batch":5}', 2_000, {"204", "404"}) == []


async def ignore(message: Msg) -> None:
    return


async def test_what_others_marked_before_is_known_to_a_new_process(stage: Stage) -> None:
    old = await stage.opened()
    # More messages than one question reads.
    for number in range(READ_MESSAGES + 20):
        await old.use(f"key-{number}")
    # As versions before marked: the key in the subject.
    await (await stage.bus()).request("nonce.old-form", b"", 2_000)
    new = await stage.opened()
    for key in ("key-0", f"key-{READ_MESSAGES + 19}", "old-form"):
        assert await outcome(new.use(key)) == "replayed"
    await new.use("fresh")


async def test_marks_whose_time_is_over_leave_a_gap_that_is_read_over(stage: Stage) -> None:
    one, other = await stage.opened(), await stage.opened()
    bus = await stage.bus()
    await bus.request("nonce.short", b"", 2_000, {"Nats-TTL": "1s"})
    await other.use("of-the-other")
    ends = time.monotonic() + UNTIL_SECONDS
    before = await stage.count()
    while await stage.count() >= before:
        assert time.monotonic() < ends
        await asyncio.sleep(0.05)
    assert await outcome(one.use("of-the-other")) == "replayed"
    await one.use("mine")


async def test_a_server_that_dies_costs_permissions_and_gives_none_twice(stage: Stage) -> None:
    one, other = await stage.opened(timeout_ms=300), await stage.opened(timeout_ms=300)
    await one.use("before")
    stage.kill()
    lost = await asyncio.gather(*(outcome(one.use(f"key-{number}")) for number in range(20)))
    assert Counter(lost) == {"unavailable": 20}
    stage.start()
    bus = one._bus
    await until(lambda: bus.connected and other._bus.connected, "the return")
    outcomes: Counter[str] = Counter()
    for number in range(20):
        for proxy in (other, one):
            outcomes[f"{number} {await outcome(proxy.use(f'key-{number}'))}"] += 1
    assert all(count == 1 for told, count in outcomes.items() if told.endswith("mine"))
    assert await outcome(other.use("before")) == await outcome(one.use("before")) == "replayed"


async def test_an_exchanged_store_is_read_from_its_beginning(stage: Stage) -> None:
    one = await stage.opened()
    for number in range(5):
        await one.use(f"key-{number}")
    stage.kill()
    await until(lambda: not one._bus.connected, "the loss")
    shutil.rmtree(stage.store)
    stage.start()
    await stage.make_stream()
    bus = await stage.bus()
    # At a sequence that this process has read behind, in the other store.
    for number in range(20):
        await bus.request(f"nonce.x-{number}", encode_keys([f"other-{number}"]), 2_000)
    await until(lambda: one._bus.connected, "the return")
    assert await outcome(one.use("other-1")) == "replayed"
    assert await outcome(one.use("key-1")) == "replayed"
    await one.use("fresh")


async def test_a_message_that_is_no_mark_lets_nothing_run(stage: Stage) -> None:
    one = await stage.opened()
    await (await stage.bus()).request("nonce.odd", b"\xc1", 2_000)
    assert await outcome(one.use("key")) == "unavailable"
    # A process that begins now lets nothing run either, and says why.
    assert await outcome((await stage.opened()).use("key")) == "unavailable"


async def test_a_stream_that_does_not_show_what_it_acknowledged_lets_nothing_run(tmp_path: Path) -> None:
    """A replica that is behind, or a liar: no own message in the answer, or one without its place."""
    stage = Stage(tmp_path)
    stage.start()
    try:
        bus = await stage.bus()
        answers: list[dict[str, str]] = []

        async def acknowledge(message: Msg) -> None:
            await message.respond(b'{"stream":"NONCE","seq":5}')

        async def show(message: Msg) -> None:
            for headers in answers:
                await bus.client.publish(message.reply, encode_keys(["other"]), headers=headers)
            await bus.client._send_command(b"HPUB %s  16 16\r\nNATS/1.0 204\r\n\r\n\r\n" % message.reply.encode())

        await bus.client.subscribe("nonce.*", cb=acknowledge)
        await bus.client.subscribe("$JS.API.DIRECT.GET.NONCE", cb=show)
        for lie in ([], [{"Nats-Subject": "nonce.x"}], [{"Nats-Sequence": "2"}, {"Nats-Sequence": "1"}]):
            answers[:] = lie
            one = ReplaySet(await stage.bus(), ttl_seconds=TTL_SECONDS_MIN, timeout_ms=1_000)
            assert await outcome(one.use("key")) == "unavailable"
        answers[:] = [{"Nats-Sequence": "2", "Nats-Subject": "nonce.x"}, {"Nats-Sequence": "5"}]
        one = ReplaySet(await stage.bus(), ttl_seconds=TTL_SECONDS_MIN, timeout_ms=1_000)
        assert await outcome(one.use("other")) == "replayed"
    finally:
        await stage.close()


async def test_without_a_stream_nothing_runs(tmp_path: Path) -> None:
    stage = Stage(tmp_path)
    stage.start()
    try:
        assert await outcome((await stage.opened(timeout_ms=300)).use("key")) == "unavailable"
    finally:
        await stage.close()
