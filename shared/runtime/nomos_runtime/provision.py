"""The keys of an installation in a directory, and the orders to the servers' resolver.

What is signed with the keys is pure and stands in :mod:`nomos_runtime.topology.issue`; its names are here as well.

Which key can do what, and where it stays:

=======================  ==========================================  ==========================================
key                      an attacker who has it can                  kept
=======================  ==========================================  ==========================================
operator                 say who the signing key is                  ``keys/operator.nk``; take it offline
operator signing key     make and change any account                 ``keys/operator-signing.nk``, for identity
service account          admit an account to a private door          ``keys/<ACCOUNT>.nk``; take it offline
user or role key         issue users of that one role                ``keys/<ACCOUNT>.<role>.nk``
tenant account           nothing that counts (strict signing keys)   nowhere: it is forgotten when it was made
=======================  ==========================================  ==========================================

Everything under the directory is the owner's alone (0700, files 0600). Running :func:`provision_operator` again keeps
every key and credential, and signs an account again only where the topology has changed; revocations are never lost.
It needs the offline keys; running services does not (:func:`load_installation`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import nats.errors
from nats.aio.client import Client

from nomos.creds import ACCOUNT, OPERATOR, USER, Credentials, Nkey, parse_public_key, write_creds
from nomos.errors import BadSignature, Malformed, Misconfigured, Refused, Unavailable
from nomos_runtime import natsjwt, topology
from nomos_runtime.topology.doors import OPS, SERVICES, SYS, account_of, doors_into
from nomos_runtime.topology.issue import (
    Entropy,
    TenantKeys,
    account_jwt_for_tenant,
    issue_user,
    new_tenant_keys,
    user_jwt,
)

__all__ = [
    "ACCOUNTS",
    "Installation",
    "TenantKeys",
    "account_jwt_for_tenant",
    "delete_account",
    "genuine_claims",
    "issue_user",
    "load_installation",
    "new_tenant_keys",
    "preload_resolver",
    "provision_operator",
    "push_account",
]

CLAIMS_SECONDS: Final = 5
#: Accounts of the installation itself.
ACCOUNTS: Final[tuple[str, ...]] = (SYS, *(account_of(s) for s in SERVICES), OPS)
_OPERATOR_NAME: Final = "nomos"

# --- the servers' resolver ---------------------------------------------------------------------------------------


async def push_account(nc: Client, account_jwt: str) -> None:
    """Tells the servers about an account, new or changed. In effect when this returns, on the server that answered.

    A user whose key the JWT revokes is disconnected at once. The server keeps a JWT by a stranger too and says
    "updated"; it does not believe it, but after a restart it has no such account until the genuine one is pushed again.
    So identity pushes every tenant again when it starts.

    Args:
        nc: connected as the user ``claims`` of ``SYS``.
        account_jwt: signed by the operator's signing key.

    Raises:
        Refused: the server does not accept the JWT.
        Unavailable: it does not answer.
    """
    await _claims_request(nc, "$SYS.REQ.CLAIMS.UPDATE", account_jwt)


async def delete_account(nc: Client, account: str, *, operator: Nkey, issued_at: int) -> None:
    """Removes an account: its connections are closed, and nobody can log in to it again.

    Raises:
        Refused: the server does not accept the order.
        Unavailable: it does not answer.
    """
    parse_public_key(account, ACCOUNT)
    order = natsjwt.sign_jwt(
        natsjwt.GenericClaims(accounts=(account,)),
        signer=operator,
        subject=operator.public,
        name="delete",
        issued_at=issued_at,
    )
    await _claims_request(nc, "$SYS.REQ.CLAIMS.DELETE", order)


async def _claims_request(nc: Client, subject: str, token: str) -> None:
    try:
        reply = await nc.request(subject, token.encode(), timeout=CLAIMS_SECONDS)
        answer = msgspec.json.decode(reply.data, type=dict[str, Any])
    except (nats.errors.Error, TimeoutError, msgspec.DecodeError) as e:
        raise Unavailable("the servers do not answer about accounts", cause=repr(e)) from e
    error = answer.get("error")
    if error is not None:
        raise Refused("the server does not accept the account", cause=str(error))


# --- an installation in a directory ------------------------------------------------------------------------------


class Installation(msgspec.Struct, frozen=True, kw_only=True):
    """A provisioned installation. Holds no secret; they are read from its directory when they are needed.

    Attributes:
        directory: where it is kept.
        operator_jwt: for the server's configuration.
        accounts: account name -> public key (``SYS``, ``OPS`` and one per service, e.g. ``POLICY``). A service
            compares the stamped token of a request with the account that the door is for.
        account_jwts: account name -> JWT as of now.
    """

    directory: Path
    operator_jwt: str
    accounts: dict[str, str]
    account_jwts: dict[str, str]

    @property
    def system_account(self) -> str:
        """Public key of ``SYS``."""
        return self.accounts[SYS]

    def emitter_of(self, account: str) -> str | None:
        """The service whose account has this public key, or None: the name that the log gives to an emitter."""
        return next((s for s in SERVICES if self.accounts[account_of(s)] == account), None)

    def creds_path(self, user: str) -> Path:
        """The credentials file of a user of the topology: a service's name, ``claims``, ``audit-provisioner``, ..."""
        return self.directory / "creds" / f"{user}.creds"

    def operator_signing_key(self) -> Nkey:
        """The key that signs accounts. Secret; for identity alone."""
        return _read_key(self.directory, "operator-signing", OPERATOR)

    def role_key(self, role: str) -> Nkey:
        """The signing key of an operator role in ``OPS``. Secret."""
        return _read_key(self.directory, f"{OPS}.{role}", ACCOUNT)


def provision_operator(
    directory: Path,
    *,
    servers: Sequence[str],
    issued_at: int,
    entropy: Entropy = os.urandom,
    resolver_directory: Path | None = None,
) -> Installation:
    """Makes, or brings up to date, the installation in ``directory``: keys, accounts, the services' credentials.

    Args:
        directory: made if it is not there.
        servers: server URLs for the credentials files.
        issued_at: Unix seconds.
        entropy: source of new keys.
        resolver_directory: the server's account directory, where revocations that were pushed since stand.

    Raises:
        Misconfigured: the directory, or a key in it, is open to others, unreadable or away.
    """
    for room in (directory, directory / "keys", directory / "accounts", directory / "creds"):
        _own_directory(room)
    made = (directory / "operator.jwt").exists()
    operator = _key(directory, "operator", OPERATOR, entropy, made=made)
    signing = _key(directory, "operator-signing", OPERATOR, entropy, made=made)
    private = {
        n: _key(directory, n, ACCOUNT, entropy, made=(directory / "accounts" / f"{n}.jwt").exists()) for n in ACCOUNTS
    }
    accounts = {name: key.public for name, key in private.items()}
    operator_claims = natsjwt.OperatorClaims(
        signing_keys=(signing.public,), system_account=accounts[SYS], strict_signing_key_usage=True
    )
    operator_jwt = _kept(
        directory / "operator.jwt",
        operator_claims,
        signer=operator,
        subject=operator.public,
        name=_OPERATOR_NAME,
        issued_at=issued_at,
    )
    jwts: dict[str, str] = {}
    for name in ACCOUNTS:
        path = directory / "accounts" / f"{name}.jwt"
        known = _roles_in(path)
        role_keys = {r: _key(directory, f"{name}.{r}", ACCOUNT, entropy, made=r in known) for r in _roles_of(name)}
        claims = topology.account_claims(
            name,
            accounts,
            {r: k.public for r, k in role_keys.items()},
            _activations(name, private, _imports_of(path), issued_at),
            _revocations(signing.public, path, resolver_directory and resolver_directory / f"{accounts[name]}.jwt"),
        )
        jwts[name] = _kept(path, claims, signer=signing, subject=accounts[name], name=name, issued_at=issued_at)
        for user in topology.users_of(name):
            path = directory / "creds" / f"{user.name}.creds"
            if path.exists():
                _refuse_open(path)
                continue
            key = Nkey.new(USER, entropy)
            token = user_jwt(
                name=user.name,
                user_public_key=key.public,
                account=accounts[name],
                signer=role_keys[user.name],
                issued_at=issued_at,
            )
            write_creds(
                path,
                Credentials(servers=tuple(servers), role="service", name=user.name, tenant="", jwt=token, user=key),
            )
    return Installation(directory=directory, operator_jwt=operator_jwt, accounts=accounts, account_jwts=jwts)


def load_installation(directory: Path) -> Installation:
    """The installation in ``directory``, from its public files (``operator.jwt`` and ``accounts/``).

    Raises:
        Misconfigured: there is none, or it is not complete.
    """
    try:
        operator_jwt = _text(directory / "operator.jwt")
        jwts = {n: _text(directory / "accounts" / f"{n}.jwt") for n in ACCOUNTS}
        accounts = {n: natsjwt.parse_jwt(t).sub for n, t in jwts.items()}
    except (OSError, UnicodeDecodeError, Malformed) as e:
        raise Misconfigured("there is no complete installation here", cause=repr(e)) from e
    return Installation(directory=directory, operator_jwt=operator_jwt, accounts=accounts, account_jwts=jwts)


def preload_resolver(installation: Installation, resolver_directory: Path) -> None:
    """Puts the installation's accounts where a server that is not running will find them.

    A JWT there that is genuine and not older than the installation's stays: it was pushed, and has revocations.
    """
    for name, token in installation.account_jwts.items():
        ours, path = natsjwt.parse_jwt(token), resolver_directory / f"{installation.accounts[name]}.jwt"
        if path.exists():
            kept = _text(path)
            if genuine_claims(kept, ours.iss) is not None and natsjwt.parse_jwt(kept).iat >= ours.iat:
                continue
        _replace(path, token)


def _roles_of(account: str) -> tuple[str, ...]:
    if account == OPS:
        return tuple(r.name for r in topology.OPERATOR_ROLES)
    return tuple(u.name for u in topology.users_of(account))


def _roles_in(path: Path) -> frozenset[str]:
    """Roles that the account JWT at ``path`` has a signing key for."""
    claims = natsjwt.parse_jwt(_text(path)).nats if path.exists() else None
    return frozenset(k.role for k in claims.signing_keys) if isinstance(claims, natsjwt.AccountClaims) else frozenset()


def _imports_of(path: Path) -> dict[tuple[str, str], str]:
    """Exporter's key and subject -> activation token, from the account JWT at ``path``; empty where there is none."""
    nats_claims = natsjwt.parse_jwt(_text(path)).nats if path.exists() else None
    if not isinstance(nats_claims, natsjwt.AccountClaims):
        return {}
    return {(i.account, i.subject): i.token for i in nats_claims.imports if i.token}


def _activations(
    importer: str, private: Mapping[str, Nkey], kept: Mapping[tuple[str, str], str], issued_at: int
) -> dict[tuple[str, str], str]:
    """Tokens for the private doors into ``importer``; those that it has are kept, so a re-run changes nothing."""
    tokens: dict[tuple[str, str], str] = {}
    for door in doors_into(importer):
        if not door.private:
            continue
        owner = private[door.owner]
        tokens[door.owner, door.subject] = kept.get((owner.public, door.subject)) or natsjwt.sign_jwt(
            natsjwt.ActivationClaims(subject=door.subject, kind=door.kind),
            signer=owner,
            subject=private[importer].public,
            name=door.subject,
            issued_at=issued_at,
        )
    return tokens


def _revocations(issuer: str, *paths: Path | None) -> dict[str, int]:
    found: dict[str, int] = {}
    for path in paths:
        if path is None or not path.exists():
            continue
        claims = genuine_claims(_text(path), issuer)
        for key, until in (claims.revocations if claims is not None else {}).items():
            found[key] = max(until, found.get(key, 0))
    return found


def genuine_claims(token: str, issuer: str) -> natsjwt.AccountClaims | None:
    """The claims of an account JWT by ``issuer``, or None: the server's resolver also keeps what it doesn't believe."""
    try:
        claims = natsjwt.verify_jwt(token, issuers=frozenset({issuer}), now=0).nats
    except (Malformed, BadSignature):
        return None
    return claims if isinstance(claims, natsjwt.AccountClaims) else None


def _kept(path: Path, claims: natsjwt.AnyClaims, *, signer: Nkey, subject: str, name: str, issued_at: int) -> str:
    """The JWT at ``path`` if it says this already; else a new one, written there."""
    fresh = natsjwt.sign_jwt(claims, signer=signer, subject=subject, name=name, issued_at=issued_at)
    if path.exists():
        token = _text(path)
        old = natsjwt.parse_jwt(token)
        if (old.nats, old.iss, old.sub) == (natsjwt.parse_jwt(fresh).nats, signer.public, subject):
            return token
    _replace(path, fresh)
    return fresh


def _own_directory(path: Path) -> None:
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    _refuse_open(path)


def _refuse_open(path: Path) -> None:
    if path.stat().st_mode & 0o077:
        raise Misconfigured(f"{path.name} is open to other users", hint="chmod go= it, and renew the keys it held")


def _key(directory: Path, name: str, kind: int, entropy: Entropy, *, made: bool) -> Nkey:
    path = directory / "keys" / f"{name}.nk"
    if path.exists():
        return _read_key(directory, name, kind)
    if made:
        # A new key in the place of one that is only away would cut off everything that the old one has signed.
        raise Misconfigured(f"the key {name} is not here", hint="bring the offline keys back to provision again")
    key = Nkey.new(kind, entropy)
    _replace(path, key.seed)
    return key


def _read_key(directory: Path, name: str, kind: int) -> Nkey:
    path = directory / "keys" / f"{name}.nk"
    try:
        _refuse_open(path)
        return Nkey.parse(_text(path), kind)
    except (OSError, UnicodeDecodeError, Malformed) as e:
        raise Misconfigured(f"the key {name} cannot be read", cause=repr(e)) from e


def _text(path: Path) -> str:
    return path.read_text(encoding="ascii").strip()


def _replace(path: Path, text: str) -> None:
    """Writes ``text`` whole or not at all. A crash before the rename leaves the old file, after it the new one."""
    temporary = path.with_suffix(".new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as f:
        f.write(text)
        f.flush()
        os.fsync(f.fileno())
    temporary.rename(path)
