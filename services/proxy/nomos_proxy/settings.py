"""Settings of proxy. Secrets: ``OAUTH_TOKEN_ENCRYPTION_KEY`` (32 bytes, base64url) seals the credentials at rest."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from nomos_runtime.settings import ServiceSettings


class ProxySettings(ServiceSettings, frozen=True, kw_only=True):
    """Settings of proxy.

    Attributes:
        connectors: folder of the connector catalogue.
        environment: ``production``, or ``development``, which alone lets a connection name another origin.
        nonce_ttl_seconds: how long a used delegation or invocation is remembered; longer than both live.
        sanitize_timeout_ms: bound of one request to the sanitizer, milliseconds.
        large_sanitize_timeout_ms: the same for the last piece of a large body, with which all of it is cleaned.
        tenant_calls_per_second: calls of one tenant, over all replicas; twice as many may come at once.
        agent_calls_per_second: calls of one agent, likewise.
        pages_listen: ``address:port`` on which this process serves the pages by which accounts are connected; empty
            where others do.
        pages_origin: their origin, as a browser writes it; empty where nobody serves them. Providers send browsers back
            to ``/connected`` there.
        pages_tls_cert: path of the pages' certificate chain, PEM. Needed unless the origin is ``http://localhost``.
        pages_tls_key: path of its key, PEM.
        link_seconds: how long a link works by which an account is connected.
        shared_client_accounts: accounts of one tenant at one provider that come through the installation's client.
        body_bytes_max: largest body that an upstream's answer may have, bytes; one bus message carries it.
        large_body_bytes_max: the same, where the agent reads it in pieces; the sanitizer takes 8 MiB.
        live_bytes_max: bytes of an answer that leaves while it comes.
        live_seconds_max: how long such an answer may go on.
        files_volumes: directories of this machine that agents may be permitted, as :mod:`nomos_proxy.files.volumes`
            reads them; empty for none.
    """

    connectors: str
    environment: str = "production"
    nonce_ttl_seconds: int = 180
    sanitize_timeout_ms: int = 5_000
    large_sanitize_timeout_ms: int = 30_000
    tenant_calls_per_second: Annotated[int, Meta(ge=1, le=1_000_000)] = 1_000
    agent_calls_per_second: Annotated[int, Meta(ge=1, le=1_000_000)] = 200
    pages_listen: str = ""
    pages_origin: str = ""
    pages_tls_cert: str = ""
    pages_tls_key: str = ""
    link_seconds: Annotated[int, Meta(ge=60, le=86_400)] = 900
    shared_client_accounts: Annotated[int, Meta(ge=1, le=10_000)] = 20
    body_bytes_max: int = 700_000
    large_body_bytes_max: Annotated[int, Meta(ge=1, le=8_388_608)] = 8_388_608
    live_bytes_max: Annotated[int, Meta(ge=1)] = 67_108_864
    live_seconds_max: Annotated[int, Meta(ge=1, le=86_400)] = 600
    files_volumes: str = ""
