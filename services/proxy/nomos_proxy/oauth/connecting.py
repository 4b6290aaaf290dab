"""Connecting an account: an operator's link, a browser's way to the provider and back, a code that becomes tokens.

    offer (operator) -> link -> page -> begin: state, verifier, cookie -> provider -> returned: code -> tokens -> stored

The verifier (PKCE) and the nonce are sealed in this service and never leave it but to the provider, so a code that
somebody reads off an address opens nothing. An attempt takes one answer: it is marked as returned before the code is
used. A crash after that leaves no connection; the operator makes another link.
"""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import msgspec
from authlib.common.security import generate_token
from msgspec import Struct

from nomos.errors import Malformed, NomosError, UpstreamFailed
from nomos.events import (
    CONNECT_BEGUN,
    CONNECT_RETURNED,
    Actor,
)
from nomos.ids import new_id
from nomos_proxy.oauth.attempts import Attempts, stream
from nomos_proxy.oauth.clients import Clients
from nomos_proxy.oauth.devices import Devices
from nomos_proxy.oauth.flow import ID_PREFIX, SECRET_BYTES, Flow, b64url, link_of, parse_link, sha256_hex
from nomos_proxy.oauth.party import Party
from nomos_proxy.oauth.protocol import NotConnected, check_issuer, error_code, read_object
from nomos_proxy.oauth.requests import (
    authorization_parameters,
    authorization_url,
    code_request,
    push_request,
    pushed_url,
)
from nomos_runtime.secret import Secret

#: Path of the page that a link opens, and of the one that providers send browsers back to.
CONNECT: Final = "/connect/"
CONNECTED: Final = "/connected"
#: Characters of a verifier, RFC 7636 section 4.1 (43 to 128); about 285 bits.
VERIFIER_CHARS: Final = 48
#: Characters of what a provider puts into an answer's address.
CODE_CHARS_MAX: Final = 4_000
REQUEST_URI_CHARS_MAX: Final = 1_000


class Secrets(Struct, frozen=True, kw_only=True):
    """What is kept of one way to the provider."""

    verifier: str
    nonce: str


_secrets = msgspec.json.Decoder(Secrets)


class Connecting:
    """Offers links, sends browsers to providers, and takes their answers."""

    def __init__(
        self,
        attempts: Attempts,
        clients: Clients,
        *,
        origin: str,
        link_seconds: int,
        refresh: Callable[[], Awaitable[None]],
    ) -> None:
        """Wires it.

        Args:
            attempts: their events, and how they end.
            clients: as whom a provider is asked.
            origin: of the pages; with :data:`CONNECTED` it is the redirect address, exactly.
            link_seconds: how long a link works.
            refresh: brings this replica's facts up to date.
        """
        self._attempts = attempts
        #: The other way: a code that a person enters at the provider.
        self.devices = Devices(attempts, clients, refresh)
        self._clients = clients
        self._origin = origin
        self._link_seconds = link_seconds
        self._refresh = refresh

    @property
    def redirect_uri(self) -> str:
        """Where providers send browsers back; what is registered there."""
        return self._origin + CONNECTED

    async def offer(
        self, tenant: str, *, connector: str, name: str, scopes: tuple[str, ...], base_url: str, by: Actor, corr: str
    ) -> tuple[str, int]:
        """Makes a link by which somebody connects an account, once.

        Returns:
            Its address, and until when it works, Unix seconds.

        Raises:
            NomosError: as :meth:`Attempts.asked`.
        """
        asked, _ = await self._attempts.asked(tenant, connector=connector, name=name, scopes=scopes, base_url=base_url)
        flow, secret = new_id(ID_PREFIX), os.urandom(SECRET_BYTES)
        expires_at = int(time.time()) + self._link_seconds
        members = {"link_sha256": sha256_hex(secret), "expires_at": expires_at}
        await self._attempts.offered(tenant, flow, asked, members, by=by, corr=corr)
        return f"{self._origin}{CONNECT}{link_of(tenant, flow, secret)}", expires_at

    async def opened(self, link: str) -> tuple[Flow, str, str]:
        """The attempt behind a link that still works, the provider's name, and the host where people go on.

        Raises:
            NotFound, Expired, Replayed: as :meth:`Flow.check_link`.
        """
        tenant, flow_id, secret = parse_link(link)
        flow = await self._attempts.flow(tenant, flow_id)
        flow.check_link(secret, int(time.time()))
        connector, _ = self._clients.provider(flow.connector)
        return flow, connector.title, self._clients.host(tenant, flow.connector, is_shared=flow.is_shared)

    async def begin(self, link: str, browser: bytes, corr: str) -> str:
        """Sends a browser to the provider; gives the address.

        Args:
            link: that it opened.
            browser: the secret in its cookie, :data:`SECRET_BYTES` bytes.
            corr: the request.

        Raises:
            NotFound, Expired, Replayed: as :meth:`Flow.check_link`.
            LimitExceeded: as :meth:`Flow.check_begin`.
            UpstreamFailed, UnknownOutcome: the provider does not take the pushed request.
        """
        flow, _, _ = await self.opened(link)
        flow.check_begin()
        party = await self._clients.party(flow.tenant, flow.connector, is_shared=flow.is_shared)
        state = b64url(os.urandom(SECRET_BYTES))
        secrets = Secrets(verifier=generate_token(VERIFIER_CHARS), nonce=b64url(os.urandom(SECRET_BYTES)))
        kept = Secret(msgspec.json.encode(secrets))
        sealed = await self._attempts.seal(flow.tenant, flow.id, flow.connector, kept)
        event: dict[str, object] = {
            "flow": flow.id,
            "state_sha256": sha256_hex(state.encode()),
            "browser_sha256": sha256_hex(browser),
            "at": int(time.time()),
        }
        await self._attempts.append(
            flow.tenant, flow.id, flow.version, CONNECT_BEGUN, event, corr=corr, sealed={stream(flow.id): sealed}
        )
        parameters = authorization_parameters(
            party.oauth,
            client_id=party.client_id,
            redirect_uri=self.redirect_uri,
            scopes=flow.scopes,
            state=state,
            verifier=secrets.verifier,
            nonce=secrets.nonce,
        )
        base = party.address(party.oauth.authorize)
        if party.oauth.push is None:
            return authorization_url(base, parameters)
        answer = await party.ask(party.oauth.push, push_request(party.oauth, party.client(), parameters))
        return pushed_url(base, party.client_id, _request_uri(answer.status, answer.body))

    async def returned(self, tenant: str, flow_id: str, browser: bytes, query: Mapping[str, str], corr: str) -> Flow:
        """Takes what a browser brought back; returns when the account is connected.

        Args:
            tenant: from the browser's cookie.
            flow_id: from the browser's cookie.
            browser: the secret in its cookie.
            query: of the address: ``code`` or ``error``, ``state``, ``iss``.
            corr: the request.

        Raises:
            NotFound, WrongBrowser, Expired, Replayed: as :meth:`Flow.check_return`; nothing has changed.
            NotConnected: the provider sent no code.
            AnswerNotTaken: another provider answered, or it granted something else than was asked for.
            GrantRefused, UpstreamFailed, UnknownOutcome: the provider gave no tokens for the code.
            Conflict: the connection was made, removed or changed meanwhile.
        """
        flow = await self._attempts.flow(tenant, flow_id)
        flow.check_return(query.get("state", ""), browser, int(time.time()))
        # Before the code is used: of two answers one loses here.
        event: dict[str, object] = {"flow": flow.id, "at": int(time.time())}
        await self._attempts.append(tenant, flow.id, flow.version, CONNECT_RETURNED, event, corr=corr)
        try:
            party = await self._clients.party(tenant, flow.connector, is_shared=flow.is_shared)
            check_issuer(party.oauth, query.get("iss"), party.issuer)
            if "error" in query or not query.get("code"):
                said = error_code(query["error"]) or "an error" if "error" in query else "no code"
                raise NotConnected(f"the provider connected nothing: {said}")
            if len(query["code"]) > CODE_CHARS_MAX:
                raise Malformed(f"CODE_CHARS_MAX is {CODE_CHARS_MAX}")
            await self._connect(party, flow, query["code"], corr)
        except NomosError as e:
            await self._attempts.failed(flow, flow.version + 1, e, corr)
            raise
        await self._attempts.end(flow, flow.version + 1, "connected", "", corr)
        await self._refresh()
        return flow

    async def _connect(self, party: Party, flow: Flow, code: str, corr: str) -> None:
        kept, _ = await self._attempts.kept(flow)
        secrets = _secrets.decode(kept.reveal())
        request = code_request(
            party.oauth, party.client(), code=code, verifier=secrets.verifier, redirect_uri=self.redirect_uri
        )
        granted = await party.tokens(request, int(time.time()))
        await self._attempts.take(party, flow, granted, nonce=secrets.nonce, corr=corr)


def _request_uri(status: int, body: bytes) -> str:
    if status not in (200, 201):
        raise UpstreamFailed(f"the provider answered {status} to the pushed request")
    found = read_object(body).get("request_uri")
    if not isinstance(found, str) or not 0 < len(found) <= REQUEST_URI_CHARS_MAX:
        raise UpstreamFailed("the provider took the pushed request and gave no address for it")
    return found
