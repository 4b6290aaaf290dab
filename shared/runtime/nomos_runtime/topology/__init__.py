"""Who may call whom on the bus: accounts, doors between them, users and their rights, roles, streams.

This package is the reviewed statement of the walls; everything in it is frozen values and pure functions, except
:func:`ensure_streams`, which a provisioner runs. The claims that the server enforces are built from it in
:mod:`nomos_runtime.topology.claims`; nothing else in the installation grants a right on the bus.
"""

from __future__ import annotations

from nomos_runtime.topology.claims import account_claims, tenant_claims
from nomos_runtime.topology.doors import DOORS, OPS, SERVICES, SYS, TENANTS, Door, account_of, doors_into
from nomos_runtime.topology.ensure import ensure_streams
from nomos_runtime.topology.roles import OPERATOR_ROLES, ROLES, TENANT_ROLES, TenantLimits
from nomos_runtime.topology.streams import STREAMS, Bounds, Stream, stream_config, streams_of
from nomos_runtime.topology.users import USERS, User, users_of

__all__ = [
    "DOORS",
    "OPERATOR_ROLES",
    "OPS",
    "ROLES",
    "SERVICES",
    "STREAMS",
    "SYS",
    "TENANTS",
    "TENANT_ROLES",
    "USERS",
    "Bounds",
    "Door",
    "Stream",
    "TenantLimits",
    "User",
    "account_claims",
    "account_of",
    "doors_into",
    "ensure_streams",
    "stream_config",
    "streams_of",
    "tenant_claims",
    "users_of",
]
