"""From a verified invocation to one call: what was signed is what is sent, once, and how its end is recorded."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nomos.catalogue import OutgoingRequest, load_catalogue
from nomos.errors import (
    BindingMismatch,
    Conflict,
    DestinationRefused,
    Malformed,
    NomosError,
    NotCovered,
    NotFound,
    NotPermitted,
    UnknownAction,
    UnknownOutcome,
    UnknownResource,
    UpstreamFailed,
)
from nomos.events import CALL_ATTEMPTED, CALL_FINISHED
from nomos.keys import SigningKey
from nomos.request import request_digest
from nomos.ucan.grant import mint_grant, sign_request
from nomos.ucan.verify import VerifiedInvocation, verify_invocation
from nomos_proxy.answer import AnswerRefused, UpstreamResponse
from nomos_proxy.destination import Origin
from nomos_proxy.domain import CallState, ConnectionFacts, attempted, evolve, finished, plan_call, request_sha256

NOW = 1_800_000_000
CATALOGUE = load_catalogue(Path(__file__).parents[3] / "connectors")
TENANT, AGENT = SigningKey(os.urandom(32)), SigningKey(os.urandom(32))
CONNECTION = ConnectionFacts(tenant="acme", name="github", connector="github")
SITE = "github:repo/acme/site"


def verified(
    action: str, resource: str = SITE, args: dict[str, object] | None = None, *, grant: bytes | None = None
) -> VerifiedInvocation:
    """A real grant, a real invocation, really verified."""
    args = args or {}
    grant = grant or granted(action, resource, args)
    invocation = sign_request(
        AGENT, subject=TENANT.did, action=action, resource=resource, args=args, proofs=[grant], now=NOW,
        ttl_seconds=30, nonce=os.urandom(12),
    )  # fmt: skip
    return verify_invocation(invocation, [grant], now=NOW, trusted_roots={TENANT.did}, revoked=lambda _cid: False)


def granted(action: str, resource: str, args: dict[str, object]) -> bytes:
    command = "/" + action.replace(":", "/").replace(".", "/")
    return mint_grant(
        TENANT, agent=AGENT.did, command=command, resource=resource, digest=request_digest(action, resource, args),
        now=NOW, ttl_seconds=60, nonce=os.urandom(12),
    )  # fmt: skip


def test_a_plan_is_the_signed_request() -> None:
    plan = plan_call(verified("github:issues.get", args={"issue_number": 7}), CATALOGUE, CONNECTION)
    assert (plan.request.method, plan.request.target) == ("GET", "/repos/acme/site/issues/7")
    assert plan.resource.text == SITE
    assert plan.origin == Origin(scheme="https", host="api.github.com", port=443)
    assert dict(plan.headers)["accept"] == "application/vnd.github+json"


def test_two_uses_of_a_grant_for_a_deletion_are_one_permission() -> None:
    grant = granted("github:repos.delete", SITE, {})
    first, second = (plan_call(verified("github:repos.delete", grant=grant), CATALOGUE, CONNECTION) for _ in range(2))
    assert first.invocation != second.invocation
    assert first.replay_key == second.replay_key == first.delegation


def test_two_uses_of_a_grant_for_a_read_are_two_calls() -> None:
    grant = granted("github:repos.get", SITE, {})
    first, second = (plan_call(verified("github:repos.get", grant=grant), CATALOGUE, CONNECTION) for _ in range(2))
    assert first.replay_key == first.invocation != second.replay_key


@pytest.mark.parametrize("action", sorted(CATALOGUE.actions))
def test_only_a_read_is_named_by_its_invocation(action: str) -> None:
    from nomos_proxy.domain import used_once

    invocation = verified("github:repos.get")
    # a delegation that was passed on: the root stays the permission, whatever hangs below it
    passed_on = msgspec.structs.replace(
        invocation, leaf_cid=os.urandom(36), delegation_cids=(invocation.leaf_cid, os.urandom(36))
    )
    risk = CATALOGUE.action(action).risk
    named = invocation.invocation_cid if risk == "read" else invocation.leaf_cid
    assert used_once(passed_on, risk) == named


def test_a_signed_resource_in_another_spelling_is_refused() -> None:
    with pytest.raises(UnknownResource):
        plan_call(verified("github:repos.delete", "github:repo/ACME/site"), CATALOGUE, CONNECTION)


def test_a_signed_resource_of_another_type_is_refused() -> None:
    with pytest.raises(NotCovered):
        plan_call(verified("github:repos.delete", "github:org/acme"), CATALOGUE, CONNECTION)


def test_a_command_outside_the_catalogue_is_refused() -> None:
    with pytest.raises(UnknownAction):
        plan_call(verified("github:repos.transfer"), CATALOGUE, CONNECTION)


def test_an_argument_that_names_another_resource_is_refused() -> None:
    with pytest.raises(Malformed):
        plan_call(verified("github:repos.delete", args={"repo": "other"}), CATALOGUE, CONNECTION)


def test_a_path_trick_in_signed_arguments_is_refused() -> None:
    args: dict[str, object] = {"path": "../../other/contents/x"}
    with pytest.raises(DestinationRefused):
        plan_call(verified("github:contents.get", args=args), CATALOGUE, CONNECTION)


def test_a_connection_of_another_connector_or_a_closed_one_is_refused() -> None:
    invocation = verified("github:repos.get")
    with pytest.raises(NotCovered):
        plan_call(invocation, CATALOGUE, msgspec.structs.replace(CONNECTION, connector="gitlab"))
    with pytest.raises(NotFound):
        plan_call(invocation, CATALOGUE, msgspec.structs.replace(CONNECTION, is_open=False))


@pytest.mark.parametrize(
    "change",
    [
        {"resource": "github:repo/acme/other"},
        {"command": "/github/repos/get"},
        {"digest": bytes(32)},
    ],
)
def test_a_request_that_differs_from_its_digest_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(BindingMismatch):
        plan_call(msgspec.structs.replace(verified("github:repos.delete"), **change), CATALOGUE, CONNECTION)


def test_a_development_origin_takes_the_connectors_place() -> None:
    local = Origin(scheme="http", host="127.0.0.1", port=8042)
    plan = plan_call(verified("github:repos.get"), CATALOGUE, msgspec.structs.replace(CONNECTION, origin=local))
    assert plan.origin == local


def test_an_idempotency_key_is_the_permissions_name() -> None:
    connector = CATALOGUE.connectors["github"]
    action = msgspec.structs.replace(CATALOGUE.action("github:issues.create"), idempotency_header="idempotency-key")
    connector = msgspec.structs.replace(connector, actions={action.id: action})
    catalogue = msgspec.structs.replace(CATALOGUE, actions={action.id: action}, connectors={"github": connector})
    plan = plan_call(verified(action.id, args={"title": "t"}), catalogue, CONNECTION)
    assert dict(plan.headers)["idempotency-key"] == plan.replay_key


def test_an_attempt_says_what_will_be_sent_and_no_argument_in_clear() -> None:
    plan = plan_call(verified("github:issues.create", args={"title": "private words"}), CATALOGUE, CONNECTION)
    payload = attempted(plan, 5)
    assert payload["method"] == "POST"
    assert payload["resource"] == SITE
    assert "private words" not in str(payload)


@pytest.mark.parametrize(
    ("end", "outcome", "status"),
    [
        (UpstreamResponse(status=204, headers=(), body=b""), CallState.DONE, 204),
        (UpstreamResponse(status=500, headers=(), body=b"{}"), CallState.DONE, 500),
        (AnswerRefused("too large", 201), CallState.REFUSED, 201),
        (UnknownOutcome("late"), CallState.UNKNOWN, 0),
        (UpstreamFailed("no"), CallState.FAILED, 0),
        (DestinationRefused("no"), CallState.FAILED, 0),
    ],
)
def test_each_end_has_its_name(end: UpstreamResponse | NomosError, outcome: CallState, status: int) -> None:
    plan = plan_call(verified("github:repos.delete"), CATALOGUE, CONNECTION)
    payload = finished(plan, end)
    assert (payload["outcome"], payload["status"]) == (outcome.value, status)
    state = evolve(evolve(None, CALL_ATTEMPTED, attempted(plan, 5)), CALL_FINISHED, payload)
    assert state is outcome


@given(st.lists(st.sampled_from([CALL_ATTEMPTED, CALL_FINISHED]), max_size=5))
def test_a_call_is_attempted_once_and_finished_once(events: list[str]) -> None:
    state: CallState | None = None
    applied: list[str] = []
    for event in events:
        try:
            state = evolve(state, event, {"outcome": "done"})
        except Conflict:
            continue
        applied.append(event)
    assert applied == [CALL_ATTEMPTED, CALL_FINISHED][: len(applied)]


def test_an_account_does_only_what_its_scopes_are_for_where_its_connector_says_so() -> None:
    account = ConnectionFacts(tenant="acme", name="me", connector="discord", is_account=True, scopes=("identify",))
    with_all = msgspec.structs.replace(account, scopes=("guilds", "identify"))
    bot = msgspec.structs.replace(account, is_account=False, scopes=())
    read, listed = verified("discord:bot.get", "discord:bot/self"), verified("discord:bot.guilds", "discord:bot/self")
    sent = verified("discord:channels.get", "discord:channel/100000000000000001")
    for invocation, connection in ((read, account), (listed, with_all), (sent, bot), (read, bot)):
        plan_call(invocation, CATALOGUE, connection)
    for invocation, connection in ((listed, account), (sent, account), (sent, with_all)):
        with pytest.raises(NotPermitted):
            plan_call(invocation, CATALOGUE, connection)
    # elsewhere a provider's own scopes say what a token does, and they include one another in its own way
    github = msgspec.structs.replace(CONNECTION, is_account=True, scopes=())
    plan_call(verified("github:issues.get", args={"issue_number": 7}), CATALOGUE, github)


def test_the_digest_of_a_request_covers_the_headers_that_say_what_it_is_and_is_as_before_without_them() -> None:
    origin = Origin(scheme="https", host="dynamodb.eu-west-1.amazonaws.com", port=443)
    plain = OutgoingRequest(method="POST", path="/", body=b"{}")
    reads, deletes = (
        msgspec.structs.replace(plain, headers=(("x-amz-target", f"DynamoDB_20120810.{name}"),))
        for name in ("GetItem", "DeleteItem")
    )

    def digest(version: bytes, *parts: bytes) -> bytes:
        framed = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
        return hashlib.sha256(b"nomos-upstream-request-" + version + b"\0" + framed).digest()

    head = (b"https://dynamodb.eu-west-1.amazonaws.com", b"POST", b"/")
    assert request_sha256(origin, plain) == digest(b"v1", *head, b"{}")
    assert request_sha256(origin, reads) == digest(b"v2", *head, b"x-amz-target: DynamoDB_20120810.GetItem", b"{}")
    assert request_sha256(origin, reads) != request_sha256(origin, deletes)
