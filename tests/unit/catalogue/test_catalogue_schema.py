"""The JSON Schema of a connector file, judged by the library jsonschema."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from nomos.catalogue.connectorfile import connector_schema
from nomos.cli.main import main

FOLDER = Path(__file__).parents[3] / "connectors"
VALIDATOR = Draft202012Validator(connector_schema())
GITHUB = yaml.safe_load((FOLDER / "github.yaml").read_text())


def test_it_is_a_schema_and_its_names_are_plain() -> None:
    Draft202012Validator.check_schema(connector_schema())
    names = set(connector_schema()["$defs"])  # type: ignore[call-overload]
    assert {"Connector", "Action", "Parameter", "OAuth"} <= names
    assert not any(name.startswith("_") or name.endswith("File") for name in names)


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_connector_has_the_shape(path: Path) -> None:
    assert [error.message for error in VALIDATOR.iter_errors(yaml.safe_load(path.read_text()))] == []


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.update(scheme="http"),
        lambda c: c.update(port="443"),
        lambda c: c.pop("host"),
        lambda c: c.update(more=1),
        lambda c: c["oauth"].update(client="tls"),
        lambda c: c["actions"]["repos.get"].update(method="FETCH"),
        lambda c: c["actions"]["repos.get"].update(risk="harmless"),
        lambda c: c["parameters"]["page"].update(where="header"),
        lambda c: c["actions"]["repos.get"].update(fixed={"headers": {"host": "evil.example"}}),
        lambda c: c["actions"]["repos.get"].update(fixed={"headers": {"X-Amz-Target": "a"}}),
        lambda c: c["actions"]["repos.get"].update(fixed={"headers": {"x-amz-target": "a\r\nb: c"}}),
        lambda c: c["actions"]["repos.get"].update(fixed={"headers": {"x-amz-target": {"argument": "page"}}}),
        lambda c: c["actions"]["repos.get"].update(content_type="text/plain"),
    ],
)
def test_what_has_another_shape_is_told(change: Any) -> None:
    changed = copy.deepcopy(GITHUB)
    change(changed)
    assert list(VALIDATOR.iter_errors(changed))


def test_the_command_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["connector", "schema"]) == 0
    assert json.loads(capsys.readouterr().out) == connector_schema()
