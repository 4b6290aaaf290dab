"""What is done fast says what the slow way says: no short cut may find less than the search itself would."""

from __future__ import annotations

import base64
import hashlib
import json
import random
import re
import tracemalloc
import unicodedata
from collections.abc import Set
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import re2
from hypothesis import given, settings
from hypothesis import strategies as st

from nomos.errors import ResponseRefused
from nomos_sanitizer import bodies, encodings, escape_arrays, escapes, invisible, plain
from nomos_sanitizer.budget import Budget
from nomos_sanitizer.credentials import Needles
from nomos_sanitizer.domain import Sanitizer
from nomos_sanitizer.edits import View
from nomos_sanitizer.engine import Search, Spans, bytes_options
from nomos_sanitizer.examples import build
from nomos_sanitizer.lexed import Lexed
from nomos_sanitizer.limits import BASE64_RUN_MIN, ESCAPES_MAX, INVISIBLE_MAX, JSON_DEPTH_MAX, SPANS_MAX
from nomos_sanitizer.masks import MaskView
from nomos_sanitizer.matching import Matcher
from nomos_sanitizer.media import parse_media_type
from nomos_sanitizer.rules import Rule, load_rules
from nomos_sanitizer.scrub import Scrubber
from nomos_sanitizer.structure import parse

from .conftest import Clean

RULES = load_rules()
APART = [rule for rule in RULES if rule.needs]
FIXTURES = Path(__file__).parents[2] / "fixtures"
RECORDED = sorted([*(FIXTURES / "sanitizer" / "github").glob("*.json"), *(FIXTURES / "github").glob("*.json")])

ESCAPE_PIECES = [
    *rb"%41 %4 % %zz \ \\ \n \q \" \u0041 \u00e9 \ud83d \ude00 \u{1F600} \u{110000} \u{} \u{1234567} \u{12 \u12".split(
        b" "
    ),
    *rb"\U0001F600 \UFFFFFFFF \U0001 \x41 \x4 \101 \7 \777 \18 &#65; &#65 &#0000065; &#00000065; &#x41;".split(b" "),
    *rb"&#X1F600; &#x110000 &#xd83d; &#xde00; &#55357; &#56832; &#x; &#; &amp; &lt; &foo; &a; &notin; &fjlig;".split(
        b" "
    ),
    *(b"&CounterClockwiseContourIntegral;", b"&" + b"a" * 31 + b";", b"&" + b"a" * 32 + b";", b"&" + b"a" * 33 + b";"),
    *(b"a", b"41", b";", b"{", b"}", b"u", b" ", b"\0", b"\xff", "é".encode()),
]
ESCAPED = st.lists(st.sampled_from(ESCAPE_PIECES), max_size=12).map(b"".join)
MARKS = st.lists(st.sampled_from([bytes((byte,)) for byte in b'\\%&#x;u0412{}DdUn"']), max_size=30).map(b"".join)


def assert_same(one: View | MaskView, other: View | MaskView) -> None:
    assert one.data == other.data
    size = len(one.data)
    spans = [(at, at + 1) for at in range(size)] + [(0, size)] * (size > 0) + list(pairwise(range(0, size + 1, 3)))
    assert [one.origin(*span) for span in spans] == [other.origin(*span) for span in spans]


@settings(max_examples=500)
@given(ESCAPED | MARKS | st.binary(max_size=60))
def test_escapes_say_the_same_one_by_one_and_all_at_once(data: bytes) -> None:
    slow_budget, fast_budget = Budget(1), Budget(1)
    slow = escapes.unescape_each(data, slow_budget)
    fast = escape_arrays.unescape(data, fast_budget)
    assert slow is not None
    assert fast is not None
    assert_same(slow, fast)
    assert slow_budget._escapes == fast_budget._escapes


def test_an_escape_that_stands_for_more_bytes_than_it_has_is_decoded_too() -> None:
    text = b"&nGt;" * 2_000
    assert escape_arrays.unescape(text, Budget(1)) is None
    assert escapes.unescape(text, Budget(1)).data == "\u226b\u20d2".encode() * 2_000


@pytest.mark.parametrize("unit", [b"%41", b"&#65;&#100;", b"\\u0041\\n", b"&lt;&CounterClockwiseContourIntegral;"])
def test_many_escapes_say_what_each_says(unit: bytes) -> None:
    fast = escapes.unescape(unit * 3_000, Budget(1))
    slow = escapes.unescape_each(unit * 3_000, Budget(1))
    assert isinstance(fast, MaskView)
    assert slow is not None
    assert_same(slow, fast)


def test_runs_of_escapes_over_the_limit_are_refused_by_both_ways() -> None:
    text = b"%41 " * (ESCAPES_MAX + 1)
    with pytest.raises(ResponseRefused):
        escape_arrays.unescape(text, Budget(len(text)))
    with pytest.raises(ResponseRefused):
        escapes.unescape_each(text, Budget(len(text)))
    # As one run they are one.
    escape_arrays.unescape(b"%41" * (ESCAPES_MAX + 1), Budget(1))


FLAG = "\U0001f3f4" + "".join(chr(0xE0000 + ord(letter)) for letter in "gbeng") + "\U000e007f"
CHARACTERS = st.lists(
    st.sampled_from(
        [
            *"ab #1\u200b\u200c\u200d\ufe0f\ufe0e\u20e3\u2764\u06cc\u064b\u0915\u094d\u1820\u180b\u180e",
            *"\u845b\u2801\u2800",
            *"\0\x7f\x80\x9f\xad\u3164\ud800\u00e9\u4e2d\u202e\ufeff\U0001f468\U0001f3f4\U000e0067\U000e007f\U000e0100",
            FLAG,
        ]
    ),
    max_size=14,
).map("".join)


@settings(max_examples=500)
@given(CHARACTERS | st.text(alphabet=st.characters(), max_size=20), st.booleans())
def test_invisible_characters_are_the_same_one_by_one_and_all_at_once(text: str, to_remove: bool) -> None:
    data = text.encode("utf-8", "surrogatepass")
    slow = invisible.examine_each(data, text, Budget(1), to_remove=to_remove)
    for fast in (
        invisible.examine_arrays(data, text, Budget(1), to_remove=to_remove),
        invisible.examine(data, Budget(1), to_remove=to_remove),
    ):
        assert fast.removed == slow.removed
        assert_same(slow.shadow, fast.shadow)


def test_no_character_beyond_the_table_combines() -> None:
    assert not any(unicodedata.combining(chr(point)) for point in range(invisible._COMBINING_END, 0x110000))


def test_too_many_invisible_characters_are_refused_at_once() -> None:
    with pytest.raises(ResponseRefused, match="invisible"):
        invisible.examine(b"\0" * (INVISIBLE_MAX + 1), Budget(1))
    with pytest.raises(ResponseRefused, match="invisible"):
        invisible.examine("\u200b".encode() * (INVISIBLE_MAX + 1), Budget(1))
    with pytest.raises(ResponseRefused, match="places"):
        invisible.examine("a\u200b".encode() * (SPANS_MAX + 1), Budget(1))


RUN_PIECES = st.sampled_from(
    [b"A" * 7, b"b" * 40, b"C" * 60, b"d" * 6, b"=", b"==", b" ", b".", b"\xff", b"-_", b"+/", b"\n", b"\r\n"]
)
RUNS = re2.compile(rb"(?:[A-Za-z0-9+/_-]{16,}[ \t]*\r?\n[ \t]*)*[A-Za-z0-9+/_-]{8,}={0,2}", bytes_options())


@given(st.lists(RUN_PIECES, max_size=10).map(b"".join))
def test_runs_that_may_be_base64_are_those_of_the_pattern(data: bytes) -> None:
    runs = [match.span() for match in RUNS.finditer(data)]
    assert list(encodings.base64_runs(data, short_too=True)) == runs
    long = [(start, end) for start, end in runs if end - start >= BASE64_RUN_MIN]
    assert list(encodings.base64_runs(data, short_too=False)) == long
    if b"\n" not in data:
        assert encodings._runs_of_one_line(data, 0) == runs
        assert encodings._runs_of_one_line(data, BASE64_RUN_MIN) == long
        assert {data[start:end].rstrip(b"=") for start, end in long} <= set(encodings.long_words(data))


@given(st.integers(0, 40), st.integers(0, 2**32))
def test_a_long_run_is_read_as_a_short_one_is(more: int, seed: int) -> None:
    symbols = base64.b64encode(random.Random(seed).randbytes(2 * encodings._LONG_RUN))[: encodings._LONG_RUN + more]
    readings = encodings.base64_readings(symbols)
    for offset, reading in enumerate(readings):
        usable = symbols[offset:]
        usable = usable[: len(usable) - (len(usable) % 4 == 1)]
        assert reading == base64.b64decode(usable + b"=" * (-len(usable) % 4))
    assert len(readings) == 4


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.id)
def test_places_are_those_of_re2(rule: Rule) -> None:
    example = build(rule.example, rule.id)
    text = f"{example} and {example}, {build(rule.near, rule.id)}\n{example}{example}".encode()
    spans = Spans(rule.pattern.encode()) if rule.is_bare else Spans(rule.span, 1)
    want = [match.span(1) for match in re2.compile(rule.span, bytes_options()).finditer(text)]
    assert list(spans.all(text)) == want
    assert want


@pytest.mark.parametrize("rule", APART, ids=lambda rule: rule.id)
def test_a_rule_that_is_searched_apart_is_found_wherever_its_pattern_matches(rule: Rule) -> None:
    gate = Search([(0, rule.detection)])
    spans = Spans(rule.span, 1)
    apart = Matcher(RULES)
    number = RULES.index(rule)

    @settings(max_examples=200)
    @given(st.from_regex(re.compile(rule.match), fullmatch=True), st.binary(max_size=9), st.integers(0, 2_000))
    def check(match: bytes, before: bytes, lead: int) -> None:
        assert all(need.encode() in match for need in rule.needs)
        assert gate.hits(match)
        assert not rule.longest or len(match) <= rule.longest
        assert not rule.ends or match.endswith(rule.ends.encode())
        assert number in apart.fired(b"@." * lead + before + b" " + match)
        text = b"@." * lead + before + match
        assert number in apart.fired(text) or not list(spans.all(text))

    check()


def test_only_a_rule_that_is_searched_apart_has_an_end() -> None:
    assert {rule.id for rule in RULES if rule.ends or rule.longest} <= {rule.id for rule in APART}
    assert all(bool(rule.ends) == bool(rule.longest) for rule in RULES)


TEXTS = st.text(alphabet='ab[]{}"\\\n\u00e9\u2028', max_size=8)
VALUES = st.recursive(
    TEXTS | st.integers(), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3)
)


def strings(value: Any) -> set[str]:
    if isinstance(value, str):
        return {value}
    if isinstance(value, dict):
        return set(value) | {text for member in value.values() for text in strings(member)}
    return {text for element in value for text in strings(element)} if isinstance(value, list) else set()


def depth(value: Any) -> int:
    if isinstance(value, dict | list):
        return 1 + max(map(depth, value.values() if isinstance(value, dict) else value), default=0)
    return 0


@given(VALUES, st.booleans(), st.sampled_from([None, 1]))
def test_strings_and_depth_of_a_text_that_is_not_read_are_those_of_the_reader(
    value: Any, ascii_only: bool, indent: int | None
) -> None:
    body = json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode()
    lexed = Lexed(body)
    assert lexed.is_json
    assert lexed.escaped == {text for text in strings(value) if "\\" in json.dumps(text, ensure_ascii=ascii_only)}
    found = {text.decode() for text in lexed.strings_at(plain.places_of(body, ord("a")))} | lexed.escaped
    assert found >= {text for text in strings(value) if "a" in text}
    for more in (JSON_DEPTH_MAX - depth(value), JSON_DEPTH_MAX - depth(value) + 1):
        nested = b"[" * more + body + b"]" * more
        assert Lexed(nested).is_shallow == (depth(value) + more <= JSON_DEPTH_MAX)


@given(st.text(max_size=40) | st.lists(st.sampled_from('{}[]":,\\ truefalsn01.-e+"'), max_size=12).map("".join))
def test_a_text_that_is_json_by_the_letter_is_read(text: str) -> None:
    if Lexed(text.encode("utf-8", "replace")).is_json:
        parse(text)


class Slow:
    """The search without any short cut but for the gates of a text."""

    def __init__(self, matcher: Matcher, size: int) -> None:
        self._matcher = matcher
        self._size = size

    def removes(self, body: bytes, content_type: str) -> bool:
        media = parse_media_type(content_type)
        scrubber = _Unprimed(self._matcher, Needles(()), Budget(self._size))
        return bool(bodies.clean(bodies.read(body, media), media, scrubber)[1])


class _Unprimed(Scrubber):
    def prime(self, texts: Set[str]) -> None:
        """Nothing is known of any string before it is searched."""


def looks_clean(matcher: Matcher, body: bytes, content_type: str) -> bool:
    scrubber = Scrubber(matcher, Needles(()), Budget(len(body)))
    return plain.is_clean(Lexed(body), parse_media_type(content_type), matcher, scrubber)


LOWER = "z" * 60
HIDDEN = [
    *[
        "abc",
        "20",
        "%20",
        "&",
        "&amp;",
        "&#103;hp_",
        "%67hp_",
        "ghp_",
        "gh%70_",
        "\\",
        "\n",
        "\r\n",
        "\t",
        "/",
        "=",
        "==",
        ".",
        ":",
        "@",
        "://",
        "{}",
        "[]",
        '{"a":"',
    ],
    *(
        "a1B2" * 9,
        "x" * 50,
        LOWER,
        "0123456789abcdef" * 4,
        "com/repos/Some-Name_x/file",
        "Z2hwX2",
        "cGFzc3dkOiBodW50ZXIyaHVudGVy",
    ),
    *(
        "passwd: hunter2hunter2x1",
        '"}',
        "é",
        "\u200b",
        "\u2764\ufe0f",
        "\0",
        "postgres://app:",
        "pass",
        "@db",
        "true",
        '"',
    ),
    base64.b64encode(b'{"password":"correct horse","a":"battery staple"}').decode(),
    base64.b64encode("an invisible \u200b character in a text of some length".encode()).decode(),
]
NAMES = ["a", "password", "password\n", "password  ", "to\u0301ken", "name", "value", "kty", "d", "Set-Cookie "]
STRINGS = st.lists(st.sampled_from(HIDDEN), max_size=5).map("".join)
DOCUMENTS = st.dictionaries(
    st.sampled_from(NAMES) | STRINGS, STRINGS | st.lists(STRINGS, max_size=2) | st.integers() | st.none(), max_size=4
)
TYPES = st.sampled_from(["application/json", "", "text/plain", "application/x-ndjson", "text/event-stream"])


@settings(max_examples=600)
@given(DOCUMENTS, st.booleans(), st.sampled_from([None, 2]), TYPES)
def test_json_that_looks_clean_is_clean_without_any_short_cut(
    sanitizer: Sanitizer, value: Any, ascii_only: bool, indent: int | None, content_type: str
) -> None:
    body = json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode("utf-8", "replace")
    if looks_clean(sanitizer._matcher, body, content_type):
        assert not Slow(sanitizer._matcher, len(body)).removes(body, content_type)


@settings(max_examples=400)
@given(STRINGS | ESCAPED.map(lambda data: data.decode("utf-8", "replace")), TYPES)
def test_text_that_looks_clean_is_clean_without_any_short_cut(
    sanitizer: Sanitizer, text: str, content_type: str
) -> None:
    body = text.encode("utf-8", "replace")
    if looks_clean(sanitizer._matcher, body, content_type):
        assert not Slow(sanitizer._matcher, len(body)).removes(body, content_type)


@settings(max_examples=300)
@given(st.lists(STRINGS, min_size=2, max_size=6, unique=True))
def test_strings_that_are_clean_together_are_clean_each(sanitizer: Sanitizer, texts: list[str]) -> None:
    known: set[str] = set()
    scrubber = Scrubber(sanitizer._matcher, Needles(()), Budget(10_000), clean=known)
    scrubber.prime(set(texts))
    for text in known:
        alone = _Unprimed(sanitizer._matcher, Needles(()), Budget(10_000))
        assert not alone.text(text)[1]


@pytest.mark.parametrize("path", RECORDED, ids=lambda path: f"{path.parent.parent.name}-{path.stem}")
def test_recorded_answer_with_a_secret_in_any_string_never_looks_clean(path: Path, sanitizer: Sanitizer) -> None:
    body = path.read_bytes()
    matcher = sanitizer._matcher
    assert looks_clean(matcher, body, "application/json")
    assert not Slow(matcher, len(body)).removes(body, "application/json")
    chance = random.Random(path.stem)
    ends = [at for at in range(1, len(body)) if body[at : at + 1] == b'"' and body[at - 1 : at] != b"\\"]
    for _ in range(12):
        rule = chance.choice(RULES)
        secret = build(rule.example, f"{path.stem} {chance.random()}")
        for form in (
            json.dumps(f" {secret} ")[1:-1],
            "".join(f"\\u{ord(character):04x}" for character in secret),
            "".join(f"%{byte:02x}" for byte in secret.encode()),
            "".join(f"&#{ord(character)};" for character in secret),
            base64.b64encode(f"value: {secret} and more of it".encode()).decode(),
            "\\u200b".join(secret) if secret.isalnum() else secret.replace("\n", "\\n").replace('"', ""),
        ):
            at = chance.choice(ends)
            planted = body[:at] + form.encode() + body[at:]
            if Lexed(planted).is_json and Slow(matcher, len(planted)).removes(planted, "application/json"):
                assert not looks_clean(matcher, planted, "application/json")


@pytest.mark.parametrize("name", ["password\n", "password   ", "\tset-cookie \r\n"])
def test_blanks_around_a_name_of_a_secret_do_not_hide_it(name: str, clean_json: Clean) -> None:
    for body in ({name: "correct horse"}, [{"name": name, "value": "correct horse"}]):
        assert b"correct horse" not in clean_json(body).body


def test_a_backslash_in_text_that_is_no_json_is_a_backslash(clean_text: Clean) -> None:
    # In JSON it would end the password: a line feed is no part of one.
    assert clean_text(r"postgres://app:pa\nssword12@db.example.com/x").body == (
        b"postgres://app:[redacted:url-password]@db.example.com/x"
    )


def test_json_in_a_string_that_goes_too_deep_is_seen_without_the_walk(clean_json: Clean) -> None:
    deep = "[" * (JSON_DEPTH_MAX + 6) + '"x"' + "]" * (JSON_DEPTH_MAX + 6)
    assert [line.rule for line in clean_json({"a": deep}).report.removed] == ["json-depth"]


def test_body_with_escapes_in_which_nothing_is_found_leaves_as_it_came(clean_json: Clean) -> None:
    body = (
        b'{ "diff" : "@@ -1 +1 @@\\n-a \\"quoted\\" \\u00e9\\n+b", "q": "a%20b&amp;c", "sha": "' + b"0a" * 32 + b'" }'
    )
    assert clean_json(body).body == body


def test_many_digests_are_clean_and_cost_no_more_than_a_body_may(clean_json: Clean, github_token: str) -> None:
    digests = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(8_000)]
    body = json.dumps({"layers": digests}).encode()
    assert clean_json(body).body == body
    result = clean_json({"layers": digests, "a": github_token})
    assert [line.where for line in result.report.removed] == ["/a"]


def test_a_body_of_a_megabyte_needs_some_tens_of_megabytes(sanitizer: Sanitizer, github_token: str) -> None:
    size = 1_000_000
    shapes = [
        b'{"a":"' + base64.b64encode(random.Random(1).randbytes(size * 3 // 4)) + b'"}',
        b"%41" * (size // 3),
        b"&#65;&#100;" * (size // 11),
        "\u00e9\u200b".encode() * 15_000 + b" " * size,
        f"{github_token} {'word ' * 12}".encode() * (size // 100),
        json.dumps([path.read_text() for path in RECORDED] * 10)[:size].encode(),
    ]
    for body in shapes:
        tracemalloc.start()
        with suppress(ResponseRefused):
            sanitizer.sanitize(body, content_type="", headers=(), credentials=())
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 60 * len(body), body[:20]
