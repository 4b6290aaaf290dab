"""Whether some request could be of two actions; a connector whose actions meet is refused.

Two actions of one method meet unless their paths differ in a place that no value fills otherwise, or something in the
query, the body or the headers tells them apart: each fixes a member otherwise, or one needs a member that the other
refuses. A header that chooses among forms of one answer tells nothing apart.
:mod:`nomos.catalogue.derive` holds a request to all of it, so what is apart here is apart there.

Pure.
"""

from __future__ import annotations

from nomos.catalogue.actionheaders import NEGOTIATED
from nomos.catalogue.model import WHOLE, Action, matches
from nomos.catalogue.request import field_of


def may_meet(one: Action, other: Action) -> bool:
    """Whether some request could be of both actions."""
    return one.method == other.method and _can_match_same_path(one, other) and not _is_told_apart(one, other)


def _is_told_apart(one: Action, other: Action) -> bool:
    """Whether no request is of both: each fixes a member otherwise, or one needs a member that the other refuses."""
    mine, theirs = _fixed(one), _fixed(other)
    if any(name in theirs and theirs[name] != value for name, value in mine.items()):
        return True
    odd = _needed(one) - _known(other) | _needed(other) - _known(one)
    if ("body", WHOLE) in _known(one) | _known(other):
        # who may write the whole body may write every member of it
        odd = {name for name in odd if name[0] != "body"}
    return bool(odd)


def _fixed(action: Action) -> dict[tuple[str, str], str | int | bool]:
    query = {("query", name): value for name, value in action.fixed_query}
    query |= {("header", name): value for name, value in action.fixed_headers if name not in NEGOTIATED}
    return {**query, **{("body", name): value for name, value in action.fixed_body}}


def _needed(action: Action) -> set[tuple[str, str]]:
    """The members without which a request is not of ``action``."""
    derived = {(s.where, s.name) for s in action.sources if s.where in ("query", "body")}
    # a form always has its file; the media type alone says nothing, as upstreams may read one for another
    file = {("body", p.wire) for p in action.parameters if p.encoding == "part"}
    return {*derived, *file, *_fixed(action)}


def _known(action: Action) -> set[tuple[str, str]]:
    return {*_needed(action), *((parameter.where, parameter.wire) for parameter in action.parameters)}


def _can_match_same_path(one: Action, other: Action) -> bool:
    mine, theirs = one.path.split("/"), other.path.split("/")
    for first, second in zip(mine, theirs, strict=False):
        if first.startswith("{+") or second.startswith("{+"):
            return True
        if not _can_be_equal(one, first, other, second):
            return False
    # {+name} stands for at least one segment, so a template that ends before it matches other paths
    return len(mine) == len(theirs)


def _can_be_equal(one: Action, first: str, other: Action, second: str) -> bool:
    if not first.startswith("{") and not second.startswith("{"):
        return first == second
    if first.startswith("{") and second.startswith("{"):
        endings = (field_of(first)[1], field_of(second)[1])
        # :verb against :verb; a field without an ending could end in anything
        return not all(endings) or endings[0] == endings[1]
    action, part, literal = (one, first, second) if first.startswith("{") else (other, second, first)
    field, ending = field_of(part)
    if not literal.endswith(ending):
        return False
    value = literal.removesuffix(ending)
    patterns = dict(zip(action.resource_type.fields, action.resource_type.field_patterns, strict=True))
    for parameter in action.parameters:
        if parameter.name == field:
            if parameter.type == "integer":
                return value.isdigit()
            return (not parameter.pattern or matches(parameter.pattern, value)) and (
                not parameter.enum or value in parameter.enum
            )
    return matches(patterns[field], value)
