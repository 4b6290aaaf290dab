"""How a credential is presented: in the header that the connector names, as it says, and searched for in answers."""

from __future__ import annotations

import base64
import os
from urllib.parse import quote

import pytest

from nomos.catalogue import Auth, OutgoingRequest
from nomos.errors import DestinationRefused, ResponseRefused
from nomos_proxy.destination import Origin
from nomos_proxy.echo import MARK, EchoGuard
from nomos_proxy.exchange import Limits
from nomos_proxy.headers import outgoing_headers
from nomos_proxy.upstream import Upstreams
from nomos_runtime.embedded.upstream import EmbeddedUpstream
from nomos_runtime.secret import Secret

BASIC = Auth(kind="basic", prefix="Basic ")
KEY = Auth(header="x-api-key", prefix="")
BOT = Auth(prefix="Bot ")
GET = OutgoingRequest(method="GET", path="/repos/acme/site")


def sent(auth: Auth, credential: bytes, request: OutgoingRequest = GET) -> dict[bytes, bytes]:
    return dict(outgoing_headers("api.demo.example", Secret(credential), auth, request, ()))


def test_a_user_and_password_are_encoded_as_rfc_7617_says() -> None:
    assert sent(BASIC, b"Aladdin:open-sesame")[b"authorization"] == b"Basic " + base64.b64encode(b"Aladdin:open-sesame")


def test_a_key_stands_in_the_header_that_the_connector_names_and_no_other() -> None:
    headers = sent(KEY, b"k" * 20)
    assert headers[b"x-api-key"] == b"k" * 20
    assert b"authorization" not in headers
    assert sent(BOT, b"t.o.k")[b"authorization"] == b"Bot t.o.k"


@pytest.mark.parametrize(
    ("auth", "credential"),
    [
        (BASIC, b"no-colon"),
        (BASIC, b":password"),
        (BASIC, b"user:"),
        (BASIC, b"user:pass\r\nx: y"),
        (BASIC, "üser:password".encode()),
        (KEY, b"a b"),
        (KEY, b"a\r\nx: y"),
        (KEY, b""),
        (BOT, b"a b"),
    ],
)
def test_a_credential_that_is_not_of_its_kind_is_not_sent(auth: Auth, credential: bytes) -> None:
    with pytest.raises(DestinationRefused):
        sent(auth, credential)


def test_a_connector_cannot_set_the_header_that_its_credential_stands_in() -> None:
    with pytest.raises(DestinationRefused):
        outgoing_headers("api.demo.example", Secret(b"k" * 20), KEY, GET, (("x-api-key", "another"),))


def test_a_form_says_so_and_a_method_without_content_says_that() -> None:
    form = OutgoingRequest(method="POST", path="/v1/x", body=b"a=1", content_type="application/x-www-form-urlencoded")
    assert sent(KEY, b"k" * 20, form)[b"content-type"] == b"application/x-www-form-urlencoded"
    empty = sent(KEY, b"k" * 20, OutgoingRequest(method="POST", path="/v1/x"))
    assert (empty[b"content-length"], b"content-type" in empty) == (b"0", False)
    assert b"content-length" not in sent(KEY, b"k" * 20)


async def test_a_post_without_content_reaches_the_upstream(
    upstreams: Upstreams, upstream: EmbeddedUpstream, origin: Origin, bearer: Secret
) -> None:
    answer = await upstreams.call(
        origin, OutgoingRequest(method="POST", path="/nothing/here"), bearer, Limits(total_seconds=5.0)
    )
    assert answer.status == 404
    assert upstream.seen[0].headers["content-length"] == "0"


def test_of_a_user_and_password_the_password_alone_is_found_in_every_form() -> None:
    password = os.urandom(12).hex().encode()
    guard = EchoGuard(Secret(b"user:" + password))
    for form in (
        password,
        base64.b64encode(b"user:" + password),
        base64.b64encode(b"x" + password),
        password.hex().encode(),
    ):
        cleaned, count = guard.clean(b"[" + form + b"]")
        assert count >= 1
        assert password not in cleaned
        assert MARK in cleaned


@pytest.mark.parametrize("which", ["secret", "token"])
def test_of_a_key_secret_and_token_each_is_found_in_every_form(which: str) -> None:
    """The token of a cloud's credential is sent by itself, so an upstream can repeat it by itself."""
    parts = {name: base64.b64encode(os.urandom(90)) for name in ("secret", "token")}
    guard = EchoGuard(Secret(b"AKIAIOSFODNN7EXAMPLE:" + parts["secret"] + b":" + parts["token"]))
    part = parts[which]
    for form in (
        part,
        quote(part.decode(), safe="").encode(),
        base64.b64encode(part),
        base64.b64encode(b"xy" + part),
        part.hex().encode(),
        part.hex().upper().encode(),
        b":".join(parts.values()),
    ):
        cleaned, count = guard.clean(b"[" + form + b"]")
        assert count >= 1
        assert part not in cleaned
        assert form not in cleaned
        assert MARK in cleaned
    with pytest.raises(ResponseRefused):
        guard.clean(b'"' + b"".join(b"\\u%04x" % byte for byte in part) + b'"')


def test_a_window_over_an_answer_without_a_credential_holds_nothing_back() -> None:
    assert EchoGuard(Secret(b"")).window(None).feed(b"all of it") == (b"all of it", 0)
