"""No room: each stream that answers depend on, full; and the disk under all of them. Deny, and nothing is lost.

The streams lie on a small file system of their own where this machine lets the test mount one. Where it does not, the
server may not let a file grow: the same for whoever writes, and worse for the server, which ends.
"""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from nomos.errors import Conflict, JournalUnavailable
from nomos_runtime.topology.streams import Bounds

pytestmark = [pytest.mark.system, pytest.mark.asyncio(loop_scope="module")]

MIB = 1 << 20
DISK_BYTES = 192 * MIB
SMALL = Bounds(
    intake_bytes=8 * MIB, chain_bytes=4 * MIB, audit_bytes=16 * MIB, checkpoint_bytes=MIB, nonce_bytes=8 * 1024
)
#: Of all streams together: what they have, with NONCE grown, and no room for a second segment of the chain.
STORE_BYTES = 40 * MIB
#: After the operator has given the server a larger disk.
LARGE_STORE_BYTES = 1 << 30
#: Bytes in each request, so that megabytes are full after dozens of requests.
FILLER = 40_000


class Disk:
    """The file system below the streams, and how it becomes full."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        options = ["-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=0700", "tmpfs", str(folder)]
        mounted = subprocess.run(["mount", *options], capture_output=True, check=False)
        self.is_mounted = mounted.returncode == 0 and os.environ.get("NOMOS_TEST_DISK") != "rlimit"
        self._limits: tuple[int, int] | None = None

    def fill(self, pid: int) -> None:
        """Leaves no room for the process ``pid``, which writes here."""
        if self.is_mounted:
            with (self.folder / "filler").open("wb", buffering=0) as filler:
                for size in (MIB, 4_096):
                    with suppress(OSError):  # no space left, as wanted; the server writes beside us
                        while True:
                            filler.write(bytes(size))
        else:
            largest = max(path.stat().st_size for path in self.folder.rglob("*") if path.is_file())
            _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
            resource.prlimit(pid, resource.RLIMIT_FSIZE, (largest, hard))

    def clear(self) -> None:
        (self.folder / "filler").unlink(missing_ok=True)

    def close(self) -> None:
        subprocess.run(["umount", str(self.folder)], capture_output=True, check=False)


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Disk]:
    disk = Disk(tmp_path_factory.mktemp("full") / "data" / "nats" / "jetstream")
    yield disk
    disk.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def small(disk: Disk, build_world: Any) -> AsyncIterator[Any]:
    async with build_world(disk.folder.parents[2], bounds=SMALL, store_bytes=STORE_BYTES) as world:
        yield world


def enlarge(world: Any) -> None:
    """Gives the server more room, which it takes when it starts."""
    if world.local.nats.max_file_store != LARGE_STORE_BYTES:
        world.local.nats.kill()
        world.start_nats(LARGE_STORE_BYTES)


async def refused_only(load: Any) -> None:
    """Returns when nothing succeeds any more: a smaller event may find room for a while, and calls are under way."""
    done = -1
    while load.done != done:
        done = load.done
        await load.trouble(times=16)


async def test_a_full_replay_set_lets_nothing_run(small: Any) -> None:
    async with small.load() as load:
        await load.refusals("unavailable")
        await refused_only(load)
        await small.grow("PROXY", nonce_bytes=8 * MIB)
        await load.more(20, "calls to succeed again")
    await small.check(load)


async def test_a_full_log_stops_no_answer_and_loses_none(small: Any) -> None:
    await small.grow("PROXY", nonce_bytes=8 * MIB)
    async with small.load(filler=FILLER) as load:
        await small.until(lambda: small.said("audit", "audit_chain_roll_away"), "the log to have no room to roll into")
        await small.until(lambda: small.said("audit", "audit_append_unknown"), "the log to be full")
        # The journal has room: answers are durable there and wait for the log.
        await load.more(5)
    enlarge(small)
    await small.grow("AUDIT", chain_bytes=64 * MIB)
    await small.check(load)


async def test_a_full_journal_denies_everything_and_loses_nothing(small: Any) -> None:
    enlarge(small)
    await small.grow("PROXY", nonce_bytes=8 * MIB)
    await small.grow("AUDIT", chain_bytes=64 * MIB)
    async with small.load(filler=FILLER) as load:
        await load.trouble("journal_unavailable")
        await refused_only(load)
        # A change is smaller than a decision: the first ones may find room.
        operator, names = await small.operator(), [f"made-when-full-{number}" for number in range(100)]
        for name in names:
            try:
                await operator.ask("identity", "app-create", "acme", name=name)
            except JournalUnavailable:
                break
        await small.grow("AUDIT", intake_bytes=64 * MIB)
        await load.more(20, "calls to succeed again")
    await small.check(load)
    assert name != names[-1]

    # The operator was told that the change is stored and takes effect when there is room.
    async def is_in_effect() -> bool:
        created = [r["event"]["app"] for r in await small.records() if r["type"] == "app.created"]
        return created.count(name) == 1

    await small.until(is_in_effect, "the stored change to take effect")
    with pytest.raises(Conflict):
        await operator.ask("identity", "app-create", "acme", name=name)


async def test_a_full_disk_denies_everything_and_loses_nothing(small: Any, disk: Disk) -> None:
    enlarge(small)
    await small.grow("PROXY", nonce_bytes=8 * MIB)
    await small.grow("AUDIT", chain_bytes=64 * MIB, intake_bytes=64 * MIB)
    async with small.load() as load:
        await load.more(20)
        disk.fill(small.local.nats.pid)
        await load.trouble()
        await refused_only(load)
        assert set(load.errors) <= {"journal_unavailable", "unavailable", "unknown_outcome", "stale_policy"}
        disk.clear()
        # JetStream stays off after a failed write until the server is started again.
        small.local.nats.kill()
        small.start_nats()
        await load.more(20, "calls to succeed again")
    await small.check(load)
