"""Headers and media types that are an action's own, and members that are named by a field: what a file may say."""

from __future__ import annotations

import pytest

from nomos.catalogue import parse_connector
from nomos.errors import LimitExceeded, MalformedCatalogue

from .demo import HEAD

JSON_RPC = """
connector: demo
title: Demo
scheme: https
host: api.demo.example
port: 443
auth: {header: x-api-version}
headers: {accept: application/json}
resource_types:
  thing: {cedar: "Demo::Thing", fields: {thing: "[a-z]+"}}
actions:
  things.note:
    {title: N, method: POST, path: /, risk: write, resource: thing, derive: {thing: {body: a.thing}},
     idempotency_header: x-key-version, content_type: application/x-amz-json-1.1,
     fixed: {headers: {x-amz-target: Demo.Note}}}
"""
FIXED = "{x-amz-target: Demo.Note}"


def test_an_action_has_headers_and_a_media_type_of_its_own() -> None:
    action = parse_connector(JSON_RPC.encode()).actions["demo:things.note"]
    assert action.fixed_headers == (("x-amz-target", "Demo.Note"),)
    assert action.content_type == "application/x-amz-json-1.1"
    several = JSON_RPC.replace(FIXED, "{x-goog-api-version: v1 beta, prefer: 'return=minimal', accept-language: en}")
    assert len(parse_connector(several.encode()).actions["demo:things.note"].fixed_headers) == 3


@pytest.mark.parametrize(
    ("headers", "says"),
    [
        ("{authorization: x}", "written by the proxy itself"),
        ("{Authorization: x}", "written by the proxy itself"),
        ("{host: evil.example}", "written by the proxy itself"),
        ("{content-length: '0'}", "written by the proxy itself"),
        ("{content-type: text/plain}", "written by the proxy itself"),
        ("{transfer-encoding: chunked}", "written by the proxy itself"),
        ("{connection: close}", "written by the proxy itself"),
        ("{cookie: a}", "written by the proxy itself"),
        ("{proxy-version: a}", "written by the proxy itself"),
        ("{x-amz-date: a}", "written by the proxy itself"),
        ("{x-amz-security-token: a}", "written by the proxy itself"),
        ("{x-amz-copy-source: bucket/key}", "written by the proxy itself"),
        ("{x-amz-api-version: a}", "written by the proxy itself"),
        ("{x-forwarded-host: evil.example}", "written by the proxy itself"),
        ("{x-anything: a}", "none that an action may fix"),
        ("{X-Demo-Target: a}", "none that an action may fix"),
        ("{range: bytes=0-1}", "none that an action may fix"),
        ("{if-match: a}", "none that an action may fix"),
        ("{target: a}", "none that an action may fix"),
        ("{':authority-version': a}", "none that an action may fix"),
        ("{accept: text/plain}", "stands once"),
        ("{x-api-version: a}", "stands once"),
        ("{x-key-version: a}", "stands once"),
        ('{x-amz-target: ""}', "1 to 128 letters"),
        ('{x-amz-target: "a\\r\\nhost: evil.example"}', "1 to 128 letters"),
        ('{x-amz-target: " a"}', "1 to 128 letters"),
        ('{x-amz-target: "{thing}"}', "1 to 128 letters"),
        ("{x-amz-target: é}", "1 to 128 letters"),
        (f"{{x-amz-target: {'a' * 129}}}", "1 to 128 letters"),
        ("{x-amz-target: 7}", "Expected `str`"),
        ("{x-amz-target: {parameter: note}}", "Expected `str`"),
    ],
)
def test_a_header_that_an_action_may_not_fix_is_refused_with_its_reason(headers: str, says: str) -> None:
    with pytest.raises(MalformedCatalogue, match=says):
        parse_connector(JSON_RPC.replace(FIXED, headers).encode())


def test_an_action_fixes_few_headers() -> None:
    many = ", ".join(f"x-a{number}-version: a" for number in range(5))
    with pytest.raises(LimitExceeded, match="action_headers_max"):
        parse_connector(JSON_RPC.replace(FIXED, f"{{{many}}}").encode())


@pytest.mark.parametrize(
    ("replace", "by"),
    [
        ("content_type: application/x-amz-json-1.1", "content_type: text/plain"),
        ("content_type: application/x-amz-json-1.1", "content_type: application/xml"),
        ("content_type: application/x-amz-json-1.1", 'content_type: "application/json; charset=x"'),
        ("content_type: application/x-amz-json-1.1", "body: form, content_type: application/x-amz-json-1.1"),
        ("content_type: application/x-amz-json-1.1", "body: form, content_type: application/demo+json"),
    ],
)
def test_a_media_type_that_is_none_of_json_is_refused(replace: str, by: str) -> None:
    with pytest.raises(MalformedCatalogue, match="content_type is"):
        parse_connector(JSON_RPC.replace(replace, by).encode())


@pytest.mark.parametrize(
    ("header", "is_apart"),
    [("x-amz-target: Demo.Other", True), ("x-demo-target: Demo.Note", True), ("x-amz-target: Demo.Note", False),
     ("x-amz-target: Demo.Note, accept-language: en", False)],
)  # fmt: skip
def test_a_header_tells_two_actions_apart_unless_it_chooses_among_forms_of_one_answer(
    header: str, is_apart: bool
) -> None:
    second = JSON_RPC.partition("things.note:")[2].replace(FIXED, f"{{{header}}}")
    both = f"{JSON_RPC}  things.other:{second}".encode()
    if is_apart:
        assert len(parse_connector(both).actions) == 2
    else:
        with pytest.raises(MalformedCatalogue, match="can both match"):
            parse_connector(both)


NAMED = (
    HEAD
    + """\
actions:
  things.note:
    {title: N, method: POST, path: /, risk: write, resource: thing, derive: {thing: {body: "of.{thing}"}},
     fixed: {body: {"of.{thing}.kind": note}},
     parameters: {text: {where: body, wire: "of.{thing}.text"}, other: {where: body}}}
"""
)


@pytest.mark.parametrize(
    ("replace", "by"),
    [
        ('body: "of.{thing}"', 'body: "{thing}"'),
        ('body: "of.{thing}"', 'body: "of.{things}"'),
        ('body: "of.{thing}"', 'body: "of.{thing}.id"'),
        ('body: "of.{thing}"', "body: of"),
        ('wire: "of.{thing}.text"', "wire: of.text"),
        ('wire: "of.{thing}.text"', "wire: of"),
        ('wire: "of.{thing}.text"', 'wire: "of.{other}.text"'),
        ('wire: "of.{thing}.text"', 'wire: "to.{thing}.text"'),
        ('wire: "of.{thing}.text"', 'wire: "of.{thing}"'),
        ('wire: "of.{thing}.text"', 'wire: "of.{thing}.{thing}"'),
        ('wire: "of.{thing}.text"', 'wire: "of.{thing}.kind"'),
        ('wire: "of.{thing}.text"', 'wire: "of.{thing}.kind.x"'),
        ("risk: write, ", "risk: write, body: form, "),
        ("other: {where: body}", "other: {where: body, wire: of.other}"),
    ],
)
def test_a_member_that_is_named_by_a_field_has_nothing_beside_it(replace: str, by: str) -> None:
    assert parse_connector(NAMED.encode()).actions["demo:things.note"].sources[0].name == "of.{thing}"
    assert replace in NAMED
    with pytest.raises(MalformedCatalogue):
        parse_connector(NAMED.replace(replace, by, 1).encode())
