"""The injected credential never passes in an answer, in any of the forms that are searched for."""

from __future__ import annotations

import base64
import json
import secrets
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomos.bearer import seal_bearer
from nomos.errors import Malformed, ResponseRefused
from nomos_proxy.echo import MARK, EchoGuard
from nomos_proxy.intake import BearerIntake
from nomos_runtime.secret import Secret

BEARER = "tok_" + secrets.token_hex(12) + "+/=~"
GUARD = EchoGuard(Secret(BEARER.encode()))
PLAIN = BEARER.encode()


def _escaped(text: str) -> bytes:
    return "".join(f"\\u{ord(c):04x}" for c in text).encode()


@pytest.mark.parametrize("around", [b'{"a":"%s"}', b"%s", b"x%sy", b"<p>%s</p>"])
@pytest.mark.parametrize(
    "form",
    [PLAIN, quote(BEARER, safe="").encode(), PLAIN.hex().encode(), PLAIN.hex().upper().encode()],
    ids=["verbatim", "url", "hex", "HEX"],
)
def test_a_plain_form_of_the_credential_is_cut_out(form: bytes, around: bytes) -> None:
    cleaned, count = GUARD.clean(around.replace(b"%s", form))
    assert count == 1
    assert form not in cleaned
    assert MARK in cleaned


@pytest.mark.parametrize("shift", [0, 1, 2])
@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
def test_base64_of_the_credential_is_cut_out_in_every_alignment(shift: int, encode: object) -> None:
    assert callable(encode)
    content = encode(b"z" * shift + PLAIN + b"zz")
    cleaned, count = GUARD.clean(b'{"blob":"' + content + b'"}')
    assert count >= 1
    assert content not in cleaned


@pytest.mark.parametrize(
    "content",
    [
        _escaped(BEARER),
        BEARER.replace("_", "\\u005f").encode(),
        "".join(f"&#{ord(c)};" for c in BEARER).encode(),
        "".join(f"%{ord(c):02x}" for c in BEARER).encode(),
        "\u200b".join(BEARER).encode(),
        json.dumps(json.dumps({"k": BEARER.replace("_", "\u2060_")})).encode(),
        "".join(f"%25{ord(c):02x}" for c in BEARER).encode(),
    ],
    ids=["json", "json-partly", "html", "percent", "zero-width", "json-in-json", "percent-twice"],
)
def test_an_encoded_echo_that_cannot_be_cut_out_withholds_the_answer(content: bytes) -> None:
    with pytest.raises(ResponseRefused):
        GUARD.clean(b'{"note":"' + content + b'"}')


@given(st.binary(max_size=400))
def test_an_answer_without_the_credential_is_unchanged(content: bytes) -> None:
    assert GUARD.clean(content) == (content, 0)


@given(st.binary(max_size=60), st.binary(max_size=60), st.integers(1, 3))
def test_the_credential_never_remains_whatever_surrounds_it(before: bytes, after: bytes, times: int) -> None:
    try:
        cleaned, count = GUARD.clean(before + (PLAIN + after) * times)
    except ResponseRefused:
        return
    assert PLAIN not in cleaned
    assert count >= times


def test_the_guard_does_not_show_the_credential() -> None:
    assert BEARER not in repr(GUARD)


def test_a_bearer_crosses_the_bus_sealed_and_opens_only_at_the_proxy() -> None:
    intake, other = BearerIntake(Secret(secrets.token_bytes(32))), BearerIntake(Secret(secrets.token_bytes(32)))
    sealed = seal_bearer(intake.public_key, BEARER)
    assert BEARER not in sealed
    assert BEARER.encode() not in base64.urlsafe_b64decode(sealed)
    assert intake.open(sealed).reveal() == PLAIN
    with pytest.raises(Malformed):
        other.open(sealed)


def test_every_replica_has_the_same_sealing_key() -> None:
    key = secrets.token_bytes(32)
    assert BearerIntake(Secret(key)).public_key == BearerIntake(Secret(key)).public_key


@given(st.text(max_size=200))
def test_what_is_no_sealed_box_is_refused_as_malformed(text: str) -> None:
    with pytest.raises(Malformed):
        BearerIntake(Secret(bytes(32))).open(text)


@pytest.mark.parametrize("key", ["", "not base64!", "AAAA"])
def test_sealing_to_something_that_is_no_key_is_refused(key: str) -> None:
    with pytest.raises(Malformed):
        seal_bearer(key, BEARER)
