"""Operators' verbs of shadows: shadow-start, shadow-stop, shadow-report."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec

from nomos_policy.shadow import SHADOW_DAYS_MAX
from nomos_policy.shadowing import Shadowing
from nomos_runtime.responder import Operator, Verb


class StartParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A draft, why it is tried, and for how many days at most."""

    draft: str
    why: str
    days: int = SHADOW_DAYS_MAX


class StopParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Why the shadow is stopped."""

    why: str


class ReportParams(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A shadow; empty for the newest."""

    shadow: str = ""


class ShadowAdmin:
    """The verbs, by name, in :meth:`verbs`."""

    def __init__(self, shadows: Shadowing, refresh: Callable[[], Awaitable[None]]) -> None:
        self._shadows = shadows
        self._refresh = refresh

    def verbs(self) -> dict[str, Verb]:
        """Verb name to parameters and handler."""
        return {
            "shadow-start": (StartParams, self.start),
            "shadow-stop": (StopParams, self.stop),
            "shadow-report": (ReportParams, self.report),
        }

    async def start(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """Starts a shadow; answers when this replica evaluates it."""
        p = msgspec.convert(params, StartParams)
        started = await self._shadows.start(by.tenant, by.actor, by.request, draft=p.draft, why=p.why, days=p.days)
        await self._refresh()
        return {"tenant": by.tenant, "shadow": started.shadow, "sha256": started.sha256, "until": started.until}

    async def stop(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """Stops the shadow that runs."""
        p = msgspec.convert(params, StopParams)
        stopped = await self._shadows.stop(by.tenant, by.actor, by.request, why=p.why)
        await self._refresh()
        return {"tenant": by.tenant, "shadow": stopped.shadow}

    async def report(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """What a shadow has compared so far."""
        found = await self._shadows.report(by.tenant, msgspec.convert(params, ReportParams).shadow)
        told: dict[str, object] = msgspec.to_builtins(found)
        return {"tenant": by.tenant, **told}
