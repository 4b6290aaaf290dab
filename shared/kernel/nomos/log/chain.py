"""The hash chain: what one record commits to.

Decides the two formulas of the chain and nothing else. What a record's bytes are is decided in
:mod:`nomos.log.record`; how chain hashes become Merkle leaves in :mod:`nomos.log.tree`::

    h_{-1} = SHA-256("audit-chain/v1\\n" + origin + "\\n")
    h_i    = SHA-256(lower-case hex of h_{i-1} || P_i)

The hexadecimal prefix has a fixed length, so the pre-image is unambiguous; it can be checked in SQL; and it starts
with one of ``0-9a-f``, so a chain pre-image can never be read as an RFC 6962 leaf (0x00) or node (0x01).
"""

from __future__ import annotations

from hashlib import sha256
from typing import Final

from nomos.errors import MalformedRecord

HASH_BYTES: Final = 32
#: ``tprev`` of a tenant's first record.
NO_HASH: Final = bytes(HASH_BYTES)
_GENESIS_PREFIX: Final = b"audit-chain/v1\n"


def genesis(origin: str) -> bytes:
    """The 32 bytes that stand before the first record of the log called ``origin``. Binds the chain to the log."""
    return sha256(_GENESIS_PREFIX + origin.encode() + b"\n").digest()


def link(prev: bytes, record: bytes) -> bytes:
    """The 32-byte chain hash of ``record`` after a record (or genesis) with the hash ``prev``.

    Raises:
        MalformedRecord: ``prev`` is not 32 bytes long.
    """
    if len(prev) != HASH_BYTES:
        raise MalformedRecord(f"a chain hash has {HASH_BYTES} bytes, got {len(prev)}")
    return sha256(prev.hex().encode() + record).digest()
