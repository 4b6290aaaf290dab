"""The single writer: appends the journal to the chain, and stands by while another process does.

Safety comes from one thing: a block is appended only if the chain still ends where this writer believes it ends
(compare-and-swap on the stream's last sequence), and the block carries the journal position that it consumed. So
however many writers run, freeze, die and wake, each event is chained once. Liveness is optimistic: a standby that sees
journal messages waiting while the head does not move for :data:`TAKEOVER_SECONDS` simply tries. There is no lease.

States, by name in the diagnostics:

* **following**: reads the chain, checks every link, holds the same head as the writer.
* **trying**: believes that nobody writes; the next append decides.
* **writing**: its last append won.
* **refused**: the chain contradicts what was read before; nothing more is written (:class:`~nomos.errors.RolledBack`).

Crash points. Before the append: nothing is durable, the next writer reads the same journal messages. After the append,
before the answer: the block is durable with its position; the next writer goes on behind it. There is no third.

Trusted: the stream's compare-and-swap. An attacker who controls the store can stop the log or show a chain that does
not verify; they cannot make one that does without the signing key and the witnesses.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from enum import StrEnum
from itertools import islice
from typing import Final

from nats.aio.client import Client

from nomos.errors import Fenced, MalformedRecord, Misconfigured, RolledBack, Unavailable
from nomos.waiting import raise_if_cancelled
from nomos_audit.batch import Delivery, account_of
from nomos_audit.block import BLOCK_BYTES_MAX, BLOCK_RECORDS_BYTES_MAX, STREAM, encode_block
from nomos_audit.domain import JOURNAL, Draft, Facts, Proposal, Snapshot, begin_snapshot
from nomos_audit.follow import Follower, load_head
from nomos_audit.head import Head
from nomos_audit.replay import evolve, position_of
from nomos_audit.rolling import NEVER, OpenSegment, Rolling
from nomos_audit.segments import Room, first_of, make_segment, newest_block, room_of, segment_after, subject_of
from nomos_audit.streams import Stored, Tail, append, stream_state
from nomos_runtime import observe

#: A standby tries when journal messages have been waiting and the head has not moved for so long.
TAKEOVER_SECONDS: Final = 0.3
#: How often a standby asks whether journal messages are waiting.
BACKLOG_POLL_SECONDS: Final = 0.1
#: A writer that has won nothing yet and finds nothing to write goes back to following after so long.
TRYING_SECONDS: Final = 1.0
IDLE_SECONDS: Final = 1.0
#: A whole snapshot of heads is written once in so many blocks; bounds what a start must read.
SNAPSHOT_EVERY: Final = 256
RETRY_SECONDS: Final = 0.1
#: Journal messages held back for the next block before more are asked for.
WAITING_MAX: Final = 512
#: How long the writer collects for one block; by so much the chain is behind the journal.
LINGER_SECONDS: Final = 0.1
#: Records of a block that are made in one go.
PIECE_RECORDS: Final = 64

WRITER_STATE: Final = "audit_writer_state"
WRITER_FENCED: Final = "audit_writer_fenced"
APPEND_UNKNOWN: Final = "audit_append_unknown"
EVENTS_POISONED: Final = "audit_events_poisoned"
EVENTS_REPEATED: Final = "audit_events_repeated"
BUS_AWAY: Final = "audit_bus_away"
ROLLED: Final = "audit_chain_rolled"
ROLL_AWAY: Final = "audit_chain_roll_away"

assert BLOCK_BYTES_MAX < 1_048_576, "a block must fit into one message of the bus"


class State(StrEnum):
    """What the writer is doing."""

    STARTING = "starting"
    FOLLOWING = "following"
    TRYING = "trying"
    WRITING = "writing"
    REFUSED = "refused"
    STOPPED = "stopped"


class Writer:
    """One candidate for the single writer. :meth:`run` until cancelled."""

    def __init__(
        self,
        client: Client,
        *,
        origin: str,
        writer_id: str,
        services: Mapping[str, str],
        now: Callable[[], int],
        snapshot_every: int = SNAPSHOT_EVERY,
        rolling: Rolling = NEVER,
    ) -> None:
        """Takes the connection and what the writer needs to know.

        Args:
            client: connected to the account that owns the streams.
            origin: the log's identity; constant for the life of the log.
            writer_id: unique for this process.
            services: account as the server stamps it -> service name; may change while running.
            now: microseconds since 1970, UTC.
            snapshot_every: blocks from one snapshot of heads to the next.
            rolling: when a segment of the chain ends.
        """
        self._client = client
        self._origin = origin
        self._writer_id = writer_id
        self._services = services
        self._now = now
        self._snapshot_every = snapshot_every
        self._rolling = rolling
        self._segment = OpenSegment(STREAM, Room(0, 0, 0.0))
        self._state = State.STARTING
        self._head: Head | None = None
        self._snapshot: Snapshot | None = None
        self._prepared: Proposal | None = None

    @property
    def state(self) -> State:
        """What the writer is doing right now."""
        return self._state

    @property
    def is_active(self) -> bool:
        """Whether its last append won, so that it may sign. A frozen process may be wrong about it, and is fenced."""
        return self._state is State.WRITING

    @property
    def head(self) -> Head | None:
        """The newest head that this process knows to be durable; None until it has read the chain."""
        return self._head

    async def run(self) -> None:
        """Follows and writes until cancelled.

        Raises:
            RolledBack: the chain or the journal contradicts what was read before.
            MalformedRecord: a message of the chain is no block.
            Misconfigured: a stream is missing.
        """
        try:
            head = await self._load()
            while True:
                head = await self._follow(head)
                head = await self._write(head)
        except (RolledBack, MalformedRecord, Misconfigured) as error:
            self._enter(State.REFUSED, code=error.code, detail=error.detail, hint=error.hint)
            raise
        finally:
            if self._state is not State.REFUSED:
                self._enter(State.STOPPED)

    def _enter(self, state: State, **fields: str | int | None) -> None:
        if state is not self._state:
            observe.say("audit", WRITER_STATE, writer=self._writer_id, before=self._state, now=state, **fields)
            self._state = state

    async def _load(self) -> Head:
        while True:
            try:
                head = await load_head(self._client, self._origin)
            except Unavailable as error:
                await self._pause(error)
                continue
            self._head = head
            return head

    async def _pause(self, error: Unavailable) -> None:
        raise_if_cancelled()
        observe.say("audit", BUS_AWAY, writer=self._writer_id, detail=error.detail, cause=error.cause)
        await asyncio.sleep(RETRY_SECONDS)

    # -- following ---------------------------------------------------------------------------------------------------

    async def _follow(self, head: Head) -> Head:
        """Follows the chain from ``head`` until it is time to try; gives the head then."""
        self._enter(State.FOLLOWING, block=head.block, size=head.size)
        follower = Follower(self._client, position_of(head))
        loop = asyncio.get_running_loop()
        waiting_since: float | None = None
        try:
            while True:
                try:
                    moved = await follower.take(BACKLOG_POLL_SECONDS)
                    for verified in moved:
                        head = evolve(head, verified)
                    self._head = head
                    backlog = not moved and await self._has_backlog(head)
                except Unavailable as error:
                    waiting_since = None
                    await self._pause(error)
                    continue
                if not backlog:
                    waiting_since = None
                elif waiting_since is None:
                    waiting_since = loop.time()
                elif loop.time() - waiting_since >= TAKEOVER_SECONDS:
                    return head
        finally:
            await follower.close()

    async def _has_backlog(self, head: Head) -> bool:
        last = (await stream_state(self._client, JOURNAL)).last_seq
        if last < head.intake:
            raise RolledBack(
                f"the journal ends at {last}, but the chain has consumed it up to {head.intake}",
                hint=f"restore the store, or create {JOURNAL} again with first_seq {head.intake + 1}",
            )
        return last > head.intake

    # -- writing -----------------------------------------------------------------------------------------------------

    async def _write(self, head: Head) -> Head:
        """Writes from ``head`` on until fenced; gives the newest head that is known to be durable."""
        self._enter(State.TRYING, block=head.block, size=head.size)
        self._snapshot = self._prepared = None
        self._segment = await self._enter_segment(head)
        journal = Tail(self._client, JOURNAL, head.intake)
        waiting: deque[Delivery] = deque()
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            while True:
                try:
                    if not waiting or (journal.waiting() and len(waiting) < WAITING_MAX):
                        waiting.extend(_deliveries(await journal.take(0 if waiting else IDLE_SECONDS)))
                        if waiting and self._state is State.WRITING and not _fill_a_block(waiting):
                            # One block for what comes within this time: an append costs an fsync and wakes readers.
                            await asyncio.sleep(LINGER_SECONDS)
                            waiting.extend(_deliveries(await journal.take(0)))
                except Unavailable as error:
                    await self._pause(error)
                    continue
                raise_if_cancelled()
                if waiting:
                    if self._segment.is_due(self._rolling, block=head.block, at=self._now(), now=loop.time()):
                        head = await self._roll(head)
                    head = await self._append(head, waiting)
                    self._enter(State.WRITING, block=head.block, size=head.size)
                elif self._state is State.TRYING and loop.time() - began > TRYING_SECONDS:
                    return head
        except Fenced as error:
            observe.say("audit", WRITER_FENCED, writer=self._writer_id, block=head.block, detail=error.detail)
            return head
        finally:
            await journal.close()

    # -- segments ----------------------------------------------------------------------------------------------------

    async def _enter_segment(self, head: Head) -> OpenSegment:
        """The segment that the block after ``head`` goes into."""
        while True:
            try:
                name = await segment_after(self._client, head.block)
                return OpenSegment(name, await room_of(self._client, name))
            except Unavailable as error:
                await self._pause(error)

    async def _roll(self, head: Head) -> Head:
        """Ends the segment with a block that names the next one; gives the head after it.

        Raises:
            Fenced: another block stands in its place.
        """
        try:
            name = await make_segment(self._client, self._segment.name, head.block + 2)
        except Unavailable as error:
            # The log goes on in the segment that it has.
            observe.say("audit", ROLL_AWAY, segment=self._segment.name, detail=error.detail, cause=error.cause)
            self._segment.put_off(asyncio.get_running_loop().time())
            return head
        self._prepared = None
        facts = Facts(now=self._now(), writer=self._writer_id, services=self._services)
        proposal = Draft(head, facts).close(0, None, following=name)
        await self._commit(head, proposal)
        self._head = proposal.head
        self._segment = await self._enter_segment(proposal.head)
        self._snapshot = None
        observe.say("audit", ROLLED, segment=name, block=proposal.head.block, size=proposal.head.size)
        return proposal.head

    async def _append(self, head: Head, waiting: deque[Delivery]) -> Head:
        """Appends one block of what is waiting, takes it off, and gives the head after it."""
        proposal, self._prepared = self._prepared, None
        if proposal is None:
            proposal = await self._prepare(head, waiting, self._snapshot)
        commit = asyncio.create_task(self._commit(head, proposal))
        following = None
        try:
            # While a block is on its way to the disk, the next one is made. It is appended only if this one stands.
            rest = list(islice(waiting, proposal.taken, None))
            if _fill_a_block(rest):
                following = await self._prepare(proposal.head, rest, proposal.snapshot)
        except BaseException:
            commit.cancel()
            await asyncio.wait([commit])
            raise
        await commit
        # Durable from here on. A restart would find this head in the chain.
        for _ in range(proposal.taken):
            waiting.popleft()
        self._prepared = following
        self._snapshot = proposal.snapshot
        self._head = proposal.head
        if proposal.poisoned:
            observe.say("audit", EVENTS_POISONED, count=proposal.poisoned, block=proposal.head.block)
        if proposal.repeated:
            observe.say("audit", EVENTS_REPEATED, count=proposal.repeated, block=proposal.head.block)
        return proposal.head

    async def _prepare(self, head: Head, waiting: Iterable[Delivery], snapshot: Snapshot | None) -> Proposal:
        """The block that follows ``head``, made in pieces, so that whoever shares this loop is heard between them."""
        first = first_of(self._segment.name)
        # A start reads the block before a snapshot too, and must need none of the segments before this one for long.
        is_fresh = 1 < first <= head.block and head.heads_at <= first
        if snapshot is None and (is_fresh or head.block + 1 - head.heads_at >= self._snapshot_every):
            snapshot = begin_snapshot(head)
        draft = Draft(head, Facts(now=self._now(), writer=self._writer_id, services=self._services))
        taken = rested_at = 0
        for delivery in waiting:
            if not draft.consume(delivery):
                break
            taken += 1
            if len(draft) - rested_at >= PIECE_RECORDS:
                rested_at = len(draft)
                await asyncio.sleep(0)
        return draft.close(taken, snapshot)

    async def _commit(self, head: Head, proposal: Proposal) -> None:
        """Returns when the block is durable.

        Raises:
            Fenced: another block stands in its place.
        """
        payload = encode_block(proposal.block)
        while True:
            try:
                await append(self._client, subject_of(self._segment.name), payload, expected_last=head.block)
            except Fenced:
                # Perhaps by our own block, whose answer was lost.
                if await self._is_stored(head, payload):
                    return
                raise
            except Unavailable as error:
                observe.say("audit", APPEND_UNKNOWN, writer=self._writer_id, block=head.block + 1, cause=error.cause)
                await asyncio.sleep(RETRY_SECONDS)
                if await self._is_stored(head, payload):
                    return
                # Not stored, or not yet: the compare-and-swap lets at most one of the copies in.
                continue
            self._segment.wrote(len(payload))
            return

    async def _is_stored(self, head: Head, payload: bytes) -> bool:
        """Whether the chain ends with our block.

        Raises:
            Fenced: it ends with someone else's.
        """
        while True:
            try:
                last = await newest_block(self._client)
            except Unavailable as error:
                await self._pause(error)
                continue
            if last is None or last.seq == head.block:
                return False
            if last.seq < head.block:
                raise RolledBack(f"the chain ends at block {last.seq}, but block {head.block} was durable")
            if last.seq == head.block + 1 and last.payload == payload:
                return True
            raise Fenced(f"another writer holds block {head.block + 1} of the chain")


def _fill_a_block(waiting: Iterable[Delivery]) -> bool:
    """Whether more would not fit into the next block anyway. A record is no shorter than the event that it holds."""
    total = 0
    for one in waiting:
        total += len(one.payload)
        if total >= BLOCK_RECORDS_BYTES_MAX:
            return True
    return False


def _deliveries(stored: list[Stored]) -> list[Delivery]:
    return [Delivery(one.seq, account_of(one.subject), one.payload) for one in stored]
