"""Recorded decisions, evaluated again: was each answer right, and what would another policy set have answered.

A decision record names the policy set (by hash and revision), the schema (by hash) and the platform's rules (by
version), and holds the request and its entities. The set's text stands in an earlier ``policy.put`` record of the same
tenant. So the answer can be computed again, and the whole record compared: outcome, reason, determining policies,
passes and errors.

Each decision gets one verdict:

* **right**: the same record comes out again;
* **wrong**: another comes out, or the log contradicts the record (a policy set that was never put in force, a digest
  that is not the request's, another tenant's or agent's name);
* **unproven**: what it was made with is not at hand: another catalogue's schema, or another version of the platform's
  rules.

What is not proven here: that an approval behind ``cosigned`` was genuine (the passkey's assertion is in the log), that
the clock in ``now`` was right, and that the log itself is whole; the verifier judges that first.

Pure: records come in as values, in order of ``seq``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final

from msgspec import Struct

from nomos.errors import Malformed, MalformedRecord, NomosError
from nomos.events import DECISION_MADE, POLICY_PUT
from nomos.ids import TenantId
from nomos.log.record import Record, canonical_bytes
from nomos.request import request_digest
from nomos_policy.changes import EXAMPLES_MAX, Changes, Tally
from nomos_policy.decision import AuthorizeFacts, Decision, decide_batch
from nomos_policy.history import FOLDED, PolicyHistory, evolve, parse_event
from nomos_policy.policy import PLATFORM_VERSION
from nomos_policy.policyset import CompiledSet, compile_policies, load_policies, text_sha256
from nomos_policy.record import decision_event, facts_from_event
from nomos_policy.vocabulary import Vocabulary

#: Record types that a replay reads.
TYPES: Final = FOLDED | {DECISION_MADE}
#: Decisions that are evaluated together.
BATCH: Final = 512
#: Compiled policy sets that are kept.
SETS_MAX: Final = 64
#: Members of a decision record that say when and with which approval, not what was decided.
_BESIDE: Final = frozenset({"at_ms", "approval"})


class Wrong(Struct, frozen=True, kw_only=True):
    """A decision whose record does not follow from what it was made with."""

    seq: int
    tenant: str
    decision: str
    reason: str


class Outcome(Struct, frozen=True, kw_only=True):
    """What a replay found.

    Attributes:
        decisions: decision records read.
        right: of which the same record came out again.
        wrong: of which it did not.
        unproven: reason -> number of decisions that could not be evaluated.
        behind: decisions made under an older revision than the newest in the log at that point.
        policy_sets: versions of policy sets read.
        outcomes: recorded outcome -> number.
        examples: the first wrong ones.
        changes: for a candidate set, what it would have changed.
    """

    decisions: int
    right: int
    wrong: int
    unproven: Mapping[str, int]
    behind: int
    policy_sets: int
    outcomes: Mapping[str, int]
    examples: tuple[Wrong, ...]
    changes: Changes | None


class _Pending(Struct, frozen=True, kw_only=True):
    record: Record
    facts: AuthorizeFacts


class Unproven(Exception):
    """Why a decision cannot be evaluated."""


class Replay:
    """Folds the records of a log or of one tenant. Feed with :meth:`add`, then ask for :meth:`outcome`."""

    def __init__(
        self,
        vocabularies: Iterable[Vocabulary],
        *,
        candidate: str | None = None,
    ) -> None:
        """Takes the schemas that are at hand.

        Args:
            vocabularies: of the catalogues that decisions may have been made with; the first is the current one.
            candidate: a policy text to compare with; compiled against the current catalogue.

        Raises:
            MalformedPolicy: the candidate is not one.
            ValueError: no vocabulary.
        """
        known = list(vocabularies)
        if not known:
            raise ValueError("a replay needs a vocabulary")
        self._vocabularies = {one.sha256: one for one in known}
        self._current = known[0]
        self._candidate = None if candidate is None else compile_policies(candidate, self._current)
        self._histories: dict[str, PolicyHistory] = {}
        self._compile = lru_cache(maxsize=SETS_MAX)(self._compiled)
        self._pending: list[_Pending] = []
        self._decisions = self._right = self._behind = self._policy_sets = 0
        self._unproven: Counter[str] = Counter()
        self._outcomes: Counter[str] = Counter()
        self._wrong = 0
        self._examples: list[Wrong] = []
        self._changes = Tally()

    def add(self, record: Record) -> None:
        """Takes the next record; those of other types are passed over."""
        if record.type in FOLDED:
            self._flush()
            self._put(record)
        elif record.type == DECISION_MADE:
            self._decisions += 1
            self._outcomes[_text(record.event.get("outcome"))] += 1
            try:
                self._pending.append(_Pending(record=record, facts=self.facts(record)))
            except Unproven as error:
                self._unproven[str(error)] += 1
            except NomosError as error:
                self._is_wrong(record, error.detail)
            if len(self._pending) >= BATCH:
                self._flush()

    def facts(self, record: Record) -> AuthorizeFacts:
        """What a decision record was made with, its tenant's earlier records having been added.

        Raises:
            Unproven: the schema or the platform's rules are not at hand.
            NomosError: the log contradicts the record.
        """
        event = record.event
        vocabulary = self._vocabularies.get(_text(event.get("schema")))
        if vocabulary is None:
            raise Unproven(f"made with a schema that is not at hand ({_text(event.get('schema'))[:16]})")
        if event.get("platform") != PLATFORM_VERSION:
            raise Unproven(f"made with the platform's rules {_text(event.get('platform'))[:40]!r}")
        policies = self._policies(record, vocabulary)
        facts = facts_from_event(event, vocabulary.catalogue, policies)
        if (facts.principal.tenant, facts.principal.agent) != (record.tenant, record.actor.id):
            raise MalformedRecord("the request is another agent's than the record's")
        return facts

    def outcome(self) -> Outcome:
        """What was found so far."""
        self._flush()
        return Outcome(
            decisions=self._decisions,
            right=self._right,
            wrong=self._wrong,
            unproven=dict(self._unproven),
            behind=self._behind,
            policy_sets=self._policy_sets,
            outcomes=dict(sorted(self._outcomes.items())),
            examples=tuple(self._examples),
            changes=None if self._candidate is None else self._changes.summed(),
        )

    def _put(self, record: Record) -> None:
        before = self._histories.get(record.tenant, PolicyHistory(tenant=TenantId(record.tenant)))
        try:
            self._histories[record.tenant] = evolve(before, parse_event(record.type, record.event))
        except MalformedRecord as error:
            # A hole in the history: the decisions under the missing or changed text show as wrong, one by one.
            self._is_wrong(record, f"the policy set does not follow: {error.detail}")
            return
        self._policy_sets += record.type == POLICY_PUT

    def _policies(self, record: Record, vocabulary: Vocabulary) -> CompiledSet:
        revision, sha256 = record.event.get("revision"), record.event.get("policy_set")
        history = self._histories.get(record.tenant, PolicyHistory(tenant=TenantId(record.tenant)))
        if type(revision) is int and revision == 0:
            text = ""
        elif type(revision) is int and 0 < revision <= history.revision:
            text = history.text_of(history.version(revision))
        else:
            raise MalformedRecord("it names a revision that the log had not put in force")
        if sha256 != text_sha256(text):
            raise MalformedRecord("its policy-set hash is not that of the revision")
        self._behind += revision != history.revision
        return self._compile(record.tenant, revision, text, vocabulary.sha256)

    def _compiled(self, tenant: str, revision: int, text: str, schema: str) -> CompiledSet:
        return load_policies(text, self._vocabularies[schema], revision=revision)

    def _flush(self) -> None:
        pending, self._pending = self._pending, []
        decided = decide_batch([one.facts for one in pending])
        for one, decision in zip(pending, decided, strict=True):
            difference = _difference(one, decision)
            if difference is None:
                self._right += 1
            else:
                self._is_wrong(one.record, difference)
        if self._candidate is not None:
            self._compare(pending, self._candidate)

    def _compare(self, pending: Iterable[_Pending], candidate: CompiledSet) -> None:
        asked: list[_Pending] = []
        for one in pending:
            # The candidate speaks today's schema: the request is read again under it.
            try:
                facts = facts_from_event(one.record.event, self._current.catalogue, candidate)
            except Malformed:
                self._unproven["the candidate's catalogue does not know the action"] += 1
                continue
            asked.append(_Pending(record=one.record, facts=facts))
        decided = decide_batch([one.facts for one in asked])
        for one, decision in zip(asked, decided, strict=True):
            event = one.record.event
            self._changes.add(
                one.facts, _text(event.get("outcome")), decision, _text(event.get("decision")), one.record.seq
            )

    def _is_wrong(self, record: Record, reason: str) -> None:
        self._wrong += 1
        if len(self._examples) < EXAMPLES_MAX:
            named = _text(record.event.get("decision")) or record.id
            self._examples.append(Wrong(seq=record.seq, tenant=record.tenant, decision=named, reason=reason))


def _difference(one: _Pending, decision: Decision) -> str | None:
    """The first thing in which the record differs from the decision that was made again."""
    event, facts = one.record.event, one.facts
    request = event["request"]
    try:
        digest = request_digest(facts.action.id, facts.resource.text, dict(facts.args), facts.connection)
    except NomosError as error:
        return f"the request has no digest: {error.detail}"
    again = decision_event(
        facts,
        decision,
        decision_id=_text(event.get("decision")),
        request_id=_text(request.get("id")),
        digest=digest,
    )
    for name, value in again.items():
        # By the log's spelling: to Python, true equals 1.
        if canonical_bytes({name: event.get(name)}) != canonical_bytes({name: value}):
            if name == "outcome":
                return f"the recorded answer is {_text(event.get(name))}, the policies say {value}"
            return f"its member {name} is not what the policies and the request give"
    unknown = event.keys() - again.keys() - _BESIDE
    return f"it has a member {min(unknown)} that no decision has" if unknown else None


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""
