"""Recorded decisions evaluated again: right answers come out right, falsified ones are found, candidates compared."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nomos.errors import MalformedPolicy
from nomos.events import DECISION_MADE, POLICY_PUT
from nomos.log.chain import NO_HASH
from nomos.log.record import Actor, Record, canonical_bytes, format_ts, parse_object
from nomos.request import request_digest
from nomos_policy.decision import AuthorizeFacts, decide
from nomos_policy.policyset import load_policies, text_sha256
from nomos_policy.record import decision_event
from nomos_policy.replay import BATCH, EXAMPLES_MAX, Outcome, Replay

READS = '@id("reads") @description("Agents read.") permit(principal, action in [Action::"risk:read"], resource);'
ALL = '@id("all") @description("Everything.") permit(principal, action, resource);'
NO_LABELS = '@id("no-labels") forbid(principal, action == Action::"github:labels.list", resource);'
BY_ARGS = (
    '@id("open") permit(principal, action, resource) when { context.args has state && context.args.state == "open" };'
)
DELETE = "github:repos.delete"


class Written:
    """A tenant's log in small: policy sets put and decisions made under them, as the services record both."""

    def __init__(self, vocabulary: Any, ask: Callable[..., AuthorizeFacts]) -> None:
        self.records: list[Record] = []
        self._vocabulary = vocabulary
        self._ask = ask
        self._sets: dict[str, list[str]] = {}

    def put(self, text: str, tenant: str = "acme") -> None:
        texts = self._sets.setdefault(tenant, [])
        texts.append(text)
        event = {
            "tenant": tenant,
            "revision": len(texts),
            "sha256": text_sha256(text),
            "text": text,
            "actor": "ann",
            "why": "because",
            "at": 1_800_000_000,
            "restores": None,
        }
        self.add(POLICY_PUT, event, tenant, Actor(kind="operator", id="ann"))

    def decided(
        self, action: str = "github:issues.list", *, tenant: str = "acme", back: int = 0, **more: Any
    ) -> Record:
        texts = self._sets.get(tenant, [])
        revision = len(texts) - back
        policies = load_policies(texts[revision - 1] if revision else "", self._vocabulary, revision=revision)
        facts = self._ask(policies, action, tenant=tenant, **more)
        digest = request_digest(facts.action.id, facts.resource.text, dict(facts.args), facts.connection)
        number = f"{len(self.records):032x}"
        event = decision_event(
            facts, decide(facts), decision_id=f"dc_{number}", request_id=f"rq_{number}", digest=digest
        )
        event["at_ms"] = 1_800_000_000_123
        return self.add(DECISION_MADE, event, tenant, Actor(kind="agent", id=facts.principal.agent))

    def add(self, kind: str, event: dict[str, Any], tenant: str, actor: Actor) -> Record:
        seq = len(self.records)
        record = Record(
            actor=actor,
            cause="",
            corr="",
            # Through the log's own spelling, as the reader of an export gets it.
            event=parse_object(canonical_bytes(event)),
            id=f"ev_{seq:032x}",
            pc=None,
            seq=seq,
            src=None,
            tenant=tenant,
            tprev=NO_HASH.hex(),
            ts=format_ts(1_800_000_000_000_000 + seq),
            tseq=seq,
            type=kind,
            v=1,
        )
        self.records.append(record)
        return record


@pytest.fixture
def written(vocabulary, ask) -> Written:
    return Written(vocabulary, ask)


def _replay(vocabulary: Any, records: Sequence[Record], **more: Any) -> Outcome:
    replay = Replay([vocabulary], **more)
    for record in records:
        replay.add(record)
    return replay.outcome()


def _history(written: Written) -> Written:
    written.decided()
    written.put(READS)
    written.decided()
    written.decided("github:issues.create", args={"title": "hello"})
    written.decided(DELETE)
    written.put(READS + ALL + NO_LABELS)
    written.decided(DELETE)
    written.decided(DELETE, cosigned=True)
    written.decided("github:labels.list")
    written.decided(back=1)
    written.put(BY_ARGS, "globex")
    written.decided(tenant="globex", args={"state": "open"})
    written.decided(tenant="globex", args={"state": "closed"})
    return written


def test_an_honest_history_comes_out_right_to_the_last_member(vocabulary, written) -> None:
    outcome = _replay(vocabulary, _history(written).records)
    assert (outcome.decisions, outcome.right, outcome.wrong, outcome.unproven) == (10, 10, 0, {})
    assert outcome.outcomes == {"allow": 4, "deny": 5, "step_up": 1}
    assert (outcome.policy_sets, outcome.behind, outcome.changes) == (3, 1, None)


def test_more_decisions_than_one_batch_are_all_replayed(vocabulary, written) -> None:
    written.put(READS)
    first = written.decided()
    written.records += [msgspec.structs.replace(first, seq=first.seq + n) for n in range(1, BATCH + 7)]
    outcome = _replay(vocabulary, written.records)
    assert (outcome.decisions, outcome.right) == (BATCH + 7, BATCH + 7)


def _set(path: str, value: object) -> Callable[[dict[str, Any]], None]:
    def change(event: dict[str, Any]) -> None:
        *folders, name = path.split("/")
        for folder in folders:
            event = event[int(folder) if folder.isdigit() else folder]
        event[name] = value

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_set("outcome", "allow"), "the policies say step_up"),
        (_set("reason", "permitted"), "reason"),
        (_set("policies", []), "policies"),
        (_set("passes/0/allowed", True), "passes"),
        (_set("errors", ["none"]), "errors"),
        (_set("alarm", True), "alarm"),
        (_set("revision", 2), "had not put in force"),
        (_set("revision", True), "had not put in force"),
        (_set("revision", "1"), "had not put in force"),
        (_set("policy_set", text_sha256(READS)), "policy-set hash"),
        (_set("entities", []), "entities"),
        (_set("request/digest", "00" * 32), "request"),
        (_set("request/resource", "github:repo/acme/other"), "request"),
        (_set("request/risk", "read"), "request"),
        (_set("request/tenant", "globex"), "another agent's"),
        (_set("request/agent", "other-bot"), "another agent's"),
        (_set("request/action", "github:gone.away"), "cannot be evaluated again"),
        (_set("request/args", {"unknown": 1}), "request"),
        (_set("extra", 1), "extra"),
        (lambda event: event.pop("request"), "no decision"),
    ],
)
def test_a_falsified_decision_is_wrong_and_named(vocabulary, written, change, reason) -> None:
    written.put(ALL)
    record = written.decided(DELETE)
    event = copy.deepcopy(record.event)
    change(event)
    written.records[-1] = msgspec.structs.replace(record, event=event)
    outcome = _replay(vocabulary, written.records)
    assert (outcome.right, outcome.wrong) == (0, 1)
    wrong = outcome.examples[0]
    assert (wrong.seq, wrong.tenant) == (record.seq, "acme")
    assert reason in wrong.reason


def test_a_policy_text_that_was_changed_in_the_log_shows_as_wrong(vocabulary, written) -> None:
    written.put(READS)
    written.decided()
    put = written.records[0]
    written.records[0] = msgspec.structs.replace(put, event={**put.event, "text": ALL})
    outcome = _replay(vocabulary, written.records)
    assert (outcome.right, outcome.wrong) == (0, 2)
    assert "the policy set does not follow" in outcome.examples[0].reason


def test_a_decision_before_its_policy_set_was_in_force_is_wrong(vocabulary, written) -> None:
    written.put(ALL)
    written.decided()
    outcome = _replay(vocabulary, written.records[::-1])
    assert (outcome.right, outcome.wrong) == (0, 1)


def test_another_tenants_policy_set_proves_nothing(vocabulary, written) -> None:
    written.put(ALL, "globex")
    written.put(ALL)
    record = written.decided()
    outcome = _replay(vocabulary, [written.records[0], record])
    assert outcome.wrong == 1


@pytest.mark.parametrize(
    ("member", "value", "reason"),
    [("schema", "00" * 32, "schema that is not at hand"), ("platform", "high-stakes/2", "platform's rules")],
)
def test_what_it_was_made_with_and_is_not_at_hand_is_unproven_not_wrong(
    vocabulary, written, member, value, reason
) -> None:
    written.put(ALL)
    record = written.decided()
    written.records[-1] = msgspec.structs.replace(record, event={**record.event, member: value})
    outcome = _replay(vocabulary, written.records)
    assert (outcome.right, outcome.wrong, sum(outcome.unproven.values())) == (0, 0, 1)
    assert reason in next(iter(outcome.unproven))


def test_a_candidate_shows_which_answers_change_by_agent_action_and_resource(vocabulary, written) -> None:
    written.put(READS)
    for _ in range(3):
        written.decided()
    written.decided("github:labels.list", agent="label-bot")
    written.decided(DELETE)
    outcome = _replay(vocabulary, written.records, candidate=ALL + NO_LABELS)
    changes = outcome.changes
    assert changes is not None
    assert outcome.right == 5
    assert (changes.evaluated, changes.changed) == (5, 2)
    assert changes.by_answer == {"allow -> deny": 1, "deny -> step_up": 1}
    assert changes.by_agent == {"acme/label-bot": 1, "acme/triage-bot": 1}
    assert changes.by_action == {"github:labels.list": 1, DELETE: 1}
    labels = next(one for one in changes.examples if one.agent == "label-bot")
    assert (labels.before, labels.after, labels.policies) == ("allow", "deny", ("no-labels",))


def test_the_set_in_force_as_candidate_changes_nothing(vocabulary, written) -> None:
    written.put(READS)
    written.decided()
    written.decided(DELETE)
    changes = _replay(vocabulary, written.records, candidate=READS).changes
    assert changes is not None
    assert (changes.evaluated, changes.changed, changes.examples) == (2, 0, ())


def test_examples_are_bounded(vocabulary, written) -> None:
    written.put(READS)
    for number in range(EXAMPLES_MAX + 5):
        written.decided(agent=f"bot-{number}")
    changes = _replay(vocabulary, written.records, candidate="").changes
    assert changes is not None
    assert (changes.changed, len(changes.examples)) == (EXAMPLES_MAX + 5, EXAMPLES_MAX)


def test_a_candidate_that_is_no_policy_set_is_refused(vocabulary) -> None:
    with pytest.raises(MalformedPolicy):
        Replay([vocabulary], candidate="permit(principal, action, resource);")


def test_nothing_is_proven_by_no_decision(vocabulary) -> None:
    outcome = _replay(vocabulary, [])
    assert (outcome.decisions, outcome.right, outcome.wrong) == (0, 0, 0)


@settings(max_examples=40)
@given(data=st.data())
def test_any_change_of_a_decided_record_is_found(vocabulary, ask, data) -> None:
    """Whatever member of a decision is changed to whatever else: it does not come out right."""
    written = Written(vocabulary, ask)
    written.put(READS + NO_LABELS)
    record = written.decided(data.draw(st.sampled_from(["github:issues.list", "github:labels.list", DELETE])))
    event = copy.deepcopy(record.event)
    name = data.draw(st.sampled_from(sorted(event.keys() - {"at_ms", "decision"})))
    value = data.draw(st.one_of(st.none(), st.booleans(), st.integers(0, 9), st.text(max_size=5), st.just([])))
    if type(value) is type(event[name]) and value == event[name]:
        return
    event[name] = value
    written.records[-1] = msgspec.structs.replace(record, event=event)
    assert _replay(vocabulary, written.records).right == 0
