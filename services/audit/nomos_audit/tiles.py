"""The log's tree as tiles on local disk (c2sp.org/tlog-tiles): what proofs are made from, and what a monitor can read.

A projection of the chain like the others: it checks every link before it repeats it, has its own position, and can be
deleted and built again. Full tiles never change; what is not full yet is kept in memory and written as a partial tile
when somebody asks for a size (:meth:`Tiles.settle`). After a restart the last full tile of level 0 is the position.

Not trusted: a proof that is made from changed tiles does not verify.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from nats.aio.client import Client

from nomos.errors import MalformedRecord, Unavailable
from nomos.log.tiles import ENTRY_PREFIX, TILE_HEIGHT, TILE_WIDTH, TiledTree, tile_path, tile_width
from nomos.log.tree import EMPTY_ROOT, HASH_BYTES, Subtree, leaf_hash, subtree_root
from nomos.waiting import raise_if_cancelled
from nomos_audit.follow import Follower, block_of, position_before
from nomos_audit.replay import start_of
from nomos_audit.segments import newest_segment
from nomos_runtime import observe

WAIT_SECONDS: Final = 1.0
#: Between two looks at the chain; by so much the tiles may be behind it.
LINGER_SECONDS: Final = 0.1
RETRY_SECONDS: Final = 0.5
#: How long :meth:`Tiles.reach` waits for the chain.
REACH_SECONDS: Final = 30.0
POSITION_NAME: Final = "position"

TILES_AWAY: Final = "audit_tiles_away"


class TileFiles:
    """Tiles below one folder. Pure in memory but for its files; one writer."""

    def __init__(self, folder: Path) -> None:
        """Takes the folder, and what is full in it."""
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._entries: list[bytes] = []
        #: Hashes of the tile that is not full, by level.
        self._open: list[list[bytes]] = [[]]
        self._full = [0]
        self.size = 0
        self._load()

    def _load(self) -> None:
        """Begins behind the last full tile of level 0 that the position names."""
        try:
            full = int((self._folder / POSITION_NAME).read_text(encoding="ascii"))
        except (FileNotFoundError, ValueError):
            # Nothing yet, or a file that a crash left: built again from the chain.
            return
        self.size = full * TILE_WIDTH
        self._full[0] = full
        count, level = full, 1
        while count:
            self._grow_to(level)
            left = count % TILE_WIDTH
            self._open[level] = [self._root_of(level - 1, count - left + one) for one in range(left)]
            self._full[level] = count = count // TILE_WIDTH
            level += 1

    def _root_of(self, level: int, tile: int) -> bytes:
        content = (self._folder / tile_path(level, tile)).read_bytes()
        return subtree_root([content[at : at + HASH_BYTES] for at in range(0, len(content), HASH_BYTES)])

    def _grow_to(self, level: int) -> None:
        while len(self._open) <= level:
            self._open.append([])
            self._full.append(0)

    @property
    def durable(self) -> int:
        """How many leaves are in full tiles: where a start goes on from."""
        return self._full[0] * TILE_WIDTH

    def extend(self, hashes: Sequence[bytes]) -> None:
        """Adds leaves; full tiles are on disk when this returns."""
        before = self._full[0]
        for one in hashes:
            self._entries.append(one)
            self._add(0, leaf_hash(one))
        self.size += len(hashes)
        if self._full[0] != before:
            # Names the tiles that are there; a crash before it costs their being written again.
            _replace(self._folder / POSITION_NAME, str(self._full[0]).encode())

    def _add(self, level: int, digest: bytes) -> None:
        self._grow_to(level)
        tile = self._open[level]
        tile.append(digest)
        if len(tile) < TILE_WIDTH:
            return
        index = self._full[level]
        _replace(self._folder / tile_path(level, index), b"".join(tile))
        if level == 0:
            bundle = b"".join(ENTRY_PREFIX + one for one in self._entries)
            _replace(self._folder / tile_path(None, index), bundle)
            self._entries.clear()
        self._open[level] = []
        self._full[level] += 1
        self._add(level + 1, subtree_root(tile))

    def read(self, level: int, index: int, width: int) -> bytes:
        """A tile's bytes, ``width`` hashes of it.

        Raises:
            MalformedRecord: there is no such tile.
        """
        if level < len(self._open) and index == self._full[level]:
            return b"".join(self._open[level][:width])
        try:
            return (self._folder / tile_path(level, index)).read_bytes()[: width * HASH_BYTES]
        except FileNotFoundError as error:
            raise MalformedRecord(f"tile {index} of level {level} is not there") from error

    def stored(self, before: int, size: int) -> Iterator[tuple[str, Path | bytes]]:
        """What an archive of the tree of ``size`` holds beyond that of ``before``: new full tiles, and partial ones.

        Raises:
            MalformedRecord: the tiles are not there.
        """
        for name in self.full_paths(before, size):
            yield name, self._folder / name
        level = 0
        while size >> (TILE_HEIGHT * level):
            index = (size >> (TILE_HEIGHT * level)) // TILE_WIDTH
            width = tile_width(level, index, size)
            if width:
                yield tile_path(level, index, width), self.read(level, index, width)
                if level == 0:
                    yield tile_path(None, index, width), self._bundle(index, width)
            level += 1

    def _bundle(self, index: int, width: int) -> bytes:
        if index == self._full[0]:
            return b"".join(ENTRY_PREFIX + one for one in self._entries[:width])
        whole = (self._folder / tile_path(None, index)).read_bytes()
        return whole[: width * (len(ENTRY_PREFIX) + HASH_BYTES)]

    def full_paths(self, before: int, after: int) -> list[str]:
        """The paths of the tiles and bundles that became full between the sizes ``before`` and ``after``."""
        names: list[str] = []
        level = 0
        while after >> (TILE_HEIGHT * (level + 1)):
            shift = TILE_HEIGHT * (level + 1)
            for index in range(before >> shift, after >> shift):
                names.append(tile_path(level, index))
                if level == 0:
                    names.append(tile_path(None, index))
            level += 1
        return names


class Tiles:
    """Keeps tiles up with the chain. :meth:`run` until cancelled."""

    def __init__(self, client: Client, folder: Path, *, origin: str) -> None:
        self._client = client
        self._origin = origin
        self._folder = folder
        self._moved = asyncio.Condition()
        self._lost = False
        self.files = TileFiles(folder)

    async def run(self) -> None:
        """Projects the chain until cancelled.

        Raises:
            RolledBack: the chain does not verify.
            MalformedRecord: a message of the chain is no block.
        """
        while True:
            raise_if_cancelled()
            try:
                await self._project()
            except Unavailable as error:
                observe.say("audit", TILES_AWAY, detail=error.detail, cause=error.cause)
                await asyncio.sleep(RETRY_SECONDS)

    async def _project(self) -> None:
        self._lost = False
        follower, skipped = await self._follower()
        try:
            while not self._lost:
                raise_if_cancelled()
                blocks = await follower.take(WAIT_SECONDS)
                if blocks and not self._lost:
                    # Not in a thread: whoever reads a tile must not meet a half of it.
                    for block in blocks:
                        self.files.extend(block.hashes[skipped:])
                        skipped = 0
                    async with self._moved:
                        self._moved.notify_all()
                    # What comes next is read in one go.
                    await asyncio.sleep(LINGER_SECONDS)
        finally:
            await follower.close()

    async def _follower(self) -> tuple[Follower, int]:
        """A follower from the block that holds the next leaf, and how many of its records are there already."""
        size = self.files.size
        last = (await newest_segment(self._client)).last
        if size:
            _, newest = await position_before(self._client, self._origin, last + 1)
            if newest is None or newest.size < size:
                # Tiles of a longer log: whether this one was cut is the signer's to judge, with signed checkpoints.
                (self._folder / POSITION_NAME).unlink(missing_ok=True)
                self.files = TileFiles(self._folder)
                return Follower(self._client, start_of(self._origin)), 0
            if newest.size == size:
                position, _ = await position_before(self._client, self._origin, last + 1)
                return Follower(self._client, position), 0
            block = await block_of(self._client, size, last)
            position, _ = await position_before(self._client, self._origin, block)
            return Follower(self._client, position), size - position.size
        return Follower(self._client, start_of(self._origin)), 0

    def forget(self) -> None:
        """Begins anew from the chain: for tiles from which a proof did not verify."""
        (self._folder / POSITION_NAME).unlink(missing_ok=True)
        self.files = TileFiles(self._folder)
        self._lost = True

    async def reach(self, size: int) -> Subtree:
        """The subtrees of the tree of ``size``, once the tiles have got that far.

        Raises:
            Unavailable: they have not within :data:`REACH_SECONDS`.
        """
        async with self._moved:
            try:
                async with asyncio.timeout(REACH_SECONDS):
                    await self._moved.wait_for(lambda: self.files.size >= size)
            except TimeoutError as error:
                raise Unavailable(f"the tiles hold {self.files.size} of {size} records") from error
        return TiledTree(self.files.read, size).subtree

    async def frozen(self, size: int) -> Subtree:
        """As :meth:`reach`, for use in another thread: what is not on disk yet is copied now."""
        await self.reach(size)
        files, kept = self.files, {}
        level = 0
        while size >> (TILE_HEIGHT * level):
            index = (size >> (TILE_HEIGHT * level)) // TILE_WIDTH
            width = tile_width(level, index, size)
            if width:
                kept[level, index] = files.read(level, index, width)
            level += 1

        def read(level: int, index: int, width: int) -> bytes:
            return kept[level, index] if (level, index) in kept else files.read(level, index, width)

        return TiledTree(read, size).subtree

    def root(self, size: int) -> bytes:
        """The root of the tree of ``size`` by the tiles."""
        return EMPTY_ROOT if size == 0 else TiledTree(self.files.read, size).subtree(0, size)


def _replace(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.{os.getpid()}.new")
    beside.write_bytes(content)
    beside.replace(path)
