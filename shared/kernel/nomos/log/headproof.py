"""Proof that a tenant's bundle reaches the end of what the tenant has: ``head.json`` of a tenant's export.

A statement of heads (:mod:`nomos.log.heads`) is a record of the log. This file holds the newest one that covers the
tenant's last record, the tenant's leaf with its path into the statement's root, and the statement's own path into the
newest checkpoint of the bundle::

    {"blind": "<tenant key in hex>", "inclusion": [..], "index": 3, "leaf": {"b": "..", "h": "..", "n": 812},
     "path": [..], "prev": "<hash before the statement>", "record": "<canonical bytes of the statement's record>",
     "schema": "nomos.head/1"}

One line of canonical JSON; hashes of paths in base64, others in hex. It says nothing about records after the
statement's ``last``.

Pure. Nothing in the file is believed; :func:`check_head` judges it against a root that the caller has verified.
"""

from __future__ import annotations

import hmac
from base64 import b64encode
from typing import Final

import msgspec

from nomos.errors import MalformedRecord
from nomos.ids import SYSTEM_TENANT
from nomos.log.chain import link
from nomos.log.heads import STATEMENTS, Statement, TenantLeaf, blind, parse_statement, verify_head
from nomos.log.note import decode_base64
from nomos.log.proof import PATH_LENGTH_MAX
from nomos.log.record import RECORD_BYTES_MAX, canonical_bytes, parse_object, parse_record
from nomos.log.tree import HASH_BYTES, ProofFailed, leaf_hash, verify_inclusion

HEAD_SCHEMA: Final = "nomos.head/1"
#: A statement, escaped as text, and two paths.
HEAD_BYTES_MAX: Final = 4 * RECORD_BYTES_MAX


class HeadProof(msgspec.Struct, frozen=True, kw_only=True):
    """A parsed ``head.json``, not verified.

    Attributes:
        key: 32 bytes, under which the tenant's name is blinded.
        leaf: the tenant's head as the statement has it.
        index: of the leaf among all tenants'.
        path: from the leaf to the statement's root.
        record: canonical bytes of the statement's record.
        prev: 32 bytes, the chain hash before that record.
        inclusion: from that record to the newest checkpoint.
    """

    key: bytes
    leaf: TenantLeaf
    index: int
    path: tuple[bytes, ...]
    record: bytes
    prev: bytes
    inclusion: tuple[bytes, ...]


class _Spelled(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    blind: str
    inclusion: list[str]
    index: int
    leaf: TenantLeaf
    path: list[str]
    prev: str
    record: str
    schema: str


def format_head(proof: HeadProof) -> bytes:
    """The bytes of ``head.json``."""
    spelled = {
        "blind": proof.key.hex(),
        "inclusion": [b64encode(one).decode() for one in proof.inclusion],
        "index": proof.index,
        "leaf": {"b": proof.leaf.b, "h": proof.leaf.h, "n": proof.leaf.n},
        "path": [b64encode(one).decode() for one in proof.path],
        "prev": proof.prev.hex(),
        "record": proof.record.decode(),
        "schema": HEAD_SCHEMA,
    }
    return canonical_bytes(spelled, HEAD_BYTES_MAX) + b"\n"


def parse_head(encoded: bytes) -> HeadProof:
    """Parses ``head.json`` without verifying it.

    Raises:
        MalformedRecord: it breaks the format.
        LimitExceeded: it is longer than :data:`HEAD_BYTES_MAX`.
    """
    if not encoded.endswith(b"\n"):
        raise MalformedRecord("a proof of a head must end in a newline")
    try:
        spelled = msgspec.convert(parse_object(encoded[:-1], HEAD_BYTES_MAX), _Spelled)
    except msgspec.ValidationError as error:
        raise MalformedRecord("not a proof of a head", cause=str(error)) from None
    if spelled.schema != HEAD_SCHEMA:
        raise MalformedRecord(f"a proof of a head has the schema {HEAD_SCHEMA}")
    return HeadProof(
        key=_from_hex(spelled.blind),
        leaf=spelled.leaf,
        index=spelled.index,
        path=_hashes(spelled.path),
        record=spelled.record.encode(),
        prev=_from_hex(spelled.prev),
        inclusion=_hashes(spelled.inclusion),
    )


def check_head(proof: HeadProof, tenant: str, *, size: int, root: bytes) -> Statement:
    """Checks that the log of ``size`` states the leaf as the head of ``tenant``.

    Args:
        proof: the parsed file.
        tenant: whose bundle it is.
        size: of the newest checkpoint, whose signature the caller has verified.
        root: likewise.

    Returns:
        The statement; the tenant has exactly ``proof.leaf.n`` records up to record ``last``, the last of them with the
        chain hash ``proof.leaf.h``.

    Raises:
        MalformedRecord: the record is no statement.
        ProofFailed: a path does not lead to its root, or the leaf is another tenant's.
    """
    record = parse_record(proof.record)
    if record.tenant != SYSTEM_TENANT or record.type not in STATEMENTS:
        raise MalformedRecord("the record of a head's proof is no statement of heads")
    statement = parse_statement(record.type, record.event)
    if statement.last >= record.seq:
        raise MalformedRecord("a statement speaks of records before it only")
    verify_inclusion(record.seq, size, leaf_hash(link(proof.prev, proof.record)), proof.inclusion, root)
    if not hmac.compare_digest(blind(proof.key, tenant), proof.leaf.b):
        raise ProofFailed("the head belongs to another tenant")
    verify_head(proof.leaf, proof.index, proof.path, statement.tenants)
    return statement


def _from_hex(text: str) -> bytes:
    try:
        found = bytes.fromhex(text)
    except ValueError:
        raise MalformedRecord("a hash in a proof of a head is 64 hex digits") from None
    if len(found) != HASH_BYTES or found.hex() != text:
        raise MalformedRecord("a hash in a proof of a head is 64 hex digits")
    return found


def _hashes(texts: list[str]) -> tuple[bytes, ...]:
    if len(texts) > PATH_LENGTH_MAX:
        raise MalformedRecord("a proof is longer than any tree needs")
    found = tuple(decode_base64(text) for text in texts)
    if any(len(one) != HASH_BYTES for one in found):
        raise MalformedRecord(f"a hash in a proof has {HASH_BYTES} bytes")
    return found
