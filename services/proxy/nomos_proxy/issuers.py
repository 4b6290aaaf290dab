"""The tenants' issuing keys, from minting's feed: the roots that an invocation's chain must start from."""

from __future__ import annotations

from nomos.events import ISSUER_CREATED
from nomos.ids import Did
from nomos.messages import Fact


class Issuers:
    """Fold of minting's facts."""

    def __init__(self) -> None:
        self._roots: dict[str, frozenset[Did]] = {}

    def apply(self, fact: Fact) -> None:
        """Folds one fact."""
        if fact.type == ISSUER_CREATED:
            known = self._roots.get(fact.tenant, frozenset())
            self._roots[fact.tenant] = known | {Did(str(fact.event["did"]))}

    def roots(self, tenant: str) -> frozenset[Did]:
        """The issuing keys of ``tenant``; none while minting has none."""
        return self._roots.get(tenant, frozenset())
