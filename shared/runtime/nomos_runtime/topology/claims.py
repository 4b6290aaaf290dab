"""The topology as claims: what the operator signs and the server enforces. Pure.

An account's own key signs nothing at run time: users are issued by scoped signing keys only, and the defaults of an
account allow nothing. So even who holds a signing key can make users of its one role, and no others.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from nomos_runtime import natsjwt
from nomos_runtime.natsjwt import NO_LIMIT, Permission
from nomos_runtime.topology.doors import DOORS, OPS, SYS, TENANTS, Door, doors_into
from nomos_runtime.topology.roles import (
    AGENT_PAYLOAD_BYTES,
    AGENT_SUBSCRIPTIONS,
    OPERATOR_ROLES,
    TENANT_ROLES,
    Role,
    TenantLimits,
)
from nomos_runtime.topology.streams import MIB, streams_max, streams_of
from nomos_runtime.topology.users import RESPONSE_SECONDS, User, users_of

_NANOSECONDS: Final = 1_000_000_000
_NOTHING: Final = natsjwt.Permissions(pub=Permission(deny=(">",)), sub=Permission(deny=(">",)))
#: Memory of the consumers that clients make for reading (ordered consumers are kept in memory).
CONSUMER_MEMORY_BYTES: Final = 64 * MIB
CONSUMERS_MAX: Final = 64

#: Owner's account name and exported subject -> activation token for this importer.
Activations = Mapping[tuple[str, str], str]


def _user_key(user: User, key: str) -> natsjwt.ScopedKey:
    return natsjwt.ScopedKey(
        key=key,
        role=user.name,
        template=natsjwt.Template(
            pub=Permission(allow=user.publish, deny=user.denied),
            sub=Permission(allow=user.subscribe),
            resp=(natsjwt.ResponsePermission(max=1, ttl=RESPONSE_SECONDS * _NANOSECONDS) if user.answers else None),
            subs=NO_LIMIT,
            data=NO_LIMIT,
            payload=NO_LIMIT,
            allowed_connection_types=("STANDARD",),
        ),
    )


def _role_key(role: Role, key: str) -> natsjwt.ScopedKey:
    return natsjwt.ScopedKey(
        key=key,
        role=role.name,
        template=natsjwt.Template(
            pub=Permission(allow=role.publish),
            sub=Permission(allow=role.subscribe),
            subs=AGENT_SUBSCRIPTIONS,
            data=NO_LIMIT,
            payload=AGENT_PAYLOAD_BYTES,
            allowed_connection_types=("STANDARD", "WEBSOCKET"),
        ),
    )


def _export(door: Door) -> natsjwt.Export:
    service = door.kind == "service"
    return natsjwt.Export(
        name=door.subject,
        subject=door.subject,
        type=door.kind,
        token_req=door.private,
        response_type="Singleton" if service else "",
        response_threshold=RESPONSE_SECONDS * _NANOSECONDS if service else 0,
        account_token_position=door.token,
    )


def _import(door: Door, importer: str, owner: str, token: str) -> natsjwt.Import:
    return natsjwt.Import(
        name=door.local,
        subject=door.seen_by(importer),
        account=owner,
        type=door.kind,
        local_subject=door.local,
        token=token,
    )


def account_claims(
    name: str,
    accounts: Mapping[str, str],
    signing_keys: Mapping[str, str],
    activations: Activations,
    revocations: Mapping[str, int],
) -> natsjwt.AccountClaims:
    """The claims of an account that is not a tenant's.

    Args:
        name: ``SYS``, ``OPS`` or a service's account.
        accounts: account name -> public key, of the whole installation.
        signing_keys: user name (for ``OPS``: role name) -> public signing key.
        activations: tokens for the private doors that this account imports.
        revocations: user public key -> Unix seconds.
    """
    if name == OPS:
        keys = tuple(_role_key(r, signing_keys[r.name]) for r in OPERATOR_ROLES)
    else:
        keys = tuple(_user_key(u, signing_keys[u.name]) for u in users_of(name))
    jetstream = bool(streams_of(name))
    mappings: dict[str, tuple[natsjwt.Mapping, ...]] = {}
    if name == "AUDIT":
        # The journal of the audit service itself: an account cannot import from itself, so the server maps the subject.
        mappings["intake.batch"] = (natsjwt.Mapping(subject=f"intake.{accounts[name]}.batch"),)
    return natsjwt.AccountClaims(
        limits=natsjwt.Limits(
            mem_storage=CONSUMER_MEMORY_BYTES if jetstream else 0,
            disk_storage=NO_LIMIT if jetstream else 0,
            streams=streams_max(name),
            consumer=CONSUMERS_MAX if jetstream else 0,
        ),
        exports=() if name == SYS else tuple(_export(d) for d in DOORS if d.owner == name),
        imports=tuple(
            _import(d, accounts[name], accounts[d.owner], activations[d.owner, d.subject] if d.private else "")
            for d in doors_into(name)
        ),
        signing_keys=keys,
        revocations=dict(revocations),
        default_permissions=_NOTHING,
        mappings=mappings,
    )


def tenant_claims(
    account: str,
    accounts: Mapping[str, str],
    signing_keys: Mapping[str, str],
    limits: TenantLimits,
    revocations: Mapping[str, int],
) -> natsjwt.AccountClaims:
    """The claims of a tenant's account.

    Args:
        account: the tenant's account key.
        accounts: account name -> public key, of the installation.
        signing_keys: role name -> public signing key, one for each of the tenant roles.
        limits: of the whole tenant.
        revocations: user public key -> Unix seconds.
    """
    imports = tuple(_import(d, account, accounts[d.owner], "") for d in doors_into(TENANTS))
    return natsjwt.AccountClaims(
        limits=natsjwt.Limits(
            subs=limits.subscriptions,
            payload=limits.payload_bytes,
            conn=limits.connections,
            imports=len(imports),
            exports=0,
        ),
        imports=imports,
        signing_keys=tuple(_role_key(r, signing_keys[r.name]) for r in TENANT_ROLES),
        revocations=dict(revocations),
        default_permissions=_NOTHING,
    )
