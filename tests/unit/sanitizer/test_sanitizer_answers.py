"""Whole answers: media types, encodings of characters, lines of JSON, header fields, real answers that are clean."""

from __future__ import annotations

import base64
import json
import random
from pathlib import Path

import pytest

from nomos.errors import ResponseRefused
from nomos_sanitizer.domain import Sanitizer
from nomos_sanitizer.limits import BODY_BYTES_MAX, HEADER_BYTES_MAX, HEADERS_MAX

from .conftest import Clean

ANSWERS = sorted((Path(__file__).parents[2] / "fixtures" / "sanitizer" / "github").iterdir())


@pytest.mark.parametrize("path", ANSWERS, ids=lambda path: path.stem)
def test_real_answer_without_secrets_keeps_its_meaning(path: Path, sanitizer: Sanitizer) -> None:
    body = path.read_bytes()
    for content_type in ("application/json; charset=utf-8", "text/html; charset=utf-8"):
        result = sanitizer.sanitize(
            body, content_type=content_type, headers=(("ETag", '"abc"'),), credentials=[b"an-unrelated-token"]
        )
        assert result.report.is_clean
        if path.suffix == ".json":
            assert json.loads(result.body, object_pairs_hook=list) == json.loads(body, object_pairs_hook=list)
        else:
            assert result.body == body


@pytest.mark.parametrize(
    "text",
    [
        "Set GITHUB_TOKEN to a personal access token (ghp_...) before you run it.",
        "password: see section 4 of the manual",
        'const apiKey = process.env.API_KEY || ""; // your API key',
        "The key begins with -----BEGIN PRIVATE KEY----- and ends with -----END PRIVATE KEY-----.",
        "commit 6dcb09b5b57875f334f61aebed695e2e4193db5e, sha256 " + "0123456789abcdef" * 4,
        "id 7f9c24e8-3b12-4fef-91e0-5b2c7d5a4b1e at 2026-11-22T10:00:00Z, 100 % of 5 & 6, C:\\new\\table\\x41",
        "https://user@example.com:8443/path?token_type=bearer&page=2#frag",
        "Authorization: Bearer <token>",
        "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==",
        "risk-based, task-oriented desk-work; ask-me-anything-about-the-quarterly-report-please",
    ],
)
def test_text_that_only_talks_about_secrets_is_unchanged(text: str, clean_text: Clean, clean_json: Clean) -> None:
    assert clean_text(text).body.decode() == text
    assert clean_text(text).report.is_clean
    assert json.loads(clean_json({"note": text}).body) == {"note": text}


@pytest.mark.parametrize("seed", [5, 8])
def test_large_binary_in_base64_is_unchanged(seed: int, clean_json: Clean) -> None:
    # With these seeds the base64 text itself holds, by chance, the beginnings of tokens that have no separator.
    content = base64.b64encode(random.Random(seed).randbytes(6 * 1024 * 1024 - 100)).decode()
    result = clean_json({"encoding": "base64", "content": content}, b"an-unrelated-token")
    assert result.report.is_clean
    assert json.loads(result.body)["content"] == content


def test_json_is_recognised_whatever_the_header_says(clean_text: Clean) -> None:
    body = b' {"password":"correct horse"}'
    types = ("", "text/plain", "application/octet-stream", "application/vnd.api+json", "application/x-amz-json-1.0")
    for content_type in types:
        assert clean_text(body, content_type=content_type).body == b'{"password":"[redacted:named-secret]"}'


def test_each_line_of_json_lines_is_read_as_json(clean_text: Clean) -> None:
    body = b'{"a":1}\n{"password":"p 1"}\nplain\n{"token":"t 2"}'
    result = clean_text(body, content_type="application/x-ndjson")
    assert result.body == (
        b'{"a":1}\n{"password":"[redacted:named-secret]"}\nplain\n{"token":"[redacted:named-secret]"}'
    )
    assert [r.where for r in result.report.removed] == ["line:2/password", "line:4/token"]


def test_events_of_a_complete_stream_are_read_as_json(clean_text: Clean, github_token: str) -> None:
    body = f'event: x\ndata: {{"password":"p 1"}}\n\ndata: {github_token}\n\n'.encode()
    result = clean_text(body, content_type="text/event-stream")
    assert result.body == (
        b'event: x\ndata: {"password":"[redacted:named-secret]"}\n\ndata: [redacted:github-token]\n\n'
    )


def test_record_separated_json_is_read_as_json(clean_text: Clean) -> None:
    result = clean_text(b'\x1e{"password":"p 1"}\n', content_type="application/json-seq")
    assert result.body == b'\x1e{"password":"[redacted:named-secret]"}\n'


def test_byte_order_mark_does_not_hide_json(clean_json: Clean) -> None:
    assert clean_json(b'\xef\xbb\xbf{"password":"p 1"}').body == b'{"password":"[redacted:named-secret]"}'


def test_other_encodings_of_characters_are_kept(clean_text: Clean, github_token: str) -> None:
    text = f"caf\u00e9 {github_token} \u00fc"
    for charset in ("iso-8859-1", "windows-1252"):
        result = clean_text(text.encode(charset), content_type=f'text/plain; charset="{charset}"')
        assert result.body.decode(charset) == "caf\u00e9 [redacted:github-token] \u00fc"
    body = '{"password":"x1","a":"\u00e9\U0001f600"}'.encode("latin-1", "backslashreplace").replace(b"\\U0001f600", b"")
    assert clean_text(body, content_type="application/json; charset=latin1").body.isascii()


def test_utf16_read_as_utf8_hides_nothing(clean_text: Clean, github_token: str) -> None:
    assert github_token.encode() not in clean_text(f"x {github_token}".encode("utf-16-le")).body.replace(b"\0", b"")


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"\xff\xfe\x00", "text/plain"),
        (b"\x89PNG\r\n\x1a\n\xff", "image/png"),
        (b"abc\xc3", "application/json"),
        (b"abc\x81", "text/plain; charset=windows-1252"),
        (b"abc", "text/plain; charset=utf-16"),
        (b"abc", "text/plain; charset=utf-7"),
        (b"a" * (BODY_BYTES_MAX + 1), "text/plain"),
    ],
    ids=["not utf-8", "image", "cut", "undefined byte", "utf-16", "utf-7", "too large"],
)
def test_answer_that_cannot_be_read_is_refused(body: bytes, content_type: str, clean_text: Clean) -> None:
    with pytest.raises(ResponseRefused):
        clean_text(body, content_type=content_type)


def fields(sanitizer: Sanitizer, *headers: tuple[str, str], body: bytes = b"") -> tuple[tuple[str, str], ...]:
    return sanitizer.sanitize(body, content_type="", headers=headers, credentials=[b"injected-credential"]).headers


def test_cookies_and_authorization_fields_are_redacted_by_name(sanitizer: Sanitizer) -> None:
    for name in ("Set-Cookie", "cookie", "Authorization", "Proxy-Authorization", "X-Api-Key", "X-Auth-Token"):
        assert fields(sanitizer, (name, "a=b")) == ((name, "[redacted:named-secret]"),)


def test_secret_in_a_redirect_is_redacted(sanitizer: Sanitizer, github_token: str) -> None:
    ((_, value),) = fields(sanitizer, ("Location", f"https://example.com/?t={github_token}&u=1"))
    assert value == "https://example.com/?t=[redacted:github-token]&u=1"


def test_field_whose_name_holds_a_secret_is_dropped(sanitizer: Sanitizer, github_token: str) -> None:
    assert fields(sanitizer, (github_token, "1"), ("X-injected-credential", "1"), ("ETag", "x")) == (("ETag", "x"),)


def test_fields_about_the_old_bytes_are_dropped_only_if_the_body_changed(sanitizer: Sanitizer) -> None:
    about = (("Content-Length", "9"), ("Digest", "x"), ("ETag", "y"))
    assert fields(sanitizer, *about, body=b'{"a":1}') == about
    assert fields(sanitizer, *about, body=b'{"password":"x1"}') == (("ETag", "y"),)


def test_answer_in_a_content_encoding_is_refused(sanitizer: Sanitizer) -> None:
    assert fields(sanitizer, ("Content-Encoding", "identity"))
    with pytest.raises(ResponseRefused):
        fields(sanitizer, ("content-encoding", "gzip"))


def test_too_many_or_too_long_header_fields_are_refused(sanitizer: Sanitizer) -> None:
    with pytest.raises(ResponseRefused):
        fields(sanitizer, *[("a", "b")] * (HEADERS_MAX + 1))
    with pytest.raises(ResponseRefused):
        fields(sanitizer, ("a", "b" * HEADER_BYTES_MAX))
