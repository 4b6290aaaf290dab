"""Tokens for people."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomos.errors import LimitExceeded, Malformed, MalformedToken
from nomos.ucan.cid import Link, cid_of, format_cid
from nomos.ucan.inspect import TOKEN_TEXT_LENGTH_MAX, describe, parse_token_text, say_statement
from nomos.ucan.policy import parse_policy

if TYPE_CHECKING:
    from conftest import World


def test_a_delegation_is_described_in_words(world: World) -> None:
    token = world.grant(meta={"approval": "ap_1", "raw": b"\x01"})
    said = describe(token)
    assert json.loads(json.dumps(said)) == said
    assert said["kind"] == "delegation"
    assert said["cid"] == format_cid(cid_of(token))
    assert (said["iss"], said["aud"], said["sub"]) == (world.tenant.did, world.agent.did, world.tenant.did)
    assert (said["cmd"], said["exp"], said["nbf"]) == (world.command, world.now + 60, None)
    assert said["policy"] == [f'.resource is "{world.resource}"', f".digest is 0x{world.digest.hex()}"]
    assert said["meta"] == {"approval": "ap_1", "raw": {"/": {"bytes": "AQ"}}}
    assert (said["signature_ok"], said["version"], said["size_bytes"]) == (True, "1.0.0", len(token))


def test_an_invocation_is_described_with_its_arguments_and_proofs(world: World) -> None:
    grant = world.grant()
    said = describe(world.sign([grant]))
    assert json.loads(json.dumps(said)) == said
    assert said["kind"] == "invocation"
    assert said["prf"] == [format_cid(cid_of(grant))]
    digest = base64.b64encode(world.digest).decode().rstrip("=")
    assert said["args"] == {
        "resource": world.resource,
        "connection": "",
        "args": world.args,
        "digest": {"/": {"bytes": digest}},
    }
    assert (said["iat"], said["cause"], said["signature_ok"]) == (world.now, None, True)
    caused = describe(world.raw_invocation(cause=Link(cid_of(grant)), meta={"seen": Link(cid_of(grant))}))
    assert caused["cause"] == format_cid(cid_of(grant))
    assert caused["meta"] == {"seen": {"/": format_cid(cid_of(grant))}}


def test_a_forged_token_is_described_as_such(world: World) -> None:
    assert describe(world.raw_delegation(world.stranger, iss=world.tenant.did))["signature_ok"] is False


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        (["==", ".a", [1, b"\x01", Link(cid_of(b""))]], None),
        (["!=", ".a", Link(cid_of(b""))], f".a is not {format_cid(cid_of(b''))}"),
        ([">=", ".a", 1.5], ".a is at least 1.5"),
        (["like", ".a", "x*"], '.a looks like "x*"'),
        (["and", []], "always"),
        (["or", [["<", ".a", 1], [">", ".a", 3]]], "(.a is less than 1 or .a is more than 3)"),
        (["not", ["<=", ".a", 1]], "not (.a is at most 1)"),
        (["all", ".a", ["==", ".", None]], "every item of .a: . is null"),
        (["any", ".a", ["==", ".", "\u202e\x1b"]], 'some item of .a: . is "\\u202e\\u001b"'),
        (["==", '.["\u202e"]', True], '.[\\"\\u202e\\"] is true'),
    ],
)
def test_statements_are_said_in_printable_ascii(statement: Any, said: str | None) -> None:
    words = say_statement(parse_policy([statement])[0])
    assert words.isascii()
    assert words.isprintable()
    assert said in (None, words)


def test_every_text_form_gives_the_same_token(world: World) -> None:
    token = world.grant()
    url, plain = base64.urlsafe_b64encode(token).decode(), base64.b64encode(token).decode()
    cid = format_cid(cid_of(token))
    wrapped = "\n".join(plain[start : start + 64] for start in range(0, len(plain), 64))
    for text in (
        url,
        url.rstrip("="),
        plain,
        plain.rstrip("="),
        wrapped,
        "u" + url.rstrip("="),
        "U" + url,
        "m" + plain.rstrip("="),
        "M" + plain,
        token.hex(),
        token.hex().upper(),
        "f" + token.hex(),
        f"{cid}:{url}",
        f"{cid}:\n  {token.hex()}\n",
    ):
        assert parse_token_text(text) == token


def test_the_cid_of_another_token_is_refused(world: World) -> None:
    text = base64.urlsafe_b64encode(world.grant()).decode()
    with pytest.raises(MalformedToken):
        parse_token_text(f"{format_cid(cid_of(b'other'))}:{text}")
    with pytest.raises(Malformed):
        parse_token_text(f"bafy:{text}")


@given(st.text(max_size=120) | st.text("0123456789abcdefg=-_:ulh82", max_size=120))
def test_any_text_raises_only_malformed(text: str) -> None:
    with pytest.raises(Malformed):
        parse_token_text(text)


@given(st.binary(max_size=300))
def test_any_bytes_raise_only_malformed(token: bytes) -> None:
    with pytest.raises(Malformed):
        describe(token)


def test_text_over_the_limit_is_refused() -> None:
    with pytest.raises(LimitExceeded) as refused:
        parse_token_text("g" * (TOKEN_TEXT_LENGTH_MAX + 1))
    assert refused.value.limit == "token_text_length_max"
