"""Bus identities: nkeys, and the credentials file of an agent, auditor, operator or service.

A credentials file holds everything that its owner needs and nothing that anybody else must believe. The standard NATS
blocks come as every NATS client reads them (user JWT, nkey seed). A ``NOMOS CREDENTIALS`` block of JSON says where to
connect and as whom; an agent's file also has a ``NOMOS AGENT KEY`` block: the seed of its own UCAN key. The two keys
are separate, so that a hostile server's login nonce can never be a token. The server knows the owner by the signed
JWT; the names in the JSON block are for the client's convenience alone.

Only the standard library is imported when this module is: signing needs PyNaCl and imports it on first use.

Sources: the nkey encoding is that of github.com/nats-io/nkeys (one or two prefix bytes, 32 bytes, CRC-16/XMODEM little
endian, base32 without padding); the blocks are those of a NATS ``.creds`` file.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from nomos.errors import Conflict, Malformed
from nomos.ids import parse_slug

#: Prefix bytes of nkeys: the first letter of their base32 form.
OPERATOR: Final = 14 << 3  # O
ACCOUNT: Final = 0  # A
USER: Final = 20 << 3  # U
_SEED: Final = 18 << 3  # S
_KINDS: Final = frozenset({OPERATOR, ACCOUNT, USER})

RAW_KEY_BYTES: Final = 32
PUBLIC_KEY_LENGTH: Final = 56
SEED_LENGTH: Final = 58
CREDENTIALS_BYTES_MAX: Final = 65_536
SERVERS_MAX: Final = 16
SERVER_LENGTH_MAX: Final = 256
#: Who a credentials file can be for.
ROLES: Final = frozenset({"agent", "auditor", "operator", "tenant-operator", "service"})
#: Roles whose owner belongs to one tenant.
_TENANT_ROLES: Final = frozenset({"agent", "auditor", "tenant-operator"})

_JWT: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_SERVER: Final = re.compile(r"(?:nats|tls|ws|wss)://[A-Za-z0-9.:_\[\]-]+")
_BEGIN: Final = "-----BEGIN {}-----"
_END: Final = "------END {}------"
_HEADER: Final = "NOMOS CREDENTIALS"
_USER_JWT: Final = "NATS USER JWT"
_USER_SEED: Final = "USER NKEY SEED"
_AGENT_KEY: Final = "NOMOS AGENT KEY"


def _encode(prefix: bytes, raw: bytes) -> str:
    body = prefix + raw
    body += binascii.crc_hqx(body, 0).to_bytes(2, "little")
    return base64.b32encode(body).decode().rstrip("=")


def _decode(text: str, length: int, what: str) -> bytes:
    try:
        if len(text) != length:
            raise Malformed(f"{what} must be {length} characters, got {len(text)}")
        body = base64.b32decode(text + "=" * (-length % 8))
    except (binascii.Error, ValueError) as e:
        raise Malformed(f"{what} is not base32") from e
    if binascii.crc_hqx(body[:-2], 0).to_bytes(2, "little") != body[-2:]:
        raise Malformed(f"{what} has a wrong checksum")
    # Unused low bits of the last base32 character: one key has one spelling.
    if base64.b32encode(body).decode().rstrip("=") != text:
        raise Malformed(f"{what} is not in its canonical spelling")
    return body[:-2]


def parse_public_key(text: str, kind: int) -> bytes:
    """The 32 bytes of a public nkey.

    Args:
        text: 56 characters, for instance ``A...``.
        kind: :data:`OPERATOR`, :data:`ACCOUNT` or :data:`USER`.

    Raises:
        Malformed: not a canonical public nkey of that kind.
    """
    body = _decode(text, PUBLIC_KEY_LENGTH, "public nkey")
    if body[0] != kind:
        raise Malformed("public nkey is of another kind")
    return body[1:]


def verify_nkey(text: str, kind: int, message: bytes, signature: bytes) -> bool:
    """Whether ``signature`` (64 bytes) over ``message`` is by the public nkey ``text``.

    Raises:
        Malformed: ``text`` is not a public nkey of that kind.
    """
    from nacl.exceptions import CryptoError  # noqa: PLC0415  # see the module's docstring
    from nacl.signing import VerifyKey  # noqa: PLC0415

    raw = parse_public_key(text, kind)
    try:
        VerifyKey(raw).verify(message, signature)
    except (CryptoError, ValueError):
        return False
    return True


@dataclass(frozen=True, slots=True)
class Nkey:
    """A private nkey. ``repr`` shows its public half only."""

    kind: int
    raw_seed: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if self.kind not in _KINDS or len(self.raw_seed) != RAW_KEY_BYTES:
            raise Malformed(f"an nkey seed is {RAW_KEY_BYTES} bytes of a known kind")

    @classmethod
    def new(cls, kind: int, entropy: Callable[[int], bytes] = os.urandom) -> Nkey:
        """A new key of ``kind`` from ``entropy``."""
        return cls(kind, entropy(RAW_KEY_BYTES))

    @classmethod
    def parse(cls, seed: str, kind: int) -> Nkey:
        """The key of a seed (58 characters, ``SO``, ``SA`` or ``SU``).

        Raises:
            Malformed: not a canonical seed of ``kind``.
        """
        body = _decode(seed, SEED_LENGTH, "nkey seed")
        # The kind's five bits are split over both prefix bytes, so that both show as letters in base32.
        if body[0] & 0xF8 != _SEED or (body[0] & 0x07) << 5 | body[1] >> 3 != kind or body[1] & 0x07:
            raise Malformed("nkey seed is of another kind")
        return cls(kind, body[2:])

    @property
    def public(self) -> str:
        """The public key, 56 characters."""
        from nacl.signing import SigningKey  # noqa: PLC0415  # see the module's docstring

        return _encode(bytes([self.kind]), bytes(SigningKey(self.raw_seed).verify_key))

    @property
    def seed(self) -> str:
        """The secret seed, 58 characters."""
        return _encode(bytes([_SEED | self.kind >> 5, (self.kind & 31) << 3]), self.raw_seed)

    def sign(self, message: bytes) -> bytes:
        """The Ed25519 signature (64 bytes) of ``message``."""
        from nacl.signing import SigningKey  # noqa: PLC0415  # see the module's docstring

        return SigningKey(self.raw_seed).sign(message).signature


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """The content of a credentials file. ``repr`` shows no secret.

    Attributes:
        servers: server URLs, 1 to 16.
        role: one of :data:`ROLES`.
        name: the agent's, auditor's, operator's or service's slug.
        tenant: the tenant's slug; empty for services and for operators of the whole installation.
        jwt: the user JWT.
        user: the user nkey.
        agent_seed: Ed25519 seed of the agent's UCAN key, 32 bytes; None for every other role.
    """

    servers: tuple[str, ...]
    role: str
    name: str
    tenant: str
    jwt: str = field(repr=False)
    user: Nkey = field(repr=False)
    agent_seed: bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.role not in ROLES:
            raise Malformed(f"role must be one of {', '.join(sorted(ROLES))}")
        parse_slug(self.name, self.role)
        if self.role in _TENANT_ROLES:
            parse_slug(self.tenant, "tenant")
        elif self.tenant:
            raise Malformed(f"credentials of role {self.role} name no tenant")
        if not 1 <= len(self.servers) <= SERVERS_MAX:
            raise Malformed(f"credentials name 1 to {SERVERS_MAX} servers")
        for server in self.servers:
            if len(server) > SERVER_LENGTH_MAX or not _SERVER.fullmatch(server):
                raise Malformed("a server is nats://, tls://, ws:// or wss:// with host and port")
        if not _JWT.fullmatch(self.jwt):
            raise Malformed("user JWT is not three base64url parts")
        if self.user.kind != USER:
            raise Malformed("nkey seed is not a user's")
        if (self.agent_seed is not None) != (self.role == "agent"):
            raise Malformed("an agent key belongs to the role agent, and to no other")
        if self.agent_seed is not None and len(self.agent_seed) != RAW_KEY_BYTES:
            raise Malformed(f"an agent key is {RAW_KEY_BYTES} bytes")

    def nats_text(self) -> str:
        """The two standard blocks, as NATS clients read them. Secret; it has no agent key."""
        return _block(_USER_JWT, self.jwt) + "\n" + _block(_USER_SEED, self.user.seed)

    def text(self) -> str:
        """The whole file. Secret."""
        header = json.dumps(
            {"v": 1, "name": self.name, "role": self.role, "servers": list(self.servers), "tenant": self.tenant},
            sort_keys=True,
        )
        parts = [_block(_HEADER, header), self.nats_text()]
        if self.agent_seed is not None:
            seed = base64.urlsafe_b64encode(self.agent_seed).decode().rstrip("=")
            parts.append(_block(_AGENT_KEY, seed))
        return "\n".join(parts)


def _block(name: str, line: str) -> str:
    return f"{_BEGIN.format(name)}\n{line}\n{_END.format(name)}\n"


def write_creds(path: Path, credentials: Credentials) -> None:
    """Writes a new credentials file, readable by its owner alone, and makes it durable.

    Raises:
        Conflict: the file exists; nothing is overwritten.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError as e:
        raise Conflict("the credentials file exists", hint="remove it first, or write to another path") from e
    with os.fdopen(descriptor, "wb") as f:
        f.write(credentials.text().encode())
        f.flush()
        os.fsync(f.fileno())


def read_creds(path: Path) -> Credentials:
    """The credentials in the file at ``path``.

    Raises:
        Malformed: not a credentials file.
        OSError: it cannot be read.
    """
    with path.open("rb") as f:
        content = f.read(CREDENTIALS_BYTES_MAX + 1)
    try:
        return parse_creds(content.decode())
    except UnicodeDecodeError as e:
        raise Malformed("credentials are not UTF-8") from e


def parse_creds(text: str) -> Credentials:
    """The credentials in ``text``.

    Raises:
        Malformed: a block is missing, unknown, twice there or not what it says.
    """
    if len(text) > CREDENTIALS_BYTES_MAX:
        raise Malformed(f"CREDENTIALS_BYTES_MAX is {CREDENTIALS_BYTES_MAX}")
    blocks = _parse_blocks(text)
    try:
        header, jwt, seed = blocks.pop(_HEADER), blocks.pop(_USER_JWT), blocks.pop(_USER_SEED)
    except KeyError as e:
        raise Malformed(f"credentials have no block {e.args[0]}") from e
    agent_key = blocks.pop(_AGENT_KEY, None)
    if blocks:
        raise Malformed("credentials have an unknown block")
    facts = _parse_header(header)
    return Credentials(
        servers=facts.servers,
        role=facts.role,
        name=facts.name,
        tenant=facts.tenant,
        jwt=jwt,
        user=Nkey.parse(seed, USER),
        agent_seed=None if agent_key is None else _parse_agent_key(agent_key),
    )


def _parse_blocks(text: str) -> dict[str, str]:
    lines = [line for line in (raw.strip() for raw in text.split("\n")) if line]
    blocks: dict[str, str] = {}
    for at in range(0, len(lines), 3):
        begin, _, name = lines[at].removesuffix("-----").partition("BEGIN ")
        if begin != "-----" or len(lines) < at + 3 or lines[at] != _BEGIN.format(name):
            raise Malformed("credentials are blocks of BEGIN, one line and END")
        # The NATS tools write five or six hyphens before END.
        if lines[at + 2] not in (_END.format(name), _END.format(name)[1:-1]):
            raise Malformed("a block of the credentials does not end")
        if name in blocks:
            raise Malformed("a block of the credentials is there twice")
        blocks[name] = lines[at + 1]
    return blocks


@dataclass(frozen=True, slots=True)
class _Header:
    servers: tuple[str, ...]
    role: str
    name: str
    tenant: str


def _parse_header(line: str) -> _Header:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError) as e:
        raise Malformed("the credentials' header is not JSON") from e
    if not isinstance(found, dict) or set(found) != {"v", "name", "role", "servers", "tenant"}:
        raise Malformed("the credentials' header has v, name, role, servers and tenant")
    version, servers = found["v"], found["servers"]
    if version != 1 or isinstance(version, bool):
        raise Malformed("the credentials' version is not 1")
    if not isinstance(servers, list) or not all(isinstance(s, str) for s in servers):
        raise Malformed("servers in the credentials are a list of URLs")
    if not all(isinstance(found[k], str) for k in ("name", "role", "tenant")):
        raise Malformed("name, role and tenant in the credentials are strings")
    return _Header(tuple(servers), found["role"], found["name"], found["tenant"])


def _parse_agent_key(line: str) -> bytes:
    try:
        raw = base64.b64decode(line + "=" * (-len(line) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as e:
        raise Malformed("the agent key is not base64url") from e
    if len(raw) != RAW_KEY_BYTES or base64.urlsafe_b64encode(raw).decode().rstrip("=") != line:
        raise Malformed("the agent key is not 32 bytes in canonical base64url")
    return raw
