"""Requests that are signed: the vector of RFC 9421, an independent reading of what is sent, and AWS signatures."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re

import pytest

from nomos.catalogue import Auth, OutgoingRequest
from nomos.catalogue.auth import auth_text, aws_auth, parse_auth
from nomos.errors import DestinationRefused, MalformedCatalogue
from nomos_proxy.headers import check_credential, outgoing_headers
from nomos_proxy.signing import region_of, signature_base
from nomos_runtime.secret import Secret

#: RFC 9421, appendix B.1.5 and B.2.5.
SHARED_SECRET = "uzvJfB4u3N0Jy4T7NZ75MDVcr8zSTInedJtkgcu46YW4XByzNJjxBdtjUkdJPBtbmHhIDi6pcl8jsasjlTMtDQ=="
SIGNATURE = parse_auth("signature")
AWS = aws_auth("sqs")
KEY = "AKIDEXAMPLE:wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
QUEUE = OutgoingRequest(
    method="POST", path="/123456789012/jobs", body=b"Action=SendMessage&MessageBody=hi",
    content_type="application/x-www-form-urlencoded",
)  # fmt: skip


def test_the_base_is_signed_as_the_rfc_signs_it() -> None:
    covered = {
        "date": "Tue, 20 Apr 2021 02:07:55 GMT", "@authority": "example.com", "content-type": "application/json",
    }  # fmt: skip
    parameters = '("date" "@authority" "content-type");created=1618884473;keyid="test-shared-secret"'
    base = signature_base(covered, parameters)
    made = hmac.digest(base64.b64decode(SHARED_SECRET), base, hashlib.sha256)
    assert base64.b64encode(made) == b"pxcQw6G3AjtMBQjwo8XzkZf/bws5LelbaMk5rGIGtE8="


@pytest.mark.parametrize("body", [None, b'{"a":1}', b""])
@pytest.mark.parametrize("query", [(), (("page", "2"), ("q", "a b&c"))])
def test_a_signature_covers_method_authority_path_query_and_body(
    body: bytes | None, query: tuple[tuple[str, str], ...]
) -> None:
    request = OutgoingRequest(method="POST" if body is not None else "GET", path="/v1/x%20y", query=query, body=body)
    sent = dict(outgoing_headers("api.example.com", Secret(b'key"1:shhh-secret'), SIGNATURE, request, ()))
    assert b"shhh" not in b"".join(sent.values())
    assert b"authorization" not in sent
    found = re.fullmatch(
        rb'nomos=(\((?P<names>[^)]*)\);created=\d+;keyid="key\\"1";alg="hmac-sha256")', sent[b"signature-input"]
    )
    assert found
    names = found["names"].decode().replace('"', "").split()
    assert names == ["@method", "@authority", "@path", "@query", *(["content-digest"] if body is not None else [])]
    # as a verifier would read it from the wire
    target, _, raw_query = request.target.partition("?")
    seen = {"@method": request.method, "@authority": "api.example.com", "@path": target, "@query": "?" + raw_query}
    if body is not None:
        digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
        seen["content-digest"] = sent[b"content-digest"].decode()
        assert seen["content-digest"] == f"sha-256=:{digest}:"
    lines = [f'"{name}": {seen[name]}' for name in names] + [f'"@signature-params": {found[1].decode()}']
    wanted = base64.b64encode(hmac.digest(b"shhh-secret", "\n".join(lines).encode(), hashlib.sha256))
    assert sent[b"signature"] == b"nomos=:" + wanted + b":"


def test_a_signature_covers_the_headers_that_are_the_actions_own() -> None:
    request = OutgoingRequest(method="GET", path="/v1/x", headers=(("x-demo-target", "Demo.Note"),))
    sent = dict(outgoing_headers("api.example.com", Secret(b"key:shhh-secret"), SIGNATURE, request, ()))
    assert sent[b"x-demo-target"] == b"Demo.Note"
    parameters = sent[b"signature-input"].removeprefix(b"nomos=").decode()
    assert parameters.startswith('("@method" "@authority" "@path" "@query" "x-demo-target");')
    lines = [
        '"@method": GET',
        '"@authority": api.example.com',
        '"@path": /v1/x',
        '"@query": ?',
        '"x-demo-target": Demo.Note',
    ]
    base = "\n".join([*lines, f'"@signature-params": {parameters}']).encode()
    assert sent[b"signature"] == b"nomos=:" + base64.b64encode(hmac.digest(b"shhh-secret", base, hashlib.sha256)) + b":"


def test_aws_is_told_the_operation_in_a_header_that_is_signed() -> None:
    """Computed here from the description of Signature Version 4, without botocore."""
    body, target = b'{"TableName":"orders"}', "DynamoDB_20120810.DescribeTable"
    request = OutgoingRequest(
        method="POST", path="/", body=body, content_type="application/x-amz-json-1.0",
        headers=(("x-amz-target", target),),
    )  # fmt: skip
    authority = "dynamodb.eu-central-1.amazonaws.com"
    sent = outgoing_headers(authority, Secret(KEY.encode()), aws_auth("dynamodb"), request, (("user-agent", "nomos"),))
    headers = dict(sent)
    assert len(headers) == len(sent)
    assert (headers[b"x-amz-target"], headers[b"content-type"]) == (target.encode(), b"application/x-amz-json-1.0")
    signed = "content-type;host;x-amz-date;x-amz-target"
    assert f"SignedHeaders={signed}, ".encode() in headers[b"authorization"], "and user-agent is not"
    stamp, secret = headers[b"x-amz-date"].decode(), KEY.partition(":")[2]
    canonical = "\n".join([
        "POST", "/", "", "content-type:application/x-amz-json-1.0", f"host:{authority}", f"x-amz-date:{stamp}",
        f"x-amz-target:{target}", "", signed, hashlib.sha256(body).hexdigest(),
    ])  # fmt: skip
    scope = f"{stamp[:8]}/eu-central-1/dynamodb/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key = f"AWS4{secret}".encode()
    for part in (stamp[:8], "eu-central-1", "dynamodb", "aws4_request"):
        key = hmac.digest(key, part.encode(), hashlib.sha256)
    assert headers[b"authorization"].endswith(hmac.digest(key, text.encode(), hashlib.sha256).hex().encode())


@pytest.mark.parametrize(
    "header",
    [("authorization", "x"), ("host", "evil.example"), ("content-length", "0"), ("x-amz-date", "x"), ("accept", "b"),
     ("X-Amz-Target", "x"), ("x-amz-target", "a\r\nhost: evil.example"), ("x-amz-target", "")],
)  # fmt: skip
def test_a_header_of_an_action_that_is_the_proxys_own_is_not_sent_whatever_the_catalogue_says(
    header: tuple[str, str],
) -> None:
    request = OutgoingRequest(method="GET", path="/", headers=(header,))
    with pytest.raises(DestinationRefused):
        outgoing_headers("api.example.com", Secret(KEY.encode()), AWS, request, (("accept", "a"),))


def test_a_request_to_aws_is_signed_for_its_service_and_region_and_carries_no_secret() -> None:
    sent = outgoing_headers("sqs.eu-central-1.amazonaws.com", Secret(KEY.encode()), AWS, QUEUE, ())
    headers = dict(sent)
    assert len(headers) == len(sent)
    assert re.fullmatch(
        rb"AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/\d{8}/eu-central-1/sqs/aws4_request, "
        rb"SignedHeaders=content-type;host;x-amz-date, Signature=[0-9a-f]{64}",
        headers[b"authorization"],
    )
    assert re.fullmatch(rb"\d{8}T\d{6}Z", headers[b"x-amz-date"])
    assert b"wJalr" not in b"".join(headers.values())
    assert b"x-amz-security-token" not in headers


def test_the_signature_is_the_one_that_the_algorithm_gives() -> None:
    """Computed here from the description of Signature Version 4, without botocore."""
    headers = dict(outgoing_headers("sqs.eu-central-1.amazonaws.com", Secret(KEY.encode()), AWS, QUEUE, ()))
    stamp, secret = headers[b"x-amz-date"].decode(), KEY.partition(":")[2]
    day, scope = stamp[:8], f"{stamp[:8]}/eu-central-1/sqs/aws4_request"
    assert QUEUE.body is not None
    canonical = "\n".join([
        "POST", "/123456789012/jobs", "", "content-type:application/x-www-form-urlencoded",
        "host:sqs.eu-central-1.amazonaws.com", f"x-amz-date:{stamp}", "", "content-type;host;x-amz-date",
        hashlib.sha256(QUEUE.body).hexdigest(),
    ])  # fmt: skip
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    key = f"AWS4{secret}".encode()
    for part in (day, "eu-central-1", "sqs", "aws4_request"):
        key = hmac.digest(key, part.encode(), hashlib.sha256)
    assert headers[b"authorization"].endswith(hmac.digest(key, text.encode(), hashlib.sha256).hex().encode())


def test_a_session_token_is_sent_and_signed() -> None:
    sent = dict(
        outgoing_headers("s3.eu-west-1.amazonaws.com", Secret(f"{KEY}:tok+en/==".encode()), aws_auth("s3"), QUEUE, ())
    )
    assert sent[b"x-amz-security-token"] == b"tok+en/=="
    assert b"x-amz-security-token" in sent[b"authorization"].partition(b"SignedHeaders=")[2]
    assert sent[b"x-amz-content-sha256"] == hashlib.sha256(QUEUE.body or b"").hexdigest().encode()


@pytest.mark.parametrize(
    ("authority", "region"),
    [
        ("s3.eu-central-1.amazonaws.com", "eu-central-1"),
        ("s3.cn-north-1.amazonaws.com.cn", "cn-north-1"),
        ("sts.amazonaws.com", "us-east-1"),
        ("127.0.0.1:8333", "us-east-1"),
        ("s3.eu-central-1.amazonaws.com.evil.example", "us-east-1"),
    ],
)
def test_the_region_is_read_from_the_host(authority: str, region: str) -> None:
    assert region_of(authority) == region


@pytest.mark.parametrize("text", ["bearer", "basic", "signature", "header:x-api-key", "header:authorization:Token",
                                  "aws4:s3"])  # fmt: skip
def test_how_a_credential_is_presented_is_read_back(text: str) -> None:
    assert auth_text(parse_auth(text)) == text


@pytest.mark.parametrize(
    "text",
    ["", "Bearer", "digest", "header", "header:", "header:X-Key", "header:cookie", "header:host", "header:signature",
     "header:x-amz-date", "header:x-key:two words", "header:x-key:a\r\nb", "aws4", "aws4:", "aws4:S3", "basic:x"],
)  # fmt: skip
def test_what_says_no_way_is_refused(text: str) -> None:
    with pytest.raises(MalformedCatalogue):
        parse_auth(text)


@pytest.mark.parametrize("auth", [SIGNATURE, AWS, Auth(kind="basic", prefix="Basic ")])
@pytest.mark.parametrize("credential", [b"", b"no-colon", b":secret", b"id:", b"id:a b", b"id:a\r\nb", b"i\xff:secret"])
def test_a_credential_that_is_no_pair_is_refused(auth: Auth, credential: bytes) -> None:
    with pytest.raises(DestinationRefused):
        check_credential(auth, Secret(credential))
