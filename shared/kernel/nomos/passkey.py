"""A passkey in software, for development and tests: a WebAuthn authenticator and its browser in one file.

It makes real responses (WebAuthn Level 3, sections 6.3.2 and 6.3.3: ES256, attestation ``none``, user verified, counter
rising by one), so the service verifies them exactly as it verifies a browser's. What it cannot give is the point of a
passkey: whoever can read the file can approve. So it states its environment, refuses to load in any other than
``development`` or ``test``, and carries an AAGUID of its own, by which a production service refuses to enrol it.

Crash: the counter is on disk, synced, before a response is returned; a crash in between leaves a gap, never a
repetition.
Trusted / not trusted: an attacker who reads the file can approve as its owner, in development.

Needs ``cryptography`` and ``cbor2``, imported when used.
"""

# ruff: noqa: PLC0415 - the kernel works without cryptography and cbor2; only who uses this class needs them
from __future__ import annotations

import base64
import contextlib
import fcntl
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import msgspec

from nomos.errors import Conflict, LimitExceeded, MalformedRecord, Misconfigured, NotFound

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

SCHEMA: Final = "nomos.passkey/1"
ENVIRONMENTS: Final = frozenset({"development", "test"})
#: The model of this authenticator, in the form in which a verifier reports it.
SOFTWARE_AAGUID: Final = "6e6f6d6f-732d-4465-b665-6c6f706d656e"
FILE_BYTES_MAX: Final = 262_144
CREDENTIALS_MAX: Final = 256
CREDENTIAL_ID_BYTES: Final = 32
USER_HANDLE_BYTES_MAX: Final = 64
COUNTER_MAX: Final = 2**32 - 1

_USER_PRESENT: Final = 0x01
_USER_VERIFIED: Final = 0x04
_ATTESTED: Final = 0x40
#: COSE (RFC 9053): key type EC2, algorithm ES256, curve P-256.
_COSE_EC2: Final = 2
_COSE_ES256: Final = -7
_COSE_P256: Final = 1
_COORDINATE_BYTES: Final = 32


class _Credential(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    rp_id: str
    credential_id: str
    user_handle: str
    user_name: str
    secret: str
    sign_count: int


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    schema: str
    environment: str
    credentials: list[_Credential]


class SoftwarePasskey:
    """The authenticator over one file. Several processes may use the file at once: each use holds a lock."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @classmethod
    def create(cls, path: Path, *, environment: str = "development") -> SoftwarePasskey:
        """Makes a new file without credentials, readable by its owner only.

        Args:
            path: must not exist.
            environment: ``development`` or ``test``.

        Raises:
            Misconfigured: another environment.
            Conflict: the file exists.
        """
        _check_environment(environment)
        passkey = cls(path)
        with passkey._locked():
            if path.exists():
                raise Conflict(f"{path.name} exists")
            passkey._write(_File(schema=SCHEMA, environment=environment, credentials=[]))
        return passkey

    @classmethod
    def load(cls, path: Path) -> SoftwarePasskey:
        """Opens an existing file.

        Raises:
            Misconfigured: made for another environment, or readable by others than its owner.
            MalformedRecord: not a passkey file.
            NotFound: no such file.
        """
        passkey = cls(path)
        passkey._read()
        return passkey

    def register(
        self, *, rp_id: str, origin: str, challenge: bytes, user_handle: bytes, user_name: str
    ) -> dict[str, object]:
        """Makes a credential, as ``navigator.credentials.create()`` does.

        Args:
            rp_id: the relying party id.
            origin: the origin that a browser would report.
            challenge: from the registration options.
            user_handle: 1 to 64 bytes, from the options.
            user_name: from the options; kept to tell credentials apart.

        Returns:
            ``PublicKeyCredential.toJSON()`` of the new credential.

        Raises:
            LimitExceeded: the file holds :data:`CREDENTIALS_MAX` credentials, or the user handle is too long.
            Misconfigured: ``cryptography`` or ``cbor2`` is not installed.
        """
        cbor = _cbor()
        from cryptography.hazmat.primitives.asymmetric import ec

        if not 1 <= len(user_handle) <= USER_HANDLE_BYTES_MAX:
            raise LimitExceeded("USER_HANDLE_BYTES_MAX", USER_HANDLE_BYTES_MAX, len(user_handle))
        private = ec.generate_private_key(ec.SECP256R1())
        numbers = private.public_key().public_numbers()
        cose = cbor.dumps(
            {
                1: _COSE_EC2,
                3: _COSE_ES256,
                -1: _COSE_P256,
                -2: numbers.x.to_bytes(_COORDINATE_BYTES, "big"),
                -3: numbers.y.to_bytes(_COORDINATE_BYTES, "big"),
            }
        )
        credential_id = secrets.token_bytes(CREDENTIAL_ID_BYTES)
        credential = _Credential(
            rp_id=rp_id,
            credential_id=_b64url(credential_id),
            user_handle=_b64url(user_handle),
            user_name=user_name,
            secret=_b64url(private.private_numbers().private_value.to_bytes(_COORDINATE_BYTES, "big")),
            sign_count=0,
        )
        with self._locked():
            file = self._read()
            if len(file.credentials) >= CREDENTIALS_MAX:
                raise LimitExceeded("CREDENTIALS_MAX", CREDENTIALS_MAX)
            self._write(msgspec.structs.replace(file, credentials=[*file.credentials, credential]))
        attested = bytes.fromhex(SOFTWARE_AAGUID.replace("-", "")) + len(credential_id).to_bytes(2, "big")
        authenticator_data = (
            _header(rp_id, _USER_PRESENT | _USER_VERIFIED | _ATTESTED, 0) + attested + credential_id + cose
        )
        return _response(
            credential.credential_id,
            clientDataJSON=_b64url(_client_data("webauthn.create", challenge, origin)),
            attestationObject=_b64url(cbor.dumps({"fmt": "none", "attStmt": {}, "authData": authenticator_data})),
        )

    def assert_(
        self, *, rp_id: str, origin: str, challenge: bytes, credential_id: bytes | None = None
    ) -> dict[str, object]:
        """Signs a challenge, as ``navigator.credentials.get()`` does.

        Args:
            rp_id: the relying party id.
            origin: the origin that a browser would report.
            challenge: from the assertion options.
            credential_id: which credential, needed where the file holds several for ``rp_id``.

        Returns:
            ``PublicKeyCredential.toJSON()`` of the assertion.

        Raises:
            NotFound: no such credential for ``rp_id``, or several and none named.
            LimitExceeded: the counter is at its end.
            Misconfigured: ``cryptography`` or ``cbor2`` is not installed.
        """
        _cbor()
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec

        with self._locked():
            file = self._read()
            used = _choose(file.credentials, rp_id, credential_id)
            if used.sign_count >= COUNTER_MAX:
                raise LimitExceeded("COUNTER_MAX", COUNTER_MAX)
            risen = msgspec.structs.replace(used, sign_count=used.sign_count + 1)
            self._write(
                msgspec.structs.replace(file, credentials=[risen if c is used else c for c in file.credentials])
            )
        authenticator_data = _header(rp_id, _USER_PRESENT | _USER_VERIFIED, risen.sign_count)
        client_data = _client_data("webauthn.get", challenge, origin)
        signed = authenticator_data + hashlib.sha256(client_data).digest()
        return _response(
            risen.credential_id,
            clientDataJSON=_b64url(client_data),
            authenticatorData=_b64url(authenticator_data),
            signature=_b64url(_private_key(risen).sign(signed, ec.ECDSA(hashes.SHA256()))),
            userHandle=risen.user_handle,
        )

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        # The directory is locked, not the file: the file is replaced by every write.
        directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(directory, fcntl.LOCK_EX)
            yield
        finally:
            os.close(directory)

    def _read(self) -> _File:
        try:
            with self._path.open("rb") as opened:
                if os.fstat(opened.fileno()).st_mode & 0o077:
                    raise Misconfigured(f"{self._path.name} can be read by others", hint="chmod 600")
                written = opened.read(FILE_BYTES_MAX + 1)
        except FileNotFoundError as e:
            raise NotFound(f"there is no passkey file {self._path.name}") from e
        if len(written) > FILE_BYTES_MAX:
            raise LimitExceeded("FILE_BYTES_MAX", FILE_BYTES_MAX)
        try:
            file = msgspec.json.decode(written, type=_File)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as e:
            raise MalformedRecord(f"{self._path.name} is not a passkey file", cause=str(e)) from e
        if file.schema != SCHEMA:
            raise MalformedRecord(f"expected schema {SCHEMA}")
        _check_environment(file.environment)
        return file

    def _write(self, file: _File) -> None:
        temporary = self._path.with_name(f".{self._path.name}.{secrets.token_hex(8)}")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as opened:
                opened.write(msgspec.json.format(msgspec.json.encode(file), indent=2) + b"\n")
                opened.flush()
                os.fsync(opened.fileno())
            temporary.replace(self._path)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise


def _check_environment(environment: str) -> None:
    if environment not in ENVIRONMENTS:
        raise Misconfigured(
            "a software passkey is for development and tests only",
            hint="in production, enrol a passkey in the browser",
        )


def _choose(credentials: list[_Credential], rp_id: str, credential_id: bytes | None) -> _Credential:
    named = None if credential_id is None else _b64url(credential_id)
    fitting = [c for c in credentials if c.rp_id == rp_id and named in (None, c.credential_id)]
    if len(fitting) != 1:
        raise NotFound(f"expected one credential for this relying party, found {len(fitting)}")
    return fitting[0]


def _header(rp_id: str, flags: int, sign_count: int) -> bytes:
    return hashlib.sha256(rp_id.encode()).digest() + bytes([flags]) + sign_count.to_bytes(4, "big")


def _client_data(kind: str, challenge: bytes, origin: str) -> bytes:
    members = {"type": kind, "challenge": _b64url(challenge), "origin": origin, "crossOrigin": False}
    return json.dumps(members, separators=(",", ":")).encode()


def _response(credential_id: str, **response: str) -> dict[str, object]:
    return {
        "id": credential_id,
        "rawId": credential_id,
        "type": "public-key",
        "authenticatorAttachment": "platform",
        "clientExtensionResults": {},
        "response": response,
    }


def _private_key(credential: _Credential) -> EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        octets = base64.urlsafe_b64decode(credential.secret + "=" * (-len(credential.secret) % 4))
        return ec.derive_private_key(int.from_bytes(octets, "big"), ec.SECP256R1())
    except ValueError as e:
        raise MalformedRecord("the passkey file holds no usable key", cause=str(e)) from e


def _cbor() -> Any:
    try:
        import cbor2
        import cryptography  # noqa: F401 - asked for here, so that its absence has one message
    except ModuleNotFoundError as e:
        raise Misconfigured(
            "a software passkey needs cryptography and cbor2", cause=str(e), hint="install nomos-authz[cli]"
        ) from e
    return cbor2


def _b64url(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode("ascii")
