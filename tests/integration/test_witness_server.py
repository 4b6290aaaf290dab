"""The witness as a process: what it answers over HTTP, and that it forgets nothing when it is killed."""

from __future__ import annotations

import asyncio
import base64
import datetime
import http.client
import ipaddress
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from nomos.errors import Unavailable
from nomos.log.checkpoint import Checkpoint, open_checkpoint, sign_checkpoint
from nomos.log.note import Note, NoteSigner, VerifierKey, format_note, parse_note, parse_vkey
from nomos.log.tree import consistency_proof, leaf_hash, root_from_leaf_hashes
from nomos.witness.decide import REQUEST_BYTES_MAX, SIZE_TYPE, format_request
from nomos.witness.server import CONNECTIONS_MAX, HEADER_BYTES_MAX
from nomos_audit.asking import Asker

ORIGIN = "audit.example.com/prod"
LOG = NoteSigner(ORIGIN, sha256(b"TEST ONLY log").digest())
NAME = "witness.example.org/w1"
LEAVES = [leaf_hash(sha256(f"{n}".encode()).digest()) for n in range(300)]


def note(size: int) -> bytes:
    return sign_checkpoint(Checkpoint(origin=ORIGIN, size=size, root=root_from_leaf_hashes(LEAVES, size)), [LOG])


def request(old: int, new: int) -> bytes:
    return format_request(old, consistency_proof(LEAVES, old, new), note(new))


def command(*words: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "nomos.cli.main", "witness", *words]
    return subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)


class Served:
    """One process of ``nomos witness run``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key_file = folder / "key"
        made = command("keygen", "--name", NAME, "--out", str(self.key_file))
        assert made.returncode == 0, made.stderr
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *more: str) -> None:
        ready = self.folder / "ready"
        ready.unlink(missing_ok=True)
        program = [sys.executable, "-m", "nomos.cli.main", "witness", "run", "--name", NAME]
        program += ["--key-file", str(self.key_file), "--state", str(self.folder / "state")]
        program += ["--log", str(LOG.verifier_key), "--listen", "127.0.0.1:0", "--ready-file", str(ready), *more]
        with (self.folder / "out").open("ab") as target:
            self.process = subprocess.Popen(program, stdout=target, stderr=target)
        ends = time.monotonic() + 30
        while not ready.exists():
            assert self.process.poll() is None, (self.folder / "out").read_text()
            assert time.monotonic() < ends
            time.sleep(0.02)
        told = json.loads(ready.read_text())
        self.url: str = told["url"]
        self.key: VerifierKey = parse_vkey(told["key"])
        self.port = int(self.url.rstrip("/").rpartition(":")[2])

    def stop(self, number: int = signal.SIGTERM) -> int:
        if self.process is None:
            return 0
        self.process.send_signal(number)
        code = self.process.wait(20)
        self.process = None
        return code

    def post(self, body: bytes, path: str = "/add-checkpoint") -> tuple[int, str, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request("POST", path, body)
            answer = connection.getresponse()
            return answer.status, answer.headers["content-type"], answer.read()
        finally:
            connection.close()

    def raw(self, sent: bytes) -> bytes:
        """What comes back on a connection on which ``sent`` was said, until it is closed."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=20) as connection:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            got = b""
            while more := connection.recv(65_536):
                got += more
            return got


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path)
    made.start()
    yield made
    made.stop(signal.SIGKILL)


def cosigned(served: Served, size: int, answer: bytes) -> int:
    """The time that the witness says it signed at; the signature is verified."""
    whole = note(size) + answer
    (found,) = open_checkpoint(whole, [LOG.verifier_key], {"w1": served.key}).cosignatures
    return found.time


def test_it_cosigns_what_grows_and_answers_for_the_rest(served: Served) -> None:
    status, _, answer = served.post(request(0, 5))
    assert status == 200
    assert abs(cosigned(served, 5, answer) - time.time()) < 60
    assert served.post(request(0, 9)) == (409, SIZE_TYPE, b"5\n")
    assert served.post(request(5, 9))[0] == 200
    assert served.post(request(9, 9))[0] == 200
    forged = sign_checkpoint(Checkpoint(origin=ORIGIN, size=20, root=bytes(32)), [LOG])
    assert served.post(format_request(9, consistency_proof(LEAVES, 9, 20), forged))[0] == 422
    assert served.post(request(9, 9).replace(b"old 9", b"old 12"))[0] == 400
    assert served.post(b"garbage")[0] == 400
    stranger = NoteSigner(ORIGIN, os.urandom(32))
    unsigned = sign_checkpoint(parse_checkpoint_of(note(20)), [stranger])
    assert served.post(format_request(9, [], unsigned))[0] == 403
    elsewhere = NoteSigner("audit.example.com/other", os.urandom(32))
    other = sign_checkpoint(Checkpoint(origin=elsewhere.verifier_key.name, size=1, root=bytes(32)), [elsewhere])
    assert served.post(format_request(0, [], other))[0] == 404
    assert served.post(request(9, 20), "/other")[0] == 404
    assert served.raw(b"GET /add-checkpoint HTTP/1.1\r\nhost: w\r\nconnection: close\r\n\r\n").startswith(
        b"HTTP/1.1 405 "
    )
    # After all of it, it still stands at 9.
    assert served.post(request(9, 20))[0] == 200


def parse_checkpoint_of(encoded: bytes) -> Checkpoint:
    size = int(parse_note(encoded).text.split("\n")[1])
    return Checkpoint(origin=ORIGIN, size=size, root=root_from_leaf_hashes(LEAVES, size))


def test_what_it_cosigned_it_remembers_after_kill_9(served: Served) -> None:
    for size in (5, 9, 64, 65):
        old = {5: 0, 9: 5, 64: 9, 65: 64}[size]
        assert served.post(request(old, size))[0] == 200
        served.stop(signal.SIGKILL)
        served.start()
        assert served.post(request(0, 3)) == (409, SIZE_TYPE, f"{size}\n".encode())


def test_many_at_once_get_one_history(served: Served) -> None:
    async def all_at_once() -> list[int]:
        asker = Asker(served.key, served.url, development=True)
        asked = [asker.ask(request(0, size)) for size in range(1, 41)]
        return [status for status, _, _ in await asyncio.gather(*asked)]

    found = asyncio.run(all_at_once())
    assert sorted(found) == [200] + [409] * 39


def test_what_it_remembers_is_damaged_and_it_signs_nothing(served: Served) -> None:
    assert served.post(request(0, 5))[0] == 200
    (file,) = (served.folder / "state").glob("*.json")
    kept = file.read_bytes()
    file.write_bytes(kept[:-1])
    assert served.post(request(5, 9)) == (500, "text/plain; charset=utf-8", b"the witness cannot keep what it signs\n")
    served.stop()
    with pytest.raises(AssertionError, match="damaged"):
        served.start()
    file.write_bytes(kept)
    served.start()
    assert served.post(request(5, 9))[0] == 200


@pytest.mark.parametrize(
    "sent",
    [
        b"\x00\x01\x02\r\n\r\n",
        b"POST /add-checkpoint HTTP/1.1\r\n\r\n",
        b"POST /add-checkpoint HTTP/1.1\r\nhost: w\r\ncontent-length: x\r\n\r\n",
        b"POST /add-checkpoint HTTP/1.1\r\nhost: w\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
        b"POST /add-checkpoint HTTP/1.1\r\nhost: w\r\ncontent-length: 50\r\n\r\nshort",
        b"POST /add-checkpoint HTTP/1.1\r\nhost: w\r\nx: " + b"x" * HEADER_BYTES_MAX + b"\r\n\r\n",
        b"",
    ],
)
def test_what_is_no_http_ends_the_connection_and_nothing_else(served: Served, sent: bytes) -> None:
    assert not served.raw(sent).startswith(b"HTTP/1.1 200")
    assert served.post(request(0, 5))[0] == 200


def test_a_body_that_is_too_long_is_not_read_to_its_end(served: Served) -> None:
    head = b"POST /add-checkpoint HTTP/1.1\r\nhost: w\r\ntransfer-encoding: chunked\r\n\r\n"
    piece = b"x" * 65_536
    chunk = f"{len(piece):x}\r\n".encode() + piece + b"\r\n"
    with socket.create_connection(("127.0.0.1", served.port), timeout=20) as connection:
        connection.sendall(head)
        sent, got = 0, b""
        try:
            while sent < 64 * REQUEST_BYTES_MAX:
                connection.sendall(chunk)
                sent += len(piece)
        except OSError:
            pass
        try:
            got = connection.recv(65_536)
        except OSError:
            got = b""
    assert sent < 64 * REQUEST_BYTES_MAX
    assert got == b"" or got.startswith(b"HTTP/1.1 413 ")
    assert served.post(request(0, 5))[0] == 200


def test_idle_connections_do_not_lock_others_out_for_ever(served: Served) -> None:
    idle = [socket.create_connection(("127.0.0.1", served.port), timeout=20) for _ in range(CONNECTIONS_MAX)]
    try:
        time.sleep(0.3)
        with pytest.raises((ConnectionError, http.client.HTTPException)):
            served.post(request(0, 5))
    finally:
        for one in idle:
            one.close()
    ends = time.monotonic() + 10
    while True:
        try:
            assert served.post(request(0, 5))[0] == 200
            break
        except (ConnectionError, http.client.HTTPException):
            assert time.monotonic() < ends
            time.sleep(0.05)


def test_it_ends_when_it_is_told(served: Served) -> None:
    assert served.stop(signal.SIGTERM) == 0


def test_two_of_one_state_are_refused(served: Served) -> None:
    words = ["--name", NAME, "--key-file", str(served.key_file), "--state", str(served.folder / "state")]
    second = command("run", *words, "--log", str(LOG.verifier_key), "--listen", "127.0.0.1:0")
    assert second.returncode == 2
    assert "another witness holds" in second.stderr


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"--listen": "127.0.0.1"}, "HOST:PORT"),
        ({"--listen": "127.0.0.1:99999"}, "HOST:PORT"),
        ({"--listen": "0.0.0.0:0"}, "is not loopback"),
        ({"--listen": "witness.example.org:0"}, "is not loopback"),
        ({"--log": "nonsense"}, "name+id+key"),
        ({"--log": "WITNESS"}, "is no log's key"),
        ({"--key-file": "absent"}, "cannot be read"),
        ({"--key-file": "short"}, "holds no key"),
        ({"--tls-cert": "cert"}, "go together"),
        ({"--tls-cert": "absent", "--tls-key": "absent"}, "cannot be used"),
        ({"--name": "two words"}, "no space"),
        ({"--state": "short"}, "cannot serve"),
    ],
)
def test_a_typical_mistake_is_told(tmp_path: Path, change: dict[str, str], said: str) -> None:
    assert command("keygen", "--name", NAME, "--out", str(tmp_path / "key")).returncode == 0
    (tmp_path / "short").write_text("AAAA\n")
    words = {"--name": NAME, "--key-file": "key", "--state": "state", "--listen": "127.0.0.1:0"}
    words |= {"--log": str(LOG.verifier_key)} | change
    if words["--log"] == "WITNESS":
        words["--log"] = f"{NAME}+08a65ea2+BLpGSefmZLu24WIomnBTzMB1WJB6QWX9nELdVXATzq3O"
    for name in ("--key-file", "--state", "--tls-cert", "--tls-key"):
        if name in words:
            words[name] = str(tmp_path / words[name])
    made = command("run", *(word for pair in words.items() for word in pair))
    assert (made.returncode, said in made.stderr) == (2, True), made.stderr
    assert "Traceback" not in made.stderr


def test_a_key_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "key"
    made = command("keygen", "--name", NAME, "--out", str(path))
    assert made.returncode == 0
    assert path.stat().st_mode & 0o077 == 0
    seed = path.read_text().strip()
    assert len(base64.urlsafe_b64decode(seed + "=")) == 32
    assert seed not in made.stdout + made.stderr
    again = command("keygen", "--name", NAME, "--out", str(path))
    assert again.returncode == 2
    assert "exists" in again.stderr
    assert path.read_text().strip() == seed


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "witness")])
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    (tmp_path / "cert.pem").write_bytes(built.public_bytes(serialization.Encoding.PEM))
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (tmp_path / "key.pem").write_bytes(key.private_bytes(encoding, form, serialization.NoEncryption()))
    return tmp_path / "cert.pem", tmp_path / "key.pem"


def test_with_a_certificate_it_speaks_tls_1_3_only(
    tmp_path: Path, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    served = Served(tmp_path)
    served.start("--tls-cert", str(certificate[0]), "--tls-key", str(certificate[1]))
    try:
        assert served.url.startswith("https://")
        stranger = Asker(served.key, served.url, development=True)
        with pytest.raises(Unavailable, match="does not answer"):
            asyncio.run(stranger.ask(request(0, 5)))
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
        asker = Asker(served.key, served.url, development=False)
        status, _, answer = asyncio.run(asker.ask(request(0, 5)))
        assert status == 200
        assert cosigned(served, 5, answer)
        old = ssl.create_default_context()
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        with (
            socket.create_connection(("127.0.0.1", served.port), timeout=20) as plain,
            pytest.raises(ssl.SSLError),
        ):
            old.wrap_socket(plain, server_hostname="127.0.0.1")
    finally:
        served.stop(signal.SIGKILL)


def test_a_cosignature_is_one_line_of_a_note(served: Served) -> None:
    _, kind, answer = served.post(request(0, 5))
    assert kind.startswith("text/plain")
    text = parse_note(note(5)).text
    (signature,) = parse_note(f"{text}\n".encode() + answer).signatures
    assert answer == format_note(Note(text=text, signatures=(signature,))).removeprefix(f"{text}\n".encode())
