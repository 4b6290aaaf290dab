"""Every shipped action: only its own request is accepted as it, and what it acts on is read from that request.

Requests are generated from the catalogue's own declarations: values of every type at and inside their limits.
"""

from __future__ import annotations

import base64
import email
import functools
import re
import string
from email import policy
from pathlib import Path
from urllib.parse import unquote

import msgspec
import orjson
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from nomos.catalogue import Action, OutgoingRequest, Parameter, Resource, build_request, derive_resource, load_catalogue
from nomos.catalogue.bodies import content_type_of
from nomos.catalogue.model import ANY_NAME, WHOLE
from nomos.catalogue.segments import check_segment
from nomos.errors import DestinationRefused, LimitExceeded, Malformed, NomosError, NotCovered, UnknownResource
from nomos.uploading import Upload, separated
from nomos_policy.vocabulary import Vocabulary, typed_args

FOLDER = Path(__file__).parents[3] / "connectors"
CATALOGUE = load_catalogue(FOLDER)
ACTIONS = sorted(CATALOGUE.actions.values(), key=lambda action: action.id)
UUID = "0a1b2c3d-0000-4000-8000-00000000beef"


@functools.cache
def strategy(pattern: str) -> st.SearchStrategy[str]:
    return st.from_regex(re.compile(pattern, re.ASCII), fullmatch=True)


_plain = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cs", "Cc", "Zl", "Zp"], exclude_characters="\\/?#%;,")
)
_any_text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
_names = st.text(string.ascii_letters + string.digits + "_-", min_size=1, max_size=40)
_types = st.sampled_from(["application/octet-stream", "image/png", "text/csv; charset=utf-8"])
_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53) + 1, 2**53 - 1) | _any_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_any_text, inner, max_size=3),
    max_leaves=6,
)


def texts(parameter: Parameter) -> st.SearchStrategy[str]:
    if parameter.enum:
        return st.sampled_from(parameter.enum)
    if parameter.pattern:
        return strategy(parameter.pattern).filter(lambda text: 0 < len(text) <= parameter.max_length)
    return _plain.map(lambda text: (text.strip(" .") + "x")[: parameter.max_length])


def values(parameter: Parameter) -> st.SearchStrategy[object]:
    match parameter.type:
        case "integer":
            return st.integers(parameter.minimum, parameter.maximum)
        case "boolean":
            return st.booleans()
        case "string_list":
            return st.lists(texts(parameter), min_size=1, max_size=min(12, parameter.max_items))
        case "string_map":
            return st.dictionaries(_names, _any_text, max_size=3)
        case "json":
            return _json
        case "content":
            return st.binary(max_size=40).flatmap(lambda data: _types.map(lambda kind: Upload(data, kind)))
        case "string":
            return texts(parameter)


def is_segment(text: str) -> bool:
    try:
        check_segment(text, "test")
    except DestinationRefused:
        return False
    return True


def paths(pattern: str) -> st.SearchStrategy[str]:
    return st.lists(strategy(pattern).filter(is_segment), min_size=1, max_size=4).map("/".join)


@st.composite
def calls(draw: st.DrawFn, action: Action) -> tuple[Resource, dict[str, object]]:
    fields = []
    kind = action.resource_type
    for name, pattern, source in zip(kind.fields, kind.field_patterns, action.sources, strict=True):
        if kind.within and name == kind.fields[-1]:
            fields.append(draw(paths(pattern)))
        else:
            is_fixed = source.where == "constant"
            fields.append(
                source.name if is_fixed else draw(strategy(pattern).filter(lambda text: text.strip(".") != ""))
            )
    args = {p.name: draw(values(p)) for p in action.parameters if p.required or draw(st.booleans())}
    if action.content is not None and action.content.name in args:
        args.pop(action.content.instead_of, None)
    return action.resource_type.resource(tuple(fields)), args


def built(action: Action, call: tuple[Resource, dict[str, object]]) -> OutgoingRequest | None:
    args, upload = separated(call[1])
    try:
        return build_request(action, call[0], args, None if upload is None else upload.data)
    except (DestinationRefused, Malformed):
        return None


def test_there_are_as_many_actions_as_the_documents_say() -> None:
    table = (FOLDER.parent / "docs" / "connectors.md").read_text()
    said = {name: int(count) for name, count in re.findall(r"^\| `([a-z0-9-]+)` \| ([0-9]+) \| ", table, re.MULTILINE)}
    assert said == {name: len(connector.actions) for name, connector in CATALOGUE.connectors.items()}


@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.id)
@settings(max_examples=8)
@given(data=st.data())
def test_the_resource_of_an_action_is_derived_and_its_request_is_only_its_own(
    action: Action, data: st.DataObject
) -> None:
    call = data.draw(calls(action))
    request = built(action, call)
    if request is None:
        return
    connector = CATALOGUE.connectors[action.connector]
    assert derive_resource(connector, action, request) == call[0]
    assert request.target.isascii()
    assert request.path == action.path == "/" or not {"", ".", ".."} & {
        unquote(segment) for segment in request.path.split("/")[1:]
    }
    for other in connector.actions.values():
        if other is not action:
            with pytest.raises(NotCovered):
                derive_resource(connector, other, request)
    for changed in _changed(action, request):
        with pytest.raises(NotCovered):
            derive_resource(connector, action, changed)


def _changed(action: Action, request: OutgoingRequest) -> list[OutgoingRequest]:
    """The request with another method, path, query or body; not where any query, or any body, is of the action."""
    method = "PUT" if request.method == "POST" else "POST"
    is_any_query = any(p.wire == ANY_NAME for p in action.parameters)
    is_any_body = any((p.where, p.wire) == ("body", WHOLE) for p in action.parameters)
    changes: list[dict[str, object]] = [
        {"method": method},
        {"path": request.path + "/"},
        {"path": request.path + "/../x"},
        {"path": "/" + request.path},
        {"query": (*request.query, ("nomos\nundeclared" if is_any_query else "nomos_undeclared", "1"))},
        {"body": (request.body or b"") + (b"\xff" if action.body_format == "text" else b" ")},
        {"body": None if request.body is not None else b"{}"},
        {"content_type": "text/plain"},
        {"headers": (*request.headers, ("x-nomos-target", "Undeclared"))},
        *({"headers": tuple(pair for pair in request.headers if pair != left)} for left in request.headers),
        *({"headers": _with_another_value(request.headers, name)} for name, _ in request.headers),
    ]
    if request.content is not None:
        other = msgspec.structs.replace(request.content, sha256="0" * 64)
        changes += [{"content": other}, {"is_complete": False}] if request.content.size else [{"content": other}]
    if is_any_body:
        pass
    elif request.body and request.content_type == "application/json":
        members = orjson.loads(request.body)
        changes.append({"body": orjson.dumps({**members, "nomosUndeclared": 1}, option=orjson.OPT_SORT_KEYS)})
        changes.append({"body": request.body[:-1] + b',"nomosUndeclared":1}'})
    elif request.body:
        changes += [{"body": request.body + b"&nomos_undeclared=1"}, {"body": request.body + b"&" + request.body}]
    return [msgspec.structs.replace(request, **change) for change in changes]


def _with_another_value(headers: tuple[tuple[str, str], ...], name: str) -> tuple[tuple[str, str], ...]:
    return tuple((one, value + "x" if one == name else value) for one, value in headers)


@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.id)
@settings(max_examples=3)
@given(data=st.data())
def test_the_headers_of_an_action_are_exactly_its_own_whatever_the_arguments(
    action: Action, data: st.DataObject
) -> None:
    request = built(action, data.draw(calls(action)))
    if request is not None:
        assert request.headers == action.fixed_headers
        if request.content is None or action.content is None or action.content.encoding != "raw":
            assert request.content_type.partition("; boundary=")[0] == content_type_of(action)


@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.id)
def test_an_action_takes_no_argument_in_place_of_its_resource(action: Action) -> None:
    """No argument has the name of a field, and none is written where the field is written."""
    places = {(source.where, source.name) for source in action.sources}
    for parameter in action.parameters:
        assert parameter.name not in action.resource_type.fields
        assert (parameter.where, parameter.wire) not in places


@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.id)
@settings(max_examples=3)
@given(data=st.data())
def test_a_policy_is_given_what_it_can_read_of_the_arguments_and_no_more(action: Action, data: st.DataObject) -> None:
    args, _ = separated(data.draw(calls(action))[1])
    readable = {p.name for p in action.parameters if p.type not in ("json", "string_map")}
    assert set(typed_args(action, args)) == readable & set(args)


def test_the_whole_catalogue_is_one_cedar_schema() -> None:
    assert "json" not in Vocabulary(CATALOGUE).text


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_connector_file_reads_the_same_with_a_general_yaml_reader(path: Path) -> None:
    """The files mean to an editor or another program what they mean here."""
    loaded = yaml.load(path.read_text(), Loader=yaml.BaseLoader)
    assert set(loaded["actions"]) == {a.id.partition(":")[2] for a in CATALOGUE.connectors[path.stem].actions.values()}
    for name, action in loaded["actions"].items():
        assert set(action.get("parameters", {})) | set(action.get("uses", [])) == {
            p.name for p in CATALOGUE.action(f"{path.stem}:{name}").parameters
        }


# --- one request of each kind, written out ----------------------------------------------------------------------------
def call(action_id: str, resource: str, **args: object) -> OutgoingRequest:
    action = CATALOGUE.action(action_id)
    request = build_request(action, CATALOGUE.parse_resource(resource), args)
    assert derive_resource(CATALOGUE.connectors[action.connector], action, request).text == resource
    return request


def test_a_resource_that_stands_in_the_body_is_read_from_it() -> None:
    request = call("slack:chat.post", "slack:channel/C0123456789", text="hi")
    assert (request.path, request.body) == ("/api/chat.postMessage", b'{"channel":"C0123456789","text":"hi"}')


def test_a_resource_that_stands_in_the_query_is_read_from_it() -> None:
    request = call("slack:conversations.history", "slack:channel/C0123456789", limit=5)
    assert request.target == "/api/conversations.history?channel=C0123456789&limit=5"


def test_a_body_is_nested_as_its_paths_say() -> None:
    request = call("jira:issues.create", f"jira:project/{UUID}/OPS", summary="Down", type="Bug", labels=["a", "b"])
    assert orjson.loads(request.body or b"") == {
        "fields": {"project": {"key": "OPS"}, "summary": "Down", "issuetype": {"name": "Bug"}, "labels": ["a", "b"]}
    }


def test_a_form_has_one_spelling() -> None:
    request = call(
        "stripe:payments.create", "stripe:customer/cus_00000001", amount=500, currency="eur", confirm=True,
        metadata={"order": "a b&c=d", "n": "1"},
    )  # fmt: skip
    assert request.content_type == "application/x-www-form-urlencoded"
    assert request.body == (
        b"amount=500&confirm=true&currency=eur&customer=cus_00000001&metadata[n]=1&metadata[order]=a%20b%26c%3Dd"
    )


BATCH = "aws-dynamodb:items.get_batch"


@pytest.mark.parametrize("table", ["orders", "prod.orders-1", "Keys", "a.b.c", "RequestItems"])
def test_a_resource_that_is_the_name_of_a_member_is_read_from_it(table: str) -> None:
    keys = [{"id": {"S": "{table}"}}, {"id.x": {"S": "RequestItems.{table}"}}]
    request = call(BATCH, f"aws-dynamodb:table/{table}", keys=keys, consistent=True)
    assert orjson.loads(request.body or b"") == {"RequestItems": {table: {"Keys": keys, "ConsistentRead": True}}}


@pytest.mark.parametrize(
    "body",
    [
        {"RequestItems": {"orders": {"Keys": []}, "payroll": {"Keys": []}}},
        {"RequestItems": {}},
        {"RequestItems": {"orders": []}},
        {"RequestItems": {"orders": {"Keys": [], "TableName": "payroll"}}},
        {"RequestItems": {"orders": {"Keys": []}}, "TableName": "payroll"},
        {"RequestItems": {"orders": {"payroll": {"Keys": []}}}},
        {"RequestItems": {"arn:aws:dynamodb:eu-west-1:123456789012:table/orders": {"Keys": []}}},
        {"RequestItems": {"{table}": {"Keys": []}}},
        {"RequestItems": {"or": {"Keys": []}}},
        {"RequestItems": []},
        {"RequestItems": {"orders": {"Keys": [], "{table}": {}}}},
        {"{table}": {"Keys": []}},
        {},
        [],
    ],
)
def test_a_batch_that_names_another_table_or_several_is_refused(body: object) -> None:
    action = CATALOGUE.action(BATCH)
    request = call(BATCH, "aws-dynamodb:table/orders", keys=[])
    changed = msgspec.structs.replace(request, body=orjson.dumps(body, option=orjson.OPT_SORT_KEYS))
    with pytest.raises(NotCovered):
        derive_resource(CATALOGUE.connectors["aws-dynamodb"], action, changed)


def test_a_table_that_is_named_twice_is_refused() -> None:
    """A reader that takes the first of two equal names would see another request than one that takes the last."""
    request = call(BATCH, "aws-dynamodb:table/orders", keys=[])
    twice = b'{"RequestItems":{"payroll":{"Keys":[]},"orders":{"Keys":[]}}}'
    for body in (twice, twice.replace(b"payroll", b"orders")):
        with pytest.raises(NotCovered):
            derive_resource(
                CATALOGUE.connectors["aws-dynamodb"],
                CATALOGUE.action(BATCH),
                msgspec.structs.replace(request, body=body),
            )


def test_a_table_has_one_place_and_one_spelling() -> None:
    for text in ("aws-dynamodb:table/arn:aws:dynamodb:eu-west-1:123456789012:table", "aws-dynamodb:table/or"):
        with pytest.raises(UnknownResource):
            CATALOGUE.parse_resource(text)
    # the one member of every request that chooses a table, or the list of all
    for action in CATALOGUE.connectors["aws-dynamodb"].actions.values():
        (source,) = action.sources
        assert source.name in ("self", "TableName", "RequestItems.{table}")


@pytest.mark.parametrize(
    "update",
    [
        "REMOVE a",
        "SET a = :b REMOVE c",
        "set a = :b remove c",
        "SET a = :b\nDELETE tags :t",
        "SET a=:b REMOVE#c",
        "é\u00a0REMOVE c",
    ],
)
def test_an_update_takes_nothing_away(update: str) -> None:
    with pytest.raises(Malformed):
        call("aws-dynamodb:items.update", "aws-dynamodb:table/orders", key={}, update=update)
    call("aws-dynamodb:items.update", "aws-dynamodb:table/orders", key={}, update="SET #removed = :x, removed_at = :y")


@pytest.mark.parametrize(
    "body",
    [
        b"amount=500&currency=eur",
        b"currency=eur&amount=500&customer=cus_00000001",
        b"amount=500&amount=900&currency=eur&customer=cus_00000001",
        b"amount=500&currency=eur&customer=cus_00000001&customer=cus_00000002",
        b"amount=500&currency=eur&customer[]=cus_00000001",
        b"amount=500&currency=eur&customer=cus_00000001&transfer_data[destination]=acct_1",
        b"amount=%35%30%30&currency=eur&customer=cus_00000001",
        b"amount=0500&currency=eur&customer=cus_00000001",
        b"amount=500&currency=eur&customer=cus_00000001&metadata[a][b]=1",
        b"amount=500&currency=eur&customer=cus_00000001&metadata=1",
        b"amount=500;currency=eur&customer=cus_00000001",
        b"amount=500&currency=EUR&customer=cus_00000001",
        b"amount=-500&currency=eur&customer=cus_00000001",
        b"\xff",
        b"&",
    ],
)
def test_a_form_that_was_not_built_here_is_refused(body: bytes) -> None:
    request = call("stripe:payments.create", "stripe:customer/cus_00000001", amount=500, currency="eur")
    action = CATALOGUE.action("stripe:payments.create")
    with pytest.raises(NotCovered):
        derive_resource(CATALOGUE.connectors["stripe"], action, msgspec.structs.replace(request, body=body))


def test_a_graphql_document_is_fixed_and_the_resource_is_one_of_its_variables() -> None:
    request = call("linear:issues.rename", f"linear:issue/{UUID}", title='") { delete }')
    body = orjson.loads(request.body or b"")
    assert body["variables"] == {"issue": UUID, "title": '") { delete }'}
    assert body["query"] == dict(CATALOGUE.action("linear:issues.rename").fixed_body)["query"]
    other = orjson.dumps(
        {**body, "query": body["query"].replace("issueUpdate", "issueDelete")}, option=orjson.OPT_SORT_KEYS
    )
    with pytest.raises(NotCovered):
        derive_resource(
            CATALOGUE.connectors["linear"],
            CATALOGUE.action("linear:issues.rename"),
            msgspec.structs.replace(request, body=other),
        )


def test_what_an_action_fixes_tells_it_from_its_neighbour() -> None:
    page = f"notion:page/{UUID}"
    trash, restore = call("notion:pages.trash", page), call("notion:pages.restore", page)
    assert (trash.body, restore.body) == (b'{"in_trash":true}', b'{"in_trash":false}')
    with pytest.raises(NotCovered):
        derive_resource(CATALOGUE.connectors["notion"], CATALOGUE.action("notion:pages.restore"), trash)
    # 1 is not true, whatever Python thinks
    one = msgspec.structs.replace(trash, body=b'{"in_trash":1}')
    with pytest.raises(NotCovered):
        derive_resource(CATALOGUE.connectors["notion"], CATALOGUE.action("notion:pages.trash"), one)


def test_a_path_that_ends_in_a_verb_keeps_it() -> None:
    sheet = "google-sheets:sheet/" + "a" * 30
    request = call("google-sheets:values.append", sheet, range="Sheet1!A1:B2", values=[["=1+1"]])
    assert request.path.endswith("/values/Sheet1!A1:B2:append")
    assert ("valueInputOption", "RAW") in request.query


def test_a_mail_is_written_from_what_the_policy_and_the_approver_saw() -> None:
    subject, text = "Grüße " * 20, "Hallo\n\nß"
    args = {"to": ["a@example.org", "b@example.org"], "subject": subject, "text": text, "thread": "0123456789ab"}
    request = call("gmail:messages.send", "gmail:mailbox/me", **args)
    body = orjson.loads(request.body or b"")
    assert set(body) == {"raw", "threadId"}
    message = email.message_from_bytes(base64.urlsafe_b64decode(body["raw"] + "=="), policy=policy.default)
    assert (message["To"], message["Subject"]) == ("a@example.org, b@example.org", subject)
    assert message.get_content() == text.replace("\n", "\r\n")


@pytest.mark.parametrize(
    "change",
    [
        {"to": ["a@example.org\r\nBcc: evil@example.org"]},
        {"to": ["a@example.org, evil@example.org"]},
        {"to": []},
        {"subject": "a\r\nBcc: evil@example.org"},
        {"subject": "a\nBcc: evil@example.org"},
        {"in_reply_to": "<a@b>\r\nBcc: evil@example.org"},
        {"text": "a\0b"},
    ],
)
def test_no_part_of_a_mail_can_add_a_header(change: dict[str, object]) -> None:
    args = {"to": ["a@example.org"], "subject": "s", "text": "t", **change}
    with pytest.raises(NomosError):
        call("gmail:messages.send", "gmail:mailbox/me", **args)


def test_a_mail_that_says_more_than_its_parts_is_refused() -> None:
    request = call("gmail:messages.send", "gmail:mailbox/me", to=["a@example.org"], subject="s", text="t")
    raw = base64.urlsafe_b64decode(orjson.loads(request.body or b"")["raw"] + "==")
    action, connector = CATALOGUE.action("gmail:messages.send"), CATALOGUE.connectors["gmail"]
    for other in (
        b"Bcc: evil@example.org\r\n" + raw,
        b"X-Extra: 1\r\n" + raw,
        raw.replace(b"a@example.org", b"a@example.org,evil@example.org"),
        raw + b"more",
    ):
        body = orjson.dumps({"raw": base64.urlsafe_b64encode(other).decode().rstrip("=")})
        try:
            derived = derive_resource(connector, action, msgspec.structs.replace(request, body=body))
        except NotCovered:
            continue
        # a recipient that is declared may stand there; it is then one that a policy was asked about
        assert derived.text == "gmail:mailbox/me"
        assert other.startswith(b"Bcc")


@settings(max_examples=200)
@given(body=st.binary(max_size=200))
@pytest.mark.parametrize(
    ("action_id", "resource", "args"),
    [
        ("gmail:messages.send", "gmail:mailbox/me", {"to": ["a@example.org"], "subject": "s", "text": "t"}),
        ("stripe:payments.create", "stripe:customer/cus_00000001", {"amount": 1, "currency": "eur"}),
        ("slack:chat.post", "slack:channel/C0123456789", {"text": "t"}),
    ],
)
def test_any_bytes_are_the_body_that_was_built_or_refused(
    action_id: str, resource: str, args: dict[str, object], body: bytes
) -> None:
    request = msgspec.structs.replace(call(action_id, resource, **args), body=body)
    with pytest.raises(NotCovered):
        derive_resource(CATALOGUE.connectors[action_id.partition(":")[0]], CATALOGUE.action(action_id), request)


def test_a_json_argument_has_its_limits() -> None:
    channel = "slack:channel/C0123456789"
    deep: object = "x"
    for _ in range(13):
        deep = [deep]
    for blocks in (deep, ["x" * 40_000], [1.5], [{"a\0": 1}], ["\ud800"], [b"x"], {1: "a"}):
        with pytest.raises((Malformed, LimitExceeded)):
            call("slack:chat.post", channel, blocks=blocks)
    for metadata in ({"a b": "c"}, {"a": 1}, {"a]": "b"}, {"a": "x" * 501}, {f"k{i}": "" for i in range(51)}, []):
        with pytest.raises((Malformed, LimitExceeded)):
            call("stripe:customers.create", "stripe:account/self", metadata=metadata)


def test_a_constant_resource_is_the_only_one_of_its_action() -> None:
    with pytest.raises(NomosError):
        call("stripe:balance.get", "stripe:account/other")
