"""Tokens of ours, what a cloud is asked with them, and what its answers mean."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
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
from nomos.ids import SLUG_LENGTH_MAX
from nomos_proxy.federation.cloud import Federation, parse_federation
from nomos_proxy.federation.exchange import (
    Exchanged,
    exchange_form,
    impersonation_request,
    read_exchanged,
    read_impersonated,
)
from nomos_proxy.federation.issuer import KEYS, LIFE_SECONDS, Issuer, parse_keys, subject_of
from nomos_proxy.oauth.protocol import AnswerUnreadable, GrantRefused

NOW = 1_800_000_000
ORIGIN = "https://connect.example.com"
AWS = {"kind": "aws", "role": "arn:aws:iam::123456789012:role/agents", "region": "eu-central-1"}
GCP = {
    "kind": "gcp",
    "audience": "//iam.googleapis.com/projects/1234/locations/global/workloadIdentityPools/agents/providers/nomos",
}
ACCOUNT = "agents@acme-prod.iam.gserviceaccount.com"
STORAGE = "https://www.googleapis.com/auth/devstorage.read_only"
IAM = "https://www.googleapis.com/auth/iam"
ACTING = GCP | {"service_account": ACCOUNT}
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


def checks(token: str, key_set: Any) -> bool:
    """Whether a cloud that keeps ``key_set`` believes ``token``."""
    head, body, signature = token.split(".")
    wanted = msgspec.json.decode(unb64(head))["kid"]
    for key in key_set["keys"]:
        if key["kid"] == wanted:
            n, e = (int.from_bytes(unb64(key[name]), "big") for name in ("n", "e"))
            signed = f"{head}.{body}".encode()
            rsa.RSAPublicNumbers(e, n).public_key().verify(unb64(signature), signed, padding.PKCS1v15(), SHA256())
            return True
    return False


def test_each_step_of_a_rotation_is_believed_by_who_keeps_the_keys_of_the_step_before() -> None:
    before, announced, exchanged, after = (
        Issuer(ORIGIN, [pem(key) for key in keys]) for keys in ([OLD], [OLD, KEY], [KEY, OLD], [KEY])
    )

    def token(issuer: Issuer) -> str:
        return issuer.token(tenant="acme", connection="s3", audience="sts.amazonaws.com", now=NOW)

    for earlier, later in ((before, announced), (announced, exchanged), (exchanged, after)):
        assert checks(token(later), earlier.key_set())
        assert checks(token(earlier), later.key_set()) or later is after
    assert not checks(token(after), before.key_set()), "this is why it is announced first"


def test_the_longest_subject_is_one_that_google_takes() -> None:
    """google.subject has at most 127 bytes."""
    assert len(subject_of("t" * SLUG_LENGTH_MAX, "c" * SLUG_LENGTH_MAX)) <= 127


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
        {"region": "eu-central-1\n"}, {"region": "cn-north-1"}, {"region": "us-gov-west-1"},
        {"role": "arn:aws-us-gov:iam::123456789012:role/agents"}, {"role": "arn:aws-cn:iam::123456789012:role/agents"},
    ],
)  # fmt: skip
def test_what_names_no_cloud_is_refused(change: dict[str, object]) -> None:
    members = {name: value for name, value in ({**AWS} | change).items() if value is not None}
    with pytest.raises(Malformed):
        parse_federation(members)


def test_a_role_of_the_other_partition_has_its_own_endpoint() -> None:
    gov = AWS | {"role": "arn:aws-us-gov:iam::123456789012:role/agents", "region": "us-gov-west-1"}
    assert str(parse_federation(gov).endpoint) == "https://sts.us-gov-west-1.amazonaws.com/"


@pytest.mark.parametrize(
    "change",
    [
        {"service_account": ""}, {"service_account": "agents"}, {"service_account": "agents@acme-prod"},
        {"service_account": "agents@evil.example"}, {"service_account": ACCOUNT + ".evil.example"},
        {"service_account": "agents@iam.gserviceaccount.com"},
        {"service_account": "a@acme-prod.iam.gserviceaccount.com"},
        {"service_account": "Agents@acme-prod.iam.gserviceaccount.com"}, {"service_account": ACCOUNT + "\n"},
        {"service_account": "agents/x@acme-prod.iam.gserviceaccount.com"},
        {"service_account": "agents:x@acme-prod.iam.gserviceaccount.com"},
        {"service_account": "ag%2Fnts@acme-prod.iam.gserviceaccount.com"}, {"service_account": 7},
        {"scope": STORAGE},
        {"service_account": ACCOUNT, "scope": ""}, {"service_account": ACCOUNT, "scope": "openid"},
        {"service_account": ACCOUNT, "scope": f"{STORAGE}  {IAM}"},
        {"service_account": ACCOUNT, "scope": f"{STORAGE} {STORAGE}"},
        {"service_account": ACCOUNT, "scope": "https://www.googleapis.com.evil.example/auth/x"},
        {"service_account": ACCOUNT, "scope": " ".join(f"{STORAGE}{n}" for n in range(17))},
    ],
)  # fmt: skip
def test_what_is_no_service_account_or_scope_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(Malformed):
        parse_federation(GCP | change)


def test_a_service_account_is_acted_as_at_googles_own_address_and_nowhere_else() -> None:
    federation = parse_federation(ACTING)
    assert str(federation.impersonation) == (
        f"https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/{ACCOUNT}:generateAccessToken"
    )
    of_a_domain = "agents@prod-1.example.com.iam.gserviceaccount.com"
    assert of_a_domain in str(parse_federation(GCP | {"service_account": of_a_domain}).impersonation)
    assert [parse_federation(members).impersonation for members in (GCP, AWS, AZURE)] == [None] * 3
    # the first step's token is good for the second step alone
    form = parse_qs(exchange_form(federation, "to.k.en", "acme.s3").decode(), strict_parsing=True)
    assert form["scope"] == [IAM]
    assert parse_qs(exchange_form(parse_federation(GCP), "to.k.en", "x").decode())["scope"] == [
        "https://www.googleapis.com/auth/cloud-platform"
    ]


def test_the_second_step_says_what_for_and_how_long_and_shows_the_first_token_in_one_place() -> None:
    first = Exchanged(credential="ya29.first", expires_at=NOW + 60)
    request = impersonation_request(parse_federation(ACTING | {"scope": f"{STORAGE} {IAM}"}), first)
    assert msgspec.json.decode(request.body) == {"scope": [STORAGE, IAM], "lifetime": "3600s"}
    assert [name for name, value in request.headers if b"ya29.first" in value] == [b"authorization"]
    assert "ya29" not in repr(request)
    by_default = msgspec.json.decode(impersonation_request(parse_federation(ACTING), first).body)
    assert by_default["scope"] == ["https://www.googleapis.com/auth/cloud-platform"]


def test_a_federation_is_another_one_with_another_service_account_or_scope() -> None:
    changes: list[dict[str, str]] = [{}, {"service_account": ACCOUNT}, {"service_account": "x" + ACCOUNT}]
    changes.append({"service_account": ACCOUNT, "scope": STORAGE})
    assert len({parse_federation(GCP | change).identity for change in changes}) == len(changes)


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


def iso(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@pytest.mark.parametrize("end", [iso(NOW + 1_800), iso(NOW + 1_800)[:-1] + ".123456789Z"])
def test_what_google_gives_a_service_account_is_read(end: str) -> None:
    found = read_impersonated(200, msgspec.json.encode({"accessToken": "ya29.x", "expireTime": end}), now=NOW)
    assert (found.credential, found.expires_at) == ("ya29.x", NOW + 1_800)
    assert "ya29" not in repr(found)


def test_no_credential_lives_longer_than_was_asked_for_whatever_our_clock_says() -> None:
    """A clock that is behind would take a cloud's absolute end for one that is further away."""
    late = msgspec.json.encode({"accessToken": "x", "expireTime": iso(NOW + 9_000)})
    assert read_impersonated(200, late, now=NOW).expires_at == NOW + 3_600
    assert read(AWS, aws_answer(Expiration=NOW + 9_000)).expires_at == NOW + 3_600


@pytest.mark.parametrize(
    "answer",
    [
        {}, {"accessToken": "x"}, {"expireTime": iso(NOW + 60)}, {"accessToken": "a b", "expireTime": iso(NOW + 60)},
        {"accessToken": "", "expireTime": iso(NOW + 60)}, {"accessToken": "x" * 12_289, "expireTime": iso(NOW + 60)},
        {"accessToken": 7, "expireTime": iso(NOW + 60)}, {"accessToken": "x", "expireTime": iso(NOW)},
        {"accessToken": "x", "expireTime": NOW + 60}, {"accessToken": "x", "expireTime": "2027-13-45T00:00:00Z"},
        {"accessToken": "x", "expireTime": "2027-01-15T08:01:00+02:00"}, {"accessToken": "x", "expireTime": "soon"},
        {"access_token": "x", "expires_in": 60},
    ],
)  # fmt: skip
def test_an_answer_about_a_service_account_that_cannot_be_read_gives_nothing(answer: Any) -> None:
    with pytest.raises(AnswerUnreadable):
        read_impersonated(200, msgspec.json.encode(answer), now=NOW)


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (403, "PERMISSION_DENIED", GrantRefused), (404, "NOT_FOUND", GrantRefused),
        (400, "INVALID_ARGUMENT", GrantRefused),
        (401, "UNAUTHENTICATED", GrantRefused), (429, "RESOURCE_EXHAUSTED", UpstreamFailed),
        (503, "UNAVAILABLE", UpstreamFailed), (302, "", UpstreamFailed),
    ],
)  # fmt: skip
def test_that_google_does_not_give_a_service_account_is_told_apart_from_its_trouble(
    status: int, code: str, kind: type[NomosError]
) -> None:
    body = msgspec.json.encode({"error": {"code": status, "message": "no", "status": code}})
    with pytest.raises(NomosError) as e:
        read_impersonated(status, body, now=NOW)
    assert type(e.value) is kind


def test_a_token_of_the_longest_kind_that_google_names_is_read() -> None:
    assert len(read(GCP, {"access_token": "x" * 12_288, "expires_in": 60}).credential) == 12_288
    with pytest.raises(AnswerUnreadable):
        read(GCP, {"access_token": "x" * 12_289, "expires_in": 60})


@pytest.mark.parametrize(
    ("members", "answer"),
    [
        (AWS, {}), (AWS, {"AssumeRoleWithWebIdentityResponse": None}), (AWS, aws_answer(AccessKeyId="a:b")),
        (AWS, aws_answer(SecretAccessKey="x\r\ny: z")), (AWS, aws_answer(SessionToken="")),
        (AWS, aws_answer(SessionToken=None)), (AWS, aws_answer(Expiration="soon")), (AWS, aws_answer(Expiration=NOW)),
        (GCP, {}), (GCP, {"access_token": "x"}), (GCP, {"access_token": "a b", "expires_in": 1}),
        (GCP, {"access_token": "x", "expires_in": 0}), (AZURE, {"access_token": 7, "expires_in": 1}),
        (AZURE, {"access_token": "x", "expires_in": True}),
        (AZURE, {"access_token": "x", "expires_in": 60, "token_type": "pop"}),
        (GCP, {"access_token": "x", "expires_in": 60, "token_type": "N_A"}),
        (GCP, {"access_token": "x", "expires_in": 60, "token_type": None}),
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
        (AWS, 403, {"Error": {"Code": "RegionDisabledException"}}, GrantRefused),
        (AZURE, 400, {"error": "invalid_scope"}, GrantRefused),
        (AWS, 400, {"Error": {"Code": "IDPCommunicationError"}}, UpstreamFailed),
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
        try:
            read_impersonated(status, body, now=NOW)
        except NomosError as e:
            assert e.detail
