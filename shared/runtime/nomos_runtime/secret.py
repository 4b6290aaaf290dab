"""A value that must not be shown: the type that carries credentials and keys through a service.

Decides nothing. ``repr``, ``str``, ``format``, pickling and copying give nothing away, so a secret cannot reach a log,
a message or a traceback by accident; :meth:`Secret.reveal` is the one way out and easy to search for.
"""

from __future__ import annotations

import hmac
from typing import Final, NoReturn

_REDACTED: Final = "Secret(redacted)"


class Secret:
    """Bytes that are only given to who asks by name."""

    __slots__ = ("_content",)

    def __init__(self, content: bytes) -> None:
        self._content = content

    def reveal(self) -> bytes:
        """The bytes themselves. The caller must not put them into an error, a log line or an event."""
        return self._content

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._content, other._content)

    def __hash__(self) -> NoReturn:
        raise TypeError("a secret is not a key of a mapping")

    def __repr__(self) -> str:
        return _REDACTED

    def __format__(self, spec: str) -> str:
        return _REDACTED

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not pickled or copied")
