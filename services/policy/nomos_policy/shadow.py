"""A shadow: a candidate set that is evaluated beside the one in force, and what it would have answered.

Its answers release nothing and refuse nothing. One tenant has one shadow at a time; it ends when an operator stops it,
or at its time. Each replica counts what it compares and says so in events of its own, so that a report is a sum.

Rules: a reason is given; the candidate is a draft, which compiled without fault when it was saved; a shadow that runs
is stopped before another starts. What the draft becomes afterwards changes nothing: a shadow names a text by its hash.

Pure: time and ids are arguments. Leaves evaluating to ``shadowing``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, TypeVar

import msgspec
from msgspec import Struct

from nomos.errors import Conflict, LimitExceeded, MalformedRecord, NotFound
from nomos.events import SHADOW_STARTED, SHADOW_STOPPED
from nomos_policy.aggregate import checked_why
from nomos_policy.changes import Changes, joined
from nomos_policy.history import DraftSaved

T = TypeVar("T", bound=Struct)

#: How long a shadow may run.
SHADOW_DAYS_MAX: Final = 14
#: Types of events that a replica follows.
FOLLOWED: Final = (SHADOW_STARTED, SHADOW_STOPPED)
_DAY_SECONDS: Final = 86_400


class Started(Struct, frozen=True, kw_only=True):
    """Payload of ``policy.shadow-started``: the draft with this text. Times are Unix seconds."""

    shadow: str
    draft: str
    sha256: str
    why: str
    at: int
    until: int


class Stopped(Struct, frozen=True, kw_only=True):
    """Payload of ``policy.shadow-stopped``."""

    shadow: str
    why: str
    at: int


class Compared(Struct, frozen=True, kw_only=True):
    """Payload of ``policy.shadow-compared``.

    Attributes:
        shadow: its id.
        changes: what was compared since this replica's event before.
        missed: requests that were not compared: too many came at once, or the candidate could not be loaded.
        at: Unix seconds.
    """

    shadow: str
    changes: Changes
    missed: int
    at: int

    def payload(self) -> dict[str, object]:
        """The event as the log keeps it."""
        counted: dict[str, object] = msgspec.to_builtins(self.changes)
        return {"shadow": self.shadow, "missed": self.missed, "at": self.at, **counted}


class Shadows(Struct, frozen=True, kw_only=True):
    """The shadows of one tenant, oldest first, without what they compared."""

    started: tuple[Started, ...] = ()
    stopped: Mapping[str, Stopped] = {}

    def running(self, now_seconds: int) -> Started | None:
        """The one that is evaluated now."""
        newest = self.started[-1] if self.started else None
        if newest is None or newest.shadow in self.stopped or now_seconds >= newest.until:
            return None
        return newest

    def named(self, shadow: str) -> Started:
        """One shadow; the newest for an empty name.

        Raises:
            NotFound: there is none.
        """
        found = [one for one in self.started if shadow in ("", one.shadow)]
        if not found:
            raise NotFound(
                f"this tenant has no shadow {shadow}".rstrip(), hint="nomos policy shadow start --tenant T FILE"
            )
        return found[-1]


class Report(Struct, frozen=True, kw_only=True):
    """What a shadow has compared, over all replicas."""

    shadow: str
    sha256: str
    running: bool
    started_at: int
    ended_at: int | None
    missed: int
    changes: Changes


def start(state: Shadows, draft: DraftSaved, why: str, *, shadow: str, days: int, now_seconds: int) -> Started:
    """Starts a shadow.

    Args:
        state: the tenant's shadows.
        draft: the candidate.
        why: the operator's reason.
        shadow: the new id.
        days: how long it runs at most.
        now_seconds: Unix time.

    Raises:
        Conflict: one runs.
        LimitExceeded, Malformed: the reason or the time is not accepted.
    """
    running = state.running(now_seconds)
    if running is not None:
        raise Conflict(f"the shadow {running.shadow} runs", hint="nomos policy shadow stop --tenant T")
    if not 1 <= days <= SHADOW_DAYS_MAX:
        raise LimitExceeded("days of a shadow", SHADOW_DAYS_MAX, days)
    return Started(
        shadow=shadow,
        draft=draft.draft,
        sha256=draft.sha256,
        why=checked_why(why),
        at=now_seconds,
        until=now_seconds + days * _DAY_SECONDS,
    )


def stop(state: Shadows, why: str, *, now_seconds: int) -> Stopped:
    """Stops the shadow that runs.

    Raises:
        NotFound: none runs.
        Malformed, LimitExceeded: the reason is not accepted.
    """
    running = state.running(now_seconds)
    if running is None:
        raise NotFound("no shadow runs")
    return Stopped(shadow=running.shadow, why=checked_why(why), at=now_seconds)


def evolve(state: Shadows, kind: str, payload: object) -> Shadows:
    """The shadows after an event; of other types nothing changes.

    Raises:
        MalformedRecord: the payload is not of its type.
    """
    if kind == SHADOW_STARTED:
        return Shadows(started=(*state.started, _convert(payload, Started)), stopped=state.stopped)
    if kind == SHADOW_STOPPED:
        ended = _convert(payload, Stopped)
        return Shadows(started=state.started, stopped={**state.stopped, ended.shadow: ended})
    return state


def report(state: Shadows, started: Started, compared: Sequence[Mapping[str, object]], *, now_seconds: int) -> Report:
    """What one shadow has compared.

    Args:
        state: the tenant's shadows.
        started: which.
        compared: payloads of its ``policy.shadow-compared``.
        now_seconds: Unix time.

    Raises:
        MalformedRecord: a payload is not of that type.
    """
    ended = state.stopped.get(started.shadow)
    ended_at = ended.at if ended is not None else started.until if now_seconds >= started.until else None
    return Report(
        shadow=started.shadow,
        sha256=started.sha256,
        running=ended_at is None,
        started_at=started.at,
        ended_at=ended_at,
        missed=sum(_convert(one, _Missed).missed for one in compared),
        changes=joined(_convert(one, Changes) for one in compared),
    )


class _Missed(Struct, frozen=True):
    missed: int


def _convert(payload: object, kind: type[T]) -> T:
    try:
        return msgspec.convert(payload, kind)
    except msgspec.ValidationError as error:
        raise MalformedRecord("the event is not of its type", cause=str(error)) from error
