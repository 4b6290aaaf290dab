"""Who may call now: rates, a provider's own "not before", and the circuit of the upstream, before anything is used up.

Order: the provider's wait, the circuit, the rates of tenant, agent, connection and action. A refusal here is recorded
like any other, leaves the permission unused, and says when to come again.

All of it is kept by tenant. Rates hold over all replicas (:mod:`nomos_proxy.rates`); circuits and waits are of this
process, and what a provider said to one is learnt by the next from its own answer. A tenant's failures open no circuit
of another.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from email.utils import parsedate_to_datetime
from typing import Final

from msgspec import Struct

from nomos.catalogue import Rate
from nomos.errors import NomosError, RateLimited, Unavailable, UnknownOutcome, UpstreamFailed
from nomos_proxy.answer import Headers, UpstreamResponse
from nomos_proxy.breaker import Breaker
from nomos_proxy.destination import Origin
from nomos_proxy.domain import CallPlan
from nomos_proxy.pool import PoolFull
from nomos_proxy.rates import ALONE, Allowance, Place, Rates, divided
from nomos_proxy.sharedrates import SharedRates

#: A provider's Retry-After beyond this is cut: it could be a mistake, and the next answer says it again. Seconds.
RETRY_AFTER_SECONDS_MAX: Final = 900
#: Circuits and waits that are kept; fresh and past ones go first.
KEPT_MAX: Final = 50_000
_ASKS_TO_WAIT: Final = (429, 503)
_FAILED: Final = (502, 503, 504)


class GateLimits(Struct, frozen=True, kw_only=True):
    """Rates of every tenant and every agent."""

    tenant: Rate
    agent: Rate


class Passage:
    """One call that was let through, once :meth:`admit` has returned. :meth:`end` or :meth:`leave` is called once."""

    __slots__ = ("_breaker", "_gate", "_is_over", "_own", "_plan", "_probe", "_shared")

    def __init__(
        self,
        gate: Gate,
        plan: CallPlan,
        breaker: Breaker,
        *,
        probe: int,
        own: Sequence[Allowance],
        shared: Sequence[Allowance],
    ) -> None:
        self._own = own
        self._shared = shared
        self._gate = gate
        self._plan = plan
        self._breaker = breaker
        self._probe = probe
        self._is_over = False

    async def admit(self) -> None:
        """Counts the call against the rates that all replicas count in one place.

        Raises:
            RateLimited: too often; the call has used up nothing.
            Unavailable: they cannot be counted now.
        """
        if not self._shared:
            return
        tenant = self._plan.connection.tenant
        try:
            await self._gate.count(tenant, self._shared)
        except NomosError:
            self._gate.give_back(tenant, self._own)
            raise

    def end(self, how: UpstreamResponse | NomosError) -> None:
        """Says how the call ended."""
        now = self._gate.now()
        match how:
            case UpstreamResponse(status=status, headers=headers):
                if status in _ASKS_TO_WAIT:
                    self._gate.hold(self._plan, headers)
                if status in _FAILED:
                    self._breaker.failed(now, probe=self._probe)
                else:
                    self._breaker.succeeded()
            case PoolFull():
                # our own crowd, not the upstream's fault
                self._breaker.left(probe=self._probe)
            case UpstreamFailed() | UnknownOutcome():
                self._breaker.failed(now, probe=self._probe)
            case _:
                self._breaker.left(probe=self._probe)
        self._is_over = True

    def leave(self) -> None:
        """The call is over, however; without :meth:`end` it did not reach the upstream."""
        if not self._is_over:
            self._breaker.left(probe=self._probe)
            self._is_over = True


class Gate:
    """The gate of one process."""

    def __init__(
        self,
        limits: GateLimits,
        *,
        clock: Callable[[], float] = time.monotonic,
        place: Callable[[], Place] = lambda: ALONE,
        shared: SharedRates | None = None,
    ) -> None:
        """Wires it.

        Args:
            limits: rates of every tenant and agent.
            clock: seconds, never going back.
            place: which of how many replicas this is now.
            shared: where rates are counted that cannot be divided; needed where there may be several.
        """
        self._limits = limits
        self._place = place
        self._shared = shared
        self.now = clock
        self._rates = Rates()
        self._breakers: dict[tuple[str, Origin], Breaker] = {}
        self._not_before: dict[tuple[str, str], float] = {}

    def enter(self, agent: str, plan: CallPlan) -> Passage:
        """Lets a call through, up to :meth:`Passage.admit`.

        Args:
            agent: who calls, within the tenant.
            plan: the call.

        Raises:
            RateLimited: too often; or the provider asked to wait.
            CircuitOpen: the upstream is left alone for now.
        """
        now, tenant = self.now(), plan.connection.tenant
        wait = self._not_before.get((tenant, plan.connection.name), 0.0) - now
        if wait > 0:
            raise RateLimited("the provider asked to wait", retry_after_ms=math.ceil(wait * 1000))
        breaker = self._breaker(tenant, plan.origin)
        probe = breaker.enter(now)
        own, shared = divided(self._allowances(agent, plan), self._place())
        try:
            self._rates.use(tenant, own, now)
        except NomosError:
            breaker.left(probe=probe)
            raise
        return Passage(self, plan, breaker, probe=probe, own=own, shared=shared)

    async def admit_one(self, tenant: str, allowance: Allowance) -> None:
        """Counts something else than a call against a rate of its own. Errors as :meth:`Passage.admit`."""
        own, shared = divided([allowance], self._place())
        self._rates.use(tenant, own, self.now())
        if shared:
            await self.count(tenant, shared)

    async def count(self, tenant: str, allowances: Sequence[Allowance]) -> None:
        """Counts a call in the one place. Errors as :meth:`Passage.admit`."""
        if self._shared is None:
            raise Unavailable("rates over several replicas cannot be counted here")
        await self._shared.use(tenant, allowances)

    def give_back(self, tenant: str, allowances: Sequence[Allowance]) -> None:
        """Takes back what this replica has counted for a call that was not let through."""
        self._rates.give_back(tenant, allowances)

    def hold(self, plan: CallPlan, headers: Headers) -> None:
        """Keeps a connection's calls back as long as the provider asked for, if it did."""
        seconds = retry_after_seconds(dict(headers).get("retry-after", ""))
        if seconds:
            if len(self._not_before) >= KEPT_MAX:
                now = self.now()
                self._not_before = {at: until for at, until in self._not_before.items() if until > now}
            if len(self._not_before) < KEPT_MAX:
                self._not_before[plan.connection.tenant, plan.connection.name] = self.now() + seconds

    def forget(self, tenant: str) -> None:
        """Keeps nothing of a closed tenant."""
        self._rates.forget(tenant)
        if self._shared is not None:
            self._shared.forget(tenant)
        self._not_before = {at: until for at, until in self._not_before.items() if at[0] != tenant}
        self._breakers = {at: breaker for at, breaker in self._breakers.items() if at[0] != tenant}

    def _allowances(self, agent: str, plan: CallPlan) -> list[Allowance]:
        connection, action, connector = plan.connection.name, plan.action, plan.connector
        found = [
            Allowance(name="the tenant's rate", key=("tenant",), rate=self._limits.tenant),
            Allowance(name="the agent's rate", key=("agent", agent), rate=self._limits.agent),
        ]
        if connector.rate is not None:
            name = f"the rate of a connection to {connector.name}"
            found.append(Allowance(name=name, key=("connection", connection), rate=connector.rate))
        if action.rate is not None:
            key = ("action", connection, action.id)
            found.append(Allowance(name=f"the rate of {action.id}", key=key, rate=action.rate))
        return found

    def _breaker(self, tenant: str, origin: Origin) -> Breaker:
        found = self._breakers.get((tenant, origin))
        if found is None:
            if len(self._breakers) >= KEPT_MAX:
                self._breakers = {at: breaker for at, breaker in self._breakers.items() if not breaker.is_fresh}
            found = Breaker()
            if len(self._breakers) < KEPT_MAX:
                self._breakers[tenant, origin] = found
        return found


def retry_after_seconds(value: str) -> float:
    """A ``Retry-After`` as seconds from now; 0 for none or one that cannot be read (RFC 9110 section 10.2.3)."""
    text = value.strip()
    if text.isascii() and text.isdigit() and len(text) <= 10:
        seconds = float(text)
    else:
        try:
            seconds = parsedate_to_datetime(text).timestamp() - time.time()
        except (ValueError, TypeError, IndexError, OverflowError):
            return 0.0
    return min(max(seconds, 0.0), float(RETRY_AFTER_SECONDS_MAX))
