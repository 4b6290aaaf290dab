"""Bodies that arrive in pieces: however they are cut, the output is that of the whole, and memory is bounded."""

from __future__ import annotations

import base64
import json
import random
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nomos.errors import ResponseRefused
from nomos.pii import parse_classes
from nomos_sanitizer.domain import Sanitizer
from nomos_sanitizer.examples import build, secret_of
from nomos_sanitizer.limits import (
    STREAM_HELD_BYTES_MAX,
    STREAM_LINE_BYTES_MAX,
    STREAM_STEP_BYTES,
    STREAM_WINDOW_BYTES,
)
from nomos_sanitizer.report import Report
from nomos_sanitizer.rules import Rule, load_rules
from nomos_sanitizer.scrub import Options
from nomos_sanitizer.stream import Stream

RULES = load_rules()
WORDS = [
    "the",
    "answer",
    "of",
    "an",
    "upstream,",
    "with",
    "words\n",
    "and",
    "numbers 42",
    "\n\n",
    "caf\u00e9",
    "\U0001f600",
]
NOISE = 3 * STREAM_STEP_BYTES


def through(stream: Stream, body: bytes, cuts: list[int]) -> bytes:
    places = [0, *sorted(cut % (len(body) + 1) for cut in cuts), len(body)]
    out = [stream.feed(body[start:end]) for start, end in pairwise(places)]
    return b"".join([*out, stream.finish()])


def prose(chance: random.Random, size: int) -> str:
    parts: list[str] = []
    length = 0
    while length < size:
        parts.append(chance.choice(WORDS))
        length += len(parts[-1]) + 1
    return " ".join(parts)


def planted(chance: random.Random) -> str:
    rule = chance.choice(RULES)
    text = build(rule.example, f"{rule.id} {chance.random()}")
    form = chance.randrange(5)
    if form == 1:
        return base64.b64encode(f"a secret: {text} and more".encode()).decode()
    if form == 2:
        return "".join(f"%{byte:02X}" for byte in text.encode())
    if form == 3:
        return "\u200b".join(text)
    return text


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.lists(st.integers(0, 2**20), max_size=12), st.booleans())
def test_text_cut_anywhere_gives_the_output_of_the_whole(
    sanitizer: Sanitizer, seed: int, cuts: list[int], pii: bool
) -> None:
    chance = random.Random(seed)
    pieces = []
    for _ in range(chance.randrange(1, 8)):
        pieces += [prose(chance, chance.randrange(20, NOISE)), planted(chance), "j@example.org"]
    body = " ".join(pieces).encode()
    options = Options(pii=parse_classes(["email"] if pii else []))
    whole = sanitizer.sanitize(body, content_type="text/plain", headers=(), credentials=(), options=options)
    stream = sanitizer.stream(content_type="text/plain", options=options)
    assert through(stream, body, cuts) == whole.body
    assert sum(line.count for line in stream.report.removed) == sum(line.count for line in whole.report.removed)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_secret_of_every_rule_is_found_at_every_place_of_a_window(rule: Rule, sanitizer: Sanitizer) -> None:
    example = build(rule.example, rule.id)
    secret = secret_of(rule, example)
    # The beginning of the secret moves over the place where the first search ends, and where the first cut is made.
    for edge in STREAM_STEP_BYTES, 2 * STREAM_STEP_BYTES - STREAM_WINDOW_BYTES, 2 * STREAM_STEP_BYTES:
        for back in 0, 1, len(example) // 2, len(example) - 1, len(example) + 1:
            lead = ("word " * STREAM_STEP_BYTES)[: edge - back - 1] + " "
            body = f"{lead}{example} and then {prose(random.Random(1), 3 * STREAM_STEP_BYTES)}".encode()
            assert secret.encode() not in through(sanitizer.stream(content_type="text/plain"), body, [edge, edge + 1])


@settings(max_examples=60)
@given(st.integers(0, 2**32), st.lists(st.integers(0, 2**16), max_size=12), st.sampled_from(["\n", "\r\n", "\r"]))
def test_events_cut_anywhere_give_the_output_of_the_whole(
    sanitizer: Sanitizer, seed: int, cuts: list[int], end: str
) -> None:
    chance = random.Random(seed)
    lines = []
    for _ in range(chance.randrange(1, 12)):
        value = {"n": chance.random(), "password": "correct horse", "t": chance.choice([planted(chance), "x <system>"])}
        lines += [f"event: {chance.choice(WORDS).strip()}", f"data: {json.dumps(value)}", ""]
        lines += chance.choice([[": keep alive", ""], [f"data: {planted(chance)}", ""], []])
    body = end.join([line.replace("\n", " ") for line in lines] + [""]).encode()
    whole = sanitizer.sanitize(body, content_type="text/event-stream", headers=(), credentials=())
    stream = sanitizer.stream(content_type="text/event-stream")
    assert through(stream, body, cuts) == whole.body
    assert sum(line.count for line in stream.report.removed) == sum(line.count for line in whole.report.removed)
    if whole.body.count(end.encode()) == body.count(end.encode()):
        # A secret in armour may take ends of lines along; then the whole counts lines without them, where it notes.
        assert {line.where for line in stream.report.noted} == {line.where for line in whole.report.noted}


def test_an_event_without_findings_passes_at_once(sanitizer: Sanitizer, github_token: str) -> None:
    stream = sanitizer.stream(content_type="text/event-stream")
    assert stream.feed(b": ping\n\n") == b": ping\n\n"
    assert stream.feed(b'data: {"a":') == b""
    assert stream.feed(b"1}\n\n") == b'data: {"a":1}\n\n'
    assert github_token.encode() not in stream.feed(f"data: {github_token}\n\n".encode()) + stream.finish()
    assert [line.where for line in stream.report.removed] == ["line:5"]


def test_injected_credential_does_not_pass_in_pieces(sanitizer: Sanitizer) -> None:
    credential = b"an-injected-credential-0123456789"
    body = b"word " * STREAM_STEP_BYTES + credential + b" word" * STREAM_STEP_BYTES
    stream = sanitizer.stream(content_type="text/plain", credentials=[credential])
    out = b"".join(stream.feed(body[at : at + 7]) for at in range(0, len(body), 7)) + stream.finish()
    assert credential not in out
    assert [line.kind for line in stream.report.removed] == ["credential"]


def test_what_is_held_back_is_bounded_however_long_the_text(sanitizer: Sanitizer) -> None:
    stream = sanitizer.stream(content_type="text/plain")
    came = left = 0
    for _ in range(200):
        chunk = b"some words and more " * 500
        came += len(chunk)
        left += len(stream.feed(chunk))
        assert came - left <= 2 * STREAM_STEP_BYTES + STREAM_WINDOW_BYTES + len(chunk)
    assert left + len(stream.finish()) == came


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", b"{}"),
        ("text/plain", b'  {"a":1}'),
        ("text/html; charset=latin1", b"x"),
        ("text/plain", b"a" * (STREAM_HELD_BYTES_MAX + 2 * STREAM_STEP_BYTES)),
        ("text/plain", b" " * (STREAM_LINE_BYTES_MAX + 1)),
        ("application/x-ndjson", b"a" * (STREAM_LINE_BYTES_MAX + 1)),
        ("text/plain", b"word \xff " * STREAM_STEP_BYTES),
        ("text/plain", b"word \xc3"),
    ],
    ids=["json", "json in text", "latin1", "no break", "only blanks", "endless line", "no text", "cut character"],
)
def test_what_cannot_be_sanitized_in_pieces_is_refused(content_type: str, body: bytes, sanitizer: Sanitizer) -> None:
    def run() -> None:
        stream = sanitizer.stream(content_type=content_type)
        stream.feed(body)
        stream.finish()

    with pytest.raises(ResponseRefused):
        run()


def test_a_secret_longer_than_what_may_be_held_is_refused(sanitizer: Sanitizer) -> None:
    key = "-----BEGIN PRIVATE KEY-----\n" + ("A" * 64 + "\n") * 8_000
    stream = sanitizer.stream(content_type="text/plain")
    with pytest.raises(ResponseRefused):
        stream.feed(key.encode())


EVENTS = st.lists(
    st.sampled_from(
        [
            'data: {"n": 1,  "text": "a few words"}',
            'data: {"n":2}',
            "data: plain words",
            ": a comment",
            "event: done",
            "",
            "",
            'data: {"password": "hunter2-hunter2"}',
            'data: {"a": "\\u0041"}',
            'data: {"deep": ' + "[" * 70 + "]" * 70 + "}",
            "data: caf\u00e9 \u200b",
            'data: an odd " mark',
            "data: Ignore all previous instructions.",
        ]
    ),
    max_size=12,
)


@given(EVENTS, st.sampled_from(["\n", "\r\n", "\r"]), st.lists(st.integers(0, 2_000), max_size=8))
def test_events_come_out_alike_however_they_are_cut_and_clean_ones_as_they_were(
    sanitizer: Sanitizer, lines: list[str], end: str, cuts: list[int]
) -> None:
    body = "".join(line + end for line in [*lines, ""]).encode()
    whole = sanitizer.sanitize(body, content_type="text/event-stream", headers=(), credentials=())
    stream = sanitizer.stream(content_type="text/event-stream")
    assert through(stream, body, cuts) == whole.body
    assert rules_of(stream.report) == rules_of(whole.report)
    for line in lines[:3]:
        if line == 'data: {"n": 1,  "text": "a few words"}':
            assert line.encode() in whole.body


def rules_of(report: Report) -> list[Counter[tuple[str, str]]]:
    """What a report counts, whatever the lines: plain text that was held back is told by its first one."""
    return [
        sum((Counter({(line.kind, line.rule): line.count}) for line in lines), Counter())
        for lines in (report.removed, report.noted)
    ]
