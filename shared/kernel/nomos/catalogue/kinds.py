"""Reads the resource types of a connector's file.

Rules: a type has a Cedar name in a namespace and at least one field, each with the pattern of its one spelling. A last
field that is a path lies within two other types, which have the same fields as far as they have them: the one of a
shorter path, and the one without.

Pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from nomos.catalogue.model import ResourceType
from nomos.errors import LimitExceeded, MalformedCatalogue

#: Characters of one pattern.
PATTERN_LENGTH_MAX: Final = 200
_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,39}")
_CEDAR_TYPE: Final = re.compile(r"[A-Z][A-Za-z0-9]{0,39}(?:::[A-Z][A-Za-z0-9]{0,39}){1,3}")


class _SegmentsFile(Struct, frozen=True, forbid_unknown_fields=True):
    segments: str


class ResourceFile(Struct, frozen=True, forbid_unknown_fields=True):
    """One member of ``resource_types`` in a connector file."""

    cedar: str
    fields: dict[str, str | _SegmentsFile]
    within: tuple[str, ...] = ()


def build_kind(connector: str, files: Mapping[str, ResourceFile], kind: str) -> ResourceType:
    """The resource type that a file declares under ``kind``.

    Args:
        connector: its name.
        files: all of its types, by kind: one with a path lies within two others.
        kind: which one.

    Raises:
        MalformedCatalogue: it breaks a rule.
        LimitExceeded: a pattern is too long.
    """
    file = files[kind]
    if _NAME.fullmatch(kind) is None:
        raise MalformedCatalogue(f"resource type {kind!r} must be lower-case letters, digits and underscores")
    if _CEDAR_TYPE.fullmatch(file.cedar) is None:
        raise MalformedCatalogue(f"resource type {kind}: cedar must be a namespaced entity type such as GitHub::Repo")
    if not file.fields:
        raise MalformedCatalogue(f"resource type {kind} needs at least one field")
    patterns = []
    for name, declared in file.fields.items():
        if _NAME.fullmatch(name) is None:
            raise MalformedCatalogue(f"field {name!r} of {kind} must be lower-case letters, digits and underscores")
        patterns.append(declared.segments if isinstance(declared, _SegmentsFile) else declared)
        check_pattern(patterns[-1], f"field {name} of {kind}")
    return ResourceType(
        connector=connector,
        kind=kind,
        cedar=file.cedar,
        fields=tuple(file.fields),
        field_patterns=tuple(patterns),
        within=_within(files, kind),
    )


def _within(files: Mapping[str, ResourceFile], kind: str) -> tuple[str, str] | None:
    """The Cedar types of what holds a resource with a path; each has the same fields, as far as it has them."""
    file = files[kind]
    *others, last = file.fields.items()
    if any(isinstance(declared, _SegmentsFile) for _, declared in others):
        raise MalformedCatalogue(f"only the last field of {kind} may be a path")
    if isinstance(last[1], _SegmentsFile) != bool(file.within):
        raise MalformedCatalogue(f"resource type {kind}: a path, and only a path, lies within something")
    if not file.within:
        return None
    found = [files.get(name) for name in file.within]
    wanted = [file.fields, dict(others)]
    if not others or [None if one is None else one.fields for one in found] != wanted:
        raise MalformedCatalogue(
            f"resource type {kind} lies within two others: the one of a shorter path, with the same fields, "
            "and the one without a path"
        )
    shorter, top = (one.cedar for one in found if one is not None)
    return shorter, top


def check_pattern(pattern: str, what: str) -> None:
    """Checks a regular expression of a connector's file.

    Raises:
        MalformedCatalogue: it is none.
        LimitExceeded: it is longer than ``PATTERN_LENGTH_MAX``.
    """
    if not 0 < len(pattern) <= PATTERN_LENGTH_MAX:
        raise LimitExceeded(f"pattern_length_max of {what}", PATTERN_LENGTH_MAX, len(pattern))
    try:
        re.compile(pattern, re.ASCII)
    except (re.error, RecursionError, OverflowError) as error:
        raise MalformedCatalogue(f"{what}: the pattern is not a regular expression") from error
