"""Where the time of calls goes inside this process, for who measures: ``nomos bench call``, or an operator.

Kept are the stages of the last calls that were answered, in memory and without a name of anybody: a call costs some
readings of the clock, and nothing is sent or logged. The verb ``stages`` gives their medians and begins anew.
"""

from __future__ import annotations

import time
from collections import deque
from statistics import median
from typing import Final

import msgspec

from nomos_runtime.responder import NoParams, Operator, Verb

#: Calls whose stages are kept; older ones are forgotten first.
CALLS_MAX: Final = 10_000
#: In the order in which a call goes through them: the checks of chain, plan, gate and credential; the mark, durable;
#: the attempt, durable in the journal; the upstream's answer; the search for the credential and the sanitizer; the end,
#: durable in the journal.
STAGES: Final = ("checks", "mark", "attempt", "upstream", "sanitize", "end")


class Watch:
    """The time of one call, stage by stage. Starts when it is made."""

    __slots__ = ("_at", "laps")

    def __init__(self) -> None:
        self._at = time.perf_counter()
        #: Seconds of the stages so far.
        self.laps: list[float] = []

    def lap(self) -> None:
        """The next stage is over."""
        now = time.perf_counter()
        self.laps.append(now - self._at)
        self._at = now


class Stages:
    """The stages of the last calls, and the verb that tells them."""

    def __init__(self) -> None:
        self._calls: deque[list[float]] = deque(maxlen=CALLS_MAX)

    def keep(self, watch: Watch) -> None:
        """Takes a call that was answered and went through every stage."""
        self._calls.append(watch.laps)

    def verbs(self) -> dict[str, Verb]:
        """Verb name to parameters and handler."""
        return {"stages": (NoParams, self.tell)}

    async def tell(self, by: Operator, params: msgspec.Struct) -> dict[str, object]:
        """How many calls were kept since this was last asked, and the median of each stage, microseconds."""
        calls = list(self._calls)
        self._calls.clear()
        medians = {
            name: round(median(call[place] for call in calls) * 1e6) if calls else 0
            for place, name in enumerate(STAGES)
        }
        return {"calls": len(calls), "p50_us": medians}
