"""The measurement ``policy``: a decision by the number of a tenant's policies, and a replica by the number of tenants.

Decisions are measured in this process, without a bus: the entities are known, the question is new each time, so the
engine evaluates it. Cases and sizes are asked in turn, so that their ratio means something on a busy machine.
Cases: ``sliced`` is what the service does, with its slices warm; ``new slice`` compiles the slice for each decision;
``whole`` gives the engine every policy; ``sliced, heads name nothing`` is where slicing cannot help.

The policies: ten that hold for the whole tenant, and beyond these, grants that each name one agent and one repository.

Tenants: their newest versions are folded and compiled as at start, then each is asked. Memory is that of the process.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self

import msgspec

from nomos.catalogue import load_catalogue
from nomos.events import POLICY_PUT
from nomos.ids import AgentId, AppId, TenantId
from nomos.servicemessages import Fact
from nomos_policy.decision import AuthorizeFacts, decide
from nomos_policy.guard import Fragment, split_policies
from nomos_policy.history import PolicyPut
from nomos_policy.policyset import SLICED_TEXT_MAX, CompiledSet, Slice, compile_fragments, text_sha256
from nomos_policy.store import PolicySets
from nomos_policy.vocabulary import Principal, Vocabulary

SIZES: Final = (10, 100, 1_000, 10_000)
TENANTS: Final = 1_000
#: Policies of a tenant in the rows on tenants; the other size is :data:`TENANT_TEXT`.
TENANT_POLICIES: Final = 10
#: Characters of a large tenant's text: some 300 policies.
TENANT_TEXT: Final = 48 * 1024
#: Decisions of each tenant: all pairs of so many agents and the actions below.
TENANT_AGENTS: Final = 4
#: Grants are cut into fragments by so many: a text of them stays below every limit of ``guard``.
_PIECE: Final = 100
#: Agents and repositories that a measured request may be about.
_ASKED: Final = 16
#: Questions to each set that are compared with the answer of all its policies, and not timed.
_WARM: Final = 2 * _ASKED
_ACTIONS: Final = ("github:issues.list", "github:issues.create")
_GENERAL: Final = tuple(
    f'@id("general-{name}") @description("Measured.") {text};'
    for name, text in (
        ("read", 'permit(principal, action in Action::"risk:read", resource)'),
        ("issues", 'permit(principal, action in [Action::"github:issues.create", Action::"risk:read"], resource)'),
        ("live", 'permit(principal, action in Action::"connector:github", resource) when { principal.env == "live" }'),
        ("app", 'permit(principal in App::"app", action in Action::"risk:write", resource)'),
        # Reads the clock, so that no two questions are the same; and the approval, so that both passes are made.
        ("hours", "forbid(principal, action, resource) when { context.now < 1000 } unless { context.cosigned }"),
        ("test", 'forbid(principal, action in Action::"risk:write", resource) when { principal.env == "test" }'),
        ("repos", 'permit(principal, action == Action::"github:repos.create", resource)'),
        ("delete", 'permit(principal, action in Action::"risk:destructive", resource)'),
        ("share", 'permit(principal, action in Action::"risk:permission", resource)'),
        ("elsewhere", 'forbid(principal in Tenant::"elsewhere", action, resource)'),
    )
)


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the outcome: decisions of one case and size.

    Attributes:
        case: what was measured.
        policies: of the tenant.
        met: policies of the slice.
        decisions: how many were timed.
        p50_us: microseconds for one decision.
        p99_us: the same.
        ratio: of p50 to that of the case's first size.
        errors: decisions that differ from those over all policies.
    """

    case: str
    policies: int
    met: int
    decisions: int
    p50_us: float
    p99_us: float
    ratio: float
    errors: dict[str, int]


class TenantsRow(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the outcome: a replica with many tenants.

    Attributes:
        case: ``tenants``.
        tenants: how many.
        policies: of each.
        start_seconds: to fold and compile, as at start.
        compiled_at_start: sets that start compiled; the others are compiled when asked for.
        asked: tenants that were asked within the row's time.
        first_p99_ms: from a tenant's first question to its answer, milliseconds.
        memory_mb: of the process at the end, 10^6 bytes.
        errors: empty.
    """

    case: str
    tenants: int
    policies: int
    start_seconds: float
    compiled_at_start: int
    asked: int
    first_p99_ms: float
    memory_mb: float
    errors: dict[str, int]


class PolicyBench:
    """The measurement."""

    WITH: Final[dict[str, object]] = {"engine": "cedarpy, in this process; two passes for each decision"}

    def run(self, args: argparse.Namespace, folder: Path) -> Sequence[Row | TenantsRow]:
        """Measures; ``--seconds`` for each row."""
        del folder
        vocabulary = Vocabulary(load_catalogue(Path(args.connectors)))
        # Tenants first: the memory of the process is then theirs.
        small = "\n".join((*_GENERAL, *_grants(TENANT_POLICIES - len(_GENERAL))))
        full = _full_text()
        tenants = [asyncio.run(measure_tenants(vocabulary, text, seconds=args.seconds)) for text in (small, full)]
        lanes: list[tuple[str, CompiledSet]] = []
        for size in SIZES:
            policies = _compile(vocabulary, (*_GENERAL, *_grants(size - len(_GENERAL))))
            lanes += [("sliced", policies), ("new slice", _Forgetful.of(policies)), ("whole", _Whole.of(policies))]
        for size in SIZES[::2]:
            nameless = _compile(vocabulary, (*_GENERAL, *_nameless(size - len(_GENERAL))))
            lanes.append(("sliced, heads name nothing", nameless))
        return [*measure(lanes, args.seconds * len(lanes)), *tenants]

    def lines(self, rows: Sequence[Row | TenantsRow]) -> list[str]:
        """The outcome as lines."""
        lines = [f"{'case':<28} {'policies':>8} {'met':>6} {'p50 us':>9} {'p99 us':>9} {'ratio':>7}"]
        lines += [
            f"{row.case:<28} {row.policies:>8,} {row.met:>6,} {row.p50_us:>9,.0f} {row.p99_us:>9,.0f} {row.ratio:>7.2f}"
            for row in rows
            if isinstance(row, Row)
        ]
        lines += [
            f"{row.tenants:,} tenants of {row.policies} policies: start {row.start_seconds:.1f} s with "
            f"{row.compiled_at_start} compiled, {row.asked} asked, first answer p99 {row.first_p99_ms:.0f} ms, "
            f"memory {row.memory_mb:.0f} MB"
            for row in rows
            if isinstance(row, TenantsRow)
        ]
        return lines


class _Copy(CompiledSet):
    """A set of the same policies, with slices and evaluations of its own."""

    __slots__ = ()

    @classmethod
    def of(cls, other: CompiledSet) -> Self:
        return cls(
            vocabulary=other.vocabulary,
            policies=other.policies,
            quarantined=other.quarantined,
            sha256=other.sha256,
            revision=other.revision,
        )


class _Forgetful(_Copy):
    """A set with room for one slice: the next question, of another action, always needs another."""

    __slots__ = ()

    @classmethod
    def of(cls, other: CompiledSet) -> Self:
        made = super().of(other)
        made.share(SLICED_TEXT_MAX)
        return made


class _Whole(_Copy):
    """A set that is never sliced."""

    __slots__ = ("_everything",)
    _everything: Slice

    @classmethod
    def of(cls, other: CompiledSet) -> Self:
        made = super().of(other)
        made._everything = made.whole()
        return made

    def slice(self, principal: object, action: object, resource: object) -> Slice:
        return self._everything


async def measure_tenants(vocabulary: Vocabulary, text: str, *, seconds: float) -> TenantsRow:
    """Starts a replica with :data:`TENANTS` tenants that all have ``text``, and asks them for ``seconds``."""
    facts = [_put(f"tenant{number}", text) for number in range(TENANTS)]
    sets = PolicySets(vocabulary)
    began = time.perf_counter()
    for fact in facts:
        sets.apply(fact)
    await sets.compile_all()
    start_seconds = time.perf_counter() - began
    compiled_at_start = sets.compiled
    first: list[float] = []
    until = time.perf_counter() + seconds
    for fact in facts:
        if time.perf_counter() > until:
            break
        began = time.perf_counter()
        policies = await sets.in_force(fact.tenant)
        decide(_facts(policies, 0, _ACTIONS[0], 1_000, tenant=fact.tenant))
        first.append(time.perf_counter() - began)
        for agent in range(TENANT_AGENTS):
            for action in _ACTIONS:
                decide(_facts(policies, agent, action, 1_000, tenant=fact.tenant))
    return TenantsRow(
        case="tenants",
        tenants=TENANTS,
        policies=len(policies.policies),
        start_seconds=start_seconds,
        compiled_at_start=compiled_at_start,
        asked=len(first),
        first_p99_ms=_quantile(first, 0.99) * 1e3,
        memory_mb=_memory_bytes() / 1e6,
        errors={},
    )


def measure(lanes: Sequence[tuple[str, CompiledSet]], seconds: float) -> list[Row]:
    """Asks each lane in turn until ``seconds`` are over.

    Args:
        lanes: case and policies; a row's ratio is to the first lane of its case.
        seconds: for all lanes together; each is asked some times at least.
    """
    times: list[list[float]] = [[] for _ in lanes]
    wrong = [0] * len(lanes)
    met = [0] * len(lanes)
    truth = [_Whole.of(policies) for _, policies in lanes]
    number = 0
    until = time.perf_counter() + seconds
    while number < 2 * _WARM or time.perf_counter() < until:
        for place, (_, policies) in enumerate(lanes):
            facts = _facts(policies, number % _ASKED, _ACTIONS[number % len(_ACTIONS)], 1_000 + number)
            began = time.perf_counter()
            decision = decide(facts)
            taken = time.perf_counter() - began
            if number >= _WARM:
                times[place].append(taken)
                continue
            # Beside the clock: whether it is the answer of all policies.
            wrong[place] += decision != decide(msgspec.structs.replace(facts, policies=truth[place]))
            met[place] = len(policies.slice(facts.principal, facts.action, facts.resource).policies)
        number += 1
    first: dict[str, float] = {}
    rows = []
    for place, (case, policies) in enumerate(lanes):
        median = _quantile(times[place], 0.5)
        rows.append(
            Row(
                case=case,
                policies=len(policies.policies),
                met=met[place],
                decisions=len(times[place]),
                p50_us=median * 1e6,
                p99_us=_quantile(times[place], 0.99) * 1e6,
                ratio=median / first.setdefault(case, median),
                errors={"differs": wrong[place]} if wrong[place] else {},
            )
        )
    return rows


def _facts(policies: CompiledSet, number: int, action: str, now: int, tenant: str = "acme") -> AuthorizeFacts:
    catalogue = policies.vocabulary.catalogue
    return AuthorizeFacts(
        principal=Principal(tenant=TenantId(tenant), app=AppId("app"), agent=AgentId(f"agent{number}"), env="live"),
        action=catalogue.action(action),
        resource=catalogue.parse_resource(f"github:repo/acme/site{number}"),
        connection="github",
        args={},
        claims={},
        now_seconds=now,
        policies=policies,
    )


def _grants(count: int) -> tuple[str, ...]:
    return tuple(
        f'@id("grant-{number}") permit(principal == Agent::"agent{number}", action in [Action::"github:issues.list", '
        f'Action::"github:issues.create"], resource == GitHub::Repo::"acme/site{number}");'
        for number in range(count)
    )


def _nameless(count: int) -> tuple[str, ...]:
    return tuple(
        f'@id("grant-{number}") permit(principal, action, resource) when {{ principal == Agent::"agent{number}" }};'
        for number in range(count)
    )


def _full_text() -> str:
    """A set as large as an ordinary one: :data:`TENANT_TEXT` characters."""
    texts: list[str] = []
    size = 0
    for text in (*_GENERAL, *_grants(SIZES[-1])):
        size += len(text) + 1
        if size > TENANT_TEXT - 64:
            break
        texts.append(text)
    return "\n".join(texts)


def _compile(vocabulary: Vocabulary, texts: Sequence[str]) -> CompiledSet:
    """A set of any size: what bounds a set is the record that holds its text, not what is measured here."""
    fragments: list[Fragment] = []
    for start in range(0, len(texts), _PIECE):
        fragments += split_policies("\n".join(texts[start : start + _PIECE]))
    return compile_fragments(fragments, vocabulary, sha256=text_sha256("\n".join(texts)), revision=1)


def _put(tenant: str, text: str) -> Fact:
    # A comment makes each tenant's text its own, as it is in life.
    own = f"{text}//{tenant}"
    put = PolicyPut(tenant=tenant, revision=1, sha256=text_sha256(own), text=own, actor="bench", why="bench", at=0)
    return Fact(rev=1, type=POLICY_PUT, tenant=tenant, event=msgspec.structs.asdict(put))


def _quantile(values: Sequence[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(part * len(values)))]


def _memory_bytes() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
