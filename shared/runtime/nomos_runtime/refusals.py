"""How many refusals of one agent the log holds one by one; what is beyond that is counted, and the count recorded.

An agent that is refused in a loop would write a record each time. So of each minute of an agent the first
``refusals_per_minute`` are recorded as they come; the last of them says that further ones are counted (``counting``).
When the minute is over, one record says how many there were and of which kinds. Nothing is left out: what was refused
stands in the log, by itself or in a count.

What a crash leaves: a record with ``counting`` that no count follows. Then the number of further refusals of that
minute is not known; that they were possible is.

A process that stops records what it has counted, and counts nothing after that. Each process counts for itself.

Decides nothing about whether something is refused. Never counted, always recorded: an unknown outcome, and a fault of
our own.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from typing import Final, Literal

from msgspec import Struct

from nomos.errors import JournalUnavailable
from nomos.events import REFUSALS_COUNTED, Actor, Envelope
from nomos.ids import new_id
from nomos_runtime import observe
from nomos_runtime.bus import Bus
from nomos_runtime.journal import Journal

#: Seconds of the span in which refusals are counted together.
SPAN_SECONDS: Final = 60
#: How often spans that are over are looked for.
LOOK_SECONDS: Final = 5.0
#: Agents whose refusals are counted at once; those of a further one are all recorded.
AGENTS_MAX: Final = 100_000
#: Kinds of refusals of one span that are told apart; further ones are counted as :data:`OTHER`.
KINDS_MAX: Final = 100
OTHER: Final = ("other", "other")
#: Refusals that are always recorded by themselves.
ALWAYS_RECORDED: Final = frozenset({"unknown_outcome", "internal"})


class Counted(Struct, frozen=True, kw_only=True):
    """The refusals of one agent in one span that no record of their own has.

    Attributes:
        id: of the record; one that is recorded twice, because it was not known whether it had been, bears one id.
        tenant: whose.
        agent: who was refused.
        since: begin of the span, Unix seconds.
        cause: id of the event that said that further ones are counted.
        kinds: how many, by verb and code.
    """

    id: str
    tenant: str
    agent: str
    since: int
    cause: str
    kinds: dict[tuple[str, str], int]


class _Span:
    __slots__ = ("cause", "counts", "recorded", "since")

    def __init__(self, since: int) -> None:
        self.since = since
        self.recorded = 0
        self.cause = ""
        self.counts: Counter[tuple[str, str]] = Counter()


class Spans:
    """The spans of this process."""

    def __init__(self, *, per_minute: int, clock: Callable[[], float] = time.time) -> None:
        """``per_minute``: recorded one by one, of one agent; ``clock``: Unix seconds."""
        self._per_minute = per_minute
        self._clock = clock
        self._spans: dict[tuple[str, str], _Span] = {}
        self._over: list[Counted] = []

    def take(self, tenant: str, agent: str, verb: str, code: str, event: str) -> Literal["record", "last", "count"]:
        """What is done with one refusal: recorded, recorded as the last of its span, or counted.

        Args:
            tenant: whose.
            agent: who is refused.
            verb: what it asked for.
            code: why it is refused.
            event: id of the record that it would get.
        """
        now, at = int(self._clock()), (tenant, agent)
        span = self._spans.get(at)
        if span is not None and now >= span.since + SPAN_SECONDS:
            self._close(at, span)
            span = None
        if span is None:
            if len(self._spans) >= AGENTS_MAX:
                return "record"
            span = self._spans[at] = _Span(now)
        if span.recorded >= self._per_minute:
            kind = (verb, code)
            span.counts[kind if kind in span.counts or len(span.counts) < KINDS_MAX else OTHER] += 1
            return "count"
        span.recorded += 1
        if span.recorded < self._per_minute:
            return "record"
        span.cause = event
        return "last"

    def unrecorded(self, tenant: str, agent: str) -> None:
        """What :meth:`take` said to record could not be: the next one is recorded in its place."""
        span = self._spans.get((tenant, agent))
        if span is not None and span.recorded:
            span.recorded -= 1

    def over(self, *, all_of_them: bool = False) -> list[Counted]:
        """The counts of spans that are over, or of all; each is given once, unless it is put back."""
        now = int(self._clock())
        for at, span in list(self._spans.items()):
            if all_of_them or now >= span.since + SPAN_SECONDS:
                self._close(at, span)
        found, self._over = self._over, []
        return found

    def put_back(self, counted: list[Counted]) -> None:
        """Keeps counts that could not be recorded."""
        self._over = counted + self._over

    def _close(self, at: tuple[str, str], span: _Span) -> None:
        del self._spans[at]
        if span.counts:
            tenant, agent = at
            self._over.append(
                Counted(
                    id=new_id("ev"),
                    tenant=tenant,
                    agent=agent,
                    since=span.since,
                    cause=span.cause,
                    kinds=dict(span.counts),
                )
            )


class Refusals:
    """Says what is done with each refusal of an agent, and records the counts."""

    def __init__(self, bus: Bus, journal: Journal, *, per_minute: int) -> None:
        """``per_minute``: recorded one by one, of one agent."""
        self._service = bus.service
        self._journal = journal
        self._spans = Spans(per_minute=per_minute)
        self._is_stopped = False
        self._recording: asyncio.Task[None] | None = None

    def take(self, tenant: str, agent: str, verb: str, code: str, event: str) -> Literal["record", "last", "count"]:
        """As :meth:`Spans.take`; nothing is counted once the process stops."""
        return "record" if self._is_stopped else self._spans.take(tenant, agent, verb, code, event)

    def unrecorded(self, tenant: str, agent: str) -> None:
        """As :meth:`Spans.unrecorded`."""
        self._spans.unrecorded(tenant, agent)

    async def run(self) -> None:
        """Records counts as their spans end, for as long as the service lives."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            # Not ended with this loop: what was taken from the spans is in nobody's hands but its own.
            self._recording = asyncio.create_task(self._record(self._spans.over()))
            await asyncio.shield(self._recording)

    async def stop(self) -> None:
        """Records what has been counted so far."""
        self._is_stopped = True
        if self._recording is not None:
            await self._recording
        await self._record(self._spans.over(all_of_them=True))

    async def _record(self, counted: list[Counted]) -> None:
        """What cannot be recorded is said, and kept for the next time."""
        for number, one in enumerate(counted):
            try:
                await self._journal.append([_counted(one, self._service)])
            except JournalUnavailable as e:
                self._spans.put_back(counted[number:])
                left = sum(sum(each.kinds.values()) for each in counted[number:])
                observe.say(self._service, observe.REFUSAL_UNRECORDED, code=e.code, count=left)
                return


def _counted(counted: Counted, service: str) -> Envelope:
    kinds = [{"verb": verb, "code": code, "count": count} for (verb, code), count in sorted(counted.kinds.items())]
    return Envelope(
        id=counted.id,
        type=REFUSALS_COUNTED,
        tenant=counted.tenant,
        actor=Actor(kind="agent", id=counted.agent),
        corr="",
        cause=counted.cause,
        event={
            "service": service,
            "count": sum(counted.kinds.values()),
            "kinds": kinds,
            "since": counted.since,
            "seconds": SPAN_SECONDS,
        },
    )
