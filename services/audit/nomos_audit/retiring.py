"""Which segments of the chain may go: only those whose records are in the archive, read back, verified and sealed.

Rules; a segment may go when all hold, and it is the oldest:

1. It is ended, and its end is older than the age that the settings name.
2. There is an archive, and every record of the segment lies in days whose seals are signed roots of the log.
3. The archive's parts were fetched within the hour; each has the digest that its seal states, and holds exactly the
   segment's records with their chain hashes, which were recomputed from the chain.
4. The signer, the table, the tenants' streams and the tiles are past it and past the block after it, the tiles in a
   folder that outlives the process, so nothing has to be made from the beginning again.
5. A start of the writer, and of the archiver, needs no block of it: the snapshots of heads that they begin from are
   in later segments.

That a segment goes is recorded in the log before anybody deletes it. This service may delete no stream; whoever asked
does, with a credential of its own (``audit-retirer``), and asking again names what is still there.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple

from nomos.errors import BadSignature, Malformed, NotFound, RolledBack, Unavailable
from nomos.events import Actor
from nomos.log.parts import Part
from nomos.log.tree import ProofFailed
from nomos_audit.archiver import Archiver
from nomos_audit.dailyroots import names_of, read_root
from nomos_audit.follow import Follower, block_at, block_of
from nomos_audit.log import AuditLog
from nomos_audit.replay import Position
from nomos_audit.segments import Segment, room_of, segments
from nomos_audit.store.port import digest_of

RETIRED: Final = "audit.retired"
DAY_SECONDS: Final = 86_400
#: How long one question waits for a segment to be read back; the next one finds what became of it.
COMPARE_WAIT_SECONDS: Final = 60.0
#: How long ago a segment may have been read back when it goes.
COMPARED_SECONDS: Final = 3_600.0

_Row = tuple[int, bytes, bytes]


class Judged(NamedTuple):
    """Whether a segment may go: its name, blocks and records (``first`` to ``last``), and what speaks against it."""

    stream: str
    first_block: int
    last_block: int
    first: int
    last: int
    against: str


class Retirement:
    """Judges segments, and records that one goes."""

    def __init__(
        self,
        log: AuditLog,
        *,
        keep_days: int,
        tiles_stay: bool,
        journal: Callable[[str, dict[str, Any], Actor], Awaitable[None]],
        now: Callable[[], float],
    ) -> None:
        """Takes what it works with.

        Args:
            log: the log, with its archive where it has one.
            keep_days: how long a segment stays after its end.
            tiles_stay: whether the tiles' folder outlives the process.
            journal: makes an event of the audit service durable.
            now: Unix seconds.
        """
        self._log = log
        self._keep_days = keep_days
        self._tiles_stay = tiles_stay
        self._journal = journal
        self._now = now
        #: Segment -> what reads it back, and until when its answer counts.
        self._compared: dict[str, tuple[asyncio.Task[str], float]] = {}

    async def retire(self, by: Actor, *, only_look: bool) -> list[Judged]:
        """Judges all ended segments, oldest first; records those that may go as ``by``'s doing, unless ``only_look``.

        Raises:
            Unavailable: the bus, the store or the journal does not answer.
        """
        found = await segments(self._log.client)
        judged: list[Judged] = []
        blocked = ""
        for one, following in pairwise(found):
            first, last = await self._records(one)
            against = blocked or await self._against(one, following, first, last)
            if not against and not only_look:
                event = {"stream": one.name, "first_block": one.first, "last_block": one.last}
                await self._journal(RETIRED, {**event, "first": first, "last": last}, by)
            judged.append(Judged(one.name, one.first, one.last, first, last, against))
            blocked = f"{one.name} before it stays" if against else ""
        return judged

    async def _records(self, one: Segment) -> tuple[int, int]:
        first, _ = await block_at(self._log.client, one.first)
        last, _ = await block_at(self._log.client, one.last)
        return first.first, last.size - 1

    async def _against(self, one: Segment, following: Segment, first: int, last: int) -> str:
        """What speaks against it; empty where nothing does."""
        ended = (await room_of(self._log.client, following.name)).made_at
        if self._now() - ended < self._keep_days * DAY_SECONDS:
            return f"it ended less than {self._keep_days} days ago"
        archiver = self._log.archiver
        if archiver is None:
            return "there is no archive"
        if not self._tiles_stay:
            return "tiles_dir is not set: the tree would have to be made from the beginning at the next start"
        if archiver.done.last < last:
            return f"the archive is sealed up to record {archiver.done.last}"
        log = self._log
        # A reader that goes on somewhere reads the block before it too, and that must not be the segment's last.
        bound = (await block_at(log.client, following.first))[0].size
        copies = {
            "signer": log.signer.size - 1,
            "table": log.table.size,
            "tiles": log.tiles.files.durable,
            "tenants": log.tenants.size,
        }
        behind = [name for name, size in copies.items() if size < bound]
        if behind:
            return f"not past it: {', '.join(behind)}"
        needs = await self._needs(archiver, one)
        if needs:
            return needs
        return await self._differs(archiver, one, first, last)

    async def _differs(self, archiver: Archiver, one: Segment, first: int, last: int) -> str:
        """Whether the archive gives back something else; a large segment takes longer than one question may wait."""
        task, until = self._compared.get(one.name, (None, 0.0))
        if task is None or (task.done() and (task.result() or self._now() >= until)):
            task = asyncio.create_task(self._compare(archiver, one, first, last), name=f"audit retire {one.name}")
            self._compared[one.name] = (task, self._now() + COMPARED_SECONDS)
        await asyncio.wait([task], timeout=COMPARE_WAIT_SECONDS)
        return task.result() if task.done() else "it is being read back from the archive; ask again"

    async def _compare(self, archiver: Archiver, one: Segment, first: int, last: int) -> str:
        """What differs between the segment and the archive; empty where nothing does."""
        try:
            await self._read_back(archiver, one, first, last)
        except (Malformed, BadSignature, RolledBack, NotFound, Unavailable) as error:
            return f"the archive does not hold it: {error.detail}"
        return ""

    def close(self) -> None:
        """Ends what is being read back."""
        for task, _ in self._compared.values():
            task.cancel()
        self._compared.clear()

    async def _needs(self, archiver: Archiver, one: Segment) -> str:
        """Whether a start needs a block of the segment."""
        newest = (await segments(self._log.client))[-1].last
        sealed = await block_of(self._log.client, archiver.done.last, newest)
        for name, at in (("writer", newest), ("archiver", sealed)):
            block, _ = await block_at(self._log.client, at)
            # The block before the snapshot is read too.
            if block.heads_at - 1 <= one.last:
                return f"a start of the {name} needs block {max(block.heads_at - 1, 1)}"
        return ""

    async def _read_back(self, archiver: Archiver, one: Segment, first: int, last: int) -> None:
        """Compares each record of the segment, its hash recomputed, with what the archive gives back.

        Raises:
            RolledBack: they differ.
            BadSignature: a root of the archive is not signed, or does not prove its seal.
            Malformed: an object is not what its name says.
            NotFound: an object is gone.
            Unavailable: the bus or the store does not answer.
        """
        # The block before may be retired. What this one says of it is proven with the first hash that the archive has.
        begin, _ = await block_at(self._log.client, one.first)
        follower = Follower(self._log.client, Position(block=one.first - 1, size=begin.first, hash=begin.prev))
        number = first
        try:
            async with aclosing(self._archived(archiver, first, last)) as rows:
                while follower.position.block < one.last:
                    for block in await follower.take(1.0):
                        if block.after.block > one.last:
                            break
                        for record, own in zip(block.block.records, block.hashes, strict=True):
                            if await anext(rows, None) != (number, own, record):
                                raise RolledBack(f"record {number} of the archive is not that of the chain")
                            number += 1
        finally:
            await follower.close()
        if number != last + 1:
            raise RolledBack(f"the segment ends at record {number - 1}, not {last}")

    async def _archived(self, archiver: Archiver, first: int, last: int) -> AsyncGenerator[_Row, None]:
        """Records ``first`` to ``last`` as the store gives them back: number, chain hash, bytes."""
        store = archiver.store
        days, _ = await names_of(store)
        for day in days:
            seal = (await read_root(store, day, self._log.signer.open_note)).seal
            if seal.first > last:
                return
            for file in seal.files:
                if file.last < first or file.first > last:
                    continue
                with tempfile.TemporaryDirectory(prefix="nomos-retire-") as folder:
                    path = Path(folder) / "part"
                    await store.fetch(file.n, path)
                    # Files are read in a thread: the writer lives in this loop.
                    if await asyncio.to_thread(digest_of, path) != file.sha256:
                        raise ProofFailed(f"{file.n} does not have the digest that its seal states")
                    with Part(path, with_prev=False) as part:
                        for group in range(part.groups):
                            rows = await asyncio.to_thread(part.read, group)
                            for row, seq in enumerate(rows.seqs):
                                if first <= seq <= last:
                                    yield seq, rows.hash(row), rows.record(row)
