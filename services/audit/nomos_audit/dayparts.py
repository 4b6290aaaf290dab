"""The Parquet parts of one day on their way into the archive: written here, stored, read back, compared.

Decides where a part ends (at a global multiple of ``PART_ROWS_MAX``, and at the day's end) and what a part that is
there already means: an earlier attempt was cut short. Then its rows are compared with the chain, hash by hash, and it
is taken as it is; so an archive continues after any crash without a gap and without overwriting anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from nomos.errors import MalformedRecord, RolledBack, Unavailable
from nomos.log.archive import PART_ROWS_MAX, ArchiveRow, PartWriter
from nomos.log.heads import SEALED_FILES_MAX, SealedFile
from nomos.log.index import file_digest
from nomos.log.parts import HASH_BYTES, Part
from nomos_audit.replay import HINT
from nomos_audit.store.port import Store


class _Stored:
    """A part that the archive has: chain hashes by seq, to be compared with the chain."""

    def __init__(self, path: Path) -> None:
        hashes: list[bytes] = []
        first = None
        with Part(path, with_prev=False) as part:
            for group in range(part.groups):
                rows = part.read(group)
                first = rows.seqs[0] if first is None else first
                hashes.append(rows.hashes)
        if first is None:
            raise MalformedRecord("a part of the archive has no rows")
        self.first = first
        self.hashes = b"".join(hashes)
        self.last = first + len(self.hashes) // HASH_BYTES - 1
        self.sha256 = file_digest(path)

    def agree(self, row: ArchiveRow) -> None:
        """Compares one record.

        Raises:
            RolledBack: the archive holds another.
        """
        at = (row.seq - self.first) * HASH_BYTES
        if self.hashes[at : at + HASH_BYTES] != row.hash:
            raise RolledBack(f"the archive holds another record {row.seq} than the chain", hint=HINT)


class DayParts:
    """The parts of one day. :meth:`open`, :meth:`add` rows in order, :meth:`finish`."""

    def __init__(
        self, store: Store, day: str, first: int, names: Iterable[str], folder: TemporaryDirectory[str]
    ) -> None:
        self._store = store
        self._day = day
        self._next = first
        self._known = frozenset(names)
        self._folder = folder
        self._stack = ExitStack()
        self._writer: PartWriter | None = None
        self._stored: _Stored | None = None
        self.files: list[SealedFile] = []

    @classmethod
    async def open(cls, store: Store, day: str, first: int) -> DayParts:
        """Looks which parts of the day are there.

        Args:
            store: the archive.
            day: ``YYYY-MM-DD``.
            first: seq of the day's first record.
        """
        names = await store.names(f"day={day}/")
        return cls(store, day, first, names, TemporaryDirectory(prefix="nomos-archive-"))

    @property
    def _name(self) -> str:
        return f"day={self._day}/part-{len(self.files):03d}.parquet"

    @property
    def _path(self) -> Path:
        return Path(self._folder.name) / f"{len(self.files)}.parquet"

    async def add(self, rows: Iterable[ArchiveRow]) -> None:
        """Takes the next records.

        Raises:
            RolledBack: the archive holds other records.
            Unavailable: the store does not answer.
        """
        for row in rows:
            if self._writer is not None and row.seq % PART_ROWS_MAX == 0:
                await self._close()
            if self._writer is None and self._stored is None:
                await self._begin()
            if self._stored is not None:
                self._stored.agree(row)
                if row.seq == self._stored.last:
                    self._take(self._stored)
            elif self._writer is not None:
                self._writer.append(row)

    async def _begin(self) -> None:
        if len(self.files) >= SEALED_FILES_MAX:
            raise RolledBack(f"a day has more than {SEALED_FILES_MAX} parts", hint="seal more often")
        if self._name in self._known:
            await self._store.fetch(self._name, self._path)
            self._stored = await asyncio.to_thread(_Stored, self._path)
            self._path.unlink()
            if self._stored.first != self._next:
                raise RolledBack(f"{self._name} of the archive begins at record {self._stored.first}", hint=HINT)
            return
        self._writer = self._stack.enter_context(PartWriter(self._path))

    def _take(self, stored: _Stored) -> None:
        self.files.append(
            SealedFile(
                n=self._name,
                sha256=stored.sha256,
                rows=stored.last - stored.first + 1,
                first=stored.first,
                last=stored.last,
            )
        )
        self._next = stored.last + 1
        self._stored = None

    async def _close(self) -> None:
        """Completes the open part, stores it, reads it back."""
        writer, path, name = self._writer, self._path, self._name
        assert writer is not None
        self._stack.close()
        self._writer = None
        digest = await asyncio.to_thread(file_digest, path)
        await self._store.put_new(name, path, digest)
        # What is sealed is what the store gives back, not what was handed to it.
        again = path.with_suffix(".again")
        await self._store.fetch(name, again)
        if await asyncio.to_thread(file_digest, again) != digest:
            raise Unavailable(f"the archive gives {name} back changed")
        again.unlink()
        path.unlink()
        self.files.append(SealedFile(n=name, sha256=digest, rows=writer.rows, first=writer.first, last=writer.last))
        self._next = writer.last + 1

    async def finish(self) -> tuple[SealedFile, ...]:
        """Stores what is open; the day's parts in order.

        Raises:
            RolledBack: the archive holds a record that the chain has not.
            Unavailable: the store does not answer.
        """
        if self._stored is not None:
            raise RolledBack(f"{self._name} of the archive goes on beyond the chain", hint=HINT)
        if self._writer is not None:
            await self._close()
        return tuple(self.files)

    def close(self) -> None:
        """Removes what is left on local disk."""
        self._stack.close()
        self._folder.cleanup()
