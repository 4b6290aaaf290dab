"""Everything that was issued for a tenant, or for an app of it, up to a moment: taken back by one fact.

A delegation does not say when it was issued, only when it ends, and none lives longer than ``LIFETIME_SECONDS_MAX``. So
whatever was issued up to second ``t``, by a clock that is ahead by ``SKEW_SECONDS`` at most, ends by :func:`cutoff_of`
of ``t``: a root that ends by then is refused, and minting signs none that does. So for the seconds in which clocks may
differ, and by which minting's delegations are shorter than the longest, nothing new is issued either. What was handed
on from a root is refused with it.

Pure: no IO, no clock.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from nomos.ucan.profile import LIFETIME_SECONDS_MAX, SKEW_SECONDS

#: In the place of an app: the whole tenant.
WHOLE_TENANT: Final = ""


def cutoff_of(now: int) -> int:
    """The Unix second by which everything ends that was issued up to ``now``, Unix seconds."""
    return now + SKEW_SECONDS + LIFETIME_SECONDS_MAX


class Cutoffs:
    """Fold of the facts, in any order and any number of times. One number for each app; the latest counts."""

    def __init__(self) -> None:
        self._until: dict[tuple[str, str], int] = {}

    def apply(self, tenant: str, app: str, until: int) -> None:
        """Takes one fact: of ``app`` in ``tenant`` (:data:`WHOLE_TENANT` for all), with its :func:`cutoff_of`."""
        self._until[tenant, app] = max(until, self._until.get((tenant, app), 0))

    def is_cut(self, tenant: str, apps: Iterable[str], expires_at: int) -> bool:
        """Whether a root of ``tenant`` that ends at ``expires_at`` is taken back for one of ``apps``, or for all."""
        return any(expires_at <= self._until.get((tenant, app), -1) for app in (WHOLE_TENANT, *apps))
