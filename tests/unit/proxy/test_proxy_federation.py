"""Tokens of ours, what a cloud is asked with them, and what its answers mean."""

from __future__ import annotations

import base64
from typing import Any
from urllib.parse import parse_qs

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given
from hypothesis import strategies as st

from nomos.errors import Malformed, Misconfigured, NomosError, UpstreamFailed
from nomos_proxy.federation.cloud import Federation, parse_federation
from nomos_proxy.federation.exchange import Exchanged, exchange_form, read_exchanged
from nomos_proxy.federation.issuer import KEYS, LIFE_SECONDS, Issuer, parse_keys, subject_of
from nomos_proxy.oauth.protocol import AnswerUnreadable, GrantRefused

NOW = 1_800_000_000
ORIGIN = "https://connect.example.com"
AWS = {"kind": "aws", "role": "arn:aws:iam::123456789012:role/agents", "region": "eu-central-1"}
GCP = {
    "kind": "gcp",
    "audience": "//iam.googleapis.com/projects/1234/locations/global/workloadIdentityPools/agents/providers/nomos",
}
UUID = "0a1b2c3d-0000-4000-8000-00000000beef"
AZURE = {"kind": "azure", "directory": UUID, "client": UUID, "scope": "https://graph.microsoft.com/.default"}


def pem(key: Any) -> str:
    return str(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode())


KEY, OLD = (rsa.generate_private_key(public_exponent=65_537, key_size=2_048) for _ in range(2))
ISSUER = Issuer(ORIGIN, [pem(KEY), pem(OLD)])


def unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def test_a_token_says_who_asks_and_verifies_with_a_key_of_the_set() -> None:
    token = ISSUER.token(tenant="acme", connection="s3", audience="sts.amazonaws.com", now=NOW)
    head, body, signature = token.split(".")
    header, claims = (msgspec.json.decode(unb64(part)) for part in (head, body))
    assert header["alg"] == "RS256"
    assert claims["sub"] == subject_of("acme", "s3") == "tenant:acme:connection:s3"
    assert (claims["iss"], claims["aud"]) == (ORIGIN, "sts.amazonaws.com")
    assert claims["iat"] <= NOW < claims["exp"] == NOW + LIFE_SECONDS
    # with nothing but the published key: n and e
    published = next(key for key in ISSUER.key_set()["keys"] if key["kid"] == header["kid"])  # type: ignore[attr-defined]
    n, e = (int.from_bytes(unb64(published[name]), "big") for name in ("n", "e"))
    public = rsa.RSAPublicNumbers(e, n).public_key()
    public.verify(unb64(signature), f"{head}.{body}".encode(), padding.PKCS1v15(), SHA256())
    again = ISSUER.token(tenant="acme", connection="s3", audience="sts.amazonaws.com", now=NOW)
    assert msgspec.json.decode(unb64(again.split(".")[1]))["jti"] != claims["jti"]


def test_the_key_set_holds_public_halves_of_all_keys_and_discovery_leads_to_it() -> None:
    keys: Any = ISSUER.key_set()["keys"]
    assert len({key["kid"] for key in keys}) == 2
    assert all(set(key) == {"kty", "n", "e", "kid", "alg", "use"} for key in keys)
    assert ISSUER.discovery()["jwks_uri"] == ORIGIN + KEYS
    assert ISSUER.discovery()["issuer"] == ORIGIN


@pytest.mark.parametrize(
    "key", ["", "x", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----",
            pem(ec.generate_private_key(ec.SECP256R1())),
            pem(rsa.generate_private_key(public_exponent=65_537, key_size=1_024))],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:Key size")
def test_a_key_that_is_none_is_told_without_it(key: str) -> None:
    with pytest.raises(Misconfigured) as e:
        Issuer(ORIGIN, [key])
    assert "AAAA" not in str(e.value)
    assert parse_keys("", pem(OLD)) == []
    with pytest.raises(Misconfigured):
        parse_keys("not a key", "")
    assert parse_keys(pem(KEY), pem(OLD)) == [pem(KEY).strip(), pem(OLD).strip()]


@pytest.mark.parametrize(
    ("members", "address", "audience"),
    [
        (AWS, "https://sts.eu-central-1.amazonaws.com/", "sts.amazonaws.com"),
        (GCP, "https://sts.googleapis.com/v1/token", GCP["audience"]),
        (AZURE, f"https://login.microsoftonline.com/{UUID}/oauth2/v2.0/token", "api://AzureADTokenExchange"),
    ],
)
def test_where_and_for_whom_a_token_is_exchanged(members: dict[str, str], address: str, audience: str) -> None:
    federation = parse_federation(members)
    assert (str(federation.endpoint), federation.audience) == (address, audience)


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "ibm"}, {"kind": None}, {"role": "arn:aws:iam::1:role/x"},
        {"role": "arn:aws:iam::123456789012:user/x"},
        {"region": "eu-central-1.evil.example/"}, {"region": ""}, {"more": "x"}, {"role": None}, {"role": 7},
        {"region": "eu-central-1\n"},
    ],
)  # fmt: skip
def test_what_names_no_cloud_is_refused(change: dict[str, object]) -> None:
    members = {name: value for name, value in ({**AWS} | change).items() if value is not None}
    with pytest.raises(Malformed):
        parse_federation(members)


@pytest.mark.parametrize("members", [AWS, GCP, AZURE])
def test_the_form_carries_the_token_once_and_names_what_is_wanted(members: dict[str, str]) -> None:
    form = parse_qs(exchange_form(parse_federation(members), "to.k.en", "acme.s3").decode(), strict_parsing=True)
    assert sum(values == ["to.k.en"] for values in form.values()) == 1
    wanted = {
        "aws": {"Action": ["AssumeRoleWithWebIdentity"], "RoleArn": [AWS["role"]], "RoleSessionName": ["acme.s3"]},
        "gcp": {"audience": [GCP["audience"]], "subject_token_type": ["urn:ietf:params:oauth:token-type:jwt"]},
        "azure": {"grant_type": ["client_credentials"], "client_id": [UUID], "scope": [AZURE["scope"]]},
    }[members["kind"]]
    assert wanted.items() <= form.items()


def read(members: dict[str, str], answer: Any, status: int = 200) -> Exchanged:
    return read_exchanged(parse_federation(members), status, msgspec.json.encode(answer), now=NOW)


def aws_answer(**changes: Any) -> dict[str, Any]:
    credentials = {
        "AccessKeyId": "ASIAIOSFODNN7EXAMPLE", "SecretAccessKey": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYzEXAMPLEKEY",
        "SessionToken": "AQoDYXdzEE0a8ANXXXXXXXXNO1ewxE5TijQyp+IEXAMPLE", "Expiration": NOW + 3_600.5,
    } | changes  # fmt: skip
    return {"AssumeRoleWithWebIdentityResponse": {"AssumeRoleWithWebIdentityResult": {"Credentials": credentials}}}


def test_what_a_cloud_gives_is_read() -> None:
    found = read(AWS, aws_answer())
    assert found.credential.count(":") == 2
    assert found.credential.startswith("ASIAIOSFODNN7EXAMPLE:wJalr")
    assert found.expires_at == NOW + 3_600
    assert "wJalr" not in repr(found)
    for members in (GCP, AZURE):
        given = read(members, {"access_token": "ya29.x", "expires_in": 3_599, "token_type": "Bearer"})
        assert (given.credential, given.expires_at) == ("ya29.x", NOW + 3_599)
    assert read(GCP, {"access_token": "x", "expires_in": "60"}).expires_at == NOW + 60


@pytest.mark.parametrize(
    ("members", "answer"),
    [
        (AWS, {}), (AWS, {"AssumeRoleWithWebIdentityResponse": None}), (AWS, aws_answer(AccessKeyId="a:b")),
        (AWS, aws_answer(SecretAccessKey="x\r\ny: z")), (AWS, aws_answer(SessionToken="")),
        (AWS, aws_answer(SessionToken=None)), (AWS, aws_answer(Expiration="soon")), (AWS, aws_answer(Expiration=NOW)),
        (GCP, {}), (GCP, {"access_token": "x"}), (GCP, {"access_token": "a b", "expires_in": 1}),
        (GCP, {"access_token": "x", "expires_in": 0}), (AZURE, {"access_token": 7, "expires_in": 1}),
        (AZURE, {"access_token": "x", "expires_in": True}),
    ],
)  # fmt: skip
def test_an_answer_that_cannot_be_read_gives_nothing(members: dict[str, str], answer: Any) -> None:
    with pytest.raises(AnswerUnreadable):
        read(members, answer)


@pytest.mark.parametrize(
    ("members", "status", "answer", "kind"),
    [
        (AWS, 400, {"Error": {"Code": "InvalidIdentityToken", "Message": "x"}}, GrantRefused),
        (AWS, 403, {"Error": {"Code": "AccessDenied"}}, GrantRefused),
        (AWS, 503, {"Error": {"Code": "ServiceUnavailable"}}, UpstreamFailed),
        (GCP, 400, {"error": "invalid_grant", "error_description": "x"}, GrantRefused),
        (AZURE, 401, {"error": "invalid_client"}, GrantRefused),
        (AZURE, 500, {"error": {"nested": 1}}, UpstreamFailed),
        (GCP, 429, [], UpstreamFailed),
        (GCP, 302, {}, UpstreamFailed),
    ],
)  # fmt: skip
def test_a_refusal_of_a_cloud_is_told_apart_from_its_trouble(
    members: dict[str, str], status: int, answer: Any, kind: type[NomosError]
) -> None:
    with pytest.raises(NomosError) as e:
        read(members, answer, status)
    assert type(e.value) is kind


@given(st.integers(100, 599), st.binary(max_size=200))
def test_no_answer_breaks_anything(status: int, body: bytes) -> None:
    for members in (AWS, GCP):
        federation: Federation = parse_federation(members)
        try:
            read_exchanged(federation, status, body, now=NOW)
        except NomosError as e:
            assert e.detail
