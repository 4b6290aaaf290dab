"""The journal's messages as the writer takes them: one batch of one producer, parsed once and strictly.

Decides what a well-formed batch and a well-formed envelope are. What becomes of a malformed one is decided in
:mod:`nomos_audit.domain` (it is recorded, never dropped, and never stops the log). The emitting service is not read
from the payload: the bus server stamps its account into the subject ``intake.<ACCOUNT>.batch``.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Final, NamedTuple

import msgspec

from nomos.errors import LimitExceeded, MalformedRecord, NotPermitted
from nomos.events import Batch
from nomos.ids import SLUG_LENGTH_MAX, SYSTEM_TENANT
from nomos.log.record import INTEGER_MAX

BATCH_VERSION: Final = 1
#: Envelopes in one batch. The runtime's journal stays far below it.
BATCH_EVENTS_MAX: Final = 8_192
PRODUCER_LENGTH_MAX: Final = 80
EVENT_ID_LENGTH_MAX: Final = 64
#: Types that only the log itself and its own service may write; nobody else can fake a seal or explain a gap away.
RESERVED_TYPES: Final = "audit."
AUDIT_SERVICE: Final = "audit"
ACTOR_KINDS: Final = frozenset({"agent", "operator", "approver", "auditor", "service", "system"})

_NAMES_KEPT: Final = 4_096

_PRODUCER = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_.-]{{0,{PRODUCER_LENGTH_MAX - 1}}}")
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_TENANT = re.compile(rf"(?=.{{1,{SLUG_LENGTH_MAX}}}\Z)[a-z][a-z0-9]*(?:-[a-z0-9]+)*")
_SUBJECT = re.compile(r"intake\.([^.]+)\.batch")


class Delivery(NamedTuple):
    """One message of the journal: its stream sequence, the emitter's account as the server stamped it, its bytes."""

    seq: int
    account: str
    payload: bytes


class StrictActor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """As :class:`nomos.events.Actor`, strictly."""

    kind: str
    id: str


class StrictEnvelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """As :class:`nomos.events.Envelope`, but a member that the record has no place for is an error, not lost."""

    id: str
    type: str
    tenant: str
    actor: StrictActor
    corr: str
    cause: str
    event: dict[str, Any]


class _StrictBatch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    v: int
    p: str
    n: int
    e: list[msgspec.Raw]


_batches = msgspec.msgpack.Decoder(_StrictBatch)
_envelopes = msgspec.msgpack.Decoder(StrictEnvelope)

#: What decoding hostile bytes can raise: nesting, ill-formed text, keys that cannot be keys, times out of range.
_FOREIGN = (msgspec.MsgspecError, RecursionError, ValueError, TypeError, OverflowError)


def account_of(subject: str) -> str:
    """The account in a journal subject, or an empty string where the subject is not one of the journal's."""
    match = _SUBJECT.fullmatch(subject)
    return match[1] if match is not None else ""


def parse_batch(payload: bytes) -> Batch:
    """Parses one journal message. The envelopes inside stay encoded; each is parsed by :func:`parse_envelope`.

    Raises:
        MalformedRecord: not a batch of version 1.
        LimitExceeded: more than :data:`BATCH_EVENTS_MAX` events.
    """
    try:
        batch = _batches.decode(payload)
    except _FOREIGN as error:
        raise MalformedRecord("a journal message must be a batch", cause=repr(error)) from None
    if batch.v != BATCH_VERSION:
        raise MalformedRecord(f"batch version must be {BATCH_VERSION}, got {batch.v}")
    if _PRODUCER.fullmatch(batch.p) is None:
        raise MalformedRecord("a producer id must be 1 to 80 of A-Z a-z 0-9 _ . - and not begin with a sign")
    if len(batch.e) > BATCH_EVENTS_MAX:
        raise LimitExceeded("events of a batch", BATCH_EVENTS_MAX, len(batch.e))
    if not 0 <= batch.n <= INTEGER_MAX - len(batch.e):
        raise MalformedRecord("a producer's counter lies outside 0 to 2^53-1")
    return Batch(v=batch.v, p=batch.p, n=batch.n, e=batch.e)


@lru_cache(maxsize=_NAMES_KEPT)
def _is_type(text: str) -> bool:
    return _NAME.fullmatch(text) is not None


@lru_cache(maxsize=_NAMES_KEPT)
def _is_tenant(text: str) -> bool:
    return text == SYSTEM_TENANT or _TENANT.fullmatch(text) is not None


def parse_envelope(encoded: bytes | msgspec.Raw, service: str) -> StrictEnvelope:
    """Parses one event of a batch that ``service`` emitted.

    Raises:
        MalformedRecord: not an envelope, or a name in it is misspelled.
        NotPermitted: it claims a type that belongs to the log.
    """
    try:
        parsed = _envelopes.decode(encoded)
    except _FOREIGN as error:
        raise MalformedRecord("an event must be an envelope", cause=repr(error)) from None
    if not 1 <= len(parsed.id) <= EVENT_ID_LENGTH_MAX:
        raise MalformedRecord(f"an event id has 1 to {EVENT_ID_LENGTH_MAX} characters")
    if not _is_type(parsed.type):
        raise MalformedRecord("a type must be 1 to 64 of A-Z a-z 0-9 _ . -")
    if not _is_tenant(parsed.tenant):
        raise MalformedRecord("an event's tenant must be a slug or the log's own")
    if parsed.actor.kind not in ACTOR_KINDS:
        raise MalformedRecord("an actor's kind must be one of " + ", ".join(sorted(ACTOR_KINDS)))
    if parsed.type.startswith(RESERVED_TYPES) and service != AUDIT_SERVICE:
        raise NotPermitted(f"types under {RESERVED_TYPES} belong to the log")
    return parsed
