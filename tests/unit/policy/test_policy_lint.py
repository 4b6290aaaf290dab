"""What the linter finds is there, and what it calls pointless changes no answer when it is gone."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nomos.cli.main import main
from nomos.errors import Malformed
from nomos_policy.decision import decide
from nomos_policy.lint import FINDINGS_MAX, lint
from nomos_policy.policyset import compile_policies

ANY = "principal, action, resource"
LIST, DELETE = "github:issues.list", "github:repos.delete"


def _found(text: str, vocabulary) -> list[tuple[str, str, str, int, int]]:
    return [(one.severity, one.rule, one.policy, one.line, one.column) for one in lint(text, vocabulary)]


def test_the_starter_set_has_no_findings(vocabulary, starter) -> None:
    assert lint(starter, vocabulary) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (f'@id("all") permit({ANY});', [("warning", "permits-everything", "all", 1, 1)]),
        (f'@id("a") permit({ANY}) when {{ context.now > 1 }};\n @id("never") forbid({ANY});',
         [("warning", "unreachable", "a", 1, 1)]),
        (f'@id("a") permit(principal == Agent::"x", action == Action::"{LIST}", resource == GitHub::Repo::"a/b");\n'
         '@id("wide") forbid(principal, action in Action::"risk:read", resource is GitHub::Repo);',
         [("warning", "unreachable", "a", 1, 1)]),
        (f'@id("a") permit({ANY}) when {{ context.now > 1 }};\n'
         f'@id("b") permit({ANY}) when {{ // same\ncontext.now > 1}};',
         [("warning", "duplicate", "b", 2, 1)]),
        (f'@id("a") permit(principal, action == Action::"{LIST}", resource) when {{ context.now > 1 }};\n'
         '@id("b") permit(principal, action in Action::"risk:read", resource);',
         [("warning", "adds-nothing", "a", 1, 1)]),
        ('@id("a") permit(principal, action in Action::"risk:read", resource);\n'
         f'@id("b") permit(principal, action in [Action::"risk:read", Action::"{LIST}"], resource);',
         [("warning", "adds-nothing", "b", 2, 1)]),
        (f'@id("a")\npermit({ANY})\nwhen {{ context.now > 1 &&\n   false }};',
         [("warning", "never-applies", "a", 4, 4)]),
        (f'@id("a") permit({ANY})\nunless {{ true }};', [("warning", "never-applies", "a", 2, 10)]),
        (f'@id("a") permit(principal, action == Action::"{LIST}", resource)\n'
         'when { context.args has titel && context.args.titel == "x" };', [("warning", "never-applies", "a", 2, 8)]),
        (f'@id("a") permit({ANY})\nwhen {{ context has approved && context.approved }};',
         [("warning", "never-applies", "a", 2, 8)]),
        (f'@id("a") permit({ANY})\nwhen {{ context.env == "x" && principal.evn == "live" }};',
         [("error", "unknown-attribute", "a", 2, 40)]),
        (f'@id("a") permit({ANY})\nwhen {{ context.foo }};', [("error", "unknown-attribute", "a", 2, 16)]),
        (f'@id("a") permit({ANY}) when {{ context.now > 1 }}\nunless {{ context.cosigned }};',
         [("error", "less-with-approval", "a", 2, 18)]),
        (f'permit({ANY}) when {{ context.now > 1 }};\n  forbid(principal, action);',
         [("error", "refused", "", 1, 1), ("error", "refused", "", 2, 3)]),
        ("forbid(", [("error", "refused", "", 0, 0)]),
    ],
)  # fmt: skip
def test_each_rule_finds_its_fault_and_its_place(vocabulary, text, found) -> None:
    assert _found(text, vocabulary) == found


@pytest.mark.parametrize(
    "text",
    [
        # A permit in part of what a forbid names, or a forbid with a condition, is meant.
        f'@id("a") permit(principal, action in Action::"risk:read", resource);'
        f'@id("b") forbid(principal, action == Action::"{LIST}", resource);',
        f'@id("a") permit(principal, action in Action::"risk:read", resource);'
        f'@id("b") forbid({ANY}) unless {{ context.cosigned }};',
        # Unattended permits more than the same with a human.
        f'@id("a") @unattended("x") permit(principal, action == Action::"{DELETE}", resource);'
        f'@id("b") permit(principal, action in Action::"risk:destructive", resource);',
        # Of two entities nothing is known.
        f'@id("a") permit(principal == Agent::"x", action == Action::"{LIST}", resource);'
        f'@id("b") forbid(principal in App::"y", action, resource);',
        # One of several tests may be for another action.
        f'@id("a") permit({ANY}) when {{ context.args has title || context.args has state }};',
        f'@id("a") permit({ANY}) when {{ context.args has title }};',
    ],
)
def test_what_can_be_meant_is_no_finding(vocabulary, text) -> None:
    assert lint(text, vocabulary) == []


def test_findings_are_bounded(vocabulary) -> None:
    text = "\n".join(f'@id("p{i}") permit({ANY}) when {{ false }};' for i in range(FINDINGS_MAX))
    assert len(lint(text, vocabulary)) == FINDINGS_MAX


@given(text=st.text(max_size=80) | st.lists(
    st.sampled_from(["@id", '("a")', "permit", "forbid", f"({ANY})", "when", "unless", "{", "}", "context", ".cosigned",
                     " ", ";", "true", "&&", "has", "1", "=="]), max_size=20).map("".join))  # fmt: skip
def test_any_text_is_linted_and_has_an_error_if_it_is_refused(vocabulary, text) -> None:
    try:
        compile_policies(text, vocabulary)
        refused = False
    except Malformed:
        refused = True
    assert any(one.severity == "error" for one in lint(text, vocabulary)) == refused


SCOPES = ("principal", 'principal == Agent::"triage-bot"', 'principal in App::"helpdesk"', "principal is Agent",
          'principal is Agent in App::"helpdesk"', 'principal in Agent::"triage-bot"')  # fmt: skip
ACTIONS = ("action", f'action == Action::"{LIST}"', 'action in Action::"risk:read"', f'action == Action::"{DELETE}"',
           f'action in [Action::"risk:destructive", Action::"{LIST}"]',
           'action in Action::"connector:github"')  # fmt: skip
RESOURCES = ("resource", 'resource == GitHub::Repo::"acme/site"', "resource is GitHub::Repo",
             'resource in GitHub::Repo::"acme/site"')  # fmt: skip
CONDITIONS = ("", "", "when { context.cosigned }", "when { context.now > 5 }", "when { context.now > 5 && false }")


@st.composite
def _texts(draw: st.DrawFn) -> str:
    effect = draw(st.sampled_from(("permit", "permit", "forbid")))
    head = [draw(st.sampled_from(some)) for some in (SCOPES, ACTIONS, RESOURCES)]
    note = '@unattended("why") ' if effect == "permit" and head[1] != "action" and draw(st.booleans()) else ""
    condition = draw(st.sampled_from(CONDITIONS))
    if effect == "forbid":
        condition = condition.replace("when { context.cosigned }", "unless { context.cosigned }")
    return f"{note}{effect}({', '.join(head)}) {condition};"


@settings(max_examples=100)
@given(texts=st.lists(_texts(), min_size=1, max_size=6), agent=st.sampled_from(("triage-bot", "other-bot")),
       app=st.sampled_from(("helpdesk", "other")), action=st.sampled_from((LIST, DELETE)),
       repo=st.sampled_from(("acme/site", "x/y")), now=st.sampled_from((1, 9)), cosigned=st.booleans())  # fmt: skip
def test_what_is_called_pointless_changes_no_answer_when_it_is_gone(
    vocabulary, ask, texts, agent, app, action, repo, now, cosigned
) -> None:
    named = {f"p{i}": f'@id("p{i}") {text}' for i, text in enumerate(texts)}
    pointless = {
        one.policy
        for one in lint("\n".join(named.values()), vocabulary)
        if one.rule in ("unreachable", "adds-nothing", "duplicate", "never-applies")
    }

    def answer(some: list[str]) -> str:
        facts = ask(
            compile_policies("\n".join(some), vocabulary), action, agent=agent, app=app,
            resource=f"github:repo/{repo}", now_seconds=now, cosigned=cosigned,
        )  # fmt: skip
        return decide(facts).outcome.value

    kept = [text for name, text in named.items() if name not in pointless]
    assert answer(kept) == answer(list(named.values()))


# --- the command ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words", "code", "says"),
    [
        (f'@id("a") permit({ANY}) when {{ context.now > 1 }};', (), 0, "0 errors, 0 warnings"),
        (f'@id("a") permit({ANY});', (), 0, "set.cedar:1:1: warning: a: it permits every agent everything"),
        (f'@id("a") permit({ANY});', ("--strict",), 1, "0 errors, 1 warnings"),
        (f"permit({ANY});", (), 1, "set.cedar:1:1: error: without id: policy at line 1, column 1 has no @id"),
    ],
)
def test_the_command_tells_each_finding_with_its_place(tmp_path, monkeypatch, capsys, text, words, code, says) -> None:
    from pathlib import Path

    connectors = str(Path(__file__).resolve().parents[3] / "connectors")
    monkeypatch.chdir(tmp_path)
    Path("set.cedar").write_text(text, encoding="utf-8")
    assert main(["policy", "lint", "set.cedar", "--connectors", connectors, *words]) == code
    assert says in capsys.readouterr().out


def test_the_command_needs_a_file_or_a_tenant(capsys) -> None:
    assert main(["policy", "lint"]) == 2
    assert "name FILE, or --tenant T" in capsys.readouterr().err
