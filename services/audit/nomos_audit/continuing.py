"""Proofs that one checkpoint of the log continues another, made from the tree's tiles (:mod:`nomos.log.consistency`).

Decides which checkpoints: only sizes that were signed, because an auditor compares what was published. Another size is
refused with the signed sizes next to it; signing it now would prove nothing about what was shown before. What was
made is checked against both signed roots before it leaves.
"""

from __future__ import annotations

from nats.aio.client import Client

from nomos.errors import Malformed, NotFound, Unavailable
from nomos.log.consistency import ConsistencyProof, format_consistency
from nomos.log.tree import TREE_SIZE_MAX, ProofFailed, consistency_path, verify_consistency
from nomos_audit.checkpoints import Signer
from nomos_audit.notes import notes_around, size_of
from nomos_audit.tiles import Tiles


async def prove_consistency(client: Client, signer: Signer, tiles: Tiles, older: int, newer: int | None) -> bytes:
    """The file that proves that the checkpoint of size ``newer`` continues the one of size ``older``.

    Args:
        client: connected to the account that owns the streams.
        signer: knows the log's keys.
        tiles: the tree.
        older: a size that was signed.
        newer: likewise, at least ``older``; None for the log as it stands, signed now.

    Raises:
        Malformed: the sizes are no sizes, or in the wrong order.
        NotFound: no checkpoint of that size was signed; the hint names those next to it.
        BadSignature: a note was not signed by the keys that must sign its size.
        RolledBack: the log contradicts a checkpoint.
        Unavailable: the bus does not answer, or the tiles are late, or had to be made anew.
    """
    if not 0 <= older <= (TREE_SIZE_MAX if newer is None else newer) <= TREE_SIZE_MAX:
        raise Malformed("sizes are 0 or more, and the first is not above the second")
    last = await signer.checkpoint_now() if newer is None else await _note_of(client, newer)
    first = await _note_of(client, older)
    low, high = await signer.open_note(first), await signer.open_note(last)
    path = tuple(consistency_path(await tiles.reach(high.size), low.size, high.size)) if low.size < high.size else ()
    try:
        verify_consistency(low.size, high.size, low.root, high.root, path)
    except ProofFailed as error:
        # The tiles are a copy of the chain; they heal by themselves.
        tiles.forget()
        raise Unavailable("the copy of the log that proofs are made from is damaged", cause=error.detail) from error
    return format_consistency(ConsistencyProof(older=first, newer=last, path=path))


async def _note_of(client: Client, size: int) -> bytes:
    below, above = await notes_around(client, size)
    if below is not None and size_of(below) == size:
        return below
    there = " and ".join(str(size_of(one)) for one in (below, above) if one is not None)
    raise NotFound(
        f"no checkpoint of size {size} was signed", hint=f"signed next to it: {there}" if there else "none was signed"
    )
