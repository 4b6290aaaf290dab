"""The injected credential never leaves, in any form that is listed."""

from __future__ import annotations

import base64
import json
from urllib.parse import quote, unquote_to_bytes

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nomos.errors import LimitExceeded, ResponseRefused
from nomos_sanitizer.domain import Sanitized, Sanitizer
from nomos_sanitizer.encodings import base64_forms
from nomos_sanitizer.limits import CREDENTIAL_BYTES_MAX, CREDENTIAL_BYTES_MIN, CREDENTIALS_MAX

from .conftest import Clean

CREDENTIAL = b"opaque/cred+ential=7~0.x"


def every_byte(credential: bytes) -> str:
    return "".join(f"%{byte:02x}" for byte in credential)


def forms(credential: bytes) -> dict[str, str]:
    """Texts in which a credential stands, by the name of the encoding."""
    texts = {
        "url-encoded": quote(credential, safe=""),
        "every byte url-encoded": every_byte(credential),
        "twice url-encoded": quote(quote(credential, safe=""), safe=""),
        "hexadecimal": credential.hex(),
        "upper-case hexadecimal": credential.hex().upper(),
        "twice base64": base64.b64encode(base64.b64encode(b"ab:" + credential)).decode(),
    }
    for shift in range(3):
        plain = b"u" * shift + credential + b":pw"
        texts[f"base64 at {shift}"] = base64.b64encode(plain).decode()
        texts[f"url-safe base64 at {shift}"] = base64.urlsafe_b64encode(plain).decode().rstrip("=")
    return texts


FORMS = forms(CREDENTIAL) | {
    "verbatim": CREDENTIAL.decode(),
    "entities": "".join(f"&#{byte};" for byte in CREDENTIAL),
    "escapes": "".join(f"\\u{byte:04x}" for byte in CREDENTIAL),
    "split": "\u200b".join(CREDENTIAL.decode()),
}


def leaks(credential: bytes, result: Sanitized) -> bool:
    text = result.body + b"\n" + repr(result.headers).encode()
    return (
        credential in text
        or credential.hex().encode() in text.lower()
        or quote(credential, safe="").encode() in text
        or credential in unquote_to_bytes(text)
        or any(form in text for form in base64_forms(credential))
    )


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_credential_is_redacted_in_this_form(form: str, sanitizer: Sanitizer) -> None:
    for body, content_type in (
        (json.dumps({"echo": f"got {form} back", form: 1}), "application/json"),
        (f"got {form} back", "text/plain"),
        (f"<b title='{form}'>", "text/html"),
    ):
        result = sanitizer.sanitize(
            body.encode(), content_type=content_type, headers=(("X-Echo", form),), credentials=[CREDENTIAL]
        )
        assert not leaks(CREDENTIAL, result)
        kinds = {(r.kind, r.rule) for r in result.report.removed}
        assert ("credential", "credential") in kinds or ("secret", "encoding-depth") in kinds


def test_text_around_encoded_credential_survives(clean_json: Clean) -> None:
    encoded = base64.b64encode(b"user-name:" + CREDENTIAL + b":tail").decode()
    body = json.loads(clean_json({"v": f"a {encoded} b"}, CREDENTIAL).body)
    head, middle, tail = body["v"].split(" ")
    assert (head, tail) == ("a", "b")
    assert base64.b64decode(middle) == b"user-name:[redacted:credential]:tail"


def test_base64_that_begins_inside_a_path_is_found(clean_text: Clean) -> None:
    for lead in ("/p", "/pa", "/pat", "/path"):
        text = f"https://example.com{lead}/{base64.b64encode(CREDENTIAL).decode().rstrip('=')}"
        assert not leaks(CREDENTIAL, clean_text(text, CREDENTIAL))


def test_wrapped_base64_is_found(clean_json: Clean) -> None:
    wrapped = base64.encodebytes(b"some file before it " * 9 + CREDENTIAL + b" and after it " * 9).decode()
    body = json.loads(clean_json({"content": wrapped}, CREDENTIAL).body)
    assert CREDENTIAL not in base64.b64decode(body["content"])
    assert base64.b64decode(body["content"]).endswith(b" and after it ")


def test_credential_of_digits_is_found_as_a_json_number(clean_json: Clean) -> None:
    assert clean_json(b'{"id":1234567890123}', b"1234567890123").body == b'{"id":"[redacted:credential]"}'


def test_each_of_several_credentials_is_found(clean_text: Clean) -> None:
    result = clean_text("first-secret second-secret", b"first-secret", b"second-secret")
    assert result.body == b"[redacted:credential] [redacted:credential]"


def test_credential_that_is_part_of_a_marker_refuses_the_answer(clean_text: Clean) -> None:
    with pytest.raises(ResponseRefused):
        clean_text("the word credential", b"credential")


def test_credential_across_json_structure_refuses_the_answer(clean_json: Clean) -> None:
    with pytest.raises(ResponseRefused):
        clean_json(b'["first","second"]', b'first","second')


@pytest.mark.parametrize(
    "credentials",
    [
        [b"x" * (CREDENTIAL_BYTES_MIN - 1)],
        [b"x" * (CREDENTIAL_BYTES_MAX + 1)],
        [b"x" * 9] * (CREDENTIALS_MAX + 1),
        [b""],
    ],
    ids=["too short", "too long", "too many", "empty"],
)
def test_credential_outside_the_limits_is_refused(credentials: list[bytes], clean_text: Clean) -> None:
    with pytest.raises(LimitExceeded):
        clean_text("body", *credentials)


TOKENS = st.text(
    alphabet="ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~+/=", min_size=8, max_size=60
).map(str.encode)


@given(TOKENS | st.binary(min_size=8, max_size=40), st.text(max_size=10), st.text(max_size=10), st.integers(0, 30))
@example(b"00000000", "", "0", 0)
def test_injected_credential_never_appears(
    sanitizer: Sanitizer, credential: bytes, before: str, after: str, pick: int
) -> None:
    texts = list(forms(credential).values())
    text = before + texts[pick % len(texts)] + after
    for body, content_type in ((json.dumps({"a": [text], text: 0}), "application/json"), (text, "text/plain")):
        try:
            result = sanitizer.sanitize(
                body.encode("utf-8", "replace"), content_type=content_type, headers=(), credentials=[credential]
            )
        except ResponseRefused:
            continue
        assert not leaks(credential, result)
