"""Sanitizer, wired. Reads top to bottom; no logic."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from nomos.ids import new_id
from nomos_runtime.peers import callers
from nomos_runtime.service import Parts
from nomos_runtime.settings import load, optional_secret
from nomos_sanitizer import memory
from nomos_sanitizer.domain import Sanitizer
from nomos_sanitizer.fingerprints import Fingerprints
from nomos_sanitizer.handlers import Cleaner, decoder, open_decoder, piece_decoder
from nomos_sanitizer.rules import load_rules
from nomos_sanitizer.settings import SanitizerSettings

NAME: Final = "sanitizer"
#: 32 bytes, base64url; without it findings have no fingerprints.
FINGERPRINT_KEY: Final = "SANITIZER_FINGERPRINT_KEY"


class SanitizerService:
    """The running service."""

    def __init__(self, settings: SanitizerSettings, env: Mapping[str, str]) -> None:
        self._settings = settings
        self._callers = callers(env, "proxy")
        memory.keep_freed()
        self._sanitizer = Sanitizer.from_rules(load_rules())
        self._threads = ThreadPoolExecutor(settings.threads, thread_name_prefix="sanitize")
        key = optional_secret(FINGERPRINT_KEY, env)
        self._keys = Fingerprints.parse(key) if key else None
        self._parts: Parts | None = None
        #: Names this process: pieces of one body come to the one that opened it.
        self.replica = new_id("rp")

    async def start(self) -> None:
        """Connects and serves."""
        parts = self._parts = await Parts.open(NAME, self._settings)
        cleaner = Cleaner(self._sanitizer, self._threads, self._keys, replica=self.replica)
        serve = parts.responder.serve_service
        await serve("svc.sanitize.*", self._callers, decoder, cleaner.clean)
        await serve("svc.sanitize.open.*", self._callers, open_decoder, cleaner.open)
        await serve(f"svc.sanitize.piece.{self.replica}.*", self._callers, piece_decoder, cleaner.piece)
        await parts.serve_admin({})
        await parts.serving()

    def faults(self) -> list[str]:
        """Why sanitizer cannot keep its promise now."""
        return self._parts.faults() if self._parts else ["not started"]

    async def stop(self) -> None:
        """Ends what runs and disconnects."""
        if self._parts:
            await self._parts.close()
        self._threads.shutdown(cancel_futures=True)


def build(env: Mapping[str, str]) -> SanitizerService:
    """Sanitizer from its environment."""
    return SanitizerService(load(SanitizerSettings, NAME, env), env)
