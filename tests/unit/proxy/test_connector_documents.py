"""``docs/connectors.md`` says what is there: its table, its example, and its commands."""

from __future__ import annotations

import re
import shlex
import textwrap
from pathlib import Path

import pytest

from nomos.catalogue import load_catalogue
from nomos.cli.main import main
from nomos_policy.commands.pack import read_pack

ROOT = Path(__file__).parents[3]
TEXT = (ROOT / "docs" / "connectors.md").read_text()
CATALOGUE = load_catalogue(ROOT / "connectors")


def test_the_table_counts_every_connector() -> None:
    rows = re.findall(r"^\| `([a-z0-9-]+)` \| ([0-9]+) \|", TEXT, re.MULTILINE)
    counted = {name: int(number) for name, number in rows}
    assert counted == {one.name: len(one.actions) for one in CATALOGUE.connectors.values()}


def test_the_example_is_a_connector_that_does_what_the_text_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    example = textwrap.dedent(TEXT.split("## One in ten minutes\n")[1].split("    nomos connector check")[0])
    (tmp_path / "tickets.yaml").write_text(example)
    assert main(["connector", "check", str(tmp_path / "tickets.yaml")]) == 0
    words = ["connector", "try", "tickets:tickets.create", "tickets:queue/support", "--args", '{"subject": "Down"}']
    capsys.readouterr()
    assert main([*words, "--connectors", str(tmp_path)]) == 0
    assert '{"ticket":{"queue":"support","subject":"Down"}}' in capsys.readouterr().out


def test_its_commands_run_as_they_stand_there(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    before = TEXT.split("## One in")[0]
    commands = re.findall(r"^    nomos (connector (?:list|show|try).*?)(?:   .*)?$", before, re.MULTILINE)
    assert len(commands) == 4
    for command in commands:
        assert main(shlex.split(command)) == 0
        assert capsys.readouterr().out


def test_there_is_a_pack_for_every_connector() -> None:
    packs = [read_pack(ROOT / "packs", folder.parent.name) for folder in (ROOT / "packs").glob("*/pack.yaml")]
    assert {name for pack in packs for name in pack.connectors} == set(CATALOGUE.connectors)
