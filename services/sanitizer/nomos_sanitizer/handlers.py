"""The edge of sanitizer: a body in, a cleaned body and the report out; in one message, or in pieces.

Keeps nothing but the bodies that are open (:mod:`nomos_sanitizer.openbodies`).

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
from nomos.messages import Decoder
from nomos.pii import parse_classes
from nomos.servicemessages import BodyOpened, BodyPiece, CleanPiece, OpenBody, Sanitize, Sanitized
from nomos_sanitizer import fingerprints
from nomos_sanitizer.domain import Sanitizer
from nomos_sanitizer.fingerprints import Fingerprints
from nomos_sanitizer.limits import INLINE_BYTES_MAX
from nomos_sanitizer.openbodies import OpenBodies
from nomos_sanitizer.scrub import Options

decoder: Final = Decoder.of(Sanitize, "sanitize")
open_decoder: Final = Decoder.of(OpenBody, "open body")
piece_decoder: Final = Decoder.of(BodyPiece, "body piece")
#: Larger bodies that are being cleaned or wait for a thread, of one tenant and of all.
WAITING_PER_TENANT_MAX: Final = 64
WAITING_MAX: Final = 256
#: A body that waited longer is not cleaned: the proxy has given up on it (its ``sanitize_timeout_ms``).
WAIT_SECONDS_MAX: Final = 5.0


class Cleaner:
    """Answers ``sanitize``, and what is asked of bodies in pieces.

    Args:
        sanitizer: the compiled rules.
        threads: where larger bodies are cleaned.
        keys: the installation's key for fingerprints, or None: then findings have no fingerprints.
        replica: the token of the subject at which pieces reach this process.
    """

    def __init__(
        self, sanitizer: Sanitizer, threads: Executor, keys: Fingerprints | None = None, *, replica: str = ""
    ) -> None:
        self._sanitizer = sanitizer
        self._keys = keys
        self._threads = threads
        self._waiting: Counter[str] = Counter()
        self._open = OpenBodies(sanitizer, threads, replica=replica, options=self._options)

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

    async def open(self, message: object) -> BodyOpened:
        """Takes on a body in pieces; errors as :meth:`OpenBodies.open`."""
        if not isinstance(message, OpenBody):
            raise Malformed("not an open body message")
        return self._open.open(message)

    async def piece(self, message: object) -> CleanPiece:
        """Takes a piece; errors as :meth:`OpenBodies.piece`."""
        if not isinstance(message, BodyPiece):
            raise Malformed("not a body piece message")
        return await self._open.piece(message)

    def _options(self, tenant: str, pii: list[str]) -> Options:
        return Options(
            fingerprint=self._keys.of_tenant(tenant) if self._keys else fingerprints.none,
            pii=parse_classes(pii),
        )

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
            options=self._options(message.tenant, message.pii),
        )
        return Sanitized(
            headers=list(done.headers),
            body=done.body,
            removed=[msgspec.to_builtins(line) for line in done.report.removed],
            noted=[msgspec.to_builtins(line) for line in done.report.noted],
        )
