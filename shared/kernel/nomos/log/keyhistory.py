"""The keys of one log and the tree sizes each may speak for: how a key is followed by the next.

A new key begins with a record of the log's own, ``audit.key``::

    {"key": "<verifier key>", "prev": "<verifier key of the key that it follows>"}

The checkpoint of exactly the size that this record completes, its *turn*, is signed by **both** keys: the old one says
who follows it, the new one that it is held. Smaller sizes are the old key's alone, larger ones the new key's. So one
trusted key leads to all others, forwards and backwards, by turns: the record is the last leaf of the tree that both
have signed. An old key that was stolen cannot sign a later size, nor a new one an earlier.

A record counts only if ``prev`` is the key in force and ``key`` was never one before; any other changes nothing (two
processes may have asked at once, and the first counts).

Trusted: one key, from whoever asks. Not trusted: records and notes; who controls the store can withhold a turn, and
cannot make one without both keys.

Pure. Source: audit-log "Keys"; c2sp.org/tlog-policy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from nomos.errors import BadSignature, MalformedRecord
from nomos.log.chain import link
from nomos.log.checkpoint import VerifiedCheckpoint, open_checkpoint
from nomos.log.heads import KEY
from nomos.log.note import KeyKind, NoKnownKey, VerifierKey, parse_note, parse_vkey
from nomos.log.proof import Receipt
from nomos.log.record import canonical_bytes, is_own_record, parse_object, parse_record
from nomos.log.tree import ProofFailed, leaf_hash, verify_inclusion
from nomos.log.trust import ENTRIES_MAX, LogKey

#: Keys of one log; a trust file has no more lines.
KEYS_MAX: Final = ENTRIES_MAX


class KeyChange(msgspec.Struct, frozen=True, kw_only=True):
    """The event of ``audit.key``: ``key`` follows ``prev``."""

    key: VerifierKey
    prev: VerifierKey


class _Spelled(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    key: str
    prev: str


class NotInForce(BadSignature):
    """A note that is signed, but not by every key that must sign a tree of its size."""

    code = "not_in_force"


def short_name(key: VerifierKey) -> str:
    """``name+id``, as statements of the log spell a key."""
    return f"{key.name}+{key.key_id.hex()}"


def event_of_change(change: KeyChange) -> dict[str, Any]:
    """The event as the record holds it."""
    return parse_object(canonical_bytes({"key": str(change.key), "prev": str(change.prev)}))


def parse_change(event: Mapping[str, Any]) -> KeyChange:
    """The event of ``audit.key``.

    Raises:
        MalformedRecord: it is none: another form, keys that are no Ed25519 log keys, of two names, or one and the same.
    """
    try:
        spelled = msgspec.convert(event, _Spelled)
    except msgspec.ValidationError as error:
        raise MalformedRecord("not a change of key", cause=str(error)) from None
    change = KeyChange(key=parse_vkey(spelled.key), prev=parse_vkey(spelled.prev))
    if {change.key.kind, change.prev.kind} != {KeyKind.ED25519} or change.key.name != change.prev.name:
        raise MalformedRecord("a key of the log is followed by a key of the log")
    if change.key.public == change.prev.public:
        raise MalformedRecord("a key does not follow itself")
    return change


def change_in(encoded: bytes) -> KeyChange | None:
    """The change of key that a record announces; None where it is no record of one.

    Raises:
        MalformedRecord: it is a record of one, and malformed.
    """
    record = parse_record(encoded)
    if record.type != KEY or not is_own_record(record.tenant, record.type):
        return None
    return parse_change(record.event)


class KeyHistory(msgspec.Struct, frozen=True, kw_only=True):
    """The keys of one log in order; each begins at the size at which the one before ends. At least one."""

    spans: tuple[LogKey, ...]

    @classmethod
    def begin(cls, key: VerifierKey) -> KeyHistory:
        """A log that has had no other key."""
        return cls(spans=(LogKey(key=key),))

    @property
    def in_force(self) -> VerifierKey:
        """The newest key."""
        return self.spans[-1].key

    @property
    def since(self) -> int:
        """The size from which on the newest key signs; 0 for a log's first."""
        return self.spans[-1].first_size

    def at(self, size: int) -> tuple[VerifierKey, ...]:
        """The keys that must sign a tree of ``size``, older first: two at a turn, else one."""
        return tuple(one.key for one in self.spans if one.first_size <= size <= one.last_size)

    def follows(self, change: KeyChange) -> bool:
        """Whether a record with ``change`` counts: the key in force names one that was never one before."""
        known = {one.key.public for one in self.spans}
        return change.prev == self.in_force and change.key.public not in known and len(self.spans) < KEYS_MAX

    def turn(self, change: KeyChange, size: int) -> KeyHistory:
        """The history when the record that completes ``size`` announces ``change``.

        Raises:
            MalformedRecord: the record does not count, or lies before the newest key's first size.
        """
        if not self.follows(change) or size <= self.since:
            raise MalformedRecord("this record changes no key")
        last = msgspec.structs.replace(self.spans[-1], last_size=size)
        return KeyHistory(spans=(*self.spans[:-1], last, LogKey(key=change.key, first_size=size)))

    def before(self, change: KeyChange, size: int) -> KeyHistory:
        """The history with one more key at its beginning: the other direction of :meth:`turn`.

        Raises:
            MalformedRecord: ``change`` does not lead to the first key of this history, or not at this size.
        """
        first = self.spans[0]
        is_new = change.prev.public not in {one.key.public for one in self.spans}
        if change.key != first.key or first.first_size != 0 or not 0 < size < first.last_size or not is_new:
            raise MalformedRecord("this record does not lead to the first key")
        began = msgspec.structs.replace(first, first_size=size)
        return KeyHistory(spans=(LogKey(key=change.prev, last_size=size), began, *self.spans[1:]))

    def open(self, note: bytes) -> VerifiedCheckpoint:
        """Opens a note that every key has signed that must sign its size, and no key that must not.

        Raises:
            MalformedRecord: not a note, or not a checkpoint.
            NoKnownKey: no key of this log signed it.
            NotInForce: one of another size signed it, or one of this size did not.
            BadSignature: a line of a known key does not verify.
        """
        opened = open_checkpoint(note, [one.key for one in self.spans], {})
        demanded = self.at(opened.checkpoint.size)
        # Lines in the log's name by a key that is not known: somebody knows of a change of key that we do not.
        named = {one.key_id for one in parse_note(note).signatures if one.name == opened.checkpoint.origin}
        if set(opened.keys) != set(demanded) or named != {one.key_id for one in demanded}:
            names = " and ".join(short_name(one) for one in demanded)
            raise NotInForce(
                f"a checkpoint of size {opened.checkpoint.size} must be signed by {names}, and no other key"
            )
        return opened

    def during(self, first_size: int, last_size: int) -> tuple[VerifierKey, ...]:
        """The keys that sign any size of this range, both ends included, older first."""
        return tuple(one.key for one in self.spans if one.first_size <= last_size and first_size <= one.last_size)

    def trust_lines(self) -> list[str]:
        """The ``log`` lines of a trust file. A log's only key needs no range."""
        if len(self.spans) == 1:
            return [f"log {self.in_force}"]
        ranges = [f"{one.first_size}-{one.last_size}" for one in self.spans[:-1]] + [f"{self.since}-"]
        return [f"log {one.key} sizes:{sizes}" for one, sizes in zip(self.spans, ranges, strict=True)]


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """A change of key with its proof: the record, and its receipt in the tree of exactly the size it completes."""

    record: bytes
    receipt: Receipt


class ProvenTurn(msgspec.Struct, frozen=True, kw_only=True):
    """A verified turn. Made by :func:`verify_turn` only."""

    change: KeyChange
    size: int


def verify_turn(turn: Turn, trusted: VerifierKey) -> ProvenTurn:
    """Checks a change of key from one side: ``trusted`` is the key before it, or the key after it.

    Raises:
        MalformedRecord: the record or the note breaks its format.
        BadSignature: one of the two keys did not sign, ``trusted`` is neither, or the record is not the tree's last.
    """
    change = change_in(turn.record)
    if change is None:
        raise MalformedRecord("the record changes no key")
    if trusted not in (change.key, change.prev):
        raise NoKnownKey("the change of key does not concern the trusted key")
    opened = open_checkpoint(turn.receipt.checkpoint, [change.prev, change.key], {})
    size = opened.checkpoint.size
    if set(opened.keys) != {change.prev, change.key}:
        raise NotInForce("a checkpoint that a key begins with must be signed by this key and the one before it")
    if turn.receipt.index != size - 1 or parse_record(turn.record).seq != size - 1:
        raise ProofFailed("the record of a new key is not the last one of the tree that both keys signed")
    leaf = leaf_hash(link(turn.receipt.prev, turn.record))
    verify_inclusion(size - 1, size, leaf, turn.receipt.path, opened.checkpoint.root)
    return ProvenTurn(change=change, size=size)
