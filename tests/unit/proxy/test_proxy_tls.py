"""TLS to an upstream: version 1.3, a trusted authority, the right name; else nothing is sent."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Protocol

import pytest

from nomos.catalogue import OutgoingRequest
from nomos.errors import UpstreamFailed
from nomos_proxy.destination import Origin
from nomos_proxy.dial import tls_context
from nomos_proxy.exchange import Limits
from nomos_proxy.upstream import Upstreams
from nomos_runtime.embedded.upstream import EmbeddedUpstream
from nomos_runtime.secret import Secret

BODIES = Path(__file__).parents[2] / "fixtures" / "github"
NAME = "upstream.test"
GET = OutgoingRequest(method="GET", path="/repos/acme/site")


class Authority(Protocol):
    ca_file: Path

    def server(self, name: str, maximum: ssl.TLSVersion = ...) -> ssl.SSLContext: ...


async def resolver(_host: str, _port: int) -> list[str]:
    return ["127.0.0.1"]


async def status_of(server_context: ssl.SSLContext, client_context: ssl.SSLContext, token: str) -> int:
    server = await EmbeddedUpstream.start(bodies=BODIES, token=token, tls=server_context)
    origin = Origin(scheme="https", host=NAME, port=server.port)
    client = Upstreams(context=client_context, resolver=resolver, development_origins={origin})
    try:
        return (await client.call(origin, GET, Secret(token.encode()), Limits(total_seconds=5.0))).status
    finally:
        client.close()
        await server.close()


async def test_the_original_name_is_proved_at_the_checked_address(authority: Authority, token: str) -> None:
    asked: list[str | None] = []
    context = authority.server(NAME)
    context.sni_callback = lambda _socket, name, _context: asked.append(name)
    assert await status_of(context, tls_context(authority.ca_file), token) == 200
    assert asked == [NAME]


async def test_a_server_that_offers_tls_1_2_at_most_is_refused(authority: Authority, token: str) -> None:
    with pytest.raises(UpstreamFailed):
        await status_of(authority.server(NAME, ssl.TLSVersion.TLSv1_2), tls_context(authority.ca_file), token)


async def test_a_certificate_for_another_name_is_refused(authority: Authority, token: str) -> None:
    with pytest.raises(UpstreamFailed):
        await status_of(authority.server("other.test"), tls_context(authority.ca_file), token)


async def test_a_certificate_of_an_unknown_authority_is_refused(authority: Authority, token: str) -> None:
    with pytest.raises(UpstreamFailed):
        await status_of(authority.server(NAME), tls_context(), token)


def test_session_keys_are_not_written_for_debugging(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    assert tls_context().keylog_filename is None
