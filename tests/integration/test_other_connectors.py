"""Connectors of every kind through the whole broker: forms, mails, GraphQL, and credentials of other kinds."""

from __future__ import annotations

import base64
import os
from typing import Any
from urllib.parse import parse_qs

import orjson
import pytest

from nomos import events
from nomos.agent import Allowed, Denied, StepUpRequired
from nomos.bearer import seal_bearer
from nomos.errors import DestinationRefused, Malformed

POLICY = """
@id("small") permit (principal, action == Action::"stripe:refunds.create", resource)
when { context.args has amount && context.args.amount <= 500 };
@id("post") permit (principal, action in [Action::"slack:chat.post", Action::"linear:issues.rename"], resource);
@id("write") permit (principal, action == Action::"gmail:messages.send", resource)
when { context.args has to && context.args.to == ["rosa@example.org"] };
"""
UUID = "0a1b2c3d-0000-4000-8000-00000000beef"


async def connect(scene: Any, tenant: str, connector: str, credential: str = "") -> None:
    await scene.add_connection(tenant, connector, connector=connector, credential=credential)


async def test_a_refund_is_decided_by_its_amount_approved_and_sent_as_the_form_that_was_shown(scene: Any) -> None:
    tenant = await scene.tenant(policy=POLICY, connection=False)
    bot, (_, passkey) = await scene.agent(tenant), await scene.approver(tenant)
    await connect(scene, tenant, "stripe")
    payment, args = "stripe:payment/pi_00000001", {"amount": 500, "metadata": {"ticket": "T 1"}}
    assert isinstance(await bot.agent.call("stripe:refunds.create", payment, {**args, "amount": 501}), Denied)
    scene.upstream.seen.clear()
    wait = await bot.agent.call("stripe:refunds.create", payment, args)
    assert isinstance(wait, StepUpRequired)
    assert not scene.upstream.seen
    await scene.approve(tenant, wait.approval, passkey)
    done = await bot.agent.call("stripe:refunds.create", payment, args, cosigner=await bot.agent.wait_for(wait, 10))
    assert isinstance(done, Allowed)
    (seen,) = scene.upstream.seen
    assert seen.bearer_ok
    assert (seen.method, seen.path) == ("POST", "/v1/refunds")
    assert seen.headers["content-type"] == "application/x-www-form-urlencoded"
    assert parse_qs(seen.body.decode()) == {
        "amount": ["500"], "metadata[ticket]": ["T 1"], "payment_intent": ["pi_00000001"],
    }  # fmt: skip
    assert len(seen.headers["idempotency-key"]) > 40


async def test_a_message_goes_to_the_channel_that_was_decided_and_to_no_other(scene: Any) -> None:
    tenant = await scene.tenant(policy=POLICY, connection=False)
    bot = await scene.agent(tenant)
    await connect(scene, tenant, "slack")
    scene.upstream.seen.clear()
    await bot.agent.call("slack:chat.post", "slack:channel/C0123456789", {"text": "hi"})
    assert orjson.loads(scene.upstream.seen[0].body) == {"channel": "C0123456789", "text": "hi"}
    moved = {"text": "hi", "channel": "C9999999999"}
    assert isinstance(await bot.agent.call("slack:chat.post", "slack:channel/C0123456789", moved), Denied)
    assert len(scene.upstream.seen) == 1


async def test_a_mail_goes_to_whom_the_policy_was_asked_about(scene: Any) -> None:
    tenant = await scene.tenant(policy=POLICY, connection=False)
    bot = await scene.agent(tenant)
    await connect(scene, tenant, "gmail")
    scene.upstream.seen.clear()
    mail = {"to": ["rosa@example.org"], "subject": "Hi", "text": "Hello"}
    other = await bot.agent.call("gmail:messages.send", "gmail:mailbox/me", {**mail, "to": ["eve@example.org"]})
    assert isinstance(other, Denied)
    await bot.agent.call("gmail:messages.send", "gmail:mailbox/me", mail)
    (seen,) = scene.upstream.seen
    raw = base64.urlsafe_b64decode(orjson.loads(seen.body)["raw"] + "==")
    assert raw.startswith(b"To: rosa@example.org\r\nSubject: ")
    assert b"eve" not in raw


async def test_a_key_stands_in_the_header_of_its_connector(scene: Any) -> None:
    tenant = await scene.tenant(policy=POLICY, connection=False)
    bot = await scene.agent(tenant)
    key = "lin_api_" + base64.b32encode(scene.bearer.encode()).decode()[:24]
    await connect(scene, tenant, "linear", key)
    scene.upstream.seen.clear()
    await bot.agent.call("linear:issues.rename", f"linear:issue/{UUID}", {"title": "New"})
    (seen,) = scene.upstream.seen
    # the upstream keeps no credential of what it saw; this one is no bearer
    assert not seen.bearer_ok
    assert orjson.loads(seen.body)["variables"] == {"issue": UUID, "title": "New"}


DYNAMODB = """
@id("orders") permit (principal, action in [Action::"connector:aws-dynamodb"],
  resource == AwsDynamodb::Table::"orders");
"""
ITEM = {"key": {"id": {"S": "1"}}}


async def test_an_operation_that_a_header_names_is_the_one_that_was_decided_and_is_signed(scene: Any) -> None:
    tenant = await scene.tenant(policy=DYNAMODB, connection=False)
    bot, (_, passkey) = await scene.agent(tenant), await scene.approver(tenant)
    key = "AKIA" + base64.b32encode(os.urandom(10)).decode()
    secret = base64.b64encode(os.urandom(30)).decode()
    sealing = await scene.operator.ask("proxy", "sealing-key", tenant)
    await scene.operator.ask(
        "proxy", "connection-add", tenant, connector="aws-dynamodb", name="aws-dynamodb",
        base_url=scene.upstream.origin, host="dynamodb.eu-central-1.amazonaws.com",
        sealed_bearer=seal_bearer(str(sealing["public_key"]), f"{key}:{secret}"),
    )  # fmt: skip
    scene.upstream.seen.clear()
    await bot.agent.call("aws-dynamodb:items.get", "aws-dynamodb:table/orders", ITEM)
    batch = {"keys": [ITEM["key"]]}
    await bot.agent.call("aws-dynamodb:items.get_batch", "aws-dynamodb:table/orders", batch)
    # another table, in place of the one that was decided
    for action, args in (("items.get", ITEM), ("items.get_batch", batch)):
        assert isinstance(await bot.agent.call(f"aws-dynamodb:{action}", "aws-dynamodb:table/payroll", args), Denied)
    got, many = scene.upstream.seen
    assert (got.method, got.path) == ("POST", "/")
    assert got.headers["x-amz-target"] == "DynamoDB_20120810.GetItem"
    assert got.headers["content-type"] == "application/x-amz-json-1.0"
    assert orjson.loads(got.body) == {"TableName": "orders", "Key": ITEM["key"]}
    assert many.headers["x-amz-target"] == "DynamoDB_20120810.BatchGetItem"
    assert orjson.loads(many.body) == {"RequestItems": {"orders": {"Keys": [ITEM["key"]]}}}
    assert secret not in repr(scene.upstream.seen)
    # the same body under another header is another action, which waits for a person
    wait = await bot.agent.call("aws-dynamodb:items.delete", "aws-dynamodb:table/orders", ITEM)
    assert isinstance(wait, StepUpRequired)
    await scene.approve(tenant, wait.approval, passkey)
    cosigner = await bot.agent.wait_for(wait, 10)
    await bot.agent.call("aws-dynamodb:items.delete", "aws-dynamodb:table/orders", ITEM, cosigner=cosigner)
    deleted = scene.upstream.seen[-1]
    assert (deleted.headers["x-amz-target"], deleted.body) == ("DynamoDB_20120810.DeleteItem", got.body)
    digests = [e.event["request_sha256"] for e in await scene.events(tenant, events.CALL_ATTEMPTED)]
    assert len(set(digests)) == 3


@pytest.mark.parametrize(
    ("connector", "credential"), [("github", "has a space in it"), ("slack", "short"), ("stripe", "a,b,c,d,e,f")]
)
async def test_a_credential_that_its_connector_cannot_present_is_refused_when_it_is_added(
    scene: Any, connector: str, credential: str
) -> None:
    tenant = await scene.tenant(connection=False)
    with pytest.raises((Malformed, DestinationRefused)):
        await connect(scene, tenant, connector, credential)
