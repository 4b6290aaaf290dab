"""Signs tenants' accounts and their users. Pure: keys, times, names and randomness are arguments."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

import msgspec

from nomos.creds import ACCOUNT, USER, Nkey, parse_public_key
from nomos.errors import Misconfigured
from nomos.ids import parse_slug
from nomos_runtime import natsjwt
from nomos_runtime.topology.claims import tenant_claims
from nomos_runtime.topology.roles import ROLES, TENANT_ROLES, TenantLimits

Entropy = Callable[[int], bytes]


class TenantKeys(msgspec.Struct, frozen=True, kw_only=True):
    """A new tenant's account: its public key, and one private signing key per role. ``repr`` shows no secret."""

    account: str
    roles: dict[str, Nkey]


def new_tenant_keys(entropy: Entropy = os.urandom) -> TenantKeys:
    """Keys of a new tenant.

    The account's own private key is not kept: the operator signs the account, the roles' keys sign its users.
    """
    return TenantKeys(
        account=Nkey.new(ACCOUNT, entropy).public,
        roles={r.name: Nkey.new(ACCOUNT, entropy) for r in TENANT_ROLES},
    )


def account_jwt_for_tenant(
    *,
    tenant: str,
    account: str,
    role_keys: Mapping[str, str],
    accounts: Mapping[str, str],
    operator: Nkey,
    issued_at: int,
    limits: TenantLimits | None = None,
    revocations: Mapping[str, int] | None = None,
) -> str:
    """The account JWT of a tenant.

    Args:
        tenant: the tenant's slug (a display name: the servers know the account by its key).
        account: its public key.
        role_keys: role name -> public signing key, for each of :data:`~nomos_runtime.topology.roles.TENANT_ROLES`.
        accounts: the installation's accounts (:attr:`Installation.accounts`).
        operator: the operator's signing key.
        issued_at: Unix seconds.
        limits: of the whole tenant.
        revocations: user public key -> Unix seconds up to which its JWTs are refused.
    """
    claims = tenant_claims(account, accounts, role_keys, limits or TenantLimits(), revocations or {})
    return natsjwt.sign_jwt(
        claims, signer=operator, subject=account, name=parse_slug(tenant, "tenant"), issued_at=issued_at
    )


def issue_user(
    *,
    role: str,
    name: str,
    user_public_key: str,
    account: str,
    signer: Nkey,
    issued_at: int,
    expires_at: int = 0,
    tenant: str = "",
) -> str:
    """A user JWT. What the user may do comes from the signing key's role, which the server applies.

    Args:
        role: ``agent``, ``auditor``, ``operator`` or ``tenant-operator``.
        name: slug; the last token of every subject that the user may publish to.
        user_public_key: the user's nkey (``U...``), made by the user.
        account: public key of the tenant's account, or of ``OPS``.
        signer: the signing key of ``role`` in that account.
        issued_at: Unix seconds.
        expires_at: Unix seconds; 0 for never.
        tenant: for ``tenant-operator``, the one tenant that it may name.

    Raises:
        Malformed: the name is no slug, or a key is not of its kind.
        Misconfigured: no such role, or a tenant where the role has none (or none where it has one).
    """
    if role not in ROLES:
        raise Misconfigured(f"there is no role {role}")
    if bool(tenant) != (role == "tenant-operator"):
        raise Misconfigured("a tenant-operator has one tenant, other roles take theirs from the account")
    parse_public_key(user_public_key, USER)
    parse_public_key(account, ACCOUNT)
    return user_jwt(
        name=parse_slug(name, role),
        user_public_key=user_public_key,
        account=account,
        signer=signer,
        issued_at=issued_at,
        expires_at=expires_at,
        tags=(f"tenant:{parse_slug(tenant, 'tenant')}",) if tenant else (),
    )


def user_jwt(
    *,
    name: str,
    user_public_key: str,
    account: str,
    signer: Nkey,
    issued_at: int,
    expires_at: int = 0,
    tags: tuple[str, ...] = (),
) -> str:
    """A user JWT under a scoped signing key, without a check of the role. See :func:`issue_user`."""
    return natsjwt.sign_jwt(
        natsjwt.UserClaims(issuer_account=account, tags=tags),
        signer=signer,
        subject=user_public_key,
        name=name,
        issued_at=issued_at,
        expires_at=expires_at,
    )
