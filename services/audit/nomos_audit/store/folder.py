"""An archive in a folder: for one machine, for tests, and for a mounted store."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import ParamSpec, TypeVar

from nomos.errors import Conflict, NotFound, Unavailable
from nomos_audit.store.port import checked, digest_of

_P = ParamSpec("_P")
_R = TypeVar("_R")


class FolderStore:
    """See :class:`nomos_audit.store.port.Store`. A name appears when its bytes are synced, and never changes."""

    def __init__(self, folder: Path) -> None:
        """Takes the folder, which is made if it is missing.

        Raises:
            OSError: it cannot be made.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self.name = "folder"

    async def put_new(self, name: str, content: Path | bytes, digest: str) -> None:
        """See :class:`nomos_audit.store.port.Store`."""
        await self._run(self._put_new, checked(name), content, digest)

    async def replace(self, name: str, content: bytes) -> None:
        """See :class:`nomos_audit.store.port.Store`."""
        await self._run(self._write, checked(name, replaced=True), content, True)

    async def get(self, name: str) -> bytes:
        """See :class:`nomos_audit.store.port.Store`."""
        return await self._run(self._read, name)

    async def fetch(self, name: str, path: Path) -> None:
        """See :class:`nomos_audit.store.port.Store`."""
        await self._run(self._copy, name, path)

    async def names(self, prefix: str) -> list[str]:
        """See :class:`nomos_audit.store.port.Store`."""
        return await self._run(self._names, prefix)

    async def close(self) -> None:
        """Nothing is open."""

    async def _run(self, function: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return await asyncio.to_thread(function, *args, **kwargs)
        except FileNotFoundError as error:
            raise NotFound("the archive has no such object", cause=str(error)) from error
        except OSError as error:
            raise Unavailable("the archive's folder does not answer", cause=repr(error)) from error

    def _put_new(self, name: str, content: Path | bytes, digest: str) -> None:
        if digest_of(content) != digest:
            raise Conflict(f"{name} is not what was to be stored")
        if not self._write(name, content, False) and digest_of(self._folder / name) != digest:
            raise Conflict(f"the archive has another object {name}")

    def _write(self, name: str, content: Path | bytes, replace: bool) -> bool:
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, beside = tempfile.mkstemp(dir=path.parent, prefix=".new-")
        try:
            with os.fdopen(descriptor, "wb") as target:
                if isinstance(content, bytes):
                    target.write(content)
                else:
                    with content.open("rb") as source:
                        shutil.copyfileobj(source, target)
                target.flush()
                os.fsync(target.fileno())
            if replace:
                Path(beside).replace(path)
            else:
                try:
                    # A link, unlike a rename, refuses a name that is there.
                    os.link(beside, path)
                except FileExistsError:
                    return False
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        finally:
            Path(beside).unlink(missing_ok=True)
        return True

    def _read(self, name: str) -> bytes:
        return (self._folder / name).read_bytes()

    def _copy(self, name: str, path: Path) -> None:
        shutil.copyfile(self._folder / name, path)

    def _names(self, prefix: str) -> list[str]:
        found = (path.relative_to(self._folder).as_posix() for path in self._folder.rglob("*") if path.is_file())
        return sorted(name for name in found if name.startswith(prefix) and "/.new-" not in f"/{name}")
