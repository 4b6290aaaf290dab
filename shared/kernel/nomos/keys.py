"""Ed25519 keys and their names: signing, verifying, ``did:key``, and seeds as text.

Decides which public keys may be used at all and which spelling names them. Leaves to others where seeds are
stored and who holds which key. Rules, in order:

1. A key has one name: ``did:key:z`` and base58btc of ``0xed01`` with the 32 key bytes. Any other spelling is refused.
2. A key must be a canonical point of the prime-order subgroup. Small-order keys verify signatures that nobody
   made, and mixed-order keys let two verifiers disagree, so both are refused when the name is parsed, before any
   signature is looked at.
3. Secret bytes never appear in ``repr``, in an error or in a pickle.

Sources: RFC 8032 (Ed25519), the did:key method (section "Ed25519 X25519"), multibase (``z``), multicodec (``0xed``).
"""

from __future__ import annotations

import base64
import binascii
from functools import lru_cache
from typing import Final, NoReturn

from nacl.bindings import crypto_core_ed25519_is_valid_point, crypto_sign, crypto_sign_open, crypto_sign_seed_keypair
from nacl.exceptions import BadSignatureError

from nomos.errors import BadSignature, Malformed
from nomos.ids import Did

SEED_BYTES: Final = 32
PUBLIC_KEY_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
#: Every canonical Ed25519 ``did:key`` has this length: the multicodec prefix fixes the magnitude of the number.
DID_LENGTH: Final = 56
#: Parsed names kept per process. A name costs one point check (about 50 us) when it is not among them.
DID_CACHE_MAX: Final = 8192

_DID_PREFIX: Final = "did:key:z"
_ED25519_MULTICODEC: Final = b"\xed\x01"
_BASE58_ALPHABET: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_BASE58_VALUES: Final = {character: value for value, character in enumerate(_BASE58_ALPHABET)}
_SEED_TEXT_LENGTH: Final = 43


class VerifyKey:
    """An Ed25519 public key that has been checked, with its name. Equal when the key bytes are equal."""

    __slots__ = ("did", "public_bytes")

    did: Did
    public_bytes: bytes

    def __init__(self, public_bytes: bytes) -> None:
        """Checks and names a key.

        Args:
            public_bytes: the 32 bytes of RFC 8032 section 5.1.5.

        Raises:
            Malformed: not 32 bytes, not a canonical point, or outside the prime-order subgroup (small order included).
        """
        if len(public_bytes) != PUBLIC_KEY_BYTES:
            raise Malformed(f"expected a public key of {PUBLIC_KEY_BYTES} bytes, got {len(public_bytes)}")
        if not crypto_core_ed25519_is_valid_point(public_bytes):
            raise Malformed("public key is not a canonical point of prime order")
        self.public_bytes = public_bytes
        self.did = _did_of(public_bytes)

    def verify_attached(self, signature_and_message: bytes) -> None:
        """Checks a signature that stands directly before its message.

        Args:
            signature_and_message: 64 bytes of signature, then the signed bytes.

        Raises:
            BadSignature: it does not verify.
        """
        try:
            crypto_sign_open(signature_and_message, self.public_bytes)
        except (BadSignatureError, ValueError) as error:
            raise BadSignature("signature does not verify", cause=str(error)) from None

    def verify(self, message: bytes, signature: bytes) -> None:
        """Checks a detached signature.

        Raises:
            BadSignature: not 64 bytes, or it does not verify.
        """
        if len(signature) != SIGNATURE_BYTES:
            raise BadSignature(f"expected a signature of {SIGNATURE_BYTES} bytes, got {len(signature)}")
        self.verify_attached(signature + message)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, VerifyKey) and other.public_bytes == self.public_bytes

    def __hash__(self) -> int:
        return hash(self.public_bytes)

    def __repr__(self) -> str:
        return f"VerifyKey({self.did})"


class SigningKey:
    """An Ed25519 private key. Keep one object per key: the expansion of the seed is done once, here."""

    __slots__ = ("_secret", "verify_key")

    verify_key: VerifyKey

    def __init__(self, seed: bytes) -> None:
        """Expands a seed.

        Args:
            seed: 32 secret bytes (RFC 8032 section 5.1.5).

        Raises:
            Malformed: not 32 bytes.
        """
        if len(seed) != SEED_BYTES:
            raise Malformed(f"expected a seed of {SEED_BYTES} bytes, got {len(seed)}")
        public_bytes, self._secret = crypto_sign_seed_keypair(seed)
        self.verify_key = VerifyKey(public_bytes)

    @property
    def did(self) -> Did:
        """The name of the public half."""
        return self.verify_key.did

    def sign(self, message: bytes) -> bytes:
        """The 64-byte signature of ``message``."""
        return crypto_sign(message, self._secret)[:SIGNATURE_BYTES]

    def sign_attached(self, message: bytes) -> bytes:
        """The signature followed by ``message``, in one copy: the form that an envelope wants."""
        return crypto_sign(message, self._secret)

    def __repr__(self) -> str:
        return f"SigningKey({self.did})"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a signing key is not to be pickled or copied")


@lru_cache(maxsize=DID_CACHE_MAX)
def parse_did(text: str) -> VerifyKey:
    """Reads the canonical name of an Ed25519 key.

    Args:
        text: ``did:key:z6Mk...``, without a fragment.

    Returns:
        The checked key; its ``did`` equals ``text``.

    Raises:
        Malformed: another method or key type, a spelling that is not canonical, or a key that must not be used.
    """
    if len(text) != DID_LENGTH or not text.startswith(_DID_PREFIX):
        raise Malformed(f"expected a did:key of an Ed25519 key, {DID_LENGTH} characters")
    decoded = base58_decode(text[len(_DID_PREFIX) :])
    if len(decoded) != len(_ED25519_MULTICODEC) + PUBLIC_KEY_BYTES or not decoded.startswith(_ED25519_MULTICODEC):
        raise Malformed("did:key does not hold an Ed25519 key")
    verify_key = VerifyKey(decoded[len(_ED25519_MULTICODEC) :])
    if verify_key.did != text:
        raise Malformed("did:key is not in its canonical spelling")
    return verify_key


def parse_seed(text: str) -> bytes:
    """Reads a seed from an environment variable or a file: base64url of 32 bytes, padding optional.

    Args:
        text: 43 characters (44 with padding); surrounding white space, such as a final newline, is ignored.

    Returns:
        The 32 secret bytes.

    Raises:
        Malformed: anything else. The text itself is never repeated in the error.
    """
    stripped = text.strip()
    bare = stripped.removesuffix("=")
    if len(bare) == _SEED_TEXT_LENGTH and bare.isascii():
        try:
            seed = base64.b64decode(bare + "=", altchars=b"-_", validate=True)
        except binascii.Error:
            seed = b""
        # The last character carries four unused bits: only one of its sixteen spellings is taken.
        if len(seed) == SEED_BYTES and base64.urlsafe_b64encode(seed).decode("ascii") == bare + "=":
            return seed
    raise Malformed(
        f"expected a seed as base64url of {SEED_BYTES} bytes",
        hint="43 characters of A-Z a-z 0-9 - _",
    )


def format_seed(seed: bytes) -> str:
    """The text that :func:`parse_seed` reads: base64url without padding.

    Raises:
        Malformed: not 32 bytes.
    """
    if len(seed) != SEED_BYTES:
        raise Malformed(f"expected a seed of {SEED_BYTES} bytes, got {len(seed)}")
    return base64.urlsafe_b64encode(seed).decode("ascii").rstrip("=")


def base58_encode(octets: bytes) -> str:
    """Base58btc: the bytes as a big-endian number in base 58, one ``1`` for each leading zero byte."""
    number = int.from_bytes(octets, "big")
    digits: list[str] = []
    while number:
        number, remainder = divmod(number, 58)
        digits.append(_BASE58_ALPHABET[remainder])
    zeros = len(octets) - len(octets.lstrip(b"\0"))
    return "1" * zeros + "".join(reversed(digits))


def base58_decode(text: str) -> bytes:
    """The inverse of :func:`base58_encode`; every text it accepts has exactly one value and the reverse.

    Raises:
        Malformed: a character outside the alphabet.
    """
    number = 0
    for character in text:
        value = _BASE58_VALUES.get(character)
        if value is None:
            raise Malformed("expected base58btc")
        number = number * 58 + value
    zeros = len(text) - len(text.lstrip("1"))
    return b"\0" * zeros + number.to_bytes((number.bit_length() + 7) // 8, "big")


def _did_of(public_bytes: bytes) -> Did:
    return Did(_DID_PREFIX + base58_encode(_ED25519_MULTICODEC + public_bytes))
