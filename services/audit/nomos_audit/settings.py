"""Settings of audit.

Secrets: ``AUDIT_SIGN_KEY`` (32 bytes, base64url) signs checkpoints and nothing else; ``AUDIT_SIGN_KEY_NEXT`` (likewise,
only while one key follows another) is the key that ``rotate-key`` goes over to; ``AUDIT_BLIND_KEY`` (likewise) blinds
tenants' names in seals; ``AUDIT_ARCHIVE_ACCESS_KEY`` and ``AUDIT_ARCHIVE_SECRET_KEY`` open an S3 archive.
"""

from __future__ import annotations

from typing import Literal

from nomos_runtime.settings import ServiceSettings


class AuditSettings(ServiceSettings, frozen=True, kw_only=True):
    """Settings of audit.

    Attributes:
        origin: identity of the log, a schema-less URL; constant for the life of the log.
        checkpoint_seconds: between two checkpoints of a growing log; at most 10.
        anchor_file: where the newest checkpoint is kept besides the stream and the database; empty for nowhere.
        export_dir: where exports are prepared before they are read; empty for the system's temporary folder.
        tiles_dir: where the tree's tiles are kept; empty for a temporary folder, made anew at each start.
        archive: a folder or ``s3://bucket/prefix``; empty for no archive and no seals.
        archive_endpoint: URL of an S3-compatible store; empty for AWS.
        archive_region: of the bucket.
        archive_lock: Object Lock: ``required``, ``auto`` (where the bucket has it), or ``off``.
        archive_mirror: another bucket ``s3://bucket/prefix`` (or folder) for daily roots; empty for none.
        archive_tsa: URLs of at most two independent time-stamp authorities (RFC 3161), with a space or comma between;
            empty for none.
        archive_tsa_roots: PEM file of the certificates that vouch for their tokens; empty to leave this to the auditor.
        archive_grace_seconds: after midnight UTC before a day without later records is sealed.
        environment: ``production``, or ``development``, which alone lets a store on loopback speak without TLS.
        witnesses: a trust policy's file whose witness lines have URLs; they are asked for cosignatures. Empty for none.
        witness_wait_seconds: how long a daily root, an export or a receipt waits for the quorum; then it goes without.
        chain_roll_bytes: a segment of the chain ends at so many bytes, or at 80 % of what its stream may hold.
        chain_roll_monthly: whether a segment also ends with the first block of another month (UTC).
        chain_keep_days: how long an ended segment stays at least before ``nomos audit retire`` may take it away.
        chains: number of chains; 1. See docs/adr/0012 for how a deployment splits.
    """

    origin: str
    checkpoint_seconds: float = 5.0
    anchor_file: str = ""
    export_dir: str = ""
    tiles_dir: str = ""
    archive: str = ""
    archive_endpoint: str = ""
    archive_region: str = "us-east-1"
    archive_lock: Literal["required", "auto", "off"] = "auto"
    archive_mirror: str = ""
    archive_tsa: str = ""
    archive_tsa_roots: str = ""
    archive_grace_seconds: float = 30.0
    environment: str = "production"
    witnesses: str = ""
    witness_wait_seconds: float = 10.0
    chain_roll_bytes: int = 6 * 1024**3
    chain_roll_monthly: bool = True
    chain_keep_days: int = 30
    chains: int = 1
