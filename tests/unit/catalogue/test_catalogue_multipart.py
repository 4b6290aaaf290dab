"""Bodies with a file beside other fields: one spelling, read back by us and by another reader."""

from __future__ import annotations

import email
from email import policy

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomos.catalogue import OutgoingRequest, build_request, derive_resource, parse_connector
from nomos.catalogue.multipart import FilePart, read_multipart, write_multipart
from nomos.errors import Malformed, MalformedCatalogue, NomosError, NotCovered
from nomos.uploading import Upload

from .demo import HEAD

FILE = (
    HEAD
    + """\
actions:
  files.add:
    title: Add
    method: POST
    path: /files
    risk: write
    resource: thing
    derive: {thing: {body: thing}}
    body: multipart
    parameters:
      upload: {where: body, wire: data, type: content, encoding: part, required: true, max_length: 100000}
      filename: {where: body, required: true}
      note: {where: body, max_length: 1000}
"""
)
DEMO = parse_connector(FILE.encode())
ADD = DEMO.actions["demo:files.add"]
THING = DEMO.resource_types["thing"].resource(("a",))

_texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30)
_lines = st.sampled_from([b"\r\n", b"--", b"nomos-", b"\r\n\r\n", b"--\r\n", b'filename="x"', b"a"])
_bytes = st.binary(max_size=40) | st.lists(_lines, max_size=8).map(b"".join)


def made(data: bytes, *, note: str = "", filename: str = "a.bin", media_type: str = "image/png") -> OutgoingRequest:
    upload = Upload(data, media_type)
    args = {"upload": upload.content.arg, "filename": filename, **({"note": note} if note else {})}
    return build_request(ADD, THING, args, data)


@given(_bytes, _texts)
def test_what_is_written_is_read_back_by_us_and_by_another_reader(data: bytes, note: str) -> None:
    request = made(data, note=note)
    assert derive_resource(DEMO, ADD, request) == THING
    head = f"content-type: {request.content_type}\r\n\r\n".encode()
    message = email.message_from_bytes(head + (request.body or b""), policy=policy.HTTP)
    *fields, file = message.iter_parts()
    told = {part["content-disposition"].params["name"]: part for part in fields}
    assert set(told) == {"thing"} | ({"note"} if note else set())
    assert told["thing"].get_payload(decode=True) == b"a"
    if note and "\r" not in note and "\n" not in note:  # that reader makes line feeds of other line breaks
        assert told["note"].get_payload(decode=True) == note.encode()
    assert (file.get_filename(), file.get_content_type()) == ("a.bin", "image/png")


@given(_bytes, st.lists(st.tuples(st.sampled_from(["a", "b"]), _texts), max_size=3))
def test_fields_and_bytes_come_back_whatever_they_hold(data: bytes, fields: list[tuple[str, str]]) -> None:
    upload = Upload(data)
    file = FilePart(name="data", filename="fünf.bin", content=upload.content)
    content_type, body = write_multipart(fields, file, data)
    assert read_multipart(content_type, body, upload.content) == (fields, file, data)
    assert len(content_type.partition("boundary=")[2]) <= 70


def test_a_boundary_that_stands_in_a_field_or_in_the_file_is_another_one() -> None:
    """Who writes the boundary of a body into it has made another body, with another boundary."""
    data = b"bytes"
    for _ in range(3):
        boundary = made(data).content_type.partition("boundary=")[2]
        part = f'\r\n--{boundary}\r\nContent-Disposition: form-data; name="thing"\r\n\r\nb'
        for request in (made(data, note=part), made(data + part.encode())):
            assert boundary not in request.content_type
            assert derive_resource(DEMO, ADD, request) == THING
        data += part.encode()


@pytest.mark.parametrize("filename", ["", 'a"b', "a\\b", "a/b", "a\r\nb", "a\x00b", "a\x85b", "x" * 256])
def test_a_name_that_could_be_more_than_one_is_refused(filename: str) -> None:
    with pytest.raises(NomosError):
        made(b"x", filename=filename)
    with pytest.raises(Malformed):
        write_multipart([], FilePart(name="f", filename=filename, content=Upload(b"x").content), b"x")


def _changes(request: OutgoingRequest) -> list[tuple[str, bytes]]:
    body, content_type = request.body or b"", request.content_type
    line = b"--" + content_type.partition("boundary=")[2].encode()
    begin, thing, file = line + b"\r\n", b'name="thing"', b'name="data"'
    _, first, second = body.split(begin)
    return [
        (content_type, b""),
        (content_type, body[:-2]),
        (content_type, body + b"epilogue"),
        (content_type, b"preamble\r\n" + body),
        (content_type, body.replace(begin, b"--other\r\n")),
        (content_type.replace("nomos-", "other-"), body.replace(b"nomos-", b"other-")),
        (content_type + "0", body.replace(line, line + b"0")),
        (content_type, body.replace(begin, line + b"\n")),
        (content_type, begin + second.removesuffix(b"\r\n" + line + b"--\r\n")),
        (content_type, begin + first + begin + first + begin + second),
        (content_type, body.replace(thing, b'name="other"')),
        (content_type, body.replace(thing, b'name="data"')),
        (content_type, body.replace(file, b'name="other"')),
        (content_type, body.replace(b'filename="a.bin"', b"filename=\"a.bin\"; filename*=UTF-8''b")),
        (content_type, body.replace(b"image/png", b"text/html")),
        (content_type, body.replace(b"Content-Type: image/png", b"Content-Type: image/png\r\nX-More: 1")),
        (content_type, body.replace(b"\r\n\r\na\r\n", b"\r\n\r\nb\r\n")),
        (content_type, body.replace(b"\r\n\r\na\r\n", b"\r\n\r\n\xff\r\n")),
        (content_type, body.replace(b"bytes", b"other")),
        ("multipart/form-data", body),
        ("application/json", b"{}"),
    ]


def test_a_body_in_any_other_spelling_is_not_of_the_action() -> None:
    request = made(b"bytes")
    for content_type, body in _changes(request):
        assert (content_type, body) != (request.content_type, request.body)
        with pytest.raises(NotCovered):
            derive_resource(DEMO, ADD, msgspec.structs.replace(request, content_type=content_type, body=body))
    with pytest.raises(NotCovered):
        derive_resource(DEMO, ADD, msgspec.structs.replace(request, content=None))


def test_a_name_of_the_file_stands_with_the_file_alone() -> None:
    upload = Upload(b"x")
    file = FilePart(name="data", filename="a", content=upload.content)
    for fields, is_of_the_action in (([("thing", "a")], True), ([("filename", "b"), ("thing", "a")], False)):
        content_type, body = write_multipart(fields, file, b"x")
        request = msgspec.structs.replace(made(b"x"), content=upload.content, content_type=content_type, body=body)
        if is_of_the_action:
            assert derive_resource(DEMO, ADD, request) == THING
            continue
        with pytest.raises(NotCovered):
            derive_resource(DEMO, ADD, request)


@pytest.mark.parametrize(
    ("other", "is_apart"),
    [
        ("parameters: {note: {where: body}}", True),  # without a file
        ("body: form, parameters: {note: {where: body}}", True),
        ('parameters: {all: {where: body, wire: ".", type: json, required: true}}', False),
        ("content_type: application/merge-patch+json, fixed: {body: {end: true}}", True),
    ],
)
def test_a_form_is_told_apart_by_its_file_and_not_by_its_media_type(other: str, is_apart: bool) -> None:
    shape = "title: B, method: POST, path: /files, risk: write, resource: thing, derive: {thing: {constant: a}}"
    action = f"  files.end: {{{shape}, {other}}}\n"
    if is_apart:
        parse_connector((FILE + action).encode())
        return
    with pytest.raises(MalformedCatalogue, match="can both match one path"):
        parse_connector((FILE + action).encode())


def test_bodies_of_two_media_types_are_one_action_where_nothing_else_tells_them_apart() -> None:
    head = FILE[: FILE.index("actions:")]
    shape = "method: POST, path: /files, risk: write, resource: thing, derive: {thing: {constant: a}}"
    one = f"  a.one: {{title: A, {shape}, parameters: {{note: {{where: body}}}}}}\n"
    for body in ("body: form", "content_type: application/merge-patch+json"):
        other = f"  a.other: {{title: B, {shape}, {body}, parameters: {{note: {{where: body}}}}}}\n"
        with pytest.raises(MalformedCatalogue, match="can both match one path"):
            parse_connector(f"{head}actions:\n{one}{other}".encode())


@given(st.binary(max_size=80))
def test_any_bytes_are_read_or_malformed(body: bytes) -> None:
    for sent in (body, b"--b\r\n" + body + b"\r\n--b--\r\n"):
        with pytest.raises(Malformed):
            read_multipart("multipart/form-data; boundary=b", sent, Upload(b"x").content)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("filename: {where: body, required: true}", "filename: {where: body}"),
        ("filename: {where: body, required: true}", "name: {where: body, required: true}"),
        ("filename: {where: body, required: true}", "filename: {where: body, required: true, type: json}"),
        ("note: {where: body, max_length: 1000}", "note: {where: body, type: integer}"),
        ("note: {where: body, max_length: 1000}", "note: {where: body, wire: data}"),
        ("wire: data, type", 'wire: "data[0", type'),
        ("wire: data, type", 'wire: ".", type'),
        ("encoding: part, required: true", "encoding: part"),
        ("encoding: part", "encoding: base64"),
        ("body: multipart", "body: json"),
        ("body: multipart", "body: multipart\n    json_part: data"),
        ("body: multipart", 'body: multipart\n    json_part: "a b"'),
        ("body: multipart", "body: multipart\n    fixed: {body: {mode: 1}}"),
        ("type: content, encoding: part, required: true, max_length: 100000", "max_length: 10"),
    ],
)
def test_a_multipart_body_that_could_not_be_written_is_refused(old: str, new: str) -> None:
    assert old in FILE
    with pytest.raises(MalformedCatalogue):
        parse_connector(FILE.replace(old, new).encode())


def test_a_part_of_json_stands_only_in_a_multipart_body() -> None:
    plain = "".join(line for line in FILE.splitlines(keepends=True) if "upload:" not in line)
    parse_connector(plain.replace("body: multipart", "body: json").encode())
    with pytest.raises(MalformedCatalogue, match="only a multipart body"):
        parse_connector(plain.replace("body: multipart", "body: json\n    json_part: more").encode())


def test_members_stand_as_json_where_the_file_says_so() -> None:
    connector = parse_connector(
        FILE.replace("body: multipart", "body: multipart\n    json_part: more")
        .replace("note: {where: body, max_length: 1000}", "note: {where: body, wire: about.note, type: integer}")
        .encode()
    )
    action = connector.actions["demo:files.add"]
    upload = Upload(b"x")
    thing = connector.resource_types["thing"].resource(("a",))
    request = build_request(action, thing, {"upload": upload.content.arg, "filename": "a", "note": 7}, b"x")
    assert b'name="more"\r\n\r\n{"about":{"note":7},"thing":"a"}\r\n' in (request.body or b"")
    assert derive_resource(connector, action, request) == thing
    for changed in (
        b'{"about":{"note":7},"thing":"b"}', b'{"about":{"note":7}, "thing":"a"}', b"[]", b'{"x":1}',
        b'{"about":{"note":7},"filename":"a","thing":"a"}',
    ):  # fmt: skip
        file = FilePart(name="data", filename="a", content=upload.content)
        content_type, body = write_multipart([("more", changed.decode())], file, b"x")
        other = msgspec.structs.replace(request, content_type=content_type, body=body)
        if changed == b'{"about":{"note":7},"thing":"b"}':
            assert derive_resource(connector, action, other).values == ("b",)
            continue
        with pytest.raises(NotCovered):
            derive_resource(connector, action, other)
