"""Cases of the Cedar integration tests: each request evaluated against all policies, and against its slice.

Source of the format: cedar-policy/cedar-integration-tests, README.md.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cedarpy
import pytest

from nomos_policy.policy import parse_head
from nomos_policy.slicing import Entity, EntityUid, ScopeIndex

VECTORS = Path(__file__).parents[2] / "vectors" / "cedar" / "cases.json"
CASES: list[dict[str, Any]] = json.loads(VECTORS.read_text(encoding="utf-8"))
#: The folder above ``corpus-tests`` of the Cedar integration tests; see tests/vectors/cedar/SOURCE.md.
CORPUS = os.environ.get("NOMOS_CEDAR_CORPUS")

Answer = tuple[str, frozenset[str], frozenset[str]]


class Case:
    """One case: policies, entities, schema and requests."""

    def __init__(self, policies: str, entities: list[dict[str, Any]], schema: str, requests: list[dict[str, Any]]):
        self.requests = requests
        self._schema = cedarpy.Schema.from_str(schema)
        self._entities = cedarpy.Entities.from_json_str(json.dumps(entities), self._schema)
        self._parents: dict[EntityUid, frozenset[EntityUid]] = {
            _uid(one["uid"]): frozenset(map(_uid, one["parents"])) for one in entities
        }
        est = json.loads(cedarpy.policies_to_json_str(policies))
        self.policies: dict[str, dict[str, Any]] = est["staticPolicies"]
        heads = [parse_head(policy) for policy in self.policies.values()]
        self._actions = frozenset(uid for head in heads for uid in head.actions or ())
        self._index = ScopeIndex(heads)

    def answers(self) -> Iterator[tuple[dict[str, Any], Answer, Answer, int]]:
        """Each request, its answer by all policies, its answer by its slice, and how many policies that has."""
        whole = _policy_set(self.policies)
        for request in self.requests:
            action = Entity(_uid(request["action"]), self._groups(request))
            places = set(
                self._index.candidates(self._entity(request["principal"]), action, self._entity(request["resource"]))
            )
            kept = {name: policy for place, (name, policy) in enumerate(self.policies.items()) if place in places}
            yield request, self._ask(request, whole), self._ask(request, _policy_set(kept)), len(kept)

    def _ask(self, request: Mapping[str, Any], policies: cedarpy.PolicySet) -> Answer:
        asked = {side: request[side] for side in ("principal", "action", "resource")}
        asked["context"] = json.dumps(request["context"])
        found = cedarpy.is_authorized(asked, policies, self._entities, self._schema)
        return found.decision.name, frozenset(found.diagnostics.reasons), frozenset(found.diagnostics.errors)

    def _groups(self, request: Mapping[str, Any]) -> frozenset[EntityUid]:
        """The groups of the request's action among the actions that heads name; the engine knows them by the schema."""
        return frozenset(uid for uid in self._actions if self._ask(request, _permit_in(uid))[0] == "Allow")

    def _entity(self, named: dict[str, str]) -> Entity:
        uid = _uid(named)
        found: set[EntityUid] = set()
        pending = [uid]
        while pending:
            for parent in self._parents.get(pending.pop(), frozenset()) - found:
                found.add(parent)
                pending.append(parent)
        return Entity(uid, frozenset(found))


def _uid(named: dict[str, Any]) -> EntityUid:
    inner = named.get("__entity", named)
    return (inner["type"], inner["id"])


def _policy_set(policies: Mapping[str, object]) -> cedarpy.PolicySet:
    return cedarpy.PolicySet.from_json_str(
        json.dumps({"staticPolicies": policies, "templates": {}, "templateLinks": []})
    )


def _permit_in(uid: EntityUid) -> cedarpy.PolicySet:
    head = {"op": "in", "entity": {"type": uid[0], "id": uid[1]}}
    anything = {"op": "All"}
    policy = {"effect": "permit", "principal": anything, "action": head, "resource": anything, "conditions": []}
    return _policy_set({"in": policy})


def _case(vector: dict[str, Any], policies: str) -> Case:
    return Case(policies, vector["entities"], vector["schema"], vector["requests"])


@pytest.mark.parametrize("vector", CASES, ids=[case["name"] for case in CASES])
def test_a_slice_decides_the_cases_of_cedars_integration_tests(vector: dict[str, Any]) -> None:
    for request, whole, sliced, _ in _case(vector, vector["policies"]).answers():
        assert sliced == whole
        assert (sliced[0].lower(), sliced[1]) == (request["decision"], frozenset(request["reason"]))
        assert len(sliced[2]) == len(request["errors"])


def test_a_slice_of_all_cases_policies_decides_as_all_of_them() -> None:
    together = "\n".join(case["policies"] for case in CASES)
    smaller = failing = 0
    for vector in CASES[::2]:
        case = _case(vector, together)
        for _, whole, sliced, kept in case.answers():
            assert sliced == whole
            smaller += kept < len(case.policies)
            failing += bool(whole[2])
    # The test means something: slices leave policies out, and some requests meet policies that fail.
    assert smaller
    assert failing


# Not a test of this suite unless somebody names a corpus: see tests/vectors/cedar/SOURCE.md.
if CORPUS is not None:

    @pytest.mark.timeout(1800)
    def test_a_slice_decides_the_whole_corpus() -> None:
        root = Path(str(CORPUS))
        names = sorted((root / "corpus-tests").glob("*.json"))
        read = 0
        for path in names:
            if path.name.endswith(".entities.json"):
                continue
            vector = json.loads(path.read_text(encoding="utf-8"))
            text = {one: (root / vector[one]).read_text(encoding="utf-8") for one in ("policies", "schema", "entities")}
            case = Case(text["policies"], json.loads(text["entities"]), text["schema"], vector["requests"])
            for request, whole, sliced, _ in case.answers():
                assert sliced == whole, path.name
                assert (sliced[0].lower(), sliced[1]) == (request["decision"], frozenset(request["reason"])), path.name
            read += 1
        assert read
