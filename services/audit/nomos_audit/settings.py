"""Settings of audit. Secrets: ``AUDIT_SIGN_KEY`` (32 bytes, base64url) signs checkpoints and nothing else."""

from __future__ import annotations

from nomos_runtime.settings import ServiceSettings


class AuditSettings(ServiceSettings, frozen=True, kw_only=True):
    """Settings of audit.

    Attributes:
        origin: identity of the log, a schema-less URL; constant for the life of the log.
        checkpoint_seconds: between two checkpoints of a growing log; at most 10.
        anchor_file: where the newest checkpoint is kept besides the stream and the database; empty for nowhere.
        export_dir: where exports are prepared before they are read; empty for the system's temporary folder.
    """

    origin: str
    checkpoint_seconds: float = 5.0
    anchor_file: str = ""
    export_dir: str = ""
