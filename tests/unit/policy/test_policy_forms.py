from __future__ import annotations

from pathlib import Path

import pytest

from nomos.errors import LimitExceeded, MalformedPolicy
from nomos_policy.pages.forms import CONDITIONS_MAX, FIELDS, ROWS_MAX, fields_of, model_of
from nomos_policy.visual.document import read_document, replace
from nomos_policy.visual.model import Model

ROOT = Path(__file__).parents[3]
TEXTS = sorted((ROOT / "packs").rglob("*.cedar"))
HEAD = {"effect": "permit", "annotations": "id: x"}


def _models() -> list[tuple[str, Model]]:
    found = []
    for path in TEXTS:
        for block in read_document(path.read_text(encoding="utf-8")).blocks:
            if block.model is not None:
                found.append((f"{path.parent.name}:{block.id}", block.model))
    return found


@pytest.mark.parametrize(("name", "model"), _models())
def test_a_form_that_nobody_touched_says_what_the_policy_says(name: str, model: Model) -> None:
    fields = fields_of(model)
    assert fields.keys() <= set(FIELDS)
    assert model_of(fields) == model


def test_every_kind_of_row_comes_back() -> None:
    text = """@id("a")
@flag
permit (
  principal is Agent in App::"triage",
  action in [Action::"github:issues.list", Action::"github:repos.get"],
  resource == GitHub::Repo::"acme/site"
)
when {
  context.args.state == "open" && resource.name like "site-*\\*" && principal has env && resource is GitHub::Repo &&
  !context.cosigned && ["a", "b"].contains(context.args.kind) && (if principal.env == "live" then true else false)
}
unless { context.now > 5 || principal.env == "test" }
when { principal.env == "live" };
"""
    document = read_document(text)
    (block,) = document.blocks
    assert block.model is not None
    fields = fields_of(block.model)
    assert fields["actions"] == "github:issues.list\ngithub:repos.get"
    assert [fields[f"c0_{row}_operator"] for row in range(7)] == [
        "==", "like", "has", "is", "does not hold", "contains", "holds",
    ]  # fmt: skip
    assert model_of(fields) == block.model
    # Browsers send line ends as CR LF.
    assert model_of({name: value.replace("\n", "\r\n") for name, value in fields.items()}) == block.model
    assert replace(document, "a", model_of(fields), sha256=document.sha256) == text


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"effect": ""}, "permits or forbids"),
        ({"annotations": "id: x\nid: y"}, "twice"),
        ({"principal_kind": "equal", "principal_type": "App"}, "principal needs a type and an id"),
        ({"principal_kind": "any", "principal_id": "x"}, "principal is any"),
        ({"resource_kind": "type", "resource_type": "T", "resource_id": "1"}, "expected an entity"),
        ({"resource_kind": "nothing"}, "resource needs a type"),
        ({"action_kind": "equal", "actions": "a\nb"}, "take one action"),
        ({"action_kind": "any", "actions": "a"}, "any action"),
        ({"c0_0_left": "true", "c0_0_operator": "holds"}, "neither a when nor an unless"),
        ({"c0_kind": "when", "c0_0_left": "true"}, "condition 1, row 1: nothing stands between"),
        ({"c0_kind": "when", "c0_0_left": "true", "c0_0_operator": "=="}, "one side is missing"),
        ({"c0_kind": "when", "c0_0_left": "true", "c0_0_operator": "holds", "c0_0_right": "1"}, "a left side alone"),
        ({"c1_kind": "when", "c1_2_left": "open is", "c1_2_operator": "==", "c1_2_right": "1"}, "condition 2, row 3:"),
        ({"c0_kind": "when", "c0_0_left": "true } when { false", "c0_0_operator": "holds"}, "one expression"),
        ({"c0_kind": "when", "c0_0_left": "true }; permit (principal, action, resource) when { true",
          "c0_0_operator": "holds"}, "condition 1, row 1:"),
        ({"c0_kind": "when", "c0_0_left": "1", "c0_0_operator": "==", "c0_0_right": "// nothing"}, "condition 1, row"),
    ],
)  # fmt: skip
def test_a_field_that_says_nothing_is_refused_by_its_place(fields: dict[str, str], said: str) -> None:
    with pytest.raises(MalformedPolicy, match=said):
        model_of(HEAD | fields)


def test_sides_do_not_run_over_into_each_other() -> None:
    given = {"c0_kind": "when", "c0_0_left": "context.a || context.b", "c0_0_operator": "==", "c0_0_right": "true"}
    (condition,) = model_of(HEAD | given).conditions
    assert fields_of(model_of(HEAD | given))["c0_0_left"] == "context.a || context.b"
    assert type(condition.body).__name__ == "Compare"


def test_what_is_too_much_for_a_form_is_left_to_the_text() -> None:
    rows = " && ".join(["context.a"] * (ROWS_MAX + 1))
    conditions = "when { true }" * (CONDITIONS_MAX + 1)
    for tail in (f"when {{ {rows} }}", conditions):
        (block,) = read_document(f'@id("x") permit (principal, action, resource) {tail};').blocks
        assert block.model is not None
        with pytest.raises(LimitExceeded):
            fields_of(block.model)
