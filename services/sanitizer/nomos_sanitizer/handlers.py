"""The edge of sanitizer: a body in, a cleaned body and the report out. Keeps nothing.

Cleaning runs in threads, so one large body does not hold the others up; the engines release the GIL while they scan.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from concurrent.futures import Executor
from typing import Final

import msgspec

from nomos.errors import Malformed, Unavailable
from nomos.messages import Decoder, Sanitize, Sanitized
from nomos.pii import parse_classes
from nomos_sanitizer import fingerprints
from nomos_sanitizer.domain import Sanitizer
from nomos_sanitizer.fingerprints import Fingerprints
from nomos_sanitizer.scrub import Options

decoder: Final = Decoder.of(Sanitize, "sanitize")
#: Bodies up to this size are cleaned on the loop: handing them to a thread would cost more.
INLINE_BYTES_MAX: Final = 32_768
#: Larger bodies that are being cleaned or wait for a thread, of one tenant and of all.
WAITING_PER_TENANT_MAX: Final = 64
WAITING_MAX: Final = 256
#: A body that waited longer is not cleaned: the proxy has given up on it (its ``sanitize_timeout_ms``).
WAIT_SECONDS_MAX: Final = 5.0


class Cleaner:
    """Answers ``sanitize``.

    Args:
        sanitizer: the compiled rules.
        threads: where larger bodies are cleaned.
        keys: the installation's key for fingerprints, or None: then findings have no fingerprints.
    """

    def __init__(self, sanitizer: Sanitizer, threads: Executor, keys: Fingerprints | None = None) -> None:
        self._sanitizer = sanitizer
        self._keys = keys
        self._threads = threads
        self._waiting: Counter[str] = Counter()

    async def clean(self, message: object) -> Sanitized:
        """Cleans one body.

        Raises:
            ResponseRefused: it cannot be made safe.
            Unavailable: too many bodies wait already.
        """
        if not isinstance(message, Sanitize):
            raise Malformed("not a sanitize message")
        if len(message.body) <= INLINE_BYTES_MAX:
            return self._clean(message)
        if self._waiting[message.tenant] >= WAITING_PER_TENANT_MAX or self._waiting.total() >= WAITING_MAX:
            raise Unavailable(f"WAITING_PER_TENANT_MAX is {WAITING_PER_TENANT_MAX}, WAITING_MAX is {WAITING_MAX}")
        self._waiting[message.tenant] += 1
        try:
            began = time.monotonic()
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._clean_in_time, message, began)
        finally:
            self._waiting[message.tenant] -= 1
            if not self._waiting[message.tenant]:
                del self._waiting[message.tenant]

    def _clean_in_time(self, message: Sanitize, began: float) -> Sanitized:
        if time.monotonic() - began > WAIT_SECONDS_MAX:
            raise Unavailable("nobody waits for this body any more")
        return self._clean(message)

    def _clean(self, message: Sanitize) -> Sanitized:
        done = self._sanitizer.sanitize(
            message.body,
            content_type=message.content_type,
            headers=message.headers,
            credentials=(),
            options=Options(
                fingerprint=self._keys.of_tenant(message.tenant) if self._keys else fingerprints.none,
                pii=parse_classes(message.pii),
            ),
        )
        return Sanitized(
            headers=list(done.headers),
            body=done.body,
            removed=[msgspec.to_builtins(line) for line in done.report.removed],
            noted=[msgspec.to_builtins(line) for line in done.report.noted],
        )
