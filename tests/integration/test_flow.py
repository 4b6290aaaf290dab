"""The main job over real servers: ask, get a delegation for exactly one request, use it once, get a cleaned answer."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from nomos.agent import Allowed, Denied, StepUpRequired
from nomos.errors import NomosError
from nomos.messages import Failure


async def test_an_allowed_call_returns_the_cleaned_body_and_says_what_was_removed(scene: Any) -> None:
    tenant = await scene.tenant()
    bot = await scene.agent(tenant)
    done = await bot.agent.call("github:issues.get", "github:repo/acme/clean", {"issue_number": 13})
    assert isinstance(done, Allowed)
    assert done.status == 200
    assert scene.SECRET.encode() not in done.body
    assert not any(0xE0000 <= ord(c) <= 0xE007F for c in done.body.decode())
    assert sum(int(str(r["count"])) for r in done.removed) >= 2
    assert [p.id for p in done.policies] == ["read-issues"]
    kinds = [e.type for e in await scene.events(tenant) if e.type.split(".")[0] in ("authz", "ucan", "proxy")]
    assert kinds[-4:] == ["authz.decision", "ucan.minted", "proxy.attempted", "proxy.finished"]


@pytest.mark.parametrize("headers", [b"NATS/1.0 \xff\xfe\xfd\r\n\r\n", b"NATS/1.0", b"NATS/1.0\r\n\xff\xff: \xfe\r\n\r\n"])
async def test_poison(scene: Any, headers: bytes) -> None:
    tenant = await scene.tenant()
    bot = await scene.agent(tenant)
    raw = await scene.raw_person(bot)
    subject = f"req.authorize.{bot.name}".encode()
    raw._transport.write(b"HPUB %s _INBOX.%s.x %d %d\r\n%s\r\n" % (subject, bot.name.encode(), len(headers), len(headers), headers))
    await raw.flush()
    print(raw.complaints)
    import time
    t=time.time()
    print(await bot.agent.authorize("github:issues.list", "github:repo/acme/clean"))
    print("TOOK", time.time()-t)
    assert time.time()-t < 2
