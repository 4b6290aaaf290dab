"""An archive in an S3-compatible store, through boto3.

Objects are written with ``If-None-Match: *``, so none is overwritten; what the store says of a digest is not believed,
a name that exists is read and compared. Where the bucket has Object Lock, immutable objects are locked in compliance
mode until :data:`RETENTION_DAYS` from now; parts expire one day later by a lifecycle rule, while roots and tiles stay
(they hold no personal data, and keep every later proof working). A store without Object Lock (Cloudflare R2) is told by
``lock=off`` and protected by its own lock rules.

Credentials come from the service's own secrets and nowhere else: no profile, no instance role, no ``~/.aws``. TLS 1.3
only, but for a store on loopback.

boto3 takes a second to import: this module is imported by an audit service that has such an archive, and by no other.
"""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Literal, ParamSpec, TypeVar
from urllib.parse import urlsplit

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.httpsession import URLLib3Session
from msgspec import Struct

from nomos.errors import Conflict, Misconfigured, NotFound, Unavailable
from nomos_audit.store.port import checked, digest_of

#: Seven years with their leap days.
RETENTION_DAYS: Final = 7 * 365 + 2
#: Expiry must come after the lock has ended.
EXPIRY_DAYS: Final = RETENTION_DAYS + 1
CONNECT_SECONDS: Final = 5
READ_SECONDS: Final = 60
ATTEMPTS: Final = 3
CONNECTIONS: Final = 8
#: Larger objects go in parts; S3 takes no single one above 5 GiB. Parts of the archive are far smaller.
OBJECT_BYTES_MAX: Final = 5 * 1024**3 - 1
RULE_ID: Final = "nomos-archive-parts"
_EXISTS: Final = frozenset({"PreconditionFailed", "412", "ConditionalRequestConflict", "409"})
_MISSING: Final = frozenset({"NoSuchKey", "404", "NotFound"})
_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})

Lock = Literal["auto", "required", "off"]
_P = ParamSpec("_P")
_R = TypeVar("_R")


class S3Place(Struct, frozen=True, kw_only=True):
    """Where an archive stands. ``repr`` shows no secret.

    Attributes:
        bucket: its name.
        prefix: before every name, without a slash at the end; may be empty.
        endpoint: ``https://…`` of the store; empty for AWS.
        region: of the bucket.
        access_key: id of the key.
        secret_key: the key.
        lock: ``required`` refuses a bucket without Object Lock, ``auto`` uses it where it is on, ``off`` sends no lock.
    """

    bucket: str
    prefix: str = ""
    endpoint: str = ""
    region: str = "us-east-1"
    access_key: str
    secret_key: str
    lock: Lock = "auto"

    def __repr__(self) -> str:
        return f"S3Place({self.bucket}/{self.prefix} at {self.endpoint or 'AWS'})"


def parse_place(
    url: str, *, endpoint: str, region: str, access_key: str, secret_key: str, lock: Lock, development: bool
) -> S3Place:
    """The place that ``s3://bucket/prefix`` names.

    Raises:
        Misconfigured: it is no such URL, or the endpoint is neither https nor on loopback in development.
    """
    parts = urlsplit(url)
    if parts.scheme != "s3" or not parts.netloc or parts.query or parts.fragment or "@" in parts.netloc:
        raise Misconfigured("an archive is a folder or s3://bucket/prefix")
    if endpoint:
        at = urlsplit(endpoint)
        is_local = development and at.scheme == "http" and at.hostname in _LOOPBACK
        if at.scheme != "https" and not is_local:
            raise Misconfigured("the store's endpoint must be https (http only on loopback in development)")
    return S3Place(
        bucket=parts.netloc,
        prefix=parts.path.strip("/"),
        endpoint=endpoint,
        region=region,
        access_key=access_key,
        secret_key=secret_key,
        lock=lock,
    )


class S3Store:
    """See :class:`nomos_audit.store.port.Store`. Build with :meth:`open`."""

    def __init__(self, client: Any, place: S3Place, *, locks: bool) -> None:
        self._client = client
        self._place = place
        self._root = f"{place.prefix}/" if place.prefix else ""
        self.name = f"s3:{place.bucket}"
        #: Whether objects are locked in compliance mode.
        self.locks = locks

    @classmethod
    async def open(cls, place: S3Place) -> S3Store:
        """Connects, finds out whether the bucket locks objects, and puts the lifecycle rule in place.

        Raises:
            Misconfigured: the lock is required and the bucket has none, or the key may not do what is needed.
            Unavailable: the store does not answer.
        """
        client = await asyncio.to_thread(_connect, place)
        store = cls(client, place, locks=False)
        store.locks = place.lock != "off" and await store._run(store._has_lock)
        if place.lock == "required" and not store.locks:
            raise Misconfigured(
                f"the bucket {place.bucket} has no Object Lock, and it is required",
                hint="make a bucket with Object Lock, or set archive_lock=off and use the store's own lock rules",
            )
        await store._run(store._ensure_lifecycle)
        return store

    async def put_new(self, name: str, content: Path | bytes, digest: str) -> None:
        """See :class:`nomos_audit.store.port.Store`."""
        await self._run(self._put_new, checked(name), content, digest)

    async def replace(self, name: str, content: bytes) -> None:
        """See :class:`nomos_audit.store.port.Store`."""
        key = self._root + checked(name, replaced=True)
        await self._run(self._client.put_object, Bucket=self._place.bucket, Key=key, Body=content, **_sum_of(content))

    async def get(self, name: str) -> bytes:
        """See :class:`nomos_audit.store.port.Store`."""
        return await self._run(self._get, name)

    async def fetch(self, name: str, path: Path) -> None:
        """See :class:`nomos_audit.store.port.Store`."""
        await self._run(self._client.download_file, self._place.bucket, self._root + name, str(path))

    async def names(self, prefix: str) -> list[str]:
        """See :class:`nomos_audit.store.port.Store`."""
        return await self._run(self._names, prefix)

    async def close(self) -> None:
        """Ends connections."""
        await asyncio.to_thread(self._client.close)

    async def lifecycle(self) -> list[dict[str, Any]]:
        """The bucket's lifecycle rules, for the doctor."""
        return await self._run(self._rules)

    async def _run(self, function: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return await asyncio.to_thread(function, *args, **kwargs)
        except ClientError as error:
            code = _code(error)
            if code in _MISSING:
                raise NotFound("the archive has no such object") from error
            if code in ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "NoSuchBucket", "403"):
                raise Misconfigured(f"the store refuses: {code}", hint="check bucket, key and policy") from error
            raise Unavailable(f"the store answers {code}", cause=repr(error)[:300]) from error
        except (BotoCoreError, OSError) as error:
            raise Unavailable("the store does not answer", cause=repr(error)[:300]) from error

    def _put_new(self, name: str, content: Path | bytes, digest: str) -> None:
        if digest_of(content) != digest:
            raise Conflict(f"{name} is not what was to be stored")
        key = self._root + name
        more: dict[str, Any] = {"ChecksumSHA256": base64.b64encode(bytes.fromhex(digest)).decode()}
        if self.locks:
            until = datetime.now(UTC) + timedelta(days=RETENTION_DAYS)
            more |= {"ObjectLockMode": "COMPLIANCE", "ObjectLockRetainUntilDate": until}
        try:
            if isinstance(content, bytes):
                self._client.put_object(Bucket=self._place.bucket, Key=key, Body=content, IfNoneMatch="*", **more)
            else:
                if content.stat().st_size > OBJECT_BYTES_MAX:
                    raise Conflict(f"{name} is larger than one object may be")
                with content.open("rb") as body:
                    self._client.put_object(Bucket=self._place.bucket, Key=key, Body=body, IfNoneMatch="*", **more)
        except ClientError as error:
            if _code(error) not in _EXISTS:
                raise
            if self._digest(key) != digest:
                raise Conflict(f"the archive has another object {name}") from error

    def _digest(self, key: str) -> str:
        with TemporaryDirectory(prefix="nomos-archive-") as folder:
            path = Path(folder) / "object"
            self._client.download_file(self._place.bucket, key, str(path))
            return digest_of(path)

    def _get(self, name: str) -> bytes:
        body: bytes = self._client.get_object(Bucket=self._place.bucket, Key=self._root + name)["Body"].read()
        return body

    def _names(self, prefix: str) -> list[str]:
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._place.bucket, Prefix=self._root + prefix
        )
        return sorted(one["Key"][len(self._root) :] for page in pages for one in page.get("Contents", ()))

    def _has_lock(self) -> bool:
        try:
            found = self._client.get_object_lock_configuration(Bucket=self._place.bucket)
        except ClientError as error:
            if _code(error) in ("ObjectLockConfigurationNotFoundError", "NotImplemented", "404", "501"):
                return False
            raise
        return bool(found.get("ObjectLockConfiguration", {}).get("ObjectLockEnabled") == "Enabled")

    def _rules(self) -> list[dict[str, Any]]:
        try:
            rules: list[dict[str, Any]] = self._client.get_bucket_lifecycle_configuration(Bucket=self._place.bucket)[
                "Rules"
            ]
        except ClientError as error:
            if _code(error) in ("NoSuchLifecycleConfiguration", "404", "NotImplemented"):
                return []
            raise
        return rules

    def _ensure_lifecycle(self) -> None:
        """Adds our rule beside those that are there; a rule of ours that expires earlier is never left in force."""
        prefix = f"{self._root}day="
        wanted = {
            "ID": RULE_ID,
            "Status": "Enabled",
            "Filter": {"Prefix": prefix},
            "Expiration": {"Days": EXPIRY_DAYS},
        }
        rules = self._rules()
        for rule in rules:
            mine = rule.get("Filter", {}).get("Prefix", rule.get("Prefix", ""))
            days = rule.get("Expiration", {}).get("Days")
            if rule.get("Status") == "Enabled" and days is not None and days < EXPIRY_DAYS and prefix.startswith(mine):
                raise Misconfigured(
                    f"a lifecycle rule of the bucket expires the archive after {days} days",
                    hint=f"remove the rule {rule.get('ID', '')!r} or give it another prefix",
                )
        if any(rule.get("ID") == RULE_ID for rule in rules):
            return
        self._client.put_bucket_lifecycle_configuration(
            Bucket=self._place.bucket, LifecycleConfiguration={"Rules": [*rules, wanted]}
        )


def _code(error: Any) -> str:
    return str(error.response.get("Error", {}).get("Code", "unknown"))


def _sum_of(content: bytes) -> dict[str, str]:
    return {"ChecksumSHA256": base64.b64encode(bytes.fromhex(digest_of(content))).decode()}


def tls_context() -> ssl.SSLContext:
    """TLS 1.3 and nothing older, with the system's certificate authorities."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    return context


class Tls13Session(URLLib3Session):  # type: ignore[misc]  # botocore has no types
    """botocore's own session with our context: it has no setting for the oldest version of TLS."""

    def _get_ssl_context(self) -> ssl.SSLContext:
        return tls_context()


def _connect(place: S3Place) -> Any:
    session = boto3.session.Session(
        aws_access_key_id=place.access_key, aws_secret_access_key=place.secret_key, region_name=place.region
    )
    client = session.client(
        "s3",
        endpoint_url=place.endpoint or None,
        config=Config(
            connect_timeout=CONNECT_SECONDS,
            read_timeout=READ_SECONDS,
            retries={"total_max_attempts": ATTEMPTS, "mode": "standard"},
            max_pool_connections=CONNECTIONS,
            proxies={},
            s3={"addressing_style": "path" if place.endpoint else "auto"},
        ),
    )
    if not place.endpoint.startswith("http://"):
        client._endpoint.http_session = Tls13Session(
            timeout=(CONNECT_SECONDS, READ_SECONDS), max_pool_connections=CONNECTIONS, proxies={}
        )
    return client
