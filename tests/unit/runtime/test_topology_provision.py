import stat
from pathlib import Path

import pytest

from nomos.creds import ACCOUNT, OPERATOR, USER, Nkey, read_creds
from nomos.errors import Malformed, Misconfigured
from nomos_runtime import natsjwt, topology
from nomos_runtime.natsjwt import AccountClaims, OperatorClaims, UserClaims
from nomos_runtime.provision import (
    ACCOUNTS,
    Installation,
    account_jwt_for_tenant,
    issue_user,
    load_installation,
    new_tenant_keys,
    preload_resolver,
    provision_operator,
)

NOW = 1_790_000_000
SERVERS = ("nats://127.0.0.1:4222",)


def provision(directory: Path, *, at: int = NOW, resolver: Path | None = None) -> Installation:
    return provision_operator(directory, servers=SERVERS, issued_at=at, resolver_directory=resolver)


def test_running_it_again_changes_nothing(tmp_path: Path) -> None:
    first = provision(tmp_path / "i")
    files = {p: p.read_bytes() for p in (tmp_path / "i").rglob("*") if p.is_file()}
    assert provision(tmp_path / "i", at=NOW + 100) == first
    assert {p: p.read_bytes() for p in (tmp_path / "i").rglob("*") if p.is_file()} == files
    assert load_installation(tmp_path / "i") == first


def test_everything_is_its_owners_alone(tmp_path: Path) -> None:
    provision(tmp_path / "i")
    for path in ((tmp_path / "i"), *(tmp_path / "i").rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


@pytest.mark.parametrize("name", ["keys", "keys/operator-signing.nk", "creds/policy.creds"])
def test_a_key_that_is_open_to_others_is_refused(tmp_path: Path, name: str) -> None:
    provision(tmp_path / "i")
    (tmp_path / "i" / name).chmod(0o755)
    with pytest.raises(Misconfigured):
        provision(tmp_path / "i")


def test_a_damaged_key_is_refused_and_not_replaced(tmp_path: Path) -> None:
    provision(tmp_path / "i")
    key = tmp_path / "i" / "keys" / "AUDIT.nk"
    key.write_text("SA")
    with pytest.raises(Misconfigured):
        provision(tmp_path / "i")
    assert key.read_text() == "SA"


@pytest.mark.parametrize("name", ["operator", "operator-signing", "AUDIT", "AUDIT.audit", "OPS.operator"])
def test_a_key_that_is_away_is_not_replaced(tmp_path: Path, name: str) -> None:
    first = provision(tmp_path / "i")
    key = tmp_path / "i" / "keys" / f"{name}.nk"
    kept = key.read_text()
    key.unlink()
    with pytest.raises(Misconfigured):
        provision(tmp_path / "i")
    assert load_installation(tmp_path / "i") == first
    assert not key.exists()
    key.touch(mode=0o600)
    key.write_text(kept)
    assert provision(tmp_path / "i") == first


def test_an_installation_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured):
        load_installation(tmp_path)


def test_accounts_are_signed_by_the_signing_key_that_the_operator_names(tmp_path: Path) -> None:
    installation = provision(tmp_path / "i")
    operator = natsjwt.parse_jwt(installation.operator_jwt)
    assert isinstance(operator.nats, OperatorClaims)
    assert operator.nats.strict_signing_key_usage
    assert operator.iss == operator.sub
    assert operator.nats.signing_keys == (installation.operator_signing_key().public,)
    for name in ACCOUNTS:
        token = installation.account_jwts[name]
        jwt = natsjwt.verify_jwt(token, issuers=frozenset(operator.nats.signing_keys), now=NOW)
        assert jwt.sub == installation.accounts[name]


def test_each_service_user_is_issued_by_the_key_of_its_own_role(tmp_path: Path) -> None:
    installation = provision(tmp_path / "i")
    for user in topology.USERS:
        credentials = read_creds(installation.creds_path(user.name))
        claims = natsjwt.parse_jwt(installation.account_jwts[user.account]).nats
        assert isinstance(claims, AccountClaims)
        key = next(k for k in claims.signing_keys if k.role == user.name)
        jwt = natsjwt.verify_jwt(credentials.jwt, issuers=frozenset({key.key}), now=NOW)
        assert jwt.sub == credentials.user.public
        assert jwt.nats == UserClaims(issuer_account=installation.accounts[user.account], version=2)
        assert key.template.pub.allow == user.publish


def test_revocations_survive_a_new_topology_and_a_resolver_that_knows_more(tmp_path: Path) -> None:
    installation = provision(tmp_path / "i")
    one, two = Nkey(USER, b"1" * 32).public, Nkey(USER, b"2" * 32).public
    operator = installation.operator_signing_key()
    path, resolver = tmp_path / "i" / "accounts" / "OPS.jwt", tmp_path / "resolver"
    resolver.mkdir()
    old = installation.account_jwts["OPS"]
    path.write_text(natsjwt.with_revocations(old, {one: 5}, operator=operator, issued_at=NOW))
    pushed = natsjwt.with_revocations(old, {two: 7}, operator=operator, issued_at=NOW)
    (resolver / f"{installation.accounts['OPS']}.jwt").write_text(pushed)
    claims = natsjwt.parse_jwt(provision(tmp_path / "i", at=NOW + 1, resolver=resolver).account_jwts["OPS"]).nats
    assert isinstance(claims, AccountClaims)
    assert claims.revocations == {one: 5, two: 7}


def test_a_resolver_keeps_what_was_pushed_and_loses_what_is_not_genuine(tmp_path: Path) -> None:
    installation = provision(tmp_path / "i")
    one, stranger = Nkey(USER, b"1" * 32).public, Nkey(OPERATOR, b"s" * 32)
    path = tmp_path / f"{installation.accounts['OPS']}.jwt"
    preload_resolver(installation, tmp_path)
    assert path.read_text() == installation.account_jwts["OPS"]
    for signer, at, stays in (
        (installation.operator_signing_key(), NOW, True),
        (installation.operator_signing_key(), NOW - 1, False),
        (stranger, NOW + 1, False),
    ):
        pushed = natsjwt.with_revocations(path.read_text(), {one: 5}, operator=signer, issued_at=at)
        path.write_text(pushed)
        preload_resolver(installation, tmp_path)
        assert (path.read_text() == pushed) == stays
        path.write_text(installation.account_jwts["OPS"])


def test_an_account_from_an_older_topology_is_signed_again_with_the_same_keys(tmp_path: Path) -> None:
    installation = provision(tmp_path / "i")
    claims = natsjwt.parse_jwt(installation.account_jwts["IDENTITY"]).nats
    assert isinstance(claims, AccountClaims)
    older = natsjwt.sign_jwt(
        AccountClaims(limits=claims.limits, signing_keys=claims.signing_keys),
        signer=installation.operator_signing_key(),
        subject=installation.accounts["IDENTITY"],
        name="IDENTITY",
        issued_at=NOW - 1_000,
    )
    (tmp_path / "i" / "accounts" / "IDENTITY.jwt").write_text(older)
    again = provision(tmp_path / "i", at=NOW + 5)
    assert natsjwt.parse_jwt(again.account_jwts["IDENTITY"]).nats == claims
    assert natsjwt.parse_jwt(again.account_jwts["IDENTITY"]).iat == NOW + 5
    assert again.account_jwts["POLICY"] == installation.account_jwts["POLICY"]


def test_an_emitters_account_has_the_name_of_its_service(tmp_path: Path) -> None:
    installation = provision(tmp_path / "i")
    assert installation.emitter_of(installation.accounts["MINTING"]) == "minting"
    assert installation.emitter_of(installation.accounts["OPS"]) is None
    assert installation.emitter_of(new_tenant_keys().account) is None


def test_a_tenants_keys_show_no_secret_and_keep_no_account_key() -> None:
    keys = new_tenant_keys(lambda n: b"\x07" * n)
    assert set(keys.roles) == {"agent", "auditor"}
    assert all(k.seed not in repr(keys) for k in keys.roles.values())
    assert keys.account == Nkey(ACCOUNT, b"\x07" * 32).public


def test_a_tenants_jwt_holds_its_roles_and_its_revocations(tmp_path: Path) -> None:
    installation, keys, gone = provision(tmp_path / "i"), new_tenant_keys(), Nkey(USER, b"g" * 32).public
    token = account_jwt_for_tenant(
        tenant="acme",
        account=keys.account,
        role_keys={r: k.public for r, k in keys.roles.items()},
        accounts=installation.accounts,
        operator=installation.operator_signing_key(),
        issued_at=NOW,
        revocations={gone: NOW},
    )
    jwt = natsjwt.parse_jwt(token)
    assert (jwt.name, jwt.sub) == ("acme", keys.account)
    assert isinstance(jwt.nats, AccountClaims)
    assert jwt.nats.revocations == {gone: NOW}
    assert {k.role: k.key for k in jwt.nats.signing_keys} == {r: k.public for r, k in keys.roles.items()}


def issue(*, role: str = "agent", name: str = "a1", user_public_key: str = "", tenant: str = "") -> str:
    return issue_user(
        role=role,
        name=name,
        user_public_key=user_public_key or Nkey(USER, bytes(32)).public,
        account=Nkey(ACCOUNT, bytes(32)).public,
        signer=Nkey(ACCOUNT, b"s" * 32),
        issued_at=NOW,
        tenant=tenant,
    )


@pytest.mark.parametrize(
    "given",
    [
        {"name": "a1.b"},
        {"name": "*"},
        {"name": ">"},
        {"name": "A1"},
        {"name": ""},
        {"user_public_key": Nkey(OPERATOR, bytes(32)).public},
        {"user_public_key": "U"},
        {"role": "tenant-operator", "tenant": "a.b"},
    ],
)
def test_a_user_with_a_name_or_key_that_is_none_is_not_issued(given: dict[str, str]) -> None:
    with pytest.raises(Malformed):
        issue(**given)


@pytest.mark.parametrize("given", [{"role": "root"}, {"tenant": "acme"}, {"role": "tenant-operator"}])
def test_a_role_is_issued_as_it_is_or_not_at_all(given: dict[str, str]) -> None:
    with pytest.raises(Misconfigured):
        issue(**given)


def test_a_tenant_operator_is_tagged_with_its_one_tenant() -> None:
    claims = natsjwt.parse_jwt(issue(role="tenant-operator", tenant="acme")).nats
    assert isinstance(claims, UserClaims)
    assert claims.tags == ("tenant:acme",)
