"""The sanitizer under test, compiled once, and secrets that are built when a test runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from nomos_sanitizer.domain import Sanitized, Sanitizer
from nomos_sanitizer.examples import build
from nomos_sanitizer.rules import Rule, load_rules


@pytest.fixture(scope="session")
def rules() -> dict[str, Rule]:
    return {rule.id: rule for rule in load_rules()}


@pytest.fixture(scope="session")
def sanitizer(rules: dict[str, Rule]) -> Sanitizer:
    return Sanitizer.from_rules(tuple(rules.values()))


@pytest.fixture(scope="session")
def github_token(rules: dict[str, Rule]) -> str:
    return build(rules["github-token"].example, "a token for tests")


Clean = Callable[..., Sanitized]


@pytest.fixture(scope="session")
def clean_json(sanitizer: Sanitizer) -> Clean:
    def clean(value: Any, *credentials: bytes) -> Sanitized:
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        return sanitizer.sanitize(body, content_type="application/json", headers=(), credentials=credentials)

    return clean


@pytest.fixture(scope="session")
def clean_text(sanitizer: Sanitizer) -> Clean:
    def clean(text: str | bytes, *credentials: bytes, content_type: str = "text/plain") -> Sanitized:
        body = text if isinstance(text, bytes) else text.encode()
        return sanitizer.sanitize(body, content_type=content_type, headers=(), credentials=credentials)

    return clean
