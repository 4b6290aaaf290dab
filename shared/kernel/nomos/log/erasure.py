"""Sealed fields and erasures of a log: what the records say of people's keys, judged in order.

Rules: a key has one commitment, one tenant and one service; a key is erased once; after its erasure nothing is sealed
under it. With keys at hand (a disclosure, ``--keys``) each field must open at its place. Read at level 2.

Leaves the bytes of a field to :mod:`nomos.log.sealedfield`, and that records are the signed ones to level 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from nomos.errors import LimitExceeded, Malformed, MalformedRecord
from nomos.log.record import parse_record
from nomos.log.report import FINDINGS_MAX, Tally, Verdict
from nomos.log.sealedfield import (
    KEY_BYTES,
    PERSONAL,
    SUBJECT_ERASED,
    FieldPlace,
    FieldUnreadable,
    SealedField,
    commitment,
    dek_of,
    open_text,
    plain_fields,
    sealed_fields,
)

#: The types of records that are read for keys; no other may hold a sealed field.
KEY_TYPES: Final = frozenset({*PERSONAL, SUBJECT_ERASED})
#: Schema of a file of keys, and how many it may hold.
KEYS_SCHEMA: Final = "nomos.subject-keys/1"
KEYS_MAX: Final = 100_000
KEYS_BYTES_MAX: Final = 32 * 1024 * 1024


class SealedUse(NamedTuple):
    """A sealed field in a record, or (``field`` None) the erasure of key ``dek``."""

    row: int
    seq: int
    tenant: str
    service: str
    dek: str
    kc: str
    place: FieldPlace | None
    field: SealedField | None


class KeyFacts(NamedTuple):
    """What a group's records say of keys, in order. ``plain`` counts personal fields in plain text."""

    uses: tuple[SealedUse, ...]
    plain: int
    bad: tuple[int, str] | None


class _Erased(msgspec.Struct, frozen=True, kw_only=True):
    subject: str
    dek: str
    kc: str
    kind: str
    basis: str
    at: int


class _DisclosedKey(msgspec.Struct, frozen=True, kw_only=True):
    dek: str
    key: bytes


class _Disclosure(msgspec.Struct, frozen=True, kw_only=True):
    schema: str
    keys: list[_DisclosedKey]


def read_keys(rows: Iterable[tuple[int, bytes]]) -> KeyFacts:
    """What records of :data:`KEY_TYPES` say of keys, up to the first that is malformed.

    Args:
        rows: row and bytes of each such record, in order.
    """
    uses: list[SealedUse] = []
    plain = 0
    for row, encoded in rows:
        try:
            found, more = _read(row, encoded)
        except Malformed as error:
            return KeyFacts(tuple(uses), plain, (row, error.detail))
        uses += found
        plain += more
    return KeyFacts(tuple(uses), plain, None)


def _read(row: int, encoded: bytes) -> tuple[list[SealedUse], int]:
    record = parse_record(encoded)
    service = "" if record.pc is None else record.pc.svc
    if record.type == SUBJECT_ERASED:
        try:
            said = msgspec.convert(record.event, _Erased)
        except msgspec.ValidationError as error:
            raise MalformedRecord("an erasure lacks a member or has a wrong one", cause=str(error)) from None
        if said.dek != dek_of(said.subject):
            raise MalformedRecord("an erasure names the key of another subject")
        return [SealedUse(row, record.seq, record.tenant, service, said.dek, said.kc, None, None)], 0
    uses = [
        SealedUse(
            row,
            record.seq,
            record.tenant,
            service,
            field.dek,
            field.kc,
            FieldPlace(tenant=record.tenant, id=record.id, field=name),
            field,
        )
        for name, field in sealed_fields(record.type, record.event)
    ]
    return uses, plain_fields(record.type, record.event)


def parse_disclosure(encoded: bytes) -> dict[str, bytes]:
    """Reads a file of keys (``nomos subject export --with-keys``).

    Returns:
        Key id -> key.

    Raises:
        MalformedRecord: it is none, or one key stands twice.
        LimitExceeded: over :data:`KEYS_BYTES_MAX` or :data:`KEYS_MAX`.
    """
    if len(encoded) > KEYS_BYTES_MAX:
        raise LimitExceeded("KEYS_BYTES_MAX", KEYS_BYTES_MAX, len(encoded))
    try:
        read = msgspec.json.decode(encoded, type=_Disclosure)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        # The cause could hold a part of a key.
        raise MalformedRecord("not a file of keys", cause=type(error).__name__) from None
    if read.schema != KEYS_SCHEMA:
        raise MalformedRecord(f"a file of keys has the schema {KEYS_SCHEMA}")
    if len(read.keys) > KEYS_MAX:
        raise LimitExceeded("KEYS_MAX", KEYS_MAX, len(read.keys))
    keys = {one.dek: one.key for one in read.keys}
    if len(keys) != len(read.keys) or any(len(key) != KEY_BYTES for key in keys.values()):
        raise MalformedRecord(f"each key of the file stands once and has {KEY_BYTES} bytes")
    return keys


def format_disclosure(keys: Mapping[str, bytes]) -> bytes:
    """The file that :func:`parse_disclosure` reads. Secret: it opens what it names."""
    listed = [_DisclosedKey(dek=dek, key=key) for dek, key in sorted(keys.items())]
    return msgspec.json.encode(_Disclosure(schema=KEYS_SCHEMA, keys=listed)) + b"\n"


class Erasures:
    """The keys of one log. Give it each group's facts in order, then :meth:`tell`."""

    def __init__(self, keys: Mapping[str, bytes] | None = None, *, strict: bool = False) -> None:
        """Takes disclosed keys (None: none were given), and whether a field that nobody can open is an error."""
        self._keys = keys
        self._strict = strict
        #: Key -> (commitment, tenant, service), as first seen.
        self._known: dict[str, tuple[str, str, str]] = {}
        self._erased: dict[str, int] = {}
        self._fields: dict[str, int] = {}
        self._plain = 0
        self._opened = 0

    def take(self, facts: KeyFacts) -> tuple[Verdict, int, str] | None:
        """Judges the next group's facts.

        Returns:
            What is wrong: verdict, seq of the record and reason; None while nothing is.
        """
        self._plain += facts.plain
        for use in facts.uses:
            wrong = self._judge(use)
            if wrong is not None:
                return Verdict.TAMPERED, use.seq, wrong
        return None

    def _judge(self, use: SealedUse) -> str | None:
        said = (use.kc, use.tenant, use.service)
        if self._known.setdefault(use.dek, said) != said:
            return f"{use.dek} has another commitment, tenant or service than before"
        erased = self._erased.get(use.dek)
        if use.field is None or use.place is None:
            if erased is not None:
                return f"{use.dek} was erased by record {erased} already"
            self._erased[use.dek] = use.seq
            return None
        if erased is not None:
            return f"a field is sealed under {use.dek}, which record {erased} erased"
        self._fields[use.dek] = self._fields.get(use.dek, 0) + 1
        key = None if self._keys is None else self._keys.get(use.dek)
        if key is None:
            return None
        try:
            open_text(key, use.place, use.field)
        except FieldUnreadable as error:
            # A key that is not the committed one speaks against the file of keys, not against the log.
            return error.detail if commitment(key) == use.kc else None
        self._opened += 1
        return None

    def number(self, first: int, last: int) -> int:
        """How many erasures stand in records ``first`` to ``last``."""
        return sum(first <= seq <= last for seq in self._erased.values())

    def tell(self, tally: Tally) -> None:
        """Puts what was found of sealed fields into ``tally``."""
        erased = [(dek, seq) for dek, seq in self._erased.items() if self._fields.get(dek)]
        fields = sum(self._fields.values())
        if fields:
            tally.checked.append(f"{fields} sealed fields under {len(self._fields)} keys: form, place and commitment")
        for dek, seq in erased[:FINDINGS_MAX]:
            tally.checked.append(f"{self._fields[dek]} fields of {dek} erased by record {seq}")
        if len(erased) > FINDINGS_MAX:
            tally.checked.append(f"fields of {len(erased) - FINDINGS_MAX} more keys erased")
        if self._plain:
            tally.warnings.append(f"{self._plain} personal fields stand in plain text")
        lost = {dek for dek in self._fields if dek not in self._erased}
        if self._keys is None:
            if lost:
                tally.not_checked.append(f"what the fields under {len(lost)} keys say (--keys opens them)")
            return
        self._tell_keys(tally, lost)

    def _tell_keys(self, tally: Tally, held: set[str]) -> None:
        keys = self._keys or {}
        wrong = sorted(dek for dek in keys if dek in self._known and commitment(keys[dek]) != self._known[dek][0])
        for dek in wrong[:FINDINGS_MAX]:
            tally.fail(Verdict.UNVERIFIABLE, f"the key given for {dek} is not the one that the records commit to")
        tally.checked.append(f"{self._opened} sealed fields opened with the keys given")
        missing = sorted(held - keys.keys())
        if missing:
            told = f"{len(missing)} keys are neither given nor erased, {missing[0]} first"
            if self._strict:
                tally.fail(Verdict.INCOMPLETE, told)
            else:
                tally.not_checked.append(f"sealed fields: {told}")


def key_rows(types: Sequence[str]) -> list[int]:
    """The rows whose records are read for keys."""
    return [row for row, kind in enumerate(types) if kind in KEY_TYPES]
