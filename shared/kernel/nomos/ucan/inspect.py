"""Tokens for people: reading the text forms in which they travel, and saying what one means.

Decides nothing about authority. :func:`describe` says whether the signature fits the named issuer, not whether the
issuer may say so. Everything shown comes from the token and is escaped to printable ASCII where it is free text.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, assert_never

from nomos.errors import BadSignature, LimitExceeded, MalformedToken, NomosError
from nomos.ucan.chain import check_alignment, check_grant_profile, check_times, earliest_expiry
from nomos.ucan.cid import Link, cid_of, format_cid, parse_cid
from nomos.ucan.dagcbor import Ipld
from nomos.ucan.delegation import Delegation, delegation_of, parse_delegation
from nomos.ucan.envelope import INVOCATION_BYTES_MAX, Kind, open_envelope
from nomos.ucan.invocation import Invocation, invocation_of
from nomos.ucan.policy import Connective, Equality, Like, Not, Order, Quantifier, Statement
from nomos.ucan.profile import NOMOS

#: Hex needs two characters a byte; line breaks and a CID in front are small beside that.
TOKEN_TEXT_LENGTH_MAX: Final = 2 * INVOCATION_BYTES_MAX + 8192

_CID_SEPARATOR: Final = ":"
_FIRST_HEX: Final = "82"
_MULTIBASE_BASE64: Final = frozenset("umUM")
_ORDER_WORDS: Final = {"<": "is less than", "<=": "is at most", ">": "is more than", ">=": "is at least"}


def describe(token: bytes) -> dict[str, object]:
    """Says what a token is.

    Args:
        token: a delegation or an invocation.

    Returns:
        A map that ``json.dumps`` takes: ``kind``, ``cid``, ``version``, ``iss``, ``aud``, ``sub``, ``cmd``,
        ``nonce`` (hex), ``exp`` (Unix seconds or None), ``meta``, ``signature_ok``, ``size_bytes``; for a delegation
        ``policy`` (sentences) and ``nbf``; for an invocation ``args``, ``prf`` (CIDs), ``iat`` and ``cause``.

    Raises:
        Malformed: not a well-formed token.
    """
    envelope = open_envelope(token, None)
    read: Delegation | Invocation
    own: dict[str, object]
    if envelope.kind is Kind.DELEGATION:
        read = delegation_of(envelope)
        own = {"nbf": read.not_before, "policy": [say_statement(one) for one in read.policy]}
    else:
        read = invocation_of(envelope)
        own = {
            "args": plain(read.arguments),
            "cause": None if read.cause is None else format_cid(read.cause),
            "iat": read.issued_at,
            "prf": [format_cid(cid) for cid in read.proofs],
        }
    return {
        "kind": envelope.kind.name.lower(),
        "version": envelope.version,
        "cid": format_cid(read.cid),
        "iss": read.issuer,
        "aud": read.audience,
        "sub": read.subject,
        "cmd": read.command,
        "exp": read.expires_at,
        "nonce": read.nonce.hex(),
        "meta": plain(read.meta),
        "signature_ok": _is_signed(read),
        "size_bytes": len(envelope.token),
        **own,
    }


def describe_chain(tokens: Sequence[bytes], *, now: int) -> dict[str, object]:
    """Says what a chain of delegations gives, link by link, and what is wrong with it.

    Args:
        tokens: root first.
        now: Unix seconds.

    Returns:
        A map that ``json.dumps`` takes: ``kind``, ``sub``, ``cmd`` of the last link, ``exp`` (the earliest end),
        ``links`` (for each ``cid``, ``iss``, ``aud``, ``cmd``, ``exp``, ``seconds_left``, ``policy`` as sentences), and
        ``problems``: sentences, none where every link fits. Whether the root is one that anybody trusts is not said.

    Raises:
        Malformed: a token is no well-formed delegation.
    """
    links = [parse_delegation(token) for token in tokens]
    if not links:
        raise MalformedToken("expected at least one delegation")
    checks: list[Callable[[], object]] = [link.check_signature for link in links]
    checks.append(lambda: check_alignment(links, holder=links[-1].audience, subject=links[0].issuer))
    checks += [partial(check_times, link, now) for link in links]
    checks += [partial(check_grant_profile, link, now, NOMOS, is_root=at == 0) for at, link in enumerate(links)]
    problems: list[str] = []
    for check in checks:
        try:
            check()
        except NomosError as error:
            if error.detail not in problems:
                problems.append(error.detail)
    return {
        "kind": "chain",
        "sub": links[0].issuer,
        "cmd": links[-1].command,
        "exp": earliest_expiry(links),
        "links": [
            {
                "cid": format_cid(link.cid),
                "iss": link.issuer,
                "aud": link.audience,
                "cmd": link.command,
                "exp": link.expires_at,
                "seconds_left": None if link.expires_at is None else link.expires_at - now,
                "policy": [say_statement(one) for one in link.policy],
            }
            for link in links
        ],
        "problems": problems,
    }


def parse_token_text(text: str) -> bytes:
    """Reads a token from text: base64url or base64 (padding optional), or hex.

    White space is ignored. A multibase letter (``u``, ``U``, ``m``, ``M`` or ``f``) may stand first, and before
    everything the token's CID with a colon, which is then checked.

    Raises:
        LimitExceeded: too long.
        Malformed: none of these forms, not an envelope, or the CID of another token.
    """
    if len(text) > TOKEN_TEXT_LENGTH_MAX:
        raise LimitExceeded("token_text_length_max", TOKEN_TEXT_LENGTH_MAX, len(text))
    named, separator, rest = "".join(text.split()).rpartition(_CID_SEPARATOR)
    token = _decode_text(rest)
    if separator and parse_cid(named) != cid_of(token):
        raise MalformedToken("text names the CID of another token")
    open_envelope(token, None)
    return token


def say_statement(statement: Statement) -> str:
    """A policy statement as an English phrase."""
    match statement:
        case Equality(operator=operator, selector=selector, value=value):
            return f"{_text(selector.text)} {'is' if operator == '==' else 'is not'} {say_value(value)}"
        case Order(operator=operator, selector=selector, number=number):
            return f"{_text(selector.text)} {_ORDER_WORDS[operator]} {number}"
        case Like(selector=selector, pattern=pattern):
            return f"{_text(selector.text)} looks like {json.dumps(pattern.text)}"
        case Connective(statements=()):
            return "always"
        case Connective(operator=operator, statements=statements):
            return "(" + f" {operator} ".join(say_statement(one) for one in statements) + ")"
        case Not(statement=inner):
            return f"not ({say_statement(inner)})"
        case Quantifier(operator=operator, selector=selector, statement=inner):
            return f"{'every' if operator == 'all' else 'some'} item of {_text(selector.text)}: {say_statement(inner)}"
        case _:
            assert_never(statement)


def say_value(value: Ipld) -> str:
    """A value in a policy, in printable ASCII: JSON, with bytes as ``0x...`` and links as their CID."""
    if isinstance(value, bytes):
        return "0x" + value.hex()
    if isinstance(value, Link):
        return format_cid(value.cid)
    return json.dumps(plain(value))


def plain(value: Ipld) -> object:
    """The value in JSON's types, as DAG-JSON: bytes ``{"/": {"bytes": base64}}``, links ``{"/": CID}``."""
    match value:
        case bytes():
            return {"/": {"bytes": base64.b64encode(value).decode("ascii").rstrip("=")}}
        case Link():
            return {"/": format_cid(value.cid)}
        case list():
            return [plain(one) for one in value]
        case dict():
            return {key: plain(one) for key, one in value.items()}
        case _:
            return value


def _text(text: str) -> str:
    """Free text without quotes and without a character that a terminal would obey."""
    return json.dumps(text)[1:-1]


def _is_signed(read: Delegation | Invocation) -> bool:
    try:
        read.check_signature()
    except BadSignature:
        return False
    return True


def _decode_text(text: str) -> bytes:
    # An envelope begins with 0x82: as hex with "82", as base64 with "g". So the forms cannot be confused.
    try:
        if text[:1] in ("f", "F") and text[1:3] == _FIRST_HEX:
            return bytes.fromhex(text[1:])
        if text.startswith(_FIRST_HEX):
            return bytes.fromhex(text)
        if text[:1] in _MULTIBASE_BASE64:
            text = text[1:]
        bare = text.rstrip("=").replace("-", "+").replace("_", "/")
        return base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True)
    except (ValueError, binascii.Error):
        raise MalformedToken("expected a token as base64url, base64 or hex") from None
