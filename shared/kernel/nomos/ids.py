"""Identifiers as types, and the one place where their spelling is checked.

Names of tenants, apps, agents, connections, approvers and operators are **slugs**: they are tokens of bus
subjects and ids of Cedar entities, so one strict spelling serves everywhere and needs no escaping.
"""

from __future__ import annotations

import os
import re
import time
from typing import Final, NewType

from nomos.errors import Malformed

TenantId = NewType("TenantId", str)
AppId = NewType("AppId", str)
AgentId = NewType("AgentId", str)
OperatorId = NewType("OperatorId", str)
ApproverId = NewType("ApproverId", str)
ConnectionName = NewType("ConnectionName", str)
ApprovalId = NewType("ApprovalId", str)
DecisionId = NewType("DecisionId", str)
RequestId = NewType("RequestId", str)
EventId = NewType("EventId", str)
#: Public key of a bus account, ``A`` and 55 base32 characters.
AccountKey = NewType("AccountKey", str)
#: ``did:key:z6Mk...`` of an Ed25519 key, canonical spelling.
Did = NewType("Did", str)

SLUG_LENGTH_MAX: Final = 40
_SLUG = re.compile(r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*")
_ULID = re.compile(r"[a-z]{1,4}_[0-9a-f]{32}")
#: The tenant under which the log writes its own records (seals, gaps, keys). No customer can take this name.
SYSTEM_TENANT: Final = TenantId("_sys")


def parse_slug(text: str, what: str) -> str:
    """Checks that ``text`` is a slug: lower-case letters, digits and single hyphens, 1 to 40 characters.

    Args:
        text: the candidate.
        what: what it names, for the error ("tenant", "agent", ...).

    Raises:
        Malformed: it is not a slug.
    """
    if len(text) > SLUG_LENGTH_MAX or _SLUG.fullmatch(text) is None:
        raise Malformed(
            f"{what} name must be 1 to {SLUG_LENGTH_MAX} lower-case letters, digits and single hyphens, "
            "and start with a letter"
        )
    return text


def new_id(prefix: str) -> str:
    """A new identifier: ``prefix``, ``_`` and a UUIDv7 (RFC 9562 section 5.7) as 32 hex digits, ordered by time."""
    milliseconds = time.time_ns() // 1_000_000
    random = int.from_bytes(os.urandom(10), "big")
    value = (milliseconds & ((1 << 48) - 1)) << 80
    value |= 0x7 << 76 | (random >> 68 & 0xFFF) << 64 | 0b10 << 62 | random & ((1 << 62) - 1)
    return f"{prefix}_{value:032x}"


def is_id(text: str, prefix: str) -> bool:
    """Whether ``text`` has the form that :func:`new_id` gives for ``prefix``."""
    return _ULID.fullmatch(text) is not None and text.startswith(prefix + "_")
