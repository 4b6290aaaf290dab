"""Compiles a tenant's policy text, on write and when stored text is loaded, and slices it for a request.

On write (:func:`compile_policies`) the first broken rule refuses the text. On load (:func:`load_policies`) a broken
policy is quarantined and reported, and the others stay in force: a catalogue that changed must not take a tenant
down. A quarantined permit is simply gone, which can only narrow. A quarantined policy that is, or could be, a forbid
would widen if it were gone, so requests that its head could match are denied while it is quarantined; where its head
cannot be read, that is every request of the tenant.

Slicing: for one kind of request, policies whose head cannot match are left out; why that is exact, and how they are
found without looking at each, says ``slicing``. Compiled slices are kept by what heads can tell apart in a request, and
die with the set, so with the revision. A slice's cost does not depend on the number of policies that it leaves out.

Pure. Source: rules "Cedar"; docs/adr/0027-policies-are-sliced-by-their-heads.md.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Final

import cedarpy
from msgspec import Struct

from nomos.catalogue import Action, Resource
from nomos.errors import Malformed, MalformedPolicy
from nomos_policy.guard import Fragment, split_policies
from nomos_policy.policy import Effect, Policy, parse_policy, read_roughly
from nomos_policy.remembered import Remembered
from nomos_policy.slicing import Entity, EntityUid, ScopeIndex
from nomos_policy.vocabulary import Principal, Vocabulary

#: Compiled slices kept for one policy set, in characters of policy text; the engine needs some 12 bytes for each.
SLICED_TEXT_MAX: Final = 1024 * 1024
#: What a slice without a policy counts.
SLICE_SIZE: Final = 256
#: Evaluations remembered for each policy set; one without arguments is below 1 kB and counts one.
REMEMBERED_MAX: Final = 4096
#: Characters of one engine message in errors and decisions.
ENGINE_MESSAGE_MAX: Final = 300

_GENERATED_ID: Final = re.compile(r"policy `policy([0-9]{1,6})`")


class Quarantined(Struct, frozen=True, kw_only=True):
    """A stored policy that is not in force.

    Attributes:
        id: its ``@id`` as far as known, or empty.
        line: of its first token; 0 when the whole text cannot be read.
        column: of its first token.
        error: why.
        effect: permit, forbid, or None when unknown.
        policy: the policy, when its head could be read.
    """

    id: str
    line: int
    column: int
    error: str
    effect: Effect | None
    policy: Policy | None


class Slice(Struct, frozen=True, kw_only=True):
    """The policies that one kind of request can meet.

    Attributes:
        handle: the engine's parsed set, generated ids ``policy<index>``.
        policies: in the order of the handle.
        reads_cosigned: whether a human's approval can change the decision at all.
        reads: names of the context's attributes that some policy reads; None for possibly any.
        blocked_by: quarantined policies that might forbid this kind of request.
    """

    handle: cedarpy.PolicySet
    policies: tuple[Policy, ...]
    reads_cosigned: bool
    reads: frozenset[str] | None
    blocked_by: tuple[Quarantined, ...]


class CompiledSet:
    """A tenant's policies, ready to decide. Immutable but for its cache of slices.

    Attributes:
        vocabulary: the schema they were validated against.
        policies: those in force, in the order of the text.
        quarantined: those not in force; empty for a set compiled on write.
        sha256: of the exact text, hex.
        revision: number of the version in the tenant's history; 0 for a text not stored yet.
        remembered: evaluations made, by everything that they depend on; dies with the set, so a new revision begins
            empty.
    """

    __slots__ = (
        "_index", "_named", "_slices", "policies", "quarantined", "remembered", "revision", "sha256", "vocabulary",
    )  # fmt: skip

    def __init__(
        self,
        *,
        vocabulary: Vocabulary,
        policies: tuple[Policy, ...],
        quarantined: tuple[Quarantined, ...],
        sha256: str,
        revision: int,
    ) -> None:
        self.vocabulary = vocabulary
        self.policies = policies
        self.quarantined = quarantined
        self.sha256 = sha256
        self.revision = revision
        heads = [policy.head for policy in policies]
        quarantined_heads = (item.policy.head for item in quarantined if item.policy is not None)
        self._index = ScopeIndex(heads)
        self._named: frozenset[EntityUid] = frozenset(
            uid
            for head in (*heads, *quarantined_heads)
            for scope in (head.principal, head.resource)
            for uid in (scope.equal, scope.within)
            if uid is not None
        )
        self._slices = Remembered(SLICED_TEXT_MAX)
        self.remembered = Remembered(REMEMBERED_MAX)

    def slice(self, principal: Principal, action: Action, resource: Resource) -> Slice:
        """The policies that a request can meet, from a bounded cache.

        Entities that no head names are one and the same to the heads, so they share a slice.
        """
        agent = ("Agent", principal.agent)
        uid = (resource.type.cedar, resource.id)
        key = (
            action.id,
            resource.type.cedar,
            uid if uid in self._named else None,
            self._named & _holders(resource),
            self._named & _ancestors(principal),
            agent if agent in self._named else None,
        )
        found = self._slices.get(key)
        if not isinstance(found, Slice):
            found = self._build_slice(principal, action, resource)
            self._slices.put(key, found, SLICE_SIZE + sum(len(policy.text) for policy in found.policies))
        return found

    def share(self, part: int) -> None:
        """Keeps no more than one of ``part`` parts of what one set may keep: what is computed can be computed again."""
        self._slices.resize(max(1, SLICED_TEXT_MAX // part))
        self.remembered.resize(max(1, REMEMBERED_MAX // part))

    def whole(self) -> Slice:
        """Every policy in force as one slice, each with the high-stakes clause: what a slice must agree with."""
        return _compile_slice(self.policies, high_stakes=True, blocked_by=self._blocking(self.quarantined))

    def _build_slice(self, principal: Principal, action: Action, resource: Resource) -> Slice:
        request = (
            Entity(("Agent", principal.agent), _ancestors(principal)),
            Entity(("Action", action.id), _groups(action)),
            Entity((resource.type.cedar, resource.id), _holders(resource)),
        )
        return _compile_slice(
            tuple(self.policies[place] for place in self._index.candidates(*request)),
            high_stakes=action.risk.is_high_stakes,
            blocked_by=self._blocking(
                tuple(item for item in self.quarantined if item.policy is None or item.policy.head.may_match(*request))
            ),
        )

    @staticmethod
    def _blocking(quarantined: tuple[Quarantined, ...]) -> tuple[Quarantined, ...]:
        return tuple(item for item in quarantined if item.effect != "permit")


def compile_policies(text: str, vocabulary: Vocabulary, *, revision: int = 0) -> CompiledSet:
    """Compiles a text that somebody wants to put in force; every policy must be without fault.

    Takes some 30 ms for each hundred policies; run it in a thread. The engine's validation releases the GIL.

    Args:
        text: Cedar policies.
        vocabulary: the schema to validate against, in strict mode.
        revision: the version number that the set will carry.

    Raises:
        MalformedPolicy: a policy breaks the grammar, the schema, or a rule of ``nomos_policy.policy``; two share an
            id; one grants less with a human's approval than without. The detail names policy, line and column.
        LimitExceeded: the text is over a limit of ``nomos_policy.guard``.
    """
    return compile_fragments(split_policies(text), vocabulary, sha256=text_sha256(text), revision=revision)


def compile_fragments(
    fragments: Sequence[Fragment], vocabulary: Vocabulary, *, sha256: str, revision: int
) -> CompiledSet:
    """Compiles policies that were cut apart before; see :func:`compile_policies`.

    Args:
        fragments: each from :func:`nomos_policy.guard.split_policies`.
        vocabulary: the schema to validate against, in strict mode.
        sha256: of the text that they come from, hex.
        revision: the version number that the set will carry.

    Raises:
        MalformedPolicy: as :func:`compile_policies`.
    """
    policies = tuple(parse_policy(fragment) for fragment in fragments)
    _check_unique(policies)
    for policy in policies:
        if policy.anti_monotone:
            raise MalformedPolicy(
                f"{_place(policy)} may grant less with a human's approval than without",
                hint="let context.cosigned only widen: permit ... when { context.cosigned }, or "
                "forbid ... unless { context.cosigned }; join other conditions with && and ||",
            )
    faults = _validate(policies, vocabulary)
    if faults:
        index, message = min(faults.items())
        raise MalformedPolicy(f"{_place(policies[index])}: {message}")
    return CompiledSet(vocabulary=vocabulary, policies=policies, quarantined=(), sha256=sha256, revision=revision)


def load_policies(text: str, vocabulary: Vocabulary, *, revision: int) -> CompiledSet:
    """Compiles stored text; never refuses, quarantines instead (see the module's rules).

    Args:
        text: as it was accepted once, maybe against an older catalogue.
        vocabulary: the schema that is in force now.
        revision: the version that the text has in the tenant's history.
    """
    policies: list[Policy] = []
    quarantined: list[Quarantined] = []
    try:
        fragments = split_policies(text)
    except Malformed as error:
        fragments = ()
        quarantined.append(Quarantined(id="", line=0, column=0, error=error.detail, effect=None, policy=None))
    seen: set[str] = set()
    for fragment in fragments:
        try:
            policy = parse_policy(fragment)
        except MalformedPolicy as error:
            quarantined.append(_refused(fragment, error.detail))
            continue
        if policy.id in seen:
            quarantined.append(_faulty(policy, f"another policy has the id {policy.id}"))
            continue
        seen.add(policy.id)
        policies.append(policy)
    faults = _validate(tuple(policies), vocabulary)
    quarantined.extend(_faulty(policies[index], message) for index, message in sorted(faults.items()))
    return CompiledSet(
        vocabulary=vocabulary,
        policies=tuple(policy for index, policy in enumerate(policies) if index not in faults),
        quarantined=tuple(quarantined),
        sha256=text_sha256(text),
        revision=revision,
    )


def text_sha256(text: str) -> str:
    """The policy-set hash: SHA-256 of the exact text as UTF-8, hex."""
    # surrogatepass: a corrupted stored text is quarantined with a name, not a crash
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def generated_index(generated: str) -> int:
    """The place in its set of the policy that the engine calls ``policy<index>``."""
    return int(generated.removeprefix("policy"))


def engine_message(message: str, policies: tuple[Policy, ...]) -> str:
    """A message of the engine with the tenant's ids in place of the generated ones, cut to a bounded length."""

    def named(found: re.Match[str]) -> str:
        index = int(found.group(1))
        return f"policy `{policies[index].id}`" if index < len(policies) else found.group()

    return _GENERATED_ID.sub(named, message)[:ENGINE_MESSAGE_MAX]


def _compile_slice(policies: tuple[Policy, ...], *, high_stakes: bool, blocked_by: tuple[Quarantined, ...]) -> Slice:
    texts = [policy.effective_text if high_stakes else policy.text for policy in policies]
    attended = high_stakes and any(policy.effect == "permit" and policy.unattended is None for policy in policies)
    return Slice(
        # newlines keep a fragment's last comment away from the next fragment
        handle=cedarpy.PolicySet.from_str("\n".join(texts)),
        policies=policies,
        reads_cosigned=attended or any(policy.reads_cosigned for policy in policies),
        reads=_reads(policies),
        blocked_by=blocked_by,
    )


def _reads(policies: tuple[Policy, ...]) -> frozenset[str] | None:
    names: set[str] = set()
    for policy in policies:
        if policy.reads is None:
            return None
        names |= policy.reads
    return frozenset(names)


def _validate(policies: tuple[Policy, ...], vocabulary: Vocabulary) -> dict[int, str]:
    """The first fault of each policy that breaks the schema, by its place."""
    text = "\n".join(policy.text for policy in policies)
    result = cedarpy.validate_policies(text, vocabulary.schema, release_gil=True)
    faults: dict[int, str] = {}
    for error in result.errors:
        faults.setdefault(generated_index(error.policy_id), engine_message(error.error, policies))
    if not result.validation_passed and not faults:
        raise MalformedPolicy("the engine refuses the set without naming a policy")
    return faults


def _check_unique(policies: tuple[Policy, ...]) -> None:
    first: dict[str, Policy] = {}
    for policy in policies:
        if first.setdefault(policy.id, policy) is not policy:
            raise MalformedPolicy(f"{_place(policy)}: the id stands already at line {first[policy.id].line}")


def _refused(fragment: Fragment, error: str) -> Quarantined:
    name, effect = read_roughly(fragment)
    return Quarantined(id=name, line=fragment.line, column=fragment.column, error=error, effect=effect, policy=None)


def _faulty(policy: Policy, error: str) -> Quarantined:
    return Quarantined(
        id=policy.id, line=policy.line, column=policy.column, error=error, effect=policy.effect, policy=policy
    )


def _ancestors(principal: Principal) -> frozenset[EntityUid]:
    return frozenset((("App", principal.app), ("Tenant", principal.tenant)))


def _holders(resource: Resource) -> frozenset[EntityUid]:
    return frozenset((one.cedar, one.id) for one in resource.holders)


def _groups(action: Action) -> frozenset[EntityUid]:
    return frozenset((("Action", f"risk:{action.risk.value}"), ("Action", f"connector:{action.connector}")))


def _place(policy: Policy) -> str:
    return f"policy {policy.id} (line {policy.line}, column {policy.column})"
