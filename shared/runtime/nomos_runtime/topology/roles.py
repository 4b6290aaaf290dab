"""Roles of people and agents: what a user issued at run time may do. One scoped signing key per role and account.

The server fills ``{{name()}}`` with the user's name and ``{{tag(tenant)}}`` with its tag, so a credential is bound to
its own subjects, and a stolen signing key can issue users of its one role only.
"""

from __future__ import annotations

from typing import Final

import msgspec

#: Bytes of one message of an agent; an authorize command holds 64 KiB of arguments at most, an invocation its proofs.
AGENT_PAYLOAD_BYTES: Final = 262_144
#: A client needs one subscription for its inbox.
AGENT_SUBSCRIPTIONS: Final = 10


class Role(msgspec.Struct, frozen=True, kw_only=True):
    """A role. Each of its users has the inbox ``_INBOX.<name>`` and nothing else to subscribe to."""

    name: str
    publish: tuple[str, ...]
    subscribe: tuple[str, ...] = ("_INBOX.{{name()}}.>",)


class TenantLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of one tenant's account.

    Attributes:
        connections: open connections of all its agents and auditors.
        subscriptions: of all its connections together.
        payload_bytes: largest message that a connection may send.
    """

    connections: int = 1_000
    subscriptions: int = 10_000
    payload_bytes: int = AGENT_PAYLOAD_BYTES


TENANT_ROLES: Final = (
    Role(
        name="agent",
        publish=tuple(
            f"req.{verb}.{{{{name()}}}}" for verb in ("authorize", "invoke", "read.*", "upload.*", "revoke", "stepup")
        ),
    ),
    Role(name="auditor", publish=("req.audit.{{name()}}",)),
)

OPERATOR_ROLES: Final = (
    # admin.<service>.<tenant or _>.<verb>.<operator>
    Role(name="operator", publish=("admin.*.*.*.{{name()}}",)),
    # The same for one tenant; a user without the tag is refused at login.
    Role(name="tenant-operator", publish=("admin.*.{{tag(tenant)}}.*.{{name()}}",)),
)

ROLES: Final[dict[str, Role]] = {r.name: r for r in (*TENANT_ROLES, *OPERATOR_ROLES)}
