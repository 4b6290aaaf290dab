"""Finding a signed note of one size in the stream ``CHECKPOINT``, whose sizes rise."""

from __future__ import annotations

from nats.aio.client import Client

from nomos.errors import RolledBack
from nomos.log.checkpoint import parse_checkpoint
from nomos.log.note import parse_note
from nomos_audit.checkpoints import STREAM
from nomos_audit.replay import HINT
from nomos_audit.streams import message_at, stream_state


async def find_note(client: Client, size: int) -> bytes | None:
    """The note of exactly ``size``, not verified, or None. Of several, the one with the most signatures: the newest.

    Raises:
        RolledBack: a note is gone.
        Unavailable: the bus does not answer.
    """
    state = await stream_state(client, STREAM)
    low, high = state.first_seq or 1, state.last_seq
    found: bytes | None = None
    while low <= high:
        middle = (low + high) // 2
        stored = await message_at(client, STREAM, middle)
        if stored is None:
            raise RolledBack("a signed checkpoint is gone", hint=HINT)
        here = parse_checkpoint(parse_note(stored.payload).text).size
        if here == size:
            found = stored.payload
        if here <= size:
            low = middle + 1
        else:
            high = middle - 1
    return found
