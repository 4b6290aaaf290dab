"""Credentials at rest: sealed under a key of their tenant, which is sealed under the environment's key.

A record is ``version (1) ‖ key id (8) ‖ nonce (24) ‖ ciphertext and tag``, XChaCha20-Poly1305. The associated data
names what the record is for and where it lives, each part with its length before it, so a record that is moved to
another tenant, connection or provider does not open. Order of the checks: length, version, key, tag.

* The environment key comes from ``OAUTH_TOKEN_ENCRYPTION_KEY``; others stay on the keyring until
  :mod:`nomos_runtime.resealing` has moved every data key off them.
* Deleting a tenant's wrapped data key makes its credentials unreadable for good, wherever their bytes were copied.

Trusted / not trusted: who controls the table can at most delete records or put back an older one of the same place.

Sources: draft-irtf-cfrg-xchacha-03; RFC 8439 section 2.8; NIST SP 800-38F section 3 (key wrapping, purpose).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from msgspec import Struct
from nacl.bindings import (
    crypto_aead_xchacha20poly1305_ietf_decrypt,
    crypto_aead_xchacha20poly1305_ietf_encrypt,
)
from nacl.exceptions import CryptoError

from nomos.errors import LimitExceeded, Misconfigured, Unavailable
from nomos_runtime.secret import Secret

RECORD_VERSION: Final = 1
KEY_BYTES: Final = 32
KEY_ID_BYTES: Final = 8
NONCE_BYTES: Final = 24
TAG_BYTES: Final = 16
_HEAD_BYTES: Final = 1 + KEY_ID_BYTES + NONCE_BYTES
#: Bytes of a sealed content: two tokens of the longest kind, and what was granted with them. What a provider has handed
#: out once must fit, or it would be lost.
CREDENTIAL_BYTES_MAX: Final = 40_960
#: Environment keys on one ring: the current one and those that a rotation has not emptied yet.
KEYRING_KEYS_MAX: Final = 8

#: What a record is for; the first part of its associated data.
PURPOSE_BEARER: Final = "bearer-v1"
PURPOSE_REFRESH: Final = "refresh-token-v1"
PURPOSE_CLIENT: Final = "oauth-client-v1"
#: Another purpose than a secret's: what is a key can never be opened as something that is sent.
PURPOSE_CLIENT_KEY: Final = "oauth-client-key-v1"
PURPOSE_FLOW: Final = "oauth-flow-v1"
_PURPOSE_DATA_KEY: Final = "tenant-data-key-v1"


class CredentialUnreadable(Unavailable):
    """A sealed record that does not open: altered, moved, or under a key that this process does not hold."""

    code = "credential_unreadable"


class Place(Struct, frozen=True, kw_only=True):
    """Where a record lives. It opens only there.

    Attributes:
        purpose: one of the ``PURPOSE_*`` constants.
        tenant: the tenant that owns it.
        connection: name of the connection in that tenant.
        provider: name of the connector.
    """

    purpose: str
    tenant: str
    connection: str
    provider: str


class _Key:
    """A 32-byte key and its id."""

    __slots__ = ("id", "secret")

    def __init__(self, secret: Secret) -> None:
        self.secret = secret
        # 8 bytes of a digest of 32 random bytes name the key and say nothing useful about it
        self.id = hashlib.sha256(secret.reveal()).digest()[:KEY_ID_BYTES]


class DataKey(_Key):
    """A tenant's key, opened. Lives in memory only."""

    __slots__ = ("tenant",)

    def __init__(self, tenant: str, secret: Secret) -> None:
        super().__init__(secret)
        self.tenant = tenant


class Keyring:
    """The environment's keys: one that seals, and older ones that still open."""

    __slots__ = ("_by_id", "_current")

    def __init__(self, current: Secret, older: Sequence[Secret] = ()) -> None:
        """Takes the keys.

        Raises:
            Misconfigured: a key is not 32 bytes, one stands twice, or there are more than ``KEYRING_KEYS_MAX``.
        """
        keys = [current, *older]
        if len(keys) > KEYRING_KEYS_MAX:
            raise Misconfigured(f"at most {KEYRING_KEYS_MAX} token encryption keys, got {len(keys)}")
        if any(len(key.reveal()) != KEY_BYTES for key in keys):
            raise Misconfigured(f"a token encryption key must be {KEY_BYTES} bytes")
        ring = [_Key(key) for key in keys]
        self._current = ring[0]
        self._by_id: Mapping[bytes, _Key] = {key.id: key for key in ring}
        if len(self._by_id) != len(ring):
            raise Misconfigured("a token encryption key stands twice on the ring")

    @classmethod
    def parse(cls, current: str, older: Sequence[str] = ()) -> Keyring:
        """Reads keys as the environment holds them: 32 bytes each in base64url, padding optional.

        Raises:
            Misconfigured: not such keys. The message never repeats them.
        """
        return cls(_parse_key(current), [_parse_key(text) for text in older])

    @property
    def current(self) -> _Key:
        """The key that seals."""
        return self._current

    @property
    def has_others(self) -> bool:
        """Whether a key beside the current one opens."""
        return len(self._by_id) > 1

    def find(self, key_id: bytes) -> _Key:
        """The key with this id.

        Raises:
            CredentialUnreadable: it is not on the ring.
        """
        found = self._by_id.get(key_id)
        if found is None:
            raise CredentialUnreadable("the credential is sealed under a key that is not on the ring")
        return found


def _parse_key(text: str) -> Secret:
    try:
        key = base64.b64decode(text.strip().rstrip("=") + "=", altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        # the foreign exception holds a part of the text, so it is not chained
        raise Misconfigured("a token encryption key must be base64url") from None
    if len(key) != KEY_BYTES:
        raise Misconfigured(f"a token encryption key must be {KEY_BYTES} bytes, got {len(key)}")
    return Secret(key)


class Vault:
    """Seals and opens credentials and the tenants' data keys. Holds the environment's keys; does no IO."""

    __slots__ = ("_keyring", "_random_bytes")

    def __init__(self, keyring: Keyring, random_bytes: Callable[[int], bytes]) -> None:
        """Takes the keys and the source of randomness (``os.urandom`` outside tests)."""
        self._keyring = keyring
        self._random_bytes = random_bytes

    @property
    def is_rotating(self) -> bool:
        """Whether there are other keys on the ring beside the current one."""
        return self._keyring.has_others

    def new_data_key(self, tenant: str) -> bytes:
        """A fresh data key for ``tenant``, sealed under the current environment key."""
        return self._wrap(tenant, self._random_bytes(KEY_BYTES))

    def open_data_key(self, tenant: str, wrapped: bytes) -> DataKey:
        """Opens a tenant's data key.

        Raises:
            CredentialUnreadable: altered, of another tenant, or under a key that is not on the ring.
        """
        key = self._keyring.find(key_id_of(wrapped))
        return DataKey(tenant, Secret(_open(key, _data_key_place(tenant), wrapped)))

    def rewrap(self, tenant: str, wrapped: bytes) -> bytes | None:
        """The data key sealed again under the current environment key, or None if it already is.

        Records of the tenant stay as they are: they are sealed under the data key, which does not change.

        Raises:
            CredentialUnreadable: as :meth:`open_data_key`.
        """
        if self.is_current(wrapped):
            return None
        return self._wrap(tenant, self.open_data_key(tenant, wrapped).secret.reveal())

    def is_current(self, wrapped: bytes) -> bool:
        """Whether a wrapped data key, or what :meth:`seal_key` gave, is under the current environment key."""
        return key_id_of(wrapped) == self._keyring.current.id

    def seal(self, data_key: DataKey, place: Place, credential: Secret) -> bytes:
        """Seals a credential for one place.

        Raises:
            LimitExceeded: longer than ``CREDENTIAL_BYTES_MAX``.
            CredentialUnreadable: the data key is another tenant's.
        """
        content = credential.reveal()
        if len(content) > CREDENTIAL_BYTES_MAX:
            raise LimitExceeded("credential_bytes_max", CREDENTIAL_BYTES_MAX, len(content))
        _check_tenant(data_key, place)
        return self._seal(data_key, place, content)

    def open(self, data_key: DataKey, place: Place, record: bytes) -> Secret:
        """Opens a credential at its place.

        Raises:
            CredentialUnreadable: altered, of another place, or under another data key.
        """
        _check_tenant(data_key, place)
        if key_id_of(record) != data_key.id:
            raise CredentialUnreadable("the credential is sealed under another data key")
        return Secret(_open(data_key, place, record))

    def seal_key(self, place: Place, key: Secret) -> bytes:
        """Seals a private key of a tenant under the current environment key, for one place."""
        return self._seal(self._keyring.current, place, key.reveal())

    def open_key(self, place: Place, record: bytes) -> Secret:
        """Opens what :meth:`seal_key` sealed, at its place.

        Raises:
            CredentialUnreadable: altered, of another place, or under a key that is not on the ring.
        """
        return Secret(_open(self._keyring.find(key_id_of(record)), place, record))

    def _wrap(self, tenant: str, content: bytes) -> bytes:
        return self._seal(self._keyring.current, _data_key_place(tenant), content)

    def _seal(self, key: _Key, place: Place, content: bytes) -> bytes:
        nonce = self._random_bytes(NONCE_BYTES)
        sealed = crypto_aead_xchacha20poly1305_ietf_encrypt(
            content, _associated_data(place, key.id), nonce, key.secret.reveal()
        )
        return bytes([RECORD_VERSION]) + key.id + nonce + sealed


def key_id_of(record: bytes) -> bytes:
    """The id of the key that a record is sealed under; not authenticated until the record is opened.

    Raises:
        CredentialUnreadable: too short, or of another version.
    """
    if len(record) < _HEAD_BYTES + TAG_BYTES or record[0] != RECORD_VERSION:
        raise CredentialUnreadable(f"not a sealed record of version {RECORD_VERSION}")
    return record[1 : 1 + KEY_ID_BYTES]


def _open(key: _Key, place: Place, record: bytes) -> bytes:
    nonce, sealed = record[1 + KEY_ID_BYTES : _HEAD_BYTES], record[_HEAD_BYTES:]
    try:
        return crypto_aead_xchacha20poly1305_ietf_decrypt(
            sealed, _associated_data(place, key.id), nonce, key.secret.reveal()
        )
    except CryptoError:
        raise CredentialUnreadable("the credential does not open: altered, or moved from its place") from None


def _data_key_place(tenant: str) -> Place:
    return Place(purpose=_PURPOSE_DATA_KEY, tenant=tenant, connection="", provider="")


def _check_tenant(data_key: DataKey, place: Place) -> None:
    if data_key.tenant != place.tenant:
        raise CredentialUnreadable("the data key belongs to another tenant")


def _associated_data(place: Place, key_id: bytes) -> bytes:
    parts = [
        place.purpose.encode(),
        place.tenant.encode(),
        place.connection.encode(),
        place.provider.encode(),
        key_id,
        bytes([RECORD_VERSION]),
    ]
    # the length before each part keeps ("ab", "c") and ("a", "bc") apart
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)
