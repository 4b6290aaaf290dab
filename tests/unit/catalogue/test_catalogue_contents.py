"""Contents in requests: what names them, where they stand, and that nothing else stands there."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomos.catalogue import OutgoingRequest, build_request, derive_resource, load_catalogue, parse_connector
from nomos.contents import BYTES, CONTENT_BYTES_MAX, Content, named_by
from nomos.errors import LimitExceeded, Malformed, MalformedCatalogue, Misconfigured, NotCovered
from nomos.uploading import Upload, separated

from .demo import HEAD

CATALOGUE = load_catalogue(Path(__file__).parents[3] / "connectors")
GITHUB = CATALOGUE.connectors["github"]
PUT = CATALOGUE.action("github:contents.put")
REPO = CATALOGUE.parse_resource("github:repo/acme/site")
S3 = CATALOGUE.connectors["aws-s3"]
OBJECT = CATALOGUE.action("aws-s3:objects.put")
BUCKET = CATALOGUE.parse_resource("aws-s3:bucket/reports")


def put(upload: Upload, data: bytes | None = None) -> OutgoingRequest:
    args, _ = separated({"path": "a.png", "message": "add", "upload": upload})
    return build_request(PUT, REPO, args, upload.data if data is None else data)


def stored(upload: Upload) -> OutgoingRequest:
    return build_request(OBJECT, BUCKET, {"key": "a.png", "upload": upload.content.arg}, upload.data)


@given(st.binary(max_size=200))
def test_a_content_stands_in_json_in_base64_or_is_the_body_itself(data: bytes) -> None:
    upload = Upload(data, "image/png")
    in_json = put(upload)
    assert json.loads(in_json.body or b"") == {"content": base64.b64encode(data).decode(), "message": "add"}
    assert (in_json.content_type, in_json.is_complete) == ("application/json", True)
    assert derive_resource(GITHUB, PUT, in_json) == REPO
    raw = stored(upload)
    assert (raw.body, raw.content_type, raw.content) == (data, "image/png", upload.content)
    assert derive_resource(S3, OBJECT, raw) == BUCKET


def test_without_its_bytes_a_request_is_not_complete_and_acts_on_the_same() -> None:
    upload = Upload(b"some bytes")
    args, _ = separated({"path": "a.png", "message": "add", "upload": upload})
    awaited = build_request(PUT, REPO, args)
    assert (awaited.is_complete, awaited.content) == (False, upload.content)
    assert derive_resource(GITHUB, PUT, awaited) == REPO
    raw = build_request(OBJECT, BUCKET, {"key": "a.png", "upload": upload.content.arg})
    assert (raw.is_complete, raw.body) == (False, b"")
    with pytest.raises(NotCovered):
        derive_resource(S3, OBJECT, msgspec.structs.replace(raw, body=b"some bytes"))


def test_other_bytes_than_the_named_ones_are_refused_in_both_directions() -> None:
    upload = Upload(b"some bytes")
    for other in (b"", b"some byte", b"some bytes!", b"some bytez"):
        with pytest.raises(NotCovered):
            put(upload, other)
        with pytest.raises(NotCovered):
            derive_resource(S3, OBJECT, msgspec.structs.replace(stored(upload), body=other))
        written = (put(upload).body or b"").replace(base64.b64encode(upload.data), base64.b64encode(other))
        with pytest.raises(NotCovered):
            derive_resource(GITHUB, PUT, msgspec.structs.replace(put(upload), body=written))


def test_a_second_spelling_of_base64_is_refused() -> None:
    request = put(Upload(b"x"))
    assert b'"eA=="' in (request.body or b"")
    for spelling in (b'"eB=="', b'"eA="', b'"eA==\\n"', b"7", b"null"):
        with pytest.raises(NotCovered):
            body = (request.body or b"").replace(b'"eA=="', spelling)
            derive_resource(GITHUB, PUT, msgspec.structs.replace(request, body=body))


def test_bytes_that_no_argument_names_are_refused() -> None:
    with pytest.raises(NotCovered):
        build_request(PUT, REPO, {"path": "a", "message": "m", "content": "eA=="}, b"x")
    with pytest.raises(NotCovered):
        build_request(CATALOGUE.action("github:repos.get"), REPO, {}, b"x")


def test_a_content_takes_the_place_of_its_argument_and_one_of_both_is_needed() -> None:
    upload = Upload(b"x").content.arg
    with pytest.raises(Malformed, match="takes one of content and upload"):
        build_request(PUT, REPO, {"path": "a", "message": "m", "content": "eA==", "upload": upload})
    with pytest.raises(Malformed, match="needs the argument content"):
        build_request(PUT, REPO, {"path": "a", "message": "m"})


def test_a_request_is_not_taken_for_one_with_a_content_nor_the_other_way_round() -> None:
    plain = build_request(OBJECT, BUCKET, {"key": "a.txt", "text": "x"})
    assert derive_resource(S3, OBJECT, plain) == BUCKET
    as_content = stored(Upload(b"x", "text/plain; charset=utf-8"))
    assert (as_content.body, as_content.content_type) == (plain.body, plain.content_type)
    other = Upload(b"y").content
    for changed in (
        msgspec.structs.replace(plain, content=other),
        msgspec.structs.replace(plain, content_type="image/png"),
        msgspec.structs.replace(stored(Upload(b"x")), content=None),
    ):
        with pytest.raises(NotCovered):
            derive_resource(S3, OBJECT, changed)
    comment = CATALOGUE.action("github:comments.update")
    required = {one.name: 7 if one.type == "integer" else "x" for one in comment.parameters if one.required}
    request = build_request(comment, REPO, required)
    with pytest.raises(NotCovered):
        derive_resource(GITHUB, comment, msgspec.structs.replace(request, content=other))


@pytest.mark.parametrize(
    ("value", "match"),
    [
        (None, "named by"),
        ({}, "named by"),
        ({"sha256": "0" * 64, "bytes": 1}, "named by"),
        ({"sha256": "0" * 64, "bytes": 1, "type": BYTES, "name": "x"}, "named by"),
        ({"sha256": "A" * 64, "bytes": 1, "type": BYTES}, "64 lower-case"),
        ({"sha256": 0, "bytes": 1, "type": BYTES}, "64 lower-case"),
        ({"sha256": "0" * 64, "bytes": True, "type": BYTES}, "a number"),
        ({"sha256": "0" * 64, "bytes": -1, "type": BYTES}, "a number"),
        ({"sha256": "0" * 64, "bytes": 1, "type": "image"}, "media type"),
        ({"sha256": "0" * 64, "bytes": 1, "type": "Image/PNG"}, "media type"),
        ({"sha256": "0" * 64, "bytes": 1, "type": "image/png\n"}, "media type"),
        ({"sha256": "0" * 64, "bytes": 1, "type": "text/html; charset=utf-16"}, "media type"),
        ({"sha256": "0" * 64, "bytes": 1, "type": "multipart/form-data; boundary=x"}, "media type"),
    ],
)
def test_what_names_no_content_is_refused(value: object, match: str) -> None:
    with pytest.raises(Malformed, match=match):
        named_by(value)


@given(
    st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.dictionaries(st.text(), inner))
)
def test_any_value_names_a_content_or_is_malformed(value: object) -> None:
    try:
        content = named_by(value)
    except Malformed:
        return
    assert content.arg == value


def test_a_content_is_bound_to_its_length_and_type() -> None:
    too_long = Content(sha256="0" * 64, size=CONTENT_BYTES_MAX + 1, media_type=BYTES)
    with pytest.raises(LimitExceeded):
        build_request(OBJECT, BUCKET, {"key": "a", "upload": too_long.arg})
    with pytest.raises(LimitExceeded):
        Upload(bytes(CONTENT_BYTES_MAX + 1))
    images = parse_connector(with_action("encoding: raw, max_length: 10, enum: [image/png]", "content"))
    action = images.actions["demo:things.put"]
    thing = images.resource_types["thing"].resource(("a",))
    assert build_request(action, thing, {"upload": Upload(b"x", "image/png").content.arg}, b"x").body == b"x"
    with pytest.raises(Malformed, match="must be of the type image/png"):
        build_request(action, thing, {"upload": Upload(b"x", "image/gif").content.arg}, b"x")


def test_an_upload_is_made_of_a_file_and_says_what_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"\x89PNG")
    upload = Upload.of_file(path)
    assert upload.content.arg == {"sha256": hashlib.sha256(b"\x89PNG").hexdigest(), "bytes": 4, "type": "image/png"}
    assert Upload.of_file(path, "image/gif").content.media_type == "image/gif"
    assert "PNG" not in repr(upload)
    odd = tmp_path / "a.unknown-ending"
    odd.write_bytes(b"")
    assert Upload.of_file(odd).content.media_type == BYTES
    with pytest.raises(Misconfigured, match="cannot be read"):
        Upload.of_file(tmp_path / "none")
    with pytest.raises(Malformed):
        Upload(b"", "no type")
    with odd.open("wb") as file:
        file.truncate(CONTENT_BYTES_MAX + 1)
    with pytest.raises(LimitExceeded):
        Upload.of_file(odd)


# --- in a connector's file ----------------------------------------------------------------------------------------
def with_action(upload: str, body: str, others: str = "", wire: str = '".", required: true') -> bytes:
    wired = f"wire: {wire}, " if wire else ""
    return f"""
{HEAD}actions:
  things.put:
    title: Put
    method: PUT
    path: /things/{{thing}}
    risk: write
    resource: thing
    body: {body}
    parameters:
      upload: {{where: body, type: content, {wired}{upload}}}
{others}
""".encode()


TEXT = '      text: {where: body, wire: ".", required: true}'
MEMBER = "      text: {where: body}"
NUMBER = "      text: {where: body, type: integer}"


@pytest.mark.parametrize(
    ("upload", "body", "others", "wire"),
    [
        ("max_length: 10", "content", "", '".", required: true'),
        ("encoding: base64, max_length: 10", "json", "", "data"),
        ("encoding: base64, max_length: 10", "json", MEMBER, "data, required: true"),
        ("instead_of: text, max_length: 10", "text", TEXT, ""),
        ("instead_of: text, encoding: base64, max_length: 10", "json", MEMBER, ""),
        ("instead_of: text, max_length: 10", "json", TEXT.replace("required", "type: json, required"), ""),
    ],
)
def test_a_content_stands_alone_in_json_or_in_place_of_another(upload: str, body: str, others: str, wire: str) -> None:
    action = parse_connector(with_action(upload, body, others, wire)).actions["demo:things.put"]
    assert action.content is not None


@pytest.mark.parametrize(
    ("upload", "body", "others", "wire"),
    [
        ("max_length: 10", "content", "", '"."'),  # a raw one is required
        ("max_length: 10", "json", "", '".", required: true'),
        ("max_length: 10", "text", "", '".", required: true'),
        ("max_length: 10", "content", "", "data, required: true"),
        ("max_length: 10", "content", MEMBER, '".", required: true'),
        ("max_length: 8388609", "content", "", '".", required: true'),
        ('max_length: 10, pattern: "x"', "content", "", '".", required: true'),
        ("encoding: base64, max_length: 10", "content", "", '".", required: true'),
        ("encoding: base64, max_length: 10", "form", "", "data"),
        ("encoding: base64, max_length: 10", "json", "", '".", required: true'),
        ("instead_of: nothing, max_length: 10", "text", TEXT, ""),
        ("instead_of: text, required: true, max_length: 10", "text", TEXT, ""),
        ("instead_of: text, max_length: 10", "json", MEMBER, ""),  # raw bytes beside members
        (
            "instead_of: text, encoding: base64, max_length: 10",
            "json",
            NUMBER,
            "",
        ),
        ("max_length: 10", "content", "      more: {where: body, type: content}", '".", required: true'),
        ("max_length: 10", "content", "      text: {where: query, encoding: base64}", '".", required: true'),
        ("max_length: 10", "content", "      text: {where: query, instead_of: upload}", '".", required: true'),
    ],
)
def test_a_content_that_could_not_stand_where_it_should_is_refused(
    upload: str, body: str, others: str, wire: str
) -> None:
    with pytest.raises(MalformedCatalogue, match=r"content|is there instead of|stands alone"):
        parse_connector(with_action(upload, body, others, wire))


def test_a_body_that_is_a_content_needs_one() -> None:
    plain = (
        HEAD
        + """\
actions:
  things.put: {title: Put, method: PUT, path: "/{thing}", risk: write, resource: thing, body: content}
"""
    )
    with pytest.raises(MalformedCatalogue, match="has an argument of that type"):
        parse_connector(plain.encode())


@pytest.mark.parametrize("whole", ["type: json", "type: content"])
def test_who_may_write_the_whole_body_is_not_told_apart_by_what_stands_in_a_body(whole: str) -> None:
    body = "content" if "content" in whole else "json"
    file = f"""
{HEAD}actions:
  things.any:
    {{title: A, method: POST, path: "/{{thing}}", risk: write, resource: thing, body: {body},
     parameters: {{all: {{where: body, wire: ".", {whole}, required: true, max_length: 99}}}}}}
  things.end:
    {{title: B, method: POST, path: "/{{thing}}", risk: destructive, resource: thing, fixed: {{body: {{end: true}}}}}}
"""
    with pytest.raises(MalformedCatalogue, match="can both match one path"):
        parse_connector(file.encode())
