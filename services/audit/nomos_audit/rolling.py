"""When a segment of the chain ends: pure, over what a writer knows of the segment that it writes.

Decides the moment; ending one, and going on in the next, is the writer's.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Final, NamedTuple

from nomos_audit.segments import Room, first_of

#: A segment ends before the server would refuse its messages, at so much of what it may hold.
FULL_PERCENT: Final = 80
#: After a segment could not be made, seconds.
RETRY_SECONDS: Final = 60.0


class Rolling(NamedTuple):
    """When a segment ends: at so many bytes, and with the first block of another month (UTC)."""

    bytes: int
    monthly: bool


NEVER: Final = Rolling(sys.maxsize, False)


class OpenSegment:
    """The segment that is written: what it held when this writer came to it, and what it has written since."""

    def __init__(self, name: str, room: Room) -> None:
        """Takes the segment's name and what it holds."""
        self.name = name
        self._room = room
        self._written = 0
        self._retry_at = 0.0

    def wrote(self, number: int) -> None:
        """Counts ``number`` bytes more."""
        self._written += number

    def put_off(self, now: float) -> None:
        """Rolling failed at ``now`` (seconds of any steady clock): it is not due again for a while."""
        self._retry_at = now + RETRY_SECONDS

    def is_due(self, rolling: Rolling, *, block: int, at: int, now: float) -> bool:
        """Whether the segment is to end behind block ``block``.

        Args:
            rolling: the rule.
            block: the newest block of the chain; a segment without one does not end.
            at: microseconds since 1970, UTC.
            now: as for :meth:`put_off`.
        """
        if block < first_of(self.name) or now < self._retry_at:
            return False
        limit = rolling.bytes
        if self._room.limit:
            limit = min(limit, self._room.limit * FULL_PERCENT // 100)
        is_over = self._room.used + self._written >= limit
        return is_over or (rolling.monthly and _month(at / 1e6) > _month(self._room.made_at))


def _month(seconds: float) -> tuple[int, int]:
    at = datetime.fromtimestamp(seconds, UTC)
    return at.year, at.month
