"""Policies about paths: a directory covers what lies in it, by whole segments, and nothing beside it."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from nomos_policy.decision import AuthorizeFacts, decide
from nomos_policy.policyset import CompiledSet

from .conftest import Ask, Compile

IN_REPORTS = """
@id("reports") permit (principal, action in Action::"connector:files", resource in Files::Directory::"work/reports");
@id("not-payroll") forbid (principal, action, resource in Files::Directory::"work/reports/payroll");
@id("home") permit (principal, action == Action::"files:files.read", resource in Files::Volume::"home");
@id("by-hand") permit (principal, action == Action::"files:files.read", resource)
  when { resource.volume == "notes" && (resource.path like "a/*" || resource.path == "b.txt") };
@id("move") permit (principal, action == Action::"files:files.move", resource in Files::Volume::"drop")
  when { context.cosigned && context.args has to && context.args.to like "done/*" };
"""


def answer(policies: CompiledSet, ask: Ask, path: str, action: str = "files:files.read", **args: object) -> str:
    return decide(ask(policies, action, resource=path, args=args)).outcome.value


def test_a_directory_covers_what_lies_in_it_and_not_what_begins_alike(compiled: Compile, ask: Ask) -> None:
    policies = compiled(IN_REPORTS)
    for path in ("work/reports/a.csv", "work/reports/2026/11/a.csv", "work/reports/payrolls/a", "home/x", "home/x/y"):
        assert answer(policies, ask, f"files:file/{path}") == "allow"
    for path in ("work/reports", "work/reportsx/a.csv", "work/report/s", "work/a.csv", "other/reports/a.csv",
                 "work/reports/payroll/a.csv", "work/reports/payroll/x/a.csv", "homes/x"):  # fmt: skip
        assert answer(policies, ask, f"files:file/{path}") == "deny"


def test_a_directory_lies_in_itself_and_in_those_above(compiled: Compile, ask: Ask) -> None:
    policies = compiled(IN_REPORTS)
    listed = {
        path: answer(policies, ask, f"files:directory/{path}", "files:directories.list")
        for path in ("work/reports", "work/reports/2026", "work/reports/payroll", "work/reportsx")
    }
    assert listed == {
        "work/reports": "allow", "work/reports/2026": "allow", "work/reports/payroll": "deny", "work/reportsx": "deny",
    }  # fmt: skip


def test_a_path_is_compared_as_text_with_a_slash_before_the_star(compiled: Compile, ask: Ask) -> None:
    policies = compiled(IN_REPORTS)
    assert answer(policies, ask, "files:file/notes/a/b") == "allow"
    assert answer(policies, ask, "files:file/notes/b.txt") == "allow"
    for path in ("notes/ab", "notes/a", "notes/b.txt/c"):
        assert answer(policies, ask, f"files:file/{path}") == "deny"


def test_where_a_file_is_moved_to_is_the_policy_s_to_judge(compiled: Compile, ask: Ask) -> None:
    policies = compiled(IN_REPORTS)
    assert answer(policies, ask, "files:file/drop/a", "files:files.move", to="done/a") == "step_up"
    assert answer(policies, ask, "files:file/drop/a", "files:files.move", to="donex/a") == "deny"


SEGMENTS = st.lists(st.sampled_from(["a", "b", "ab", "a b"]), min_size=1, max_size=4).map("/".join)


@settings(max_examples=60)
@given(data=st.data())
def test_policies_on_paths_decide_alike_in_a_slice_and_in_the_whole_set(
    data: st.DataObject, compiled: Compile, ask: Ask
) -> None:
    """One head for each directory; what allows is exactly a directory whose segments begin the file's."""
    directories = data.draw(st.lists(SEGMENTS, min_size=1, max_size=4, unique=True))
    text = "".join(
        f'@id("p{n}") permit (principal, action, resource in Files::Directory::"work/{path}");\n'
        for n, path in enumerate(directories)
    )
    policies = compiled(text)
    for path in data.draw(st.lists(SEGMENTS, min_size=1, max_size=6)):
        facts: AuthorizeFacts = ask(policies, "files:files.read", resource=f"files:file/work/{path}")
        names = path.split("/")
        covering = {
            f"p{n}" for n, one in enumerate(directories)
            if len(one.split("/")) < len(names) and names[: len(one.split("/"))] == one.split("/")
        }  # fmt: skip
        decision = decide(facts)
        assert {one.id for one in decision.policies} == covering
        assert (decision.outcome.value == "allow") == bool(covering)
        found = policies.slice(facts.principal, facts.action, facts.resource)
        assert {one.id for one in found.policies} == covering
