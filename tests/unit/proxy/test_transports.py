"""Where a planned call goes that is not HTTP."""

from __future__ import annotations

import asyncssh
import msgspec
import pytest

from nomos.errors import DestinationRefused, NotCovered, NotFound
from nomos_proxy.destination import Origin, check_origin
from nomos_proxy.domain import CallPlan, ConnectionFacts, attempted, plan_call
from nomos_proxy.exchange import Limits
from nomos_proxy.settings import ProxySettings
from nomos_proxy.ssh.target import SshTarget, parse_target
from nomos_proxy.transports import Transports
from nomos_runtime.secret import Secret

from .test_proxy_domain import CATALOGUE, CONNECTION, verified

SETTINGS = ProxySettings(bus_url="nats://127.0.0.1:4222", bus_creds="none", connectors="connectors")
FILE = "ssh:file/build.example.com/data/app/f"


def target(port: int = 0) -> SshTarget:
    key = asyncssh.generate_private_key("ssh-ed25519").export_public_key().decode()
    return parse_target({"user": "deploy", "port": port, "host_keys": [key], "roots": ["/data"]})


def planned(**members: object) -> CallPlan:
    connection = ConnectionFacts(tenant="acme", name="ssh", connector="ssh", host="build.example.com")
    return plan_call(verified("ssh:files.read", FILE), CATALOGUE, msgspec.structs.replace(connection, **members))


def test_a_host_is_planned_with_its_own_port_and_recorded_like_any_call() -> None:
    assert planned(ssh=target()).origin == Origin(scheme="ssh", host="build.example.com", port=22)
    plan = planned(ssh=target(2222))
    assert plan.origin == Origin(scheme="ssh", host="build.example.com", port=2222)
    event = attempted(plan, 1)
    assert (event["method"], event["path"], event["resource"]) == ("GET", "/read/data/app/f", FILE)
    assert event["request_sha256"] != attempted(planned(ssh=target()), 1)["request_sha256"]
    with pytest.raises(NotCovered, match="another host"):
        planned(ssh=target(), host="other.example.com")


async def test_a_call_without_a_host_or_of_another_kind_is_refused() -> None:
    transports = Transports(SETTINGS, set())
    with pytest.raises(NotFound, match="which host"):
        await transports.call(planned(), Secret(b""), Limits())
    http = plan_call(verified("github:repos.get"), CATALOGUE, CONNECTION)
    with pytest.raises(NotCovered):
        await transports.call(http, Secret(b""), Limits())
    transports.close()


@pytest.mark.parametrize("scheme", ["ssh", "file"])
def test_http_goes_to_no_origin_of_another_scheme_not_even_a_developer_s(scheme: str) -> None:
    origin = Origin(scheme=scheme, host="127.0.0.1", port=22)  # type: ignore[arg-type]
    with pytest.raises(DestinationRefused):
        check_origin(origin, {origin})
