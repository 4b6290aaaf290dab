"""JSON: what is redacted by structure, and what must come through as it was."""

from __future__ import annotations

import base64
import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomos_sanitizer.domain import Sanitizer
from nomos_sanitizer.limits import JSON_DEPTH_MAX
from nomos_sanitizer.structure import NotJson, names_secret, parse

from .conftest import Clean

NAMED = "[redacted:named-secret]"


SECRET_NAMES = """client_secret clientSecret access_token refresh-token id.token password db_password Passwd set-cookie
    Set-Cookie cookie authorization Proxy-Authorization private_key privateKeyPem token api_key x-api-key APIKEY secret
    webhook_secret passphrase connectionString temp_clone_token recovery_codes aws_secret_access_key SecretAccessKey"""
HARMLESS_NAMES = """next_page_token tokens token_type key public_key keys_url secretary authorizations_url tokenizer
    password_changed_at has_secret_scanning cookie_policy license_key"""


@pytest.mark.parametrize("key", [*SECRET_NAMES.split(), "id token", " password ", "pass\u200bword"])
def test_value_under_a_key_that_names_a_secret_is_redacted(key: str, clean_json: Clean) -> None:
    result = clean_json({"outer": [{key: "correct horse"}]})
    ((_, value),) = json.loads(result.body)["outer"][0].items()
    assert value == NAMED
    assert any(r.kind == "structural-key" and r.where.startswith("/outer/0/") for r in result.report.removed)


@pytest.mark.parametrize("key", HARMLESS_NAMES.split())
def test_value_under_a_harmless_key_stays(key: str, clean_json: Clean) -> None:
    result = clean_json({key: "correct horse"})
    assert json.loads(result.body) == {key: "correct horse"}
    assert result.report.is_clean


@pytest.mark.parametrize("value", [True, False, None, "", "********", "write", {"type": "string"}, []])
def test_value_that_is_plainly_no_secret_stays(value: Any, clean_json: Clean) -> None:
    assert json.loads(clean_json({"id-token": value}).body) == {"id-token": value}


def test_numbers_and_lists_under_a_secret_name_are_redacted(clean_json: Clean) -> None:
    result = clean_json({"password": 12345, "recovery_codes": ["ab12", ["cd34"], 7, {"value": "x9"}, {"note": "y"}]})
    assert json.loads(result.body) == {
        "password": NAMED,
        "recovery_codes": [NAMED, [NAMED], NAMED, {"value": NAMED}, {"note": "y"}],
    }


def test_a_value_with_its_type_before_it_is_one_of_the_name_that_stands_outside(clean_json: Clean) -> None:
    """As DynamoDB writes the attributes of an item."""
    item = {
        "password": {"S": "correct horse"}, "api_key": {"B": "Y29ycmVjdA=="}, "access_token": {"N": "12345"},
        "recovery_codes": {"SS": ["ab12", "cd34"]}, "session_token": {"L": [{"S": "x9"}, {"M": {"note": {"S": "y"}}}]},
        "note": {"S": "correct horse"}, "secret": {"BOOL": True}, "client_secret": {"NULL": True},
        "bot_token": {"S": "a", "T": "b"},
    }  # fmt: skip
    assert json.loads(clean_json({"Item": item}).body)["Item"] == item | {
        "password": {"S": NAMED}, "api_key": {"B": NAMED}, "access_token": {"N": NAMED},
        "recovery_codes": {"SS": [NAMED, NAMED]}, "session_token": {"L": [{"S": NAMED}, {"M": {"note": {"S": "y"}}}]},
    }  # fmt: skip


def test_name_and_value_pairs_are_read_as_members(clean_json: Clean) -> None:
    result = clean_json([{"name": "Authorization", "value": "Basic xyz"}, {"name": "Accept", "value": "text/html"}])
    assert json.loads(result.body)[0]["value"] == NAMED
    assert json.loads(result.body)[1]["value"] == "text/html"


def test_private_members_of_a_json_web_key_are_redacted_and_public_ones_stay(clean_json: Clean) -> None:
    result = clean_json({"kty": "OKP", "crv": "Ed25519", "x": "cHVibGlj", "d": "c2VjcmV0"})
    assert json.loads(result.body) == {"kty": "OKP", "crv": "Ed25519", "x": "cHVibGlj", "d": NAMED}
    assert json.loads(clean_json({"d": "c2VjcmV0"}).body) == {"d": "c2VjcmV0"}


def test_structure_is_seen_inside_json_strings_and_base64(clean_json: Clean) -> None:
    inner = json.dumps({"user": "ada", "password": "correct horse battery"})
    result = clean_json({"a": inner, "b": base64.b64encode(inner.encode()).decode(), "c": json.dumps(inner)})
    body = json.loads(result.body)
    want = {"user": "ada", "password": NAMED}
    assert json.loads(body["a"]) == want
    assert json.loads(base64.b64decode(body["b"])) == want
    assert json.loads(json.loads(body["c"])) == want


def test_duplicate_members_are_all_scanned_and_all_stay(clean_json: Clean, github_token: str) -> None:
    result = clean_json(f'{{"a":"{github_token}","a":"shown","a":1}}'.encode())
    assert result.body == b'{"a":"[redacted:github-token]","a":"shown","a":1}'


def test_two_redacted_names_do_not_become_one(clean_json: Clean, github_token: str) -> None:
    result = clean_json({github_token: 1, github_token + "x": 2, "[redacted:github-token]": 3})
    assert sorted(json.loads(result.body).values()) == [1, 2, 3]


def test_report_points_at_the_place_and_never_shows_the_secret(clean_json: Clean, github_token: str) -> None:
    result = clean_json({"a/b": [{"~": f"x {github_token} y {github_token}z"}], github_token: {"k": github_token}})
    places = {(r.where, r.count) for r in result.report.removed}
    assert ("/a~1b/0/~0", 2) in places
    assert ("/[redacted:github-token]/k", 1) in places
    assert github_token not in repr(result.report)


def test_specific_rule_gives_the_name_where_the_whole_value_is_its_secret(clean_json: Clean, github_token: str) -> None:
    assert json.loads(clean_json({"token": github_token}).body) == {"token": "[redacted:github-token]"}
    assert json.loads(clean_json({"token": f"my {github_token}"}).body) == {"token": NAMED}


def test_a_value_that_looks_like_a_marker_is_not_believed(clean_json: Clean) -> None:
    assert json.loads(clean_json({"password": "[redacted:correct-horse]"}).body) == {"password": NAMED}


def test_numbers_keep_every_digit(clean_json: Clean, github_token: str) -> None:
    numbers = "123456789012345678901234567890,1.10,1e400,-0,-0.0,0.1e-7,3.141592653589793238462643383279"
    result = clean_json(f'{{"n":[{numbers}],"t":"{github_token}"}}'.encode())
    assert f'"n":[{numbers}]' in result.body.decode()


def test_lone_surrogates_come_through_as_escapes(clean_json: Clean, github_token: str) -> None:
    result = clean_json(rb'{"a":"x\ud800y","b":"' + github_token.encode() + rb'","\udfff":1}')
    assert result.body == rb'{"a":"x\ud800y","b":"[redacted:github-token]","\udfff":1}'


def test_container_below_the_depth_limit_is_redacted_and_the_rest_stays(clean_json: Clean) -> None:
    at_limit = "[" * JSON_DEPTH_MAX + "]" * JSON_DEPTH_MAX
    assert clean_json(at_limit.encode()).report.is_clean
    for extra in (1, 10, 2_000, 50_000):
        deep = '{"a":1,"b":' + "[" * (JSON_DEPTH_MAX + extra) + '"x"' + "]" * (JSON_DEPTH_MAX + extra) + ',"c":"d"}'
        result = clean_json(deep.encode())
        body = json.loads(result.body)
        assert (body["a"], body["c"]) == (1, "d")
        assert [r.rule for r in result.report.removed] == ["json-depth"]


def test_brackets_in_strings_do_not_hide_depth(clean_json: Clean) -> None:
    deep = '["]]]]",' * (JSON_DEPTH_MAX + 1) + "1" + "]" * (JSON_DEPTH_MAX + 1)
    assert [r.rule for r in clean_json(deep.encode()).report.removed] == ["json-depth"]


def test_json_that_does_not_parse_is_searched_as_text(clean_json: Clean, github_token: str) -> None:
    escaped = "".join(f"\\u{ord(character):04x}" for character in github_token)
    for broken in (f'{{"a":"{escaped}",}}', f"{{'a':'{github_token}'}}", f'{{"a":NaN,"b":"{github_token}"}}'):
        result = clean_json(broken.encode())
        assert b"[redacted:github-token]" in result.body
        assert result.report.removed[0].where == "text"


def test_clean_body_is_returned_byte_for_byte(clean_json: Clean) -> None:
    body = b'{ "a" : [1, 2.50, "x\\ny"],\r\n "a": null }'
    assert clean_json(body).body == body


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=12),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=8), children, max_size=4),
    max_leaves=12,
)


@given(JSON)
def test_written_json_means_what_was_read(sanitizer: Sanitizer, value: Any) -> None:
    # The member forces the walk: without it most of these bodies would be returned as they came.
    body = {'forces the walk: "': 0, "v": value}
    result = sanitizer.sanitize(json.dumps(body).encode(), content_type="application/json", headers=(), credentials=())
    if result.report.is_clean:
        assert json.loads(result.body) == body


@given(st.text(max_size=80))
def test_any_text_is_json_or_not_json(text: str) -> None:
    with suppress(NotJson):
        parse(text)


@given(st.text(max_size=40))
def test_any_key_has_an_answer(key: str) -> None:
    assert isinstance(names_secret(key), bool)


PIECE_WORDS = r"""Bearer password= \ \n %67 &#103; hp_ gh " / é {"a":" "} secret ://a: @b Z2hwXw"""
PIECES = st.lists(
    st.sampled_from(
        [
            *PIECE_WORDS.split(),
            *("\t", "\n", " ", "\u200b", "abc1" * 6, "x" * 30, "Authorization: Basic ", "Private-Lines: 4\n"),
        ]
    ),
    max_size=6,
).map("".join)


@given(st.dictionaries(PIECES, PIECES | st.lists(PIECES, max_size=2), max_size=3), st.booleans())
def test_a_body_that_looks_clean_at_once_is_clean_when_walked(
    sanitizer: Sanitizer, value: dict[str, Any], ascii_only: bool
) -> None:
    def is_clean(document: Any) -> bool:
        body = json.dumps(document, ensure_ascii=ascii_only).encode()
        return sanitizer.sanitize(
            body, content_type="application/json", headers=(), credentials=[b"abc1abc1abc1"]
        ).report.is_clean

    assert is_clean(value) == is_clean({'forces the walk: "': 0, "v": value})


NAMES = st.sampled_from(["token", "password", "api_key", "name", "value", "kty", "d", "a", "Set-Cookie "])
VALUES = st.sampled_from(["", "read", "hunter2", "token", "none", None, True, 7, "oct", "*****"])
MEMBERS = st.recursive(VALUES, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(NAMES, inner, max_size=3))


@given(MEMBERS, st.sampled_from([None, 2]))
def test_names_of_secrets_are_judged_alike_with_and_without_the_walk(
    sanitizer: Sanitizer, value: Any, indent: int | None
) -> None:
    def removed(document: Any) -> int:
        body = json.dumps(document, indent=indent).encode()
        report = sanitizer.sanitize(body, content_type="application/json", headers=(), credentials=()).report
        return sum(line.count for line in report.removed)

    assert removed([value]) == removed([value, 'forces the walk: "'])


ENCODED = st.lists(
    st.sampled_from(
        ["%20", "%67hp_", "gh%70_", "a" * 36, "&amp;", "&quot;", "&#103;hp_", "%25", "67", " ", "/x?y=", "%E2%80%8B"]
    ),
    max_size=6,
).map("".join)


@given(st.lists(ENCODED, max_size=3))
def test_encoded_text_is_judged_alike_with_and_without_the_walk(sanitizer: Sanitizer, texts: list[str]) -> None:
    def rules(document: Any) -> int:
        body = json.dumps(document).encode()
        report = sanitizer.sanitize(body, content_type="application/json", headers=(), credentials=()).report
        return sum(line.count for line in report.removed)

    # A backslash in the body sends it through the walk.
    assert rules(texts) == rules([*texts, 'forces the walk: "'])
