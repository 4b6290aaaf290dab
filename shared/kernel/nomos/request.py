"""The request digest: the 32 bytes that bind a decision, a delegation, an approval and an upstream call together.

Decides which arguments an action may carry at all, and their one digest. Leaves to the catalogue which arguments
an action declares. Rules, in order:

1. Arguments are JSON-like without floats: text, integers that a double holds exactly, booleans, null, lists, maps.
2. No key ``__extn``, ``__entity`` or ``__expr`` at any depth: Cedar's JSON form gives these a meaning, and an
   injected extension value makes a ``forbid`` fail to evaluate.
3. No NUL and no lone surrogate in any text: stores and upstreams cut or replace them.
4. Digest = SHA-256("nomos-request-v1" NUL, DAG-CBOR of {action, resource, args}). DAG-CBOR has one spelling per
   value, so equal requests have equal digests whatever the order of their keys.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Final

from nomos.errors import LimitExceeded, Malformed, ReservedKey
from nomos.ucan import dagcbor
from nomos.ucan.dagcbor import Ipld

#: A record of the log holds the arguments three levels down, and is 16 levels deep at most.
ARGS_DEPTH_MAX: Final = 12
ARGS_BYTES_MAX: Final = 64 * 1024
#: Values and keys in all. An encoded value takes at least a byte, so this refuses nothing that the bytes allow.
ARGS_VALUES_MAX: Final = ARGS_BYTES_MAX
ACTION_LENGTH_MAX: Final = 128
RESOURCE_LENGTH_MAX: Final = 1024
CONNECTION_LENGTH_MAX: Final = 64
INTEGER_MAX: Final = 2**53 - 1
DIGEST_BYTES: Final = 32
RESERVED_KEYS: Final = frozenset({"__extn", "__entity", "__expr"})

_DOMAIN: Final = b"nomos-request-v1\0"


def check_args(args: object) -> dict[str, Ipld]:
    """Checks the arguments of an action.

    Args:
        args: a map as decoded from the wire; depth counts the map itself as 1.

    Returns:
        The same object, known to be a map of allowed values.

    Raises:
        ReservedKey: a key that belongs to Cedar, at any depth.
        LimitExceeded: nested deeper than ARGS_DEPTH_MAX, or more than ARGS_BYTES_MAX bytes in DAG-CBOR.
        Malformed: not a map, a value of another type, an integer beyond 53 bits, a text with NUL or a lone surrogate.
    """
    if type(args) is not dict:
        raise Malformed("args must be a map")
    _Walk().value(args, 1)
    size_bytes = len(dagcbor.encode(args))
    if size_bytes > ARGS_BYTES_MAX:
        raise LimitExceeded("args_bytes_max", ARGS_BYTES_MAX, size_bytes)
    return args


def request_digest(action: str, resource: str, args: Mapping[str, object], connection: str = "") -> bytes:
    """The digest of one request.

    Args:
        action: id such as ``github:issues.list``.
        resource: text such as ``github:repo/acme/site``.
        args: the literal arguments.
        connection: name of the connection whose credential is to be used; empty where there is none.

    Returns:
        32 bytes.

    Raises:
        ReservedKey, LimitExceeded, Malformed: as :func:`check_args`, or an action or resource that is empty, too
            long or not clean text.
    """
    _check_name("action", action, ACTION_LENGTH_MAX)
    _check_name("resource", resource, RESOURCE_LENGTH_MAX)
    if connection:
        _check_name("connection", connection, CONNECTION_LENGTH_MAX)
    request: dict[str, Ipld] = {
        "action": action,
        "args": check_args(args),
        "connection": connection,
        "resource": resource,
    }
    return hashlib.sha256(_DOMAIN + dagcbor.encode(request)).digest()


def command_of(action: str) -> str:
    """The UCAN command of an action id: ``github:issues.list`` is ``/github/issues/list``."""
    return "/" + action.replace(":", "/").replace(".", "/")


class _Walk:
    """Visits every value once. Types are compared exactly: subclasses have no DAG-CBOR form."""

    __slots__ = ("values",)

    def __init__(self) -> None:
        self.values = 0

    def value(self, value: object, depth: int) -> None:
        self.values += 1
        if self.values > ARGS_VALUES_MAX:
            raise LimitExceeded("args_values_max", ARGS_VALUES_MAX)
        if value is None or type(value) is bool:
            return
        if type(value) is str:
            if "\0" in value:
                raise Malformed("args hold a text with NUL")
        elif type(value) is int:
            if not -INTEGER_MAX <= value <= INTEGER_MAX:
                raise Malformed("args hold an integer beyond 53 bits")
        else:
            self.container(value, depth)

    def container(self, value: object, depth: int) -> None:
        if depth > ARGS_DEPTH_MAX:
            raise LimitExceeded("args_depth_max", ARGS_DEPTH_MAX)
        if type(value) is dict:
            for key, inner in value.items():
                self.key(key)
                self.value(inner, depth + 1)
        elif type(value) is list:
            for inner in value:
                self.value(inner, depth + 1)
        else:
            raise Malformed("args may hold text, integers, booleans, null, lists and maps")

    def key(self, key: object) -> None:
        if type(key) is not str:
            raise Malformed("args hold a key that is not text")
        if key in RESERVED_KEYS:
            raise ReservedKey("args hold a reserved key")
        if "\0" in key:
            raise Malformed("args hold a text with NUL")


def _check_name(what: str, text: str, length_max: int) -> None:
    if len(text) > length_max:
        raise LimitExceeded(f"{what}_length_max", length_max, len(text))
    if not text or "\0" in text:
        raise Malformed(f"{what} must be text without NUL")
