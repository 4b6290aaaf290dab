"""The rule set as values: which formats are secrets. The formats themselves stand in ``formats/``.

Decides what a rule is and refuses a file that is not one. Leaves to :mod:`nomos_sanitizer.matching` how rules run.
Patterns are bytes in the common subset of Hyperscan and RE2: no captures, look-around or back references.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from importlib import resources
from typing import Final, Literal

import msgspec

from nomos.errors import Malformed

#: Most specific first: what a vendor gives out has its name, before what shows by its shape alone.
_RULE_FILES: Final = ("vendors.toml", "general.toml")
_ID_ALPHABET: Final = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-")
_LEFT: Final = {"any": "", "alnum": "(?:^|[^A-Za-z0-9])", "base64": "(?:^|[^A-Za-z0-9+/])"}


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One format of secret. The fields are described at the head of ``formats/vendors.toml``."""

    id: str
    title: str
    pattern: str
    source: str
    example: tuple[str, ...]
    near: tuple[str, ...]
    prefixes: tuple[str, ...] = ()
    left: Literal["any", "alnum", "base64"] = "any"
    context: str = ""
    after: str = ""
    needs: tuple[str, ...] = ()
    gate: str = ""
    ends: str = ""
    longest: int = 0

    @property
    def detection(self) -> bytes:
        """The pattern that decides whether the rule fires, as narrow as :attr:`span` unless the rule has a gate.

        A text stands by itself, or between characters that are no letter, digit or ``+`` and ``/``, so that the left
        boundary is met at its beginning wherever it is looked at.
        """
        return self.gate.encode() or _LEFT[self.left].encode() + self.match

    @property
    def match(self) -> bytes:
        """The pattern of everything that the rule looks at, but for the left boundary."""
        return f"{self.context}(?:{self.pattern}){self.after}".encode()

    @property
    def is_bare(self) -> bool:
        """Whether the rule looks at nothing but the secret."""
        return not (_LEFT[self.left] or self.context or self.after)

    @property
    def span(self) -> bytes:
        """The pattern that finds spans: group 1 is what is replaced."""
        return f"{_LEFT[self.left]}{self.context}({self.pattern}){self.after}".encode()


class _RuleFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    rule: tuple[Rule, ...]


def load_rules() -> tuple[Rule, ...]:
    """Loads the rule set that ships with the service.

    Returns:
        The rules, most specific first: where two rules match one place the earlier gives the name.

    Raises:
        Malformed: a file in the installation is not a rule set, or two files hold one id.
    """
    folder = resources.files(__package__).joinpath("formats")
    rules = tuple(rule for name in _RULE_FILES for rule in parse_rules(folder.joinpath(name).read_bytes()))
    _check_ids(rules)
    return rules


def parse_rules(text: bytes) -> tuple[Rule, ...]:
    """Parses a rule file (TOML).

    Args:
        text: the bytes of the file.

    Raises:
        Malformed: not TOML, an unknown or missing field, a rule id twice or misspelt, or no rule at all.
    """
    try:
        parsed = msgspec.convert(tomllib.loads(text.decode()), _RuleFile)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise Malformed("rule file is not toml", cause=str(error)) from error
    except msgspec.ValidationError as error:
        raise Malformed("rule file breaks its schema", cause=str(error)) from error
    _check_ids(parsed.rule)
    return parsed.rule


def _check_ids(rules: Sequence[Rule]) -> None:
    if not rules:
        raise Malformed("rule file has no rule")
    seen: set[str] = set()
    for rule in rules:
        if not rule.id or not _ID_ALPHABET.issuperset(rule.id):
            raise Malformed("rule id must be lower-case letters, digits and hyphens")
        if rule.id in seen:
            raise Malformed(f"rule id {rule.id} stands twice")
        seen.add(rule.id)
