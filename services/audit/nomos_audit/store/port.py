"""The port of the archive's store: objects by name that are written once, and one index that is replaced.

Trusted: nothing. Who controls the store can lose objects or withhold them; a changed one does not have the digest that
a signed seal names.
"""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Final, Protocol

from nomos.errors import MalformedRecord
from nomos.log.index import INDEX_NAME, is_archive_name

#: The only name whose object may be replaced.
REPLACED: Final = frozenset({INDEX_NAME})


class Store(Protocol):
    """One archive. Names are relative, with ``/`` between folders.

    Every method raises :class:`~nomos.errors.Unavailable` where the store does not answer; the outcome of a write is
    then unknown, and the same write may be repeated.
    """

    @property
    def name(self) -> str:
        """What diagnostics call it; no credential in it."""
        ...

    async def put_new(self, name: str, content: Path | bytes, digest: str) -> None:
        """Stores an object that does not exist; durable when it returns.

        The same bytes again are no error.

        Raises:
            Conflict: an object of the name exists with other bytes. It is left as it is.
        """
        ...

    async def replace(self, name: str, content: bytes) -> None:
        """Stores one of :data:`REPLACED`, atomically."""
        ...

    async def get(self, name: str) -> bytes:
        """An object's bytes.

        Raises:
            NotFound: there is none.
        """
        ...

    async def fetch(self, name: str, path: Path) -> None:
        """Writes an object's bytes into a new file.

        Raises:
            NotFound: there is none.
        """
        ...

    async def names(self, prefix: str) -> list[str]:
        """The names below ``prefix``, sorted."""
        ...

    async def close(self) -> None:
        """Ends connections."""
        ...


def digest_of(content: Path | bytes) -> str:
    """SHA-256 in hex, as seals and the index spell it."""
    if isinstance(content, bytes):
        return sha256(content).hexdigest()
    digest = sha256()
    with content.open("rb") as source:
        while block := source.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def checked(name: str, *, replaced: bool = False) -> str:
    """``name``, if an archive may hold it.

    Raises:
        MalformedRecord: it may not, or not in this way.
    """
    if not is_archive_name(name) or (name in REPLACED) != replaced:
        raise MalformedRecord(f"an archive has no object {name[:80]!r} that is written so")
    return name
