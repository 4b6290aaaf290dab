"""What a provider answers to a device: a code that a person can be shown, and the four things that are no refusal."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from nomos.catalogue.oauth import OAuthFile, build_oauth
from nomos.errors import NomosError
from nomos_proxy.destination import Origin
from nomos_proxy.oauth.deviceanswers import (
    DEVICE_SECONDS_MAX,
    INTERVAL_SECONDS,
    INTERVAL_SECONDS_MAX,
    DeviceCode,
    device_state,
    read_device,
)
from nomos_proxy.oauth.protocol import AnswerUnreadable

NOW = 1_800_000_000
OAUTH = build_oauth(OAuthFile(authorize="https://id.example.com/a", token="https://id.example.com/t"))
#: The example of RFC 8628 section 3.2.
GOOD: dict[str, Any] = {
    "device_code": "GmRhmhcxhwAzkoEqiMEg_DnyEysNkuNhszIySk9eS", "user_code": "WDJB-MJHT",
    "verification_uri": "https://example.com/device",
    "verification_uri_complete": "https://example.com/device?user_code=WDJB-MJHT", "expires_in": 1800, "interval": 5,
}  # fmt: skip


def read(**changes: Any) -> DeviceCode:
    members = {name: value for name, value in (GOOD | changes).items() if value is not None}
    return read_device(msgspec.json.encode(members), now=NOW)


def test_the_example_of_the_specification_is_read() -> None:
    assert read() == DeviceCode(
        device_code=GOOD["device_code"], user_code="WDJB-MJHT", address="https://example.com/device",
        complete="https://example.com/device?user_code=WDJB-MJHT", expires_at=NOW + 1800, interval=5,
    )  # fmt: skip
    assert "GmRh" not in repr(read())


def test_what_may_be_left_out_or_is_too_much_has_its_bounds() -> None:
    assert read(interval=None).interval == INTERVAL_SECONDS
    assert read(interval=10_000).interval == INTERVAL_SECONDS_MAX
    assert read(expires_in=10**9).expires_at == NOW + DEVICE_SECONDS_MAX
    assert read(verification_uri_complete=None).complete == ""
    assert read(verification_uri=None, verification_url="https://example.com/x").address == "https://example.com/x"


@pytest.mark.parametrize(
    "changes",
    [
        {"device_code": None}, {"device_code": ""}, {"device_code": "a b"}, {"device_code": "x" * 4001},
        {"device_code": 7}, {"user_code": None}, {"user_code": ""}, {"user_code": "\x1b[2J"}, {"user_code": "A" * 41},
        {"user_code": "A\nB"}, {"user_code": "ＷＤＪＢ"}, {"user_code": ["A"]}, {"verification_uri": None},
        {"verification_uri": "http://example.com/device"}, {"verification_uri": "javascript:alert(1)"},
        {"verification_uri": "https://example.com/a b"}, {"verification_uri": "https://u@example.com/"},
        {"verification_uri": "https://example.com/\x1b"}, {"expires_in": None}, {"expires_in": 0}, {"expires_in": "60"},
        {"expires_in": True}, {"interval": 0}, {"interval": "5"}, {"interval": -1},
    ],
)  # fmt: skip
def test_what_must_not_be_shown_to_a_person_or_cannot_be_read_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(AnswerUnreadable):
        read(**changes)


def test_a_complete_address_that_is_none_is_left_out() -> None:
    for wrong in ("http://example.com/device?x", "https://example.com/\x07", 7):
        assert read(verification_uri_complete=wrong).complete == ""


def test_another_origin_counts_in_development_only() -> None:
    local = {"verification_uri": "http://127.0.0.1:9/device", "verification_uri_complete": None}
    with pytest.raises(AnswerUnreadable):
        read(**local)
    members = {name: value for name, value in (GOOD | local).items() if value is not None}
    body, instead = msgspec.json.encode(members), Origin(scheme="http", host="127.0.0.1", port=9)
    assert read_device(body, now=NOW, instead=instead).address == "http://127.0.0.1:9/device"
    with pytest.raises(AnswerUnreadable):
        read_device(body, now=NOW, instead=Origin(scheme="http", host="127.0.0.1", port=99))


@pytest.mark.parametrize(
    ("body", "state"),
    [
        (b'{"error": "authorization_pending"}', "pending"), (b'{"error": "slow_down"}', "slow_down"),
        (b'{"error": "access_denied"}', "denied"), (b'{"error": "expired_token"}', "expired"),
        (b'{"access_token": "x"}', "granted"), (b'{"error": "invalid_grant"}', "granted"),
        (b"<html>", "granted"),
    ],
)  # fmt: skip
def test_what_a_token_endpoint_says_to_a_device(body: bytes, state: str) -> None:
    assert device_state(OAUTH, body) == state
    assert device_state(structs.replace(OAUTH, error="code"), body.replace(b"error", b"code")) == state


@given(st.binary(max_size=200))
def test_no_answer_breaks_anything(body: bytes) -> None:
    for work in (lambda: read_device(body, now=NOW), lambda: device_state(OAUTH, body)):
        try:
            work()
        except NomosError as e:
            assert e.detail
