"""What an auditor remembers from one verification to the next: the file of ``nomos verify --state``.

Decides two things. First, whether what is shown now agrees with what was verified before: a smaller newest root is a
rollback, another root at a remembered size a fork, whatever signatures either has; both signed notes are then evidence.
Second, from where records need not be read again: a *place* is the state of the judge at the first record of the newest
part, so the next run goes on from there, and the tree that grows from the remembered hashes must give the new root.

Remembered things belong to an origin of the auditor's own trust file, never to a name or id that the log offers
(CVE-2022-39199 was that mistake). A file that is damaged, of a later version or made under other keys is refused, never
begun anew in silence. It is written only after a success, in one step, readable by its owner alone.

Trusted: this file. Who can change it can make the next run believe or refuse anything, so keep it as you keep the
trust file.
"""

from __future__ import annotations

import os
from base64 import b64decode
from hashlib import sha256
from pathlib import Path
from typing import Final

import msgspec

from nomos.errors import LimitExceeded, MalformedRecord
from nomos.log.checkpoint import Checkpoint
from nomos.log.report import Tally, Verdict, base64_of

STATE_VERSION: Final = 1
#: 100 bytes for each tenant and producer.
STATE_BYTES_MAX: Final = 256 * 1024 * 1024


class RememberedSeal(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The newest seal before a place: where it stands, its chain hash in hex, its record's bytes."""

    seq: int
    h: str
    record: bytes


class RememberedGap(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The newest gap that the log declared for a producer."""

    svc: str
    id: str
    seq: int
    first: int
    last: int


class Place(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The judge's state before record ``seq``, which begins a part. Hashes in hex.

    Attributes:
        seq: the next record.
        strict: whether declared gaps before it would have been told as failures.
        head: chain hash of the record before.
        range: the compact range of the tree of ``seq`` leaves.
        tenants: tenant -> counter and hash of its last record.
        producers: (service, id, counter) of the last event of each.
        sources: stream -> position.
        gaps: the newest declared gap of each producer.
        seal: the newest seal, or None.
    """

    seq: int
    strict: bool
    head: str
    range: tuple[str, ...]
    tenants: dict[str, tuple[int, str]]
    producers: tuple[tuple[str, str, int], ...]
    sources: dict[str, tuple[int, int]]
    gaps: tuple[RememberedGap, ...]
    seal: RememberedSeal | None


class Entry(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One thing that was verified: a log, an archive or a tenant's bundle of one origin.

    Attributes:
        origin: of the trust file.
        what: ``log``, ``archive`` or ``tenant <name>``.
        size: of the newest root.
        root: its hash, base64.
        note: the signed note, as it was.
        keys: the log's keys that signed it, as in the trust file.
        at: when, Unix seconds.
        place: where the records need not be read again, or None.
    """

    origin: str
    what: str
    size: int
    root: str
    note: str
    keys: tuple[str, ...]
    at: int
    place: Place | None = None


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    v: int
    sum: str
    entries: tuple[Entry, ...]


def what_of(kind: str, tenant: str | None) -> str:
    """How an entry names what was verified."""
    return kind if tenant is None else f"tenant {tenant}"


class Memory:
    """The remembered entries. :meth:`load`, then verify with it, then :meth:`save` after a success."""

    def __init__(self, entries: tuple[Entry, ...] = ()) -> None:
        self._entries = {(one.origin, one.what): one for one in entries}

    @classmethod
    def load(cls, path: Path) -> Memory:
        """Reads a state file; one that does not exist is the beginning.

        Raises:
            MalformedRecord: it is damaged, or of another version.
            LimitExceeded: it is longer than :data:`STATE_BYTES_MAX`.
            OSError: it cannot be read.
        """
        try:
            with path.open("rb") as source:
                encoded = source.read(STATE_BYTES_MAX + 1)
        except FileNotFoundError:
            return cls()
        if len(encoded) > STATE_BYTES_MAX:
            raise LimitExceeded("STATE_BYTES_MAX", STATE_BYTES_MAX, len(encoded))
        try:
            version = msgspec.json.decode(encoded, type=dict[str, msgspec.Raw]).get("v")
            if version is not None and bytes(version).isdigit() and int(bytes(version)) != STATE_VERSION:
                raise MalformedRecord(f"expected a state of version {STATE_VERSION}, got {int(bytes(version))}")
            read = msgspec.json.decode(encoded, type=_File)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise MalformedRecord("the state file is damaged", cause=str(error)) from None
        if read.sum != _sum(read.entries):
            raise MalformedRecord("the state file is damaged: its digest is not the one that it states")
        return cls(read.entries)

    def save(self, path: Path) -> None:
        """Replaces the file in one step.

        Raises:
            OSError: it cannot be written; the one before stays.
        """
        entries = tuple(self._entries[key] for key in sorted(self._entries))
        draft = path.with_name(f".{path.name}.new")
        encoded = msgspec.json.encode(_File(v=STATE_VERSION, sum=_sum(entries), entries=entries))
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as target:
                target.write(encoded)
                target.flush()
                os.fsync(target.fileno())
            draft.replace(path)
        except OSError:
            draft.unlink(missing_ok=True)
            raise

    def entry(self, origin: str, what: str) -> Entry | None:
        """What is remembered of one thing."""
        return self._entries.get((origin, what))

    def roots(self, origin: str) -> dict[int, bytes]:
        """All remembered roots of one origin, by size."""
        return {one.size: b64decode(one.root) for one in self._entries.values() if one.origin == origin}

    def check_keys(self, origin: str, pinned: frozenset[str]) -> None:
        """Demands that what is remembered of ``origin`` was signed by a key that the trust file still has.

        Raises:
            MalformedRecord: the state was made under other keys.
        """
        for one in self._entries.values():
            if one.origin == origin and not pinned.intersection(one.keys):
                raise MalformedRecord(f"the state of {one.what} was made under keys that the trust policy has not")

    def judge(self, checkpoint: Checkpoint, note: bytes, what: str | None, tally: Tally) -> None:
        """Compares a verified root with what is remembered of its origin.

        Args:
            checkpoint: the root.
            note: the signed note that it came in.
            what: whose newest root it is; None for a root that need not be the newest, as a receipt's.
            tally: takes a rollback or a fork, with both notes.
        """
        origin, size, root = checkpoint.origin, checkpoint.size, checkpoint.root
        for one in self._entries.values():
            if one.origin == origin and one.size == size and one.root != base64_of(root):
                both = f"{one.root} before, {base64_of(root)} now"
                tally.fail(Verdict.TAMPERED, f"another root of size {size} than was verified earlier: {both}")
                tally.evidence += [one.note, note.decode("utf-8", "replace")]
        known = None if what is None else self.entry(origin, what)
        if known is not None and size < known.size:
            tally.fail(
                Verdict.TAMPERED,
                f"the newest root is of size {size}, and one of size {known.size} was verified earlier",
            )
            tally.evidence += [known.note, note.decode("utf-8", "replace")]

    def remember(self, entry: Entry) -> None:
        """Takes the outcome of a success."""
        self._entries[entry.origin, entry.what] = entry


def _sum(entries: tuple[Entry, ...]) -> str:
    return sha256(msgspec.json.encode(entries)).hexdigest()
