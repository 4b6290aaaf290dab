"""One attempt to connect an account, as its events tell it."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomos import events
from nomos.errors import Expired, NotFound, Replayed
from nomos.events import Actor, Envelope
from nomos.ids import new_id
from nomos_proxy.oauth.flow import Flow, WrongBrowser, b64url, fold, link_of, parse_link, parse_secret, sha256_hex

LINK, BROWSER, STATE = os.urandom(32), os.urandom(32), "s" * 43
ID, BY = new_id("cn"), Actor(kind="operator", id="sub-1")
OFFERED = {
    "flow": ID, "connector": "github", "name": "work", "scopes": ["repo"], "link_sha256": sha256_hex(LINK),
    "expires_at": 100, "at": 1,
}  # fmt: skip
BEGUN = {"flow": ID, "state_sha256": sha256_hex(STATE.encode()), "browser_sha256": sha256_hex(BROWSER), "at": 2}


def told(*steps: tuple[str, dict[str, object]]) -> Flow:
    found = fold(
        "acme", ID,
        [Envelope(id="ev", type=t, tenant="acme", actor=BY, corr="", cause="", event=e) for t, e in steps],
    )  # fmt: skip
    assert found is not None
    return found


OFFER = (events.CONNECT_OFFERED, OFFERED)
BEGIN = (events.CONNECT_BEGUN, BEGUN)
RETURN = (events.CONNECT_RETURNED, {"flow": ID, "at": 3})
END = (events.CONNECT_ENDED, {"flow": ID, "outcome": "connected", "code": "", "at": 4})


def test_the_phases() -> None:
    steps = [OFFER, BEGIN, RETURN, END]
    assert [told(*steps[:n]).phase for n in range(1, 5)] == ["offered", "begun", "returned", "ended"]
    assert [told(*steps[:n]).version for n in range(1, 5)] == [1, 2, 3, 4]
    assert fold("acme", ID, []) is None
    assert told(OFFER).by == BY


def test_a_link_opens_until_it_is_used_or_its_time_is_over() -> None:
    for flow in (told(OFFER), told(OFFER, BEGIN)):
        flow.check_link(LINK, 99)
        with pytest.raises(Expired):
            flow.check_link(LINK, 100)
        with pytest.raises(NotFound):
            flow.check_link(os.urandom(32), 99)
    for flow in (told(OFFER, BEGIN, RETURN), told(OFFER, BEGIN, RETURN, END)):
        with pytest.raises(Replayed):
            flow.check_link(LINK, 99)


def test_an_answer_belongs_to_the_browser_and_the_state_that_were_begun_last() -> None:
    flow = told(OFFER, BEGIN)
    flow.check_return(STATE, BROWSER, 99)
    for state, browser in (("", BROWSER), ("t" * 43, BROWSER), (STATE, os.urandom(32)), (STATE, b"")):
        with pytest.raises(WrongBrowser):
            flow.check_return(state, browser, 99)
    with pytest.raises(Expired):
        flow.check_return(STATE, BROWSER, 100)
    with pytest.raises(Replayed):
        told(OFFER, BEGIN, RETURN).check_return(STATE, BROWSER, 99)
    with pytest.raises(WrongBrowser):
        told(OFFER).check_return("", b"", 99)  # nobody has begun: nothing is hashed to nothing
    other = (events.CONNECT_BEGUN, BEGUN | {"browser_sha256": sha256_hex(b"x" * 32)})
    with pytest.raises(WrongBrowser):
        told(OFFER, BEGIN, other).check_return(STATE, BROWSER, 99)


@given(st.binary(min_size=32, max_size=32))
def test_a_link_is_read_back(secret: bytes) -> None:
    assert parse_link(link_of("acme", ID, secret)) == ("acme", ID, secret)
    assert parse_secret(b64url(secret)) == secret


@pytest.mark.parametrize(
    "change",
    [
        lambda t, f, s: "",
        lambda t, f, s: f"{t}.{f}",
        lambda t, f, s: f"{t}.{f}.{s}.x",
        lambda t, f, s: f"{t}.{f}.{s}=",
        lambda t, f, s: f"{t}.{f}.{s[:-1]}",
        lambda t, f, s: f"{t.upper()}.{f}.{s}",
        lambda t, f, s: f"{t}.ap_{f[3:]}.{s}",
        lambda t, f, s: f"{t}.{f}x.{s}",
        lambda t, f, s: f"{t}.{f}.{s[:-1]}!",
        lambda t, f, s: f"{t}.{f}.{s}" + "x" * 200,
    ],
)
def test_what_is_no_link_says_no_more_than_that(change: Callable[[str, str, str], str]) -> None:
    with pytest.raises(NotFound, match="opens nothing"):
        parse_link(change("acme", ID, b64url(LINK)))


def test_a_secret_has_one_spelling() -> None:
    text = b64url(b"\xff" * 32)
    assert text.endswith("8")
    with pytest.raises(NotFound):
        parse_secret(text[:-1] + "9")  # the same bytes, two bits of padding set
