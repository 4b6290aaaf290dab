"""Tokens for people."""

from __future__ import annotations

import base64
import json
import os
import time
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomos import errors
from nomos.errors import LimitExceeded, Malformed, MalformedToken
from nomos.handover import Grant, hand_on
from nomos.keys import SigningKey
from nomos.ucan.cid import Link, cid_of, format_cid
from nomos.ucan.delegation import parse_delegation
from nomos.ucan.grant import mint_grant
from nomos.ucan.inspect import TOKEN_TEXT_LENGTH_MAX, describe, describe_chain, parse_token_text, say_statement
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


# --- chains ---------------------------------------------------------------------------------------------------------


def _chain() -> tuple[bytes, ...]:
    tenant, first, second = (SigningKey(os.urandom(32)) for _ in range(3))
    grant = mint_grant(
        tenant, agent=first.did, command="/github/issues/list", resource="github:repo/acme/site",
        digest=os.urandom(32), now=int(time.time()), ttl_seconds=60, nonce=os.urandom(12),
    )  # fmt: skip
    return hand_on(first, (grant,), to=second.did, only={"state": "open"}, ttl_seconds=30).chain


def test_a_chain_is_told_link_by_link() -> None:
    chain = _chain()
    told = describe_chain(chain, now=int(time.time()))
    assert told["problems"] == []
    links: Any = told["links"]
    assert [link["aud"] for link in links] == [parse_delegation(one).audience for one in chain]
    assert links[1]["policy"] == ['.args.state is "open"']
    assert told["exp"] == links[1]["exp"] < links[0]["exp"]


def test_a_chain_that_does_not_fit_says_where() -> None:
    one, other = _chain(), _chain()
    told = describe_chain((one[0], other[1]), now=int(time.time()))
    assert "delegation 0 was given to somebody else" in str(told["problems"])
    late = describe_chain(one, now=int(time.time()) + 45)
    assert late["problems"] == ["delegation is expired"]


def test_a_grant_is_read_back_from_its_text_and_nothing_else_is() -> None:
    chain = _chain()
    text = str(Grant(chain=chain))
    assert Grant.parse(f"\n{text}\n").chain == chain
    for wrong in ("", "\n".join([text] * 3), text[:-3], text.replace("\n", "\n!")):
        with pytest.raises(errors.Malformed):
            Grant.parse(wrong)


@pytest.mark.parametrize("only", [{"..": 1}, {"a b": 1}, {f"a{n}": n for n in range(33)}])
def test_a_narrowing_that_no_policy_can_say_is_refused(only: dict[str, Any]) -> None:
    tenant, first = SigningKey(os.urandom(32)), SigningKey(os.urandom(32))
    grant = mint_grant(
        tenant, agent=first.did, command="/github/issues/list", resource="github:repo/acme/site",
        digest=os.urandom(32), now=int(time.time()), ttl_seconds=60, nonce=os.urandom(12),
    )  # fmt: skip
    with pytest.raises(errors.Malformed):
        hand_on(first, (grant,), to=tenant.did, only=only, ttl_seconds=1)
