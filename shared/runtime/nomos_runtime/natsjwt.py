"""NATS JWTs (version 2) of operators, accounts, users and activations: typed claims, signing, verification.

Decides the bytes of a JWT and whether one is genuine. What the claims should say is :mod:`nomos_runtime.topology`'s
business; who holds which key is :mod:`nomos_runtime.provision`'s. Pure: keys, times and names are arguments.

Rules
1. Header ``{"typ":"JWT","alg":"ed25519-nkey"}``; the signature is over ``header.payload`` by the issuer's nkey.
2. ``jti`` is base32 of SHA-512/256 over the claims as JSON with sorted keys and without ``jti``.
3. Members that have their default are left out: a user of a *scoped* signing key must carry no limits of its own, and
   the server compares with "nothing there".
4. An operator or its signing key issues accounts; an account's signing key issues users, and ``issuer_account`` names
   the account.

Source: github.com/nats-io/jwt v2, as nats-server 2.15 decodes it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Any, Final

import msgspec

from nomos.creds import ACCOUNT, OPERATOR, USER, Nkey, parse_public_key, verify_nkey
from nomos.errors import BadSignature, Expired, LimitExceeded, Malformed

VERSION: Final = 2
NO_LIMIT: Final = -1
JWT_LENGTH_MAX: Final = 1_048_576
_HEADER: Final = {"typ": "JWT", "alg": "ed25519-nkey"}
_PREFIXES: Final = {"O": OPERATOR, "A": ACCOUNT, "U": USER}


class Permission(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Subjects allowed and denied. An empty ``allow`` allows everything that is not denied.

    In subscriptions ``"subject queue"`` allows the subject as a member of that queue group only.
    """

    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()


class ResponsePermission(msgspec.Struct, frozen=True, kw_only=True):
    """The right to answer a request that was received: ``max`` messages inside ``ttl`` nanoseconds."""

    max: int
    ttl: int


class Permissions(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a user may publish and subscribe to."""

    pub: Permission = Permission()
    sub: Permission = Permission()
    resp: ResponsePermission | None = None


class Template(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Permissions and limits that a scoped signing key gives to each user that it issues.

    Subjects may hold ``{{name()}}``, ``{{tag(x)}}`` and ``{{account-subject()}}``, filled by the server at login.

    Attributes:
        subs: subscriptions of one connection; -1 for no limit. Likewise ``data`` and ``payload`` in bytes.
    """

    pub: Permission
    sub: Permission
    subs: int
    data: int
    payload: int
    resp: ResponsePermission | None = None
    bearer_token: bool = False
    allowed_connection_types: tuple[str, ...] = ()


class ScopedKey(msgspec.Struct, frozen=True, kw_only=True):
    """A signing key of an account that can only issue users of one role."""

    key: str
    role: str
    template: Template
    kind: str = "user_scope"


class Export(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A subject that other accounts may import.

    Attributes:
        account_token_position: 1-based token of ``subject`` that must be the importing account's key; 0 for none.
        token_req: the importer must show an activation token by the exporting account.
        response_threshold: how long the server keeps the way back for an answer, nanoseconds.
    """

    name: str
    subject: str
    type: str
    token_req: bool = False
    response_type: str = ""
    response_threshold: int = 0
    account_token_position: int = 0


class Import(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Another account's export, under ``local_subject`` in this account."""

    name: str
    subject: str
    account: str
    type: str
    local_subject: str = ""
    token: str = ""
    share: bool = False


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of an account; -1 is none, 0 forbids. ``mem_storage`` and ``disk_storage`` 0 and 0: no JetStream."""

    subs: int = NO_LIMIT
    data: int = NO_LIMIT
    payload: int = NO_LIMIT
    imports: int = NO_LIMIT
    exports: int = NO_LIMIT
    wildcards: bool = True
    disallow_bearer: bool = True
    conn: int = NO_LIMIT
    leaf: int = 0
    mem_storage: int = 0
    disk_storage: int = 0
    streams: int = 0
    consumer: int = 0


class Mapping(msgspec.Struct, frozen=True, kw_only=True):
    """One target of a subject mapping inside an account."""

    subject: str
    weight: int = 100


class OperatorClaims(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag="operator"):
    """An operator. With ``strict_signing_key_usage`` its own key signs no account, and no account's own key a user."""

    signing_keys: tuple[str, ...] = ()
    system_account: str = ""
    strict_signing_key_usage: bool = False
    version: int = 0


class AccountClaims(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag="account"):
    """An account.

    Attributes:
        revocations: user public key -> Unix seconds; that user's JWTs issued up to then are refused.
        mappings: subject in this account -> what the server makes of it.
    """

    limits: Limits
    imports: tuple[Import, ...] = ()
    exports: tuple[Export, ...] = ()
    signing_keys: tuple[ScopedKey, ...] = ()
    revocations: dict[str, int] = {}
    default_permissions: Permissions | None = None
    mappings: dict[str, tuple[Mapping, ...]] = {}
    version: int = 0


class UserClaims(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag="user"):
    """A user. Issued by a scoped signing key it has no permissions or limits here: they come from the template."""

    pub: Permission = Permission()
    sub: Permission = Permission()
    resp: ResponsePermission | None = None
    subs: int = 0
    data: int = 0
    payload: int = 0
    bearer_token: bool = False
    allowed_connection_types: tuple[str, ...] = ()
    issuer_account: str = ""
    tags: tuple[str, ...] = ()
    version: int = 0


class ActivationClaims(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag="activation"
):
    """An exporting account's permit for one importing account (the JWT's subject)."""

    subject: str
    kind: str
    issuer_account: str = ""
    version: int = 0


class GenericClaims(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag="generic"):
    """An order to the resolver: the accounts to delete."""

    accounts: tuple[str, ...]
    version: int = 0


AnyClaims = OperatorClaims | AccountClaims | UserClaims | ActivationClaims | GenericClaims


class Jwt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The claims of a JWT. ``iat`` and ``exp`` are Unix seconds; ``exp`` 0 means that it does not expire."""

    iss: str
    sub: str
    iat: int
    nats: AnyClaims
    name: str = ""
    exp: int = 0
    jti: str = ""


_decode_jwt = msgspec.json.Decoder(Jwt).decode
_decode_header = msgspec.json.Decoder(dict[str, str]).decode


def _part(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _unpart(text: str) -> bytes:
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as e:
        raise Malformed("a part of the JWT is not base64url") from e
    if _part(raw) != text:
        raise Malformed("a part of the JWT is not in its canonical spelling")
    return raw


def sign_jwt(claims: AnyClaims, *, signer: Nkey, subject: str, name: str, issued_at: int, expires_at: int = 0) -> str:
    """A signed JWT.

    Args:
        claims: what it says; its version is set here.
        signer: the issuer's private key.
        subject: public nkey that the JWT is about.
        name: display name; for a user also what ``{{name()}}`` becomes in its template.
        issued_at: Unix seconds.
        expires_at: Unix seconds; 0 for never.
    """
    body: dict[str, Any] = msgspec.to_builtins(
        Jwt(iss=signer.public, sub=subject, name=name, iat=issued_at, exp=expires_at, nats=claims)
    )
    body["nats"]["version"] = VERSION
    digest = hashlib.new("sha512_256", msgspec.json.encode(body, order="sorted")).digest()
    body["jti"] = base64.b32encode(digest).decode().rstrip("=")
    signed = f"{_part(msgspec.json.encode(_HEADER))}.{_part(msgspec.json.encode(body, order='sorted'))}"
    return f"{signed}.{_part(signer.sign(signed.encode()))}"


def parse_jwt(token: str) -> Jwt:
    """The claims of ``token``, **not verified**. Members that this module doesn't know are ignored.

    Raises:
        Malformed: not a NATS JWT of version 2.
    """
    return _split(token)[0]


def _split(token: str) -> tuple[Jwt, bytes, bytes]:
    if len(token) > JWT_LENGTH_MAX:
        raise LimitExceeded("JWT_LENGTH_MAX", JWT_LENGTH_MAX, len(token))
    parts = token.split(".")
    if len(parts) != 3:
        raise Malformed(f"a JWT has three parts, got {len(parts)}")
    header, payload, signature = (_unpart(p) for p in parts)
    try:
        found, jwt = _decode_header(header), _decode_jwt(payload)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as e:
        raise Malformed("the JWT's claims are not those of a NATS JWT", cause=str(e)) from e
    if found != _HEADER:
        raise Malformed("the JWT's header is not typ JWT, alg ed25519-nkey")
    if jwt.nats.version != VERSION:
        raise Malformed(f"the JWT's version must be {VERSION}, got {jwt.nats.version}")
    return jwt, f"{parts[0]}.{parts[1]}".encode(), signature


def verify_jwt(token: str, *, issuers: frozenset[str], now: int) -> Jwt:
    """The claims of ``token``, which one of ``issuers`` has signed and which has not expired.

    Args:
        token: the JWT.
        issuers: public nkeys that may have issued it.
        now: Unix seconds.

    Raises:
        Malformed: not a NATS JWT of version 2.
        BadSignature: by nobody of ``issuers``, or the signature does not verify.
        Expired: its time is over.
    """
    jwt, signed, signature = _split(token)
    if jwt.iss not in issuers:
        raise BadSignature("the JWT is not by an issuer that is trusted here")
    kind = _PREFIXES.get(jwt.iss[:1])
    if kind is None or not verify_nkey(jwt.iss, kind, signed, signature):
        raise BadSignature("the JWT's signature does not verify")
    if jwt.exp and now >= jwt.exp:
        raise Expired("the JWT has expired")
    return jwt


def with_revocations(token: str, revoked: dict[str, int], *, operator: Nkey, issued_at: int) -> str:
    """The account JWT ``token`` signed again with ``revoked`` (user key -> Unix seconds) added; none is taken back.

    Args:
        token: an account JWT, trusted by the caller.
        revoked: public keys of users, and the time up to which their JWTs are refused.
        operator: the operator's signing key.
        issued_at: Unix seconds.

    Raises:
        Malformed: ``token`` is not an account's JWT, or a key is not a user's.
    """
    jwt = parse_jwt(token)
    if not isinstance(jwt.nats, AccountClaims):
        raise Malformed("only an account's JWT has revocations")
    merged = dict(jwt.nats.revocations)
    for key, until in revoked.items():
        if key != "*":
            parse_public_key(key, USER)
        merged[key] = max(until, merged.get(key, 0))
    return sign_jwt(
        msgspec.structs.replace(jwt.nats, revocations=merged),
        signer=operator,
        subject=jwt.sub,
        name=jwt.name,
        issued_at=issued_at,
        expires_at=jwt.exp,
    )
