"""The next page: told by the answer, taken only as the action's own argument."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomos.catalogue import load_catalogue, next_args

CATALOGUE = load_catalogue(Path(__file__).parents[3] / "connectors")
BRANCHES = CATALOGUE.action("github:branches.list")
HISTORY = CATALOGUE.action("slack:conversations.history")
NEXT = '<https://api.github.com/repositories/1/branches?page=3>; rel="next", <https://x/?page=9>; rel="last"'


@pytest.mark.parametrize(
    ("link", "args", "following"),
    [
        (NEXT, {"page": 2, "per_page": 30}, {"page": 3, "per_page": 30}),
        (NEXT, {}, {"page": 2}),
        ('<https://x/?page=1>; rel="prev"', {"page": 2}, None),
        ('<https://x/?page=1>; title="next"', {"page": 2}, None),
        ('<https://x/?rel="next">; rel="last"', {"page": 2}, None),
        ('<https://x/>; rel="first next"', {}, {"page": 2}),
        ("<https://x/>;rel=next", {}, {"page": 2}),
        ("<https://x/>;rel=nextish", {}, None),
        (NEXT, {"page": 10000}, None),
        ("", {}, None),
    ],
)
def test_a_page_counts_up_while_the_answer_says_that_there_is_one(
    link: str, args: dict[str, object], following: object
) -> None:
    assert next_args(BRANCHES, args, [("link", link)], b"[]") == following


@pytest.mark.parametrize(
    ("answer", "cursor"),
    [
        ({"has_more": True, "response_metadata": {"next_cursor": "dXNlcjpVMDYx"}}, "dXNlcjpVMDYx"),
        ({"has_more": False, "response_metadata": {"next_cursor": "dXNlcjpVMDYx"}}, None),
        ({"response_metadata": {"next_cursor": ""}}, None),
        ({"response_metadata": {"next_cursor": 7}}, None),
        ({"response_metadata": {"next_cursor": "x" * 201}}, None),
        ({"response_metadata": {"next_cursor": "[redacted:api-key]"}}, None),
        ({"response_metadata": "x"}, None),
        ([], None),
    ],
)
def test_a_cursor_is_taken_where_the_answer_holds_one(answer: object, cursor: str | None) -> None:
    following = next_args(HISTORY, {"limit": 5}, [], orjson.dumps(answer))
    assert following == (None if cursor is None else {"limit": 5, "cursor": cursor})


@pytest.mark.parametrize(
    ("key", "is_cursor"),
    [
        ({"id": {"S": "1"}, "day": {"N": "2"}}, True),
        ({}, False),
        (None, False),
        ("1", True),
        ([1], False),
        (7, False),
        ({"id": {"S": "[redacted:api-key]"}}, False),
        ({"id": {"S": "x" * 9_000}}, False),
        ({"id": 1.5}, False),
    ],
)
def test_a_cursor_may_be_an_object_where_the_argument_is_one(key: object, *, is_cursor: bool) -> None:
    scan = CATALOGUE.action("aws-dynamodb:items.scan")
    following = next_args(scan, {"limit": 5}, [], orjson.dumps({"Items": [], "LastEvaluatedKey": key}))
    assert following == ({"limit": 5, "start": key} if is_cursor else None)
    # and never in place of a text
    tables = CATALOGUE.action("aws-dynamodb:tables.list")
    assert next_args(tables, {}, [], orjson.dumps({"LastEvaluatedTableName": {"a": "b"}})) is None


def test_an_action_that_does_not_come_in_pages_has_none() -> None:
    assert next_args(CATALOGUE.action("github:repos.get"), {}, [("link", NEXT)], b"{}") is None


@given(st.text(max_size=120), st.binary(max_size=60))
def test_any_answer_has_a_next_page_or_none(link: str, body: bytes) -> None:
    for action in (BRANCHES, HISTORY):
        following = next_args(action, {}, [("link", link)], body)
        assert following is None or set(following) == {action.pagination.parameter}
