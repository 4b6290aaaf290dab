"""The archiver: closes each day with a seal and brings its records, root and proofs into the archive.

For each day, in order; each step can be repeated, and after a crash at any point the same steps give the same objects:

1. Its records become Parquet parts, stored and read back (:mod:`nomos_audit.dayparts`).
2. The seal, which names those parts by digest and holds the roots over all tenants' heads and producers' counters as of
   the day's last record, is journalled like every other event; the writer chains it. A seal that is in the chain
   already is taken as it is.
3. The signer signs exactly the size that the seal completes: the daily root.
4. Tiles, proofs, heads and root are stored, the root last of them; then the index ``log.json`` is replaced.
5. Where authorities are configured the root gets its time-stamp tokens, and the index lists them.

A day's records end before the first record of a later day, or where the chain ends once the day is over (records are
stamped by the writer, one time for each block, so a range ends with a block). The clock names days; it orders nothing:
a record that is stamped earlier than the one before belongs to the day that is open. Days without a record are sealed
too.

Every process could do this at once: objects are never overwritten, and of two seals of a day the first counts, both
saying the same. To spare work the active writer's process begins, and a standby waits :data:`STANDBY_SECONDS` longer.

Trusted: the chain, as far as it was verified. Not trusted: the store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

import msgspec
from nats.aio.client import Client

from nomos.errors import Conflict, NotFound, RolledBack, Unavailable
from nomos.log.archive import ArchiveRow
from nomos.log.checkpoint import Checkpoint
from nomos.log.heads import (
    ERASURE,
    SEAL,
    Place,
    Roots,
    Seal,
    SealRef,
    event_of,
    format_leaves,
    producers_root,
    root_of,
    tenant_leaf,
    tenant_leaves,
)
from nomos.log.index import (
    EXPORT_SCHEMA,
    INDEX_NAME,
    ExportIndex,
    FileEntry,
    PartEntry,
    format_index,
    root_name,
)
from nomos.log.keyhistory import short_name
from nomos.log.record import parse_record, parse_ts
from nomos.log.roots import format_root_proofs
from nomos.log.tree import ProofFailed
from nomos.waiting import raise_if_cancelled
from nomos_audit.checkpoints import Signer
from nomos_audit.dailyroots import listed, names_of, read_root
from nomos_audit.dayparts import DayParts
from nomos_audit.dayseals import POLL_SECONDS, FoundSeal, Projected, find_seal, proofs_of, settled
from nomos_audit.domain import JOURNAL
from nomos_audit.follow import Follower, head_at
from nomos_audit.head import Head, empty_head
from nomos_audit.notes import find_note
from nomos_audit.replay import HINT, VerifiedBlock, evolve, position_of
from nomos_audit.store.port import Store, digest_of
from nomos_audit.tiles import Tiles
from nomos_runtime import observe
from nomos_runtime.database import Database

#: After midnight UTC; by so much the writers' clocks may differ.
GRACE_SECONDS: Final = 30.0
STANDBY_SECONDS: Final = 60.0
RETRY_SECONDS: Final = 5.0
#: How long a seal, or its root, is waited for before all is looked at anew.
WAIT_SECONDS: Final = 60.0

DAY_SEALED: Final = "audit_day_sealed"
DAY_ARCHIVED: Final = "audit_day_archived"
ARCHIVE_AWAY: Final = "audit_archive_away"

_ERASURE_END: Final = f'"type":"{ERASURE}","v":1}}'.encode()


class Done(msgspec.Struct, frozen=True, kw_only=True):
    """What is archived.

    Attributes:
        day: the newest sealed day; empty before the first.
        last: its last record, -1 before the first.
        seal: its seal.
        root_size: size of its root.
        files: all parts, in order.
        others: all other objects that the index names.
    """

    day: str
    last: int
    seal: SealRef | None
    root_size: int
    files: tuple[PartEntry, ...]
    others: tuple[FileEntry, ...]


NOTHING: Final = Done(day="", last=-1, seal=None, root_size=0, files=(), others=())


class Archiver:
    """Archives one log. :meth:`run` until cancelled."""

    def __init__(
        self,
        client: Client,
        database: Database,
        store: Store,
        *,
        origin: str,
        signer: Signer,
        blinding_key: bytes,
        journal: Callable[[str, dict[str, Any]], Awaitable[None]],
        tiles: Tiles,
        projected: Projected,
        is_active: Callable[[], bool],
        now: Callable[[], int],
        tool: str,
        grace_seconds: float = GRACE_SECONDS,
        retry_seconds: float = RETRY_SECONDS,
        stamp: Callable[[Collection[str]], Awaitable[tuple[FileEntry, ...]]] | None = None,
        vouched: Callable[[bytes], Awaitable[bytes]] | None = None,
        after_root: Callable[[str, bytes], Awaitable[None]] | None = None,
    ) -> None:
        """Takes what it works with.

        Args:
            client: connected to the account that owns the streams.
            database: the audit service's own.
            store: the archive.
            origin: the log's identity.
            signer: signs the log as it stands, and knows its keys.
            blinding_key: 32 bytes, under which tenants' names are blinded in seals.
            journal: makes an event of the audit service durable.
            tiles: the tree.
            projected: the table in which seals are looked up.
            is_active: whether this process is the active writer.
            now: microseconds since 1970, UTC.
            tool: name and version of the program.
            grace_seconds: after midnight.
            retry_seconds: after the store did not answer.
            stamp: called with the names that the index has when a root is archived; gives the time-stamp tokens that
                are stored and not among them.
            vouched: gives a note with the witnesses' cosignatures, waited for as long as the settings say.
            after_root: called with day and note then (a second bucket).
        """
        self._client = client
        self._database = database
        self._origin = origin
        self._signer = signer
        self._blinding_key = blinding_key
        self._journal = journal
        self._tiles = tiles
        self._projected = projected
        self._is_active = is_active
        self._now = now
        self._tool = tool
        self._grace_seconds = grace_seconds
        self._retry_seconds = retry_seconds
        self._stamp = stamp
        self._vouched = vouched
        self._after_root = after_root
        self.done = NOTHING
        self.store = store
        #: Records that are archived, or on their way there.
        self.gathered = 0

    async def run(self) -> None:
        """Archives until cancelled.

        Raises:
            RolledBack: the archive, or the chain, contradicts the other.
        """
        while True:
            raise_if_cancelled()
            try:
                self.done = await self._resume()
                if self.done.day:
                    # A crash may have left the newest root without them; both do nothing where all is there.
                    await self.replace_index()
                    await self._follow_root(self.done.day, await self.store.get(root_name(self.done.day)))
                head = await self._head_after(self.done.last)
                while True:
                    head = await self._archive_next(head)
            except (Unavailable, NotFound, Conflict) as error:
                # The log goes on without its archive; everything is still in the chain.
                observe.say("audit", ARCHIVE_AWAY, store=self.store.name, detail=error.detail, cause=error.cause)
                await asyncio.sleep(self._retry_seconds)
            except TimeoutError:
                observe.say("audit", ARCHIVE_AWAY, store=self.store.name, detail="a seal or its root is late")
            except ProofFailed as error:
                # Checked before anything was published: the tiles on disk are damaged. They are made anew.
                self._tiles.forget()
                observe.say("audit", ARCHIVE_AWAY, store=self.store.name, detail=f"tiles made anew: {error.detail}")
                await asyncio.sleep(self._retry_seconds)

    # -- where to go on --------------------------------------------------------------------------------------------

    async def _resume(self) -> Done:
        """What the archive holds, checked against the chain and our own signature."""
        days, names = await names_of(self.store)
        await settled(self._client, self._projected)
        if not days:
            return NOTHING
        newest = days[-1]
        stored = await read_root(self.store, newest, self._signer.open_note)
        found = await find_seal(self._database, newest, -1)
        if found is None or found.encoded != stored.proofs.seal or found.record.seq != stored.root.size - 1:
            raise RolledBack(f"the archive holds a seal of {newest} that the chain has not", hint=HINT)
        files, others = await listed(self.store, days, names)
        return Done(
            day=newest,
            last=found.seal.last,
            seal=found.ref,
            root_size=stored.root.size,
            files=files,
            others=others,
        )

    async def _head_after(self, last: int) -> Head:
        """The head after record ``last``, which ended a block."""
        if last < 0:
            return empty_head(self._origin)
        head = await head_at(self._client, self._origin, last)
        if head.size != last + 1:
            raise RolledBack(f"record {last}, which a seal names as a day's last, ends no block", hint=HINT)
        return head

    # -- one day -----------------------------------------------------------------------------------------------------

    async def _archive_next(self, head: Head) -> Head:
        """Archives the next day from ``head`` on; gives the head after its last record."""
        day = _after(self.done.day) if self.done.day else await self._first_day()
        known = await find_seal(self._database, day, -1 if self.done.seal is None else self.done.seal.seq)
        parts = await DayParts.open(self.store, day, head.size)
        try:
            erasures, after = await self._gather(day, head, parts, None if known is None else known.seal.last)
            files = await parts.finish()
        finally:
            parts.close()
        leaves = tenant_leaves(after.tenants, self._blinding_key)
        seal = Seal(
            count=after.size - head.size,
            day=day,
            erasures=erasures,
            files=files,
            first=head.size,
            keys=tuple(short_name(one) for one in self._signer.keys.during(head.size + 1, after.size + 1)),
            last=after.size - 1,
            pc_root=producers_root({name: one.next for name, one in after.producers.items()}).hex(),
            prev_seal=self.done.seal,
            src=(Place(s=JOURNAL, q=after.intake),),
            tenants=Roots(n=len(leaves), root=root_of(tenant_leaf(one) for one in leaves).hex()),
            tool=self._tool,
        )
        found = known or await self._make_seal(seal)
        if msgspec.structs.replace(found.seal, tool=seal.tool, keys=seal.keys) != seal:
            raise RolledBack(f"the chain holds another seal of {day} than its records give", hint=HINT)
        await self._publish(found, format_leaves(leaves))
        return after

    async def _first_day(self) -> str:
        """The day of the log's first record."""
        follower = Follower(self._client, position_of(empty_head(self._origin)))
        try:
            while True:
                raise_if_cancelled()
                for block in await follower.take(POLL_SECONDS):
                    if block.block.records:
                        return _day_of(block)
        finally:
            await follower.close()

    async def _gather(self, day: str, head: Head, parts: DayParts, until: int | None) -> tuple[int, Head]:
        """Brings the day's records into ``parts``; gives the number of erasures and the head after the last.

        Args:
            day: the day.
            head: the head before its first record.
            parts: takes the records.
            until: the day's last record, where a seal says it already.
        """
        erasures = 0
        follower = Follower(self._client, position_of(head))
        try:
            while until is None or head.size <= until:
                raise_if_cancelled()
                if until is None and not self._is_active() and not self._is_over(day):
                    await asyncio.sleep(POLL_SECONDS)
                    continue
                over = self._is_over(day)
                blocks = await follower.take(POLL_SECONDS)
                for block in blocks:
                    if until is None and block.block.records and _day_of(block) > day:
                        return erasures, head
                    rows = [
                        ArchiveRow(block.block.first + index, own, record)
                        for index, (record, own) in enumerate(zip(block.block.records, block.hashes, strict=True))
                    ]
                    await parts.add(rows)
                    erasures += sum(record.endswith(_ERASURE_END) for record in block.block.records)
                    head = evolve(head, block)
                    self.gathered = head.size
                    if until is not None and head.size > until:
                        break
                if until is None and over and not blocks and not await follower.is_behind():
                    break
        finally:
            await follower.close()
        if until is not None and head.size != until + 1:
            raise RolledBack(f"record {until}, which a seal names as a day's last, ends no block", hint=HINT)
        return erasures, head

    def _is_over(self, day: str) -> bool:
        """Whether the day is over by the clock, a while ago; for a standby a longer while."""
        later = self._grace_seconds + (0.0 if self._is_active() else STANDBY_SECONDS)
        midnight = datetime.fromisoformat(day).replace(tzinfo=UTC) + timedelta(days=1)
        return self._now() / 1e6 >= midnight.timestamp() + later

    async def _make_seal(self, seal: Seal) -> FoundSeal:
        after = -1 if self.done.seal is None else self.done.seal.seq
        # Another process may have been faster.
        found = await find_seal(self._database, seal.day, after)
        if found is not None:
            return found
        await self._journal(SEAL, event_of(seal))
        observe.say("audit", DAY_SEALED, day=seal.day, count=seal.count)
        async with asyncio.timeout(WAIT_SECONDS):
            while found is None:
                await asyncio.sleep(POLL_SECONDS / 5)
                found = await find_seal(self._database, seal.day, after)
        return found

    # -- its root ----------------------------------------------------------------------------------------------------

    async def _publish(self, found: FoundSeal, heads: bytes) -> None:
        """Stores everything that goes with the day's root, the root last, then the index."""
        day, size = found.seal.day, found.record.seq + 1
        note = await self._note_of(size)
        root = await self._signer.open_note(note)
        subtree = await self._tiles.reach(size)
        proofs = proofs_of(found, root, subtree, self._tiles.root, before=self.done.root_size)
        for name, content in self._tiles.files.stored(self.done.root_size, size):
            await self.store.put_new(name, content, await asyncio.to_thread(digest_of, content))
        others = {root_name(day, ".json"): format_root_proofs(proofs), root_name(day, ".heads"): heads}
        for name, content in others.items():
            await self.store.put_new(name, content, digest_of(content))
        others[root_name(day)] = await self._store_root(day, note, root)
        self.done = Done(
            day=day,
            last=found.seal.last,
            seal=found.ref,
            root_size=size,
            files=(*self.done.files, *(PartEntry(**msgspec.structs.asdict(one)) for one in found.seal.files)),
            others=(*self.done.others, *(FileEntry(n=name, sha256=digest_of(one)) for name, one in others.items())),
        )
        await self.replace_index()
        observe.say("audit", DAY_ARCHIVED, day=day, size=size, records=found.seal.count)
        await self._follow_root(day, note)

    async def _follow_root(self, day: str, note: bytes) -> None:
        if self._stamp is not None:
            tokens = await self._stamp({one.n for one in self.done.others})
            if tokens:
                # A crash before this leaves tokens that the next start lists.
                self.done = msgspec.structs.replace(self.done, others=(*self.done.others, *tokens))
                await self.replace_index()
        if self._after_root is not None:
            await self._after_root(day, note)

    async def _store_root(self, day: str, note: bytes, root: Checkpoint) -> bytes:
        """Stores the root; one of the same tree that is there already, with other cosignatures, stays."""
        try:
            await self.store.put_new(root_name(day), note, digest_of(note))
        except Conflict:
            there = await self.store.get(root_name(day))
            if await self._signer.open_note(there) != root:
                raise
            return there
        return note

    async def replace_index(self) -> None:
        """Replaces ``log.json``: the only object of an archive that changes."""
        index = ExportIndex(
            schema=EXPORT_SCHEMA,
            origin=self._origin,
            kind="archive",
            tenant=None,
            files=self.done.files,
            others=tuple(sorted(self.done.others, key=lambda one: one.n)),
            tool=self._tool,
        )
        await self.store.replace(INDEX_NAME, format_index(index))

    async def _note_of(self, size: int) -> bytes:
        """The note of exactly ``size``, which the signer makes when it meets the seal."""
        async with asyncio.timeout(WAIT_SECONDS):
            while True:
                note = await find_note(self._client, size)
                if note is not None:
                    break
                await self._signer.checkpoint_now()
        return note if self._vouched is None else await self._vouched(note)


def _day_of(block: VerifiedBlock) -> str:
    """The day of a block's records; the writer stamps all of them with one time."""
    record = parse_record(block.block.records[0])
    parse_ts(record.ts)
    return record.ts[:10]


def _after(day: str) -> str:
    return (date.fromisoformat(day) + timedelta(days=1)).isoformat()
