"""From settings to an archive: which store, which mirror, with which credentials."""

from __future__ import annotations

import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Final

from cryptography.x509 import Certificate

from nomos.errors import Malformed, Misconfigured
from nomos.log.timestamps import parse_roots
from nomos.log.trust import parse_trust
from nomos_audit.log import AuditLog
from nomos_audit.mirror import Mirror
from nomos_audit.own import OwnEvents
from nomos_audit.settings import AuditSettings
from nomos_audit.stamping import AUTHORITIES_MAX, Authority, Stamper
from nomos_audit.store.folder import FolderStore
from nomos_audit.store.port import Store
from nomos_runtime.settings import secret

#: A segment of the chain holds many blocks.
ROLL_BYTES_MIN: Final = 16 * 1024 * 1024


def checked(settings: AuditSettings) -> AuditSettings:
    """The settings, if they make sense together.

    Raises:
        Misconfigured: more than one chain; segments that are too short; a mirror or time stamps without an archive;
            too many authorities.
    """
    if settings.chains != 1:
        raise Misconfigured(
            f"chains is {settings.chains}, and this version writes one",
            hint="docs/adr/0012 says how a deployment splits",
        )
    if settings.chain_roll_bytes < ROLL_BYTES_MIN or settings.chain_keep_days < 0:
        raise Misconfigured(f"chain_roll_bytes is at least {ROLL_BYTES_MIN:,}, and chain_keep_days 0 or more")
    if settings.archive_mirror and not settings.archive:
        raise Misconfigured("archive_mirror without archive: there are no roots to mirror")
    authorities = authorities_of(settings)
    if authorities and not settings.archive:
        raise Misconfigured("archive_tsa without archive: there are no roots to stamp")
    if len(authorities) > AUTHORITIES_MAX or len(set(authorities)) != len(authorities):
        raise Misconfigured(f"archive_tsa names at most {AUTHORITIES_MAX} authorities, each once")
    return settings


def authorities_of(settings: AuditSettings) -> list[str]:
    """The URLs of ``archive_tsa``."""
    return settings.archive_tsa.replace(",", " ").split()


def ask_witnesses(settings: AuditSettings, log: AuditLog) -> None:
    """Has the witnesses that the settings name asked, if any.

    Raises:
        Misconfigured: the policy cannot be read, or a witness cannot be asked.
    """
    if not settings.witnesses:
        return
    try:
        policy = parse_trust(Path(settings.witnesses).read_bytes())
    except OSError as error:
        raise Misconfigured(f"the policy of witnesses cannot be read: {error.strerror}", cause=str(error)) from error
    except Malformed as error:
        raise Misconfigured(f"the policy of witnesses: {error.detail}") from error
    development = settings.environment == "development"
    log.witness(policy, wait_seconds=settings.witness_wait_seconds, development=development)


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
    stamper = _stamper(store, settings)
    log.archive(
        store,
        blinding_key=blinding_key,
        journal=own.append,
        now=lambda: time.time_ns() // 1000,
        tool=f"nomos {version('nomos-authz-audit')}",
        grace_seconds=settings.archive_grace_seconds,
        stamp=None if stamper is None else stamper.follow,
        after_root=after_root,
    )


def _stamper(store: Store, settings: AuditSettings) -> Stamper | None:
    urls = authorities_of(settings)
    if not urls:
        return None
    roots: list[Certificate] = []
    if settings.archive_tsa_roots:
        try:
            roots = parse_roots(Path(settings.archive_tsa_roots).read_bytes())
        except OSError as error:
            raise Misconfigured(f"archive_tsa_roots cannot be read: {error.strerror}", cause=str(error)) from error
        except Malformed as error:
            raise Misconfigured(f"archive_tsa_roots is {error.detail}", cause=error.cause) from error
    development = settings.environment == "development"
    return Stamper(store, [Authority(url, roots=roots, development=development) for url in urls])


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
