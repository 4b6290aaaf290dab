"""What an action must say so that it says one thing, and a connector so that each request belongs to one action.

Every field of the action's resource type stands in one place of the request (the path, unless ``derive`` says
otherwise); every other field of the path is a required parameter; no two actions with one method can match the same
path, unless something that one fixes is fixed otherwise by the other. Names in queries and bodies:
:mod:`nomos.catalogue.namechecks`.

Pure.
"""

from __future__ import annotations

from nomos.catalogue.apart import may_meet
from nomos.catalogue.model import Action
from nomos.catalogue.request import field_of
from nomos.errors import MalformedCatalogue


def check_path(what: str, action: Action) -> None:
    """Every field of the resource, and every parameter of the path, stands in the path once.

    Raises:
        MalformedCatalogue: one does not.
    """
    parts = action.path.split("/")
    names = [field_of(part)[0] for part in parts if part.startswith("{")]
    fields = [source.name for source in action.sources if source.where == "path"]
    from_args = [parameter.name for parameter in action.parameters if parameter.where == "path"]
    if sorted(names) != sorted([*fields, *from_args]):
        raise MalformedCatalogue(f"{what}: the path must hold each resource field and path parameter exactly once")
    kind = action.resource_type
    long_field = kind.fields[-1] if kind.within else None
    if any((name == long_field) != part.startswith("{+") for part, name in _fields_in(parts) if name in fields):
        raise MalformedCatalogue(f"{what}: a resource field is one segment, and one that is a path stands as {{+name}}")
    if long_field is not None and long_field not in fields:
        raise MalformedCatalogue(f"{what}: a path stands in the path")
    if any(parameter.name in action.resource_type.fields for parameter in action.parameters):
        raise MalformedCatalogue(f"{what}: a parameter must not be named like a resource field")
    if action.method in ("GET", "DELETE") and action.has_body:
        raise MalformedCatalogue(f"{what}: a {action.method} has no body")


def _fields_in(parts: list[str]) -> list[tuple[str, str]]:
    return [(part, field_of(part)[0]) for part in parts if part.startswith("{")]


def check_unambiguous(actions: list[Action]) -> None:
    """No request belongs to two actions.

    Raises:
        MalformedCatalogue: one could.
    """
    by_method: dict[str, list[Action]] = {}
    for one in actions:
        for other in by_method.setdefault(one.method, []):
            if may_meet(one, other):
                raise MalformedCatalogue(f"{other.id} and {one.id} can both match one path")
        by_method[one.method].append(one)
