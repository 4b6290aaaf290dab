"""How often: rates of calls, each an allowance that refills evenly.

A rate of ``calls`` in ``seconds`` lets so many through at once, and then one each ``seconds / calls``. What is kept for
a key is one moment, the time at which its allowance is full again; a key that is full is forgotten without a
difference. All rates of one call are looked at before any is used, so a refused call uses up nothing.

The keys of a tenant are counted apart: a tenant that makes up names reaches its own bound and nobody else's.

Where several replicas let calls through, each has a *share* of every rate, and the shares add up to it
(:func:`divided`). What has been used is kept as a part of the whole, so it stays the same part when shares change. A
rate too slow to be divided is counted in one place for all (:mod:`nomos_proxy.sharedrates`).

Pure: the clock is an argument. Source: the generic cell rate algorithm (ITU-T I.371, virtual scheduling).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from msgspec import Struct, structs

from nomos.catalogue import Rate
from nomos.errors import LimitExceeded, RateLimited

#: Keys of one tenant that are not full at the same time.
RATE_KEYS_MAX: Final = 20_000
#: Calls of the smallest share. Below it, chance would decide too often which replica a call comes to.
SHARE_CALLS_MIN: Final = 4


class Allowance(Struct, frozen=True, kw_only=True):
    """One rate that a call is counted against.

    Attributes:
        name: the limit's name, for the caller.
        key: what it is counted for, within the tenant.
        rate: how often.
        whole: the rate that ``rate`` is a share of, for the caller; None where it is no share.
    """

    name: str
    key: tuple[str, ...]
    rate: Rate
    whole: Rate | None = None


class Place(Struct, frozen=True):
    """Which of how many replicas this is, counted from 0. All that are there agree, once they know each other."""

    rank: int
    count: int


ALONE: Final = Place(0, 1)


def divided(allowances: Sequence[Allowance], place: Place) -> tuple[list[Allowance], list[Allowance]]:
    """This replica's shares, and the allowances that are too slow to be divided."""
    if place.count == 1:
        return list(allowances), []
    own: list[Allowance] = []
    shared: list[Allowance] = []
    for one in allowances:
        if one.rate.calls < SHARE_CALLS_MIN * place.count:
            shared.append(one)
            continue
        least, more = divmod(one.rate.calls, place.count)
        share = Rate(calls=least + (place.rank < more), seconds=one.rate.seconds)
        own.append(structs.replace(one, rate=share, whole=one.rate))
    return own, shared


def limited(allowance: Allowance, retry_after_ms: int) -> RateLimited:
    """The refusal of a call that is one too many; it names the whole rate."""
    rate = allowance.whole or allowance.rate
    said = f"{allowance.name} is {rate.calls} calls in {rate.seconds} seconds"
    return RateLimited(said, retry_after_ms=retry_after_ms)


class Rates:
    """What has been used of every rate, in this process."""

    __slots__ = ("_full_at",)

    def __init__(self) -> None:
        self._full_at: dict[str, dict[tuple[str, ...], float]] = {}

    def use(self, tenant: str, allowances: Sequence[Allowance], now: float) -> None:
        """Counts one call against each of ``allowances``, or against none.

        Args:
            tenant: whose.
            allowances: the rates of the call.
            now: seconds of a clock that does not go back.

        Raises:
            RateLimited: one of them is used up; it says when a call fits again.
            LimitExceeded: the tenant has more than ``RATE_KEYS_MAX`` keys in use.
        """
        kept = self._full_at.setdefault(tenant, {})
        after: list[float] = []
        for one in allowances:
            step = one.rate.seconds / one.rate.calls
            full_at = max(kept.get(one.key, now), now) + step
            wait = full_at - now - one.rate.seconds
            # a step adds up with rounding; a millionth of one is not a call
            if wait > step * 1e-6:
                raise limited(one, math.ceil(wait * 1000))
            after.append(full_at)
        if len(kept) + len(allowances) > RATE_KEYS_MAX:
            kept = self._full_at[tenant] = {key: full_at for key, full_at in kept.items() if full_at > now}
            if len(kept) + len(allowances) > RATE_KEYS_MAX:
                raise LimitExceeded("rate_keys_max", RATE_KEYS_MAX)
        for one, full_at in zip(allowances, after, strict=True):
            kept[one.key] = full_at

    def give_back(self, tenant: str, allowances: Sequence[Allowance]) -> None:
        """Takes back what :meth:`use` counted for a call that was then not let through."""
        kept = self._full_at.get(tenant, {})
        for one in allowances:
            if one.key in kept:
                kept[one.key] -= one.rate.seconds / one.rate.calls

    def forget(self, tenant: str) -> None:
        """Keeps nothing of a tenant."""
        self._full_at.pop(tenant, None)
