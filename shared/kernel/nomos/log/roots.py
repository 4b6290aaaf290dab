"""The proofs that go with a day's root in an archive: ``roots/YYYY-MM-DD.json``.

The day's root is the checkpoint whose last leaf is the day's seal. The parts of an archive end before that seal, so its
proofs say how the two hang together, and how the root continues the root of the day before::

    {"consistency": [..], "content_root": "..", "content_size": 812345, "day": "2026-11-22", "inclusion": [..],
     "prev": "<hash before the seal record>", "prev_consistency": [..], "prev_size": 712000,
     "schema": "nomos.root/1", "seal": "<canonical bytes of the seal record>", "size": 812346}

One line of canonical JSON; hashes in base64, ``prev`` in hex. Unsigned: everything in it is proven by the root, or not.
Decides the spelling only; :mod:`nomos.log.archived` judges.
"""

from __future__ import annotations

from base64 import b64encode
from typing import Any, Final

import msgspec

from nomos.errors import MalformedRecord
from nomos.log.note import decode_base64
from nomos.log.record import RECORD_BYTES_MAX, canonical_bytes, parse_object
from nomos.log.tree import HASH_BYTES

ROOT_SCHEMA: Final = "nomos.root/1"
#: A seal, escaped as text, and three proofs of at most 126 hashes.
ROOT_PROOFS_BYTES_MAX: Final = 4 * RECORD_BYTES_MAX
PROOF_HASHES_MAX: Final = 128


class RootProofs(msgspec.Struct, frozen=True, kw_only=True):
    """The proofs of one day. Hashes are 32 raw bytes; ``seal`` is the record's canonical bytes."""

    day: str
    size: int
    seal: bytes
    prev: bytes
    inclusion: tuple[bytes, ...]
    content_size: int
    content_root: bytes
    consistency: tuple[bytes, ...]
    prev_size: int
    prev_consistency: tuple[bytes, ...]


class _Spelled(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    consistency: list[str]
    content_root: str
    content_size: int
    day: str
    inclusion: list[str]
    prev: str
    prev_consistency: list[str]
    prev_size: int
    schema: str
    seal: str
    size: int


def format_root_proofs(proofs: RootProofs) -> bytes:
    """The bytes of the file."""
    spelled: dict[str, Any] = {
        "consistency": _texts(proofs.consistency),
        "content_root": b64encode(proofs.content_root).decode(),
        "content_size": proofs.content_size,
        "day": proofs.day,
        "inclusion": _texts(proofs.inclusion),
        "prev": proofs.prev.hex(),
        "prev_consistency": _texts(proofs.prev_consistency),
        "prev_size": proofs.prev_size,
        "schema": ROOT_SCHEMA,
        "seal": proofs.seal.decode(),
        "size": proofs.size,
    }
    return canonical_bytes(spelled, ROOT_PROOFS_BYTES_MAX) + b"\n"


def parse_root_proofs(encoded: bytes) -> RootProofs:
    """Parses the file.

    Raises:
        MalformedRecord: it breaks the format.
        LimitExceeded: it is too long.
    """
    if not encoded.endswith(b"\n"):
        raise MalformedRecord("a root's proofs must end in a newline")
    try:
        spelled = msgspec.convert(parse_object(encoded[:-1], ROOT_PROOFS_BYTES_MAX), _Spelled)
        prev = bytes.fromhex(spelled.prev)
    except (msgspec.ValidationError, ValueError) as error:
        raise MalformedRecord("not the proofs of a root", cause=str(error)) from None
    if spelled.schema != ROOT_SCHEMA or prev.hex() != spelled.prev or len(prev) != HASH_BYTES:
        raise MalformedRecord(f"a root's proofs have the schema {ROOT_SCHEMA} and a hash in hex")
    return RootProofs(
        day=spelled.day,
        size=spelled.size,
        seal=spelled.seal.encode(),
        prev=prev,
        inclusion=_hashes(spelled.inclusion),
        content_size=spelled.content_size,
        content_root=_hashes([spelled.content_root])[0],
        consistency=_hashes(spelled.consistency),
        prev_size=spelled.prev_size,
        prev_consistency=_hashes(spelled.prev_consistency),
    )


def _texts(hashes: tuple[bytes, ...]) -> list[str]:
    return [b64encode(one).decode() for one in hashes]


def _hashes(texts: list[str]) -> tuple[bytes, ...]:
    if len(texts) > PROOF_HASHES_MAX:
        raise MalformedRecord("a proof is longer than any tree needs")
    found = tuple(decode_base64(text) for text in texts)
    if any(len(one) != HASH_BYTES for one in found):
        raise MalformedRecord(f"a hash in a proof has {HASH_BYTES} bytes")
    return found
