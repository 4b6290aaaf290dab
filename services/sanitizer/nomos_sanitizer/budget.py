"""What one pass over a body may spend, so that hostile input costs a refusal and not an hour."""

from __future__ import annotations

from nomos.errors import ResponseRefused
from nomos_sanitizer.limits import (
    BASE64_RUNS_MAX,
    ESCAPES_MAX,
    INVISIBLE_MAX,
    JSON_NODES_MAX,
    SPANS_MAX,
    WORK_BYTES_FLOOR,
    WORK_FACTOR_MAX,
)


class Budget:
    """Counts down the work of one pass.

    Args:
        size_bytes: length of the input of the pass.
    """

    __slots__ = ("_bytes", "_escapes", "_invisible", "_nodes", "_runs", "_spans")

    def __init__(self, size_bytes: int) -> None:
        self._bytes = WORK_BYTES_FLOOR + WORK_FACTOR_MAX * size_bytes
        self._escapes = ESCAPES_MAX
        self._invisible = INVISIBLE_MAX
        self._nodes = JSON_NODES_MAX
        self._runs = BASE64_RUNS_MAX
        self._spans = SPANS_MAX

    def look(self, size_bytes: int) -> None:
        """Charges a text that is scanned.

        Raises:
            ResponseRefused: encodings inside encodings add up to more than the limit.
        """
        self._bytes -= size_bytes
        if self._bytes < 0:
            raise ResponseRefused("body unpacks to more text than the limit")

    def escape(self, count: int = 1) -> None:
        """Charges runs of escape sequences.

        Raises:
            ResponseRefused: too many.
        """
        self._escapes -= count
        if self._escapes < 0:
            raise ResponseRefused(f"body has more than {ESCAPES_MAX} escape sequences")

    @property
    def bytes_left(self) -> int:
        """How many bytes may still be looked at."""
        return self._bytes

    @property
    def spans_left(self) -> int:
        """How many places may still be found."""
        return self._spans

    def span(self, count: int = 1) -> None:
        """Charges something found.

        Raises:
            ResponseRefused: too many.
        """
        self._spans -= count
        if self._spans < 0:
            raise ResponseRefused(f"body has more than {SPANS_MAX} places to remove")

    def invisible(self, count: int = 1) -> None:
        """Charges characters that are left out of a shadow.

        Raises:
            ResponseRefused: too many.
        """
        self._invisible -= count
        if self._invisible < 0:
            raise ResponseRefused(f"body has more than {INVISIBLE_MAX} invisible characters")

    def run(self) -> None:
        """Charges one run that is read as base64.

        Raises:
            ResponseRefused: too many.
        """
        self._runs -= 1
        if self._runs < 0:
            raise ResponseRefused(f"body has more than {BASE64_RUNS_MAX} runs that may be base64")

    def node(self) -> None:
        """Charges one member or element of a JSON container.

        Raises:
            ResponseRefused: too many.
        """
        self._nodes -= 1
        if self._nodes < 0:
            raise ResponseRefused(f"body has more than {JSON_NODES_MAX} json values")
