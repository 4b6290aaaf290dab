"""The writer's only state: where the chain stands. A value; a new block gives a new head.

It is a fold over the chain (:mod:`nomos_audit.replay`), so it is never stored apart from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from nomos.log.chain import genesis

#: Producers whose counters are kept; the one whose last record is oldest is forgotten first. A producer is the life
#: of one process, so this spans the restarts of years. A forgotten producer that speaks again shows as ``audit.gap``.
PRODUCERS_MAX: Final = 16_384
NO_RECORD: Final = "0" * 64


class TenantHead(NamedTuple):
    """A tenant's next counter, and the chain hash of its last record as 64 hex digits."""

    next: int
    hash: str


class ProducerHead(NamedTuple):
    """A producer's next counter, and the seq of the last record that came from it."""

    next: int
    seq: int


NEW_TENANT: Final = TenantHead(0, NO_RECORD)


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """Where the chain stands.

    Attributes:
        origin: the log's identity.
        block: sequence of the newest block in ``CHAIN``; 0 before the first.
        size: number of records.
        hash: chain hash of the last record, or genesis.
        intake: sequence of the last journal message that is consumed as a whole.
        range: compact range of the tree of ``size``.
        tenants: by tenant; a tenant without records is absent.
        producers: by ``service/producer``, in order of their last record, at most :data:`PRODUCERS_MAX`.
        heads_at: where a replay must begin to see all of these; 0 for the first block.
    """

    origin: str
    block: int
    size: int
    hash: bytes
    intake: int
    range: tuple[bytes, ...]
    tenants: Mapping[str, TenantHead]
    producers: Mapping[str, ProducerHead]
    heads_at: int


def empty_head(origin: str) -> Head:
    """The head of the log ``origin`` before its first record."""
    return Head(
        origin=origin,
        block=0,
        size=0,
        hash=genesis(origin),
        intake=0,
        range=(),
        tenants={},
        producers={},
        heads_at=0,
    )


def producer_name(service: str, producer: str) -> str:
    """The key of a producer. The service is the server's stamp, so none can spend another's counters."""
    return f"{service}/{producer}"


def forget_oldest(producers: dict[str, ProducerHead]) -> None:
    """Keeps the :data:`PRODUCERS_MAX` producers of the newest records. ``producers`` is in order of last record."""
    while len(producers) > PRODUCERS_MAX:
        del producers[next(iter(producers))]
