from __future__ import annotations

import contextlib
import hashlib
from typing import Any

import msgspec
import pytest
import rfc8785
from hypothesis import given
from hypothesis import strategies as st

from nomos.errors import LimitExceeded, Malformed
from nomos.servicemessages import Quorum
from nomos_stepup.base64url import b64url, parse_b64url
from nomos_stepup.challenge import (
    ReasonPolicy,
    args_text_of,
    canonical,
    challenge_of,
    check_request,
    parse_request,
    text_sha256,
)

CHANGES = [
    {"approval": "ap_" + "9" * 32},
    {"tenant": "globex"},
    {"app": "sales"},
    {"agent": "other-bot"},
    {"agent_did": "did:key:z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp"},
    {"behalf": "grace"},
    {"connection": "github-prod"},
    {"action": "github:issues.create"},
    {"risk": "write"},
    {"resource": "github:repo/acme/other"},
    {"args_digest": "0" * 64},
    {"args_text_sha256": "0" * 64},
    {"body_sha256": "0" * 64},
    {"request": "rq_" + "9" * 32},
    {"decision": "dc_" + "9" * 32},
    {"revision": 8},
    {"policy_set": "6" * 64},
    {"policies": ()},
    {"needed": 2},
    {"quorums": (Quorum(approvals=1, group="finance"),), "v": 2},
    {"asked_at": 1_800_000_001},
    {"expires_at": 1_800_000_901},
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: next(iter(change)))
def test_every_field_of_the_request_changes_the_challenge(stage: Any, change: dict[str, Any]) -> None:
    right, changed = stage.request(), stage.request(**change)
    check_request(changed)
    assert challenge_of(b"s" * 32, right) != challenge_of(b"s" * 32, changed)


def test_no_field_of_the_request_is_left_out_above(stage: Any) -> None:
    changed = {name for change in CHANGES for name in change}
    assert changed == set(stage.request().__struct_fields__)


def test_the_challenge_is_the_documented_hash(stage: Any) -> None:
    request = stage.request()
    inner = hashlib.sha256(canonical(request)).digest()
    assert challenge_of(b"x" * 32, request) == hashlib.sha256(b"nomos-stepup-v1\0" + b"x" * 32 + inner).digest()


def test_the_salt_changes_the_challenge_and_has_one_length(stage: Any) -> None:
    assert challenge_of(b"a" * 32, stage.request()) != challenge_of(b"b" * 32, stage.request())
    with pytest.raises(Malformed):
        challenge_of(b"short", stage.request())


@given(description=st.text(max_size=200), policy=st.text(max_size=50), revision=st.integers(0, 2**53 - 1))
def test_canonical_request_is_rfc_8785_and_reads_back(stage: Any, description: str, policy: str, revision: int) -> None:
    request = stage.request(policies=(ReasonPolicy(id=policy, description=description),), revision=revision)
    try:
        written = canonical(request)
    except Malformed:
        assert any("\ud800" <= character <= "\udfff" for character in policy + description)
        return
    assert written == rfc8785.dumps(msgspec.to_builtins(request))
    assert parse_request(written) == request


@given(st.binary(max_size=2000))
def test_reading_a_request_from_any_bytes_fails_as_malformed(octets: bytes) -> None:
    with pytest.raises(Malformed):
        parse_request(octets)


@given(st.data())
def test_a_changed_byte_of_a_stored_request_is_malformed_or_another_request(stage: Any, data: Any) -> None:
    stored = bytearray(canonical(stage.request()))
    position = data.draw(st.integers(0, len(stored) - 1))
    stored[position] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(Malformed):
        assert parse_request(bytes(stored)) != stage.request()


def test_another_spelling_of_a_stored_request_is_refused(stage: Any) -> None:
    stored = canonical(stage.request())
    for other in (stored + b" ", stored.replace(b'":', b'": ', 1), stored.replace(b"acme", b"\\u0061cme", 1)):
        with pytest.raises(Malformed):
            parse_request(other)


@pytest.mark.parametrize(
    "change",
    [
        {"tenant": "Acme"},
        {"agent": "a b"},
        {"connection": ""},
        {"behalf": "Grace H"},
        {"approval": "ap_1"},
        {"request": "dc_" + "2" * 32},
        {"agent_did": "did:key:z6Mk"},
        {"args_digest": "0" * 63 + "G"},
        {"args_digest": "0" * 64 + "\n"},
        {"risk": "harmless"},
        {"needed": 0},
        {"quorums": (Quorum(approvals=1, group="finance"),)},
        {"v": 2},
        {"v": 2, "quorums": (Quorum(approvals=2, group="finance"),)},
        {"v": 2, "quorums": (Quorum(approvals=1, group="finance"), Quorum(approvals=1, group="finance"))},
        {"v": 2, "quorums": (Quorum(approvals=1, group="Not a group"),)},
        {"v": 2, "needed": 9, "quorums": (Quorum(approvals=9, group="finance"),)},
        {"needed": 9},
        {"revision": -1},
        {"expires_at": 1_800_000_000},
        {"expires_at": 10**12},
        {"resource": ""},
    ],
    ids=str,
)
def test_a_request_with_a_wrong_field_is_refused(stage: Any, change: dict[str, Any]) -> None:
    with pytest.raises(Malformed):
        check_request(stage.request(**change))


def test_a_request_too_large_to_be_kept_is_refused(stage: Any) -> None:
    many = tuple(ReasonPolicy(id=f"p{i}", description="x" * 1900) for i in range(30))
    with pytest.raises(LimitExceeded, match="REQUEST_BYTES_MAX"):
        check_request(stage.request(policies=many))


def test_arguments_too_large_to_be_read_are_refused_and_not_cut() -> None:
    with pytest.raises(LimitExceeded, match="ARGS_TEXT_BYTES_MAX"):
        args_text_of({"body": "x" * 140_000})


def test_text_that_is_not_unicode_is_refused() -> None:
    with pytest.raises(Malformed):
        args_text_of({"body": "\ud800"})
    with pytest.raises(Malformed):
        text_sha256("\udfff")


@given(st.binary(max_size=100))
def test_base64url_reads_back_what_it_wrote(octets: bytes) -> None:
    assert parse_b64url(b64url(octets), "value", 100) == octets


@given(st.text(alphabet="AB_-+/=. \n\u00e9", max_size=12))
def test_base64url_has_one_spelling(text: str) -> None:
    try:
        octets = parse_b64url(text, "value", 100)
    except Malformed:
        return
    assert b64url(octets) == text


def test_base64url_over_its_limit_is_refused() -> None:
    with pytest.raises(LimitExceeded):
        parse_b64url(b64url(bytes(101)), "value", 99)
