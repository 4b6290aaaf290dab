"""The tenants' issuing keys, from minting's feed: the roots that an invocation's chain must start from.

A key that was replaced counts for :data:`ROTATED_SECONDS` more: so long may live what it signed, and what a replica of
minting signed that had not heard of the rotation.
"""

from __future__ import annotations

from typing import Final

from nomos.events import ISSUER_CREATED, ISSUER_ROTATED
from nomos.ids import Did
from nomos.servicemessages import Fact
from nomos.ucan.profile import LIFETIME_SECONDS_MAX, SKEW_SECONDS

#: Longest life of a delegation, clocks that differ, and the time that a replica of minting may be behind.
ROTATED_SECONDS: Final = LIFETIME_SECONDS_MAX + SKEW_SECONDS + 10


class Issuers:
    """Fold of minting's facts about issuing keys."""

    def __init__(self) -> None:
        #: tenant -> key -> the Unix second after which it counts no more, or None.
        self._keys: dict[str, dict[Did, int | None]] = {}

    def apply(self, fact: Fact) -> None:
        """Folds one fact."""
        if fact.type not in (ISSUER_CREATED, ISSUER_ROTATED):
            return
        keys = self._keys.setdefault(fact.tenant, {})
        if fact.type == ISSUER_ROTATED:
            keys[Did(str(fact.event["previous"]))] = int(str(fact.event["at"])) + ROTATED_SECONDS
        keys[Did(str(fact.event["did"]))] = None

    def roots(self, tenant: str, now: int) -> frozenset[Did]:
        """The issuing keys of ``tenant`` that count at ``now``, Unix seconds; none while minting has none."""
        return frozenset(did for did, until in self._keys.get(tenant, {}).items() if until is None or now <= until)
