"""What a cloud is asked for a credential, and what its answer says. Pure: no IO, no clock, no randomness.

* AWS: ``AssumeRoleWithWebIdentity``; the credential signs requests (Signature Version 4).
* Google Cloud: token exchange (RFC 8693) for a workload identity pool; a bearer with the rights of the identity. Where
  a service account is named, that bearer is good for IAM alone, and is exchanged once more for one of the account.
* Azure: client credentials with a client assertion (RFC 7523) of a federated identity; a bearer.

Endpoints are the clouds' own and stand here; what an operator says cannot move them.

Sources: AWS STS API reference 2011-06-15; cloud.google.com/iam/docs/workload-identity-federation,
cloud.google.com/iam/docs/reference/sts/rest/v1/TopLevel/token and
cloud.google.com/iam/docs/reference/credentials/rest/v1/projects.serviceAccounts/generateAccessToken;
learn.microsoft.com/entra/workload-id/workload-identity-federation.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final
from urllib.parse import urlencode

import msgspec
from msgspec import Struct

from nomos.errors import UpstreamFailed
from nomos_proxy.federation.cloud import GCP_IAM_SCOPE, GCP_SCOPE, Federation
from nomos_proxy.oauth.protocol import AnswerUnreadable, GrantRefused, error_code, read_object
from nomos_proxy.oauth.requests import TokenRequest

OK: Final = 200
#: Seconds that AWS is asked for; the least that it gives is 900.
AWS_SECONDS: Final = 3_600
#: Seconds that Google is asked for of a service account's token; the most that it gives by itself.
GCP_SECONDS: Final = 3_600
#: Characters of a token. Google's of the first step have up to 12,288; AWS names no limit.
TOKEN_CHARS_MAX: Final = 12_288
#: Seconds for which a credential is used at most, whatever the cloud says; then another one is asked for.
LIFE_SECONDS_MAX: Final = 86_400
_GRANT: Final = "urn:ietf:params:oauth:grant-type:token-exchange"
_ACCESS: Final = "urn:ietf:params:oauth:token-type:access_token"
_JWT: Final = "urn:ietf:params:oauth:token-type:jwt"
_ASSERTION: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_AWS_KEY: Final = re.compile(r"[A-Z0-9]{16,128}")
_AWS_SECRET: Final = re.compile(r"[A-Za-z0-9/+=]{16,128}")
_PLAIN: Final = re.compile(rf"[!-~]{{1,{TOKEN_CHARS_MAX}}}")
#: RFC 3339, as Google writes it.
_TIME: Final = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.[0-9]{1,9})?Z")
#: What refuses us for good, in the clouds' words.
_REFUSED: Final = frozenset({
    "AccessDenied", "InvalidIdentityToken", "ExpiredTokenException", "IDPRejectedClaim", "ValidationError",
    "RegionDisabledException",
    "invalid_grant", "invalid_client", "invalid_target", "invalid_request", "unauthorized_client", "invalid_scope",
    "invalid_resource", "access_denied",
    "PERMISSION_DENIED", "UNAUTHENTICATED", "NOT_FOUND", "INVALID_ARGUMENT", "FAILED_PRECONDITION",
})  # fmt: skip


class Exchanged(Struct, frozen=True, kw_only=True):
    """What a cloud gave: a bearer, or for AWS ``key id:secret:token``; and its end, Unix seconds."""

    credential: str
    expires_at: int

    def __repr__(self) -> str:
        return "Exchanged(redacted)"


def exchange_form(federation: Federation, token: str, session: str) -> bytes:
    """The form that is posted.

    Args:
        federation: with what.
        token: ours, :meth:`nomos_proxy.federation.issuer.Issuer.token`.
        session: how AWS's own log names the session, 2 to 64 of ``A-Za-z0-9_=,.@-``.
    """
    values = federation.values
    match federation.kind:
        case "aws":
            form = {
                "Action": "AssumeRoleWithWebIdentity",
                "Version": "2011-06-15",
                "RoleArn": values["role"],
                "RoleSessionName": session,
                "DurationSeconds": str(AWS_SECONDS),
                "WebIdentityToken": token,
            }
        case "gcp":
            form = {
                "grant_type": _GRANT,
                "audience": values["audience"],
                "scope": GCP_IAM_SCOPE if federation.service_account else GCP_SCOPE,
                "requested_token_type": _ACCESS,
                "subject_token_type": _JWT,
                "subject_token": token,
            }
        case _:
            form = {
                "grant_type": "client_credentials",
                "client_id": values["client"],
                "client_assertion_type": _ASSERTION,
                "client_assertion": token,
                "scope": values["scope"],
            }
    return urlencode(form).encode("ascii")


def read_exchanged(federation: Federation, status: int, body: bytes, *, now: int) -> Exchanged:
    """The credential in an answer.

    Raises:
        GrantRefused: the cloud does not trust this connection.
        AnswerUnreadable: it said yes in a way that cannot be read.
        UpstreamFailed: anything else.
    """
    answer = _good(
        status,
        body,
        "the cloud does not trust this connection",
        "compare issuer, audience and subject with its trust policy",
    )
    return _aws(answer, now) if federation.kind == "aws" else _bearer(answer, now)


def impersonation_request(federation: Federation, first: Exchanged) -> TokenRequest:
    """What Google is asked for a service account's token, at :attr:`Federation.impersonation`.

    Args:
        federation: with a service account.
        first: what the exchange gave; it goes there and nowhere else.
    """
    return TokenRequest(
        body=msgspec.json.encode({"scope": federation.scopes, "lifetime": f"{GCP_SECONDS}s"}),
        headers=(
            (b"accept", b"application/json"),
            (b"authorization", b"Bearer " + first.credential.encode("ascii")),
        ),
        content_type=b"application/json",
    )


def read_impersonated(status: int, body: bytes, *, now: int) -> Exchanged:
    """The service account's token in an answer.

    Raises:
        GrantRefused: Google does not let the pool's identity act as it.
        AnswerUnreadable: it said yes in a way that cannot be read.
        UpstreamFailed: anything else.
    """
    answer = _good(
        status,
        body,
        "Google does not let this connection act as its service account",
        "give the principal of this connection roles/iam.workloadIdentityUser on the service account",
    )
    token, expires = answer.get("accessToken"), answer.get("expireTime")
    if not isinstance(token, str) or _PLAIN.fullmatch(token) is None:
        raise AnswerUnreadable("Google answered without an access token of the service account")
    found = _TIME.fullmatch(expires) if isinstance(expires, str) else None
    try:
        end = None if found is None else int(datetime.fromisoformat(found[1]).replace(tzinfo=UTC).timestamp())
    except ValueError:
        end = None
    if end is None:
        raise AnswerUnreadable("Google does not say how long the service account's token lives")
    if end <= now:
        raise AnswerUnreadable("Google answered with a token of the service account that has ended")
    # never longer than was asked for: where our clock is behind, the end would look further away than it is
    return Exchanged(credential=token, expires_at=min(end, now + GCP_SECONDS))


def _good(status: int, body: bytes, refused: str, hint: str) -> dict[str, object]:
    """The object in a good answer; raises what a bad one means."""
    try:
        answer = read_object(body)
    except AnswerUnreadable:
        if status == OK:
            raise
        answer = {}
    if status == OK:
        return answer
    code = _error(answer)
    if code in _REFUSED:
        raise GrantRefused(f"{refused}: {code}", hint=f"{hint}: nomos connection show")
    raise UpstreamFailed(f"the cloud answered {status} {code}".strip())


def _bearer(answer: Mapping[str, object], now: int) -> Exchanged:
    token, life = answer.get("access_token"), answer.get("expires_in")
    if not isinstance(token, str) or _PLAIN.fullmatch(token) is None:
        raise AnswerUnreadable("the cloud answered without an access token")
    kind = answer.get("token_type", "bearer")
    if not isinstance(kind, str) or kind.lower() != "bearer":
        # RFC 8693 section 2.2.1: any other kind is presented in another way
        raise AnswerUnreadable("the cloud's token is no bearer")
    if isinstance(life, str) and life.isascii() and life.isdigit():
        life = int(life[:9])
    if not isinstance(life, int) or isinstance(life, bool) or life <= 0:
        raise AnswerUnreadable("the cloud does not say how long its token lives")
    return Exchanged(credential=token, expires_at=now + min(life, LIFE_SECONDS_MAX))


def _aws(answer: Mapping[str, object], now: int) -> Exchanged:
    found: object = answer
    for name in ("AssumeRoleWithWebIdentityResponse", "AssumeRoleWithWebIdentityResult", "Credentials"):
        found = found.get(name) if isinstance(found, dict) else None
    if not isinstance(found, dict):
        raise AnswerUnreadable("AWS answered without credentials")
    key, secret, token = (found.get(name) for name in ("AccessKeyId", "SecretAccessKey", "SessionToken"))
    expires = found.get("Expiration")
    is_whole = (
        isinstance(key, str)
        and _AWS_KEY.fullmatch(key)
        and isinstance(secret, str)
        and _AWS_SECRET.fullmatch(secret)
        and isinstance(token, str)
        and _PLAIN.fullmatch(token)
    )
    if not is_whole or not isinstance(expires, int | float) or isinstance(expires, bool):
        raise AnswerUnreadable("AWS answered with credentials that cannot be read")
    if expires <= now:
        raise AnswerUnreadable("AWS answered with credentials that have ended")
    # as above: never longer than was asked for
    return Exchanged(credential=f"{key}:{secret}:{token}", expires_at=int(min(expires, now + AWS_SECONDS)))


def _error(answer: Mapping[str, object]) -> str:
    error = answer.get("error", answer.get("Error", ""))
    for _ in range(2):
        if isinstance(error, dict):
            error = error.get("Code", error.get("Error", error.get("status", "")))
    return error_code(error)
