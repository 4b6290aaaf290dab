"""Where a hash of the tree stands in the tiles of a log (c2sp.org/tlog-tiles), and proofs made from them.

A tile of level ``L`` holds up to 256 hashes, each the root of 256^L leaves. Its path is ``tile/<L>/<N>``, with ``N`` in
groups of three digits (``x001/x234/067``), and ``.p/<W>`` behind it while it holds only ``W`` of them. Entry bundles
(``tile/entries/<N>``) hold the leaves' data, each behind its length in two bytes; ours is the 32-byte chain hash, so
tiles disclose how many events there are and nothing of them.

Pure: what a tile holds is given by a function.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Final

from nomos.errors import MalformedRecord
from nomos.log.tree import HASH_BYTES, node_hash, split_size, subtree_root

#: Hashes in a full tile; 8 levels of the tree.
TILE_WIDTH: Final = 256
TILE_HEIGHT: Final = 8
ENTRY_PREFIX: Final = HASH_BYTES.to_bytes(2, "big")
#: Tiles whose content a reader keeps: 4 MiB.
KEPT_MAX: Final = 512
_PATH = re.compile(r"tile/(?:[0-9]|[1-5][0-9]|6[0-3]|entries)/(?:x[0-9]{3}/)*[0-9]{3}(?:\.p/[1-9][0-9]{0,2})?")


def tile_path(level: int | None, index: int, width: int = TILE_WIDTH) -> str:
    """The path of a tile, or of an entry bundle for level None.

    Args:
        level: of the tile, 0 to 63.
        index: of the tile in its level.
        width: how many hashes it holds, 1 to 256.

    Raises:
        MalformedRecord: there is no such tile.
    """
    if index < 0 or not 1 <= width <= TILE_WIDTH or (level is not None and not 0 <= level <= 63):
        raise MalformedRecord("a tile has a level of 0 to 63, an index and a width of 1 to 256")
    groups = [f"{index % 1000:03d}"]
    while index >= 1000:
        index //= 1000
        groups.append(f"x{index % 1000:03d}")
    suffix = "" if width == TILE_WIDTH else f".p/{width}"
    return f"tile/{'entries' if level is None else level}/{'/'.join(reversed(groups))}{suffix}"


def is_tile_path(name: str) -> bool:
    """Whether ``name`` is spelled as a tile's path."""
    return _PATH.fullmatch(name) is not None


def tile_width(level: int, index: int, size: int) -> int:
    """How many hashes the tile has in a tree of ``size``; 0 where it is not there."""
    return max(0, min(TILE_WIDTH, (size >> (TILE_HEIGHT * level)) - index * TILE_WIDTH))


class TiledTree:
    """The tree of one size, read from tiles. Give :meth:`subtree` to whatever makes a proof."""

    def __init__(self, read: Callable[[int, int, int], bytes], size: int) -> None:
        """Takes the reader and the size.

        Args:
            read: level, index and width -> the tile's bytes, ``width`` hashes.
            size: the tree size.
        """
        self._size = size
        self._tile = lru_cache(maxsize=KEPT_MAX)(read)

    def subtree(self, begin: int, end: int) -> bytes:
        """The root of the leaves [begin, end), which must be one that a proof asks for.

        Raises:
            MalformedRecord: it lies outside the tree, or a tile has not the length that it must have.
        """
        if not 0 <= begin < end <= self._size:
            raise MalformedRecord("a subtree must lie in the tree")
        width = end - begin
        if width & (width - 1) == 0 and begin % width == 0:
            return self._node(width.bit_length() - 1, begin // width)
        middle = begin + split_size(width)
        return node_hash(self.subtree(begin, middle), self.subtree(middle, end))

    def _node(self, height: int, index: int) -> bytes:
        """The root of the complete subtree number ``index`` of 2^height leaves."""
        level, above = divmod(height, TILE_HEIGHT)
        first = index << above
        tile, place = divmod(first, TILE_WIDTH)
        width = tile_width(level, tile, self._size)
        content = self._tile(level, tile, width)
        if len(content) != width * HASH_BYTES:
            raise MalformedRecord("a tile does not have the length that the tree's size demands")
        hashes = [content[at * HASH_BYTES : (at + 1) * HASH_BYTES] for at in range(place, place + (1 << above))]
        return subtree_root(hashes)
