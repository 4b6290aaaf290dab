"""The edge of sanitizer: a body in, a cleaned body and the report out. Keeps nothing.

Cleaning runs in threads, so one large body does not hold the others up; the engines release the GIL while they scan.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor
from typing import Final

import msgspec

from nomos.errors import Malformed
from nomos.messages import Decoder, Sanitize, Sanitized
from nomos_sanitizer.domain import Sanitizer

decoder: Final = Decoder.of(Sanitize, "sanitize")
#: Bodies up to this size are cleaned on the loop: handing them to a thread would cost more.
INLINE_BYTES_MAX: Final = 32_768


class Cleaner:
    """Answers ``sanitize``."""

    def __init__(self, sanitizer: Sanitizer, threads: Executor) -> None:
        self._sanitizer = sanitizer
        self._threads = threads

    async def clean(self, message: object) -> Sanitized:
        """Cleans one body.

        Raises:
            ResponseRefused: it cannot be made safe.
        """
        if not isinstance(message, Sanitize):
            raise Malformed("not a sanitize message")
        if len(message.body) <= INLINE_BYTES_MAX:
            return self._clean(message)
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._clean, message)

    def _clean(self, message: Sanitize) -> Sanitized:
        done = self._sanitizer.sanitize(
            message.body,
            content_type=message.content_type,
            headers=message.headers,
            credentials=(),
        )
        return Sanitized(
            headers=list(done.headers),
            body=done.body,
            removed=[msgspec.to_builtins(line) for line in done.report.removed],
        )
