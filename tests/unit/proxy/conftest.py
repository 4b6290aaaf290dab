"""Real sockets for the proxy's tests: the embedded upstream on loopback, clear and with TLS from a fresh authority."""

from __future__ import annotations

import datetime
import os
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from nomos_proxy.destination import Origin, parse_development_origin
from nomos_proxy.dial import tls_context
from nomos_proxy.pool import PoolLimits
from nomos_proxy.upstream import Upstreams
from nomos_runtime.embedded.upstream import EmbeddedUpstream
from nomos_runtime.secret import Secret

BODIES = Path(__file__).parents[2] / "fixtures" / "github"
NAME = "upstream.test"


@pytest.fixture
def token() -> str:
    return "t" + os.urandom(16).hex()


@pytest.fixture
async def upstream(token: str) -> AsyncIterator[EmbeddedUpstream]:
    server = await EmbeddedUpstream.start(bodies=BODIES, token=token)
    yield server
    await server.close()


@pytest.fixture
def origin(upstream: EmbeddedUpstream) -> Origin:
    return parse_development_origin(upstream.origin)


@pytest.fixture
def bearer(token: str) -> Secret:
    return Secret(token.encode())


@pytest.fixture
async def upstreams(origin: Origin) -> AsyncIterator[Upstreams]:
    client = Upstreams(
        context=tls_context(), development_origins={origin}, pool_limits=PoolLimits(connections=2, waiting=4)
    )
    yield client
    client.close()


class Authority:
    """A certificate authority that lives for one test session."""

    def __init__(self, folder: Path) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._folder = folder
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
        built = self._builder(name, name, self._key.public_key())
        built = built.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        self.ca_file = folder / "ca.pem"
        self.ca_file.write_bytes(built.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        self._issuer = name

    def server(self, name: str, maximum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
        """A server's context with a certificate for ``name``."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        built = self._builder(subject, self._issuer, key.public_key())
        built = built.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        chain = self._folder / f"{name}-{maximum.name}.pem"
        chain.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            + built.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(chain)
        context.maximum_version = maximum
        return context

    @staticmethod
    def _builder(
        subject: x509.Name, issuer: x509.Name, public_key: ec.EllipticCurvePublicKey
    ) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
        )


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))
