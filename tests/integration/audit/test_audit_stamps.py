"""Archives across a change of key, and with time stamps of an authority on loopback: what was proven stays proven."""

from __future__ import annotations

import asyncio
import os
import shutil
import socketserver
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from rfc3161_client import _rust

from nomos.cli.main import main
from nomos.errors import BadSignature, LimitExceeded, Malformed, Misconfigured, Unavailable
from nomos.events import Actor, Envelope
from nomos.ids import new_id
from nomos.log.index import INDEX_NAME, FileEntry, file_digest, format_index, parse_index
from nomos.log.note import NoteSigner, parse_note
from nomos.log.record import parse_record
from nomos.log.report import Report, Verdict, render_text
from nomos.log.roots import parse_root_proofs
from nomos.log.timestamps import OtherContent, parse_roots, parse_token, verify_token
from nomos.log.verify import verify_export
from nomos_audit.archiving import checked
from nomos_audit.log import AuditLog
from nomos_audit.rotating import Rotation
from nomos_audit.settings import AuditSettings
from nomos_audit.stamping import Authority, Stamper
from nomos_audit.store.folder import FolderStore
from nomos_audit.store.port import digest_of
from nomos_runtime.database import Database

BY = Actor(kind="operator", id="sub-" + "0" * 32)
OLD, NEW, THIRD = (os.urandom(32) for _ in range(3))
#: 2026-11-22T12:00:00Z
NOON_US = 1_795_348_800_000_000
DAY_US = 86_400_000_000
NOON = datetime.fromtimestamp(NOON_US / 1e6, UTC)
NOW = 1_900_000_000
FIRST, SECOND, LAST = "2026-11-22", "2026-11-23", "2026-11-24"


# -- a time-stamp authority, DER by hand -----------------------------------------------------------------------------


def der(tag: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    if len(body) < 128:
        return bytes([tag, len(body)]) + body
    length = len(body).to_bytes((len(body).bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + body


def der_int(value: int) -> bytes:
    return der(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


def der_oid(dotted: str) -> bytes:
    first, second, *rest = (int(one) for one in dotted.split("."))
    body = bytes([40 * first + second])
    for one in rest:
        piece = [one & 0x7F]
        while one := one >> 7:
            piece.append(0x80 | (one & 0x7F))
        body += bytes(reversed(piece))
    return der(0x06, body)


SHA256 = der(0x30, der_oid("2.16.840.1.101.3.4.2.1"))
TST_INFO, SIGNED = "1.2.840.113549.1.9.16.1.4", "1.2.840.113549.1.7.2"


def attribute(dotted: str, value: bytes) -> bytes:
    return der(0x30, der_oid(dotted), der(0x31, value))


def certificate(
    name: str, key: Any, issuer: str, signer: Any, valid: tuple[datetime, datetime], *extensions: tuple[Any, bool]
) -> x509.Certificate:
    def named(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    built = (
        x509.CertificateBuilder()
        .subject_name(named(name))
        .issuer_name(named(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(valid[0])
        .not_valid_after(valid[1])
    )
    for extension, critical in extensions:
        built = built.add_extension(extension, critical)
    return built.sign(signer, hashes.SHA256())


class Tsa:
    """An authority with a root of its own, whose clock and honesty the test sets."""

    def __init__(
        self, *, purpose: Any = ExtendedKeyUsageOID.TIME_STAMPING, valid_days: tuple[int, int] = (-30, 30)
    ) -> None:
        self.root_key, self._key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
        forever = (NOON - timedelta(days=3650), NOON + timedelta(days=36500))
        ca = (x509.BasicConstraints(ca=True, path_length=None), True)
        signs = (x509.KeyUsage(False, False, False, False, False, True, True, False, False), True)
        name = f"root {os.urandom(4).hex()}"
        self.root = certificate(name, self.root_key, name, self.root_key, forever, ca, signs)
        valid = (NOON + timedelta(days=valid_days[0]), NOON + timedelta(days=valid_days[1]))
        leaf = (x509.BasicConstraints(ca=False, path_length=None), True)
        digital = (x509.KeyUsage(True, True, False, False, False, False, False, False, False), True)
        eku = (x509.ExtendedKeyUsage([purpose]), True)
        self.leaf = certificate("stamps", self._key, name, self.root_key, valid, leaf, digital, eku)
        self.at = NOON + timedelta(days=1)
        self.asked = 0
        #: What it does wrong.
        self.change: Callable[[dict[str, Any]], None] = lambda token: None

    @property
    def pem(self) -> bytes:
        return self.root.public_bytes(Encoding.PEM)

    def token(self, imprint: bytes, nonce: int | None, **changes: Any) -> bytes:
        said = {"imprint": imprint, "nonce": nonce, "at": self.at, "status": 0, "certificates": True, **changes}
        self.change(said)
        info = der(
            0x30,
            der_int(1),
            der_oid("1.3.6.1.4.1.99999.1"),
            der(0x30, SHA256, der(0x04, said["imprint"])),
            der_int(7),
            der(0x18, said["at"].strftime("%Y%m%d%H%M%SZ").encode()),
            b"" if said["nonce"] is None else der_int(said["nonce"]),
        )
        encoded = self.leaf.public_bytes(Encoding.DER)
        ess = der(0x30, der(0x30, der(0x30, der(0x04, sha256(encoded).digest()))))
        signed = b"".join(
            sorted(
                [
                    attribute("1.2.840.113549.1.9.3", der_oid(TST_INFO)),
                    attribute("1.2.840.113549.1.9.4", der(0x04, sha256(info).digest())),
                    attribute("1.2.840.113549.1.9.16.2.47", ess),
                ]
            )
        )
        signature = self._key.sign(der(0x31, signed), ec.ECDSA(hashes.SHA256()))
        signer = der(
            0x30,
            der_int(1),
            der(0x30, self.leaf.issuer.public_bytes(), der_int(self.leaf.serial_number)),
            SHA256,
            der(0xA0, signed),
            der(0x30, der_oid("1.2.840.10045.4.3.2")),
            der(0x04, signature),
        )
        content = der(0x30, der_oid(TST_INFO), der(0xA0, der(0x04, info)))
        certificates = der(0xA0, encoded) if said["certificates"] else b""
        data = der(0x30, der_int(3), der(0x31, SHA256), content, certificates, der(0x31, signer))
        status = der(0x30, der_int(said["status"]))
        return der(0x30, status, der(0x30, der_oid(SIGNED), der(0xA0, data)) if said["status"] < 2 else b"")

    def over(self, content: bytes, **changes: Any) -> bytes:
        return self.token(sha256(content).digest(), 5, **changes)

    def answer(self, question: bytes) -> tuple[int, str, bytes]:
        """Status, content type and body of the HTTP answer."""
        self.asked += 1
        asked = _rust.parse_timestamp_request(question)
        return 200, "application/timestamp-reply", self.token(asked.message_imprint.message, asked.nonce)


class Server:
    """A time-stamp authority on loopback over HTTP."""

    def __init__(self, tsa: Tsa, context: ssl.SSLContext | None = None) -> None:
        self.tsa = tsa
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                assert self.headers["content-type"] == "application/timestamp-query"
                body = self.rfile.read(int(self.headers["content-length"]))
                status, kind, content = server.tsa.answer(body)
                self.send_response(status)
                self.send_header("content-type", kind)
                self.send_header("content-length", str(len(content)))
                if status == 302:
                    self.send_header("location", server.url)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: Any) -> None:
                return

        class Quiet(ThreadingHTTPServer):
            def handle_error(self, *_: Any) -> None:
                """A client that went away, or a handshake that failed, is what some tests are about."""

        self._http = Quiet(("127.0.0.1", 0), Handler)
        assert isinstance(self._http, socketserver.TCPServer)
        if context is not None:
            self._http.socket = context.wrap_socket(self._http.socket, server_side=True)
        self.url = f"{'https' if context else 'http'}://127.0.0.1:{self._http.server_address[1]}/tsr"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def close(self) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


@pytest.fixture(scope="module")
def honest() -> Tsa:
    return Tsa()


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    running: list[Server] = []

    def start(tsa: Tsa, context: ssl.SSLContext | None = None) -> Server:
        running.append(Server(tsa, context))
        return running[-1]

    yield start
    for one in running:
        one.close()


# -- tokens ----------------------------------------------------------------------------------------------------------


def test_a_token_verifies_as_of_its_time_long_after_its_certificate_has_expired(honest: Tsa) -> None:
    # The certificate ends 30 days after the day; nothing here asks what time it is now.
    stamp = verify_token(honest.over(b"root"), b"root", parse_roots(honest.pem))
    assert (stamp.at, stamp.authority) == (honest.at, "CN=stamps")
    assert verify_token(honest.over(b"root"), b"root", parse_roots(honest.pem), 5) == stamp
    # Among other roots as well.
    assert verify_token(honest.over(b"root"), b"root", parse_roots(Tsa().pem + honest.pem)) == stamp


def test_a_token_that_is_not_right_is_refused(honest: Tsa) -> None:
    roots = parse_roots(honest.pem)
    late, early = (honest.over(b"root", at=NOON + timedelta(days=days)) for days in (31, -31))
    for token in (late, early):
        # Its certificate had expired, or did not exist yet, at the time that it states.
        with pytest.raises(BadSignature, match="as of its time"):
            verify_token(token, b"root", roots)
    with pytest.raises(OtherContent, match="other bytes"):
        verify_token(honest.over(b"other root"), b"root", roots)
    with pytest.raises(OtherContent, match="another question"):
        verify_token(honest.over(b"root"), b"root", roots, 6)
    with pytest.raises(BadSignature, match="no root vouches"):
        verify_token(Tsa().over(b"root"), b"root", roots)
    purposeless = Tsa(purpose=ExtendedKeyUsageOID.SERVER_AUTH)
    with pytest.raises(BadSignature, match="not for time stamps"):
        verify_token(purposeless.over(b"root"), b"root", parse_roots(purposeless.pem))
    with pytest.raises(Malformed, match="did not grant"):
        parse_token(honest.over(b"root", status=2))
    with pytest.raises(LimitExceeded):
        parse_token(bytes(70_000))
    for pem in (b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
        with pytest.raises(Malformed):
            parse_roots(pem)


def test_one_bit_in_every_byte_of_a_token_is_refused_or_says_the_same(honest: Tsa) -> None:
    """Outside what is signed, a bit may be without meaning; it never makes another time or another content."""
    token, roots = honest.over(b"root"), parse_roots(honest.pem)
    stamp = verify_token(token, b"root", roots)
    survived = 0
    for at in range(len(token)):
        changed = bytearray(token)
        changed[at] ^= 1 << (at % 8)
        try:
            survived += verify_token(bytes(changed), b"root", roots) == stamp
        except (Malformed, BadSignature):
            continue
    assert survived < len(token) // 10
    for length in range(0, len(token), 7):
        with pytest.raises((Malformed, BadSignature)):
            verify_token(token[:length], b"root", roots)


def test_openssl_says_the_same_of_a_token(honest: Tsa, tmp_path: Path) -> None:
    """A second opinion, where there is an openssl: it needs the root, and the time at which to look."""
    files = {"root.pem": honest.pem, "token.tsr": honest.over(b"root"), "data": b"root", "other": b"other"}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    openssl = shutil.which("openssl")
    outcomes = []
    for data in ("data", "other"):
        ours = (
            sha256((tmp_path / data).read_bytes()).digest()
            == parse_token(files["token.tsr"]).tst_info.message_imprint.message
        )
        words = ["ts", "-verify", "-in", "token.tsr", "-data", data, "-CAfile", "root.pem"]
        words += ["-attime", str(int(honest.at.timestamp()))]
        theirs = ours
        if openssl is not None:
            done = subprocess.run([openssl, *words], cwd=tmp_path, capture_output=True, check=False)
            theirs = done.returncode == 0
        outcomes.append((ours, theirs))
    assert outcomes == [(True, True), (False, False)]


# -- asking ----------------------------------------------------------------------------------------------------------


def test_an_authority_is_asked_and_its_answer_judged_before_it_is_kept(
    honest: Tsa, serve: Callable[..., Server]
) -> None:
    server = serve(Tsa())
    bare = Authority(server.url, development=True)
    strict = Authority(server.url, development=True, roots=parse_roots(server.tsa.pem))
    for one in (bare, strict):
        assert verify_token(one.stamp(b"root"), b"root", parse_roots(server.tsa.pem)).at == server.tsa.at
    foreign = Authority(server.url, development=True, roots=parse_roots(honest.pem))
    with pytest.raises(BadSignature, match="no root vouches"):
        foreign.stamp(b"root")
    wrongs: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"nonce": 1}, OtherContent, "another question"),
        ({"nonce": None}, OtherContent, "another question"),
        ({"imprint": bytes(32)}, OtherContent, "other bytes"),
        ({"status": 2}, Malformed, "did not grant"),
        ({"certificates": False}, Malformed, "certificate"),
    ]
    for changes, kind, words in wrongs:
        server.tsa.change = lambda token, changes=changes: token.update(changes)
        with pytest.raises(kind, match=words):
            bare.stamp(b"root")
    for one in (bare, strict, foreign):
        one.close()


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ((500, "application/timestamp-reply", b"x"), Unavailable),
        ((302, "application/timestamp-reply", b""), Unavailable),
        ((200, "text/html", b"<p>sign in</p>"), Unavailable),
        ((200, "application/timestamp-reply", b"\x30\x03\x02\x01\x00"), Malformed),
        ((200, "application/timestamp-reply", bytes(80_000)), LimitExceeded),
    ],
)
def test_an_answer_that_is_none_is_refused(serve: Callable[..., Server], answer: Any, kind: type[Exception]) -> None:
    tsa = Tsa()
    tsa.answer = lambda question: answer  # type: ignore[method-assign]
    authority = Authority(serve(tsa).url, development=True)
    with pytest.raises(kind):
        authority.stamp(b"root")
    authority.close()


def test_an_authority_speaks_tls_1_3_or_is_not_spoken_to(
    serve: Callable[..., Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    names = (x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), False)
    ca = (x509.BasicConstraints(ca=True, path_length=None), True)
    shown = certificate("here", key, "here", key, (now - timedelta(days=1), now + timedelta(days=1)), names, ca)
    (tmp_path / "cert.pem").write_bytes(shown.public_bytes(Encoding.PEM))
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "key.pem").write_bytes(private)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))

    def context(newest: ssl.TLSVersion) -> ssl.SSLContext:
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        made.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
        made.maximum_version = newest
        return made

    good = Authority(serve(Tsa(), context(ssl.TLSVersion.TLSv1_3)).url)
    assert parse_token(good.stamp(b"root")).status == 0
    old = Authority(serve(Tsa(), context(ssl.TLSVersion.TLSv1_2)).url)
    with pytest.raises(Unavailable):
        old.stamp(b"root")
    # A certificate that nobody vouches for.
    monkeypatch.delenv("SSL_CERT_FILE")
    unknown = Authority(serve(Tsa(), context(ssl.TLSVersion.TLSv1_3)).url)
    with pytest.raises(Unavailable):
        unknown.stamp(b"root")
    for one in (good, old, unknown):
        one.close()


@pytest.mark.parametrize(
    ("url", "development"),
    [
        ("http://tsa.example.com/tsr", True),
        ("http://127.0.0.1:1/tsr", False),
        ("https://user:word@tsa.example.com/", True),
        ("https:///tsr", True),
        ("ftp://127.0.0.1/", True),
        ("https://[::1", True),
        ("https://tsa.example.com:x/", True),
    ],
)
def test_a_url_without_tls_or_with_credentials_is_no_authority(url: str, development: bool) -> None:
    with pytest.raises(Misconfigured):
        Authority(url, development=development)


@pytest.mark.parametrize(
    "changes",
    [
        {"archive_tsa": "https://a.example/"},
        {"archive": "x", "archive_tsa": "https://a.example/, https://b.example/ https://c.example/"},
        {"archive": "x", "archive_tsa": "https://a.example/ https://a.example/"},
    ],
)
def test_settings_that_name_no_archive_or_too_many_authorities_are_refused(changes: dict[str, str]) -> None:
    base = {"origin": "audit.example.com/test", "bus_url": "nats://127.0.0.1:1", "bus_creds": "x", "database_url": "x"}
    known = {one.name for one in msgspec.structs.fields(AuditSettings)}
    base = {name: value for name, value in base.items() if name in known}
    with pytest.raises(Misconfigured):
        checked(msgspec.convert({**base, **changes}, AuditSettings, strict=False))


# -- archives --------------------------------------------------------------------------------------------------------


class Days:
    """A log with an archive, whose clock the test turns."""

    def __init__(self, stage: Any, database: Database) -> None:
        self.stage = stage
        self._database = database
        self._events = self._lives = 0
        self.now = NOON_US
        self.folder: Path = stage.directory / "archive"
        self.store = FolderStore(self.folder)

    async def start(self, seed: bytes, following: bytes | None = None, stamper: Stamper | None = None) -> None:
        self._lives += 1
        self._own = 0
        self.client = await self.stage.connect()
        self.log = await AuditLog.open(
            await self.stage.connect(),
            self._database,
            origin=self.stage.origin,
            seed=seed,
            next_seed=following,
            writer_id=new_id("wr"),
            services=self.stage.services,
            now=self._tick,
            checkpoint_seconds=0.1,
            tiles=self.stage.directory / "tiles",
        )
        self.log.archive(
            self.store,
            blinding_key=bytes(32),
            journal=self.own,
            now=lambda: self.now,
            tool="nomos test",
            grace_seconds=1.0,
            retry_seconds=0.1,
            stamp=None if stamper is None else stamper.follow,
        )
        self.running = self.stage.run(self.log.run(), "audit log")

    def _tick(self) -> int:
        self.now += 1
        return self.now

    async def stop(self) -> None:
        await self.stage.stop_task(self.running)
        await self.log.close()

    async def own(self, kind: str, event: dict[str, Any], actor: Actor | None = None) -> None:
        actor = actor or Actor(kind="system", id="audit")
        one = Envelope(id=new_id("ev"), type=kind, tenant="_sys", actor=actor, corr="", cause="", event=event)
        own, self._own = self._own, self._own + 1
        await self.stage.journal(self.client, f"a{self._lives}", own, [one], account="AA")

    async def events(self, number: int) -> None:
        first, self._events = self._events, self._events + number
        made = [self.stage.envelope(n, tenant=f"t{n % 3}") for n in range(first, first + number)]
        await self.stage.journal(self.client, "p1", first, made)
        await self.stage.until(lambda: self.stage.is_consumed(self.client), "the journal to be consumed")

    async def day(self, day: str) -> None:
        """Lets the day end and waits for its archive."""
        self.now += DAY_US

        def there() -> bool:
            if self.running.done():
                self.running.result()
            return self.log.archiver is not None and self.log.archiver.done.day == day

        await self.stage.until(there, f"the archive of {day}")
        await self.stage.until(lambda: f"roots/{day}" in self.listed(), f"the index of {day}")

    def listed(self) -> set[str]:
        index = self.folder / INDEX_NAME
        return {one.n for one in parse_index(index.read_bytes()).others} if index.exists() else set()

    async def listing(self, name: str) -> None:
        await self.stage.until(lambda: name in self.listed(), f"{name} in the index")

    def key(self, seed: bytes) -> str:
        return str(NoteSigner(self.stage.origin, seed).verifier_key)

    def signatures(self, day: str) -> int:
        return len(parse_note((self.folder / f"roots/{day}").read_bytes()).signatures)


def trust_of(*lines: str) -> bytes:
    return "\n".join([*lines, "quorum none", ""]).encode()


def judged(folder: Path, trust: bytes, level: int = 1, **more: Any) -> Report:
    return verify_export(folder, trust, level, now=NOW, **more)


@pytest.fixture
def days(stage: Any, database: Database) -> Days:
    return Days(stage, database)


async def test_an_archive_across_two_changes_of_key_verifies_and_an_old_one_stays_verified(
    days: Days, tmp_path: Path
) -> None:
    await days.start(OLD, NEW)
    await days.events(9)
    await days.day(FIRST)
    before = Path(shutil.copytree(days.folder, tmp_path / "before"))
    await days.events(3)
    keys = await Rotation(days.log.signer, journal=days.own).rotate(BY)
    await days.day(SECOND)
    await days.stop()
    # The operator moves the key; the newest root is of the new key, the one before of the old.
    await days.start(NEW, THIRD)
    assert days.log.signer.keys == keys
    await days.events(2)
    keys = await Rotation(days.log.signer, journal=days.own).rotate(BY)
    await days.day(LAST)
    seals = {
        day: parse_record(parse_root_proofs((days.folder / f"roots/{day}.json").read_bytes()).seal).event
        for day in (FIRST, SECOND, LAST)
    }
    named = {day: [one.rpartition("+")[2] for one in seal["keys"]] for day, seal in seals.items()}
    short = [days.key(seed).split("+")[1] for seed in (OLD, NEW, THIRD)]
    assert named == {FIRST: short[:1], SECOND: short[:2], LAST: short[1:]}
    await days.stop()
    await days.start(THIRD)
    await days.events(1)
    await days.stop()
    trust = trust_of(*keys.trust_lines())
    for folder in (before, days.folder):
        for level in (0, 1, 2):
            report = judged(folder, trust, level)
            assert report.verdict is Verdict.VERIFIED, render_text(report)
    assert judged(before, trust_of(f"log {days.key(OLD)}")).verdict is Verdict.VERIFIED
    # A key outside its sizes: the old one for a later root, the new one for an earlier.
    for wrong in (
        trust_of(f"log {days.key(OLD)} sizes:0-5", *keys.trust_lines()[1:]),
        trust_of(keys.trust_lines()[0], f"log {days.key(NEW)} sizes:16-", keys.trust_lines()[2]),
    ):
        assert judged(days.folder, wrong, 0).verdict is Verdict.TAMPERED
    assert judged(days.folder, trust_of(keys.trust_lines()[0]), 0).verdict is Verdict.UNVERIFIABLE


async def test_a_key_that_changes_right_before_and_right_after_a_seal_spoils_no_root(days: Days) -> None:
    await days.start(OLD, NEW)
    await days.events(5)
    # The last record of the day is the change of key, the next one of the log is the day's seal.
    keys = await Rotation(days.log.signer, journal=days.own).rotate(BY)
    await days.day(FIRST)
    assert (keys.since, days.signatures(FIRST)) == (6, 1)
    await days.stop()
    # The record right behind the seal changes the key again: the root before it is the old key's alone.
    await days.start(NEW, THIRD)
    keys = await Rotation(days.log.signer, journal=days.own).rotate(BY)
    assert (keys.since, days.signatures(FIRST)) == (8, 1)
    await days.day(SECOND)
    for level in (0, 2):
        report = judged(days.folder, trust_of(*keys.trust_lines()), level)
        assert report.verdict is Verdict.VERIFIED, render_text(report)
    await days.stop()


async def test_roots_are_stamped_by_each_authority_and_an_authority_that_is_away_is_asked_again(
    days: Days, serve: Callable[..., Server], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = Tsa(), Tsa()
    servers = [serve(one), serve(two)]
    away = Tsa.answer
    two.answer = lambda question: (503, "text/plain", b"")  # type: ignore[method-assign]
    stamper = Stamper(days.store, [Authority(server.url, development=True) for server in servers])
    await days.start(OLD, stamper=stamper)
    await days.events(9)
    await days.day(FIRST)
    await days.listing(f"roots/{FIRST}.tsr")
    assert f"roots/{FIRST}.2.tsr" not in days.listed()
    # The next day: both, and what was missing.
    two.answer = lambda question: away(two, question)  # type: ignore[method-assign]
    one.at = two.at = NOON + timedelta(days=2)
    await days.day(SECOND)
    await days.listing(f"roots/{SECOND}.2.tsr")
    names = {f"roots/{day}{suffix}" for day in (FIRST, SECOND) for suffix in (".tsr", ".2.tsr")}
    assert names <= days.listed()
    asked = one.asked
    await days.stop()

    trust, roots = trust_of(f"log {days.key(OLD)}"), one.pem + two.pem
    for level in (0, 1):
        report = judged(days.folder, trust, level, tsa_roots=roots, strict=True)
        assert report.verdict is Verdict.VERIFIED, render_text(report)
        assert any(line.startswith("4 time-stamp tokens of 2 days") for line in report.checked)
    unasked = judged(days.folder, trust, 0)
    assert unasked.verdict is Verdict.VERIFIED
    assert any(line.startswith("4 time-stamp tokens (give") for line in unasked.not_checked)
    (tmp_path / "roots.pem").write_bytes(roots)
    (tmp_path / "trust").write_bytes(trust)
    words = ["verify", str(days.folder), "--trust", str(tmp_path / "trust"), "--level", "0"]
    assert main([*words, "--tsa-roots", str(tmp_path / "roots.pem")]) == 0
    assert "4 time-stamp tokens of 2 days" in capsys.readouterr().out
    assert main([*words, "--tsa-roots", str(tmp_path / "trust")]) == 2

    # Killed between a token and the index: the next start lists it, and asks nobody for it again.
    index = parse_index((days.folder / INDEX_NAME).read_bytes())
    others = tuple(other for other in index.others if other.n != f"roots/{SECOND}.tsr")
    (days.folder / INDEX_NAME).write_bytes(format_index(msgspec.structs.replace(index, others=others)))
    await days.start(OLD, stamper=stamper)
    await days.listing(f"roots/{SECOND}.tsr")
    assert one.asked == asked
    await days.stop()
    _judge_changed_tokens(days, tmp_path, trust, roots, one)


def _judge_changed_tokens(days: Days, tmp_path: Path, trust: bytes, roots: bytes, tsa: Tsa) -> None:
    name = f"roots/{SECOND}.tsr"
    root = (days.folder / f"roots/{SECOND}").read_bytes()
    other = (days.folder / f"roots/{FIRST}.tsr").read_bytes()
    flipped = bytearray((days.folder / name).read_bytes())
    flipped[-5] ^= 1
    cases = {
        "over another root": (other, Verdict.TAMPERED, "over other bytes"),
        "no token": (b"\x30\x00", Verdict.TAMPERED, "not a time-stamp token"),
        "too long": (bytes(70_000), Verdict.TAMPERED, "TOKEN"),
        "signature": (bytes(flipped), Verdict.UNVERIFIABLE, "no root vouches"),
        "expired at its time": (tsa.over(root, at=NOON + timedelta(days=31)), Verdict.UNVERIFIABLE, "as of its time"),
        "before its day": (tsa.over(root, at=NOON), Verdict.UNVERIFIABLE, "before its day"),
        "of nobody": (Tsa().over(root), Verdict.UNVERIFIABLE, "no root vouches"),
    }
    for what, (content, verdict, words) in cases.items():
        folder = Path(shutil.copytree(days.folder, tmp_path / what))
        (folder / name).write_bytes(content)
        refresh(folder)
        report = judged(folder, trust, 0, tsa_roots=roots)
        assert report.verdict is verdict, (what, render_text(report))
        assert report.first is not None
        assert report.first.file == name
        assert words.lower() in report.first.reason.lower() or what == "too long", (what, report.first)
    # A time that has not come, as seen from before it.
    early = verify_export(days.folder, trust, 0, now=int(NOON.timestamp()), tsa_roots=roots)
    assert early.verdict is Verdict.UNVERIFIABLE
    # A token that is gone is told, and in strict mode it is missed.
    folder = Path(shutil.copytree(days.folder, tmp_path / "gone"))
    for suffix in (".tsr", ".2.tsr"):
        (folder / f"roots/{SECOND}{suffix}").unlink()
    refresh(folder)
    assert any("no time-stamp token" in line for line in judged(folder, trust, 0, tsa_roots=roots).warnings)
    assert judged(folder, trust, 0, tsa_roots=roots, strict=True).verdict is Verdict.INCOMPLETE
    # One beside the index is no part of the archive.
    (folder / name).write_bytes(tsa.over(root))
    assert judged(folder, trust, 0, tsa_roots=roots).verdict is Verdict.TAMPERED


def refresh(folder: Path) -> None:
    """What an attacker does who can write every file: the index fits again."""
    index = parse_index((folder / INDEX_NAME).read_bytes())
    others = tuple(
        FileEntry(n=one.n, sha256=file_digest(folder / one.n)) for one in index.others if (folder / one.n).exists()
    )
    (folder / INDEX_NAME).write_bytes(format_index(msgspec.structs.replace(index, others=others)))


async def test_of_two_processes_one_token_stays_and_old_days_are_left_alone(
    serve: Callable[..., Server], tmp_path: Path
) -> None:
    store, tsa = FolderStore(tmp_path / "archive"), Tsa()
    listed = [f"roots/2026-11-{day:02}" for day in range(1, 11)]
    for name in listed:
        await store.put_new(name, name.encode(), digest_of(name.encode()))
    stampers = [Stamper(store, [Authority(serve(tsa).url, development=True)]) for _ in range(2)]
    found = await asyncio.gather(*(one.follow(listed) for one in stampers))
    assert set(found[0]) == set(found[1])
    assert sorted(one.n for one in found[0]) == [f"roots/2026-11-{day:02}.tsr" for day in range(4, 11)]
    for one in found[0]:
        verify_token(await store.get(one.n), one.n.removesuffix(".tsr").encode(), parse_roots(tsa.pem))
    asked = tsa.asked
    assert await stampers[0].follow([*listed, *(one.n for one in found[0])]) == ()
    assert tsa.asked == asked
