"""The real catalogue, the real engine, and one way to write a request down."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from nomos.catalogue import load_catalogue
from nomos.ids import AgentId, AppId, TenantId
from nomos_policy.decision import AuthorizeFacts
from nomos_policy.policyset import CompiledSet, compile_policies
from nomos_policy.vocabulary import Principal, Vocabulary

ROOT = Path(__file__).resolve().parents[3]
NOW_SECONDS = 1_800_000_000

Compile = Callable[[str], CompiledSet]
Ask = Callable[..., AuthorizeFacts]


@pytest.fixture(scope="session")
def vocabulary() -> Vocabulary:
    return Vocabulary(load_catalogue(ROOT / "connectors"))


@pytest.fixture(scope="session")
def compiled(vocabulary: Vocabulary) -> Compile:
    return lambda text: compile_policies(text, vocabulary, revision=7)


@pytest.fixture(scope="session")
def ask(vocabulary: Vocabulary) -> Ask:
    def build(
        policies: CompiledSet,
        action: str = "github:issues.list",
        *,
        resource: str = "github:repo/acme/site",
        args: Mapping[str, object] | None = None,
        claims: Mapping[str, object] | None = None,
        agent: str = "triage-bot",
        app: str = "helpdesk",
        tenant: str = "acme",
        env: str = "live",
        connection: str = "github",
        now_seconds: int = NOW_SECONDS,
        cosigned: bool = False,
    ) -> AuthorizeFacts:
        return AuthorizeFacts(
            principal=Principal(tenant=TenantId(tenant), app=AppId(app), agent=AgentId(agent), env=env),
            action=vocabulary.catalogue.action(action),
            resource=vocabulary.catalogue.parse_resource(resource),
            connection=connection,
            args=args or {},
            claims=claims or {},
            now_seconds=now_seconds,
            cosigned=cosigned,
            policies=policies,
        )

    return build


@pytest.fixture(scope="session")
def starter() -> str:
    return (ROOT / "packs" / "github-starter" / "policies.cedar").read_text(encoding="utf-8")
