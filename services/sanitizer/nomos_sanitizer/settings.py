"""Settings of sanitizer. Secret: ``SANITIZER_FINGERPRINT_KEY``, which opens nothing (see ``fingerprints``)."""

from __future__ import annotations

from nomos_runtime.settings import ServiceSettings


class SanitizerSettings(ServiceSettings, frozen=True, kw_only=True):
    """Settings of sanitizer.

    Attributes:
        threads: bodies cleaned at once; each thread has its own scratch.
    """

    threads: int = 2
