"""``log.json``: the index of an export. An unsigned convenience that finds damage and proves nothing.

Decides the names that may stand in an export and how the index is spelled. Whoever can change the export can change
this file too, so :mod:`nomos.log.verify` uses it to say *where* something is wrong or missing; that all is right is
decided by signatures and hashes alone.

One line of canonical JSON. The member ``sum`` is the SHA-256 of the same object without it, so that a damaged index is
told from an honest one.
"""

from __future__ import annotations

import re
from hashlib import sha256
from pathlib import Path
from typing import Final, Literal

import msgspec

from nomos.errors import MalformedRecord
from nomos.log.record import canonical_bytes, parse_object
from nomos.log.tiles import is_tile_path

EXPORT_SCHEMA: Final = "nomos.export/1"
INDEX_NAME: Final = "log.json"
CHECKPOINT_NAME: Final = "checkpoint"
CHECKPOINTS_NAME: Final = "checkpoints"
PROOF_NAME: Final = "proof"
INDEX_BYTES_MAX: Final = 64 * 1024 * 1024
_READ_BYTES: Final = 1024 * 1024
_PART_NAME = re.compile(r"day=[0-9]{4}-[0-9]{2}-[0-9]{2}/part-[0-9]{3,6}\.parquet")
ROOTS_NAME: Final = "roots"
HEAD_NAME: Final = "head.json"
_DAY: Final = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
_ROOT_NAME = re.compile(rf"roots/{_DAY}(?:\.json|\.heads|(?:\.[0-9]{{1,2}})?\.tsr)?")
_OTHER_NAME = re.compile(rf"checkpoint|checkpoints/[0-9]{{12,19}}|proof|head\.json|{_ROOT_NAME.pattern}")
_SHA256 = re.compile(r"[0-9a-f]{64}")

Kind = Literal["log", "tenant", "archive"]


class PartEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One Parquet file of the index: relative name, digest, and the seq of its first and last row."""

    n: str
    sha256: str
    rows: int
    first: int
    last: int


class FileEntry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Another file of the export: relative name and digest."""

    n: str
    sha256: str


class ExportIndex(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``log.json``. Whoever can change the export can change it too: it finds damage, it proves nothing."""

    schema: str
    origin: str
    kind: Kind
    tenant: str | None
    files: tuple[PartEntry, ...]
    others: tuple[FileEntry, ...]
    tool: str


def checkpoint_name(size: int) -> str:
    """The relative name of the checkpoint of ``size``."""
    return f"{CHECKPOINTS_NAME}/{size:012d}"


def is_part_name(name: str) -> bool:
    """Whether ``name`` is the relative name of a Parquet file of an export."""
    return _PART_NAME.fullmatch(name) is not None


def root_name(day: str, suffix: str = "") -> str:
    """The name of a day's root (``""``), its proofs (``.json``), heads (``.heads``) or token (``.tsr``, ``.2.tsr``)."""
    return f"{ROOTS_NAME}/{day}{suffix}"


def is_archive_name(name: str) -> bool:
    """Whether an archive may hold an object called ``name``."""
    return name == INDEX_NAME or is_part_name(name) or _ROOT_NAME.fullmatch(name) is not None or is_tile_path(name)


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex.

    Raises:
        OSError: it cannot be read.
    """
    digest = sha256()
    with path.open("rb") as source:
        while block := source.read(_READ_BYTES):
            digest.update(block)
    return digest.hexdigest()


def format_index(index: ExportIndex) -> bytes:
    """The bytes of ``log.json``: one canonical object in one line, with ``sum``, the SHA-256 of it without ``sum``.

    Raises:
        MalformedRecord: a member is outside the profile of records.
    """
    plain: dict[str, object] = msgspec.json.decode(msgspec.json.encode(index))
    plain["sum"] = sha256(canonical_bytes(plain, INDEX_BYTES_MAX)).hexdigest()
    return canonical_bytes(plain, INDEX_BYTES_MAX) + b"\n"


def parse_index(encoded: bytes) -> ExportIndex:
    """Parses ``log.json``.

    Raises:
        MalformedRecord: it breaks the format, its ``sum`` does not fit, or it names a file that no export has.
        LimitExceeded: longer than :data:`INDEX_BYTES_MAX`.
    """
    if not encoded.endswith(b"\n"):
        raise MalformedRecord("log.json must end in a newline")
    plain = parse_object(encoded[:-1], INDEX_BYTES_MAX)
    said = plain.pop("sum", None)
    if said != sha256(canonical_bytes(plain, INDEX_BYTES_MAX)).hexdigest():
        raise MalformedRecord("log.json does not have the digest that it states")
    try:
        index = msgspec.convert(plain, ExportIndex)
    except msgspec.ValidationError as error:
        raise MalformedRecord("log.json lacks a member or has a wrong one", cause=str(error)) from None
    if index.schema != EXPORT_SCHEMA or (index.kind == "tenant") != (index.tenant is not None):
        raise MalformedRecord(f"log.json must have the schema {EXPORT_SCHEMA}, and a tenant where it is a tenant's")
    names = [one.n for one in index.files] + [one.n for one in index.others]
    if len(set(names)) != len(names):
        raise MalformedRecord("log.json names a file twice")
    for part in index.files:
        if not is_part_name(part.n) or _SHA256.fullmatch(part.sha256) is None:
            raise MalformedRecord("log.json names a part that no export has")
        if not (0 <= part.first <= part.last and 1 <= part.rows <= part.last - part.first + 1):
            raise MalformedRecord("log.json gives a part rows that it cannot have")
    for other in index.others:
        if _OTHER_NAME.fullmatch(other.n) is None or _SHA256.fullmatch(other.sha256) is None:
            raise MalformedRecord("log.json names a file that no export has")
    return index
