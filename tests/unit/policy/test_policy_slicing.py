"""A slice decides as all policies do: the same answer, the same determining policies, the same errors."""

from __future__ import annotations

import json

import cedarpy
from hypothesis import given, settings
from hypothesis import strategies as st

from nomos_policy.policy import parse_head
from nomos_policy.policyset import engine_message
from nomos_policy.slicing import Entity, EntityUid, Head, Scope, ScopeIndex

Answer = tuple[str, frozenset[str], frozenset[str]]

TYPES = ("User", "Team", "App::Doc")
UIDS = [(type_name, name) for type_name in TYPES for name in ("a", "b", "c")]
ACTIONS = [("Action", name) for name in ("read", "write", "any", "unknown")]
CONDITIONS = (
    "",
    "when { true }",
    "when { false }",
    "unless { true }",
    # Each of these fails when it is evaluated.
    "when { principal.nothing == 1 }",
    "when { context.nothing }",
    "unless { 9223372036854775807 + 1 > 0 }",
    'when { resource.nothing like "x" } unless { principal.nothing }',
    # Fails for some requests only.
    'when { principal in Team::"a" && context.nothing }',
    'when { context.flag } unless { resource == App::Doc::"a" || 1 + 9223372036854775807 == 0 }',
)


def _literal(uid: EntityUid) -> str:
    return f'{uid[0]}::"{uid[1]}"'


@st.composite
def _scope(draw: st.DrawFn, side: str) -> str:
    uid = _literal(draw(st.sampled_from(UIDS)))
    type_name = draw(st.sampled_from(TYPES))
    form = draw(st.sampled_from(("{s}", "{s} == {u}", "{s} in {u}", "{s} is {t}", "{s} is {t} in {u}")))
    return form.format(s=side, u=uid, t=type_name)


@st.composite
def _policy(draw: st.DrawFn) -> str:
    some = draw(st.lists(st.sampled_from(ACTIONS), max_size=3))
    action = draw(
        st.sampled_from(
            (
                "action",
                f"action == {_literal(draw(st.sampled_from(ACTIONS)))}",
                f"action in {_literal(draw(st.sampled_from(ACTIONS)))}",
                f"action in [{', '.join(map(_literal, some))}]",
            )
        )
    )
    head = f"{draw(_scope('principal'))}, {action}, {draw(_scope('resource'))}"
    return f"{draw(st.sampled_from(('permit', 'forbid')))}({head}) {draw(st.sampled_from(CONDITIONS))};"


@st.composite
def _hierarchy(draw: st.DrawFn) -> dict[EntityUid, frozenset[EntityUid]]:
    """Parents by entity; a later entity may lie in earlier ones, so there is no cycle. Some entities are not there."""
    parents: dict[EntityUid, frozenset[EntityUid]] = {}
    for place, uid in enumerate(UIDS):
        if draw(st.integers(0, 5)):
            parents[uid] = draw(st.frozensets(st.sampled_from(UIDS[:place]), max_size=2)) if place else frozenset()
    parents["Action", "any"] = frozenset()
    for name in ("read", "write"):
        parents["Action", name] = frozenset({("Action", "any")}) if draw(st.booleans()) else frozenset()
    return parents


REQUESTS = st.lists(
    st.tuples(st.sampled_from(UIDS), st.sampled_from(ACTIONS), st.sampled_from(UIDS), st.booleans()),
    min_size=1,
    max_size=6,
)


def _entity(uid: EntityUid, parents: dict[EntityUid, frozenset[EntityUid]]) -> Entity:
    found: set[EntityUid] = set()
    pending = [uid]
    while pending:
        more = parents.get(pending.pop(), frozenset()) - found
        found |= more
        pending.extend(more)
    return Entity(uid, frozenset(found))


def _evaluate(
    texts: dict[str, str], request: tuple[EntityUid, EntityUid, EntityUid, bool], entities: cedarpy.Entities
) -> Answer:
    """The engine numbers policies by their place; the answer names them by their own names."""
    names = list(texts)
    named = dict(zip(("principal", "action", "resource"), request, strict=False))
    found = cedarpy.is_authorized(
        {
            **{side: {"type": uid[0], "id": uid[1]} for side, uid in named.items()},
            "context": json.dumps({"flag": request[3]}),
        },
        cedarpy.PolicySet.from_str("\n".join(texts.values())),
        entities,
    )
    renamed = {f"`policy{place}`": f"`{name}`" for place, name in enumerate(names)}
    errors = set()
    for message in found.diagnostics.errors:
        generated = message[message.index("`policy") :].split("`")[1]
        errors.add(message.replace(f"`{generated}`", renamed[f"`{generated}`"]))
    reasons = frozenset(names[int(reason.removeprefix("policy"))] for reason in found.diagnostics.reasons)
    return found.decision.name, reasons, frozenset(errors)


def _head(text: str) -> Head:
    (est,) = json.loads(cedarpy.policies_to_json_str(text))["staticPolicies"].values()
    return parse_head(est)


@settings(max_examples=120)
@given(policies=st.lists(_policy(), max_size=12), parents=_hierarchy(), requests=REQUESTS)
def test_a_slice_decides_as_all_policies_do(
    policies: list[str],
    parents: dict[EntityUid, frozenset[EntityUid]],
    requests: list[tuple[EntityUid, EntityUid, EntityUid, bool]],
) -> None:
    texts = {f"p{place}": text for place, text in enumerate(policies)}
    index = ScopeIndex([_head(text) for text in policies])
    entities = cedarpy.Entities.from_json_str(
        json.dumps(
            [
                {
                    "uid": {"type": uid[0], "id": uid[1]},
                    "attrs": {},
                    "parents": [{"type": type_name, "id": name} for type_name, name in above],
                }
                for uid, above in parents.items()
            ]
        )
    )
    for request in requests:
        sides = [_entity(uid, parents) for uid in request[:3]]
        kept = {f"p{place}": policies[place] for place in index.candidates(*sides)}
        assert _evaluate(kept, request, entities) == _evaluate(texts, request, entities)


@given(policies=st.lists(_policy(), max_size=12), parents=_hierarchy(), requests=REQUESTS)
def test_the_index_finds_what_a_look_at_each_head_finds(
    policies: list[str],
    parents: dict[EntityUid, frozenset[EntityUid]],
    requests: list[tuple[EntityUid, EntityUid, EntityUid, bool]],
) -> None:
    heads = [_head(text) for text in policies]
    index = ScopeIndex(heads)
    for request in requests:
        sides = [_entity(uid, parents) for uid in request[:3]]
        looked = tuple(place for place, head in enumerate(heads) if head.may_match(*sides))
        assert index.candidates(*sides) == looked


def test_a_policy_whose_head_does_not_match_is_not_evaluated_so_it_cannot_fail() -> None:
    """The ground of slicing, asked of the engine itself."""
    failing = {"other": 'permit(principal == User::"b", action, resource) when { principal.nothing };'}
    entities = cedarpy.Entities.from_json_str("[]")
    request = (("User", "a"), ("Action", "read"), ("App::Doc", "a"), True)
    assert _evaluate(failing, request, entities) == ("Deny", frozenset(), frozenset())
    matching = {"own": 'permit(principal == User::"a", action, resource) when { principal.nothing };'}
    _, _, errors = _evaluate(matching, request, entities)
    assert len(errors) == 1


def test_a_missing_ancestor_would_hide_a_policy() -> None:
    """Why the ancestors are those that the engine gets."""
    head = Head(principal=Scope(within=("Team", "a")), actions=None, resource=Scope())
    index = ScopeIndex([head])
    rest = Entity(("Action", "read"), frozenset()), Entity(("App::Doc", "a"), frozenset())
    assert index.candidates(Entity(("User", "a"), frozenset({("Team", "a")})), *rest) == (0,)
    assert index.candidates(Entity(("User", "a"), frozenset()), *rest) == ()


def test_an_engine_message_names_the_tenants_policy_in_any_slice(compiled, ask) -> None:
    """The place of a policy differs between slices; its name does not."""
    text = (
        '@id("other") permit(principal == Agent::"other-bot", action, resource);'
        '@id("own") permit(principal, action, resource) when { 9223372036854775807 + context.now > 0 };'
    )
    policies = compiled(text)
    facts = ask(policies)
    found = policies.slice(facts.principal, facts.action, facts.resource)
    assert [policy.id for policy in found.policies] == ["own"]
    assert "`own`" in engine_message("while evaluating policy `policy0`: x", found.policies)
