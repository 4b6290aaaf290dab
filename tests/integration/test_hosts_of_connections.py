"""Connections with a host and a way of their own: any HTTP API, and AWS, whose signatures a real S3 server checks."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
from collections.abc import Iterator
from typing import Any

import boto3
import orjson
import pytest
from botocore.config import Config

from nomos.agent import Allowed, Denied, StepUpRequired, Upload
from nomos.bearer import seal_bearer
from nomos.errors import Malformed, MalformedCatalogue, NotCovered, UnknownResource
from nomos_runtime.embedded.seaweed import EmbeddedSeaweed

POLICY = """
@id("tickets") permit (principal, action in [Action::"connector:http"], resource == Http::Site::"api.tickets.example");
@id("other") permit (principal, action in [Action::"connector:http"], resource == Http::Site::"api.other.example");
@id("s3") permit (principal, action in [Action::"connector:aws-s3"], resource);
"""
SITE = "http:site/api.tickets.example"
ISSUES = {"path": "repos/acme/site/issues"}


async def add(scene: Any, tenant: str, credential: str = "", **params: str) -> Any:
    key = str((await scene.operator.ask("proxy", "sealing-key", tenant))["public_key"])
    given = {"connector": "http", "name": "http", "base_url": scene.upstream.origin} | params
    sealed = seal_bearer(key, credential or scene.bearer)
    return await scene.operator.ask("proxy", "connection-add", tenant, sealed_bearer=sealed, **given)


async def test_an_api_without_a_connector_is_called_at_the_host_of_its_connection(scene: Any) -> None:
    tenant = await scene.tenant(policy=POLICY, connection=False)
    bot = await scene.agent(tenant)
    await add(scene, tenant, host="api.tickets.example")
    scene.upstream.seen.clear()
    done = await bot.agent.call("http:requests.get", SITE, {**ISSUES, "query": {"state": "open", "page.size": "5"}})
    assert isinstance(done, Allowed)
    assert done.status == 200
    (seen,) = scene.upstream.seen
    assert (seen.method, seen.path, seen.query) == ("GET", "/repos/acme/site/issues", "page.size=5&state=open")
    posted = await bot.agent.call("http:requests.post", SITE, {**ISSUES, "json": {"title": "Down", "labels": ["x"]}})
    assert isinstance(posted, Allowed)
    assert orjson.loads(scene.upstream.seen[-1].body) == {"labels": ["x"], "title": "Down"}
    assert isinstance(await bot.agent.call("http:requests.delete", SITE, {"path": "repos/acme/site"}), StepUpRequired)
    (shown,) = (await scene.operator.ask("proxy", "connection-list", tenant))["connections"]
    assert (shown["host"], shown.get("auth")) == ("api.tickets.example", None)


async def test_a_call_for_one_host_does_not_go_to_another_one_s_connection(scene: Any) -> None:
    """The policy was asked about one host; the connection that is named goes to another."""
    tenant = await scene.tenant(policy=POLICY, connection=False)
    bot = await scene.agent(tenant)
    await add(scene, tenant, host="api.tickets.example")
    scene.upstream.seen.clear()
    with pytest.raises(NotCovered, match="another host"):
        await bot.agent.call("http:requests.get", "http:site/api.other.example", ISSUES)
    assert isinstance(await bot.agent.call("http:requests.get", "http:site/api.third.example", ISSUES), Denied)
    with pytest.raises(UnknownResource):
        await bot.agent.call("http:requests.get", "http:site/API.tickets.example", ISSUES)
    assert not scene.upstream.seen
    refused = [e.event["code"] for e in await scene.events(tenant, "request.refused")]
    assert "not_covered" in refused


@pytest.mark.parametrize(
    ("auth", "credential", "header", "value"),
    [
        ("header:x-api-key", "k3y-k3y-k3y", "x-api-key", "k3y-k3y-k3y"),
        ("header:authorization:Token", "t0k-t0k-t0k", "", ""),
        ("basic", "ada:passw0rd-1", "", ""),
    ],
)
async def test_a_connection_says_how_its_credential_is_presented(
    scene: Any, auth: str, credential: str, header: str, value: str
) -> None:
    tenant = await scene.tenant(policy=POLICY, connection=False)
    bot = await scene.agent(tenant)
    await add(scene, tenant, credential, host="api.tickets.example", auth=auth)
    scene.upstream.seen.clear()
    await bot.agent.call("http:requests.get", SITE, ISSUES)
    (seen,) = scene.upstream.seen
    assert seen.headers.get(header, "") == value
    (shown,) = (await scene.operator.ask("proxy", "connection-list", tenant))["connections"]
    assert shown["auth"] == auth


async def test_a_request_is_signed_and_the_secret_stays(scene: Any) -> None:
    tenant = await scene.tenant(policy=POLICY, connection=False)
    bot = await scene.agent(tenant)
    secret = "s1gn-" + "x" * 20
    await add(scene, tenant, f"our-key:{secret}", host="api.tickets.example", auth="signature")
    scene.upstream.seen.clear()
    await bot.agent.call("http:requests.post", SITE, {**ISSUES, "json": {"title": "Down"}})
    (seen,) = scene.upstream.seen
    signed = seen.headers["signature-input"].removeprefix("nomos=")
    digest = base64.b64encode(hashlib.sha256(seen.body).digest()).decode()
    assert seen.headers["content-digest"] == f"sha-256=:{digest}:"
    base = "\n".join([
        '"@method": POST', f'"@authority": {seen.headers["host"]}', f'"@path": {seen.path}', f'"@query": ?{seen.query}',
        f'"content-digest": {seen.headers["content-digest"]}', f'"@signature-params": {signed}',
    ])  # fmt: skip
    wanted = base64.b64encode(hmac.digest(secret.encode(), base.encode(), hashlib.sha256)).decode()
    assert seen.headers["signature"] == f"nomos=:{wanted}:"
    assert secret not in str(seen.headers)


@pytest.mark.parametrize(
    ("params", "kind", "says"),
    [
        ({}, Malformed, "a host of its own"),
        ({"host": "localhost"}, Malformed, "a host of its own"),
        ({"host": "127.0.0.1"}, Malformed, "a host of its own"),
        ({"host": "api.tickets.example:8443"}, Malformed, "a host of its own"),
        ({"host": "API.tickets.example"}, Malformed, "a host of its own"),
        ({"host": "api.tickets.example", "auth": "digest"}, MalformedCatalogue, "expected bearer, basic"),
        ({"host": "api.tickets.example", "auth": "header:cookie"}, MalformedCatalogue, "may not stand"),
        ({"connector": "github", "host": "github.example.com"}, Malformed, "is at api.github.com"),
        ({"connector": "github", "auth": "basic"}, Malformed, "says itself"),
        ({"connector": "aws-s3", "host": "s3.evil.example"}, Malformed, "a host of its own"),
        ({"connector": "aws-s3", "host": "s3.eu-central-1.amazonaws.com.evil.example"}, Malformed, "a host of its own"),
    ],
)
async def test_a_host_or_a_way_that_the_connector_does_not_leave_open_is_refused(
    scene: Any, params: dict[str, str], kind: type[Exception], says: str
) -> None:
    tenant = await scene.tenant(policy=POLICY, connection=False)
    with pytest.raises(kind, match=says):
        await add(scene, tenant, **params)
    assert (await scene.operator.ask("proxy", "connection-list", tenant))["connections"] == []


# --- AWS ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A real S3 server, with the bucket ``reports``."""
    seaweed = EmbeddedSeaweed(tmp_path_factory.mktemp("weed"))
    seaweed.start()
    client = boto3.client(
        "s3", endpoint_url=seaweed.endpoint, aws_access_key_id=seaweed.access_key, region_name="us-east-1",
        aws_secret_access_key=seaweed.secret_key, config=Config(s3={"addressing_style": "path"}),
    )  # fmt: skip
    client.create_bucket(Bucket="reports")
    for key in ("2026/november.csv", "a b/ü~1.txt"):
        client.put_object(Bucket="reports", Key=key, Body=b"month,total\nnovember,42\n", ContentType="text/plain")
    yield seaweed, client
    seaweed.stop()


async def s3(scene: Any, store: Any, secret: str = "") -> tuple[str, Any]:
    seaweed, _ = store
    tenant = await scene.tenant(policy=POLICY, connection=False)
    await add(
        scene, tenant, f"{seaweed.access_key}:{secret or seaweed.secret_key}", connector="aws-s3", name="aws-s3",
        host="s3.eu-central-1.amazonaws.com", base_url=seaweed.endpoint,
    )  # fmt: skip
    return tenant, await scene.agent(tenant)


@pytest.mark.parametrize("key", ["2026/november.csv", "a b/ü~1.txt"])
async def test_an_s3_server_takes_our_signatures(scene: Any, store: Any, key: str) -> None:
    _, bot = await s3(scene, store)
    done = await bot.agent.call("aws-s3:objects.get", "aws-s3:bucket/reports", {"key": key})
    assert isinstance(done, Allowed)
    assert (done.status, done.body) == (200, b"month,total\nnovember,42\n")
    listed = await bot.agent.call("aws-s3:objects.list", "aws-s3:bucket/reports", {"prefix": "a b/", "max_keys": 5})
    assert isinstance(listed, Allowed)
    assert listed.status == 200
    assert b"<Key>a b/" in listed.body


IMAGE = os.urandom(2_000_001)


@pytest.mark.parametrize(
    ("args", "data", "media_type"),
    [
        ({"text": "fünf\n"}, "fünf\n".encode(), "text/plain; charset=utf-8"),
        ({"upload": Upload(IMAGE, "image/png")}, IMAGE, "image/png"),
    ],
    ids=["text", "upload"],
)
async def test_an_object_is_replaced_once_a_person_has_approved_it(
    scene: Any, store: Any, args: dict[str, object], data: bytes, media_type: str
) -> None:
    tenant, bot = await s3(scene, store)
    _, passkey = await scene.approver(tenant)
    put = ("aws-s3:objects.put", "aws-s3:bucket/reports", {"key": "new", **args})
    wait = await bot.agent.call(*put)
    assert isinstance(wait, StepUpRequired)
    await scene.approve(tenant, wait.approval, passkey)
    done = await bot.agent.call(*put, cosigner=await bot.agent.wait_for(wait, 10))
    assert isinstance(done, Allowed)
    assert done.status == 200
    stored = store[1].get_object(Bucket="reports", Key="new")
    assert (stored["Body"].read(), stored["ContentType"]) == (data, media_type)


async def test_a_wrong_secret_is_refused_by_the_server(scene: Any, store: Any) -> None:
    _, bot = await s3(scene, store, "x" * 40)
    done = await bot.agent.call("aws-s3:objects.get", "aws-s3:bucket/reports", {"key": "2026/november.csv"})
    assert isinstance(done, Allowed)
    assert done.status == 403
    assert b"SignatureDoesNotMatch" in done.body
