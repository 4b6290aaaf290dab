"""The sanitizer under test, compiled once, and secrets that are built when a test runs."""

from __future__ import annotations

import json
import random
import string
from collections.abc import Callable
from typing import Any

import pytest
import re2

from nomos_sanitizer.domain import Sanitized, Sanitizer
from nomos_sanitizer.engine import bytes_options
from nomos_sanitizer.rules import Rule, load_rules

ALPHABETS = {
    "alnum": string.ascii_letters + string.digits,
    "upper": string.ascii_uppercase,
    "lower": string.ascii_lowercase,
    "digit": string.digits,
    "hex": "0123456789abcdef",
    "upperdigit": string.ascii_uppercase + string.digits,
    "base32": string.ascii_uppercase + "234567",
    "base58": "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz",
    "b64": string.ascii_letters + string.digits + "+/",
    "b64url": string.ascii_letters + string.digits + "-_",
    "newline": "\n",
}


def build(spec: tuple[str, ...], seed: str) -> str:
    """Builds a text from the parts of a rule's ``example`` or ``near``; the same seed gives the same text."""
    chance = random.Random(seed)
    parts = []
    for part in spec:
        if part.startswith("="):
            parts.append(part[1:])
        else:
            alphabet, _, length = part.partition(":")
            parts.append("".join(chance.choices(ALPHABETS[alphabet], k=int(length))))
    return "".join(parts)


def secret_of(rule: Rule, example: str) -> str:
    """The part of an example that must not be shown."""
    match = re2.compile(rule.span, bytes_options()).search(example.encode())
    assert match is not None, rule.id
    secret: bytes = match.group(1)
    return secret.decode()


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
