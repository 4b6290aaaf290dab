"""From settings to an archive: which store, which mirror, with which credentials."""

from __future__ import annotations

import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from nomos.errors import Misconfigured
from nomos_audit.log import AuditLog
from nomos_audit.mirror import Mirror
from nomos_audit.own import OwnEvents
from nomos_audit.settings import AuditSettings
from nomos_audit.store.folder import FolderStore
from nomos_audit.store.port import Store
from nomos_runtime.settings import secret


def checked(settings: AuditSettings) -> AuditSettings:
    """The settings, if they make sense together.

    Raises:
        Misconfigured: more than one chain, or a mirror without an archive.
    """
    if settings.chains != 1:
        raise Misconfigured(
            f"chains is {settings.chains}, and this version writes one",
            hint="docs/adr/0012 says how a deployment splits",
        )
    if settings.archive_mirror and not settings.archive:
        raise Misconfigured("archive_mirror without archive: there are no roots to mirror")
    return settings


async def open_archive(
    settings: AuditSettings, env: Mapping[str, str], log: AuditLog, *, own: OwnEvents, blinding_key: bytes
) -> None:
    """Opens the archive that the settings name, if any, and gives it to the log.

    Raises:
        Misconfigured: it cannot be used as the settings say.
        Unavailable: it does not answer.
    """
    if not settings.archive:
        return
    store = await open_store(settings.archive, settings, env)
    after_root = None
    if settings.archive_mirror:
        after_root = Mirror(store, await open_store(settings.archive_mirror, settings, env)).follow
    log.archive(
        store,
        blinding_key=blinding_key,
        journal=own.append,
        now=lambda: time.time_ns() // 1000,
        tool=f"nomos {version('nomos-authz-audit')}",
        grace_seconds=settings.archive_grace_seconds,
        after_root=after_root,
    )


async def open_store(url: str, settings: AuditSettings, env: Mapping[str, str]) -> Store:
    """The store at ``url``: a folder, or ``s3://bucket/prefix``.

    Raises:
        Misconfigured: it cannot be used as the settings say.
        Unavailable: it does not answer.
    """
    if "://" not in url:
        try:
            return FolderStore(Path(url))
        except OSError as error:
            raise Misconfigured(f"the archive folder cannot be used: {error.strerror}", cause=str(error)) from error
    from nomos_audit.store.s3 import S3Store, parse_place  # noqa: PLC0415 - boto3 takes a second to import

    return await S3Store.open(
        parse_place(
            url,
            endpoint=settings.archive_endpoint,
            region=settings.archive_region,
            access_key=secret("AUDIT_ARCHIVE_ACCESS_KEY", env),
            secret_key=secret("AUDIT_ARCHIVE_SECRET_KEY", env),
            lock=settings.archive_lock,
            development=settings.environment == "development",
        )
    )
