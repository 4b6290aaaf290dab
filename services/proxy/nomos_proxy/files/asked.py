"""Reads what is asked of files or of a host from a request, and from nothing else.

The request was built and compared as any other; here its path is read back into names. A name has one spelling and is
one name: no separator, no dot segment, nothing of ours. Source of the operations: :mod:`nomos.catalogue.operations`.

Pure.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Final

import orjson
from msgspec import Struct

from nomos.catalogue import OutgoingRequest
from nomos.catalogue.model import PATH_SEGMENTS_MAX, Scheme
from nomos.catalogue.operations import OPERATIONS, Operation
from nomos.catalogue.segments import check_segment, decode_segment
from nomos.errors import DestinationRefused, LimitExceeded, Malformed, NotCovered, PathRefused

#: What begins so is a file of ours that is not finished: nobody names it, and no list shows it.
UNFINISHED_PREFIX: Final = ".nomos-"
#: Characters of all words of a command together. A server's own limit is far above.
COMMAND_LENGTH_MAX: Final = 16_384


class Asked(Struct, frozen=True, kw_only=True):
    """One operation and what it is about.

    Attributes:
        operation: name of the operation.
        path: names from the top; empty for the volume or host as a whole.
        to: likewise, where a file is moved.
        content: what is written.
        argv: the words of a command.
        stdin: what the command reads.
    """

    operation: str
    path: tuple[str, ...] = ()
    to: tuple[str, ...] = ()
    content: bytes = b""
    argv: tuple[str, ...] = ()
    stdin: bytes = b""


def read_asked(scheme: Scheme, request: OutgoingRequest) -> Asked:
    """What ``request`` asks for.

    Args:
        scheme: of the connector, ``file`` or ``ssh``.
        request: from :func:`nomos.catalogue.build_request`.

    Raises:
        NotCovered: it is no operation.
        DestinationRefused, PathRefused: a name that cannot be one.
        Malformed: neither or both of text and base64, or no command.
        LimitExceeded: a path or command over its limit.
    """
    name, *encoded = request.path.removeprefix("/").split("/")
    operation = OPERATIONS[scheme].get(name)
    if operation is None or operation.method != request.method or bool(encoded) != operation.has_path or request.query:
        raise NotCovered(f"the request is no operation of {scheme}")
    path = _checked(tuple(decode_segment(one, "a name in the path") for one in encoded))
    members: dict[str, object] = orjson.loads(request.body) if request.body is not None else {}
    return Asked(
        operation=name,
        path=path,
        to=_to(members) if name == "move" else (),
        content=_content(operation, members),
        argv=_argv(members) if name == "run" else (),
        stdin=str(members.get("stdin", "")).encode() if name == "run" else b"",
    )


def is_name(text: str) -> bool:
    """Whether a name that a directory holds can be asked for."""
    try:
        check_segment(text, "a name")
    except DestinationRefused:
        return False
    return not text.startswith(UNFINISHED_PREFIX)


def _checked(path: tuple[str, ...]) -> tuple[str, ...]:
    if len(path) > PATH_SEGMENTS_MAX:
        raise LimitExceeded("path_segments_max", PATH_SEGMENTS_MAX, len(path))
    if any(name.startswith(UNFINISHED_PREFIX) for name in path):
        raise PathRefused(f"names that begin with {UNFINISHED_PREFIX} are not given")
    return path


def _to(members: Mapping[str, object]) -> tuple[str, ...]:
    path = tuple(str(members["to"]).split("/"))
    for name in path:
        check_segment(name, "a name in to")
    return _checked(path)


def _content(operation: Operation, members: Mapping[str, object]) -> bytes:
    if not any(name == "text" for name, _ in operation.members):
        return b""
    text, encoded = members.get("text"), members.get("base64")
    if (text is None) == (encoded is None):
        raise Malformed(f"{operation.name} takes one of text and base64")
    if text is not None:
        return str(text).encode()
    try:
        return base64.b64decode(str(encoded), validate=True)
    except (binascii.Error, ValueError) as error:
        raise Malformed("base64 is not in its standard form") from error


def _argv(members: Mapping[str, object]) -> tuple[str, ...]:
    args = members.get("args", [])
    words = (str(members.get("program", "")), *map(str, args if isinstance(args, list) else []))
    if not words[0] or words[0].startswith("-"):
        raise Malformed("a command names its program")
    size = sum(map(len, words))
    if size > COMMAND_LENGTH_MAX:
        raise LimitExceeded("command_length_max", COMMAND_LENGTH_MAX, size)
    return words
