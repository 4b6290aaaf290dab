"""What a store holds of an archive: its days, each day's root with the seal that it proves, and what the index lists.

Decides nothing about what comes next. A root counts only if the log's keys signed it and it proves its seal.

Trusted: not the store.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple

import msgspec

from nomos.errors import NotFound
from nomos.log.chain import link
from nomos.log.checkpoint import Checkpoint
from nomos.log.heads import Seal, parse_seal
from nomos.log.index import INDEX_NAME, ROOTS_NAME, FileEntry, PartEntry, parse_index, root_name
from nomos.log.record import parse_record
from nomos.log.roots import RootProofs, parse_root_proofs
from nomos.log.tree import leaf_hash, verify_inclusion
from nomos_audit.store.port import Store, digest_of


class DailyRoot(NamedTuple):
    """A day's root, the proofs beside it, and the seal that they prove."""

    root: Checkpoint
    proofs: RootProofs
    seal: Seal


async def names_of(store: Store) -> tuple[list[str], list[str]]:
    """The days whose roots are stored, in order, and the names of all objects beside roots.

    Raises:
        Unavailable: the store does not answer.
    """
    names = await store.names(f"{ROOTS_NAME}/")
    return [name.removeprefix(f"{ROOTS_NAME}/") for name in names if name.count(".") == 0], names


async def read_root(store: Store, day: str, open_note: Callable[[bytes], Awaitable[Checkpoint]]) -> DailyRoot:
    """A day's root, verified.

    Args:
        store: the archive.
        day: ``YYYY-MM-DD``.
        open_note: verifies that the log's keys signed a note; gives its checkpoint.

    Raises:
        BadSignature: the root is not signed, or does not prove the seal.
        Malformed: an object is not what its name says.
        NotFound: an object is gone.
        Unavailable: the store does not answer.
    """
    proofs = parse_root_proofs(await store.get(root_name(day, ".json")))
    root = await open_note(await store.get(root_name(day)))
    leaf = leaf_hash(link(proofs.prev, proofs.seal))
    verify_inclusion(root.size - 1, root.size, leaf, proofs.inclusion, root.root)
    return DailyRoot(root, proofs, parse_seal(parse_record(proofs.seal).event))


async def listed(
    store: Store, days: list[str], names: list[str]
) -> tuple[tuple[PartEntry, ...], tuple[FileEntry, ...]]:
    """The index's entries: from ``log.json`` where it is complete, else from the roots themselves.

    Args:
        store: the archive.
        days: those whose roots are stored, in order.
        names: of all objects beside roots.

    Raises:
        Malformed: an object is not what its name says.
        NotFound: an object is gone.
        Unavailable: the store does not answer.
    """
    try:
        index = parse_index(await store.get(INDEX_NAME))
    except NotFound:
        index = None
    if index is not None and {one.n for one in index.others} == set(names):
        return index.files, index.others
    files: list[PartEntry] = []
    for day in days:
        proofs = parse_root_proofs(await store.get(root_name(day, ".json")))
        seal = parse_seal(parse_record(proofs.seal).event)
        files += [PartEntry(**msgspec.structs.asdict(one)) for one in seal.files]
    others = [FileEntry(n=name, sha256=digest_of(await store.get(name))) for name in names]
    return tuple(files), tuple(others)
