"""Packs: those of the repository keep their rules, a broken one is told, and no value says more than a name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nomos.cli.main import main
from nomos.errors import Malformed, NomosError
from nomos_policy.commands.pack import read_pack
from nomos_policy.packs import Pack, faults, fill, parse_pack
from nomos_policy.policyset import compile_policies

ROOT = Path(__file__).resolve().parents[3]
PACKS = ROOT / "packs"
NOW_SECONDS = 1_800_000_000
YES, NO, USAGE = 0, 1, 2
VALUES = {"app": "triage", "repo": "github:repo/acme/site"}


def _files(name: str = "github-triage") -> tuple[bytes, str, bytes]:
    folder = PACKS / name
    return (
        (folder / "pack.yaml").read_bytes(),
        (folder / "policies.cedar").read_text(encoding="utf-8"),
        (folder / "tests.yaml").read_bytes(),
    )


@pytest.fixture
def triage() -> Pack:
    return parse_pack("github-triage", *_files())


@pytest.mark.parametrize("name", sorted(one.parent.name for one in PACKS.glob("*/pack.yaml")))
def test_every_pack_of_the_repository_keeps_the_rules(vocabulary, name) -> None:
    assert faults(read_pack(PACKS, name), vocabulary, now_seconds=NOW_SECONDS) == []


@pytest.mark.parametrize(
    ("at", "old", "new", "says"),
    [
        (2, b"expect: allow\n    policies: [sort-issues]", b"expect: deny\n    policies: [sort-issues]",
         "tests.yaml:10: test 2 (comments): expected deny by sort-issues, got allow by sort-issues"),
        (1, "action in [Action::\"risk:read\"]", "action in [Action::\"risk:nothing\"]", "it does not compile"),
        (1, '@id("read")', "", "has no @id"),
        (2, b"policies: [sort-issues]", b"policies: []", "no test names the policy sort-issues as deciding"),
        (2, b"expect: deny", b"expect: step_up", "no test expects deny"),
        (0, b"connectors: [github]", b"connectors: [gitlab]", "there is no connector gitlab"),
    ],
)  # fmt: skip
def test_a_pack_that_breaks_a_rule_is_told(vocabulary, at, old, new, says) -> None:
    files = list(_files())
    assert old in files[at]
    files[at] = files[at].replace(old, new)
    found = faults(parse_pack("github-triage", *files), vocabulary, now_seconds=NOW_SECONDS)
    assert any(says in one for one in found), found


@pytest.mark.parametrize(
    ("at", "old", "new", "says"),
    [
        (0, b"pack: github-triage", b"pack: other", "calls it 'other'"),
        (0, b"title: the app", b"titel: the app", "pack.yaml"),
        (0, b"kind: app", b"kind: tenant", "pack.yaml"),
        (1, '"$app"', '"triage"', "the parameter app is declared and not used"),
        (1, 'GitHub::Repo::"$repo"', 'GitHub::Repo::"$repo2"', "the parameter repo is declared and not used"),
        (1, 'App::"$app"', 'App::"$team"', "the parameter app is declared and not used"),
        (2, b"tests:", b"tasts:", "tests.yaml"),
    ],
)
def test_a_pack_that_is_none_is_refused(at, old, new, says) -> None:
    files = list(_files())
    assert old in files[at]
    files[at] = files[at].replace(old, new)
    with pytest.raises(Malformed, match=says.replace("$", r"\$")):
        parse_pack("github-triage", *files)


def test_a_parameter_that_is_only_used_is_refused() -> None:
    about, text, tests = _files()
    with pytest.raises(Malformed, match="extra is used and not declared"):
        parse_pack("github-triage", about, text + '\n@id("$extra") permit (principal, action, resource);', tests)


@pytest.mark.parametrize(
    "values",
    [
        {"repo": VALUES["repo"]},
        {**VALUES, "more": "x"},
        {**VALUES, "app": 'x", action, resource); permit (principal'},
        {**VALUES, "app": "x\ny"},
        {**VALUES, "app": "$repo"},
        {**VALUES, "repo": "github:org/acme"},
        {**VALUES, "repo": "acme/site"},
        {**VALUES, "repo": 'github:repo/acme/site"'},
    ],
)
def test_a_value_that_is_not_what_the_parameter_is_is_refused(vocabulary, triage, values) -> None:
    with pytest.raises(NomosError):
        fill(triage, values, vocabulary.catalogue)


def test_only_whole_strings_are_filled_and_all_else_stays(vocabulary) -> None:
    about, text, tests = _files()
    odd = text.replace("may read the repository", 'may read $repo and \\"$repo\\"') + '\n// "$repo" is the place\n'
    filled = fill(parse_pack("github-triage", about, odd, tests), VALUES, vocabulary.catalogue)
    assert filled == odd.replace('App::"$app"', 'App::"triage"').replace('Repo::"$repo"', 'Repo::"acme/site"')


def test_a_prefix_lets_a_set_hold_a_pack_twice(vocabulary, triage) -> None:
    again = {**VALUES, "repo": "github:repo/acme/shop"}
    text = fill(triage, VALUES, vocabulary.catalogue, prefix="site") + fill(
        triage, again, vocabulary.catalogue, prefix="shop"
    )
    ids = [one.id for one in compile_policies(text, vocabulary).policies]
    assert ids[0] == "site/read"
    assert ids[3] == "shop/read"
    with pytest.raises(NomosError):
        fill(triage, VALUES, vocabulary.catalogue, prefix='x") permit')


def _run(*words: str) -> int:
    return main(["policy", "pack", *words, "--packs", str(PACKS), "--connectors", str(ROOT / "connectors")])


def test_list_and_show(capsys) -> None:
    assert _run("list", "--json") == YES
    names = [one["name"] for one in json.loads(capsys.readouterr().out)["packs"]]
    assert {"github-starter", "github-triage"} <= set(names)
    assert _run("show", "github-triage") == YES
    assert "--set repo=…  the repository, for instance github:repo/acme/site" in capsys.readouterr().out


def test_test_says_how_many(capsys) -> None:
    assert _run("test", "github-triage") == YES
    assert capsys.readouterr().out == "1 of 1 packs keep their rules; 6 answers were asked for\n"


def test_test_exits_one_on_a_fault(tmp_path, capsys) -> None:
    folder = tmp_path / "github-triage"
    folder.mkdir()
    for name, content in zip(("pack.yaml", "policies.cedar", "tests.yaml"), _files(), strict=True):
        bad = content.encode() if isinstance(content, str) else content.replace(b"expect: step_up", b"expect: allow")
        (folder / name).write_bytes(bad)
    words = ["policy", "pack", "test", "--packs", str(tmp_path), "--connectors", str(ROOT / "connectors")]
    assert main(words) == NO
    assert "github-triage: tests.yaml:22: test 4" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("show", "../packs/github-triage"), "there is no pack"),
        (("show", "gitlab"), "packs: aws-starter, discord-starter"),
        (("add", "github-triage", "--tenant", "acme"), "needs app"),
        (("add", "github-triage", "--tenant", "acme", "--set", "app"), "not NAME=VALUE"),
        (("add", "github-triage", "--tenant", "acme", "--set", "app=a", "--set", "app=b"), "given twice"),
    ],
)
def test_a_persons_errors_are_told(capsys, words, says) -> None:
    assert _run(*words) == (NO if "no pack" in says or "packs:" in says else USAGE)
    assert says in capsys.readouterr().err
