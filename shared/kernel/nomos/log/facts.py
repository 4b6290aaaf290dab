"""What a record says about its place, and how a row group sums it up. Values, and the reading of one record's.

Read loosely: the chain covers the bytes, and level 2 judges their spelling.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec

#: Type of the record in which the writer says that events are missing.
GAP_TYPE: Final = "audit.gap"
#: The first of the last members of a record.
_TAIL: Final = b',"pc":'


class Counter(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A record's ``pc``."""

    id: str
    n: int
    svc: str


class Position(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A record's ``src``."""

    s: str
    q: int
    i: int


class Facts(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The members of a record that order it. Read loosely: the chain covers the bytes, level 2 their spelling."""

    seq: int
    tenant: str
    tprev: str
    ts: str
    tseq: int
    type: str
    v: int
    pc: Counter | None = None
    src: Position | None = None


class TenantSpan(NamedTuple):
    """What a group says about one tenant's own chain. Hashes in hex."""

    row: int
    first_tseq: int
    first_tprev: str
    last_tseq: int
    last_hash: str


class CounterSpan(NamedTuple):
    """What a group says about one producer's counter, or one stream's position."""

    row: int
    first: tuple[int, int]
    last: tuple[int, int]


class OwnRecord(NamedTuple):
    """A record of the log's own (tenant ``_sys``, type ``audit.…``): seq, chain hash, type, bytes."""

    seq: int
    hash: bytes
    type: str
    record: bytes


class HeadsCut(NamedTuple):
    """What a group changes of the heads before position ``cut``: counters and hash (hex) of each one's last record."""

    cut: int
    tenants: dict[str, tuple[int, str]]
    producers: dict[tuple[str, str], int]


_decode = msgspec.json.Decoder(Facts).decode


def read_fact(records: bytes | bytearray, begin: int, end: int) -> Facts:
    """The facts of the record in ``records`` from ``begin`` to before ``end``.

    Raises:
        MsgspecError, UnicodeDecodeError, RecursionError: it cannot be read.
    """
    # In canonical order the members that are wanted stand behind the long ones. What follows the last ``,"pc":`` is an
    # object of its own only if that member is one of the record itself: inside a value, one bracket would be too many;
    # inside a text, its quotes would be escaped.
    at = records.rfind(_TAIL, begin, end)
    if at >= 0:
        try:
            return _decode(b"{" + records[at + 1 : end])
        except (msgspec.MsgspecError, UnicodeDecodeError):
            pass
    return _decode(records[begin:end])
