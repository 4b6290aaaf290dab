"""The bytes of one record, and the only accepted spelling of them.

Decides the profile *jcs-strict*, a subset of RFC 8785 (JSON Canonicalization Scheme) in which sorted output of
``orjson`` is canonical: keys ``[A-Za-z0-9_.-]{1,64}`` (so byte order is UTF-16 order); values string, boolean, null,
integer within +-(2^53-1), array, object; no floats; depth at most 16; no duplicate keys; no lone surrogates; no
Unicode normalisation. Leaves the meaning of ``event`` to whoever reads it, and order and hashes to
:mod:`nomos.log.chain` and the verifier.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

import msgspec
import orjson

from nomos.errors import LimitExceeded, MalformedRecord
from nomos.ids import SYSTEM_TENANT

#: Upper bound of one record's canonical bytes; below the 65,535 bytes of a tlog-tiles entry.
RECORD_BYTES_MAX: Final = 61_440
#: Containers inside one another; the record itself is the first.
RECORD_DEPTH_MAX: Final = 16
#: The integers that every JSON reader keeps exactly (RFC 7493 section 2.2).
INTEGER_MAX: Final = 2**53 - 1
RECORD_VERSION: Final = 1
#: Types that only the log itself may write.
_OWN_TYPES: Final = "audit."

_KEY = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_HASH = re.compile(r"[0-9a-f]{64}")
_TS = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-5][0-9]\.[0-9]{6}Z")
_TS_MINUTE: Final = 16
_OPTIONS: Final = orjson.OPT_SORT_KEYS | orjson.OPT_STRICT_INTEGER


class Actor(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who acted: ``kind`` is agent, operator, approver, auditor, service or system."""

    kind: str
    id: str


class ProducerCounter(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which process emitted the event, and the how-manieth of its events it is (from 0, without a gap)."""

    id: str
    n: int
    svc: str


class Source(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the writer read the event: stream ``s``, stream sequence ``q``, index ``i`` in that message."""

    s: str
    q: int
    i: int


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One record ``P_i``. ``ts`` was set by the writer and never gives the order; ``seq`` does.

    ``pc`` and ``src`` are None only in the log's own records (tenant ``_sys``, type ``audit.…``).
    """

    actor: Actor
    cause: str | None
    corr: str | None
    event: dict[str, Any]
    id: str
    pc: ProducerCounter | None
    seq: int
    src: Source | None
    tenant: str
    tprev: str
    ts: str
    tseq: int
    type: str
    v: int


@lru_cache(maxsize=4096)
def _is_key(text: str) -> bool:
    return _KEY.fullmatch(text) is not None


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise MalformedRecord("a string holds a lone surrogate") from None


def _check_keys(obj: Iterable[Any]) -> None:
    for name in obj:
        if type(name) is not str or not _is_key(name):
            raise MalformedRecord("a key must be 1 to 64 of A-Z a-z 0-9 _ . -")


def _check_values(values: Iterable[Any], depth: int) -> None:
    # Exact types on purpose: a subclass of str or int, an enum or a datetime has more than one spelling.
    # Leaves are judged in the loop of their container, because the writer pays for each call on every record.
    if depth > RECORD_DEPTH_MAX:
        raise LimitExceeded("record depth", RECORD_DEPTH_MAX)
    for value in values:
        kind = type(value)
        if kind is str:
            if not value.isascii():
                _check_text(value)
        elif kind is int:
            if not -INTEGER_MAX <= value <= INTEGER_MAX:
                raise MalformedRecord("an integer lies outside +-(2^53-1)")
        elif kind is dict:
            _check_keys(value)
            _check_values(value.values(), depth + 1)
        elif kind is list:
            _check_values(value, depth + 1)
        elif kind is not bool and value is not None:
            raise MalformedRecord(f"a value of type {kind.__name__} has no place in a record")


def check_profile(obj: object) -> None:
    """Checks that ``obj`` is an object of the profile jcs-strict.

    Args:
        obj: Python values as ``orjson.loads`` gives them.

    Raises:
        MalformedRecord: a float, another type, a key or integer outside the profile, a lone surrogate.
        LimitExceeded: nested deeper than :data:`RECORD_DEPTH_MAX`.
    """
    if type(obj) is not dict:
        raise MalformedRecord("a record must be an object")
    _check_keys(obj)
    _check_values(obj.values(), 1)


#: Keys that were found good, bounded: who makes up keys costs only time.
_good_keys: set[str] = set()
_GOOD_KEYS_MAX: Final = 4_096


def _check_shape(obj: dict[Any, Any], depth: int) -> None:
    """As :func:`check_profile`, but for what the encoder refuses by itself: lone surrogates and integers beyond 2^53-1.

    The writer pays for this on every record, so it is one loop for keys and values, and asks nothing twice.
    """
    if depth > RECORD_DEPTH_MAX:
        raise LimitExceeded("record depth", RECORD_DEPTH_MAX)
    for name, value in obj.items():
        # A subclass of str is equal to a good key and has no place here: the encoder refuses it as a key.
        if name not in _good_keys:
            _check_keys((name,))
            if len(_good_keys) >= _GOOD_KEYS_MAX:
                _good_keys.clear()
            _good_keys.add(name)
        kind = type(value)
        if kind is str or kind is int or kind is bool or value is None:
            continue
        if kind is dict:
            _check_shape(value, depth + 1)
        elif kind is list:
            _check_list(value, depth + 1)
        else:
            raise MalformedRecord(f"a value of type {kind.__name__} has no place in a record")


def _check_list(values: list[Any], depth: int) -> None:
    if depth > RECORD_DEPTH_MAX:
        raise LimitExceeded("record depth", RECORD_DEPTH_MAX)
    for value in values:
        kind = type(value)
        if kind is str or kind is int or kind is bool or value is None:
            continue
        if kind is dict:
            _check_shape(value, depth + 1)
        elif kind is list:
            _check_list(value, depth + 1)
        else:
            raise MalformedRecord(f"a value of type {kind.__name__} has no place in a record")


def _encode(obj: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(obj, option=_OPTIONS)
    except orjson.JSONEncodeError as error:
        # A text or an integer that has no form: this says which.
        check_profile(obj)
        raise MalformedRecord("the object has no canonical form", cause=str(error)) from None


def canonical_bytes(obj: dict[str, Any], bytes_max: int = RECORD_BYTES_MAX) -> bytes:
    """The one spelling of ``obj``: RFC 8785 bytes, UTF-8, at most ``bytes_max`` long.

    Raises:
        MalformedRecord: ``obj`` is outside the profile jcs-strict.
        LimitExceeded: too deep or too long.
    """
    if type(obj) is not dict:
        raise MalformedRecord("a record must be an object")
    _check_shape(obj, 1)
    encoded = _encode(obj)
    if len(encoded) > bytes_max:
        raise LimitExceeded("record size in bytes", bytes_max, len(encoded))
    return encoded


def canonical_record(members: dict[str, Any]) -> bytes:
    """As :func:`canonical_bytes`, for a record of which all but ``event`` was made by the writer or parsed by type.

    Only ``event`` comes as it was sent, so only it is judged value by value; that is most of the work.

    Raises:
        MalformedRecord: ``event`` is outside the profile jcs-strict.
        LimitExceeded: too deep or too long.
    """
    event = members["event"]
    if type(event) is not dict:
        raise MalformedRecord("an event must be an object")
    _check_shape(event, 2)
    encoded = _encode(members)
    if len(encoded) > RECORD_BYTES_MAX:
        raise LimitExceeded("record size in bytes", RECORD_BYTES_MAX, len(encoded))
    return encoded


def parse_object(encoded: bytes, bytes_max: int = RECORD_BYTES_MAX) -> dict[str, Any]:
    """Parses canonical bytes into an object, and refuses every other spelling of it.

    Raises:
        MalformedRecord: not JSON, outside the profile, or not canonical (duplicate key, order, escapes, spaces).
        LimitExceeded: too deep or too long.
    """
    if len(encoded) > bytes_max:
        raise LimitExceeded("record size in bytes", bytes_max, len(encoded))
    try:
        obj = orjson.loads(encoded)
    except orjson.JSONDecodeError as error:
        raise MalformedRecord("a record must be JSON", cause=str(error)) from None
    if type(obj) is not dict:
        raise MalformedRecord("a record must be an object")
    _check_shape(obj, 1)
    # orjson keeps the last of duplicate keys and takes any spelling; encoding again brings both to light.
    if _encode(obj) != bytes(encoded):
        raise MalformedRecord("a record must be in canonical form")
    return obj


def parse_ts(text: str) -> int:
    """Microseconds since 1970 of ``YYYY-MM-DDTHH:MM:SS.ffffffZ``, the only spelling of a time in the log.

    Raises:
        MalformedRecord: another spelling, or a date that the calendar does not have.
    """
    if _TS.fullmatch(text) is None:
        raise MalformedRecord("ts must be YYYY-MM-DDTHH:MM:SS.ffffffZ")
    return _minute(text[:_TS_MINUTE]) + int(text[17:19]) * 1_000_000 + int(text[20:26])


@lru_cache(maxsize=256)
def _minute(text: str) -> int:
    try:
        return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1_000_000
    except ValueError:
        raise MalformedRecord("ts names a time that does not exist") from None


def format_ts(microseconds: int) -> str:
    """The spelling that :func:`parse_ts` takes, of microseconds since 1970-01-01T00:00:00Z."""
    seconds, fraction = divmod(microseconds, 1_000_000)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{fraction:06d}Z"


def is_own_record(tenant: str, kind: str) -> bool:
    """Whether the writer makes such records by itself (gaps, seals), so that they may come from no producer."""
    return tenant == SYSTEM_TENANT and kind.startswith(_OWN_TYPES)


def parse_record(encoded: bytes) -> Record:
    """Parses one record strictly: profile, canonical form, every member present, none unknown.

    Raises:
        MalformedRecord: anything else than the bytes that the writer makes.
        LimitExceeded: too deep or too long.
    """
    try:
        record = msgspec.convert(parse_object(encoded), Record)
    except msgspec.ValidationError as error:
        raise MalformedRecord("a record lacks a member or has a wrong one", cause=str(error)) from None
    if record.v != RECORD_VERSION:
        raise MalformedRecord(f"record version must be {RECORD_VERSION}, got {record.v}")
    if record.seq < 0 or record.tseq < 0:
        raise MalformedRecord("seq and tseq must not be negative")
    if not _is_key(record.tenant) or not _is_key(record.type):
        raise MalformedRecord("tenant and type must be 1 to 64 of A-Z a-z 0-9 _ . -")
    if _HASH.fullmatch(record.tprev) is None:
        raise MalformedRecord("tprev must be 64 lower-case hex digits")
    if (record.pc is None or record.src is None) and not is_own_record(record.tenant, record.type):
        raise MalformedRecord("only the log's own records have no source")
    if record.pc is not None and record.pc.n < 0:
        raise MalformedRecord("a producer's counter must not be negative")
    if record.src is not None and (record.src.q < 0 or record.src.i < 0):
        raise MalformedRecord("a source position must not be negative")
    parse_ts(record.ts)
    return record
