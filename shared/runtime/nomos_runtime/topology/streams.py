"""The streams as data: what each keeps, and what it does at its limit.

A stream that decisions depend on is full by *refusing* (``discard: new``): then the answer is deny. Nothing that an
auditor may need is dropped to make room.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

MIB: Final = 1 << 20
GIB: Final = 1 << 30
_NANOSECONDS: Final = 1_000_000_000
#: Bytes of one message in any stream; blocks stay below 900 kB.
MESSAGE_BYTES_MAX: Final = MIB
DEDUPE_SECONDS: Final = 120
#: Segments of the chain beyond the first that may be there at once: 32 years of months without one retired.
SEGMENTS_MAX: Final = 384
#: A nonce is one delegation's invocation, whose proofs live 60 s.
NONCE_BYTES_MAX: Final = 4_096


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """How much the streams may hold, in bytes on disk, and on how many servers.

    Attributes:
        intake_bytes: journal that is not yet trimmed; full means that every decision is deny.
        chain_bytes: one segment of the log of record; the next one needs as much room beside it.
        audit_bytes: the tenants' projection, which can be built again; its oldest go first.
        checkpoint_bytes: signed checkpoints.
        nonce_bytes: nonces in use; full means that every invocation is refused.
        replicas: copies of each stream: 1, 3 or 5.
    """

    intake_bytes: int = 2 * GIB
    chain_bytes: int = 8 * GIB
    audit_bytes: int = 2 * GIB
    checkpoint_bytes: int = 256 * MIB
    nonce_bytes: int = 256 * MIB
    replicas: int = 1


class Stream(msgspec.Struct, frozen=True, kw_only=True):
    """One stream. ``bound`` names the attribute of :class:`Bounds` that limits it."""

    name: str
    account: str
    subject: str
    bound: Literal["intake_bytes", "chain_bytes", "audit_bytes", "checkpoint_bytes", "nonce_bytes"]
    keep_forever: bool = False
    discard: Literal["new", "old"] = "new"
    one_per_subject: bool = False
    message_ttl: bool = False
    message_bytes_max: int = MESSAGE_BYTES_MAX


STREAMS: Final[tuple[Stream, ...]] = (
    Stream(name="INTAKE", account="AUDIT", subject="intake.*.batch", bound="intake_bytes"),
    Stream(name="CHAIN", account="AUDIT", subject="chain.0", bound="chain_bytes", keep_forever=True),
    Stream(name="AUDIT", account="AUDIT", subject="audit.*", bound="audit_bytes", discard="old"),
    Stream(name="CHECKPOINT", account="AUDIT", subject="checkpoint.0", bound="checkpoint_bytes", keep_forever=True),
    Stream(
        name="NONCE",
        account="PROXY",
        subject="nonce.*",
        bound="nonce_bytes",
        one_per_subject=True,
        message_ttl=True,
        message_bytes_max=NONCE_BYTES_MAX,
    ),
)


def streams_of(account: str) -> tuple[Stream, ...]:
    """The streams of ``account``."""
    return tuple(s for s in STREAMS if s.account == account)


def streams_max(account: str) -> int:
    """How many streams ``account`` may have: its own, and where the chain is, the segments that it rolls into."""
    own = len(streams_of(account))
    return own + SEGMENTS_MAX if any(s.name == "CHAIN" for s in streams_of(account)) else own


def stream_config(stream: Stream, bounds: Bounds) -> dict[str, object]:
    """The configuration of ``stream`` as the server's API takes it."""
    return {
        "name": stream.name,
        "subjects": [stream.subject],
        "retention": "limits",
        "storage": "file",
        "discard": stream.discard,
        "max_bytes": getattr(bounds, stream.bound),
        "max_age": 0,
        "max_msgs": -1,
        "max_msg_size": stream.message_bytes_max,
        "max_consumers": -1,
        "max_msgs_per_subject": 1 if stream.one_per_subject else -1,
        # A second message on a subject is refused even where the publisher forgot to expect sequence 0.
        "discard_new_per_subject": stream.one_per_subject,
        "num_replicas": bounds.replicas,
        "duplicate_window": DEDUPE_SECONDS * _NANOSECONDS,
        "deny_delete": stream.keep_forever,
        "deny_purge": stream.keep_forever,
        "allow_direct": True,
        "allow_msg_ttl": stream.message_ttl,
        "allow_rollup_hdrs": False,
        "sealed": False,
    }
