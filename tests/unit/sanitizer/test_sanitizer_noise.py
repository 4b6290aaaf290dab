"""Noise that need not be searched byte by byte: what is passed over could not have held anything."""

from __future__ import annotations

import base64
import json
import platform
import random
import re
from collections.abc import Set

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nomos_sanitizer import encodings, engine, memory, readings
from nomos_sanitizer.budget import Budget
from nomos_sanitizer.credentials import Needles
from nomos_sanitizer.domain import Sanitizer
from nomos_sanitizer.edits import Edit
from nomos_sanitizer.engine import Search, Spans
from nomos_sanitizer.examples import build
from nomos_sanitizer.limits import BASE64_RUN_MIN
from nomos_sanitizer.matching import GATE_BASE64, Matcher
from nomos_sanitizer.rules import Rule, load_rules
from nomos_sanitizer.scrub import Scrubber
from nomos_sanitizer.shapes import ORDINARY, RUN_MIN, shape

RULES = load_rules()
EVERY_RULE = pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
GATED = [rule for rule in RULES if rule.gate]


def longest_run(data: bytes) -> int:
    return max(map(len, re.findall(b"[" + re.escape(bytes(ORDINARY)) + b"]*", data)))


@EVERY_RULE
def test_every_match_of_a_rule_has_the_shape_that_is_worked_out_from_its_pattern(rule: Rule) -> None:
    certain = shape(rule.match)

    @settings(max_examples=25)
    @given(st.from_regex(re.compile(rule.match), fullmatch=True))
    def check(match: bytes) -> None:
        assert longest_run(match) >= certain.run
        assert not certain.is_ordinary or ORDINARY.issuperset(match)
        head = match[: certain.head] + match[len(match) - certain.tail :]
        assert ORDINARY.issuperset(head)

    check()
    example = build(rule.example, rule.id).encode()
    assert longest_run(example) >= certain.run


@pytest.mark.parametrize(
    ("pattern", "is_ordinary", "head", "tail", "run"),
    [
        (rb"abc", True, 3, 3, 3),
        (rb"a[^b]c", False, 1, 1, 1),
        (rb"ab\ncde", False, 2, 3, 3),
        (rb"x{3}(?:yy|zzz)?", True, 3, 3, 3),
        (rb"(?:ab|c\x00)d{2,}", False, 1, 2, 2),
        (rb"[\x00a]{0,2}bcd[^\r\n]{1,4}", False, 0, 0, 3),
        (rb"^(?i:k)\d\s?$", False, 2, 0, 2),
        (rb"a.", False, 1, 0, 1),
    ],
)
def test_shape_of_a_pattern(pattern: bytes, is_ordinary: bool, head: int, tail: int, run: int) -> None:
    found = shape(pattern)
    assert (found.is_ordinary, found.head, found.tail, found.run) == (is_ordinary, head, tail, run)


def test_a_pattern_that_cannot_be_told_is_refused() -> None:
    with pytest.raises(ValueError, match="expected"):
        shape(rb"(a)\1")
    with pytest.raises(ValueError, match="class"):
        shape(rb"[\w]")


@EVERY_RULE
def test_a_rule_without_a_gate_fires_where_it_finds_a_secret_and_nowhere_else(rule: Rule) -> None:
    search = Search([(0, rule.detection)])
    spans = Spans(rule.span, 1)
    chance = random.Random(rule.id)
    for number in range(20):
        parts = [build(chance.choice([rule.example, rule.near]), f"{rule.id} {number} {part}") for part in range(2)]
        text = chance.choice(["", "a", "0", "+", "/", '"', "\n", "=", "_"]).join(["", *parts, ""]).encode()
        assert bool(search.hits(text)) == bool(list(spans.all(text))) or rule.gate


@pytest.mark.parametrize("rule", GATED, ids=lambda rule: rule.id)
def test_a_gate_opens_for_every_match_of_its_rule(rule: Rule) -> None:
    gate = Search([(0, rule.gate.encode())])

    @settings(max_examples=200)
    @given(st.from_regex(re.compile(rule.match), fullmatch=True))
    def check(match: bytes) -> None:
        assert gate.hits(b"." + match)

    check()


@given(st.lists(st.tuples(st.sampled_from(RULES), st.integers(0, 9_000), st.booleans()), max_size=6), st.integers())
def test_a_long_text_that_is_searched_in_pieces_has_all_that_is_found_at_once(
    sanitizer: Sanitizer, planted: list[tuple[Rule, int, bool]], seed: int
) -> None:
    words = b"a glpat- word ghp_ SCW of sk- text eyJ " * 300
    text = bytearray(words)
    for rule, at, is_whole in planted:
        text[at:at] = build(rule.example if is_whole else rule.near, f"{seed}").encode()
    data = bytes(text)
    together = sanitizer._matcher._together
    at_once: list[int] = together.hits_at_once(data, ())
    assert sorted(set(together.hits(data))) == sorted(set(at_once))


@EVERY_RULE
def test_a_secret_across_the_border_of_two_pieces_is_found(rule: Rule, sanitizer: Sanitizer) -> None:
    example = build(rule.example, rule.id).encode()
    number = RULES.index(rule)
    for inside in (0, 1, len(example) // 2, len(example) - 1):
        # The token before it makes the search go on in pieces.
        lead = b"ghp_" + b"a" * 20 + b" "
        text = lead.ljust(engine._PIECE_BYTES - inside) + example + b" " * engine._PIECE_BYTES
        assert number in sanitizer._matcher.fired(text)


SYMBOLS = st.text(alphabet="abzAZ09+/-_", min_size=8, max_size=90).map(str.encode)


@given(st.lists(SYMBOLS, min_size=1, max_size=8))
def test_runs_that_are_read_together_say_what_each_says(runs: list[bytes]) -> None:
    together = readings.read_all(runs)
    want = sorted(plain for run in runs for plain in encodings.base64_readings(run))
    assert sorted(together.at(number) for number in range(len(together.starts))) == want
    for start, end in zip(together.starts.tolist(), together.ends.tolist(), strict=True):
        assert together.data[end : end + 1] == b"\n"
        assert not start or together.data[start - 1 : start] == b"\n" or together.data.find(b"\n", 0, start) < 0


class Complete(Scrubber):
    """The search that passes over nothing."""

    def prime(self, texts: Set[str]) -> None:
        """Nothing is known of any string before it is searched."""

    def _base64(self, data: bytes, depth: int, direct: object, *, short_too: bool) -> list[Edit]:
        edits: list[Edit] = []
        for start, end in encodings.base64_runs(data, short_too=short_too):
            if end - start >= BASE64_RUN_MIN or self._is_read(data[start:end]):
                edits += encodings.base64_edits(data, start, end, lambda plain: self._decoded(plain, depth))
        return edits


def percent(data: bytes) -> bytes:
    return b"".join(b"%%%02x" % byte for byte in data)


def entities(data: bytes) -> bytes:
    return b"".join(b"&#%d;" % byte for byte in data)


def octal(data: bytes) -> bytes:
    return b"".join(b"\\%03o" % byte for byte in data)


def as_it_is(data: bytes) -> bytes:
    return data


def split(data: bytes) -> bytes:
    return b"\xf0\x80".join(data[at : at + 1] for at in range(len(data)))


def in_escapes_split(data: bytes) -> bytes:
    return b"\xff".join(percent(data[at : at + 1]) for at in range(len(data)))


def twice(data: bytes) -> bytes:
    return percent(percent(data))


def in_base64(data: bytes) -> bytes:
    return base64.b64encode(data).rstrip(b"=")


def in_lines(data: bytes) -> bytes:
    run = base64.b64encode(b"text: " + data)
    return b"Z2hw\xff" + b"\n".join(run[at : at + 20] for at in range(0, len(run), 20))


def in_escaped_lines(data: bytes) -> bytes:
    return in_lines(data).replace(b"\n", b"%0a")


HIDINGS = st.sampled_from(
    [as_it_is, percent, entities, octal, split, in_escapes_split, twice, in_base64, in_lines, in_escaped_lines]
)
SHORT = [
    b"://:abc@",
    b"x://u:pw1@",
    b"curl \xff\xfe -u \xc3\xff:ab\x80c",
    b"authorization:basic abcdefgh",
    b"password=a1bcdefgh2",
    b"xoxb-1234567890",
    b"%25%34%31",
    b"&foo;",
    b"\\\\\\\\n",
    b"\\ud83d\\ude00",
    b'{"token":"x"}',
    b"\xe2\x80\x8b",
    b"A" * 15,
    b"B" * 40 + b"\n",
    b"%41" * 9,
]
SECRETS = st.builds(lambda rule, seed: build(rule.example, f"{seed}").encode(), st.sampled_from(RULES), st.integers())
FRAGMENTS = st.builds(lambda hide, text: hide(text), HIDINGS, SECRETS | st.sampled_from(SHORT))
#: Bytes of binaries of different kinds: any, few that can be read, no two that UTF-8 forbids, text.
KINDS = st.sampled_from([bytes(range(256)), bytes(range(0x80, 256)) + b"%", bytes(range(0xC0)), b"ab \n\0", b"\0"])


def body_of(kind: bytes, seed: int, size: int, fragments: list[bytes]) -> bytes:
    chance = random.Random(seed)
    plain = bytes(chance.choices(kind, k=size))
    for fragment in fragments:
        at = chance.randrange(len(plain) + 1)
        plain = plain[:at] + fragment + plain[at:]
    return b"a/" * chance.randrange(3) + base64.b64encode(plain)


def spans(scrubber: Scrubber, data: bytes) -> list[tuple[int, int]]:
    return [(edit.start, edit.end) for edit in scrubber.whole(data, 0)]


@settings(max_examples=400)
@given(KINDS, st.integers(0, 2**32), st.integers(3_100, 6_000), st.lists(FRAGMENTS, max_size=2))
def test_in_a_long_run_of_base64_is_found_what_the_complete_search_finds(
    sanitizer: Sanitizer, kind: bytes, seed: int, size: int, fragments: list[bytes]
) -> None:
    body = body_of(kind, seed, size, fragments)
    fast = Scrubber(sanitizer._matcher, Needles(()), Budget(len(body)))
    slow = Complete(sanitizer._matcher, Needles(()), Budget(20 * len(body)))
    assert spans(fast, body) == spans(slow, body)


@settings(max_examples=150)
@given(KINDS, st.integers(0, 2**32), st.lists(FRAGMENTS, max_size=2))
def test_in_many_runs_of_base64_is_found_what_the_complete_search_finds(
    sanitizer: Sanitizer, kind: bytes, seed: int, fragments: list[bytes]
) -> None:
    chance = random.Random(seed)
    bodies = [body_of(kind, chance.randrange(2**32), chance.randrange(30, 80), []) for _ in range(80)]
    for fragment in fragments:
        bodies[chance.randrange(len(bodies))] = body_of(kind, chance.randrange(2**32), chance.randrange(40), [fragment])
    body = b"\n\n".join(bodies)
    fast = Scrubber(sanitizer._matcher, Needles(()), Budget(len(body)))
    slow = Complete(sanitizer._matcher, Needles(()), Budget(20 * len(body)))
    assert spans(fast, body) == spans(slow, body)


def told(matcher: Matcher, plain: bytes) -> list[bytes] | None:
    return readings.doubtful(readings.read_all([base64.b64encode(plain).rstrip(b"=")]), matcher)


def test_noise_is_told_to_be_noise(sanitizer: Sanitizer) -> None:
    kept = [told(sanitizer._matcher, random.Random(seed).randbytes(6_000)) for seed in range(20)]
    assert kept.count([]) > 15


@pytest.mark.parametrize(
    "fragment",
    [
        b"A" * (RUN_MIN - 1) + b"%0a" + b"B" * 20,
        b"A" * RUN_MIN + b"\n",
        b"://:abc@",
        b"%3a//:abc@",
        b"curl \xff -u \xc3\xff:ab\x80c",
        b"curl%20\xff -u \xc3\xff:ab\x80c",
        base64.b64encode(b"://:ghp_@"),
    ],
)
def test_noise_with_something_in_it_is_looked_at(sanitizer: Sanitizer, fragment: bytes) -> None:
    noise = bytes(random.Random(1).choices(range(0xC0, 0x100), k=6_000))
    assert told(sanitizer._matcher, noise) == []
    # Of its four readings one is whole, which is what is looked at, or all are.
    kept = told(sanitizer._matcher, noise + fragment + noise)
    assert kept is None or noise + fragment + noise in kept


@pytest.mark.parametrize("unit", [b"glpat-", b"SCW", b"duffel_live_", b"ghp_", b"sk-"])
def test_a_run_that_is_removed_as_it_stands_is_not_read_as_base64(sanitizer: Sanitizer, unit: bytes) -> None:
    body = unit * (200_000 // len(unit))
    scrubber = Scrubber(sanitizer._matcher, Needles(()), Budget(len(body)))
    runs_before = scrubber._budget._runs
    assert GATE_BASE64 in sanitizer._matcher.fired(body)
    assert len(spans(scrubber, body)) == 1
    assert scrubber._budget._runs == runs_before


@pytest.mark.timeout(60)
def test_a_body_of_nothing_but_beginnings_does_not_hold_the_search(sanitizer: Sanitizer) -> None:
    # It takes less than a second of the processor, and took two minutes when Hyperscan looked at it as one piece.
    body = b"SCW" * (8 * 1024 * 1024 // 3)
    result = sanitizer.sanitize(body, content_type="text/plain", headers=(), credentials=())
    assert len(result.body) < 100


@pytest.mark.parametrize("count", [3, 300])
def test_beginnings_of_secrets_in_base64_without_a_secret_are_no_reason_to_write_a_body_anew(
    sanitizer: Sanitizer, github_token: str, count: int
) -> None:
    strings = [f"Z2hwX2{number:03} word" for number in range(count)]
    body = json.dumps(strings, separators=(",", ":")).encode()
    assert sanitizer.sanitize(body, content_type="application/json", headers=(), credentials=()).body == body
    hidden = base64.b64encode(f"ghp {github_token}".encode()).decode()
    body = json.dumps([*strings, hidden]).encode()
    result = sanitizer.sanitize(body, content_type="application/json", headers=(), credentials=())
    assert [(line.rule, line.where) for line in result.report.removed] == [("github-token", f"/{count}")]


def test_freed_memory_is_kept_where_the_c_library_can() -> None:
    assert memory.keep_freed() == (platform.libc_ver()[0] == "glibc")
