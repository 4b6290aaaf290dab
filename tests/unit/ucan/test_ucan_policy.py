"""The policy language: upstream's fixtures, the specification's examples, limits."""

from __future__ import annotations

import contextlib
import fnmatch
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from nomos.errors import LimitExceeded, Malformed, MalformedToken, PolicyNotMet
from nomos.ucan.cid import Link, cid_of
from nomos.ucan.dagcbor import Ipld
from nomos.ucan.glob import PATTERN_LENGTH_MAX, parse_glob
from nomos.ucan.policy import POLICY_DEPTH_MAX, POLICY_STATEMENTS_MAX, check_policy, parse_policy
from nomos.ucan.selector import SELECTOR_LENGTH_MAX, SELECTOR_STEPS_MAX, Unresolved, parse_selector, resolve

FIXTURES = json.loads((Path(__file__).parents[2] / "vectors" / "ucan" / "policy.json").read_text())


def _cases(group: str) -> list[Any]:
    return [
        pytest.param(entry["args"], policy, id=f"{group}-{number}-{position}")
        for number, entry in enumerate(FIXTURES[group])
        for position, policy in enumerate(entry["policies"])
    ]


def _holds(policy: Any, args: Any) -> bool:
    try:
        check_policy(parse_policy(policy), args)
    except PolicyNotMet:
        return False
    return True


def _select(selector: str, value: Any) -> Ipld:
    return resolve(parse_selector(selector), value, lambda _steps: None)


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
json_like = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-9, 9)
    | st.floats(allow_nan=False, allow_infinity=False)
    | text
    | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from("abc") | text, inner, max_size=4),
    max_leaves=12,
)
steps = st.tuples(
    st.sampled_from([".a", ".b", "[0]", "[-1]", "[]", "[1:]", "[:2]", '["a"]']), st.sampled_from(["", "?"])
)
selectors = st.lists(steps.map("".join), max_size=4).map(
    lambda path: "".join(path) if path and path[0].startswith(".") else "".join([".", *path])
)
statements = st.recursive(
    st.tuples(st.sampled_from(["==", "!="]), selectors, json_like)
    | st.tuples(st.sampled_from(["<", "<=", ">", ">="]), selectors, st.integers(-9, 9) | st.floats(-9, 9))
    | st.tuples(st.just("like"), selectors, st.text("ab*\\", max_size=6)),
    lambda inner: (
        st.tuples(st.sampled_from(["and", "or"]), st.lists(inner, max_size=3))
        | st.tuples(st.just("not"), inner)
        | st.tuples(st.sampled_from(["all", "any"]), selectors, inner)
    ),
    max_leaves=6,
).map(lambda statement: json.loads(json.dumps(statement, default=lambda octets: octets.hex())))


@pytest.mark.parametrize(("args", "policy"), _cases("valid"))
def test_upstreams_valid_policies_are_met(args: Any, policy: Any) -> None:
    assert _holds(policy, args)


@pytest.mark.parametrize(("args", "policy"), _cases("invalid"))
def test_upstreams_invalid_policies_are_not_met(args: Any, policy: Any) -> None:
    assert not _holds(policy, args)


@given(json_like)
def test_any_value_as_a_policy_raises_only_malformed(value: Any) -> None:
    with contextlib.suppress(Malformed):
        parse_policy(value)


@given(st.lists(statements, max_size=3), json_like)
def test_evaluation_says_yes_or_no_and_more_statements_never_widen(policy: list[Any], args: Any) -> None:
    for count in range(len(policy)):
        if not _holds(policy[:count], args):
            assert not _holds(policy[: count + 1], args)


@given(statements, json_like)
def test_not_inverts_every_statement(statement: Any, args: Any) -> None:
    assert _holds([["not", statement]], args) is not _holds([statement], args)


@given(statements, statements, json_like)
def test_connectives_are_those_of_logic(one: Any, other: Any, args: Any) -> None:
    assert _holds([["and", [one, other]]], args) is (_holds([one], args) and _holds([other], args))
    assert _holds([["or", [one, other]]], args) is (_holds([one], args) or _holds([other], args))


@given(statements, st.lists(json_like, max_size=5))
def test_quantifiers_extend_connectives_over_lists_and_map_values(statement: Any, items: list[Any]) -> None:
    each = [_holds([statement], item) for item in items]
    as_map = {f"k{number}": item for number, item in enumerate(items)}
    for collection in (items, as_map):
        assert _holds([["all", ".", statement]], collection) is all(each)
        assert _holds([["any", ".", statement]], collection) is any(each)


@given(json_like)
def test_a_value_equals_itself_and_nothing_of_another_type(value: Any) -> None:
    assert _holds([["==", ".", value]], value)
    assert not _holds([["!=", ".", value]], value)
    assert not _holds([["==", ".", [value]]], value)


@pytest.mark.parametrize(
    ("left", "right", "equal"),
    [
        (1, 1.0, True),
        (True, 1, False),
        (0, False, False),
        (None, False, False),
        ("a", b"a", False),
        ([1, [2]], [1.0, [2]], True),
        ([1], [1, 1], False),
        ({"a": 1}, {"a": True}, False),
        ({"a": 1}, {"a": 1, "b": None}, False),
        (2**53, float(2**53), True),
        (2**53 + 1, float(2**53), False),
        (Link(cid_of(b"")), Link(cid_of(b"")), True),
        (Link(cid_of(b"")), cid_of(b""), False),
        (1, [1], False),
    ],
)
def test_equality_is_deep_and_typed(left: Any, right: Any, equal: bool) -> None:
    assert _holds([["==", ".", left]], right) is equal
    assert _holds([["==", ".", right]], left) is equal
    assert _holds([["!=", ".", right]], left) is not equal


@pytest.mark.parametrize("operator", ["<", "<=", ">", ">="])
@pytest.mark.parametrize("value", [True, None, "1", b"1", [1], {"a": 1}])
def test_ordering_something_that_is_no_number_is_false(operator: str, value: Any) -> None:
    assert not _holds([[operator, ".", 0]], value)
    with pytest.raises(MalformedToken):
        parse_policy([[operator, ".", value]])


@pytest.mark.parametrize(
    "statement",
    [
        ["==", ".a.b", 1],
        ["!=", ".a.b", 1],
        ["<", ".a.b", 1],
        ["like", ".a.b", "*"],
        ["all", ".a.b", ["==", ".", 1]],
        ["any", ".a.b", ["==", ".", 1]],
    ],
)
def test_a_statement_about_a_value_that_is_not_there_is_false(statement: Any) -> None:
    assert not _holds([statement], {})


@pytest.mark.parametrize("value", [None, 1, "text", b"bytes"])
def test_quantifying_over_something_that_is_no_collection_is_false(value: Any) -> None:
    assert not _holds([["all", ".", ["or", []]]], value)
    assert not _holds([["any", ".", ["or", []]]], value)


def test_any_over_nothing_is_false_and_all_over_nothing_is_true() -> None:
    assert not _holds([["any", ".", ["==", ".", 1]]], [])
    assert _holds([["all", ".", ["==", ".", 1]]], [])


@pytest.mark.parametrize(
    "policy",
    [
        [["===", ".a", 1]],
        [["matches", ".a", "x"]],
        [["not", ["xor", [["==", ".a", 1]]]]],
        [["or", [["==", ".a", 1], ["never"]]]],
        [["any", ".a", ["unknown", ".b", 1]]],
        [["==", ".a"]],
        [["==", ".a", 1, 2]],
        [["==", 1, 1]],
        [["and", ["==", ".a", 1]]],
        [["not", [["==", ".a", 1]]]],
        [["like", ".a", 1]],
        [[]],
        ["=="],
        [{"==": 1}],
        {"0": ["==", ".a", 1]},
        None,
        "==",
    ],
)
def test_unknown_operators_and_shapes_are_refused_wherever_they_stand(policy: Any) -> None:
    with pytest.raises(MalformedToken):
        parse_policy(policy)


def test_policies_over_a_limit_are_refused_by_the_limits_name() -> None:
    nested: list[Any] = ["==", ".", 1]
    for _ in range(POLICY_DEPTH_MAX - 1):
        nested = ["not", nested]
    parse_policy([nested])
    with pytest.raises(LimitExceeded) as deep:
        parse_policy([["not", nested]])
    assert deep.value.limit == "policy_depth_max"
    parse_policy([["==", ".", 1]] * POLICY_STATEMENTS_MAX)
    with pytest.raises(LimitExceeded) as many:
        parse_policy([["and", [["==", ".", 1]] * POLICY_STATEMENTS_MAX]])
    assert many.value.limit == "policy_statements_max"


@pytest.mark.parametrize(
    "statement",
    [
        ["all", ".", ["and", [["==", ".", 0]] * 9]],
        ["not", ["all", ".", ["and", [["==", ".", 0]] * 9]]],
        ["any", ".", ["or", [["==", ".", 1]] * 9]],
        ["and", [["!=", "." + "[0:]" * 30, 1]] * 200],
        ["and", [["==", ".", [0] * 60_000]] * 2],
    ],
)
def test_a_costly_evaluation_is_refused_whatever_it_would_say(statement: Any) -> None:
    policy = parse_policy([statement])
    with pytest.raises(LimitExceeded) as refused:
        check_policy(policy, [0] * 60_000)
    assert refused.value.limit == "policy_evaluation_steps_max"


DOCUMENT = {
    "from": "alice@example.com",
    "to": ["bob@example.com", "carol@not.example.com", "dan@example.com"],
    "cc": ["fraud@example.com"],
    "title": "Meeting Confirmation",
}


@pytest.mark.parametrize(
    ("selector", "found"),
    [
        (".", DOCUMENT),
        (".?", DOCUMENT),
        (".title", "Meeting Confirmation"),
        ('.["title"]', "Meeting Confirmation"),
        (".cc", ["fraud@example.com"]),
        (".to[1]", "carol@not.example.com"),
        (".to[-1]", "dan@example.com"),
        (".to[99]?", None),
        (".to[99]???", None),
        (".to[0:-2]", ["bob@example.com"]),
        (".to[2:]", ["dan@example.com"]),
        (".to[:1]", ["bob@example.com"]),
        (".to[:]", DOCUMENT["to"]),
        (".to[7:11]", []),
        (".to[]", DOCUMENT["to"]),
        (".missing", None),
        (".missing.deeper?", None),
        (".title.deeper?", None),
        (".title?.deeper?.still?", None),
    ],
)
def test_selectors_find_what_the_specification_says(selector: str, found: Any) -> None:
    assert _select(selector, DOCUMENT) == found


def test_selectors_read_odd_keys_bytes_and_map_values() -> None:
    odd = {".": 1, "$_*": 2, '"': 3, "\\": 4, "1": 5}
    assert [_select(f".{key}", odd) for key in ('["."]', '["$_*"]', '["\\""]', '["\\\\"]', '["1"]')] == [1, 2, 3, 4, 5]
    assert _select(".[]", odd) == [1, 2, 3, 4, 5]
    octets = bytes.fromhex("d6a9c18cf8c4")
    assert _select(".[3]", octets) == 140
    assert _select(".[1:3]", octets) == octets[1:3]


@pytest.mark.parametrize(
    "selector",
    [
        ".to[99]",
        ".to[-4]",
        ".title.deeper",
        ".missing.deeper",
        ".title[0]",
        ".title[]",
        ".title[0:1]",
        ".to.field",
        ".missing.deeper.optional?",
    ],
)
def test_selectors_fail_early_where_nothing_is_there(selector: str) -> None:
    with pytest.raises(Unresolved):
        _select(selector, DOCUMENT)


@pytest.mark.parametrize(
    "selector",
    [
        "",
        "a",
        "..",
        "..a",
        ".a..b",
        ".a.",
        "[0]",
        ".[",
        ".[]]",
        ".a b",
        ".1",
        ".[01]",
        ".[-0]",
        ".[1:2:3]",
        '.["a]',
        ".['a']",
        ".a|.b",
        ".[*]",
        ". ",
        ".a\n",
        ".[0x1]",
        ".a.[0]",
        ".é",
    ],
)
def test_other_texts_are_no_selectors(selector: str) -> None:
    with pytest.raises(MalformedToken):
        parse_selector(selector)


@given(st.text(max_size=30) | st.text('.a0[]:"?\\-', max_size=30), json_like)
def test_any_text_as_a_selector_raises_only_malformed(selector: str, value: Any) -> None:
    try:
        parsed = parse_selector(selector)
    except Malformed:
        return
    with contextlib.suppress(Unresolved):
        resolve(parsed, value, lambda _steps: None)


def test_selectors_over_a_limit_are_refused_by_the_limits_name() -> None:
    with pytest.raises(LimitExceeded) as long:
        parse_selector("." + "a" * SELECTOR_LENGTH_MAX)
    assert long.value.limit == "selector_length_max"
    with pytest.raises(LimitExceeded) as many:
        parse_selector(".a" * (SELECTOR_STEPS_MAX + 1))
    assert many.value.limit == "selector_steps_max"


@given(st.text("ab*", max_size=12), st.text("ab", max_size=16))
def test_globs_agree_with_another_matcher(pattern: str, candidate: str) -> None:
    assert parse_glob(pattern).matches(candidate) is fnmatch.fnmatchcase(candidate, pattern)


@given(st.text(max_size=20))
def test_a_text_with_its_stars_escaped_matches_itself_alone(candidate: str) -> None:
    assume("\\*" not in candidate)
    glob = parse_glob(candidate.replace("*", "\\*"))
    assert glob.matches(candidate)
    assert not glob.matches(candidate + "x")
    assert parse_glob("*").matches(candidate)


def test_a_backslash_before_anything_but_a_star_is_itself() -> None:
    assert parse_glob(r"a\b\*\\").matches("a\\b*\\\\")


def test_overlapping_ends_do_not_match_twice() -> None:
    assert not parse_glob("ab*ba").matches("aba")
    assert parse_glob("ab*ba").matches("abba")


def test_a_pattern_over_the_limit_is_refused() -> None:
    with pytest.raises(LimitExceeded) as refused:
        parse_glob("*" * (PATTERN_LENGTH_MAX + 1))
    assert refused.value.limit == "pattern_length_max"
