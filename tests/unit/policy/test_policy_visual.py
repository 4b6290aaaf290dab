"""Editing policies as forms: what is not edited stays byte for byte, what is edited means what the form says."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any as Json

import cedarpy
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nomos.cli.main import main
from nomos.errors import Conflict, LimitExceeded, MalformedPolicy, NomosError, NotFound
from nomos_policy.decision import Outcome, decide
from nomos_policy.pages.forms import fields_of, model_of
from nomos_policy.visual.document import add, read_document, remove, replace, rewrite
from nomos_policy.visual.meaning import write_est
from nomos_policy.visual.model import (
    EXPRESSION_DEPTH_MAX,
    Actions,
    All,
    Any,
    Attribute,
    Compare,
    Condition,
    Entity,
    Has,
    Is,
    Like,
    Model,
    Not,
    Opaque,
    Scope,
    SetOf,
    Value,
    opaque_parts,
)
from nomos_policy.visual.reading import est_of_text, read_policy
from nomos_policy.visual.writing import write_policy

ROOT = Path(__file__).resolve().parents[3]
YES, NO, USAGE = 0, 1, 2
#: The folder above ``corpus-tests`` of the Cedar integration tests; see tests/vectors/cedar/SOURCE.md.
CORPUS = os.environ.get("NOMOS_CEDAR_CORPUS")
CASES = ROOT / "tests/vectors/cedar/cases.json"
TEXT = """\
// The first comment belongs to nobody.
@id("read")
@description("Agents read.")
permit (
  principal in App::"triage", // our app
  action in [Action::"risk:read"],
  resource
)
when { context.args has state && context.args.state == "open" } // only open ones
unless { context.env == "test" };

// Between two policies.
@id("shut") forbid (principal, action, resource) when { /* no comment of Cedar's */ true };
""".replace(" /* no comment of Cedar's */", "")


def _model(text: str) -> Model:
    return read_policy(text)[1]


def _same(model: Model) -> bool:
    """Whether the text of a model means what the model says, and is read as the model."""
    text = write_policy(model)
    est = est_of_text(text)
    told = {**est, "annotations": est.get("annotations") or {}}
    return told == {"annotations": {}, **write_est(model)} and _model(text) == model


# --- the public corpus ----------------------------------------------------------------------------------------------


def _policies(text: str) -> Iterator[str]:
    """Each policy of a text, as the engine writes it."""
    for est in json.loads(cedarpy.policies_to_json_str(text))["staticPolicies"].values():
        yield cedarpy.policies_from_json_str(_document(est))


def _covered(texts: Iterable[str]) -> Counter[str]:
    """How many policies are forms throughout, in part, and not at all, each written as it was read."""
    counted: Counter[str] = Counter()
    for text in texts:
        try:
            est, model = read_policy(text)
        except LimitExceeded:
            counted["text"] += 1
            continue
        assert write_est(model) == est, text
        assert _same(model), text
        parts = [part for one in model.conditions for part in opaque_parts(one.body)]
        counted["partly" if parts else "wholly"] += 1
        counted["page"] += _fits_the_page(model)
    return counted


def _fits_the_page(model: Model) -> bool:
    """Whether the fields of the editor's page hold the policy; then they say just what it says."""
    try:
        assert model_of(fields_of(model)) == model
    except (LimitExceeded, MalformedPolicy):
        return False
    return True


def test_every_policy_of_the_public_corpus_is_written_as_it_was_read_and_most_are_forms_throughout() -> None:
    cases = json.loads(CASES.read_bytes())
    # What docs/policies.md says.
    assert _covered(one for case in cases for one in _policies(case["policies"])) == {
        "wholly": 92, "partly": 19, "page": 97,
    }  # fmt: skip


# Not a test of this suite unless somebody names a corpus: see tests/vectors/cedar/SOURCE.md.
if CORPUS is not None:

    @pytest.mark.timeout(1800)
    def test_the_whole_corpus_is_written_as_it_was_read() -> None:
        paths = sorted((Path(str(CORPUS)) / "corpus-tests").glob("*.cedar"))
        assert paths
        # What docs/policies.md says.
        counted = _covered(one for path in paths for one in _policies(path.read_text(encoding="utf-8")))
        assert counted == {"wholly": 6_074, "partly": 1_735, "page": 6_444}


# --- identity -------------------------------------------------------------------------------------------------------

words = st.text(max_size=8) | st.sampled_from(
    ['"', "\\", "*", "\\*", "\n", "{", "//", "é", "\u200b", "\U0001f600", "'"]
)
names = st.sampled_from(["env", "args", "n", "if", "a b", 'q"', "in", "has", "__cedar", "é"]) | words.filter(bool)
types = st.sampled_from(["App", "Agent", "GitHub::Repo", "a::b::C"])
entities = st.builds(Entity, types, words)
attributes = st.builds(
    Attribute,
    st.sampled_from(["principal", "action", "resource", "context"]),
    st.lists(names, max_size=3).map(tuple),
)
values = st.builds(Value, words | st.booleans() | st.integers(-(2**63), 2**63 - 1))
patterns = words.map(lambda text: text.replace("\\", "\\\\")) | st.just("a*\\*b\\\\*")
leaves = (
    entities | attributes | values | st.builds(Opaque, st.sampled_from(['(ip("1.2.3.4")).isIpv4()', "-(context.n)"]))
)


def _deeper(inner: st.SearchStrategy[Json]) -> st.SearchStrategy[Json]:
    some = st.lists(inner, min_size=2, max_size=3).map(tuple)
    operators = ["==", "!=", "<", "<=", ">", ">=", "in", "contains", "containsAll", "containsAny", "+", "-", "*"]
    return (
        st.builds(Compare, st.sampled_from(operators), inner, inner)
        # What nests to the left is one node, as Cedar has it.
        | some.filter(lambda parts: not isinstance(parts[0], All)).map(All)
        | some.filter(lambda parts: not isinstance(parts[0], Any)).map(Any)
        | st.builds(Not, inner)
        | st.builds(Has, inner, names)
        | st.builds(Like, inner, patterns)
        | st.builds(Is, inner, types, st.none() | inner)
        | st.builds(SetOf, st.lists(inner, max_size=3).map(tuple))
    )


expressions = st.recursive(leaves, _deeper, max_leaves=6)
scopes = st.one_of(
    st.just(Scope()),
    st.builds(Scope, kind=st.sampled_from(["equal", "within"]), entity=entities),
    st.builds(Scope, kind=st.just("type"), type=types, entity=st.none() | entities),
)
actions = st.one_of(
    st.just(Actions()),
    st.builds(
        Actions,
        kind=st.sampled_from(["equal", "within"]),
        entities=st.tuples(st.builds(Entity, st.just("Action"), words)),
    ),
    st.builds(
        Actions,
        kind=st.just("among"),
        entities=st.lists(st.builds(Entity, st.just("Action"), words), min_size=2, max_size=3).map(tuple),
    ),
)
annotations = st.lists(
    st.tuples(st.sampled_from(["id", "description", "unattended", "when", "permit"]), words),
    unique_by=lambda one: one[0],
).map(tuple)
models = st.builds(
    Model,
    effect=st.sampled_from(["permit", "forbid"]),
    annotations=annotations,
    principal=scopes,
    action=actions,
    resource=scopes,
    conditions=st.lists(
        st.builds(Condition, kind=st.sampled_from(["when", "unless"]), body=expressions), max_size=3
    ).map(tuple),
)


@settings(max_examples=400)
@given(models)
def test_a_model_is_written_as_what_it_says_and_read_as_itself(model: Model) -> None:
    try:
        cedarpy.policies_from_json_str(_document(write_est(model)))
    except ValueError:
        # Cedar has no such policy in any form (is applied to a text, say): then no text says it either.
        with pytest.raises(MalformedPolicy):
            _same(model)
        return
    assert _same(model), write_policy(model)


@settings(max_examples=200)
@given(models)
def test_a_model_survives_json(model: Model) -> None:
    assert msgspec.json.decode(msgspec.json.encode(model), type=Model) == model


def _document(est: dict[str, Json]) -> str:
    return json.dumps({"templates": {}, "staticPolicies": {"policy0": est}, "templateLinks": []})


# --- edits ----------------------------------------------------------------------------------------------------------


def test_an_edit_that_changes_nothing_changes_no_byte() -> None:
    document = read_document(TEXT)
    assert [one.id for one in document.blocks] == ["read", "shut"]
    for block in document.blocks:
        assert block.model is not None
        assert replace(document, block.id, block.model, sha256=document.sha256) == TEXT
        assert TEXT[block.offset :].startswith(block.text)


def test_only_the_edited_part_is_written_anew_and_no_comment_is_lost() -> None:
    document = read_document(TEXT)
    model = document.block("read").model
    assert model is not None
    told = msgspec.structs.replace(
        model, conditions=(model.conditions[0], Condition(kind="unless", body=Attribute("context", ("cosigned",))))
    )
    assert replace(document, "read", told, sha256=document.sha256) == TEXT.replace(
        'unless { context.env == "test" }', "unless { context.cosigned }"
    )
    head = msgspec.structs.replace(model, principal=Scope(kind="equal", entity=Entity("Agent", 'a"b')))
    assert replace(document, "read", head, sha256=document.sha256) == TEXT.replace(
        'permit (\n  principal in App::"triage", // our app\n  action in [Action::"risk:read"],\n  resource\n)',
        '// our app\npermit (\n  principal == Agent::"a\\"b",\n  action in Action::"risk:read",\n  resource\n)',
    )
    less = msgspec.structs.replace(model, conditions=model.conditions[:1])
    assert replace(document, "read", less, sha256=document.sha256) == TEXT.replace(
        """
when { context.args has state && context.args.state == "open" } // only open ones
unless { context.env == "test" };""",
        """
// only open ones
when {
  context.args has state &&
  context.args.state == "open"
};""",
    )
    named = msgspec.structs.replace(
        model, annotations=(("id", "read-open"), ("description", "Agents\nread."), ("by", "x"))
    )
    assert replace(document, "read", named, sha256=document.sha256) == TEXT.replace(
        '@id("read")\n@description("Agents read.")', '@id("read-open")\n@description("Agents\\nread.")\n@by("x")'
    )


def test_a_policy_is_added_and_removed() -> None:
    document = read_document(TEXT)
    shut = document.block("shut").model
    assert shut is not None
    more = add(document, msgspec.structs.replace(shut, annotations=(("id", "more"),)), sha256=document.sha256)
    assert more == TEXT + '\n@id("more")\nforbid (\n  principal,\n  action,\n  resource\n)\nwhen { true };\n'
    again = read_document(more)
    assert remove(again, "more", sha256=again.sha256) == TEXT + "\n"
    first = remove(document, "read", sha256=document.sha256)
    assert first.startswith("// The first comment belongs to nobody.\n\n// Between two policies.\n@id")
    empty = read_document("// nothing yet")
    assert add(empty, shut, sha256=empty.sha256).startswith("// nothing yet\n\n@id")


def test_a_stale_edit_and_an_unknown_policy_are_refused() -> None:
    document = read_document(TEXT)
    model = document.block("read").model
    assert model is not None
    for edit in (
        lambda: replace(document, "read", model, sha256="0" * 64),
        lambda: add(document, model, sha256=""),
        lambda: remove(document, "read", sha256=""),
    ):
        with pytest.raises(Conflict, match="have changed since"):
            edit()
    with pytest.raises(NotFound, match="no policy 'none'"):
        replace(document, "none", model, sha256=document.sha256)
    twice = read_document(TEXT + TEXT)
    with pytest.raises(NotFound, match="more than one"):
        replace(twice, "read", model, sha256=twice.sha256)


@pytest.mark.parametrize(
    "body",
    [
        Opaque("true }; permit (principal, action, resource) when { true"),
        Opaque("true } unless { false"),
        Opaque("true // "),
        Opaque("true) || (true"),
        Opaque(""),
        Like(Attribute("context", ("path",)), "a\\b"),
        Like(Attribute("context", ("path",)), "a\\"),
        Is(Attribute("principal"), "A b"),
        Is(Attribute("principal"), 'App::"x" || true'),
        Compare("==", Entity('App::"x" ==', "y"), Entity("App", "y")),
        All((Value(value=True),)),
    ],
)
def test_what_no_text_says_is_refused_and_breaks_out_of_nothing(body: Json) -> None:
    document = read_document(TEXT)
    model = document.block("shut").model
    assert model is not None
    edited = msgspec.structs.replace(model, conditions=(Condition(kind="when", body=body),))
    with pytest.raises(MalformedPolicy):
        replace(document, "shut", edited, sha256=document.sha256)


@pytest.mark.parametrize(
    "change",
    [
        {"annotations": (("id", "x"), ('a") permit', "b"))},
        {"principal": Scope(kind="equal")},
        {"principal": Scope(kind="type", type="A, action")},
        {"action": Actions(kind="equal", entities=())},
        {"action": Actions(kind="within", entities=(Entity("Action", "a"), Entity("Action", "b")))},
    ],
)
def test_a_head_that_no_text_says_is_refused(change: dict[str, Json]) -> None:
    document = read_document(TEXT)
    model = document.block("shut").model
    assert model is not None
    with pytest.raises(MalformedPolicy):
        replace(document, "shut", msgspec.structs.replace(model, **change), sha256=document.sha256)


def test_a_text_that_would_mean_something_else_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from nomos_policy.visual import document as module

    document = read_document(TEXT)
    model = document.block("shut").model
    assert model is not None
    edited = msgspec.structs.replace(model, conditions=(Condition(kind="when", body=Value(value=False)),))
    monkeypatch.setattr(module, "write_condition", lambda one: "when { true }")
    with pytest.raises(MalformedPolicy, match="would not mean what the form says"):
        replace(document, "shut", edited, sha256=document.sha256)
    monkeypatch.setattr(module, "write_condition", lambda one: "when { false }; permit (principal, action, resource)")
    with pytest.raises(MalformedPolicy, match="would have 3 policies instead of 2"):
        replace(document, "shut", edited, sha256=document.sha256)


def test_what_is_no_form_stays_text() -> None:
    template = '@id("t") permit (principal == ?principal, action, resource);'
    deep = '@id("deep") permit (principal, action, resource) when { ' + "!(" * 45 + "true" + ")" * 45 + " };"
    document = read_document(f"{template}\n{deep}\n{TEXT}")
    assert [(one.id, one.model is None) for one in document.blocks][:2] == [("", True), ("", True)]
    assert "template" in document.blocks[0].reason
    assert "depth" in document.blocks[1].reason
    model = document.block("shut").model
    assert model is not None
    edited = msgspec.structs.replace(model, effect="permit")
    new = replace(document, "shut", edited, sha256=document.sha256)
    assert new.startswith(f"{template}\n{deep}\n")
    body: Json = Value(value=True)
    for _ in range(EXPRESSION_DEPTH_MAX + 1):
        body = Not(body)
    with pytest.raises(LimitExceeded):
        replace(
            document, "shut", msgspec.structs.replace(model, conditions=(Condition(kind="when", body=body),)),
            sha256=document.sha256,
        )  # fmt: skip


def test_a_condition_without_a_node_is_text_and_the_rest_a_form() -> None:
    text = '@id("ip") permit (principal, action, resource) when { context.n == 1 && ip("1.2.3.4").isIpv4() };'
    block = read_document(text).blocks[0]
    assert block.opaque == ('(ip("1.2.3.4")).isIpv4()',)
    assert block.model is not None
    assert isinstance(block.model.conditions[0].body, All)


# --- what an edit does ----------------------------------------------------------------------------------------------


def test_an_edit_changes_the_answers_that_it_says_and_no_others(vocabulary, ask, compiled) -> None:
    starter = (ROOT / "packs/github-starter/policies.cedar").read_text(encoding="utf-8")
    document = read_document(starter)
    model = document.block("nobody-becomes-admin").model
    assert model is not None
    # Also whoever may push.
    either = Any((
        model.conditions[0].body.parts[1],  # type: ignore[union-attr]
        Compare("==", Attribute("context", ("args", "permission")), Value("push")),
    ))  # fmt: skip
    body = All((model.conditions[0].body.parts[0], either))  # type: ignore[union-attr]
    edited = msgspec.structs.replace(model, conditions=(Condition(kind="when", body=body),))
    before, after = compiled(starter), compiled(replace(document, model.id, edited, sha256=document.sha256))
    for permission, was, becomes in (
        ("pull", Outcome.STEP_UP, Outcome.STEP_UP),
        ("push", Outcome.STEP_UP, Outcome.DENY),
        ("admin", Outcome.DENY, Outcome.DENY),
    ):
        args = {"username": "rosa", "permission": permission}
        asked = [ask(policies, "github:collaborators.add", args=args) for policies in (before, after)]
        assert [decide(one).outcome for one in asked] == [was, becomes]


@pytest.mark.parametrize("name", sorted(one.parent.name for one in (ROOT / "packs").glob("*/policies.cedar")))
def test_every_policy_of_a_pack_is_a_form_throughout(name: str) -> None:
    text = (ROOT / "packs" / name / "policies.cedar").read_text(encoding="utf-8")
    for block in read_document(text).blocks:
        assert block.model is not None
        assert not block.opaque
        assert _same(block.model)


def test_errors_are_of_the_house() -> None:
    with pytest.raises(NomosError):
        read_document("permit (principal")


# --- the command ----------------------------------------------------------------------------------------------------


def test_the_command_shows_a_text_and_edits_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, change = tmp_path / "set.cedar", tmp_path / "edit.json"
    path.write_text(TEXT, encoding="utf-8")
    assert main(["policy", "model", str(path)]) == YES
    assert "line 13    shut                             a form throughout\n" in capsys.readouterr().out
    assert main(["policy", "model", str(path), "--json"]) == YES
    shown = json.loads(capsys.readouterr().out)
    model = shown["blocks"][1]["model"]
    model["effect"] = "permit"

    def run(edit: object, *words: str) -> int:
        change.write_text(json.dumps(edit), encoding="utf-8")
        return main(["policy", "model", str(path), "--edit", str(change), *words])

    edited = {"sha256": shown["sha256"], "policy": "shut", "model": model}
    assert run(edited) == YES
    new = TEXT.replace(
        '@id("shut") forbid (principal, action, resource)',
        '@id("shut") permit (\n  principal,\n  action,\n  resource\n)',
    )
    assert capsys.readouterr().out == new
    assert path.read_text(encoding="utf-8") == TEXT
    assert run(edited, "--write") == YES
    assert path.read_text(encoding="utf-8") == new
    assert run(edited, "--write") == NO, "the text has changed since"
    assert "have changed since" in capsys.readouterr().err
    now = read_document(new).sha256
    assert run({"sha256": now, "model": {**model, "annotations": [["id", "more"]]}}) == YES
    assert '@id("more")' in capsys.readouterr().out
    assert run({"sha256": now, "policy": "read", "model": None}) == YES
    assert '@id("read")' not in capsys.readouterr().out
    for wrong in ({"sha256": now, "model": None}, {"policy": "read"}, {**edited, "model": {"effect": "perhaps"}}, []):
        assert run(wrong) == USAGE
    assert path.read_text(encoding="utf-8") == new


# --- one policy as text ---------------------------------------------------------------------------------------------

TWO = """// above
@id("a") permit (principal, action, resource); // beside
@id("b") forbid (principal, action, resource);
"""


def test_one_policy_is_rewritten_as_text_and_the_rest_stays() -> None:
    document = read_document(TWO)
    new = '// new\n@id("c")\npermit (principal, action, resource) when { context.x }; // why;'
    assert rewrite(document, "a", new, sha256=document.sha256) == TWO.replace(
        '@id("a") permit (principal, action, resource);', f"{new}\n"
    )
    same = document.block("b").text
    assert rewrite(document, "b", same, sha256=document.sha256) == TWO


@pytest.mark.parametrize("text", ["", "// nothing", "permit (principal, action, resource)", TWO, "permit (principal"])
def test_a_text_that_is_not_one_policy_is_refused(text: str) -> None:
    document = read_document(TWO)
    with pytest.raises(MalformedPolicy):
        rewrite(document, "a", text, sha256=document.sha256)
    with pytest.raises(Conflict):
        rewrite(document, "a", "permit (principal, action, resource);", sha256="0" * 64)
