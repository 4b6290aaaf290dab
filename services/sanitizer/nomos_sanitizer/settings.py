"""Settings of sanitizer. It holds no secret."""

from __future__ import annotations

from nomos_runtime.settings import ServiceSettings


class SanitizerSettings(ServiceSettings, frozen=True, kw_only=True):
    """Settings of sanitizer.

    Attributes:
        threads: bodies cleaned at once; each thread has its own scratch.
    """

    threads: int = 2
