"""Delegations that were taken back before their minute was over, from minting's feed.

An entry is kept until its delegation has expired, so what is held is what was revoked within about a minute.
"""

from __future__ import annotations

from nomos.events import DELEGATION_REVOKED
from nomos.messages import Fact
from nomos.ucan.cid import parse_cid
from nomos.ucan.profile import SKEW_SECONDS


class Revocations:
    """Fold of minting's facts about revoked delegations. Give it the time with each fact and question."""

    def __init__(self) -> None:
        self._until: dict[tuple[str, bytes], int] = {}

    def apply(self, fact: Fact, now: int) -> None:
        """Folds one fact; forgets what has expired at ``now``, Unix seconds."""
        if fact.type != DELEGATION_REVOKED:
            return
        until = int(str(fact.event["until"])) + SKEW_SECONDS
        if until >= now:
            # Entries come nearly in the order of their ends, so the oldest stand first.
            for key, end in list(self._until.items()):
                if end >= now:
                    break
                del self._until[key]
            self._until[fact.tenant, parse_cid(str(fact.event["cid"]))] = until

    def is_revoked(self, tenant: str, cid: bytes) -> bool:
        """Whether the delegation with these CID bytes has been revoked in ``tenant``."""
        return (tenant, cid) in self._until
