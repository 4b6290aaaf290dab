"""Connectors of AWS's JSON services against the service models of botocore, which AWS publishes for its own clients.

The model says which operations, members and types there are, and botocore's serializer writes a request from them;
neither knows our catalogue.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
from botocore.loaders import Loader
from botocore.model import ServiceModel
from botocore.serialize import create_serializer
from botocore.validate import ParamValidator

from nomos.catalogue import Action, build_request, load_catalogue

from .specified import Case, load_specified

CATALOGUE = load_catalogue(Path(__file__).parents[3] / "connectors")
DYNAMODB = ServiceModel(Loader().load_service_model("dynamodb", "service-2"), "dynamodb")
ACTIONS = list(CATALOGUE.connectors["aws-dynamodb"].actions.values())
(FILE,) = [one for one in load_specified() if one.connector == "aws-dynamodb"]
CASES = {f"aws-dynamodb:{case.action}": case for case in FILE.cases}
#: Types of arguments and of members that carry them.
TYPES = {"string": "string", "integer": "integer", "boolean": "boolean", "map": "json", "list": "json"}


def operation_of(action: Action) -> Any:
    prefix, _, name = dict(action.fixed_headers)["x-amz-target"].partition(".")
    assert prefix == DYNAMODB.metadata["targetPrefix"]
    return DYNAMODB.operation_model(name)


def member_at(operation: Any, path: str) -> tuple[Any, bool]:
    """The shape at a dotted path of an operation's input, and whether it must be there."""
    shape, is_required = operation.input_shape, True
    for part in path.split("."):
        if part.startswith("{"):
            shape = shape.value
        else:
            is_required = part in shape.required_members
            shape = shape.members[part]
    return shape, is_required


@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.id)
def test_every_argument_is_a_member_of_the_operation_with_its_type_and_words(action: Action) -> None:
    operation = operation_of(action)
    for parameter in action.parameters:
        shape, is_required = member_at(operation, parameter.wire)
        assert TYPES[shape.type_name] == parameter.type
        assert parameter.required or not is_required
        assert set(parameter.enum) <= set(getattr(shape, "enum", None) or parameter.enum)


@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.id)
def test_what_chooses_a_table_is_the_resource_and_nothing_else(action: Action) -> None:
    """Of the operation's members, by the names of their shapes: a table's name or ARN, or a map by tables."""
    members = operation_of(action).input_shape.members
    naming = {name for name, shape in members.items() if "Table" in shape.name}
    naming |= {name for name, shape in members.items() if shape.type_name == "map" and "Table" in shape.key.name}
    used = {parameter.wire.partition(".")[0] for parameter in action.parameters}
    (source,) = action.sources
    if source.where == "constant":
        assert action.id == "aws-dynamodb:tables.list", "a place in the list of all tables"
    else:
        assert naming == {source.name.partition(".")[0]}
        assert naming & used <= {"RequestItems"}, "what stands below the table's name"


@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.id)
def test_a_request_is_the_one_that_botocore_writes(action: Action) -> None:
    case: Case = CASES[action.id]
    request = build_request(action, CATALOGUE.parse_resource(f"aws-dynamodb:{case.resource}"), case.args)
    operation, meant = operation_of(action), orjson.loads(request.body or b"")
    report = ParamValidator().validate(meant, operation.input_shape)
    assert not report.has_errors(), report.generate_report()
    written = create_serializer(DYNAMODB.metadata["protocol"]).serialize_to_request(meant, operation)
    assert (request.method, request.target) == (written["method"], written["url_path"])
    assert meant == orjson.loads(written["body"])
    assert {"content-type": request.content_type, **dict(request.headers)} == {
        name.lower(): value for name, value in written["headers"].items()
    }


@pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.id)
def test_an_answer_has_the_members_of_the_operation(action: Action) -> None:
    case: Case = CASES[action.id]
    for answer in (case.answer, case.last):
        if isinstance(answer, dict):
            assert set(answer) <= set(operation_of(action).output_shape.members)
