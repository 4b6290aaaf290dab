"""What a seal says of tenants and producers: one root over all heads, and proof of one head without showing the others.

A *statement* is a record of the log's own: ``audit.seal`` closes a day, ``audit.heads`` says the same between seals. It
holds, as of record ``last``, an RFC 6962 root over the heads of all tenants and one over the counters of all
producers::

    tenant leaf    JCS {"b": hex HMAC-SHA256(tenant key, tenant), "h": hash of its last record, "n": number of records}
    producer leaf  JCS {"n": next counter, "p": "service/producer"}
    tenant key     HMAC-SHA256(blinding key, "nomos-tenant-blind/v1\\0" + tenant)

Leaves stand in order of ``b`` and of ``p``, each once. A tenant gets its key, its leaf and the path: it sees that the
log ends where its own bundle ends, and learns of the others only how many there are. Whoever holds the whole log
compares the leaves with the heads that it computed itself.

Pure. Source: audit-log "Seal record"; RFC 6962 section 2.1.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final, TypeVar

import msgspec

from nomos.errors import MalformedRecord
from nomos.log.record import canonical_bytes, parse_object
from nomos.log.sealedfield import SUBJECT_ERASED
from nomos.log.tree import EMPTY_ROOT, CompactRange, inclusion_proof, leaf_hash, verify_inclusion

SEAL: Final = "audit.seal"
HEADS: Final = "audit.heads"
STATEMENTS: Final = frozenset({SEAL, HEADS})
#: Types of the log's own records that this module and its neighbours read.
KEY: Final = "audit.key"
ERASURE: Final = SUBJECT_ERASED
#: Parts that one seal can name; with names and digests they fit into a record.
SEALED_FILES_MAX: Final = 256
_BLIND: Final = b"nomos-tenant-blind/v1\0"
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_HEX = re.compile(r"[0-9a-f]{64}")


class Roots(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many tenants there are, and the root over their leaves in hex."""

    n: int
    root: str


class Place(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A position in a source stream: everything up to message ``q`` of stream ``s`` is in the log."""

    s: str
    q: int


class SealRef(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The seal before: its place in the log and its chain hash in hex."""

    seq: int
    h: str


class SealedFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of the archive as the seal names it."""

    n: str
    sha256: str
    rows: int
    first: int
    last: int


class Statement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What both kinds of statement say, as of record ``last`` (-1: before the first)."""

    last: int
    keys: tuple[str, ...]
    pc_root: str
    src: tuple[Place, ...]
    tenants: Roots


class Seal(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The event of ``audit.seal``: the records ``first`` to ``last`` are the day's; without any, last = first - 1."""

    count: int
    day: str
    erasures: int
    files: tuple[SealedFile, ...]
    first: int
    keys: tuple[str, ...]
    last: int
    pc_root: str
    prev_seal: SealRef | None
    src: tuple[Place, ...]
    tenants: Roots
    tool: str


class TenantLeaf(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One tenant's head: blinded name, chain hash of its last record, number of its records."""

    b: str
    h: str
    n: int


def tenant_key(blinding_key: bytes, tenant: str) -> bytes:
    """The 32 bytes under which ``tenant``'s name is blinded. Given to the tenant with its bundle."""
    return hmac.digest(blinding_key, _BLIND + tenant.encode(), "sha256")


def blind(key: bytes, tenant: str) -> str:
    """The blinded name in hex, under the tenant's own key."""
    return hmac.digest(key, tenant.encode(), "sha256").hex()


def tenant_leaf(leaf: TenantLeaf) -> bytes:
    """The leaf's data: canonical JSON."""
    return canonical_bytes({"b": leaf.b, "h": leaf.h, "n": leaf.n})


def producer_leaf(producer: str, following: int) -> bytes:
    """The data of a producer's leaf; ``producer`` is ``service/id``, ``following`` its next counter."""
    return canonical_bytes({"n": following, "p": producer})


def tenant_leaves(heads: Mapping[str, tuple[int, str]], blinding_key: bytes) -> list[TenantLeaf]:
    """The leaves of all tenants in order.

    Args:
        heads: tenant -> (number of records, hash of the last in hex).
        blinding_key: 32 bytes, the log's own secret.
    """
    leaves = [
        TenantLeaf(b=blind(tenant_key(blinding_key, tenant), tenant), h=last, n=number)
        for tenant, (number, last) in heads.items()
    ]
    return sorted(leaves, key=lambda leaf: leaf.b)


def root_of(leaves: Iterable[bytes]) -> bytes:
    """The RFC 6962 root over leaf data in the order given; the empty root where there is none."""
    tree = CompactRange()
    tree.extend(leaves)
    return tree.root() if tree.size else EMPTY_ROOT


def producers_root(counters: Mapping[str, int]) -> bytes:
    """The root over all producers; ``service/id`` -> next counter."""
    return root_of(producer_leaf(name, counters[name]) for name in sorted(counters))


def prove_leaf(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """The inclusion path of one leaf, lowest node first.

    Raises:
        MalformedRecord: there is no such leaf.
    """
    if not 0 <= index < len(leaves):
        raise MalformedRecord("there is no such leaf")
    return inclusion_proof([leaf_hash(one) for one in leaves], index, len(leaves))


def verify_head(leaf: TenantLeaf, index: int, path: Sequence[bytes], roots: Roots) -> None:
    """Checks that ``leaf`` is one of the heads that a statement vouches for.

    Raises:
        ProofFailed: it is not.
    """
    verify_inclusion(index, roots.n, leaf_hash(tenant_leaf(leaf)), path, bytes.fromhex(roots.root))


def format_leaves(leaves: Iterable[TenantLeaf]) -> bytes:
    """The file of leaves that goes with a seal: one canonical object a line."""
    return b"".join(tenant_leaf(one) + b"\n" for one in leaves)


def parse_leaves(encoded: bytes) -> list[TenantLeaf]:
    """Parses a file of leaves, which must rise strictly in ``b``.

    Raises:
        MalformedRecord: it breaks the format.
    """
    lines = encoded.split(b"\n")
    if lines.pop() != b"":
        raise MalformedRecord("a file of heads must end in a newline")
    leaves = [_convert(parse_object(line), TenantLeaf, "head") for line in lines]
    for leaf in leaves:
        if _HEX.fullmatch(leaf.b) is None or _HEX.fullmatch(leaf.h) is None or leaf.n <= 0:
            raise MalformedRecord("a head holds two hashes in hex and a number above 0")
    if any(left.b >= right.b for left, right in pairwise(leaves)):
        raise MalformedRecord("heads must rise strictly")
    return leaves


def parse_seal(event: Mapping[str, Any]) -> Seal:
    """The event of a seal.

    Raises:
        MalformedRecord: it is none, or its numbers contradict each other.
    """
    seal = _convert(event, Seal, "seal")
    _check_roots(seal.tenants, seal.pc_root)
    if _DAY.fullmatch(seal.day) is None:
        raise MalformedRecord("a seal's day must be YYYY-MM-DD")
    if seal.first < 0 or seal.count < 0 or seal.last != seal.first + seal.count - 1 or seal.erasures < 0:
        raise MalformedRecord("a seal's range and count contradict each other")
    if seal.prev_seal is not None and (_HEX.fullmatch(seal.prev_seal.h) is None or seal.prev_seal.seq < 0):
        raise MalformedRecord("a seal names the seal before by place and hash")
    following = seal.first
    for one in seal.files:
        if _HEX.fullmatch(one.sha256) is None or one.first != following or one.last != one.first + one.rows - 1:
            raise MalformedRecord("a seal's files must cover its range in order, without gap")
        following = one.last + 1
    if seal.files and following != seal.last + 1:
        raise MalformedRecord("a seal's files must cover its range in order, without gap")
    return seal


def parse_statement(kind: str, event: Mapping[str, Any]) -> Statement:
    """What a statement of either kind says of heads.

    Raises:
        MalformedRecord: it is none.
    """
    if kind == SEAL:
        seal = parse_seal(event)
        return Statement(last=seal.last, keys=seal.keys, pc_root=seal.pc_root, src=seal.src, tenants=seal.tenants)
    statement = _convert(event, Statement, "statement of heads")
    _check_roots(statement.tenants, statement.pc_root)
    if statement.last < -1:
        raise MalformedRecord("a statement's last record must be -1 or more")
    return statement


def event_of(one: Seal | Statement) -> dict[str, Any]:
    """The event as the record holds it."""
    event: dict[str, Any] = msgspec.to_builtins(one)
    return parse_object(canonical_bytes(_lists(event)))


def _lists(value: Any) -> Any:
    """Tuples as lists: the profile of records knows lists only."""
    if isinstance(value, dict):
        return {name: _lists(one) for name, one in value.items()}
    return [_lists(one) for one in value] if isinstance(value, tuple | list) else value


def _check_roots(tenants: Roots, pc_root: str) -> None:
    if tenants.n < 0 or _HEX.fullmatch(tenants.root) is None or _HEX.fullmatch(pc_root) is None:
        raise MalformedRecord("a statement's roots are 64 hex digits")


_T = TypeVar("_T", bound=msgspec.Struct)


def _convert(value: object, kind: type[_T], what: str) -> _T:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise MalformedRecord(f"not a {what}", cause=str(error)) from None
