"""The server of a site: TLS 1.3 and nothing older, limits, and an end."""

from __future__ import annotations

import asyncio
import datetime
import socket
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send

from nomos.errors import Misconfigured, NomosError
from nomos_web.assets import Assets
from nomos_web.forms import read_form
from nomos_web.server import Address, WebServer, parse_address
from nomos_web.site import Site
from nomos_web.templates import Templates


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("here")(scope, receive, send)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def certificate(folder: Path) -> tuple[str, str]:
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "approve.example.test")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(1)
        .not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("approve.example.test")]), critical=False)
        .sign(private, hashes.SHA256())
    )
    cert, key = folder / "cert.pem", folder / "key.pem"
    cert.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key.write_bytes(
        private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return str(cert), str(key)


async def ask(port: int, head: bytes, tls: ssl.SSLContext | None = None) -> bytes:
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=tls, server_hostname="approve.example.test" if tls else None
    )
    writer.write(head)
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    return answer


GET = b"GET / HTTP/1.1\r\nHost: approve.example.test\r\nConnection: close\r\n\r\n"


async def test_pages_are_served_over_tls_1_3_and_nothing_older(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    port = free_port()
    address = parse_address(f"127.0.0.1:{port}", cert=cert, key=key, origins=("https://approve.example.test",))
    server = WebServer(app, address)
    await server.start()
    try:
        new = ssl.create_default_context(cafile=cert)
        assert b"200 OK" in await ask(port, GET, new)
        old = ssl.create_default_context(cafile=cert)
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await ask(port, GET, old)
        assert b"200 OK" not in await ask(port, GET)
    finally:
        await server.stop()


async def test_a_server_that_ended_is_a_fault_and_frees_its_address() -> None:
    address = Address(host="127.0.0.1", port=free_port())
    first = WebServer(app, address)
    assert first.faults()
    await first.start()
    assert first.faults() == []
    with pytest.raises(Misconfigured):
        await WebServer(app, address).start()
    await first.stop()
    assert first.faults()
    again = WebServer(app, address)
    await again.start()
    await again.stop()


async def test_a_head_that_is_too_large_and_a_body_that_is_too_large_are_refused() -> None:
    refused: list[str] = []

    async def view(request: Request) -> Response:
        await read_form(request, ("a",))
        return PlainTextResponse("taken")

    async def record(request: Request, error: Exception) -> NomosError:
        assert isinstance(error, NomosError)
        refused.append(error.code)
        return error

    port = free_port()
    origin, assets = f"http://localhost:{port}", Assets()
    site = Site(
        [("POST", "/form", view)],
        origins=(origin,),
        templates=Templates("nomos_web", assets),
        assets=assets,
        refused=record,
    )
    server = WebServer(site.app, Address(host="127.0.0.1", port=port))
    await server.start()
    try:
        long = b"GET / HTTP/1.1\r\nX: " + b"x" * 70_000 + b"\r\n\r\n"
        assert b"400" in (await ask(port, long)).split(b"\r\n")[0]
        body = b"a=" + b"x" * 140_000
        head = (
            f"POST /form HTTP/1.1\r\nHost: localhost:{port}\r\nOrigin: {origin}\r\nConnection: close\r\n"
            f"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        answer = await ask(port, head.encode() + body)
        assert b" 413 " in answer.split(b"\r\n")[0]
        assert b"FORM_BYTES_MAX" in answer
        assert refused == ["limit_exceeded"]
    finally:
        await server.stop()


async def test_a_fault_of_a_view_shows_nothing_of_itself() -> None:
    seen: list[Exception] = []

    class Broken(NomosError):
        code = "internal"

    async def view(request: Request) -> Response:
        raise RuntimeError("the secret is 42")

    async def record(request: Request, error: Exception) -> NomosError:
        seen.append(error)
        return Broken("the service failed; nothing was allowed")

    port = free_port()
    assets = Assets()
    site = Site(
        [("GET", "/", view)],
        origins=(f"http://localhost:{port}",),
        templates=Templates("nomos_web", assets),
        assets=assets,
        refused=record,
    )
    server = WebServer(site.app, Address(host="127.0.0.1", port=port))
    await server.start()
    try:
        head = f"GET / HTTP/1.1\r\nHost: localhost:{port}\r\nConnection: close\r\n\r\n"
        answer = await ask(port, head.encode())
    finally:
        await server.stop()
    assert b" 500 " in answer.split(b"\r\n")[0]
    assert b"42" not in answer.partition(b"\r\n\r\n")[2].partition(b"<main")[2]
    assert b"content-security-policy" in answer.lower()
    assert isinstance(seen[0], RuntimeError)
