"""The replay set: what may run once is marked used in the stream ``NONCE``, before anything is sent.

One publish per use, refused by the server where the subject has a message already (``Nats-Expected-Last-Subject-
Sequence: 0``): of any number of proxies exactly one wins. Entries outlive every token (``nonce_ttl_seconds``).

Trusted: the stream, for the compare-and-set and for durability (synced before the acknowledgement). When it does not
answer, nothing is sent: the mark may stand, and the permission is lost, never used twice.
"""

from __future__ import annotations

from typing import Final

import msgspec

from nomos.errors import Misconfigured, Replayed, Unavailable
from nomos.ucan.profile import LIFETIME_SECONDS_MAX
from nomos_runtime.bus import Bus

#: JetStream: "wrong last sequence", and the per-subject limit of a stream that refuses new messages.
WRONG_LAST_SEQUENCE: Final = 10_071
MAXIMUM_MESSAGES_PER_SUBJECT: Final = 10_077
#: A token's longest life, and as much again for clocks that differ.
TTL_SECONDS_MIN: Final = 2 * LIFETIME_SECONDS_MAX


class _Ack(msgspec.Struct):
    seq: int = 0
    error: dict[str, object] | None = None


class ReplaySet:
    """Marks keys used, once."""

    def __init__(self, bus: Bus, *, ttl_seconds: int, timeout_ms: int) -> None:
        """Prepares the set.

        Raises:
            Misconfigured: entries would not outlive every token.
        """
        if ttl_seconds < TTL_SECONDS_MIN:
            raise Misconfigured(f"nonce_ttl_seconds is at least {TTL_SECONDS_MIN}: a used permission would come back")
        self._bus = bus
        self._timeout_ms = timeout_ms
        self._headers = {"Nats-Expected-Last-Subject-Sequence": "0", "Nats-TTL": f"{ttl_seconds}s"}

    async def use(self, key: str) -> None:
        """Marks ``key`` used.

        Raises:
            Replayed: it was used before.
            Unavailable: it is not known whether it could be marked; nothing may be sent.
        """
        reply = await self._bus.request(f"nonce.{key}", b"", self._timeout_ms, self._headers)
        try:
            ack = msgspec.json.decode(reply, type=_Ack)
        except msgspec.DecodeError as e:
            raise Unavailable("the replay set does not answer", cause=str(e)) from e
        if ack.error is not None:
            code = ack.error.get("err_code")
            if code == WRONG_LAST_SEQUENCE or (
                code == MAXIMUM_MESSAGES_PER_SUBJECT and "per subject" in str(ack.error.get("description", ""))
            ):
                raise Replayed("this permission was used before")
            raise Unavailable("the replay set refuses", cause=str(ack.error))
        if not ack.seq:
            raise Unavailable("the replay set does not answer")
