"""Finding signed notes in the stream ``CHECKPOINT``, whose sizes rise: of one size, or next to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from nats.aio.client import Client

from nomos.errors import RolledBack
from nomos.log.checkpoint import parse_checkpoint
from nomos.log.note import parse_note
from nomos.waiting import raise_if_cancelled
from nomos_audit.replay import HINT
from nomos_audit.streams import message_at, stream_state

STREAM: Final = "CHECKPOINT"


def size_of(note: bytes) -> int:
    """The tree size that a note states; nothing is verified.

    Raises:
        MalformedRecord: not a checkpoint.
        LimitExceeded: too long.
    """
    return parse_checkpoint(parse_note(note).text).size


async def note_at(client: Client, seq: int) -> bytes:
    """The note with the sequence ``seq`` in the stream, not verified.

    Raises:
        RolledBack: it is gone.
        Unavailable: the bus does not answer.
    """
    stored = await message_at(client, STREAM, seq)
    if stored is None:
        raise RolledBack("a signed checkpoint is gone", hint=HINT)
    return stored.payload


async def first_where(client: Client, is_right: Callable[[bytes], bool]) -> int | None:
    """The first sequence from which on ``is_right`` holds for every note, found by halving; None where for none.

    Raises:
        RolledBack: a note is gone.
        Unavailable: the bus does not answer.
    """
    state = await stream_state(client, STREAM)
    low, high = state.first_seq or 1, state.last_seq
    end = high
    while low <= high:
        raise_if_cancelled()
        middle = (low + high) // 2
        if is_right(await note_at(client, middle)):
            high = middle - 1
        else:
            low = middle + 1
    return low if low <= end else None


async def find_note(client: Client, size: int) -> bytes | None:
    """The note of exactly ``size``, not verified, or None. Of several, the one with the most signatures: the newest.

    Raises:
        RolledBack: a note is gone.
        Unavailable: the bus does not answer.
    """
    below, _ = await notes_around(client, size)
    return below if below is not None and size_of(below) == size else None


async def notes_around(client: Client, size: int) -> tuple[bytes | None, bytes | None]:
    """The newest note of at most ``size``, and the first of a larger one; not verified, None where there is none.

    Raises:
        RolledBack: a note is gone.
        Unavailable: the bus does not answer.
    """
    state = await stream_state(client, STREAM)
    above = await first_where(client, lambda note: size_of(note) > size)
    at = state.last_seq if above is None else above - 1
    below = await note_at(client, at) if at >= max(state.first_seq, 1) else None
    return below, None if above is None else await note_at(client, above)
