"""The archive's store: one list of cases for a folder and for a real S3 server; and what S3 alone can do."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError

from nomos.errors import Conflict, MalformedRecord, Misconfigured, NotFound, Unavailable
from nomos_audit.mirror import Mirror
from nomos_audit.store.folder import FolderStore
from nomos_audit.store.port import digest_of
from nomos_audit.store.s3 import EXPIRY_DAYS, RETENTION_DAYS, RULE_ID, S3Place, S3Store, parse_place, tls_context
from nomos_runtime.embedded.seaweed import EmbeddedSeaweed

ROOT = "roots/2026-11-22"
PART = "day=2026-11-22/part-000.parquet"


@pytest.fixture(scope="module")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedSeaweed]:
    server = EmbeddedSeaweed(tmp_path_factory.mktemp("weed"))
    server.start()
    yield server
    # What it holds is thrown away, and an orderly end takes it fifteen seconds.
    server.kill()


@pytest.fixture(scope="module")
def client(seaweed: EmbeddedSeaweed) -> Any:
    return boto3.client(
        "s3",
        endpoint_url=seaweed.endpoint,
        aws_access_key_id=seaweed.access_key,
        aws_secret_access_key=seaweed.secret_key,
        region_name="us-east-1",
    )


_numbers = iter(range(1_000))


def _place(seaweed: EmbeddedSeaweed, bucket: str, **more: Any) -> S3Place:
    made = {"prefix": "log", "access_key": seaweed.access_key, "secret_key": seaweed.secret_key, **more}
    return S3Place(bucket=bucket, endpoint=seaweed.endpoint, **made)


def _bucket(client: Any, *, lock: bool = False) -> str:
    name = f"bucket{next(_numbers)}"
    client.create_bucket(Bucket=name, ObjectLockEnabledForBucket=lock)
    return name


@pytest.fixture(params=["folder", "s3"])
async def store(request: pytest.FixtureRequest, seaweed: EmbeddedSeaweed, client: Any, tmp_path: Path) -> Any:
    if request.param == "folder":
        return FolderStore(tmp_path / "archive")
    return await S3Store.open(_place(seaweed, _bucket(client)))


async def test_an_object_is_written_once_and_the_same_bytes_again_are_no_error(store: Any) -> None:
    await store.put_new(ROOT, b"one", digest_of(b"one"))
    await store.put_new(ROOT, b"one", digest_of(b"one"))
    with pytest.raises(Conflict):
        await store.put_new(ROOT, b"two", digest_of(b"two"))
    assert await store.get(ROOT) == b"one"


async def test_of_many_writers_at_once_one_wins_and_nobody_overwrites(store: Any) -> None:
    contents = [bytes([n]) * 1_000 for n in range(8)]
    outcomes = await asyncio.gather(
        *(store.put_new(ROOT, one, digest_of(one)) for one in contents), return_exceptions=True
    )
    assert sum(one is None for one in outcomes) == 1
    assert all(one is None or isinstance(one, Conflict) for one in outcomes)
    assert await store.get(ROOT) == contents[[one is None for one in outcomes].index(True)]


async def test_a_file_goes_in_and_comes_back_as_it_was(store: Any, tmp_path: Path) -> None:
    path, again = tmp_path / "part", tmp_path / "again"
    path.write_bytes(bytes(range(256)) * 8_192)
    await store.put_new(PART, path, digest_of(path))
    await store.fetch(PART, again)
    assert again.read_bytes() == path.read_bytes()
    path.write_bytes(b"other")
    with pytest.raises(Conflict):
        await store.put_new(PART, path, digest_of(path))


async def test_what_is_stored_must_have_the_digest_that_was_computed(store: Any) -> None:
    with pytest.raises(Conflict):
        await store.put_new(ROOT, b"one", digest_of(b"two"))
    assert await store.names("") == []


async def test_only_the_index_is_ever_replaced(store: Any) -> None:
    await store.replace("log.json", b"{}")
    await store.replace("log.json", b"[]")
    assert await store.get("log.json") == b"[]"
    for name in (ROOT, PART, "tile/0/000"):
        with pytest.raises(MalformedRecord):
            await store.replace(name, b"x")
    with pytest.raises(MalformedRecord):
        await store.put_new("log.json", b"x", digest_of(b"x"))


@pytest.mark.parametrize("name", ["../roots/2026-11-22", "/etc/x", "roots/../x", "day=2026-11-22/x.exe", "", "roots"])
async def test_a_name_that_no_archive_has_is_refused(store: Any, name: str) -> None:
    with pytest.raises(MalformedRecord):
        await store.put_new(name, b"x", digest_of(b"x"))


async def test_what_is_not_there_is_not_found(store: Any, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        await store.get(ROOT)
    with pytest.raises(NotFound):
        await store.fetch(PART, tmp_path / "x")


async def test_names_are_listed_below_a_prefix_in_order(store: Any) -> None:
    for name in (PART, "tile/0/000", "roots/2026-11-23", ROOT):
        await store.put_new(name, b"x", digest_of(b"x"))
    assert await store.names("roots/") == [ROOT, "roots/2026-11-23"]
    assert await store.names("") == [PART, ROOT, "roots/2026-11-23", "tile/0/000"]


async def test_a_mirror_gets_every_root_it_has_not_and_nothing_else(store: Any, tmp_path: Path) -> None:
    mirror = FolderStore(tmp_path / "mirror")
    for name in (ROOT, f"{ROOT}.json", PART):
        await store.put_new(name, name.encode(), digest_of(name.encode()))
    await Mirror(store, mirror).follow("2026-11-22", b"")
    await Mirror(store, mirror).follow("2026-11-22", b"")
    assert await mirror.names("") == [ROOT, f"{ROOT}.json"]


# --- what S3 alone can do -------------------------------------------------------------------------------------------


async def test_a_locked_object_cannot_be_deleted_before_seven_years_are_over(
    seaweed: EmbeddedSeaweed, client: Any
) -> None:
    bucket = _bucket(client, lock=True)
    store = await S3Store.open(_place(seaweed, bucket, lock="required"))
    assert store.locks
    await store.put_new(ROOT, b"one", digest_of(b"one"))
    (version,) = client.list_object_versions(Bucket=bucket)["Versions"]
    found = client.get_object_retention(Bucket=bucket, Key=f"log/{ROOT}", VersionId=version["VersionId"])["Retention"]
    assert found["Mode"] == "COMPLIANCE"
    assert found["RetainUntilDate"] > datetime.now(UTC) + timedelta(days=7 * 365)
    with pytest.raises(ClientError):
        client.delete_object(
            Bucket=bucket, Key=f"log/{ROOT}", VersionId=version["VersionId"], BypassGovernanceRetention=True
        )
    assert await store.get(ROOT) == b"one"


async def test_a_bucket_without_lock_is_refused_where_a_lock_is_required(seaweed: EmbeddedSeaweed, client: Any) -> None:
    bucket = _bucket(client)
    with pytest.raises(Misconfigured, match="no Object Lock"):
        await S3Store.open(_place(seaweed, bucket, lock="required"))
    assert not (await S3Store.open(_place(seaweed, bucket, lock="off"))).locks


async def test_parts_expire_a_day_after_their_lock_and_other_rules_stay(seaweed: EmbeddedSeaweed, client: Any) -> None:
    bucket = _bucket(client)
    other = {"ID": "other", "Status": "Enabled", "Filter": {"Prefix": "elsewhere/"}, "Expiration": {"Days": 3}}
    client.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": [other]})
    store = await S3Store.open(_place(seaweed, bucket))
    await S3Store.open(_place(seaweed, bucket))
    rules = {rule["ID"]: rule for rule in await store.lifecycle()}
    assert set(rules) == {"other", RULE_ID}
    assert rules[RULE_ID]["Expiration"]["Days"] == EXPIRY_DAYS == RETENTION_DAYS + 1
    assert rules[RULE_ID]["Filter"]["Prefix"] == "log/day="


async def test_a_rule_that_would_expire_the_archive_early_is_refused(seaweed: EmbeddedSeaweed, client: Any) -> None:
    bucket = _bucket(client)
    early = {"ID": "early", "Status": "Enabled", "Filter": {"Prefix": "log/"}, "Expiration": {"Days": 30}}
    client.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": [early]})
    with pytest.raises(Misconfigured, match="after 30 days"):
        await S3Store.open(_place(seaweed, bucket))


async def test_a_wrong_key_or_bucket_is_told_as_a_setting_and_shows_no_secret(
    seaweed: EmbeddedSeaweed, client: Any
) -> None:
    bucket = _bucket(client)
    place = _place(seaweed, bucket, secret_key="w" * 40)
    with pytest.raises(Misconfigured) as found:
        await S3Store.open(place)
    assert "w" * 40 not in f"{found.value}{found.value.cause}{place!r}"
    with pytest.raises(Misconfigured):
        await S3Store.open(_place(seaweed, "no-such-bucket"))


async def test_a_store_that_does_not_answer_is_unavailable(seaweed: EmbeddedSeaweed) -> None:
    place = S3Place(bucket="b", endpoint="http://127.0.0.1:9", access_key="a", secret_key="b")
    with pytest.raises(Unavailable):
        await S3Store.open(place)


@pytest.mark.parametrize(
    ("url", "endpoint", "development"),
    [
        ("https://bucket", "", True),
        ("s3://", "", True),
        ("s3://user:word@bucket", "", True),
        ("s3://bucket?x=1", "", True),
        ("s3://bucket", "http://store.example.com", True),
        ("s3://bucket", "http://127.0.0.1:1", False),
        ("s3://bucket", "ftp://127.0.0.1", True),
    ],
)
def test_a_place_that_is_none_or_not_safe_is_refused(url: str, endpoint: str, development: bool) -> None:
    with pytest.raises(Misconfigured):
        parse_place(
            url, endpoint=endpoint, region="r", access_key="a", secret_key="b", lock="auto", development=development
        )


async def _tls_server(tmp_path: Path, newest: ssl.TLSVersion) -> AsyncIterator[int]:
    import datetime as dt

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    cert, private = tmp_path / "cert.pem", tmp_path / "key.pem"
    cert.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, private)
    context.maximum_version = newest

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def test_a_store_that_speaks_nothing_newer_than_tls_1_2_is_refused(tmp_path: Path) -> None:
    async for port in _tls_server(tmp_path, ssl.TLSVersion.TLSv1_2):
        place = S3Place(bucket="b", endpoint=f"https://127.0.0.1:{port}", access_key="a", secret_key="b")
        with pytest.raises(Unavailable) as found:
            await S3Store.open(place)
        assert "protocol" in str(found.value.cause).lower()
    assert tls_context().minimum_version is ssl.TLSVersion.TLSv1_3
