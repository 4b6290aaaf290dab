import base64
import hashlib
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomos.creds import ACCOUNT, OPERATOR, USER, Nkey
from nomos.errors import BadSignature, Expired, Malformed
from nomos_runtime import natsjwt
from nomos_runtime.natsjwt import AccountClaims, Limits, OperatorClaims, UserClaims

NOW = 1_790_000_000
seeds = st.binary(min_size=32, max_size=32)


def payload_of(token: str) -> dict[str, object]:
    part = token.split(".")[1]
    found = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    assert isinstance(found, dict)
    return found


def user_jwt(signer: Nkey, *, expires_at: int = 0, tags: tuple[str, ...] = ()) -> str:
    return natsjwt.sign_jwt(
        UserClaims(issuer_account=Nkey(ACCOUNT, bytes(32)).public, tags=tags),
        signer=signer,
        subject=Nkey(USER, bytes(32)).public,
        name="a1",
        issued_at=NOW,
        expires_at=expires_at,
    )


@given(seeds, st.integers(0, 2**40), st.lists(st.text(max_size=20), max_size=3))
def test_a_signed_jwt_verifies_and_says_what_was_signed(seed: bytes, expires: int, tags: list[str]) -> None:
    signer = Nkey(ACCOUNT, seed)
    token = user_jwt(signer, expires_at=expires, tags=tuple(tags))
    jwt = natsjwt.parse_jwt(token)
    assert jwt.iss == signer.public
    assert jwt.exp == expires
    assert isinstance(jwt.nats, UserClaims)
    assert jwt.nats.tags == tuple(tags)
    if not expires or expires > NOW:
        assert natsjwt.verify_jwt(token, issuers=frozenset({signer.public}), now=NOW) == jwt


@given(st.data())
def test_a_jwt_with_one_other_character_is_refused(data: st.DataObject) -> None:
    signer = Nkey(ACCOUNT, bytes(32))
    token = user_jwt(signer)
    at = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.characters(codec="ascii").filter(lambda c: c != token[at]))
    with pytest.raises((Malformed, BadSignature)):
        natsjwt.verify_jwt(token[:at] + other + token[at + 1 :], issuers=frozenset({signer.public}), now=NOW)


@given(st.one_of(st.text(), st.lists(st.binary(), min_size=3, max_size=3).map(lambda p: ".".join(map(_part, p)))))
def test_any_text_is_parsed_or_malformed(text: str) -> None:
    try:
        natsjwt.parse_jwt(text)
    except Malformed:
        return


def _part(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda v: st.dictionaries(st.text(), v)))
def test_any_json_claims_are_parsed_or_malformed(claims: object) -> None:
    header = _part(b'{"typ":"JWT","alg":"ed25519-nkey"}')
    try:
        natsjwt.parse_jwt(f"{header}.{_part(json.dumps(claims).encode())}.{_part(bytes(64))}")
    except Malformed:
        return


def test_the_jti_is_the_hash_of_the_claims_without_it() -> None:
    claims = payload_of(user_jwt(Nkey(ACCOUNT, bytes(32))))
    jti = claims.pop("jti")
    text = json.dumps(claims, sort_keys=True, separators=(",", ":")).encode()
    assert jti == base64.b32encode(hashlib.new("sha512_256", text).digest()).decode().rstrip("=")


def test_a_scoped_user_carries_no_limits_of_its_own() -> None:
    nats = payload_of(user_jwt(Nkey(ACCOUNT, bytes(32))))["nats"]
    assert isinstance(nats, dict)
    assert set(nats) == {"type", "version", "issuer_account"}


def test_a_jwt_by_another_issuer_is_refused() -> None:
    with pytest.raises(BadSignature):
        natsjwt.verify_jwt(user_jwt(Nkey(ACCOUNT, bytes(32))), issuers=frozenset(), now=NOW)


def test_a_jwt_that_names_a_trusted_issuer_without_its_key_is_refused() -> None:
    trusted = Nkey(ACCOUNT, b"t" * 32)
    body = payload_of(user_jwt(Nkey(ACCOUNT, bytes(32)))) | {"iss": trusted.public}
    header = _part(b'{"typ":"JWT","alg":"ed25519-nkey"}')
    signed = f"{header}.{_part(json.dumps(body).encode())}"
    forged = f"{signed}.{_part(Nkey(ACCOUNT, bytes(32)).sign(signed.encode()))}"
    with pytest.raises(BadSignature):
        natsjwt.verify_jwt(forged, issuers=frozenset({trusted.public}), now=NOW)


def test_an_expired_jwt_is_refused_from_its_second_on() -> None:
    signer = Nkey(ACCOUNT, bytes(32))
    token = user_jwt(signer, expires_at=NOW)
    issuers = frozenset({signer.public})
    assert natsjwt.verify_jwt(token, issuers=issuers, now=NOW - 1).exp == NOW
    with pytest.raises(Expired):
        natsjwt.verify_jwt(token, issuers=issuers, now=NOW)


@pytest.mark.parametrize("header", [b'{"typ":"JWT","alg":"none"}', b'{"typ":"JWT","alg":"HS256"}', b"{}"])
def test_another_algorithm_is_malformed(header: bytes) -> None:
    _, payload, signature = user_jwt(Nkey(ACCOUNT, bytes(32))).split(".")
    with pytest.raises(Malformed):
        natsjwt.parse_jwt(f"{_part(header)}.{payload}.{signature}")


def test_version_1_claims_are_malformed() -> None:
    header, payload, signature = user_jwt(Nkey(ACCOUNT, bytes(32))).split(".")
    body = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    body["nats"]["version"] = 1
    with pytest.raises(Malformed):
        natsjwt.parse_jwt(f"{header}.{_part(json.dumps(body).encode())}.{signature}")


@given(
    st.dictionaries(st.integers(0, 4), st.integers(0, 2**33)), st.dictionaries(st.integers(0, 4), st.integers(0, 2**33))
)
def test_revocations_are_added_and_never_taken_back(before: dict[int, int], more: dict[int, int]) -> None:
    operator = Nkey(OPERATOR, bytes(32))
    users = [Nkey(USER, bytes([i]) * 32).public for i in range(5)]
    account = natsjwt.sign_jwt(
        AccountClaims(limits=Limits(), revocations={users[i]: t for i, t in before.items()}),
        signer=operator,
        subject=Nkey(ACCOUNT, bytes(32)).public,
        name="acme",
        issued_at=NOW,
    )
    revoked = {users[i]: t for i, t in more.items()}
    jwt = natsjwt.parse_jwt(natsjwt.with_revocations(account, revoked, operator=operator, issued_at=NOW + 1))
    assert isinstance(jwt.nats, AccountClaims)
    assert jwt.nats.revocations == {
        users[i]: max(before.get(i, 0), more.get(i, 0)) for i in before.keys() | more.keys()
    }
    assert jwt.name == "acme"
    assert jwt.iat == NOW + 1


def test_only_an_account_has_revocations() -> None:
    operator = Nkey(OPERATOR, bytes(32))
    token = natsjwt.sign_jwt(OperatorClaims(), signer=operator, subject=operator.public, name="o", issued_at=NOW)
    with pytest.raises(Malformed):
        natsjwt.with_revocations(token, {}, operator=operator, issued_at=NOW)


def test_claims_are_values() -> None:
    claims = UserClaims(issuer_account="A")
    assert msgspec.structs.replace(claims, issuer_account="B") != claims
