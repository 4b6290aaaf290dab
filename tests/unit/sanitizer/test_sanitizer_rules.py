"""Every rule: what it must find, wherever it stands, and what it must leave."""

from __future__ import annotations

import base64
import html
import json
from contextlib import suppress
from urllib.parse import quote

import hyperscan
import pytest
import re2
from hypothesis import given
from hypothesis import strategies as st

from nomos.errors import Malformed
from nomos_sanitizer.domain import Sanitizer
from nomos_sanitizer.encodings import base64_forms
from nomos_sanitizer.engine import bytes_options
from nomos_sanitizer.examples import build, secret_of
from nomos_sanitizer.rules import Rule, load_rules, parse_rules

RULES = load_rules()
EVERY_RULE = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
ZERO_WIDTH = "\u200b"


def shown(sanitizer: Sanitizer, text: str, content_type: str = "text/plain") -> tuple[str, set[str]]:
    result = sanitizer.sanitize(text.encode(), content_type=content_type, headers=(), credentials=())
    return result.body.decode(), {removal.rule for removal in result.report.removed}


def case(rule: Rule) -> tuple[str, str]:
    example = build(rule.example, rule.id)
    return example, secret_of(rule, example)


def test_there_are_at_least_two_hundred_formats_and_each_names_its_source() -> None:
    assert len({rule.pattern for rule in RULES}) >= 200
    assert all(rule.source and rule.title for rule in RULES)
    # A source is a public address, or names a document and its section.
    assert all(rule.source.startswith("https://") or len(rule.source.split()) >= 2 for rule in RULES)


@EVERY_RULE
def test_rule_compiles_for_both_engines_and_has_no_group_of_its_own(rule: Rule) -> None:
    assert re2.compile(rule.span, bytes_options()).groups == 1
    hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK).compile(
        expressions=[rule.detection], ids=[0], flags=[hyperscan.HS_FLAG_SINGLEMATCH]
    )


@EVERY_RULE
def test_rule_finds_its_secret_in_prose(rule: Rule, sanitizer: Sanitizer) -> None:
    example, secret = case(rule)
    body, fired = shown(sanitizer, f"use this: {example} and nothing else")
    assert secret not in body
    assert fired
    assert body.startswith("use this: ")


@EVERY_RULE
def test_rule_finds_its_secret_in_json_values_and_keys(rule: Rule, sanitizer: Sanitizer) -> None:
    example, secret = case(rule)
    body, fired = shown(sanitizer, json.dumps({"note": f"> {example} <", example: [example]}), "application/json")
    assert fired
    for text in json.dumps(secret)[1:-1], secret:
        assert text not in body
    assert isinstance(json.loads(body), dict)


@EVERY_RULE
def test_rule_finds_its_secret_written_in_json_escapes(rule: Rule, sanitizer: Sanitizer) -> None:
    example, secret = case(rule)
    escaped = "".join(f"\\u{ord(character):04x}" for character in example)
    body, fired = shown(sanitizer, f'{{"note":"{escaped}"}}', "application/json")
    assert fired
    assert secret not in json.loads(body)["note"]
    assert escaped not in body


@EVERY_RULE
def test_rule_finds_its_secret_in_json_inside_a_json_string(rule: Rule, sanitizer: Sanitizer) -> None:
    example, secret = case(rule)
    nested = json.dumps({"log": json.dumps({"note": [example]})})
    body, fired = shown(sanitizer, nested, "application/json")
    assert fired
    assert secret not in json.loads(json.loads(body)["log"])["note"][0]


@EVERY_RULE
def test_rule_finds_its_secret_in_urls(rule: Rule, sanitizer: Sanitizer) -> None:
    example, secret = case(rule)
    everything = "".join(f"%{byte:02X}" for byte in example.encode())
    body, fired = shown(sanitizer, f"see https://example.com/?q={quote(example, safe='')}&r={everything} now")
    assert fired
    assert quote(secret, safe="") not in body
    assert everything not in body
    assert body.endswith(" now")


@EVERY_RULE
def test_rule_finds_its_secret_in_html(rule: Rule, sanitizer: Sanitizer) -> None:
    example, secret = case(rule)
    entities = "".join(f"&#x{ord(character):x};" for character in example)
    page = f"<p title='{entities}'>{html.escape(example)}</p>"
    body, fired = shown(sanitizer, page, "text/html; charset=utf-8")
    assert fired
    assert secret not in html.unescape(body)
    assert body.endswith("</p>")


# A field value is one line, so a rule for keys of several lines has no case here.
@pytest.mark.parametrize("rule", [r for r in RULES if "\n" not in build(r.example, r.id)], ids=lambda rule: rule.id)
def test_rule_finds_its_secret_in_a_header(rule: Rule, sanitizer: Sanitizer) -> None:
    example, secret = case(rule)
    result = sanitizer.sanitize(b"", content_type="", headers=(("X-Note", f"v {example}"),), credentials=())
    assert secret not in result.headers[0][1]
    assert result.report.removed[0].where == "header:x-note"


@EVERY_RULE
@pytest.mark.parametrize("lead", [b"", b"=", b"=>"], ids=["aligned", "shifted once", "shifted twice"])
def test_rule_finds_its_secret_in_base64_at_every_alignment(rule: Rule, lead: bytes, sanitizer: Sanitizer) -> None:
    example, secret = case(rule)
    plain = b"value " + lead + b" " + example.encode() + b" end of value"
    for encoded in base64.b64encode(plain), base64.urlsafe_b64encode(plain).rstrip(b"="):
        body, fired = shown(sanitizer, f"content: {encoded.decode()}")
        assert fired
        assert not any(form.decode() in body for form in base64_forms(secret.encode()))
        again = body.removeprefix("content: ")
        decoded = base64.urlsafe_b64decode(again.translate(str.maketrans("+/", "-_")) + "=" * (-len(again) % 4))
        assert decoded.startswith(b"value ")
        assert secret.encode() not in decoded


@EVERY_RULE
def test_rule_finds_its_secret_split_by_invisible_characters(rule: Rule, sanitizer: Sanitizer) -> None:
    example, secret = case(rule)
    split = ZERO_WIDTH.join(example)
    body, fired = shown(sanitizer, json.dumps({"note": f"see {split}"}), "application/json")
    assert fired
    assert secret not in body
    assert ZERO_WIDTH not in json.loads(body)["note"]


@EVERY_RULE
def test_rule_leaves_a_near_miss(rule: Rule, sanitizer: Sanitizer) -> None:
    near = build(rule.near, rule.id)
    body, fired = shown(sanitizer, f"use this: {near} and nothing else")
    assert not fired
    assert body == f"use this: {near} and nothing else"


@given(st.binary(max_size=300))
def test_rule_file_of_any_bytes_is_parsed_or_malformed(text: bytes) -> None:
    with suppress(Malformed):
        parse_rules(text)


RULE = """
[[rule]]
id = "x"
title = "t"
pattern = "p"
source = "s"
example = ["=p"]
near = ["=q"]
"""


@pytest.mark.parametrize(
    "text",
    [
        "",
        "rule = []",
        RULE + 'color = "red"',
        RULE.replace('source = "s"', ""),
        RULE + RULE,
        RULE.replace('"x"', '"X"'),
    ],
    ids=["empty", "no rule", "unknown field", "missing field", "id twice", "id misspelt"],
)
def test_rule_file_that_breaks_its_schema_is_malformed(text: str) -> None:
    assert parse_rules(RULE.encode())
    with pytest.raises(Malformed):
        parse_rules(text.encode())
