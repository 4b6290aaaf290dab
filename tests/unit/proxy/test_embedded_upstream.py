"""The stand-in for the GitHub API: it answers what the demo asks, changes what it is told to, and runs alone."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import orjson
import pytest

from nomos.catalogue import Risk, build_request, load_catalogue
from nomos_proxy.answer import UpstreamResponse
from nomos_proxy.destination import Origin, parse_development_origin
from nomos_proxy.dial import tls_context
from nomos_proxy.exchange import Limits
from nomos_proxy.upstream import Upstreams
from nomos_runtime.embedded.upstream import EmbeddedUpstream
from nomos_runtime.secret import Secret

BODIES = Path(__file__).parents[2] / "fixtures" / "github"
CATALOGUE = load_catalogue(Path(__file__).parents[3] / "connectors")
ARGS: dict[str, dict[str, object]] = {
    "github:issues.get": {"issue_number": 13},
    "github:issues.update": {"issue_number": 13, "state": "closed"},
    "github:issues.create": {"title": "t"},
    "github:comments.list": {"issue_number": 13},
    "github:comments.create": {"issue_number": 13, "body": "b"},
    "github:contents.get": {"path": "README.md"},
    "github:contents.put": {"path": "a/b.txt", "message": "m", "content": "YQ=="},
    "github:labels.create": {"name": "new"},
    "github:labels.delete": {"name": "bug"},
    "github:refs.delete": {"ref": "heads/old"},
    "github:repos.create": {"name": "fresh", "private": True},
    "github:search.query": {"q": "sesame"},
    "github:collaborators.add": {"username": "octocat", "permission": "push"},
    "github:collaborators.remove": {"username": "octocat"},
}
#: What it plays; the rest of GitHub is not found there.
PLAIN = ("repos.get", "issues.list", "labels.list", "pulls.list", "collaborators.list", "repos.delete")
PLAYED = sorted({*ARGS, *(f"github:{name}" for name in PLAIN)})
RESOURCES = {"repo": "github:repo/acme/site", "org": "github:org/acme", "search": "github:search/issues"}


class Caller:
    def __init__(self, upstreams: Upstreams, origin: Origin, bearer: Secret) -> None:
        self._upstreams, self._origin, self._bearer = upstreams, origin, bearer

    async def __call__(self, action_id: str, **args: object) -> UpstreamResponse:
        action = CATALOGUE.action(action_id)
        resource = CATALOGUE.parse_resource(RESOURCES[action.resource_type.kind])
        request = build_request(action, resource, args or ARGS.get(action_id, {}))
        return await self._upstreams.call(self._origin, request, self._bearer, Limits(total_seconds=5.0))


@pytest.fixture
def call(upstreams: Upstreams, origin: Origin, bearer: Secret) -> Caller:
    return Caller(upstreams, origin, bearer)


@pytest.mark.parametrize("action_id", PLAYED)
async def test_every_action_that_it_plays_is_answered(call: Caller, action_id: str) -> None:
    answer = await call(action_id)
    assert answer.status in {Risk.READ: (200,)}.get(CATALOGUE.action(action_id).risk, (200, 201, 204))


async def test_a_deleted_repository_is_gone_and_its_deletions_are_counted(
    call: Caller, upstream: EmbeddedUpstream
) -> None:
    assert (await call("github:repos.delete")).status == 204
    assert (await call("github:repos.get")).status == 404
    assert (await call("github:repos.delete")).status == 404
    assert upstream.count("DELETE", "/repos/acme/site") == 2


async def test_what_is_written_is_read_back(call: Caller) -> None:
    created = orjson.loads((await call("github:issues.create", title="new words")).body)
    listed = orjson.loads((await call("github:issues.list")).body)
    assert (listed[0]["number"], listed[0]["title"]) == (created["number"], "new words")
    await call("github:issues.update", issue_number=created["number"], state="closed")
    assert orjson.loads((await call("github:issues.get", issue_number=created["number"])).body)["state"] == "closed"
    await call("github:contents.put", path="a/b.txt", message="m", content="YQ==")
    assert orjson.loads((await call("github:contents.get", path="a/b.txt")).body)["content"] == "YQ=="


async def test_no_name_of_the_recording_is_left_in_an_answer(call: Caller) -> None:
    for action_id in ("github:repos.get", "github:issues.list", "github:labels.list", "github:contents.get"):
        assert b"octokit-fixture-org" not in (await call(action_id)).body


async def test_two_servers_know_nothing_of_each_other(call: Caller, token: str, bearer: Secret) -> None:
    await call("github:repos.delete")
    other = await EmbeddedUpstream.start(bodies=BODIES, token=token)
    origin = parse_development_origin(other.origin)
    client = Upstreams(context=tls_context(), development_origins={origin})
    assert (await Caller(client, origin, bearer)("github:repos.get")).status == 200
    client.close()
    await other.close()


def test_it_runs_alone_and_tells_what_it_saw(tmp_path: Path) -> None:
    token = "t" + os.urandom(8).hex()
    (tmp_path / "token").write_text(token + "\n")
    ready = tmp_path / "ready"
    process = subprocess.Popen(
        [sys.executable, "-m", "nomos_runtime.embedded.upstream", "--bodies", str(BODIES),
         "--token-file", str(tmp_path / "token"), "--ready-file", str(ready)]
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 30
        while not ready.exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        origin = parse_development_origin(json.loads(ready.read_text())["origin"])

        async def ask() -> None:
            client = Upstreams(context=tls_context(), development_origins={origin})
            bearer = Secret(token.encode())
            assert (await Caller(client, origin, bearer)("github:issues.list")).status == 200
            client.close()
            reader, writer = await asyncio.open_connection("127.0.0.1", origin.port)
            writer.write(b"GET /_nomos/seen HTTP/1.1\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
            seen = await reader.readuntil(b"]")
            writer.close()
            assert b'"bearer_ok": true' in seen
            assert token.encode() not in seen

        asyncio.run(ask())
    finally:
        process.terminate()
        assert process.wait(timeout=20) == 0
