"""Where signed checkpoints are kept besides the store that they speak of.

A store that is rolled back as a whole takes its own checkpoints with it, so the newest note also goes to places that
do not share its fate: a file on another disk, the database, later a witness. At the start the log is compared with the
newest note of all of them (:mod:`nomos_audit.checkpoints`).

Trusted: nothing. A note is used only if the log's key signed it. An attacker who controls an anchor can withhold the
newest note, which matters only if they control all of them.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Protocol

from nomos.errors import Unavailable
from nomos.log.note import NOTE_BYTES_MAX
from nomos_runtime.database import Database


class Anchor(Protocol):
    """One place for checkpoints. Idempotent: the same note may be kept twice."""

    @property
    def name(self) -> str:
        """What diagnostics call it."""
        ...

    async def newest(self) -> bytes | None:
        """The note of the largest size that was kept, or None.

        Raises:
            Unavailable: it cannot be read now.
        """
        ...

    async def keep(self, size: int, note: bytes) -> None:
        """Keeps ``note``, of a tree of ``size``; durable when it returns.

        Raises:
            Unavailable: it is not known to be kept.
        """
        ...


class FileAnchor:
    """One file with the newest note, replaced atomically and synced. Belongs on another disk than the bus's store."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.name = "file"

    async def newest(self) -> bytes | None:
        """See :class:`Anchor`."""
        try:
            return await asyncio.to_thread(self._read)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise Unavailable("the checkpoint file cannot be read", cause=repr(error)) from error

    def _read(self) -> bytes:
        with self._path.open("rb") as source:
            return source.read(NOTE_BYTES_MAX + 1)

    async def keep(self, size: int, note: bytes) -> None:
        """See :class:`Anchor`."""
        try:
            await asyncio.to_thread(self._replace, note)
        except OSError as error:
            raise Unavailable("the checkpoint file cannot be written", cause=repr(error)) from error

    def _replace(self, note: bytes) -> None:
        beside = self._path.with_name(f"{self._path.name}.{os.getpid()}.new")
        with beside.open("wb") as target:
            target.write(note)
            target.flush()
            os.fsync(target.fileno())
        beside.replace(self._path)
        # The name is durable only when its folder is.
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


class DatabaseAnchor:
    """All notes in the table ``audit_checkpoints``."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.name = "database"

    async def newest(self) -> bytes | None:
        """See :class:`Anchor`."""
        async with self._database.transaction() as connection:
            note: bytes | None = await connection.fetchval(
                "SELECT note FROM audit_checkpoints ORDER BY size DESC LIMIT 1"
            )
        return note

    async def keep(self, size: int, note: bytes) -> None:
        """See :class:`Anchor`."""
        async with self._database.transaction() as connection:
            await connection.execute(
                "INSERT INTO audit_checkpoints (size, note) VALUES ($1, $2) ON CONFLICT (size) DO NOTHING", size, note
            )
