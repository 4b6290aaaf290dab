"""Typed reading of a token's payload: each field once, and none left over.

Decides the type and range of each field that delegations and invocations share. Unknown fields are refused: a
constraint that this version does not understand must not be ignored.

Source: UCAN 1.0.0 section "Payload".
"""

from __future__ import annotations

from typing import Final

from nomos.errors import LimitExceeded, Malformed, MalformedToken
from nomos.ids import Did
from nomos.keys import parse_did
from nomos.ucan.command import parse_command
from nomos.ucan.dagcbor import Ipld

#: Integers are limited to what a double holds exactly (UCAN 1.0.0, "53-bits").
INTEGER_MAX: Final = 2**53 - 1
NONCE_BYTES_MAX: Final = 64


class Fields:
    """The fields of one payload that have not been read yet."""

    __slots__ = ("_left",)

    def __init__(self, payload: dict[str, Ipld]) -> None:
        self._left = dict(payload)

    def take(self, name: str) -> Ipld:
        """A required field of any type."""
        try:
            return self._left.pop(name)
        except KeyError:
            raise MalformedToken(f"field {name} is missing") from None

    def has(self, name: str) -> bool:
        """Whether an optional field is there."""
        return name in self._left

    def did(self, name: str) -> Did:
        """A required DID in its canonical spelling."""
        return read_did(name, self.take(name))

    def command(self) -> str:
        """The required ``cmd``."""
        value = self.take("cmd")
        if not isinstance(value, str):
            raise MalformedToken("field cmd is not text")
        return parse_command(value)

    def nonce(self) -> bytes:
        """The required ``nonce``."""
        return read_nonce(self.take("nonce"))

    def expiry(self) -> int | None:
        """The required ``exp``, which may be null."""
        value = self.take("exp")
        return None if value is None else read_time("exp", value)

    def optional_time(self, name: str) -> int | None:
        """An optional time; null is not the same as absent and is refused."""
        return read_time(name, self.take(name)) if name in self._left else None

    def map(self, name: str) -> dict[str, Ipld]:
        """A required map."""
        value = self.take(name)
        if not isinstance(value, dict):
            raise MalformedToken(f"field {name} is not a map")
        return value

    def optional_map(self, name: str) -> dict[str, Ipld]:
        """An optional map; absent is empty."""
        return self.map(name) if name in self._left else {}

    def finish(self) -> None:
        """Refuses what has not been read."""
        if self._left:
            raise MalformedToken("payload has a field that the specification does not have")


def read_did(name: str, value: Ipld) -> Did:
    """A DID from a field, or MalformedToken."""
    if not isinstance(value, str):
        raise MalformedToken(f"field {name} is not a DID")
    try:
        return parse_did(value).did
    except Malformed as error:
        raise MalformedToken(f"field {name}: {error.detail}") from None


def read_time(name: str, value: Ipld) -> int:
    """Unix seconds from a field, or MalformedToken."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= INTEGER_MAX:
        raise MalformedToken(f"field {name} is not a time in Unix seconds")
    return value


def read_nonce(value: Ipld) -> bytes:
    """A nonce from a field, or MalformedToken, or LimitExceeded."""
    if not isinstance(value, bytes):
        raise MalformedToken("field nonce is not bytes")
    if len(value) > NONCE_BYTES_MAX:
        raise LimitExceeded("nonce_bytes_max", NONCE_BYTES_MAX, len(value))
    return value
