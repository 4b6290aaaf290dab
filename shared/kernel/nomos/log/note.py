"""Signed notes and verifier keys: c2sp.org/signed-note.

Decides what bytes are a note, which signature lines belong to which key, and whether they verify. What the text of a
note means is decided in :mod:`nomos.log.checkpoint`; which keys are trusted in :mod:`nomos.log.trust`.

Rules, in order: valid UTF-8, no control characters but newline; text, blank line, 1 to 16 signature lines, each with
canonical base64; a line belongs to a key only if **name and key id** both match, wherever the line stands; lines of
unknown keys are ignored; a line of a known key that does not verify condemns the whole note.
"""

from __future__ import annotations

import re
from base64 import b64encode
from binascii import Error as Base64Error
from binascii import a2b_base64
from collections.abc import Iterable
from enum import IntEnum
from hashlib import sha256
from typing import Final

import msgspec
from nacl.exceptions import BadSignatureError
from nacl.signing import SigningKey, VerifyKey

from nomos.errors import BadSignature, LimitExceeded, MalformedRecord

#: A verifier must take 16 lines (signed-note, "Format"); we take no more.
SIGNATURES_MAX: Final = 16
NOTE_BYTES_MAX: Final = 65_536
KEY_NAME_LENGTH_MAX: Final = 255
KEY_ID_BYTES: Final = 4
ED25519_KEY_BYTES: Final = 32
ED25519_SIGNATURE_BYTES: Final = 64
_SIGNATURE_START: Final = "\u2014 "
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f]")
_KEY_ID = re.compile(r"[0-9a-f]{8}")


class NoKnownKey(BadSignature):
    """A note that no key known to the reader has signed. It may be honest; it says nothing."""

    code = "no_known_key"


class KeyKind(IntEnum):
    """Signature type byte of a verifier key (signed-note, "Signature types"). Others are not supported."""

    ED25519 = 0x01
    COSIGNATURE_V1 = 0x04


class VerifierKey(msgspec.Struct, frozen=True, kw_only=True):
    """A public key with its name. ``public`` is 32 bytes."""

    name: str
    kind: KeyKind
    public: bytes

    @property
    def key_id(self) -> bytes:
        """The 4 bytes by which signature lines refer to this key."""
        return sha256(self.name.encode() + b"\n" + bytes([self.kind]) + self.public).digest()[:KEY_ID_BYTES]

    def __str__(self) -> str:
        encoded = b64encode(bytes([self.kind]) + self.public).decode()
        return f"{self.name}+{self.key_id.hex()}+{encoded}"


class Signature(msgspec.Struct, frozen=True, kw_only=True):
    """One signature line, not verified. ``signature`` is what follows the 4 bytes of key id."""

    name: str
    key_id: bytes
    signature: bytes


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """A parsed note, not verified. ``text`` ends in a newline."""

    text: str
    signatures: tuple[Signature, ...]


class NoteSigner:
    """Signs note texts with an Ed25519 key (type 0x01). Whoever holds one can speak for the log."""

    __slots__ = ("_signing_key", "verifier_key")

    def __init__(self, name: str, seed: bytes) -> None:
        """Takes the key name (a log's origin) and the 32-byte seed.

        Raises:
            MalformedRecord: the name or the seed's length is not allowed.
        """
        check_key_name(name)
        if len(seed) != ED25519_KEY_BYTES:
            raise MalformedRecord(f"an Ed25519 seed has {ED25519_KEY_BYTES} bytes")
        self._signing_key = SigningKey(seed)
        self.verifier_key = VerifierKey(name=name, kind=KeyKind.ED25519, public=bytes(self._signing_key.verify_key))

    def sign(self, text: str) -> Signature:
        """The signature line over ``text``, which must end in a newline."""
        signed = self._signing_key.sign(text.encode()).signature
        return Signature(name=self.verifier_key.name, key_id=self.verifier_key.key_id, signature=signed)


def decode_base64(text: str) -> bytes:
    """Decodes RFC 4648 section 4 base64 and refuses every spelling but the canonical one.

    Raises:
        MalformedRecord: other alphabet, spaces, padding missing, bits set under the padding.
    """
    try:
        decoded = a2b_base64(text.encode("ascii"), strict_mode=True)
    except (Base64Error, UnicodeEncodeError) as error:
        raise MalformedRecord("not base64", cause=str(error)) from None
    if b64encode(decoded).decode() != text:
        raise MalformedRecord("base64 must be in its canonical form")
    return decoded


def check_key_name(name: str) -> None:
    """Checks a key name: not empty, no Unicode space, no plus sign, no control character.

    Raises:
        MalformedRecord: it has one.
    """
    if not 0 < len(name) <= KEY_NAME_LENGTH_MAX or "+" in name or any(one.isspace() or one < " " for one in name):
        raise MalformedRecord(f"a key name has 1 to {KEY_NAME_LENGTH_MAX} characters and no space or plus sign")


def parse_vkey(text: str) -> VerifierKey:
    """Parses ``<name>+<key id>+<base64 of type byte and key>``.

    Raises:
        MalformedRecord: another form, a type other than Ed25519 and cosignature/v1, a key id that does not fit.
    """
    parts = text.split("+", 2)
    if len(parts) != 3:
        raise MalformedRecord("a verifier key has the form name+id+key")
    name, key_id, encoded = parts
    check_key_name(name)
    material = decode_base64(encoded)
    if len(material) != 1 + ED25519_KEY_BYTES or material[0] not in set(KeyKind):
        raise MalformedRecord("a verifier key must be Ed25519 (type 1) or cosignature/v1 (type 4)")
    parsed = VerifierKey(name=name, kind=KeyKind(material[0]), public=material[1:])
    if _KEY_ID.fullmatch(key_id) is None or bytes.fromhex(key_id) != parsed.key_id:
        raise MalformedRecord("the key id does not belong to the name and key")
    return parsed


def parse_note(encoded: bytes) -> Note:
    """Parses a note without verifying it.

    Raises:
        MalformedRecord: it breaks the format.
        LimitExceeded: longer than :data:`NOTE_BYTES_MAX` or more lines than :data:`SIGNATURES_MAX`.
    """
    if len(encoded) > NOTE_BYTES_MAX:
        raise LimitExceeded("note size in bytes", NOTE_BYTES_MAX, len(encoded))
    try:
        whole = encoded.decode()
    except UnicodeDecodeError:
        raise MalformedRecord("a note must be UTF-8") from None
    if _CONTROL.search(whole):
        raise MalformedRecord("a note must have no control character but newline")
    text, blank, lines = whole.rpartition("\n\n")
    if not blank or not text or not lines.endswith("\n"):
        raise MalformedRecord("a note has a text, a blank line and signature lines")
    found = lines[:-1].split("\n")
    if len(found) > SIGNATURES_MAX:
        raise LimitExceeded("signature lines of a note", SIGNATURES_MAX, len(found))
    return Note(text=text + "\n", signatures=tuple(_parse_signature(line) for line in found))


def _parse_signature(line: str) -> Signature:
    parts = line.removeprefix(_SIGNATURE_START).split(" ")
    if not line.startswith(_SIGNATURE_START) or len(parts) != 2:
        raise MalformedRecord("a signature line has a dash, a name and base64, with one space between")
    check_key_name(parts[0])
    decoded = decode_base64(parts[1])
    if len(decoded) <= KEY_ID_BYTES:
        raise MalformedRecord("a signature line must hold a key id and a signature")
    return Signature(name=parts[0], key_id=decoded[:KEY_ID_BYTES], signature=decoded[KEY_ID_BYTES:])


def format_note(note: Note) -> bytes:
    """The bytes of ``note``; :func:`parse_note` gives it back."""
    lines = (
        f"{_SIGNATURE_START}{one.name} {b64encode(one.key_id + one.signature).decode()}\n" for one in note.signatures
    )
    return f"{note.text}\n{''.join(lines)}".encode()


def sign_note(text: str, signers: Iterable[NoteSigner]) -> bytes:
    """A note over ``text`` with one line of each signer.

    Raises:
        MalformedRecord: the text cannot stand in a note.
    """
    encoded = format_note(Note(text=text, signatures=tuple(signer.sign(text) for signer in signers)))
    if parse_note(encoded).text != text:
        raise MalformedRecord("a note's text must end in a newline")
    return encoded


def lines_of(note: Note, known: VerifierKey) -> list[Signature]:
    """All lines of the key ``known``, by name and key id, wherever they stand."""
    wanted = (known.name, known.key_id)
    return [one for one in note.signatures if (one.name, one.key_id) == wanted]


def verify_ed25519(public: bytes, message: bytes, signature: bytes) -> None:
    """Checks one Ed25519 signature; libsodium also refuses keys of small order.

    Raises:
        BadSignature: it does not verify.
    """
    if len(signature) != ED25519_SIGNATURE_BYTES:
        raise BadSignature(f"an Ed25519 signature has {ED25519_SIGNATURE_BYTES} bytes, got {len(signature)}")
    try:
        VerifyKey(public).verify(message, signature)
    except BadSignatureError:
        raise BadSignature("an Ed25519 signature does not verify") from None


def verify_note(note: Note, known: Iterable[VerifierKey]) -> list[VerifierKey]:
    """Which of the ``known`` Ed25519 keys (type 0x01) signed the text, each once.

    Raises:
        BadSignature: a line of a known key does not verify.
        NoKnownKey: no known key signed.
    """
    text = note.text.encode()
    signed: list[VerifierKey] = []
    for candidate in known:
        if candidate.kind is not KeyKind.ED25519:
            continue
        lines = lines_of(note, candidate)
        for line in lines:
            verify_ed25519(candidate.public, text, line.signature)
        if lines:
            signed.append(candidate)
    if not signed:
        raise NoKnownKey("no known key signed the note")
    return signed
