"""Evaluations that were made, so that the same question is not asked of the engine twice.

An evaluation is a function of its inputs: the slice of policies, the entities (principal and resource), the action, and
of the context only what some policy of the slice reads. The key holds all of them; what no policy reads, the clock for
one, is left out, so it cannot make equal questions look different. Nothing expires: a new policy set has a memory of
its own.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable


class Remembered:
    """A bounded memory; the least recently used goes first."""

    __slots__ = ("_answers", "_size_max")

    def __init__(self, size_max: int) -> None:
        self._answers: OrderedDict[Hashable, object] = OrderedDict()
        self._size_max = size_max

    def get(self, key: Hashable) -> object | None:
        """What was remembered under ``key``, or None."""
        answer = self._answers.get(key)
        if answer is not None:
            self._answers.move_to_end(key)
        return answer

    def put(self, key: Hashable, answer: object) -> None:
        """Remembers ``answer``."""
        self._answers[key] = answer
        if len(self._answers) > self._size_max:
            self._answers.popitem(last=False)
