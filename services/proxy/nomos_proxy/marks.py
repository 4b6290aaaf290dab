"""What has been used, in the order of the stream ``NONCE``: of all who mark a key, the first in that order has it.

Decides who was first, and when a mark may be forgotten; reading and writing the stream is :mod:`nomos_proxy.replay`.
Every proxy that has applied the same messages holds the same marks. A message is one batch of keys (msgpack, an array
of texts); one without content is the mark of the one key that its subject names, as versions before wrote it.

Pure: no IO, and time comes as an argument.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Final

import msgspec

from nomos.errors import MalformedRecord, Unavailable

PREFIX: Final = "nonce."
#: Keys that one process remembers, of all proxies: with the default TTL enough for 5,500 calls a second.
MARKS_MAX: Final = 1_000_000
#: Keys of one message; with a text CID each, it stays below the stream's ``message_bytes_max``.
KEYS_MAX: Final = 60

_encode = msgspec.msgpack.Encoder().encode
_keys = msgspec.msgpack.Decoder(list[str])


def encode_keys(keys: Sequence[str]) -> bytes:
    """One batch as it stands in the stream."""
    return _encode(list(keys))


def parse_keys(subject: str, payload: bytes) -> list[str]:
    """The keys that a message of the stream marks.

    Raises:
        MalformedRecord: it is no mark.
    """
    if not payload:
        return [subject.removeprefix(PREFIX)]
    try:
        return _keys.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
        raise MalformedRecord(f"a message of {subject} is no mark") from e


class Marks:
    """The marks of the last ``ttl_seconds``."""

    def __init__(self, ttl_seconds: float) -> None:
        """Begins with nothing, before the stream's first message."""
        self._ttl_seconds = ttl_seconds
        self._used: set[str] = set()
        #: What may be forgotten when, oldest first.
        self._ends: deque[tuple[float, tuple[str, ...]]] = deque()
        #: Sequence of the last message that was applied.
        self.read = 0

    def __contains__(self, key: str) -> bool:
        return key in self._used

    def __len__(self) -> int:
        return len(self._used)

    def apply(self, sequence: int, keys: Sequence[str], now: float) -> list[bool]:
        """Takes the next message of the stream; says of each key whether this message is the first that marks it.

        Args:
            sequence: its place in the stream; above :attr:`read`.
            keys: what it marks.
            now: seconds of a clock that never goes back.

        Raises:
            Unavailable: :data:`MARKS_MAX` are remembered already; nothing of the message was taken.
        """
        if sequence <= self.read:
            raise ValueError(f"message {sequence} comes after message {self.read}")
        self._forget(now)
        if len(self._used) + len(keys) > MARKS_MAX:
            raise Unavailable(f"MARKS_MAX is {MARKS_MAX}", hint="lower nonce_ttl_seconds")
        first: list[bool] = []
        for key in keys:
            first.append(key not in self._used)
            self._used.add(key)
        new = tuple(key for key, is_first in zip(keys, first, strict=True) if is_first)
        if new:
            self._ends.append((now + self._ttl_seconds, new))
        self.read = sequence
        return first

    def read_again(self) -> None:
        """Whoever reads on begins at the stream's first message; what is known stays known."""
        self.read = 0

    def _forget(self, now: float) -> None:
        while self._ends and self._ends[0][0] <= now:
            self._used.difference_update(self._ends.popleft()[1])
