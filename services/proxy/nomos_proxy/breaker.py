"""Whether an upstream is worth a try: after failures in a row it is left alone for a while, then tried with one call.

    closed --(failures in a row)--> open --(pause over)--> one probe --(success)--> closed
                                      ^------(failure, pause doubled)--'

What counts as a failure: it could not be reached, gave no complete answer, or answered 502, 503 or 504. Any other
answer is a success, whatever it says. A call that ended before it reached the upstream counts as nothing.

Pure: the clock is an argument.
"""

from __future__ import annotations

import math
from typing import Final

from nomos.errors import CircuitOpen

#: Failures in a row that open a circuit.
FAILURES_MAX: Final = 5
#: The first pause, seconds; each failed probe doubles it.
PAUSE_SECONDS: Final = 1.0
PAUSE_SECONDS_MAX: Final = 60.0


class Breaker:
    """The circuit of one upstream, for one tenant."""

    __slots__ = ("_failures", "_open_until", "_pause", "_probe", "_probes")

    def __init__(self) -> None:
        self._failures = 0
        self._pause = PAUSE_SECONDS
        self._open_until: float | None = None
        #: Number of the probe that runs, 0 for none. One that is overtaken by a success is a call like any other.
        self._probe = 0
        self._probes = 0

    @property
    def is_fresh(self) -> bool:
        """Whether it says the same as a new one, so that nothing is lost with it."""
        return self._failures == 0 and self._open_until is None

    def enter(self, now: float) -> int:
        """Lets a call through.

        Returns:
            The number of the probe that it is; 0 for an ordinary call. Who was let through calls :meth:`succeeded`, or
            :meth:`failed` or :meth:`left` with that number.

        Raises:
            CircuitOpen: the upstream is left alone for now.
        """
        if self._open_until is None:
            return 0
        if self._probe or now < self._open_until:
            wait = max(self._open_until - now, 0.0) or self._pause
            raise CircuitOpen(
                "the upstream has failed several times in a row and is left alone for a while",
                retry_after_ms=math.ceil(wait * 1000),
            )
        self._probes += 1
        self._probe = self._probes
        return self._probe

    def succeeded(self) -> None:
        """The upstream answered: the circuit is closed, whoever asked."""
        self._failures = 0
        self._pause = PAUSE_SECONDS
        self._open_until = None
        self._probe = 0

    def failed(self, now: float, *, probe: int) -> None:
        """The upstream failed."""
        self._failures += 1
        if probe and probe == self._probe:
            self._probe = 0
            self._pause = min(self._pause * 2, PAUSE_SECONDS_MAX)
            self._open_until = now + self._pause
        elif self._open_until is None and self._failures >= FAILURES_MAX:
            self._open_until = now + self._pause

    def left(self, *, probe: int) -> None:
        """The call ended without reaching the upstream; a probe may be made again."""
        if probe and probe == self._probe:
            self._probe = 0
