"""The signer: says, with the log's key, how large the log is and what its root is. It never says two things.

Rules, in order:

1. At the start the chain is compared with the newest checkpoint that any anchor or the stream ``CHECKPOINT`` holds. A
   chain that is behind it, or has another root at its size, is :class:`~nomos.errors.RolledBack`, and nothing starts.
2. A root is signed only over records that were read back from the chain with every link checked.
3. The active writer signs, at least every :data:`CHECKPOINT_SECONDS` when the log has grown; a standby only where
   nobody has for :data:`STANDBY_ROUNDS` times as long (after a restart nobody is active until the next event);
   whoever is asked, on demand. That is politeness; rules 4 and 5 hold whoever signs.
4. Never a smaller size than the newest checkpoint, never another root for the same size.
5. A note is appended to ``CHECKPOINT`` by compare-and-swap *before* it leaves the process. Ed25519 is deterministic, so
   two signers at the same size make the same note.
6. A log that holds a seal is signed at exactly the size that the seal completes, before it is signed at a larger one:
   that checkpoint is the daily root. The same holds for the record of a new key.
7. The size that the record of a new key completes is signed by both keys, smaller sizes by the old one alone, larger
   ones by the new one alone (:mod:`nomos.log.keyhistory`). A process that does not hold a key that must sign refuses:
   it signs nothing from there on, and goes on reading; another process, or this one after a restart, signs.
8. Anchors get it then. One that fails is reported and tried again with the next note; it does not stop the log.

Trusted: this process with the signing key. An attacker who controls it can sign a false root; the witnesses and
everyone who kept an earlier checkpoint see that it is not consistent.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from nats.aio.client import Client

from nomos.errors import BadSignature, Fenced, Malformed, RolledBack, Unavailable
from nomos.log.checkpoint import Checkpoint
from nomos.log.heads import SEAL
from nomos.log.keyhistory import KeyHistory, NotInForce
from nomos.log.note import NoKnownKey, VerifierKey
from nomos.log.tree import CompactRange
from nomos.waiting import raise_if_cancelled
from nomos_audit.anchors import Anchor
from nomos_audit.follow import Follower, block_holding, position_before
from nomos_audit.keyring import Keyring
from nomos_audit.keys import KEY_END, Turns
from nomos_audit.notes import STREAM as _STREAM
from nomos_audit.notes import find_note, size_of
from nomos_audit.replay import HINT, VerifiedBlock, start_of
from nomos_audit.segments import newest_segment
from nomos_audit.streams import append, last_message
from nomos_runtime import observe

STREAM: Final = _STREAM
SUBJECT: Final = "checkpoint.0"
#: A log that has grown is signed at least this often.
CHECKPOINT_SECONDS: Final = 10.0
#: Intervals after which a standby signs what nobody has signed.
STANDBY_ROUNDS: Final = 3
RETRY_SECONDS: Final = 0.5
#: Compare-and-swaps lost in a row before the caller is told.
ATTEMPTS_MAX: Final = 5

SIGNED: Final = "audit_checkpoint_signed"
ANCHOR_AWAY: Final = "audit_anchor_away"
SIGNER_AWAY: Final = "audit_signer_away"
REFUSED: Final = "audit_checkpoint_refused"

#: How the bytes of a record end whose size is signed by itself. The members of a record are in order, so its type and
#: version are last; only the log's own service may write these types.
_STOPS: Final = (f'"type":"{SEAL}","v":1}}'.encode(), KEY_END)


class _Piece(NamedTuple):
    """A part of a block: chain hashes, the journal position where the block is complete, and the record of a stop."""

    hashes: Sequence[bytes]
    intake: int | None
    stop: bytes | None


def _pieces(block: VerifiedBlock, begin: int) -> Iterator[_Piece]:
    """The block from record ``begin`` on, cut behind each record whose size is signed by itself."""
    for index in range(begin, len(block.hashes)):
        record = block.block.records[index]
        if record.endswith(_STOPS):
            yield _Piece(block.hashes[begin : index + 1], None, record)
            begin = index + 1
    yield _Piece(block.hashes[begin:], block.block.intake, None)


class Signer:
    """Signs checkpoints of one log. :meth:`open` first, then :meth:`run` and :meth:`checkpoint_now`."""

    def __init__(
        self,
        client: Client,
        *,
        origin: str,
        seed: bytes,
        next_seed: bytes | None = None,
        turns: Turns | None = None,
        anchors: Sequence[Anchor] = (),
        may_sign: Callable[[], bool],
        every_seconds: float = CHECKPOINT_SECONDS,
    ) -> None:
        """Takes the connection and the key.

        Args:
            client: connected to the account that owns the streams.
            origin: the log's identity and the name of its key.
            seed: the 32 bytes of ``AUDIT_SIGN_KEY``.
            next_seed: those of ``AUDIT_SIGN_KEY_NEXT``, the key that follows while it does.
            turns: where changes of key are kept besides the chain.
            anchors: where notes are kept besides ``CHECKPOINT``.
            may_sign: whether this process is the active writer.
            every_seconds: between two checkpoints of a growing log.

        Raises:
            MalformedRecord: the origin or a seed's length is not allowed.
            Misconfigured: both seeds are the same.
        """
        self._client = client
        self._origin = origin
        self._ring = Keyring(client, origin=origin, seed=seed, next_seed=next_seed, turns=turns)
        # Whether the tree stands at a size that must be signed by itself and is not yet.
        self._at_stop = False
        self._anchors = tuple(anchors)
        self._may_sign = may_sign
        self._every_seconds = every_seconds
        self._lock = asyncio.Lock()
        self._follower: Follower | None = None
        self._tree = CompactRange()
        self._pieces: deque[_Piece] = deque()
        self._newest: Checkpoint | None = None
        self._note: bytes | None = None
        self._intake = 0
        self._signed_intake = 0

    @property
    def signed_intake(self) -> int:
        """The journal is chained and signed for up to this sequence, as far as this process knows."""
        return self._signed_intake

    @property
    def size(self) -> int:
        """The size of the newest checkpoint that this process knows; 0 if there is none."""
        return 0 if self._newest is None else self._newest.size

    @property
    def verifier_key(self) -> VerifierKey:
        """The key in force: the one that signs the log's next size."""
        return self._ring.keys.in_force

    @property
    def ring(self) -> Keyring:
        """The keys of the log."""
        return self._ring

    @property
    def keys(self) -> KeyHistory:
        """All keys of the log, as far as they are proven."""
        return self._ring.keys

    @property
    def lacks(self) -> str | None:
        """The name of a key that must sign next and that this process does not hold; None where it can sign."""
        return self._ring.lacks(self._tree.size)

    @property
    def newest(self) -> bytes | None:
        """The newest signed note that this process knows."""
        return self._note

    async def open_note(self, note: bytes) -> Checkpoint:
        """The checkpoint of a note that every key signed that must sign its size. Reads on where a key is new to us.

        Raises:
            BadSignature: it was not signed by the keys that must sign its size.
            Malformed: not a checkpoint.
            Unavailable: as :meth:`checkpoint_now`.
        """
        try:
            return self._ring.keys.open(note).checkpoint
        except (NoKnownKey, NotInForce):
            if size_of(note) <= self.size:
                raise
        # Another signer is ahead, and the key has changed there.
        await self.checkpoint_now()
        return self._ring.keys.open(note).checkpoint

    async def open(self) -> None:
        """Compares the chain with the newest checkpoint of all places, and reads what came after it.

        Raises:
            RolledBack: the chain is behind the checkpoint or differs from it.
            BadSignature: a kept note was not signed by the key of this log that must sign its size, or not by one
                that this process holds or can prove.
            Malformed: a kept note, or a block, breaks its format.
            Misconfigured: the two keys do not follow each other.
            Unavailable: a place cannot be read.
        """
        notes = [await one.newest() for one in self._anchors]
        stored = await last_message(self._client, STREAM)
        notes.append(None if stored is None else stored.payload)
        there = [one for one in notes if one is not None]
        await self._ring.load(max(there, key=size_of, default=None))
        for note in there:
            opened = self._ring.open(note)
            if self._newest is not None and opened.size == self._newest.size and opened != self._newest:
                raise RolledBack(f"two signed roots for size {opened.size}", hint=HINT)
            if self._newest is None or opened.size > self._newest.size:
                self._newest, self._note = opened, note
        await self._start_from(self._newest)
        await self._read()

    async def _start_from(self, checkpoint: Checkpoint | None) -> None:
        """Puts the follower behind the block that holds the checkpoint's last record, if the roots agree there."""
        if self._follower is not None:
            await self._follower.close()
        self._pieces.clear()
        self._at_stop = False
        self._ring.forget()
        if checkpoint is None or checkpoint.size == 0:
            self._follower, self._tree = Follower(self._client, start_of(self._origin)), CompactRange()
            return
        last = (await newest_segment(self._client)).last
        _, newest = await position_before(self._client, self._origin, last + 1)
        size = newest.size if newest is not None else 0
        if size < checkpoint.size:
            raise RolledBack(f"the log has {size} records, but {checkpoint.size} have been signed for", hint=HINT)
        # The tree before this block is what the block before it claims: the signed root proves it, or refutes it here.
        tree, block = await block_holding(self._client, self._origin, checkpoint.size - 1, last)
        cut = checkpoint.size - tree.size
        tree.extend(block.hashes[:cut])
        if tree.root() != checkpoint.root:
            raise RolledBack(f"the log's root at size {checkpoint.size} is not the one that was signed", hint=HINT)
        self._pieces.extend(_pieces(block, cut))
        self._follower, self._tree = Follower(self._client, block.after), tree

    async def _read(self) -> None:
        """Reads what the chain has by now."""
        follower = self._following()
        while await follower.is_behind():
            raise_if_cancelled()
            for verified in await follower.take(1.0):
                self._pieces.extend(_pieces(verified, 0))

    def _advance(self) -> bool:
        """Grows the tree by what was read; True where it stopped at a size that must be signed by itself."""
        while self._pieces:
            piece = self._pieces.popleft()
            self._tree.extend(piece.hashes)
            if piece.intake is not None:
                self._intake = piece.intake
            if piece.stop is not None:
                self._at_stop = True
                self._ring.meet(piece.stop, self._tree.size, is_signed=self._newest is not None)
                return True
        return False

    def _following(self) -> Follower:
        if self._follower is None:
            raise Unavailable("the signer has not compared the log with its checkpoints yet")
        return self._follower

    async def checkpoint_now(self) -> bytes:
        """The newest note, signed now if the log has grown since the last.

        Raises:
            RolledBack: the log contradicts a checkpoint.
            BadSignature: a checkpoint was not signed by the keys that must sign its size.
            Unavailable: the bus does not answer, other signers were faster each time, or this process does not hold a
                key that must sign.
        """
        async with self._lock:
            for _ in range(ATTEMPTS_MAX):
                await self._read()
                try:
                    # A size at which an attempt failed is signed before the tree grows.
                    while self._at_stop or self._advance():
                        await self._sign()
                        self._at_stop = False
                    return await self._sign()
                except Fenced:
                    # Another signer's note came first: read on from it.
                    continue
        raise Unavailable(f"lost {ATTEMPTS_MAX} times to another signer")

    async def _sign(self) -> bytes:
        stored = await last_message(self._client, STREAM)
        if stored is not None:
            await self._agree_with(await self._open_newest(stored.payload), stored.payload)
        checkpoint = Checkpoint(origin=self._origin, size=self._tree.size, root=self._tree.root())
        if self._newest is not None:
            if checkpoint.size < self._newest.size:
                raise RolledBack(
                    f"the log has {checkpoint.size} records, but {self._newest.size} have been signed for", hint=HINT
                )
            if checkpoint.size == self._newest.size:
                if checkpoint.root != self._newest.root:
                    raise RolledBack(f"the log's root at size {checkpoint.size} is not the one that was signed")
                assert self._note is not None
                return self._note
        note = self._ring.sign(checkpoint)
        await self._persist(note, 0 if stored is None else stored.seq)
        # Durable from here on; a crash now leaves a note that the next signer finds and agrees with.
        self._newest, self._note, self._signed_intake = checkpoint, note, self._intake
        observe.say("audit", SIGNED, size=checkpoint.size)
        await self._ring.turn(note)
        await self._publish(checkpoint.size, note)
        return note

    async def _open_newest(self, note: bytes) -> Checkpoint:
        """Opens the newest note of the stream, after going over to what it tells of keys.

        Raises:
            Fenced: another signer is ahead; the tree is to be grown before the note can be judged.
            RolledBack: the key changes at the tree's size, and the notes there do not say so.
            BadSignature: it was not signed by the keys that must sign its size.
        """
        size = size_of(note)
        if self._ring.is_turning and size >= self._tree.size:
            await self._take_turn()
        try:
            return self._ring.open(note)
        except (NoKnownKey, NotInForce):
            # Perhaps of a key whose record is in the part of the chain that comes next.
            if size <= self._tree.size or not (self._at_stop or await self._following().is_behind()):
                raise
            self._at_stop = False
        raise Fenced(f"another signer has signed size {size}, with a key that is new to this process")

    async def _take_turn(self) -> None:
        """Goes over to ``keys`` by another signer's note of the tree's size, which both keys must have signed."""
        note = await find_note(self._client, self._tree.size)
        if note is None:
            raise RolledBack(f"a larger size was signed than {self._tree.size}, where the key changes", hint=HINT)
        checkpoint = self._ring.open(note)
        if checkpoint.root != self._tree.root():
            raise RolledBack(f"the log's root at size {checkpoint.size} is not the one that was signed", hint=HINT)
        await self._ring.turn(note)
        self._newest, self._note, self._at_stop = checkpoint, note, False
        raise Fenced(f"another signer has signed size {checkpoint.size}")

    async def _agree_with(self, other: Checkpoint, note: bytes) -> None:
        """Takes over a note that another signer made, after checking it against the chain.

        Raises:
            Fenced: it is larger than what this signer knew; its tree now stands at that size.
            RolledBack: the chain does not lead to it.
        """
        if self._newest is not None and other.size <= self._newest.size:
            if other.size == self._newest.size and other.root != self._newest.root:
                raise RolledBack(f"two signed roots for size {other.size}", hint=HINT)
            return
        await self._start_from(other)
        self._newest, self._note = other, note
        raise Fenced(f"another signer has signed size {other.size}")

    async def _persist(self, note: bytes, expected_last: int) -> None:
        while True:
            try:
                await append(self._client, SUBJECT, note, expected_last=expected_last)
            except Fenced:
                last = await last_message(self._client, STREAM)
                if last is None or last.payload != note:
                    raise
            except Unavailable:
                # Stored or not: the compare-and-swap lets at most one of the copies in, and Fenced then finds it.
                raise_if_cancelled()
                await asyncio.sleep(RETRY_SECONDS)
                continue
            return

    async def _publish(self, size: int, note: bytes) -> None:
        for anchor in self._anchors:
            try:
                await anchor.keep(size, note)
            except Unavailable as error:
                observe.say("audit", ANCHOR_AWAY, anchor=anchor.name, size=size, cause=error.cause)

    async def run(self) -> None:
        """Signs while this process is the active writer or nobody else does, until cancelled.

        Raises:
            RolledBack: the log contradicts a checkpoint; nothing more is signed.
        """
        rounds = 0
        while True:
            raise_if_cancelled()
            await asyncio.sleep(self._every_seconds)
            rounds += 1
            if not self._may_sign() and rounds < STANDBY_ROUNDS:
                continue
            rounds = 0
            try:
                await self.checkpoint_now()
            except Unavailable as error:
                observe.say("audit", SIGNER_AWAY, detail=error.detail, cause=error.cause)
            except (RolledBack, BadSignature, Malformed) as error:
                observe.say("audit", REFUSED, code=error.code, detail=error.detail, hint=error.hint)
                raise

    async def close(self) -> None:
        """Ends reading."""
        if self._follower is not None:
            await self._follower.close()
