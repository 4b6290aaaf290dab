"""``nomos policy explain`` and ``nomos policy test`` over files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nomos.cli.main import main

ROOT = Path(__file__).resolve().parents[3]
YES, NO, USAGE = 0, 1, 2
TABLE = """\
tenant: acme
app: helpdesk
agent: triage-bot
tests:
  - name: agents read issues
    action: github:issues.list
    resource: github:repo/acme/site
    expect: allow
    policies: [read-everything]
  - name: a deletion waits for a human
    action: github:repos.delete
    resource: github:repo/acme/site
    expect: step_up
  - action: github:repos.delete
    resource: github:repo/acme/site
    cosigned: true
    expect: allow
  - name: test agents do not delete
    env: test
    action: github:repos.delete
    resource: github:repo/acme/site
    cosigned: true
    expect: deny
    policies: [test-agents-only-read]
  - name: workflows need a human
    action: github:contents.put
    resource: github:repo/acme/site
    args: {path: .github/workflows/a.yml}
    expect: step_up
    policies: [workflows-need-a-human]
"""


@pytest.fixture
def starter_file(tmp_path: Path, starter: str) -> str:
    path = tmp_path / "starter.cedar"
    path.write_text(starter, encoding="utf-8")
    return str(path)


def _test(tmp_path: Path, table: str, policy: str, *more: str) -> int:
    path = tmp_path / "table.yaml"
    path.write_text(table, encoding="utf-8")
    return main(["policy", "test", str(path), "--policy", policy, "--connectors", str(ROOT / "connectors"), *more])


def test_a_table_whose_answers_come_out_exits_zero(tmp_path, starter_file, capsys) -> None:
    assert _test(tmp_path, TABLE, starter_file) == YES
    assert capsys.readouterr().out == "5 of 5 answers are as expected\n"


def test_the_same_table_as_json(tmp_path, starter_file, capsys) -> None:
    from nomos.catalogue.yaml12 import parse_yaml

    table = json.dumps(parse_yaml(TABLE.encode()), indent=1)
    assert _test(tmp_path, table, starter_file, "--json") == YES
    document = json.loads(capsys.readouterr().out)
    assert (document["schema"], document["tests"], document["differences"]) == ("nomos.policy-test/1", 5, [])


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("expect: allow\n    policies", "expect: deny\n    policies",
         "table.yaml:5: test 1 (agents read issues): expected deny by read-everything, got allow by read-everything"),
        ("[read-everything]", "[other]", "expected allow by other, got allow by read-everything"),
        ("    expect: step_up\n  - action", "    expect: allow\n  - action",
         "table.yaml:10: test 2 (a deletion waits for a human): expected allow, got step_up by "
         "clean-up-with-approval, nomos:high-stakes"),
        ("    cosigned: true\n    expect: allow", "    expect: allow",
         "table.yaml:14: test 3 (github:repos.delete on github:repo/acme/site): expected allow, got step_up"),
        ("{path: .github", "{nope: .github", "test 5 (workflows need a human): expected step_up by "),
        ("github:issues.list", "github:nope.list", "got no answer: no connector declares this action"),
        ("app: helpdesk\n", "", "got no answer: the test names no agent or no app"),
    ],
)  # fmt: skip
def test_a_difference_exits_one_and_is_told_with_its_line(tmp_path, starter_file, capsys, old, new, says) -> None:
    assert old in TABLE
    assert _test(tmp_path, TABLE.replace(old, new, 1), starter_file) == NO
    assert says in capsys.readouterr().out


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("tests: []", "has no tests"),
        ("[]", "not a table of tests"),
        (TABLE.replace("step_up", "perhaps", 1), "perhaps"),
        (TABLE.replace("action:", "acton:", 1), "acton"),
        (TABLE + "tests: []\n", "repeated"),
        ("a: &x 1", "anchors"),
    ],
)
def test_a_table_that_is_none_is_refused(tmp_path, starter_file, capsys, table, says) -> None:
    assert _test(tmp_path, table, starter_file) == USAGE
    said = capsys.readouterr()
    assert says in said.err
    assert "table.yaml" in said.err
    assert said.out == ""


def test_a_policy_file_that_does_not_hold_is_refused(tmp_path, capsys) -> None:
    path = tmp_path / "bad.cedar"
    path.write_text("permit(principal, action, resource);", encoding="utf-8")
    assert _test(tmp_path, TABLE, str(path)) == USAGE
    assert "has no @id" in capsys.readouterr().err


def test_what_decides_must_be_named_once(tmp_path, starter_file, capsys) -> None:
    assert _test(tmp_path, TABLE, starter_file, "--tenant", "acme") == USAGE
    assert "name --policy FILE, or --tenant T" in capsys.readouterr().err


# --- explain -------------------------------------------------------------------------------------------------------


def _explain(policy: str, *words: str) -> int:
    return main(["policy", "explain", "--policy", policy, "--connectors", str(ROOT / "connectors"), *words])


REQUEST = ("--agent", "bot", "--app", "helpdesk", "--resource", "github:repo/acme/site")


def test_explain_tells_who_decided_and_what_would_change_it(starter_file, capsys) -> None:
    assert _explain(starter_file, *REQUEST, "--action", "github:contents.put", "--arg", "path=.github/x") == YES
    out = capsys.readouterr().out
    assert out.startswith("step-up: a human must approve first\n  by        workflows-need-a-human: A change of")
    assert "change    a human's approval of exactly this request would allow it" in out
    created = ("--action", "github:repos.create", "--resource", "github:org/acme", "--arg", "private=false")
    assert _explain(starter_file, *REQUEST, *created) == YES
    told = "create-repositories-privately (New repositories are private.) would permit it if context.args.private"
    assert told in capsys.readouterr().out


def test_explain_as_json(starter_file, capsys) -> None:
    assert _explain(starter_file, *REQUEST, "--action", "github:repos.delete", "--cosigned", "--json") == YES
    document = json.loads(capsys.readouterr().out)
    assert (document["schema"], document["outcome"]) == ("nomos.policy-explain/1", "allow")
    assert document["decided_by"][0]["id"] == "clean-up-with-approval"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--action", "github:issues.list", "--agent", "bot"), "needs --agent, --action and --resource"),
        (("--action", "github:issues.list", "--agent", "bot", "--resource", "github:repo/a/b"), "name --app"),
        ((*REQUEST, "--action", "github:issues.list", "--arg", "x"), "is not NAME=VALUE"),
        ((*REQUEST, "--action", "github:issues.list", "--args", '{"a": 1}', "--arg", "a=2"), "given twice"),
        ((*REQUEST, "--action", "github:issues.list", "--export", "x"), "two different sources"),
    ],
)
def test_explain_without_a_whole_request_is_refused(starter_file, capsys, words, says) -> None:
    assert _explain(starter_file, *words) == USAGE
    assert says in capsys.readouterr().err


def test_explain_of_no_action_is_refused(starter_file, capsys) -> None:
    assert _explain(starter_file, *REQUEST, "--action", "github:nope.x") != YES
    assert "no connector declares this action" in capsys.readouterr().err
