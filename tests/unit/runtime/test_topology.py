import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomos.errors import Misconfigured
from nomos_runtime import topology
from nomos_runtime.natsjwt import AccountClaims
from nomos_runtime.topology import DOORS, OPS, ROLES, SERVICES, STREAMS, SYS, TENANTS, USERS, Bounds, account_of
from nomos_runtime.topology.ensure import changes
from nomos_runtime.topology.streams import SEGMENTS_MAX

SERVICE_USERS = {u.name: u for u in USERS if u.name in SERVICES}

#: The whole table in words, as reviewed: what each service may publish apart from JetStream's API.
PUBLISHES = {
    "policy": {
        "intake.batch",
        "svc.mint",
        "svc.stepup.open",
        "svc.stepup.consume",
        "svc.stepup.redeem",
        "svc.stepup.session",
        "svc.feed.identity",
        "svc.feed.stepup",
        "svc.feed.policy.self",
        "feed.policy",
        "applied.policy",
    },
    "minting": {"intake.batch", "svc.feed.identity", "svc.feed.minting.self", "feed.minting"},
    "proxy": {
        "intake.batch",
        "svc.sanitize",
        "svc.sanitize.open",
        "svc.sanitize.piece.*",
        "svc.feed.identity",
        "svc.feed.minting",
        "svc.feed.proxy.self",
        "feed.proxy",
        "applied.proxy",
        "nonce.*",
    },
    "sanitizer": {"intake.batch", "svc.feed.sanitizer.self", "feed.sanitizer"},
    "stepup": {"intake.batch", "svc.feed.identity", "svc.feed.stepup.self", "feed.stepup"},
    "identity": {"intake.batch", "svc.feed.identity.self", "feed.identity"},
    "audit": {
        "intake.{{account-subject()}}.batch",
        "svc.feed.identity",
        "svc.feed.audit.self",
        "feed.audit",
        "chain.*",
        "audit.*",
        "checkpoint.0",
    },
}
#: What each service answers, in its own queue group.
SERVES = {
    "policy": {"tenant.*.req.authorize.*", "svc.feed.policy.*", "admin.policy.>"},
    "minting": {"svc.mint.*", "tenant.*.req.revoke.*", "svc.feed.minting.*", "admin.minting.>"},
    "proxy": {
        "tenant.*.req.invoke.*",
        "tenant.*.req.read.*.*",
        "tenant.*.req.upload.*.*",
        "svc.feed.proxy.*",
        "admin.proxy.>",
    },
    "sanitizer": {
        "svc.sanitize.*",
        "svc.sanitize.open.*",
        "svc.sanitize.piece.*.*",
        "svc.feed.sanitizer.*",
        "admin.sanitizer.>",
    },
    "stepup": {
        "tenant.*.req.stepup.*",
        "svc.stepup.open.*",
        "svc.stepup.consume.*",
        "svc.stepup.redeem.*",
        "svc.stepup.session.*",
        "svc.feed.stepup.*",
        "admin.stepup.>",
    },
    "identity": {"svc.feed.identity.*", "admin.identity.>"},
    "audit": {"tenant.*.req.audit.*", "svc.feed.audit.*", "admin.audit.>"},
}
HEARS = {
    "policy": {"applied.policy", "feed.policy", "feed.identity", "feed.stepup"},
    "minting": {"feed.minting", "feed.identity"},
    "proxy": {"applied.proxy", "feed.proxy", "feed.identity", "feed.minting"},
    "sanitizer": {"feed.sanitizer"},
    "stepup": {"feed.stepup", "feed.identity"},
    "identity": {"feed.identity"},
    # audit.* is what it publishes itself: it wakes auditors who wait for their tenant's next record.
    "audit": {"feed.audit", "feed.identity", "audit.*"},
}


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_has_exactly_the_rights_that_were_reviewed(service: str) -> None:
    user = SERVICE_USERS[service]
    assert {s for s in user.publish if not s.startswith("$JS.")} == PUBLISHES[service]
    assert set(user.subscribe) == (
        {f"{s} {service}" for s in SERVES[service]} | HEARS[service] | {f"_INBOX.{service}.>"}
    )
    assert len(set(user.publish)) == len(user.publish)


def test_jetstream_is_reached_by_audit_proxy_and_the_provisioners_alone() -> None:
    users = {u.name for u in USERS if any(s.startswith("$JS.") for s in u.publish)}
    assert users == {"audit", "proxy", "audit-provisioner", "proxy-provisioner", "audit-retirer"}


def test_nobody_may_delete_a_stream_or_purge_what_is_kept_forever() -> None:
    for user in USERS:
        for subject in user.publish:
            assert "STREAM.DELETE" not in subject or user.name == "audit-retirer"
            assert "STREAM.MSG.DELETE" not in subject
            assert "RESTORE" not in subject
            if "PURGE" in subject:
                assert (user.name, subject) == ("audit", "$JS.API.STREAM.PURGE.INTAKE")


def test_who_takes_segments_away_can_do_nothing_else_and_delete_no_other_stream() -> None:
    (user,) = (u for u in USERS if u.name == "audit-retirer")
    assert user.publish == ("$JS.API.STREAM.DELETE.*",)
    assert set(user.denied) == {f"$JS.API.STREAM.DELETE.{name}" for name in ("INTAKE", "AUDIT", "CHECKPOINT")}
    assert not user.answers
    assert all(not u.denied for u in USERS if u is not user)


def test_a_provisioner_cannot_read_what_is_in_a_stream() -> None:
    for user in USERS:
        if user.name.endswith("-provisioner"):
            assert all(s.split(".")[2:4] in (["STREAM", v] for v in ("INFO", "CREATE", "UPDATE")) for s in user.publish)


def test_no_right_reaches_over_tenants_or_over_all_of_a_subject_tree() -> None:
    for user in USERS:
        for subject in user.publish:
            assert not subject.startswith(("tenant.", ">", "*", "_INBOX", "_R_", "admin."))
            assert not subject.startswith("$JS.API.>")
        assert all(not s.startswith((">", "*", "_INBOX.>", "_INBOX.*", "$")) for s in user.subscribe)


def test_every_request_is_heard_in_a_queue_group_only() -> None:
    requests = {d.subject for d in DOORS if d.kind == "service"}
    for user in USERS:
        for right in user.subscribe:
            subject, _, queue = right.partition(" ")
            if subject in requests or subject.startswith("svc."):
                assert queue == user.name


def test_each_door_is_served_by_its_owner_or_captured_by_a_stream() -> None:
    for door in DOORS:
        if door.kind == "stream":
            continue
        owners = [u for u in USERS if any(s.partition(" ")[0] == door.subject for s in u.subscribe)]
        streams = [s for s in STREAMS if s.subject == door.subject]
        assert [account_of(u.name) for u in owners] + [s.account for s in streams] == [door.owner]


def test_each_tokened_door_has_a_wildcard_where_the_server_puts_the_account() -> None:
    for door in DOORS:
        if not door.private:
            assert door.subject.split(".")[door.token - 1] == "*"
            assert door.seen_by("AKEY").split(".")[door.token - 1] == "AKEY"


def test_doors_without_a_token_lead_to_operators_or_only_say_look_now() -> None:
    for door in DOORS:
        if door.private:
            assert door.importers == (OPS,) or door.kind == "stream"


def test_operators_reach_admin_subjects_and_nothing_else() -> None:
    assert {d.subject for d in topology.doors_into(OPS)} == {f"admin.{s}.>" for s in SERVICES}


def test_tenants_reach_seven_verbs_and_nothing_else() -> None:
    assert {d.local for d in topology.doors_into(TENANTS)} == {
        "req.authorize.*",
        "req.invoke.*",
        "req.read.*.*",
        "req.upload.*.*",
        "req.revoke.*",
        "req.stepup.*",
        "req.audit.*",
    }


@pytest.mark.parametrize("role", ROLES)
def test_every_right_of_a_person_or_agent_ends_with_its_own_name(role: str) -> None:
    assert all(s.split(".")[-1] == "{{name()}}" for s in ROLES[role].publish)
    assert ROLES[role].subscribe == ("_INBOX.{{name()}}.>",)


def test_the_roles_publish_what_was_reviewed() -> None:
    assert {n: set(r.publish) for n, r in ROLES.items()} == {
        "agent": {
            f"req.{verb}.{{{{name()}}}}" for verb in ("authorize", "invoke", "read.*", "upload.*", "revoke", "stepup")
        },
        "auditor": {"req.audit.{{name()}}"},
        "operator": {"admin.*.*.*.{{name()}}"},
        "tenant-operator": {"admin.*.{{tag(tenant)}}.*.{{name()}}"},
    }


def claims_of(name: str) -> AccountClaims:
    accounts = {n: f"A{n}" for n in (SYS, OPS, *map(account_of, SERVICES))}
    keys = {u.name: f"K{u.name}" for u in USERS} | {r: f"K{r}" for r in ROLES}
    tokens = {(d.owner, d.subject): "token" for d in DOORS if d.private}
    return topology.account_claims(name, accounts, keys, tokens, {})


def test_a_tenant_imports_with_its_own_key_only_and_exports_nothing() -> None:
    accounts = {account_of(s): f"A{s}" for s in SERVICES}
    claims = topology.tenant_claims("ATENANT", accounts, {"agent": "K1", "auditor": "K2"}, topology.TenantLimits(), {})
    assert all(i.subject.split(".")[1] == "ATENANT" for i in claims.imports)
    assert claims.exports == ()
    assert claims.limits.exports == 0
    assert (claims.limits.mem_storage, claims.limits.disk_storage, claims.limits.leaf) == (0, 0, 0)


@pytest.mark.parametrize("name", [SYS, OPS, *map(account_of, SERVICES)])
def test_an_accounts_defaults_allow_nothing(name: str) -> None:
    claims = claims_of(name)
    assert claims.default_permissions is not None
    assert claims.default_permissions.pub.deny == (">",)
    assert claims.default_permissions.sub.deny == (">",)
    assert claims.limits.disallow_bearer
    assert all(k.template.pub.allow and k.template.sub.allow for k in claims.signing_keys)


def test_only_the_accounts_of_streams_have_jetstream() -> None:
    for name in (SYS, OPS, *map(account_of, SERVICES)):
        assert bool(claims_of(name).limits.disk_storage) == (name in {"AUDIT", "PROXY"})


def test_the_chains_account_has_room_for_segments_and_no_other_for_more_streams() -> None:
    assert claims_of("AUDIT").limits.streams == len([s for s in STREAMS if s.account == "AUDIT"]) + SEGMENTS_MAX
    assert claims_of("PROXY").limits.streams == len([s for s in STREAMS if s.account == "PROXY"])


def config(name: str = "CHAIN", bounds: Bounds | None = None) -> dict[str, object]:
    stream = next(s for s in STREAMS if s.name == name)
    return topology.stream_config(stream, bounds or Bounds())


def test_the_streams_refuse_rather_than_drop() -> None:
    assert {s.name for s in STREAMS if s.discard == "old"} == {"AUDIT"}
    assert {s.name for s in STREAMS if s.keep_forever} == {"CHAIN", "CHECKPOINT"}
    for stream in STREAMS:
        assert topology.stream_config(stream, Bounds())["max_age"] == 0


@pytest.mark.parametrize("stream", [s.name for s in STREAMS])
def test_a_stream_that_is_as_it_should_be_is_left_alone(stream: str) -> None:
    assert changes(config(stream) | {"created": "later"}, config(stream)) == {}


@given(st.integers(1, 2**40), st.integers(1, 2**40))
def test_a_bound_grows_and_never_shrinks(now: int, then: int) -> None:
    found, wanted = config(bounds=Bounds(chain_bytes=now)), config(bounds=Bounds(chain_bytes=then))
    if then < now:
        with pytest.raises(Misconfigured):
            changes(found, wanted)
    else:
        assert changes(found, wanted) == ({"max_bytes": then} if then > now else {})


@pytest.mark.parametrize("flag", ["deny_delete", "deny_purge"])
def test_a_protection_is_switched_on_and_never_off(flag: str) -> None:
    without = {k: v for k, v in config().items() if k != flag}
    assert changes(without, config()) == {flag: True}
    with pytest.raises(Misconfigured):
        changes(config(), config() | {flag: False})


@pytest.mark.parametrize(
    ("name", "value"),
    [("retention", "interest"), ("storage", "memory"), ("discard", "old"), ("max_age", 1), ("subjects", ["chain.>"])],
)
def test_another_kind_of_stream_in_its_place_is_refused(name: str, value: object) -> None:
    with pytest.raises(Misconfigured):
        changes(config() | {name: value}, config())
