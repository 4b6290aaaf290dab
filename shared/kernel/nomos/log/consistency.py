"""A file that proves, by itself, that one checkpoint of a log continues another: both notes, and the path between them.

One line of canonical JSON, hashes in base64, notes as their text::

    {"consistency": ["<hash>", ..], "from": "<signed note>", "schema": "nomos.consistency/1", "to": "<signed note>"}

Decides, from the trust policy alone: both are signed by a key that may speak for their size, they are of one log, the
older one has not more records, and the tree of the older is a prefix of the tree of the newer. The newer one needs the
quorum of witnesses; the older does not, since what the newer covers it covers too.

Nothing is said of the records: that they are what the roots say is proven by an export, an archive or a receipt.

Pure. Source: RFC 9162 section 2.1.4; c2sp.org/tlog-checkpoint.
"""

from __future__ import annotations

from base64 import b64encode
from typing import Final

import msgspec

from nomos.errors import LimitExceeded, MalformedRecord
from nomos.log.checkpoint import VerifiedCheckpoint, open_checkpoint
from nomos.log.note import NOTE_BYTES_MAX, decode_base64
from nomos.log.record import canonical_bytes, parse_object
from nomos.log.tree import HASH_BYTES, ProofFailed, verify_consistency
from nomos.log.trust import TrustPolicy

CONSISTENCY_SCHEMA: Final = "nomos.consistency/1"
#: A path between two trees of at most 2^63 leaves has no more hashes.
PATH_LENGTH_MAX: Final = 128
#: Two notes, escaped as text, and the path.
CONSISTENCY_BYTES_MAX: Final = 4 * NOTE_BYTES_MAX
_START: Final = b'{"consistency":['


class ConsistencyProof(msgspec.Struct, frozen=True, kw_only=True):
    """A parsed proof, not verified. ``older`` and ``newer`` are signed notes; ``path`` has hashes of 32 bytes."""

    older: bytes
    newer: bytes
    path: tuple[bytes, ...]


class _Spelled(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    consistency: list[str]
    older: str = msgspec.field(name="from")
    newer: str = msgspec.field(name="to")
    schema: str


def is_consistency_file(start: bytes) -> bool:
    """Whether a file that begins with these bytes (20 are enough) can only be a proof of consistency."""
    return start.startswith(_START)


def format_consistency(proof: ConsistencyProof) -> bytes:
    """The bytes of the file."""
    spelled = {
        "consistency": [b64encode(one).decode() for one in proof.path],
        "from": proof.older.decode(),
        "schema": CONSISTENCY_SCHEMA,
        "to": proof.newer.decode(),
    }
    return canonical_bytes(spelled, CONSISTENCY_BYTES_MAX) + b"\n"


def parse_consistency(encoded: bytes) -> ConsistencyProof:
    """Parses the file without verifying it.

    Raises:
        MalformedRecord: it breaks the format.
        LimitExceeded: it is too long, or its path is.
    """
    if not encoded.endswith(b"\n"):
        raise MalformedRecord("a proof of consistency must end in a newline")
    try:
        spelled = msgspec.convert(parse_object(encoded[:-1], CONSISTENCY_BYTES_MAX), _Spelled)
    except msgspec.ValidationError as error:
        raise MalformedRecord("not a proof of consistency", cause=str(error)) from None
    if spelled.schema != CONSISTENCY_SCHEMA:
        raise MalformedRecord(f"a proof of consistency has the schema {CONSISTENCY_SCHEMA}")
    if len(spelled.consistency) > PATH_LENGTH_MAX:
        raise LimitExceeded("hashes of a consistency proof", PATH_LENGTH_MAX, len(spelled.consistency))
    path = tuple(decode_base64(one) for one in spelled.consistency)
    if any(len(one) != HASH_BYTES for one in path):
        raise MalformedRecord(f"a hash in a proof has {HASH_BYTES} bytes")
    return ConsistencyProof(older=spelled.older.encode(), newer=spelled.newer.encode(), path=path)


def verify_continues(proof: ConsistencyProof, trust: TrustPolicy) -> tuple[VerifiedCheckpoint, VerifiedCheckpoint]:
    """Checks that the newer checkpoint continues the older one.

    Args:
        proof: the parsed proof.
        trust: the auditor's policy.

    Returns:
        The two checkpoints, older first.

    Raises:
        MalformedRecord: a note is no checkpoint.
        NoKnownKey: no key of the policy signed one of them.
        BadSignature: a signature, the quorum, a key's range of sizes, the order or the path is wrong.
    """
    opened = [open_checkpoint(one, trust.log_keys(), trust.witnesses) for one in (proof.older, proof.newer)]
    for one in opened:
        if not any(trust.may_sign(key, one.checkpoint.size) for key in one.keys):
            raise ProofFailed(f"no key that signed size {one.checkpoint.size} may speak for it")
    older, newer = opened
    if older.checkpoint.origin != newer.checkpoint.origin:
        raise ProofFailed("the two checkpoints are of two logs")
    if not trust.is_quorum([one.witness for one in newer.cosignatures]):
        raise ProofFailed("the newer checkpoint lacks the quorum of witnesses that the policy demands")
    verify_consistency(
        older.checkpoint.size, newer.checkpoint.size, older.checkpoint.root, newer.checkpoint.root, proof.path
    )
    return older, newer
