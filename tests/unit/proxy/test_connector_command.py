"""``nomos connector``: reading the catalogue, trying a request, checking a file, and drafting one from OpenAPI."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from nomos.catalogue import build_request, derive_resource, parse_connector
from nomos.cli.main import main
from nomos.errors import Malformed
from nomos_proxy.openapi import draft_connector

ROOT = Path(__file__).parents[3]
CONNECTORS = str(ROOT / "connectors")
PETS: dict[str, object] = {
    "openapi": "3.1.0",
    "info": {"title": "Pets", "version": "1"},
    "servers": [{"url": "https://api.pets.example/v2"}],
    "paths": {
        "/pets": {
            "get": {
                "operationId": "listPets",
                "summary": "List pets",
                "parameters": [
                    {"name": "pageSize", "in": "query", "schema": {"type": "integer", "minimum": 1, "maximum": 50}},
                    {
                        "name": "kind",
                        "in": "query",
                        "required": True,
                        "schema": {"enum": ["cat", "dog"], "type": "string"},
                    },
                    {"name": "weight", "in": "query", "schema": {"type": "number"}},
                    {"name": "X-Trace", "in": "header", "required": True, "schema": {"type": "string"}},
                ],
            },
            "post": {
                "operationId": "createPet",
                "requestBody": {"content": {"application/json": {"schema": {"$ref": "#/components/schemas/Pet"}}}},
            },
        },
        "/pets/{petId}": {
            "get": {"operationId": "getPet"},
            "delete": {"operationId": "removePet"},
            "parameters": [{"name": "petId", "in": "path", "required": True, "schema": {"type": "string"}}],
        },
        "/pets/{petId}/owners/{ownerId}": {"put": {"operationId": "grantOwner"}},
        "/pets/{petId}/adoption": {"post": {"operationId": "chargeAdoption"}},
        "/pets/{name}": {"get": {"operationId": "getPetByName"}},
        "/files/{a}.json": {"get": {"operationId": "odd"}},
    },
    "components": {
        "schemas": {
            "Pet": {
                "type": "object",
                "required": ["name"],
                "properties": {
                    "name": {"type": "string", "maxLength": 40},
                    "tags": {"type": "array", "items": {"type": "string"}},
                    "owner": {"type": "object"},
                    "isTame": {"type": ["boolean", "null"]},
                },
            }
        }
    },
}


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(["connector", *words])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_the_catalogue_is_listed_with_the_class_of_each_action(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "list", "--connectors", CONNECTORS, "--json")
    listed = {one["connector"]: one["actions"] for one in json.loads(out)["connectors"]}
    assert code == 0
    assert listed["github"] >= 60
    assert sum(listed.values()) >= 300
    code, out, _ = run(capsys, "list", "stripe", "--connectors", CONNECTORS)
    assert "payment     stripe:refunds.create                stripe:payment/<payment>" in out


def test_an_action_is_shown_with_all_that_it_takes(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "show", "jira:issues.create", "--connectors", CONNECTORS)
    assert code == 0
    assert "resource  jira:project/<cloud>/<project>, from the path (cloud), body (fields.project.key)" in out
    assert "argument  summary: string, required" in out
    assert run(capsys, "show", "jira:issues.explode", "--connectors", CONNECTORS)[0] == 1
    _, out, _ = run(capsys, "show", "aws-s3:objects.put", "--connectors", CONNECTORS)
    assert "upload: content, 8388608 bytes at most, instead of text\n" in out


def test_a_request_is_shown_as_it_would_be_sent_and_without_a_credential(capsys: pytest.CaptureFixture[str]) -> None:
    words = ("try", "stripe:refunds.create", "stripe:payment/pi_123456789", "--args", '{"amount": 500}')
    code, out, err = run(capsys, *words, "--connectors", CONNECTORS)
    assert code == 0
    assert out.splitlines()[0] == "POST https://api.stripe.com/v1/refunds"
    assert "authorization: Bearer <the credential>" in out
    assert out.endswith("\namount=500&payment_intent=pi_123456789\n")
    assert "nothing was sent" in err


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("try", "stripe:refunds.create", "stripe:payment/x"), "not spelled as its pattern demands"),
        (
            ("try", "stripe:refunds.create", "stripe:payment/pi_123456789", "--args", '{"to": 1}'),
            "takes no such argument",
        ),
        (("try", "stripe:refunds.create", "stripe:payment/pi_123456789", "--args", "{"), "--args is not JSON"),
        (("list", "gitlab"), "there is no connector 'gitlab'"),
    ],
)
def test_what_cannot_be_sent_is_refused_with_its_reason(
    capsys: pytest.CaptureFixture[str], words: tuple[str, ...], says: str
) -> None:
    code, out, err = run(capsys, *words, "--connectors", CONNECTORS)
    assert code != 0
    assert not out
    assert says in err


def test_a_file_is_checked_and_a_fault_is_said(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, _ = run(capsys, "check", str(ROOT / "connectors" / "slack.yaml"))
    assert code == 0
    assert out.startswith("slack is a connector: 45 actions")
    (tmp_path / "slack.yaml").write_text(
        (ROOT / "connectors" / "slack.yaml").read_text().replace("risk: read", "risk: rad", 1)
    )
    code, out, err = run(capsys, "check", str(tmp_path / "slack.yaml"))
    assert (code, out) == (1, "")
    assert "slack.yaml: Invalid enum value 'rad'" in err
    (tmp_path / "other.yaml").write_text((ROOT / "connectors" / "notion.yaml").read_text())
    assert "the names must be equal" in run(capsys, "check", str(tmp_path / "other.yaml"))[2]
    assert run(capsys, "check", str(tmp_path / "none.yaml"))[0] == 2


def test_headers_of_an_action_are_shown_and_tried_and_a_fault_in_them_is_said(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, out, _ = run(capsys, "show", "aws-dynamodb:items.get", "--connectors", CONNECTORS)
    assert code == 0
    assert "header    x-amz-target: DynamoDB_20120810.GetItem\n" in out
    assert "body      application/x-amz-json-1.0\n" in out
    call = ("aws-dynamodb:items.get", "aws-dynamodb:table/orders", "--args", '{"key": {"id": {"S": "1"}}}')
    code, out, _ = run(capsys, "try", *call, "--connectors", CONNECTORS)
    assert code == 0
    assert "x-amz-target: DynamoDB_20120810.GetItem\ncontent-type: application/x-amz-json-1.0\n" in out
    text = (ROOT / "connectors" / "aws-dynamodb.yaml").read_text()
    (tmp_path / "aws-dynamodb.yaml").write_text(text.replace("{x-amz-target: DynamoDB_20120810.GetItem}", "{host: x}"))
    code, out, err = run(capsys, "check", str(tmp_path / "aws-dynamodb.yaml"))
    assert (code, out) == (1, "")
    assert "action items.get: the header 'host' is written by the proxy itself" in err
    # another action's own header makes it that action
    (tmp_path / "aws-dynamodb.yaml").write_text(
        text.replace("10.BatchGetItem", "10.Query").replace("10.Scan", "10.Query")
    )
    assert "can both match" in run(capsys, "check", str(tmp_path / "aws-dynamodb.yaml"))[2]


def body(**content: object) -> dict[str, object]:
    return {
        "requestBody": {"content": {name.replace("__", "/").replace("_", "-"): one for name, one in content.items()}}
    }


def test_a_draft_takes_files_where_the_document_does() -> None:
    binary = {"schema": {"type": "string", "format": "binary"}}
    form = {
        "type": "object",
        "required": ["note"],
        "properties": {"file": {"type": "string", "format": "binary"}, "note": {"type": "string"},
                       "count": {"type": "integer"}},
    }  # fmt: skip
    two = {"properties": {"a": {"type": "string", "format": "binary"}, "b": {"type": "string", "format": "binary"}}}
    document = {
        "openapi": "3.1.0",
        "servers": [{"url": "https://api.files.example"}],
        "paths": {
            "/images": {"post": {"operationId": "putImage", **body(image__png=binary, image__jpeg=binary)}},
            "/blobs": {"put": {"operationId": "putBlob", **body(application__octet_stream={})}},
            "/forms": {"post": {"operationId": "sendForm", **body(multipart__form_data={"schema": form})}},
            "/pairs": {"post": {"operationId": "sendTwo", **body(multipart__form_data={"schema": two})}},
            "/texts": {"post": {"operationId": "sendText", **body(text__plain={"schema": {"type": "string"}})}},
        },
    }
    draft = draft_connector(document, "files")
    connector = parse_connector(yaml.safe_dump(draft.members).encode())
    uploads = {name: action.content for name, action in connector.actions.items()}
    image, blob, sent = (uploads[f"files:{name}"] for name in ("images.put_image", "blobs.put_blob", "forms.send_form"))
    assert image is not None
    assert image.enum == ("image/png", "image/jpeg")
    assert blob is not None
    assert blob.enum == ("application/octet-stream",)
    assert sent is not None
    assert (sent.wire, sent.encoding) == ("file", "part")
    form_action = connector.actions["files:forms.send_form"]
    assert {one.name: one.required for one in form_action.parameters} == {
        "upload": True,
        "filename": True,
        "note": True,
    }
    assert uploads["files:pairs.send_two"] is uploads["files:texts.send_text"] is None
    assert sum("its body is not an object" in line for line in draft.review) == 2
    assert any("'count' of the form" in line for line in draft.review)


def test_a_draft_says_what_the_document_says_and_what_was_guessed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "pets.json").write_text(json.dumps(PETS))
    out = tmp_path / "pets.yaml"
    code, said, _ = run(capsys, "import", str(tmp_path / "pets.json"), "--name", "pets", "--out", str(out))
    assert code == 0
    assert "6 actions" in said
    assert run(capsys, "check", str(out))[0] == 0
    connector = parse_connector(out.read_bytes())
    risks = {action.id: action.risk.value for action in connector.actions.values()}
    assert risks == {
        "pets:pets.list_pets": "read",
        "pets:pets.create_pet": "write",
        "pets:pets.get_pet": "read",
        "pets:pets.remove_pet": "destructive",
        "pets:pets.grant_owner": "permission",
        "pets:pets.charge_adoption": "payment",
    }
    text = out.read_text()
    for line in (
        "# review: pets.get_pet_by_name: left out: a request of it could be one of pets.get_pet",
        "# review: files.odd: left out: action files.odd: the path is not a template",
        "# review: pets.list_pets: left out the query member 'weight', which is of the type number",
        "# review: pets.list_pets: needs the header X-Trace, which an action cannot set",
        "# review: pets.create_pet: write is a guess",
        "# review: pets.grant_owner: permission, because of grant",
    ):
        assert line in text
    create = connector.actions["pets:pets.create_pet"]
    account = create.resource_type.resource(("self",))
    request = build_request(create, account, {"name": "Mimi", "is_tame": True, "tags": ["a"]})
    assert request.body == b'{"isTame":true,"name":"Mimi","tags":["a"]}'
    assert derive_resource(connector, create, request) == account
    with pytest.raises(Malformed, match="needs the argument name"):
        build_request(create, account, {})
    # a second run would write over what somebody has reviewed
    assert run(capsys, "import", str(tmp_path / "pets.json"), "--name", "pets", "--out", str(out))[0] == 2


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"openapi": "2.0"}, "not an OpenAPI 3 document"),
        ({"servers": []}, "names no https server"),
        ({"servers": [{"url": "http://api.pets.example"}]}, "names no https server"),
        ({"servers": [{"url": "https://{region}.pets.example"}]}, "names no https server"),
        ({"servers": [{"url": "https://api.pets.example:8443"}]}, "names no https server"),
        (
            {"paths": {"/a": {"post": {"requestBody": {"$ref": "https://evil.example/x.json"}}}}},
            "a reference leads out of the document",
        ),
        ({"paths": {"/a": {"post": {"requestBody": {"$ref": "#/paths/~1a/post/requestBody"}}}}}, "references_max"),
    ],
)
def test_a_document_that_cannot_be_drafted_is_refused(change: dict[str, object], says: str) -> None:
    with pytest.raises(Malformed, match=says):
        draft_connector({**PETS, **change}, "pets")


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(["paths", "get", "post", "parameters", "schema", "type", "$ref", "/a/{b}", "requestBody", "in",
                         "content", "application/json", "properties", "name", "items", "enum", "required", "{", ""]),
        inner,
        max_size=4,
    ),
    max_leaves=25,
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(["/a", "/a/{b}", "/{b}/c", "x", ""]), _json, max_size=4), _json)
def test_any_document_is_a_draft_or_malformed(paths: dict[str, object], schemas: object) -> None:
    document = {"openapi": "3.0.0", "servers": PETS["servers"], "paths": paths, "components": {"schemas": schemas}}
    try:
        draft = draft_connector(document, "pets")
    except Malformed:
        return
    assert draft.review
