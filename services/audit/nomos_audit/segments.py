"""The chain as streams: ``CHAIN``, then ``CHAIN-<n>`` for each that followed, whose first block has the number n.

Decides where a block stands, and nothing about its content. A block's number is its sequence in whatever stream holds
it: a segment is made to begin at the number that comes next, so numbers go on rising by one across segments.

A segment ends with a block that names the one that follows (:attr:`nomos_audit.block.Block.next`). It is appended like
every block, by compare-and-swap, so nobody can go on behind it without having seen it; a message that stands there
nevertheless is no block of the chain. The segment that follows is made before that block is appended, so a chain never
ends in a segment that cannot be made. One that was made and is named by no block (its maker lost the race) stays empty
and is part of nothing.

Trusted: the streams' server, as in :mod:`nomos_audit.streams`.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Final, NamedTuple

import msgspec
from nats.aio.client import Client
from nats.js.api import StreamInfo

from nomos.errors import Misconfigured, RolledBack, Unavailable
from nomos_audit.block import STREAM, SUBJECT, parse_block
from nomos_audit.replay import HINT
from nomos_audit.streams import BUS_FAULTS, REQUEST_SECONDS, Stored, message_at, stream_state

_PREFIX: Final = f"{STREAM}-"
RETIRED_HINT: Final = (
    "the segments before it were retired: their records are in the archive (nomos verify) and in the table, and a copy "
    "that has to be made from the beginning is restored from there"
)


class _Names(msgspec.Struct):
    total: int = 0
    streams: list[str] | None = None


_decode = msgspec.json.Decoder(_Names).decode


class Segment(NamedTuple):
    """One stream of the chain: its name, and the numbers of its first and last block (last below first: empty)."""

    name: str
    first: int
    last: int


def name_of(first: int) -> str:
    """The name of the segment whose first block is ``first``."""
    return STREAM if first <= 1 else f"{_PREFIX}{first}"


def subject_of(name: str) -> str:
    """The subject of a segment."""
    return SUBJECT if name == STREAM else f"chain.{name.removeprefix(_PREFIX)}"


def first_of(name: str) -> int:
    """The number of a segment's first block.

    Raises:
        Misconfigured: no name of a segment.
    """
    digits = name.removeprefix(_PREFIX)
    if name == STREAM:
        return 1
    if name_of(int(digits) if digits.isascii() and digits.isdigit() else 0) != name:
        raise Misconfigured(f"{name} is no segment of the chain")
    return int(digits)


async def segments(client: Client) -> list[Segment]:
    """The segments that hold blocks, in order; the first alone where none does.

    Raises:
        Misconfigured: there is none.
        Unavailable: the bus does not answer.
    """
    found = []
    for name in await _names(client):
        try:
            state = await stream_state(client, name)
        except Misconfigured:
            # Retired since it was listed.
            continue
        found.append(Segment(name, first_of(name), state.last_seq))
    if not found:
        raise Misconfigured(f"there is no stream {STREAM}", hint="run the provisioning first")
    return [one for one in found if one.last >= one.first] or found[:1]


async def newest_segment(client: Client) -> Segment:
    """The last segment that holds blocks. Costs two small requests, however many segments there are.

    Raises:
        Misconfigured: there is none.
        Unavailable: the bus does not answer.
    """
    names = await _names(client)
    for name in reversed(names):
        state = await stream_state(client, name)
        if state.last_seq >= first_of(name) or name == names[0]:
            return Segment(name, first_of(name), state.last_seq)
    raise Misconfigured(f"there is no stream {STREAM}", hint="run the provisioning first")


async def first_block(client: Client) -> int:
    """The number of the oldest block that is not retired; of the first to come where there is none.

    Raises:
        Misconfigured: there is no chain.
        Unavailable: the bus does not answer.
    """
    names = await _names(client)
    for name in names:
        if (await stream_state(client, name)).last_seq >= first_of(name):
            return first_of(name)
    if not names:
        raise Misconfigured(f"there is no stream {STREAM}", hint="run the provisioning first")
    return first_of(names[0])


async def _find(client: Client, block: int) -> tuple[str, Stored] | None:
    """The stream and the message of a block; None where it is nowhere."""
    for name in reversed(await _names(client)):
        # The newest that can hold it, as a rule; before that only one that stayed empty.
        if first_of(name) <= block and (stored := await message_at(client, name, block)) is not None:
            return name, stored
    return None


async def _missing(client: Client, block: int) -> RolledBack:
    first, last = await first_block(client), (await newest_segment(client)).last
    if block < first:
        return RolledBack(f"the chain begins at block {first}, after block {block}", hint=RETIRED_HINT)
    if block > last:
        return RolledBack(f"the chain ends at block {last}, but block {block} was read", hint=HINT)
    return RolledBack(f"block {block} of the chain is gone", hint=HINT)


async def segment_after(client: Client, block: int) -> str:
    """The stream in which the block after ``block`` stands or will stand.

    Raises:
        RolledBack: block ``block`` was retired, or the chain ends before it.
        Unavailable: the bus does not answer.
    """
    found = await _find(client, block) if block else None
    if found is not None:
        return parse_block(found[1].payload).next or found[0]
    if await first_block(client) == block + 1:
        return name_of(block + 1)
    raise await _missing(client, block)


async def block_stored(client: Client, block: int) -> Stored:
    """The message of block ``block``.

    Raises:
        RolledBack: it is not there, or it was retired.
        Unavailable: the bus does not answer.
    """
    found = await _find(client, block)
    if found is None:
        raise await _missing(client, block)
    return found[1]


async def newest_block(client: Client) -> Stored | None:
    """The message of the newest block; None where the chain has none.

    Raises:
        RolledBack: it has been deleted.
        Unavailable: the bus does not answer.
    """
    one = await newest_segment(client)
    if one.last < one.first:
        return None
    stored = await message_at(client, one.name, one.last)
    if stored is None:
        raise RolledBack(f"the newest block of the chain, {one.last}, is gone", hint=HINT)
    return stored


class Room(NamedTuple):
    """How much of a segment is used: its bytes, the most that it takes (0: no limit), and when it was made."""

    used: int
    limit: int
    made_at: float


async def room_of(client: Client, name: str) -> Room:
    """What a segment holds. Bytes, and Unix seconds.

    Raises:
        Unavailable: the bus does not answer.
    """
    info = await _info(client, name)
    limit = max(info.config.max_bytes or 0, 0)
    return Room(info.state.bytes, limit, info.created.timestamp() if info.created else 0.0)


async def make_segment(client: Client, like: str, first: int) -> str:
    """Makes the segment whose first block is ``first``, with all else as the segment ``like``; may be there already.

    Returns:
        Its name.

    Raises:
        Unavailable: it cannot be made, for instance for lack of space.
    """
    name = name_of(first)
    config = (await _info(client, like)).config
    wanted = dataclasses.replace(config, name=name, subjects=[subject_of(name)], first_seq=first, metadata=None)
    try:
        await client.jetstream(timeout=REQUEST_SECONDS).add_stream(wanted)
        made = await stream_state(client, name)
    except (*BUS_FAULTS, Misconfigured) as error:
        raise Unavailable(f"the segment {name} cannot be made", cause=repr(error)) from error
    if made.last_seq != first - 1:
        raise Unavailable(f"the segment {name} is there, and does not begin at block {first}")
    return name


async def _info(client: Client, name: str) -> StreamInfo:
    try:
        return await client.jetstream(timeout=REQUEST_SECONDS).stream_info(name)
    except BUS_FAULTS as error:
        raise Unavailable(f"stream {name} does not answer", cause=repr(error)) from error


async def _names(client: Client) -> list[str]:
    """The names of all segments, in order of their blocks."""
    names: list[str] = []
    while True:
        asked = json.dumps({"offset": len(names), "subject": "chain.*"}).encode()
        try:
            reply = await client.request("$JS.API.STREAM.NAMES", asked, timeout=REQUEST_SECONDS)
            page = _decode(reply.data)
        except (*BUS_FAULTS, msgspec.MsgspecError) as error:
            raise Unavailable("the streams cannot be listed", cause=repr(error)) from error
        names += page.streams or []
        if not page.streams or len(names) >= page.total:
            return sorted(names, key=first_of)
