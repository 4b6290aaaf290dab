"""A table of requests and the answers that a policy set must give: the tests of a tenant's policies.

The table is YAML (of the subset that connector files use) or JSON, which that subset contains. Each request is decided
exactly as the service decides. What is compared is the answer, and where the table names them, the deciding policies.

    tenant: acme
    app: helpdesk
    tests:
      - name: agents read issues
        agent: triage-bot
        action: github:issues.list
        resource: github:repo/acme/site
        expect: allow
        policies: [read-everything]

``app``, ``env``, ``agent`` and ``now`` may stand at the top, for all tests that do not say otherwise. ``args``,
``connection`` and ``cosigned`` are as of ``nomos policy explain``.

Pure. Leaves reading the file to the command.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import msgspec
import yaml

from nomos.catalogue.yaml12 import parse_yaml
from nomos.errors import LimitExceeded, Malformed, NomosError
from nomos_policy.asked import facts_of
from nomos_policy.decision import decide
from nomos_policy.policyset import CompiledSet

#: Tests of one table.
TESTS_MAX: Final = 2_000

Answer = Literal["allow", "deny", "step_up"]
Environment = Literal["live", "test"]


class Expected(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One request and the answer that it must get; see the module."""

    action: str
    resource: str
    expect: Answer
    name: str = ""
    agent: str | None = None
    app: str | None = None
    env: Environment | None = None
    args: dict[str, object] = {}
    connection: str = ""
    cosigned: bool = False
    now: int | None = None
    policies: tuple[str, ...] | None = None


class Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of tests; see the module."""

    tests: tuple[Expected, ...]
    tenant: str = "tenant"
    app: str | None = None
    env: Environment = "live"
    agent: str | None = None
    now: int | None = None


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """A test that does not come out.

    Attributes:
        test: its number, from 1.
        line: where it begins in the file, from 1.
        name: its name, or the request in short.
        expected: the answer, and the policies if the table names them.
        got: the same; or why there is no answer.
    """

    test: int
    line: int
    name: str
    expected: str
    got: str


def parse_table(content: bytes) -> tuple[Table, tuple[int, ...]]:
    """Reads a table.

    Returns:
        The table, and the line of each test.

    Raises:
        Malformed: not such a table; the message names the place.
        LimitExceeded: too long, too deep, or over :data:`TESTS_MAX`.
    """
    parsed = parse_yaml(content)
    try:
        table = msgspec.convert(parsed, Table)
    except msgspec.ValidationError as error:
        raise Malformed(f"not a table of tests: {error}") from error
    if not table.tests:
        raise Malformed("the table has no tests")
    if len(table.tests) > TESTS_MAX:
        raise LimitExceeded("tests of a table", TESTS_MAX, len(table.tests))
    return table, _lines(content)


def differences(table: Table, lines: Sequence[int], policies: CompiledSet, *, now_seconds: int) -> list[Difference]:
    """The tests that do not come out.

    Args:
        table: from :func:`parse_table`, with its lines.
        lines: of the tests.
        policies: what decides.
        now_seconds: Unix time for tests that name none.
    """
    found: list[Difference] = []
    for number, (test, line) in enumerate(zip(table.tests, lines, strict=True), 1):
        got_answer, got_policies = _answer(table, test, policies, now_seconds)
        wanted = None if test.policies is None else sorted(test.policies)
        if got_answer == test.expect and (wanted is None or wanted == got_policies):
            continue
        found.append(
            Difference(
                test=number,
                line=line,
                name=test.name or f"{test.action} on {test.resource}",
                expected=_told(test.expect, wanted),
                got=_told(got_answer, got_policies),
            )
        )
    return found


def _answer(table: Table, test: Expected, policies: CompiledSet, now_seconds: int) -> tuple[str, list[str] | None]:
    agent, app = test.agent or table.agent, test.app or table.app
    if not agent or not app:
        return "no answer: the test names no agent or no app", None
    now = test.now if test.now is not None else table.now
    try:
        facts = facts_of(
            policies,
            tenant=table.tenant,
            app=app,
            agent=agent,
            env=test.env or table.env,
            action=test.action,
            resource=test.resource,
            args=test.args,
            connection=test.connection,
            cosigned=test.cosigned,
            now_seconds=now_seconds if now is None else now,
        )
    except NomosError as error:
        # The service would refuse it before a decision: not even a denial by policy.
        return f"no answer: {error.detail}", None
    decision = decide(facts)
    if decision.errors:
        return f"{decision.outcome.value} with errors: {'; '.join(decision.errors)}", None
    return decision.outcome.value, sorted(policy.id for policy in decision.policies)


def _told(answer: str, policies: Sequence[str] | None) -> str:
    return answer if policies is None else f"{answer} by {', '.join(policies) or 'no policy'}"


def _lines(content: bytes) -> tuple[int, ...]:
    """The line of each test. The content is known to be a table."""
    root = yaml.compose(content.decode(), Loader=yaml.SafeLoader)
    if not isinstance(root, yaml.MappingNode):
        raise Malformed("not a table of tests")
    for key, value in root.value:
        if key.value == "tests" and isinstance(value, yaml.SequenceNode):
            return tuple(one.start_mark.line + 1 for one in value.value)
    raise Malformed("the table has no tests")
