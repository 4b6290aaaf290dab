"""What was computed and is kept, so that it is not computed twice: evaluations and compiled slices of one policy set.

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

    __slots__ = ("_answers", "_size", "_size_max")

    def __init__(self, size_max: int) -> None:
        """``size_max``: the sum of the sizes of what is kept; the newest is kept whatever its size."""
        self._answers: OrderedDict[Hashable, tuple[object, int]] = OrderedDict()
        self._size = 0
        self._size_max = size_max

    def __len__(self) -> int:
        """How many are kept."""
        return len(self._answers)

    def get(self, key: Hashable) -> object | None:
        """What was remembered under ``key``, or None."""
        found = self._answers.get(key)
        if found is None:
            return None
        self._answers.move_to_end(key)
        return found[0]

    def put(self, key: Hashable, answer: object, size: int = 1) -> None:
        """Remembers ``answer``."""
        replaced = self._answers.pop(key, None)
        if replaced is not None:
            self._size -= replaced[1]
        self._answers[key] = (answer, size)
        self._size += size
        self._shrink()

    def resize(self, size_max: int) -> None:
        """Sets another bound."""
        self._size_max = size_max
        self._shrink()

    def _shrink(self) -> None:
        while self._size > self._size_max and len(self._answers) > 1:
            _, (_, size) = self._answers.popitem(last=False)
            self._size -= size
