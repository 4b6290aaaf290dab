"""Delegations that were taken back before their minute was over, from minting's feed: by id, and by app or tenant.

An entry by id is kept until its delegation has expired, so what is held is what was revoked within about a minute. Of
each app and tenant one number is kept.
"""

from __future__ import annotations

from collections.abc import Iterable

from nomos.events import DELEGATION_REVOKED, ISSUED_REVOKED
from nomos.servicemessages import Fact
from nomos.ucan.cid import parse_cid
from nomos.ucan.cutoff import Cutoffs
from nomos.ucan.profile import SKEW_SECONDS


class Revocations:
    """Fold of minting's facts about revoked delegations. Give it the time with each fact and question."""

    def __init__(self) -> None:
        self._until: dict[tuple[str, bytes], int] = {}
        self._cutoffs = Cutoffs()

    def apply(self, fact: Fact, now: int) -> None:
        """Folds one fact; forgets what has expired at ``now``, Unix seconds."""
        if fact.type == ISSUED_REVOKED:
            self._cutoffs.apply(fact.tenant, str(fact.event["app"]), int(str(fact.event["until"])))
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

    def is_cut(self, tenant: str, apps: Iterable[str], root_expires_at: int) -> bool:
        """Whether all that was issued up to a moment was taken back, and a chain goes back to before it.

        Args:
            tenant: whose.
            apps: of everybody who held a delegation of the chain.
            root_expires_at: end of the chain's first delegation, Unix seconds.
        """
        return self._cutoffs.is_cut(tenant, apps, root_expires_at)

    def is_revoked(self, tenant: str, cid: bytes) -> bool:
        """Whether the delegation with these CID bytes has been revoked in ``tenant``."""
        return (tenant, cid) in self._until
