"""Limits before the engine: what the lexer counts, what it ignores, and that the process survives."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomos.errors import LimitExceeded, Malformed, MalformedPolicy, ReservedKey
from nomos_policy import guard
from nomos_policy.guard import check_agent_data, split_policies
from nomos_policy.policyset import compile_policies
from nomos_policy.vocabulary import Vocabulary

HEAD = '@id("a") permit(principal, action, resource) when { '


def _policy(condition: str) -> str:
    return HEAD + condition + " };"


def _nested(depth: int) -> str:
    return "(" * depth + "true" + ")" * depth


def _chains(length: int) -> dict[str, str]:
    return {
        "and": " && ".join(["true"] * length),
        "or": " || ".join(["true"] * length),
        "plus": "1 == " + "+".join(["1"] * length),
        "times": "1 == " + "*".join(["1"] * length),
        "path": "context" + ".a" * length,
        "index": "context" + '["a"]' * length,
        "call": "context.a" + ".contains(1)" * length,
        "if-then": "if true then " * length + "true" + " else true" * length,
        "if-else": "if true then true else " * length + "true",
        "if-if": "if " * length + "true" + " then true else true" * length,
        "has": "context has " + ".".join(["a"] * length),
        "brackets": _nested(length),
        "sets": "[" * length + "1" + "]" * length + " == 1",
        "records": "{a: " * length + "1" + "}" * length + " == 1",
    }


@pytest.mark.parametrize("kind", sorted(_chains(1)))
def test_text_that_nests_too_deep_is_refused_before_the_engine_sees_it(kind: str) -> None:
    with pytest.raises(LimitExceeded):
        split_policies(_policy(_chains(2500)[kind]))


@pytest.mark.parametrize("kind", sorted(_chains(1)))
def test_the_deepest_text_within_the_limits_does_not_kill_a_thread(kind: str, vocabulary: Vocabulary) -> None:
    length = next(
        length for length in range(guard.OPERATORS_MAX + 1, 0, -1) if _is_within_limits(_policy(_chains(length)[kind]))
    )
    outcome: list[str] = []

    def compile_it() -> None:
        try:
            compile_policies(_policy(_chains(length)[kind]), vocabulary)
            outcome.append("compiled")
        except Malformed:
            outcome.append("refused")

    thread = threading.Thread(target=compile_it)
    thread.start()
    thread.join()
    assert outcome in (["compiled"], ["refused"])


def _is_within_limits(text: str) -> bool:
    try:
        split_policies(text)
    except LimitExceeded:
        return False
    return True


def test_the_engine_alone_would_die_of_the_text_that_the_guard_refuses() -> None:
    script = "import sys, cedarpy; cedarpy.PolicySet.from_str(sys.stdin.read())"
    died = subprocess.run([sys.executable, "-c", script], input=_policy(_nested(20_000)), text=True, check=False)
    assert died.returncode < 0, "the limit may be relaxed: the engine has learnt to refuse deep nesting"


def test_bracket_depth_is_allowed_up_to_its_limit_and_not_beyond() -> None:
    # the condition's own brace counts
    assert split_policies(_policy(_nested(guard.BRACKET_DEPTH_MAX - 1)))
    with pytest.raises(LimitExceeded):
        split_policies(_policy(_nested(guard.BRACKET_DEPTH_MAX)))


def test_brackets_in_strings_and_comments_do_not_count() -> None:
    many = "(" * 500
    text = f"// {many}\n" + _policy(f'context.env == "{many}\\"{many}"') + f" // {many}"
    assert len(split_policies(text)) == 1


def test_a_carriage_return_ends_a_comment_as_it_does_for_the_engine() -> None:
    with pytest.raises(LimitExceeded):
        split_policies("// hidden? \r" + "(" * 500)


def test_a_quote_in_a_comment_and_slashes_in_a_string_hide_nothing() -> None:
    with pytest.raises(LimitExceeded):
        split_policies('// a "quote\n' + _policy(_nested(500)))
    with pytest.raises(LimitExceeded):
        split_policies(_policy('context.env == "//" && ' + _nested(500)))


def test_each_policy_is_cut_out_with_its_position() -> None:
    text = (
        '// first\n@id("a") permit(principal, action, resource);\n\n  @id("b;")\nforbid(principal, action, resource);'
    )
    first, second = split_policies(text)
    assert (first.line, first.column, first.text) == (2, 1, '@id("a") permit(principal, action, resource);')
    assert (second.line, second.column) == (4, 3)
    assert second.text.startswith('@id("b;")')


@pytest.mark.parametrize(
    "text",
    [
        "permit(principal, action, resource)",
        "permit(principal, action, resource;",
        "permit(principal], action, resource);",
        ")",
        'permit(principal, action, resource) when { "open };',
        'permit(principal, action, resource) when { "a\\\nb" == "" };',
        "permit(principal,\0 action, resource);",
        "permit(principal, action, resource); \ud800",
    ],
)
def test_broken_text_is_refused_with_a_position(text: str) -> None:
    with pytest.raises(MalformedPolicy) as refused:
        split_policies(text)
    assert "line 1, column" in refused.value.detail


def test_sizes_have_limits() -> None:
    with pytest.raises(LimitExceeded, match="bytes of a policy set"):
        split_policies("/" * (guard.POLICY_TEXT_BYTES_MAX + 1))
    with pytest.raises(LimitExceeded, match="bytes of a policy "):
        split_policies(_policy("[" + "1," * guard.POLICY_BYTES_MAX + "1].contains(1)"))
    with pytest.raises(LimitExceeded, match="policies of a set"):
        split_policies("a;" * (guard.POLICIES_MAX + 1))


def test_a_long_list_of_literals_is_no_nesting() -> None:
    assert split_policies(_policy("[" + ",".join(["1"] * 3000) + "].contains(1)"))


@given(st.text() | st.text(alphabet='@id("a")permit{}[];/\\\r\n .&|'))
def test_any_text_is_split_or_refused_as_malformed(text: str) -> None:
    try:
        fragments = split_policies(text)
    except Malformed:
        return
    for fragment in fragments:
        assert fragment.text in text
        assert fragment.text.endswith(";")


def _bury(key: str, depth: int) -> dict[str, object]:
    inner: dict[str, object] = {key: {"fn": "ip", "arg": "10.0.0.1"}}
    for _ in range(depth):
        inner = {"a": [inner]}
    return inner


@pytest.mark.parametrize("key", ["__extn", "__entity", "__expr", *sorted(guard.RESERVED_CONTEXT_KEYS)])
@pytest.mark.parametrize("depth", [0, 1, 5])
def test_keys_of_the_server_and_of_cedar_are_refused_at_any_depth(key: str, depth: int) -> None:
    for args, claims in ((_bury(key, depth), {}), ({}, _bury(key, depth))):
        with pytest.raises(ReservedKey):
            check_agent_data(args, claims)


def test_clean_agent_data_passes_unchanged() -> None:
    args, claims = {"title": "hello", "labels": ["bug"]}, {"model": "m", "nested": {"a": [1, None, True]}}
    assert check_agent_data(args, claims) == (args, claims)


@pytest.mark.parametrize("value", ["a\0b", "\ud800", 1.5, b"bytes", 2**53])
def test_values_that_stores_or_engines_read_differently_are_refused(value: object) -> None:
    with pytest.raises(Malformed):
        check_agent_data({"title": value}, {})
    with pytest.raises(Malformed):
        check_agent_data({}, {"title": value})
