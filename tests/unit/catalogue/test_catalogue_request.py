"""Building a request and reading its resource back: the two directions agree, and nothing else passes."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

import msgspec
import orjson
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from nomos.catalogue import (
    Action,
    Catalogue,
    OutgoingRequest,
    Parameter,
    Resource,
    build_request,
    derive_resource,
    load_catalogue,
)
from nomos.errors import DestinationRefused, LimitExceeded, Malformed, NomosError, NotCovered

CATALOGUE: Catalogue = load_catalogue(Path(__file__).parents[3] / "connectors")
GITHUB = CATALOGUE.connectors["github"]
ACTIONS = sorted(GITHUB.actions.values(), key=lambda action: action.id)
REPO = CATALOGUE.parse_resource("github:repo/acme/site")


def built(action_id: str, **args: object) -> OutgoingRequest:
    return build_request(CATALOGUE.action(action_id), REPO, args)


def resources(action: Action) -> st.SearchStrategy[Resource]:
    fields = [st.from_regex(pattern, fullmatch=True) for pattern in action.resource_type.field_patterns]

    def make(values: tuple[str, ...]) -> Resource:
        assume(not {".", ".."} & set(values))
        return action.resource_type.resource(values)

    return st.tuples(*fields).map(make)


_plain = st.text(
    st.characters(blacklist_categories=["Cs", "Cc", "Zl", "Zp"], blacklist_characters="\\/?#%;,"), min_size=1
)


def values(parameter: Parameter) -> st.SearchStrategy[object]:
    match parameter.type:
        case "integer":
            return st.integers(parameter.minimum, parameter.maximum)
        case "boolean":
            return st.booleans()
        case "string_list":
            return st.lists(_plain.map(lambda text: text[:20]), max_size=3)
    if parameter.enum:
        return st.sampled_from(parameter.enum)
    if parameter.pattern:
        return st.from_regex(parameter.pattern, fullmatch=True).filter(lambda text: len(text) <= parameter.max_length)
    return _plain.map(lambda text: text[: parameter.max_length])


@st.composite
def calls(draw: st.DrawFn) -> tuple[Action, Resource, dict[str, object]]:
    action = draw(st.sampled_from(ACTIONS))
    args = {p.name: draw(values(p)) for p in action.parameters if p.required or draw(st.booleans())}
    return action, draw(resources(action)), args


def build_or_skip(call: tuple[Action, Resource, dict[str, object]]) -> OutgoingRequest:
    try:
        return build_request(*call)
    except (DestinationRefused, Malformed):
        assume(False)
        raise


@given(calls())
def test_the_derived_resource_is_the_resource_of_the_built_request(
    call: tuple[Action, Resource, dict[str, object]],
) -> None:
    request = build_or_skip(call)
    assert derive_resource(GITHUB, call[0], request) == call[1]


@given(calls(), st.sampled_from(ACTIONS))
def test_a_request_is_accepted_as_its_own_action_only(
    call: tuple[Action, Resource, dict[str, object]], other: Action
) -> None:
    request = build_or_skip(call)
    assume(other.id != call[0].id)
    with pytest.raises(NotCovered):
        derive_resource(GITHUB, other, request)


@given(calls())
def test_a_built_target_is_plain_ascii_without_dot_segments(
    call: tuple[Action, Resource, dict[str, object]],
) -> None:
    request = build_or_skip(call)
    assert request.target.isascii()
    assert request.target.isprintable()
    assert " " not in request.target
    assert "\\" not in request.target
    assert "#" not in request.target
    assert not {"", ".", ".."} & {unquote(segment) for segment in request.path.split("/")[1:]}


@given(calls())
def test_equal_calls_give_equal_bytes(call: tuple[Action, Resource, dict[str, object]]) -> None:
    action, resource, args = call
    backwards = dict(reversed(args.items()))
    assert build_or_skip(call) == build_request(action, resource, backwards)


@given(calls(), st.dictionaries(st.text(max_size=12), st.none() | st.integers() | st.text() | st.lists(st.text())))
def test_any_arguments_build_or_are_refused(
    call: tuple[Action, Resource, dict[str, object]], args: dict[str, object]
) -> None:
    try:
        request = build_request(call[0], call[1], {**call[2], **args})
    except NomosError:
        return
    assert derive_resource(GITHUB, call[0], request) == call[1]


@given(calls(), st.text(max_size=60))
def test_any_path_is_the_actions_own_or_is_refused(call: tuple[Action, Resource, dict[str, object]], tail: str) -> None:
    request = msgspec.structs.replace(build_or_skip(call), path=f"/repos/acme/{tail}")
    try:
        derived = derive_resource(GITHUB, call[0], request)
    except NotCovered:
        return
    # what is accepted is spelled as it would be built
    assert derived.text.startswith("github:repo/acme/")
    assert request.path.startswith(f"/repos/acme/{derived.values[1]}")


TRICKS = [
    "",
    ".",
    "..",
    "../..",
    "a/../b",
    "a/./b",
    "a//b",
    "/a",
    "a/",
    "..%2f",
    "%2e%2e",
    "%2E%2e",
    ".%2e",
    "%252e%252e",
    "%25252e%25252e",
    "%2525252525252e",
    "a%2fb",
    "a%2Fb",
    "a%252fb",
    "a%5cb",
    "a\\b",
    "..\\",
    "..;x",
    ".;",
    ";x",
    "..%3bx",
    "．．",
    "％２ｅ％２ｅ",
    "a／b",
    "a＼b",
    "a\rb",
    "a\nb",
    "a\r\nHost: evil.example",
    "a%0d%0ab",
    "a\0b",
    "a%00b",
    "a\tb",
    "a\x7fb",
    "a\x85b",
    "a\u2028b",
    "a\ud800b",
    "a%ff",
    "a?b",
    "a#b",
    "a%3fb",
    "a%23b",
    "http://evil.example/",
    "//evil.example",
    "https:\\\\evil.example",
    " ..",
    ".. ",
    " ",
]


@pytest.mark.parametrize("path", TRICKS)
def test_no_spelling_of_a_path_trick_is_sent_as_a_file(path: str) -> None:
    with pytest.raises((DestinationRefused, Malformed)):
        built("github:contents.get", path=path)


@pytest.mark.parametrize("name", [*TRICKS, "kind/bug", "a/b/c"])
def test_no_spelling_of_a_path_trick_is_sent_as_a_single_segment(name: str) -> None:
    with pytest.raises((DestinationRefused, Malformed)):
        built("github:labels.delete", name=name)


@pytest.mark.parametrize("username", [*TRICKS, "a/../../../collaborators/b", "Octocat", "a@b", "a:b"])
def test_a_pattern_narrows_a_segment_further(username: str) -> None:
    with pytest.raises((DestinationRefused, Malformed)):
        built("github:collaborators.add", username=username, permission="pull")


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("README.md", "README.md"),
        ("docs/über uns.md", "docs/%C3%BCber%20uns.md"),
        ("a/@types/b+c.d.ts", "a/@types/b+c.d.ts"),
        ("100%.txt", "100%25.txt"),
        ("a..b/...c", "a..b/...c"),
        ("日本語/x;y", "%E6%97%A5%E6%9C%AC%E8%AA%9E/x;y"),
        ("it's", "it%27s"),
    ],
)
def test_a_harmless_name_is_encoded_and_read_back(path: str, sent: str) -> None:
    request = built("github:contents.get", path=path)
    assert request.path == f"/repos/acme/site/contents/{sent}"
    assert derive_resource(GITHUB, CATALOGUE.action("github:contents.get"), request) == REPO


@pytest.mark.parametrize("query", ["a\r\nx: y", "a\nb", "a\0", "\ud800", "a\\b", "a\u2029"])
def test_a_query_value_that_could_break_the_line_is_refused(query: str) -> None:
    search = CATALOGUE.parse_resource("github:search/issues")
    with pytest.raises((DestinationRefused, Malformed)):
        build_request(CATALOGUE.action("github:search.query"), search, {"q": query})


def test_a_query_value_cannot_add_a_parameter() -> None:
    search = CATALOGUE.parse_resource("github:search/issues")
    request = build_request(CATALOGUE.action("github:search.query"), search, {"q": "x&per_page=100#y"})
    assert request.target == "/search/issues?q=x%26per_page%3D100%23y"


@pytest.mark.parametrize(
    ("action", "args"),
    [
        ("github:issues.get", {"issue_number": "1"}),
        ("github:issues.get", {"issue_number": True}),
        ("github:issues.get", {"issue_number": 1.0}),
        ("github:issues.get", {"issue_number": 0}),
        ("github:issues.get", {"issue_number": -1}),
        ("github:issues.get", {"issue_number": 2**53}),
        ("github:issues.get", {"issue_number": None}),
        ("github:issues.get", {}),
        ("github:issues.get", {"issue_number": 1, "owner": "evil"}),
        ("github:issues.get", {"issue_number": 1, "repo": "evil"}),
        ("github:issues.list", {"state": "everything"}),
        ("github:issues.list", {"labels": "bug"}),
        ("github:issues.list", {"labels": ["bug", 1]}),
        ("github:issues.list", {"labels": ["bug,help"]}),
        ("github:issues.create", {"title": "t", "private": True}),
        ("github:issues.create", {"title": ["t"]}),
        ("github:issues.create", {"title": "a\0b"}),
        ("github:issues.create", {"title": "a\udc00b"}),
        ("github:repos.delete", {"confirm": True}),
    ],
)
def test_an_argument_that_is_not_declared_so_is_refused(action: str, args: dict[str, object]) -> None:
    with pytest.raises(Malformed):
        built(action, **args)


def test_lengths_and_counts_are_limited() -> None:
    with pytest.raises(LimitExceeded):
        built("github:issues.create", title="t" * 257)
    with pytest.raises(LimitExceeded):
        built("github:issues.list", labels=["a"] * 21)
    with pytest.raises(LimitExceeded):
        built("github:contents.get", path="🦊" * 1000)


def test_a_body_keeps_its_line_breaks_and_is_canonical_json() -> None:
    request = built("github:issues.create", title="t", body="a\r\nb")
    assert request.body == b'{"body":"a\\r\\nb","title":"t"}'


def test_an_action_without_arguments_sends_no_body() -> None:
    assert built("github:repos.delete") == OutgoingRequest(method="DELETE", path="/repos/acme/site")


def test_a_resource_of_another_type_is_refused() -> None:
    with pytest.raises(NotCovered):
        build_request(CATALOGUE.action("github:repos.get"), CATALOGUE.parse_resource("github:org/acme"), {})


@pytest.mark.parametrize(
    "change",
    [
        {"method": "GET"},
        {"path": "/repos/acme"},
        {"path": "/repos/acme/site/"},
        {"path": "/repos/acme/site/issues"},
        {"path": "/repos/ACME/site"},
        {"path": "/repos/acme/si%74e"},
        {"path": "/repos/acme/other/../site"},
        {"path": "repos/acme/site"},
        {"path": "//api.github.com/repos/acme/site"},
        {"path": "/repos/acme/site?x=1"},
        {"query": (("page", "1"),)},
        {"body": b"{}"},
    ],
)
def test_any_change_of_a_deletion_is_another_request(change: dict[str, object]) -> None:
    action = CATALOGUE.action("github:repos.delete")
    request = built("github:repos.delete")
    assert derive_resource(GITHUB, action, request) == REPO
    with pytest.raises(NotCovered):
        derive_resource(GITHUB, action, msgspec.structs.replace(request, **change))


@pytest.mark.parametrize(
    "body",
    [
        b'{"title":"a","title":"b"}',
        b'{"title": "a"}',
        b'{"title":"a","visibility":"public"}',
        b'["title"]',
        b"\xff",
        b"",
    ],
)
def test_a_body_that_was_not_built_here_is_refused(body: bytes) -> None:
    request = msgspec.structs.replace(built("github:issues.create", title="a"), body=body)
    with pytest.raises(NotCovered):
        derive_resource(GITHUB, CATALOGUE.action("github:issues.create"), request)


def test_a_query_name_must_stand_once() -> None:
    request = msgspec.structs.replace(built("github:issues.list"), query=(("page", "1"), ("page", "2")))
    with pytest.raises(NotCovered):
        derive_resource(GITHUB, CATALOGUE.action("github:issues.list"), request)


def test_the_body_of_a_call_is_what_its_arguments_say() -> None:
    request = built("github:collaborators.add", username="octocat", permission="push")
    assert orjson.loads(request.body or b"") == {"permission": "push"}
