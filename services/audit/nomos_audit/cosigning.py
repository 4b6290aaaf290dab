"""Asking witnesses: each checkpoint goes to every witness, in order, and what they sign is kept beside it.

Decides what is asked and what is kept. A witness is asked by a task of its own, so a slow, dead or lying one costs the
others nothing, and the log least of all: checkpoints are signed and published whether or not anybody cosigned them. The
auditor's policy is where a missing quorum counts.

Each witness is offered every checkpoint in order of size, because one that has cosigned a larger one will not go back,
and a daily root has a size of its own. After an outage the newest :data:`CATCH_UP` checkpoints are offered. While
nothing happens the newest is offered again: the time in a cosignature tells an auditor how old the head is.

What comes back counts only if it is a cosignature of that witness's key over exactly this checkpoint, with a time that
is not in the future. A witness that says it has seen a larger log than ours, or the same size with another root, is an
alarm: either somebody holds our key, or we have been rolled back.

Cosigned notes are kept in the table ``audit_checkpoints``. A line of it that does not verify goes nowhere.

Source: c2sp.org/tlog-witness.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from nats.aio.client import Client

from nomos.errors import BadSignature, Malformed, Misconfigured, RolledBack, Unavailable
from nomos.log.checkpoint import Checkpoint, add_signature, parse_decimal, verify_cosignature
from nomos.log.note import SIGNATURES_MAX, Note, Signature, VerifierKey, format_note, lines_of, parse_note
from nomos.log.tree import ProofFailed, consistency_path, verify_consistency
from nomos.log.trust import TrustPolicy
from nomos.waiting import raise_if_cancelled
from nomos.witness.decide import SIZE_TYPE, format_request
from nomos_audit.asking import Asker
from nomos_audit.notes import STREAM, note_at, size_of
from nomos_audit.streams import last_message, stream_state
from nomos_audit.tiles import Tiles
from nomos_runtime import observe
from nomos_runtime.database import Database

LOOK_SECONDS: Final = 0.5
#: Between two tries of a witness that does not answer.
RETRY_SECONDS: Final = 2.0
#: The newest checkpoint of a quiet log is offered again so often: a fresh cosignature says that it is still the newest.
REFRESH_SECONDS: Final = 60.0
#: A process that does not write leaves the asking to the one that does for so long.
STANDBY_SECONDS: Final = 15.0
#: Checkpoints that a witness is offered afterwards.
CATCH_UP: Final = 1_000
#: A witness's clock may be ahead of ours by so many seconds.
CLOCK_SKEW_SECONDS: Final = 300
#: A quorum that has not been reached for so long is a fault of the service.
QUORUM_SECONDS: Final = 300.0
POLL_SECONDS: Final = 0.1
NOTES_AT_ONCE: Final = 10_000
#: A note has room for 16 lines, and the log's own keys need two where one follows another.
WITNESSES_MAX: Final = SIGNATURES_MAX - 2

WITNESS_AWAY: Final = "audit_witness_away"
WITNESS_CONTRADICTS: Final = "audit_witness_contradicts"
CHECKPOINTS_AWAY: Final = "audit_checkpoints_away"
COSIGNATURES_AWAY: Final = "audit_cosignatures_away"
COSIGNATURES_DAMAGED: Final = "audit_cosignatures_damaged"


class Contradiction(Exception):
    """A witness says that it has seen another log than ours."""


class Cosigned:
    """The cosigned notes, in the table ``audit_checkpoints``."""

    def __init__(self, database: Database, witnesses: Sequence[VerifierKey]) -> None:
        self._database = database
        self._witnesses = tuple(witnesses)

    async def add(self, size: int, note: bytes, signature: Signature) -> None:
        """Adds one witness's line, which was verified, to the note of ``size``; one that it has already is replaced.

        Args:
            size: of the checkpoint.
            note: as the log signed it; kept where none is there yet.
            signature: the witness's.

        Raises:
            Unavailable: Postgres does not answer.
            RolledBack: the table holds another checkpoint of this size.
        """
        async with self._database.transaction() as connection:
            await connection.execute(
                "INSERT INTO audit_checkpoints (size, note) VALUES ($1, $2) ON CONFLICT (size) DO NOTHING", size, note
            )
            kept: bytes = await connection.fetchval(
                "SELECT note FROM audit_checkpoints WHERE size = $1 FOR UPDATE", size
            )
            there = parse_note(kept)
            if there.text != parse_note(note).text:
                raise RolledBack(f"the database holds another signed root of size {size}")
            others = tuple(
                one for one in there.signatures if (one.name, one.key_id) != (signature.name, signature.key_id)
            )
            longer = add_signature(format_note(Note(text=there.text, signatures=others)), signature)
            await connection.execute("UPDATE audit_checkpoints SET note = $2 WHERE size = $1", size, longer)

    async def best(self, notes: Sequence[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
        """The same notes, each of the size beside it, with the cosignatures that are kept over the same text.

        Raises:
            Unavailable: Postgres does not answer.
        """
        kept: dict[int, bytes] = {}
        for at in range(0, len(notes), NOTES_AT_ONCE):
            sizes = [size for size, _ in notes[at : at + NOTES_AT_ONCE]]
            async with self._database.transaction() as connection:
                query = "SELECT size, note FROM audit_checkpoints WHERE size = ANY($1)"
                kept |= {row["size"]: row["note"] for row in await connection.fetch(query, sizes)}
        return [(size, self._cosigned(note, kept.get(size, note))) for size, note in notes]

    def _cosigned(self, note: bytes, kept: bytes) -> bytes:
        """``note`` with the witnesses' lines of ``kept`` that are right. What is wrong in the table stays there."""
        if note == kept:
            return note
        ours = parse_note(note)
        more = []
        try:
            theirs = parse_note(kept)
            for key in self._witnesses:
                for line in lines_of(theirs, key):
                    verify_cosignature(ours.text, line, key)
                    more.append(line)
        except (Malformed, BadSignature) as error:
            # An auditor would call the note tampered with, and it is only our copy that is.
            observe.say("audit", COSIGNATURES_DAMAGED, detail=error.detail)
        return format_note(Note(text=ours.text, signatures=(*ours.signatures, *more)))


class Cosigning:
    """Asks the witnesses of a policy. :meth:`run` until cancelled."""

    def __init__(
        self,
        client: Client,
        database: Database,
        tiles: Tiles,
        policy: TrustPolicy,
        *,
        open_note: Callable[[bytes], Awaitable[Checkpoint]],
        is_active: Callable[[], bool],
        development: bool,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Takes what it works with.

        Args:
            client: connected to the account that owns the streams.
            database: the audit service's own.
            tiles: the tree, for proofs.
            policy: which witnesses, where they are, and what a quorum is.
            open_note: verifies that the log's own keys signed a note; gives its checkpoint.
            is_active: whether this process is the active writer; only that one asks.
            development: whether a witness on loopback may be asked without TLS.
            now: Unix seconds.

        Raises:
            Misconfigured: no witness, too many, or one without a URL or with one that is not allowed.
        """
        self._client = client
        self._tiles = tiles
        self._policy = policy
        self._open_note = open_note
        self._is_active = is_active
        self._now = now
        self._cosigned = Cosigned(database, list(policy.witnesses.values()))
        lacking = sorted(set(policy.witnesses) - set(policy.urls))
        if len(policy.witnesses) > WITNESSES_MAX:
            raise Misconfigured(f"a log asks at most {WITNESSES_MAX} witnesses")
        if not policy.witnesses:
            raise Misconfigured("the policy of witnesses names none")
        if lacking:
            raise Misconfigured(f"the witness {lacking[0]} has no URL", hint="witness NAME VKEY URL")
        self._askers = [
            Asker(key, policy.urls[name], development=development) for name, key in policy.witnesses.items()
        ]
        self._lacks_since: float | None = None
        self._contradicted: set[str] = set()

    async def run(self) -> None:
        """Asks until cancelled; what a witness does wrong is said and costs the others nothing."""
        async with asyncio.TaskGroup() as asking:
            for asker in self._askers:
                asking.create_task(self._follow(asker), name=f"audit witness {asker.key.name}")

    def fault(self) -> str | None:
        """Why the log is not witnessed as it should be, or None."""
        if self._contradicted:
            return f"the witness {min(self._contradicted)} has seen another history of this log"
        if self._lacks_since is None or self._now() - self._lacks_since < QUORUM_SECONDS:
            return None
        return f"no quorum of witnesses for {self._now() - self._lacks_since:.0f} s"

    async def _follow(self, asker: Asker) -> None:
        # What the witness has cosigned; it tells us, and every answer to us is checked against our own tree.
        seen = 0
        # The checkpoints up to here are done with, as of this time.
        after, at = 0, self._now()
        while True:
            raise_if_cancelled()
            try:
                last = (await stream_state(self._client, STREAM)).last_seq
                after = max(after, last - CATCH_UP)
                is_due = last > 0 and (after < last or self._now() - at >= REFRESH_SECONDS)
                if is_due and not self._is_active():
                    # Whoever writes asks; a standby does where nobody has, as after a restart, before the next event.
                    if await self._age(asker, await note_at(self._client, last)) < REFRESH_SECONDS + STANDBY_SECONDS:
                        after, at = last, self._now()
                    is_due = self._now() - at >= STANDBY_SECONDS
                if not is_due:
                    await asyncio.sleep(LOOK_SECONDS)
                    continue
                note = await note_at(self._client, min(after + 1, last))
            except (Unavailable, Malformed) as error:
                observe.say("audit", CHECKPOINTS_AWAY, detail=error.detail, cause=error.cause)
                await asyncio.sleep(RETRY_SECONDS)
                continue
            try:
                seen = await self._offer(asker, note, seen)
                after, at = min(after + 1, last), self._now()
            except Contradiction as error:
                # Said again and again: it is the alarm that witnesses exist for, and it does not heal.
                observe.say("audit", WITNESS_CONTRADICTS, witness=asker.key.name, detail=str(error))
                self._contradicted.add(asker.key.name)
                await asyncio.sleep(RETRY_SECONDS)
            except (Unavailable, Malformed, BadSignature, RolledBack) as error:
                observe.say("audit", WITNESS_AWAY, witness=asker.key.name, detail=error.detail, cause=error.cause)
                await asyncio.sleep(RETRY_SECONDS)
            await self._count(note)

    async def _offer(self, asker: Asker, note: bytes, seen: int) -> int:
        """Offers one checkpoint; gives the size that the witness has cosigned now.

        Raises:
            Contradiction: it has seen another log.
            Unavailable: it does not answer, or not by the protocol.
            BadSignature: it answers with a signature that is not its own.
        """
        checkpoint = await self._open_note(note)
        if checkpoint.size < seen:
            return seen
        for _ in range(2):
            status, kind, answer = await asker.ask(await self._request(note, checkpoint, seen))
            if status == 200:
                await self._keep(asker, note, checkpoint, answer)
                return checkpoint.size
            if status != 409 or kind != SIZE_TYPE:
                break
            told = parse_decimal(answer.decode("ascii", "replace").removesuffix("\n"))
            newest = await last_message(self._client, STREAM)
            signed = 0 if newest is None else size_of(newest.payload)
            if told > signed:
                raise Contradiction(f"it has cosigned size {told}, and this log has been signed up to {signed}")
            if told == checkpoint.size == seen:
                raise Contradiction(f"it has cosigned another root of size {told}")
            if told > checkpoint.size:
                # It is ahead of this checkpoint already, and will not go back.
                return told
            seen = told
        if status == 422:
            raise Contradiction(f"what it has cosigned at size {seen} is no beginning of this log")
        detail = answer[:100].decode("ascii", "replace").strip()
        raise Unavailable(f"the witness answers {status}", cause=detail)

    async def _request(self, note: bytes, checkpoint: Checkpoint, seen: int) -> bytes:
        path: list[bytes] = []
        if 0 < seen < checkpoint.size:
            path = consistency_path(await self._tiles.reach(checkpoint.size), seen, checkpoint.size)
            try:
                verify_consistency(seen, checkpoint.size, self._tiles.root(seen), checkpoint.root, path)
            except ProofFailed as error:
                # The witness would call it a fork, and it is only our copy of the tree that is damaged.
                self._tiles.forget()
                raise Unavailable("the tiles that proofs are made from are damaged", cause=error.detail) from error
        return format_request(seen, path, note)

    async def _keep(self, asker: Asker, note: bytes, checkpoint: Checkpoint, answer: bytes) -> None:
        """Verifies what the witness signed, and keeps it.

        Raises:
            Unavailable: the answer holds no signature of the witness, or the database does not answer.
            BadSignature: one that is wrong, or from the future.
        """
        parsed = parse_note(note)
        signed = f"{parsed.text}\n".encode() + answer
        mine = lines_of(parse_note(signed), asker.key)
        if not mine:
            raise Unavailable("the witness answers without a signature of its own")
        for line in mine:
            cosignature = verify_cosignature(parsed.text, line, asker.key)
            if cosignature.time > self._now() + CLOCK_SKEW_SECONDS:
                raise ProofFailed("the cosignature is from the future")
        await self._cosigned.add(checkpoint.size, note, mine[-1])

    async def _age(self, asker: Asker, note: bytes) -> float:
        """Seconds since the witness cosigned a note, as far as is kept; infinite where it has not."""
        ((_, found),) = await self.vouched([(size_of(note), note)])
        parsed = parse_note(found)
        times = [verify_cosignature(parsed.text, one, asker.key).time for one in lines_of(parsed, asker.key)]
        return self._now() - max(times) if times else math.inf

    async def _count(self, note: bytes) -> None:
        ((_, found),) = await self.vouched([(size_of(note), note)])
        if self._policy.is_quorum(self._cosigners(found)):
            self._lacks_since = None
        elif self._lacks_since is None:
            self._lacks_since = self._now()

    def _cosigners(self, note: bytes) -> list[VerifierKey]:
        parsed = parse_note(note)
        return [key for key in self._policy.witnesses.values() if lines_of(parsed, key)]

    async def vouched(self, notes: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
        """Notes of the sizes beside them, with the cosignatures so far; as they are where the database is away."""
        try:
            return await self._cosigned.best(notes)
        except Unavailable as error:
            observe.say("audit", COSIGNATURES_AWAY, detail=error.detail, cause=error.cause)
            return notes

    async def quorum_of(self, note: bytes, seconds: float) -> bytes:
        """The note, once the quorum has cosigned it or ``seconds`` are over."""
        size = size_of(note)
        until = time.monotonic() + seconds
        while True:
            raise_if_cancelled()
            ((_, found),) = await self.vouched([(size, note)])
            if self._policy.is_quorum(self._cosigners(found)) or time.monotonic() >= until:
                return found
            await asyncio.sleep(POLL_SECONDS)
