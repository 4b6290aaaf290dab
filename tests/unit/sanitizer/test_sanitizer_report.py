"""The report: its two lists, fingerprints, and that agents of before can read it."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomos import servicemessages
from nomos.agent import Allowed
from nomos.cli import agent as cli
from nomos.errors import Misconfigured
from nomos.messages import Decoder, Returned, encode
from nomos_sanitizer.domain import Sanitizer
from nomos_sanitizer.fingerprints import Fingerprints
from nomos_sanitizer.handlers import Cleaner
from nomos_sanitizer.limits import FINGERPRINT_BYTES, FINGERPRINT_SOURCE_BYTES_MIN
from nomos_sanitizer.scrub import Options

KEYS = Fingerprints(os.urandom(32))


def lines(sanitizer: Sanitizer, body: object, tenant: str = "acme", keys: Fingerprints = KEYS) -> list[tuple[str, str]]:
    result = sanitizer.sanitize(
        body if isinstance(body, bytes) else json.dumps(body).encode(),
        content_type="application/json",
        headers=(),
        credentials=(),
        options=Options(fingerprint=keys.of_tenant(tenant)),
    )
    return [(line.where, line.fingerprint) for line in result.report.removed if line.kind != "invisible"]


def test_same_secret_has_the_same_fingerprint_in_every_form_and_another_in_another_tenant(
    sanitizer: Sanitizer, github_token: str
) -> None:
    forms = {
        "plain": github_token,
        "prose": f"use {github_token}.",
        "base64": base64.b64encode(f"a token: {github_token} here".encode()).decode(),
        "percent": "".join(f"%{byte:02x}" for byte in github_token.encode()),
        "split": "\u200b".join(github_token),
        "nested": json.dumps([github_token]),
    }
    found = lines(sanitizer, forms)
    assert {where for where, _ in found} == {f"/{name}" for name in forms}
    (mark,) = {mark for _, mark in found}
    assert len(mark) == 2 * FINGERPRINT_BYTES
    assert mark not in {mark for _, mark in lines(sanitizer, forms, tenant="beta")}
    assert mark not in {mark for _, mark in lines(sanitizer, forms, keys=Fingerprints(os.urandom(32)))}


def test_two_secrets_at_one_place_are_two_lines(sanitizer: Sanitizer, github_token: str) -> None:
    other = github_token[::-1].translate(str.maketrans("_", "x"))
    found = lines(sanitizer, f"{github_token} ghp_{other} {github_token}")
    assert len(found) == 2 == len({mark for _, mark in found})


def test_a_value_that_can_be_guessed_has_no_fingerprint(sanitizer: Sanitizer) -> None:
    # It would tell whoever can have a guess sanitized whether the guess is right.
    short, long = "9" * (FINGERPRINT_SOURCE_BYTES_MIN - 1), "9" * FINGERPRINT_SOURCE_BYTES_MIN
    assert [bool(mark) for _, mark in lines(sanitizer, [{"password": short}, {"password": long}])] == [False, True]


def test_without_a_key_there_is_no_fingerprint_and_no_empty_one_on_the_wire(
    sanitizer: Sanitizer, github_token: str
) -> None:
    message = servicemessages.Sanitize(
        v=1, tenant="acme", content_type="text/plain", headers=[], body=f"{github_token} [INST]".encode()
    )
    with ThreadPoolExecutor(1) as threads:
        without = asyncio.run(Cleaner(sanitizer, threads).clean(message))
        with_key = asyncio.run(Cleaner(sanitizer, threads, KEYS).clean(message))
    assert without.removed == [{"kind": "secret", "rule": "github-token", "where": "text", "count": 1}]
    assert without.noted == [{"kind": "injection", "rule": "role-tag", "where": "text", "count": 1}]
    (line,) = with_key.removed
    assert line["fingerprint"] == KEYS.of_tenant("acme")(github_token.encode())


@given(st.text(max_size=60))
def test_any_text_is_a_fingerprint_key_or_misconfigured(text: str) -> None:
    try:
        keys = Fingerprints.parse(text)
    except Misconfigured:
        return
    assert "redacted" in repr(keys)


def test_a_fingerprint_key_is_read_from_base64url() -> None:
    key = b"\xff" * 32
    text = base64.urlsafe_b64encode(key).decode().rstrip("=")
    assert Fingerprints.parse(text).of_tenant("a")(b"x" * 20) == Fingerprints(key).of_tenant("a")(b"x" * 20)
    with pytest.raises(Misconfigured):
        Fingerprints.parse(text[:-4])


class ReturnedBefore(msgspec.Struct, frozen=True, kw_only=True, tag="ok"):
    """The reply as agents knew it that were built before answers had notes."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes
    removed: list[dict[str, object]]
    invocation: str


def test_an_agent_of_before_reads_an_answer_with_notes_and_a_new_one_reads_an_answer_without() -> None:
    note: dict[str, object] = {"kind": "injection", "rule": "role-tag", "where": "/a", "count": 1}
    new = Returned(status=200, headers=[], body=b"x", removed=[], invocation="i", noted=[note])
    old = Decoder.of(ReturnedBefore, "reply").decode(encode(new))
    assert isinstance(old, ReturnedBefore)
    again = Decoder.of(Returned, "reply").decode(encode(old))
    assert isinstance(again, Returned)
    assert (again.noted, again.body) == ([], b"x")


def test_call_prints_what_was_removed_and_what_was_noted(capsys: pytest.CaptureFixture[str]) -> None:
    removed = {"kind": "secret", "rule": "github-token", "where": "/a", "count": 2, "fingerprint": "0a1b2c3d4e5f"}
    noted = {"kind": "injection", "rule": "role-tag", "where": "/b", "count": 1}
    cli._talk("call", Allowed(decision="d", delegation=b"", expires_at=0, removed=(removed,), noted=(noted,)))
    said = capsys.readouterr().err
    assert "removed kind secret, rule github-token, where /a, count 2, fingerprint 0a1b2c3d4e5f" in said
    assert "noted kind injection, rule role-tag, where /b, count 1" in said
