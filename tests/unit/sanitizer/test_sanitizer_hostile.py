"""Hostile answers: whatever an upstream sends, the work is bounded and the outcome is an answer or a refusal."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomos.errors import Malformed, ResponseRefused
from nomos_sanitizer.budget import Budget
from nomos_sanitizer.domain import Sanitizer
from nomos_sanitizer.edits import RANK_RULES, Found, apply, merge, opaque
from nomos_sanitizer.escapes import unescape
from nomos_sanitizer.limits import BODY_BYTES_MAX, ENCODING_DEPTH_MAX, ESCAPES_MAX, REPORT_LINES_MAX, SPANS_MAX

from .conftest import Clean

MEDIA = st.sampled_from(
    ["", "application/json", "text/html", "text/plain; charset=latin1", "text/event-stream", "image/png", "; charset"]
)
FRAGMENTS = st.lists(
    st.sampled_from(
        [
            *rb'{ } [ ] " : , \ \u00 \ud83d % %25 %67 &#x &amp; gh p_ Z2hw eyJ ://u: @ password token ='.split(b" "),
            *(b" ", b"\n", b"\0", b"A" * 20, b"b" * 50, b"-----BEGIN PRIVATE KEY-----", b"\xff", b"\xed\xa0\x80"),
            *("\u200b".encode(), "\U000e0041".encode()),
        ]
    ),
    max_size=25,
).map(b"".join)


def outcome(sanitizer: Sanitizer, body: bytes, content_type: str) -> bytes | None:
    try:
        result = sanitizer.sanitize(
            body, content_type=content_type, headers=(("x", body.decode("latin-1")),), credentials=[b"injected-token"]
        )
    except (ResponseRefused, Malformed):
        return None
    msgspec.json.encode(result.report)
    return result.body


@given(st.binary(max_size=200) | FRAGMENTS, MEDIA)
def test_any_bytes_give_an_answer_that_settled_or_a_refusal(
    sanitizer: Sanitizer, body: bytes, content_type: str
) -> None:
    once = outcome(sanitizer, body, content_type)
    if once is not None:
        again = sanitizer.sanitize(once, content_type=content_type, headers=(), credentials=[b"injected-token"])
        assert again.body == once
        assert again.report.is_clean


@given(st.text(alphabet="abc XYZ.,:;!?\n'()\u00e4\u03b1\u4e2d\U0001f600", max_size=120))
def test_clean_text_is_unchanged(sanitizer: Sanitizer, text: str) -> None:
    for content_type in ("text/plain", "text/html"):
        result = sanitizer.sanitize(text.encode(), content_type=content_type, headers=(), credentials=())
        assert result.body == text.encode()
        assert result.report.is_clean


def test_secret_under_many_encodings_is_found_or_its_text_is_redacted(clean_text: Clean, github_token: str) -> None:
    text = github_token
    for depth in range(2 * ENCODING_DEPTH_MAX):
        text = (
            "".join(f"%{byte:02X}" for byte in text.encode()) if depth % 2 else base64.b64encode(text.encode()).decode()
        )
        result = clean_text(text)
        assert not result.report.is_clean
        assert text not in result.body.decode()


def nested(value: object, levels: int) -> object:
    for _ in range(levels):
        value = {"next": json.dumps(value)}
    return value


@pytest.mark.parametrize("levels", range(2 * ENCODING_DEPTH_MAX))
def test_json_inside_json_is_read_or_redacted_at_every_depth(clean_json: Clean, levels: int) -> None:
    result = clean_json(nested({"password": "correct horse"}, levels))
    assert b"correct horse" not in result.body
    assert not result.report.is_clean


@pytest.mark.parametrize("levels", range(2 * ENCODING_DEPTH_MAX))
def test_base64_of_json_is_read_or_redacted_at_every_depth(clean_json: Clean, levels: int) -> None:
    text = json.dumps({"password": "correct horse battery staple"})
    for _ in range(levels):
        text = base64.b64encode(text.encode()).decode()
    assert text not in clean_json({"next": text}).body.decode()


@pytest.mark.parametrize("levels", range(2 * ENCODING_DEPTH_MAX))
def test_what_stands_too_deep_to_be_read_is_not_taken_for_clean_elsewhere(clean_json: Clean, levels: int) -> None:
    text = json.dumps({"password": "correct horse"})
    body = clean_json({"deep": nested({"next": text}, levels), "plain": text}).body
    assert b"correct horse" not in body


@pytest.mark.parametrize(
    "grow",
    [
        lambda size: b"%41" * (size // 3),
        lambda size: b"&#65;" * (size // 5),
        lambda size: b"%2541" * (size // 5),
        lambda size: "\u200b".encode() * (size // 3),
        lambda size: "a\u200b".encode() * (size // 4),
        lambda size: b"ghp_" + b"a" * size,
        lambda size: b"ghp_" * (size // 4),
        lambda size: (b"ghp_" + b"a" * 36 + b" ") * (size // 41),
        lambda size: b"ey" * (size // 2),
        lambda size: b"eyAAAAAAAAAAA." * (size // 14),
        lambda size: b"x://" * (size // 4),
        lambda size: b"-----BEGIN PRIVATE KEY-----" * (size // 27),
        lambda size: b"Zm9v" * (size // 4),
        lambda size: b"Z2hwXw" * (size // 6),
        lambda size: b"[" * size,
        lambda size: b"{" * size,
        lambda size: b'{"a":' * (size // 5),
        lambda size: b'["' + b"\\" * (size // 2 * 2) + b'"]',
        lambda size: b'["' + b"\\u0041" * (size // 6) + b'"]',
        lambda size: b"[" + b'"a%41",' * (size // 7) + b"1]",
        lambda size: b"[" + b'{"token":"x1"},' * (size // 15) + b"1]",
        lambda size: b'{"' + b"a" * size + b'":' + b"9" * size + b"}",
        lambda size: b"password=1" * (size // 10),
        lambda size: b"\0" * size,
    ],
)  # fmt: skip
def test_large_hostile_body_gives_an_answer_or_a_refusal(grow: Callable[[int], bytes], sanitizer: Sanitizer) -> None:
    body = grow(200_000)
    for content_type in ("application/json", "text/plain"):
        with suppress(ResponseRefused):
            sanitizer.sanitize(body, content_type=content_type, headers=(), credentials=[b"injected-token"])


def test_too_many_places_to_remove_refuse_the_answer(clean_text: Clean, github_token: str) -> None:
    with pytest.raises(ResponseRefused):
        clean_text(f"{github_token} " * (SPANS_MAX + 1))


def test_too_many_escapes_refuse_the_answer(clean_text: Clean) -> None:
    with pytest.raises(ResponseRefused):
        clean_text("%41 " * (ESCAPES_MAX + 1))


def test_work_beyond_the_budget_is_refused() -> None:
    with pytest.raises(ResponseRefused):
        Budget(1).look(BODY_BYTES_MAX)


def test_report_stays_bounded_and_counts_what_it_leaves_out(clean_json: Clean) -> None:
    many = REPORT_LINES_MAX + 50
    report = clean_json([{"password": f"secret {number}"} for number in range(many)]).report
    assert len(report.removed) <= REPORT_LINES_MAX + 1
    assert sum(removal.count for removal in report.removed) == many


def test_threads_do_not_share_scratch_space(sanitizer: Sanitizer, github_token: str) -> None:
    body = json.dumps({"a": [f"x {github_token}"] * 50}).encode()
    results: set[bytes] = set()

    def work() -> None:
        for _ in range(20):
            results.add(sanitizer.sanitize(body, content_type="", headers=(), credentials=()).body)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 1
    assert github_token.encode() not in results.pop()


SPANS = st.lists(st.tuples(st.integers(0, 40), st.integers(1, 10), st.integers(0, 5)), max_size=8)


@given(st.binary(min_size=50, max_size=50), SPANS)
def test_merged_edits_are_apart_and_remove_all_that_each_would(data: bytes, spans: list[tuple[int, int, int]]) -> None:
    edits = [opaque((at, at + size), Found("secret", f"r{rank}"), RANK_RULES + rank) for at, size, rank in spans]
    merged = merge(edits)
    assert all(left.end <= right.start for left, right in pairwise(merged))
    covered = {at for edit in merged for at in range(edit.start, edit.end)}
    assert covered == {at for edit in edits for at in range(edit.start, edit.end)}
    kept = bytes(byte for at, byte in enumerate(data) if at not in covered)
    assert len(apply(data, merged)) == len(kept) + sum(len(edit.text) for edit in merged)


@given(st.binary(max_size=40) | FRAGMENTS)
def test_unescaping_maps_every_byte_back(data: bytes) -> None:
    view = unescape(data, Budget(len(data)))
    reach = 0
    for at in range(len(view.data)):
        start, end = view.origin(at, at + 1)
        assert 0 <= start < end <= len(data)
        assert start >= reach or end == reach
        reach = max(reach, end)
