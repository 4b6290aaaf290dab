"""The search for the credential in a body that comes in pieces: however it is cut, the outcome is that of the whole."""

from __future__ import annotations

import base64
from itertools import pairwise
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomos.errors import ResponseRefused
from nomos_proxy.echo import MARK, EchoGuard
from nomos_runtime.secret import Secret

PLAIN = "a+b/c-" + "q7" * 12
GUARD = EchoGuard(Secret(PLAIN.encode()))
FORMS = [
    PLAIN,
    quote(PLAIN, safe=""),
    PLAIN.encode().hex(),
    PLAIN.encode().hex().upper(),
    base64.b64encode(b"x" + PLAIN.encode() + b"y").decode(),
]
CUTS = st.lists(st.integers(0, 5_000), max_size=12)
FILLER = st.text(alphabet='abc \n{}",.:&%', max_size=300)


def through(body: bytes, cuts: list[int], boundary: bytes | None) -> tuple[bytes, int]:
    window, places = GUARD.window(boundary), [0, *sorted(cut % (len(body) + 1) for cut in cuts), len(body)]
    out, total = b"", 0
    for start, end in pairwise(places):
        cleaned, count = window.feed(body[start:end])
        out, total = out + cleaned, total + count
    return out + window.finish(), total


@given(FILLER, st.sampled_from(FORMS), FILLER, CUTS, st.sampled_from([None, b"\n"]))
def test_a_credential_is_found_however_the_body_is_cut(
    before: str, form: str, after: str, cuts: list[int], boundary: bytes | None
) -> None:
    body = f"{before} {form} {after}".encode()
    assert through(body, cuts, boundary) == GUARD.clean(body)


@given(FILLER, CUTS)
def test_a_body_without_it_is_unchanged(text: str, cuts: list[int]) -> None:
    assert through(text.encode(), cuts, b"\n") == (text.encode(), 0)


@given(st.sampled_from(["".join(f"\\u{ord(c):04x}" for c in PLAIN), "".join(f"&#{ord(c)};" for c in PLAIN)]), CUTS)
def test_a_form_that_cannot_be_cut_out_is_refused_however_it_is_cut(form: str, cuts: list[int]) -> None:
    with pytest.raises(ResponseRefused):
        through(f"data: {form}\n\n".encode(), cuts, b"\n")


def test_a_line_leaves_at_once_and_a_text_without_lines_is_held_back_as_far_as_it_must_be() -> None:
    lines, text = GUARD.window(b"\n"), GUARD.window(None)
    assert lines.feed(b"data: one\n\ndata: tw") == (b"data: one\n\n", 0)
    assert lines.feed(b"o\n\n") == (b"data: two\n\n", 0)
    long = b"x" * (GUARD.longest + 100)
    assert len(text.feed(long)[0]) == 100
    assert text.finish() == long[100:]


def test_how_often_it_stood_there_is_counted_once() -> None:
    body = b" ".join([PLAIN.encode()] * 5) + b"\n"
    cleaned, count = through(body, list(range(0, len(body), 7)), None)
    assert count == 5
    assert cleaned.count(MARK) == 5
