"""Texts that are built from the descriptions beside the rules, for tests and measurements: nothing here looks live."""

from __future__ import annotations

import random
import string
from collections.abc import Sequence
from typing import Final

import re2

from nomos_sanitizer.engine import bytes_options
from nomos_sanitizer.rules import Rule

ALPHABETS: Final = {
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


def build(spec: Sequence[str], seed: str) -> str:
    """Builds a text from the parts of a rule's ``example`` or ``near``; the same seed gives the same text."""
    chance = random.Random(seed)  # noqa: S311 - no secret: a text that has the shape of one
    parts = []
    for part in spec:
        if part.startswith("="):
            parts.append(part[1:])
        else:
            alphabet, _, length = part.partition(":")
            parts.append("".join(chance.choices(ALPHABETS[alphabet], k=int(length))))
    return "".join(parts)


def secret_of(rule: Rule, example: str) -> str:
    """The part of an example that must not be shown.

    Raises:
        ValueError: the example is none of the rule.
    """
    match = re2.compile(rule.span, bytes_options()).search(example.encode())
    if match is None:
        raise ValueError(f"the example of {rule.id} does not match")
    secret: bytes = match.group(1)
    return secret.decode()
