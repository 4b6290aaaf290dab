"""What each connector sends, and what it does with the answer, against what its provider documents.

The cases are in ``tests/fixtures/specified``; its README says where the facts come from. GitHub's answers are
recorded (``tests/fixtures/github``), and ``http``, ``files`` and ``ssh`` have no provider.
"""

from __future__ import annotations

import base64
import email
import re
import secrets
from collections import Counter
from collections.abc import Callable
from email import policy
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import graphql
import msgspec
import orjson
import pytest

from nomos.catalogue import OutgoingRequest, build_request, derive_resource, load_catalogue, next_args
from nomos_sanitizer.domain import Sanitized, Sanitizer
from nomos_sanitizer.examples import build, secret_of
from nomos_sanitizer.rules import Rule, load_rules

from .specified import FOLDER, Answer, Case, Request, Specified, Way, at, encoded, load_specified, replaced, strings

CATALOGUE = load_catalogue(Path(__file__).parents[3] / "connectors")
FILES = load_specified()
#: Those with bodies of another origin, or without a provider.
ELSEWHERE = frozenset({"github", "http", "files", "ssh"})
CASES = [pytest.param(one.connector, case, id=f"{one.connector}:{case.action}") for one in FILES for case in one.cases]
PAGED = [param for param in CASES if CATALOGUE.action(param.id).pagination is not None]
ANSWERS: list[Any] = [
    *(pytest.param(case, id=f"{one.connector}:{case.action}") for one in FILES for case in one.cases),
    *(
        pytest.param(error, id=f"{one.connector}-error-{number}")
        for one in FILES
        for number, error in enumerate(one.errors)
    ),
]
#: Hosts of the providers' own documentation.
DOCUMENTATION = {
    "aws": {"docs.aws.amazon.com"},
    "discord": {"discord.com", "docs.discord.com"},
    "gmail": {"developers.google.com"},
    "google": {"developers.google.com", "cloud.google.com"},
    "jira": {"developer.atlassian.com"},
    "linear": {"linear.app"},
    "notion": {"developers.notion.com"},
    "slack": {"docs.slack.dev"},
    "stripe": {"docs.stripe.com"},
}
#: Strings of one answer in which a secret is planted.
PLACES_MAX = 40
#: Formats that the providers here give out, and one that every agent meets.
PLANTED = ("slack-token", "stripe-key", "notion-token", "linear-key", "google-oauth-access-token", "github-token")


# --- the request ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("connector", "case"), CASES)
def test_the_request_is_the_documented_one(connector: str, case: Case) -> None:
    request = built(connector, case, case.args)
    assert (request.method, request.path) == (case.request.method, case.request.path)
    assert sorted(request.query) == case.request.pairs
    assert dict(request.headers) == case.request.headers
    assert read(case.request, request) == wanted(case.request)
    if request.body is not None:
        assert request.content_type.partition("; boundary=")[0] == content_type(case.request)


@pytest.mark.parametrize(("connector", "case"), CASES)
def test_the_resource_that_is_derived_is_the_one_of_the_case(connector: str, case: Case) -> None:
    action = CATALOGUE.action(f"{connector}:{case.action}")
    request = built(connector, case, case.args)
    assert derive_resource(CATALOGUE.connectors[connector], action, request).text == f"{connector}:{case.resource}"


def built(connector: str, case: Case, args: dict[str, object]) -> OutgoingRequest:
    action = CATALOGUE.action(f"{connector}:{case.action}")
    data = None if case.content is None else case.content.encode()
    return build_request(action, CATALOGUE.parse_resource(f"{connector}:{case.resource}"), args, data)


def wanted(request: Request) -> object:
    """The body that the documentation describes, as a value; None for none."""
    if request.graphql is not None:
        return request.graphql
    if request.multipart is not None:
        return request.multipart
    if request.form is not None:
        return sorted(request.form.items())
    return request.text if request.body is None else request.body


def content_type(request: Request) -> str:
    if request.content_type:
        return request.content_type
    if request.multipart is not None:
        return "multipart/form-data"
    return "application/json" if request.form is None else "application/x-www-form-urlencoded"


def read(request: Request, made: OutgoingRequest) -> object:
    """The body that is sent, as a value of the same kind."""
    if made.body is None:
        return None
    if request.form is not None:
        return sorted(parse_qsl(made.body.decode("ascii"), keep_blank_values=True, strict_parsing=True))
    if request.text is not None:
        return made.body.decode()
    if request.multipart is not None:
        return parts(made.content_type, made.body)
    value = orjson.loads(made.body)
    if request.graphql is not None:
        (operation,) = operations(value["query"])
        return {operation.operation.value: roots(operation), "variables": value.get("variables", {})}
    for holder in (value, value.get("message") if isinstance(value, dict) else None):
        if isinstance(holder, dict) and isinstance(holder.get("raw"), str):
            holder["raw"] = mail(holder["raw"])
    return value


def parts(content_type: str, body: bytes) -> dict[str, object]:
    """The fields of a form with a file, as another reader takes them apart."""
    message = email.message_from_bytes(f"content-type: {content_type}\r\n\r\n".encode() + body, policy=policy.HTTP)
    found: dict[str, object] = {}
    for part in message.iter_parts():
        text = part.get_payload(decode=True).decode()
        name = part["content-disposition"].params["name"]
        if filename := part.get_filename():
            found[name] = {"filename": filename, "type": part.get_content_type(), "text": text}
        else:
            found[name] = orjson.loads(text) if text.startswith("{") else text
    return found


def operations(query: str) -> list[graphql.OperationDefinitionNode]:
    """What a document asks for; it holds nothing else."""
    found = [one for one in graphql.parse(query).definitions if isinstance(one, graphql.OperationDefinitionNode)]
    assert len(found) == len(graphql.parse(query).definitions)
    return found


def roots(operation: graphql.OperationDefinitionNode) -> list[str]:
    return [one.name.value for one in operation.selection_set.selections if isinstance(one, graphql.FieldNode)]


def mail(raw: str) -> dict[str, str]:
    """A message (RFC 5322) in base64url, as its header fields and its text; MIME's own fields left out."""
    message = email.message_from_bytes(base64.urlsafe_b64decode(raw + "=" * (-len(raw) % 4)), policy=policy.default)
    fields = {name: str(value) for name, value in message.items() if name not in _MIME_FIELDS}
    return {**fields, "text": message.get_content().replace("\r\n", "\n")}


_MIME_FIELDS = {"MIME-Version", "Content-Type", "Content-Transfer-Encoding"}


@pytest.mark.parametrize(("connector", "case"), [param for param in CASES if param.values[1].request.graphql])
def test_a_fixed_document_is_one_of_the_providers_schema_and_the_answer_is_what_it_asks_for(
    connector: str, case: Case
) -> None:
    schema = graphql.build_schema((FOLDER / f"{connector}.graphql").read_text())
    sent = orjson.loads(built(connector, case, case.args).body or b"")
    assert graphql.validate(schema, graphql.parse(sent["query"])) == []
    for answer in (case.answer, case.last):
        if answer is not msgspec.UNSET:
            assert isinstance(answer, dict)
            result = graphql.graphql_sync(schema, sent["query"], answer["data"], variable_values=sent.get("variables"))
            assert (result.data, result.errors) == (answer["data"], None)


# --- the next page ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("connector", "case"), PAGED)
def test_the_answer_names_the_next_page_and_the_last_one_names_none(
    connector: str, case: Case, sanitizer: Sanitizer
) -> None:
    action = CATALOGUE.action(f"{connector}:{case.action}")
    result = clean(sanitizer, case.body, case)
    assert next_args(action, case.args, result.headers, result.body) == {**case.args, **case.next}
    last = clean(sanitizer, encoded(case.last, case.answer_type), case)
    assert next_args(action, case.args, last.headers, last.body) is None


@pytest.mark.parametrize(("connector", "case"), PAGED)
def test_the_next_page_is_asked_for_where_the_documentation_says(connector: str, case: Case) -> None:
    first, second = (built(connector, case, args) for args in (case.args, {**case.args, **case.next}))
    (cursor,) = case.next.values()
    where, _, name = case.next_in.partition(" ")
    assert (first.method, first.path) == (second.method, second.path)
    if where == "query":
        rest = [pair for pair in first.query if pair[0] != name]
        assert sorted(second.query) == sorted([*rest, (name, str(cursor))])
        assert first.body == second.body
    else:
        assert where == "body"
        *outer, inner = name.split(".")
        body = orjson.loads(second.body or b"")
        holder: Any = body
        for part in outer:
            holder = holder[part]
        assert holder.pop(inner) == cursor
        before = orjson.loads(first.body or b"")
        for part in outer:
            before[part].pop(inner, None)
        assert body == before
        assert first.query == second.query


# --- the answer -------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def rules() -> dict[str, Rule]:
    return {rule.id: rule for rule in load_rules()}


@pytest.fixture(scope="module")
def sanitizer(rules: dict[str, Rule]) -> Sanitizer:
    return Sanitizer.from_rules(tuple(rules.values()))


def clean(sanitizer: Sanitizer, body: bytes, answer: Answer, *credentials: bytes) -> Sanitized:
    """What the agent gets of a body with the type and fields of ``answer``. The default credential is not in it."""
    injected = credentials or (secrets.token_hex(20).encode(),)
    return sanitizer.sanitize(body, content_type=answer.answer_type, headers=answer.fields, credentials=injected)


@pytest.mark.parametrize("answer", ANSWERS)
def test_a_documented_answer_passes_byte_for_byte(answer: Answer, sanitizer: Sanitizer) -> None:
    bodies = [answer.body]
    if isinstance(answer, Case):
        bodies.append(encoded(answer.last, answer.answer_type))
    for body in bodies:
        result = clean(sanitizer, body, answer)
        assert result.report.is_clean, result.report
        assert (result.body, result.headers) == (body, answer.fields)


#: A text, or one between the tags of XML.
_BETWEEN_TAGS = re.compile(r"(?:^|>)([^<>]*[^<>\s][^<>]*)(?=<|$)")


def places(answer: Answer) -> list[tuple[str, Callable[[str], bytes]]]:
    """Each string of an answer, and what gives the body with another text in its place; at most ``PLACES_MAX``."""
    if isinstance(answer.answer, str):
        whole = answer.answer
        found = [match.span(1) for match in _BETWEEN_TAGS.finditer(whole)]
        return [(whole[start:end], partial(put_text, whole, start, end)) for start, end in found[:PLACES_MAX]]
    ways: list[Way] = list(strings(answer.answer))[:PLACES_MAX]
    return [(str(at(answer.answer, way)), partial(put_member, answer.answer, way)) for way in ways]


def put_text(whole: str, start: int, end: int, text: str) -> bytes:
    return (whole[:start] + text + whole[end:]).encode()


def put_member(document: object, way: Way, text: str) -> bytes:
    return orjson.dumps(replaced(document, way, text))


@pytest.mark.parametrize("answer", [param for param in ANSWERS if places(param.values[0])])
def test_a_secret_in_any_string_of_an_answer_never_comes_out(
    answer: Answer, sanitizer: Sanitizer, rules: dict[str, Rule]
) -> None:
    """The credential of the connection, and a secret that is known by its format only."""
    credential = secrets.token_urlsafe(24)
    for number, (text, put) in enumerate(places(answer)):
        rule = rules[PLANTED[number % len(PLANTED)]]
        example = build(rule.example, secrets.token_hex(8))
        body = put(f"{text} {credential} {example} end")
        assert credential.encode() in body
        result = clean(sanitizer, body, answer, credential.encode())
        assert credential.encode() not in result.body
        assert secret_of(rule, example).encode() not in result.body
        assert sum(removed.count for removed in result.report.removed) >= 2


@pytest.mark.parametrize("answer", [param for param in ANSWERS if param.values[0].withheld])
def test_a_member_that_is_a_secret_by_design_is_withheld_and_the_rest_is_as_it_was(
    answer: Answer, sanitizer: Sanitizer
) -> None:
    for pointer in answer.withheld:
        way: Way = tuple(int(step) if step.isdecimal() else step for step in pointer.split("/")[1:])
        assert at(answer.answer, way) is None
        value = secrets.token_urlsafe(24)
        body = encoded(replaced(answer.answer, way, value), answer.answer_type)
        result = clean(sanitizer, body, answer)
        assert value.encode() not in result.body
        found = orjson.loads(result.body)
        assert str(at(found, way)).startswith("[redacted:")
        assert replaced(found, way, None) == answer.answer


# --- what has to be here ----------------------------------------------------------------------------------------------
def test_every_connector_with_a_provider_has_a_file() -> None:
    assert {one.connector for one in FILES} == set(CATALOGUE.connectors) - ELSEWHERE


@pytest.mark.parametrize("one", FILES, ids=lambda one: one.connector)
def test_every_action_has_a_case_and_every_page_a_next_and_a_last(one: Specified) -> None:
    """So that an action that is added, or comes in pages from now on, comes with what its provider documents."""
    have = {f"{one.connector}:{case.action}": case for case in one.cases}
    actions = CATALOGUE.connectors[one.connector].actions.values()
    assert sorted(have) == sorted(action.id for action in actions)
    for action in actions:
        case, is_paged = have[action.id], action.pagination is not None
        assert (bool(case.next), bool(case.next_in), case.last is not msgspec.UNSET) == (is_paged,) * 3, action.id


def test_each_provider_has_an_error_and_somewhere_a_rate_limit() -> None:
    assert all(one.errors for one in FILES)
    statuses = Counter(error.status for one in FILES for error in one.errors)
    assert statuses[429] >= 5
    assert statuses[200] >= 1, "Slack refuses with 200"
    assert any("retry-after" in error.headers for one in FILES for error in one.errors)


def test_every_source_is_a_page_of_the_providers_own_documentation() -> None:
    for one in FILES:
        allowed = DOCUMENTATION[one.connector.partition("-")[0]]
        assert set(one.documentation) <= allowed
        for answer in (*one.cases, *one.errors):
            parts = urlsplit(answer.source)
            assert parts.scheme == "https", answer.source
            assert parts.netloc in one.documentation, answer.source
            assert parts.path.strip("/"), answer.source


def test_a_case_is_named_once_and_has_one_body() -> None:
    for one in FILES:
        assert len({case.action for case in one.cases}) == len(one.cases)
        for case in one.cases:
            bodies = [case.request.form, case.request.text, case.request.graphql, case.request.body]
            assert sum(body is not None for body in bodies) <= 1, case.action
