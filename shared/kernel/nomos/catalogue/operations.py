"""What can be asked of files, here and on a host that speaks SSH: the operations, and the request that each one is.

An action of a connector whose scheme is ``file`` or ``ssh`` is one of these operations, and its request says so: the
method, the operation's name as the first segment of the path, the file's or directory's own path behind it, and what
the operation needs besides in a JSON body. So a request of files is built, derived, compared, digested and recorded as
any other, and whoever carries it out reads nothing but the request.

Leaves to a connector's file: titles, risks, limits. Leaves to the proxy: what an operation does.

Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from nomos.catalogue.model import Action, Scheme
from nomos.errors import MalformedCatalogue


class Operation(Struct, frozen=True, kw_only=True):
    """One operation.

    Attributes:
        name: first segment of the path.
        method: of the request.
        has_path: whether the path of a file or directory follows; else it is about the volume or host as a whole.
        members: names and parameter types of what the body may hold.
    """

    name: str
    method: str
    has_path: bool = True
    members: tuple[tuple[str, str], ...] = ()


_CONTENT: Final = (("text", "string"), ("base64", "string"), ("base64", "content"))
_ON_FILES: Final = (
    Operation(name="read", method="GET"),
    Operation(name="stat", method="GET"),
    Operation(name="list", method="GET"),
    Operation(name="write", method="PUT", members=_CONTENT),
    Operation(name="create", method="POST", members=_CONTENT),
    Operation(name="append", method="POST", members=_CONTENT),
    Operation(name="mkdir", method="POST"),
    Operation(name="move", method="POST", members=(("to", "string"),)),
    Operation(name="delete", method="DELETE"),
    Operation(name="rmdir", method="DELETE"),
)
#: By scheme and name.
OPERATIONS: Final[Mapping[Scheme, Mapping[str, Operation]]] = {
    "file": {one.name: one for one in (*_ON_FILES, Operation(name="top", method="GET", has_path=False))},
    "ssh": {
        one.name: one
        for one in (
            *_ON_FILES,
            Operation(
                name="run",
                method="POST",
                has_path=False,
                members=(("program", "string"), ("args", "string_list"), ("stdin", "string")),
            ),
        )
    },
}


def check_operation(scheme: Scheme, action: Action) -> None:
    """Checks that an action of a connector's file is one operation, and asks for nothing that it does not have.

    Raises:
        MalformedCatalogue: it is none, or says more than the operation takes.
    """
    what = f"action {action.id.partition(':')[2]}"
    name = action.path.split("/")[1]
    operation = OPERATIONS[scheme].get(name)
    if operation is None or operation.method != action.method:
        known = ", ".join(f"{one.method} /{one.name}" for one in OPERATIONS[scheme].values())
        raise MalformedCatalogue(f"{what} is no operation of {scheme}; there are {known}")
    path = f"/{name}/{{+{action.resource_type.fields[-1]}}}" if operation.has_path else f"/{name}"
    if action.path != path or (action.resource_type.within is not None) != operation.has_path:
        raise MalformedCatalogue(f"{what}: the path of {name} is {path}, and acts on a path if it holds one")
    if [source.where for source in action.sources if source.where != "path"] != ["host"]:
        raise MalformedCatalogue(f"{what}: the first field of the resource is the host, derived from it")
    members = [(parameter.wire, parameter.type) for parameter in action.parameters if parameter.where == "body"]
    if len(members) != len(action.parameters) or not set(members) <= set(operation.members):
        takes = ", ".join(f"{wire} ({kind})" for wire, kind in operation.members) or "nothing"
        raise MalformedCatalogue(f"{what}: {name} takes in its body: {takes}")
    fixed = (action.fixed_query, action.fixed_body, action.fixed_headers, action.content_type)
    if any(fixed) or action.body_format != "json" or action.idempotency_header:
        raise MalformedCatalogue(f"{what}: {name} has a JSON body, no headers, and nothing fixed in it")
