"""Checkpoints and cosignatures: c2sp.org/tlog-checkpoint and c2sp.org/tlog-cosignature (Ed25519, cosignature/v1).

Decides the three lines of a checkpoint, and whether the log's key and the witnesses' keys signed them. Whether those
keys are enough is decided by the policy in :mod:`nomos.log.trust`.
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec
from nacl.signing import SigningKey

from nomos.errors import BadSignature, MalformedRecord
from nomos.log.note import (
    ED25519_KEY_BYTES,
    ED25519_SIGNATURE_BYTES,
    KeyKind,
    Note,
    NoteSigner,
    Signature,
    VerifierKey,
    check_key_name,
    decode_base64,
    format_note,
    lines_of,
    parse_note,
    sign_note,
    verify_ed25519,
    verify_note,
)
from nomos.log.tree import EMPTY_ROOT, HASH_BYTES, TREE_SIZE_MAX

_DECIMAL = re.compile(r"0|[1-9][0-9]{0,18}")
_TIMESTAMP_BYTES: Final = 8
TIMESTAMP_MAX: Final = 2**63 - 1
_LINES_MIN: Final = 3


class Checkpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A tree head: log identity, number of leaves, 32-byte RFC 6962 root, and lines that our log never writes."""

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    def text(self) -> str:
        """The note text, with its last newline."""
        lines = (self.origin, str(self.size), b64encode(self.root).decode(), *self.extensions)
        return "".join(f"{line}\n" for line in lines)


class Cosignature(msgspec.Struct, frozen=True, kw_only=True):
    """A verified statement of a witness. ``time`` is Unix seconds by the witness's clock."""

    witness: VerifierKey
    time: int


class VerifiedCheckpoint(msgspec.Struct, frozen=True, kw_only=True):
    """A checkpoint with the log keys and cosignatures that verified. Made by :func:`open_checkpoint` only."""

    checkpoint: Checkpoint
    keys: tuple[VerifierKey, ...]
    cosignatures: tuple[Cosignature, ...]


class WitnessSigner:
    """Cosigns checkpoints as a witness (type 0x04). The caller has checked consistency before."""

    __slots__ = ("_signing_key", "verifier_key")

    def __init__(self, name: str, seed: bytes) -> None:
        """Takes the witness's name and its 32-byte Ed25519 seed.

        Raises:
            MalformedRecord: the name or the seed's length is not allowed.
        """
        check_key_name(name)
        if len(seed) != ED25519_KEY_BYTES:
            raise MalformedRecord(f"an Ed25519 seed has {ED25519_KEY_BYTES} bytes")
        self._signing_key = SigningKey(seed)
        public = bytes(self._signing_key.verify_key)
        self.verifier_key = VerifierKey(name=name, kind=KeyKind.COSIGNATURE_V1, public=public)

    def cosign(self, text: str, time: int) -> Signature:
        """The signature line over the checkpoint ``text`` as of ``time`` (Unix seconds)."""
        signed = self._signing_key.sign(_cosigned_message(text, time)).signature
        stamped = time.to_bytes(_TIMESTAMP_BYTES, "big") + signed
        return Signature(name=self.verifier_key.name, key_id=self.verifier_key.key_id, signature=stamped)


def _cosigned_message(text: str, time: int) -> bytes:
    return f"cosignature/v1\ntime {time}\n{text}".encode()


def parse_decimal(text: str) -> int:
    """Parses an ASCII decimal 0 to 2^63-1 without leading zeroes.

    Raises:
        MalformedRecord: another spelling, or too large.
    """
    if _DECIMAL.fullmatch(text) is None or int(text) > TREE_SIZE_MAX:
        raise MalformedRecord("a number must be decimal, without leading zeroes, below 2^63")
    return int(text)


def parse_checkpoint(text: str) -> Checkpoint:
    """Parses a checkpoint's note text.

    Raises:
        MalformedRecord: it breaks the format, or the root of an empty tree is not the empty root.
    """
    lines = text.split("\n")
    if lines.pop() != "" or len(lines) < _LINES_MIN or "" in lines:
        raise MalformedRecord("a checkpoint has at least three lines, none of them empty")
    origin, size, root, *extensions = lines
    check_key_name(origin)
    parsed = Checkpoint(origin=origin, size=parse_decimal(size), root=decode_base64(root), extensions=tuple(extensions))
    if len(parsed.root) != HASH_BYTES:
        raise MalformedRecord(f"a root hash has {HASH_BYTES} bytes")
    if parsed.size == 0 and parsed.root != EMPTY_ROOT:
        raise MalformedRecord("the root of an empty tree is wrong")
    return parsed


def sign_checkpoint(checkpoint: Checkpoint, signers: Iterable[NoteSigner]) -> bytes:
    """The signed note of ``checkpoint``, with one line of each signer (two while a key is rotated).

    Raises:
        MalformedRecord: a signer's name is not the origin, or the checkpoint cannot be written as one.
    """
    chosen = list(signers)
    if any(signer.verifier_key.name != checkpoint.origin for signer in chosen):
        raise MalformedRecord("a log's key name must be its origin")
    text = checkpoint.text()
    if parse_checkpoint(text) != checkpoint:
        raise MalformedRecord("a checkpoint's lines must not be empty or hold newlines")
    return sign_note(text, chosen)


def add_signature(encoded: bytes, signature: Signature) -> bytes:
    """The note ``encoded`` with one more line at its end.

    Raises:
        MalformedRecord: the outcome is no note (for instance more than 16 lines).
    """
    note = parse_note(encoded)
    longer = format_note(Note(text=note.text, signatures=(*note.signatures, signature)))
    parse_note(longer)
    return longer


def verify_cosignature(text: str, signature: Signature, witness: VerifierKey) -> Cosignature:
    """Checks one cosignature/v1 line over the checkpoint ``text``.

    Raises:
        BadSignature: it does not verify, or its time is out of range.
    """
    if len(signature.signature) != _TIMESTAMP_BYTES + ED25519_SIGNATURE_BYTES:
        raise BadSignature("a cosignature/v1 has 72 bytes")
    time = int.from_bytes(signature.signature[:_TIMESTAMP_BYTES], "big")
    if time > TIMESTAMP_MAX:
        raise BadSignature("a cosignature's time must be below 2^63")
    verify_ed25519(witness.public, _cosigned_message(text, time), signature.signature[_TIMESTAMP_BYTES:])
    return Cosignature(witness=witness, time=time)


def open_checkpoint(
    encoded: bytes, log_keys: Iterable[VerifierKey], witnesses: Mapping[str, VerifierKey]
) -> VerifiedCheckpoint:
    """Parses and verifies a signed checkpoint.

    Args:
        encoded: the signed note.
        log_keys: keys of logs that are trusted; each speaks only for the origin that is its name.
        witnesses: keys of witnesses that are known, by any name.

    Raises:
        MalformedRecord: not a note, or not a checkpoint.
        BadSignature: a line of a known key does not verify.
        NoKnownKey: no trusted key of this origin signed it.
    """
    note = parse_note(encoded)
    checkpoint = parse_checkpoint(note.text)
    signed = verify_note(note, [one for one in log_keys if one.name == checkpoint.origin])
    cosigned = []
    for witness in witnesses.values():
        times = [verify_cosignature(note.text, line, witness).time for line in lines_of(note, witness)]
        if times:
            cosigned.append(Cosignature(witness=witness, time=max(times)))
    return VerifiedCheckpoint(checkpoint=checkpoint, keys=tuple(signed), cosignatures=tuple(cosigned))
