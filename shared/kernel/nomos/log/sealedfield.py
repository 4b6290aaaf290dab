"""Personal fields of records: sealed under a key of the person before they are hashed, so that they can be erased.

Decides the bytes of a sealed field, what its key commits to, where it may stand, and which fields of which events are
personal (:data:`PERSONAL`, a closed table: one line adds a field). Leaves keys and their destruction to whoever emits
the event, and what an erasure means for a log to :mod:`nomos.log.erasure`.

* A **subject** is a person, named in events by a random id (``sub-``); its key is ``dek_`` with the same digits. One
  person has another subject, and another key, in each tenant and in each service.
* XChaCha20-Poly1305 does not commit to its key: who chooses two keys can build one ciphertext that opens to two texts.
  ``kc`` names the key by its SHA-256, and the chain holds ``kc``; a key with another commitment opens nothing.
* The associated data names tenant, event, field, key and commitment, so that a ciphertext opens at its place only. The
  log's origin is not among them: producers do not know it, an event's id is 128 bits that no other event has, and the
  same event may be chained again by a successor log.
* Texts are padded to whole blocks: the length of a ciphertext would outlive the name.

Sources: draft-irtf-cfrg-xchacha-03; ISO/IEC 7816-4 (padding); RFC 8785 (the associated data's spelling).
"""

from __future__ import annotations

import base64
import binascii
import re
from hashlib import sha256
from typing import ClassVar, Final

import msgspec
from nacl.bindings import (
    crypto_aead_xchacha20poly1305_ietf_decrypt,
    crypto_aead_xchacha20poly1305_ietf_encrypt,
    sodium_pad,
    sodium_unpad,
)
from nacl.exceptions import CryptoError

from nomos.errors import LimitExceeded, Malformed, MalformedRecord, Refused
from nomos.ids import is_id
from nomos.log.record import canonical_bytes

ALGORITHM: Final = "xc20p"
KEY_BYTES: Final = 32
NONCE_BYTES: Final = 24
TAG_BYTES: Final = 16
#: Texts are padded to a multiple of so many bytes.
BLOCK_BYTES: Final = 64
#: UTF-8 bytes of one sealed text.
TEXT_BYTES_MAX: Final = 2_048
_CIPHERTEXT_BYTES_MAX: Final = TEXT_BYTES_MAX + BLOCK_BYTES + TAG_BYTES
_COMMITMENT: Final = b"audit-dek/v1\n"
_DEK: Final = "dek_"
_SUBJECT: Final = "sub-"
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_BASE64URL: Final = re.compile(r"[A-Za-z0-9_-]*")

#: {subject, kind, name}: a person became known to a service. The one place where their name stands, sealed.
SUBJECT_NAMED: Final = "subject.named"
#: {subject, dek, kc, kind, basis, at}: the key has been destroyed; what is sealed under it is erased.
SUBJECT_ERASED: Final = "subject.erased"
#: Event type -> its personal fields, each with the member of the event that names the subject.
PERSONAL: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    SUBJECT_NAMED: (("name", "subject"),),
    "approver.added": (("name", "approver"),),
    "passkey.enrolled": (("label", "approver"),),
    "passkey.renamed": (("label", "approver"),),
    "stepup.denied": (("reason", "approver"),),
}


class FieldUnreadable(Refused):
    """A sealed field that does not open: altered, moved from its place, or under another key."""

    code: ClassVar[str] = "field_unreadable"


class SealedField(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One sealed text, as it stands in a record. Made by :func:`seal_text` or :func:`parse_sealed`.

    Attributes:
        alg: :data:`ALGORITHM`.
        ct: ciphertext and tag, base64url without padding.
        dek: id of the key.
        kc: the key's commitment, 64 hex digits.
        n: nonce, 24 bytes, base64url.
    """

    alg: str
    ct: str
    dek: str
    kc: str
    n: str


class FieldPlace(msgspec.Struct, frozen=True, kw_only=True):
    """Where a sealed field stands: tenant, id of its event (the record's id), and member of the event."""

    tenant: str
    id: str
    field: str


def is_subject(text: str) -> bool:
    """Whether ``text`` is a subject's id."""
    return text.startswith(_SUBJECT) and is_id(_DEK + text.removeprefix(_SUBJECT), "dek")


def subject_of(dek: str) -> str:
    """The subject whose key ``dek`` is."""
    return _SUBJECT + dek.removeprefix(_DEK)


def dek_of(subject: str) -> str:
    """The id of the key of ``subject``.

    Raises:
        Malformed: it is no subject's id.
    """
    if not is_subject(subject):
        raise Malformed("a subject's id must be sub- and 32 hex digits")
    return _DEK + subject.removeprefix(_SUBJECT)


def commitment(key: bytes) -> str:
    """What a record says of the key that seals its fields; 64 hex digits."""
    return sha256(_COMMITMENT + key).hexdigest()


def seal_text(key: bytes, dek: str, place: FieldPlace, text: str, nonce: bytes) -> SealedField:
    """Seals ``text`` for one place.

    Args:
        key: 32 bytes.
        dek: the key's id.
        place: where it will stand.
        text: at most :data:`TEXT_BYTES_MAX` bytes of UTF-8.
        nonce: 24 fresh random bytes.

    Raises:
        LimitExceeded: the text is longer.
        Malformed: it cannot be UTF-8 (a lone surrogate).
    """
    try:
        content = text.encode()
    except UnicodeEncodeError:
        raise Malformed("a personal text holds a lone surrogate") from None
    if len(content) > TEXT_BYTES_MAX:
        raise LimitExceeded("TEXT_BYTES_MAX", TEXT_BYTES_MAX, len(content))
    kc = commitment(key)
    padded = sodium_pad(content, BLOCK_BYTES)
    sealed = crypto_aead_xchacha20poly1305_ietf_encrypt(padded, _associated_data(place, dek, kc), nonce, key)
    return SealedField(alg=ALGORITHM, ct=_b64url(sealed), dek=dek, kc=kc, n=_b64url(nonce))


def open_text(key: bytes, place: FieldPlace, field: SealedField) -> str:
    """Opens a sealed field at its place. The commitment is compared before anything is decrypted.

    Raises:
        FieldUnreadable: another key, altered, or moved from its place.
    """
    if len(key) != KEY_BYTES or commitment(key) != field.kc:
        raise FieldUnreadable("the key is not the one that the record commits to")
    try:
        padded = crypto_aead_xchacha20poly1305_ietf_decrypt(
            _parse_b64url(field.ct), _associated_data(place, field.dek, field.kc), _parse_b64url(field.n), key
        )
        return sodium_unpad(padded, BLOCK_BYTES).decode()
    except (CryptoError, UnicodeDecodeError):
        raise FieldUnreadable("the field does not open: altered, or moved from its place") from None


def parse_sealed(value: object) -> SealedField:
    """Judges the form of a sealed field.

    Args:
        value: what stands in the record, as ``orjson.loads`` gives it.

    Raises:
        MalformedRecord: another algorithm, member, length or spelling.
    """
    try:
        field = msgspec.convert(value, SealedField)
    except msgspec.ValidationError as error:
        raise MalformedRecord("a sealed field lacks a member or has a wrong one", cause=str(error)) from None
    if field.alg != ALGORITHM:
        raise MalformedRecord(f"a sealed field's algorithm must be {ALGORITHM}")
    if not is_id(field.dek, "dek"):
        raise MalformedRecord("a sealed field's key must be dek_ and 32 hex digits")
    if _DIGEST.fullmatch(field.kc) is None:
        raise MalformedRecord("a key commitment must be 64 lower-case hex digits")
    if len(_parse_b64url(field.n)) != NONCE_BYTES:
        raise MalformedRecord(f"a sealed field's nonce must be {NONCE_BYTES} bytes")
    size = len(_parse_b64url(field.ct))
    if not TAG_BYTES + BLOCK_BYTES <= size <= _CIPHERTEXT_BYTES_MAX or (size - TAG_BYTES) % BLOCK_BYTES:
        raise MalformedRecord(f"a sealed text must be whole blocks of {BLOCK_BYTES} bytes, and a tag")
    return field


def sealed_fields(kind: str, event: dict[str, object]) -> list[tuple[str, SealedField]]:
    """The sealed fields of an event, by the table. Only these places are read: elsewhere a caller may put anything.

    Raises:
        MalformedRecord: one of them has another form, or is under the key of another subject than the event names.
    """
    found = []
    for name, of in PERSONAL.get(kind, ()):
        value = event.get(name)
        if isinstance(value, dict):
            field = parse_sealed(value)
            if subject_of(field.dek) != event.get(of):
                raise MalformedRecord("a sealed field is under the key of another person than the event names")
            found.append((name, field))
    return found


def plain_fields(kind: str, event: dict[str, object]) -> int:
    """How many personal fields of an event stand in plain text, as in records from before fields were sealed."""
    return sum(isinstance(text := event.get(name), str) and text != "" for name, _ in PERSONAL.get(kind, ()))


def _associated_data(place: FieldPlace, dek: str, kc: str) -> bytes:
    return canonical_bytes({"dek": dek, "field": place.field, "id": place.id, "kc": kc, "tenant": place.tenant})


def _b64url(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


def _parse_b64url(text: str) -> bytes:
    if _BASE64URL.fullmatch(text) is None:
        raise MalformedRecord("a sealed field must be base64url without padding")
    try:
        content = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (binascii.Error, ValueError):
        raise MalformedRecord("a sealed field must be base64url without padding") from None
    if _b64url(content) != text:
        raise MalformedRecord("a sealed field has one spelling in base64url")
    return content
