"""One client at one provider, and the request that it makes."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Final

from nomos.catalogue import OutgoingRequest
from nomos.catalogue.oauth import Endpoint, OAuth
from nomos.errors import NomosError, UpstreamFailed
from nomos.ids import new_id
from nomos_proxy.answer import UpstreamResponse
from nomos_proxy.clientfacts import ClientFacts
from nomos_proxy.destination import Origin, check_request
from nomos_proxy.exchange import Limits, WireRequest
from nomos_proxy.oauth.assertion import client_assertion
from nomos_proxy.oauth.protocol import (
    ANSWER_BYTES_MAX,
    Granted,
    TokenSet,
    check_answer,
    is_revoked,
    read_tokens,
)
from nomos_proxy.oauth.requests import Client, TokenRequest, revoke_request
from nomos_proxy.upstream import Upstreams
from nomos_runtime import observe
from nomos_runtime.secret import Secret

#: Seconds of one request to a token endpoint. Far below the lease, so that it is over before another process asks.
ASK_SECONDS: Final = 12.0


class Party:
    """One client at one provider, ready to ask."""

    __slots__ = ("_check", "_has_key", "_held", "_upstreams", "client_id", "oauth", "origin")

    def __init__(
        self, oauth: OAuth, facts: ClientFacts, held: Secret, upstreams: Upstreams, check: Callable[[], Awaitable[None]]
    ) -> None:
        """Takes a client.

        Args:
            oauth: the provider.
            facts: which client.
            held: its secret, or its private key as ``facts`` says.
            upstreams: sends.
            check: raises where nothing may be asked now.
        """
        self.oauth = oauth
        self.client_id = facts.client_id
        #: In place of the provider's, in development only.
        self.origin = facts.origin
        self._has_key = facts.has_key
        self._held = held
        self._upstreams = upstreams
        self._check = check

    def client(self) -> Client:
        """The client for one request: what proves it by a key serves once.

        Raises:
            Malformed: the provider takes no signature of its key any more.
        """
        if not self._has_key:
            return Client(id=self.client_id, secret=self._held)
        assertion = client_assertion(
            self._held,
            self.oauth.keys,
            client_id=self.client_id,
            audience=self.issuer or self.address(self.oauth.token),
            now=int(time.time()),
            token_id=new_id("jt"),
        )
        return Client(id=self.client_id, secret=Secret(b""), assertion=assertion)

    @property
    def issuer(self) -> str:
        """What ``iss`` must be; in development the origin that takes the provider's place."""
        return str(self.origin) if self.origin is not None and self.oauth.issuer else self.oauth.issuer

    def address(self, endpoint: Endpoint) -> str:
        """Where a browser is sent."""
        return str(endpoint) if self.origin is None else f"{self.origin}{endpoint.path}"

    async def ask(self, endpoint: Endpoint, request: TokenRequest) -> UpstreamResponse:
        """Posts a form.

        Raises:
            RateLimited: too often; nothing was sent.
            DestinationRefused, UpstreamFailed: nothing was sent.
            UnknownOutcome: it was sent and no complete answer came back.
            AnswerRefused: it was answered, and the answer is over a limit or badly framed.
        """
        await self._check()
        return await post_form(self._upstreams, self.origin, endpoint, request)

    async def tokens(self, request: TokenRequest, now: int) -> Granted:
        """Asks the token endpoint.

        Args:
            request: with a code or a refresh token.
            now: Unix seconds.

        Raises:
            GrantRefused: the code or refresh token is no good.
            AnswerUnreadable: it said yes in a way that cannot be read.
            NomosError: as :meth:`ask` and :func:`check_answer`.
        """
        answer = await self.ask(self.oauth.token, request)
        check_answer(self.oauth, answer.status, answer.body)
        return read_tokens(answer.body, now=now)

    async def give_back(self, tokens: TokenSet) -> str:
        """Has the provider revoke tokens (RFC 7009), in the way that its connector says.

        Returns:
            ``revoked``; ``unsupported`` where the provider takes none back; else the code of what went wrong.
        """
        if self.oauth.revoke is None:
            return "unsupported"
        try:
            request = revoke_request(self.oauth, self.client(), tokens)
            if request is None:
                return "unsupported"
            answer = await self.ask(self.oauth.revoke, request)
        except NomosError as e:
            observe.say("proxy", observe.CREDENTIAL_FAULT, code=e.code)
            return e.code
        return "revoked" if is_revoked(self.oauth, answer.status, answer.body) else UpstreamFailed.code


async def post_form(
    upstreams: Upstreams, instead: Origin | None, endpoint: Endpoint, request: TokenRequest
) -> UpstreamResponse:
    """Posts a form to a token endpoint; ``instead`` takes its origin's place. Errors as :meth:`Party.ask`."""
    origin = instead or Origin(scheme="https", host=endpoint.host, port=endpoint.port)
    limits = Limits(total_seconds=ASK_SECONDS, body_bytes=ANSWER_BYTES_MAX)
    target = check_request(origin, OutgoingRequest(method="POST", path=endpoint.path))
    return await upstreams.send(origin, _written(origin, target, request), limits)


def _written(origin: Origin, target: str, request: TokenRequest) -> WireRequest:
    # Made and handed on at once: a traceback that shows local variables must find nothing but what hides itself.
    return WireRequest(
        method="POST",
        target=target,
        headers=(
            (b"host", origin.authority.encode("ascii")),
            (b"accept-encoding", b"identity"),
            (b"user-agent", b"nomos-proxy"),
            (b"content-type", request.content_type),
            (b"content-length", str(len(request.body)).encode("ascii")),
            *request.headers,
        ),
        body=request.body,
    )
