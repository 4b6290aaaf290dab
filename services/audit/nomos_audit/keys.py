"""The keys that this log has had: derived from signed notes and the chain, never believed.

The notes in ``CHECKPOINT`` show where a key begins: the first that it signed. That note is the key's turn (see
:mod:`nomos.log.keyhistory`), or the log's first. The record that completes its size is read from the chain, and proven
in the root that both keys signed; it names the key before, and so on to the first.

A turn is also kept in the table ``audit_keys``, whole, with its proof: the chain may be rolled past the record. What
stands there is verified like everything else, so a damaged or false row is a row that is not there.

Trusted: the keys that this process holds. An attacker who controls bus and database can withhold a turn; the log then
does not start.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from nats.aio.client import Client

from nomos.errors import BadSignature, Malformed, Misconfigured, RolledBack, Unavailable
from nomos.log.checkpoint import open_checkpoint
from nomos.log.heads import KEY
from nomos.log.keyhistory import KeyHistory, Turn, change_in, short_name, verify_turn
from nomos.log.note import NoKnownKey, VerifierKey, parse_note
from nomos.log.proof import Receipt, format_receipt, parse_receipt
from nomos_audit.follow import block_at, block_holding
from nomos_audit.notes import STREAM, first_where, note_at, size_of
from nomos_audit.replay import HINT
from nomos_audit.segments import first_block, newest_segment
from nomos_audit.streams import stream_state
from nomos_runtime import observe
from nomos_runtime.database import Database

TURN_AWAY: Final = "audit_key_turn_away"
TURN_IGNORED: Final = "audit_key_turn_ignored"
#: How the bytes of a record of a new key end.
KEY_END: Final = f'"type":"{KEY}","v":1}}'.encode()
LOST_HINT: Final = "restore the table audit_keys; else: " + HINT


class Turns(Protocol):
    """A second place for turns. Idempotent: the same turn may be kept twice."""

    async def all(self) -> list[Turn]:
        """What was kept, not verified.

        Raises:
            Unavailable: it cannot be read now.
        """
        ...

    async def keep(self, size: int, turn: Turn) -> None:
        """Keeps the turn at ``size``; durable when it returns.

        Raises:
            Unavailable: it is not known to be kept.
        """
        ...


class NoTurns:
    """No second place."""

    async def all(self) -> list[Turn]:
        """See :class:`Turns`."""
        return []

    async def keep(self, size: int, turn: Turn) -> None:
        """See :class:`Turns`."""


class TurnTable:
    """The table ``audit_keys``."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def all(self) -> list[Turn]:
        """See :class:`Turns`. A row that is no turn is left out, and said."""
        async with self._database.transaction() as connection:
            rows = await connection.fetch("SELECT size, record, proof FROM audit_keys ORDER BY size")
        turns = []
        for row in rows:
            try:
                turns.append(Turn(record=row["record"], receipt=parse_receipt(row["proof"])))
            except Malformed as error:
                observe.say("audit", TURN_IGNORED, size=row["size"], detail=error.detail)
        return turns

    async def keep(self, size: int, turn: Turn) -> None:
        """See :class:`Turns`. A row that is there gives way: what is kept now has been verified."""
        async with self._database.transaction() as connection:
            await connection.execute(
                "INSERT INTO audit_keys (size, record, proof) VALUES ($1, $2, $3)"
                " ON CONFLICT (size) DO UPDATE SET record = EXCLUDED.record, proof = EXCLUDED.proof",
                size,
                turn.record,
                format_receipt(turn.receipt),
            )


async def load_history(
    client: Client, origin: str, held: Sequence[VerifierKey], newest: bytes | None, kept: Turns
) -> tuple[KeyHistory, list[Turn]]:
    """The keys of the log and their turns, oldest first, as far as the notes reach.

    Args:
        client: connected to the account that owns the streams.
        origin: the log's identity.
        held: the keys that this process holds: its own, then the next one where there is one.
        newest: the newest note that is kept anywhere, None where there is none.
        kept: where turns are kept besides the chain.

    Raises:
        NoKnownKey: no key that this process holds signed the newest note.
        BadSignature: a turn, or a line of a known key, does not verify.
        RolledBack: a note, or the record of a turn, is gone.
        Misconfigured: the next key is in force already, and the other is not the one before it.
        Unavailable: the bus or the place of turns does not answer.
    """
    if newest is None:
        return KeyHistory.begin(held[0]), []
    signed = open_checkpoint(newest, held, {}).keys
    in_force = next(one for one in reversed(held) if one in signed)
    history, turns = KeyHistory.begin(in_force), list[Turn]()
    known = await kept.all()
    while (turn := await _turn_into(client, origin, history, known)) is not None:
        proven = verify_turn(turn, history.spans[0].key)
        history = history.before(proven.change, proven.size)
        turns.insert(0, turn)
        if turn not in known:
            await keep(kept, proven.size, turn)
    before = history.spans[-2].key if turns else None
    if in_force != held[0] and before != held[0]:
        raise Misconfigured(
            f"AUDIT_SIGN_KEY_NEXT is the log's key {short_name(in_force)}, and AUDIT_SIGN_KEY is not the one before it",
            hint="set AUDIT_SIGN_KEY to the log's key, and AUDIT_SIGN_KEY_NEXT to a new one or to nothing",
        )
    return history, turns


async def keep(kept: Turns, size: int, turn: Turn) -> None:
    """Keeps a turn; one that cannot be kept now is kept at the next start, from the chain."""
    try:
        await kept.keep(size, turn)
    except Unavailable as error:
        observe.say("audit", TURN_AWAY, size=size, cause=error.cause)


async def _turn_into(client: Client, origin: str, history: KeyHistory, known: Sequence[Turn]) -> Turn | None:
    """The turn with which the first key of ``history`` began; None where it is the log's first."""
    key = history.spans[0].key
    for turn in known:
        try:
            if verify_turn(turn, key).change.key == key:
                return turn
        except (Malformed, BadSignature):
            # A turn of another key, or a false row. Without it the notes say whether there is one.
            continue
    keys = [one.key for one in history.spans]
    first = await first_where(client, lambda note: _is_signed(note, keys))
    if first is None:
        return None
    note = await note_at(client, first)
    is_oldest = first == max((await stream_state(client, STREAM)).first_seq, 1)
    if is_oldest and sum(one.name == origin for one in parse_note(note).signatures) == 1:
        return None
    found = await read_turn(client, origin, note)
    if found is not None and verify_turn(found, key).change.key != key:
        # The turn to the key after it: this one signed no note alone.
        found = None
        if is_oldest:
            return None
    if found is None:
        raise BadSignature(
            f"a checkpoint of size {size_of(note)} begins with {short_name(key)}, and no record says so", hint=HINT
        )
    return found


def _is_signed(note: bytes, keys: Sequence[VerifierKey]) -> bool:
    try:
        open_checkpoint(note, keys, {})
    except NoKnownKey:
        return False
    return True


async def read_turn(client: Client, origin: str, note: bytes) -> Turn | None:
    """The record that completes the size of ``note``, with its proof, from the chain; None where it changes no key.

    Raises:
        RolledBack: the chain does not hold the record, or not any more.
        Malformed: a block or the record breaks its format.
        Unavailable: the bus does not answer.
    """
    size = size_of(note)
    if size == 0:
        return None
    last, first = (await newest_segment(client)).last, await first_block(client)
    if last < first or (await block_at(client, last))[0].size < size:
        raise RolledBack(f"the chain has not the {size} records that were signed for", hint=HINT)
    if first > 1 and (await block_at(client, first))[0].first >= size:
        raise RolledBack(f"the chain has been rolled past record {size - 1}, a change of key", hint=LOST_HINT)
    tree, block = await block_holding(client, origin, size - 1, last)
    at = size - 1 - tree.size
    record = block.block.records[at]
    if not record.endswith(KEY_END) or change_in(record) is None:
        return None
    tree.extend(block.hashes[:at])
    # The siblings of a tree's last leaf are the subtrees before it, smallest first.
    path = tuple(reversed(tree.hashes()))
    return Turn(record=record, receipt=Receipt(prev=block.prev_of(at), index=size - 1, path=path, checkpoint=note))
